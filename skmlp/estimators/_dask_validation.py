"""Validation rows of their own, beside training rows that are Dask arrays."""

from __future__ import annotations

import math

import dask
import dask.array as da
import numpy as np
from scipy import sparse

from skmlp.estimators._validation import check_known


def lazy(X, y, w, held_out):
    """Weights and validation rows, these as Dask arrays of the kind of the others."""
    X_val, y_val, w_val = held_out
    if X_val is None:
        return w, None
    X_val, y_val = (
        _as_dask(name, a) for name, a in (("X_val", X_val), ("y_val", y_val))
    )
    if X.sizes is None or any(map(math.isnan, X_val.chunks[0])):
        raise ValueError(
            "validation rows of their own (X_val) take partitions of known sizes: call "
            "compute_chunk_sizes() on arrays, or to_dask_array(lengths=True) on frames"
        )
    if X_val.ndim != 2 or X_val.shape[1] != X.shape[1]:
        raise ValueError(
            f"X_val has the shape {X_val.shape}, but X has {X.shape[1]} features"
        )
    if y_val.ndim == 2 and y_val.shape[1] == 1 and y.ndim == 1:
        y_val = y_val.reshape(-1)
    if y_val.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"y_val has targets of shape {y_val.shape[1:]} for each row, but y has "
            f"{y.shape[1:]}"
        )
    if w_val is not None:
        w_val = _as_dask("sample_weight_val", w_val)
        if w is None:
            w = da.ones(X.shape[0], chunks=(X.sizes,))
    elif w is not None:
        w_val = da.ones(X_val.shape[0], chunks=(X_val.chunks[0],))
    return w, (X_val, y_val, w_val)


def _as_dask(name, data):
    """A Dask array; what is none is sent along with the graph."""
    if dask.is_dask_collection(data):
        if not isinstance(data, da.Array):
            raise TypeError(f"{name} is a {type(data).__name__}, not a Dask array")
        return data
    if not sparse.issparse(data):
        data = np.asarray(data)
    if data.ndim == 0:
        raise ValueError(f"{name} must be an array, but it is {data!r}")
    chunks = (max(data.shape[0], 1),) + (-1,) * (data.ndim - 1)
    return da.from_array(data, chunks=chunks, name=False, asarray=False)


def check(estimator, stats, labels):
    """Refuse validation rows that don't fit the training rows."""
    if stats.weight_sum <= 0:
        raise ValueError(
            "Sample weights must contain a number that is not 0, and the sum of "
            "sample_weight_val must be greater than zero; it is "
            f"{stats.weight_sum:g}"
        )
    if not labels:
        estimator._check_range(stats.y_min)
        return
    known = [0, 1] if len(stats.labels) > 1 else estimator.classes_
    check_known(stats.classes, known)
