"""The workers of a cluster that take part in a fit."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from distributed import Future

from skmlp import __version__
from skmlp.dask.demands import Demands
from skmlp.dask.graph import by_value, put_key, submit_to_each
from skmlp.dask.rpc import ClusterRPC, all_ended, results
from skmlp.training.protocol import RankFailed

#: Seconds to wait for the first worker of a cluster that has none.
FIRST_WORKER_LIMIT_S = 120.0
#: Seconds for a worker to have a free thread, and to import skmlp.
LOOK_LIMIT_S = 600.0


async def present_workers(rpc: ClusterRPC, asked: Sequence[str] | None) -> list[str]:
    """The workers to choose from; waits for the first one.

    RankFailed if none comes in time, or one of those `asked` for is not there.
    """
    here = await rpc.scheduler("ncores_running")
    if not here:
        # A waiting task also makes an adaptive cluster start a worker.
        first = rpc.client.submit(int, key=f"skmlp-first-{uuid.uuid4()}", pure=False)
        try:
            async with asyncio.timeout(FIRST_WORKER_LIMIT_S):
                await results(rpc.client, [first])
        except TimeoutError:
            raise RankFailed(
                f"this Dask cluster had no worker within {FIRST_WORKER_LIMIT_S:g} s: "
                "start some, for example with cluster.scale(2)"
            ) from None
        finally:
            first.release()
        here = await rpc.scheduler("ncores_running")
    if asked is None:
        return sorted(here)
    missing = sorted(set(asked) - set(here))
    if missing:
        raise RankFailed(f"these Dask workers are not there: {', '.join(missing)}")
    return list(asked)


class Able(NamedTuple):
    """The workers that can take part in a fit."""

    workers: list[str]
    #: What is wrong with each worker that was meant to, but can't.
    unable: dict[str, str]


async def able_workers(
    rpc: ClusterRPC, demands: Demands, present: Sequence[str] | None = None
) -> Able:
    """The workers that may and can take part in a fit, and why others can't.

    They are chosen from those `present`; by default from all, and the first one is
    waited for. RankFailed, which names what each of them lacks, if none can.
    """
    if present is None:
        present = await present_workers(rpc, None)
    known = (await rpc.scheduler("identity"))["workers"]
    lacking = {w: demands.lacks(w, known[w]) for w in present if w in known}
    meant = [worker for worker, reason in lacking.items() if not reason]
    wrong = await look_at(rpc, meant)
    able = [worker for worker in meant if worker not in wrong]
    if not able:
        reasons = "; ".join(f"{w} {why}" for w, why in (lacking | wrong).items())
        raise RankFailed(f"no Dask worker can take part in the fit: {reasons}")
    return Able(able, wrong)


def tell_left_out(unable: Mapping[str, str]) -> None:
    """Warn of workers that can't take part."""
    if unable:
        reasons = "; ".join(f"{worker} {why}" for worker, why in unable.items())
        warnings.warn(f"the fit leaves out Dask workers: {reasons}", stacklevel=2)


async def look_at(rpc: ClusterRPC, workers: Sequence[str]) -> dict[str, str]:
    """What is wrong with workers that can't take part: no skmlp, or another version.

    They are asked by tasks: an adaptive cluster closes workers that have none.
    WorkerLost if one is gone.
    """
    ours = {"skmlp": __version__, "numpy": np.__version__}
    stamp = uuid.uuid4().hex
    calls = {
        worker: (put_key(stamp, "look", number), by_value(_versions), (ours,))
        for number, worker in enumerate(workers)
    }
    tasks = dict(zip(workers, submit_to_each(rpc.client, calls), strict=True))
    try:
        told = await rpc.guard(told_by(rpc, tasks, LOOK_LIMIT_S), stamp, tasks)
    finally:
        for task in tasks.values():
            task.release()
    wrong = {}
    for worker, answer in told.items():
        if isinstance(answer, str):
            wrong[worker] = answer
        elif answer != ours:
            wrong[worker] = "has " + " and ".join(
                f"{name} {answer[name]}, this process has {version}"
                for name, version in ours.items()
                if answer[name] != version
            )
    return wrong


def _versions(ours: dict[str, str]) -> dict[str, str]:
    """On a worker, which may lack skmlp: its versions; it then imports the rest."""
    told = {name: __import__(name).__version__ for name in ours}
    if told == ours:
        __import__("skmlp.dask.worker.tasks")
    return told


async def told_by(
    rpc: ClusterRPC, tasks: Mapping[str, Future[Any]], limit: float
) -> dict[str, Any]:
    """The results of tasks of moments, one on each worker; a text if there is none.

    They get `limit` seconds. To be guarded to the end: Dask waits for ever for a result
    that is lost with its worker, even if the task had ended.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await all_ended(list(tasks.values()))
    told: dict[str, Any] = {}
    for worker, task in tasks.items():
        told[worker] = f"had no free thread for {limit:g} s: busy with other tasks?"
        if task.status == "error":
            error = await task.exception(asynchronous=True)
            told[worker] = f"can't run skmlp: {error}"
    done = [worker for worker, task in tasks.items() if task.status == "finished"]
    answers = await results(rpc.client, [tasks[worker] for worker in done])
    return told | dict(zip(done, answers, strict=True))


def choose_workers(
    present: Sequence[str],
    held: Sequence[tuple[Collection[str], int]],
    n_jobs: int | None,
) -> list[str]:
    """The workers of a fit.

    Parameters
    ----------
    present : sequence of str
        To choose from.
    held : sequence of tuple of (collection of str, int)
        Of each part the workers that hold it, and how many rows it has.
    n_jobs : int or None
        None for those that hold rows if all of these lie on workers, else for all; -1
        for all; k for those k that hold most rows.
    """
    lying: Counter[str] = Counter()
    for holders, rows in held:
        for holder in holders:
            lying[holder] += rows
    if n_jobs is None:
        all_lie = all(holders for holders, _ in held)
        holding = [worker for worker in present if all_lie and lying[worker]]
        return holding or list(present)
    if n_jobs < 0 or n_jobs >= len(present):
        return list(present)
    chosen = sorted(present, key=lambda worker: -lying[worker])[:n_jobs]
    return [worker for worker in present if worker in chosen]


def refuse_differences(
    workers: Sequence[str], facts: Sequence[Mapping[str, object]]
) -> None:
    """ValueError if some worker's bits would not be those of the first one."""
    for address, other in zip(workers, facts, strict=True):
        for name, value in facts[0].items():
            if other.get(name) != value:
                raise ValueError(
                    f"the Dask workers differ in {name}, so they would not compute the "
                    f"same bits: {workers[0]} has {value!r}, {address} has "
                    f"{other.get(name)!r}. Give all of them the same environment and "
                    "CPU type"
                )


def may_grow(rpc: ClusterRPC, n_present: int, n_jobs: int | None) -> bool:
    """Whether there may be more workers soon: the cluster has fewer than it could."""
    adaptive: Any = getattr(rpc.client.cluster, "_adaptive", None)
    if getattr(adaptive, "periodic_callback", None) is not None:
        return bool(n_present < adaptive.maximum)
    return n_jobs is not None and n_present < n_jobs
