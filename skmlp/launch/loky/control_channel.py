"""The driver's control channel: a connection to the process of each rank."""

from __future__ import annotations

import selectors
import socket
import time

from joblib.externals.loky.process_executor import TerminatedWorkerError

from skmlp.launch import framing
from skmlp.launch.framing import Kind, text_of
from skmlp.launch.heartbeat import BEAT, Pulse
from skmlp.launch.loky import deaths
from skmlp.launch.loky.background_parallel import JoblibCall
from skmlp.training.protocol import CLOSE, Message, RankFailed

#: Seconds that joblib has to tell why the ranks end, after the first sign of it. loky
#: notices a killed worker in 0.1 s; multiprocessing's pools never do.
CAUSE_LIMIT = 5.0

Ready = list[tuple[selectors.SelectorKey, int]]


class Broken(Exception):
    """A rank does not go on. The text is the first sign of it, and may be empty."""


class Controls:
    """The control connections of all ranks.

    Parameters
    ----------
    bell : socket
        Ready to be read when joblib's call is over.
    limit : float
        Seconds for each piece of progress within a frame.
    step_limit : float
        Seconds for which ranks may be apart in their work.
    max_bytes : int
        The most that the arrays of one message may hold.
    worker_timeout : float
        Seconds without a sign of life after which a rank counts as frozen.

    Attributes
    ----------
    pids : dict from int to int
        The process of each rank that has come.
    """

    def __init__(
        self,
        bell: socket.socket,
        *,
        limit: float,
        step_limit: float,
        max_bytes: int,
        worker_timeout: float,
    ) -> None:
        self.pids: dict[int, int] = {}
        self._bell = bell
        self._limit = limit
        self._step_limit = step_limit
        self._max_bytes = max_bytes
        self._pulse = Pulse((), worker_timeout)
        self._sockets: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        #: The ranks that have not answered yet, and what the lead has answered.
        self._waiting: set[int] = set()
        self._lead = Message(CLOSE)
        #: What ranks said at their end, and those that ended without a word, together
        #: with those that the same look found.
        self._farewells: dict[int, tuple[Kind, str]] = {}
        self._gone: list[dict[int, str]] = []
        self._bell_rang = False

    def enrol(self, rank: int, sock: socket.socket) -> int:
        """Take in a rank that has arrived; return the port that it listens on.

        Raises
        ------
        Broken
            It did not say where it is.
        """
        self._sockets[rank] = sock
        sock.settimeout(self._limit)
        try:
            _, here = framing.receive(sock, 2 * 8)
        except (OSError, framing.BadFrame) as error:
            raise Broken(f"rank {rank} did not say where it is: {error}") from error
        self.pids[rank], port = map(int, here.arrays[0])
        return port

    def begin(self) -> None:
        """Listen to all ranks, from now on."""
        self._selector.register(self._bell, selectors.EVENT_READ)
        for rank, sock in self._sockets.items():
            self._selector.register(sock, selectors.EVENT_READ, rank)
        self._pulse = Pulse(self._sockets, self._pulse.limit)

    def tell(self, kind: Kind, message: Message) -> None:
        """Send a frame to all ranks, of which each is to answer.

        Raises
        ------
        Broken
            A rank takes none.
        """
        for rank, sock in self._sockets.items():
            try:
                framing.send(sock, kind, message)
            except OSError as error:
                raise Broken(f"{self._name(rank)} takes no message: {error}") from error
        # Not before: after half a frame, there can be no answer.
        self._waiting = set(self._sockets)

    def hear(self) -> Message:
        """Wait until all ranks have said that they are done; return the lead's word.

        Raises
        ------
        Broken
            A rank ends, is gone, or frozen.
        """
        # The first one may take all its time; then the others are due.
        due: float | None = None
        while self._waiting:
            come = self._take(BEAT)
            if self._over:
                raise Broken("")
            if frozen := self._pulse.silent():
                names = ", ".join(map(self._name, frozen))
                raise Broken(f"{names}: no sign of life for {self._pulse.limit:g} s")
            if come:
                due = time.monotonic() + self._step_limit
            elif due is not None and time.monotonic() > due:
                names = ", ".join(map(self._name, sorted(self._waiting)))
                raise Broken(
                    f"{names}: no word for {self._step_limit:g} s after the others'"
                )
        return self._lead

    def pause(self, seconds: float) -> Message | None:
        """Have the ranks end an order early, on which `hear` was interrupted.

        Parameters
        ----------
        seconds : float
            For that.

        Returns
        -------
        Message or None
            The lead's answer, if all ranks have answered. None also where nothing has
            been asked.
        """
        if not self._waiting:
            return None
        end = time.monotonic() + seconds
        try:
            framing.send(self._sockets[0], Kind.PAUSE, Message(CLOSE))
        except OSError:  # the lead is gone
            return None
        while self._waiting and not self._over:
            left = end - time.monotonic()
            if left <= 0:
                return None
            self._take(left)
        return None if self._waiting else self._lead

    def _take(self, seconds: float) -> set[int]:
        """Wait for answers; return the ranks that have come."""
        come = self._read_all(self._selector.select(seconds))
        self._lead = come.get(0, self._lead)
        self._waiting -= set(come)
        return set(come)

    @property
    def _over(self) -> bool:
        """Whether a rank has ended, or joblib's call."""
        return bool(self._bell_rang or self._gone or self._farewells)

    def _read_all(self, ready: Ready) -> dict[int, Message]:
        """Read a frame of each rank that has one, and return the answers.

        A selector tells in no special order who is ready. When one process dies loky
        kills the others, so that the first to be read need not be the first that ended.
        """
        come, gone = {}, {}
        for key, _ in ready:
            if key.fileobj is self._bell:
                self._selector.unregister(self._bell)
                self._bell_rang = True
                continue
            rank = key.data
            try:
                message = self._read(rank)
            except (OSError, framing.BadFrame) as error:
                self._selector.unregister(key.fileobj)
                if rank not in self._farewells:
                    gone[rank] = f"{self._name(rank)} is gone: {error}"
            else:
                if message is not None:
                    come[rank] = message
        if gone:
            self._gone.append(gone)
        return come

    def _read(self, rank: int) -> Message | None:
        """Read a frame of a rank; None if it is no answer. Its last word is kept."""
        kind, message = framing.receive(self._sockets[rank], self._max_bytes)
        self._pulse.heard(rank)
        if kind is Kind.ALIVE:
            return None
        if kind in (Kind.READY, Kind.ANSWER, Kind.DONE):
            return message
        self._farewells[rank] = kind, text_of(message)
        return None

    def why(self, call: JoblibCall, sign: str) -> BaseException:
        """Find out why a rank does not go on.

        The first cause comes by joblib, soon after the first sign of it: the exception
        that a rank raised, or loky's word that a process is dead.

        Parameters
        ----------
        call : JoblibCall
            The call that runs the ranks. It is over, or given up, at the end.
        sign : str
            Of `Broken`.
        """
        deadline = time.monotonic() + CAUSE_LIMIT
        while not call.over and (left := deadline - time.monotonic()) > 0:
            self._listen(left)
        if not call.over:
            # A rank is dead or stuck, and joblib does not know.
            call.give_up()
        while self._listen(0):
            pass
        error = call.error if call.over else None
        if error is not None and not isinstance(error, TerminatedWorkerError):
            return error
        told = [
            f"{self._name(rank)}: {text}"
            for rank, (kind, text) in self._farewells.items()
            if kind is not Kind.ABORTED
        ]
        cause: BaseException
        if any(kind is Kind.FAILED for kind, _ in self._farewells.values()):
            cause = RuntimeError("; ".join(told))
        else:
            # The first one that is gone is the cause; loky kills the others. Where
            # they were found together, nothing tells which one it was.
            first = self._gone[0] if self._gone else {}
            signs = [first[rank] for rank in sorted(first)] + told
            if not signs:
                signs = [sign or "joblib has ended the ranks"]
            cause = RankFailed("; ".join(signs))
            cause.rank = min(first, default=None)
            cause.from_outside = deaths.from_outside(error)
        cause.__cause__ = error
        return cause

    def _listen(self, seconds: float) -> bool:
        """Read what the ranks say at their end; returns whether there was anything."""
        ready = self._selector.select(seconds)
        self._read_all(ready)
        return bool(ready)

    def _name(self, rank: int) -> str:
        """Write a rank for people."""
        return f"rank {rank} (process {self.pids.get(rank, 'unknown')})"

    def close(self) -> None:
        """Listen no more. The connections belong to who has made them."""
        self._selector.close()
