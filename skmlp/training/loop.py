"""The one training loop, the same on every rank.

The step: ``take rows -> network.accumulate(out=part) -> exchange.reduce_scatter() ->
optimizer.step on the own segments -> exchange.all_gather()``. Nothing is divided before
all shards are summed, and the penalty is added once, in the optimizer's step. What
decides the control flow (loss, score) is summed over all shards with the same bits on
all ranks. The loop does not know how many ranks there are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skmlp.comm.base import Communicator
from skmlp.data.sampler import Source
from skmlp.data.shuffle import Order
from skmlp.optim import schedules, wrappers
from skmlp.optim.solvers import SOLVERS, Update
from skmlp.plan import Plan
from skmlp.state import (
    ALL_EPOCHS,
    DIVERGED,
    RUNNING,
    Record,
    TrainState,
)
from skmlp.training import stopping
from skmlp.training.fused_epoch import CompiledSteps, in_runs
from skmlp.training.protocol import Message
from skmlp.training.rank import CONSTANT, LOSS, PREDICT, TRAIN
from skmlp.training.validation import Validating

Array = np.ndarray[Any, np.dtype[Any]]

# Columns of the table that an epoch sums over the shards. Then follow one for each
# rank, where it alone writes the seconds that it computed, and the validation's parts.
_LOSS, _NORM, _BROKEN, _GRADIENT, _PAUSE, _COLUMNS = 0, 1, 2, 3, 4, 5


def n_moments(plan: Plan) -> int:
    """How many arrays of the model's size a run has beside the parameters."""
    return SOLVERS[plan.solver].n_moments + (plan.average is not None)


def _overlaps(segment: slice, runs: list[slice]) -> list[slice]:
    """The parts of a segment that lie in some runs."""
    parts = [
        slice(max(segment.start, run.start), min(segment.stop, run.stop))
        for run in runs
    ]
    return [part for part in parts if part.start < part.stop]


def _length(run: slice) -> int:
    return int(run.stop - run.start)


