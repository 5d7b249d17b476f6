"""Multi-layer perceptrons with scikit-learn's interface, trained on one core or many.

`MLPClassifier` and `MLPRegressor` are drop-in for those of `sklearn.neural_network`;
they train one model in this process, on joblib's workers or on a Dask cluster.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skmlp.config import config_context, get_config, set_config
from skmlp.exceptions import (
    CommunicationWarning,
    ModelQualityWarning,
    UnusedParameterWarning,
)
from skmlp.versions import show_versions

if TYPE_CHECKING:
    from skmlp.display.curves import LearningRateDisplay, LossCurveDisplay
    from skmlp.display.history import history_frame
    from skmlp.display.scaling import ScalingDisplay
    from skmlp.display.weights import FirstLayerWeightsDisplay
    from skmlp.estimators.callbacks import Callback, TrainingProgress, training_of
    from skmlp.estimators.checkpoint import Checkpoint
    from skmlp.estimators.classifier import MLPClassifier
    from skmlp.estimators.regressor import MLPRegressor
    from skmlp.estimators.targets.regression_losses import d2_pinball_scorer
    from skmlp.estimators.transformer import HiddenLayerTransformer
    from skmlp.onnx import to_onnx
    from skmlp.saving import load, save
    from skmlp.tabular.classifier import TabularMLPClassifier
    from skmlp.tabular.regressor import TabularMLPRegressor

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Checkpoint",
    "CommunicationWarning",
    "FirstLayerWeightsDisplay",
    "HiddenLayerTransformer",
    "InputEncoding",
    "LearningRateDisplay",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPRegressor",
    "ModelQualityWarning",
    "ScalingDisplay",
    "TabularMLPClassifier",
    "TabularMLPRegressor",
    "TrainingProgress",
    "UnusedParameterWarning",
    "__version__",
    "config_context",
    "d2_pinball_scorer",
    "get_config",
    "history_frame",
    "load",
    "save",
    "set_config",
    "show_versions",
    "to_onnx",
    "training_of",
]

# Imported at their first use: worker processes import this package for its lower
# floors, and need not wait for scikit-learn's estimators.
_LATER = {
    "Callback": "skmlp.estimators.callbacks",
    "Checkpoint": "skmlp.estimators.checkpoint",
    "FirstLayerWeightsDisplay": "skmlp.display.weights",
    "HiddenLayerTransformer": "skmlp.estimators.transformer",
    "InputEncoding": "skmlp.model.input_encoding",
    "LearningRateDisplay": "skmlp.display.curves",
    "LossCurveDisplay": "skmlp.display.curves",
    "MLPClassifier": "skmlp.estimators.classifier",
    "MLPRegressor": "skmlp.estimators.regressor",
    "ScalingDisplay": "skmlp.display.scaling",
    "TabularMLPClassifier": "skmlp.tabular.classifier",
    "TabularMLPRegressor": "skmlp.tabular.regressor",
    "TrainingProgress": "skmlp.estimators.callbacks",
    "d2_pinball_scorer": "skmlp.estimators.targets.regression_losses",
    "history_frame": "skmlp.display.history",
    "load": "skmlp.saving",
    "save": "skmlp.saving",
    "to_onnx": "skmlp.onnx",
    "training_of": "skmlp.estimators.callbacks",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)
