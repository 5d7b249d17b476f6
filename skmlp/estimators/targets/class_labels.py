"""Which classes there are: defined by the first rows, compared with those of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy import sparse
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    type_of_target,
    unique_labels,
)

from skmlp.arrays import Array
from skmlp.data.partitions import PartStats
from skmlp.estimators.fitting.fast_checks import binarizer_of
from skmlp.estimators.fitting.inputs import is_dask
from skmlp.estimators.targets import columns as label_columns
from skmlp.estimators.targets.labels import (
    Classes,
    Columns,
    Indicator,
    Labels,
    check_number,
    checked_labels,
)

#: How a call begins: anew, or going on from the fitted model.
Mode = Literal["fit", "warm_start", "partial_fit"]


def target_of(estimator: Any, smoothing: float) -> Labels:
    """The kind of target that a classifier has classes of."""
    classes = estimator.classes_
    if isinstance(classes, list):
        return Columns(classes, smoothing)
    binarizer = estimator._label_binarizer
    multilabel = binarizer.y_type_.startswith("multilabel")
    kind = Indicator if multilabel else Classes
    return kind(binarizer, classes, smoothing)


def n_heads(estimator: Any) -> int:
    """The number of columns of classes; 0 for a model of another kind, or of none."""
    classes = getattr(estimator, "classes_", None)
    return len(classes) if isinstance(classes, list) else 0


def check(
    estimator: Any, X: Any, y: Any, mode: Mode, *, reset: bool
) -> tuple[Any, Array]:
    """Validate rows and labels, define or compare the classes, encode the labels."""
    X, y = checked_labels(estimator, X, y, reset=reset)
    if label_columns.several(y) or (n_heads(estimator) and mode != "fit"):
        _check_columns(estimator, label_columns.found(y), mode)
    else:
        _check_classes(estimator, y, mode)
    return X, estimator._target.encode(y)


def check_stats(estimator: Any, stats: PartStats, mode: Mode) -> None:
    """Define or compare the classes, of labels that lie on workers."""
    columns = [labels for labels, _ in stats.labels]
    one = len(columns) == 1
    natural = columns if one else label_columns.natural(columns)
    several = not one and not label_columns.are_indicators(natural)
    if several or (n_heads(estimator) and mode != "fit"):
        _check_columns(estimator, natural, mode)
    else:
        labels = columns[0] if one else np.indices((2, len(columns)))[0]
        _check_classes(estimator, labels, mode)


def _check_classes(estimator: Any, y: Any, mode: Mode) -> None:
    if mode == "fit" or not hasattr(estimator, "classes_"):
        estimator._label_binarizer = binarizer_of(y)
        estimator.classes_ = estimator._label_binarizer.classes_
        return
    classes = unique_labels(y)
    if mode == "warm_start":
        if set(classes) != set(estimator.classes_):
            raise ValueError(_OTHER_CLASSES.format(estimator.classes_, classes))
    elif len(np.setdiff1d(classes, estimator.classes_, assume_unique=True)):
        raise ValueError(
            "`y` has classes not in `self.classes_`. "
            f"`self.classes_` has {estimator.classes_}. 'y' has {classes}."
        )


def _check_columns(estimator: Any, columns: Sequence[Array], mode: Mode) -> None:
    if mode == "fit" or not hasattr(estimator, "classes_"):
        vars(estimator).pop("_label_binarizer", None)
        estimator.classes_ = list(columns)
        return
    check_number(n_heads(estimator), len(columns))
    known = estimator.classes_
    odd = Columns(known, 0.0).unknown(columns)
    if mode == "warm_start":
        if odd is not None or [*map(len, known)] != [*map(len, columns)]:
            raise ValueError(_OTHER_CLASSES.format(known, columns))
    elif odd is not None:
        j, labels = odd
        raise ValueError(
            "`y` has classes not in `self.classes_`. In column "
            f"{j}, `self.classes_` has {known[j]}. 'y' has {labels}."
        )


_OTHER_CLASSES = (
    "warm_start can only be used where `y` has the same classes as in the previous "
    "call to fit. Previously got {}, `y` has {}"
)


# -- the first call of `partial_fit` ---------------------------------------------------


def define(estimator: Any, y: Any, classes: Any) -> None:
    """Define the classes in the first call of `partial_fit`; compare in later ones.

    `y` is what the caller gave, or the `Parts` of a Dask collection.
    """
    of_columns = None if classes is None else label_columns.given(classes)
    if of_columns is None:
        if classes is not None and n_heads(estimator):
            raise ValueError(_differ(classes, estimator.classes_))
        if not _check_partial_fit_first_call(estimator, classes):
            return
    if is_dask(y):
        # Two rows in its shape: what the labels are, without their values.
        y = np.indices((2, *y.meta.shape[1:]))[0]
    shape = np.shape(y)
    n_columns = shape[1] if len(shape) == 2 else 1
    if of_columns is not None:
        _define_columns(estimator, of_columns, n_columns)
        return
    if n_columns > 1 and not sparse.issparse(y):
        table = np.asarray(y)
        # scikit-learn has no kind for tables of objects.
        if table.dtype.kind in "biuOUS" and label_columns.several(table):
            check_number(0, n_columns)
    multilabel = type_of_target(y).startswith("multilabel")
    if multilabel and not np.array_equal(estimator.classes_, np.arange(n_columns)):
        raise ValueError(
            f"`classes={classes!r}`, but y has {n_columns} columns of 0 and 1, "
            "which are labels that may all apply: their classes are the numbers "
            f"of the columns, range({n_columns}). For several targets, each with "
            "classes of its own, give a list with the labels of each"
        )
    estimator._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)


def _define_columns(estimator: Any, classes: list[Array], n_columns: int) -> None:
    if len(classes) != n_columns:
        raise ValueError(
            f"`classes` has the labels of {len(classes)} targets, but y has "
            f"{n_columns} columns"
        )
    if n_columns == 1:
        raise ValueError(
            "`classes` is a list with the labels of each of several targets, but y has "
            f"one column: give the labels alone, classes={classes[0].tolist()!r}"
        )
    known = getattr(estimator, "classes_", None)
    if known is None:
        estimator.classes_ = classes
    elif not n_heads(estimator) or not label_columns.alike(known, classes):
        raise ValueError(_differ(classes, known))


def _differ(classes: Any, known: Any) -> str:
    return (
        f"`classes={classes!r}` is not the same as on last call to partial_fit, "
        f"was: {known!r}"
    )
