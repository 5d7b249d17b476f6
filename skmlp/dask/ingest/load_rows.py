"""Workers for a fit on a Dask cluster, and its rows onto them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, Future
from scipy import sparse

from skmlp.dask.demands import ANYWHERE, Demand, Demands
from skmlp.dask.errors import WorkerLost
from skmlp.dask.graph import stay_key, submit_to_each
from skmlp.dask.ingest.array_source import ArraySource
from skmlp.dask.ingest.collection_source import CollectionSource
from skmlp.dask.ingest.collections import Parts, check_shapes, understand
from skmlp.dask.ingest.loaded_rows import LoadedRows, RowSource
from skmlp.dask.rpc import LOOK_S, ClusterRPC, together
from skmlp.dask.worker.tasks import stay
from skmlp.dask.workers import (
    Able,
    able_workers,
    choose_workers,
    may_grow,
    present_workers,
    tell_left_out,
)
from skmlp.training.protocol import RankFailed

logger = logging.getLogger(__name__)

#: Tries to bring the rows to the workers that are left, while more of them are lost.
TRIES = 10


def load_rows(
    client: Client,
    X: Any,
    y: Any,
    w: Any = None,
    *,
    n_jobs: int | None = None,
    n_shards: int | None = None,
    workers: Sequence[str] | None = None,
    demands: Demands = ANYWHERE,
    tries: int = 1,
    labels: bool = False,
    masked: bool = False,
    held_out: tuple[Any, Any, Any] | None = None,
) -> LoadedRows:
    """Bring every row to one worker, in the training dtype; close what it returns.

    X, y and w are Dask collections, `Parts`, or arrays of the driver, which are cut
    evenly and sent; so are the validation rows `held_out`, which come after them. For
    `n_jobs` see `choose_workers`; there are `n_shards` shards, by default as many as
    workers. The workers are chosen from `workers`, by default from all that do for the
    `demands`. If workers are lost meanwhile, it begins again, `tries` times in all.
    `labels` and `masked` are those of `ShardStore`.

    ValueError if something is wrong with the data, with the place; RankFailed if a
    worker was lost, or none came, or none can take part.
    """
    rpc = ClusterRPC(client)
    if workers is not None:
        demands = Demands(Demand(tuple(workers)))
    n_jobs = n_shards if n_jobs is None else n_jobs
    first: WorkerLost | None = None
    held: list[list[tuple[Collection[str], int]]] = []
    for _ in range(tries):
        try:
            present = rpc.run(present_workers(rpc, workers))
            given = [(X, y, w)] + ([] if held_out is None else [held_out])
            sources = [source_of(rpc, *rows) for rows in given]
            # Where rows lie before they are loaded: the same, whoever is lost.
            held = held or [rpc.run(source.holders(rpc)) for source in sources]
            stays: list[Future[None]] = []
            try:
                able = rpc.run(_able(rpc, sources, demands, present, n_jobs, stays))
                if first is None:
                    tell_left_out(able.unable)
                addresses = choose_workers(able.workers, [*chain(*held)], n_jobs)
                # Fixed now, too: who is lost changes no bit of the model.
                n_shards = n_shards or len(addresses)
                data = LoadedRows(rpc, sources, addresses, n_shards)
                data.targets = {"labels": labels, "masked": masked}
                data.demands, data.stays = demands, stays
                data.begin(held)
            except BaseException:
                for one in (*stays, *sources):
                    one.release()
                raise
        except WorkerLost as error:
            first = first or error
            logger.warning("the rows are brought to the workers again: %s", error)
        except RankFailed as error:
            if first is None:
                raise
            raise RankFailed(f"{first}; the fit can't go on: {error}") from error
        else:
            return data
    assert first is not None
    raise first


async def _able(
    rpc: ClusterRPC,
    sources: Sequence[RowSource],
    demands: Demands,
    present: Sequence[str],
    n_jobs: int | None,
    stays: list[Future[None]],
) -> Able:
    """Who can take part, once the rows are loaded where the cluster may grow.

    It is this work that makes an adaptive cluster grow. Workers that come meanwhile are
    kept by tasks, or they would go again as the work ends; these are added to `stays`.
    """
    able = await able_workers(rpc, demands, present)
    if not may_grow(rpc, len(able.workers), n_jobs):
        return able
    kept: set[str] = set()
    async with together(_load(rpc, sources)) as (loading,):
        while not loading.done():
            news = set(await rpc.scheduler("ncores_running")) - kept
            kept |= news
            calls = {w: (stay_key(), stay, ()) for w in sorted(news)}
            if calls:
                stays += submit_to_each(rpc.client, calls, priority=1)
            await asyncio.wait([loading], timeout=LOOK_S)
        await loading
    return await able_workers(rpc, demands)


async def _load(rpc: ClusterRPC, sources: Sequence[RowSource]) -> None:
    for source in sources:
        await source.load(rpc)


def source_of(rpc: ClusterRPC, X: Any, y: Any, w: Any) -> RowSource:
    """Find out what is given; for the arguments see `load_rows`.

    ValueError if shapes don't fit, inputs can't be paired, or X is no Dask collection
    but others are; TypeError for a Dask collection that can't be taken.
    """
    X, y, w = understand(rpc, ("X", X), ("y", y), ("sample_weight", w))
    given = {"X": X, "y": y, "sample_weight": w}
    lazy = [name for name, value in given.items() if isinstance(value, Parts)]
    if lazy and "X" not in lazy:
        raise ValueError(
            f"{' and '.join(lazy)} can't be a Dask collection where X is none: make "
            "all of them Dask collections, or none"
        )
    for name in set(given) - set(lazy):
        if not sparse.issparse(given[name]) and given[name] is not None:
            given[name] = np.asarray(given[name])
    check_shapes(*given.values())
    if not lazy:
        X = given["X"]
        X = X.tocsr() if sparse.issparse(X) else X
        return ArraySource(X, given["y"], given["sample_weight"])
    for name in set(given) - set(lazy):
        if given[name] is not None:
            given[name] = _cut(name, given[name], given["X"])
    return CollectionSource(*given.values())


def _cut(name: str, array: Any, X: Parts) -> Parts:
    """An array of the driver as X is cut."""
    if X.sizes is None:
        raise ValueError(
            f"{name} is an array of this process, and the sizes of X's partitions are "
            f"unknown: make {name} a Dask collection with the same partitions"
        )
    chunks = (X.sizes, *((n,) for n in array.shape[1:]))
    lazy = da.from_array(array, chunks=chunks, name=False)
    return Parts(name, lazy, array[:0], X.sizes)
