"""Calls that must fail: an estimator that says so if it trains, and its attributes."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import skmlp
from skmlp.data.checks import HOW_TO_MASK

RNG = np.random.default_rng(2)
N = 30
X = RNG.normal(size=(N, 4))
Y = np.arange(N) % 3
W = np.ones(N)
CLASSES = [0, 1, 2]
ESTIMATORS = ["MLPClassifier", "MLPRegressor"]
#: Of partial_fit, by estimator.
KWARGS: dict[str, dict[str, Any]] = {
    "MLPClassifier": {"classes": CLASSES},
    "MLPRegressor": {},
}


def put(a: Any, where: Any, value: Any) -> Any:
    a = np.array(a, dtype=np.result_type(np.asarray(a).dtype, float))
    a[where] = value
    return a


def same(one: Any, two: Any) -> bool:
    """Whether two values are equal, down to arrays, random states and attributes."""
    if isinstance(one, np.random.RandomState):
        one, two = one.get_state(legacy=False), two.get_state(legacy=False)
    if type(one) is not type(two):
        return False
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and np.array_equal(one, two)
    if hasattr(one, "__dict__"):
        return same(vars(one), vars(two))
    return one is two or bool(one == two)


def make(name: str, fitted: str, module: Any = skmlp, **params: Any) -> Any:
    """Return an estimator, unfitted or fitted, that will say so if it trains."""
    params = {
        "hidden_layer_sizes": 3,
        "batch_size": 10,
        "random_state": np.random.RandomState(0),
        **params,
    }
    estimator = getattr(module, name)(max_iter=2, **params)
    if fitted == "fitted":
        estimator.fit(X, Y)
    return estimator.set_params(verbose=estimator.solver != "lbfgs")


def attempt(estimator: Any, call: Callable[[Any], Any]) -> BaseException:
    """Return the error of a call, after which the estimator is as it was before."""
    before = copy.deepcopy(vars(estimator))
    with pytest.raises((ValueError, TypeError, AttributeError)) as caught:
        call(estimator)
    assert same(vars(estimator), before)
    return caught.value


def _text(error: BaseException) -> str:
    """Return the message without the choices: a set in any order, and we have more.

    And without the cure, or the pointer at its end, that scikit-learn has not.
    """
    error_text = str(error).replace(f" {HOW_TO_MASK}", "")
    error_text = re.sub(r"( instead\.) .*", r"\1", error_text)
    text = re.sub(
        r"must be a str among \{.*\}.*?\. Got", "must be .... Got", error_text
    )
    return re.sub(r"\{.*\}", "{...}", text)


def assert_like_the_original(
    error: BaseException, twin: Any, call: Callable[[Any], Any]
) -> None:
    """Compare class and text with what scikit-learn's estimator raises."""
    with pytest.raises((ValueError, TypeError, AttributeError)) as theirs:
        call(twin)
    assert type(error) is type(theirs.value)
    assert _text(error) == _text(theirs.value)
