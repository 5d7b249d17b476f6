"""The store of a shard: pieces of partitions come in any order, and go out as rows."""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from skmlp.arrays import Array
from skmlp.data.checks import (
    HOW_TO_MASK,
    check_finite,
    check_shapes,
    check_target,
    checked_rows,
    counted,
    known_or_nan,
    largest,
)
from skmlp.data.frames import (
    as_table,
    as_values,
    convert,
    in_order,
    is_frame,
    rows_of,
)
from skmlp.data.partitions import PartStats, ShardData, training_dtype
from skmlp.data.store.file_matrix import PIECE_BYTES, FileMatrix


class Piece(NamedTuple):
    """Successive rows of a partition, all of which go to one shard.

    `start` is the number of the first one among all rows of the fit, `skipped` how many
    of the partition are before it, and `of` how many the partition has. `place` tells
    the user which partition it is.
    """

    start: int
    rows: int
    skipped: int
    of: int
    place: str


def cut_out(
    piece: Piece, features: int, names: Sequence[Any], X: Any, y: Any, w: Any
) -> tuple[Any, Array, Array | None]:
    """The rows of a piece, out of its partition; ValueError if that is none.

    `names` are the columns that X and y have if they are frames, in their order.
    """
    X = in_order(as_table(X), names[0], "X")
    y = as_values(in_order(y, names[1], "y"))
    w = None if w is None else as_values(w)
    check_shapes(piece.of, features, X, y, w)
    if piece.rows == piece.of:
        return X, y, w
    X = sparse.csr_array(X) if sparse.issparse(X) else X
    start, stop = piece.skipped, piece.skipped + piece.rows
    return rows_of(X, start, stop), y[start:stop], None if w is None else w[start:stop]


