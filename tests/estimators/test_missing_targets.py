"""Targets that are missing, as NaN, add nothing: laws, and what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.optimize import approx_fprime
from sklearn.metrics import d2_pinball_score, mean_absolute_error, r2_score
from sklearn.model_selection import cross_val_score

import skmlp
from skmlp import MLPRegressor
from tests.estimators.attempts import attempt
from tests.model.own import LogCosh

RNG = np.random.default_rng(0)
N = 60
X = RNG.normal(size=(N, 4))
Y = np.exp(np.tanh(X @ RNG.normal(size=(4, 2))) + 0.3 * RNG.normal(size=(N, 2)))
MISSING = RNG.random(Y.shape) < 0.4
GAPS = np.where(MISSING, np.nan, Y)
KNOWN = ~MISSING
W = RNG.uniform(0.5, 2.0, N)

LOSSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "squared_error": ("squared_error", {}),
    "absolute_error": ("absolute_error", {}),
    "huber": ("huber", {"huber_delta": 0.3}),
    "quantile": ("quantile", {"quantile": 0.8}),
    "poisson": ("poisson", {}),
    "gamma": ("gamma", {}),
    "own": (LogCosh(), {}),
}
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES)
SOLVERS = pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])


def regressor(loss: Any = "squared_error", **params: Any) -> MLPRegressor:
    name, settings = LOSSES.get(loss, (loss, {}))
    return MLPRegressor(
        name,
        **{
            "hidden_layer_sizes": 5,
            "max_iter": 8,
            "random_state": 1,
            "missing_targets": "mask",
            **settings,
            **params,
        },
    )


def weights_of(model: Any) -> np.ndarray:
    return np.concatenate([a.ravel() for a in (*model.coefs_, *model.intercepts_)])


# ---- Laws --------------------------------------------------------------------------


@SOLVERS
@EVERY_LOSS
def test_where_nothing_is_missing_nothing_changes(loss, solver):
    """Not a bit."""
    both = [
        regressor(loss, solver=solver, missing_targets=what).fit(X, Y, W)
        for what in ("error", "mask")
    ]
    assert_array_equal(*map(weights_of, both))
    assert both[0].loss_ == both[1].loss_


@SOLVERS
@EVERY_LOSS
def test_a_row_without_target_is_a_row_without_weight(loss, solver):
    batches = {} if solver == "lbfgs" else {"batch_size": 7}
    masked = regressor(loss, solver=solver, **batches)
    masked.fit(X, GAPS[:, 0], W)
    weighted = regressor(loss, solver=solver, missing_targets="error", **batches)
    weighted.fit(X, np.where(MISSING[:, 0], 1.0, Y[:, 0]), W * KNOWN[:, 0])
    assert_allclose(weights_of(masked), weights_of(weighted), rtol=1e-7, atol=1e-10)
    assert_allclose(masked.loss_, weighted.loss_, rtol=1e-9)


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_matrix])
@EVERY_LOSS
def test_a_row_without_any_target_could_be_left_out(loss, container):
    gaps = GAPS.copy()
    gaps[10:25] = np.nan
    rows = ~np.isnan(gaps).all(axis=1)
    for y, kept in ((gaps, rows), (gaps[:, 0], ~np.isnan(gaps[:, 0]))):
        whole = regressor(loss, solver="lbfgs").fit(container(X), y, W)
        fewer = regressor(loss, solver="lbfgs")
        fewer.fit(container(X[kept]), y[kept], W[kept])
        assert_allclose(weights_of(whole), weights_of(fewer), rtol=1e-6, atol=1e-8)
        assert_allclose(whole.loss_, fewer.loss_, rtol=1e-9)


def test_each_output_of_a_linear_model_is_its_own_least_squares():
    model = regressor(
        hidden_layer_sizes=(), solver="lbfgs", alpha=0.0, tol=1e-10, max_iter=500
    ).fit(X, GAPS)
    design = np.c_[X, np.ones(N)]
    for j in range(2):
        rows = KNOWN[:, j]
        found, *_ = np.linalg.lstsq(design[rows], Y[rows, j], rcond=None)
        mine = np.append(model.coefs_[0][:, j], model.intercepts_[0][j])
        assert_allclose(mine, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_is_that_of_the_mean_over_the_known_targets(weighted):
    """One step of gradient descent on all rows, by the numeric gradient."""
    w = W if weighted else None
    rate, alpha = 0.1, 0.5
    first = regressor("huber").fit(X, Y)
    sizes = [a.shape for a in (*first.coefs_, *first.intercepts_)]
    begin = weights_of(first)

    def arrays(flat):
        ends = np.cumsum([int(np.prod(shape)) for shape in sizes])[:-1]
        return [a.reshape(s) for a, s in zip(np.split(flat, ends), sizes, strict=True)]

    share = (KNOWN * (W if weighted else np.ones(N))[:, None]).sum() / 2

    def objective(flat):
        W0, W1, b0, b1 = arrays(flat)
        error = np.maximum(X @ W0 + b0, 0) @ W1 + b1 - Y
        far = np.abs(error) > 0.3
        values = np.where(far, 0.3 * (np.abs(error) - 0.15), error**2 / 2) * KNOWN
        rows = values.sum(axis=1) * (W if weighted else 1.0)
        penalty = alpha / 2 * ((W0**2).sum() + (W1**2).sum())
        return np.array([rows.sum() + penalty, rows.sum() / 2 + penalty]) / share

    W0, W1, b0, b1 = arrays(begin)
    model = regressor(
        "huber",
        solver="sgd",
        momentum=0.0,
        learning_rate_init=rate,
        alpha=alpha,
        batch_size=N,
        max_iter=1,
        coefs_init=[W0, W1],
        intercepts_init=[b0, b1],
    ).fit(X, GAPS, w)
    slope = approx_fprime(begin, lambda flat: objective(flat)[0], 1e-7)
    assert_allclose(weights_of(model), begin - rate * slope, rtol=1e-5, atol=1e-7)
    assert_allclose(model.loss_, objective(begin)[1], rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_output_without_targets_keeps_its_weights(dtype):
    rows, y = X.astype(dtype), np.c_[GAPS[:, 0], np.full(N, np.nan)]
    params = {"alpha": 0.0, "early_stopping": True}
    one, more = (regressor(max_iter=n, **params).fit(rows, y) for n in (1, 6))
    assert np.isfinite(weights_of(more)).all()
    assert_array_equal(one.coefs_[1][:, 1], more.coefs_[1][:, 1])
    assert (one.coefs_[1][:, 0] != more.coefs_[1][:, 0]).all()
    known = KNOWN[:, 0]
    expected = r2_score(Y[known, 0], more.predict(rows)[known, 0])
    assert_allclose(more.score(rows, y), expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::skmlp.UnusedParameterWarning")
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_minibatch_without_targets_moves_nothing(solver):
    """But for momentum and penalty: here there are none."""
    params = {"solver": solver, "momentum": 0.0, "beta_1": 0.0, "alpha": 0.0}
    y = GAPS.copy()
    y[4:] = np.nan
    params |= {"batch_size": 4, "shuffle": False, "max_iter": 1, "epsilon": 1e-12}
    model = regressor(**params).fit(X, y)
    # Every batch, this one too, is divided by what is expected of a batch: here a
    # fifteenth of what it has. To adam the size of the gradient is all the same.
    rate = 0.001 * (15 if solver == "sgd" else 1)
    alone = regressor(learning_rate_init=rate, **params).fit(X[:4], y[:4])
    assert_allclose(weights_of(model), weights_of(alone), rtol=1e-6, atol=1e-9)


# ---- Scores ------------------------------------------------------------------------


def mean_of_outputs(metric: Any, model: Any, y: Any, w: Any = None) -> float:
    p = model.predict(X)
    return float(
        np.mean(
            [
                metric(y[k, j], p[k, j], sample_weight=None if w is None else w[k])
                for j, k in enumerate((~np.isnan(y)).T)
            ]
        )
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_the_score_is_that_of_the_known_targets(weighted):
    w = W if weighted else None
    model = regressor(early_stopping=True)
    model.fit(X, GAPS, w, X_val=X, y_val=GAPS, sample_weight_val=w)
    expected = mean_of_outputs(r2_score, model, GAPS, w)
    assert_allclose(model.score(X, GAPS, w), expected, rtol=1e-9)
    assert_allclose(model.best_validation_score_, expected, rtol=1e-9)
    one = regressor().fit(X, GAPS[:, 0])
    rows = KNOWN[:, 0]
    assert_allclose(one.score(X, GAPS[:, 0]), one.score(X[rows], Y[rows, 0]))
    assert one.score(X, Y[:, 0]) == r2_score(Y[:, 0], one.predict(X))


@pytest.mark.parametrize("scoring", ["loss", "neg_mean_absolute_error"])
def test_early_stopping_looks_at_known_targets(scoring):
    model = regressor("absolute_error", early_stopping=True, scoring=scoring)
    model.fit(X, GAPS, X_val=X, y_val=GAPS)
    model_of_best = mean_of_outputs(mean_absolute_error, model, GAPS)
    if scoring == "loss":
        model_of_best = mean_absolute_error(Y[KNOWN], model.predict(X)[KNOWN])
    assert_allclose(model.best_validation_score_, -model_of_best, rtol=1e-9)
    # As with all targets, a scorer that is not asked to skip gets them all at once.
    whole = regressor("absolute_error", early_stopping=True, scoring=scoring)
    whole.fit(X, Y, X_val=X, y_val=Y)
    plain = regressor("absolute_error", early_stopping=True, scoring=scoring)
    plain.set_params(missing_targets="error").fit(X, Y, X_val=X, y_val=Y)
    assert whole.validation_scores_ == plain.validation_scores_


def test_several_quantiles_of_a_target_with_gaps():
    levels, y = [0.2, 0.7], GAPS[:, 0]
    params = {"quantile": levels, "solver": "lbfgs"}
    model = regressor("quantile", **params).fit(X, y)
    rows = KNOWN[:, 0]
    fewer = regressor("quantile", **params).fit(X[rows], y[rows])
    assert_allclose(weights_of(model), weights_of(fewer), rtol=1e-6, atol=1e-8)
    expected = [
        d2_pinball_score(y[rows], column[rows], alpha=level)
        for level, column in zip(levels, model.predict(X).T, strict=True)
    ]
    assert_allclose(model.score(X, y), np.mean(expected))


# ---- In the company of others ------------------------------------------------------


def test_it_goes_on_with_pieces_files_and_searches(tmp_path):
    model = regressor(batch_size=5)
    for rows in (slice(0, 30), slice(30, 60)):
        model.partial_fit(X[rows], GAPS[rows], epochs=2)
    assert np.isfinite(model.loss_curve_).all()
    skmlp.save(model, tmp_path / "model.skmlp")
    loaded = skmlp.load(tmp_path / "model.skmlp")
    for copy in (pickle.loads(pickle.dumps(model)), loaded):
        assert copy.missing_targets == "mask"
        assert copy.score(X, GAPS) == model.score(X, GAPS)
        copy.partial_fit(X, GAPS)
    assert np.isfinite(cross_val_score(regressor(), X, GAPS, cv=3)).all()


def test_targets_of_every_kind():
    pd = pytest.importorskip("pandas")
    plain = weights_of(regressor().fit(X, GAPS[:, 0]))
    missing = np.where(MISSING[:, 0], None, Y[:, 0])
    for y in (
        list(GAPS[:, 0]),
        missing,
        pd.Series(GAPS[:, 0]),
        pd.Series(pd.array(missing, "Float64")),
    ):
        assert_array_equal(weights_of(regressor().fit(X, y)), plain)
    frame = pd.DataFrame(GAPS, columns=["a", "b"])
    both = weights_of(regressor().fit(X, GAPS))
    assert_array_equal(weights_of(regressor().fit(X, frame)), both)


# ---- What is refused ---------------------------------------------------------------


class Centred(LogCosh):
    """Looks at all outputs at once."""

    def value_and_gradient(self, y, raw_prediction):
        return super().value_and_gradient(y - y.mean(), raw_prediction)


BAD: dict[str, tuple[dict[str, Any], Any, str]] = {
    "not asked for": ({"missing_targets": "error"}, GAPS, "set missing_targets='mask'"),
    "another word": ({"missing_targets": "drop"}, GAPS, "missing_targets"),
    "infinity": ({}, np.where(MISSING, np.inf, Y), "infinity"),
    "all missing": ({}, GAPS * np.nan, "no known target"),
    "out of range": ({"loss": "gamma"}, GAPS - 3, "greater than zero"),
    "text": ({}, np.full(N, "x"), "convert"),
    "other length": ({}, GAPS[:-1], "inconsistent numbers"),
    "a loss of all": ({"loss": Centred()}, GAPS, "each number by itself"),
    "none to train": (
        {"early_stopping": True, "validation_fraction": 0.5},
        np.where(np.arange(N) == 3, 1.0, np.nan),
        "no target is known",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_targets(what):
    params, y, words = BAD[what]
    error = attempt(regressor(**params), lambda m: m.fit(X, y))
    assert isinstance(error, ValueError)
    assert words in str(error)


def test_bad_validation_targets_and_scores():
    model = regressor(early_stopping=True).fit(X, GAPS)
    nothing = GAPS * np.nan
    calls = (
        lambda m: m.fit(X, GAPS, X_val=X, y_val=nothing),
        lambda m: m.score(X, nothing),
    )
    for call in calls:
        assert "no known target" in str(attempt(model, call))
    assert "number of output" in str(attempt(model, lambda m: m.score(X, GAPS[:, 0])))
    assert "inconsistent" in str(attempt(model, lambda m: m.score(X, GAPS[:9])))
    model.set_params(missing_targets="error")
    assert "contains NaN" in str(attempt(model, lambda m: m.score(X, GAPS)))
