"""What every `RankWorker` has: its shards, their network, and sums over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skmlp import kernels as kernel_sets
from skmlp.comm.base import Communicator
from skmlp.data.sampler import ShardRows, Source
from skmlp.model import metrics
from skmlp.model.dropout import Dropout
from skmlp.model.network import Network
from skmlp.plan import Plan
from skmlp.training import constant
from skmlp.training.protocol import Message

Array = np.ndarray[Any, np.dtype[Any]]

#: Operations of the ranks.
TRAIN = 1  # [epochs], then the state's arrays if it is new -> the state's arrays
# parameters -> [sum of the loss, sum of weights, seconds, and those that each rank has
# computed], gradient of the sum
EVALUATE = 2
PREDICT = 3  # as TRAIN -> predictions, targets and weights of the validation rows
CONSTANT = 4  # -> the constant's raw prediction, [its mean loss]
LOSS = 5  # parameters -> [mean loss of the training rows, without penalty]


def most_bytes(plan: Plan) -> int:
    """Bytes that the arrays of a message to or from a rank never exceed."""
    flat = plan.layout.size * 8 * 5  # parameters, best ones, moments
    record = 8 + plan.n_shards  # and a number for each rank
    validation = plan.n_validation * (2 * plan.units[-1] + 1)
    return flat + 8 * (1024 + record * plan.max_iter + validation)


class ShardWork:
    """The shards of a rank, and what it takes to compute on them.

    Parameters
    ----------
    plan : Plan
        What is to be done.
    comm : Communicator
        The way to the other ranks.
    source : Source
        The rows.
    """

    def __init__(self, plan: Plan, comm: Communicator, source: Source) -> None:
        self._plan = plan
        self._comm = comm
        self._own = comm.own_shards
        self._kernels = kernel_sets.load(plan.kernels)
        self._dtype = np.dtype(plan.dtype)
        layout = plan.layout
        size = layout.size
        self._shards: list[ShardRows] = [source.shard(plan, k) for k in self._own]
        max_rows = max(shard.max_rows for shard in self._shards)
        self._dropout: Dropout | None = None
        if plan.dropout:
            assert plan.dropout_key is not None
            self._dropout = Dropout(
                plan.dropout,
                plan.units[:-1],
                plan.dropout_key,
                self._kernels,
                self._dtype,
                max_rows,
            )
        self._network = self._make_network(max_rows, self._dropout)
        # Zeros: of frozen layers nothing else is ever written.
        self._parts = [np.zeros(size, self._dtype) for _ in self._own]
        self._params: Array = np.zeros(size, self._dtype)
        self._views = layout.views(self._params)
        self._accumulate = [
            self._network.bind(self._views, layout.views(part)) for part in self._parts
        ]
        self._mean_weight = self._measure_weight()
        self._pausing = False

    def _make_network(self, max_rows: int, dropout: Dropout | None = None) -> Network:
        """Make what computes on so many rows."""
        plan, options = self._plan, {}
        if plan.lanes > 1:
            from skmlp.kernels.products.blas import dot_of

            options["dot"] = dot_of(plan.dtype)
        return Network(
            plan.layout,
            plan.activation,
            plan.loss,
            self._kernels,
            self._dtype,
            max_rows,
            dropout,
            plan.loss_settings,
            plan.masked,
            plan.frozen,
            **options,
        )

    def _constant(self) -> tuple[Array, float]:
        """The best constant prediction, and its loss as it is reported."""

        def total(width: int, add: constant.Add) -> Array:
            def of_shard(shard: ShardRows, row: Array) -> None:
                for y, w in shard.training_targets():
                    add(y, w, row)

            return self._sum_over_shards(width, of_shard)

        raw, loss = constant.constant(self._plan, total)
        return raw, self._mean_loss(loss)

    def _mean_loss(self, total: float) -> float:
        """The summed loss of all training rows as it is reported."""
        return total * self._plan.loss_scale / self._divisor(self._plan.n_rows)

    def _judge(self, message: Message) -> Message:
        """Answer `CONSTANT` and `LOSS`."""
        if message.op == CONSTANT:
            raw, mean = self._constant()
            return Message(CONSTANT, (raw, np.array([mean])))
        views = self._plan.layout.views(message.arrays[0])

        def add(shard: ShardRows, row: Array) -> None:
            for block in shard.training_blocks():
                row += self._network.validate(views, *block)[1]

        (loss,) = self._sum_over_shards(1, add)
        return Message(LOSS, (np.array([self._mean_loss(loss)]),))

    def pause(self) -> None:
        """Have all ranks end the order under way after this epoch. From any thread."""
        self._pausing = True

    def close(self) -> None:
        """End what else runs; after it nothing is asked any more."""

    def _sum_over_shards(
        self, width: int, add: Callable[[ShardRows, Array], None]
    ) -> Array:
        """Sum what `add` adds to a row of numbers for each shard."""
        comm = self._comm
        table: Array = np.zeros((comm.shards.n_shards, width), np.float64)
        for shard, k in zip(self._shards, self._own, strict=True):
            add(shard, table[k])
        return comm.all_reduce(table)

    def _measure_weight(self) -> float:
        """Mean weight of the training rows; 1 without weights and missing targets."""
        masked = self._plan.masked
        if not self._plan.weighted and not masked:
            return 1.0

        def add(shard: ShardRows, row: Array) -> None:
            row += shard.training_weight(masked)

        def add_validation(shard: ShardRows, row: Array) -> None:
            for _, y, w in shard.validation_blocks():
                row += metrics.weight_of(y, w, masked)

        total = self._positive(self._sum_over_shards(1, add), "training")
        if self._plan.n_validation:
            self._positive(self._sum_over_shards(1, add_validation), "validation")
        return total / self._plan.n_rows

    def _positive(self, sums: Array, which: str) -> float:
        """Refuse weights that add up to nothing."""
        if not sums[0] > 0:
            if self._plan.masked:
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

    def _divisor(self, rows: int) -> float:
        """Give what sums over `rows` rows are divided by: their expected weight."""
        return rows * self._mean_weight
