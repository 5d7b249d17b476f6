"""The fitted networks inside pipelines, searches, ensembles and other wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

#: The most places that an error lists.
_MOST_LISTED = 10


def parts(
    estimator: Any, path: str = "", above: tuple[Any, ...] = ()
) -> Iterator[tuple[str, Any]]:
    """An estimator and those inside it that hold fitted networks, with the way there.

    Where a fitted attribute (``best_estimator_``, ``estimators_``...) holds any, the
    parameters are left out: they are what was cloned.
    """
    yield path, estimator
    if hasattr(estimator, "coefs_") or any(estimator is one for one in above):
        return
    public = {k: v for k, v in vars(estimator).items() if k[0] != "_"}
    fitted = {k: v for k, v in public.items() if k.endswith("_")}
    for attributes in (fitted, public):
        inner = [
            found
            for name, value in attributes.items()
            for place, part in _members(value, f"{path}.{name}")
            for found in parts(part, place, (*above, estimator))
        ]
        if any(hasattr(part, "coefs_") for _, part in inner):
            yield from inner
            return


def _members(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The estimators that a value is or holds, in lists, tuples and dicts."""
    kind = type(value)
    if hasattr(value, "__dict__") and (
        hasattr(kind, "fit") or hasattr(kind, "predict_proba")
    ):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _members(item, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)) or (
        isinstance(value, np.ndarray) and value.dtype == object
    ):
        for i, item in enumerate(value):
            yield from _members(item, f"{path}[{i}]")


def networks(estimator: Any) -> dict[str, Any]:
    """Each fitted network inside an estimator, by the first way to it."""
    found: dict[int, tuple[str, Any]] = {}
    for path, part in parts(estimator):
        if hasattr(part, "coefs_"):
            found.setdefault(id(part), (path, part))
    return dict(found.values())


def network_of(estimator: Any) -> Any:
    """The one fitted network inside an estimator; what has none is returned itself.

    Raises
    ------
    NotFittedError
        There is none, since the estimator is not fitted.
    ValueError
        There are several; the message says where.
    """
    found = networks(estimator)
    if not found:
        check_is_fitted(estimator)
        return estimator
    if len(found) > 1:
        name = type(estimator).__name__
        places = [f"estimator{path}" for path in found]
        if len(places) > _MOST_LISTED:
            places[_MOST_LISTED:] = [f"{len(places) - _MOST_LISTED} more"]
        raise ValueError(
            f"this {name} holds {len(found)} networks; give one of them: "
            + ", ".join(places)
        )
    return next(iter(found.values()))
