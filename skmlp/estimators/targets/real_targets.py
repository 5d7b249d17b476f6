"""Real targets: their checks, those that are missing, and scores of the known ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import assert_all_finite, check_array, check_consistent_length
from sklearn.utils.validation import (
    _check_sample_weight,
    column_or_1d,
    validate_data,
)

from skmlp.data.checks import HOW_TO_MASK, NOTHING_KNOWN
from skmlp.data.targets import encode
from skmlp.estimators.advice.quality import check_scale
from skmlp.estimators.fitting.fast_checks import checked_pair
from skmlp.model.layout import Array

_X = {
    "accept_sparse": ["csr", "csc"],
    "dtype": (np.float64, np.float32),
    "order": "C",
}
_Y = {
    "dtype": (np.float64, np.float32),
    "ensure_2d": False,
    "ensure_all_finite": "allow-nan",
    "input_name": "y",
}


def masked(estimator: Any) -> bool:
    """Whether targets may be missing: a classifier's never are."""
    return getattr(estimator, "missing_targets", "error") == "mask"


def check(estimator: Any, X: Any, y: Any, *, reset: bool) -> tuple[Any, Array]:
    """Validate rows and real targets; see `BaseMLP._check_targets`."""
    if sparse.issparse(y):
        # In scikit-learn's words, of its other regressors.
        raise TypeError(
            "Sparse data was passed for y, but dense data is required. Use "
            "'.toarray()' to convert to a dense numpy array."
        )
    if masked(estimator):
        X, y = validate_data(
            estimator, X, y, validate_separately=(_X, _without_name(_Y)), reset=reset
        )
        check_consistent_length(X, y)
        if reset:
            check_scale(estimator, X)
        smallest = np.fmin.reduce(y, axis=None, initial=np.inf)
        if smallest == np.inf:
            raise ValueError(NOTHING_KNOWN)
    else:
        try:
            X, y = checked_pair(estimator, X, y, reset=reset, y_numeric=True)
            # Targets of dtype object become numbers after scikit-learn's check of them.
            if y.dtype.kind == "f":
                assert_all_finite(y, input_name="y")
        except ValueError as error:
            if "y contains NaN" not in str(error):
                raise
            raise ValueError(f"{error} {HOW_TO_MASK}") from None
        if y.dtype.kind not in "fiub":
            raise ValueError(f"y must hold real numbers, but its dtype is {y.dtype}")
        smallest = y.min()
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    estimator._check_range(smallest)
    return X, encode("real", None, y, X.dtype)


def _without_name(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "input_name"}


def table(y: Any) -> Array:
    """Targets of which some may be missing, as floats of shape (rows, n_targets)."""
    return encode("real", None, check_array(y, **_Y), np.float64)


def plain_table(y: Any, masked: bool) -> Array:
    """Targets as `table` has them, float32 as it is; if `masked`, NaN may be there."""
    settings = {**_Y, "ensure_all_finite": "allow-nan" if masked else True}
    table: Array = check_array(y, **settings)
    return table.reshape(-1, 1) if table.ndim == 1 else table


def known(y: Any, raw: Array, sample_weight: Any) -> tuple[Array, Array, Any]:
    """The known ones of single targets, with their predictions and weights or None."""
    check_consistent_length(y, raw, sample_weight)
    y = plain_table(y, masked=True)[:, 0]
    rows = np.flatnonzero(~np.isnan(y))
    if not rows.size:
        raise ValueError(NOTHING_KNOWN)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(sample_weight, y, dtype=np.float64)[rows]
    return y[rows], raw[rows], sample_weight
