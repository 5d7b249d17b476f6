"""Heartbeats: whether a process on this host is frozen, or only slow.

Each rank's process sends one each second from a thread of its own. A process that
computes for hours does so, too: the kernels leave the interpreter's lock. A process
that was stopped, or that the system does not let run, sends none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

#: Seconds between two heartbeats, and between two looks for them.
HEARTBEAT_S = 1.0


class Heartbeat:
    """Calls `beat` each second in a thread, until that returns False, or `close`."""

    def __init__(self, beat: Callable[[], bool]) -> None:
        self._beat = beat
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="skmlp-heartbeat", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(HEARTBEAT_S) and self._beat():
            pass

    def close(self, limit: float) -> None:
        """End the thread. RuntimeError if it does not end within `limit` seconds."""
        self._stop.set()
        self._thread.join(limit)
        if self._thread.is_alive():
            raise RuntimeError(f"the heartbeat did not end within {limit:g} s")


class HeartbeatMonitor:
    """When the driver has heard of each rank; after `limit` silent seconds a rank
    counts as frozen.
    """

    def __init__(self, ranks: Iterable[int], limit: float) -> None:
        self.limit = limit
        now = time.monotonic()
        self._heard = dict.fromkeys(ranks, now)
        self._looked = now

    def heard(self, rank: int) -> None:
        """Note a heartbeat, or any other message."""
        self._heard[rank] = time.monotonic()

    def silent(self) -> list[int]:
        """The ranks that count as frozen; all that has come must have been noted."""
        now = time.monotonic()
        if now - self._looked > 3 * HEARTBEAT_S:
            # This process did not look itself: it was stopped, or busy elsewhere.
            self._heard = dict.fromkeys(self._heard, now)
        self._looked = now
        return [r for r, when in self._heard.items() if now - when > self.limit]
