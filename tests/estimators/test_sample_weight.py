"""Sample weights, the penalty and the loss of several outputs.

Rows 1, 2, 3 and 20 of the table "Differences from scikit-learn".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.linear_model import Ridge

from skmlp import MLPClassifier, MLPRegressor

SOLVERS = ["sgd", "adam", "lbfgs"]
RNG = np.random.default_rng(12)
ROWS = 60
X = RNG.normal(size=(ROWS, 5))
RAW = np.tanh(X @ RNG.normal(size=(5, 3)))
Y_REAL, Y_TWO, Y_CLASS = RAW[:, 0], RAW[:, :2], RAW.argmax(axis=1)
Y_LABELS, Y_COUNT = (RAW > 0).astype(int), RNG.poisson(2, ROWS)


def assert_same_weights(one: Any, two: Any, rtol: float = 1e-7) -> None:
    pairs = zip(one.coefs_ + one.intercepts_, two.coefs_ + two.intercepts_, strict=True)
    for mine, other in pairs:
        assert_allclose(mine, other, rtol=rtol, atol=1e-10)


# ---- Row 1: the loss of several outputs


def test_01_lbfgs_finds_the_minimum_for_several_outputs():
    """Without hidden layers the problem is ridge regression, solved in closed form."""
    alpha = 3.0
    ridge = Ridge(alpha=alpha).fit(X, Y_TWO)
    mlp = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", alpha=alpha, tol=1e-9)
    mlp.fit(X, Y_TWO)
    assert_allclose(mlp.coefs_[0], ridge.coef_.T, atol=1e-5)
    assert_allclose(mlp.intercepts_[0], ridge.intercept_, atol=1e-5)


@pytest.mark.filterwarnings("ignore::skmlp.UnusedParameterWarning")
@pytest.mark.parametrize("solver", SOLVERS)
def test_01_the_reported_loss_is_the_mean_over_outputs(solver):
    mlp = MLPRegressor(
        hidden_layer_sizes=5,
        solver=solver,
        alpha=0.3,
        # So small a rate that the weights stand still while the epoch is averaged.
        learning_rate_init=1e-13,
        max_iter=2,
    )
    mlp.fit(X, Y_TWO)
    squares = sum((W**2).sum() for W in mlp.coefs_)
    data = 0.5 * np.mean((mlp.predict(X) - Y_TWO) ** 2)
    assert_allclose(mlp.loss_, data + 0.5 * 0.3 * squares / ROWS, rtol=1e-9)


# ---- Rows 2, 3 and 20: sample weights, and the penalty


def sgd_by_hand(W, b, X, y, w, *, batch, rate, alpha):
    """One epoch of plain gradient steps on a linear model, rows in their order."""
    mean_weight = w.mean()
    W, b = W.copy(), b.copy()
    for start in range(0, len(X), batch):
        part = slice(start, start + batch)
        rows = X[part]
        delta = w[part, None] * (rows @ W + b - y[part, None])
        divisor = len(rows) * mean_weight
        W, b = (
            W - rate * (rows.T @ delta + alpha * W) / divisor,
            b - rate * delta.sum(axis=0) / divisor,
        )
    return W, b


def linear_sgd(**params: Any) -> Any:
    return MLPRegressor(
        **{
            "hidden_layer_sizes": (),
            "solver": "sgd",
            "momentum": 0,
            "shuffle": False,
            "learning_rate_init": 0.05,
            "random_state": 0,
            **params,
        }
    )


WEIGHTS = {
    "drawn": RNG.uniform(0.2, 4.0, ROWS),
    "most are 0": (np.arange(ROWS) % 7 == 0) * 2.0,
    "whole batches of 0": np.where(np.arange(ROWS) < 20, 0.0, 1.5),
    "some are negative": RNG.uniform(-0.5, 2.0, ROWS),
}


@pytest.mark.parametrize("batch", [1, 4, 25, ROWS])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_02_a_minibatch_is_divided_by_its_expected_weight(weights, batch):
    """Row 3, too: a minibatch of zero weights changes nothing but the penalty."""
    w, alpha = WEIGHTS[weights], 0.7
    mlp = linear_sgd(batch_size=batch, alpha=alpha)
    start = clone(mlp).set_params(learning_rate_init=1e-300).partial_fit(X, Y_REAL)
    mlp.partial_fit(X, Y_REAL, sample_weight=w)
    W, b = sgd_by_hand(
        *(start.coefs_[0], start.intercepts_[0], X, Y_REAL, w),
        batch=batch,
        rate=0.05,
        alpha=alpha,
    )
    assert_allclose(mlp.coefs_[0], W, rtol=1e-10)
    assert_allclose(mlp.intercepts_[0], b, rtol=1e-10)


@pytest.mark.parametrize("weights", ["drawn", "most are 0", "whole batches of 0"])
def test_02_the_reported_loss_is_the_weighted_one(weights):
    w = WEIGHTS[weights]
    mlp = linear_sgd(batch_size=4, alpha=0, learning_rate_init=1e-14)
    mlp.partial_fit(X, Y_REAL, sample_weight=w)
    errors = (mlp.predict(X) - Y_REAL) ** 2
    assert_allclose(mlp.loss_, 0.5 * np.average(errors, weights=w), rtol=1e-9)


TARGETS = [
    (MLPClassifier, {}, Y_CLASS),
    (MLPClassifier, {}, Y_LABELS),
    (MLPRegressor, {}, Y_TWO),
    (MLPRegressor, {"loss": "poisson"}, Y_COUNT),
]


@pytest.mark.filterwarnings("ignore::skmlp.UnusedParameterWarning")
@pytest.mark.parametrize(("Estimator", "params", "y"), TARGETS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_02_weight_k_is_the_row_k_times(solver, Estimator, params, y):
    """In a full batch and with L-BFGS to the last bits but for rounding."""
    k = np.arange(ROWS) % 4
    params = {**params, "alpha": 0.5, "learning_rate_init": 0.02, "max_iter": 15}
    mlp = Estimator(hidden_layer_sizes=6, solver=solver, random_state=0, **params)
    weighted = clone(mlp).fit(X, y, sample_weight=k)
    repeated = clone(mlp).fit(np.repeat(X, k, axis=0), np.repeat(y, k, axis=0))
    assert_same_weights(weighted, repeated, rtol=1e-6)
    assert_allclose(weighted.loss_, repeated.loss_, rtol=1e-8)


def test_02_in_minibatches_weights_and_rows_agree_in_expectation():
    """Averaged over an epoch of tiny steps, the data gradient of a step is the same."""
    k = 1 + np.arange(ROWS) % 3
    steps = []
    for rows, targets, w in [
        (X, Y_REAL, k),
        (np.repeat(X, k, axis=0), np.repeat(Y_REAL, k), None),
    ]:
        mlp = linear_sgd(batch_size=5, alpha=0, learning_rate_init=1e-7)
        start = clone(mlp).set_params(learning_rate_init=1e-300)
        before = start.partial_fit(rows, targets).coefs_[0]
        after = mlp.partial_fit(rows, targets, sample_weight=w).coefs_[0]
        steps.append((after - before) / (len(rows) / 5))
    assert_allclose(steps[0], steps[1], rtol=1e-4)


def test_03_a_batch_of_zero_weights_alone():
    w = np.where(np.arange(ROWS) < 50, 0.0, 1.0)
    mlp = MLPClassifier(batch_size=1, max_iter=3, random_state=0)
    mlp.fit(X, Y_CLASS, sample_weight=w)
    assert np.isfinite(mlp.loss_curve_).all()


def test_20_alpha_is_divided_by_the_batch_size():
    """With nothing to learn, each step shrinks the weights by rate * alpha / rows."""
    mlp = linear_sgd(batch_size=10, alpha=2.0, learning_rate_init=0.1)
    zeros = np.zeros((ROWS, 5))
    start = clone(mlp).set_params(learning_rate_init=1e-300).partial_fit(zeros, Y_REAL)
    mlp.partial_fit(zeros, Y_REAL)
    assert_allclose(mlp.coefs_[0], start.coefs_[0] * (1 - 0.1 * 2.0 / 10) ** 6)
