"""A servant that does little: what the launchers are tested with."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import numpy as np

from skmlp.comm.base import Communicator
from skmlp.threads import blas_threads_now
from skmlp.training.protocol import Message

ADD = 1  # [x] -> the flat array after x * (shard + 1) of all shards was added to it
FACTS = 2  # -> a row of facts for each shard (`COLUMNS`)
FAIL = 3  # [rank]: that rank raises, while the others wait for it
TURN = 4  # exchange again and again until somebody ends it
KILL = 5  # [rank]: that rank kills its process, while the others wait for it
ECHO = 6  # arrays -> the same arrays

#: The columns of `FACTS`.
COLUMNS = ("pid", "blas", "sigint_ignored", "mapped", "writeable", "checksum")


class ServantError(Exception):
    """An error with more arguments than a message: pickles only with care."""

    def __init__(self, rank: int, text: str) -> None:
        super().__init__(rank, text)
        self.rank = rank


class Unpicklable(Exception):
    """An error that can't travel."""

    def __init__(self, rank: int, text: str) -> None:
        super().__init__(f"{rank}: {text}")


@dataclass(frozen=True)
class Plan:
    """What the servant is to do at its start."""

    size: int = 5
    fails: int = -1
    error: type[Exception] = ServantError
    exit: int = -1
    cycle: bool = False


@dataclass
class Data:
    """Arrays as the real data come: inside of other objects."""

    dense: Any = None
    sparse: Any = None


def arrays_of(data: Data) -> list[np.ndarray]:
    """All arrays in `data`."""
    found = [] if data.dense is None else [data.dense]
    if data.sparse is not None:
        found += [data.sparse.data, data.sparse.indices, data.sparse.indptr]
    return found


def is_mapped(array: np.ndarray) -> bool:
    """Whether the numbers lie in a file that is mapped into memory."""
    base: Any = array
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    return base is not None


def checksum(data: Data) -> float:
    """A number that depends on all numbers of `data`."""
    return float(sum(np.sum(a, dtype=np.float64) for a in arrays_of(data)))


class RankWorker:
    """Keeps a flat array and answers questions about its rank."""

    #: Whether a rank of this process is in a `TURN`.
    turning = False

    def __init__(self, plan: Plan, comm: Communicator, data: Data) -> None:
        if plan.exit == comm.rank:
            os._exit(3)
        if plan.fails == comm.rank:
            raise plan.error(comm.rank, "not built")
        if plan.cycle:
            self.me = self
        own = len(comm.own_shards)
        self.plan, self.comm, self.data = plan, comm, data
        self.paused = False
        self.flat = np.zeros(plan.size)
        self.parts = [np.zeros(plan.size) for _ in range(own)]
        self.exchange = comm.exchange(self.parts, self.flat)
        n_shards = comm.shards.n_shards
        self.table = np.zeros((n_shards, n_shards * len(COLUMNS)))

    def handle(self, message: Message) -> Message:
        acts = (self.add, self.facts, self.fail, self.turn, self.kill, self.echo)
        return acts[message.op - 1](*message.arrays)

    def pause(self) -> None:
        """End a `TURN`, where no other rank turns as well."""
        self.paused = self.comm.shards.n_ranks == 1

    def close(self) -> None:
        """There is nothing else here."""

    def add(self, x: np.ndarray) -> Message:
        for shard, part in zip(self.comm.own_shards, self.parts, strict=True):
            part[:] = x * (shard + 1)
        self.exchange.reduce_scatter()
        for segment, total in zip(
            self.exchange.segments, self.exchange.totals, strict=True
        ):
            self.flat[segment] += total
        self.exchange.all_gather()
        return Message(ADD, (self.flat.copy(),))

    def facts(self) -> Message:
        big = [a for a in arrays_of(self.data) if a.nbytes > 1 << 20]
        row = (
            os.getpid(),
            blas_threads_now() or 0,
            signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            sum(map(is_mapped, big)),
            sum(a.flags.writeable for a in big),
            checksum(self.data),
        )
        k = len(COLUMNS)
        for shard in self.comm.own_shards:
            self.table[shard] = 0
            self.table[shard, shard * k : (shard + 1) * k] = row
        return Message(FACTS, (self.comm.all_reduce(self.table),))

    def fail(self, rank: np.ndarray) -> Message:
        if self.comm.rank == rank[0]:
            raise self.plan.error(self.comm.rank, "not handled")
        return self.facts()

    def turn(self) -> Message:
        RankWorker.turning = True
        try:
            while not self.paused:
                self.add(np.ones(self.plan.size))
        finally:
            RankWorker.turning = False
        return Message(TURN, (self.flat.copy(),))

    def kill(self, rank: np.ndarray) -> Message:
        if self.comm.rank == rank[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.facts()

    def echo(self, *arrays: np.ndarray) -> Message:
        return Message(ECHO, arrays)


def build(plan: Plan, comm: Communicator, data: Data) -> RankWorker:
    return RankWorker(plan, comm, data)


def is_turning() -> bool:
    """Whether a rank of this process is in a `TURN`."""
    return RankWorker.turning
