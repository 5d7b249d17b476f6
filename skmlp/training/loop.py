"""The one training loop, the same on every rank: read this file first.

`StepByStep.run_epoch` shows the step: take rows, compute their gradient, sum it over
all shards, update the own segments, gather the parameters. `Trainer` runs the epochs.

Nothing is divided before all shards are summed, and the penalty is added once, in the
solver's update. What decides the control flow (loss, score) is summed over all shards,
with the same bits on all ranks. Nothing here asks how many ranks there are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skmlp.arrays import Array
from skmlp.comm.base import Communicator, Exchange
from skmlp.data.sampler import Dataset
from skmlp.data.shuffle import Order
from skmlp.optim import schedules
from skmlp.optim.solvers import SOLVERS, Solver
from skmlp.plan import Plan
from skmlp.state import ALL_EPOCHS, DIVERGED, RUNNING, Record, TrainState
from skmlp.training import stopping
from skmlp.training.array_epoch import ArrayEpoch
from skmlp.training.compiled_steps import (
    CompiledSegments,
    CompiledShard,
    CompiledSteps,
    is_compiled,
)
from skmlp.training.fused_epoch import FusedEpoch
from skmlp.training.protocol import Message
from skmlp.training.rank import CONSTANT, LOSS, PREDICT, TRAIN, Rank, Shard
from skmlp.training.segments import Segments, n_moments
from skmlp.training.steps import Steps
from skmlp.training.validation import Validation


@dataclass(eq=False)
class StepByStep(Steps):
    """The steps of an epoch one by one: on any number of ranks."""

    shards: Sequence[Shard | CompiledShard]
    exchange: Exchange
    segments: Segments | CompiledSegments
    helps: CompiledSteps | None = None

    def run_epoch(self, rates: Sequence[float], step: int) -> Array:
        """All minibatches once; see `Steps`."""
        shards, exchange, segments = self.shards, self.exchange, self.segments
        segments.begin_epoch(rates, step)
        for shard in shards:
            shard.begin_epoch()
        for batch in range(len(rates)):
            for shard in shards:
                shard.add_gradient(batch, step + batch)
            exchange.reduce_scatter()
            segments.update(batch)
            exchange.all_gather()
        losses = [shard.loss for shard in shards]
        return np.array([losses, segments.norms, segments.squares]).T

    def close(self) -> None:
        """End the step threads, if there are any."""
        if self.helps is not None:
            self.helps.close()


def _steps_of(
    rank: Rank, solver: Solver, exchange: Exchange, moments: list[Array]
) -> Steps:
    """Choose how the steps of a rank are done."""
    plan = rank.plan
    if rank.arrays is not None:
        return ArrayEpoch(rank, solver, moments)
    # A compiled call costs some microseconds more than the calls that it replaces: in
    # single steps it is there for the threads that share it.
    alone = plan.n_shards > 1 and plan.step_parts == 1
    if alone or not is_compiled(rank):
        rank.bind()
        segments = Segments(rank, solver, exchange, moments)
        return StepByStep(rank.shards, exchange, segments)
    if plan.n_shards == 1:
        return FusedEpoch(rank, solver, moments)
    steps = CompiledSteps(rank, solver, moments, clips=False)
    shards = [CompiledShard(shard, steps) for shard in rank.shards]
    compiled = CompiledSegments(rank, exchange, steps)
    return StepByStep(shards, exchange, compiled, steps)


# Columns of the table that an epoch sums over the shards. Then follow one for each
# rank, where it alone writes the seconds that it computed, and the validation's parts.
_LOSS, _NORM, _GRADIENT, _BROKEN, _PAUSE, _COLUMNS = 0, 1, 2, 3, 4, 5


class Trainer:
    """Runs epochs, together with the other ranks.

    The state's arrays are those of the rank, from `TRAIN` to `TRAIN`.
    """

    def __init__(self, plan: Plan, comm: Communicator, source: Dataset) -> None:
        self._rank = rank = Rank(plan, comm, source)
        if plan.tol_scale == "initial" and plan.by_loss:
            # What is compared with `tol` is a loss.
            plan = replace(plan, tol=plan.tol * rank.constant()[1])
        self._plan, self._comm = plan, comm
        shape = rank.params.shape, rank.dtype
        self._moments = [np.zeros(*shape) for _ in range(n_moments(plan))]
        self._exchange = comm.exchange(rank.parts, rank.params)
        self._moment_exchanges = [comm.exchange(rank.parts, m) for m in self._moments]
        self._solver = SOLVERS[plan.solver](plan, rank.kernels)
        self._steps = _steps_of(rank, self._solver, self._exchange, self._moments)
        self._validation = Validation(rank, source, self._steps.threads)
        # What the model will have: the parameters or their moving mean.
        self._model = rank.params if plan.average is None else self._moments[-1]
        self._model_views = plan.layout.views(self._model)
        keeps_best = plan.early_stopping and plan.scoring != "driver"
        self._best = np.empty(rank.params.size if keeps_best else 0, rank.dtype)
        self._order: Order | None = None
        if plan.order_rng is not None:
            self._order = source.row_order(plan)
        width = _COLUMNS + comm.shards.n_ranks
        self._times, self._scores = slice(_COLUMNS, width), slice(width, None)
        self._table = rank.table(width + self._validation.n_parts)
        self._state: TrainState | None = None
        self._pausing = self._paused = False

    def handle(self, message: Message) -> Message:
        """Do what the supervisor asks."""
        # A diverging run overflows; it is found at the end of the epoch.
        with np.errstate(all="ignore"):
            if message.op in (CONSTANT, LOSS):
                return self._rank.judge(message)
            (n_epochs,), arrays = message.arrays[0], message.arrays[1:]
            if arrays:
                self._state = self._load(TrainState.from_arrays(arrays))
            if message.op == PREDICT:
                return self._validation.predict(self._model_views)
            if self._state is None:
                raise ValueError("the first request to train must bring a state")
            return self._train(self._state, int(n_epochs))

    def pause(self) -> None:
        """Have all ranks end the request after this epoch. From any thread."""
        self._pausing = True

    def close(self) -> None:
        """End the threads that help; after it nothing is asked any more."""
        self._steps.close()

    def _load(self, state: TrainState) -> TrainState:
        """Copy a state into the arrays of this rank."""
        np.copyto(self._rank.params, state.params)
        for moment, value in zip(self._moments, state.moments, strict=True):
            np.copyto(moment, value if value.size else 0)
        # Where the driver scores, it keeps the best parameters.
        if self._best.size and state.best_params.size:
            np.copyto(self._best, state.best_params)
        self._steps.load()
        state.params, state.moments = self._rank.params, tuple(self._moments)
        state.best_params = self._best
        return state

    def _train(self, state: TrainState, n_epochs: int) -> Message:
        state.records = []
        for _ in range(n_epochs):
            if state.status != RUNNING or self._paused:
                break
            self._run_epoch(state)
        self._steps.fetch()
        for exchange in self._moment_exchanges:
            exchange.all_gather()
        if self._order is not None:
            state.rng = self._order.rng
        return Message(TRAIN, state.to_arrays())

    def _run_epoch(self, state: TrainState) -> None:
        """Run an epoch, sum what it brought over all shards, and judge it."""
        plan, table, own = self._plan, self._table, list(self._comm.own_shards)
        began, exchanged = time.perf_counter(), self._exchange.seconds
        table[own] = 0.0
        self._shuffle(state)
        rates = self._rates(state)
        table[own, : _GRADIENT + 1] = self._steps.run_epoch(rates, state.step)
        state.step += plan.n_batches
        rate = state.learning_rate
        for number, segment in zip(own, self._exchange.segments, strict=True):
            part = self._rank.params[segment]
            finite = self._steps.all_finite(part, self._rank.kernels.all_finite)
            table[number, _BROKEN] = not finite
        if plan.n_validation:
            if plan.average is not None:
                self._moment_exchanges[-1].all_gather()
            views = self._steps.model_views(self._model_views)
            self._validation.add(views, table[:, self._scores])
        exchanged = self._exchange.seconds - exchanged
        computing = time.perf_counter() - began - exchanged
        table[own[0], self._times][self._comm.rank] = computing
        table[own[0], _PAUSE] = self._pausing
        sums = self._comm.all_reduce(table)
        self._paused = bool(sums[_PAUSE])
        loss, score = self._loss(sums), self._validation.score(sums[self._scores])
        standstill = self._judge(state, loss, score, broken=bool(sums[_BROKEN]))
        state.records.append(
            Record(
                loss=loss,
                score=score,
                learning_rate=rate,
                standstill=standstill,
                next_rate=state.learning_rate,
                seconds=time.perf_counter() - began,
                validation_loss=self._validation.loss(sums[self._scores]),
                computing=tuple(map(float, sums[self._times])),
                gradient_norm=math.sqrt(sums[_GRADIENT]),
            )
        )

    def _shuffle(self, state: TrainState) -> None:
        """Bring the rows into the epoch's order."""
        order = None
        if self._order is not None:
            state.shuffles += 1
            order = self._order.seek(state.shuffles)
        for shard in self._rank.shards:
            shard.rows.begin_epoch(order)

    def _rates(self, state: TrainState) -> Sequence[float]:
        """The learning rate of each step of the epoch; the state has the first one."""
        plan = self._plan
        if plan.schedule is not None:
            epoch = plan.first_epoch + state.epoch
            rates = plan.schedule.rates(epoch, state.step, plan.n_batches)
            if rates is not None:
                state.learning_rate = rates[0]
                return rates
        return [state.learning_rate] * plan.n_batches

    def _loss(self, sums: Array) -> float:
        """The epoch's loss, as it is reported."""
        plan = self._plan
        total = sums[_LOSS] * plan.loss_scale + 0.5 * plan.alpha * sums[_NORM]
        return float(total) / self._rank.divisor(plan.n_rows)

    def _judge(
        self, state: TrainState, loss: float, score: float, *, broken: bool
    ) -> int:
        """Count, compare with the best, decide; 1 where the patience ran out."""
        plan = self._plan
        state.epoch += 1
        state.samples_seen += plan.n_rows
        judged = not (plan.early_stopping and plan.scoring == "driver")
        if judged and stopping.compare(plan, state, loss, score):
            self._steps.keep_best(self._best, self._model)
        if self._solver.scheduled:
            state.learning_rate = schedules.after_epoch(
                plan.learning_rate,
                state.learning_rate,
                plan.learning_rate_init,
                state.samples_seen,
                plan.power_t,
            )
        if math.isnan(loss) or broken:
            state.status = DIVERGED
            return 0
        standstill = judged and stopping.at_standstill(plan, state)
        if state.status == RUNNING and state.epoch >= plan.max_iter:
            state.status = ALL_EPOCHS
        return int(standstill)
