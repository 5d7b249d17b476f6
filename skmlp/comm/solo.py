"""The communicator of a single rank, which holds all shards of its fit."""

from __future__ import annotations

from collections.abc import Sequence

from skmlp.arrays import Array
from skmlp.comm.base import Communicator, Exchange, Shards
from skmlp.comm.ordered_sum import (
    additions,
    check_buffers,
    check_table,
    sum_table,
)


class SoloExchange(Exchange):
    """A step's two collectives without any other rank: sums in the shards' order."""

    def __init__(self, shards: Shards, parts: Sequence[Array]) -> None:
        self.total = parts[0]
        order = additions(shards.n_shards)
        self._additions = [(parts[k], parts[other]) for k, other in order]
        self.segments = shards.segments_of(0, self.total.size)
        # Of one shard, the part is the sum. Of several, the sum takes the first one's
        # place: the next step writes all parts anew.
        self.totals = [self.total[segment] for segment in self.segments]

    def reduce_scatter(self) -> None:
        """Add up the parts."""
        for part, other in self._additions:
            part += other

    def all_gather(self) -> None:
        """Do nothing: all segments are here."""


class SoloCommunicator(Communicator):
    """The communicator of a fit in this process."""

    rank = 0

    def __init__(self, n_shards: int = 1) -> None:
        self.shards = Shards((0,) * n_shards)

    def exchange(self, parts: Sequence[Array], flat: Array) -> Exchange:
        """Bind a step's two collectives to their buffers."""
        check_buffers(parts, flat, self.shards.n_shards)
        return SoloExchange(self.shards, parts)

    def all_reduce(self, table: Array) -> Array:
        """Sum the rows in the shards' order."""
        check_table(table, self.shards.n_shards)
        return sum_table(table, additions(self.shards.n_shards))

    def abort(self, reason: str) -> None:
        """Do nothing: a single rank never waits."""

    def close(self) -> None:
        """Do nothing."""
