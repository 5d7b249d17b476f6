"""What launchers are handed: functions that make the worker object of a rank."""

from __future__ import annotations

from collections.abc import Mapping

from skmlp.comm.base import Communicator
from skmlp.data.partitioned_dataset import PartitionedDataset
from skmlp.data.partitions import ShardData
from skmlp.data.sampler import Dataset
from skmlp.optim.solvers import SOLVERS
from skmlp.plan import Plan
from skmlp.training.evaluator import Evaluator
from skmlp.training.loop import Trainer
from skmlp.training.protocol import RankWorker


def on_source(plan: Plan, comm: Communicator, source: Dataset) -> RankWorker:
    """Make the worker object of a rank whose launcher brings the rows as a source."""
    kind = Trainer if plan.solver in SOLVERS else Evaluator
    return kind(plan, comm, source)


def on_partitions(
    plan: Plan, comm: Communicator, rows: Mapping[int, ShardData]
) -> RankWorker:
    """Make the worker object of a rank whose shards lie here, and only here."""
    return on_source(plan, comm, PartitionedDataset(rows))
