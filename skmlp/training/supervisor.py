"""The driver's side of a fit: it asks groups for rounds and keeps the state.

A round is a function of the state that it begins with, so a round that was lost with a
rank is asked for again, of another group with the same shards: the same bits come out.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from skmlp.plan import Plan
from skmlp.state import DIVERGED, OUT_OF_TIME, RUNNING, Record, TrainState
from skmlp.training import stopping
from skmlp.training.protocol import Launcher, Message, RankFailed, RankGroup
from skmlp.training.rank import CONSTANT, LOSS, TRAIN

Observe = Callable[[list[Record]], None]
Score = Callable[[TrainState], float]
#: Makes an order; it is told whether the group is new and knows no state yet.
Order = Callable[[bool], Message]

logger = logging.getLogger(__name__)

#: A round is an epoch or about so long, whichever is longer.
ROUND_SECONDS = 1.0
#: But where handing over the state takes more than this part of a round, as with a
#: large network on a cluster, rounds are longer: up to so many times.
HAND_OVER = 0.05
LONGEST = 10.0

#: Failures without a finished round between them after which the fit goes on in this
#: process, or the first cause is raised: so many, or as many as there are ranks, but
#: never more than the second number.
FAILURES = 3
MOST_FAILURES = 10

#: How often to end a group if Ctrl-C falls into it: what is open would stay so.
CLOSINGS = 4


@dataclass(frozen=True)
class Restart:
    """Another group took the place of one that had lost ranks, or could have more.

    It began with `epoch`, or that iteration of L-BFGS, counted from 1.
    """

    epoch: int
    reason: str


class Supervisor:
    """Sends requests to a group, and starts another one where ranks are lost.

    The first group starts when the ``with`` block begins. `tell` is called with a line
    of text after each failure that the fit survives.
    """

    def __init__(
        self, launcher: Launcher, tell: Callable[[str], None] | None = None
    ) -> None:
        #: Finished epochs, or iterations of L-BFGS, at the last request.
        self.epoch = 0
        self.restarts: list[Restart] = []
        self._launcher = launcher
        self._tell = tell
        self._group: RankGroup | None = None
        #: Whether the group knows no state yet.
        self._fresh = True
        self._generation = 0
        self._failures: list[RankFailed] = []
        self._patience = FAILURES

    def request(self, order: Order) -> Message:
        """Have a request answered, by as many groups as it takes.

        RankFailed if no rank is left, or if they failed again and again: the first
        cause.
        """
        while True:
            try:
                group = self._ready()
                message = order(self._fresh)
                answer = group.request(message)
            except RankFailed as failure:
                self._replace(failure)
            else:
                self._fresh &= message.op in (CONSTANT, LOSS)
                self._failures.clear()
                return answer

    def _ready(self) -> RankGroup:
        """The group, started if there is none."""
        if self._group is not None and self._launcher.could_grow():
            self.close()
            self._launcher.grow()
            self._note("workers have joined")
        if self._group is not None:
            return self._group
        generation, self._generation = self._generation, self._generation + 1
        self._group, self._fresh = self._launcher.start(generation), True
        # Each of several workers may be lost in turn before a round is done.
        n_ranks = self._group.shards.n_ranks
        self._patience = max(self._patience, min(n_ranks, MOST_FAILURES))
        return self._group

    def _replace(self, failure: RankFailed) -> None:
        """Make ready for the next group, or raise the first cause."""
        self.close()
        self._failures.append(failure)
        first = self._failures[0]
        if len(self._failures) < self._patience:
            try:
                self._launcher.recover(failure)
            except RankFailed as error:
                if error is failure:
                    raise first from None
                raise RankFailed(f"{first}; the fit can't go on: {error}") from error
        else:
            self._launcher.stay_here(self._failures)
            self._failures.clear()
        self._note(str(failure))

    def _note(self, reason: str) -> None:
        self.restarts.append(Restart(self.epoch + 1, reason))
        logger.warning("the fit goes on with other ranks: %s", reason)
        if self._tell is not None:
            self._tell(f"Going on with other ranks: {reason}")

    def close(self) -> None:
        """End the group."""
        interrupt: KeyboardInterrupt | None = None
        try:
            for _ in range(CLOSINGS):
                try:
                    if self._group is not None:
                        self._group.close()
                    break
                except KeyboardInterrupt as error:
                    interrupt = error
        finally:
            self._group = None
        if interrupt is not None:
            raise interrupt

    @property
    def n_ranks(self) -> int:
        """Ranks that train now; 0 between two groups."""
        return 0 if self._group is None else self._group.shards.n_ranks

    @property
    def where(self) -> str:
        """Where the ranks are."""
        return "" if self._group is None else self._group.where

    @property
    def shares_memory(self) -> bool:
        """Whether answers show the ranks' own arrays."""
        return self._group is not None and self._group.shares_memory

    def finish_epoch(self) -> Message | None:
        """End the group after a Ctrl-C; return the answer to the request under way.

        None if the ranks don't finish their epoch in time, or after another Ctrl-C.
        """
        try:
            return None if self._group is None else self._group.finish_epoch()
        except KeyboardInterrupt:
            return None

    def __enter__(self) -> Supervisor:
        while True:
            try:
                self._ready()
            except RankFailed as failure:
                self._replace(failure)
            else:
                return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass
