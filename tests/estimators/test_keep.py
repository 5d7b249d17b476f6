"""Models in files, checkpoints, pickles of other versions, scikit-learn's classes."""

from __future__ import annotations

import pickle
from dataclasses import replace
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
from skmlp.estimators import _keep
from tests.launch.dask_clusters import cluster
from tests.laws.places import (
    HERE,
    TABLE,
    Place,
    assert_same_bits,
    dask_arrays,
    on_dask,
    processes,
    threads,
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
        patch.setattr("skmlp.estimators._base.__version__", "0.0.1")
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


# ---- Checkpoints ---------------------------------------------------------------------

#: Every kind of state: moments, best weights, schedules, counters.
CHECKPOINTED = {
    "adam": {},
    "sgd": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "tol": 0.5,
        "n_iter_no_change": 2,
    },
    "early stopping": {"early_stopping": True, "validation_fraction": 0.3},
    "no random state": {"random_state": None, "early_stopping": True, "dropout": 0.2},
    "dropout, a schedule, a mean": {
        "solver": "adamw",
        "learning_rate": "cosine",
        "dropout": 0.3,
        "average": True,
        "clip_norm": 1.0,
    },
}


class Crash(Exception):
    """The machine is gone."""


def crashes_after(epochs: int) -> Any:
    """A callback that ends a fit by an error."""

    class Crashing(skmlp.callbacks.OwnCallback):
        def setup(self, estimator: Any, context: Any) -> None:
            self.left = epochs

        def teardown(self, estimator: Any, context: Any) -> None:
            pass

        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            if context.task_name == "epoch":
                self.left -= 1
            if self.left < 0:
                raise Crash

        def on_fit_task_end(self, estimator: Any, context: Any) -> None:
            pass

    return Crashing()


def check_resumed(path: Any, before: Place, after: Place, **params: Any) -> None:
    """A fit that crashed and went on elsewhere has the bits of one that did not."""
    X, y = data_of("multiclass", 40)
    params = {"random_state": 3, **params}
    model = skmlp.MLPClassifier(5, batch_size=8, max_iter=9, **params)
    drawn = np.random.get_state()
    with before.around():
        whole = clone(model).set_params(n_jobs=before.n_jobs)
        whole.fit(*before.bring(X, y, None)[:2])
        np.random.set_state(drawn)
        first = clone(model).set_params(n_jobs=before.n_jobs)
        first.set_callbacks(skmlp.Checkpoint(path, epochs=2), crashes_after(5))
        with pytest.raises(Crash):
            first.fit(*before.bring(X, y, None)[:2])
    assert skmlp.load(path).n_iter_ == 4
    np.random.seed(0)
    with after.around():
        second = clone(model).set_params(n_jobs=after.n_jobs)
        second.set_callbacks(skmlp.Checkpoint(path, resume=True))
        second.fit(*after.bring(X, y, None)[:2])
    assert second.n_shards_ == whole.n_shards_
    for one in (whole, second):
        for record in one.history_:
            for seconds in ("computing", "waiting", "communicating"):
                del record[seconds]
    assert_same_bits(second, whole)
    assert_same_bits(skmlp.load(path), skmlp.load(path))
    assert_array_equal(skmlp.load(path).coefs_[0], whole.coefs_[0])


@pytest.mark.parametrize("name", CHECKPOINTED)
@pytest.mark.parametrize(
    ("before", "after"),
    [(HERE, HERE), (threads(2), threads(2)), (threads(2), HERE)],
    ids=["alone", "threads", "threads, then alone"],
)
def test_a_fit_goes_on(before, after, name, tmp_path):
    check_resumed(tmp_path / "model", before, after, **CHECKPOINTED[name])


def test_a_fit_goes_on_in_processes(tmp_path):
    check_resumed(tmp_path / "model", processes(2), threads(2))


@pytest.mark.timeout(60)
def test_a_fit_goes_on_with_fewer_workers(tmp_path):
    with cluster(2) as client:
        check_resumed(tmp_path / "a", on_dask(client, 2, 3), on_dask(client, 2, 2))
        check_resumed(
            tmp_path / "b",
            dask_arrays(client, 2, "even"),
            replace(dask_arrays(client, 2, "even"), n_jobs=1),
        )


