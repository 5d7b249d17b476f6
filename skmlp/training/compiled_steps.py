"""The steps of a rank in compiled code, shared by step threads.

A step from Python is a call for each product and each kernel. It costs some
microseconds, which is nothing to a large network and half the time of a small one; and
between the products only one thread works. Here the gradient of a shard is one call,
and the update of a segment is another one; the step threads share both. Into how many
parts a step is cut is a rule of the plan, never of a clock, and decides the bits; which
thread computes a part does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from math import sqrt
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.comm.base import Exchange
from skmlp.kernels.step_threads import StepThreads
from skmlp.model.activations import ACTIVATIONS
from skmlp.model.network import SMALL_STEP, multiplications, work_of
from skmlp.optim.solvers import SOLVERS, Solver
from skmlp.plan import Plan
from skmlp.threads import blas_threads_now, products_limit
from skmlp.training.rank import LINE, Rank, Shard

#: Multiply-adds of a step, those of float64 counted twice, up to which the products of
#: `skmlp.kernels.products.gemm` on one core win (see docs/decisions).
MOST_WORK = SMALL_STEP

#: Bytes of the rows that are taken at once if they have to be copied before: they stay
#: in the cache until they are used.
_BYTES = 2**17

#: And of those that compiled code reads by itself: they may be mapped from a file.
_MAPPED_BYTES = 2**26

#: Multiply-adds of the rows that are taken at once, about. A run of so many is over
#: within some milliseconds, or one step, so that a Ctrl-C is heard.
_RUN = 2 * 10**8

#: Multiply-adds of an epoch from which on starting threads for one pays.
_WORTH_A_THREAD = 4 * 10**7


def can_run(plan: Plan) -> bool:
    """Whether compiled kernels can serve a plan: all that it names is in the tables."""
    return (
        plan.kernels == "compiled"
        and plan.solver in SOLVERS
        and all(isinstance(a, str) for a in plan.activation)
        and isinstance(plan.loss, str)
    )


def is_compiled(rank: Rank) -> bool:
    """Whether the steps of a rank run as compiled calls.

    Its rows are dense, and each entry that they need has a kernel.
    """
    plan, kernels = rank.plan, rank.kernels
    return (
        all(shard.rows.dense for shard in rank.shards)
        and can_run(plan)
        and all(name in kernels.FORWARD for name in plan.activation)
        and plan.loss in kernels.LOSS
        and plan.solver in kernels.STEP
    )


class CompiledSteps:
    """The compiled steps of a plan on a rank, for whole runs of them or one by one.

    Parameters
    ----------
    rank : Rank
        For which `is_compiled` holds.
    solver : Solver
        Read for its settings.
    moments : sequence of ndarray of shape (size,)
        The solver's, and the moving mean of the parameters if there is one.
    clips : bool
        Whether an update bounds the norm of the gradient by itself.
    """

    def __init__(
        self, rank: Rank, solver: Solver, moments: Sequence[Array], *, clips: bool
    ) -> None:
        # Not above: numba takes its time to import.
        from skmlp.kernels import epoch, network, sync
        from skmlp.kernels.products.tiles import LONG_VECTORS

        plan, params = rank.plan, rank.params
        self.solver, self.n_parts, self._params = solver, plan.step_parts, params
        self._counters, self._phase = sync.counters(2 * self.n_parts), 0
        each = multiplications(plan.units)
        # A rank beside others has as many threads as its launcher gives to its BLAS.
        most = None if plan.n_shards == 1 else blas_threads_now()
        worth = plan.n_rows // plan.n_shards * each >= _WORTH_A_THREAD
        # A thread that comes late looks at the counters, and at nothing else.
        self.threads = StepThreads(self.n_parts, self._counters, worth, most)
        rows = rank.shards[0].rows
        in_batch = min(plan.batch_size, plan.n_rows)
        most_rows = min(in_batch, max(s.rows.max_rows for s in rank.shards))
        row_bytes = plan.units[0] * params.itemsize
        most_bytes = _MAPPED_BYTES if rows.in_memory else _BYTES
        #: Rows to take at once.
        self.most_rows = max(most_rows, min(_RUN // each, most_bytes // row_bytes))
        in_shard = -(-in_batch // plan.n_shards)
        small = work_of(plan.units, in_shard, plan.dtype) <= MOST_WORK
        needs = epoch.Needs(
            # Between parts, BLAS's products win where it has some for small matrices.
            tiled=small and (self.n_parts == 1 or not LONG_VECTORS),
            dropout=bool(plan.dropout),
            masked=plan.masked,
            l1=bool(plan.l1_ratio),
            average=plan.average is not None,
            clip=plan.clip_norm is not None,
        )
        of_fit = plan.activation, plan.loss, plan.solver
        self._run = epoch.runner(plan.dtype, rows.chunk_targets(), *of_fit, needs)
        self._held = ExitStack()
        self._limit = products_limit() if self.n_parts > 1 else None
        trained = [i not in plan.frozen for i in range(len(plan.units) - 1)]
        runs = [(run.start, run.stop) for run in plan.layout.without(plan.frozen)]
        self._network = (
            np.array(plan.units, np.int64),
            np.array(trained, np.int64),
            np.array(runs, np.int64).ravel(),
        )
        bound = plan.clip_norm if clips and plan.clip_norm is not None else 0.0
        options = [bound, solver.alpha, plan.l1_ratio, solver.epsilon]
        self._settings = (
            solver.settings,
            np.array(plan.loss_settings, np.float64),
            _dropout_of(plan),
            np.array(options, np.float64),
        )
        scale = np.empty(0, params.dtype)
        if solver.scaled_by is not None:
            scale = moments[solver.scaled_by]
        mean = moments[-1] if plan.average is not None else scale[:0]
        self._moments = moments[0], scale, mean
        of_part = -(-most_rows // self.n_parts)
        sizes = _sizes_of_room(plan, of_part)
        self._room = network.room_for(sizes, of_part, self.n_parts, params.dtype)
        self._address = self._counters.ctypes.data
        #: Whether rows come with their numbers.
        self.numbered = bool(plan.dropout)
        self._key = np.zeros((self.n_parts, LINE), np.uint64)
        if plan.dropout_key is not None:
            self._key[:, :2] = plan.dropout_key
        self._n_weights = plan.layout.n_weights

    def segments(self, start: int, stop: int) -> Array:
        """What the kernels need to know of a segment: what each part has of it."""
        size, n_parts = stop - start, self.n_parts
        bounds = [start + part * size // n_parts for part in range(n_parts + 1)]
        return np.array([self._n_weights, *bounds], np.int64)

    def cuts(self, ends: Array) -> Array:
        """Where the rows of each part of each minibatch begin; last, where all end."""
        if self.n_parts == 1:
            return ends
        rows = np.diff(ends)[:, None] * np.arange(self.n_parts) // self.n_parts
        return np.append(ends[:-1, None] + rows, ends[-1])

    def sums(self) -> Array:
        """Zeros for what the parts add up; see `skmlp.kernels.epoch`."""
        return np.zeros((self.n_parts, LINE))

    def run(
        self,
        stages: Array,
        segments: Array,
        total: Array,
        rows: Sequence[Any],
        cuts: Array,
        numbers: Array,
        sums: Array,
    ) -> None:
        """Do some stages of the minibatches that `numbers` has a line for.

        `rows` is the address of X and the rest of a `ShardSampler.chunk`.
        """
        if self._limit is not None:
            # From now to the end: this takes as long as a step of a small network.
            limit, self._limit = self._limit, None
            self._held.enter_context(limit)
        self.threads.run(
            self._run,
            *self._network,
            segments,
            stages,
            *self._settings,
            (self._params, total, *self._moments),
            *self._room,
            self._address,
            *rows,
            cuts,
            numbers.ravel(),
            self._key.ravel(),
            sums.ravel(),
            self._phase,
        )
        self._phase += len(stages) * len(numbers)

    def close(self) -> None:
        """End the step threads, and the limit of the BLAS."""
        with self._held:
            self.threads.close()


def _sizes_of_room(plan: Plan, rows: int) -> Sequence[int]:
    """How many numbers a part computes in; see `skmlp.kernels.network`."""
    width, n_outputs = sum(plan.units[1:]), plan.units[-1]
    layers, dropped = rows * width, bool(plan.dropout)
    derives = any(not ACTIVATIONS[name].of_value for name in plan.activation)
    largest = max((n * m for n, m in plan.layout.shapes[1:]), default=0)
    inputs = rows * plan.units[0]
    known = 3 * rows * n_outputs + 2 * n_outputs
    return (
        layers,
        layers,
        layers * derives,
        (layers + inputs) * dropped,  # those of the features come last
        layers * dropped,
        largest,
        inputs,
        known * plan.masked,
    )


def _dropout_of(plan: Plan) -> Array:
    """Return thresholds and scales of each layer; empty without dropout."""
    if not plan.dropout:
        return np.empty(0)
    rates = np.array(plan.dropout, np.float64)
    return np.concatenate([np.round(rates * 2.0**32), 1.0 / (1.0 - rates)])


class CompiledShard:
    """As `skmlp.training.rank.Shard`, with the gradient as one compiled call."""

    def __init__(self, shard: Shard, steps: CompiledSteps) -> None:
        from skmlp.kernels import epoch
        from skmlp.kernels.solvers import COUNT, N_NUMBERS

        self._rows, self._totals, self._steps = shard.rows, shard.totals, steps
        self._stages = np.array([epoch.GRADIENT, epoch.REDUCE], np.int64)
        self._segments = steps.segments(0, shard.part.size)
        self._sums = steps.sums()
        self._numbers, self._count = np.zeros((1, N_NUMBERS)), COUNT
        #: The minibatches that have been taken, and their rows.
        self._batches = range(0)
        self._X: Array | None = None
        self._chunk: tuple[Any, ...] = ()

    @property
    def loss(self) -> float:
        """Summed over the minibatches of an epoch so far."""
        return float(self._sums[:, 0].sum())

    def begin_epoch(self) -> None:
        """Begin the sum anew, with other rows."""
        self._sums.fill(0.0)
        self._batches = range(0)

    def add_gradient(self, batch: int, step: int) -> None:
        """Compute the gradient of its rows of a minibatch, and add their loss."""
        if batch not in self._batches:
            chunk = self._rows.chunk(batch, self._steps.most_rows, self._steps.numbered)
            self._X, *rows, ends = chunk
            self._chunk = (self._X.ctypes.data, *rows)
            self._cuts = self._steps.cuts(ends)
            self._batches = range(batch, batch + len(ends) - 1)
        n_parts = self._steps.n_parts
        at = (batch - self._batches.start) * n_parts
        self._numbers[0, self._count] = step + 1
        self._steps.run(
            self._stages,
            self._segments,
            self._totals,
            self._chunk,
            self._cuts[at : at + n_parts + 1],
            self._numbers,
            self._sums,
        )


class CompiledSegments:
    """As `skmlp.training.segments.Segments`, with the update as one compiled call."""

    def __init__(self, rank: Rank, exchange: Exchange, steps: CompiledSteps) -> None:
        from skmlp.kernels import epoch
        from skmlp.kernels.solvers import DIVISOR

        self._comm, self._bound = rank.comm, rank.plan.clip_norm
        self._total, self._steps = exchange.total, steps
        self._norm = np.array([epoch.NORM], np.int64)
        self._update = np.array([epoch.UPDATE], np.int64)
        self._segments = [steps.segments(s.start, s.stop) for s in exchange.segments]
        self._sums = [steps.sums() for _ in self._segments]
        self._divisors, self._divisor = np.array(rank.divisors()), DIVISOR
        self._no_cuts = np.zeros(steps.n_parts + 1, np.int64)
        nothing, y = np.empty(0, np.int64), rank.shards[0].rows.chunk_targets()
        self._no_rows = 0, nothing, nothing, y, np.empty(0, rank.params.dtype)
        self._norms = rank.table(1)
        self._columns = epoch.PENALTY_SUM, epoch.GRADIENT_SUM, epoch.NORM_SUM

    def begin_epoch(self, rates: Sequence[float], step: int) -> None:
        """Begin the sums anew; the steps have these rates, and come after `step`."""
        for sums in self._sums:
            sums.fill(0.0)
        self._numbers = self._steps.solver.numbers(self._divisors, rates, step)

    def update(self, batch: int) -> None:
        """Take the step of a minibatch from the summed gradient."""
        numbers = self._numbers[batch : batch + 1]
        if self._bound is not None:
            self._clip(numbers, self._bound)
        for segments, sums in zip(self._segments, self._sums, strict=True):
            self._do(self._update, segments, numbers, sums)

    def _clip(self, numbers: Array, bound: float) -> None:
        """Bound the norm of the gradient, over all ranks together."""
        own = self._comm.own_shards
        for number, segments, sums in zip(own, self._segments, self._sums, strict=True):
            self._do(self._norm, segments, numbers, sums)
            self._norms[number, 0] = sums[:, self._columns[2]].sum()
        square = self._comm.all_reduce(self._norms)[0]
        norm = sqrt(square) / numbers[0, self._divisor]
        if norm > bound:
            numbers[0, self._divisor] *= norm / bound

    def _do(self, stages: Array, segments: Array, numbers: Array, sums: Array) -> None:
        rows, cuts = self._no_rows, self._no_cuts
        self._steps.run(stages, segments, self._total, rows, cuts, numbers, sums)

    @property
    def norms(self) -> list[float]:
        """See `Segments`."""
        return [float(sums[:, self._columns[0]].sum()) for sums in self._sums]

    @property
    def squares(self) -> list[float]:
        """See `Segments`."""
        column, divisor = self._columns[1], self._divisors[-1]
        return [float(sums[:, column].sum()) / divisor**2 for sums in self._sums]
