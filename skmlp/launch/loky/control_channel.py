"""The driver's control channel: a connection to the process of each rank."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Mapping

from joblib.externals.loky.process_executor import TerminatedWorkerError

from skmlp.launch import framing
from skmlp.launch.framing import Kind, text_of
from skmlp.launch.heartbeat import HEARTBEAT_S, HeartbeatMonitor
from skmlp.launch.loky import deaths
from skmlp.launch.loky.background_parallel import BackgroundParallel
from skmlp.launch.serving import first_cause
from skmlp.training.protocol import CLOSE, Message, RankFailed

#: Seconds that joblib has to tell why the ranks end, after the first sign of it. loky
#: notices a killed worker in 0.1 s; multiprocessing's pools never do.
CAUSE_LIMIT_S = 5.0


class Broken(Exception):
    """A rank does not go on. The text is the first sign of it, and may be empty."""


class ControlChannel:
    """The control connections of all ranks.

    Parameters
    ----------
    call_ended : socket
        Readable when joblib's call is over.
    limit, step_limit : float
        Seconds for each piece of progress within a frame, and for which ranks may be
        apart in their work.
    max_bytes : int
        The most that the arrays of one message may hold.
    worker_timeout : float
        Seconds without a heartbeat after which a rank counts as frozen.

    Attributes
    ----------
    pids, ports : dict from int to int
        The process of each rank, and the port that it listens on.
    """

    def __init__(
        self,
        call_ended: socket.socket,
        *,
        limit: float,
        step_limit: float,
        max_bytes: int,
        worker_timeout: float,
    ) -> None:
        self.pids: dict[int, int] = {}
        self.ports: dict[int, int] = {}
        self._limit, self._step_limit = limit, step_limit
        self._max_bytes = max_bytes
        self._sockets: dict[int, socket.socket] = {}
        self._monitor = HeartbeatMonitor((), worker_timeout)
        #: The ranks that have not answered yet, and what rank 0 has answered.
        self._waiting: set[int] = set()
        self._lead = Message(CLOSE)
        #: What ranks told at their end.
        self._told: dict[int, tuple[Kind, str]] = {}
        #: Those that ended without a word; together, those that the same look found.
        self._gone: list[dict[int, str]] = []
        self._call_ended = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(call_ended, selectors.EVENT_READ)

    def enrol(self, sockets: Mapping[int, socket.socket]) -> None:
        """Take in the ranks' connections; learn the process and port of each rank.

        The sockets belong to the caller. Broken if a rank does not tell.
        """
        self._sockets = dict(sorted(sockets.items()))
        self._monitor = HeartbeatMonitor(sockets, self._monitor.limit)
        for rank, sock in self._sockets.items():
            sock.settimeout(self._limit)
            self._selector.register(sock, selectors.EVENT_READ, rank)
            try:
                _, here = framing.receive(sock, 2 * 8)
            except (OSError, framing.BadFrame) as error:
                raise Broken(f"rank {rank} did not say where it is: {error}") from error
            self.pids[rank], self.ports[rank] = map(int, here.arrays[0])

    def send(self, kind: Kind, message: Message) -> None:
        """Send a frame to all ranks; each is to answer. Broken if one is gone."""
        for rank, sock in self._sockets.items():
            try:
                framing.send(sock, kind, message)
            except OSError as error:
                raise Broken(f"{self._name(rank)} takes no message: {error}") from error
        # Not before: after half a frame, there can be no answer.
        self._waiting = set(self._sockets)

    def receive(self) -> Message:
        """Wait until all ranks have answered; return rank 0's answer.

        Raises
        ------
        Broken
            A rank ends, is gone, or frozen.
        """
        # The first one may take all its time; then the others are due.
        due: float | None = None
        while self._waiting:
            n_waiting = len(self._waiting)
            self._read(HEARTBEAT_S)
            if self._ended:
                raise Broken("")
            if frozen := self._monitor.silent():
                names = ", ".join(map(self._name, frozen))
                raise Broken(f"{names}: no sign of life for {self._monitor.limit:g} s")
            if len(self._waiting) < n_waiting:
                due = time.monotonic() + self._step_limit
            elif due is not None and time.monotonic() > due:
                names = ", ".join(map(self._name, sorted(self._waiting)))
                raise Broken(
                    f"{names}: no word for {self._step_limit:g} s after the others'"
                )
        return self._lead

    def pause(self, seconds: float) -> Message | None:
        """Have the ranks end a request early, on which `receive` was interrupted.

        Returns
        -------
        Message or None
            Rank 0's answer, if all ranks have answered within so many seconds.
        """
        if not self._waiting:
            return None
        deadline = time.monotonic() + seconds
        try:
            framing.send(self._sockets[0], Kind.PAUSE, Message(CLOSE))
        except OSError:  # rank 0 is gone
            return None
        while self._waiting and not self._ended:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._read(left)
        return None if self._waiting else self._lead

    @property
    def _ended(self) -> bool:
        """Whether a rank has ended, or joblib's call."""
        return bool(self._call_ended or self._gone or self._told)

    def _read(self, seconds: float) -> bool:
        """Read a frame of each rank that has one; returns whether there was anything.

        A selector tells in no special order who is ready. When one process dies loky
        kills the others, so that the first to be read need not be the first that ended.
        """
        gone = {}
        ready = self._selector.select(seconds)
        for key, _ in ready:
            rank = key.data
            if rank is None:
                self._selector.unregister(key.fileobj)
                self._call_ended = True
                continue
            try:
                kind, message = framing.receive(self._sockets[rank], self._max_bytes)
            except (OSError, framing.BadFrame) as error:
                self._selector.unregister(key.fileobj)
                if rank not in self._told:
                    gone[rank] = f"{self._name(rank)} is gone: {error}"
                continue
            self._monitor.heard(rank)
            if kind in (Kind.READY, Kind.ANSWER, Kind.DONE):
                self._waiting.discard(rank)
                if rank == 0:
                    self._lead = message
            elif kind is not Kind.ALIVE:
                self._told[rank] = kind, text_of(message)
        if gone:
            self._gone.append(gone)
        return bool(ready)

    def first_cause(self, call: BackgroundParallel, sign: str) -> BaseException:
        """Why a rank does not go on; `sign` is what `Broken` said.

        The cause comes by joblib, soon after the first sign of it: the exception that a
        rank raised, or loky's word that a process is dead. The call is over, or given
        up, at the end.
        """
        deadline = time.monotonic() + CAUSE_LIMIT_S
        while not call.over.is_set() and (left := deadline - time.monotonic()) > 0:
            self._read(left)
        if not call.over.is_set():
            # A rank is dead or stuck, and joblib does not know.
            call.give_up()
        while self._read(0):
            pass
        error = call.error if call.over.is_set() else None
        told: dict[Kind, list[str]] = {}
        for rank, (kind, text) in self._told.items():
            told.setdefault(kind, []).append(f"{self._name(rank)}: {text}")
        raised: list[BaseException] = []
        if error is not None and not isinstance(error, TerminatedWorkerError):
            raised.append(error)
        raised += map(RuntimeError, told.get(Kind.FAILED, []))
        # The first one that is gone is the cause; loky kills the others. Where they
        # were found together, nothing tells which one it was.
        first = self._gone[0] if self._gone else {}
        signs = [first[rank] for rank in sorted(first)] + told.get(Kind.LOST, [])
        lost = RankFailed("; ".join(signs) or sign or "joblib has ended the ranks")
        lost.rank = min(first, default=None)
        lost.from_outside = deaths.from_outside(error)
        cause = first_cause(raised, [lost], [])
        if cause is not error:
            cause.__cause__ = error
        return cause

    def _name(self, rank: int) -> str:
        """Write a rank for people."""
        return f"rank {rank} (process {self.pids.get(rank, 'unknown')})"

    def close(self) -> None:
        """Listen no more. The connections belong to their maker."""
        self._selector.close()
