"""What is known of the parts of a distributed table, and what a shard makes of them.

A *part* is a block of successive rows: a chunk of a Dask array, a partition of a data
frame, or a piece of an array of the driver. `PartStats` is all that the driver gets to
see of a part; `ShardData` are the rows of a shard, see `skmlp.data.store.shard_store`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.data.checks import MIXED, largest
from skmlp.data.targets import are_texts


@dataclass(frozen=True)
class PartStats:
    """What is known of a part, or of several together (`merge`).

    Attributes
    ----------
    rows, features : int
        The shape of X.
    sparse : bool
        Whether X is a sparse matrix.
    columns : tuple of str
        Their names, if X is a data frame.
    weight_sum : float
        Of the rows; their number without weights.
    y_shape : tuple of int
        Shape of the target of one row: () or (n_outputs,).
    y_dtype : str
        Of the target.
    y_min : float
        The least target; NaN for labels.
    labels : tuple of (ndarray, ndarray)
        For each column of labels, the distinct ones and how many rows have them; empty
        for real targets.
    problem : str
        What is wrong with the part, as a sentence for the user; "" if nothing is.
    x_bytes : int
        What X takes as it is kept, in the training dtype.
    unscaled : dict from int to float
        See `skmlp.data.checks.unscaled`; of several parts together, the largest.
    """

    rows: int
    features: int
    sparse: bool = False
    columns: tuple[str, ...] = ()
    weight_sum: float = 0.0
    y_shape: tuple[int, ...] = ()
    y_dtype: str = "float64"
    y_min: float = math.nan
    labels: tuple[tuple[Array, Array], ...] = ()
    problem: str = ""
    x_bytes: int = 0
    unscaled: Mapping[int, float] = field(default_factory=dict)

    @property
    def classes(self) -> Array | None:
        """The distinct labels, sorted; None for real targets or several columns."""
        return self.labels[0][0] if len(self.labels) == 1 else None


@dataclass(frozen=True)
class ShardData:
    """The rows of one shard, as its rank gets them.

    Attributes
    ----------
    X : ndarray, FileMatrix, csr_array of shape (n, n_features)
        In the training dtype; C-contiguous if dense.
    y : ndarray of shape (n,) or (n, n_outputs)
        Targets or labels, as they came.
    w : ndarray of shape (n,) or (0,)
        Weights, float32 or float64; empty if there are none.
    ranges : tuple of (int, int)
        First number among all rows, and count, of each run of successive rows. The
        runs follow each other in `X` in this order; those for training come first.
    """

    X: Any
    y: Array
    w: Array
    ranges: tuple[tuple[int, int], ...]


def training_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype that is trained in: float32 is kept, all others become float64."""
    return np.dtype(np.float32 if dtype == np.float32 else np.float64)


def merge(parts: Sequence[PartStats]) -> PartStats:
    """What is known of several parts together: at least one, by rising row number.

    `problem` is the first one that a part has, or that the parts don't fit together.
    """
    # Of what has no rows, the types say nothing.
    full = [part for part in parts if part.rows] or parts[:1]
    first = full[0]
    problems = [part.problem for part in parts if part.problem]
    if not problems:
        problems = _differences(full)
    labels = [] if problems else [part.labels for part in full]
    return PartStats(
        rows=sum(part.rows for part in parts),
        features=first.features,
        sparse=first.sparse,
        columns=next((part.columns for part in full if part.columns), ()),
        weight_sum=math.fsum(part.weight_sum for part in parts),
        y_shape=first.y_shape,
        y_dtype=first.y_dtype,
        y_min=min(part.y_min for part in full),
        labels=tuple(_added(column) for column in zip(*labels, strict=True)),
        problem=problems[0] if problems else "",
        x_bytes=sum(part.x_bytes for part in parts),
        unscaled=largest(part.unscaled for part in parts),
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
    if len({part.columns for part in parts if part.columns}) > 1:
        found.append("The partitions of X differ in their columns, or in their order")
    if len({part.y_shape for part in parts}) > 1:
        found.append("The chunks of y differ in their number of columns")
    texts = {tuple(are_texts(labels) for labels, _ in part.labels) for part in parts}
    if not found and len(texts) > 1:
        found.append(MIXED)
    return found
