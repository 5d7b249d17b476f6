"""Losses of regressors: their checks, and a scorer of quantiles."""

from __future__ import annotations

from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skmlp.display.inside import networks
from skmlp.estimators.targets.real import as_levels, d2_of_quantiles
from skmlp.model.losses import METHOD, OUTPUTS


def check(estimator: Any) -> None:
    """ValueError, with the cure, if a parameter can't be what it says."""
    if not hasattr(estimator, "quantile"):
        return
    found = as_levels(estimator.quantile)
    if not found or not all(isinstance(q, Real) and 0 < float(q) < 1 for q in found):
        raise ValueError(
            "quantile must be a number between 0 and 1, or several of them, got "
            f"{estimator.quantile!r}"
        )
    if any(above <= below for below, above in pairwise(found)):
        raise ValueError(
            f"the quantiles must rise, got {estimator.quantile!r}: the columns of "
            "predict follow them"
        )
    if not isinstance(estimator.loss, str):
        check_loss(estimator.loss)
        if estimator.missing_targets == "mask":
            check_loss_with_gaps(estimator.loss)


def check_loss(loss: Any) -> None:
    """ValueError unless an object does as `skmlp.model.losses.kernel_of` says."""
    kind = type(loss).__name__
    output = getattr(loss, "out_activation", "identity")
    if output not in OUTPUTS:
        raise ValueError(
            f"{kind}.out_activation is {output!r}, it must be one of "
            f"{', '.join(OUTPUTS)}"
        )
    y = np.linspace(0.5, 1.5, 6).reshape(3, 2)
    raw = np.linspace(-1.0, 1.0, 6).reshape(3, 2)
    given = y.copy(), raw.copy()
    found = getattr(loss, METHOD)(*given)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"{kind}.{METHOD} must return a tuple of two arrays")
    for what, array in zip(("loss", "gradient"), found, strict=True):
        if np.shape(array) != raw.shape or np.asarray(array).dtype.kind != "f":
            raise ValueError(
                f"{kind}.{METHOD} must return the {what} of each number: an array of "
                f"real numbers of the shape of its arguments, {raw.shape}; its shape "
                f"is {np.shape(array)}"
            )
    if not (np.array_equal(given[0], y) and np.array_equal(given[1], raw)):
        raise ValueError(f"{kind}.{METHOD} must leave its arguments as they were")


def check_loss_with_gaps(loss: Any) -> None:
    """ValueError unless a missing target leaves an object's other numbers alone."""
    kind = type(loss).__name__
    y = np.array([[0.5, np.nan], [1.5, 1.0], [0.7, 0.9]])
    raw = np.linspace(-1.0, 1.0, 6).reshape(3, 2)
    with np.errstate(all="ignore"):
        found = getattr(loss, METHOD)(y.copy(), raw.copy())
    if not all(np.isfinite(array[~np.isnan(y)]).all() for array in found):
        raise ValueError(
            f"{kind}.{METHOD} must give each number by itself for "
            "missing_targets='mask': with NaN for one target, the loss or the gradient "
            "of another one is not finite"
        )


def d2_pinball_scorer(
    estimator: Any, X: Any, y: Any, sample_weight: Any = None
) -> float:
    """Score predicted quantiles by the mean of their D2, behind any estimator.

    `MLPRegressor.score` does so for several quantiles, and searches and pipelines call
    it. `TransformedTargetRegressor` and others compute R2 of one column; there, hand
    this function to ``scoring`` or call it.

    Parameters
    ----------
    estimator : MLPRegressor or an estimator around such networks
        Fitted with ``loss="quantile"``; the quantiles are those of the networks.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        The rows.
    y : array-like of shape (n_samples,)
        The truth.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights.

    Returns
    -------
    float
        The mean over the quantiles of `sklearn.metrics.d2_pinball_score`.

    Raises
    ------
    NotFittedError
        The estimator is not fitted.
    ValueError
        It holds no network for quantiles, or networks for different ones.

    Examples
    --------
    >>> from sklearn.compose import TransformedTargetRegressor
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skmlp import MLPRegressor, d2_pinball_scorer
    >>> X, y = load_diabetes(return_X_y=True)
    >>> network = MLPRegressor("quantile", quantile=[0.1, 0.9], random_state=0)
    >>> reg = TransformedTargetRegressor(network, transformer=StandardScaler())
    >>> d2_pinball_scorer(reg.fit(X, y), X, y) > 0.1
    True
    """
    inner = networks(estimator)
    if not inner:
        check_is_fitted(estimator)
    found = {
        as_levels(network.quantile)
        for network in inner.values()
        if getattr(network, "loss", None) == "quantile"
    }
    if len(found) != 1:
        raise ValueError(
            f"this {type(estimator).__name__} must hold networks with loss='quantile' "
            f"and one and the same quantile, found {sorted(found) or 'none'}"
        )
    predictions = np.asarray(estimator.predict(X))
    return d2_of_quantiles(
        found.pop(), y, predictions.reshape(len(predictions), -1), sample_weight
    )
