"""Lazy predictions of Dask collections, and scores of which only sums are moved.

Imported when a Dask collection comes in, not before. Nothing here needs a client: the
model is in the graph, once, and whoever computes it computes it anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
import numpy as np
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skmlp.arrays import Array
from skmlp.dask.ingest import collections
from skmlp.dask.ingest.collections import check_shapes
from skmlp.data.checks import check_finite, known_or_nan
from skmlp.data.frames import as_values, in_order, is_frame
from skmlp.data.targets import encode
from skmlp.estimators.fitting import dask_inputs
from skmlp.estimators.prediction import scores
from skmlp.estimators.targets.labels import check_number
from skmlp.model.losses import entry, split

# -- prediction ------------------------------------------------------------------------


def predict(
    estimator: Any,
    method: str,
    X: Any,
    dtype: Any,
    n_columns: int | None,
    options: dict[str, Any],
) -> Any:
    """Call a method of the estimator on each part of the rows, lazily.

    `dtype` is by default that of the forward pass; `n_columns` is None for one
    dimension. A Dask array gives one of the same row chunks; a data frame a series or
    frame with its index, and columns of probabilities are named by the classes.
    """
    check_is_fitted(estimator)
    (X,) = collections.understand(None, ("X", X))
    dask_inputs.check_features(estimator, X, reset=False)
    if dtype is None:
        # As `skmlp.model.predict.forward` does.
        dtype = np.result_type(X.dtype, *estimator.coefs_)
        if dtype not in (np.float32, np.float64):
            dtype = np.float64
    dtype = np.dtype(dtype)
    model = _in_graph(estimator)
    if is_frame(X.meta):
        return _of_frame(estimator, model, method, X, dtype, n_columns, options)
    kwargs: dict[str, Any] = {}
    if n_columns is None:
        kwargs["drop_axis"] = 1
    else:
        kwargs["chunks"] = (X.data.chunks[0], (n_columns,))
    empty = np.empty((0,) if n_columns is None else (0, n_columns), dtype)
    return X.data.map_blocks(
        _predict_block,
        model,
        method=method,
        options=options,
        empty=empty,
        dtype=dtype,
        meta=empty,
        **kwargs,
    )


#: Parameters and attributes that only training needs.
_PARAMETERS_OF_TRAINING = "coefs_init", "intercepts_init", "random_state"
_OF_TRAINING = frozenset(
    {
        "history_",
        "loss_curve_",
        "validation_loss_curve_",
        "validation_scores_",
        "restarts_",
        "_resume",
        "_row_order",
        "_training",
        "_watch",
    }
)


def _in_graph(estimator: Any) -> Any:
    """The estimator as a value of a graph: what predicts, and little else."""
    model = object.__new__(type(estimator))
    kept = {k: v for k, v in vars(estimator).items() if k not in _OF_TRAINING}
    vars(model).update(kept | dict.fromkeys(_PARAMETERS_OF_TRAINING))
    return dask.delayed(model, pure=False)


def _of_frame(
    estimator: Any,
    model: Any,
    method: str,
    X: Any,
    dtype: Any,
    n_columns: int | None,
    options: dict[str, Any],
) -> Any:
    import pandas as pd

    columns: list[Any] | None = None
    classes: Any = getattr(estimator, "classes_", None)
    if isinstance(classes, list):
        # Labels of several columns, each with a dtype of its own.
        if method == "predict":
            dtype = {j: pd.Series(labels).dtype for j, labels in enumerate(classes)}
    elif dtype.kind in "OUS":
        dtype = pd.Series(classes).dtype  # strings have a dtype of their own in some
    if n_columns is not None:
        named = method.endswith("_proba") and n_columns == len(classes)
        columns = list(classes) if named else list(range(n_columns))
    meta = _like(X.meta, np.empty((0,) if columns is None else (0, n_columns)), columns)
    # Dask may read several files as one partition when the prediction is computed.
    reads = any("Parquet" in type(one).__name__ for one in X.data.expr.walk())
    return X.data.map_partitions(
        _predict_frame,
        model,
        method=method,
        options=options,
        columns=columns,
        dtype=dtype,
        names=X.names,
        counted=", as Dask reads the files" * reads,
        meta=meta.astype(dtype),
    )


def probabilities_of_heads(estimator: Any, X: Any) -> list[Any]:
    """A lazy collection for each target, all of one forward pass."""
    target = estimator._target
    raw = estimator._lazy("_forward", X, n_columns=estimator.n_outputs_)
    if not is_frame(raw):
        return split(raw, target.heads)
    ends = np.cumsum(target.heads)
    found = []
    for end, labels in zip(ends, estimator.classes_, strict=True):
        columns = range(end - len(labels), end)
        names = dict(zip(columns, labels, strict=True))
        found.append(raw[list(columns)].rename(columns=names))
    return found


def _like(frame: Any, values: Any, columns: list[Any] | None) -> Any:
    """An array with the index of a frame."""
    import pandas as pd

    if columns is None:
        return pd.Series(values, index=frame.index)
    return pd.DataFrame(values, index=frame.index, columns=columns)


def _predict_block(
    block: Any,
    model: Any,
    method: str,
    options: dict[str, Any],
    empty: Array,
    block_id: tuple[int, ...] = (0,),
) -> Any:
    # scikit-learn refuses to predict no rows; empty chunks are legal in Dask.
    if not block.shape[0]:
        return empty
    with _placed(block, block_id[0]):
        return getattr(model, method)(_plain(block), **options)


def _predict_frame(
    frame: Any,
    model: Any,
    method: str,
    options: dict[str, Any],
    columns: list[Any] | None,
    dtype: Any,
    names: list[Any] | None,
    counted: str,
    partition_info: Any = None,
) -> Any:
    # None where Dask infers what comes out.
    number = f"{partition_info['number'] if partition_info else 0}{counted}"
    frame = _in_order(frame, names, "X", number)
    if len(frame):
        # What takes raw tables names the column itself, and allows more in it.
        raw = get_tags(model).input_tags.allow_nan
        with _placed(None if raw else frame, number):
            values = getattr(model, method)(frame, **options)
    else:
        values = np.empty((0,) if columns is None else (0, len(columns)))
    return _like(frame, values, columns).astype(dtype)


def _in_order(part: Any, names: list[Any] | None, name: str, number: int | str) -> Any:
    """`in_order`; an error says which partition it is."""
    with _placed(None, number):
        return in_order(part, names, name)


@contextmanager
def _placed(part: Any, number: int | str) -> Iterator[None]:
    """Let an error say in which partition, and columns of a frame, it is."""
    try:
        try:
            yield
        except ValueError:
            if is_frame(part):
                check_finite(as_values(part), "X", part)
            raise
    except ValueError as error:
        raise ValueError(f"{error} (partition {number})") from None


def _plain(block: Any) -> Any:
    """A chunk as the estimators take it: they know scipy's sparse matrices only."""
    return block.to_scipy_sparse() if hasattr(block, "to_scipy_sparse") else block


