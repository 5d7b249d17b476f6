"""A model is never worse than it need be in silence: scores, best and last weights."""

from __future__ import annotations

import copy
import functools
import pickle
import re
from typing import Any

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score

import skmlp
from skmlp import MLPClassifier, MLPRegressor, ModelQualityWarning
from tests.estimators.attempts import same
from tests.estimators.dask_data import dask_of

pytestmark = pytest.mark.timeout(120)

CURES = r"X_val and y_val.*scoring='loss'.*validation_fraction"


def rare(n_rows: int, n_positive: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of five normals, of which some, shifted, are positive."""
    rng = np.random.default_rng(0)
    y = np.zeros(n_rows, int)
    y[rng.permutation(n_rows)[:n_positive]] = 1
    return rng.normal(size=(n_rows, 5)) + shift * y[:, None], y


FEW = rare(1000, 4, 2.5)
SOME = rare(5000, 35, 1.0)

RNG = np.random.default_rng(3)
X = RNG.normal(size=(120, 4))
REAL = np.tanh(X[:, 0]) + X[:, 1] ** 2
CLASSES = (X[:, 0] > 0) * 2 + 1
ESTIMATORS: dict[type, np.ndarray] = {MLPClassifier: CLASSES, MLPRegressor: REAL}
each_estimator = pytest.mark.parametrize("Estimator", ESTIMATORS)


# ---- Scores that are not finite ----------------------------------------------------


def refused(model: Any, call: Any) -> str:
    """Return the message of a call that does not train, nor change the model."""
    before = copy.deepcopy(vars(model))
    with pytest.raises(ValueError, match="lack") as caught:
        call(model.set_params(verbose=True))
    assert same(vars(model.set_params(verbose=False)), before)
    return str(caught.value)


THREE = np.arange(120) % 3
TABLE = np.stack([THREE > 0, THREE > 1], axis=1).astype(int)
HEADS = np.stack([THREE + 5, THREE > 1], axis=1)
#: Targets, scorer, which rows are for validation, what these lack.
LACKING: dict[str, tuple[np.ndarray, Any, Any, str]] = {
    "binary": (CLASSES, "roc_auc", CLASSES == 1, "class 3,"),
    "texts": (np.where(CLASSES > 1, "b", "a"), "roc_auc", CLASSES == 1, "class 'b',"),
    "it raises": (CLASSES, "neg_log_loss", CLASSES == 3, "class 1,"),
    "multiclass": (THREE, "roc_auc_ovr", THREE != 1, "class 1,"),
    "most classes": (np.arange(120) % 20, "roc_auc_ovr", np.arange(120) < 4, "7 more,"),
    "multilabel": (TABLE, "roc_auc", THREE > 0, "class 0 of column 0,"),
    "sparse": (sparse.csr_array(TABLE), "roc_auc", THREE > 0, "class 0 of column 0,"),
    "heads": (
        HEADS,
        lambda model, X, y: np.nan,
        THREE < 2,
        "class 7 of column 0, class 1 of column 1,",
    ),
}


@pytest.mark.parametrize(
    ("case", "where"),
    [*((case, "here") for case in LACKING), ("binary", "loky")]
    + [(case, "dask") for case in LACKING if case != "sparse"],
)
def test_rows_of_ones_own_that_lack_a_class(case, where, capsys, request):
    y, scoring, chosen, named = LACKING[case]
    rows, targets = (X, y)
    if where == "dask":
        request.getfixturevalue("client")
        rows, targets = dask_of(X), dask_of(y)
    n_jobs = 2 if where == "loky" else None
    model = MLPClassifier(early_stopping=True, scoring=scoring, n_jobs=n_jobs)

    def fit(model):
        with skmlp.config_context(ranks="as_asked"):
            model.fit(rows, targets, X_val=X[chosen], y_val=y[chosen])

    with joblib.parallel_config(backend="loky" if where == "loky" else "threading"):
        message = refused(model, fit)
    assert named in message
    assert re.search(CURES, message)
    assert "Iteration" not in capsys.readouterr().out


@pytest.mark.parametrize("where", ["here", "dask"])
def test_rows_set_aside_that_lack_a_class(where, capsys, request):
    """The issue's own: of the 4 positives in 1000 rows none is set aside."""
    rows = FEW
    if where == "dask":
        request.getfixturevalue("client")
        rows = tuple(dask_of(a, 300) for a in FEW)
    model = MLPClassifier(early_stopping=True, scoring="roc_auc", random_state=0)
    assert "lack class 1," in refused(model, lambda m: m.fit(*rows))
    assert "Iteration" not in capsys.readouterr().out


def test_pieces_whose_validation_rows_lack_a_class():
    model = MLPClassifier(early_stopping=True, scoring="roc_auc", max_iter=2)
    held_out = {"X_val": X[CLASSES == 1], "y_val": CLASSES[CLASSES == 1]}
    told = refused(
        model, lambda m: m.partial_fit(X, CLASSES, classes=[1, 3], epochs=3, **held_out)
    )
    assert "lack class 3," in told


def test_a_class_without_weight_is_missing_too():
    model = MLPClassifier(
        early_stopping=True, scoring="roc_auc", class_weight={3: 0.0}, max_iter=2
    )
    assert "lack class 3," in refused(model, lambda m: m.fit(X, CLASSES))


@pytest.mark.parametrize("scoring", ["roc_auc", "f1"])
def test_a_single_class_has_no_score(scoring):
    model = MLPClassifier(early_stopping=True, scoring=scoring, max_iter=2)
    told = refused(model, lambda m: m.fit(X, np.zeros(len(X), int)))
    assert "lack a second class" in told
    assert re.search(CURES, told)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize("scoring", [None, "loss", "f1"])
def test_a_score_that_needs_not_all_classes_is_no_error(scoring):
    y, chosen = (CLASSES > 1).astype(int), CLASSES == 1
    model = MLPClassifier(early_stopping=True, scoring=scoring, max_iter=3)
    model.fit(X, y, X_val=X[chosen], y_val=y[chosen])
    assert np.isfinite(model.best_validation_score_)


@pytest.mark.parametrize(
    "params",
    [{}, {"solver": "sgd", "learning_rate": "adaptive"}, {"max_iter": 3}],
    ids=str,
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@each_estimator
def test_no_finite_score_is_an_error_when_the_patience_runs_out(
    Estimator, value, params
):
    asked: list[float] = []

    def scorer(model, X, y):
        asked.append(value)
        return value

    model = Estimator(early_stopping=True, scoring=scorer, **params)
    with pytest.raises(ValueError, match=f"None of .* finite validation.*{CURES}"):
        model.fit(X, ESTIMATORS[Estimator])
    assert len(asked) == params.get("max_iter", 11)
    assert not hasattr(model, "coefs_")


def test_pieces_without_a_finite_score():
    model = MLPRegressor(early_stopping=True, scoring=lambda model, X, y: np.nan)
    with pytest.raises(ValueError, match="None of 2 epochs"):
        model.partial_fit(X, REAL, X_val=X, y_val=REAL, epochs=2)


class Listed:
    """A scorer that gives one number after the other."""

    def __init__(self, *scores: float) -> None:
        self.scores, self.models = list(scores), []

    def __call__(self, model: Any, X: Any, y: Any) -> float:
        self.models.append(copy.deepcopy(model.coefs_))
        value = self.scores[len(self.models) - 1]
        if value == 99:
            raise KeyboardInterrupt
        return value


@each_estimator
def test_a_score_that_is_not_finite_now_and_then_is_passed_over(Estimator):
    nan, inf = np.nan, np.inf
    scorer = Listed(nan, 0.5, inf, 0.7, nan, 0.2, nan, inf, 0.1)
    model = Estimator(early_stopping=True, scoring=scorer, n_iter_no_change=3)
    with pytest.warns(ModelQualityWarning, match="5 of 8 epochs") as caught:
        model.fit(X, ESTIMATORS[Estimator])
    assert len(caught) == 1
    assert model.n_iter_ == 8
    assert model.best_validation_score_ == 0.7
    for ours, best in zip(model.coefs_, scorer.models[3], strict=True):
        assert_array_equal(ours, best)


def test_ctrl_c_before_the_first_finite_score_keeps_the_last_weights():
    scorer = Listed(np.nan, np.nan, 99)
    model = MLPRegressor(early_stopping=True, scoring=scorer)
    with (
        pytest.warns(UserWarning, match="interrupted by user"),
        pytest.warns(ModelQualityWarning, match="2 of 2 epochs"),
    ):
        model.fit(X, REAL)
    for ours, last in zip(model.coefs_, scorer.models[1], strict=True):
        assert_array_equal(ours, last)


def test_a_scorer_is_not_asked_of_a_diverged_model():
    def scorer(model, X, y):
        assert np.isfinite(model.predict(X)).all()
        return len(scores)

    scores: list[float] = []
    model = MLPRegressor(
        hidden_layer_sizes=4,
        solver="sgd",
        early_stopping=True,
        scoring=scorer,
        learning_rate=lambda step, epoch: 0.01 if epoch < 2 else 1e200,
        batch_size=10,
    )
    with pytest.warns(ConvergenceWarning, match="diverged in epoch 3"):
        model.fit(X, REAL)
    assert np.isnan(model.validation_scores_[-1])


# ---- Warm starts with early stopping -----------------------------------------------


def warm(Estimator: type, **params: Any) -> Any:
    """Return a model whose fits, one after the other, are one longer fit."""
    return Estimator(
        **{
            "hidden_layer_sizes": 5,
            "solver": "sgd",
            "momentum": 0,
            "batch_size": 10,
            "learning_rate_init": 0.6,
            "early_stopping": True,
            "validation_fraction": 0.25,
            "n_iter_no_change": np.inf,
            "warm_start": True,
            "max_iter": 1,
            "random_state": 0,
            **params,
        }
    )


@pytest.mark.parametrize("scoring", [None, "loss", "scorer"])
@pytest.mark.parametrize("seed", ["int", "instance", "global"])
@each_estimator
def test_warm_starts_go_on_from_the_last_weights(Estimator, seed, scoring):
    """Epochs that are worse than the best one are not thrown away."""

    def make(**params: Any) -> Any:
        np.random.seed(0)
        states = {"int": 0, "instance": np.random.RandomState(0), "global": None}
        params["random_state"] = states[seed]
        if scoring == "scorer":
            score = "accuracy" if Estimator is MLPClassifier else "r2"
            return warm(Estimator, scoring=score, **params)
        return warm(Estimator, scoring=scoring, **params)

    y = ESTIMATORS[Estimator]
    whole, pieces = make(max_iter=12).fit(X, y), make()
    best = np.maximum.accumulate(whole.validation_scores_)
    assert np.any(best > whole.validation_scores_), "one is to be worse than before"
    for call in range(12):
        if call == 5:
            pieces = pickle.loads(pickle.dumps(pieces))
        pieces.fit(X, y)
    assert_allclose(pieces.loss_curve_, whole.loss_curve_, rtol=1e-9)
    assert_allclose(pieces.validation_scores_, whole.validation_scores_, rtol=1e-9)
    assert pieces.best_validation_score_ == max(pieces.validation_scores_)
    for ours, theirs in zip(pieces.coefs_, whole.coefs_, strict=True):
        assert_allclose(ours, theirs, rtol=1e-9)


@each_estimator
def test_the_first_fit_of_a_warm_start_is_any_fit(Estimator):
    y = ESTIMATORS[Estimator]
    first = warm(Estimator, max_iter=5).fit(X, y)
    alone = warm(Estimator, max_iter=5, warm_start=False).fit(X, y)
    assert_array_equal(first.loss_curve_, alone.loss_curve_)
    assert_array_equal(first.coefs_[0], alone.coefs_[0])


def test_other_rows_after_a_warm_start():
    """As many to train on as before, but others: what a pickle lacks plays no part."""
    model = warm(MLPRegressor).fit(X[:80], REAL[:80])
    again = pickle.loads(pickle.dumps(model))
    for each in (model, again):
        each.set_params(validation_fraction=0.1)
        each.fit(X[:60], REAL[:60], X_val=X[60:], y_val=REAL[60:])
    assert_array_equal(model.loss_curve_, again.loss_curve_)
    assert_array_equal(model.coefs_[0], again.coefs_[0])


def test_a_loop_of_warm_starts_on_digits_is_not_stuck():
    rows, y = load_digits(return_X_y=True)
    rows = rows / 16
    model = MLPClassifier(
        30, warm_start=True, early_stopping=True, max_iter=1, random_state=0
    )
    for _ in range(60):
        model.fit(rows[:1300], y[:1300])
    assert model.score(rows[1300:], y[1300:]) > 0.88


def test_files_keep_the_last_weights(tmp_path):
    model = warm(MLPRegressor)
    for _ in range(6):
        model.fit(X, REAL)
    skmlp.save(model, tmp_path / "model")
    again = skmlp.load(tmp_path / "model").fit(X, REAL)
    assert_array_equal(again.loss_curve_, model.fit(X, REAL).loss_curve_)


def test_weights_that_were_changed_by_hand_win():
    params = {"shuffle": False, "learning_rate_init": 0.01}
    model = warm(MLPRegressor, **params)
    for _ in range(4):
        model.fit(X, REAL)
    given = [W * 0.1 for W in model.coefs_], [b + 1 for b in model.intercepts_]
    for layer, W in enumerate(given[0]):
        model.coefs_[layer][:] = W
    model.intercepts_ = given[1]
    model.fit(X, REAL)
    fresh = warm(MLPRegressor, **params, coefs_init=given[0], intercepts_init=given[1])
    fresh.fit(X, REAL)
    assert model.loss_ == pytest.approx(fresh.loss_, rel=1e-9)
    # The score of the weights before is not theirs.
    assert model.best_validation_score_ == model.validation_scores_[-1]
    assert_allclose(model.coefs_[0], fresh.coefs_[0], rtol=1e-9)


def test_the_last_weights_cost_one_copy_where_they_are_needed():
    def size(**params: Any) -> int:
        params |= {"hidden_layer_sizes": 3000, "learning_rate_init": 1e-5}
        model = warm(MLPRegressor, **params).fit(X, REAL)
        return len(pickle.dumps(model))

    copy_of_weights = 8 * 3000 * 6
    plain = {"early_stopping": False, "validation_fraction": 0.1}
    without = size(**plain, n_iter_no_change=10)
    assert size() - without == pytest.approx(copy_of_weights, rel=0.1)
    assert size(warm_start=False) - without == pytest.approx(0, abs=3000)


def test_warm_starts_drop_other_units_in_each_call():
    model = warm(
        MLPRegressor, dropout=0.5, shuffle=False, learning_rate_init=1e-12
    ).fit(X, REAL)
    first = model.loss_
    assert model.fit(X, REAL).loss_ != pytest.approx(first, rel=1e-6)


# ---- A best epoch that comes too early ---------------------------------------------


@pytest.mark.parametrize("where", ["here", "dask"])
def test_a_rare_class_and_accuracy(where, request):
    """The issue's own: accuracy is that of no class from the first epoch on."""
    rows: tuple[Any, ...] = SOME
    if where == "dask":
        request.getfixturevalue("client")
        rows = tuple(dask_of(a, 2000) for a in SOME)

    def fit(model):
        with skmlp.config_context(ranks="as_asked"):
            model.fit(*rows)

    model = MLPClassifier(early_stopping=True, random_state=0)
    with pytest.warns(ModelQualityWarning, match=r"epoch 1\b.*scoring='loss'"):
        fit(model)
    fit(model.set_params(scoring="loss"))  # without a warning
    assert roc_auc_score(SOME[1], model.predict_proba(SOME[0])[:, 1]) > 0.75


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_coarse_score_of_a_regressor(in_pieces):
    def scorer(model, X, y):
        return float(np.mean(np.abs(model.predict(X) - y) < 1e-9))

    model = MLPRegressor(early_stopping=True, scoring=scorer, random_state=0)
    held_out = {"X_val": SOME[0], "y_val": SOME[0][:, 1]}
    fit = functools.partial(model.partial_fit, epochs=30) if in_pieces else model.fit
    with pytest.warns(ModelQualityWarning, match="epoch 1,"):
        fit(SOME[0], SOME[0][:, 1], **held_out)


def test_a_loop_of_warm_starts_that_keeps_the_first_epoch():
    model = MLPClassifier(
        early_stopping=True, warm_start=True, max_iter=1, random_state=0
    )
    for _ in range(10):
        model.fit(*SOME)
    with pytest.warns(ModelQualityWarning, match="epoch 1,"):
        model.fit(*SOME)


def test_no_warning_where_the_first_epoch_is_the_best_one():
    """It overfits from the first epoch on."""
    rng = np.random.default_rng(0)
    rows, y = rng.normal(size=(600, 30)), rng.integers(2, size=600)
    model = MLPClassifier(
        early_stopping=True,
        validation_fraction=0.3,
        learning_rate_init=0.05,
        random_state=0,
    ).fit(rows, y)
    assert model.n_iter_ < 40
