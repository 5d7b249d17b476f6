"""Parameters out of range, each of them, are found before any training."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import sklearn.neural_network as original

from tests.estimators.attempts import (
    ESTIMATORS,
    KWARGS,
    X,
    Y,
    assert_like_the_original,
    attempt,
    make,
)

#: Values that each parameter must not have.
OUT_OF_RANGE: dict[str, list[Any]] = {
    "loss": ["log_loss", None, 3],
    "hidden_layer_sizes": [0, -3, 2.5, None, "wide"],
    "activation": ["swish", None, 1],
    "solver": ["newton", None],
    "alpha": [-1e-9, "small", None, np.nan],
    "batch_size": [0, -1, 1.5, "all", None],
    "learning_rate": ["fast", None, 0.1],
    "learning_rate_init": [0, -0.1, "x", None],
    "power_t": [-0.5, None],
    "max_iter": [0, -1, 10.0, None, "many"],
    "shuffle": ["yes", None, 2],
    "random_state": ["seed", -1, 0.5],
    "tol": [-1e-4, None],
    "verbose": ["loud", None, -1],
    "warm_start": ["yes", None],
    "momentum": [-0.1, 1.1, None],
    "nesterovs_momentum": ["no", None],
    "early_stopping": ["yes", None],
    "validation_fraction": [-0.1, 1.0, 1.5, None],
    "beta_1": [-0.1, 1.0, None],
    "beta_2": [-0.1, 1.0, None],
    "epsilon": [0.0, -1e-8, None],
    "n_iter_no_change": [0, -1, 2.5, None],
    "max_fun": [0, 1.5, None],
}
BAD_PARAMETERS = [
    (name, parameter, value)
    for name in ESTIMATORS
    for parameter, values in OUT_OF_RANGE.items()
    for value in values
    if (name, parameter) != ("MLPClassifier", "loss")
]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_parameter_is_forgotten(name):
    known = set(getattr(original, name)().get_params())
    assert known <= set(OUT_OF_RANGE)


@pytest.mark.parametrize("fitted", ["unfitted", "fitted"])
@pytest.mark.parametrize(("name", "parameter", "value"), BAD_PARAMETERS)
def test_fit(name, parameter, value, fitted, capsys):
    estimator = make(name, fitted).set_params(**{parameter: value})
    capsys.readouterr()
    error = attempt(estimator, lambda e: e.fit(X, Y))
    assert not capsys.readouterr().out
    twin = make(name, "unfitted", original).set_params(**{parameter: value})
    assert_like_the_original(error, twin, lambda e: e.fit(X, Y))


@pytest.mark.parametrize("fitted", ["unfitted", "fitted"])
@pytest.mark.parametrize(("name", "parameter", "value"), BAD_PARAMETERS)
def test_partial_fit(name, parameter, value, fitted, capsys):
    """Also of a fitted model, whose parameters the original does not look at again."""
    estimator = make(name, fitted).set_params(**{parameter: value})
    capsys.readouterr()
    error = attempt(estimator, lambda e: e.partial_fit(X, Y, **KWARGS[name]))
    assert not capsys.readouterr().out
    assert isinstance(error, (ValueError, AttributeError))
    assert parameter in str(error) or isinstance(error, AttributeError)


#: Of parameters that the original does not have, and a word of the message.
ADDED_OUT_OF_RANGE: dict[str, list[tuple[Any, str]]] = {
    "coefs_init": [
        (3, "array-like"),
        ([None], "one array, or None, for each of the 2 layers"),
        ([np.ones((4, 2)), None], r"shape \(4, 2\)"),
        ([np.full((4, 3), np.inf), None], "infinity"),
        ([np.full((4, 3), "a"), None], "real numbers"),
    ],
    "intercepts_init": [
        ("zeros", "array-like"),
        ([None, None, None], "one array, or None"),
        ([np.ones((3, 1)), None], "shape"),
    ],
    "frozen_layers": [
        (1, "array-like"),
        ([2], "2 layers of weights"),
        ([-3], "2 layers of weights"),
        ([0.5], "2 layers of weights"),
        ([0, 1], "nothing to train"),
        ([0, -1], "nothing to train"),
    ],
    **{
        parameter: [(value, parameter) for value in values]
        for parameter, values in {
            "activation": [["relu", "tanh"], ["swish"], [None], [3.0]],
            "dropout": [1.0, -0.1, "half", None, [0.1, 0.1], [1.0], [None]],
            "input_dropout": [1.0, -0.1, None, [0.1]],
            "input_encoding": [16, "ramps", np.zeros(3)],
            "l1_ratio": [-0.1, 1.1, None],
            "weight_decay": [-0.1, None],
            "clip_norm": [0.0, -1.0, "big"],
            "average": [0.0, 1.0, 2, None, "ema"],
            "rho": [1.0, -0.1, None],
            "learning_rate_min": [-1e-9, None],
            "decay_rate": [0.0, 1.0, None],
            "decay_epochs": [0, None],
            "warmup_epochs": [-1, None],
            "restart_epochs": [0, "never"],
        }.items()
    },
}
CLASSIFIERS_OUT_OF_RANGE: dict[str, list[tuple[Any, str]]] = {
    "class_weight": [
        ("even", "class_weight"),
        (3, "class_weight"),
        ([{0: 1}], "class_weight"),
        ({0: 1, 7: 2}, "not in class_weight"),
        ({0: 0, 1: 0, 2: 0}, "greater than zero"),
    ],
    "label_smoothing": [(value, "label_smoothing") for value in (-0.1, 1.0, None)],
}
REGRESSORS_OUT_OF_RANGE: dict[str, list[tuple[Any, str]]] = {
    "huber_delta": [(value, "huber_delta") for value in (0.0, -1.0, None)],
    "quantile": [(value, "quantile") for value in (0.0, 1.0, None, [0.5, 0.5])],
}
ADDED = [
    (name, parameter, value, words)
    for name in ESTIMATORS
    for parameter, values in {
        **ADDED_OUT_OF_RANGE,
        **(
            CLASSIFIERS_OUT_OF_RANGE
            if name == "MLPClassifier"
            else REGRESSORS_OUT_OF_RANGE
        ),
    }.items()
    for value, words in values
]


@pytest.mark.parametrize(("name", "parameter", "value", "words"), ADDED)
def test_what_is_new(name, parameter, value, words, capsys):
    estimator = make(name, "unfitted").set_params(**{parameter: value})
    for call in (
        lambda e: e.fit(X, Y),
        lambda e: e.partial_fit(X, Y, **KWARGS[name]),
    ):
        error = attempt(estimator, call)
        assert isinstance(error, ValueError)
        assert parameter in str(error) or "greater than zero" in str(error)
        assert re.search(words, str(error))
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "sizes", [(5.5,), [4, 2.0], np.array([4.0]), (True,), [[4]], (4, "a")]
)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_widths_that_are_no_whole_numbers(name, sizes):
    """The original's error comes from deep inside; it is a TypeError, too."""
    estimator = make(name, "unfitted", hidden_layer_sizes=sizes)
    error = attempt(estimator, lambda e: e.fit(X, Y))
    assert isinstance(error, TypeError)
    assert "hidden_layer_sizes must be whole numbers" in str(error)
    with pytest.raises(TypeError):
        make(name, "unfitted", original, hidden_layer_sizes=sizes).fit(X, Y)


@pytest.mark.parametrize("n_jobs", [0, 1.5, "all"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_n_jobs_out_of_range(name, n_jobs):
    error = attempt(make(name, "unfitted", n_jobs=n_jobs), lambda e: e.fit(X, Y))
    assert isinstance(error, ValueError)
    assert "n_jobs" in str(error)
