"""Networks that train beside each other: none goes on once the fit has failed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

#: Seconds to wait for the rounds that other threads are in.
LIMIT_S = 60.0


class Beside:
    """What the threads of a fit have in common; each process has one of its own.

    joblib ends what other processes do, but not its threads: they would train on after
    an error or a Ctrl-C, and end the process with a crash if it ends before them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._over, self._running = False, 0

    def __reduce__(self) -> Any:
        return Beside, ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: Any, *rest: Any) -> None:
        if error is not None:
            with self._changed:
                self._over = True
                self._changed.wait_for(lambda: not self._running, LIMIT_S)

    @contextmanager
    def training(self, network: Any) -> Iterator[None]:
        """Let a network train, unless the fit is over."""
        self._check()
        with self._changed:
            self._running += 1
        network._beside = self
        try:
            yield
        finally:
            vars(network).pop("_beside", None)
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def checked(self, show: Callable[..., Any]) -> Callable[..., Any]:
        """Let a network end after the round in which the fit ends."""

        def shown(*records: Any) -> None:
            self._check()
            show(*records)

        return shown

    def _check(self) -> None:
        if self._over:
            raise RuntimeError("another network of this fit has failed, or a Ctrl-C")
