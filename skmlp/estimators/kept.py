"""What of an estimator is kept in files and pickles, and by which version."""

from __future__ import annotations

import warnings
from typing import Any

import sklearn.exceptions

from skmlp import __version__
from skmlp.arrays import fetch
from skmlp.estimators.array_support import FITTED

#: Attributes that belong to a fit under way, or can be found again.
_PASSING = frozenset(
    {
        "_row_order",
        "_watch",
        "_training",
        "_arrays",
        "_beside",
        "_unscaled",
        "_skl_callbacks",
        "_skl_callbacks_to_teardown",
        "_callback_fit_ctx",
        "_parent_callback_ctx",
        "_metadata_request",
        "_doc_link_module",
    }
)


class InconsistentVersionWarning(sklearn.exceptions.InconsistentVersionWarning):
    """A model was kept by another version of skmlp."""

    def __str__(self) -> str:
        return (
            f"{self.estimator_name} was kept by skmlp {self.original_sklearn_version} "
            f"and is loaded by {self.current_sklearn_version}. This might break or "
            "give wrong results: fit it again, or load it with the version that kept "
            "it and hand on its coefs_ and intercepts_."
        )


def check_version(name: str, version: str) -> None:
    """Warn if a model was kept by another version of this package."""
    if version != __version__:
        warnings.warn(
            InconsistentVersionWarning(
                estimator_name=name,
                current_sklearn_version=__version__,
                original_sklearn_version=version,
            ),
            stacklevel=3,
        )


#: What the plain data of an estimator have.
KEYS = frozenset({"class", "params", "attributes", "requests"})


def tree_of(estimator: Any) -> dict[str, Any]:
    """An estimator as plain data."""
    name = type(estimator).__name__
    if not _is_kept(estimator):
        raise TypeError(
            f"save keeps skmlp's classifiers and regressors, not {type(estimator)!r}; "
            "joblib.dump or skops keep other estimators, pipelines too"
        )
    params = estimator.get_params(deep=False)
    attributes = {
        name: [*map(fetch, value)] if name in FITTED else _with_parts(value)
        for name, value in vars(estimator).items()
        if name not in params and name not in _PASSING
    }
    requests = {}
    if hasattr(estimator, "_metadata_request"):
        requests = {
            method: dict(getattr(estimator._metadata_request, method).requests)
            for method in ("fit", "partial_fit", "score")
        }
    return {
        "class": name,
        "params": params,
        "attributes": attributes,
        "requests": requests,
    }


def _is_kept(value: Any) -> bool:
    """Whether it is an estimator that files may hold, not of a class made of one."""
    return bool(vars(type(value)).get("_kept_as") == type(value).__name__)


def _with_parts(value: Any) -> Any:
    """An attribute, with the estimators that it is or holds as plain data."""
    if isinstance(value, list):
        return [_with_parts(part) for part in value]
    return tree_of(value) if _is_kept(value) else value
