"""Fits on a Dask cluster, and lazy predictions of Dask collections.

Imported when a Dask collection or joblib's Dask backend comes in, not before.
"""

from __future__ import annotations

import math
from dataclasses import replace

import dask
import dask.array as da
import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from skmlp import build, metrics
from skmlp.config import get_config
from skmlp.data.targets import encode
from skmlp.estimators import (
    _class_weight,
    _dask_validation,
    _fit,
    _losses,
    _start,
    _validation,
    _watch,
)
from skmlp.launch import choose
from skmlp.launch.dask_client import current_client
from skmlp.launch.dask_crew import Limits
from skmlp.launch.dask_fleet import DaskLauncher, adopt_all
from skmlp.model.losses import entry
from skmlp.optim.transforms import OPTIMIZERS


def check_kinds(X, y, sample_weight):
    """Refuse all but Dask arrays, and such beside others."""
    given = {"X": X, "y": y}
    if sample_weight is not None:
        given["sample_weight"] = sample_weight
    odd = [name for name, data in given.items() if not dask.is_dask_collection(data)]
    if odd:
        raise ValueError(
            f"{' and '.join(odd)} must be a Dask array, as the other inputs are: "
            "convert with dask.array.from_array, or compute() them all"
        )
    for name, data in given.items():
        check_array(name, data)


def check_array(name, data):
    """Refuse Dask's other collections."""
    if not isinstance(data, da.Array):
        raise TypeError(
            f"{name} is a {type(data).__name__}; of Dask's collections, skmlp takes "
            "arrays: a DataFrame's are at .to_dask_array(lengths=True)"
        )


def check_features(estimator, X, *, reset):
    """Define or compare the number of columns; those of Dask arrays have no names."""
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got {X.ndim}D array instead")
    if math.isnan(X.shape[1]):
        raise ValueError(
            "the chunks of X have unknown sizes: call X.compute_chunk_sizes() before"
        )
    a_row = np.empty((1, X.shape[1]))
    validate_data(estimator, a_row, reset=reset, skip_check_array=True)


def labels_like(y):
    """Two rows of labels in the shape of `y`: what they are, without its values."""
    check_array("y", y)
    return np.indices((2, *y.shape[1:]))[0]


# -- training --------------------------------------------------------------------------


def fit(
    estimator, X, y, sample_weight, held_out, *, first, incremental, epochs, deadline
):
    """Train on Dask arrays, where their chunks lie."""
    check_kinds(X, y, sample_weight)
    client = current_client()
    n_jobs = estimator.n_jobs
    choose.refuse_none(n_jobs)
    n_shards = None if n_jobs is None or n_jobs < 0 else n_jobs
    kept = _watch.layout(estimator)
    if kept is not None:
        n_shards = kept[0]
    labels = is_classifier(estimator)
    check_features(estimator, X, reset=first)
    if y.ndim == 2 and y.shape[1] == 1:
        column_or_1d(np.empty((1, 1)), warn=True)  # for its words
    sample_weight, held_out = _dask_validation.lazy(X, y, sample_weight, held_out)
    with adopt_all(
        client,
        X,
        y,
        sample_weight,
        n_shards=n_shards,
        labels=labels,
        held_out=held_out,
    ) as data:
        stats = data.stats
        if sample_weight is not None and stats.weight_sum <= 0:
            raise ValueError(_fit.NO_WEIGHT.format(stats.weight_sum))
        classes, class_weights = None, ()
        if labels:
            classes = check_labels(estimator, stats, incremental=incremental)
            if estimator.class_weight is not None:
                class_weights = _class_weight.on_workers(estimator, stats)
            n_outputs = n_outputs_of(estimator, stats)
        else:
            estimator._check_range(stats.y_min)
            columns = stats.y_shape[0] if stats.y_shape else 1
            n_outputs = _losses.n_outputs(estimator, columns)
        if held_out is not None:
            _dask_validation.check(estimator, data.source.held_out_stats, labels)
        units = (stats.features, *_fit.hidden_sizes(estimator), n_outputs)

        def bits():
            if not labels or units[-1] != 1:
                return None
            # The split is stratified by all labels: a bit a row comes here for it.
            column = y.reshape(-1) if y.ndim == 2 else y
            second = (column == classes[-1]) & (len(classes) > 1)
            return np.packbits(second.compute(scheduler=client)).tobytes()

        def judge(plan, start, supervisor):
            return _validation.judge_there(estimator, plan, supervisor)

        return run(
            estimator,
            data,
            units,
            bits,
            judge,
            classes=classes,
            class_weights=class_weights,
            weighted=sample_weight is not None or bool(class_weights),
            n_held_out=0 if held_out is None else held_out[0].shape[0],
            first=first,
            epochs=epochs,
            deadline=deadline,
        )


