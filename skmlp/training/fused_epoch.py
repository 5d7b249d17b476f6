"""The epoch as few compiled calls, each of many minibatches.

The loop in `skmlp.training.loop` calls a function for each product and each kernel. It
costs some microseconds a step, which is nothing to a large network and half the time of
a small one; and between the products only one thread works. Into how many parts a step
is cut is a rule of the plan, never of a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from skmlp.data.sampler import ShardSampler
from skmlp.kernels.step_threads import Lanes
from skmlp.model.activations import ACTIVATIONS
from skmlp.model.network import SMALL_STEP, multiplications, work_of
from skmlp.optim.solvers import SOLVERS, Solver
from skmlp.plan import Plan
from skmlp.threads import products_limit
from skmlp.training.rank import Rank

Array = np.ndarray[Any, np.dtype[Any]]

#: Multiply-adds of a step, those of float64 counted twice, up to which the products of
#: `skmlp.kernels.products.gemm` on one core win (see docs/decisions).
MOST_WORK = SMALL_STEP

#: Bytes of the rows that a run takes at once if they have to be copied before: they
#: stay in the cache until they are used.
_BYTES = 2**17

#: And of those that compiled code reads by itself: they may be mapped from a file.
_MAPPED_BYTES = 2**26

#: Multiply-adds of a run, about: it is over within some milliseconds, or one step, so
#: that a Ctrl-C is heard.
_RUN = 2 * 10**8

#: Multiply-adds of an epoch from which on starting threads for one pays.
_WORTH_A_THREAD = 4 * 10**7

#: Numbers in two cache lines, of float32: what different parts write lies so far apart.
_LINE = 32


def can_run(plan: Plan) -> bool:
    """Whether there are compiled kernels for all that a plan's steps need."""
    return (
        plan.kernels == "compiled"
        and plan.solver in SOLVERS
        and all(isinstance(a, str) for a in plan.activation)
        and isinstance(plan.loss, str)
    )


def in_runs(shard: ShardSampler, plan: Plan) -> bool:
    """Whether the steps of a plan of one dense shard run as compiled calls."""
    return plan.n_shards == 1 and shard.dense and can_run(plan)


def _is_small(plan: Plan) -> bool:
    """Whether the products of a plan are those for small matrices."""
    rows = min(plan.batch_size, plan.n_rows)
    return work_of(plan.units, rows, plan.dtype) <= MOST_WORK


