"""What a rank has: its shards, their network, and sums over the shards of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import numpy as np

from skmlp import kernels as kernel_sets
from skmlp.arrays import Array
from skmlp.comm.base import Communicator
from skmlp.data.sampler import Dataset, ShardSampler, Targets
from skmlp.model import metrics
from skmlp.model.array_network import ArrayNetwork
from skmlp.model.dropout import Dropout
from skmlp.model.network import Network
from skmlp.plan import Plan
from skmlp.training import constant
from skmlp.training.protocol import Message

AnyNetwork = Network | ArrayNetwork

#: Operations of the ranks.
TRAIN = 1  # [epochs], then the state's arrays if it is new -> the state's arrays
# parameters -> [sum of the loss, sum of weights, seconds, and those that each rank has
# computed], gradient of the sum
EVALUATE = 2
PREDICT = 3  # as TRAIN -> predictions, targets and weights of the validation rows
CONSTANT = 4  # -> the constant's raw prediction, [its mean loss]
LOSS = 5  # parameters -> [mean loss of the training rows, without penalty]

#: Numbers in two cache lines, of float32: what different parts write lies so far apart.
LINE = 32


def most_bytes(plan: Plan) -> int:
    """Bytes that the arrays of a message to or from a rank never exceed."""
    flat = plan.layout.size * 8 * 5  # parameters, best ones, moments
    record = 8 + plan.n_shards  # and a number for each rank
    validation = plan.n_validation * (2 * plan.units[-1] + 1)
    return flat + 8 * (1024 + record * plan.max_iter + validation)


@dataclass(eq=False)
class Shard:
    """A shard on its rank: its rows, and its part of the gradient.

    `gradient_of` writes the gradient of some rows over `part`, a flat vector, and
    returns their loss; see `Rank.bind`. `part` is the first line of `totals`, which has
    one for each part of a step.
    """

    number: int
    rows: ShardSampler
    part: Array
    totals: Array
    dropout: Dropout | None
    #: Summed over the minibatches of an epoch so far.
    loss: float = 0.0
    gradient_of: Callable[[Any, Array, Array], float] = field(init=False)

    def begin_epoch(self) -> None:
        """Begin the sum anew."""
        self.loss = 0.0

    def add_gradient(self, batch: int, step: int) -> None:
        """Compute the gradient of its rows of a minibatch, and add their loss."""
        rows = self.rows.take(batch)
        if rows is None:
            self.part.fill(0)
            return
        if self.dropout is not None:
            self.dropout.begin(step, self.rows.numbers(batch))
        self.loss += self.gradient_of(*rows)


class Rank:
    """The shards of a rank, and what it takes to compute on them."""

    def __init__(self, plan: Plan, comm: Communicator, source: Dataset) -> None:
        self.plan, self.comm = plan, comm
        self.kernels = kernel_sets.load(plan.kernels)
        self.dtype = np.dtype(plan.dtype)
        size, layout = plan.layout.size, plan.layout
        rows = [source.shard(plan, k) for k in comm.own_shards]
        self.arrays = rows[0].arrays
        self._max_rows = max_rows = max(one.max_rows for one in rows)
        self._dropout = None
        if plan.dropout:
            assert plan.dropout_key is not None
            of_plan = plan.dropout, plan.units[:-1], plan.dropout_key
            self._dropout = Dropout(*of_plan, self.kernels, self.dtype, max_rows)
        self.params: Array = np.zeros(size, self.dtype)
        self.views = layout.views(self.params)
        self.shards = []
        for number, one in zip(comm.own_shards, rows, strict=True):
            # Zeros: of frozen layers nothing else is ever written.
            lines = plan.step_parts * -(-size // LINE) * LINE
            totals = np.zeros(size if plan.step_parts == 1 else lines, self.dtype)
            part = totals[:size]
            self.shards.append(Shard(number, one, part, totals, self._dropout))
        self.parts = [shard.part for shard in self.shards]
        self._mean_weight = self._measure_weight()

    @cached_property
    def network(self) -> AnyNetwork:
        """What computes on the rows, where that is not done by compiled steps."""
        if self.arrays is not None:
            return ArrayNetwork(self.arrays, self.plan)
        return self.make_network(self._max_rows, self._dropout)

    def bind(self) -> None:
        """Let each shard compute its gradient, where no compiled steps do."""
        for shard in self.shards:
            out = self.plan.layout.views(shard.part)
            shard.gradient_of = self.network.bind(self.views, out)

    def make_network(self, max_rows: int, dropout: Dropout | None = None) -> Network:
        """Make what computes on so many rows."""
        plan, dot = self.plan, cast(Any, np.dot)
        if plan.step_parts > 1:
            from skmlp.kernels.products.blas import dot_of

            dot = dot_of(plan.dtype)
        return Network(plan, max_rows, dropout, dot)

    def divisor(self, rows: int) -> float:
        """What sums over `rows` rows are divided by: their expected weight."""
        return rows * self._mean_weight

    def divisors(self) -> list[float]:
        """The divisor of each minibatch."""
        plan = self.plan
        last = plan.batch(plan.n_batches - 1)
        whole = [self.divisor(plan.batch_size)] * (plan.n_batches - 1)
        return [*whole, self.divisor(last.stop - last.start)]

    def table(self, width: int) -> Array:
        """Zeros for `Communicator.all_reduce`, a row for each shard of the fit."""
        return np.zeros((self.comm.shards.n_shards, width), np.float64)

    def sum_over_shards(
        self, width: int, add: Callable[[ShardSampler, Array], None]
    ) -> Array:
        """Sum what `add` adds to a row of numbers for each shard."""
        table = self.table(width)
        for shard in self.shards:
            add(shard.rows, table[shard.number])
        return self.comm.all_reduce(table)

    def sum_of_targets(
        self, pieces: Callable[[ShardSampler], Targets], width: int, add: constant.Add
    ) -> Array:
        """Sum what `add` adds to a row of numbers for pieces of targets and weights."""

        def of_shard(rows: ShardSampler, row: Array) -> None:
            for y, w in pieces(rows):
                add(y, w, row)

        return self.sum_over_shards(width, of_shard)

    def constant(self) -> tuple[Array, float]:
        """The best constant prediction, and its loss as it is reported."""
        total = partial(self.sum_of_targets, ShardSampler.training_targets)
        raw, loss = constant.constant(self.plan, total)
        return raw, self._mean_loss(loss)

    def judge(self, message: Message) -> Message:
        """Answer `CONSTANT` and `LOSS`."""
        if message.op == CONSTANT:
            raw, mean = self.constant()
            return Message(CONSTANT, (raw, np.array([mean])))
        views = self.plan.layout.views(message.arrays[0])

        def add(rows: ShardSampler, row: Array) -> None:
            for block in rows.training_blocks():
                row += self.network.validate(views, *block)[1]

        (loss,) = self.sum_over_shards(1, add)
        return Message(LOSS, (np.array([self._mean_loss(loss)]),))

    def _mean_loss(self, total: float) -> float:
        """The summed loss of all training rows as it is reported."""
        return total * self.plan.loss_scale / self.divisor(self.plan.n_rows)

    def _measure_weight(self) -> float:
        """Mean weight of the training rows; 1 without weights and missing targets."""
        masked = self.plan.masked
        if not self.plan.weighted and not masked:
            return 1.0

        def add(y: Array, w: Array, row: Array) -> None:
            row += metrics.weight_of(y, w, masked)

        def positive(pieces: Callable[[ShardSampler], Targets], which: str) -> float:
            return self._positive(self.sum_of_targets(pieces, 1, add), which)

        total = positive(ShardSampler.training_targets, "training")
        if self.plan.n_validation:
            positive(ShardSampler.validation_targets, "validation")
        return total / self.plan.n_rows

    def _positive(self, sums: Array, which: str) -> float:
        """Refuse weights that add up to nothing."""
        if not sums[0] > 0:
            if self.plan.masked:
                raise ValueError(
                    f"Of the {which} rows no target is known, or none with a weight: "
                    "all others are NaN, or add up to a weight of zero or less."
                )
            raise ValueError(
                "Sample weights must contain at least one non-zero number, and the sum "
                f"of those of the {which} rows must be greater than zero; it is "
                f"{sums[0]:g}."
            )
        return float(sums[0])
