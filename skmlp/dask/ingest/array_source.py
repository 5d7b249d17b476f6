"""Rows of the driver, cut evenly and sent to the workers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from scipy import sparse

from skmlp.comm.base import cut
from skmlp.dask.graph import put_key
from skmlp.dask.rpc import ClusterRPC, results, together
from skmlp.dask.worker.tasks import put_piece
from skmlp.dask.worker_group import WorkerGroup
from skmlp.data.assignment import Span, after
from skmlp.data.partitions import PartStats, merge

#: Most bytes of X that travel to a worker at once.
PIECE = 1 << 26


class DriverRows:
    """Arrays of the driver.

    Parameters
    ----------
    X : ndarray or csr_array of shape (n, n_features)
        The rows.
    y : ndarray of shape (n,) or (n, n_outputs)
        Targets or labels.
    w : ndarray of shape (n,), or None
        Weights.

    Attributes
    ----------
    features, dtype, weighted, sizes, first, end
        As those of `skmlp.dask.ingest.collection_source.DaskBlocks`.
    """

    first = Span(0, 0, 0)
    #: They are in the spans.
    sizes = None
    #: Nothing of it is on the cluster.
    keys = ()

    def __init__(self, X: Any, y: Any, w: Any) -> None:
        self._arrays = (X, y, w)
        self.features: int = X.shape[1]
        self.dtype = X.dtype
        self.weighted = w is not None

    async def load(self, rpc: ClusterRPC) -> None:
        """Nothing is to be computed."""

    async def holders(self, rpc: ClusterRPC) -> list[tuple[Collection[str], int]]:
        """No part lies on a worker yet."""
        return []

    def place(
        self, held: Sequence[tuple[Collection[str], int]], homes: Sequence[str]
    ) -> list[list[Span]]:
        """Cut evenly by shards, in pieces of bounded size."""
        X = self._arrays[0]
        n_rows = X.shape[0]
        size = X.data.nbytes + X.indices.nbytes if sparse.issparse(X) else X.nbytes
        most = max(1, PIECE * n_rows // max(1, size))
        spans: list[list[Span]] = []
        number = 0
        for shard in range(len(homes)):
            part = cut(n_rows, len(homes), shard)
            starts = range(part.start, part.stop, most)
            pieces = [
                Span(number + i, start, min(most, part.stop - start))
                for i, start in enumerate(starts)
            ]
            spans.append([after(self.first, piece) for piece in pieces])
            number += len(starts)
        self.end = after(self.first, Span(number, n_rows, 0))
        return spans

    async def bring(
        self, group: WorkerGroup, spans: Sequence[Sequence[Span]], homes: Sequence[str]
    ) -> PartStats:
        """Send all pieces, to each worker one after the other."""
        sends = [
            self._send(group, worker, shards_of(homes, worker), spans)
            for worker in group.workers
        ]
        async with together(*sends) as tasks:
            sent = await asyncio.gather(*tasks)
        found = {part: stats for pieces in sent for part, stats in pieces}
        return merge([found[part] for part in sorted(found)])

    async def _send(
        self,
        group: WorkerGroup,
        worker: str,
        shards: Sequence[int],
        spans: Sequence[Sequence[Span]],
    ) -> list[tuple[int, PartStats]]:
        """Send the pieces of one worker's shards."""
        client = group.rpc.client
        found = []
        for shard, span in [(k, span) for k in shards for span in spans[k]]:
            # In a list: of a tuple, Dask would make three things.
            (sent,) = await client.scatter(
                [self._piece(span)], workers=[worker], hash=False, asynchronous=True
            )
            key = put_key(group.stamp, shard, span.part)
            put = group.rpc.submit(
                worker, key, put_piece, group.run, shard, span.part, sent
            )
            try:
                (stats,) = await results(client, [put])
            finally:
                put.release()
                sent.release()
            found.append((span.part, stats))
        return found

    def _piece(self, span: Span) -> tuple[Any, Any, Any]:
        X, y, w = self._arrays
        start = span.start - self.first.start
        rows = slice(start, start + span.rows)
        return X[rows], y[rows], None if w is None else w[rows]


def shards_of(homes: Sequence[str], worker: str) -> list[int]:
    """The shards at home on a worker."""
    return [shard for shard, home in enumerate(homes) if home == worker]
