"""Where skmlp departs from scikit-learn by decision: a law for each row of the table.

The table is the page "Differences from scikit-learn" of the documentation; the numbers
of the tests are its rows. Rows 1, 2, 3 and 20 are in ``test_sample_weight.py``; rows
15, 17 and 18 (memory) in ``test_memory.py``.
"""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.neural_network as original
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils import get_tags

from skmlp import MLPClassifier, MLPRegressor, UnusedParameterWarning

SOLVERS = ["sgd", "adam", "lbfgs"]
RNG = np.random.default_rng(12)
ROWS = 60
X = RNG.normal(size=(ROWS, 5))
RAW = np.tanh(X @ RNG.normal(size=(5, 3)))
Y_REAL, Y_TWO, Y_CLASS = RAW[:, 0], RAW[:, :2], RAW.argmax(axis=1)
Y_LABELS, Y_COUNT = (RAW > 0).astype(int), RNG.poisson(2, ROWS)
FOREVER = {"tol": 0.0, "n_iter_no_change": np.inf}


def seeded(kind: str) -> Any:
    """Return a value of ``random_state`` that starts at the same place each time."""
    if kind == "global":
        np.random.seed(3)
        return None
    return 3 if kind == "int" else np.random.RandomState(3)


# ---- Rows 4 and 14: kept as they are


def test_04_the_split_is_stratified_for_two_classes_only():
    y = np.zeros(ROWS, dtype=int)
    y[0] = 1
    mlp = MLPClassifier(early_stopping=True, max_iter=1, random_state=0)
    with pytest.raises(ValueError, match="only 1 member"):
        mlp.fit(X, y)
    y[1:20] = 2
    assert len(mlp.fit(X, y).validation_scores_) == 1


def test_14_multilabel_scores_are_subset_accuracies():
    mlp = MLPClassifier(early_stopping=True, max_iter=1, random_state=0)
    mlp.set_params(validation_fraction=0.5).fit(X, Y_LABELS)
    # Half of the rows are the validation set; the score counts whole rows of it.
    twin = original.MLPClassifier(**_shared(mlp)).fit(X, Y_LABELS)
    assert mlp.validation_scores_ == twin.validation_scores_
    assert (mlp.validation_scores_[0] * ROWS / 2) % 1 == pytest.approx(0, abs=1e-9)
    assert accuracy_score(Y_LABELS, mlp.predict(X)) == mlp.score(X, Y_LABELS)


def _shared(mlp: Any) -> dict[str, Any]:
    twin = getattr(original, type(mlp).__name__)()
    return {k: v for k, v in mlp.get_params().items() if k in twin.get_params()}


# ---- Rows 5 and 6: warm start with early stopping


def test_05_the_best_weights_survive_a_worse_fit():
    mlp = MLPClassifier(
        early_stopping=True, warm_start=True, random_state=0, learning_rate_init=0.05
    )
    mlp.set_params(max_iter=150).fit(X, X[:, 0] > 0)
    # Nothing beats a score of 1, so the best weights stay those of the first fit.
    assert mlp.best_validation_score_ == 1.0
    held = [W.copy() for W in mlp.coefs_]
    same = mlp.coefs_
    mlp.set_params(max_iter=3, learning_rate_init=1.0).fit(X, X[:, 0] > 0)
    for before, handed_out, now in zip(held, same, mlp.coefs_, strict=True):
        assert_array_equal(now, before)
        assert_array_equal(handed_out, before)


@pytest.mark.parametrize("random_state", ["int", "instance", "global"])
def test_06_the_split_stays_the_same(random_state):
    """Without momentum and shuffling, two fits of 3 epochs are one of 6."""

    def make(max_iter: int) -> Any:
        return MLPRegressor(
            hidden_layer_sizes=4,
            solver="sgd",
            momentum=0,
            shuffle=False,
            batch_size=10,
            learning_rate_init=0.05,
            early_stopping=True,
            validation_fraction=0.4,
            warm_start=True,
            random_state=seeded(random_state),
            max_iter=max_iter,
            tol=0,
        )

    whole = make(6).fit(X, Y_REAL)
    # Each epoch is better, or the second fit would not start from the third epoch.
    assert np.all(np.diff(whole.validation_scores_) > 0)
    halves = make(3).fit(X, Y_REAL).fit(X, Y_REAL)
    assert_allclose(halves.loss_curve_, whole.loss_curve_, rtol=1e-9)
    assert_allclose(halves.validation_scores_, whole.validation_scores_, rtol=1e-9)
    # Another number of rows makes another split.
    assert len(halves.fit(X[:50], Y_REAL[:50]).validation_scores_) == 9


