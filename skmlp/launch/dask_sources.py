"""What rows a fit on Dask is given: Dask collections, or arrays of the driver."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
from scipy import sparse

from skmlp.data.partitions import PartStats, merge
from skmlp.data.placement import Span
from skmlp.launch.dask_blocks import DaskBlocks, check_known
from skmlp.launch.dask_client import Line
from skmlp.launch.dask_crew import Crew
from skmlp.launch.dask_send import DriverRows

#: What brings rows to the workers.
Rows = DaskBlocks | DriverRows


class WithHeldOut:
    """Training rows, and validation rows of their own, which come after them.

    Parameters
    ----------
    rows, held_out : DaskBlocks or DriverRows
        Of the same kind: both with weights or both without.

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
        self.weighted = rows.weighted
        self.held_out_stats: PartStats | None = None
        self._n_held = 0

    async def holders(self, line: Line) -> list[tuple[Collection[str], int]]:
        """Where the rows lie: those for training first."""
        held = await self.rows.holders(line)
        self._n_held = len(held)
        return held + await self.held_out.holders(line)

    def place(
        self, held: Sequence[tuple[Collection[str], int]], homes: Sequence[str]
    ) -> list[list[Span]]:
        """Share both out evenly, each by itself."""
        spans = self.rows.place(held[: self._n_held], homes)
        every = [span for own in spans for span in own]
        n_rows = sum(span.rows for span in every)
        n_parts = max((span.part for span in every), default=-1) + 1
        self.held_out.first = Span(n_parts, n_rows, 0)
        more = self.held_out.place(held[self._n_held :], homes)
        return [one + two for one, two in zip(spans, more, strict=True)]

    async def bring(
        self, crew: Crew, spans: Sequence[Sequence[Span]], homes: Sequence[str]
    ) -> PartStats | None:
        """Bring both; what is known of the training rows, or what is wrong."""
        first = self.held_out.first.part
        training = [[s for s in own if s.part < first] for own in spans]
        validation = [[s for s in own if s.part >= first] for own in spans]
        stats = None
        if any(training):
            stats = await self.rows.bring(crew, training, homes)
        if any(validation) and not (stats is not None and stats.problem):
            found = await self.held_out.bring(crew, validation, homes)
            self.held_out_stats = found
            problem = found.problem
            if stats is not None and not problem:
                problem = merge([stats, found]).problem
            if problem:
                problem = f"validation rows: {problem}"
                stats = replace(found, problem=problem)
        return stats


def source_of(X: Any, y: Any, w: Any) -> Rows:
    """Find out what is given; for the arguments see `adopt`.

    Raises
    ------
    ValueError
        Shapes don't fit, or are unknown; or X is no Dask array, but others are.
    """
    given = {"X": X, "y": y, "sample_weight": w}
    lazy = [name for name, value in given.items() if isinstance(value, da.Array)]
    for name in lazy:
        check_known(given[name], name)
    if lazy and "X" not in lazy:
        raise ValueError(
            f"{' and '.join(lazy)} can't be a Dask array where X is none: make all of "
            "them Dask arrays, or none"
        )
    for name in set(given) - set(lazy):
        if not sparse.issparse(given[name]) and given[name] is not None:
            given[name] = np.asarray(given[name])
    X, y, w = given.values()
    _check_shapes(X, y, w)
    if lazy:
        return DaskBlocks(X, y, w)
    return DriverRows(X.tocsr() if sparse.issparse(X) else X, y, w)


def _check_shapes(X: Any, y: Any, w: Any) -> None:
    """ValueError, in scikit-learn's words where it has some."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead")
    if y.ndim not in (1, 2):
        raise ValueError(f"y should be a 1d or 2d array, got {y.ndim} dimensions")
    if y.shape[0] != X.shape[0]:
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[X.shape[0], y.shape[0]]}"
        )
    if w is not None and w.ndim != 1:
        raise ValueError("Sample weights must be 1D array or scalar")
    if w is not None and w.shape[0] != X.shape[0]:
        raise ValueError(f"sample_weight.shape == {w.shape}, expected {(X.shape[0],)}!")
    for count, what in ((X.shape[0], "sample"), (X.shape[1], "feature")):
        if count == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={X.shape}) while a minimum of 1 "
                "is required."
            )