class FusedEpoch:
    """The steps of a plan for which `in_runs` holds; see `loop.Steps`."""

    def __init__(
        self, rank: Rank, rows: ShardSampler, solver: Solver, moments: Sequence[Array]
    ) -> None:
        # Not above: numba takes its time to import.
        from skmlp.kernels import epoch, sync
        from skmlp.kernels.products.tiles import LONG_VECTORS

        plan, params, total = rank.plan, rank.params, rank.parts[0]
        self._rows, self._n_parts, self._solver = rows, plan.step_parts, solver
        self._counters, self._phase = sync.counters(2 * plan.step_parts), 0
        # A thread that comes late looks at the counters, and at nothing else.
        each = multiplications(plan.units)
        at_once = plan.n_rows * each >= _WORTH_A_THREAD
        self.threads = Lanes(plan.step_parts, self._counters, at_once)
        self._X: Array | None = None
        self._X_address = 0
        self._sums = np.zeros((plan.step_parts, _LINE))
        self._divisors = np.array(rank.divisors())
        self._parts = np.arange(plan.step_parts + 1)
        most = min(plan.batch_size, plan.n_rows)
        row_bytes = plan.units[0] * params.itemsize
        most_bytes = _MAPPED_BYTES if rows.in_memory else _BYTES
        self._most_rows = max(most, min(_RUN // each, most_bytes // row_bytes))
        clip = plan.clip_norm is not None
        self._run = epoch.runner(
            plan.dtype,
            rows.chunk_targets(),
            plan.activation,
            plan.loss,
            plan.solver,
            # Between parts, BLAS's products win where it has some for small matrices.
            tiled=_is_small(plan) and (plan.step_parts == 1 or not LONG_VECTORS),
            dropout=bool(plan.dropout),
            masked=plan.masked,
            l1=bool(plan.l1_ratio),
            average=plan.average is not None,
            clip=clip,
        )
        self._held = ExitStack()
        self._limit = products_limit() if plan.step_parts > 1 else None
        if plan.step_parts > 1:
            total = self._for_each(params.size, params.dtype)
        scale = np.empty(0, params.dtype)
        if solver.scaled_by is not None:
            scale = moments[solver.scaled_by]
        mean = moments[-1] if plan.average is not None else scale[:0]
        stages = [epoch.GRADIENT, epoch.REDUCE | epoch.UPDATE]
        if clip:
            stages = [epoch.GRADIENT, epoch.REDUCE | epoch.NORM, epoch.UPDATE]
        self._n_stages = len(stages)
        trained = [i not in plan.frozen for i in range(len(plan.units) - 1)]
        runs = [(run.start, run.stop) for run in plan.layout.without(plan.frozen)]
        segments = self._parts * params.size // plan.step_parts
        options = [plan.clip_norm or 0.0, solver.alpha, plan.l1_ratio, solver.epsilon]
        self._arrays = (
            np.array(plan.units, np.int64),
            np.array(trained, np.int64),
            np.array(runs, np.int64).ravel(),
            np.array([plan.layout.n_weights, *segments], np.int64),
            np.array(stages, np.int64),
            solver.settings,
            np.array(plan.loss_settings, np.float64),
            self._dropout_of(plan),
            np.array(options, np.float64),
            (params, total, moments[0], scale, mean),
            *self._room(plan, -(-most // plan.step_parts), params.dtype),
            self._counters.ctypes.data,
        )
        self._numbered = bool(plan.dropout)
        self._key = np.zeros((plan.step_parts, _LINE), np.uint64)
        if plan.dropout_key is not None:
            self._key[:, :2] = plan.dropout_key

    def _dropout_of(self, plan: Plan) -> Array:
        """Return thresholds and scales of each layer; empty without dropout."""
        rates = np.array(plan.dropout, np.float64)
        return np.concatenate([np.round(rates * 2.0**32), 1.0 / (1.0 - rates)])

    def _room(self, plan: Plan, rows: int, dtype: Any) -> list[Array]:
        """Return what each part computes in; see `skmlp.kernels.epoch`."""
        from skmlp.kernels import network

        width, n_outputs = sum(plan.units[1:]), plan.units[-1]
        layers, dropped = rows * width, bool(plan.dropout)
        derives = any(not ACTIVATIONS[name].of_value for name in plan.activation)
        largest = max((n * m for n, m in plan.layout.shapes[1:]), default=0)
        inputs = rows * plan.units[0]
        known = 3 * rows * n_outputs + 2 * n_outputs
        sizes = (
            layers,
            layers,
            layers * derives,
            (layers + inputs) * dropped,  # those of the features come last
            layers * dropped,
            largest,
            inputs,
            known * plan.masked,
        )
        return network.room_for(sizes, rows, plan.step_parts, dtype)

    def _for_each(self, size: int, dtype: Any) -> Array:
        """Room for so many numbers for each part, in cache lines of its own."""
        return np.empty(self._n_parts * -(-size // _LINE) * _LINE, dtype)

    def run_epoch(self, rates: Sequence[float], step: int) -> Array:
        """All minibatches once; see `skmlp.training.loop.Steps`."""
        if self._limit is not None:
            # From now to the end: this takes as long as a step of a small network.
            limit, self._limit = self._limit, None
            self._held.enter_context(limit)
        done, sums = 0, self._sums
        sums.fill(0.0)
        numbers = self._solver.numbers(self._divisors, rates, step)
        while done < len(numbers):
            X, *others, ends = self._rows.chunk(done, self._most_rows, self._numbered)
            if X is not self._X:
                self._X, self._X_address = X, X.ctypes.data
            before, done = done, done + len(ends) - 1
            self.threads.run(
                self._run,
                *self._arrays,
                self._X_address,
                *others,
                self._cuts(ends),
                numbers[before:done].ravel(),
                self._key.ravel(),
                sums.ravel(),
                self._phase,
            )
            self._phase += self._n_stages * (done - before)
        total: Array = sums[:, :3].sum(axis=0, keepdims=True)
        total[0, 2] /= self._divisors[-1] ** 2
        return total

    def _cuts(self, ends: Array) -> Array:
        """Where the rows of each part of each minibatch begin; last, where all end."""
        rows = np.diff(ends)[:, None] * self._parts[:-1] // self._n_parts
        return np.append(ends[:-1, None] + rows, ends[-1])

    def close(self) -> None:
        """End the step threads, and the limit of the BLAS."""
        with self._held:
            self.threads.close()
