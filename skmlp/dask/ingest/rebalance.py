"""Rows from shards that have too many of them to others, from worker to worker.

How many rows a part has is often known only when it is there. What is placed by then
stays where it is, but for the rows that one shard has far above its share: these leave
in pieces of bounded size, so that they are nowhere held twice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

from dask._task_spec import TaskRef
from dask.highlevelgraph import HighLevelGraph

from skmlp.dask.graph import pinned, plain, put_key
from skmlp.dask.rpc import results
from skmlp.dask.worker.tasks import give_rows, take_rows
from skmlp.dask.worker_group import WorkerGroup
from skmlp.data.assignment import Move, Span, evened

#: Bytes of X that leave a shard at once.
PIECE = 1 << 24


async def even_out(
    group: WorkerGroup,
    before: Sequence[Sequence[Span]],
    spans: Sequence[Sequence[Span]],
    homes: Sequence[str],
    row_bytes: float,
) -> list[list[Span]]:
    """Even shards out if one has far more than its share; see `evened`.

    Parameters
    ----------
    group : WorkerGroup
        The workers.
    before : sequence of sequence of Span
        What stands before these rows in the store of each shard.
    spans : sequence of sequence of Span
        The parts of each shard, which have come last.
    homes : sequence of str
        The worker of each shard.
    row_bytes : float
        Of a row of X, in the mean.

    Returns
    -------
    list of list of Span
        Where those rows are now, behind those that stand before them.
    """
    moves, after = evened(spans, max(1, int(PIECE / max(row_bytes, 1))))
    whole = [[*old, *new] for old, new in zip(before, after, strict=True)]
    if not moves:
        return whole

    async def settle(shards: Collection[int]) -> None:
        await group.each(
            group.call(
                rank,
                "settle",
                shards=[(k, whole[k]) for k in shards if homes[k] == worker],
            )
            for rank, worker in enumerate(group.workers)
        )

    # Each giver's moves stand together.
    lots = [list(lot) for _, lot in groupby(moves, lambda move: move.giver)]
    await settle({move.taker for move in moves})
    await group.each(_carry_out(group, lot, spans, after, homes) for lot in lots)
    await settle({move.giver for move in moves})
    return whole


async def _carry_out(
    group: WorkerGroup,
    moves: Sequence[Move],
    spans: Sequence[Sequence[Span]],
    after: Sequence[Sequence[Span]],
    homes: Sequence[str],
) -> None:
    """Move the rows of one giver, piece by piece."""
    client, run = group.rpc.client, group.run
    begins = {span.part: span.start for span in spans[moves[0].giver]}
    for number, (giver, taker, lot) in enumerate(moves):
        there = {span.part: span.start for span in after[taker]}
        cuts = [(s.part, s.start - begins[s.part], s.rows) for s in lot]
        places = [(s.part, s.start - there[s.part]) for s in lot]
        give_key = put_key(group.stamp, "give", giver, number)
        give = plain(give_key, give_rows, run, giver, cuts)
        take_key = put_key(group.stamp, "take", giver, number)
        take = plain(take_key, take_rows, run, taker, places, TaskRef(give_key))
        layers = {
            "give": pinned({give_key: give}, homes[giver], strictly=True),
            "take": pinned({take_key: take}, homes[taker], strictly=True),
        }
        graph = HighLevelGraph(layers, {"give": set(), "take": {"give"}})
        (taken,) = client.get(graph, [take_key], sync=False)
        try:
            await results(client, [taken])
        finally:
            taken.release()
