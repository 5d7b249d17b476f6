"""What kind of input comes, and weights that are of use."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from skmlp.model.layout import Array

#: X_val, y_val and sample_weight_val, of None where there are none.
HeldOut = tuple[Any, Any, Any]


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


NO_WEIGHT = (
    "Sample weights must contain at least one non-zero number, and their sum must be "
    "greater than zero; it is {:g}."
)


def check_weights(w: Array) -> Array:
    """Refuse weights that add up to nothing."""
    total = w.sum(dtype=np.float64)
    if total <= 0:
        raise ValueError(NO_WEIGHT.format(total))
    return w
