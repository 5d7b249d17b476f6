"""A servant that looks at the rows it got: what the Dask launcher is tested with."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from distributed import Client

from skmlp.comm.base import Communicator
from skmlp.dask.ingest.loaded_rows import LoadedRows
from skmlp.dask.rank_group import DaskGroup
from skmlp.data.partitions import ShardData
from skmlp.training.protocol import Message
from tests.launch.dask_clusters import until
from tests.launch.servants import Data, Plan, RankWorker, is_turning

COUNT = 10  # -> how often each row is there; its number stands in the first column
SUMS = 11  # -> the sums of X, y and w over all rows, added up shard by shard
LAYOUT = 12  # -> for each shard: rows, runs of rows, the rank that holds it


@dataclass(frozen=True)
class RowPlan(Plan):
    n_rows: int = 0


class RowServant(RankWorker):
    def __init__(
        self, plan: RowPlan, comm: Communicator, rows: dict[int, ShardData]
    ) -> None:
        super().__init__(plan, comm, Data())
        self.rows = rows

    def handle(self, message: Message) -> Message:
        if message.op < COUNT:
            return super().handle(message)
        act = {COUNT: self.count, SUMS: self.sums, LAYOUT: self.layout}
        return Message(message.op, (act[message.op](),))

    def add_up(self, width: int, of_shard) -> np.ndarray:
        """The sum of ``of_shard(rows)`` over all shards."""
        table = np.zeros((self.comm.shards.n_shards, width))
        for shard, rows in self.rows.items():
            table[shard] = of_shard(rows)
        return self.comm.all_reduce(table)

    def count(self) -> np.ndarray:
        def of_shard(rows: ShardData) -> np.ndarray:
            counts = np.zeros(self.plan.n_rows)
            numbers = [np.arange(start, start + n) for start, n in rows.ranges]
            numbers = np.concatenate([*numbers, np.empty(0, int)]).astype(int)
            X = rows.X if isinstance(rows.X, np.ndarray) else rows.X.toarray()
            assert X.flags.c_contiguous
            np.testing.assert_array_equal(X[:, 0], numbers)
            np.add.at(counts, numbers, 1)
            return counts

        return self.add_up(self.plan.n_rows, of_shard)

    def sums(self) -> np.ndarray:
        return self.add_up(
            3, lambda rows: (rows.X.sum(), np.sum(rows.y, dtype=float), rows.w.sum())
        )

    def layout(self) -> np.ndarray:
        n_shards = self.comm.shards.n_shards
        table = np.zeros((n_shards, 3 * n_shards))
        for shard, rows in self.rows.items():
            facts = (rows.X.shape[0], len(rows.ranges), self.comm.rank)
            table[shard, 3 * shard : 3 * shard + 3] = facts
        return self.comm.all_reduce(table)


def build_on_rows(plan: RowPlan, comm: Communicator, rows) -> RowServant:
    return RowServant(plan, comm, rows)


class Unreadable:
    """Can be unpickled in the process of the driver and the scheduler only."""

    def __init__(self, pid: int) -> None:
        if os.getpid() != pid:
            raise ArithmeticError("not to be read by workers")
        self.pid = pid

    def __reduce__(self):
        return Unreadable, (self.pid,)


def hold_thread(flag: Path) -> None:
    """Keep a thread of a worker busy until a file is there, 20 s at most."""
    for _ in range(1000):
        if flag.exists():
            return
        time.sleep(0.02)


# ---- What the tests give them --------------------------------------------------------

N = 137
RNG = np.random.RandomState(0)
X = np.column_stack([np.arange(N), RNG.uniform(size=(N, 3))])
Y = np.arange(N) % 3
W = RNG.uniform(size=N)


def gang_on(data: LoadedRows, **kwargs) -> DaskGroup:
    plan = kwargs.pop("plan", RowPlan(n_rows=N))
    return DaskGroup(build_on_rows, plan, data, **kwargs)


def ask(gang: DaskGroup, op: int, *arrays: np.ndarray) -> np.ndarray:
    (answer,) = gang.request(Message(op, arrays)).arrays
    return answer


def until_turning(client: Client) -> None:
    """Wait until a rank on the cluster is in a `TURN`."""
    until(lambda: any(client.run(is_turning).values()), "a rank that turns")
