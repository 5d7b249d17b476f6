"""Settings and hooks for tests: the one way from a test to the inside of a fit.

Everything is a context manager that puts back what it has changed. It acts on this
process; only `failing_rank` reaches ranks in other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from skmlp.comm.base import Communicator, Shards
from skmlp.data.split import split_rows
from skmlp.estimators.callbacks import EPOCH, Callback, training_of
from skmlp.kernels import step_threads as threads_module
from skmlp.launch.in_process import InProcessGroup
from skmlp.model.activations import ACTIVATIONS as ACTIVATIONS
from skmlp.optim.solvers import SOLVERS as SOLVERS
from skmlp.plan import Split
from skmlp.threads import blas_threads_allowed
from skmlp.threads import blas_threads_now as blas_threads_now
from skmlp.training import build, fused_epoch
from skmlp.training.protocol import Build, Message, RankGroup, RankWorker
from skmlp.training.protocol import RankFailed as RankFailed
from skmlp.training.rank import TRAIN
from skmlp.training.supervisor import FAILURES as FAILURES
from skmlp.training.supervisor import Supervisor

#: The settings by name, and where each is read.
SETTINGS = {
    # Seconds of a round that the driver aims at.
    "round_s": ("skmlp.training.supervisor.ROUND_SECONDS",),
    # Seconds to wait for the first worker of a Dask cluster.
    "first_worker_s": ("skmlp.dask.workers.FIRST_WORKER_LIMIT_S",),
    # Seconds between two looks for new Dask workers.
    "new_workers_s": ("skmlp.dask.launcher.LOOK_FOR_MORE_S",),
    # Seconds of waiting for the locks of Dask workers until that is told.
    "locks_told_s": ("skmlp.dask.locks.TELL_S",),
    # Seconds between two pings of a Dask worker.
    "ping_s": ("skmlp.dask.rpc.PING_S",),
    # Rows up to which the order of the rows is scikit-learn's.
    "exact_order_rows": ("skmlp.data.shuffle.EXACT_ROWS",),
    # Rows whose order is computed at once above that.
    "order_window_rows": ("skmlp.data.sampler.WINDOW",),
    # Multiply-adds of an epoch from which on several ranks are worthwhile.
    "ranks_from_work": ("skmlp.launch.policy.LEAST_EPOCH",),
    # Seconds that a step thread is waited for.
    "step_thread_s": ("skmlp.kernels.step_threads._LIMIT",),
    # Where the system counts the processes that it has killed for want of memory.
    "vmstat_file": ("skmlp.launch.loky.deaths.VMSTAT",),
    # Seconds that ranks elsewhere have to finish their epoch after Ctrl-C.
    "grace_s": (
        "skmlp.launch.loky.process_group.GRACE_S",
        "skmlp.dask.rank_group.GRACE_S",
    ),
}


@contextmanager
def settings(**values: Any) -> Iterator[None]:
    """Change limits and thresholds of the package; see `SETTINGS` for their names."""
    with ExitStack() as stack:
        for name, value in values.items():
            for place in SETTINGS[name]:
                stack.enter_context(patch(place, value))
        yield


@contextmanager
def worthwhile_ranks(n_blas_threads: int) -> Iterator[None]:
    """Let two ranks be worthwhile for the smallest nets, on two cores."""
    with (
        settings(ranks_from_work=0),
        patch("skmlp.launch.policy.usable_cores", lambda: 2),
        patch("skmlp.launch.policy.blas_threads_allowed", lambda: n_blas_threads),
        patch("skmlp.launch.policy.LEAST_WORK", 1),
    ):
        yield


# ---- The ranks of a fit, as the driver sees them -----------------------------------


@dataclass(frozen=True)
class Request:
    """What the driver asks the ranks to do.

    Attributes
    ----------
    where : str
        "in process", "processes" or "dask".
    generation : int
        How many groups of ranks the fit had before this one.
    n_epochs : int
        Epochs to train; 0 where something else is asked.
    """

    where: str
    generation: int
    n_epochs: int


class _Observed:
    """The ranks of a fit, whose requests are wrapped."""

    def __init__(self, ranks: RankGroup, generation: int, around: Callable[..., Any]):
        self._ranks, self._generation, self._around = ranks, generation, around
        self.where = ranks.where

    def request(self, message: Message) -> Message:
        trains = message.op == TRAIN
        n_epochs = int(message.arrays[0][0]) if trains else 0
        with self._around(Request(self._ranks.where, self._generation, n_epochs)):
            return self._ranks.request(message)


def around_requests(
    around: Callable[[Request], AbstractContextManager[Any]],
) -> AbstractContextManager[Any]:
    """Enter ``around(request)`` around each request of the driver to its ranks."""
    ready = Supervisor._ready

    def observed(supervisor: Supervisor) -> Any:
        return _Observed(ready(supervisor), supervisor._generation - 1, around)

    return patch.object(Supervisor, "_ready", observed)


def shards_in_this_process() -> AbstractContextManager[Any]:
    """Let one rank in this process hold the shards of all of joblib's processes."""

    def make(build: Build, plan: Any, data: Any, shards: Shards, **options: Any) -> Any:
        limit = options["blas_threads"]
        return InProcessGroup(build, plan, data, shards.n_shards, limit)

    return patch("skmlp.launch.loky.process_group.LokyGroup", make)


