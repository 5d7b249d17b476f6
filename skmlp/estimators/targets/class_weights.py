"""`class_weight`: the weights of classes become weights of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from skmlp.arrays import Array
from skmlp.data.partitions import PartStats
from skmlp.data.targets import class_weights_of

NOT_BALANCED = (
    "class_weight='balanced' is not supported by partial_fit: the rows of one call do "
    "not tell how often each class comes. Estimate the weights from a sample, with "
    "sklearn.utils.class_weight.compute_class_weight('balanced', classes=classes, "
    "y=y), and pass them as class_weight={label: weight}."
)


def check(class_weight: Any, incremental: bool) -> None:
    """Refuse what needs to see all rows where they come piece by piece."""
    each = class_weight if isinstance(class_weight, list) else [class_weight]
    if incremental and any(isinstance(one, str) for one in each):
        raise ValueError(NOT_BALANCED)
    known = None, "balanced"
    odd = [w for w in each if w not in known and not isinstance(w, dict)]
    if odd:
        raise ValueError(
            "class_weight must be a dict {label: weight}, 'balanced', None, or a list "
            f"with one of these for each column of y; got {odd[0]!r}"
        )


def tables(
    class_weight: Any, columns: Sequence[Array], counts: Sequence[Array]
) -> tuple[Array, ...]:
    """Weights of the classes of each column, as `compute_sample_weight` has them.

    `columns` has the labels of each, sorted; `counts`, how many rows have each label.
    """
    if isinstance(class_weight, str):
        return tuple(_balanced(np.asarray(of_column)) for of_column in counts)
    several = len(columns) > 1
    if several or isinstance(class_weight, list):
        # Its number of elements is looked at there, and whether it is a list.
        one: dict[Any, float] = {}
        empty = [one] * len(class_weight) if isinstance(class_weight, list) else one
        compute_sample_weight(empty, np.indices((2, len(columns)))[0])
    each = class_weight if several else [class_weight]
    return tuple(
        _balanced(np.asarray(of_column))
        if isinstance(weights, str)
        else compute_class_weight(weights, classes=labels, y=labels).astype(np.float64)
        for weights, labels, of_column in zip(each, columns, counts, strict=True)
    )


def _balanced(counts: Array) -> Array:
    present = counts > 0
    weights = np.ones(len(counts))
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def weighted(
    class_weight: Any, labels: Sequence[Array], y: Array, w: Array, like: Array
) -> Array:
    """Weights of rows with encoded targets, times those of their classes.

    The classes are counted in `like`; an empty `w` stands for equal weights.
    """
    columns = like.reshape(len(like), -1).T
    counts = [
        np.bincount(column, minlength=len(known))
        for column, known in zip(columns, labels, strict=True)
    ]
    rows = class_weights_of(tables(class_weight, labels, counts), y)
    return w * rows if w.size else rows


def on_workers(
    class_weight: Any, labels: Sequence[Array], stats: PartStats
) -> tuple[Array, ...]:
    """The tables for ranks that encode their own rows, from what is known of these."""
    counts = []
    for known, (found, numbers) in zip(labels, stats.labels, strict=True):
        of_column = np.zeros(len(known), np.int64)
        of_column[np.searchsorted(known, found)] = numbers
        counts.append(of_column)
    return tables(class_weight, labels, counts)
