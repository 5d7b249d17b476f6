"""The communicator of ranks that are threads of one process, over shared arrays.

A step has two barriers: all parts are computed; all segments are updated. `Barrier`
lets each rank sleep on a lock of its own, which the last rank opens. Two threads pass
it in 8 us on two idle cores and in 22 us on busy ones; ``threading.Barrier`` takes 18
and 50 us, and 20 rounds of ``sleep(0)`` before sleeping made it slower (60 us): a
waiting thread that polls takes the interpreter's lock from the one that it waits for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from skmlp.comm.base import (
    Aborted,
    Array,
    CommError,
    Communicator,
    Exchange,
    PeerLost,
    Shards,
)
from skmlp.comm.ordered_sum import (
    BoundCall,
    check_buffers,
    check_table,
    sum_calls,
    sum_table,
)

T = TypeVar("T")

#: Seconds that a rank waits for the others at a barrier. Threads of one process can't
#: be lost one by one, and a step may be long: the limit only ends what would hang for
#: ever, such as a rank that ended without a word.
LIMIT = 3600.0


class Barrier:
    """Where ranks wait for each other, again and again.

    Parameters
    ----------
    n_ranks : int
        How many must come.
    limit : float
        Seconds that a rank waits for the others.
    """

    def __init__(self, n_ranks: int, limit: float) -> None:
        self._n_ranks = n_ranks
        self._limit = min(limit, threading.TIMEOUT_MAX)
        self._mutex = threading.Lock()
        # What follows is guarded by the mutex. A gate is shut but for the moment
        # between its opening by another rank and its owner's waking up.
        self._gates = [threading.Lock() for _ in range(n_ranks)]
        for gate in self._gates:
            gate.acquire()
        self._parked: list[int] = []
        self._n_missing = n_ranks
        self._n_passes = 0
        self._failure: tuple[type[CommError], str] | None = None

    def wait(self, rank: int) -> None:
        """Wait until all ranks are here.

        Raises
        ------
        Aborted, PeerLost
            The barrier has failed, before or during the wait; or the limit passed.
        """
        try:
            with self._mutex:
                self._check()
                self._n_missing -= 1
                if not self._n_missing:
                    self._n_missing = self._n_ranks
                    self._n_passes += 1
                    self._open_gates()
                    return
                n_passes = self._n_passes
                self._parked.append(rank)
            if not self._gates[rank].acquire(timeout=self._limit):
                self._give_up(rank, n_passes)
            # Without the mutex: until this rank comes again, nobody can pass twice.
            if self._n_passes == n_passes:
                self._check()
        except CommError:
            raise
        except BaseException as error:  # Ctrl-C falls anywhere
            self.fail(Aborted, f"rank {rank} was interrupted by {error!r}")
            raise

    def fail(self, kind: type[CommError], reason: str) -> None:
        """Let all present and future waits raise. From any thread.

        The first reason stays, but being told to stop counts for more than a loss.
        """
        with self._mutex:
            self._fail(kind, reason)

    def _fail(self, kind: type[CommError], reason: str) -> None:
        """Do what `fail` says; the mutex is held."""
        if self._failure is None or (
            kind is Aborted and self._failure[0] is not Aborted
        ):
            self._failure = kind, reason
        self._open_gates()

    def _check(self) -> None:
        """Raise if the barrier has failed: a new error for each thread."""
        if self._failure is not None:
            kind, reason = self._failure
            raise kind(reason)

    def _open_gates(self) -> None:
        """Wake all who wait; the mutex is held."""
        for rank in self._parked:
            self._gates[rank].release()
        self._parked.clear()

    def _give_up(self, rank: int, n_passes: int) -> None:
        """Fail the barrier, unless it was opened just as the limit passed."""
        with self._mutex:
            if self._n_passes != n_passes or self._failure is not None:
                self._gates[rank].acquire()  # opened: shut it again
                return
            missing = sorted(set(range(self._n_ranks)) - set(self._parked))
            names = ", ".join(map(str, missing))
            self._fail(
                PeerLost,
                f"rank {rank} waited {self._limit:g} s at a barrier for rank {names}",
            )


class ThreadGroup:
    """The ranks of one process: made once, it hands a communicator to each rank.

    Parameters
    ----------
    shards : Shards
        Which rank holds which shard.
    limit : float, default=3600
        Seconds that a rank waits for the others in one verb before it raises
        `PeerLost`. A step, and what one rank does alone between two steps, must take
        less.
    """

    def __init__(self, shards: Shards, limit: float = LIMIT) -> None:
        self.shards = shards
        self.barrier = Barrier(shards.n_ranks, limit)
        #: What ranks show each other, and what `once` made; barriers keep them apart.
        self.slots: list[Any] = [None] * shards.n_ranks
        self.result: Any = None

    def communicator(self, rank: int) -> ThreadCommunicator:
        """Make the communicator of `rank`, for use in one thread; abort from any."""
        return ThreadCommunicator(self, rank)

    def abort(self, reason: str) -> None:
        """Make the current and the next verb of all ranks raise `Aborted`."""
        self.barrier.fail(Aborted, reason)


class ThreadExchange(Exchange):
    """A step's two collectives: a barrier and the sums of one's own, and a barrier."""

    def __init__(
        self,
        segments: list[slice],
        totals: list[Array],
        calls: list[BoundCall],
        wait: Callable[[], None],
    ) -> None:
        self.segments = segments
        self.totals = totals
        self._calls = calls
        self._wait = wait

    def reduce_scatter(self) -> None:
        """Wait for all parts, and sum them over this rank's segments."""
        began = time.perf_counter()
        self._wait()
        for function, arguments in self._calls:
            function(*arguments)
        self.seconds += time.perf_counter() - began

    def all_gather(self) -> None:
        """Wait until all ranks have written their segments: the array is shared."""
        began = time.perf_counter()
        self._wait()
        self.seconds += time.perf_counter() - began