class Trainer(Validating):
    """Runs epochs, together with the other ranks.

    Parameters
    ----------
    plan : Plan
        What is to be done, by a stochastic solver.
    comm : Communicator
        The way to the other ranks.
    source : Source
        The rows.
    """

    def __init__(self, plan: Plan, comm: Communicator, source: Source) -> None:
        super().__init__(plan, comm, source)
        if plan.tol_scale == "initial" and plan.by_loss:
            # What is compared with `tol` is a loss.
            self._plan = plan = replace(plan, tol=plan.tol * self._constant()[1])
        size, dtype = self._params.size, self._dtype
        self._optimizer = SOLVERS[plan.solver](plan, self._kernels)
        self._moments: list[Array] = [
            np.zeros(size, dtype) for _ in range(n_moments(plan))
        ]
        self._exchange = comm.exchange(self._parts, self._params)
        self._moment_exchanges = [
            comm.exchange(self._parts, moment) for moment in self._moments
        ]
        n_weights = plan.layout.n_weights
        trained = plan.layout.without(plan.frozen)
        self._segments = self._exchange.segments
        #: Number of the segment, among the rank's, of each run of trained parameters,
        #: and its step.
        self._moves: list[tuple[int, Update]] = []
        #: The sums of the gradient that are stepped on, with the same numbers.
        self._trained: list[tuple[int, Array]] = []
        runs = []
        for k, (where, total) in enumerate(
            zip(self._segments, self._exchange.totals, strict=True)
        ):
            for run in _overlaps(where, trained):
                part = total[run.start - where.start : run.stop - where.start]
                n_penalised = min(max(n_weights - run.start, 0), _length(run))
                params, moments = self._params[run], [m[run] for m in self._moments]
                runs.append((self._own[k], params, part, n_penalised))
                self._moves.append((k, self._bind(params, part, moments, n_penalised)))
                self._trained.append((k, part))
        #: Whole runs of steps as one call, for dense rows of one shard.
        self._compiled: CompiledSteps | None = None
        shard = self._shards[0]
        if in_runs(shard, plan):
            arrays = self._params, self._parts[0], self._moments
            self._compiled = CompiledSteps(
                plan, self._optimizer, *arrays, shard, self._mean_weight
            )
        self._clip: wrappers.Clip | None = None
        if plan.clip_norm is not None:
            norms = np.zeros((comm.shards.n_shards, 1), np.float64)
            self._clip = wrappers.Clip(
                plan, self._kernels, self._own, runs, norms, comm.all_reduce
            )
        width = _COLUMNS + comm.shards.n_ranks
        self._times, self._scores = slice(_COLUMNS, width), slice(width, None)
        if plan.n_validation:
            width += self.n_validation_parts
        self._table: Array = np.zeros((comm.shards.n_shards, width), np.float64)
        n_best = size if plan.early_stopping and plan.scoring != "driver" else 0
        self._best: Array = np.empty(n_best, dtype)
        self._order: Order | None = None
        if plan.order_rng is not None:
            self._order = source.row_order(plan)
        self._state: TrainState | None = None
        self._paused = False
        # What the model will have: the parameters or their moving mean.
        self._model = self._params if plan.average is None else self._moments[-1]
        self._model_views = plan.layout.views(self._model)

    def _bind(
        self, params: Array, total: Array, moments: list[Array], n_penalised: int
    ) -> Update:
        """The step on a run of parameters, with all that goes with it."""
        plan, kernels, optimizer = self._plan, self._kernels, self._optimizer
        own = moments[: optimizer.n_moments]
        move = optimizer.bind(params, total, own, n_penalised)
        if plan.l1_ratio:
            move = wrappers.with_l1(
                move, optimizer, plan, kernels, params, own, n_penalised
            )
        if plan.average is not None:
            move = wrappers.with_mean(move, plan.average, kernels, params, moments[-1])
        return move

    def handle(self, message: Message) -> Message:
        """Do what the supervisor asks."""
        # A diverging run overflows; it is found at the end of the epoch.
        with np.errstate(all="ignore"):
            if message.op in (CONSTANT, LOSS):
                return self._judge(message)
            (n_epochs,), state = message.arrays[0], message.arrays[1:]
            if state:
                self._load(TrainState.from_arrays(state))
            if message.op == PREDICT:
                return self._predict(self._model_views)
            return self._train(int(n_epochs))

    def close(self) -> None:
        """End the threads that help; after it nothing is asked any more."""
        if self._compiled is not None:
            self._compiled.close()

    def _load(self, state: TrainState) -> None:
        """Go on from `state`."""
        np.copyto(self._params, state.params)
        for moment, value in zip(self._moments, state.moments, strict=True):
            np.copyto(moment, value if value.size else 0)
        if self._best.size and state.best_params.size:
            np.copyto(self._best, state.best_params)
        if not self._best.size:
            # The driver keeps the best parameters, or there are none.
            state = replace(state, best_params=self._best)
        state.params = self._params
        state.moments = tuple(self._moments)
        state.best_params = self._best
        self._state = state

    def _train(self, n_epochs: int) -> Message:
        state = self._state
        if state is None:
            raise ValueError("the first order to train must bring a state")
        state.records = []
        for _ in range(n_epochs):
            if state.status != RUNNING or self._paused:
                break
            self._epoch(state)
        # The answer needs all that belongs to the state on the lead.
        for exchange in self._moment_exchanges:
            exchange.all_gather()
        if self._order is not None:
            state.rng = self._order.rng
        return Message(TRAIN, state.to_arrays())

    def _epoch(self, state: TrainState) -> None:
        plan = self._plan
        began, exchanged = time.perf_counter(), self._exchange.seconds
        self._table[list(self._own)] = 0.0
        order = None
        if self._order is not None:
            state.shuffles += 1
            order = self._order.seek(state.shuffles)
        for shard in self._shards:
            shard.begin_epoch(order)
        self._steps(state)
        if plan.n_validation:
            if plan.average is not None:
                self._moment_exchanges[-1].all_gather()
            views = self._model_views
            if self._looks and self._compiled is not None:
                row = self._table[0, self._scores]
                self._validate_on(self._compiled.lanes, views, row)
            else:
                for shard, k in zip(self._shards, self._own, strict=True):
                    self._validate(views, shard, self._table[k, self._scores])
        rate = state.learning_rate
        exchanged = self._exchange.seconds - exchanged
        computing = time.perf_counter() - began - exchanged
        self._table[self._own[0], self._times][self._comm.rank] = computing
        self._table[self._own[0], _PAUSE] = self._pausing
        sums = self._comm.all_reduce(self._table)
        self._paused = bool(sums[_PAUSE])
        standstill = self._finish_epoch(state, sums)
        state.records.append(
            Record(
                loss=self._epoch_loss(sums),
                score=self._validation_score(sums[self._scores]),
                learning_rate=rate,
                standstill=standstill,
                next_rate=state.learning_rate,
                seconds=time.perf_counter() - began,
                validation_loss=self._validation_loss(sums[self._scores]),
                computing=tuple(map(float, sums[self._times])),
                gradient_norm=math.sqrt(sums[_GRADIENT]),
            )
        )

    def _steps(self, state: TrainState) -> None:
        """All minibatches of an epoch: the hot loop."""
        plan, rate, step = self._plan, state.learning_rate, state.step
        reduce_scatter = self._exchange.reduce_scatter
        all_gather = self._exchange.all_gather
        shards = list(zip(self._shards, self._parts, self._accumulate, strict=True))
        moves = self._moves
        losses, norms, squares = ([0.0] * len(shards) for _ in range(3))
        divisor = self._divisor(plan.batch_size)
        last = plan.batch(plan.n_batches - 1)
        dropout, clip = self._dropout, self._clip
        rates = None
        if plan.schedule is not None:
            epoch = plan.first_epoch + state.epoch
            rates = plan.schedule.rates(epoch, step, plan.n_batches)
        if rates is not None:
            state.learning_rate = rates[0]
        if self._compiled is not None:
            each = rates or [rate] * plan.n_batches
            loss, norm, square = self._compiled.epoch(each, step)
            state.step += plan.n_batches
            self._note([loss], [norm], [square])
            return
        for number in range(plan.n_batches):
            for k, (shard, part, accumulate) in enumerate(shards):
                block = shard.take(number)
                if block is None:
                    part.fill(0)
                else:
                    if dropout is not None:
                        dropout.begin(step, shard.numbers(number))
                    losses[k] += accumulate(*block)
            reduce_scatter()
            step += 1
            if number == plan.n_batches - 1:
                divisor = self._divisor(last.stop - last.start)
                for k, part in self._trained:
                    squares[k] += float(np.dot(part, part)) / divisor**2
            if rates is not None:
                rate = rates[number]
            bounded = divisor if clip is None else clip(divisor)
            for k, move in moves:
                norms[k] += move(bounded, rate, step)
            all_gather()
        state.step = step
        self._note(losses, norms, squares)

    def _note(
        self,
        losses: Sequence[float],
        norms: Sequence[float],
        squares: Sequence[float],
    ) -> None:
        """Write an epoch's sums of the own shards into the table."""
        for k, where in enumerate(self._segments):
            row = self._table[self._own[k]]
            row[_LOSS], row[_NORM], row[_GRADIENT] = losses[k], norms[k], squares[k]
            row[_BROKEN] = not self._kernels.all_finite(self._params[where])

    def _epoch_loss(self, sums: Array) -> float:
        plan = self._plan
        total = sums[_LOSS] * plan.loss_scale + 0.5 * plan.alpha * sums[_NORM]
        return float(total) / self._divisor(plan.n_rows)

    def _finish_epoch(self, state: TrainState, sums: Array) -> int:
        """Count, compare with the best, decide; 1 where the patience ran out."""
        plan = self._plan
        state.epoch += 1
        state.samples_seen += plan.n_rows
        loss = self._epoch_loss(sums)
        score = self._validation_score(sums[self._scores])
        judged = not (plan.early_stopping and plan.scoring == "driver")
        if judged and stopping.compare(plan, state, loss, score):
            np.copyto(self._best, self._model)
        if self._optimizer.scheduled:
            state.learning_rate = schedules.after_epoch(
                plan.learning_rate,
                state.learning_rate,
                plan.learning_rate_init,
                state.samples_seen,
                plan.power_t,
            )
        if math.isnan(loss) or sums[_BROKEN]:
            state.status = DIVERGED
            return 0
        standstill = judged and stopping.at_standstill(plan, state)
        if state.status == RUNNING and state.epoch >= plan.max_iter:
            state.status = ALL_EPOCHS
        return int(standstill)
