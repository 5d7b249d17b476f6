"""Scorers of raw tables get the rows and targets as they came."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skmlp import TabularMLPClassifier, TabularMLPRegressor
from tests.tabular.test_tabular import (
    COLUMNS,
    ESTIMATORS,
    LABELS,
    REAL,
    N,
    frame,
    quick,
    targets,
)


def score_of_a_frame(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> Any:
    """A scorer that wants to see the user's rows; at module level, for joblib."""
    assert list(X.columns) == list(COLUMNS)
    rows = X.index
    pd.testing.assert_frame_equal(X, frame("pandas").loc[rows])
    wanted = LABELS if hasattr(estimator, "classes_") else REAL
    assert_array_equal(y, wanted[rows])
    if sample_weight is not None:
        assert_array_equal(sample_weight, 1 + rows % 3)
    # Other rows, and the same ones in another object, can be predicted, too.
    method = getattr(estimator, "predict_proba", estimator.predict)
    assert_allclose(method(X), method(X.copy()), rtol=1e-4, atol=1e-5)
    assert len(method(X[:3])) == 3
    return estimator.score(X, y, sample_weight=sample_weight)


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_scorers_get_the_rows_of_the_user(kind, backend):
    table, y = frame("pandas"), targets(kind)
    weights = 1.0 + np.arange(N) % 3
    model = quick(kind, scoring=score_of_a_frame, max_iter=4)
    with joblib.parallel_config(backend, n_jobs=2):
        model.fit(table, y)
        assert [m.scoring for m in model.estimators_] == [score_of_a_frame] * 2
        score = model.estimators_[0].best_validation_score_
        named = "accuracy" if kind is TabularMLPClassifier else "r2"
        model.set_params(scoring=named).fit(table, y)
        assert model.estimators_[0].best_validation_score_ == score
        model.set_params(scoring=score_of_a_frame)
        model.fit(table, y, weights)
        model.fit(
            *(table[:200], y[:200], weights[:200]),
            X_val=table[200:],
            y_val=y[200:],
            sample_weight_val=weights[200:],
        )


@pytest.mark.parametrize("other", ["polars", "pyarrow"])
def test_scorers_get_frames_of_all_kinds(other):
    table, seen = frame(other), []

    def scoring(estimator: Any, X: Any, y: Any) -> float:
        seen.append((type(X), type(y), len(X)))
        return -float(np.abs(estimator.predict(X) - np.asarray(y)).mean())

    y = pl.Series(REAL) if other == "polars" else pa.array(REAL)
    model = quick(TabularMLPRegressor, scoring=scoring, max_iter=3).fit(table, y)
    assert {kind for kind, _, _ in seen} == {type(table)}
    assert {n for _, _, n in seen} == {36}
    named = quick(
        TabularMLPRegressor, scoring="neg_mean_absolute_error", max_iter=3
    ).fit(table, y)
    for one, two in zip(model.estimators_, named.estimators_, strict=True):
        assert one.best_validation_score_ == two.best_validation_score_


def test_what_is_wrong_with_scoring_is_said_before_training():
    table = frame("pandas")
    model = quick(TabularMLPRegressor, scoring="neg_mean_absolut_error")
    with pytest.raises(ValueError, match="Did you mean 'neg_mean_absolute_error'"):
        model.fit(table, REAL)
    model.set_params(scoring=lambda estimator, X: 0)
    with pytest.raises(TypeError, match=r"called as scorer\(estimator, X, y\)"):
        model.fit(table, REAL)
