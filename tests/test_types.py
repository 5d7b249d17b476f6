"""The package says that it is typed (`py.typed`): what users call has types."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import skmlp


def own_functions(name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """A public function; or a public class's constructor, methods and properties."""
    thing = getattr(skmlp, name)
    found = {name: thing}
    if inspect.isclass(thing):
        members = ["__init__", *(key for key in dir(thing) if key[0] != "_")]
        found = {f"{name}.{m}": inspect.getattr_static(thing, m) for m in members}
    for label, member in found.items():
        # Out of a classmethod, a property, scikit-learn's `available_if`, a decorator.
        for wrapper in ("__func__", "fget", "fn"):
            member = getattr(member, wrapper, member)
        member = inspect.unwrap(member) if callable(member) else member
        if inspect.isfunction(member) and member.__module__.startswith("skmlp"):
            yield label, member


FUNCTIONS = dict(pair for name in skmlp.__all__ for pair in own_functions(name))


def test_there_is_something_to_look_at():
    assert {"MLPClassifier.__init__", "MLPRegressor.partial_fit", "load"} <= set(
        FUNCTIONS
    )


@pytest.mark.parametrize("label", FUNCTIONS)
def test_every_argument_and_result_has_a_type(label):
    function = FUNCTIONS[label]
    hints = typing.get_type_hints(function)  # which also finds every name in them
    signature = inspect.signature(function)
    names = {*signature.parameters, "return"} - {"self", "cls"}
    assert names <= set(hints)
