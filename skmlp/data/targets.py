"""From labels to what the losses take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skmlp.arrays import Array

#: Labels that are encoded at once.
PIECE = 2**16


def encode(
    target: str, classes: Array | Sequence[Array] | None, y: Array, dtype: Any
) -> Array:
    """Targets in the form that a loss takes: see `skmlp.model.losses.Loss`.

    `y` has the shape (rows,) or (rows, n_outputs); `classes` are the sorted labels, for
    "heads" those of each column. "codes": the index of each label, int32 (rows,).
    "heads": the index of each label among those of its column, or -1, int32 (rows,
    columns). "indicator": uint8 (rows, n_outputs); a binary target's one column says
    whether the label is the second one. "real": `dtype` (rows, n_outputs).
    """
    if target == "real":
        columns = y if y.ndim == 2 else y.reshape(-1, 1)
        return np.ascontiguousarray(columns, dtype=dtype)
    assert classes is not None
    if target == "heads":
        codes = [_codes(*pair) for pair in zip(classes, y.T, strict=True)]
        return np.ascontiguousarray(np.column_stack(codes), np.int32)
    assert isinstance(classes, np.ndarray)
    if target == "codes":
        y = y.ravel()
        found = np.empty(len(y), np.int32)
        # In pieces: on the way a code takes 8 bytes, and so may a label.
        for at in range(0, len(y), PIECE):
            found[at : at + PIECE] = np.searchsorted(classes, y[at : at + PIECE])
        return found
    if y.ndim == 2 and y.shape[1] > 1:
        return np.asarray(y != 0, np.uint8)
    if len(classes) < 2:
        return np.zeros((len(y), 1), np.uint8)
    return np.asarray(y.reshape(-1, 1) == classes[-1], np.uint8)


def are_texts(labels: Array) -> bool:
    """Whether labels, which are all alike, are strings."""
    if labels.dtype.kind == "O":
        return bool(labels.size) and isinstance(labels.flat[0], str)
    return labels.dtype.kind in "US"


def _codes(labels: Array, column: Array) -> Array:
    """The index of each label of a column; -1 where it is none."""
    if are_texts(labels) != are_texts(column):
        # To numpy, the number 1 and the text "1" can be alike.
        return np.full(len(column), -1)
    places = np.minimum(np.searchsorted(labels, column), len(labels) - 1)
    return np.where(labels[places] == column, places, -1)


def class_weights_of(weights: Sequence[Array], y: Array) -> Array:
    """The weight that the class of each row gives it, (rows,): a product over columns.

    `weights` are those of the classes of each column of `y`, which `encode` has made of
    labels. As `sklearn.utils.class_weight` has it.
    """
    rows = np.ones(len(y))
    columns = y.T if y.ndim == 2 else y[None]
    for of_class, column in zip(weights, columns, strict=True):
        rows *= of_class[column]
    return rows
