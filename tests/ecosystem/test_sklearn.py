"""The networks inside scikit-learn's tools, each against what the tool promises."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - enables
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import d2_pinball_score, get_scorer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_predict,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

import skmlp

X, Y = make_classification(
    n_samples=120, n_features=6, n_informative=4, class_sep=2.0, random_state=0
)
W = np.arange(120) % 3 + 1.0


def net(**params: Any) -> Any:
    params = {
        "hidden_layer_sizes": 8,
        "batch_size": 20,
        "max_iter": 30,
        "learning_rate_init": 0.01,
        "random_state": 0,
        **params,
    }
    return skmlp.MLPClassifier(**params)


def test_pipeline_is_the_steps_by_hand():
    pipeline = make_pipeline(StandardScaler(), net()).fit(X, Y)
    scaled = StandardScaler().fit_transform(X)
    assert_array_equal(
        pipeline.predict_proba(X), net().fit(scaled, Y).predict_proba(scaled)
    )
    assert pipeline.score(X, Y) > 0.8


def test_column_transformer_of_a_frame():
    pd = pytest.importorskip("pandas", reason="pandas is in the test extra")
    frame = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "kind": np.array(["u", "v"])[Y]})
    columns = ColumnTransformer(
        [("num", StandardScaler(), ["a", "b"]), ("cat", OneHotEncoder(), ["kind"])]
    )
    pipeline = make_pipeline(columns, net()).fit(frame, Y)
    assert pipeline.score(frame, Y) > 0.99  # the kind gives it away
    shuffled = frame[["kind", "b", "a"]]
    assert_array_equal(pipeline.predict(shuffled), pipeline.predict(frame))


def test_set_output_hands_names_on():
    pytest.importorskip("pandas", reason="pandas is in the test extra")
    scaler = StandardScaler().set_output(transform="pandas")
    pipeline = make_pipeline(scaler, net()).fit(X, Y)
    assert list(pipeline[-1].feature_names_in_) == [f"x{i}" for i in range(6)]


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_grid_search(n_jobs):
    grid = {"alpha": [1e-4, 1e3], "hidden_layer_sizes": [(8,), (6, 4)]}
    search = GridSearchCV(net(), grid, cv=2, n_jobs=n_jobs).fit(X, Y)
    assert search.best_params_["alpha"] == 1e-4
    again = clone(search.best_estimator_).fit(X, Y)
    assert_array_equal(again.coefs_[0], search.best_estimator_.coefs_[0])


def test_halving_search_over_epochs():
    search = HalvingGridSearchCV(
        net(),
        {"alpha": [1e-4, 1e-2, 1.0, 1e3]},
        resource="max_iter",
        min_resources=5,
        max_resources=20,
        factor=2,
        cv=2,
        random_state=0,
    ).fit(X, Y)
    assert search.n_resources_ == [5, 10, 20]
    assert search.best_estimator_.max_iter == 20


def test_weights_are_routed():
    seen = []

    class Spy(skmlp.MLPClassifier):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            seen.append(sample_weight)
            return super().fit(X, y, sample_weight)

    with sklearn.config_context(enable_metadata_routing=True):
        model = Spy(8, max_iter=3, random_state=0)
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, model)
        result = cross_validate(pipeline, X, Y, cv=3, params={"sample_weight": W})
    assert [len(w) for w in seen] == [80, 80, 80]
    assert np.isfinite(result["test_score"]).all()


@pytest.mark.parametrize("ensemble", [False, True])
def test_calibration(ensemble):
    model = CalibratedClassifierCV(net(), cv=2, ensemble=ensemble)
    model.fit(X, Y, sample_weight=W)
    proba = model.predict_proba(X)
    assert_allclose(proba.sum(axis=1), 1.0)
    assert get_scorer("neg_brier_score")(model, X, Y) > -0.25


def test_ensembles():
    bagging = BaggingClassifier(net(), n_estimators=3, n_jobs=2, random_state=0)
    bagging.fit(X, Y, sample_weight=W)
    assert len({m.coefs_[0].tobytes() for m in bagging.estimators_}) == 3
    pairs = [("net", net()), ("line", LogisticRegression())]
    voting = VotingClassifier(pairs, voting="soft").fit(X, Y)
    mean = (
        net().fit(X, Y).predict_proba(X) + voting.estimators_[1].predict_proba(X)
    ) / 2
    assert_allclose(voting.predict_proba(X), mean)
    stacking = StackingClassifier(pairs, cv=2).fit(X, Y)
    assert stacking.score(X, Y) > 0.8


def test_inspection():
    rng = np.random.default_rng(0)
    noisy = np.column_stack([X, rng.normal(size=(120, 1))])
    model = net(max_iter=100).fit(noisy, Y)
    found = permutation_importance(model, noisy, Y, n_repeats=3, random_state=0)
    assert found.importances_mean.argmax() != 6
    line = partial_dependence(model, noisy, [0], grid_resolution=5)
    by_hand = noisy.copy()
    by_hand[:, 0] = line["grid_values"][0][2]
    assert_allclose(line["average"][0, 2], model.predict_proba(by_hand)[:, 1].mean())


def test_learning_curve_and_predictions_across_folds():
    sizes, train, test = learning_curve(net(), X, Y, cv=2, train_sizes=[20, 60])
    assert sizes.tolist() == [20, 60]
    assert train.shape == test.shape == (2, 2)
    proba = cross_val_predict(net(), X, Y, cv=2, method="predict_proba")
    assert proba.shape == (120, 2)
    _, *times = learning_curve(
        net(), X, Y, cv=2, train_sizes=[20, 60], exploit_incremental_learning=True
    )
    assert np.isfinite(times).all()


def test_a_transformed_target():
    model = skmlp.MLPRegressor(hidden_layer_sizes=5, solver="lbfgs", random_state=0)
    target = np.exp(X[:, 0] + 1)
    model = TransformedTargetRegressor(model, func=np.log, inverse_func=np.exp)
    assert model.fit(X, target).score(X, target) > 0.9


def test_quantiles_behind_others():
    network = skmlp.MLPRegressor(
        "quantile", 5, quantile=[0.1, 0.5, 0.9], max_iter=20, random_state=0
    )
    y = 100 + 30 * X[:, 0] + X[:, 1]
    target = TransformedTargetRegressor(network, transformer=StandardScaler())
    score = skmlp.d2_pinball_scorer
    for outer in (target, make_pipeline(StandardScaler(), target)):
        columns = outer.fit(X, y).predict(X).T
        levels = zip(columns, network.quantile, strict=True)
        by_hand = [
            d2_pinball_score(y, column, sample_weight=W, alpha=level)
            for column, level in levels
        ]
        assert_allclose(score(outer, X, y, W), np.mean(by_hand))
    search = GridSearchCV(target, {"regressor__alpha": [0.1, 9]}, scoring=score, cv=2)
    assert np.isfinite(search.fit(X, y).cv_results_["mean_test_score"]).all()
    assert_allclose(search.score(X, y), score(search, X, y))
    network.fit(X, y)
    assert score(network, X, y, W) == network.score(X, y, W)
    bagging = BaggingRegressor(network, n_estimators=2, random_state=0).fit(X, y)
    assert np.isfinite(score(bagging, X, y))
    with pytest.raises(NotFittedError):
        score(clone(target), X, y)
    target.set_params(regressor=skmlp.MLPRegressor(max_iter=2)).fit(X, y)
    with pytest.raises(ValueError, match=r"must hold networks with loss='quantile'"):
        score(target, X, y)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_sparse_arrays(kind):
    thin = np.where(np.abs(X) > 1, X, 0.0)
    given = getattr(sparse, f"{kind}_array")(thin)
    model = net().fit(given, Y)
    assert_allclose(model.coefs_[0], net().fit(thin, Y).coefs_[0], rtol=1e-9)
    assert_allclose(model.predict_proba(given), model.predict_proba(thin), rtol=1e-9)


def double(rows: Any) -> Any:
    """Count the calls in the memory's log."""
    return rows * 2


def test_joblib_memory(tmp_path):
    memory = joblib.Memory(tmp_path, verbose=0)
    pipeline = Pipeline(
        [("double", FunctionTransformer(double)), ("net", net())], memory=memory
    )
    first = pipeline.fit(X, Y).predict_proba(X)
    assert_array_equal(clone(pipeline).fit(X, Y).predict_proba(X), first)

    calls = []

    @memory.cache
    def fitted(model: Any) -> Any:
        calls.append(model)
        return model.fit(X, Y)

    assert_array_equal(fitted(net()).coefs_[0], fitted(net()).coefs_[0])
    assert len(calls) == 1
