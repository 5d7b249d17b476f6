"""What runs in the processes of workers: ranks with a fault, and a nested estimator."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import skmlp


def divide_by_zero() -> None:
    raise ZeroDivisionError("in a rank")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    """End without a signal, as at a crash that a library turns into an exit code."""
    os._exit(3)


def die_elsewhere(driver: int, vmstat: str = "") -> None:
    """Die, unless this is the driver; tell, if asked, of a want of memory."""
    if os.getpid() != driver:
        if vmstat:
            Path(vmstat).write_text("nr_free_pages 7\noom_kill 9\n")
        die()


def die_if(flag: str, driver: int) -> None:
    """Die if there is such a file, unless this is the driver."""
    if os.path.exists(flag):
        die_elsewhere(driver)


def die_once(flag: str) -> None:
    """Die, unless somebody has done so before."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    die()


def freeze_once(flag: str) -> None:
    """Stop, unless somebody has done so before."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)


class AsAsked(skmlp.MLPClassifier):
    """Takes as many ranks as it asks for: `skmlp.config_context` is a thread's own."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        with skmlp.config_context(ranks="as_asked"):
            return super().fit(X, y, sample_weight)


def count_shards(estimator: Any, X: Any, y: Any) -> int:
    """A scorer for `GridSearchCV`: how the candidate was trained."""
    return int(estimator.n_shards_)
