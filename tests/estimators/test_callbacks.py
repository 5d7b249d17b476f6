"""scikit-learn's callbacks see each epoch of a fit anywhere, and may stop it."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skmlp
from skmlp.estimators import callbacks
from skmlp.estimators.fitting.callback_support import _PlainSupport
from tests.laws.places import (
    HERE,
    Place,
    all_shards_here,
    dask_arrays,
    on_dask,
    processes,
)

sklearn_callback = pytest.importorskip(
    "sklearn.callback", reason="scikit-learn has callbacks from 1.9 on"
)

RNG = np.random.default_rng(4)
X = RNG.normal(size=(60, 4))
Y = np.arange(60) % 3
SHORT = {"hidden_layer_sizes": 5, "batch_size": 20, "max_iter": 4, "random_state": 0}


class Log:
    """Notes every hook; stops the fit at the end of epoch `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.seen: list[tuple[Any, ...]] = []
        self.models: list[Any] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.seen.append(("setup",))

    def teardown(self, estimator: Any, context: Any) -> None:
        self.seen.append(("teardown",))

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.seen.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(
        self,
        estimator: Any,
        context: Any,
        *,
        X: Any = None,
        y: Any = None,
        metadata: Any = None,
        fitted_estimator: Any = None,
    ) -> bool:
        self.seen.append(("end", context.task_name, context.task_id))
        self.data = X, y, metadata
        if context.task_name != "fit":
            self.models.append(fitted_estimator)
        return context.task_name != "fit" and context.task_id == self.stop


def story(name: str, n: int) -> list[tuple[Any, ...]]:
    """What a fit of n epochs, or iterations, tells."""
    epochs = [(what, name, k) for k in range(n) for what in ("begin", "end")]
    fit = [("begin", "fit", 0), *epochs, ("end", "fit", 0)]
    return [("setup",), *fit, ("teardown",)]


def check_watched_fit(place: Place, **params: Any) -> None:
    """The callback sees each epoch's model, and nothing of the fit changes."""
    log = Log()
    model = skmlp.MLPClassifier(**{**SHORT, **params}, n_jobs=place.n_jobs)
    plain = clone(model)
    given = place.bring(X, Y, None)[:2]
    with place.around():
        model.set_callbacks(log).fit(*given)
        plain.fit(*given)
    lbfgs = model.solver == "lbfgs"
    assert log.seen == story("iteration" if lbfgs else "epoch", plain.n_iter_)
    assert log.data[0] is given[0]
    assert log.data[1] is given[1]
    assert_array_equal(model.coefs_[0], plain.coefs_[0])
    for k, seen in enumerate(log.models, 1):
        # As if the fit had stopped there: so far as another of that length.
        with place.around():
            stopped = clone(plain).set_params(max_iter=k).fit(*given)
        assert seen.n_iter_ == k
        assert_array_equal(seen.coefs_[1], stopped.coefs_[1])
        assert_array_equal(seen.predict(X), stopped.predict(X))
        assert seen.loss_ == stopped.loss_


@pytest.mark.filterwarnings("ignore::skmlp.UnusedParameterWarning")
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"solver": "sgd", "learning_rate_init": 0.1},
        {"early_stopping": True, "validation_fraction": 0.3},
        {"solver": "lbfgs"},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", [HERE, all_shards_here(2)], ids=["1", "2 shards"])
def test_each_epoch_is_seen(place, params):
    check_watched_fit(place, **params)


def test_on_processes():
    check_watched_fit(processes(2))


def test_on_a_cluster(client):
    check_watched_fit(on_dask(client, 2, 2))
    check_watched_fit(dask_arrays(client, 2, "even"))


@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs"}], ids=str)
def test_true_stops_the_fit(params, recwarn):
    log = Log(stop=1)
    model = skmlp.MLPClassifier(**{**SHORT, "max_iter": 50, **params})
    model.set_callbacks(log).fit(X, Y)
    assert model.n_iter_ == 2
    assert log.seen == story("iteration" if params else "epoch", 2)
    assert not [w for w in recwarn if "nterrupted" in str(w.message)]


def test_metadata_and_clones():
    log = Log()
    w = np.ones(60)
    model = skmlp.MLPRegressor(**SHORT).set_callbacks(log)
    clone(model).fit(X, Y, sample_weight=w)
    assert log.data[2]["sample_weight"] is w
    assert model.set_callbacks() is model
    before = len(log.seen)
    model.fit(X, Y)
    assert len(log.seen) == before


def test_an_error_tears_down_and_leaves_nothing():
    log = Log()
    model = skmlp.MLPClassifier(**SHORT).set_callbacks(log)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full_like(X, np.nan), Y)
    assert log.seen[0] == ("setup",)
    assert log.seen[-1] == ("teardown",)
    assert vars(model) == before


def test_an_error_of_a_callback_ends_the_fit():
    class Broken(Log):
        def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
            raise ZeroDivisionError("in my callback")

    broken = Broken()
    model = skmlp.MLPClassifier(**SHORT).set_callbacks(broken)
    with pytest.raises(ZeroDivisionError, match="in my callback"):
        model.fit(X, Y)
    assert broken.seen[-1] == ("teardown",)
    assert not hasattr(model, "coefs_")


def test_the_scoring_monitor():
    monitor = sklearn_callback.ScoringMonitor(scoring="accuracy")
    model = skmlp.MLPClassifier(**SHORT).set_callbacks(monitor).fit(X, Y)
    scores = [row["accuracy"] for row in monitor.get_logs().data]
    assert len(scores) == 5  # each epoch, and the fit
    assert scores[-1] == scores[-2] == model.score(X, Y)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_inside_a_search_over_pipelines(n_jobs):
    monitor = sklearn_callback.ScoringMonitor(scoring="accuracy")
    model = skmlp.MLPClassifier(**SHORT).set_callbacks(monitor)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model),
        {"mlpclassifier__alpha": [1e-4, 1e-2]},
        cv=2,
        n_jobs=n_jobs,
    ).fit(X, Y)
    logs = monitor.get_logs(select="all")
    rows = [row for log in logs for row in log.data if row["task_name"] == "epoch"]
    assert len(rows) == 5 * 4  # four fits of the folds and the last one, four epochs
    assert hasattr(search.best_estimator_[-1], "coefs_")


@pytest.mark.filterwarnings("ignore::skmlp.UnusedParameterWarning")
def test_the_progress_bars_count_epochs():
    rich = pytest.importorskip("rich.console", reason="rich is an extra, progress")
    pipeline = make_pipeline(StandardScaler(), skmlp.MLPClassifier(**SHORT))
    pipeline.set_callbacks(sklearn_callback.ProgressBar()).fit(X, Y)
    console = rich.Console(file=io.StringIO(), width=200, force_terminal=True)
    bar = skmlp.TrainingProgress(console)
    for params in ({"early_stopping": True}, {"solver": "lbfgs"}):
        model = skmlp.MLPClassifier(**SHORT, **params).set_callbacks(bar).fit(X, Y)
    drawn = console.file.getvalue()
    assert "MLPClassifier" in drawn
    assert f"loss {model.loss_:.4g}" in drawn
    assert f"{model.n_iter_}/4" in drawn
    assert "1 worker, " in drawn
    assert "score 0." in drawn
    copy = pickle.loads(pickle.dumps(bar))
    assert copy._bars == bar._bars == {}


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_progress_bar_for_each_network_inside(n_jobs):
    rich = pytest.importorskip("rich.console", reason="rich is an extra, progress")
    console = rich.Console(file=io.StringIO(), width=200, force_terminal=True)
    bar = skmlp.TrainingProgress(console)
    pipeline = make_pipeline(StandardScaler(), skmlp.MLPClassifier(**SHORT))
    grid = {"mlpclassifier__alpha": [1e-4, 1e-2]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=n_jobs)
    seen: dict[Any, list[Any]] = {}
    show = callbacks._Bars.show

    def noting(bars: Any, message: dict[str, Any]) -> None:
        seen.setdefault(message["key"], []).append(message)
        show(bars, message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks._Bars, "show", noting)
        search.set_callbacks(bar).fit(X, Y)
    assert len(seen) == 5  # four fits of the folds, and the last one
    assert len({pid for pid, *_ in seen}) == (1 if n_jobs is None else 3)
    for messages in seen.values():
        assert [m["completed"] for m in messages] == [0, 1, 2, 3, 4, 4]
        assert [m["ended"] for m in messages] == [False] * 5 + [True]
    drawn = console.file.getvalue()
    assert "4/4" in drawn
    assert f"loss {search.best_estimator_[-1].loss_:.4g}" in drawn
    assert bar._bars == bar._listeners == {}


def test_nobody_watching_leaves_rounds_alone(monkeypatch):
    from skmlp.training import loop

    sizes: list[int] = []
    handle = loop.Trainer.handle

    def noting(trainer: Any, message: Any) -> Any:
        sizes.append(int(message.arrays[0][0]))
        return handle(trainer, message)

    monkeypatch.setattr(loop.Trainer, "handle", noting)
    model = skmlp.MLPClassifier(**{**SHORT, "max_iter": 40, "tol": 0.0})
    model.fit(X, Y)
    assert max(sizes) > 1
    sizes.clear()
    model.set_callbacks(Log()).fit(X, Y)
    assert sizes == [1] * 40


class OldEstimator(_PlainSupport):
    """What the estimators inherit where scikit-learn has no callbacks."""


def test_older_versions_of_scikit_learn_say_so():
    estimator = OldEstimator()
    with pytest.raises(RuntimeError, match=r"need scikit-learn 1\.9"):
        estimator.set_callbacks(Log())
    assert not vars(estimator)
    own = skmlp.Checkpoint("model.skmlp")
    assert estimator.set_callbacks(own)._skl_callbacks == [own]
    assert not vars(estimator.set_callbacks())


def test_a_callback_that_lacks_a_method_is_refused():
    class Half:
        def setup(self, estimator, context):
            """Make ready."""

    model = skmlp.MLPClassifier()
    for bad, told in {
        Half(): "Half is no callback: it lacks the method on_fit_task_begin",
        7: "int is no callback: it lacks the method setup",
        Half: r"Half is a class: set an instance of it, Half\(\.\.\.\)",
    }.items():
        with pytest.raises(TypeError, match=told):
            model.set_callbacks(bad)
    assert not hasattr(model, "_skl_callbacks")


class Prune(skmlp.Callback):
    """Ends a fit by an exception, as Optuna's `TrialPruned`, at a score of 2 epochs."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        training = skmlp.training_of(estimator)
        assert len(training.losses) == len(training.records)
        assert np.isfinite(training.records[-1].score)
        if context.task_name == "epoch" and len(training.losses) == 2:
            raise InterruptedError("pruned")


def test_a_callback_of_one_method():
    model = skmlp.MLPClassifier(**SHORT).set_callbacks(Prune())
    with pytest.raises(InterruptedError, match="pruned"):
        make_pipeline(StandardScaler(), model).fit(
            X, Y, mlpclassifier__X_val=X, mlpclassifier__y_val=Y
        )
    assert skmlp.training_of(model) is None
    assert model.set_callbacks(skmlp.Callback()).fit(X, Y).n_iter_ == 4


def test_the_progress_bar_fits_80_columns():
    rich = pytest.importorskip("rich.console", reason="rich is an extra, progress")
    console = rich.Console(file=io.StringIO(), width=80, force_terminal=True)
    bars = callbacks._Bars(console, False)
    told = [
        "loss 1.235e-05",
        "score -0.8765",
        "12 workers",
        "1 restarts",
        "1.23M rows/s",
    ]
    seen = {"key": 0, "name": "MLPClassifier", "total": 10_000, "completed": 1234}
    bars.show({**seen, "told": told, "ended": False})
    bars.stop()
    drawn = re.sub(r"\x1b\[[0-9;?]*\w", "", console.file.getvalue())
    assert " 1234/10000 loss 1.235e-05, score -0.8765 " in drawn
    assert "…" not in drawn


def test_own_callbacks_work_without_scikit_learns(monkeypatch, tmp_path):
    from skmlp.estimators.fitting import callback_support

    monkeypatch.setattr(callback_support, "CallbackSupportMixin", None)
    path = tmp_path / "model.skmlp"
    model = skmlp.MLPClassifier(**SHORT)
    model.set_callbacks(skmlp.Checkpoint(path)).fit(X, Y)
    assert_array_equal(skmlp.load(path).coefs_[0], model.coefs_[0])
