"""Pure functions on the parts of a distributed table; the cluster is not seen here.

A *part* is a block of successive rows: a chunk of a Dask array, or a piece of an array
of the driver. `ShardStore` takes the parts of one shard, each converted once into one
array, and hands them out as `LocalRows`. `PartStats` is all that the driver gets to
see of a part.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.data.checks import (
    MIXED,
    check_finite,
    check_shapes,
    check_target,
    counted,
    distinct,
)
from skmlp.data.files import PIECE, FileRows
from skmlp.data.placement import Span, join_ranges

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class PartStats:
    """What is known of a part, or of several together (`merge`).

    Attributes
    ----------
    rows, features : int
        The shape of X.
    sparse : bool
        Whether X is a sparse matrix.
    weight_sum, weight_min : float
        Sum and minimum of the weights; the number of rows and 1 without weights.
    y_shape : tuple of int
        Shape of the target of one row: () or (n_outputs,).
    y_dtype : str
        Of the target.
    y_min : float
        The least target; NaN for labels.
    classes : ndarray of shape (n_classes,), or None
        The distinct labels, sorted; None for real targets.
    labels : tuple of (ndarray, ndarray)
        For each column of labels, the distinct ones and how many rows have them; empty
        for real targets.
    problem : str
        What is wrong with the part, as a sentence for the user; "" if nothing is.
    """

    rows: int
    features: int
    sparse: bool = False
    weight_sum: float = 0.0
    weight_min: float = math.inf
    y_shape: tuple[int, ...] = ()
    y_dtype: str = "float64"
    y_min: float = math.nan
    classes: Array | None = None
    labels: tuple[tuple[Array, Array], ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class LocalRows:
    """The rows of one shard, as its rank gets them.

    Attributes
    ----------
    X : ndarray, FileRows or csr_array of shape (n, n_features)
        In the training dtype; C-contiguous if dense.
    y : ndarray of shape (n,) or (n, n_outputs)
        Targets or labels, as they came.
    w : ndarray of shape (n,) or (0,)
        Weights, float32 or float64; empty if there are none.
    ranges : tuple of (int, int)
        First number among all rows, and count, of each run of successive rows, in
        rising order. The runs follow each other in `X` in this order.
    """

    X: Any
    y: Array
    w: Array
    ranges: tuple[tuple[int, int], ...]


def training_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype that is trained in: float32 is kept, all others become float64."""
    return np.dtype(np.float32 if dtype == np.float32 else np.float64)


