"""Rows of the driver, cut evenly and sent to the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from scipy import sparse

from skmlp.comm.base import cut
from skmlp.dask.graph import put_key
from skmlp.dask.ingest.tasks import put_piece
from skmlp.dask.rpc import ClusterRPC, results, together
from skmlp.dask.worker_group import WorkerGroup
from skmlp.data.assignment import Span
from skmlp.data.partitions import PartStats, merge
from skmlp.data.store.shard_store import Piece

#: Most bytes of X that travel to a worker at once.
PIECE_BYTES = 1 << 26


class ArraySource:
    """Arrays of the driver: X, y, and w or None.

    The attributes are those of `skmlp.dask.ingest.collection_source.CollectionSource`.
    """

    first = 0

    def __init__(self, X: Any, y: Any, w: Any) -> None:
        self._arrays = (X, y, w)
        self.features: int = X.shape[1]
        self.dtype = X.dtype
        self.weighted = w is not None
        self.spans: list[list[Span]] = []
        self.held_bytes: list[int] = []

    async def load(self, rpc: ClusterRPC) -> None:
        """Nothing is to be computed."""

    def release(self) -> None:
        """Nothing is held."""

    async def holders(self, rpc: ClusterRPC) -> list[tuple[Collection[str], int]]:
        """No part lies on a worker yet."""
        return []

    async def share_out(
        self,
        group: WorkerGroup,
        held: Sequence[tuple[Collection[str], int]],
        homes: Sequence[str],
    ) -> None:
        """Cut evenly by shards, in pieces of bounded size."""
        X = self._arrays[0]
        n_rows, n_shards = X.shape[0], len(homes)
        size = X.data.nbytes + X.indices.nbytes if sparse.issparse(X) else X.nbytes
        most = max(1, PIECE_BYTES * n_rows // max(1, size))
        self.held_bytes = [0] * n_shards
        self.spans = []
        for shard in range(n_shards):
            own = cut(n_rows, n_shards, shard)
            starts = range(own.start, own.stop, most)
            self.spans.append(
                [Span(shard, at, min(most, own.stop - at)) for at in starts]
            )

    async def bring(
        self, group: WorkerGroup, shards: Collection[int], homes: Sequence[str]
    ) -> PartStats | None:
        """Send the pieces of some shards, to each worker one after the other."""
        sends = [
            self._send(group, worker, [k for k in shards if homes[k] == worker])
            for worker in group.workers
        ]
        async with together(*sends) as tasks:
            sent = await asyncio.gather(*tasks)
        found = sorted((start, stats) for pieces in sent for start, stats in pieces)
        return merge([stats for _, stats in found]) if found else None

    async def _send(
        self, group: WorkerGroup, worker: str, shards: Sequence[int]
    ) -> list[tuple[int, PartStats]]:
        """Send the pieces of one worker's shards; what is known of each, by its row."""
        client = group.rpc.client
        found = []
        for shard, span in [(k, span) for k in shards for span in self.spans[k]]:
            rows = slice(span.start, span.start + span.rows)
            place = f"rows {rows.start} to {rows.stop - 1}"
            start = self.first + span.start
            piece = Piece(start, span.rows, 0, span.rows, place)
            # In a list: of a tuple, Dask would make three things.
            arrays = [tuple(None if a is None else a[rows] for a in self._arrays)]
            (sent,) = await client.scatter(
                arrays, workers=[worker], hash=False, asynchronous=True
            )
            key = put_key(group.stamp, start)
            put = group.rpc.submit(
                worker, key, put_piece, group.run, shard, tuple(piece), sent
            )
            try:
                (stats,) = await results(client, [put])
            finally:
                put.release()
                sent.release()
            found.append((start, stats))
        return found
