"""Tuning: grid, halving, Optuna
=============================

Search the learning rate, the size and ``alpha`` first. Take ``GridSearchCV`` for a few
values, ``HalvingGridSearchCV`` for many, and Optuna with pruning for long fits.

.. index:: ! tuning, ! Optuna, ! GridSearchCV, ! HalvingGridSearchCV
"""

import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - scikit-learn asks for it
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmlp import Callback, MLPClassifier, training_of

X, y = load_breast_cancer(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(X, y, stratify=y, random_state=0)
network = MLPClassifier((32,), max_iter=60, batch_size=32, random_state=0)
model = make_pipeline(StandardScaler(), network)

# %%
# Grid
# ----
# Let the network's own ``n_jobs`` be None: the search shares the candidates out.

grid = {
    "mlpclassifier__learning_rate_init": [1e-3, 1e-2],
    "mlpclassifier__alpha": [1e-4, 1.0],
}
search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=3).fit(X_train, y_train)
print(search.best_params_, f"log loss {-search.best_score_:.3f}")

# %%
# Halving
# -------
# Epochs are the resource: all candidates get a few, the better third three times as
# many.

halving = HalvingGridSearchCV(
    model,
    grid | {"mlpclassifier__hidden_layer_sizes": [(16,), (64,)]},
    resource="mlpclassifier__max_iter",
    min_resources=7,
    max_resources=63,
    scoring="neg_log_loss",
    cv=3,
    random_state=0,
).fit(X_train, y_train)
print(halving.n_resources_, halving.best_params_)

# %%
# Optuna, with pruning
# --------------------
# A callback of one method reports each epoch, and ends a fit that falls behind.
# ``TrialPruned`` goes through ``fit``, and Optuna takes it from there.


class Prune(Callback):
    """Ask a trial, after each epoch, whether to go on."""

    def __init__(self, trial):
        self.trial = trial

    def on_fit_task_end(self, estimator, context):
        if context.task_name != "epoch":
            return
        training = training_of(estimator)
        epoch = len(training.records)
        self.trial.report(training.records[-1].validation_loss, epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


scaler = StandardScaler().fit(X_train)


def objective(trial):
    """The validation loss of one fit."""
    model = MLPClassifier(
        (trial.suggest_int("units", 8, 128, log=True),),
        learning_rate_init=trial.suggest_float("rate", 1e-4, 1e-1, log=True),
        alpha=trial.suggest_float("alpha", 1e-5, 10, log=True),
        max_iter=40,
        batch_size=32,
        random_state=0,
    ).set_callbacks(Prune(trial))
    model.fit(
        scaler.transform(X_train), y_train, X_val=scaler.transform(X_val), y_val=y_val
    )
    return min(model.validation_loss_curve_)


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    sampler=optuna.samplers.TPESampler(seed=0), pruner=optuna.pruners.MedianPruner()
)
study.optimize(objective, n_trials=15)
states = [trial.state.name for trial in study.trials]
print(f"{states.count('PRUNED')} of {len(states)} fits were pruned")
print(f"loss {study.best_value:.3f} with {study.best_params}")