def fit_rows(
    estimator, X, y, w, validation, place, *, first, incremental, epochs, deadline
):
    """Train on rows of this process, sent to the workers of a cluster.

    `y` is encoded already.
    """
    units = _fit.layer_units(estimator, X.shape[1], y)
    n_shards, kept = place.n_ranks, _watch.layout(estimator)
    if kept is not None:
        n_shards = kept[0]
    elif get_config()["ranks"] != "as_asked":
        workers = len(place.client.scheduler_info(n_workers=-1)["workers"])
        asked = replace(place, n_ranks=n_shards or max(workers, 1))
        rows = X.shape[0]
        if estimator.solver in OPTIMIZERS:
            size = estimator.batch_size
            rows = min(200 if size == "auto" else size, rows)
        n_shards = choose.worthwhile(asked, units, rows, X.dtype.name)
        if n_shards == 1:
            return _fit.fit_here(
                estimator,
                X,
                y,
                w,
                validation,
                choose.HERE,
                first=first,
                incremental=incremental,
                epochs=epochs,
                deadline=deadline,
            )
    held_out = validation.held_out
    if held_out is not None:
        held_out = (*held_out[:2], held_out[2] if w.size else None)
    with adopt_all(
        place.client,
        X,
        y,
        w if w.size else None,
        n_shards=n_shards,
        held_out=held_out,
    ) as data:
        return run(
            estimator,
            data,
            units,
            lambda: _start.packed_labels(estimator, units, y),
            lambda plan, start, supervisor: _validation.judge(
                estimator, plan, validation, X, w, start
            ),
            weighted=w.size > 0,
            n_held_out=validation.n_rows,
            first=first,
            epochs=epochs,
            deadline=deadline,
        )


def run(
    estimator,
    data,
    units,
    labels,
    judge,
    *,
    classes=None,
    class_weights=(),
    weighted,
    n_held_out,
    first,
    epochs,
    deadline,
):
    """Plan and train on adopted rows.

    `labels` gives the bits for a stratified split; `judge` what scores a state, if the
    ranks don't.
    """
    n_rows = data.stats.rows
    incremental = epochs is not None
    start = _start.begin(estimator, units, data.dtype, first, incremental)
    if not n_held_out:
        _start.split(estimator, start, n_rows, labels)
    _start.order(estimator, start, n_rows, incremental)
    start.known_order = None
    plan = replace(
        _fit.make_plan(
            estimator, units, data.dtype, n_rows, weighted, start, epochs, n_held_out
        ),
        n_shards=data.shards.n_shards,
        classes=classes,
        class_weights=class_weights,
    )
    _fit.warn_unused(estimator, n_held_out > 0)
    limits = Limits(silence=get_config()["worker_timeout"])
    launcher = DaskLauncher(build.on_partitions, plan, data, limits)
    with _fit.supervised(estimator, launcher) as supervisor:
        score = judge(plan, start, supervisor)
        return _fit.run(estimator, supervisor, plan, start, score, deadline)


def check_labels(estimator, stats, *, incremental):
    """Define or compare `classes_`; return them."""
    columns = stats.y_shape[0] if stats.y_shape else 1
    if columns > 1:
        if not np.isin(stats.classes, [0, 1]).all():
            raise ValueError(
                "Multioutput target data is not supported with label binarization"
            )
        labels = np.indices((2, columns))[0]
    else:
        labels = stats.classes
    estimator._check_classes(labels, incremental=incremental)
    return np.asarray(estimator.classes_)


def n_outputs_of(estimator, stats):
    """Width of the last layer."""
    if entry(estimator._loss_name()).target == "codes":
        return len(estimator.classes_)
    return stats.y_shape[0] if stats.y_shape else 1


# -- prediction ------------------------------------------------------------------------


