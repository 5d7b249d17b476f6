"""How far two cores are from each other: what ranks pay for each cache line."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np


def round_trip(n_trips: int = 3000, repeats: int = 3) -> float:
    """Seconds from one core to another and back; the least of some measurements.

    About 0.15 microseconds within a third-level cache, 0.6 between two of them. A
    virtual machine may be moved from one to the other at any time.
    """
    from numba import njit

    from skmlp.kernels.compiled_counters import publish, wait

    @njit(nogil=True)
    def play(ours: Any, theirs: Any, n_trips: int, first: bool, room: Any) -> None:
        for number in range(1, n_trips + 1):
            if first:
                publish(ours, number, room)
                wait(theirs, number, 10**10, room, room[3:])
            else:
                wait(theirs, number, 10**10, room, room[3:])
                publish(ours, number, room)

    def once(n_trips: int) -> float:
        memory = np.zeros(64, np.int64)
        ends = [np.array([memory[at:].ctypes.data], np.intp) for at in (0, 32)]
        threads = [
            threading.Thread(
                target=play, args=(*order, n_trips, first, np.zeros(4, np.int64))
            )
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
