"""The tasks that count, cut and keep rows on the workers of a Dask cluster.

Their arguments are plain data: see `skmlp.dask.graph.plain`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from dask.sizeof import sizeof
from distributed import get_worker

from skmlp.dask.worker.service import GONE, service_of
from skmlp.data.partitions import PartStats, merge
from skmlp.data.store.shard_store import Piece, cut_out


def count_rows(*inputs: Any) -> tuple[tuple[int, ...], int]:
    """The rows of a partition of X, y and perhaps weights, and their bytes together."""
    rows = tuple((*np.shape(values), 0)[0] for values in inputs)
    return rows, sum(map(sizeof, inputs))


def cut_piece(features: int, names: Any, piece: tuple[Any, ...], *inputs: Any) -> Any:
    """X, y and w of a `Piece` of a partition; a text if something is wrong with it."""
    try:
        return cut_out(Piece(*piece), features, names, *inputs)
    except (TypeError, ValueError) as error:
        return f"{error} ({Piece(*piece).place})"


def put_piece(run: str, shard: int, piece: tuple[Any, ...], rows: Any) -> PartStats:
    """Keep what `cut_piece` gives in the store of a shard on this task's worker."""
    fit = service_of(get_worker()).fit_of(run)
    store = None if fit is None else fit.stores.get(shard)
    if isinstance(rows, str):
        return PartStats(0, 0, problem=rows)
    if store is None:
        # The fit is over, or Dask runs this again on a worker that has taken the place
        # of another one: nobody waits for what comes out.
        return PartStats(0, 0, problem=str(GONE["text"]))
    return store.put(Piece(*piece), *rows)


def put_part(
    run: str,
    shard: int,
    features: int,
    names: Any,
    piece: tuple[Any, ...],
    *inputs: Any,
) -> PartStats:
    """`cut_piece` and `put_piece` in one: for a partition that need not travel."""
    return put_piece(run, shard, piece, cut_piece(features, names, piece, *inputs))


def merge_parts(*parts: PartStats) -> PartStats:
    """`merge`, as a task: only what is known of all parts goes to the driver."""
    return merge(parts)