class ShardStore:
    """Takes the rows of one shard, in any order and from several threads.

    Dense rows are converted into one array or file. Sparse ones are kept until `rows`
    joins them, letting go of each piece as it is copied. So no more than one piece is
    held twice.

    Parameters
    ----------
    ranges : sequence of (int, int)
        First number among all rows of the fit, and count, of each run of the shard's
        successive rows, rising.
    features : int
        Columns of X.
    dtype : dtype
        The training dtype.
    weighted, labels, masked : bool
        Whether the rows have weights; whether the targets are labels of classes;
        whether real targets may be missing, as NaN.
    folder : str
        Where dense rows are kept in a file; "" for the memory.
    has_room : callable
        Whether the worker has memory for so many bytes of sparse rows.
    """

    def __init__(
        self,
        ranges: Sequence[tuple[int, int]],
        features: int,
        dtype: Any,
        weighted: bool = False,
        labels: bool = False,
        masked: bool = False,
        folder: str = "",
        has_room: Callable[[int], bool] = lambda size: True,
    ) -> None:
        self._ranges = tuple((start, n) for start, n in ranges)
        self._places = [0, *accumulate(n for _, n in self._ranges)]
        self._shape = self._places[-1], features
        self._dtype = np.dtype(dtype)
        self._weighted, self._labels, self._masked = weighted, labels, masked
        self._folder, self._has_room = folder, has_room
        self._lock = threading.Lock()
        self._closed = False
        self._dense: Array | FileMatrix | None = None
        #: By the number of the first row.
        self._sparse: dict[int, Any] = {}
        self._sparse_bytes = 0
        self._y: dict[int, Array] = {}
        self._w: dict[int, Array] = {}
        self._joined: ShardData | None = None

    def put(self, piece: Piece, X: Any, y: Any, w: Any) -> PartStats:
        """Convert and keep rows, as `cut_out` gives them.

        Of rows without weights, while others have some, each counts 1. If something is
        wrong with them they are not kept: see `PartStats.problem`.
        """
        try:
            if self._masked:
                y = known_or_nan(y)
            if not self._weighted:
                w = np.empty(0)
            elif w is None:
                w = np.ones(len(y))
            # A copy: it may be a view of what Dask frees or uses again.
            w = w.astype(training_dtype(w.dtype), copy=True)
            stats = self._stats(X, y, w)
            if np.iscomplexobj(X):
                raise ValueError("Complex data not supported")
            put = self._put_sparse if sparse.issparse(X) else self._put_dense
            n_bytes, unscaled = put(piece.start, X)
        except (TypeError, ValueError) as error:
            problem = f"{error} ({piece.place})"
            return PartStats(piece.rows, self._shape[1], problem=problem)
        self._y[piece.start], self._w[piece.start] = self._kept_targets(y), w
        return replace(stats, x_bytes=n_bytes, unscaled=unscaled)

    def _kept_targets(self, y: Array) -> Array:
        """A copy of targets, no wider than it must be.

        Real ones as they are trained on; labels that are integers in fewer bytes, if
        they fit. What the driver has encoded stays as it is.
        """
        if not self._labels:
            return np.array(y, self._dtype if y.dtype.kind == "f" else None)
        return narrowed(y)

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
            y_shape=y.shape[1:],
            y_dtype=y.dtype.str,
            y_min=y_min,
            labels=labels,
        )

    def _put_dense(self, start: int, X: Any) -> tuple[int, dict[int, float]]:
        """Convert rows into their place; tell their bytes and unscaled columns."""
        run = bisect_right(self._ranges, start, key=lambda run: run[0]) - 1
        place = self._places[run] + start - self._ranges[run][0]
        with self._lock:
            self._check_open()
            if self._dense is None and self._folder:
                self._dense = FileMatrix(self._folder, self._shape, self._dtype)
            elif self._dense is None:
                self._dense = np.empty(self._shape, self._dtype)
            dense = self._dense
        n_rows, row_bytes = X.shape[0], self._shape[1] * self._dtype.itemsize
        if isinstance(dense, np.ndarray):
            out = dense[place : place + n_rows]
            convert(X, out)
            return n_rows * row_bytes, checked_rows(out, X)
        found, step = [], max(1, PIECE_BYTES // max(1, row_bytes))
        for at in range(0, n_rows, step):
            some = rows_of(X, at, at + step)
            out = np.empty((len(some), self._shape[1]), self._dtype)
            convert(some, out)
            found.append(checked_rows(out, X))
            dense.write(place + at, out)
        return n_rows * row_bytes, largest(found)

    def _put_sparse(self, start: int, X: Any) -> tuple[int, dict[int, float]]:
        """Convert and keep rows; tell their bytes and unscaled columns.

        MemoryError if they are too many for the worker.
        """
        # A copy: it may be a view of what Dask frees or uses again.
        rows = sparse.csr_array(X).astype(self._dtype, copy=True)
        found = checked_rows(rows)
        with self._lock:
            self._check_open()
            size = self._sparse_bytes + _size(rows)
            if not self._has_room(size):
                raise MemoryError(
                    f"a shard has {size / 2**20:.0f} MiB or more of sparse rows, for "
                    "which its Dask worker has no memory: all rows may take half of "
                    "its memory_limit, and only dense ones can be kept on its disk. "
                    "Use more workers, or give them a larger memory_limit"
                )
            self._sparse[start], self._sparse_bytes = rows, size
        return _size(rows), found

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the fit is over")

    @property
    def resident_bytes(self) -> int:
        """What X takes of this process's memory; dense, until a piece has come."""
        if self._sparse_bytes:
            return self._sparse_bytes
        n_rows, features = self._shape
        return 0 if self._folder else n_rows * features * self._dtype.itemsize

    def close(self) -> None:
        """Let go of the file, if there is one. What comes later is refused."""
        with self._lock:
            self._closed = True
            if isinstance(self._dense, FileMatrix):
                self._dense.close()

    def rows(self, stats: PartStats) -> ShardData:
        """What the shard holds, when all pieces have come.

        `stats` are of all shards together: an empty shard looks like the others.
        """
        with self._lock:
            if self._joined is None:
                X: Any = self._dense
                if X is None:
                    X = np.empty((0, self._shape[1]), self._dtype)
                if stats.sparse:
                    X = sparse.csr_array(X) if not self._sparse else self._whole()
                y = np.empty((0, *stats.y_shape), np.dtype(stats.y_dtype))
                w = np.empty(0, self._dtype)
                if self._y:
                    y, w = _joined(self._y), _joined(self._w)
                self._joined = ShardData(X, y, w, self._ranges)
            return self._joined

    def _whole(self) -> Any:
        """One sparse matrix of all pieces, which are let go one after the other."""
        n_rows, features = self._shape
        nnz = sum(rows.nnz for rows in self._sparse.values())
        index = np.int32 if max(nnz, features) < 2**31 else np.int64
        data = np.empty(nnz, self._dtype)
        indices = np.empty(nnz, index)
        indptr = np.zeros(n_rows + 1, index)
        at = filled = 0
        for start in sorted(self._sparse):
            rows = self._sparse.pop(start)
            end, stop = filled + rows.nnz, at + rows.shape[0]
            data[filled:end] = rows.data
            indices[filled:end] = rows.indices
            indptr[at + 1 : stop + 1] = rows.indptr[1:] + filled
            at, filled = stop, end
        return sparse.csr_array((data, indices, indptr), shape=self._shape)


def _joined(pieces: dict[int, Array]) -> Array:
    """One array of pieces by first row, which are let go one after the other."""
    dtype = np.result_type(*{piece.dtype for piece in pieces.values()})
    n_rows = sum(map(len, pieces.values()))
    whole = np.empty((n_rows, *next(iter(pieces.values())).shape[1:]), dtype)
    end = 0
    for start in sorted(pieces):
        values = pieces.pop(start)
        whole[end : end + len(values)] = values
        end += len(values)
    return whole


def _size(rows: Any) -> int:
    """The bytes of a CSR matrix."""
    return int(rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes)


def narrowed(labels: Array) -> Array:
    """A copy of labels; of integers in fewer bytes, if they fit."""
    if labels.dtype.kind in "iu" and labels.dtype != np.uint64 and labels.size:
        # Signed ones, so that those of all pieces together are integers, too.
        for narrow in (np.int8, np.int16, np.int32):
            limits = np.iinfo(narrow)
            if limits.min <= labels.min() and labels.max() <= limits.max:
                return labels.astype(narrow)
    return np.array(labels)
