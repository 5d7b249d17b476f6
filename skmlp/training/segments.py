"""The solver's step on the segments that a rank holds, with all that goes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from skmlp.arrays import Array
from skmlp.comm.base import Exchange
from skmlp.optim.solvers import SOLVERS, Solver, Update
from skmlp.plan import Plan
from skmlp.training.rank import Rank


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
                update = solver.bind(params, part, own, n_penalised)
                self._updates.append((k, update))
                self._totals.append((k, part))
                runs.append((rank.shards[k].number, params, part, n_penalised))
        self._runs, self._rank, self._alpha = runs, rank, solver.alpha
        self._norms = None if plan.clip_norm is None else rank.table(1)
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
        if self._norms is not None:
            divisor = self._bounded(divisor, self._norms)
        for k, update in self._updates:
            self.norms[k] += update(divisor, rate, self._step + batch + 1)

    def _bounded(self, divisor: float, norms: Array) -> float:
        """The divisor that bounds the norm of the gradient, over all ranks together.

        Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural
        networks", ICML 2013, algorithm 1.
        """
        rank, limit = self._rank, self._rank.plan.clip_norm
        norms[list(rank.comm.own_shards)] = 0.0
        for shard, params, total, n_penalised in self._runs:
            given = params, total, n_penalised, self._alpha
            norms[shard, 0] += rank.kernels.gradient_norm(*given)
        norm = math.sqrt(rank.comm.all_reduce(norms)[0]) / divisor
        return divisor * norm / limit if limit and norm > limit else divisor


def _overlaps(segment: slice, runs: list[slice]) -> list[slice]:
    """The parts of a segment that lie in some runs."""
    parts = [
        slice(max(segment.start, run.start), min(segment.stop, run.stop))
        for run in runs
    ]
    return [part for part in parts if part.start < part.stop]
