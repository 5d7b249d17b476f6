"""scikit-learn's checks of array API support: run with SCIPY_ARRAY_API=1.

In a process of its own: SciPy reads the variable where it is imported.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import SkipTest

from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import get_tags
from sklearn.utils._array_api import NamespaceAndDevice
from sklearn.utils.estimator_checks import (
    _yield_array_api_checks,
    check_array_api_input_and_values,
    check_array_api_mixed_inputs,
)

from skmlp import MLPClassifier, MLPRegressor

SMALL: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 8}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"solver": "sgd", "activation": "tanh", "dropout": 0.2},
    {"solver": "lbfgs"},
    {"early_stopping": True, "validation_fraction": 0.3},
]
STRICT = (("array_api_strict", "CPU_DEVICE"), ("array_api_strict", "device1"))
TORCH = ("torch", "cpu")


def checks(estimator: Any) -> Iterator[tuple[Callable[..., None], dict[str, Any]]]:
    """Those that scikit-learn runs, and the same with values and weights."""
    for check in _yield_array_api_checks(estimator):
        yield check.func, check.keywords
    for namespace, device in (*STRICT, TORCH):
        for weighted in (False, True):
            place = {"array_namespace": namespace, "device_name": device}
            options = {**place, "check_sample_weight": weighted}
            yield check_array_api_input_and_values, options
    for of_X, others in (
        (STRICT[1], TORCH),
        (TORCH, STRICT[1]),
        (STRICT[0], STRICT[1]),
    ):
        places = {
            "X_ns_and_device": NamespaceAndDevice(*of_X),
            "other_ns_and_device": NamespaceAndDevice(*others),
        }
        yield check_array_api_mixed_inputs, {**places, "check_values": True}


def main() -> None:
    """Run all; print what was done and what was skipped."""
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ConvergenceWarning)
    # scikit-learn's checks set parameters that not every setting uses.
    warnings.filterwarnings("ignore", ".*does not use.*")
    for kind in (MLPClassifier, MLPRegressor):
        for setting in SETTINGS:
            estimator = kind(**{**SMALL, **setting})
            assert get_tags(estimator).array_api_support
            for check, options in checks(estimator):
                told = f"{kind.__name__} {setting} {check.__name__} {options}"
                try:
                    check(kind.__name__, estimator, **options)
                except SkipTest as reason:
                    print(f"skipped: {told}: {reason}")
                except Exception:
                    print(f"failed: {told}", file=sys.stderr)
                    raise
                else:
                    print(f"passed: {told}")


if __name__ == "__main__":
    main()
