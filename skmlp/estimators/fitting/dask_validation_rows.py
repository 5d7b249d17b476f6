"""Validation rows of their own, beside training rows that are Dask collections."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from scipy import sparse
from sklearn.utils.validation import validate_data

from skmlp.dask.ingest import collections
from skmlp.dask.ingest.collections import Parts, no_rows
from skmlp.dask.rpc import ClusterRPC
from skmlp.data.partitions import PartStats
from skmlp.estimators.fitting.inputs import HeldOut, is_dask
from skmlp.estimators.fitting.validation_rows import check_known
from skmlp.estimators.targets import multioutput

NAMES = "X_val", "y_val", "sample_weight_val"


def understand(
    estimator: Any, line: ClusterRPC, X: Any, y: Any, held_out: HeldOut
) -> tuple[Parts, Parts, Parts | None] | None:
    """What validation rows are, as X and y are understood.

    Parameters
    ----------
    estimator : BaseMLP
        That knows the features of the training rows.
    line : ClusterRPC
        To the cluster.
    X, y : Parts
        The training rows; `y` of one dimension if it has one column.
    held_out : tuple of (X_val, y_val, sample_weight_val)
        Dask collections of any kind. What is none is sent along with the graph.

    Returns
    -------
    tuple of (Parts, Parts, Parts or None), or None
    """
    if held_out[0] is None:
        return None
    given = [
        data if data is None or is_dask(data) else _sent(name, data)
        for name, data in zip(NAMES, held_out, strict=True)
    ]
    X_val, y_val, w_val = collections.understand(line, *zip(NAMES, given, strict=True))
    if X_val.ndim != 2 or X_val.shape[1] != X.shape[1]:
        raise ValueError(
            f"X_val has the shape {X_val.shape}, but X has {X.shape[1]} features"
        )
    # A frame of this process has become an array without names.
    named = X_val.meta if is_dask(held_out[0]) else held_out[0]
    if hasattr(named, "shape"):
        validate_data(estimator, named, reset=False, skip_check_array=True)
    if y_val.ndim == 2 and y_val.shape[1] == 1:
        y_val = y_val.column()
    if y_val.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"y_val has targets of shape {y_val.shape[1:]} for each row, but y has "
            f"{y.shape[1:]}"
        )
    return X_val, y_val, w_val


def _sent(name: str, data: Any) -> Any:
    """A Dask array of one chunk."""
    if not sparse.issparse(data):
        data = np.asarray(data)
    if data.ndim == 0:
        raise ValueError(f"{name} must be an array, but it is {data!r}")
    chunks = (max(data.shape[0], 1),) + (-1,) * (data.ndim - 1)
    return da.from_array(data, chunks=chunks, name=False, asarray=False)


def check(estimator: Any, stats: PartStats, labels: bool) -> None:
    """Refuse validation rows that don't fit the training rows."""
    if not stats.rows:
        raise ValueError(f"validation rows: {no_rows((0, stats.features))}")
    if stats.weight_sum <= 0:
        raise ValueError(
            "Sample weights must contain a number that is not 0, and the sum of "
            "sample_weight_val must be greater than zero; it is "
            f"{stats.weight_sum:g}"
        )
    if not labels:
        estimator._check_range(stats.y_min)
        return
    columns = [column for column, _ in stats.labels]
    if multioutput.widths(estimator):
        multioutput.check_known(estimator, multioutput.natural(columns))
        return
    known = [0, 1] if len(columns) > 1 else estimator.classes_
    for column in columns:
        check_known(column, known)