# ---- Rows 7, 8 and 9: partial_fit


@pytest.mark.parametrize("random_state", ["int", "instance", "global"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("Estimator", "y", "kwargs"),
    [
        (MLPRegressor, Y_REAL, {}),
        (MLPClassifier, Y_CLASS, {"classes": [0, 1, 2]}),
    ],
)
def test_07_k_partial_fits_are_a_fit_of_k_epochs(
    Estimator, y, kwargs, solver, random_state
):
    def make() -> Any:
        return Estimator(
            hidden_layer_sizes=6,
            solver=solver,
            batch_size=7,
            random_state=seeded(random_state),
            max_iter=5,
            **FOREVER,
        )

    whole = make().fit(X, y)
    parts = make()
    for _ in range(5):
        parts.partial_fit(X, y, **kwargs)
    assert_array_equal(parts.loss_curve_, whole.loss_curve_)
    assert len(whole.loss_curve_) == 5
    for mine, other in zip(parts.coefs_, whole.coefs_, strict=True):
        assert_array_equal(mine, other)
    assert parts.t_ == whole.t_ == 5 * ROWS


@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_08_lbfgs_has_no_partial_fit(Estimator):
    mlp = Estimator(solver="lbfgs")
    assert not hasattr(mlp, "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        mlp.partial_fit(X, Y_CLASS)
    assert hasattr(mlp.set_params(solver="sgd"), "partial_fit")


@pytest.mark.parametrize(
    "params",
    [
        {"solver": "sgd", "momentum": 0},
        {"solver": "sgd", "momentum": 0, "learning_rate": "invscaling"},
        {"solver": "adam"},
    ],
    ids=str,
)
def test_09_a_changed_rate_counts_from_the_next_call(params):
    """The step of a full batch is proportional to the rate."""
    steps = []
    for rate in (0.01, 0.001):
        mlp = MLPRegressor(
            hidden_layer_sizes=4, random_state=0, learning_rate_init=0.01, **params
        )
        before = [W.copy() for W in mlp.partial_fit(X, Y_REAL).coefs_]
        after = mlp.set_params(learning_rate_init=rate).partial_fit(X, Y_REAL).coefs_
        steps.append([a - b for a, b in zip(after, before, strict=True)])
    for large, small in zip(*steps, strict=True):
        assert_allclose(small, large / 10, rtol=1e-6, atol=1e-12)


# ---- Row 10: warm start with other layers


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sizes", [7, (6, 6), ()], ids=str)
@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_10_warm_start_with_other_layers(Estimator, sizes, solver):
    mlp = Estimator(hidden_layer_sizes=6, solver=solver, warm_start=True, max_iter=2)
    mlp.fit(X, Y_CLASS)
    held = [W.copy() for W in mlp.coefs_]
    mlp.set_params(hidden_layer_sizes=sizes)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes|warm_start") as caught:
        mlp.fit(X, Y_CLASS)
    assert "6" in str(caught.value)
    for before, now in zip(held, mlp.coefs_, strict=True):
        assert_array_equal(before, now)
    mlp.set_params(warm_start=False).fit(X, Y_CLASS)


# ---- Row 11: float32 throughout


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("y", [Y_REAL, Y_TWO], ids=["one", "two"])
def test_11_float32_rows_and_float64_targets(y, solver):
    rows = X.astype(np.float32)
    mlp = MLPRegressor(hidden_layer_sizes=50, solver=solver, max_iter=3)
    mlp.fit(rows, y)
    assert {a.dtype for a in mlp.coefs_ + mlp.intercepts_} == {np.dtype(np.float32)}
    assert mlp.predict(rows).dtype == np.float32
    # Moments, too: the pickle is as large as with float32 targets, give or take.
    twin = clone(mlp).fit(rows, y.astype(np.float32))
    sizes = [len(pickle.dumps(est)) for est in (mlp, twin)]
    assert abs(sizes[0] - sizes[1]) < 100
    if solver != "lbfgs":
        mlp.partial_fit(rows, y)
        assert {a.dtype for a in mlp.coefs_} == {np.dtype(np.float32)}


# ---- Row 12: parameters without effect


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"solver": "lbfgs", "early_stopping": True}, ["early_stopping"]),
        ({"solver": "lbfgs", "n_iter_no_change": 3}, ["n_iter_no_change"]),
        ({"solver": "lbfgs", "learning_rate": "adaptive"}, ["learning_rate"]),
        (
            {"solver": "lbfgs", "early_stopping": True, "learning_rate": "invscaling"},
            ["early_stopping", "learning_rate"],
        ),
        ({"solver": "adam", "learning_rate": "invscaling"}, ["learning_rate"]),
        ({"solver": "adam", "learning_rate": "adaptive"}, ["learning_rate"]),
        ({"solver": "lbfgs"}, []),
        ({"solver": "adam"}, []),
        ({"solver": "adam", "early_stopping": True, "n_iter_no_change": 3}, []),
        ({"solver": "sgd", "learning_rate": "adaptive", "early_stopping": True}, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_12_one_warning_names_what_has_no_effect(Estimator, params, named):
    mlp = Estimator(max_iter=2, **params)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mlp.fit(X, Y_CLASS)
    texts = [str(w.message) for w in caught if w.category is not ConvergenceWarning]
    assert len(texts) == bool(named)
    for w in caught:
        assert w.category in (ConvergenceWarning, UnusedParameterWarning)
    for name in named:
        assert name in texts[0]


# ---- Row 13: a diverged run


DIVERGING = {"solver": "sgd", "learning_rate_init": 1e6, "max_iter": 1000}


@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("params", [{}, {"batch_size": 10}, {"loss": "poisson"}])
def test_13_a_diverged_fit_ends_at_once(params, activation, capsys):
    mlp = MLPRegressor(
        activation=activation, verbose=True, random_state=0, **DIVERGING, **params
    )
    with pytest.raises(ValueError, match="Solver produced non-finite parameter"):
        mlp.fit(100 * X, Y_COUNT)
    assert capsys.readouterr().out.count("Iteration") < 100


@pytest.mark.parametrize("value", [1e308, -1e308])
def test_13_rows_too_large_for_the_network(value):
    mlp = MLPRegressor(random_state=0, max_iter=5)
    with pytest.raises(ValueError, match="Solver produced non-finite parameter"):
        mlp.fit(np.full((10, 3), value), Y_REAL[:10])


# ---- Rows 16, 19 and 21


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_16_poisson_refuses_negative_targets(method, solver):
    if (method, solver) == ("partial_fit", "lbfgs"):
        method = "fit"
    mlp = MLPRegressor(loss="poisson", solver=solver)
    y = Y_COUNT.astype(float)
    y[7] = -0.5
    for targets in (y, np.column_stack([Y_COUNT, y])):
        with pytest.raises(ValueError, match=r"(?i)poisson.*(zero|negative)"):
            getattr(mlp, method)(X, targets)
    assert not hasattr(mlp, "coefs_")


@pytest.mark.parametrize("patience", [1, 3, 10])
@pytest.mark.parametrize("early_stopping", [True, False])
def test_19_patience_is_n_iter_no_change_plus_one(early_stopping, patience):
    mlp = MLPClassifier(
        n_iter_no_change=patience,
        learning_rate_init=1e-12,
        early_stopping=early_stopping,
        random_state=0,
    )
    # The first epoch improves on nothing; all others stand still.
    assert mlp.fit(X, Y_CLASS).n_iter_ == patience + 2


def test_21_the_tags_say_that_several_targets_are_taken():
    for estimator in (MLPRegressor(), MLPClassifier()):
        assert get_tags(estimator).target_tags.multi_output
    assert not get_tags(original.MLPRegressor()).target_tags.multi_output


def test_several_columns_of_classes_are_trained_on():
    Y = np.c_[Y_CLASS, Y_CLASS + 1]
    with pytest.raises(ValueError, match="Multioutput target data is not supported"):
        original.MLPClassifier().fit(X, Y)
    assert MLPClassifier(max_iter=200).fit(X, Y).predict(X).shape == Y.shape