# -- scores ----------------------------------------------------------------------------


def score(estimator: Any, X: Any, y: Any, sample_weight: Any) -> float:
    """Accuracy or R2 of Dask collections; only sums leave the workers."""
    (X, *columns), n_columns = _columns(estimator, X, y, sample_weight)
    model, target = _in_graph(estimator), estimator._target
    if target.loss == "quantiles":
        from skmlp.estimators.prediction import lazy_quantiles

        raw = [dask.delayed(_raw)(k, part, model) for k, part in enumerate(X)]
        return lazy_quantiles.score(target, raw, *columns)
    if target.heads:
        check_number(len(target.heads), n_columns)
    parts = [
        _sums(number, model, *part)
        for number, part in enumerate(zip(X, *columns, strict=True))
    ]
    (sums,) = dask.compute(dask.delayed(scores.added)(parts))
    return scores.score(target, sums)


def _columns(
    estimator: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[list[Any], int]:
    """Delayed rows, targets and perhaps weights, each a list of their parts.

    And how many columns the targets have.
    """
    check_is_fitted(estimator)
    given = (X, y, sample_weight)
    delayed = any(isinstance(one, (list, tuple)) for one in given)
    X, y, w = dask_inputs.understand(X, y, sample_weight, client=delayed)
    dask_inputs.check_features(estimator, X, reset=False)
    check_shapes(X, y, w)
    columns = collections.paired([X, y] + ([] if w is None else [w]))
    order, lists = dask.delayed(_in_order), list[Any]()
    for one in columns:
        parts = one.delayed()
        if one.names is not None:
            parts = [
                order(part, one.names, one.name, k) for k, part in enumerate(parts)
            ]
        lists.append(parts)
    return lists, columns[1].meta.shape[1] if y.ndim == 2 else 1


def _raw(number: int, part: Any, model: Any) -> Any:
    if not part.shape[0]:
        return np.empty(0)
    with _placed(part, number):
        return model._forward(_plain(part))


@dask.delayed
def _sums(number: int, model: Any, X: Any, y: Any, w: Any = None) -> scores.Sums:
    """What a part adds to the score."""
    target = model._target
    X, y = _plain(X), as_values(y)
    w = np.empty(0) if w is None else np.asarray(as_values(w), np.float64)
    scores.check_lengths(number, X, y, w)
    if entry(target.loss).target == "real":
        y = encode("real", None, known_or_nan(y) if target.masked else y, np.float64)
    with _placed(X, number):
        return scores.sums(target, model, X, y, w, target.compared)
