"""Targets of several columns of classes: the output layer has a softmax head for each.

scikit-learn calls them multiclass-multioutput. Fitted to such, a classifier has a list
of arrays as `classes_`, as scikit-learn's trees have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from skmlp.data.checks import MIXED, check_target, distinct
from skmlp.data.targets import are_texts, encode
from skmlp.model.layout import Array


def widths(estimator: Any) -> tuple[int, ...]:
    """The number of columns of each head, a tuple; () for a model without heads."""
    classes = getattr(estimator, "classes_", None)
    return tuple(map(len, classes)) if isinstance(classes, list) else ()


# -- labels, before they are trained on ------------------------------------------------


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
    return [distinct(column, "-multioutput") for column in columns_of(table)]


def natural(columns: Sequence[Array]) -> list[Array]:
    """Distinct labels of columns, some of them objects, as `found` has them."""
    natural = [_natural(c) if c.dtype == object else c for c in columns]
    return [distinct(column, "-multioutput") for column in natural]


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


def first_call(estimator: Any, classes: list[Array], n_columns: int) -> None:
    """Define the classes in the first call of `partial_fit`, or compare with them."""
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
    elif not widths(estimator) or not _alike(known, classes):
        raise ValueError(
            f"`classes={classes!r}` is not the same as on last call to partial_fit, "
            f"was: {known!r}"
        )


def _alike(one: Sequence[Array], other: Sequence[Array]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def check_number(estimator: Any, n_columns: int) -> None:
    """ValueError unless targets have as many columns as the model has heads."""
    n_heads = len(widths(estimator))
    if n_columns == n_heads:
        return
    if not n_heads:
        raise ValueError(
            f"y has {n_columns} columns of classes, but this model was begun with "
            "targets of another kind. For several targets, the first call of "
            "partial_fit takes a list with the labels of each as `classes`"
        )
    raise ValueError(
        f"y has {n_columns} column(s), but this model was begun with {n_heads} columns "
        "of classes"
    )


def check_one_block(estimator: Any, y: Any) -> None:
    """ValueError if targets have several columns of classes; others are not looked at.

    scikit-learn has no kind for tables of objects.
    """
    if y.dtype.kind in "biuOUS" and several(y):
        check_number(estimator, y.shape[1])


def unknown(estimator: Any, columns: Sequence[Array]) -> tuple[int, Array] | None:
    """The first column with labels that the model does not know: number and labels."""
    for j, (known, labels) in enumerate(zip(estimator.classes_, columns, strict=True)):
        odd = labels[encode("heads", [known], labels[:, None], None)[:, 0] < 0]
        if odd.size:
            return j, odd
    return None


def check_classes(
    estimator: Any, columns: Sequence[Array], *, incremental: bool
) -> None:
    """Define `classes_`, or compare the labels of each column with them.

    `columns` has the distinct labels of each.
    """
    if not hasattr(estimator, "classes_") or not (estimator.warm_start or incremental):
        vars(estimator).pop("_label_binarizer", None)
        estimator.classes_ = list(columns)
        return
    check_number(estimator, len(columns))
    odd = unknown(estimator, columns)
    if estimator.warm_start and not incremental:
        if odd is not None or widths(estimator) != tuple(map(len, columns)):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in "
                f"the previous call to fit. Previously got {estimator.classes_}, `y` "
                f"has {columns}"
            )
    elif odd is not None:
        j, labels = odd
        raise ValueError(
            "`y` has classes not in `self.classes_`. In column "
            f"{j}, `self.classes_` has {estimator.classes_[j]}. 'y' has {labels}."
        )


def check_known(estimator: Any, columns: Sequence[Array]) -> None:
    """ValueError if validation targets have labels that the training rows have not."""
    check_number(estimator, len(columns))
    odd = unknown(estimator, columns)
    if odd is not None:
        j, labels = odd
        raise ValueError(
            f"y_val has labels that y has not: {labels} in column {j}, where y has "
            f"{estimator.classes_[j]}"
        )


def check_scoring(estimator: Any) -> None:
    """ValueError if scikit-learn's scorers are asked to score several targets."""
    if widths(estimator):
        raise ValueError(
            f"scoring={estimator.scoring!r}: scikit-learn's scorers take no targets of "
            "several columns of classes. None scores by the share of rows with all "
            "labels right, 'loss' by the validation loss; a function "
            "scorer(estimator, X, y) may do as it likes"
        )


# -- predictions -----------------------------------------------------------------------


def dtype_of(classes: Any) -> np.dtype[Any]:
    """The dtype of labels of several columns together."""
    kinds = {"U" if are_texts(c) else "b" if c.dtype == bool else "n" for c in classes}
    # Numbers and texts would become texts, and booleans numbers.
    return np.dtype(object) if len(kinds) > 1 else np.result_type(*classes)


def decode(estimator: Any, codes: Array) -> Array:
    """Labels from the index of each.

    Parameters
    ----------
    estimator : MLPClassifier
        With heads.
    codes : ndarray of shape (n, n_heads), integer

    Returns
    -------
    ndarray of shape (n, n_heads)
    """
    classes = estimator.classes_
    labels = np.empty(codes.shape, dtype_of(classes))
    for j, known in enumerate(classes):
        labels[:, j] = known.take(codes[:, j])
    return labels


def blocks(raw: Array, heads: Sequence[int]) -> list[Any]:
    """The columns of each head, side by side in arrays of numpy or Dask."""
    ends = np.cumsum(heads)
    return [raw[:, end - n : end] for n, end in zip(heads, ends, strict=True)]
