"""What goes with any solver: an L1 penalty, a bound on the gradient, mean weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from types import ModuleType
from typing import Any

import numpy as np

from skmlp.optim.solvers import Solver, Update

Array = np.ndarray[Any, np.dtype[Any]]


def with_l1(
    move: Update,
    optimizer: Solver,
    plan: Any,
    kernels: ModuleType,
    params: Array,
    moments: list[Array],
    n_penalised: int,
) -> Update:
    """Let a proximal step follow each step, so that weights become exactly 0.

    The penalty of a weight is ``alpha * (l1_ratio * |w| + (1 - l1_ratio) / 2 * w^2)``,
    scikit-learn's elastic net. A weight is moved towards 0 as far as the solver would
    move it, in the long run, for a gradient as large as the penalty's: a weight rests
    where the data's gradient equals it, with any solver.

    Parameters
    ----------
    move : callable
        The solver's step.
    optimizer : Solver
        The solver.
    plan : Plan
        Read for `alpha` and `l1_ratio`.
    kernels : module
        The kernel set.
    params : ndarray of shape (size,)
        The segment.
    moments : list of ndarray
        The solver's.
    n_penalised : int
        So many entries from the front carry the penalty.

    Returns
    -------
    callable
        As `move`; it returns ``(1 - l1_ratio) * sum(w^2) + 2 * l1_ratio * sum(|w|)``.

    References
    ----------
    Parikh and Boyd, "Proximal algorithms", 2014, sections 4.2 and 6.5.2.
    """
    ratio, strength = float(plan.l1_ratio), float(plan.alpha * plan.l1_ratio)
    where = optimizer.scaled_by
    second = np.empty(0, params.dtype) if where is None else moments[where]

    def penalised(divisor: float, learning_rate: float, step: int) -> float:
        absolute = kernels.absolute_sum(params, n_penalised)
        square = move(divisor, learning_rate, step)
        threshold = optimizer.reach(learning_rate, step) * strength / divisor
        kernels.soft_threshold(
            params, second, n_penalised, threshold, optimizer.epsilon
        )
        return (1.0 - ratio) * square + 2.0 * ratio * float(absolute)

    return penalised


def with_mean(
    move: Update, decay: float, kernels: ModuleType, params: Array, mean: Array
) -> Update:
    """Keep a moving mean of the parameters beside them.

    ``mean = decay * mean + (1 - decay) * params`` after each step; the plain mean of
    all steps as long as these are fewer than ``1 / (1 - decay)``.

    References
    ----------
    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
    """

    def averaged(divisor: float, learning_rate: float, step: int) -> float:
        norm = move(divisor, learning_rate, step)
        kernels.move_average(mean, params, max(1.0 - decay, 1.0 / step))
        return norm

    return averaged


class Clip:
    """Bounds the norm of a step's gradient, over all ranks together.

    Parameters
    ----------
    plan : Plan
        Read for `clip_norm`, `alpha` and `l1_ratio`.
    kernels : module
        The kernel set.
    own : sequence of int
        The shards of this rank.
    runs : list of (shard, params, total, n_penalised)
        The trained parameters of this rank.
    table : ndarray of shape (n_shards, 1)
        Of all ranks.
    all_reduce : callable
        The communicator's.

    References
    ----------
    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013, algorithm 1.
    """

    def __init__(
        self,
        plan: Any,
        kernels: ModuleType,
        own: Sequence[int],
        runs: list[tuple[int, Array, Array, int]],
        table: Array,
        all_reduce: Callable[[Array], Array],
    ) -> None:
        self._limit = float(plan.clip_norm)
        self._alpha = float(plan.alpha * (1.0 - plan.l1_ratio))
        self._norm = kernels.gradient_norm
        self._own, self._runs = list(own), runs
        self._table, self._all_reduce = table, all_reduce

    def __call__(self, divisor: float) -> float:
        """What the summed gradient is to be divided by instead of `divisor`."""
        self._table[self._own] = 0.0
        for shard, params, total, n_penalised in self._runs:
            self._table[shard, 0] += self._norm(params, total, n_penalised, self._alpha)
        norm = sqrt(self._all_reduce(self._table)[0]) / divisor
        return divisor * norm / self._limit if norm > self._limit else divisor
