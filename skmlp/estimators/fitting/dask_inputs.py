"""Dask collections that an estimator is given, for training or prediction."""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import validate_data

from skmlp.dask.ingest import collections
from skmlp.dask.ingest.collections import Parts
from skmlp.dask.rpc import ClusterRPC, current_client
from skmlp.estimators.fitting.inputs import is_dask


def understand(X: Any, y: Any, sample_weight: Any, *, client: bool = True) -> list[Any]:
    """The `Parts` of all three; refuse collections beside other things."""
    given = {"X": X, "y": y, "sample_weight": sample_weight}
    odd = [
        name
        for name, data in given.items()
        if not is_dask(data) and (data is not None or name != "sample_weight")
    ]
    if odd:
        raise ValueError(
            f"{' and '.join(odd)} must be a Dask collection, as the other inputs are: "
            "convert with dask.array.from_array, or compute() them all"
        )
    rpc = ClusterRPC(current_client()) if client else None
    return collections.understand(rpc, *given.items())


def check_features(estimator: Any, X: Parts, *, reset: bool) -> None:
    """Define or compare the columns, and their names if it is a data frame."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead")
    validate_data(estimator, X.meta, reset=reset, skip_check_array=True)
