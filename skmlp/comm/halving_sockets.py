"""The communicator of many ranks: messages as `skmlp.comm.halving` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import numpy as np

from skmlp.arrays import Array
from skmlp.comm.base import Shards
from skmlp.comm.halving import Halving, Piece, Stage
from skmlp.comm.mesh import BoundStage, Mesh, MeshCommunicator, MeshExchange, Transfer
from skmlp.comm.ordered_sum import (
    BoundCall,
    check_table,
    sum_table,
    tree_additions,
)

#: ``halving_of(shards)`` is the same one each time.
halving_of = lru_cache(Halving)


class HalvingExchange(MeshExchange):
    """Half of each sum goes to a partner, stage by stage; so do the sums of all, back.

    In the reduce-scatter, the sums of a stage take the place of the parts. In the
    all-gather, each stage passes on twice as much.
    """

    @cached_property
    def _scatter(self) -> list[BoundStage]:
        shards, size = self._shards, self._flat.size
        halving = halving_of(shards)
        nodes = halving.nodes_of(self._rank)
        by_shard = dict(zip(shards.held_by(self._rank), self._parts, strict=True))
        # A ghost has the other half of the array of the shard that it goes with.
        sums = {node: by_shard[halving.shard_of(node)] for node in nodes}
        bound = []
        for stage in halving.reduce_stages(self._rank):
            received: dict[int, Array] = {}

            def take(piece: Piece, into: dict[int, Array] = received) -> Array:
                n = _elements(shards, piece, size)
                into[piece.node] = np.empty(n.stop - n.start, self._flat.dtype)
                return into[piece.node]

            transfers = _transfers_of(
                self._mesh,
                stage,
                lambda piece: sums[piece.node][_elements(shards, piece, size)],
                take,
            )
            additions: list[BoundCall] = []
            for node in nodes:
                piece = Piece(node, *halving.block(node, stage.distance))
                partner = node ^ stage.distance
                if piece.first >= piece.last or not (
                    halving.has_sum(node, stage.distance)
                    and halving.has_sum(partner, stage.distance)
                ):
                    continue
                own = _elements(shards, piece, size)
                other = received[partner] if partner in received else sums[partner][own]
                is_last = stage.distance == 1
                out = (self.total if is_last else sums[node])[own]
                additions.append((np.add, (sums[node][own], other, out)))
            bound.append((transfers, additions))
        return bound

    @cached_property
    def _gather(self) -> list[BoundStage]:
        shards, flat = self._shards, self._flat
        return _bound_gather(
            self._mesh,
            halving_of(shards).gather_stages(self._rank),
            lambda piece: flat[_elements(shards, piece, flat.size)],
        )


class HalvingCommunicator(MeshCommunicator):
    """How a rank reaches many others: over connections to its partners alone."""

    _exchange = HalvingExchange

    @staticmethod
    def partners(rank: int, shards: Shards) -> set[int]:
        """The ranks that a rank needs connections to."""
        return halving_of(shards).partners(rank)

    def all_reduce(self, table: Array) -> Array:
        """Receive the rows of the others, in stages, and sum all as a tree."""
        check_table(table, self.shards.n_shards)
        stages = _bound_gather(
            self._mesh,
            halving_of(self.shards).gather_stages(self.rank),
            lambda piece: table[piece.first : piece.last],
        )
        for transfers, _ in stages:
            self._mesh.run(transfers)
        return sum_table(table, tree_additions(self.shards.n_shards))


def _elements(shards: Shards, piece: Piece, size: int) -> slice:
    """A piece's elements of a flat array of `size`."""
    first = shards.segment(piece.first, size).start
    return slice(first, shards.segment(piece.last - 1, size).stop)


def _transfers_of(
    mesh: Mesh,
    stage: Stage,
    give: Callable[[Piece], Array],
    take: Callable[[Piece], Array],
) -> list[Transfer]:
    """The messages of a stage, bound to the arrays of their pieces."""
    return [
        Transfer(
            mesh.connections[other],
            [give(piece) for piece in stage.outgoing.get(other, ())],
            [take(piece) for piece in stage.incoming.get(other, ())],
        )
        for other in sorted({*stage.outgoing, *stage.incoming})
    ]


def _bound_gather(
    mesh: Mesh, stages: Sequence[Stage], where: Callable[[Piece], Array]
) -> list[BoundStage]:
    """The stages of an all-gather, bound to the arrays of their pieces."""
    return [(_transfers_of(mesh, stage, where, where), []) for stage in stages]
