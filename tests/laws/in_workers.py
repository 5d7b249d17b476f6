"""What runs in the processes of workers: ranks with a fault, and a nested estimator."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import skmlp
from skmlp import build
from skmlp.comm.base import Communicator
from skmlp.launch.base import Build, Message, Servant


class Failing:
    """A rank whose servant meets a fault instead of taking its n-th order."""

    def __init__(self, servant: Servant, order: int, fault: Callable[[], None]) -> None:
        self._servant = servant
        self._left = order
        self._fault = fault

    def handle(self, message: Message) -> Message:
        self._left -= 1
        if self._left == 0:
            self._fault()
        return self._servant.handle(message)

    def last_commit(self) -> Message | None:
        return self._servant.last_commit()

    def pause(self) -> None:
        self._servant.pause()

    def close(self) -> None:
        self._servant.close()


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


def _with_fault(
    make: Build,
    rank: int,
    order: int,
    fault: Callable[[], None],
    plan: Any,
    comm: Communicator,
    data: Any,
) -> Servant:
    servant = make(plan, comm, data)
    return Failing(servant, order, fault) if comm.rank == rank else servant


def spoil(patch: Any, rank: int, order: int, fault: Callable[[], None]) -> None:
    """Let `rank` of the gangs to come meet `fault`, wherever they are."""
    for name in ("on_source", "on_partitions"):
        faulty = partial(_with_fault, getattr(build, name), rank, order, fault)
        patch.setattr(build, name, faulty)


class OfLongEpochs:
    """A rank whose epochs count as so long that none can be waited for."""

    def __init__(self, servant: Any) -> None:
        servant.long_epoch = 0.0
        self.handle, self.last_commit = servant.handle, servant.last_commit
        self.close = servant.close

    def pause(self) -> None:
        """It would end its order, after its epoch."""


def _of_long_epochs(make: Build, plan: Any, comm: Communicator, data: Any) -> Servant:
    return OfLongEpochs(make(plan, comm, data))


def lengthen(patch: Any) -> None:
    """Let the gangs to come have long epochs."""
    for name in ("on_source", "on_partitions"):
        patch.setattr(build, name, partial(_of_long_epochs, getattr(build, name)))


class AsAsked(skmlp.MLPClassifier):
    """Takes as many ranks as it asks for: `skmlp.config_context` is a thread's own."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        with skmlp.config_context(ranks="as_asked"):
            return super().fit(X, y, sample_weight)


def count_shards(estimator: Any, X: Any, y: Any) -> int:
    """A scorer for `GridSearchCV`: how the candidate was trained."""
    return int(estimator.n_shards_)
