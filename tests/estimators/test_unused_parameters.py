"""A parameter that is set has an effect, or a warning names it; and what is not set,
none does.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix

import skmlp
from skmlp import MLPClassifier, MLPRegressor
from skmlp.optim.schedules import BY_EPOCH, SCHEDULES
from skmlp.optim.solvers import SOLVERS

RNG = np.random.default_rng(0)
X, CODES = RNG.normal(size=(40, 3)), np.arange(40) % 3
TARGETS = np.exp(X[:, 0])

#: Another value than the default, of each parameter that can be without effect or not.
OTHER: dict[str, Any] = {
    "activation": "tanh",
    "alpha": 1.0,
    "batch_size": 7,
    "learning_rate": "invscaling",
    "learning_rate_init": 0.1,
    "power_t": 0.3,
    "shuffle": False,
    "momentum": 0.5,
    "nesterovs_momentum": False,
    "early_stopping": True,
    "validation_fraction": 0.3,
    "beta_1": 0.5,
    "beta_2": 0.5,
    "epsilon": 0.01,
    "n_iter_no_change": 1,
    "max_fun": 2,
    "class_weight": {0: 5},
    "scoring": "loss",
    "label_smoothing": 0.2,
    "huber_delta": 0.1,
    "quantile": 0.3,
    "dropout": 0.5,
    "input_dropout": 0.5,
    "l1_ratio": 0.5,
    "weight_decay": 0.5,
    "rho": 0.5,
    "clip_norm": 0.01,
    "average": True,
    "learning_rate_min": 0.0005,
    "decay_rate": 0.9,
    "decay_epochs": 3,
    "warmup_epochs": 2,
    "restart_epochs": 2,
    "frozen_layers": [0],
    "output_bias_init": "mean",
}

#: Those that always have one, or say only where and how long to train.
ALWAYS = {
    *("loss", "hidden_layer_sizes", "solver", "max_iter", "random_state", "verbose"),
    *("warm_start", "max_time", "coefs_init", "intercepts_init", "missing_targets"),
    *("n_jobs", "tol", "tol_scale", "input_encoding"),
}


def halving(step: int, epoch: int) -> float:
    return 0.01 * 0.5**epoch


STEPS = {"max_iter": 6, "n_iter_no_change": 3, "tol": 100.0, "batch_size": 10}
SETTINGS = [
    {"solver": "lbfgs", "max_iter": 6},
    {"solver": "lbfgs", "max_iter": 6, "early_stopping": True},
    *({"solver": solver, **STEPS} for solver in SOLVERS),
    *(
        {"solver": solver, "learning_rate": rate, **STEPS}
        for solver in ("sgd", "adam", "nadam")
        for rate in (*BY_EPOCH[1:], *SCHEDULES, halving)
        if rate != "step"
    ),
    {"learning_rate": "step", "decay_epochs": 2, **STEPS},
    {"early_stopping": True, **STEPS},
    {"alpha": 0.0, **STEPS},
    {"hidden_layer_sizes": (), **STEPS},
    {"loss": "huber", **STEPS},
    {"loss": "quantile", **STEPS},
    {"loss": "huber", "solver": "lbfgs"},
]


def outcome(Estimator: Any, params: dict[str, Any], **held_out: Any) -> Any:
    """All that a fit has brought; and what `UnusedParameterWarning` has said."""
    y = CODES if Estimator is MLPClassifier else TARGETS
    model = Estimator(**{"hidden_layer_sizes": 4, "random_state": 0, **params})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, y, **held_out)
    told = [w for w in caught if w.category is skmlp.UnusedParameterWarning]
    assert len(told) <= 1
    curves = [getattr(model, "loss_curve_", None), model.n_iter_]
    curves.append(getattr(model, "validation_scores_", None))
    curves.append(getattr(model, "best_validation_score_", None))
    curves.append(getattr(model, "best_loss_", None))
    arrays = [a.tobytes() for a in (*model.coefs_, *model.intercepts_)]
    text = str(told[0].message) if told else ""
    return (curves, arrays), set(re.findall(r"\b(\w+)=", text.replace("does not", ";")))


def parameters(Estimator: Any) -> dict[str, Any]:
    known = Estimator().get_params()
    return {name: value for name, value in OTHER.items() if name in known}


@pytest.mark.parametrize("validates", [False, True], ids=["", "X_val"])
@pytest.mark.parametrize(
    ("Estimator", "setting"),
    [
        pytest.param(Estimator, setting, id=f"{Estimator.__name__}-{number}")
        for Estimator in (MLPClassifier, MLPRegressor)
        for number, setting in enumerate(SETTINGS)
        if Estimator is MLPRegressor or "loss" not in setting
    ],
)
def test_what_is_set_counts_or_is_named(Estimator, setting, validates):
    held_out = {}
    if validates:
        y = CODES if Estimator is MLPClassifier else TARGETS
        held_out = {"X_val": X[:20], "y_val": y[:20]}
    alone, _ = outcome(Estimator, setting, **held_out)
    for name, value in parameters(Estimator).items():
        if name in setting and setting[name] == value:
            continue
        if name == "l1_ratio" and setting.get("solver") == "lbfgs":
            continue  # refused
        if name == "frozen_layers" and "hidden_layer_sizes" in setting:
            continue  # refused, too
        if name == "learning_rate" and setting.get(name) is not None:
            continue  # of these, each has a setting
        if name == "learning_rate_init" and setting.get("learning_rate") is halving:
            continue  # a function gives all rates; the first one is no surprise
        if name == "activation" and not setting.get("hidden_layer_sizes", 1):
            continue  # says how the first weights are drawn, which may be the same
        if validates and name == "validation_fraction" and "early_stopping" in setting:
            continue  # X_val takes the place of what would be set aside
        if name == "shuffle" and setting.get("solver") == "lbfgs":
            continue  # which never shuffles
        found, told = outcome(Estimator, {**setting, name: value}, **held_out)
        assert (found == alone) == (name in told), (setting, name)


@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_every_parameter_is_tried(Estimator):
    known = set(Estimator().get_params())
    assert known == {*parameters(Estimator), *ALWAYS} & known


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"quantile": [0.1, 0.9]}, "loss='squared_error' does not use quantile"),
        ({"loss": "quantile", "huber_delta": 2}, "loss='quantile' does not use huber"),
        ({"rho": 0.5, "momentum": 0.5}, "solver='adam' does not use momentum=0.5, rho"),
        (
            {"output_bias_init": "mean", "intercepts_init": [None, [0.0]]},
            "intercepts_init does not use output_bias_init='mean'",
        ),
        ({"power_t": 1}, "learning_rate='constant' does not use power_t=1"),
        (
            {"scoring": "r2", "rho": 0.5},
            "rho=0.5; a fit without early_stopping or X_val does not use scoring='r2'",
        ),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_the_warning_says_why(method, params, text):
    model = MLPRegressor(hidden_layer_sizes=4, **params)
    with pytest.warns(skmlp.UnusedParameterWarning, match=re.escape(text)):
        getattr(model, method)(X, TARGETS)


def test_a_score_has_no_unit():
    model = MLPRegressor(early_stopping=True, tol_scale="initial", max_iter=2)
    with pytest.warns(skmlp.UnusedParameterWarning, match="by a score does not use"):
        model.fit(X, TARGETS)
    model.set_params(scoring="loss").fit(X, TARGETS)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("n_columns", [2, 4])
def test_classes_of_multilabel_targets_are_its_columns(n_columns, dense):
    """Others would be ignored: the network has an output for each column."""
    Y = (RNG.random((40, n_columns)) < 0.5).astype(int)
    model = MLPClassifier(hidden_layer_sizes=4)
    for classes in (range(3), [0, 1, 2], np.arange(1, n_columns + 1)):
        before = dict(vars(model))
        with pytest.raises(ValueError, match=rf"`classes=.*range\({n_columns}\)"):
            model.partial_fit(X, Y if dense else csr_matrix(Y), classes=classes)
        assert vars(model) == before
    model.partial_fit(X, Y if dense else csr_matrix(Y), classes=range(n_columns))
    assert model.n_outputs_ == len(model.classes_) == n_columns
    several = MLPClassifier(4).partial_fit(X, Y, classes=[range(2)] * n_columns)
    assert several.n_classes_ == [2] * n_columns


def test_a_default_of_another_type_is_no_surprise():
    model = MLPRegressor(rho=np.float64(0.9), max_iter=2)
    model.set_params(decay_epochs=20.0, dropout=0, early_stopping=np.False_)
    with warnings.catch_warnings():
        warnings.simplefilter("error", skmlp.UnusedParameterWarning)
        model.fit(X, TARGETS)
