"""What kind of input comes, and weights that are of use."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
import sklearn
from scipy import sparse

from skmlp.arrays import Array, Arrays, arrays_of, fetch, is_elsewhere


class Input(NamedTuple):
    """What a call of `fit` or `partial_fit` was given; None for what was not."""

    X: Any
    y: Any
    sample_weight: Any = None
    X_val: Any = None
    y_val: Any = None
    sample_weight_val: Any = None


def is_dask(data: Any) -> bool:
    """Whether it is a Dask collection, a future, or a list of such.

    Dask is not imported for the question.
    """
    dask = sys.modules.get("dask.base")
    if dask is None:
        return False
    distributed = sys.modules.get("distributed.client")

    def on_dask(one: Any) -> bool:
        future = distributed is not None and isinstance(one, distributed.Future)
        return future or dask.is_dask_collection(one)

    if isinstance(data, (list, tuple)):
        return bool(data) and all(map(on_dask, data))
    return on_dask(data) or hasattr(data, "is_dask_parts")


def dispatched(array: Any) -> Arrays | None:
    """Where an array lies, if scikit-learn's array API dispatch is on; else None.

    None for arrays of numpy. TypeError if numpy can't read the array, and the dispatch
    is off.
    """
    if type(array) is np.ndarray or array is None:
        return None
    if sklearn.get_config()["array_api_dispatch"]:
        return arrays_of(array)
    if is_elsewhere(array):
        raise TypeError(
            f"this {type(array).__name__} lies on the device {array.device}, where "
            "numpy can't read it. To train and predict there, set the environment "
            "variable SCIPY_ARRAY_API=1 before scipy is imported, and "
            "sklearn.set_config(array_api_dispatch=True)"
        )
    return None


def on_host(array: Any) -> Any:
    """Targets and weights of any library in numpy; see `dispatched`."""
    return array if dispatched(array) is None else fetch(array)


def settled(given: Input) -> tuple[Arrays | None, Input]:
    """Where X lies (None: in numpy), and all else beside it, targets in numpy."""
    X, X_val = given.X, given.X_val
    arrays = dispatched(X)
    y, w, _, y_val, w_val = map(on_host, given[1:])
    if arrays is None:
        return None, Input(X, y, w, on_host(X_val), y_val, w_val)
    if X_val is not None and dispatched(X_val) != arrays:
        dense = X_val.toarray() if sparse.issparse(X_val) else on_host(X_val)
        X_val = arrays.send(np.asarray(dense))
    return arrays, Input(X, y, w, X_val, y_val, w_val)


def check_validation_given(given: Input) -> None:
    """ValueError if a part of a validation set is given without the rest."""
    if given.X_val is None and given.y_val is not None:
        raise ValueError("y_val is provided, but X_val was not provided.")
    if given.X_val is not None and given.y_val is None:
        raise ValueError("X_val is provided, but y_val was not provided.")
    if given.X_val is None and given.sample_weight_val is not None:
        raise ValueError("sample_weight_val is provided, but X_val was not provided.")


def check_sum(total: float, name: str = "sample_weight") -> None:
    """ValueError if weights add up to nothing."""
    if total <= 0:
        raise ValueError(
            "Sample weights must contain at least one non-zero number, and the sum of "
            f"{name} must be greater than zero; it is {total:g}"
        )


def check_weights(w: Array, name: str = "sample_weight") -> Array:
    """Refuse weights that add up to nothing; return the others."""
    check_sum(w.sum(dtype=np.float64), name)
    return w


def check_shape_of_y_val(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """ValueError unless validation targets have as many columns as the others."""
    if shape != wanted:
        raise ValueError(
            f"y_val has targets of shape {shape} for each row, but y has {wanted}"
        )
