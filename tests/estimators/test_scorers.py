"""What a scorer is given: rows of the caller's kind, and no arguments that it lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from joblib import parallel_config
from scipy import sparse
from sklearn.metrics import accuracy_score, make_scorer

import skmlp
from skmlp import MLPClassifier, MLPRegressor

N = 60
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(N, 3))
CODES = (VALUES[:, 0] > 0).astype(int)
STOP = {"early_stopping": True, "max_iter": 3, "random_state": 0, "batch_size": 20}

FRAMES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "pandas": (
        lambda X: pd.DataFrame(X, columns=list("abc"), index=np.arange(len(X)) + 100),
        lambda y: pd.Series(y, index=np.arange(len(y)) + 100, name="target"),
    ),
    "polars": (lambda X: pl.DataFrame(X, schema=list("abc")), pl.Series),
}


class Looking:
    """A scorer that keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Any]] = []

    def __call__(
        self, estimator: Any, X: Any, y: Any, sample_weight: Any = None
    ) -> Any:
        self.seen.append((X, y))
        first = np.asarray(X["a"])
        assert len(first) == len(y) == len(estimator.predict(X))
        return float(np.mean(first))

    def check(self, X: Any, y: Any, n_calls: int) -> tuple[Any, Any]:
        """They are of the kinds of X and y, with their names."""
        assert len(self.seen) == n_calls
        for rows, targets in self.seen:
            assert (type(rows), type(targets)) == (type(X), type(y))
            assert list(rows.columns) == list(X.columns)
        return self.seen[0]


@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("kind", FRAMES)
def test_rows_set_aside_are_of_the_callers_kind(kind, Estimator):
    X, y = FRAMES[kind][0](VALUES), FRAMES[kind][1](CODES)
    model = Estimator(scoring=Looking(), **STOP).fit(X, y)
    rows, targets = model.scoring.check(X, y, 3)
    assert len(rows) == N // 10
    if kind == "pandas":
        assert list(rows.index) == list(targets.index)
        assert rows.equals(X.loc[rows.index])
        assert targets.equals(y.loc[rows.index])


@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("kind", FRAMES)
def test_rows_of_ones_own_are_handed_on(kind, Estimator):
    X, y = FRAMES[kind][0](VALUES), FRAMES[kind][1](CODES)
    held_out = {"X_val": X[:20], "y_val": y[:20]}
    model = Estimator(scoring=Looking(), **STOP).fit(X, y, **held_out)
    assert model.scoring.check(X, y, 3)[0] is held_out["X_val"]
    first = {"classes": [0, 1]} if Estimator is MLPClassifier else {}
    model = Estimator(scoring=Looking())
    model.partial_fit(X, y, **first, **held_out, epochs=2)
    model.partial_fit(X, y, **held_out)
    model.scoring.check(X, y, 3)


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("scoring", ["roc_auc", "accuracy", "neg_log_loss"])
def test_a_named_scorer_gives_the_score_of_the_values(scoring, kind):
    """Warnings are errors here: of names that are not there, too."""
    X, y = FRAMES[kind][0](VALUES), FRAMES[kind][1](CODES)
    model = MLPClassifier(scoring=scoring, **STOP).fit(X, y)
    plain = MLPClassifier(scoring=scoring, **STOP).fit(VALUES, CODES)
    assert model.validation_scores_ == plain.validation_scores_


def test_names_on_one_side_are_told_of_once():
    frame = FRAMES["pandas"][0](VALUES)
    for X, X_val in ((frame, VALUES), (VALUES, frame)):
        model = MLPClassifier(scoring="roc_auc", **STOP)
        with pytest.warns(UserWarning, match="feature names") as told:
            model.fit(X, CODES, X_val=X_val[:20], y_val=CODES[:20])
        assert len([w for w in told if "feature names" in str(w.message)]) == 1
        assert hasattr(model, "feature_names_in_") == (X is frame)


@pytest.mark.parametrize("container", [list, np.asarray, sparse.csr_matrix])
def test_what_has_no_names_comes_as_an_array(container):
    seen: list[Any] = []

    def scorer(estimator: Any, X: Any, y: Any) -> float:
        seen.append((X, y))
        return float(estimator.score(X, y))

    MLPClassifier(scoring=scorer, **STOP).fit(container(VALUES), list(CODES))
    kind = sparse.csr_matrix if container is sparse.csr_matrix else np.ndarray
    assert all(isinstance(X, kind) and isinstance(y, np.ndarray) for X, y in seen)
    assert len(seen) == 3


