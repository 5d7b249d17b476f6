"""Real targets: their checks, those that are missing, and scores of the known ones."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from sklearn.utils import assert_all_finite, check_array, check_consistent_length
from sklearn.utils.validation import (
    _check_sample_weight,
    column_or_1d,
    validate_data,
)

from skmlp import metrics
from skmlp.data.checks import HOW_TO_MASK, NOTHING_KNOWN
from skmlp.data.targets import encode
from skmlp.estimators import _losses
from skmlp.estimators._plain import checked_pair

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


def masked(estimator):
    """Whether targets may be missing: a classifier's never are."""
    return getattr(estimator, "missing_targets", "error") == "mask"


def check(estimator, X, y, *, reset):
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


def _without_name(settings):
    return {key: value for key, value in settings.items() if key != "input_name"}


def table(y):
    """Targets of which some may be missing, as floats of shape (rows, n_targets)."""
    return encode("real", None, check_array(y, **_Y), np.float64)


def score(estimator, y, raw, sample_weight):
    """R2 of the known targets.

    Parameters
    ----------
    estimator : MLPRegressor
        Says what the loss is.
    y : ndarray of shape (rows, n_outputs)
        The truth; NaN where it is not known.
    raw : ndarray of shape (rows, n_outputs)
        Predictions.
    sample_weight : array-like of shape (rows,) or None
        Weights.

    Returns
    -------
    float
        The mean over those outputs that have known targets.
    """
    check_consistent_length(y, raw, sample_weight)
    w = np.empty(0)
    if sample_weight is not None:
        w = _check_sample_weight(sample_weight, y, dtype=np.float64)
    if np.isnan(y).all():
        raise ValueError(NOTHING_KNOWN)
    if estimator._loss_name() == "quantiles":
        known = ~np.isnan(y[:, 0])
        w = w[known] if w.size else None
        levels = _losses.levels(estimator)
        return _losses.score_quantiles(levels, y[known], raw[known], w)
    if y.shape[1] != raw.shape[1]:
        raise ValueError(
            "y_true and y_pred have different number of output "
            f"({y.shape[1]}!={raw.shape[1]})"
        )
    loss, n_outputs = estimator._loss_name(), y.shape[1]
    sums, spreads = np.zeros(2 * n_outputs), np.zeros(n_outputs)
    parts = np.zeros(metrics.n_parts(loss, n_outputs))
    metrics.mean_parts(y, w, sums, masked=True)
    metrics.spread_parts(y, w, metrics.means(sums), spreads, masked=True)
    metrics.score_parts(loss, raw, y, w, parts, masked=True)
    if np.isnan(spreads).all():
        raise ValueError(f"{NOTHING_KNOWN[:-1]}, or has no weight.")
    return metrics.score(loss, parts, spreads, masked=True)
