"""A gang of processes: the workers of joblib's process backend, loky by default.

`joblib.Parallel` starts the ranks and brings the first exception back; all other talk
goes over sockets of our own. Big arrays in `data` are not copied for each rank: joblib
writes them to a file once, and each rank maps it into memory, read-only.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
import weakref
from functools import partial
from typing import Any, NoReturn

import numpy as np
from joblib.externals.loky.process_executor import TerminatedWorkerError
from joblib.parallel import ParallelBackendBase

from skmlp.comm.base import Shards
from skmlp.launch import wire
from skmlp.launch.base import CLOSE, Build, Gang, Message, RankFailed
from skmlp.launch.door import Door, let_go
from skmlp.launch.joblib_call import JoblibCall, Task, make_parallel
from skmlp.launch.process_rank import (
    GENERATION,
    HOST,
    Invitation,
    own_fingerprint,
    serve,
)
from skmlp.launch.pulse import BEAT, Pulse
from skmlp.launch.turn import Turn
from skmlp.launch.wire import Kind, text_of

#: Seconds until the first rank must have arrived: the pool may have to be started, or
#: may have other work, and large arrays are written to a file first.
START_LIMIT = 600.0

#: Seconds for each piece of progress in the talk with the ranks, and between arrivals.
LIMIT = 120.0

#: Seconds for which ranks may be apart in their work: a page of a mapped file, or a
#: core, may be late.
STEP_LIMIT = 600.0

#: Seconds that a gang waits for the end of another one of this process.
TURN_LIMIT = 3600.0

#: Seconds until the ranks must have ended once they are told to; then joblib is made to
#: kill its workers, and has as long again.
CLOSE_LIMIT = 30.0

#: Seconds that joblib has to tell why the ranks end, after the first sign of it. loky
#: notices a killed worker in 0.1 s; multiprocessing's pools never do.
CAUSE_LIMIT = 5.0

Ready = list[tuple[selectors.SelectorKey, int]]

#: joblib's pool of processes.
_POOL = Turn()


class LokyGang(Gang):
    """A gang of processes, started by joblib.

    Parameters
    ----------
    build : callable
        See `skmlp.launch.base.Build`; module-level.
    plan, data : object
        Pickled for each rank; arrays of more than joblib's ``max_nbytes`` (1 MB by
        default) come as read-only memory maps of one file.
    shards : Shards
        Which rank holds which shard.
    max_bytes : int
        The most that the arrays of one message may hold.
    backend : str or joblib backend, optional
        Of processes of this host. By default the active one, which is loky's unless the
        user says otherwise.
    blas_threads : int, optional
        Limit of BLAS threads in each rank's process. None leaves it alone.
    limit : float, default=120
        Seconds for each piece of progress in the talk with the ranks, and between the
        arrivals of two.
    step_limit : float, default=600
        Seconds for which ranks may be apart in their work, however long that takes.
    start_limit : float, default=600
        Seconds until the first rank must have arrived.
    turn_limit : float, default=3600
        Seconds to wait for the end of another gang of processes of this process.
    close_limit : float, default=30
        Seconds that `close` waits for the ranks before it has them killed.
    worker_timeout : float, default=30
        Seconds without a sign of life after which a rank counts as frozen.

    Raises
    ------
    RuntimeError
        joblib has fewer processes than there are ranks, as in a nested call; or another
        gang did not end in time.
    RankFailed
        A rank was lost before it had built its servant.
    Exception
        What `build` raised in a rank.
    """

    where = "processes"

    def __init__(
        self,
        build: Build,
        plan: Any,
        data: Any,
        shards: Shards,
        *,
        max_bytes: int,
        backend: str | ParallelBackendBase | None = None,
        blas_threads: int | None = None,
        limit: float = LIMIT,
        step_limit: float = STEP_LIMIT,
        start_limit: float = START_LIMIT,
        turn_limit: float = TURN_LIMIT,
        close_limit: float = CLOSE_LIMIT,
        worker_timeout: float = 30.0,
    ) -> None:
        n_ranks = shards.n_ranks
        self.shards = shards
        self._limit = limit
        self._step_limit = step_limit
        self._close_limit = close_limit
        self._max_bytes = max_bytes
        self._pulse = Pulse((), worker_timeout)
        self._trouble: str | None = "it has not begun"
        self._last: Message | None = None
        self._call: JoblibCall | None = None
        self._pids: dict[int, int] = {}
        self._controls: dict[int, socket.socket] = {}
        #: What ranks said at their end, and those that ended without a word, together
        #: with those that the same look found.
        self._farewells: dict[int, tuple[Kind, str]] = {}
        self._gone: list[dict[int, str]] = []
        self._bell_rang = False
        # With one worker, joblib would run the task in this process.
        parallel = make_parallel(max(2, n_ranks), backend, None)
        # A gang that is dropped without `close` must not leave its ranks waiting.
        self._open: list[Door | socket.socket] = []
        self._let_go = weakref.finalize(self, let_go, self._open)
        with contextlib.ExitStack() as undo:
            turn = _POOL.take(turn_limit)
            undo.callback(_POOL.give, turn)
            self._bell, button = socket.socketpair()
            undo.callback(button.close)
            self._open.append(self._bell)
            undo.callback(self._let_go)
            self._selector = selectors.DefaultSelector()
            undo.callback(self._selector.close)
            door = Door(HOST, GENERATION, own_fingerprint(), n_ranks, self._bell)
            self._open.append(door)
            invitation = Invitation(
                door.address,
                door.secret,
                door.run,
                shards,
                blas_threads,
                limit,
                step_limit,
                max_bytes,
            )
            tasks: list[Task] = [
                (serve, (invitation, rank, [(build, plan, data)]))
                for rank in range(n_ranks)
            ]
            at_end = partial(_over, turn, button)
            self._call = JoblibCall(parallel, tasks, "skmlp-joblib", at_end)
            undo.pop_all()
        try:
            self._call.start()
            self._meet(door, start_limit)
            self._hear()
        except BaseException:
            self.close()
            raise
        self._trouble = None

    def ask(self, message: Message) -> Message:
        """Send `message` to all ranks. See `Gang.ask`.

        Raises
        ------
        ValueError
            The message is larger than `max_bytes`; nothing has been sent.
        """
        if self._trouble is not None:
            raise RuntimeError(f"this gang serves no more: {self._trouble}")
        if message.nbytes > self._max_bytes:
            raise ValueError(
                f"a message of {message.nbytes} bytes is more than the "
                f"{self._max_bytes} that were agreed"
            )
        try:
            self._tell(Kind.ORDER, message)
            self._last = self._hear()
        except BaseException as error:
            self._trouble = f"it ended with {type(error).__name__}: {error}"
            raise
        return self._last

    def last_commit(self) -> Message | None:
        """Return the last answer: what came after it is in the ranks' memory only."""
        return self._last

    def close(self) -> None:
        """End the ranks and wait for them. See `Gang.close`.

        Raises
        ------
        RuntimeError
            joblib has not ended within the time limit. A later call waits again.
        """
        call = self._call
        if call is None:
            return
        if self._trouble is None:
            self._trouble = "it has been closed"
            with contextlib.suppress(OSError):  # a rank that is gone has ended
                for sock in self._controls.values():
                    wire.send(sock, Kind.ORDER, Message(CLOSE))
            call.wait(self._close_limit)
        self._let_go()
        if not call.wait(self._close_limit):
            self._force(call)
        self._selector.close()
        self._call = None

    def _force(self, call: JoblibCall) -> None:
        """Have joblib kill its workers, if all of them are ours."""
        if len(self._pids) < self.shards.n_ranks:
            # The pool is busy with something else, which would be killed as well.
            raise RuntimeError(
                "ranks of a closed gang still wait for a free worker of joblib's pool; "
                "they will end as soon as they begin"
            )
        call.give_up()
        if not call.wait(self._close_limit):
            raise RuntimeError(
                "joblib did not end its worker processes "
                f"{sorted(self._pids.values())} within {self._close_limit:g} s"
            )

    def _meet(self, door: Door, start_limit: float) -> None:
        """Let all ranks in, and tell each of them the ports of all."""
        assert self._call is not None
        ports: dict[int, int] = {}
        limit, since = start_limit, time.monotonic()
        while len(ports) < self.shards.n_ranks:
            left = since + limit - time.monotonic()
            come = door.wait(max(0.0, left))
            self._open += come.values()
            if self._call.over:
                self._fail(f"joblib's tasks ended without reaching {door.address}")
            for rank, sock in come.items():
                ports[rank] = self._enrol(rank, sock)
                # The pool works, and the arrays are written.
                limit, since = self._limit, time.monotonic()
            if left <= 0 and not come:
                raise RuntimeError(
                    f"{len(ports)} of {self.shards.n_ranks} ranks had begun, and no "
                    f"other one within {limit:g} s: joblib has too few free workers"
                )
        door.close()
        if len({os.getpid(), *self._pids.values()}) <= self.shards.n_ranks:
            raise RuntimeError(
                "each rank needs a process of its own, but joblib's backend ran them "
                f"in processes {sorted(self._pids.values())}, and this is {os.getpid()}"
            )
        self._selector.register(self._bell, selectors.EVENT_READ)
        for rank, sock in self._controls.items():
            self._selector.register(sock, selectors.EVENT_READ, rank)
        self._pulse = Pulse(self._controls, self._pulse.limit)
        table = np.array([ports[rank] for rank in sorted(ports)], dtype=np.int64)
        self._tell(Kind.TABLE, Message(CLOSE + 1, (table,)))

    def _enrol(self, rank: int, sock: socket.socket) -> int:
        """Take in a rank that has come through the door; return its port."""
        self._controls[rank] = sock
        sock.settimeout(self._limit)
        try:
            _, here = wire.receive(sock, 2 * 8)
        except (OSError, wire.BadFrame) as error:
            self._fail(f"rank {rank} did not say where it is: {error}")
        pid, port = map(int, here.arrays[0])
        self._pids[rank] = pid
        return port

    def _tell(self, kind: Kind, message: Message) -> None:
        """Send a frame to all ranks."""
        for rank, sock in self._controls.items():
            try:
                wire.send(sock, kind, message)
            except OSError as error:
                self._fail(f"{self._name(rank)} takes no message: {error}")

    def _hear(self) -> Message:
        """Wait until all ranks have said that they are done; return the lead's word."""
        waiting = set(self._controls)
        result = Message(CLOSE)
        # The first one may take all its time; then the others are due.
        due: float | None = None
        while waiting:
            ready = self._selector.select(BEAT)
            come = self._read_all(ready)
            if self._bell_rang or self._gone or self._farewells:
                self._fail()
            if frozen := self._pulse.silent():
                names = ", ".join(map(self._name, frozen))
                self._fail(f"{names}: no sign of life for {self._pulse.limit:g} s")
            if come:
                due = time.monotonic() + self._step_limit
            elif due is not None and time.monotonic() > due:
                names = ", ".join(map(self._name, sorted(waiting)))
                self._fail(
                    f"{names}: no word for {self._step_limit:g} s after the others'"
                )
            waiting -= set(come)
            result = come.get(0, result)
        return result

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
            except (OSError, wire.BadFrame) as error:
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
        kind, message = wire.receive(self._controls[rank], self._max_bytes)
        self._pulse.heard(rank)
        if kind is Kind.ALIVE:
            return None
        if kind in (Kind.READY, Kind.ANSWER, Kind.DONE):
            return message
        self._farewells[rank] = kind, text_of(message)
        return None

    def _fail(self, sign: str = "") -> NoReturn:
        """Find out why a rank does not go on, and raise that.

        The first cause comes by joblib, soon after the first sign of it: the exception
        that a rank raised, or loky's word that a process is dead.
        """
        call = self._call
        assert call is not None
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
            try:
                raise error
            finally:
                del error  # its traceback leads back here
        told = [
            f"{self._name(rank)}: {text}"
            for rank, (kind, text) in self._farewells.items()
            if kind is not Kind.ABORTED
        ]
        if any(kind is Kind.FAILED for kind, _ in self._farewells.values()):
            raise RuntimeError("; ".join(told)) from error
        # The first one that is gone is the cause; loky kills the others. Where they
        # were found together, nothing tells which one it was.
        first = self._gone[0] if self._gone else {}
        signs = [first[rank] for rank in sorted(first)] + told
        if not signs:
            signs = [sign or "joblib has ended the ranks"]
        raise RankFailed("; ".join(signs)) from error

    def _listen(self, seconds: float) -> bool:
        """Read what the ranks say at their end; returns whether there was anything."""
        ready = self._selector.select(seconds)
        self._read_all(ready)
        return bool(ready)

    def _name(self, rank: int) -> str:
        """Write a rank for people."""
        return f"rank {rank} (process {self._pids.get(rank, 'unknown')})"


def _over(turn: object, button: socket.socket) -> None:
    """Tell the driver, and the next gang, that joblib's call is over."""
    _POOL.give(turn)
    button.close()
