"""What rows a fit on Dask is given: Dask collections, or arrays of the driver."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
from scipy import sparse

from skmlp.dask.ingest.array_source import DriverRows
from skmlp.dask.ingest.collection_source import DaskBlocks
from skmlp.dask.ingest.collections import Parts, understand
from skmlp.dask.rpc import ClusterRPC
from skmlp.data.assignment import Span
from skmlp.data.partitions import PartStats, merge

#: What brings rows to the workers.
Rows = DaskBlocks | DriverRows
#: The parts of each shard.
Spans = Sequence[Sequence[Span]]


class WithHeldOut:
    """Training rows, and validation rows of their own, which come after them.

    Parameters
    ----------
    rows, held_out : DaskBlocks or DriverRows
        Of the same kind.

    Attributes
    ----------
    features, dtype, weighted
        As those of `rows`.
    held_out_stats : PartStats or None
        Of the validation rows that were brought last.
    """

    def __init__(self, rows: Rows, held_out: Rows) -> None:
        self.rows, self.held_out = rows, held_out
        self.features, self.dtype = rows.features, rows.dtype
        self.weighted = rows.weighted or held_out.weighted
        self.held_out_stats: PartStats | None = None

    async def load(self, rpc: ClusterRPC) -> None:
        """Compute both before workers are chosen; see `DaskBlocks.load`."""
        await self.rows.load(rpc)
        await self.held_out.load(rpc)

    async def holders(self, rpc: ClusterRPC) -> list[tuple[Collection[str], int]]:
        """Where the rows lie: those for training first."""
        return await self.rows.holders(rpc) + await self.held_out.holders(rpc)

    def place(
        self, held: Sequence[tuple[Collection[str], int]], homes: Sequence[str]
    ) -> list[list[Span]]:
        """Share both out evenly, each by itself."""
        n_keys = len(self.rows.keys)
        spans = self.rows.place(held[:n_keys], homes)
        self.held_out.first = self.rows.end
        more = self.held_out.place(held[n_keys:], homes)
        return [one + two for one, two in zip(spans, more, strict=True)]

    def stages(self, spans: Spans) -> Iterator[tuple[Rows, Spans]]:
        """The training rows, then the others: each with its parts by shard."""
        first = self.held_out.first.part
        yield self.rows, [[s for s in own if s.part < first] for own in spans]
        # How many rows come before is known by now.
        self.held_out.first = self.rows.end
        yield self.held_out, [[s for s in own if s.part >= first] for own in spans]

    def together(self, told: Sequence[PartStats | None]) -> PartStats | None:
        """What is known of the training rows, or what is wrong.

        The sizes are those of all parts, so that rows can be numbered.

        Parameters
        ----------
        told : sequence of PartStats
            Of each stage that was brought, up to the first problem; None where it had
            no parts.
        """
        stats, found = (*told, None)[:2]
        if found is None:
            return stats
        self.held_out_stats = found
        problem = found.problem
        if stats is not None and not problem:
            problem = merge([stats, found]).problem
        if problem:
            return replace(found, problem=f"validation rows: {problem}")
        if stats is None:
            return None
        sizes = [
            source.sizes or known.sizes
            for source, known in ((self.rows, stats), (self.held_out, found))
        ]
        return replace(stats, sizes=(*sizes[0], *sizes[1]))


def stages(source: Rows | WithHeldOut, spans: Spans) -> Iterator[tuple[Rows, Spans]]:
    """What is brought one after the other, each with its parts by shard."""
    if isinstance(source, WithHeldOut):
        yield from source.stages(spans)
    else:
        yield source, spans


def together(
    source: Rows | WithHeldOut, told: Sequence[PartStats | None]
) -> PartStats | None:
    """What is known of all stages; see `WithHeldOut.together`."""
    return source.together(told) if isinstance(source, WithHeldOut) else told[0]


def source_of(rpc: ClusterRPC, X: Any, y: Any, w: Any) -> Rows:
    """Find out what is given; for the arguments see `adopt`.

    Raises
    ------
    ValueError
        Shapes don't fit, or inputs can't be paired; or X is no Dask collection, but
        others are.
    TypeError
        A Dask collection that can't be taken.
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
        return DriverRows(X, given["y"], given["sample_weight"])
    for name in set(given) - set(lazy):
        if given[name] is not None:
            given[name] = _cut(name, given[name], given["X"])
    return DaskBlocks(*given.values())


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


def check_shapes(X: Any, y: Any, w: Any) -> None:
    """ValueError, in scikit-learn's words where it has some."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead")
    if y.ndim not in (1, 2):
        raise ValueError(f"y should be a 1d or 2d array, got {y.ndim} dimensions")
    if _differ(X, y):
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[X.shape[0], y.shape[0]]}"
        )
    if w is not None and w.ndim != 1:
        raise ValueError("Sample weights must be 1D array or scalar")
    if w is not None and _differ(X, w):
        raise ValueError(f"sample_weight.shape == {w.shape}, expected {(X.shape[0],)}!")
    for count, what in ((X.shape[0], "sample"), (X.shape[1], "feature")):
        if count == 0:
            raise ValueError(no_rows(X.shape, what))


def no_rows(shape: tuple[int, ...], what: str = "sample") -> str:
    """The words for a table without rows, or without columns."""
    words = f"Found array with 0 {what}(s) (shape={shape})"
    return f"{words} while a minimum of 1 is required."


def _differ(X: Any, other: Any) -> bool:
    """Whether the lengths are known and differ."""
    lengths = X.shape[0], other.shape[0]
    return not any(map(math.isnan, lengths)) and lengths[0] != lengths[1]
