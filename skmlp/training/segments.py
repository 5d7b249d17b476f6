"""The solver's step on the segments that a rank holds, with all that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skmlp.comm.base import Exchange
from skmlp.optim import wrappers
from skmlp.optim.solvers import SOLVERS, Solver, Update
from skmlp.plan import Plan
from skmlp.training.rank import Rank

Array = np.ndarray[Any, np.dtype[Any]]


def n_moments(plan: Plan) -> int:
    """How many arrays of the model's size a run has beside the parameters."""
    return SOLVERS[plan.solver].n_moments + (plan.average is not None)


class Segments:
    """Updates the parameters of a rank's segments from the summed gradient.

    Attributes
    ----------
    norms, squares : list of float
        For each segment: the squared norms of its penalised parameters before each
        step since `begin_epoch`, summed, and the squared norm of the last gradient.
    """

    def __init__(
        self, rank: Rank, solver: Solver, exchange: Exchange, moments: list[Array]
    ) -> None:
        plan, layout = rank.plan, rank.plan.layout
        trained = layout.without(plan.frozen)
        #: By segment: the step on each run of trained parameters, and its gradient.
        self._updates: list[tuple[int, Update]] = []
        self._totals: list[tuple[int, Array]] = []
        self._n_segments = len(exchange.segments)
        runs = []
        for k, (segment, total) in enumerate(
            zip(exchange.segments, exchange.totals, strict=True)
        ):
            for run in _overlaps(segment, trained):
                part = total[run.start - segment.start : run.stop - segment.start]
                n_penalised = min(max(layout.n_weights - run.start, 0), part.size)
                params, own = rank.params[run], [moment[run] for moment in moments]
                update = _with_all(rank, solver, params, part, own, n_penalised)
                self._updates.append((k, update))
                self._totals.append((k, part))
                runs.append((rank.shards[k].number, params, part, n_penalised))
        self._clip: wrappers.Clip | None = None
        if plan.clip_norm is not None:
            comm = rank.comm
            self._clip = wrappers.Clip(
                plan,
                rank.kernels,
                comm.own_shards,
                runs,
                rank.table(1),
                comm.all_reduce,
            )
        self._divisors = rank.divisors()

    def begin_epoch(self, rates: Sequence[float], step: int) -> None:
        """Begin the sums anew; the steps have these rates, and come after `step`."""
        self.norms, self.squares = [0.0] * self._n_segments, [0.0] * self._n_segments
        self._rates, self._step = rates, step

    def update(self, batch: int) -> None:
        """Take the step of a minibatch from the summed gradient."""
        divisor, rate = self._divisors[batch], self._rates[batch]
        if batch == len(self._rates) - 1:
            for k, total in self._totals:
                self.squares[k] += float(np.dot(total, total)) / divisor**2
        if self._clip is not None:
            divisor = self._clip(divisor)
        for k, update in self._updates:
            self.norms[k] += update(divisor, rate, self._step + batch + 1)


def _overlaps(segment: slice, runs: list[slice]) -> list[slice]:
    """The parts of a segment that lie in some runs."""
    parts = [
        slice(max(segment.start, run.start), min(segment.stop, run.stop))
        for run in runs
    ]
    return [part for part in parts if part.start < part.stop]


def _with_all(
    rank: Rank,
    solver: Solver,
    params: Array,
    total: Array,
    moments: list[Array],
    n_penalised: int,
) -> Update:
    """The step on a run of parameters, with L1 and the moving mean if there are any."""
    plan, own = rank.plan, moments[: solver.n_moments]
    update = solver.bind(params, total, own, n_penalised)
    if plan.l1_ratio:
        update = wrappers.with_l1(
            update, solver, plan, rank.kernels, params, own, n_penalised
        )
    if plan.average is not None:
        update = wrappers.with_mean(
            update, plan.average, rank.kernels, params, moments[-1]
        )
    return update