class ThreadCommunicator(Communicator):
    """How one thread of a `ThreadGroup` talks to the others."""

    one_process = True

    def __init__(self, group: ThreadGroup, rank: int) -> None:
        self.rank = rank
        self.shards = group.shards
        self._group = group
        self._wait = partial(group.barrier.wait, rank)

    def exchange(self, parts: Sequence[Array], flat: Array) -> Exchange:
        """Bind a step's two collectives to their buffers, which all ranks share.

        Raises
        ------
        ValueError
            The buffers are not alike, or `flat` is not one array for all ranks.
        """
        own = self.own_shards
        check_buffers(parts, flat, len(own))
        shown = self._show((list(parts), flat))
        for _, other in shown:
            if other is not flat:
                raise ValueError("all ranks must exchange one flat array, from `once`")
        by_shard: list[Array] = [flat] * self.shards.n_shards
        for rank, (rank_parts, _) in enumerate(shown):
            for shard, part in zip(self.shards.held_by(rank), rank_parts, strict=True):
                by_shard[shard] = part
                check_buffers([part], flat, 1)
        segments = self.shards.segments_of(self.rank, flat.size)
        totals = [np.empty(s.stop - s.start, flat.dtype) for s in segments]
        calls: list[BoundCall] = []
        for segment, total in zip(segments, totals, strict=True):
            calls += sum_calls([part[segment] for part in by_shard], total)
        return ThreadExchange(segments, totals, calls, self._wait)

    def all_reduce(self, table: Array) -> Array:
        """Sum the rows of a shared table in shard order."""
        check_table(table, self.shards.n_shards)
        self._wait()
        total = sum_table(table)
        # Only now may a rank write its row for the next sum.
        self._wait()
        return total

    def once(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0, when all are here; all get its result.

        If it raises, the other ranks raise `Aborted`.
        """
        group = self._group
        self._wait()
        if self.rank == 0:
            try:
                group.result = function()
            except BaseException as error:
                self.abort(f"rank 0 failed: {error!r}")
                raise
        self._wait()
        # Nobody writes another result before this rank comes to its barrier.
        result: T = group.result
        return result

    def abort(self, reason: str) -> None:
        """Make the current and the next verb of all ranks raise `Aborted`."""
        self._group.abort(reason)

    def close(self) -> None:
        """Leave the group: who still waits for this rank, or ever will, is told."""
        self._group.barrier.fail(
            PeerLost, f"rank {self.rank} has closed its communicator"
        )

    def _show(self, value: T) -> list[T]:
        """Show `value` to all ranks; return those of all, by rank."""
        slots = self._group.slots
        slots[self.rank] = value
        self._wait()
        shown = list(slots)
        self._wait()
        slots[self.rank] = None
        return shown