class ShardStore:
    """Takes the parts of one shard, in any order and from several threads.

    Dense rows are written into one array or file, made at the first part; sparse ones
    are kept until `rows` joins them, letting go of each part as it is copied. So no
    more than one part is held twice.

    Parameters
    ----------
    spans : sequence of Span
        The shard's parts, by rising `start`.
    features : int
        Columns of X.
    dtype : dtype
        The training dtype.
    weighted : bool
        Whether the rows have weights.
    labels : bool
        Whether the targets are labels of classes.
    folder : str, optional
        Where dense rows are kept in a file; by default they are kept in memory.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        features: int,
        dtype: Any,
        weighted: bool,
        labels: bool,
        folder: str = "",
    ) -> None:
        self._folder = folder
        self._closed = False
        self._spans = {span.part: span for span in spans}
        self._features = features
        self._dtype = np.dtype(dtype)
        self._weighted = weighted
        self._labels = labels
        self._lock = threading.Lock()
        offsets = np.cumsum([0, *(span.rows for span in spans)])
        self._n_rows = int(offsets[-1])
        self._offsets = {
            span.part: int(at) for span, at in zip(spans, offsets, strict=False)
        }
        self._dense: Array | FileRows | None = None
        self._sparse: dict[int, Any] = {}
        self._y: dict[int, Array] = {}
        self._w: dict[int, Array] = {}
        self._joined: LocalRows | None = None

    def put(self, part: int, X: Any, y: Any, w: Any = None) -> PartStats:
        """Convert and keep one part.

        Parameters
        ----------
        part : int
            Its number, one of those in the spans.
        X : array-like or sparse matrix of shape (n, features)
            Its rows.
        y : array-like of shape (n,) or (n, n_outputs)
            Targets or labels.
        w : array-like of shape (n,), optional
            Weights.

        Returns
        -------
        PartStats
            With `problem` set, and the part not kept, if something is wrong.
        """
        span = self._spans[part]
        try:
            X = X if sparse.issparse(X) else np.asarray(X)
            y = np.asarray(y)
            w = np.asarray(w) if self._weighted else np.empty(0)
            check_shapes(span, self._features, X, y, w if self._weighted else None)
            kept_w = w.astype(training_dtype(w.dtype), copy=True)
            stats = self._stats(X, y, kept_w)
            self._keep_X(span, X)
        except (TypeError, ValueError) as error:
            return PartStats(
                span.rows,
                self._features,
                problem=f"{error} (chunk {part}: rows {span.start} to "
                f"{span.start + span.rows - 1})",
            )
        # Copies: the part may be a view of a buffer that Dask frees or uses again.
        self._y[part] = np.array(y)
        self._w[part] = kept_w
        return stats

    def _stats(self, X: Any, y: Array, w: Array) -> PartStats:
        """Look at y and w. ValueError if something is wrong with them."""
        check_finite(w, "sample_weight")
        check_target(y)
        classes, y_min = None, math.nan
        labels: tuple[tuple[Array, Array], ...] = ()
        if self._labels:
            classes, labels = distinct(y), counted(y)
        else:
            y_min = float(np.asarray(y, np.float64).min())
        weighted = self._weighted
        return PartStats(
            rows=X.shape[0],
            features=X.shape[1],
            sparse=sparse.issparse(X),
            weight_sum=float(w.sum(dtype=np.float64)) if weighted else X.shape[0],
            weight_min=float(w.min()) if weighted else 1.0,
            y_shape=y.shape[1:],
            y_dtype=y.dtype.str,
            y_min=y_min,
            classes=classes,
            labels=labels,
        )

    def _keep_X(self, span: Span, X: Any) -> None:
        """Convert the rows into their place. ValueError if they are not finite."""
        if np.iscomplexobj(X):
            raise ValueError("Complex data not supported")
        if sparse.issparse(X):
            kept = sparse.csr_array(X).astype(self._dtype, copy=True)
            check_finite(kept.data, "X")
            self._sparse[span.part] = kept
            return
        dense = self._room()
        at = self._offsets[span.part]
        if isinstance(dense, FileRows):
            self._write(dense, at, X)
            return
        place = dense[at : at + span.rows]
        with np.errstate(all="ignore"):  # what overflows float32 is found right below
            np.copyto(place, X, casting="unsafe")
        check_finite(place, "X")

    def _room(self) -> Array | FileRows:
        """Where all dense rows go."""
        shape = (self._n_rows, self._features)
        with self._lock:
            if self._closed:
                raise ValueError("the fit is over")
            if self._dense is None and self._folder:
                self._dense = FileRows(self._folder, shape, self._dtype)
            elif self._dense is None:
                self._dense = np.empty(shape, self._dtype)
            return self._dense

    def _write(self, file: FileRows, at: int, X: Array) -> None:
        """Convert rows piece by piece into a file. ValueError if not finite."""
        step = max(1, PIECE // max(1, self._features * self._dtype.itemsize))
        for start in range(0, len(X), step):
            piece = np.asarray(X[start : start + step])
            with np.errstate(all="ignore"):
                piece = piece.astype(self._dtype, order="C", copy=False)
            check_finite(piece, "X")
            file.write(at + start, piece)

    @property
    def resident_bytes(self) -> int:
        """What X takes of this process's memory if it is dense: when it has come."""
        if self._folder:
            return 0
        return int(self._n_rows * self._features * self._dtype.itemsize)

    def close(self) -> None:
        """Let go of the file, if there is one. What comes later is refused."""
        with self._lock:
            self._closed = True
            if isinstance(self._dense, FileRows):
                self._dense.close()

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
        order = sorted(self._offsets, key=lambda part: self._offsets[part])
        X: Any = self._dense
        if stats.sparse:
            X = self._join_sparse(order)
        elif X is None:
            X = np.empty((0, self._features), self._dtype)
        y = np.empty((0, *stats.y_shape), np.dtype(stats.y_dtype))
        w = np.empty(0, self._dtype)
        if order:
            y = np.concatenate([self._y.pop(part) for part in order])
            w = np.concatenate([self._w.pop(part) for part in order])
        ranges = join_ranges([self._spans[part] for part in order])
        return LocalRows(X, y, w, ranges)

    def _join_sparse(self, order: Sequence[int]) -> Any:
        """One matrix of all sparse parts, which are let go one after the other."""
        nnz = sum(part.nnz for part in self._sparse.values())
        index = np.int32 if max(nnz, self._features) < 2**31 else np.int64
        data = np.empty(nnz, self._dtype)
        indices = np.empty(nnz, index)
        indptr = np.zeros(self._n_rows + 1, index)
        filled = 0
        for number in order:
            part = self._sparse.pop(number)
            at, end = self._offsets[number], filled + part.nnz
            data[filled:end] = part.data
            indices[filled:end] = part.indices
            indptr[at + 1 : at + part.shape[0] + 1] = part.indptr[1:] + filled
            filled = end
        shape = (self._n_rows, self._features)
        return sparse.csr_array((data, indices, indptr), shape=shape)


