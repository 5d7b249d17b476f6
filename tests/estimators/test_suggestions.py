"""Errors point to what was meant; the words of scikit-learn and Python stay."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import get_scorer_names
from sklearn.pipeline import make_pipeline

import skmlp
from skmlp import (
    MLPClassifier,
    MLPRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
)
from skmlp.estimators import suggestions

X = np.arange(24.0).reshape(12, 2) / 24
Y = np.arange(12) % 2
FRAME = pd.DataFrame({"size": X[:, 0], "state": ["x", "y", "z"] * 4})

#: What is written, and what should be; of the constructor and of `set_params`.
NAMES = {
    "lr": "Did you mean 'learning_rate_init'?",
    "epochs": "Did you mean 'max_iter'?",
    "n_epochs": "Did you mean 'max_iter'?",
    "patience": "Did you mean 'n_iter_no_change'?",
    "optimizer": "Did you mean 'solver'?",
    "callbacks": "set_callbacks(...)",
    "device": "trained on the CPU",
    "hidden_layers": "Did you mean 'hidden_layer_sizes'?",
    "dropout_rate": "Did you mean 'dropout'?",
    "eval_set": "fit(X, y, X_val=..., y_val=...)",
    "validation_data": "fit(X, y, X_val=..., y_val=...)",
    "X_val": "fit(X, y, X_val=..., y_val=...)",
    "class_weights": "Did you mean 'class_weight'?",
    "cat_features": "TabularMLPClassifier",
    "betas": "beta_1 and beta_2",
    "client": "joblib.parallel_config",
    "dtype": "float32",
    "eps": "Did you mean 'epsilon'?",
    "min_delta": "Did you mean 'tol'?",
    "criterion": "A classifier has the log loss",
    "Seed": "Did you mean 'random_state'?",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_is_none(name):
    with pytest.raises(TypeError) as raised:
        MLPClassifier(**{name: 1})
    start = f"MLPClassifier.__init__() got an unexpected keyword argument {name!r}. "
    assert str(raised.value).startswith(start)
    assert NAMES[name] in str(raised.value)
    with pytest.raises(ValueError, match=r"^Invalid parameter") as raised:
        MLPClassifier().set_params(**{name: 1})
    assert NAMES[name] in str(raised.value)
    with pytest.raises(ValueError, match=r"^Invalid parameter") as raised:
        make_pipeline(MLPClassifier()).set_params(**{f"mlpclassifier__{name}": 1})
    assert NAMES[name] in str(raised.value)


#: Those of the estimators of raw tables, most of whose parameters are the networks'.
OF_TABLES = {
    "lr": "network_params={'learning_rate_init': ...}",
    "dropout": "network_params={'dropout': ...}",
    "drop_out": "network_params={'dropout': ...}",
    "patience": "network_params={'n_iter_no_change': ...}",
    "epochs": "Did you mean 'max_iter'?",
    "cat_features": "Did you mean 'categorical_features'?",
    "device": "n_jobs says on which workers",
    "callbacks": "set_callbacks(...) of MLPClassifier or MLPRegressor",
    "eval_set": "fit(X, y, X_val=..., y_val=...)",
}


@pytest.mark.parametrize("cls", [TabularMLPClassifier, TabularMLPRegressor])
@pytest.mark.parametrize("name", OF_TABLES)
def test_a_parameter_of_raw_tables_that_is_none(cls, name):
    with pytest.raises(TypeError, match=rf"unexpected .* {name!r}\. ") as raised:
        cls(**{name: 1})
    assert str(raised.value).endswith(OF_TABLES[name])
    with pytest.raises(ValueError, match=r"^Invalid parameter") as raised:
        cls().set_params(**{name: 1})
    assert str(raised.value).endswith(OF_TABLES[name])


@pytest.mark.parametrize("cls", [TabularMLPClassifier, TabularMLPRegressor])
def test_an_argument_of_fit_of_raw_tables_that_is_none(cls):
    for name, meant in {
        "sample_weights": "Did you mean 'sample_weight'?",
        "epochs": f"{cls.__name__}(max_iter=...)",
        "lr": "network_params={'learning_rate_init': ...}",
        "eval_set": "fit(X, y, X_val=..., y_val=...)",
    }.items():
        with pytest.raises(TypeError, match=f"argument {name!r}") as raised:
            cls().fit(X, Y, **{name: 1})
        assert str(raised.value).endswith(meant)
    with pytest.raises(ValueError, match=r"Did you mean 'learning_rate_init'\?$"):
        cls(network_params={"lr": 1}).fit(X, Y)
    assert "kwargs" not in inspect.signature(cls).parameters


def test_other_parameters_of_the_regressor():
    with pytest.raises(TypeError, match=r"Did you mean 'loss'\?$"):
        MLPRegressor(objective="mae")
    with pytest.raises(TypeError, match="the argument sample_weight of fit"):
        MLPRegressor(class_weight="balanced")


def test_where_nothing_is_near_the_error_stays():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'qqq'$"):
        MLPClassifier(qqq=1)
    with pytest.raises(ValueError, match=r"'weight_decay'\]\.$"):
        MLPClassifier().set_params(qqq=1)


@pytest.mark.parametrize(
    ("name", "meant"),
    {
        "epochs": "MLPClassifier(max_iter=...)",
        "batch_size": "MLPClassifier(batch_size=...)",
        "lr": "MLPClassifier(learning_rate_init=...)",
        "eval_set": "fit(X, y, X_val=..., y_val=...)",
        "validation_data": "fit(X, y, X_val=..., y_val=...)",
        "callbacks": "set_callbacks(...)",
        "sample_weights": "Did you mean 'sample_weight'?",
    }.items(),
)
def test_an_argument_of_fit_that_is_none(name, meant):
    with pytest.raises(TypeError, match=f"argument {name!r}") as raised:
        MLPClassifier().fit(X, Y, **{name: 1})
    assert meant in str(raised.value)
    if name != "epochs":
        with pytest.raises(TypeError, match=f"argument {name!r}") as raised:
            MLPClassifier().partial_fit(X, Y, **{name: 1})
        assert meant in str(raised.value)


def test_a_type_error_inside_of_fit_gets_no_pointer():
    with pytest.raises(TypeError, match=r"whole numbers, got \[64\.0\]\.$"):
        MLPClassifier([64.0]).fit(X, Y)


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        (MLPClassifier(activation="ReLU"), "'relu'"),
        (MLPClassifier(activation="swish"), "'silu'"),
        (MLPClassifier(activation=["swish"]), "'silu'"),
        (MLPClassifier(solver="Adam"), "'adam'"),
        (MLPClassifier(solver="L-BFGS"), "'lbfgs'"),
        (MLPClassifier(scoring="auc", early_stopping=True), "'roc_auc'"),
        (MLPRegressor(scoring="Loss", early_stopping=True), "'loss'"),
        (MLPRegressor("mse"), "'squared_error'"),
        (MLPRegressor("mae"), "'absolute_error'"),
    ],
    ids=str,
)
def test_another_spelling_of_an_option(model, meant):
    with pytest.raises(ValueError, match=rf"Did you mean {meant}\?$"):
        model.fit(X, Y)


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        (MLPClassifier(learning_rate=0.01), "learning_rate_init=0.01"),
        (MLPClassifier(64, 32), "hidden_layer_sizes=(..., 32)"),
        (MLPRegressor((64, 64)), "loss comes first: write hidden_layer_sizes=(64, 64)"),
        (MLPRegressor(64), "loss comes first: write hidden_layer_sizes=64"),
    ],
    ids=str,
)
def test_a_value_that_belongs_elsewhere(model, meant):
    with pytest.raises(ValueError, match="instead") as raised:
        model.fit(X, Y)
    assert str(raised.value).endswith(meant)


def test_options_are_listed_in_one_order():
    with pytest.raises(ValueError, match=r"a str among \{'adagrad', 'adam', 'adamw', "):
        MLPClassifier(solver="foo").fit(X, Y)


@pytest.mark.parametrize("frame", [FRAME, pl.from_pandas(FRAME)], ids=["pandas", "pl"])
def test_columns_of_text_are_named(frame):
    told = r"these columns do not: 'state' \((str|object|String)\)\. Encode them"
    with pytest.raises(ValueError, match=told):
        MLPClassifier().fit(frame, Y)
    numbers = pd.DataFrame({"size": X[:, 0], "state": X[:, 1]})
    fitted = MLPClassifier(max_iter=1).fit(numbers, Y)
    with pytest.raises(ValueError, match=told):
        fitted.predict(frame)


def test_another_error_of_a_frame_is_scikit_learns():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        MLPClassifier().fit(FRAME[["size"]], Y[:5])


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
def test_the_signatures_are_those_of_the_functions(cls):
    assert "kwargs" not in inspect.signature(cls).parameters
    assert "X_val" in inspect.signature(cls.fit).parameters
    assert {"learning_rate_init", "n_jobs"} <= set(inspect.signature(cls).parameters)


def test_every_name_that_is_suggested_exists():
    known = {*MLPClassifier().get_params(), *MLPRegressor().get_params()}
    known |= {*TabularMLPClassifier().get_params()}
    assert set(suggestions._OTHER_NAMES) <= known
    options = set(get_scorer_names())
    for constraints in MLPRegressor._parameter_constraints.values():
        options |= set(suggestions.options_of(constraints))
    assert set(suggestions._OTHER_OPTIONS) <= options


def test_dir_shows_the_public_names():
    assert dir(skmlp) == sorted(skmlp.__all__)
