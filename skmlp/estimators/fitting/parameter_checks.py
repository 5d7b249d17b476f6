"""Parameters, checked by scikit-learn's constraints, at a fraction of their cost.

A fit of a small set takes a millisecond. Reading the constructor's signature and making
objects of all constraints, each time anew, would take a third of it: they are made once
for each class, and a parameter that is at its default is not looked at.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import (
    make_constraint,
    validate_parameter_constraints,
)

from skmlp.estimators import suggestions


@dataclass(frozen=True)
class _Known:
    """What is known of a class: its constructor, its `_parameter_constraints`.

    Its parameters are sorted; their defaults are `_CHECK_IT` where there is none, or
    none that is valid; `compiled` has the constraint objects of parameters.
    """

    init: Any
    constraints: dict[str, Any]
    defaults: dict[str, Any]
    compiled: dict[str, list[Any]]


_CHECK_IT = object()
_known: weakref.WeakKeyDictionary[type, _Known] = weakref.WeakKeyDictionary()


def _of(cls: Any) -> _Known:
    """What is known of a class; found out if it is new, or another than it was."""
    known = _known.get(cls)
    if (
        known is None
        or known.init is not cls.__init__
        or known.constraints is not cls._parameter_constraints
    ):
        known = _known[cls] = _find_out(cls)
    return known


def _find_out(cls: Any) -> _Known:
    constraints = cls._parameter_constraints
    names = super(CheckedParameters, cls)._get_param_names()
    parameters = inspect.signature(cls.__init__).parameters
    compiled = {
        name: [make_constraint(constraint) for constraint in constraints[name]]
        for name in names
        if constraints.get(name, "no_validation") != "no_validation"
    }
    defaults = {}
    for name in names:
        default = parameters[name].default if name in parameters else _CHECK_IT
        valid = default is not inspect.Parameter.empty and _satisfied(
            compiled.get(name), default
        )
        defaults[name] = default if valid else _CHECK_IT
    return _Known(cls.__init__, constraints, defaults, compiled)


def _satisfied(constraints: Sequence[Any] | None, value: Any) -> bool:
    """Whether a value is as one of the constraints has it, if there are any."""
    return constraints is None or any(c.is_satisfied_by(value) for c in constraints)


def _same(value: Any, default: Any) -> bool:
    """Whether a value is its parameter's default, of the same type."""
    return value is default or (type(value) is type(default) and value == default)


class CheckedParameters(BaseEstimator):
    """Knows the names of its parameters, and checks their values."""

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return list(_of(cls).defaults)

    def _set_among(self, names: Iterable[str]) -> list[str]:
        """Those of some parameters that have another value than their default."""
        defaults = _of(type(self)).defaults
        pairs = [(n, getattr(self, n), defaults[n]) for n in names if n in defaults]
        changed = [pair for pair in pairs if not _same(*pair[1:])]
        return [
            n for n, value, default in changed if not np.array_equal(value, default)
        ]

    def _validate_params(self) -> None:
        known = _of(type(self))
        if self._parameter_constraints is not known.constraints:
            super()._validate_params()
            return
        for name, default in known.defaults.items():
            value = getattr(self, name)
            if _same(value, default) or _satisfied(known.compiled.get(name), value):
                continue
            try:  # for the message
                validate_parameter_constraints(
                    known.constraints, {name: value}, type(self).__name__
                )
            except ValueError as error:
                options = suggestions.options_of(known.compiled[name])
                suggestions.point(error, suggestions.for_option(name, value, options))
                raise
