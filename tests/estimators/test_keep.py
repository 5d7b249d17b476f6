"""Models in files, pickles of other versions, scikit-learn's classes."""

from __future__ import annotations

import pickle
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import neural_network
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError

import skmlp
from skmlp import saving
from tests.laws.places import (
    HERE,
    TABLE,
    assert_same_bits,
)
from tests.laws.twins import data_of

SOME = [
    "adam, one batch",  # of strings
    "sgd, no momentum, adaptive",
    "lbfgs, poisson",
    "multilabel",
    "stopping early, R2",
    "pieces, sgd",  # a RandomState, and an order of rows that goes on
    "float32",
]


# ---- Files ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_a_loaded_model_is_the_saved_one(name, tmp_path):
    with HERE.around():
        model = run_here(name)
    path = tmp_path / "model.skmlp"
    skmlp.save(model, path)
    again = skmlp.load(path)
    assert type(again) is type(model)
    params = [one.get_params() for one in (again, model)]
    for given in params:
        del given["random_state"]  # `assert_same_bits` compares where it stands
    assert params[0] == params[1]
    assert_same_bits(again, model)
    X, y, _ = TABLE[name].data()
    assert_array_equal(again.predict(X), model.predict(X))
    if name == "pieces, sgd":
        for one in (again, model):
            one.partial_fit(X[15:40], y[15:40])
        assert_same_bits(again, model)


def run_here(name: str) -> Any:
    fit = TABLE[name]
    data = fit.data()
    model = fit.estimator(None)
    for method, rows in fit.calls:
        given = [None if a is None else a[rows] for a in data]
        kwargs = {}
        if method == "partial_fit" and hasattr(model, "predict_proba"):
            kwargs["classes"] = np.arange(data[1].shape[1])
        getattr(model, method)(*given, **kwargs)
    return model


@pytest.mark.parametrize("name", SOME)
def test_equal_fits_have_equal_hashes(name, tmp_path):
    model = run_here(name)
    assert joblib.hash(model) == joblib.hash(run_here(name))
    again = pickle.loads(pickle.dumps(model))
    assert joblib.hash(again) == joblib.hash(model)
    skmlp.save(model, tmp_path / "model")
    kept = skmlp.load(tmp_path / "model").history_
    assert kept == model.history_
    for record, lost in zip(kept, again.history_, strict=True):
        assert record["seconds"] > 0
        assert np.isnan(lost["seconds"])
        assert np.isnan(lost["communicating"])
        assert np.isnan(lost["computing"]).all()
        assert len(lost["waiting"]) == len(record["waiting"])
        assert lost["loss"] == record["loss"]
    assert " s, loss" in model.summary()
    assert " s, loss" not in again.summary()


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_hashes_of_models_that_joblib_returns(n_jobs):
    X, y = data_of("multiclass", 40)
    models = [skmlp.MLPClassifier(5, max_iter=2, random_state=0) for _ in range(2)]
    fits = (joblib.delayed(skmlp.MLPClassifier.fit)(model, X, y) for model in models)
    one, other = joblib.Parallel(n_jobs)(fits)
    assert joblib.hash(one) == joblib.hash(other)
    assert joblib.hash(one) == joblib.hash(clone(one).fit(X, y))


def test_an_unfitted_one_and_its_requests(tmp_path):
    model = skmlp.MLPClassifier((3, 2), alpha=0.5)
    with sklearn.config_context(enable_metadata_routing=True):
        model.set_fit_request(sample_weight=True)
        skmlp.save(model, tmp_path / "model")
        again = skmlp.load(tmp_path / "model")
        routed = again.get_metadata_routing().fit.requests
    assert repr(again) == repr(model)
    assert routed["sample_weight"] is True
    assert not hasattr(again, "coefs_")