def on_start(callback: Callable[[str, int, int], Any]) -> AbstractContextManager[Any]:
    """Call ``callback(where, n_ranks, n_shards)`` when ranks have started."""
    ready = Supervisor._ready

    def observed(supervisor: Supervisor) -> Any:
        before = supervisor._generation
        ranks = ready(supervisor)
        if supervisor._generation != before:
            group = supervisor._group
            assert group is not None
            callback(group.where, group.shards.n_ranks, group.shards.n_shards)
        return ranks

    return patch.object(Supervisor, "_ready", observed)


class AfterEpoch(Callback):
    """A callback that calls a function with the number of each finished epoch."""

    def __init__(self, function: Callable[[int], Any]) -> None:
        self.function = function

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Call the function, if an epoch has ended."""
        if context.task_name == EPOCH:
            training = training_of(estimator)
            assert training is not None
            assert training.state is not None
            self.function(training.state.epoch)


def validation_rows(estimator: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the numbers of the rows that a fit with early stopping has set aside."""
    n_rows, rng = estimator._resume["split"]
    split = Split(n_rows, estimator.validation_fraction, rng, None)
    return np.asarray(split_rows(split)[1])


# ---- A fault in a rank, wherever it runs -------------------------------------------


class _Failing:
    """A rank that calls a function when its n-th request comes."""

    def __init__(
        self, worker: RankWorker, number: int, fault: Callable[[], None]
    ) -> None:
        self._worker, self._left, self._fault = worker, number, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    def handle(self, message: Message) -> Message:
        self._left -= 1
        if self._left == 0:
            self._fault()
        return self._worker.handle(message)


def _build_failing(
    make: Build,
    rank: int,
    number: int,
    fault: Callable[[], None],
    plan: Any,
    comm: Communicator,
    data: Any,
) -> Any:
    worker = make(plan, comm, data)
    return _Failing(worker, number, fault) if comm.rank == rank else worker


@contextmanager
def failing_rank(rank: int, number: int, fault: Callable[[], None]) -> Iterator[None]:
    """Let a rank of all fits call `fault` before it does its n-th request.

    `fault` is a module-level function, or a `functools.partial` of one: it is pickled.
    """
    with ExitStack() as stack:
        for name in ("on_source", "on_partitions"):
            make = partial(_build_failing, getattr(build, name), rank, number, fault)
            stack.enter_context(patch.object(build, name, make))
        yield


# ---- The threads that share each step ----------------------------------------------


@contextmanager
def step_threads(n_parts: int, n_cores: int | None = None) -> Iterator[None]:
    """Cut each step into `n_parts`, as if there were `n_cores` to compute them."""
    with ExitStack() as stack:
        stack.enter_context(patch("skmlp.launch.policy.step_parts", lambda *_: n_parts))
        if n_cores is not None:
            for name in ("usable_cores", "blas_threads_allowed"):
                stack.enter_context(patch.object(threads_module, name, lambda: n_cores))
        yield


def real_blas_limits() -> AbstractContextManager[Any]:
    """Inside `step_threads`: ask BLAS how many threads it may use."""
    return patch.object(threads_module, "blas_threads_allowed", blas_threads_allowed)


def cores_taken() -> int:
    """How many cores the fits of this process use beside their own threads."""
    return threads_module.CORES.taken()


def step_thread_names() -> list[str]:
    """Names of the step threads that live."""
    from threading import enumerate as all_threads

    return [t.name for t in all_threads() if t.name.startswith("skmlp-step")]


@contextmanager
def fused_epochs() -> Iterator[list[Any]]:
    """Give a list, to which each epoch that is one compiled call adds an entry."""
    seen: list[Any] = []
    run_epoch = fused_epoch.FusedEpoch.run_epoch

    def counted(self: Any, *arguments: Any) -> Any:
        seen.append(self)
        return run_epoch(self, *arguments)

    with patch.object(fused_epoch.FusedEpoch, "run_epoch", counted):
        yield seen


def step_by_step() -> AbstractContextManager[Any]:
    """Let no epoch be one compiled call."""
    return patch("skmlp.training.loop.is_compiled", lambda *_: False)
