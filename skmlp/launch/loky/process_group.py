"""The ranks of a fit in the worker processes of joblib's backend, loky by default.

`joblib.Parallel` starts the ranks and brings the first exception back; all other talk
goes over sockets of our own. Big arrays in `data` are not copied for each rank: joblib
writes them to a file once, and each rank maps it into memory, read-only.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from joblib.parallel import ParallelBackendBase

from skmlp.comm.base import Aborted, PeerLost, Shards
from skmlp.comm.handshake import Hello, Secret
from skmlp.comm.listener import Listener
from skmlp.comm.rendezvous import Rendezvous
from skmlp.launch.framing import Kind
from skmlp.launch.loky.background_parallel import (
    BackgroundParallel,
    Task,
    make_parallel,
)
from skmlp.launch.loky.control_channel import Broken, ControlChannel
from skmlp.launch.loky.pool_lock import PoolLock
from skmlp.launch.loky.process_rank import GENERATION, HOST, Invitation, serve
from skmlp.launch.serving import RankSpec, own_fingerprint
from skmlp.training.protocol import CLOSE, GRACE_S, Build, Message, RankGroup

#: Seconds until the first rank must have arrived: the pool may have to be started, or
#: may have other work, and large arrays are written to a file first.
START_LIMIT_S = 600.0

#: Seconds for each piece of progress in the talk with the ranks, and between arrivals.
LIMIT_S = 120.0

#: Seconds for which ranks may be apart in their work: a page of a mapped file, or a
#: core, may be late.
STEP_LIMIT_S = 600.0

#: Seconds that a group waits for the end of another one of this process.
TURN_LIMIT_S = 3600.0

#: Seconds until the ranks must have ended once they are told to; then joblib is made to
#: kill its workers, and has as long again.
CLOSE_LIMIT_S = 30.0

#: The driver's number where it meets the ranks.
_DRIVER = -1

#: joblib's pool of processes.
_POOL = PoolLock()


class LokyGroup(RankGroup):
    """The ranks of a fit in processes of their own, started by joblib.

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
        Seconds to wait for the end of another group of this process.
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
        A rank was lost before it was ready.
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
        limit: float = LIMIT_S,
        step_limit: float = STEP_LIMIT_S,
        start_limit: float = START_LIMIT_S,
        turn_limit: float = TURN_LIMIT_S,
        close_limit: float = CLOSE_LIMIT_S,
        worker_timeout: float = 30.0,
    ) -> None:
        self.shards = shards
        self._close_limit = close_limit
        self._max_bytes = max_bytes
        self._trouble: str | None = "it has not begun"
        self._call: BackgroundParallel | None = None
        # With one worker, joblib would run the task in this process.
        parallel = make_parallel(max(2, shards.n_ranks), backend)
        # A group that is dropped without `close` must not leave its ranks waiting.
        self._open: list[Listener | socket.socket] = []
        self._let_go = weakref.finalize(self, _let_go, self._open)
        self._spec = RankSpec(
            secrets.token_bytes(16),
            shards,
            Secret.new(),
            blas_threads,
            limit,
            step_limit,
        )
        with contextlib.ExitStack() as undo:
            turn = _POOL.acquire(turn_limit)
            undo.callback(_POOL.release, turn)
            undo.callback(self._let_go)
            call_ended, ending = socket.socketpair()
            undo.callback(ending.close)
            self._open.append(call_ended)
            listener = Listener(HOST)
            self._open.append(listener)
            self._channel = ControlChannel(
                call_ended,
                limit=limit,
                step_limit=step_limit,
                max_bytes=max_bytes,
                worker_timeout=worker_timeout,
            )
            undo.callback(self._channel.close)
            invitation = Invitation(
                listener.address, self._spec, max_bytes, os.getpid()
            )
            tasks: list[Task] = [
                (serve, (invitation, rank, [(build, plan, data)]))
                for rank in range(shards.n_ranks)
            ]
            at_end = partial(_end_call, turn, ending, listener)
            self._call = BackgroundParallel(parallel, tasks, "skmlp-joblib", at_end)
            undo.pop_all()
        try:
            self._call.start()
            self._or_first_cause(lambda: self._meet(listener, start_limit))
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
            return self._or_first_cause(lambda: self._exchange(message))
        except BaseException as error:
            self._trouble = f"it ended with {type(error).__name__}: {error}"
            raise

    def _exchange(self, message: Message) -> Message:
        """Send a request, and wait for all ranks."""
        self._channel.send(Kind.REQUEST, message)
        return self._channel.receive()

    def finish_epoch(self) -> Message | None:
        """End the service at the end of the epoch, if that is near. See the base."""
        answer = None
        if self._call is not None:
            answer = self._channel.pause(GRACE_S)
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
                self._channel.send(Kind.REQUEST, Message(CLOSE))
            call.wait(self._close_limit)
        self._let_go()
        if not call.wait(self._close_limit):
            self._force(call)
        self._channel.close()
        self._call = None

    def _force(self, call: BackgroundParallel) -> None:
        """Have joblib kill its workers, if all of them are ours."""
        if len(self._channel.pids) < self.shards.n_ranks:
            # The pool is busy with something else, which would be killed as well.
            raise RuntimeError(
                "closed ranks still wait for a free worker of joblib's pool; "
                "they will end as soon as they begin"
            )
        call.give_up()
        if not call.wait(self._close_limit):
            raise RuntimeError(
                "joblib did not end its worker processes "
                f"{sorted(self._channel.pids.values())} within {self._close_limit:g} s"
            )

    def _meet(self, listener: Listener, start_limit: float) -> Message:
        """Let all ranks in, tell each the ports of all, wait until they are ready."""
        spec, n_ranks = self._spec, self.shards.n_ranks
        hello = Hello(spec.run, GENERATION, _DRIVER, own_fingerprint())
        try:
            sockets = Rendezvous(
                listener,
                [("", 0)] * n_ranks,
                spec.secret,
                hello,
                start_limit,
                # Once a rank is there, the pool works, and the arrays are written.
                between=spec.limit,
            ).run()
        except Aborted as error:
            raise Broken(f"{error} without reaching {listener.address}") from None
        except PeerLost as error:
            raise RuntimeError(
                f"{error}: joblib has too few free workers for {n_ranks} ranks"
            ) from None
        self._open += sockets.values()
        listener.close()
        self._channel.enrol(sockets)
        pids = self._channel.pids.values()
        if len({os.getpid(), *pids}) <= n_ranks:
            raise RuntimeError(
                "each rank needs a process of its own, but joblib's backend ran them "
                f"in processes {sorted(pids)}, and this is {os.getpid()}"
            )
        ports = np.array([self._channel.ports[k] for k in range(n_ranks)], np.int64)
        self._channel.send(Kind.TABLE, Message(CLOSE, (ports,)))
        return self._channel.receive()

    def _or_first_cause(self, work: Callable[[], Message]) -> Message:
        """Do `work`; if a rank does not go on with it, raise the first cause."""
        try:
            return work()
        except Broken as broken:
            sign = str(broken)
        assert self._call is not None
        error = self._channel.first_cause(self._call, sign)
        try:
            raise error
        finally:
            del error  # its traceback leads back here


def _end_call(turn: object, ending: socket.socket, listener: Listener) -> None:
    """Tell the driver, and the next group, that joblib's call is over."""
    _POOL.release(turn)
    listener.abort("joblib's tasks ended", GENERATION)
    ending.close()


def _let_go(open_things: list[Listener | socket.socket]) -> None:
    """Close listener and connections; the ranks see it and end."""
    for thing in open_things:
        if isinstance(thing, socket.socket):
            with contextlib.suppress(OSError):  # the other end may have closed it
                thing.shutdown(socket.SHUT_RDWR)
        thing.close()
