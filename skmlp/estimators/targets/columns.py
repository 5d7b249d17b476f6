"""Columns of labels: of one block of 0 and 1, or each with classes of its own.

scikit-learn calls the first multilabel, the second multiclass-multioutput.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.arrays import Array
from skmlp.data.checks import MIXED, check_target, distinct


def are_indicators(columns: Sequence[Array]) -> bool:
    """Whether labels, as an array or by columns, are 0 and 1: those of multilabel."""
    return all(
        column.dtype.kind in "biuf" and ((column == 0) | (column == 1)).all()
        for column in columns
    )


def columns_of(y: Any) -> list[Array]:
    """Each column of labels, by itself: of an array of objects with its own dtype."""
    return [_natural(column) for column in y.T] if y.dtype == object else list(y.T)


def _natural(column: Array) -> Array:
    """Objects that are numbers or booleans as an array of such."""
    check_target(column)
    if any(isinstance(label, str) for label in column):
        if not all(isinstance(label, str) for label in column):
            raise ValueError(MIXED)
        return column
    natural = np.array(column.tolist())
    return natural if natural.dtype.kind in "biuf" else column


def plain(y: Array) -> Array:
    """A table of objects as it is; as integers if all of them are 0 and 1."""
    return y.astype(int) if are_indicators(columns_of(y)) else y


def several(y: Any) -> bool:
    """Whether targets have several columns of classes, and are no multilabel ones."""
    if y.ndim != 2 or y.shape[1] < 2:
        return False
    if sparse.issparse(y):
        return not are_indicators([y.data])
    return not are_indicators(columns_of(y) if y.dtype == object else [y])


def found(y: Any) -> list[Array]:
    """The distinct labels of each column, sorted. ValueError if these are no labels."""
    if sparse.issparse(y):
        raise ValueError(
            "y is a sparse matrix: targets of several columns of classes must be an "
            "array, as y.toarray() is"
        )
    table = y if y.ndim == 2 else y.reshape(-1, 1)
    return natural(columns_of(table))


def natural(columns: Sequence[Array]) -> list[Array]:
    """Distinct labels of columns, some of them objects, as `found` has them."""
    each = [_natural(c) if c.dtype == object else c for c in columns]
    return [distinct(column, "-multioutput") for column in each]


def given(classes: Any) -> list[Array] | None:
    """The labels of each column, sorted, if `partial_fit` was given such; else None."""
    if not isinstance(classes, (list, tuple, np.ndarray)) or not len(classes):
        return None
    if not all(isinstance(one, (list, tuple, range, np.ndarray)) for one in classes):
        return None
    columns = [np.asarray(one) for one in classes]
    if any(column.ndim != 1 or not column.size for column in columns):
        raise ValueError(
            "`classes` of several targets must be a list with an array of shape "
            f"(n_classes,) for each of them, got {classes!r}"
        )
    if any(_are_mixed(one) for one in classes):
        raise ValueError(MIXED)
    return natural(columns)


def _are_mixed(labels: Any) -> bool:
    texts = [isinstance(label, str) for label in labels]
    return any(texts) and not all(texts)


def alike(one: Any, other: Sequence[Array]) -> bool:
    """Whether columns have the same labels."""
    return len(one) == len(other) and all(map(np.array_equal, one, other))
