"""Targets and features of odd sizes: tolerances, warnings of the model, divergence."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import d2_tweedie_score

from skmlp import MLPClassifier, MLPRegressor, ModelQualityWarning
from tests.estimators.dask_data import dask_of

pytestmark = pytest.mark.timeout(60)

RNG = np.random.default_rng(2)
X = RNG.normal(size=(400, 5))
Y = X[:, 0] + 0.3 * np.tanh(X[:, 1])
LABELS = (X[:, 0] + X[:, 1] > 0).astype(int)


def told(call: Callable[[], Any]) -> list[str]:
    """The messages about the model's quality."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if w.category is ModelQualityWarning]


def regressor(**params: Any) -> MLPRegressor:
    return MLPRegressor(**{"random_state": 0, "hidden_layer_sizes": 20, **params})


# ---- Targets -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["gamma", "poisson"])
def test_a_log_link_and_raw_targets(loss):
    """Targets around 3000: without the bias D2 of 'gamma' was -15."""
    y = np.round(3000 * np.exp(0.5 * X[:, 0]) * RNG.gamma(20, 1 / 20, len(X)))
    params = {} if loss == "gamma" else {"output_bias_init": "mean"}
    model = regressor(loss=loss, max_iter=300, **params).fit(X, y)
    assert d2_tweedie_score(y, model.predict(X), power=2) > 0.7


@pytest.mark.parametrize("params", [{}, {"early_stopping": True, "scoring": "loss"}])
def test_small_targets(params):
    """As in scikit-learn, `tol` is far above their loss: R2 was -6."""

    def fit(**more: Any) -> MLPRegressor:
        given = {"learning_rate_init": 0.02, "max_iter": 700, **params, **more}
        return regressor(**given).fit(X, 0.01 * Y)

    (message,) = told(fit)
    assert "no better than a constant" in message
    assert "tol_scale='initial'" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelQualityWarning)
        assert fit(tol_scale="initial").score(X, 0.01 * Y) > 0.95


def test_lbfgs_does_not_see_the_size_of_the_targets():
    """Both of SciPy's tolerances are absolute for small losses."""
    params = {"solver": "lbfgs", "max_iter": 1000, "alpha": 0}
    small, few = (regressor(tol_scale=how, **params) for how in ("initial", "absolute"))
    assert len(told(lambda: few.fit(X, 1e-3 * Y))) == 1
    assert told(lambda: small.fit(X, 1e-3 * Y)) == []
    assert few.score(X, 1e-3 * Y) < 0.5 < 0.95 < small.score(X, 1e-3 * Y)


def test_the_scaled_tolerance_is_a_share_of_the_constants_loss():
    share, constant = 0.01, Y.var() / 2
    params = {"n_iter_no_change": 1, "max_iter": 300}
    scaled = regressor(tol=share, tol_scale="initial", **params).fit(X, Y)
    absolute = regressor(tol=share * constant, **params).fit(X, Y)
    assert 2 < scaled.n_iter_ == absolute.n_iter_ < 300
    np.testing.assert_array_equal(scaled.loss_curve_, absolute.loss_curve_)


# ---- A model that has learnt nothing -----------------------------------------------

NOTHING = {"learning_rate_init": 1e-9, "max_iter": 50}
#: Estimators that stop at once, and their targets.
STUCK: dict[str, tuple[Any, Any]] = {
    "classes": (MLPClassifier(5, random_state=0, **NOTHING), LABELS),
    "labels": (MLPClassifier(5, random_state=0, **NOTHING), np.c_[LABELS, 1 - LABELS]),
    "heads": (
        MLPClassifier(5, random_state=0, **NOTHING),
        np.c_[LABELS, 2 * LABELS, LABELS],
    ),
    "one output": (regressor(**NOTHING), 2 * Y),
    "two outputs": (regressor(**NOTHING), np.c_[Y, 5 * Y]),
    "dropout": (regressor(dropout=0.2, **NOTHING), 2 * Y),
    "median": (regressor(loss="absolute_error", **NOTHING), 2 * Y),
    "stopping early": (
        regressor(early_stopping=True, scoring="loss", **NOTHING),
        2 * Y,
    ),
    "average": (regressor(average=True, **NOTHING), 2 * Y),
    "penalty, lbfgs": (regressor(solver="lbfgs", alpha=1e9), Y),
}