def _are_texts(labels: Array | None) -> bool:
    """Whether labels are strings; all are alike."""
    return labels is not None and all(isinstance(one, str) for one in labels[:1].flat)


def merge(parts: Sequence[PartStats]) -> PartStats:
    """What is known of several parts together.

    Parameters
    ----------
    parts : sequence of PartStats
        At least one, by rising row number: the first problem counts.

    Returns
    -------
    PartStats
        With `problem` set if a part has one, or if the parts don't fit together.
    """
    first = parts[0]
    classes = None
    problems = [part.problem for part in parts if part.problem]
    if not problems:
        problems = _differences(parts)
    if not problems and first.classes is not None:
        classes = np.unique(np.concatenate([part.classes for part in parts]))
    labels = [] if classes is None else [part.labels for part in parts]
    return PartStats(
        rows=sum(part.rows for part in parts),
        features=first.features,
        sparse=first.sparse,
        weight_sum=math.fsum(part.weight_sum for part in parts),
        weight_min=min(part.weight_min for part in parts),
        y_shape=first.y_shape,
        y_dtype=first.y_dtype,
        y_min=min(part.y_min for part in parts),
        classes=classes,
        labels=tuple(_added(column) for column in zip(*labels, strict=True)),
        problem=problems[0] if problems else "",
    )


def _added(counts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The distinct labels of a column of several parts, and their counts."""
    every = np.concatenate([labels for labels, _ in counts])
    classes, places = np.unique(every, return_inverse=True)
    weights = np.concatenate([numbers for _, numbers in counts])
    return classes, np.bincount(places, weights, len(classes)).astype(np.int64)


def _differences(parts: Sequence[PartStats]) -> list[str]:
    """What keeps sound parts from going together."""
    found = []
    if len({part.sparse for part in parts}) > 1:
        found.append("Some chunks of X are sparse matrices and others are arrays")
    if len({part.y_shape for part in parts}) > 1:
        found.append("The chunks of y differ in their number of columns")
    if len({_are_texts(part.classes) for part in parts}) > 1:
        found.append(MIXED)
    return found
