"""What the validation rows say of a model: loss, score, predictions."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np

from skmlp.arrays import Array
from skmlp.data.sampler import Dataset, ShardSampler
from skmlp.kernels.step_threads import StepThreads
from skmlp.model import metrics
from skmlp.model.layout import Views
from skmlp.model.network import Network
from skmlp.training.protocol import Message
from skmlp.training.rank import PREDICT, AnyNetwork, Rank

# What is summed over the validation rows; the score's parts follow.
_LOSS, _WEIGHT, _PARTS = 0, 1, 2


class Validation:
    """The validation rows of a rank's shards.

    With step threads, each of them looks at a part of the rows of the only shard.

    Attributes
    ----------
    n_parts : int
        How many numbers `add` adds to: 0 without validation rows.
    """

    def __init__(
        self, rank: Rank, source: Dataset, threads: StepThreads | None
    ) -> None:
        self._rank, self._threads = rank, threads
        self._plan = plan = rank.plan
        self.n_parts = 0
        if plan.n_validation:
            self.n_parts = _PARTS + metrics.n_parts(plan.loss, plan.units[-1])
        self._spread = self._measure_spread()
        #: What each step thread looks at, and with what.
        self._looks: list[tuple[ShardSampler, Network]] = []
        if threads is not None and plan.step_parts > 1 and plan.n_validation:
            # As shards of a fit without minibatches, which have blocks of rows alone.
            cut = replace(plan, n_shards=plan.step_parts, solver="lbfgs")
            for part in range(plan.step_parts):
                rows = source.shard(cut, part)
                self._looks.append((rows, rank.make_network(rows.max_rows)))

    def _measure_spread(self) -> Array:
        """Denominators of R2 on the validation rows; empty for classes."""
        plan, masked = self._plan, self._plan.masked
        if not plan.n_validation or plan.loss_entry.target != "real":
            return np.empty(0)
        width = plan.units[-1]
        total = partial(self._rank.sum_of_targets, ShardSampler.validation_targets)

        def add_mean(y: Array, w: Array, row: Array) -> None:
            metrics.mean_parts(y, w, row, masked)

        mean = metrics.means(total(2 * width, add_mean))

        def add_spread(y: Array, w: Array, row: Array) -> None:
            metrics.spread_parts(y, w, mean, row, masked)

        return total(width, add_spread)

    def add(self, views: Views, parts: Array) -> None:
        """Add what the rows say of a model to the `n_parts` numbers of each shard."""
        if self._threads is None or not self._looks:
            for shard in self._rank.shards:
                self._look(views, shard.rows, parts[shard.number], self._rank.network)
            return
        rows = np.zeros((len(self._looks), self.n_parts))

        def look(part: int) -> None:
            with np.errstate(all="ignore"):
                self._look(
                    views, self._looks[part][0], rows[part], self._looks[part][1]
                )

        self._threads.share(look)
        parts[0] += rows.sum(axis=0)

    def _look(
        self, views: Views, rows: ShardSampler, parts: Array, network: AnyNetwork
    ) -> None:
        plan, masked = self._plan, self._plan.masked
        for X, y, w in rows.validation_blocks():
            prediction, loss = network.validate(views, X, y, w)
            parts[_LOSS] += loss
            parts[_WEIGHT] += metrics.weight_of(y, w, masked)
            metrics.score_parts(
                plan.loss, prediction, y, w, parts[_PARTS:], plan.heads, masked
            )

    def loss(self, parts: Array) -> float:
        """The mean loss of all validation rows; NaN if there are none."""
        if not self._plan.n_validation:
            return math.nan
        return float(parts[_LOSS] * self._plan.loss_scale / parts[_WEIGHT])

    def score(self, parts: Array) -> float:
        """The score of all validation rows; NaN where the ranks don't give one."""
        plan = self._plan
        if not plan.n_validation or plan.scoring == "driver":
            return math.nan
        if plan.scoring == "loss":
            return -self.loss(parts)
        return metrics.score(plan.loss, parts[_PARTS:], self._spread, plan.masked)

    def predict(self, views: Views) -> Message:
        """Predictions, targets and weights of the validation rows, in shard order.

        One column for each output, one or more for the targets as the loss takes them,
        one for the weight.
        """
        plan, rank, network = self._plan, self._rank, self._rank.network
        assert isinstance(network, Network)  # nobody asks for rows on a device
        n_outputs, n_shards = plan.units[-1], rank.comm.shards.n_shards
        width = plan.n_targets + 1

        def count(rows: ShardSampler, row: Array) -> None:
            numbers = [len(y) for _, y, _ in rows.validation_blocks()]
            row[shard_of[id(rows)]] = sum(numbers)

        def fill(rows: ShardSampler, row: Array) -> None:
            table = row.reshape(plan.n_validation, -1)
            at = starts[shard_of[id(rows)]]
            for X, y, w in rows.validation_blocks():
                part = table[at : at + len(y)]
                part[:, :n_outputs] = network.forward(views, X)
                part[:, n_outputs:-1] = y.reshape(len(y), -1)
                part[:, -1] = w if w.size else 1.0
                at += len(y)

        shard_of = {id(shard.rows): shard.number for shard in rank.shards}
        counts = rank.sum_over_shards(n_shards, count)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)
        size = plan.n_validation * (n_outputs + width)
        return Message(PREDICT, (rank.sum_over_shards(size, fill),))