@pytest.mark.parametrize("name", STUCK)
def test_a_fit_that_converged_to_nothing(name):
    estimator, y = STUCK[name]
    (message,) = told(lambda: estimator.fit(X, y))
    assert "no better than a constant" in message
    assert ("TransformedTargetRegressor" in message) == hasattr(estimator, "quantile")


QUIET: dict[str, Callable[[], Any]] = {
    "a good one": lambda: MLPClassifier(tol=0.05, random_state=0).fit(X, LABELS),
    "dropout, whose loss is not the model's": lambda: regressor(
        dropout=0.9, tol=0.1, learning_rate_init=0.01
    ).fit(X, Y),
    "stopped by a score": lambda: regressor(early_stopping=True, **NOTHING).fit(X, Y),
    "out of epochs": lambda: regressor(learning_rate_init=1e-9, max_iter=3).fit(X, Y),
    "few rows": lambda: regressor(**NOTHING).fit(X[:150], Y[:150]),
    "a large tolerance": lambda: regressor(tol=0.01, **NOTHING).fit(X, Y),
    "pieces": lambda: (
        [m := regressor(**NOTHING)] + [m.partial_fit(X, Y) for _ in range(15)]
    ),
    "a constant target": lambda: regressor(max_iter=400).fit(X, np.full(len(X), 5.0)),
    "one class": lambda: MLPClassifier(random_state=0).fit(X, np.ones(len(X))),
    "one row": lambda: regressor(max_iter=400).fit(X[:1], Y[:1]),
}


@pytest.mark.parametrize("name", QUIET)
def test_no_warning_of(name):
    assert told(QUIET[name]) == []


# ---- Features ----------------------------------------------------------------------

HUGE = X.copy()
HUGE[:, 3] = 5e6 * (1 + 0.1 * X[:, 3])


def _frame(a: np.ndarray) -> Any:
    return pytest.importorskip("pandas").DataFrame(a, columns=list("abcde"))


KINDS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "array": (lambda a: a, "3"),
    "float32": (lambda a: a.astype(np.float32), "3"),
    "fortran": (np.asfortranarray, "3"),
    "list": (lambda a: a.tolist(), "3"),
    "frame": (_frame, "d"),
    "csr": (sparse.csr_matrix, "3"),
    "csc": (sparse.csc_array, "3"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor])
def test_unscaled_features(estimator, kind):
    make, column = KINDS[kind]
    y = LABELS if estimator is MLPClassifier else 1e6 * Y
    model = estimator(5, max_iter=20, random_state=0)
    if estimator is MLPRegressor:
        model = estimator(hidden_layer_sizes=5, max_iter=20, random_state=0)
    (message,) = told(lambda: model.fit(make(HUGE), y))
    assert f"column(s) {column} (5e+06)" in message
    assert "StandardScaler" in message
    assert told(lambda: model.fit(make(X), y)) == []
    # Once for a model, not with every call that goes on with it.
    pieces = type(model)(**model.get_params())
    classes = {"classes": [0, 1]} if estimator is MLPClassifier else {}
    assert len(told(lambda: pieces.partial_fit(make(HUGE), y, **classes))) == 1
    assert told(lambda: pieces.partial_fit(make(HUGE), y)) == []


def test_unscaled_features_of_several_kinds():
    spread = np.c_[X, 1e5 * X, 1e6 + X]  # around 0, and hardly varying
    (message,) = told(lambda: MLPClassifier(5, max_iter=3).fit(spread, LABELS))
    assert "column(s) 5 (1e+05), 6 (" in message
    assert "and 5 more" in message
    y = np.where(RNG.random(Y.shape) < 0.3, np.nan, 1e6 * Y)
    masked = regressor(missing_targets="mask", max_iter=3)
    assert "column(s) 3 (" in told(lambda: masked.fit(HUGE, y))[0]
    # Pixels and years are no reason.
    for usual in (255 * RNG.random((400, 64)), 2000 + 10 * X):
        assert told(lambda a=usual: MLPClassifier(5, max_iter=3).fit(a, LABELS)) == []


