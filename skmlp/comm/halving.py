"""Recursive halving and doubling: which rank sends what to which, without the numbers.

With many ranks, a message from each to each other one is too much. Here a rank talks to
about log2(n) others: in the reduce-scatter, stage by stage, it sends half of what it
still has to a partner, and adds the partner's other half; in the all-gather, it passes
on twice as much in each stage (Thakur, Rabenseifner and Gropp, "Optimization of
collective communication operations in MPICH", 2005).

The stages run over *nodes*: shard k is node k, and the nodes above, up to a power of
two, are *ghosts* without a part of the sum. The holder of node k plays the ghost
``k + n_nodes // 2`` as well. In a stage of distance d, node v and node ``v ^ d`` are
partners. The additions are therefore a tree over the numbers of the shards: whichever
rank plays a node, the sums have the same bits (`ordered_sum.tree_additions`).

Before the stage of distance d, a node has a sum for each shard of its block of
``2 * d`` shards; after it, for those of its block of d.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from skmlp.comm.base import Shards


class Piece(NamedTuple):
    """What a node sends: of the shards from `first` up to, without, `last`."""

    node: int
    first: int
    last: int


#: The pieces of a stage by the rank that sends, or receives, them.
Pieces = dict[int, list[Piece]]


class Stage(NamedTuple):
    """What one rank sends and receives at once."""

    distance: int
    outgoing: Pieces
    incoming: Pieces


class Halving:
    """The stages of all ranks.

    Parameters
    ----------
    shards : Shards
        Which rank holds which shard.
    """

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self._n_nodes = 1 << (shards.n_shards - 1).bit_length()
        half = self._n_nodes // 2
        #: The first distance of the reduce-scatter, the last one of the all-gather.
        self.distances = [half >> i for i in range(half.bit_length())]

    @cached_property
    def _nodes(self) -> dict[int, list[int]]:
        """The nodes that each rank plays, in rising order."""
        nodes = defaultdict(list)
        for node in range(self._n_nodes):
            nodes[self.player(node)].append(node)
        return nodes

    def nodes_of(self, rank: int) -> list[int]:
        """The nodes that a rank plays, in rising order."""
        return self._nodes[rank]

    def player(self, node: int) -> int:
        """The rank that plays a node."""
        return self.shards.holders[self.shard_of(node)]

    def shard_of(self, node: int) -> int:
        """The shard with whose part a node begins."""
        is_ghost = node >= self.shards.n_shards
        return node - self._n_nodes // 2 if is_ghost else node

    def has_sum(self, node: int, distance: int) -> bool:
        """Whether a node has something to add before the stage of `distance`."""
        return node < self.shards.n_shards or 2 * distance < self._n_nodes

    def block(self, node: int, distance: int) -> tuple[int, int]:
        """The first and last, exclusive, of the shards in a node's block."""
        first = node // distance * distance
        return first, min(first + distance, self.shards.n_shards)

    # -- what a rank receives; `Piece.node` is that of the sender ----------------------

    def _to_reduce(self, rank: int, distance: int) -> Iterator[Piece]:
        for node in self.nodes_of(rank):
            partner = node ^ distance
            first, last = self.block(node, distance)
            foreign = self.player(partner) != rank
            if foreign and first < last and self.has_sum(partner, distance):
                yield Piece(partner, first, last)

    def _to_gather(self, rank: int, distance: int) -> Iterator[Piece]:
        nodes = self.nodes_of(rank)
        known = {node // distance for node in nodes}
        for node in nodes:
            first, last = self.block(node ^ distance, distance)
            if first < last and first // distance not in known:
                known.add(first // distance)  # once is enough
                yield Piece(node ^ distance, first, last)

    # -- stages ------------------------------------------------------------------------

    def reduce_stages(self, rank: int) -> list[Stage]:
        """The stages of the reduce-scatter of one rank."""
        return [self._stage(rank, d, gathers=False) for d in self.distances]

    def gather_stages(self, rank: int) -> list[Stage]:
        """The stages of the all-gather of one rank."""
        return [self._stage(rank, d, gathers=True) for d in self.distances[::-1]]

    def _stage(self, rank: int, distance: int, *, gathers: bool) -> Stage:
        received = self._to_gather if gathers else self._to_reduce
        incoming: Pieces = defaultdict(list)
        for piece in received(rank, distance):
            incoming[self.player(piece.node)].append(piece)
        outgoing: Pieces = {}
        others = {self.player(node ^ distance) for node in self.nodes_of(rank)}
        for other in sorted(others - {rank}):
            pieces = [
                piece
                for piece in received(other, distance)
                if self.player(piece.node) == rank
            ]
            if pieces:
                outgoing[other] = pieces
        return Stage(distance, outgoing, dict(incoming))

    def partners(self, rank: int) -> set[int]:
        """All ranks that a rank sends to or receives from."""
        stages = [*self.reduce_stages(rank), *self.gather_stages(rank)]
        return {other for s in stages for other in (*s.outgoing, *s.incoming)}
