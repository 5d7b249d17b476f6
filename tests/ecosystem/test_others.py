"""The networks with other libraries; those that are heavy are no part of a test run.

Light ones are in the `test` extra. mlflow and shap bring hundreds of megabytes along.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_classification
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skmlp

X, Y = make_classification(n_samples=120, n_features=6, random_state=0)
NAMES = [f"column {i}" for i in range(6)]
SHORT: dict[str, Any] = {"hidden_layer_sizes": 8, "max_iter": 10, "random_state": 0}


def from_pandas() -> Any:
    pandas = pytest.importorskip("pandas", reason="pandas is in the test extra")
    return pandas.DataFrame(X, columns=NAMES), pandas.Series(Y)


def from_pyarrow() -> Any:
    pytest.importorskip("pyarrow", reason="pyarrow is in the test extra")
    frame, target = from_pandas()
    return frame.convert_dtypes(dtype_backend="pyarrow"), target.astype(
        "int64[pyarrow]"
    )


def from_polars() -> Any:
    polars = pytest.importorskip("polars", reason="polars is in the test extra")
    return polars.DataFrame(dict(zip(NAMES, X.T, strict=True))), polars.Series(Y)


@pytest.mark.parametrize("make", [from_pandas, from_pyarrow, from_polars])
def test_data_frames(make):
    frame, target = make()
    model = skmlp.MLPClassifier(**SHORT).fit(frame, target)
    plain = skmlp.MLPClassifier(**SHORT).fit(X, Y)
    assert list(model.feature_names_in_) == NAMES
    assert_array_equal(model.coefs_[0], plain.coefs_[0])
    assert_array_equal(model.predict_proba(frame), plain.predict_proba(X))
    assert model.score(frame, target) == plain.score(X, Y)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[NAMES[::-1]])
    regressor = skmlp.MLPRegressor(**SHORT).fit(frame, target)
    expected = skmlp.MLPRegressor(**SHORT).fit(X, Y).predict(X)
    assert_array_equal(regressor.predict(frame), expected)


def test_imbalanced_learn():
    pytest.importorskip("imblearn", reason="imbalanced-learn is in the test extra")
    from imblearn.ensemble import BalancedBaggingClassifier
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.pipeline import make_pipeline as resampled

    rare = np.r_[np.flatnonzero(Y == 0), np.flatnonzero(Y == 1)[:8]]
    pipeline = resampled(
        RandomOverSampler(random_state=0), skmlp.MLPClassifier(**SHORT)
    ).fit(X[rare], Y[rare])
    again = RandomOverSampler(random_state=0).fit_resample(X[rare], Y[rare])
    by_hand = skmlp.MLPClassifier(**SHORT).fit(*again)
    assert_array_equal(pipeline[-1].coefs_[0], by_hand.coefs_[0])
    bagging = BalancedBaggingClassifier(
        skmlp.MLPClassifier(**SHORT), n_estimators=2, random_state=0
    )
    assert bagging.fit(X[rare], Y[rare]).predict(X).shape == Y.shape


def test_optuna():
    optuna = pytest.importorskip("optuna", reason="optuna is in the test extra")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stopped = []

    class Prune(skmlp.Callback):
        """Reports the loss of each epoch; stops a fit that optuna gives up."""

        def __init__(self, trial: Any) -> None:
            self.trial = trial

        def setup(self, estimator: Any, context: Any) -> None:
            pass

        def teardown(self, estimator: Any, context: Any) -> None:
            pass

        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            pass

        def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
            training = skmlp.training_of(estimator)
            if context.task_name == "fit":
                return False
            self.trial.report(training.losses[-1], len(training.losses))
            if self.trial.should_prune():
                stopped.append(len(training.losses))
                return True
            return False

    def objective(trial: Any) -> float:
        alpha = trial.suggest_float("alpha", 1e-5, 1e4, log=True)
        model = skmlp.MLPClassifier(**SHORT, alpha=alpha)
        return float(model.set_callbacks(Prune(trial)).fit(X, Y).loss_)

    study = optuna.create_study(
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=2)
    )
    for alpha in (1e-4, 1e-3, 1e3):
        study.enqueue_trial({"alpha": alpha})
    study.optimize(objective, n_trials=3)
    assert study.best_params["alpha"] < 1
    assert stopped
    assert max(stopped) < 10


HEAVY = "it is heavy: no part of a usual test run"


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """MLflow, with a store of its own."""
    found = pytest.importorskip("mlflow", reason=f"mlflow: {HEAVY}")
    monkeypatch.chdir(tmp_path)
    found.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    yield found
    found.sklearn.autolog(disable=True, silent=True)


@pytest.mark.filterwarnings("ignore")  # mlflow's own, of many kinds
def test_mlflow_keeps_models_and_metrics(mlflow):
    model = skmlp.MLPClassifier(**SHORT)
    with mlflow.start_run() as run:
        mlflow.log_params(model.get_params())
        model.fit(X, Y)
        for record in model.history_:
            mlflow.log_metric("loss", record["loss"], step=record["epoch"])
        mlflow.sklearn.log_model(
            model,
            name="model",
            skops_trusted_types=["skmlp.estimators.classifier.MLPClassifier"],
        )
    data = mlflow.get_run(run.info.run_id).data
    assert data.params["max_iter"] == "10"
    assert data.metrics["loss"] == model.loss_
    again = mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model")
    assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.filterwarnings("ignore")  # mlflow's own, of many kinds
def test_mlflow_logs_pipelines_by_itself(mlflow):
    mlflow.sklearn.autolog(log_models=False, silent=True)
    pipeline = make_pipeline(StandardScaler(), skmlp.MLPClassifier(**SHORT))
    with mlflow.start_run() as run:
        pipeline.fit(X, Y)
    data = mlflow.get_run(run.info.run_id).data
    assert data.params["mlpclassifier__max_iter"] == "10"
    assert data.metrics["training_accuracy_score"] == pipeline.score(X, Y)
    # It patches the classes that scikit-learn lists, ours not among them.
    with mlflow.start_run() as run:
        skmlp.MLPClassifier(**SHORT).fit(X, Y)
    assert not mlflow.get_run(run.info.run_id).data.params


def test_shap():
    shap = pytest.importorskip("shap", reason=f"shap: {HEAVY}")
    model = skmlp.MLPClassifier(**SHORT).fit(X, Y)
    explainer = shap.Explainer(lambda rows: model.predict_proba(rows)[:, 1], X[:40])
    found = explainer(X[:5])
    total = found.base_values + found.values.sum(axis=1)
    assert_allclose(total, model.predict_proba(X[:5])[:, 1], atol=1e-6)
