"""A group of processes: the workers of joblib's process backend, loky by default.

`joblib.Parallel` starts the ranks and brings the first exception back; all other talk
goes over sockets of our own. Big arrays in `data` are not copied for each rank: joblib
writes them to a file once, and each rank maps it into memory, read-only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from joblib.parallel import ParallelBackendBase

from skmlp.comm.base import Shards
from skmlp.launch.framing import Kind
from skmlp.launch.loky.background_parallel import JoblibCall, Task, make_parallel
from skmlp.launch.loky.control_channel import Broken, Controls
from skmlp.launch.loky.pool_lock import Turn
from skmlp.launch.loky.process_rank import (
    GENERATION,
    HOST,
    Invitation,
    own_fingerprint,
    serve,
)
from skmlp.launch.loky.rendezvous import Door, let_go
from skmlp.training.protocol import CLOSE, GRACE_S, Build, Message, RankGroup

#: Seconds until the first rank must have arrived: the pool may have to be started, or
#: may have other work, and large arrays are written to a file first.
START_LIMIT = 600.0

#: Seconds for each piece of progress in the talk with the ranks, and between arrivals.
LIMIT = 120.0

#: Seconds for which ranks may be apart in their work: a page of a mapped file, or a
#: core, may be late.
STEP_LIMIT = 600.0

#: Seconds that a group waits for the end of another one of this process.
TURN_LIMIT = 3600.0

#: Seconds until the ranks must have ended once they are told to; then joblib is made to
#: kill its workers, and has as long again.
CLOSE_LIMIT = 30.0

#: joblib's pool of processes.
_POOL = Turn()


class LokyGroup(RankGroup):
    """A group of processes, started by joblib.

    Parameters
    ----------
    build : callable
        See `skmlp.training.protocol.Build`; module-level.
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
        Seconds to wait for the end of another group of processes of this process.
    close_limit : float, default=30
        Seconds that `close` waits for the ranks before it has them killed.
    worker_timeout : float, default=30
        Seconds without a sign of life after which a rank counts as frozen.

    Raises
    ------
    RuntimeError
        joblib has fewer processes than there are ranks, as in a nested call; or another
        group did not end in time.
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
        self._close_limit = close_limit
        self._max_bytes = max_bytes
        self._trouble: str | None = "it has not begun"
        self._call: JoblibCall | None = None
        # With one worker, joblib would run the task in this process.
        parallel = make_parallel(max(2, n_ranks), backend)
        # A group that is dropped without `close` must not leave its ranks waiting.
        self._open: list[Door | socket.socket] = []
        self._let_go = weakref.finalize(self, let_go, self._open)
        with contextlib.ExitStack() as undo:
            turn = _POOL.take(turn_limit)
            undo.callback(_POOL.give, turn)
            bell, button = socket.socketpair()
            undo.callback(button.close)
            self._open.append(bell)
            undo.callback(self._let_go)
            self._controls = Controls(
                bell,
                limit=limit,
                step_limit=step_limit,
                max_bytes=max_bytes,
                worker_timeout=worker_timeout,
            )
            undo.callback(self._controls.close)
            door = Door(HOST, GENERATION, own_fingerprint(), n_ranks, bell)
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
                os.getpid(),
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
            self._or_why(lambda: self._meet(door, start_limit))
        except BaseException:
            self.close()
            raise
        self._trouble = None

    def request(self, message: Message) -> Message:
        """Send `message` to all ranks. See `RankGroup.request`.

        Raises
        ------
        ValueError
            The message is larger than `max_bytes`; nothing has been sent.
        """
        if self._trouble is not None:
            raise RuntimeError(f"this group serves no more: {self._trouble}")
        if message.nbytes > self._max_bytes:
            raise ValueError(
                f"a message of {message.nbytes} bytes is more than the "
                f"{self._max_bytes} that were agreed"
            )
        try:
            answer = self._or_why(lambda: self._order(message))
        except BaseException as error:
            self._trouble = f"it ended with {type(error).__name__}: {error}"
            raise
        return answer

    def _order(self, message: Message) -> Message:
        """Hand out an order, and wait for all."""
        self._controls.tell(Kind.ORDER, message)
        return self._controls.hear()

    def finish_epoch(self) -> Message | None:
        """End the service at the end of the epoch, if that is near. See the base."""
        answer = None
        if self._call is not None:
            answer = self._controls.pause(GRACE_S)
        if answer is not None:
            # The ranks are idle, and can be told that it is over.
            self._trouble = None
        self.close()
        return answer

    def close(self) -> None:
        """End the ranks and wait for them. See `RankGroup.close`.

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
            with contextlib.suppress(Broken):  # a rank that is gone has ended
                self._controls.tell(Kind.ORDER, Message(CLOSE))
            call.wait(self._close_limit)
        self._let_go()
        if not call.wait(self._close_limit):
            self._force(call)
        self._controls.close()
        self._call = None

    def _force(self, call: JoblibCall) -> None:
        """Have joblib kill its workers, if all of them are ours."""
        if len(self._controls.pids) < self.shards.n_ranks:
            # The pool is busy with something else, which would be killed as well.
            raise RuntimeError(
                "closed ranks still wait for a free worker of joblib's pool; "
                "they will end as soon as they begin"
            )
        call.give_up()
        if not call.wait(self._close_limit):
            raise RuntimeError(
                "joblib did not end its worker processes "
                f"{sorted(self._controls.pids.values())} within {self._close_limit:g} s"
            )

    def _meet(self, door: Door, start_limit: float) -> Message:
        """Let all ranks in, tell each the ports of all, wait until they are ready."""
        assert self._call is not None
        ports: dict[int, int] = {}
        limit, since = start_limit, time.monotonic()
        while len(ports) < self.shards.n_ranks:
            left = since + limit - time.monotonic()
            come = door.wait(max(0.0, left))
            self._open += come.values()
            if self._call.over:
                raise Broken(f"joblib's tasks ended without reaching {door.address}")
            for rank, sock in come.items():
                ports[rank] = self._controls.enrol(rank, sock)
                # The pool works, and the arrays are written.
                limit, since = self._limit, time.monotonic()
            if left <= 0 and not come:
                raise RuntimeError(
                    f"{len(ports)} of {self.shards.n_ranks} ranks had begun, and no "
                    f"other one within {limit:g} s: joblib has too few free workers"
                )
        door.close()
        if len({os.getpid(), *self._controls.pids.values()}) <= self.shards.n_ranks:
            raise RuntimeError(
                "each rank needs a process of its own, but joblib's backend ran them "
                f"in processes {sorted(self._controls.pids.values())}, and this is "
                f"{os.getpid()}"
            )
        self._controls.begin()
        table = np.array([ports[rank] for rank in sorted(ports)], dtype=np.int64)
        self._controls.tell(Kind.TABLE, Message(CLOSE + 1, (table,)))
        return self._controls.hear()

    def _or_why(self, work: Callable[[], Message]) -> Message:
        """Do `work`; if a rank does not go on with it, raise the first cause."""
        try:
            return work()
        except Broken as broken:
            sign = str(broken)
        assert self._call is not None
        error = self._controls.why(self._call, sign)
        try:
            raise error
        finally:
            del error  # its traceback leads back here


def _over(turn: object, button: socket.socket) -> None:
    """Tell the driver, and the next group, that joblib's call is over."""
    _POOL.give(turn)
    button.close()
