"""Steps in runs are the steps one by one: the same model from one compiled call."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning

from skmlp import MLPClassifier, MLPRegressor, config_context, testing

RNG = np.random.default_rng(0)
X = RNG.normal(size=(230, 7))
CODES = (X[:, 0] + X[:, 1] > 0).astype(int) + (X[:, 2] > 0.5)
VALUES = np.column_stack([X[:, 0] * X[:, 1], np.abs(X[:, 2])])
WEIGHTS = RNG.uniform(0.5, 2, 230)

CLASSES = {"kind": MLPClassifier, "y": CODES}
REAL = {"kind": MLPRegressor, "y": VALUES}
CASES = {
    **{f"{name}": dict(CLASSES, activation=name) for name in testing.ACTIVATIONS},
    **{name: dict(CLASSES, solver=name) for name in testing.SOLVERS},
    "no hidden layer": dict(CLASSES, hidden_layer_sizes=()),
    "binary": dict(CLASSES, y=CODES > 0),
    "multilabel": dict(CLASSES, y=(VALUES > 0.3).astype(int)),
    "poisson": dict(REAL, y=VALUES[:, 1], loss="poisson"),
    "absolute_error": dict(REAL, loss="absolute_error"),
    "one wide layer": dict(REAL, hidden_layer_sizes=(40,), activation="tanh"),
    "weights": dict(CLASSES, sample_weight=WEIGHTS),
    "weighted values": dict(REAL, sample_weight=WEIGHTS),
    "as they are": dict(CLASSES, shuffle=False),
    "schedule": dict(CLASSES, solver="sgd", learning_rate="cosine"),
    "adaptive": dict(CLASSES, solver="sgd", learning_rate="adaptive", tol=0.1),
    "plain momentum": dict(CLASSES, solver="sgd", nesterovs_momentum=False),
    "decay": dict(CLASSES, solver="adamw", weight_decay=0.1),
    "early stopping": dict(REAL, early_stopping=True),
    "a batch of all": dict(CLASSES, batch_size=230),
    "a batch of one": dict(CLASSES, batch_size=1),
}


@pytest.fixture
def runs():
    """The epochs that were one compiled call, so far."""
    with testing.fused_epochs() as seen:
        yield seen


def fitted(kind, y, dtype="float64", sample_weight=None, rows=X, **parameters):
    parameters = {"hidden_layer_sizes": (9, 6), "batch_size": 32, **parameters}
    model = kind(max_iter=6, random_state=0, **parameters)
    if dtype == "float32" and kind is MLPRegressor:
        y = y.astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(rows.astype(dtype), y, sample_weight=sample_weight)


def same(one, other, dtype):
    rtol = 1e-9 if dtype == "float64" else 2e-3
    assert one.n_iter_ == other.n_iter_
    for mine, its in zip(
        [*one.coefs_, *one.intercepts_],
        [*other.coefs_, *other.intercepts_],
        strict=True,
    ):
        assert mine.dtype == its.dtype == dtype
        assert_allclose(mine, its, rtol=rtol, atol=rtol / 10)
    assert_allclose(one.loss_curve_, other.loss_curve_, rtol=rtol)
    norms = [[record["gradient_norm"] for record in m.history_] for m in (one, other)]
    assert_allclose(*norms, rtol=max(rtol, 1e-6), atol=rtol)


@pytest.mark.parametrize("n_lanes", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_the_same_model(name, dtype, n_lanes, runs):
    with testing.step_threads(n_lanes):
        together = fitted(dtype=dtype, **CASES[name])
    assert len(runs) == together.n_iter_
    with testing.step_by_step():
        apart = fitted(dtype=dtype, **CASES[name])
    assert len(runs) == together.n_iter_
    same(together, apart, dtype)


@testing.settings(exact_order_rows=10, order_window_rows=70)
def test_rows_in_windows(runs):
    """Where there are too many rows for an order as a whole, a chunk ends sooner."""
    with testing.step_threads(2):
        together = fitted(**CLASSES)
    assert runs
    with testing.step_by_step():
        same(together, fitted(**CLASSES), "float64")


def test_rows_that_may_not_be_written(runs):
    rows = X.copy()
    rows.flags.writeable = False
    y = CODES.copy()
    y.flags.writeable = False
    frozen = fitted(MLPClassifier, y, rows=rows, shuffle=False)
    same(frozen, fitted(**CLASSES, shuffle=False), "float64")
    assert runs


def test_the_reference_goes_one_by_one(runs):
    with config_context(kernels="reference"):
        model = fitted(**CLASSES)
    assert not runs
    same(model, fitted(**CLASSES), "float64")


def test_a_run_that_diverges_is_noticed(runs):
    model = MLPRegressor(
        hidden_layer_sizes=(9, 6),
        solver="sgd",
        learning_rate_init=1e6,
        momentum=0.0,
        random_state=0,
    )
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(X, VALUES)
    assert runs
