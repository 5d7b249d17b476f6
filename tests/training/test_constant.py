"""The best constant prediction is the one of scikit-learn's dummies, with its loss."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn import metrics
from sklearn.dummy import DummyClassifier, DummyRegressor

from skmlp import MLPClassifier, MLPRegressor
from tests.model.own import Exponential, LogCosh

RNG = np.random.default_rng(11)
N = 60
X = RNG.normal(size=(N, 3))
W = RNG.integers(0, 4, N).astype(float)
#: A network that looks at nothing and never moves: what it predicts are its biases.
STILL = {
    "hidden_layer_sizes": (),
    "coefs_init": None,
    "solver": "sgd",
    "learning_rate_init": 1e-300,
    "max_iter": 1,
    "alpha": 0,
    "output_bias_init": "mean",
    "random_state": 0,
}


def still(cls: type, n_outputs: int, **params: Any) -> Any:
    zeros = [np.zeros((X.shape[1], n_outputs))]
    return cls(**{**STILL, "coefs_init": zeros, **params})


def fit(estimator: Any, y: Any, *w: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X, y, *w)


REAL = 7.0 + 3.0 * RNG.normal(size=N)
COUNTS = RNG.poisson(40.0, N).astype(float)
AMOUNTS = 3000.0 * RNG.gamma(2.0, size=N)

#: Loss, its parameters, targets, scikit-learn's dummy, scikit-learn's loss.
REGRESSION: dict[str, tuple[Any, dict[str, Any], Any, dict[str, Any], Any]] = {
    "squared error": (
        "squared_error",
        {},
        REAL,
        {"strategy": "mean"},
        lambda *a, **k: metrics.mean_squared_error(*a, **k) / 2,
    ),
    "poisson": (
        "poisson",
        {},
        COUNTS,
        {"strategy": "mean"},
        lambda *a, **k: metrics.mean_poisson_deviance(*a, **k) / 2,
    ),
    "gamma": (
        "gamma",
        {"output_bias_init": "auto"},
        AMOUNTS,
        {"strategy": "mean"},
        lambda *a, **k: metrics.mean_gamma_deviance(*a, **k) / 2,
    ),
    "absolute error": (
        "absolute_error",
        {},
        REAL,
        {"strategy": "median"},
        metrics.mean_absolute_error,
    ),
    "quantile": (
        "quantile",
        {"quantile": 0.85},
        REAL,
        {"strategy": "quantile", "quantile": 0.85},
        lambda *a, **k: metrics.mean_pinball_loss(*a, alpha=0.85, **k),
    ),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", REGRESSION)
def test_real_targets(name, weighted):
    loss, params, y, dummy, loss_of = REGRESSION[name]
    w = [W] if weighted else []
    weights = {"sample_weight": W} if weighted else {}
    model = fit(still(MLPRegressor, 1, loss=loss, **params), y, *w)
    expected = DummyRegressor(**dummy).fit(X, y, *w).predict(X)
    # Between two rows each number is a median; the losses tell.
    loss_there = loss_of(y, expected, **weights)
    assert_allclose(loss_of(y, model.predict(X), **weights), loss_there, rtol=1e-9)
    assert_allclose(model.loss_, loss_there, rtol=1e-9)
    if dummy["strategy"] == "mean":
        assert_allclose(model.predict(X), expected, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_classes(classes, weighted):
    y = RNG.integers(0, classes, N) + 3
    w = [W] if weighted else []
    model = fit(still(MLPClassifier, classes if classes > 2 else 1), y, *w)
    prior = DummyClassifier(strategy="prior").fit(X, y, *w)
    assert_allclose(model.predict_proba(X), prior.predict_proba(X), rtol=1e-9)
    expected = metrics.log_loss(
        y, prior.predict_proba(X), sample_weight=W if weighted else None
    )
    assert_allclose(model.loss_, expected, rtol=1e-9)


def test_several_targets_are_each_by_themselves():
    Y = np.c_[REAL, COUNTS]
    assert_allclose(fit(still(MLPRegressor, 2), Y).predict(X)[0], Y.mean(axis=0))
    labels = (RNG.random((N, 3)) < [0.1, 0.5, 0.8]).astype(int)
    model = fit(still(MLPClassifier, 3), labels, W)
    assert_allclose(model.predict_proba(X)[0], np.average(labels, axis=0, weights=W))
    heads = np.c_[RNG.integers(0, 3, N), RNG.integers(2, 4, N)]
    shares = fit(still(MLPClassifier, 5), heads).predict_proba(X)
    for share, column in zip(shares, heads.T, strict=True):
        assert_allclose(share[0], np.unique(column, return_counts=True)[1] / N)


def test_several_quantiles():
    levels = [0.1, 0.5, 0.9]
    model = still(MLPRegressor, 3, loss="quantile", quantile=levels)
    predicted = fit(model, REAL, W).predict(X)
    pinball = [
        metrics.mean_pinball_loss(REAL, p, sample_weight=W, alpha=q)
        for p, q in zip(predicted.T, levels, strict=True)
    ]
    best = [
        metrics.mean_pinball_loss(
            REAL,
            DummyRegressor(strategy="quantile", quantile=q).fit(X, REAL, W).predict(X),
            sample_weight=W,
            alpha=q,
        )
        for q in levels
    ]
    assert_allclose(pinball, best, rtol=1e-9)
    assert_allclose(model.loss_, np.mean(best), rtol=1e-9)


def _name(loss):
    return loss if isinstance(loss, str) else type(loss).__name__


@pytest.mark.parametrize("loss", ["huber", LogCosh(), Exponential()], ids=_name)
def test_no_other_constant_is_better(loss):
    """Where scikit-learn has no dummy."""
    y = AMOUNTS / 1000
    best = fit(still(MLPRegressor, 1, loss=loss), y, W)
    for shift in (-1e-3, 1e-3):
        bias = [best.intercepts_[0] + shift]
        other = fit(still(MLPRegressor, 1, loss=loss, intercepts_init=bias), y, W)
        assert_allclose(other.intercepts_[0], bias[0])  # what is given comes first
        assert other.loss_ > best.loss_


def test_missing_targets_do_not_count():
    Y = np.c_[REAL, COUNTS, REAL]
    Y[RNG.random(Y.shape) < 0.3] = np.nan
    Y[:, 2] = np.nan
    drawn, set_at_mean = (
        fit(still(MLPRegressor, 3, missing_targets="mask", output_bias_init=how), Y)
        for how in ("auto", "mean")
    )
    assert_allclose(set_at_mean.predict(X)[0, :2], np.nanmean(Y[:, :2], axis=0))
    # Nothing is known of the last one.
    assert set_at_mean.intercepts_[0][2] == drawn.intercepts_[0][2]


def test_rows_that_are_set_aside_do_not_count():
    y = np.where(np.arange(N) < N // 2, 1.0, 3.0)
    model = fit(still(MLPRegressor, 1, early_stopping=True, validation_fraction=0.5), y)
    used = fit(still(MLPRegressor, 1), y)
    assert used.predict(X)[0] == pytest.approx(2.0)
    assert model.predict(X)[0] != pytest.approx(2.0)


def test_what_has_no_number_is_drawn_or_bounded():
    # No count at all, and a class that the first piece lacks.
    zeros = fit(still(MLPRegressor, 1, loss="poisson"), np.zeros(N))
    assert np.abs(zeros.intercepts_[0]).max() < 5
    model = still(MLPClassifier, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.partial_fit(X, np.arange(N) % 2, classes=[0, 1, 2])
    share = model.predict_proba(X)[0, 2]
    assert 0.3 / N < share < 1 / N


def test_only_the_first_call_sets_the_biases():
    model = still(MLPRegressor, 1, loss="gamma", warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.partial_fit(X[:9], AMOUNTS[:9])
        first = model.intercepts_[0].copy()
        model.partial_fit(X, AMOUNTS)
        model.fit(X, AMOUNTS)
    assert_allclose(first, np.log(AMOUNTS[:9].mean()))
    assert_allclose(model.intercepts_[0], first)


def test_the_draws_after_the_biases_stay_the_same():
    params = {"hidden_layer_sizes": 4, "random_state": 1, "max_iter": 1}
    params |= {"learning_rate_init": 1e-300, "solver": "sgd"}
    auto, mean = (
        fit(MLPRegressor(output_bias_init=how, **params), REAL)
        for how in ("auto", "mean")
    )
    for one, other in zip(auto.coefs_, mean.coefs_, strict=True):
        assert_allclose(one, other, rtol=1e-15)
    assert_allclose(auto.intercepts_[0], mean.intercepts_[0])
    assert_allclose(mean.intercepts_[1], REAL.mean())
