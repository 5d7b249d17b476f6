"""Where a fit runs and on how many ranks: from `n_jobs` and joblib's backend."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

from joblib.parallel import get_active_backend

from skmlp.cores import usable_cores
from skmlp.model.network import SMALL_STEP, work_of
from skmlp.threads import blas_threads_allowed


@dataclass(frozen=True)
class Place:
    """Where the ranks of a fit run."""

    #: "process", "processes" (joblib's), or "dask".
    kind: str
    #: None for all that a Dask cluster has.
    n_ranks: int | None = 1
    #: joblib's active backend, for processes.
    backend: Any = None
    #: Dask's, and the threads of the workers that are asked for together.
    client: Any = None
    n_threads: int | None = None


HERE = Place("process")


def in_dask_worker() -> bool:
    """Whether this code runs inside a task of a Dask worker."""
    worker = sys.modules.get("distributed.worker")
    if worker is None:
        return False
    try:
        worker.get_worker()
    except ValueError:
        return False
    return True


def refuse_none(n_jobs: int | None) -> None:
    """ValueError if `n_jobs` asks for no worker at all."""
    if n_jobs == 0:
        raise ValueError(
            "n_jobs == 0 has no meaning; it takes None, a positive number of workers, "
            "or a negative one: -1 for all cores"
        )


def choose(n_jobs: int | None) -> Place:
    """Read `n_jobs` as scikit-learn does: None means 1 unless joblib's context says.

    It is `HERE` inside a Dask task: a search that runs on the cluster has given every
    worker its own fits already.
    """
    backend, context_jobs = get_active_backend(prefer="threads")
    if n_jobs is None:
        n_jobs = context_jobs
    refuse_none(n_jobs)
    n_jobs = None if n_jobs is None else int(n_jobs)
    if type(backend).__name__ == "DaskDistributedBackend":
        if in_dask_worker():
            return HERE
        n_ranks = None if n_jobs is None or n_jobs < 0 else n_jobs
        return Place("dask", n_ranks, client=backend.client)
    # Threads of this process: those that share each step do as well.
    if n_jobs is None or getattr(backend, "supports_sharedmem", False):
        return HERE
    n_ranks = backend.effective_n_jobs(n_jobs)
    return HERE if n_ranks <= 1 else Place("processes", n_ranks, backend=backend)


#: Multiply-adds of one rank's part of a minibatch below which sharing it costs more
#: than it saves (see docs/decisions).
LEAST_WORK = 1.3e8


#: Up to so many, BLAS threads share a minibatch of this process about as well as the
#: workers of a cluster do that have one each, with nothing to send.
FEW_THREADS = 4


def worthwhile(
    place: Place, units: tuple[int, ...], batch_rows: int, dtype: str
) -> int:
    """How many of the ranks asked for make the training faster, at least 1.

    A rule of shapes, batch, dtype and cores, never of a clock: the same call gives the
    same bits twice. A multiply-add in float64 counts twice.
    """
    assert place.n_ranks is not None
    if place.n_threads is not None:
        here = min(usable_cores(), blas_threads_allowed() or 1)
        if place.n_threads <= min(here, FEW_THREADS):
            return 1
    useful = int(work_of(units, batch_rows, dtype) // LEAST_WORK)
    limit = place.n_ranks
    if place.kind != "dask":
        limit = min(limit, usable_cores())
    return max(1, min(limit, useful))


#: Rows of a step that each part must get: the sums and the parameters go from core to
#: core in every step, however few they are.
LEAST_ROWS = 32
#: Multiply-adds of a step that each part must get: the threads wait for each other
#: twice in each.
LEAST_STEP = 5.0e4
#: Multiply-adds of an epoch below which it is over before a thread wakes up.
LEAST_EPOCH = 6.0e6
#: More parts add up more sums than they save.
MOST_PARTS = 8


def step_parts(
    units: tuple[int, ...],
    batch_rows: int,
    n_rows: int,
    dtype: str,
    cores: int | None = None,
) -> int:
    """Into how many parts the steps of a rank are cut, at least 1.

    A rule as in `worthwhile`; `n_rows` are those of an epoch, and `cores` by default
    all of this host. It does not depend on the threads that BLAS may use: with fewer of
    them, fewer compute the same parts.
    """
    if work_of(units, n_rows, dtype) < LEAST_EPOCH:
        return 1
    if not hasattr(os, "sched_yield") or blas_threads_allowed() is None:
        return 1
    cores, step = cores or usable_cores(), work_of(units, batch_rows, dtype)
    parts = min(cores, batch_rows // LEAST_ROWS, int(step // LEAST_STEP), MOST_PARTS)
    if step > SMALL_STEP and parts < cores:
        return 1
    return max(1, parts)


def step_threads_do(n_parts: int, n_ranks: int) -> bool:
    """Whether the step threads of one rank do as well as so many ranks on this host.

    There are no more of them than BLAS may use.
    """
    return n_ranks <= min(n_parts, blas_threads_allowed() or 1)
