"""Ranks in this process: the one of the caller's thread, or a group of threads."""

from __future__ import annotations

import contextvars
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from joblib.parallel import ParallelBackendBase

from skmlp.comm.base import Aborted, Communicator, Shards, SoloCommunicator
from skmlp.comm.threads import ThreadGroup
from skmlp.launch.loky.background_parallel import (
    JoblibCall,
    Task,
    check_worker,
    make_parallel,
)
from skmlp.threads import blas_limit
from skmlp.training.protocol import (
    CLOSE,
    Build,
    Message,
    RankFailed,
    RankGroup,
    RankWorker,
)

#: Seconds until all ranks must have begun; threads do so within milliseconds.
START_LIMIT = 30.0

#: Seconds until all ranks must have ended once they are told to.
CLOSE_LIMIT = 30.0

#: The sign that all ranks are there; any operation but `CLOSE` would do.
_BUILD = Message(CLOSE + 1)


class InProcessGroup(RankGroup):
    """The group of one rank, which lives in the caller's thread.

    Parameters
    ----------
    build : callable
        See `skmlp.training.protocol.Build`.
    plan, data : object
        Handed to `build` as they are.
    blas_threads : int, optional
        Limit of BLAS threads from now to `close`; None leaves it alone.
    """

    where = "in process"
    shards = SoloCommunicator.shards

    def __init__(
        self, build: Build, plan: Any, data: Any, blas_threads: int | None = None
    ) -> None:
        with ExitStack() as stack:
            stack.enter_context(blas_limit(blas_threads))
            self._servant: RankWorker | None = build(plan, SoloCommunicator(), data)
            self._held = stack.pop_all()
        self._last: Message | None = None

    def request(self, message: Message) -> Message:
        """Let the servant handle `message`. See `RankGroup.request`."""
        if self._servant is None:
            raise RuntimeError("this group has been closed")
        return self._servant.handle(message)

    def last_commit(self) -> Message | None:
        """Return what the servant says; after `close`, what it said last."""
        return self._last if self._servant is None else self._servant.last_commit()

    def close(self) -> None:
        """Let go of the servant and of the BLAS limit."""
        with self._held:
            if self._servant is not None:
                self._servant.close()
        self._last, self._servant = self.last_commit(), None


class _Said(Enum):
    """What a rank can have told; the value completes "rank 1 has not ..."."""

    ARRIVED = "begun"
    READY = "built its servant"
    ANSWER = "answered"
    FAILED = "failed"
    OVER = "ended"


@dataclass
class _Room:
    """What the ranks share with each other and with the driver."""

    build: Build
    plan: Any
    data: Any
    group: ThreadGroup
    blas_threads: int | None
    #: What each rank is told: to build, and then the messages.
    inboxes: Sequence[SimpleQueue[Message]]
    #: What the ranks tell: which one, what, and with it the answer or the exception.
    outbox: SimpleQueue[tuple[int, _Said, Any]] = field(default_factory=SimpleQueue)
    #: The ranks that have begun and not ended.
    present: set[int] = field(default_factory=set)
    #: Rank 0's servant.
    lead: RankWorker | None = None


