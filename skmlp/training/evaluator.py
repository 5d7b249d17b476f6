"""Stateless evaluations for L-BFGS: parameters in, loss and gradient out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from skmlp.comm.base import Communicator
from skmlp.data.sampler import Source
from skmlp.plan import Plan
from skmlp.training.protocol import Message
from skmlp.training.rank import CONSTANT, EVALUATE, LOSS, ShardWork

Array = np.ndarray[Any, np.dtype[Any]]


class Evaluator(ShardWork):
    """Evaluates the summed loss, together with the other ranks.

    Parameters
    ----------
    plan : Plan
        What is to be done, by a solver that asks for evaluations.
    comm : Communicator
        The way to the other ranks.
    source : Source
        The rows.
    """

    def __init__(self, plan: Plan, comm: Communicator, source: Source) -> None:
        super().__init__(plan, comm, source)
        size, dtype = self._params.size, self._dtype
        self._gradient: Array = np.zeros(size, dtype)
        self._exchange = comm.exchange(self._parts, self._gradient)
        self._block_gradient = np.zeros(size, dtype)
        self._accumulate_block = self._network.bind(
            self._views, plan.layout.views(self._block_gradient)
        )
        # The loss, and a column for each rank, where it writes the seconds it computed.
        width = 1 + comm.shards.n_ranks
        self._table: Array = np.zeros((comm.shards.n_shards, width), np.float64)

    def handle(self, message: Message) -> Message:
        """Loss and gradient, summed over all training rows."""
        # A diverging run overflows; L-BFGS's line search deals with it.
        with np.errstate(all="ignore"):
            if message.op in (CONSTANT, LOSS):
                return self._judge(message)
            return self._evaluate(message.arrays[0])

    def _evaluate(self, params: Array) -> Message:
        began, exchanged = time.perf_counter(), self._exchange.seconds
        np.copyto(self._params, params)
        self._table[list(self._own)] = 0.0
        for shard, part, accumulate, k in zip(
            self._shards, self._parts, self._accumulate, self._own, strict=True
        ):
            loss, n_blocks = 0.0, 0
            for block in shard.training_blocks():
                if n_blocks == 0:
                    loss = accumulate(*block)
                else:
                    loss += self._accumulate_block(*block)
                    part += self._block_gradient
                n_blocks += 1
            if n_blocks == 0:
                part.fill(0)
            self._table[k, 0] = loss
        self._exchange.reduce_scatter()
        for where, total in zip(
            self._exchange.segments, self._exchange.totals, strict=True
        ):
            np.copyto(self._gradient[where], total)
        self._exchange.all_gather()
        exchanged = self._exchange.seconds - exchanged
        computing = time.perf_counter() - began - exchanged
        self._table[self._own[0], 1 + self._comm.rank] = computing
        loss_sum, *times = self._comm.all_reduce(self._table)
        seconds = time.perf_counter() - began
        weight = self._divisor(self._plan.n_rows)
        numbers = np.array([loss_sum, weight, seconds, *times])
        return Message(EVALUATE, (numbers, self._gradient))
