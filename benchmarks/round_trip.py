"""How far two cores are from each other: what threads pay for each cache line."""

from __future__ import annotations

import threading
import time

import numpy as np


def round_trip(n_trips: int = 3000, repeats: int = 3) -> float:
    """Seconds from one core to another and back; the least of some measurements.

    About 0.15 microseconds within a third-level cache, 0.6 between two of them. A
    virtual machine may be moved from one to the other at any time.
    """
    from numba import njit

    from skmlp.kernels.atomics import load, pause, store

    @njit(nogil=True)
    def play(ours: int, theirs: int, n_trips: int, first: bool) -> None:
        for number in range(1, n_trips + 1):
            if first:
                store(ours, number)
            while load(theirs) < number:
                pause()
            if not first:
                store(ours, number)

    def once(n_trips: int) -> float:
        memory = np.zeros(64, np.int64)
        ends = [memory[at:].ctypes.data for at in (0, 32)]
        threads = [
            threading.Thread(target=play, args=(*order, n_trips, first))
            for order, first in ((ends, True), (ends[::-1], False))
        ]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - began) / n_trips

    once(1)  # compiles
    return min(once(n_trips) for _ in range(repeats))