class ThreadGang(RankGroup):
    """A group of threads, started by joblib, which share `data` as it is.

    Parameters
    ----------
    build : callable
        See `skmlp.training.protocol.Build`.
    plan, data : object
        Handed to `build` by reference, in each rank.
    shards : Shards
        Which rank holds which shard.
    backend : str or joblib backend, optional
        A backend with shared memory. By default the active one, or joblib's threads
        where the active one is of processes.
    blas_threads : int, optional
        Limit of BLAS threads of the whole process from now to `close`; each rank may
        use that many. None leaves it alone.
    start_limit : float, default=30
        Seconds until all ranks must have begun.
    close_limit : float, default=30
        Seconds that `close` waits for the ranks. A rank ends when it has handled its
        message; after a failure or an interrupt, at its next word to the others.

    Raises
    ------
    RuntimeError
        joblib has fewer workers than there are ranks, as in a nested call.
    Exception
        What `build` raised in a rank.

    Notes
    -----
    The ranks run in copies of the caller's `contextvars` context, so that what is set
    there, such as `numpy.errstate`, holds in them.
    """

    where = "threads"

    def __init__(
        self,
        build: Build,
        plan: Any,
        data: Any,
        shards: Shards,
        *,
        backend: str | ParallelBackendBase | None = None,
        blas_threads: int | None = None,
        start_limit: float = START_LIMIT,
        close_limit: float = CLOSE_LIMIT,
    ) -> None:
        self.shards = shards
        self._close_limit = close_limit
        self._trouble: str | None = "it has not begun"
        self._last: Message | None = None
        self._held = ExitStack()
        parallel = make_parallel(shards.n_ranks, backend, "sharedmem")
        group = ThreadGroup(shards)
        ranks = range(shards.n_ranks)
        inboxes: list[SimpleQueue[Message]] = [SimpleQueue() for _ in ranks]
        room = _Room(build, plan, data, group, blas_threads, inboxes)
        self._room: _Room | None = room
        tasks: list[Task] = [
            (contextvars.copy_context().run, (_serve, room, rank)) for rank in ranks
        ]
        say_over = partial(room.outbox.put, (-1, _Said.OVER, None))
        self._held.enter_context(blas_limit(blas_threads))
        # A group that is dropped without `close` must not leave its ranks waiting.
        self._dismiss = weakref.finalize(self, _dismiss, group, inboxes)
        call = JoblibCall(parallel, tasks, "skmlp-joblib", say_over)
        self._call: JoblibCall | None = call
        try:
            call.start()
            self._hear(_Said.ARRIVED, start_limit)
            self._tell(_BUILD)
            self._hear(_Said.READY)
        except BaseException:
            self.close()
            raise
        self._trouble = None

    def request(self, message: Message) -> Message:
        """Hand `message` to all ranks, by reference. See `RankGroup.request`."""
        if self._trouble is not None:
            raise RuntimeError(f"this group serves no more: {self._trouble}")
        try:
            self._tell(message)
            answer: Message = self._hear(_Said.ANSWER)
        except BaseException as error:
            self._trouble = f"it ended with {type(error).__name__}: {error}"
            raise
        return answer

    def last_commit(self) -> Message | None:
        """Return what the lead's servant says; after `close`, what it said last."""
        lead = None if self._room is None else self._room.lead
        return self._last if lead is None else lead.last_commit()

    def close(self) -> None:
        """End the ranks and wait for them. See `RankGroup.close`.

        Raises
        ------
        RuntimeError
            A rank has not ended within the time limit. A later call waits again.
        """
        room, call = self._room, self._call
        if room is None or call is None:
            return
        self._trouble = self._trouble or "it has been closed"
        self._dismiss()
        if not call.wait(self._close_limit):
            raise RuntimeError(
                f"{_names(room.present)} of the group did not end within "
                f"{self._close_limit:g} s"
            )
        self._held.close()
        self._last, self._room, self._call = self.last_commit(), None, None

    def _tell(self, message: Message) -> None:
        """Hand `message` to all ranks."""
        assert self._room is not None
        for inbox in self._room.inboxes:
            inbox.put(message)

    def _hear(self, expected: _Said, limit: float | None = None) -> Any:
        """Wait until all ranks have told what is expected; return the lead's value."""
        assert self._room is not None
        outbox = self._room.outbox
        waiting = set(range(self.shards.n_ranks))
        deadline = None if limit is None else time.monotonic() + limit
        result: Any = None
        aborted: Aborted | None = None
        while waiting:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                rank, said, value = outbox.get(timeout=left)
            except Empty:
                raise RuntimeError(
                    f"{_names(waiting)} of {self.shards.n_ranks} had not "
                    f"{expected.value} after {limit:g} s: joblib has fewer free "
                    "workers than that"
                ) from None
            if said is _Said.OVER:
                assert self._call is not None
                raise RankFailed("joblib ended the ranks") from self._call.error
            if said is _Said.FAILED and not isinstance(value, Aborted):
                # The first word of a failure is its cause; see `_serve`.
                try:
                    raise value
                finally:
                    del value  # its traceback leads back here
            if said is _Said.FAILED:
                aborted = value
            elif rank == 0:
                result = value
            waiting.discard(rank)
        if aborted is not None:
            raise aborted
        return result


def _dismiss(group: ThreadGroup, inboxes: Sequence[SimpleQueue[Message]]) -> None:
    """Make all ranks end, those that work as well as those that wait."""
    group.abort("the group has been closed")
    for inbox in inboxes:
        inbox.put(Message(CLOSE))


def _names(ranks: set[int]) -> str:
    """Say ``rank 1``, or ``ranks 0, 1``."""
    listed = ", ".join(map(str, sorted(ranks)))
    return f"rank {listed}" if len(ranks) == 1 else f"ranks {listed}"


def _serve(room: _Room, rank: int) -> None:
    """One rank, from its start to its end; joblib's task."""
    thread = threading.current_thread()
    name, thread.name = thread.name, f"skmlp-rank-{rank}"
    room.present.add(rank)
    comm = room.group.communicator(rank)
    try:
        check_worker(comm.shards.n_ranks)
        room.outbox.put((rank, _Said.ARRIVED, None))
        _work(room, comm)
    except BaseException as error:
        # Told before the abort, so that no rank that it hits can tell first.
        room.outbox.put((rank, _Said.FAILED, error))
        comm.abort(f"rank {rank} failed: {type(error).__name__}: {error}")
    finally:
        comm.close()
        room.present.discard(rank)
        thread.name = name


def _work(room: _Room, comm: Communicator) -> None:
    """Build the servant, once all ranks are there, and let it serve."""
    rank, outbox = comm.rank, room.outbox
    inbox = room.inboxes[rank]
    if inbox.get().op == CLOSE:
        return
    # Where the limit is each thread's own, the driver's does not reach this one.
    with blas_limit(room.blas_threads):
        servant = room.build(room.plan, comm, room.data)
        if rank == 0:
            room.lead = servant
        outbox.put((rank, _Said.READY, None))
        try:
            while (message := inbox.get()).op != CLOSE:
                answer = servant.handle(message)
                outbox.put((rank, _Said.ANSWER, answer))
        finally:
            servant.close()