def fit(path: Any, rows: int = 40, **params: Any) -> Any:
    X, y = data_of("multiclass", rows)
    model = skmlp.MLPClassifier(5, **{"max_iter": 4, "random_state": 3, **params})
    return model.set_callbacks(skmlp.Checkpoint(path, resume=True)).fit(X, y)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"learning_rate": "step", "decay_epochs": 3},
        {"learning_rate": "exponential"},
        {"learning_rate": "cosine", "restart_epochs": 3},
    ],
    ids=["constant", "step", "exponential", "cosine again and again"],
)
def test_more_epochs_may_be_asked_for(params, tmp_path):
    path = tmp_path / "model"
    assert fit(path, **params).n_iter_ == 4
    longer = fit(path, max_iter=10, **params)
    whole = fit(tmp_path / "other", max_iter=10, **params)
    assert longer.loss_curve_ == whole.loss_curve_
    assert fit(path, max_iter=7, **params).n_iter_ == 10  # that is where it stands


@pytest.mark.parametrize("rate", ["cosine", "one_cycle"])
def test_a_rate_that_ends_with_max_iter_keeps_it(rate, tmp_path):
    fit(tmp_path / "model", learning_rate=rate)
    with pytest.raises(ValueError, match=r"differs in schedule .*'n_epochs': 4"):
        fit(tmp_path / "model", learning_rate=rate, max_iter=10)


@pytest.mark.parametrize("first", [None, 3])
def test_no_random_state_takes_over_the_draws(first, tmp_path):
    path = tmp_path / "model"
    fit(path, random_state=first)
    state = np.random.get_state()
    longer = fit(path, random_state=None, max_iter=10)
    assert longer.n_iter_ == 10
    assert_array_equal(np.random.get_state()[1], state[1])
    if first is not None:
        whole = fit(tmp_path / "other", random_state=first, max_iter=10)
        assert longer.loss_curve_ == whole.loss_curve_


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"alpha": 0.5}, r"another fit, which differs in alpha \(was 0\.0001\)"),
        ({"rows": 41}, r"differs in .*n_rows \(was 40\)"),
        ({"hidden_layer_sizes": 6}, "units"),
        ({"random_state": 4}, "another order. Give random_state the int"),
    ],
)
def test_another_fit_does_not_go_on_from_it(params, words, tmp_path):
    path = tmp_path / "model"
    fit(path)
    before = path.read_bytes()
    size = params.pop("hidden_layer_sizes", 5)
    X, y = data_of("multiclass", params.pop("rows", 40))
    model = skmlp.MLPClassifier(size, **{"random_state": 3, "max_iter": 4, **params})
    model.set_callbacks(skmlp.Checkpoint(path, resume=True))
    with pytest.raises(ValueError, match=words):
        model.fit(X, y)
    assert not hasattr(model, "coefs_")
    assert path.read_bytes() == before


def test_bad_checkpoints(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="damaged or truncated"):
        fit(path)
    skmlp.save(skmlp.MLPClassifier(), path)
    with pytest.raises(ValueError, match="is a estimator, not a checkpoint"):
        fit(path)
    with pytest.raises(ValueError, match="lbfgs"):
        fit(tmp_path / "new", solver="lbfgs")
    with pytest.raises(FileNotFoundError, match="no folder"):
        fit(tmp_path / "missing" / "model")
    for bad in ({"epochs": 0}, {"seconds": -1.0}, {"epochs": 1.5}, {"epochs": None}):
        with pytest.raises(ValueError, match=r"epochs|seconds"):
            skmlp.Checkpoint(path, **bad)


def test_seconds_between_two_checkpoints(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(skmlp.checkpoints.time, "monotonic", lambda: now[0])
    write = skmlp.persistence.write

    def noting(path: Any, kind: str, content: Any) -> None:
        written.append(len(content["training"]["records"]))
        now[0] += 10.0
        write(path, kind, content)

    monkeypatch.setattr(skmlp.persistence, "write", noting)
    clock = skmlp.Checkpoint(tmp_path / "model", epochs=None, seconds=25.0)

    class Clock(type(crashes_after(0))):
        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            now[0] += 10.0

    X, y = data_of("multiclass", 40)
    model = skmlp.MLPClassifier(5, max_iter=7, random_state=0)
    model.set_callbacks(clock, Clock()).fit(X, y)
    assert written == [2, 5, 7]  # the last one because the fit has ended


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
    assert set(_keep.known_classes()) == {"MLPClassifier", "MLPRegressor"}
