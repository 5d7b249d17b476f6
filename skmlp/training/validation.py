"""What validation rows say of a stochastic run: loss, score, predictions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from skmlp.comm.base import Communicator
from skmlp.data.sampler import ShardRows, Source
from skmlp.kernels.step_threads import Lanes
from skmlp.model import metrics
from skmlp.model.layout import Views
from skmlp.model.network import Network
from skmlp.plan import Plan
from skmlp.training.protocol import Message
from skmlp.training.rank import PREDICT, ShardWork

Array = np.ndarray[Any, np.dtype[Any]]

# What is summed over the validation rows; the score's parts follow.
_LOSS, _WEIGHT, _PARTS = 0, 1, 2


class Validating(ShardWork):
    """The shards of a rank whose validation rows are looked at after each epoch.

    Parameters
    ----------
    plan, comm, source
        See `skmlp.training.rank.ShardWork`.

    Attributes
    ----------
    n_validation_parts : int
        How many numbers `_validate` adds to.
    """

    def __init__(self, plan: Plan, comm: Communicator, source: Source) -> None:
        super().__init__(plan, comm, source)
        self.n_validation_parts = _PARTS + metrics.n_parts(plan.loss, plan.units[-1])
        self._spread = self._measure_spread()
        #: What each lane looks at, and with what.
        self._looks: list[tuple[ShardRows, Network]] = []
        if plan.lanes > 1 and plan.n_validation:
            # As shards of a fit without minibatches, which have blocks of rows alone.
            cut = replace(plan, n_shards=plan.lanes, solver="lbfgs")
            for part in range(plan.lanes):
                shard = source.shard(cut, part)
                self._looks.append((shard, self._make_network(shard.max_rows)))

    def _measure_spread(self) -> Array:
        """Denominators of R2 on the validation rows; empty for classes."""
        plan, masked = self._plan, self._plan.masked
        if not plan.n_validation or plan.loss_entry.target != "real":
            return np.empty(0)
        width = plan.units[-1]

        def add_mean(shard: ShardRows, row: Array) -> None:
            for _, y, w in shard.validation_blocks():
                metrics.mean_parts(y, w, row, masked)

        mean = metrics.means(self._sum_over_shards(2 * width, add_mean))

        def add_spread(shard: ShardRows, row: Array) -> None:
            for _, y, w in shard.validation_blocks():
                metrics.spread_parts(y, w, mean, row, masked)

        return self._sum_over_shards(width, add_spread)

    def _validate_on(self, lanes: Lanes, views: Views, parts: Array) -> None:
        """Add what all validation rows say of a model, a part of them on each lane."""
        rows = np.zeros((len(self._looks), len(parts)))

        def look(part: int) -> None:
            shard, network = self._looks[part]
            with np.errstate(all="ignore"):
                self._validate(views, shard, rows[part], network)

        lanes.share(look)
        parts += rows.sum(axis=0)

    def _validate(
        self,
        views: Views,
        shard: ShardRows,
        parts: Array,
        network: Network | None = None,
    ) -> None:
        """Add what a shard's validation rows say of a model."""
        plan, masked = self._plan, self._plan.masked
        network = network or self._network
        for X, y, w in shard.validation_blocks():
            prediction, loss = network.validate(views, X, y, w)
            parts[_LOSS] += loss
            parts[_WEIGHT] += metrics.weight_of(y, w, masked)
            metrics.score_parts(
                plan.loss, prediction, y, w, parts[_PARTS:], plan.heads, masked
            )

    def _validation_loss(self, parts: Array) -> float:
        """The mean loss of all validation rows; NaN if there are none."""
        if not self._plan.n_validation:
            return math.nan
        return float(parts[_LOSS] * self._plan.loss_scale / parts[_WEIGHT])

    def _validation_score(self, parts: Array) -> float:
        """The score of all validation rows; NaN if nobody gives one here."""
        plan = self._plan
        if not plan.n_validation or plan.scoring == "driver":
            return math.nan
        if plan.scoring == "loss":
            return -self._validation_loss(parts)
        return metrics.score(plan.loss, parts[_PARTS:], self._spread, plan.masked)

    def _predict(self, views: Views) -> Message:
        """Tell what is predicted for the validation rows, with targets and weights.

        The rows are in the order of the shards: one column for each output, one or
        more for the targets as the loss takes them, one for the weight.
        """
        plan, comm = self._plan, self._comm
        n_outputs, n_shards = plan.units[-1], comm.shards.n_shards
        width = plan.n_targets + 1

        def count(shard: ShardRows, row: Array) -> None:
            numbers = [len(y) for _, y, _ in shard.validation_blocks()]
            row[shard_of[id(shard)]] = sum(numbers)

        def fill(shard: ShardRows, row: Array) -> None:
            table = row.reshape(plan.n_validation, -1)
            at = starts[shard_of[id(shard)]]
            for X, y, w in shard.validation_blocks():
                part = table[at : at + len(y)]
                part[:, :n_outputs] = self._network.forward(views, X)
                part[:, n_outputs:-1] = y.reshape(len(y), -1)
                part[:, -1] = w if w.size else 1.0
                at += len(y)

        shard_of = dict(zip(map(id, self._shards), self._own, strict=True))
        counts = self._sum_over_shards(n_shards, count)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.intp)
        size = plan.n_validation * (n_outputs + width)
        return Message(PREDICT, (self._sum_over_shards(size, fill),))
