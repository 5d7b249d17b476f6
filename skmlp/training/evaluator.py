"""Stateless evaluations for L-BFGS: parameters in, loss and gradient out."""

from __future__ import annotations

import time

import numpy as np

from skmlp.arrays import Array
from skmlp.comm.base import Communicator
from skmlp.data.sampler import Dataset
from skmlp.plan import Plan
from skmlp.training.protocol import Message
from skmlp.training.rank import CONSTANT, EVALUATE, LOSS, Rank


class Evaluator:
    """Evaluates the summed loss, together with the other ranks."""

    def __init__(self, plan: Plan, comm: Communicator, source: Dataset) -> None:
        self._rank = rank = Rank(plan, comm, source)
        rank.bind()
        self._gradient = np.zeros_like(rank.params)
        self._exchange = comm.exchange(rank.parts, self._gradient)
        # Blocks of a shard after its first one are added to its part.
        self._block_gradient = np.zeros_like(rank.params)
        block_views = plan.layout.views(self._block_gradient)
        self._gradient_of_block = rank.network.bind(rank.views, block_views)
        # The loss, and a column for each rank, where it writes the seconds it computed.
        self._table = rank.table(1 + comm.shards.n_ranks)

    def handle(self, message: Message) -> Message:
        """Loss and gradient, summed over all training rows."""
        # A diverging run overflows; L-BFGS's line search deals with it.
        with np.errstate(all="ignore"):
            if message.op in (CONSTANT, LOSS):
                return self._rank.judge(message)
            return self._evaluate(message.arrays[0])

    def pause(self) -> None:
        """An evaluation is no epoch: it is finished."""

    def close(self) -> None:
        """Nothing else runs."""

    def _evaluate(self, params: Array) -> Message:
        began, exchanged = time.perf_counter(), self._exchange.seconds
        rank, table = self._rank, self._table
        np.copyto(rank.params, params)
        table[list(rank.comm.own_shards)] = 0.0
        for shard in rank.shards:
            loss, n_blocks = 0.0, 0
            for block in shard.rows.training_blocks():
                if n_blocks == 0:
                    loss = shard.gradient_of(*block)
                else:
                    loss += self._gradient_of_block(*block)
                    shard.part += self._block_gradient
                n_blocks += 1
            if n_blocks == 0:
                shard.part.fill(0)
            table[shard.number, 0] = loss
        self._exchange.reduce_scatter()
        for segment, total in zip(
            self._exchange.segments, self._exchange.totals, strict=True
        ):
            np.copyto(self._gradient[segment], total)
        self._exchange.all_gather()
        exchanged = self._exchange.seconds - exchanged
        computing = time.perf_counter() - began - exchanged
        table[rank.shards[0].number, 1 + rank.comm.rank] = computing
        loss_sum, *times = rank.comm.all_reduce(table)
        seconds = time.perf_counter() - began
        weight = rank.divisor(rank.plan.n_rows)
        numbers = np.array([loss_sum, weight, seconds, *times])
        return Message(EVALUATE, (numbers, self._gradient))
