"""Where a fit runs, on how many ranks, and into how many parts its steps are cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from skmlp.config import get_config
from skmlp.cores import usable_cores
from skmlp.estimators.advice import timing_report
from skmlp.estimators.fitting.hyperparameters import Hyperparameters
from skmlp.launch import policy
from skmlp.launch.policy import Place
from skmlp.plan import Plan
from skmlp.training import compiled_steps


def decide(
    asked: Hyperparameters, plan: Plan, kept: dict[str, Any] | None, dense: bool
) -> tuple[Plan, Place]:
    """Decide for rows of this process.

    `kept` is the layout of the fit that a checkpoint is of; `dense` says that the rows
    are no sparse matrix. On a Dask cluster the place's `n_ranks` is the number of
    shards; None for one of each worker.
    """
    place = policy.choose(asked.n_jobs)
    parts, blas_threads = step_parts(plan, kept, dense), None
    if kept is None:
        n_shards = _worthwhile(asked, place, plan, parts)
        to_dask = place.kind == "dask" and get_config()["ranks"] == "as_asked"
    else:
        n_shards, blas_threads = kept["n_shards"], kept["blas_threads"]
        to_dask = False
    if n_shards == 1 and not to_dask:
        if (parts, blas_threads) != (plan.step_parts, plan.blas_threads):
            plan = replace(plan, step_parts=parts, blas_threads=blas_threads)
        return plan, policy.HERE
    if place.kind == "dask":
        return plan, replace(place, n_ranks=n_shards)
    assert n_shards is not None
    n_ranks = n_shards
    if kept is None:
        blas_threads = max(1, usable_cores() // n_shards)
    else:
        n_ranks = min(place.n_ranks or 1, n_shards)
    plan = replace(plan, n_shards=n_shards, blas_threads=blas_threads)
    plan = replace(plan, step_parts=step_parts(plan, kept, dense, blas_threads))
    return plan, replace(place, n_ranks=n_ranks)


def step_parts(
    plan: Plan, kept: dict[str, Any] | None, dense: bool, cores: int | None = None
) -> int:
    """Into how many parts each shard's steps are cut, for ranks of so many cores."""
    if not (dense and compiled_steps.can_run(plan)):
        return 1
    if kept is not None:
        return int(kept["step_parts"])
    batch, rows = plan.batch_size // plan.n_shards, plan.n_rows // plan.n_shards
    return policy.step_parts(plan.units, batch, rows, plan.dtype, cores)


def _worthwhile(
    asked: Hyperparameters, place: Place, plan: Plan, parts: int
) -> int | None:
    """How many shards make the training faster; as many as asked for, if that is set.

    `parts` are those of a step in this process.
    """
    n_asked = place.n_ranks
    if place.kind == "process" or get_config()["ranks"] == "as_asked":
        return n_asked
    if place.kind == "dask":
        from skmlp.dask.demands import demands_of

        demands = demands_of()
        info = place.client.scheduler_info(n_workers=-1)["workers"]
        known = [one for w, one in info.items() if not demands.lacks(w, one)]
        n_asked = n_asked or max(len(known), 1)
        threads = sorted(worker["nthreads"] for worker in known)[-n_asked:]
        place = replace(place, n_ranks=n_asked, n_threads=sum(threads))
    assert n_asked is not None
    n_shards = policy.worthwhile(place, plan.units, plan.batch_size, plan.dtype)
    if place.kind != "dask" and policy.step_threads_do(parts, n_shards):
        n_shards = 1
    timing_report.tell_fewer(asked.verbose, n_shards, n_asked, plan.batch_size)
    return n_shards
