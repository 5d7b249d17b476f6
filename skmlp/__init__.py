"""Multi-layer perceptrons with scikit-learn's interface, trained on one core or many.

`MLPClassifier` and `MLPRegressor` are drop-in for those of `sklearn.neural_network`;
they train one model in this process, on joblib's workers or on a Dask cluster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skmlp.config import config_context, get_config, set_config
from skmlp.exceptions import CommunicationWarning, UnusedParameterWarning
from skmlp.versions import show_versions

if TYPE_CHECKING:
    from skmlp.estimators.classifier import MLPClassifier
    from skmlp.estimators.regressor import MLPRegressor

__version__ = "0.1.0.dev0"

__all__ = [
    "CommunicationWarning",
    "MLPClassifier",
    "MLPRegressor",
    "UnusedParameterWarning",
    "__version__",
    "config_context",
    "get_config",
    "set_config",
    "show_versions",
]

# Imported at their first use: worker processes import this package for its lower
# floors, and need not wait for scikit-learn's estimators.
_LATER = {
    "MLPClassifier": "skmlp.estimators.classifier",
    "MLPRegressor": "skmlp.estimators.regressor",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
