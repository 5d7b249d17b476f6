"""The lock of joblib's pool: one group of processes at a time."""

from __future__ import annotations

import threading


class PoolLock:
    """Lets one group of processes at a time use joblib's pool, of which there is one.

    Two groups that start at once could get half of the workers each, and wait for the
    other half for ever.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._holder: threading.Thread | None = None
        self._token: object = None

    def acquire(self, limit: float) -> object:
        """Wait for the turn of the calling thread; returns what `release` needs.

        RuntimeError if the thread has a group open already, or the limit passed.
        """
        me = threading.current_thread()
        with self._free:
            if self._holder is me:
                raise RuntimeError(
                    f"thread {me.name!r} has a group of processes open, which must be "
                    "closed before the next one starts: they share one pool"
                )
            if not self._free.wait_for(lambda: self._token is None, limit):
                assert self._holder is not None
                raise RuntimeError(
                    f"thread {me.name!r} waited {limit:g} s for joblib's pool of "
                    f"processes, which the ranks of thread {self._holder.name!r} hold: "
                    "one group of processes runs at a time"
                )
            self._holder, self._token = me, object()
            return self._token

    def release(self, token: object) -> None:
        """End the turn, if it is still that of `token`. From any thread."""
        with self._free:
            if self._token is token:
                self._holder = self._token = None
                self._free.notify()
