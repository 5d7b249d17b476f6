"""Validation rows, scores, the validation loss, time limits and epochs of pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import train_test_split

import skmlp
from skmlp import MLPClassifier, MLPRegressor
from tests.estimators.attempts import (
    CLASSES,
    ESTIMATORS,
    KWARGS,
    W,
    X,
    Y,
    attempt,
    make,
)
from tests.laws.twins import TASKS, data_of

STOP: dict[str, Any] = {
    "early_stopping": True,
    "n_iter_no_change": 2,
    "max_iter": 12,
    "hidden_layer_sizes": 6,
    "learning_rate_init": 0.02,
}


def estimator_of(task: str, **params: Any) -> Any:
    regression = "output" in task or "poisson" in task
    if task.startswith("poisson"):
        params["loss"] = "poisson"
    name = "MLPRegressor" if regression else "MLPClassifier"
    return getattr(skmlp, name)(**{**STOP, "random_state": 0, **params})


def cut(task: str) -> tuple[Any, ...]:
    X, y = data_of(task)
    w = np.arange(len(y)) % 3 + 0.5
    return X[:48], y[:48], w[:48], X[48:], y[48:], w[48:]


# ---- Rows of one's own -------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_the_score_is_that_of_the_given_rows(task, weighted):
    """The loss and the score of the last epoch are those of the model."""
    rows, y, w, X_val, y_val, w_val = cut(task)
    model = estimator_of(task, early_stopping=False, max_iter=3)
    kwargs = {"sample_weight": w, "sample_weight_val": w_val} if weighted else {}
    model.fit(rows, y, **kwargs, X_val=X_val, y_val=y_val)
    weights = w_val if weighted else None
    score = model.score(X_val, y_val, weights)
    assert model.validation_scores_[-1] == pytest.approx(score, rel=1e-9, abs=1e-12)
    assert len(model.validation_loss_curve_) == len(model.validation_scores_) == 3
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_epoch_ == 1 + np.argmax(model.validation_scores_)
    assert model.best_loss_ is not None
    assert model.history_[-1]["validation_loss"] == model.validation_loss_curve_[-1]
    if task.startswith("poisson"):
        return
    if hasattr(model, "predict_proba"):
        expected = log_loss_of(model, X_val, y_val, weights)
    else:
        expected = 0.5 * mean_squared_error(
            y_val, model.predict(X_val), sample_weight=weights
        )
    assert model.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-9)


def log_loss_of(model: Any, X: Any, y: Any, w: Any) -> float:
    p = model.predict_proba(X)
    if y.ndim == 1:
        return log_loss(y, p, sample_weight=w, labels=model.classes_)
    losses = -np.where(y == 1, np.log(p), np.log(1 - p)).sum(axis=1)
    return float(np.average(losses, weights=w))


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_looking_at_validation_rows_changes_nothing(name, solver):
    params = {"solver": solver, "max_iter": 3}
    plain = make(name, "").set_params(**params, verbose=False).fit(X, Y)
    model = make(name, "").set_params(**params, verbose=False)
    model.fit(X, Y, X_val=X[:9], y_val=Y[:9])
    for mine, other in zip(model.coefs_, plain.coefs_, strict=True):
        assert_array_equal(mine, other)
    assert model.loss_curve_ == plain.loss_curve_
    assert plain.validation_loss_curve_ is None


@pytest.mark.parametrize("task", ["multiclass", "two outputs"])
def test_given_rows_do_what_those_set_aside_do(task):
    """If they are the same rows, in the same order."""
    rows, y = data_of(task)
    inside = estimator_of(task, shuffle=False, validation_fraction=0.25)
    inside.fit(rows, y)
    # scikit-learn's draws: first weights, then the split.
    rng = np.random.RandomState(0)
    sizes = [W.shape for W in inside.coefs_]
    for fan_in, fan_out in sizes:
        rng.uniform(size=(fan_in, fan_out))
        rng.uniform(size=fan_out)
    train, val = train_test_split(np.arange(64), random_state=rng, test_size=0.25)
    outside = estimator_of(task, shuffle=False)
    outside.fit(rows[train], y[train], X_val=rows[val], y_val=y[val])
    assert_allclose(outside.coefs_[0], inside.coefs_[0], rtol=1e-9)
    assert_allclose(outside.validation_scores_, inside.validation_scores_, rtol=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_best_weights_are_kept(name):
    model = make(name, "").set_params(verbose=False, **STOP)
    model.fit(X, Y, X_val=X[:10], y_val=Y[:10])
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.score(X[:10], Y[:10]) == pytest.approx(model.best_validation_score_)


# ---- Scores ------------------------------------------------------------------------


def _by_hand(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    return estimator.score(X, y, sample_weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("task", ["binary strings", "multilabel", "one output"])
def test_a_scorer_decides_as_the_ranks_do(task, solver, weighted):
    """If it gives the same score: the same epochs, the same model."""
    rows, y, w, *_ = cut(task)
    rates = {"learning_rate": "adaptive", "tol": 0.02} if solver == "sgd" else {}
    models = [
        estimator_of(
            task, solver=solver, scoring=scoring, validation_fraction=0.3, **rates
        ).fit(rows, y, w if weighted else None)
        for scoring in (None, _by_hand)
    ]
    assert_allclose(models[1].validation_scores_, models[0].validation_scores_)
    assert models[1].n_iter_ == models[0].n_iter_
    best = [m.best_validation_score_ for m in models]
    assert best[1] == pytest.approx(best[0], rel=1e-9)
    rates = [[e["learning_rate"] for e in m.history_] for m in models]
    assert rates[0] == rates[1]
    for mine, other in zip(models[1].coefs_, models[0].coefs_, strict=True):
        assert_array_equal(mine, other)


def test_the_loss_as_a_score():
    rows, y, _, X_val, y_val, _ = cut("multiclass")
    models = [
        estimator_of("multiclass", scoring=scoring, average=True).fit(
            rows, y, X_val=X_val, y_val=y_val
        )
        for scoring in ("loss", "neg_log_loss")
    ]
    for model in models:
        loss = model.validation_loss_curve_
        assert_allclose(model.validation_scores_, [-value for value in loss])
        best = log_loss(y_val, model.predict_proba(X_val))
        assert model.best_validation_score_ == pytest.approx(-best)
    assert models[0].n_iter_ == models[1].n_iter_


def test_a_search_can_ask_for_a_score():
    found = estimator_of("binary", scoring="roc_auc", validation_fraction=0.4)
    found.fit(*data_of("binary"))
    assert all(0 <= score <= 1 for score in found.validation_scores_)


# ---- Errors ------------------------------------------------------------------------

GIVEN = {"X_val": X[:9], "y_val": Y[:9]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no X_val": ({"y_val": Y}, "y_val is provided, but X_val"),
    "no y_val": ({"X_val": X}, "X_val is provided, but y_val"),
    "weights alone": ({"sample_weight_val": W}, "sample_weight_val is provided"),
    "fewer features": ({**GIVEN, "X_val": X[:9, :3]}, "3 features"),
    "fewer targets": ({**GIVEN, "y_val": Y[:8]}, "inconsistent numbers of samples"),
    "NaN": ({**GIVEN, "X_val": np.full((9, 4), np.nan)}, "NaN"),
    "two columns": ({**GIVEN, "y_val": np.eye(9, 2, dtype=int)}, "y_val"),
    "weights of 0": (
        {**GIVEN, "sample_weight_val": np.zeros(9)},
        "Sample weights must contain",
    ),
    "fewer weights": ({**GIVEN, "sample_weight_val": W[:8]}, "sample_weight.shape"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_bad_validation_rows(name, what, capsys):
    kwargs, words = BAD[what]
    model = make(name, "unfitted")
    for call in (
        lambda m: m.fit(X, Y, **kwargs),
        lambda m: m.partial_fit(X, Y, **KWARGS[name], **kwargs),
    ):
        error = attempt(model, call)
        assert isinstance(error, ValueError)
        assert words in str(error)
    assert not capsys.readouterr().out


def test_unknown_labels():
    model = make("MLPClassifier", "unfitted")
    error = attempt(model, lambda m: m.fit(X, Y, X_val=X, y_val=Y + 1))
    assert "labels that y has not: [3]" in str(error)


@pytest.mark.parametrize("scoring", ["no such scorer", 3, "rate"])
def test_bad_scores(scoring):
    model = make("MLPClassifier", "unfitted", scoring=scoring)
    assert "scor" in str(attempt(model, lambda m: m.fit(X, Y)))


def _without_weights(estimator, X, y):
    return estimator.score(X, y)


#: What weighs the rows: parameters, and arguments of `fit`.
WEIGHTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sample_weight": ({}, {"sample_weight": W}),
    "class_weight": ({"class_weight": "balanced"}, {}),
    "sample_weight_val": (
        {"early_stopping": False},
        {"X_val": X, "y_val": Y, "sample_weight_val": W},
    ),
}


@pytest.mark.parametrize("weighs", WEIGHTS)
def test_a_scorer_that_takes_no_weights(weighs):
    """It is told before the first epoch, and does no harm where it is not asked."""
    params, kwargs = WEIGHTS[weighs]
    params = {"early_stopping": True, "scoring": _without_weights, **params}
    model = make("MLPClassifier", "unfitted", **params)
    error = attempt(model, lambda m: m.fit(X, Y, **kwargs))
    assert type(error) is TypeError
    assert "its arguments are (estimator, X, y)" in str(error)
    unasked = make("MLPClassifier", "", **params).set_params(verbose=False)
    with pytest.warns(skmlp.UnusedParameterWarning, match="scoring"):
        unasked.set_params(early_stopping=False).fit(X, Y, sample_weight=W)


def test_a_score_of_several_quantiles_by_name():
    model = make("MLPRegressor", "unfitted", loss="quantile", quantile=[0.1, 0.9])
    model.set_params(early_stopping=True, scoring="neg_mean_absolute_error")
    error = attempt(model, lambda m: m.fit(X, Y))
    assert "several quantiles" in str(error)


@pytest.mark.parametrize("max_time", [0, -1, "1 h"])
def test_bad_times(max_time):
    model = make("MLPClassifier", "unfitted", max_time=max_time)
    assert "max_time" in str(attempt(model, lambda m: m.fit(X, Y)))


@pytest.mark.parametrize("epochs", [0, -2, 1.5, "all"])
def test_bad_epochs(epochs):
    model = make("MLPRegressor", "unfitted")
    error = attempt(model, lambda m: m.partial_fit(X, Y, epochs=epochs))
    assert "epochs" in str(error)


def test_lbfgs_does_not_use_validation_rows():
    model = make("MLPRegressor", "", solver="lbfgs", batch_size="auto")
    with pytest.warns(skmlp.UnusedParameterWarning, match="X_val"):
        model.fit(X, Y, X_val=X, y_val=Y)


# ---- Time --------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", [None, _by_hand])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_the_time_is_up(solver, scoring):
    """After one epoch or iteration at least; the model is that of the last one."""
    params = {"solver": solver, "max_time": 1e-9, "hidden_layer_sizes": 3}
    model = MLPClassifier(random_state=0, max_iter=10**6, tol=0, **params)
    if solver != "lbfgs":
        model.set_params(n_iter_no_change=10**6)
    with pytest.warns(ConvergenceWarning, match="max_time was reached after 1 "):
        model.fit(X, Y)
    assert model.n_iter_ == 1
    params["max_time"] = None
    twin = MLPClassifier(random_state=0, max_iter=1, tol=0, **params).fit(X, Y)
    for mine, other in zip(model.coefs_, twin.coefs_, strict=True):
        assert_array_equal(mine, other)


# ---- Pieces ------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_several_epochs_are_several_calls(name, solver):
    params = {"solver": solver, "tol": 10.0, "n_iter_no_change": 1}
    if solver == "sgd":
        params["learning_rate"] = "adaptive"
    one, many = (make(name, "").set_params(verbose=False, **params) for _ in range(2))
    one.partial_fit(X, Y, epochs=5, **KWARGS[name])
    for _ in range(5):
        many.partial_fit(X, Y, **KWARGS[name])
    for mine, other in zip(one.coefs_, many.coefs_, strict=True):
        assert_array_equal(mine, other)
    assert one.loss_curve_ == many.loss_curve_
    assert one.t_ == many.t_


def test_pieces_can_stop_early():
    model = make("MLPRegressor", "").set_params(verbose=False, **STOP)
    model.set_params(learning_rate_init=0.3)
    for rows in (slice(0, 20), slice(10, 30)):
        model.partial_fit(X[rows], Y[rows], epochs=40, X_val=X[:9], y_val=Y[:9])
        assert model.n_iter_ < 40
        assert model.score(X[:9], Y[:9]) == pytest.approx(model.best_validation_score_)


def test_labels_come_in_pieces():
    """Also where a piece has one value of a label only."""
    y = np.stack([Y > 0, Y > 1, Y < 1], axis=1).astype(int)
    model = make("MLPClassifier", "").set_params(verbose=False)
    few = (y[:, 0] == 0).nonzero()[0]
    for rows in (few, slice(None)):
        model.partial_fit(X[rows], y[rows], classes=[0, 1, 2])
    assert model.predict(X).shape == y.shape


def test_a_class_may_come_later():
    model = make("MLPClassifier", "", warm_start=True).set_params(verbose=False)
    some = Y < 2
    model.partial_fit(X[some], Y[some], classes=CLASSES)
    model.partial_fit(X[some], Y[some])
    assert model.partial_fit(X, Y).n_outputs_ == 3


def test_the_regressor_has_no_class_weight():
    assert "class_weight" not in MLPRegressor().get_params()
