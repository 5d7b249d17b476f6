"""Fits on a Dask cluster.

Imported when a Dask collection or joblib's Dask backend comes in, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from dask.utils import format_bytes
from sklearn.base import is_classifier
from sklearn.utils import column_or_1d
from sklearn.utils.validation import validate_data

from skmlp.config import get_config
from skmlp.dask.demands import demands_of
from skmlp.dask.ingest import collections
from skmlp.dask.ingest.choose_and_load import TRIES, adopt
from skmlp.dask.ingest.collections import Parts
from skmlp.dask.ingest.load import AdoptedData
from skmlp.dask.launcher import DaskLauncher
from skmlp.dask.rpc import ClusterRPC, current_client
from skmlp.dask.worker_group import Limits
from skmlp.data.checks import NOTHING_KNOWN
from skmlp.data.partitions import PartStats
from skmlp.estimators.advice import quality, timing_report
from skmlp.estimators.fitting import (
    callback_support,
    dask_validation_rows,
    initial_state,
    inputs,
    run,
)
from skmlp.estimators.fitting import judge as fitting_judge
from skmlp.estimators.fitting.hyperparameters import hidden_sizes
from skmlp.estimators.fitting.inputs import HeldOut
from skmlp.estimators.fitting.judge import Judge
from skmlp.estimators.fitting.validation_rows import Validation
from skmlp.estimators.targets import class_weights as targets_class_weights
from skmlp.estimators.targets import multioutput, real_targets, regression_losses
from skmlp.launch import policy
from skmlp.launch.policy import Place
from skmlp.model.layout import Array, Layout
from skmlp.optim.solvers import SOLVERS
from skmlp.plan import Plan
from skmlp.training import build
from skmlp.training.supervisor import Supervisor


def understand(X: Any, y: Any, sample_weight: Any, *, client: bool = True) -> list[Any]:
    """Find out what Dask collections are; refuse them beside other things.

    Returns
    -------
    list of Parts
        None for no weights.
    """
    given = {"X": X, "y": y, "sample_weight": sample_weight}
    odd = [
        name
        for name, data in given.items()
        if not inputs.is_dask(data) and (data is not None or name != "sample_weight")
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


def labels_like(y: Parts) -> Array:
    """Two rows of labels in the shape of `y`: what they are, without its values."""
    return np.asarray(np.indices((2, *y.meta.shape[1:]))[0])


# -- training --------------------------------------------------------------------------


def fit(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    held_out: HeldOut,
    *,
    first: bool,
    incremental: bool,
    epochs: int | None,
    deadline: float | None,
) -> Any:
    """Train on Dask arrays, where their chunks lie."""
    client = current_client()
    demands = demands_of(X, y, sample_weight, *held_out)
    X, y, sample_weight = understand(X, y, sample_weight)
    n_jobs = estimator.n_jobs
    policy.refuse_none(n_jobs)
    n_shards = None if n_jobs is None or n_jobs < 0 else int(n_jobs)
    n_asked, kept = n_shards, callback_support.layout(estimator)
    if kept is not None:
        n_shards = kept["n_shards"]
    labels = is_classifier(estimator)
    check_features(estimator, X, reset=first)
    if y.ndim == 2 and y.meta.shape[1] == 1:
        column_or_1d(np.empty((1, 1)), warn=True)  # for its words
        y = y.column()
    apart = dask_validation_rows.understand(
        estimator, ClusterRPC(client), X, y, held_out
    )
    with adopt(
        client,
        X,
        y,
        sample_weight,
        n_jobs=n_jobs,
        n_shards=n_shards,
        demands=demands,
        tries=TRIES,
        labels=labels,
        masked=real_targets.masked(estimator),
        held_out=apart,
    ) as data:
        timing_report.tell_missing(estimator, data.shards.n_ranks, n_asked)
        stats = data.stats
        if first:
            quality.note_unscaled(estimator, stats.unscaled)
        if sample_weight is not None and stats.weight_sum <= 0:
            raise ValueError(inputs.NO_WEIGHT.format(stats.weight_sum))
        classes: Array | tuple[Array, ...] | None = None
        class_weights: tuple[Array, ...] = ()
        if labels:
            classes = check_labels(estimator, stats, incremental=incremental)
            if estimator.class_weight is not None:
                class_weights = targets_class_weights.on_workers(estimator, stats)
        else:
            if stats.y_min == np.inf:
                raise ValueError(NOTHING_KNOWN)
            estimator._check_range(stats.y_min)
        columns = stats.y_shape[0] if stats.y_shape else 1
        n_outputs = regression_losses.n_outputs(estimator, columns)
        if apart is not None:
            dask_validation_rows.check(estimator, data.held_out_stats, labels)
        units = (stats.features, *hidden_sizes(estimator), n_outputs)

        def bits() -> bytes | None:
            if not labels or units[-1] != 1:
                return None
            return np.packbits(data.last_label()).tobytes()

        def judge(plan: Plan, start: Any, supervisor: Supervisor) -> Judge | None:
            return fitting_judge.judge_there(estimator, plan, supervisor)

        return train(
            estimator,
            data,
            units,
            bits,
            judge,
            classes=classes,
            class_weights=class_weights,
            weighted=data.weighted or bool(class_weights),
            n_held_out=data.held_out_stats.rows,
            first=first,
            epochs=epochs,
            deadline=deadline,
        )


def fit_rows(
    estimator: Any,
    X: Any,
    y: Any,
    w: Array,
    validation: Validation,
    place: Place,
    *,
    first: bool,
    incremental: bool,
    epochs: int | None,
    deadline: float | None,
) -> Any:
    """Train on rows of this process, sent to the workers of a cluster.

    `y` is encoded already.
    """
    units = run.layer_units(estimator, X.shape[1], y)
    n_shards, kept = place.n_ranks, callback_support.layout(estimator)
    demands = demands_of()
    if kept is not None:
        n_shards = kept["n_shards"]
    elif get_config()["ranks"] != "as_asked":
        info = place.client.scheduler_info(n_workers=-1)["workers"]
        known = [one for w, one in info.items() if not demands.lacks(w, one)]
        n_asked = n_shards or max(len(known), 1)
        threads = sorted(worker["nthreads"] for worker in known)[-n_asked:]
        asked = replace(place, n_ranks=n_asked, n_threads=sum(threads))
        rows = X.shape[0]
        if estimator.solver in SOLVERS:
            size = estimator.batch_size
            rows = min(200 if size == "auto" else size, rows)
        n_shards = policy.worthwhile(asked, units, rows, X.dtype.name)
        timing_report.tell_fewer(estimator, n_shards, n_asked, rows)
        if n_shards == 1:
            return None
    held_out: tuple[Any, Array, Array | None] | None = None
    if validation.held_out is not None:
        X_val, y_val, w_val = validation.held_out
        held_out = X_val, y_val, w_val if w.size else None
    with adopt(
        place.client,
        X,
        y,
        w if w.size else None,
        n_shards=n_shards,
        demands=demands,
        tries=TRIES,
        masked=real_targets.masked(estimator),
        held_out=held_out,
    ) as data:
        timing_report.tell_missing(
            estimator, data.shards.n_ranks, place.n_ranks and n_shards
        )
        return train(
            estimator,
            data,
            units,
            lambda: initial_state.packed_labels(estimator, units, y),
            lambda plan, start, supervisor: fitting_judge.judge(
                estimator, plan, validation, X, w, start
            ),
            weighted=w.size > 0,
            n_held_out=validation.n_rows,
            first=first,
            epochs=epochs,
            deadline=deadline,
        )


def train(
    estimator: Any,
    data: AdoptedData,
    units: tuple[int, ...],
    labels: Callable[[], bytes | None],
    judge: Callable[..., Judge | None],
    *,
    classes: Any = None,
    class_weights: tuple[Array, ...] = (),
    weighted: bool,
    n_held_out: int,
    first: bool,
    epochs: int | None,
    deadline: float | None,
) -> Any:
    """Plan and train on adopted rows.

    `labels` gives the bits for a stratified split; `judge` what scores a state, if the
    ranks don't.
    """
    refuse_too_large(estimator, data, units)
    n_rows = data.stats.rows
    incremental = epochs is not None
    start = initial_state.begin(estimator, units, data.dtype, first, incremental)
    if not n_held_out:
        initial_state.split(estimator, start, n_rows, labels)
    initial_state.order(estimator, start, n_rows, incremental)
    start.known_order = None
    plan = replace(
        run.make_plan(
            estimator, units, data.dtype, n_rows, weighted, start, epochs, n_held_out
        ),
        n_shards=data.shards.n_shards,
        classes=classes,
        class_weights=class_weights,
    )
    limits = Limits(silence=get_config()["worker_timeout"])
    launcher = DaskLauncher(build.on_partitions, plan, data, limits)
    with run.supervised(estimator, launcher) as supervisor:
        score = judge(plan, start, supervisor)
        return run.run(estimator, supervisor, plan, start, score, deadline)


def refuse_too_large(estimator: Any, data: AdoptedData, units: tuple[int, ...]) -> None:
    """MemoryError if a worker can't hold what it would surely have to."""
    weights = Layout(units).size * data.dtype.itemsize
    optimizer = SOLVERS.get(estimator.solver)
    moments = 0 if optimizer is None else optimizer.n_moments
    rows = data.stats.x_bytes / data.shards.n_ranks
    for rank, worker in enumerate(data.group.workers):
        limit = data.memory_limits[worker]
        # The first one hands the state over, from a copy.
        model = weights * (2 + moments + (2 * (1 + moments) if rank == 0 else 0))
        # More rows than half of the limit are kept in files.
        needed = model + (rows if rows <= limit / 2 else 0)
        if 0 < limit < needed:
            raise MemoryError(
                f"this fit needs at least {format_bytes(needed)} of memory on the Dask "
                f"worker {worker}, whose memory_limit is {format_bytes(limit)}: "
                f"{format_bytes(model)} for parameters, gradient and moments, and "
                f"{format_bytes(needed - model)} for rows. Give the workers a larger "
                "memory_limit, or take a smaller network"
            )


def check_labels(
    estimator: Any, stats: PartStats, *, incremental: bool
) -> Array | tuple[Array, ...]:
    """Define or compare `classes_`; return them."""
    columns = [labels for labels, _ in stats.labels]
    estimator._check_labels(columns, incremental=incremental)
    if multioutput.widths(estimator):
        return tuple(estimator.classes_)
    return np.asarray(estimator.classes_)