@pytest.mark.timeout(240)
def test_on_dask(client):
    """The same warnings, bias and error."""
    dd = pytest.importorskip("dask.dataframe", reason="it needs pyarrow")
    frame = dd.from_pandas(_frame(HUGE).assign(y=LABELS), npartitions=3)
    y = dask_of(LABELS, 150)
    for rows, labels, column in (
        (dask_of(HUGE, 150), y, "3"),
        (frame[list("abcde")], frame["y"], "d"),
    ):
        model = MLPClassifier(5, max_iter=20, random_state=0)
        (message,) = told(lambda m=model, rows=rows, labels=labels: m.fit(rows, labels))
        # The largest of the parts' root mean squares, however the rows are cut.
        assert re.search(rf"column\(s\) {column} \(5(\.\d)?e\+06\)", message)
    rows = dask_of(sparse.csr_matrix(HUGE), 150)
    assert len(told(lambda: MLPClassifier(5, max_iter=2).fit(rows, y))) == 1
    (message,) = told(lambda: regressor(**NOTHING).fit(dask_of(X, 150), dask_of(2 * Y)))
    assert "no better than a constant" in message
    with pytest.raises(ValueError, match="Solver produced non-finite parameter"):
        MLPRegressor(**EXPLODING, max_iter=40).fit(dask_of(X, 150), dask_of(Y, 150))


# ---- Divergence --------------------------------------------------------------------

#: A linear model whose error doubles or so in each epoch.
EXPLODING: dict[str, Any] = {
    "hidden_layer_sizes": (),
    "solver": "sgd",
    "momentum": 0,
    "learning_rate_init": 4.0,
    "batch_size": 400,
    "tol": 0,
    "random_state": 0,
    "n_iter_no_change": np.inf,
}


def _epochs_until(level: float) -> int:
    """After so many epochs the loss is above, and the weights still finite."""
    curve: list[float] = []

    def watch(y: np.ndarray, raw: np.ndarray) -> None:
        curve.append(float(np.mean((y - raw) ** 2) / 2))

    w, b, n = np.zeros(5), 0.0, len(X)
    with np.errstate(over="ignore"):
        while True:
            raw = X @ w + b
            watch(Y, raw)
            if not curve[-1] < level:
                return len(curve)
            w, b = w - 4.0 * X.T @ (raw - Y) / n, b - 4.0 * (raw - Y).mean()


@pytest.mark.parametrize("level", [1e20, np.inf])
def test_a_loss_that_has_exploded(level):
    epochs = _epochs_until(level)
    model = MLPRegressor(**EXPLODING, max_iter=epochs)
    with pytest.raises(ValueError, match="Solver produced non-finite parameter"):
        model.fit(X, Y)
    assert not hasattr(model, "coefs_")
    # It had no error a few epochs earlier.
    MLPRegressor(**EXPLODING, max_iter=3).fit(X, Y)
    if level == np.inf:
        pieces = MLPRegressor(**EXPLODING)
        with pytest.raises(ValueError, match="Solver produced non-finite parameter"):
            pieces.partial_fit(X, Y, epochs=epochs)


def test_early_stopping_keeps_the_best_weights_of_a_fit_that_exploded():
    params = {**EXPLODING, "batch_size": 300, "max_iter": 40}
    model = MLPRegressor(**params, early_stopping=True)
    with pytest.warns(ConvergenceWarning, match="Training diverged"):
        model.fit(X, Y)
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert np.isfinite(model.coefs_[0]).all()


def test_small_targets_alone_are_no_divergence():
    """The first loss is over a million times that of the constant."""
    model = regressor(max_iter=1).fit(X, 1e-6 * Y)
    assert model.loss_ > 1e6 * (1e-6 * Y).var()
