"""Checks of plain arrays, without those of scikit-learn that could find nothing there.

scikit-learn asks of all input whether it is a data frame, a sparse matrix, a list or an
array of some other library, several times over: for a small array this takes longer
than the network does. What is a NumPy array of finite floats needs none of it; all else
goes to scikit-learn, and so does all that is wrong: its errors are the ones raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import validate_data

from skmlp.arrays import Array
from skmlp.data.checks import sum_of_squares
from skmlp.estimators import suggestions
from skmlp.estimators.advice.quality import check_scale
from skmlp.estimators.fitting.inputs import dispatched

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def checked_pair(
    estimator: Any, X: Any, y: Any, *, reset: bool, **options: Any
) -> tuple[Any, Any]:
    """Validate X and y for training, as scikit-learn's `validate_data` does.

    `options` are its own, beyond those that all networks have in common.
    """
    squares = None
    if _is_table(X) and X.flags.c_contiguous:
        # Of finite values it is finite, but for overflow.
        squares = sum_of_squares(X)
        if (
            np.isfinite(squares)
            and _is_plain_target(y, len(X))
            and _fits(estimator, X, reset)
        ):
            if reset:
                check_scale(estimator, X, squares)
            return X, y
    with suggestions.columns_named(X):
        X, y = validate_data(
            estimator,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=float_dtypes(X),
            order="C",
            reset=reset,
            **options,
        )
    if reset:
        check_scale(estimator, X, squares)
    return X, y


def checked_rows(estimator: Any, X: Any) -> tuple[Any, Callable[[], Any] | None]:
    """Validate rows to predict, as scikit-learn's `validate_data` does.

    What raises if they are not finite comes beside them, where that is left to do.
    """
    if _is_table(X) and _fits(estimator, X, False):
        return X, lambda: _is_finite(X) or _validated(estimator, X)
    return _validated(estimator, X), None


def _validated(estimator: Any, X: Any) -> Any:
    with suggestions.columns_named(X):
        rows = validate_data(estimator, X, accept_sparse=["csr", "csc"], reset=False)
        # Texts in a frame of polars have come through.
        texts = isinstance(rows, np.ndarray) and rows.dtype.kind == "O"
        return rows.astype(np.float64) if texts else rows


def float_dtypes(X: Any) -> Sequence[Any]:
    """The dtypes that X may have; all others become the first of them."""
    arrays = dispatched(X)
    return (np.float64, np.float32) if arrays is None else arrays.float_dtypes()


def _is_table(X: Any) -> bool:
    is_matrix = type(X) is np.ndarray and X.ndim == 2
    return is_matrix and X.dtype in _FLOATS and X.size > 0


def _is_plain_target(y: Any, n_rows: int) -> bool:
    if type(y) is not np.ndarray or y.shape != (n_rows,):
        return False
    kind = y.dtype.kind
    return kind in "iub" or (kind == "f" and _is_finite(y))


def _is_finite(array: Array) -> bool:
    """Whether all values surely are: their sum is. One that overflows says nothing."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum()))


def _fits(estimator: Any, X: Any, reset: bool) -> bool:
    """Note the features if `reset`; else whether there is nothing to say of them."""
    known = vars(estimator)
    if reset:
        estimator.n_features_in_ = X.shape[1]
        known.pop("feature_names_in_", None)
        return True
    return (
        "feature_names_in_" not in known and known.get("n_features_in_") == (X.shape[1])
    )


def binarizer_of(y: Any) -> LabelBinarizer:
    """A `LabelBinarizer` fitted to validated labels, of shape (n,) or (n, n_labels)."""
    binarizer = LabelBinarizer()
    if y.ndim > 1 or y.dtype.kind not in "iub":
        return binarizer.fit(y)
    classes = np.unique(y)
    if 2 * len(classes) > len(y):
        # Perhaps these are no classes: scikit-learn warns of it.
        return binarizer.fit(y)
    binarizer.y_type_ = "multiclass" if len(classes) > 2 else "binary"
    binarizer.sparse_input_ = False
    binarizer.classes_ = classes
    return binarizer
