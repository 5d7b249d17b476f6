"""What kind of input comes, and weights that are of use."""

from __future__ import annotations

import sys

import numpy as np


def is_dask(data):
    """Whether it is a Dask collection, a future, or a list of such.

    Dask is not imported for the question.
    """
    dask = sys.modules.get("dask.base")
    if dask is None:
        return False
    distributed = sys.modules.get("distributed.client")

    def on_dask(one):
        future = distributed is not None and isinstance(one, distributed.Future)
        return future or dask.is_dask_collection(one)

    if isinstance(data, (list, tuple)):
        return bool(data) and all(map(on_dask, data))
    return on_dask(data) or hasattr(data, "is_dask_parts")


NO_WEIGHT = (
    "Sample weights must contain at least one non-zero number, and their sum must be "
    "greater than zero; it is {:g}."
)


def check_weights(w):
    """Refuse weights that add up to nothing."""
    total = w.sum(dtype=np.float64)
    if total <= 0:
        raise ValueError(NO_WEIGHT.format(total))
    return w
