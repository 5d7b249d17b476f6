"""Rows of this process, to be trained on here, by joblib's processes or by Dask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_sample_weight

from skmlp.arrays import Array, dtype_of
from skmlp.comm.base import Shards
from skmlp.config import get_config
from skmlp.data.sampler import SharedDataset
from skmlp.estimators import array_support
from skmlp.estimators.fitting import callback_support, place
from skmlp.estimators.fitting.hyperparameters import Hyperparameters
from skmlp.estimators.fitting.initial_state import Start
from skmlp.estimators.fitting.inputs import (
    Input,
    check_shape_of_y_val,
    check_weights,
    settled,
)
from skmlp.estimators.fitting.judge import Judge, judge_here
from skmlp.estimators.fitting.rows import Rows
from skmlp.estimators.targets import class_weights
from skmlp.estimators.targets.target import Target
from skmlp.launch.in_process import InProcessGroup
from skmlp.launch.local_launcher import LocalLauncher
from skmlp.launch.policy import Place
from skmlp.plan import Plan
from skmlp.training import build
from skmlp.training.protocol import Launcher, RankGroup
from skmlp.training.rank import most_bytes
from skmlp.training.supervisor import Supervisor


class RowsHere(Rows):
    """Rows of this process; y is encoded, and an empty w stands for equal weights.

    The classes' weights are in w. The caller's own rows and targets are kept for
    scorers.
    """

    def __init__(self, estimator: Any, asked: Hyperparameters, given: Input) -> None:
        self._estimator, self._asked = estimator, asked
        self._arrays, given = settled(given)
        array_support.begin(estimator, self._arrays, given.X)
        alone = given.X_val is not None
        self._given = (given.X_val, given.y_val) if alone else (given.X, given.y)
        X, y = estimator._check_targets(*given[:2], asked.mode, reset=asked.first)
        self.X: Any = X.tocsr() if sparse.issparse(X) else X
        self.y: Array = y
        self.dtype, self.w = dtype_of(X), np.empty(0, dtype_of(X))
        if given.sample_weight is not None:
            self.w = check_weights(_weights(given.sample_weight, X))
        target: Target = estimator._target
        self.held_out: tuple[Any, Array, Array] | None = None
        if alone:
            self.held_out = self._checked(target, given)
            if self.held_out[2].size and not self.w.size:
                self.w = np.ones(X.shape[0])
        if asked.class_weight is not None:
            assert target.labels is not None
            of_classes = asked.class_weight, target.labels
            self.w = class_weights.weighted(*of_classes, y, self.w, y)
            check_weights(self.w)
            if self.held_out is not None:
                X_val, y_val, w_val = self.held_out
                w_val = class_weights.weighted(*of_classes, y_val, w_val, y)
                self.held_out = X_val, y_val, w_val
        self.n_rows, self.n_features = X.shape
        self.n_held_out = 0 if self.held_out is None else self.held_out[0].shape[0]
        self.n_columns = y.shape[1] if y.ndim == 2 else 1
        self.weighted, self.sparse = self.w.size > 0, sparse.issparse(X)
        self._binary = target.labels is not None

    def _checked(self, target: Target, given: Input) -> tuple[Any, Array, Array]:
        """Validation rows in the form of the training rows, with weights if any has."""
        X, y = target.check_validation(self._estimator, given.X_val, given.y_val)
        check_shape_of_y_val(y.shape[1:], self.y.shape[1:])
        if self._arrays is not None:
            X = self._arrays.xp.astype(X, self.X.dtype, copy=False)
        else:
            X = X.astype(self.X.dtype, copy=False)
        if sparse.issparse(X):
            X = X.tocsr() if sparse.issparse(self.X) else X.toarray()
        elif sparse.issparse(self.X):
            X = sparse.csr_array(X)
        w = np.ones(X.shape[0] if self.w.size else 0)
        if given.sample_weight_val is not None:
            w = _weights(given.sample_weight_val, X)
            check_weights(w, "sample_weight_val")
        return X, y, w

    def strata(self) -> bytes | None:
        """See `Rows.strata`."""
        one = self._binary and self.y.ndim == 2 and self.y.shape[1] == 1
        return np.packbits(self.y != 0).tobytes() if one else None

    @contextmanager
    def ranks(self, plan: Plan, start: Start) -> Iterator[tuple[Plan, Launcher]]:
        """See `Rows.ranks`."""
        kept = callback_support.layout(self._estimator)
        dense = isinstance(self.X, np.ndarray)
        plan, where = place.decide(self._asked, plan, kept, dense)
        if where.kind == "dask":
            from skmlp.estimators.fitting import rows_on_dask

            rows = self.X, self.y, self.w if self.w.size else None
            apart: Any = None
            if self.held_out is not None:
                X_val, y_val, w_val = self.held_out
                apart = X_val, y_val, w_val if self.w.size else None
            sent = rows_on_dask.sent(self._asked, plan, where, rows, apart, kept)
            with sent as found:
                start.known_order = None
                yield found
        else:
            order = start.known_order if where.kind != "processes" else None
            yield plan, launcher(plan, self._shared(start, order), where)

    def _shared(self, start: Start, order: Any) -> SharedDataset:
        held_out = self.held_out
        if held_out is not None:
            held_out = (*held_out[:2], held_out[2].astype(self.dtype, copy=False))
        w = self.w.astype(self.dtype, copy=False)
        split = start.train, start.validation
        return SharedDataset(self.X, self.y, w, *split, order, held_out)

    def judge(self, plan: Plan, start: Start, supervisor: Supervisor) -> Judge | None:
        """See `Rows.judge`; the scorer gets frames and series as they came."""
        scoring, scorer = self._asked.scoring, self._asked.scorer
        if scorer is None or not plan.n_validation:
            return None
        X, w = (self.X, self.w) if self.held_out is None else self.held_out[::2]
        given_X, y = self._given
        X = given_X if _is_named(given_X) else X
        y = y.toarray() if sparse.issparse(y) else y
        if self.held_out is None:
            numbers = start.validation[: len(start.validation)]
            X, y = (_safe_indexing(rows, numbers) for rows in (X, y))
            w = w[numbers] if w.size else w
        y = y if _is_named(y) else np.asarray(y)
        weights = w if w.size else None
        return judge_here(self._estimator, scoring, scorer, plan, X, y, weights)


def _weights(given: Any, X: Any) -> Array:
    """Weights of the rows, checked; in numpy, wherever X lies."""
    like = X if isinstance(X, np.ndarray) else np.empty((X.shape[0], 0), dtype_of(X))
    checked: Array = _check_sample_weight(given, like)
    return checked


def _is_named(data: Any) -> bool:
    """Whether it is a frame or a series, of pandas, polars or the like."""
    return hasattr(data, "columns") or hasattr(data, "to_numpy")


def launcher(plan: Plan, rows: SharedDataset, where: Place) -> Launcher:
    """How the ranks on this host start."""
    n_ranks, n_shards = where.n_ranks or 1, plan.n_shards

    def here() -> RankGroup:
        limit = plan.blas_threads
        return InProcessGroup(build.on_source, plan, rows, n_shards, limit)

    if where.kind == "process":
        return LocalLauncher(here)
    from skmlp.launch.loky.process_group import LokyGroup

    def processes() -> RankGroup:
        return LokyGroup(
            build.on_source,
            plan,
            rows,
            Shards(tuple(k * n_ranks // n_shards for k in range(n_shards))),
            backend=where.backend,
            blas_threads=plan.blas_threads,
            max_bytes=most_bytes(plan),
            worker_timeout=get_config()["worker_timeout"],
        )

    return LocalLauncher(processes, here)