def predict(estimator, method, X, dtype, n_columns, options):
    """Call a method of the estimator on each block of rows, lazily.

    Parameters
    ----------
    estimator : BaseMLP
        Fitted. It goes into the graph once.
    method : str
        "predict" or another.
    X : dask.array.Array of shape (n, n_features)
        The rows.
    dtype : dtype
        Of the result.
    n_columns : int or None
        Columns of the result; None for one dimension.
    options : dict
        Further arguments of the method.

    Returns
    -------
    dask.array.Array
        With the row chunks of `X`.
    """
    check_array("X", X)
    check_features(estimator, X, reset=False)
    if X.numblocks[1] > 1:
        X = X.rechunk({1: -1})
    model = dask.delayed(estimator, pure=False)
    kwargs = {}
    if n_columns is None:
        kwargs["drop_axis"] = 1
    else:
        kwargs["chunks"] = (X.chunks[0], (n_columns,))
    empty = np.empty((0,) if n_columns is None else (0, n_columns), dtype)
    return X.map_blocks(
        _predict_block,
        model,
        method=method,
        options=options,
        dtype=dtype,
        meta=empty,
        **kwargs,
    )


def _predict_block(block, model, method, options):
    call = getattr(model, method)
    if block.shape[0] == 0:
        # scikit-learn refuses to predict no rows; empty chunks are legal in Dask.
        return call(np.zeros((1, block.shape[1]), block.dtype), **options)[:0]
    return call(block, **options)


def score(estimator, X, y, sample_weight):
    """Accuracy or R2 of Dask arrays; only sums leave the workers."""
    check_is_fitted(estimator)
    check_kinds(X, y, sample_weight)
    check_lengths(X, y, sample_weight)
    raw = estimator._lazy_raw(X)
    loss = estimator._loss_name()
    classes = getattr(estimator, "classes_", None)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y.reshape(-1)
    chunks = (X.chunks[0], *((-1,) * (y.ndim - 1)))
    y = y.rechunk(chunks)
    columns = [raw.to_delayed().ravel(), y.to_delayed().ravel()]
    if sample_weight is not None:
        columns.append(sample_weight.rechunk((X.chunks[0],)).to_delayed().ravel())
    blocks = list(zip(*columns, strict=True))
    width = estimator.n_outputs_
    spread = np.empty(0)
    if entry(loss).target == "real":
        (sums,) = dask.compute(_added([_mean(*b[1:]) for b in blocks]))
        mean = sums[1:] / sums[0]
        (spread,) = dask.compute(_added([_spread(mean, *b[1:]) for b in blocks]))
    n_parts = metrics.n_parts(loss, width)
    parts = [_parts(loss, classes, n_parts, *block) for block in blocks]
    (sums,) = dask.compute(_added(parts))
    return metrics.score(loss, sums, spread)


def check_lengths(*arrays):
    """Refuse arrays of unknown or of different lengths."""
    lengths = [a.shape[0] for a in arrays if a is not None]
    if any(math.isnan(n) for n in lengths):
        raise ValueError(
            "the chunks have unknown sizes: call compute_chunk_sizes() before score"
        )
    if len(set(lengths)) > 1:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {lengths}"
        )


@dask.delayed
def _added(parts):
    return np.sum(parts, axis=0)


def _weights(w):
    return np.empty(0) if w is None else np.asarray(w, np.float64)


@dask.delayed
def _mean(y, w=None):
    y = encode("real", None, np.asarray(y), np.float64)
    out = np.zeros(1 + y.shape[1])
    metrics.mean_parts(y, _weights(w), out)
    return out


@dask.delayed
def _spread(mean, y, w=None):
    y = encode("real", None, np.asarray(y), np.float64)
    out = np.zeros(y.shape[1])
    metrics.spread_parts(y, _weights(w), mean, out)
    return out


@dask.delayed
def _parts(loss, classes, n_parts, raw, y, w=None):
    target = entry(loss).target
    y = np.asarray(y)
    if target != "real" and y.ndim == 1 and len(classes) > 0:
        # A label that the model does not know is a wrong prediction.
        known = np.isin(y, classes)
    else:
        known = np.ones(len(y), bool)
    if not known.all():
        y = np.where(known, y, classes[0])
    y = encode(target, classes, y, raw.dtype)
    if not known.all() and target == "codes":
        y[~known] = -1
    elif not known.all():
        raw = np.where(known[:, None], raw, np.nan)
        y = np.where(known[:, None], y, 1)
    out = np.zeros(n_parts)
    metrics.score_parts(loss, raw, y, _weights(w), out)
    return out
