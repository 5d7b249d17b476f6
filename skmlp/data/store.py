"""The store of a shard: its parts come in any order, and go out as `LocalRows`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.data.checks import (
    HOW_TO_MASK,
    check_finite,
    check_shapes,
    check_target,
    counted,
    known_or_nan,
)
from skmlp.data.files import FileRows
from skmlp.data.frames import as_table, as_values, convert, is_frame
from skmlp.data.partitions import LocalRows, PartStats, training_dtype
from skmlp.data.placement import UNKNOWN, Span, join_ranges
from skmlp.data.sparse_files import SparseFileRows
from skmlp.data.tables import Table

Array = np.ndarray[Any, np.dtype[Any]]


class ShardStore:
    """Takes the parts of one shard, in any order and from several threads.

    Dense rows are converted into one array or file; sparse ones are kept until `rows`
    joins them, letting go of each part as it is copied, or go to files. So no more
    than one part is held twice.

    Parameters
    ----------
    spans : sequence of Span
        The shard's parts, by rising number; of some, the rows may be `UNKNOWN`.
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
        self._spans = {span.part: span for span in spans}
        self._features = features
        self._dtype = np.dtype(dtype)
        self._weighted = weighted
        self._labels = labels
        self._masked = masked
        self._lock = threading.Lock()
        self._known = all(span.rows != UNKNOWN for span in spans)
        self._n_rows = sum(span.rows for span in spans) if self._known else None
        self._table: Table | None = None
        #: Where the rows of each part begin here, as far as that is known.
        self._offsets: dict[int, int] = {}
        at = 0
        for span in spans if self._known else spans[:1]:
            self._offsets[span.part] = at
            at += span.rows
        numbers = [span.part for span in spans]
        self._next = dict(pairwise(numbers))
        #: Dense parts that have come before one that stands before them.
        self._early: dict[int, Array] = {}
        self._sparse: dict[int, Any] = {}
        self._sparse_bytes = 0
        self._sparse_file: SparseFileRows | None = None
        self._y: dict[int, Array] = {}
        self._w: dict[int, Array] = {}
        self._joined: LocalRows | None = None

    def put(self, part: int, X: Any, y: Any, w: Any = None) -> PartStats:
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

        Returns
        -------
        PartStats
            With `problem` set, and the part not kept, if something is wrong.
        """
        span = self._spans[part]
        try:
            X = as_table(X)
            y = as_values(y)
            if self._masked:
                y = known_or_nan(y)
            w = np.ones(len(y)) if w is None else as_values(w)
            w = w if self._weighted else np.empty(0)
            check_shapes(span, self._features, X, y, w if self._weighted else None)
            # A copy: the part may be a view of what Dask frees or uses again.
            kept_w = w.astype(training_dtype(w.dtype), copy=True)
            stats = self._stats(X, y, kept_w)
            self._keep_X(part, X)
        except (TypeError, ValueError) as error:
            return PartStats(
                max(span.rows, 0),
                self._features,
                problem=f"{error} ({self._place(span)})",
            )
        self._y[part] = self._kept_targets(y)
        self._w[part] = kept_w
        return stats

    def _kept_targets(self, y: Array) -> Array:
        """A copy of targets, no wider than it must be.

        Real ones as they are trained on; labels that are integers in fewer bytes, if
        they fit. What the driver has encoded stays as it is.
        """
        if not self._labels:
            return np.array(y, self._dtype if y.dtype.kind == "f" else None)
        if y.dtype.kind in "iu" and y.dtype != np.uint64 and y.size:
            # Signed ones, so that those of all parts together are integers, too.
            for narrow in (np.int8, np.int16, np.int32):
                limits = np.iinfo(narrow)
                if limits.min <= y.min() and y.max() <= limits.max:
                    return y.astype(narrow)
        return np.array(y)

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

    def _keep_X(self, part: int, X: Any) -> None:
        """Convert the rows into their place. ValueError if they are not finite."""
        if np.iscomplexobj(X):
            raise ValueError("Complex data not supported")
        if sparse.issparse(X):
            kept = sparse.csr_array(X).astype(self._dtype, copy=True)
            check_finite(kept.data, "X")
            with self._lock:
                self._keep_sparse(part, kept)
            return
        table = self._room()
        if self._known:
            table.put(self._offsets[part], X)
            return
        with self._lock:
            self._keep_in_turn(table, part, X)

    def _keep_sparse(self, part: int, rows: Any) -> None:
        """Keep a sparse part; in a file if the memory is for others."""
        if self._closed:
            raise ValueError("the fit is over")
        size = rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes
        self._sparse_bytes += size
        if self._sparse_file is None:
            folder = self._folder_for(self._sparse_bytes, True)
            if folder:
                self._sparse_file = SparseFileRows(folder, self._features, self._dtype)
        self._sparse[part] = rows
        if self._sparse_file is not None:
            while self._sparse:
                self._sparse_file.append(*self._sparse.popitem())

    def _room(self) -> Table:
        """Where all dense rows go."""
        with self._lock:
            if self._closed:
                raise ValueError("the fit is over")
            if self._table is None:
                self._table = Table(
                    self._features,
                    self._dtype,
                    self._n_rows,
                    lambda size: self._folder_for(size, not self._known),
                )
            return self._table

    def _keep_in_turn(self, table: Table, part: int, X: Any) -> None:
        """Append a part of unknown length, when all before it have come."""
        if part in self._offsets:
            table.put(self._offsets[part], X)
        else:
            kept = np.empty(X.shape, self._dtype)
            convert(X, kept)
            check_finite(kept, "X")
            self._early[part] = kept
            return
        end = self._offsets[part] + X.shape[0]
        while part in self._next:
            part = self._next[part]
            self._offsets[part] = end
            early = self._early.pop(part, None)
            if early is None:
                return
            table.put(end, early)
            end += len(early)

    @property
    def resident_bytes(self) -> int:
        """What X takes of this process's memory; dense, until a part has come."""
        if self._sparse_bytes:
            return 0 if self._sparse_file is not None else self._sparse_bytes
        if self._table is not None:
            early = sum(part.nbytes for part in list(self._early.values()))
            return self._table.resident_bytes + early
        size = (self._n_rows or 0) * self._features * self._dtype.itemsize
        return 0 if self._folder_for(size, not self._known) else size

    def close(self) -> None:
        """Let go of the file, if there is one. What comes later is refused."""
        with self._lock:
            self._closed = True
            if self._table is not None:
                self._table.close()
            if self._sparse_file is not None:
                self._sparse_file.close()

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
        """Put the parts together, by rising row number."""
        spans = sized(list(self._spans.values()), stats.sizes)
        order = [span.part for span in spans]
        X: Array | FileRows | Any = np.empty((0, self._features), self._dtype)
        if stats.sparse:
            X = self._sparse_file
            if X is None:
                X = self._join_sparse(spans)
            else:
                X.order(order)
        elif self._table is not None:
            X = self._table.rows()
        y = np.empty((0, *stats.y_shape), np.dtype(stats.y_dtype))
        w = np.empty(0, self._dtype)
        if order:
            y = _joined(self._y, order)
            w = _joined(self._w, order)
        return LocalRows(X, y, w, join_ranges(spans))

    def _join_sparse(self, spans: Sequence[Span]) -> Any:
        """One matrix of all sparse parts, which are let go one after the other."""
        nnz = sum(self._sparse[span.part].nnz for span in spans)
        n_rows = sum(span.rows for span in spans)
        index = np.int32 if max(nnz, self._features) < 2**31 else np.int64
        data = np.empty(nnz, self._dtype)
        indices = np.empty(nnz, index)
        indptr = np.zeros(n_rows + 1, index)
        at = filled = 0
        for span in spans:
            part = self._sparse.pop(span.part)
            end = filled + part.nnz
            data[filled:end] = part.data
            indices[filled:end] = part.indices
            indptr[at + 1 : at + span.rows + 1] = part.indptr[1:] + filled
            at, filled = at + span.rows, end
        return sparse.csr_array((data, indices, indptr), shape=(n_rows, self._features))


def _joined(parts: dict[int, Array], order: Sequence[int]) -> Array:
    """One array of all parts, which are let go one after the other."""
    n_rows = sum(len(parts[part]) for part in order)
    dtype = np.result_type(*{parts[part].dtype for part in order})
    whole = np.empty((n_rows, *parts[order[0]].shape[1:]), dtype)
    at = 0
    for number in order:
        part = parts.pop(number)
        whole[at : at + len(part)] = part
        at += len(part)
    return whole


def sized(spans: Sequence[Span], sizes: Sequence[int]) -> list[Span]:
    """Spans with rows that are known by now; parts without rows are left out.

    Parameters
    ----------
    spans : sequence of Span
        As they were before the parts had come.
    sizes : sequence of int
        The rows of each part of the table; not looked at where the spans say them.
    """
    starts = [0, *accumulate(sizes)]
    found = []
    for part, start, rows in spans:
        rows = sizes[part] if rows == UNKNOWN else rows
        if rows:
            found.append(Span(part, starts[part] if start == UNKNOWN else start, rows))
    return found
