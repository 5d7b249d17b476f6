"""The interface is scikit-learn's: signatures, parameters, pickles, routing, tags."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import sklearn.neural_network as original
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.fixes import parse_version

import skmlp
from skmlp import MLPClassifier, MLPRegressor
from skmlp.estimators.array_support import HAS_HELPERS
from tests.limits import HANG_S

ESTIMATORS = ["MLPClassifier", "MLPRegressor"]
RNG = np.random.default_rng(4)
N = 40
X = RNG.normal(size=(N, 4))
Y = np.arange(N) % 3
W = RNG.uniform(0.5, 2.0, N)
#: Of fit and partial_fit, by keyword only.
NEW_ARGUMENTS = {"X_val", "y_val", "sample_weight_val", "epochs"}
KWARGS: dict[str, dict[str, Any]] = {
    "MLPClassifier": {"classes": [0, 1, 2]},
    "MLPRegressor": {},
}


def make(name: str, **params: Any) -> Any:
    return getattr(skmlp, name)(
        **{"hidden_layer_sizes": 5, "random_state": 0, "max_iter": 5, **params}
    )


def same_weights(one: Any, two: Any) -> bool:
    pairs = zip(one.coefs_ + one.intercepts_, two.coefs_ + two.intercepts_, strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# ---- Signatures and parameters


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_constructor_is_scikit_learns_with_more_at_the_end(name):
    ours = inspect.signature(getattr(skmlp, name)).parameters
    theirs = inspect.signature(getattr(original, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for parameter, known in theirs.items():
        assert ours[parameter].kind == known.kind
        assert ours[parameter].default == known.default
    added = list(ours)[len(theirs) :]
    assert "n_jobs" in added
    for parameter in added:
        assert ours[parameter].kind is inspect.Parameter.KEYWORD_ONLY
    assert ours["n_jobs"].default is None


@pytest.mark.parametrize("name", ESTIMATORS)
def test_methods_have_the_same_signatures(name):
    ours, theirs = getattr(skmlp, name), getattr(original, name)
    names = {n for n in dir(theirs) if n[0] != "_"}
    assert names <= set(dir(ours))
    extra = {n for n in dir(ours) if n[0] != "_"} - names
    assert not extra & {"decision_function", "transform", "set_output"}
    assert "hidden_outputs" in extra
    for method in names - {"fit_predict"}:
        if callable(getattr(theirs, method)):
            mine = {
                name: parameter
                for name, parameter in inspect.signature(
                    getattr(ours, method)
                ).parameters.items()
                if name not in NEW_ARGUMENTS
                or parameter.kind is not inspect.Parameter.KEYWORD_ONLY
            }
            other = inspect.signature(getattr(theirs, method)).parameters
            assert [(p.name, p.kind, p.default) for p in mine.values()] == [
                (p.name, p.kind, p.default) for p in other.values()
            ], method


@pytest.mark.parametrize("name", ESTIMATORS)
def test_kinds(name):
    estimator = make(name)
    assert is_classifier(estimator) is (name == "MLPClassifier")
    assert is_regressor(estimator) is (name == "MLPRegressor")
    assert type(estimator).__name__ == name
    assert estimator.__module__.startswith("skmlp")


def test_the_loss_of_the_classifier_is_no_parameter():
    assert MLPClassifier().loss == "log_loss"
    assert "loss" not in MLPClassifier().get_params()
    assert MLPRegressor("poisson", (3,)).get_params()["loss"] == "poisson"


@pytest.mark.parametrize("name", ESTIMATORS)
def test_parameters_come_back_as_they_went_in(name):
    sizes = (np.int64(3), 4)
    estimator = make(name, hidden_layer_sizes=sizes, alpha=0.5, n_jobs=2)
    params = estimator.get_params()
    assert params["hidden_layer_sizes"] is sizes
    assert clone(estimator).get_params() == params
    assert type(estimator)(**params).get_params() == params
    assert "alpha=0.5" in repr(estimator)
    assert name in estimator._repr_html_()
    estimator.fit(X, Y)
    assert estimator.get_params() == params
    assert not hasattr(clone(estimator), "coefs_")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fit_and_partial_fit_return_the_estimator(name):
    estimator = make(name)
    assert estimator.fit(X, Y) is estimator
    assert estimator.partial_fit(X, Y) is estimator


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_data_is_left_alone(name):
    rows, y, w = X.copy(), Y.copy(), W.copy()
    for solver in ("adam", "lbfgs"):
        estimator = make(name, solver=solver).fit(rows, y, sample_weight=w)
        estimator.score(rows, y, w)
    assert_array_equal(rows, X)
    assert_array_equal(y, Y)
    assert_array_equal(w, W)


# ---- Tags, routing, feature names


@pytest.mark.parametrize("name", ESTIMATORS)
def test_tags(name):
    ours = dataclasses.asdict(get_tags(make(name)))
    theirs = dataclasses.asdict(get_tags(getattr(original, name)()))
    # Row 21 of the differences.
    ours["target_tags"].pop("multi_output")
    theirs["target_tags"].pop("multi_output")
    assert ours.pop("array_api_support") == HAS_HELPERS
    assert not theirs.pop("array_api_support")
    assert ours == theirs


@pytest.mark.parametrize("name", ESTIMATORS)
def test_metadata_requests_are_scikit_learns(name):
    with sklearn.config_context(enable_metadata_routing=True):
        pair = [make(name), getattr(original, name)()]
        for estimator in pair:
            estimator.set_fit_request(sample_weight=True)
            estimator.set_score_request(sample_weight="weight")
            estimator.set_partial_fit_request(sample_weight=False)
            if name == "MLPClassifier":
                estimator.set_partial_fit_request(classes=True)
        ours, theirs = (
            {
                method: {
                    name: request
                    for name, request in requests.items()
                    if name not in NEW_ARGUMENTS
                }
                for method, requests in est.get_metadata_routing()._serialize().items()
            }
            for est in pair
        )
    assert ours == theirs


@pytest.mark.parametrize("name", ESTIMATORS)
def test_weights_are_routed_through_a_pipeline_and_a_search(name):
    with sklearn.config_context(enable_metadata_routing=True):
        step = make(name).set_fit_request(sample_weight=True)
        step.set_score_request(sample_weight=True)
        pipe = make_pipeline(StandardScaler(with_mean=False), step)
        pipe[0].set_fit_request(sample_weight=False)
        pipe.fit(X, Y, sample_weight=W)
        rows = StandardScaler(with_mean=False).fit_transform(X)
        assert same_weights(pipe[-1], make(name).fit(rows, Y, sample_weight=W))
        if parse_version(sklearn.__version__) >= parse_version(
            "1.8"
        ):  # before, no pipeline could be scored so
            found = cross_validate(pipe, X, Y, params={"sample_weight": W}, cv=2)
            assert np.isfinite(found["test_score"]).all()
        search = GridSearchCV(step, {"alpha": [0.1, 1.0]}, cv=2)
        search.fit(X, Y, sample_weight=W)
    best = make(name, **search.best_params_).fit(X, Y, sample_weight=W)
    assert same_weights(search.best_estimator_, best)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_feature_names(name, early_stopping):
    pd = pytest.importorskip("pandas", reason="feature names are those of data frames")
    columns = ["a", "b", "c", "d"]
    frame, y = pd.DataFrame(X, columns=columns), pd.Series(Y, name="target")
    estimator = make(name, early_stopping=early_stopping).fit(frame, y)
    assert_array_equal(estimator.feature_names_in_, np.array(columns, dtype=object))
    assert estimator.n_features_in_ == 4
    assert same_weights(estimator, make(name, early_stopping=early_stopping).fit(X, Y))
    assert_array_equal(estimator.predict(frame), clone(estimator).fit(X, Y).predict(X))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        estimator.predict(X)
    estimator.fit(X, Y)
    assert not hasattr(estimator, "feature_names_in_")


# ---- Copies and pickles

WAYS: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda est: pickle.loads(pickle.dumps(est)),
    "old pickle": lambda est: pickle.loads(pickle.dumps(est, protocol=2)),
    "deepcopy": copy.deepcopy,
    "joblib": lambda est: joblib.load(_dumped(est)),
}


def _dumped(estimator: Any) -> io.BytesIO:
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_copy_is_the_same_model(name, solver, way):
    estimator = make(name, solver=solver).fit(X, Y)
    twin = WAYS[way](estimator)
    assert_array_equal(twin.predict(X), estimator.predict(X))
    assert same_weights(twin, estimator)
    assert twin.get_params() == estimator.get_params()
    # It goes on like the original, and apart from it.
    kept = copy.deepcopy(estimator.coefs_)
    if solver == "lbfgs":
        twin.set_params(warm_start=True).fit(X, Y)
    else:
        twin.partial_fit(X, Y)
    for before, now in zip(kept, estimator.coefs_, strict=True):
        assert_array_equal(before, now)
    if solver == "lbfgs":
        estimator.set_params(warm_start=True).fit(X, Y)
    else:
        estimator.partial_fit(X, Y)
    assert same_weights(twin, estimator)


def _fitted_in_a_worker(seed: int) -> Any:
    return make("MLPClassifier", random_state=seed).fit(X, Y)


def test_fits_in_forked_workers():
    """A child of a process that has trained must not inherit its locks."""
    here = [_fitted_in_a_worker(seed) for seed in range(3)]
    run = joblib.Parallel(n_jobs=2, backend="multiprocessing", timeout=HANG_S)
    there = run(joblib.delayed(_fitted_in_a_worker)(seed) for seed in range(3))
    for one, two in zip(here, there, strict=True):
        assert same_weights(one, two)


# ---- coefs_ and intercepts_ are the truth


@pytest.mark.parametrize("kind", ["replaced", "in place", "lists", "float32"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_assigned_weights_are_predicted_with(name, kind):
    estimator = make(name).fit(X, Y)
    coefs = [RNG.normal(size=W.shape) for W in estimator.coefs_]
    biases = [RNG.normal(size=b.shape) for b in estimator.intercepts_]
    if kind == "in place":
        for mine, new in zip(estimator.coefs_, coefs, strict=True):
            mine[...] = new
        for mine, new in zip(estimator.intercepts_, biases, strict=True):
            mine[...] = new
    elif kind == "lists":
        estimator.coefs_ = [W.tolist() for W in coefs]
        estimator.intercepts_ = [b.tolist() for b in biases]
    else:
        dtype = np.float32 if kind == "float32" else np.float64
        estimator.coefs_ = [W.astype(dtype) for W in coefs]
        estimator.intercepts_ = [b.astype(dtype) for b in biases]
    hidden = np.maximum(X @ coefs[0] + biases[0], 0)
    raw = hidden @ coefs[1] + biases[1]
    tolerance = 1e-4 if kind == "float32" else 1e-12
    if name == "MLPRegressor":
        assert_allclose(estimator.predict(X), raw[:, 0], rtol=tolerance)
    else:
        odds = np.exp(raw)
        share = odds / odds.sum(axis=1, keepdims=True)
        assert_allclose(estimator.predict_proba(X), share, rtol=tolerance)
        assert_array_equal(estimator.predict(X), raw.argmax(axis=1))


@pytest.mark.parametrize("how", ["partial_fit", "warm start", "lbfgs"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_assigned_weights_are_trained_on(name, how):
    """A model whose weights are taken from another one goes on from there."""
    params = {"solver": "lbfgs"} if how == "lbfgs" else {"solver": "sgd", "momentum": 0}
    params["shuffle"] = False
    donor = make(name, warm_start=True, **params).fit(X, Y)
    heir = make(name, warm_start=True, **params).set_params(random_state=1).fit(X, Y)
    heir.coefs_ = [W.copy() for W in donor.coefs_]
    heir.intercepts_ = [b.copy() for b in donor.intercepts_]
    for estimator in (donor, heir):
        if how == "partial_fit":
            estimator.partial_fit(X, Y)
        else:
            estimator.fit(X, Y)
    assert same_weights(donor, heir)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_assigned_weights_meet_the_moments_of_the_calls_before(solver):
    """As with the original."""
    pair = [module.MLPRegressor(hidden_layer_sizes=3) for module in (skmlp, original)]
    for estimator in pair:
        estimator.set_params(random_state=0, solver=solver, shuffle=False)
        estimator.partial_fit(X, Y)
        for weights in estimator.coefs_:
            weights[...] = 0.1
        estimator.partial_fit(X, Y)
    for mine, other in zip(pair[0].coefs_, pair[1].coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-9)