def test_missing_targets_keep_the_names():
    X, y = FRAMES["pandas"][0](VALUES), pd.Series(VALUES[:, 0], dtype="Float64")
    y[::2] = pd.NA
    columns: list[Any] = []

    def scorer(estimator: Any, X: Any, y: Any) -> float:
        columns.append(list(X.columns))
        return float(np.mean(y - estimator.predict(X)))

    model = MLPRegressor(missing_targets="mask", scoring=scorer, **STOP)
    model.fit(X, y, X_val=X, y_val=y)
    assert columns == [list("abc")] * 3


# ---- Arguments -----------------------------------------------------------------------


def cost(y_true: Any, y_pred: Any) -> float:
    return -float(np.mean(y_true != y_pred))


def scaled(y_true: Any, y_pred: Any, *, scale: float, sample_weight: Any = None) -> Any:
    return scale * accuracy_score(y_true, y_pred, sample_weight=sample_weight)


@pytest.mark.parametrize("held_out", [{}, {"X_val": VALUES, "y_val": CODES}])
@pytest.mark.parametrize(
    ("Estimator", "scoring", "weights", "text"),
    [
        (MLPClassifier, make_scorer(cost), "class_weight", "metric 'cost'.*weights"),
        (MLPClassifier, make_scorer(cost), "sample_weight", "metric 'cost'"),
        (MLPRegressor, make_scorer(cost), "sample_weight", "metric 'cost'"),
        (MLPRegressor, "neg_max_error", "sample_weight", "metric 'max_error'"),
        (MLPClassifier, make_scorer(scaled), None, "metric 'scaled'.*'scale'"),
        (MLPClassifier, accuracy_score, None, r"scorer\(estimator, X, y\).*make_sco"),
        (MLPClassifier, lambda estimator, X, y: 0.0, "sample_weight", "weights"),
    ],
)
def test_what_a_scorer_lacks_is_told_before_training(
    Estimator, scoring, weights, text, held_out
):
    model = Estimator(scoring=scoring, **STOP)
    kwargs = {"sample_weight": np.ones(N)} if weights == "sample_weight" else {}
    if weights == "class_weight":
        model.set_params(class_weight="balanced")
    model.set_params(verbose=True)  # shows that no epoch was trained
    before = dict(vars(model))
    with pytest.raises(TypeError, match=text.replace(".*weights", "")) as error:
        model.fit(VALUES, CODES, **kwargs, **held_out)
    assert ("the rows have weights" in str(error.value)) == bool(weights)
    assert vars(model) == before


def test_what_is_not_called_is_not_looked_at():
    with pytest.warns(skmlp.UnusedParameterWarning, match="scoring"):
        MLPRegressor(scoring="neg_max_error", max_iter=2).fit(VALUES, CODES, np.ones(N))


def test_a_metric_with_all_that_it_needs():
    scorer = make_scorer(scaled, scale=2.0)
    model = MLPClassifier(scoring=scorer, class_weight={0: 3}, **STOP)
    assert max(model.fit(VALUES, CODES).validation_scores_) > 0.5


# ---- On Dask -------------------------------------------------------------------------


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("backend", ["dask", "loky"])
def test_rows_of_this_process_keep_their_names_wherever_they_are_trained(backend):
    X, y = FRAMES["pandas"][0](VALUES), FRAMES["pandas"][1](CODES)
    model = MLPClassifier(scoring=Looking(), n_jobs=2, **STOP)
    with parallel_config(backend=backend), skmlp.config_context(ranks="as_asked"):
        model.fit(X, y)
    assert model.n_shards_ == 2
    model.scoring.check(X, y, 3)


def test_a_scorer_of_dask_frames_runs_in_the_driver(client):
    """The rows stay on the workers: their names are no reason to warn."""
    dd = pytest.importorskip("dask.dataframe")
    frame = FRAMES["pandas"][0](VALUES).assign(target=CODES)
    data = dd.from_pandas(frame, npartitions=2)
    X, y = data[list("abc")], data["target"]
    model = MLPClassifier(scoring="roc_auc", **STOP)
    for held_out in ({}, {"X_val": frame[list("abc")], "y_val": frame["target"]}):
        model.fit(X, y, **held_out)
        assert len(model.validation_scores_) == 3
        assert np.isfinite(model.validation_scores_).all()
    with pytest.raises(ValueError, match="on the workers: a scorer can use"):
        MLPClassifier(scoring=Looking(), **STOP).fit(X, y)
