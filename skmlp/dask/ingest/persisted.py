"""What the user has persisted or scattered: whether it is there, or is no more."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import dask
from dask.highlevelgraph import HighLevelGraph
from distributed import Future

from skmlp.dask.errors import DataLost
from skmlp.dask.graph import put_key, task_span
from skmlp.dask.rpc import LOOK_S, ClusterRPC


def futures_in(graph: HighLevelGraph) -> list[Future[Any]]:
    """The futures among the nodes of a graph: what is persisted."""
    layers = [layer for layer in graph.layers.values() if layer.is_materialized()]
    nodes = [node for layer in layers for node in layer.values()]
    return [node for node in nodes if isinstance(node, Future)]


async def computed(rpc: ClusterRPC, futures: Sequence[Future[Any]]) -> None:
    """Wait until all that is being persisted has been computed.

    The scheduler is asked, since a client never hears of futures that are not its own.
    DataLost if a future can't end: it was cancelled, or this cluster does not know it.
    """
    waiting = {future.key for future in futures}
    # Whether it is persisted at this moment, by a graph that is still on its way: the
    # scheduler takes in a client's graphs in their order.
    later: list[Future[Any]] = []
    try:
        while waiting:
            asked = [*waiting, *(future.key for future in later)]
            states = await rpc.scheduler("get_task_status", keys=asked)
            unknown = {key for key in waiting if states.get(key) is None}
            dead = [f for f in futures if f.status == "cancelled" and f.key in unknown]
            if dead or (unknown and later and states.get(later[0].key) is not None):
                raise DataLost(
                    f"{len(unknown)} of {len(futures)} partitions that were persisted "
                    "or scattered are not on the cluster of the current client "
                    f"({rpc.client.scheduler.address}): they were cancelled, or lost "
                    "when it was restarted, or they are on another one. Persist them "
                    "again, or fit inside `with client.as_current():` with the client "
                    "that has them"
                )
            if unknown and not later:
                with dask.annotate(span=task_span()):
                    key = put_key(uuid.uuid4().hex, "later")
                    later.append(rpc.client.submit(int, key=key, pure=False))
            waiting = {k for k in waiting if states.get(k) not in ("memory", "erred")}
            if waiting:
                await asyncio.sleep(LOOK_S)
    finally:
        for future in later:
            future.release()
