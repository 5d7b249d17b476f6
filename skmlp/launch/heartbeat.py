"""Signs of life: whether a process on this host is frozen, or only slow.

Every process of a group says now and then that it is alive, from a thread of its own;
one that computes for hours does so, too, for the kernels leave the interpreter's lock.
A process that was stopped, or that the system does not let run, says nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

#: Seconds between two signs of life, and between two looks for them.
BEAT = 1.0


class Beat:
    """Calls a function each second in a thread, until told to stop.

    Parameters
    ----------
    say : callable
        Says that this process is alive, say. Returns False to end the thread.
    """

    def __init__(self, say: Callable[[], bool]) -> None:
        self._say = say
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="skmlp-beat", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(BEAT) and self._say():
            pass

    def close(self, limit: float) -> None:
        """End the thread.

        Raises
        ------
        RuntimeError
            It did not end within `limit` seconds.
        """
        self._stop.set()
        self._thread.join(limit)
        if self._thread.is_alive():
            raise RuntimeError(f"the thread of the beat did not end within {limit:g} s")


class Pulse:
    """What the driver has heard of each rank, and when.

    Parameters
    ----------
    ranks : iterable of int
        Those that are to be heard of.
    limit : float
        Seconds of silence after which a rank counts as frozen.
    """

    def __init__(self, ranks: Iterable[int], limit: float) -> None:
        self.limit = limit
        now = time.monotonic()
        self._heard = dict.fromkeys(ranks, now)
        self._looked = now

    def heard(self, rank: int) -> None:
        """Note a sign of life."""
        self._heard[rank] = time.monotonic()

    def silent(self) -> list[int]:
        """The ranks that count as frozen; all that has come must have been noted."""
        now = time.monotonic()
        if now - self._looked > 3 * BEAT:
            # This process did not look itself: it was stopped, or busy elsewhere.
            self._heard = dict.fromkeys(self._heard, now)
        self._looked = now
        return [r for r, when in self._heard.items() if now - when > self.limit]
