"""Checkpoints: a fit that crashed goes on from its file, with the same bits."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skmlp
from tests.laws.places import (
    HERE,
    Place,
    all_shards_here,
    assert_same_bits,
    dask_arrays,
    on_dask,
    processes,
)
from tests.laws.twins import data_of

handed_on = pytest.mark.skipif(
    not hasattr(make_pipeline(None), "set_callbacks"),
    reason="pipelines hand callbacks on from scikit-learn 1.9 on",
)

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

    class Crashing(skmlp.Callback):
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
    [
        (HERE, HERE),
        (all_shards_here(2), all_shards_here(2)),
        (all_shards_here(2), HERE),
    ],
    ids=["one shard", "two shards", "two shards, then n_jobs=None"],
)
def test_a_fit_goes_on(before, after, name, tmp_path):
    check_resumed(tmp_path / "model", before, after, **CHECKPOINTED[name])


def test_a_fit_goes_on_in_processes(tmp_path):
    check_resumed(tmp_path / "model", processes(2), HERE)


def test_a_fit_goes_on_with_fewer_workers(client, tmp_path):
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


def network(**params: Any) -> Any:
    return skmlp.MLPClassifier(5, **{"max_iter": 4, "random_state": 3, **params})


def refused() -> Any:
    return pytest.raises(ValueError, match=r"would all write|several networks would")


def test_clones_do_not_write_one_file(tmp_path):
    X, y = data_of("multiclass", 40)
    model = network().set_callbacks(skmlp.Checkpoint(tmp_path / "model"))
    for _ in range(2):
        model.fit(X, y)  # the same network as often as it likes
    before = (tmp_path / "model").read_bytes()
    for around in (
        lambda: clone(model).fit(X, y),
        lambda: cross_validate(model, X, y, cv=2, error_score="raise"),
        lambda: BaggingClassifier(model, 2).fit(X, y),
        lambda: VotingClassifier([("a", model), ("b", model)]).fit(X, y),
    ):
        with refused():
            around()
    assert (tmp_path / "model").read_bytes() == before
    other = clone(model).set_callbacks(skmlp.Checkpoint(tmp_path / "model"))
    assert other.fit(X, y).n_iter_ == 4
    assert pickle.loads(pickle.dumps(model)).fit(X, y).n_iter_ == 4


def test_two_fits_at_once_do_not_write_one_file(tmp_path):
    X, y = data_of("multiclass", 40)
    checkpoint = skmlp.Checkpoint(tmp_path / "model")

    class Fitting(type(crashes_after(0))):
        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            if context.task_name == "epoch":
                with refused():
                    network().set_callbacks(checkpoint).fit(X, y)

    network().set_callbacks(checkpoint, Fitting()).fit(X, y)
    assert skmlp.load(tmp_path / "model").n_iter_ == 4
    assert network().set_callbacks(checkpoint).fit(X, y).n_iter_ == 4


@handed_on
def test_a_pipeline_hands_it_on(tmp_path):
    X, y = data_of("multiclass", 40)

    def run(path: Any, *others: Any, **params: Any) -> Any:
        steps = StandardScaler(), network(**{"max_iter": 9, **params})
        checkpoint = skmlp.Checkpoint(path, epochs=2, resume=True)
        return make_pipeline(*steps).set_callbacks(checkpoint, *others).fit(X, y)[-1]

    whole = run(tmp_path / "whole")
    assert_array_equal(skmlp.load(tmp_path / "whole").coefs_[0], whole.coefs_[0])
    crashing = crashes_after(5)
    crashing.max_propagation_depth = None
    with pytest.raises(Crash):
        run(tmp_path / "model", crashing)
    assert skmlp.load(tmp_path / "model").n_iter_ == 4
    again = run(tmp_path / "model")
    assert again.loss_curve_ == whole.loss_curve_
    with pytest.raises(ValueError, match="lbfgs"):
        run(tmp_path / "other", solver="lbfgs")


@handed_on
def test_a_hidden_layer_hands_it_on(tmp_path):
    X, y = data_of("multiclass", 40)
    path = tmp_path / "model"
    for steps in ((), (LogisticRegression(),)):
        outer = make_pipeline(skmlp.HiddenLayerTransformer(network()), *steps)
        outer = outer if steps else outer[0]
        outer.set_callbacks(skmlp.Checkpoint(path)).fit(X, y)
        assert skmlp.load(path).n_iter_ == 4
        path.unlink()
    frozen = skmlp.HiddenLayerTransformer(FrozenEstimator(network().fit(X, y)))
    frozen.set_callbacks(skmlp.Checkpoint(path)).fit(X, y)
    assert not path.exists()


@handed_on
def test_several_networks_do_not_write_one_file(tmp_path):
    X, y = data_of("multiclass", 40)
    path = tmp_path / "model"

    def search() -> Any:
        return GridSearchCV(network(), {"alpha": [0.1, 1]}, cv=2)

    for outer in (
        search(),
        make_pipeline(StandardScaler(), search()),
        make_pipeline(skmlp.HiddenLayerTransformer(network()), network()),
    ):
        assert not path.exists()
        outer.set_callbacks(skmlp.Checkpoint(path))
        with refused():
            outer.fit(X, y)
    # The first network of the last pipeline has written it; the second has not.
    assert skmlp.load(path).n_iter_ == 4


def test_seconds_between_two_checkpoints(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(skmlp.estimators.checkpoint.time, "monotonic", lambda: now[0])
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
