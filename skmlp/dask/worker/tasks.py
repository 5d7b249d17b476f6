"""The tasks that skmlp runs on the workers of a Dask cluster.

They find the worker's `WorkerService`, with the fit that they belong to, through Dask.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from distributed import get_worker, secede

from skmlp.comm.handshake import default_facts
from skmlp.dask.ports import tls_contexts
from skmlp.dask.worker.service import GONE, Fit, Lease, mailbox_of, service_of
from skmlp.data.partitions import PartStats, merge
from skmlp.data.store.shard_store import ShardStore
from skmlp.training.protocol import RankFailed

#: Seconds for a call of a task to its own worker's event loop, which is in the same
#: process and only late if something blocks it.
LOOP_LIMIT_S = 60.0
#: Seconds between two looks at whether a task is still wanted.
STAY_S = 0.25


def begin_lease(run: str, key: str, address: str, server_id: str) -> dict[str, Any]:
    """Begin a fit on the worker that runs this task, if it is the one that is meant.

    Dask runs a task again on a worker that has been started in another's place, which
    has another server id.

    Returns
    -------
    dict
        ``threads`` and ``memory_limit`` (bytes, 0 for none) of the worker, and
        ``facts``, which the bits of a fit depend on; nothing on another worker.
    """
    worker = get_worker()
    if worker.id != server_id:
        return {}

    async def begin() -> None:
        service_of(worker).begin(Lease(run, key, address))

    loop = worker.loop.asyncio_loop
    asyncio.run_coroutine_threadsafe(begin(), loop).result(LOOP_LIMIT_S)
    return {
        "threads": worker.state.nthreads,
        "memory_limit": worker.memory_manager.memory_limit or 0,
        "facts": default_facts(),
    }


#: The rows that one shard gives another at once: X, y and w of each piece.
Lot = list[tuple[Any, Any, Any]] | None


def _fit(run: str) -> Fit | None:
    """The fit on the worker that runs this task, if it is not over."""
    return service_of(get_worker()).fit_of(run)


def _store(run: str, shard: int) -> ShardStore | None:
    """The store of a shard on the worker that runs this task.

    None if the fit is over, or Dask runs this again on a worker that has taken the
    place of another one: what comes out is not waited for.
    """
    fit = _fit(run)
    return None if fit is None else fit.stores.get(shard)


def put_part(
    run: str,
    shard: int,
    part: int,
    X: Any,
    y: Any,
    w: Any,
    cut: tuple[int, int] | None = None,
    names: Sequence[Any] = (None, None),
) -> PartStats:
    """Convert a part of a shard into the store of the worker that runs this task."""
    store = _store(run, shard)
    if store is None:
        return PartStats(0, 0, problem=str(GONE["text"]))
    return store.put(part, X, y, w, cut, names)


def put_piece(run: str, shard: int, part: int, rows: tuple[Any, Any, Any]) -> PartStats:
    """`put_part`, as a task, of rows that were sent."""
    return put_part(run, shard, part, *rows)


def give_rows(run: str, shard: int, cuts: Sequence[tuple[int, int, int]]) -> Lot:
    """Rows for another shard, the last ones first.

    For each piece its part, its first row in there, and their number; see
    `ShardStore.give`. None if there is no such store.
    """
    store = _store(run, shard)
    if store is None:
        return None
    return [store.give(part, at, at + n) for part, at, n in cuts]


def take_rows(
    run: str, shard: int, places: Sequence[tuple[int, int]], lot: Lot
) -> None:
    """Keep rows of another shard.

    For each piece its part, and its first row in there; see `ShardStore.take`.
    """
    store = _store(run, shard)
    if store is None or lot is None:
        raise RankFailed(str(GONE["text"]))
    for (part, at), piece in zip(places, lot, strict=True):
        store.take(part, at, *piece)


def merge_parts(*parts: PartStats) -> PartStats:
    """`merge`, as a task: only what is known of all parts goes to the driver."""
    return merge(parts)


def stay() -> None:
    """Keep an adaptive cluster from closing this worker, while this task is wanted.

    It takes none of the worker's slots.
    """
    worker = get_worker()
    task = worker.state.tasks[worker.get_current_task()]
    secede()
    # At first, the event loop may not have heard of it.
    while task.state in ("executing", "long-running"):
        time.sleep(STAY_S)


def serve_rank(run: str, generation: int, server_id: str) -> str:
    """Be a rank until the driver ends it, on the worker with this server id.

    Returns
    -------
    str
        What ended it. It does not raise: whoever waits for the rank has been told.
    """
    worker = get_worker()
    fit = _fit(run)
    mailbox = None if fit is None else mailbox_of(fit, generation)
    if fit is None or mailbox is None or worker.id != server_id:
        return str(GONE["text"])
    # From here on the rank's thread takes none of the worker's slots.
    secede()
    threading.current_thread().name = f"skmlp-rank-{mailbox.rank}"
    return mailbox.run(fit.stores, partial(tls_contexts, worker))
