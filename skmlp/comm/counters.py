"""Counters in shared memory: how ranks of one host see that the others are there.

A move between two ranks that read each other's memory (`skmlp.comm.shared`) has nothing
to send but the word that the numbers are there. Sent by a socket, that costs each of
them 30 microseconds, and wakes who waits on a core of the system's choice: now and then
on the one that the sender goes on working on, where it waits for a step.

So each rank counts its moves where the others see it. Who waits looks at the counters
for a short while; then it marks them, and sleeps at its sockets as ever: whose counter
is marked owes it the header of a message. Time limits, lost peers and abort are found
out there, by a rank that sleeps; looking ends by itself within a fraction of a
millisecond.

How long a rank looks follows from what looking was good for before. It hands over its
core to whoever wants it, and then goes without looking for a while: on a busy machine
the ranks mostly sleep. They do not look at all where those of the host outnumber its
cores. None of it changes a bit of the sums.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skmlp.comm import shared
from skmlp.comm.base import Array
from skmlp.comm.mesh import Lane
from skmlp.cores import usable_cores

#: Nanoseconds that a rank looks at most: sleeping and being woken takes a fourth of it.
LONGEST_LOOK = 200_000

#: Moves without a look after others wanted the core while this rank looked: at first,
#: and at most. Each look may cost what the system gives to others at a time.
REST = (32, 1024)

#: Counters, of int64, lie so far apart: processors fetch lines of 64 bytes in pairs.
_STRIDE = 16

_DTYPE = np.dtype(np.int64)


def available() -> bool:
    """Whether this process can count: the fit's kernels are compiled ones.

    Only they know the order of memory, and so the processor's own words for it.
    """
    return shared.AVAILABLE and "skmlp.kernels.compiled" in sys.modules


class Counters:
    """The counters of one rank, and those of its peers that it can see.

    Parameters
    ----------
    rank, n_ranks : int
        This rank, and of how many.
    """

    def __init__(self, rank: int, n_ranks: int) -> None:
        self._rank, self._size = rank, n_ranks * _STRIDE
        self._file: shared.File | None = None
        self._seen: dict[int, Array] = {}
        if available():
            self._file = shared.File(self._size, _DTYPE)

    @property
    def offer(self) -> Array:
        """What a peer needs to see the counters; zeros for nothing."""
        if self._file is None:
            return np.zeros(shared.OFFER, np.int64)
        return self._file.offer

    def look(self, peer: int, offer: Array) -> bool:
        """Map the counters of a peer; whether it works, as far as this end can tell."""
        found = None
        if self.offer.any():
            found = shared.look(offer, self._size, _DTYPE, write=True)
        if found is not None:
            self._seen[peer] = found
        return found is not None

    def forget(self, peer: int) -> None:
        """The other end can't see ours."""
        self._seen.pop(peer, None)

    def __contains__(self, peer: int) -> bool:
        return peer in self._seen

    def close_offer(self) -> None:
        """Nobody else is to look."""
        if self._file is not None:
            self._file.close()

    def addresses(self, peers: Sequence[int]) -> tuple[Array, Array]:
        """Where this rank counts for each peer, and where each peer counts for it."""
        assert self._file is not None
        ours = [_address(self._file.array, peer) for peer in peers]
        theirs = [_address(self._seen[peer], self._rank) for peer in peers]
        return np.array(ours, np.intp), np.array(theirs, np.intp)


def _address(counters: Array, rank: int) -> int:
    return int(counters[rank * _STRIDE :].ctypes.data)


class Watch:
    """What becomes of a move's peers that need no message.

    Parameters
    ----------
    counters : Counters
        This rank's.
    lanes : mapping from int to Lane
        For each of the peers, one without payloads: for the messages that are owed.
    alone : bool
        The move has no other peers, which must be served meanwhile.
    """

    def __init__(
        self, counters: Counters, lanes: Mapping[int, Lane], alone: bool
    ) -> None:
        # Here, since numba takes its time to import.
        from skmlp.kernels import compiled_counters

        self._publish, self._wait = compiled_counters.publish, compiled_counters.wait
        #: The memory behind the addresses must stay.
        self._counters = counters
        self._lanes = list(lanes.values())
        self._ours, self._theirs = counters.addresses(list(lanes))
        self._owed = np.zeros(len(lanes), np.int64)
        self._asleep = np.zeros(len(lanes), np.int64)
        self._room = np.zeros(3, np.int64)
        fits = len(lanes) + 1 <= usable_cores()
        self._most = LONGEST_LOOK if alone and fits else 0
        self._nanoseconds = self._most
        self._rest, self._resting = REST[0], 0
        self._began = 0

    def publish(self, number: int) -> list[Lane]:
        """Say that our part in a move is ready; return the lanes of those who sleep."""
        if not self._publish(self._ours, number, self._owed):
            return []
        return self._begin(self._owed, number, out=True)

    def wait(self, number: int) -> list[Lane]:
        """Wait for the others, awake; return the lanes of those to be slept for."""
        longest = self._nanoseconds
        if self._resting:
            longest, self._resting = 0, self._resting - 1
        n_owed = self._wait(self._theirs, number, longest, self._room, self._asleep)
        if self._room[2]:
            self._resting = self._rest
            self._rest = min(2 * self._rest, REST[1])
        elif longest:
            self._rest = max(self._rest - 1, REST[0])
        if not n_owed:
            self._nanoseconds = self._most
            return []
        self._nanoseconds //= 2
        self._began = time.perf_counter_ns()
        return self._begin(self._asleep, number, into=True)

    def woke(self) -> None:
        """After sleeping: if it was short, it's worth while to look next time."""
        if time.perf_counter_ns() - self._began < self._most:
            self._nanoseconds = self._most

    def _begin(self, which: Array, number: int, **ways: Any) -> list[Lane]:
        lanes = [lane for lane, one in zip(self._lanes, which, strict=True) if one]
        for lane in lanes:
            lane.begin(number, **ways)
        return lanes
