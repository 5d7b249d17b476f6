"""Rows on the workers of a Dask cluster: collections, and rows sent from here.

Imported when a Dask collection or joblib's Dask backend comes in, not before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
from dask.utils import format_bytes
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.utils import column_or_1d
from sklearn.utils.validation import validate_data

from skmlp.arrays import Array
from skmlp.config import get_config
from skmlp.dask.demands import demands_of
from skmlp.dask.ingest import collections
from skmlp.dask.ingest.collections import Parts, no_rows
from skmlp.dask.ingest.load_rows import TRIES, load_rows
from skmlp.dask.ingest.loaded_rows import LoadedRows
from skmlp.dask.launcher import DaskLauncher
from skmlp.dask.rpc import ClusterRPC, current_client
from skmlp.dask.seceded import thread_given_back
from skmlp.dask.worker_group import Limits
from skmlp.data.partitions import PartStats
from skmlp.estimators.advice import quality, timing_report
from skmlp.estimators.fitting import callback_support, dask_inputs
from skmlp.estimators.fitting.hyperparameters import Hyperparameters
from skmlp.estimators.fitting.initial_state import Start
from skmlp.estimators.fitting.inputs import (
    Input,
    check_shape_of_y_val,
    check_sum,
    is_dask,
)
from skmlp.estimators.fitting.judge import Judge, judge_there
from skmlp.estimators.fitting.place import step_parts
from skmlp.estimators.fitting.rows import Rows
from skmlp.estimators.targets import class_weights
from skmlp.estimators.targets.target import Target
from skmlp.launch import policy
from skmlp.launch.policy import Place
from skmlp.model.layout import Layout
from skmlp.optim.solvers import SOLVERS
from skmlp.plan import Plan
from skmlp.training import build
from skmlp.training.protocol import Launcher
from skmlp.training.supervisor import Supervisor


class RowsOnDask(Rows):
    """Dask collections, loaded where their chunks lie; the ranks encode the targets."""

    def __init__(
        self,
        estimator: Any,
        asked: Hyperparameters,
        data: LoadedRows,
        *,
        weighted: bool,
        has_held_out: bool,
    ) -> None:
        self._estimator, self._asked, self._data = estimator, asked, data
        stats: PartStats = data.stats
        if asked.first:
            quality.note_unscaled(estimator, stats.unscaled)
        if weighted:
            check_sum(stats.weight_sum)
        estimator._check_stats(stats, asked.mode)
        target: Target = estimator._target
        self._class_weights: tuple[Array, ...] = ()
        if target.labels is not None and asked.class_weight is not None:
            self._class_weights = class_weights.on_workers(
                asked.class_weight, target.labels, stats
            )
        self.n_rows, self.n_features = stats.rows, stats.features
        self.dtype, self.sparse = data.dtype, stats.sparse
        self.n_columns = stats.y_shape[0] if stats.y_shape else 1
        self.weighted = data.weighted or bool(self._class_weights)
        apart = data.held_out_stats
        self.n_held_out = apart.rows
        if has_held_out:
            if not apart.rows:
                raise ValueError(f"validation rows: {no_rows((0, apart.features))}")
            check_sum(apart.weight_sum, "sample_weight_val")
            target.check_stats(apart)

    def check_size(self, units: tuple[int, ...], solver: str) -> None:
        """See `Rows.check_size`."""
        _check_size(self._data, units, solver)

    def strata(self) -> bytes | None:
        """See `Rows.strata`."""
        target: Target = self._estimator._target
        if target.labels is None or target.n_outputs(self.n_columns) > 1:
            return None
        return np.packbits(self._data.last_label()).tobytes()

    @contextmanager
    def ranks(self, plan: Plan, start: Start) -> Iterator[tuple[Plan, Launcher]]:
        """See `Rows.ranks`: where the rows are."""
        start.known_order = None
        classes = getattr(self._estimator, "classes_", None)
        if isinstance(classes, list):
            classes = tuple(classes)
        elif classes is not None:
            classes = np.asarray(classes)
        plan = replace(plan, classes=classes, class_weights=self._class_weights)
        yield _launched(self._data, plan, callback_support.layout(self._estimator))

    def judge(self, plan: Plan, start: Start, supervisor: Supervisor) -> Judge | None:
        """See `Rows.judge`."""
        scoring, scorer = self._asked.scoring, self._asked.scorer
        if scorer is None or not plan.n_validation:
            return None
        return judge_there(self._estimator, scoring, scorer, plan, supervisor)


@contextmanager
def loaded(
    estimator: Any, asked: Hyperparameters, given: Input
) -> Iterator[RowsOnDask]:
    """Load Dask collections onto the workers."""
    with thread_given_back():
        client = current_client()
        demands = demands_of(*given)
        X, y, w = dask_inputs.understand(*given[:3])
        n_jobs = asked.n_jobs
        policy.refuse_none(n_jobs)
        n_asked = None if n_jobs is None or n_jobs < 0 else int(n_jobs)
        kept = callback_support.layout(estimator)
        dask_inputs.check_features(estimator, X, reset=asked.first)
        if y.ndim == 2 and y.meta.shape[1] == 1:
            column_or_1d(np.empty((1, 1)), warn=True)  # for its words
            y = y.column()
        labels = is_classifier(estimator)
        apart = _validation_of(estimator, ClusterRPC(client), X, y, given)
        with load_rows(
            client,
            X,
            y,
            w,
            n_jobs=n_jobs,
            n_shards=n_asked if kept is None else kept["n_shards"],
            demands=demands,
            tries=TRIES,
            labels=labels,
            masked=not labels and estimator._target.masked,
            held_out=apart,
        ) as data:
            timing_report.tell_missing(asked.verbose, data.shards.n_ranks, n_asked)
            yield RowsOnDask(
                estimator,
                asked,
                data,
                weighted=w is not None,
                has_held_out=apart is not None,
            )


@contextmanager
def sent(
    asked: Hyperparameters,
    plan: Plan,
    where: Place,
    rows: Any,
    held_out: Any,
    kept: dict[str, Any] | None,
) -> Iterator[tuple[Plan, Launcher]]:
    """Send rows of this process, with encoded targets, to the workers."""
    with load_rows(
        where.client,
        *rows,
        n_shards=where.n_ranks,
        demands=demands_of(),
        tries=TRIES,
        masked=plan.masked,
        held_out=held_out,
    ) as data:
        named = policy.choose(asked.n_jobs).n_ranks is not None
        n_asked = where.n_ranks if named else None
        timing_report.tell_missing(asked.verbose, data.shards.n_ranks, n_asked)
        _check_size(data, plan.units, plan.solver)
        yield _launched(data, plan, kept)


def _launched(
    data: LoadedRows, plan: Plan, kept: dict[str, Any] | None
) -> tuple[Plan, Launcher]:
    """What starts the ranks where the rows are, and the plan for as many shards."""
    plan = replace(plan, n_shards=data.shards.n_shards)
    parts = step_parts(plan, kept, not data.stats.sparse, data.threads)
    plan = replace(plan, step_parts=parts)
    limits = Limits(silence=get_config()["worker_timeout"])
    return plan, DaskLauncher(build.on_partitions, plan, data, limits)


def _validation_of(
    estimator: Any, rpc: ClusterRPC, X: Parts, y: Parts, given: Input
) -> tuple[Parts, Parts, Parts | None] | None:
    """Validation rows, understood as `X` and `y` are; None if there are none.

    What is no Dask collection is sent along with the graph.
    """
    if given.X_val is None:
        return None
    names = "X_val", "y_val", "sample_weight_val"
    apart = [
        data if data is None or is_dask(data) else _sent(name, data)
        for name, data in zip(names, given[3:], strict=True)
    ]
    X_val, y_val, w_val = collections.understand(rpc, *zip(names, apart, strict=True))
    if X_val.ndim != 2 or X_val.shape[1] != X.shape[1]:
        raise ValueError(
            f"X_val has the shape {X_val.shape}, but X has {X.shape[1]} features"
        )
    # A frame of this process has become an array without names.
    named = X_val.meta if is_dask(given.X_val) else given.X_val
    if hasattr(named, "shape"):
        validate_data(estimator, named, reset=False, skip_check_array=True)
    if y_val.ndim == 2 and y_val.shape[1] == 1:
        y_val = y_val.column()
    check_shape_of_y_val(y_val.shape[1:], y.shape[1:])
    return X_val, y_val, w_val


def _sent(name: str, data: Any) -> Any:
    """A Dask array of one chunk."""
    if not sparse.issparse(data):
        data = np.asarray(data)
    if data.ndim == 0:
        raise ValueError(f"{name} must be an array, but it is {data!r}")
    chunks = (max(data.shape[0], 1),) + (-1,) * (data.ndim - 1)
    return da.from_array(data, chunks=chunks, name=False, asarray=False)


def _check_size(data: LoadedRows, units: tuple[int, ...], solver: str) -> None:
    """MemoryError if a worker can't hold what it would surely have to."""
    weights = Layout(units).size * data.dtype.itemsize
    optimizer = SOLVERS.get(solver)
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
