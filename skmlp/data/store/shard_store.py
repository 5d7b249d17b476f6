"""The store of a shard: its parts come in any order, and go out as `LocalRows`.

Between the two, rows may leave for another shard's store, or come from one
(`skmlp.data.assignment.evened`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.data.assignment import UNKNOWN, Span, join_ranges, sized
from skmlp.data.checks import (
    HOW_TO_MASK,
    check_finite,
    check_shapes,
    check_target,
    checked_rows,
    counted,
    known_or_nan,
)
from skmlp.data.frames import (
    as_table,
    as_values,
    convert,
    in_order,
    is_frame,
    rows_of,
)
from skmlp.data.partitions import LocalRows, PartStats, training_dtype
from skmlp.data.store.buffers import Table
from skmlp.data.store.pieces import Pieces, narrowed
from skmlp.data.store.sparse_buffers import SparseTable

Array = np.ndarray[Any, np.dtype[Any]]


class ShardStore:
    """Takes the parts of one shard, in any order and from several threads.

    Dense rows are converted into one array or file; sparse ones are kept until `rows`
    joins them, letting go of each block as it is copied, or go to files. So no more
    than one part is held twice.

    Parameters
    ----------
    spans : sequence of Span
        The shard's parts, in the order of their places; of some, the rows may be
        `UNKNOWN`.
    features : int
        Columns of X.
    dtype : dtype
        The training dtype.
    weighted : bool
        Whether the rows have weights.
    labels : bool
        Whether the targets are labels of classes.
    folder_for : callable, optional
        ``folder_for(size, grows)``: the folder in which rows of so many bytes are kept
        as a file, or "" for the memory; by default all are kept in memory. `grows` says
        that nobody knew the size before.
    held_out : sequence of (int, int), optional
        Number of the first part, and of its first row, that is for validation: for
        messages.
    masked : bool
        Whether real targets may be missing, as NaN.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        features: int,
        dtype: Any,
        weighted: bool,
        labels: bool,
        folder_for: Callable[[int, bool], str] = lambda size, grows: "",
        held_out: Sequence[int] = (),
        masked: bool = False,
    ) -> None:
        self._held_out = held_out
        self._folder_for = folder_for
        self._closed = False
        self._features = features
        self._dtype = np.dtype(dtype)
        self._weighted = weighted
        self._labels = labels
        self._masked = masked
        self._lock = threading.Lock()
        self._spans: dict[int, Span] = {}
        #: Whether the sizes of the parts that are expected are known, and whether that
        #: was so from the first one on.
        self._known = self._all_known = True
        #: Rows of the parts of known size.
        self._n_rows = 0
        self._table: Table | None = None
        self._sparse: SparseTable | None = None
        #: Where the rows of each part begin here, as far as that is known.
        self._offsets: dict[int, int] = {}
        self._next: dict[int, int] = {}
        #: Dense parts that have come before one that stands before them.
        self._early: dict[int, Array] = {}
        self._y, self._w = Pieces(), Pieces()
        self._joined: LocalRows | None = None
        self.expect(spans)

    def expect(self, spans: Sequence[Span]) -> None:
        """Hear of more parts, which come after those that are here.

        Parameters
        ----------
        spans : sequence of Span
            As those of the store.
        """
        with self._lock:
            self._known = all(span.rows != UNKNOWN for span in spans)
            self._all_known &= self._known
            self._spans |= {span.part: span for span in spans}
            for span in spans if self._known else spans[:1]:
                self._offsets[span.part] = self._n_rows
                self._n_rows += max(span.rows, 0)
            self._next = dict(pairwise(span.part for span in spans))

    def put(
        self,
        part: int,
        X: Any,
        y: Any,
        w: Any = None,
        cut: tuple[int, int] | None = None,
        names: Sequence[Any] = (None, None),
    ) -> PartStats:
        """Convert and keep one part.

        Parameters
        ----------
        part : int
            Its number, one of those in the spans.
        X : array-like, sparse matrix or data frame of shape (n, features)
            Its rows.
        y : array-like of shape (n,) or (n, n_outputs)
            Targets or labels.
        w : array-like of shape (n,), optional
            Weights; of rows without, while others have some, each counts 1.
        cut : tuple of (int, int), optional
            The first row and the end of what is wanted of the part; all by default.
        names : (list or None, list or None)
            The columns that X and y have if they are frames, in their order.

        Returns
        -------
        PartStats
            With `problem` set, and the part not kept, if something is wrong.
        """
        span = self._spans[part]
        try:
            X = in_order(as_table(X), names[0], "X")
            y = as_values(in_order(y, names[1], "y"))
            if self._masked:
                y = known_or_nan(y)
            w = np.ones(len(y)) if w is None else as_values(w)
            w = w if self._weighted else np.empty(0)
            if cut is not None:
                X = sparse.csr_array(X) if sparse.issparse(X) else X
                X, y, w = (rows_of(rows, *cut) for rows in (X, y, w))
            check_shapes(span, self._features, X, y, w if self._weighted else None)
            # A copy: the part may be a view of what Dask frees or uses again.
            kept_w = w.astype(training_dtype(w.dtype), copy=True)
            stats = self._stats(X, y, kept_w)
            n_bytes, unscaled = self._keep_X(part, X)
            stats = replace(stats, x_bytes=n_bytes, unscaled=unscaled)
        except (TypeError, ValueError) as error:
            return PartStats(
                max(span.rows, 0),
                self._features,
                problem=f"{error} ({self._place(span)})",
            )
        self._y.put(part, 0, self._kept_targets(y))
        self._w.put(part, 0, kept_w)
        return stats

    def _kept_targets(self, y: Array) -> Array:
        """A copy of targets, no wider than it must be.

        Real ones as they are trained on; labels that are integers in fewer bytes, if
        they fit. What the driver has encoded stays as it is.
        """
        if not self._labels:
            return np.array(y, self._dtype if y.dtype.kind == "f" else None)
        return narrowed(y)

    def _place(self, span: Span) -> str:
        """Where a part is, for the user, who counts validation rows by themselves."""
        part, start, rows = span
        if self._held_out and part >= self._held_out[0]:
            part, start = part - self._held_out[0], start - self._held_out[1]
        if UNKNOWN in span[1:]:
            return f"partition {part}"
        return f"chunk {part}: rows {start} to {start + rows - 1}"

    def _stats(self, X: Any, y: Array, w: Array) -> PartStats:
        """Look at y and w. ValueError if something is wrong with them."""
        check_finite(w, "sample_weight")
        check_target(y, self._masked, "" if self._labels else HOW_TO_MASK)
        y_min = math.nan
        labels: tuple[tuple[Array, Array], ...] = ()
        if self._labels:
            labels = counted(y)
        else:
            least = np.fmin if self._masked else np.minimum
            reals = np.asarray(y, np.float64)
            y_min = float(least.reduce(reals, axis=None, initial=np.inf))
        weighted = self._weighted
        return PartStats(
            rows=X.shape[0],
            features=X.shape[1],
            sparse=sparse.issparse(X),
            columns=tuple(map(str, X.columns)) if is_frame(X) else (),
            weight_sum=float(w.sum(dtype=np.float64)) if weighted else X.shape[0],
            weight_min=float(w.min(initial=np.inf)) if weighted else 1.0,
            y_shape=y.shape[1:],
            y_dtype=y.dtype.str,
            y_min=y_min,
            labels=labels,
        )

    def _keep_X(self, part: int, X: Any) -> tuple[int, dict[int, float]]:
        """Convert the rows into their place; tell their bytes and unscaled columns.

        ValueError if they are not finite.
        """
        if np.iscomplexobj(X):
            raise ValueError("Complex data not supported")
        if sparse.issparse(X):
            with self._lock:
                return self._sparse_table().put(part, 0, X)
        table = self._room()
        if self._known:
            unscaled = table.put(self._offsets[part], X)
        else:
            with self._lock:
                unscaled = self._keep_in_turn(table, part, X)
        return X.shape[0] * self._features * self._dtype.itemsize, unscaled

    def _sparse_table(self) -> SparseTable:
        """Where all sparse rows go."""
        if self._closed:
            raise ValueError("the fit is over")
        if self._sparse is None:
            self._sparse = SparseTable(
                self._features, self._dtype, lambda size: self._folder_for(size, True)
            )
        return self._sparse

    def _room(self) -> Table:
        """Where all dense rows go; with room for those of known number."""
        with self._lock:
            if self._closed:
                raise ValueError("the fit is over")
            if self._table is None:
                self._table = Table(
                    self._features,
                    self._dtype,
                    lambda size: self._folder_for(size, not self._all_known),
                )
            self._table.grow(self._n_rows)
            return self._table

    def _keep_in_turn(self, table: Table, part: int, X: Any) -> dict[int, float]:
        """Append a part of unknown length, when all before it have come."""
        if part not in self._offsets:
            kept = np.empty(X.shape, self._dtype)
            convert(X, kept)
            unscaled = checked_rows(kept, X)
            self._early[part] = kept
            return unscaled
        unscaled = self._append(table, X)
        while part in self._next:
            part = self._next[part]
            self._offsets[part] = self._n_rows
            early = self._early.pop(part, None)
            if early is None:
                break
            self._append(table, early)
        return unscaled

    def _append(self, table: Table, X: Any) -> dict[int, float]:
        unscaled = table.put(self._n_rows, X)
        self._n_rows += X.shape[0]
        return unscaled

    # -- rows that change shards -------------------------------------------------------

    def give(self, part: int, start: int, stop: int) -> tuple[Any, Array, Array]:
        """Copy rows for another shard; those after them have been given before.

        Parameters
        ----------
        part : int
            That came here whole.
        start, stop : int
            Which of its rows.

        Returns
        -------
        X : ndarray or csr_array of shape (n, n_features)
        y : ndarray of shape (n,) or (n, n_outputs)
        w : ndarray of shape (n,) or (0,)
        """
        with self._lock:
            if self._closed:
                raise ValueError("the fit is over")
            if self._sparse is not None:
                self._sparse.keep_first(part, stop)
                X = self._sparse.copy_of(part, start, stop)
            else:
                assert self._table is not None
                begin = self._offsets[part]
                self._table.shrink(begin + stop)
                X = self._table.copy_of(begin + start, begin + stop)
        return X, self._y.some(part, start, stop), self._w.some(part, start, stop)

    def take(self, part: int, at: int, X: Any, y: Array, w: Array) -> None:
        """Keep rows of another shard, which `settle` has told of; see `give`.

        They are rows of a part from number `at` on, of what comes here of it.
        """
        if sparse.issparse(X):
            with self._lock:
                self._sparse_table().put(part, at, X)
        else:
            self._room().put(self._offsets[part] + at, X)
        # Copies: they may be views of what Dask uses again.
        self._y.put(part, at, np.array(y))
        self._w.put(part, at, np.array(w))

    def settle(self, spans: Sequence[Span]) -> None:
        """Hear which rows are here from now on, in the order of their places.

        Of what is here, the first parts stay, of the last one perhaps the first rows;
        the others have been given away, or are about to come.

        Parameters
        ----------
        spans : sequence of Span
            Of known rows.
        """
        with self._lock:
            self._all_known = False
            self._y.settle(spans)
            self._w.settle(spans)
            self._spans = {span.part: span for span in spans}
            ends = [0, *accumulate(span.rows for span in spans)]
            self._offsets = dict(zip(self._spans, ends, strict=False))
            self._n_rows = ends[-1]
            if self._sparse is not None:
                self._sparse.settle(spans)
            if self._table is not None:
                self._table.grow(self._n_rows)
                self._table.shrink(self._n_rows)
                self._table.leave_file()

    # -- all together ------------------------------------------------------------------

    @property
    def resident_bytes(self) -> int:
        """What X takes of this process's memory; dense, until a part has come."""
        if self._sparse is not None:
            return self._sparse.resident_bytes
        if self._table is not None:
            early = sum(part.nbytes for part in list(self._early.values()))
            return self._table.resident_bytes + early
        size = self._n_rows * self._features * self._dtype.itemsize
        return 0 if not size or self._folder_for(size, False) else size

    def close(self) -> None:
        """Let go of the file, if there is one. What comes later is refused."""
        with self._lock:
            self._closed = True
            if self._table is not None:
                self._table.close()
            if self._sparse is not None:
                self._sparse.close()

    def rows(self, stats: PartStats) -> LocalRows:
        """What the shard holds, when all parts have come.

        Parameters
        ----------
        stats : PartStats
            Of all parts of all shards together: an empty shard looks like the others.
        """
        with self._lock:
            if self._joined is None:
                self._joined = self._join(stats)
            return self._joined

    def _join(self, stats: PartStats) -> LocalRows:
        """Put the parts together."""
        spans = sized(list(self._spans.values()), stats.sizes)
        X: Any = np.empty((0, self._features), self._dtype)
        if stats.sparse:
            X = (
                sparse.csr_array(X)
                if self._sparse is None
                else self._sparse.rows(spans)
            )
        elif self._table is not None:
            X = self._table.rows()
        y = np.empty((0, *stats.y_shape), np.dtype(stats.y_dtype))
        w = np.empty(0, self._dtype)
        if spans:
            y, w = self._y.joined(spans), self._w.joined(spans)
        return LocalRows(X, y, w, join_ranges(spans))
