"""The communicator of many ranks: messages as `skmlp.comm.halving` has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from skmlp.comm.base import Array, Exchange, Shards
from skmlp.comm.halving import Halving, Piece, Pieces, Stage
from skmlp.comm.mesh import Mesh, MeshCommunicator, Transfer
from skmlp.comm.ordered_sum import (
    BoundCall,
    check_buffers,
    check_table,
    sum_table,
    tree_additions,
)

#: The transfers of a stage, and what is added after them.
BoundStage = tuple[list[Transfer], list[BoundCall]]


class HalvingExchange(Exchange):
    """A step's two collectives in stages; each is bound when it is first called."""

    def __init__(
        self,
        mesh: Mesh,
        halving: Halving,
        rank: int,
        parts: Sequence[Array],
        flat: Array,
    ) -> None:
        self._mesh, self._halving, self._rank = mesh, halving, rank
        self._parts, self._flat = list(parts), flat
        shards = halving.shards
        self.segments = shards.segments_of(rank, flat.size)
        self.total = np.empty_like(flat)
        self.totals = [self.total[segment] for segment in self.segments]
        self._scatter: list[BoundStage] | None = None
        self._gather: list[BoundStage] | None = None

    def reduce_scatter(self) -> None:
        """Send half of each sum to a partner and add its half of ours, stage by stage.

        The sums of a stage take the place of the parts.
        """
        if self._scatter is None:
            self._scatter = self._bind_scatter()
        self._run(self._scatter)

    def all_gather(self) -> None:
        """Pass on what is known, twice as much in each stage."""
        if self._gather is None:
            shards, flat = self._halving.shards, self._flat
            self._gather = bind_gather(
                self._mesh,
                self._halving.gather_stages(self._rank),
                lambda piece: flat[_elements(shards, piece, flat.size)],
            )
        self._run(self._gather)

    def _run(self, stages: Sequence[BoundStage]) -> None:
        began = time.perf_counter()
        for transfers, additions in stages:
            self._mesh.run(transfers)
            for function, arguments in additions:
                function(*arguments)
        self.seconds += time.perf_counter() - began

    def _bind_scatter(self) -> list[BoundStage]:
        halving, size = self._halving, self._flat.size
        shards = halving.shards
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

            transfers = transfers_of(
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


class HalvingCommunicator(MeshCommunicator):
    """How a rank reaches many others: over connections to its partners alone."""

    @staticmethod
    def partners(rank: int, shards: Shards) -> set[int]:
        """The ranks that a rank needs connections to."""
        return Halving(shards).partners(rank)

    @cached_property
    def _halving(self) -> Halving:
        return Halving(self.shards)

    def exchange(self, parts: Sequence[Array], flat: Array) -> Exchange:
        """Bind a step's two collectives to their buffers."""
        check_buffers(parts, flat, len(self.own_shards))
        return HalvingExchange(self._mesh, self._halving, self.rank, parts, flat)

    def all_reduce(self, table: Array) -> Array:
        """Receive the rows of the others, in stages, and sum all as a tree."""
        check_table(table, self.shards.n_shards)
        stages = bind_gather(
            self._mesh,
            self._halving.gather_stages(self.rank),
            lambda piece: table[piece.first : piece.last],
        )
        for transfers, _ in stages:
            self._mesh.run(transfers)
        return sum_table(table, tree_additions(self.shards.n_shards))


def _elements(shards: Shards, piece: Piece, size: int) -> slice:
    """A piece's elements of a flat array of `size`."""
    first = shards.segment(piece.first, size).start
    return slice(first, shards.segment(piece.last - 1, size).stop)


def transfers_of(
    mesh: Mesh,
    stage: Stage,
    give: Callable[[Piece], Array],
    take: Callable[[Piece], Array],
) -> list[Transfer]:
    """The messages of a stage, bound to the arrays of their pieces."""

    def arrays(
        pieces: Pieces, other: int, array: Callable[[Piece], Array]
    ) -> list[Array]:
        return [array(piece) for piece in pieces.get(other, ())]

    return [
        Transfer(
            mesh.connections[other],
            arrays(stage.outgoing, other, give),
            arrays(stage.incoming, other, take),
        )
        for other in sorted({*stage.outgoing, *stage.incoming})
    ]


def bind_gather(
    mesh: Mesh, stages: Sequence[Stage], where: Callable[[Piece], Array]
) -> list[BoundStage]:
    """The stages of an all-gather, bound to the arrays of their pieces."""
    return [(transfers_of(mesh, stage, where, where), []) for stage in stages]