def test_others_are_refused(tmp_path):
    class Child(skmlp.MLPClassifier):
        """A user's own."""

    for other in (neural_network.MLPClassifier(), Child()):
        with pytest.raises(TypeError, match="joblib"):
            skmlp.save(other, tmp_path / "model")
    with pytest.raises(ValueError, match=r"params.*alpha.*without pickle"):
        skmlp.save(skmlp.MLPClassifier(alpha=print), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_another_version_warns(tmp_path, monkeypatch):
    model = skmlp.MLPRegressor(max_iter=2).fit([[0.0], [1.0]], [0, 1])
    with monkeypatch.context() as patch:
        patch.setattr(skmlp, "__version__", "0.0.1")
        patch.setattr("skmlp.estimators.base.__version__", "0.0.1")
        skmlp.save(model, tmp_path / "model")
        pickled = pickle.dumps(model)
    words = "MLPRegressor was kept by skmlp 0.0.1"
    with pytest.warns(InconsistentVersionWarning, match=words):
        skmlp.load(tmp_path / "model")
    with pytest.warns(InconsistentVersionWarning, match=words):
        again = pickle.loads(pickled)
    assert_array_equal(again.coefs_[0], model.coefs_[0])
    assert not hasattr(again, "_skmlp_version")
    assert_array_equal(pickle.loads(pickle.dumps(model)).coefs_[0], model.coefs_[0])


def test_fitted_state_is_plain():
    """So that skops has to trust our class alone, and others can read it."""
    sio = pytest.importorskip("skops.io", reason="skops is in the test extra")
    for name in SOME:
        model = run_here(name)
        data = sio.dumps(model)
        names = sio.get_untrusted_types(data=data)
        assert names == [f"{type(model).__module__}.{type(model).__name__}"]
        assert_same_bits(sio.loads(data, trusted=names), model)


# ---- scikit-learn's classes ----------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in SOME if "poisson" not in n])
def test_to_and_from_scikit_learn(name):
    model = run_here(name)
    plain = model.to_sklearn()
    assert type(plain) is getattr(neural_network, type(model).__name__)
    X, y, _ = TABLE[name].data()
    assert_array_equal(plain.predict(X), model.predict(X))
    if hasattr(model, "predict_proba"):
        assert_allclose(plain.predict_proba(X), model.predict_proba(X), rtol=1e-12)
    assert plain.loss_ == model.loss_
    back = type(model).from_sklearn(plain, n_jobs=1)
    assert_array_equal(back.predict(X), model.predict(X))
    assert back.coefs_[0] is not plain.coefs_[0]
    if not model.early_stopping:
        plain.partial_fit(X, y)
        back.partial_fit(X, y)
        assert_allclose(back.coefs_[0], plain.coefs_[0], rtol=1e-4, atol=1e-6)


def test_a_poisson_regressor_of_scikit_learn():
    X, y = data_of("poisson", 40)
    plain = neural_network.MLPRegressor("poisson", (4,), max_iter=5, random_state=0)
    plain.fit(X, y)
    ours = skmlp.MLPRegressor.from_sklearn(plain)
    assert_allclose(ours.predict(X), plain.predict(X))
    assert_allclose(ours.to_sklearn().predict(X), plain.predict(X))
    assert [record["loss"] for record in ours.history_] == plain.loss_curve_
    unfitted = skmlp.MLPRegressor.from_sklearn(clone(plain), max_iter=7)
    assert repr(unfitted).startswith("MLPRegressor(hidden_layer_sizes=(4,)")
    assert unfitted.max_iter == 7


def test_what_scikit_learn_can_not_be():
    X, y = data_of("binary", 40)
    with pytest.raises(NotFittedError):
        skmlp.MLPClassifier().to_sklearn()
    gelu = skmlp.MLPClassifier(3, "gelu", max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match="no activation='gelu'"):
        gelu.to_sklearn()
    same = skmlp.MLPClassifier((3, 3), ["tanh", "tanh"], max_iter=2).fit(X, y)
    assert_array_equal(same.to_sklearn().predict(X), same.predict(X))
    with pytest.raises(TypeError, match="MLPRegressor"):
        skmlp.MLPClassifier.from_sklearn(neural_network.MLPRegressor())


def test_every_class_that_is_saved_is_known():
    for name, cls in saving.known_classes().items():
        assert vars(cls)["_kept_as"] == name
