"""Steps in runs: one compiled call for many minibatches.

The loop in `skmlp.train` calls a function for each product and each kernel. That costs
some microseconds a step, which is nothing to a large network and half the time of a
small one; and between the products only one thread works. Which steps run here, and in
how many parts, is a rule of the plan, never of a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, TypeGuard

import numpy as np

from skmlp.data.sources import GatheredRows, ShardRows
from skmlp.lanes import Lanes
from skmlp.launch.blas import products_limit
from skmlp.launch.choose import SMALL_STEP, work_of
from skmlp.model.network import multiplications
from skmlp.optim.solvers import SOLVERS, Solver
from skmlp.plan import Plan

Array = np.ndarray[Any, np.dtype[Any]]

#: Multiply-adds of a step, those of float64 counted twice, up to which the products of
#: `skmlp.kernels.gemm` on one core win (see docs/decisions).
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

#: Numbers in two cache lines, of float32: what different lanes write lies so far apart.
_LINE = 32


def can_run(plan: Plan) -> bool:
    """Whether there is a compiled function for the steps of a plan of one shard.

    Its activations and loss must be our own, all hidden layers have the same, and
    nothing may stand between gradient and update.
    """
    return (
        plan.kernels == "compiled"
        and plan.solver in SOLVERS
        and plan.n_shards == 1
        and all(isinstance(a, str) for a in plan.activation)
        and len(set(plan.activation)) <= 1
        and isinstance(plan.loss, str)
        and not plan.loss_settings
        and not plan.masked
        and not plan.dropout
        and not plan.frozen
        and not plan.l1_ratio
        and plan.clip_norm is None
        and plan.average is None
    )


def in_runs(shard: ShardRows, plan: Plan) -> TypeGuard[GatheredRows]:
    """Whether the steps of a plan on a shard run as one compiled function.

    On one lane a large network is better off with the BLAS's own threads.
    """
    return (
        can_run(plan)
        and isinstance(shard, GatheredRows)
        and shard.dense
        and (plan.lanes > 1 or _is_small(plan))
    )


def _is_small(plan: Plan) -> bool:
    """Whether the products of a plan are those for small matrices."""
    rows = min(plan.batch_size, plan.n_rows)
    return work_of(plan.units, rows, plan.dtype) <= MOST_WORK


class CompiledSteps:
    """The steps of a plan for which `in_runs` holds.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    optimizer : Solver
        Read for its settings.
    params, total : ndarray of shape (size,)
        The parameters, and where the gradient may be written.
    moments : sequence of ndarray of shape (size,)
        The optimizer's.
    shard : GatheredRows
        The rows; dense.
    mean_weight : float
        Of the training rows.

    Attributes
    ----------
    lanes : Lanes
        The threads.
    """

    def __init__(
        self,
        plan: Plan,
        optimizer: Solver,
        params: Array,
        total: Array,
        moments: Sequence[Array],
        shard: GatheredRows,
        mean_weight: float,
    ) -> None:
        # Not above: numba takes its time to import.
        from skmlp.kernels import epoch, sync
        from skmlp.kernels.tiles import LONG_VECTORS

        self._shard, self._n_lanes = shard, plan.lanes
        self._counters, self._phase = sync.counters(2 * plan.lanes), 0
        # A thread that comes late looks at the counters, and at nothing else.
        each = multiplications(plan.units)
        at_once = plan.n_rows * each >= _WORTH_A_THREAD
        self.lanes = Lanes(plan.lanes, self._counters, at_once)
        self._X: Array | None = None
        self._X_address = 0
        self._sums = np.zeros((plan.lanes, _LINE))
        #: Of each step, as the solvers' kernels take them.
        self._numbers = np.empty((plan.n_batches, 4))
        self._solver = optimizer
        self._numbers[:, 0] = plan.batch_size * mean_weight
        rest = plan.batch(plan.n_batches - 1)
        self._numbers[-1, 0] = (rest.stop - rest.start) * mean_weight
        most = min(plan.batch_size, plan.n_rows)
        row_bytes = plan.units[0] * params.itemsize
        most_bytes = _MAPPED_BYTES if shard.in_memory else _BYTES
        self._most_rows = max(most, min(_RUN // each, most_bytes // row_bytes))
        kind = epoch.type_of(shard.chunk_targets())
        # Between lanes, BLAS's products win where it has some for small matrices.
        tiled = _is_small(plan) and (plan.lanes == 1 or not LONG_VECTORS)
        self._run = epoch.runner(
            plan.dtype,
            kind,
            plan.activation[0] if plan.activation else "identity",
            plan.loss,
            plan.solver,
            tiled,
        )
        self._held = ExitStack()
        self._limit = products_limit() if plan.lanes > 1 else None
        dtype, rows = params.dtype, -(-most // plan.lanes)
        largest = max((n * m for n, m in plan.layout.shapes[1:]), default=0)
        layers = rows * sum(plan.units[1:])
        room = layers, layers, layers, largest, rows * plan.units[0]
        if plan.lanes > 1:
            total = self._for_each(params.size, dtype)
        self._arrays = (
            np.array(plan.units, np.intp),
            optimizer.settings,
            np.array(plan.loss_settings, np.float64),
            (params, total, moments[0], moments[-1]),
            tuple(self._for_each(size, dtype) for size in room),
            self._counters.ctypes.data,
        )

    def _for_each(self, size: int, dtype: Any) -> Array:
        """Room for so many numbers for each lane, in cache lines of its own."""
        return np.empty(self._n_lanes * -(-size // _LINE) * _LINE, dtype)

    def epoch(self, rates: Sequence[float], step: int) -> Array:
        """Do all minibatches of an epoch.

        Parameters
        ----------
        rates : sequence of float of length n_batches
            The learning rate of each.
        step : int
            Count of the steps before.

        Returns
        -------
        ndarray of shape (3,)
            Sum of the loss and of the squared norms of the penalised parameters before
            each step; the squared norm of the last minibatch's gradient.
        """
        if self._limit is not None:
            # From now to the end: this takes as long as a step of a small network.
            limit, self._limit = self._limit, None
            self._held.enter_context(limit)
        done, numbers, sums = 0, self._numbers, self._sums
        sums.fill(0.0)
        numbers[:, 1:] = self._solver.numbers(rates, step)[:, 1:]
        while done < len(numbers):
            X, *rows, ends = self._shard.chunk(done, self._most_rows)
            if X is not self._X:
                self._X, self._X_address = X, X.ctypes.data
            before, done = done, done + len(ends) - 1
            self.lanes.run(
                self._run,
                *self._arrays,
                self._X_address,
                *rows,
                ends,
                numbers[before:done],
                sums,
                self._phase,
            )
            self._phase += 2 * (done - before)
        if self._n_lanes == 1:
            return sums[0, :3]
        total: Array = sums[:, :3].sum(axis=0)
        return total

    def close(self) -> None:
        """End the lanes' threads, and the limit of the BLAS."""
        with self._held:
            self.lanes.close()