class Outcome:
    """How a stochastic run ended: by itself, by Ctrl-C, or `stopped` by a callback."""

    state: TrainState
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False
    stopped: bool = False


class Watch(Protocol):
    """Who is told of each epoch or iteration, and may stop the run."""

    def begin(self, now: Any) -> None:
        """Hear that an epoch or iteration begins."""

    def end(self, now: Any) -> bool:
        """Hear that it has ended; True stops the run."""

    def close(self, now: Any) -> None:
        """Hear that the run has ended, perhaps within an epoch or iteration."""


def train(
    supervisor: Supervisor,
    plan: Plan,
    state: TrainState,
    observe: Observe,
    watch: Watch | None = None,
    records: Sequence[Record] = (),
    score: Score | None = None,
    deadline: float | None = None,
) -> Outcome:
    """Run epochs from `state` to the plan's end; `records` are those of earlier epochs.

    `observe` gets the records of each round. With `watch`, or with `score` for a
    state's validation score where the ranks give none, a round is one epoch. All are
    called in this thread. `deadline` is by `time.monotonic`: the first epoch that ends
    later is the last.
    """
    outcome = Outcome(state, list(records))
    del state  # where ranks share this process's memory, it is in the way
    n_epochs = 1
    # Whether the state's arrays are those that the ranks go on with.
    live = False
    # Whether the ranks must be told of a state that has changed here.
    changed = False

    def order(fresh: bool) -> Message:
        arrays = outcome.state.to_arrays(lean=True) if fresh or changed else ()
        return Message(TRAIN, (np.array([n_epochs], dtype=np.int64), *arrays))

    try:
        while outcome.state.status == RUNNING and not outcome.stopped:
            supervisor.epoch = outcome.state.epoch
            if watch is not None:
                watch.begin(outcome)
            began, restarts = time.perf_counter(), len(supervisor.restarts)
            known = len(outcome.records)
            if live:
                # So a Ctrl-C within the round leaves the state of the one before.
                outcome.state = outcome.state.copy()
            answer = supervisor.request(order)
            if score is None:
                _take_over(outcome, answer, observe)
            else:
                changed = _take_scored(outcome, answer, observe, plan, score)
            live = supervisor.shares_memory and score is None
            late = deadline is not None and time.monotonic() >= deadline
            if late and outcome.state.status == RUNNING:
                outcome.state.status = OUT_OF_TIME
            if watch is not None:
                outcome.stopped = watch.end(outcome)
            if watch is not None or score is not None:
                continue
            # The length of a round never changes a bit, so a clock may choose it.
            if len(supervisor.restarts) == restarts:
                inside = sum(record.seconds for record in outcome.records[known:])
                elapsed = time.perf_counter() - began
                n_epochs = _length_of_next(n_epochs, inside, elapsed)
            n_epochs = min(n_epochs, max(plan.max_iter - outcome.state.epoch, 1))
            if deadline is not None:
                pace = max(outcome.records[-1].seconds, 1e-9)
                left = int((deadline - time.monotonic()) / pace)
                n_epochs = min(n_epochs, max(left, 1))
    except KeyboardInterrupt:
        outcome.interrupted = True
        last = supervisor.finish_epoch()
        # Where the driver scores, an epoch without a score does not count.
        if last is not None and score is None:
            _take_over(outcome, last, observe)
    if watch is not None:
        watch.close(outcome)
    return outcome


def _length_of_next(n_epochs: int, inside: float, elapsed: float) -> int:
    """Epochs of the next round, after one that took `inside` seconds of `elapsed`."""
    hand_over = max(elapsed - inside, 0.0) / ROUND_SECONDS if ROUND_SECONDS else 0.0
    wanted = ROUND_SECONDS * min(max(1.0, hand_over / HAND_OVER), LONGEST)
    pace = max(inside / n_epochs, 1e-9)
    return int(min(max(wanted / pace, 1.0), 4 * n_epochs))


def _take_scored(
    outcome: Outcome, message: Message, observe: Observe, plan: Plan, score: Score
) -> bool:
    """Adopt the state after an epoch, and judge it by its score.

    Returns whether the ranks must be told: they expect another learning rate.
    """
    arrays = [array.copy() for array in message.arrays]
    state, before = TrainState.from_arrays(tuple(arrays)), outcome.state
    record = state.records[-1]
    # A scorer need not know what to do with predictions that are not finite.
    value = math.nan if state.status == DIVERGED else score(state)
    standstill = bool(record.standstill)
    if plan.early_stopping:
        state.best, state.no_improvement = before.best, before.no_improvement
        state.best_params = before.best_params
        if state.status != DIVERGED:
            if stopping.compare(plan, state, record.loss, value):
                state.best_params = stopping.model_of(plan, state)
            standstill = stopping.at_standstill(plan, state)
    changed = state.learning_rate != record.next_rate
    state.records[-1] = replace(
        record,
        score=value,
        standstill=int(standstill),
        next_rate=state.learning_rate,
    )
    outcome.state = state
    outcome.records += state.records[-1:]
    observe(state.records[-1:])
    return changed


def _take_over(outcome: Outcome, message: Message, observe: Observe) -> None:
    """Adopt the state of an answer and its records, unless they are known."""
    state = TrainState.from_arrays(message.arrays)
    news = state.epoch - outcome.state.epoch
    if news > 0:
        outcome.state = state
        outcome.records += state.records[-news:]
        observe(state.records[-news:])
