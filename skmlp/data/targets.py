"""From labels to what the losses take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Labels that are encoded at once.
PIECE = 2**16


def encode(
    target: str, classes: Array | Sequence[Array] | None, y: Array, dtype: Any
) -> Array:
    """Targets in the form that a loss takes.

    Parameters
    ----------
    target : {"codes", "indicator", "heads", "real"}
        See `skmlp.model.losses.Loss`.
    classes : ndarray of shape (n_classes,), sequence of such, or None
        The labels, sorted; for classes only. For "heads" those of each column.
    y : ndarray of shape (rows,) or (rows, n_outputs)
        Labels, a 0/1 matrix or real numbers.
    dtype : dtype or None
        Of real targets.

    Returns
    -------
    ndarray of shape (rows,), int32
        For "codes": the index of each label.
    ndarray of shape (rows, n_columns), int32
        For "heads": the index of each label among those of its column; -1 for a label
        that is not one of them.
    ndarray of shape (rows, n_outputs), uint8 or `dtype`
        For "indicator" and "real". A binary target's one column says whether the label
        is the second one.
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
    """The weight that the class of each row gives it.

    Parameters
    ----------
    weights : sequence of ndarray of shape (n_classes,)
        For each column of targets, the weights of its classes.
    y : ndarray of shape (rows,) or (rows, n_columns)
        What `encode` makes of labels.

    Returns
    -------
    ndarray of shape (rows,), float64
        The product over the columns, as `sklearn.utils.class_weight` has it.
    """
    rows = np.ones(len(y))
    columns = y.T if y.ndim == 2 else y[None]
    for of_class, column in zip(weights, columns, strict=True):
        rows *= of_class[column]
    return rows
