"""Steps of small networks in runs: one compiled call for many minibatches.

The loop in `skmlp.train` calls a function for each product and each kernel. That costs
some microseconds a step, which is nothing to a large network and half the time of a
small one. Which steps run here is a rule of the plan, never of a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from skmlp.data.sources import GatheredRows, ShardRows
from skmlp.model.network import multiplications
from skmlp.optim.transforms import Optimizer
from skmlp.plan import Plan

Array = np.ndarray[Any, np.dtype[Any]]

#: Multiply-adds of a step, those of float64 counted twice, up to which the products of
#: `skmlp.kernels.compiled_products` on one core win (see docs/decisions).
MOST_WORK = 6_500_000

#: Bytes of the rows that a run takes at once: they stay in the cache until they are
#: used. A run is over within some milliseconds, so that a Ctrl-C is heard.
_BYTES = 2**17


def in_runs(shard: ShardRows, plan: Plan, n_shards: int) -> TypeGuard[GatheredRows]:
    """Whether the steps of a plan run as one compiled function.

    Its activations and loss must be our own, all hidden layers have the same, and
    nothing may stand between gradient and update.
    """
    work = multiplications(plan.units) * min(plan.batch_size, plan.n_rows)
    return (
        plan.kernels == "compiled"
        and n_shards == 1
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
        and isinstance(shard, GatheredRows)
        and shard.dense
        and work * (2 if plan.dtype == "float64" else 1) <= MOST_WORK
    )


class CompiledSteps:
    """The steps of a plan for which `in_runs` holds.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    optimizer : Optimizer
        Read for its settings.
    params, total : ndarray of shape (size,)
        The parameters, and where the gradient is written.
    moments : sequence of ndarray of shape (size,)
        The optimizer's.
    shard : GatheredRows
        The rows; dense.
    mean_weight : float
        Of the training rows.
    """

    def __init__(
        self,
        plan: Plan,
        optimizer: Optimizer,
        params: Array,
        total: Array,
        moments: Sequence[Array],
        shard: GatheredRows,
        mean_weight: float,
    ) -> None:
        # Not above: numba takes its time to import.
        from skmlp.kernels import compiled_steps

        self._shard = shard
        #: Of each step, as the solvers' kernels take them: divisor, rate, count.
        self._numbers = np.empty((plan.n_batches, 3))
        self._counts = np.arange(1.0, plan.n_batches + 1)
        self._numbers[:, 0] = plan.batch_size * mean_weight
        rest = plan.batch(plan.n_batches - 1)
        self._numbers[-1, 0] = (rest.stop - rest.start) * mean_weight
        most = min(plan.batch_size, plan.n_rows)
        row_bytes = plan.units[0] * params.itemsize
        self._most_rows = max(most, _BYTES // max(row_bytes, 1))
        layers = np.empty(most * sum(plan.units[1:]), params.dtype)
        largest = max((n * m for n, m in plan.layout.shapes[1:]), default=0)
        activation = plan.activation[0] if plan.activation else "identity"
        kind = compiled_steps.type_of(shard.chunk_targets())
        self._run = compiled_steps.runner(
            plan.dtype, kind, activation, plan.loss, plan.solver
        )
        self._arrays = (
            np.array(plan.units, np.intp),
            optimizer.settings,
            (params, total, moments[0], moments[-1]),
            (
                layers,
                np.empty_like(layers),
                np.empty_like(layers),
                np.empty(largest, params.dtype),
            ),
        )

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
        sums, done, numbers = np.zeros(3), 0, self._numbers
        numbers[:, 1] = rates
        np.add(self._counts, step, out=numbers[:, 2])
        while done < len(numbers):
            X, y, w, ends = self._shard.chunk(done, self._most_rows)
            before, done = done, done + len(ends) - 1
            self._run(*self._arrays, X, y, w, ends, numbers[before:done], sums)
        return sums
