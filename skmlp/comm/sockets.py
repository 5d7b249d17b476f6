"""The communicator of ranks in different processes or hosts: plain sockets, or TLS.

All messages of a collective travel at once, one to and one from each other rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from skmlp.arrays import Array
from skmlp.comm.base import Communicator, Shards
from skmlp.comm.halving_sockets import HalvingCommunicator
from skmlp.comm.handshake import Hello, Secret
from skmlp.comm.listener import Address, Listener
from skmlp.comm.mesh import BoundStage, Mesh, MeshCommunicator, MeshExchange, Transfer
from skmlp.comm.ordered_sum import (
    BoundCall,
    check_table,
    is_tree,
    row_additions,
    sum_calls,
    sum_table,
)
from skmlp.comm.rendezvous import Contexts, Rendezvous

__all__ = ["Listener", "SocketCommunicator", "connect"]


class SocketExchange(MeshExchange):
    """Each segment's parts go to its holder, which brings their sum to all others."""

    @cached_property
    def _scatter(self) -> list[BoundStage]:
        shards, size = self._shards, self._flat.size
        own = shards.held_by(self._rank)
        # by_shard[i][k]: shard k's part of segments[i], ours or received.
        by_shard: list[dict[int, Array]] = [
            {k: part[segment] for k, part in zip(own, self._parts, strict=True)}
            for segment in self.segments
        ]
        transfers = []
        for peer, connection in self._mesh.connections.items():
            incoming: list[Array] = []
            for total, received in zip(self.totals, by_shard, strict=True):
                for k in shards.held_by(peer):
                    received[k] = np.empty_like(total)
                    incoming.append(received[k])
            wanted = shards.segments_of(peer, size)
            outgoing = [part[segment] for segment in wanted for part in self._parts]
            transfers.append(Transfer(connection, outgoing, incoming))
        additions: list[BoundCall] = []
        for total, received in zip(self.totals, by_shard, strict=True):
            in_order = [received[k] for k in range(shards.n_shards)]
            additions += sum_calls(in_order, total)
        return [(transfers, additions)]

    @cached_property
    def _gather(self) -> list[BoundStage]:
        flat, shards = self._flat, self._shards
        ours = [flat[segment] for segment in self.segments]

        def theirs(peer: int) -> list[Array]:
            return [flat[s] for s in shards.segments_of(peer, flat.size)]

        return [(_to_each(self._mesh, ours, theirs), [])]


class SocketCommunicator(MeshCommunicator):
    """How a rank reaches ranks in other processes, over one connection to each."""

    _exchange = SocketExchange

    @staticmethod
    def partners(rank: int, shards: Shards) -> set[int]:
        """The ranks that a rank needs connections to."""
        return set(range(shards.n_ranks)) - {rank}

    def all_reduce(self, table: Array) -> Array:
        """Receive the rows of the others, and sum all in shard order."""
        check_table(table, self.shards.n_shards)
        ours = [table[k] for k in self.own_shards]

        def theirs(peer: int) -> list[Array]:
            return [table[k] for k in self.shards.held_by(peer)]

        self._mesh.run(_to_each(self._mesh, ours, theirs))
        return sum_table(table, row_additions(self.shards.n_shards))


def _to_each(
    mesh: Mesh, ours: Sequence[Array], theirs: Callable[[int], Sequence[Array]]
) -> list[Transfer]:
    """Our arrays for each peer, and what comes of it."""
    return [
        Transfer(connection, ours, theirs(peer))
        for peer, connection in mesh.connections.items()
    ]


def connect(
    listener: Listener,
    rank: int,
    shards: Shards,
    addresses: Sequence[Address],
    *,
    secret: Secret,
    run: bytes,
    generation: int,
    fingerprint: bytes,
    limit: float,
    step_limit: float | None = None,
    ssl_contexts: Contexts | None = None,
    kind: type[MeshCommunicator] | None = None,
) -> Communicator:
    """Meet the other ranks, whose listeners have `addresses`, by rank.

    `run`, `generation` and `fingerprint` are those of `Hello`; `limit` seconds is the
    time to meet and the default of `step_limit`. With `ssl_contexts`, of the accepting
    and of the dialing side, all connections are TLS. The listener stays open. Without
    a `kind`, the number of shards decides which one it is. For the exceptions see
    `skmlp.comm.rendezvous.Rendezvous`.
    """
    if len(addresses) != shards.n_ranks:
        raise ValueError(
            f"{shards.n_ranks} ranks need as many addresses, not {len(addresses)}"
        )
    if kind is None:
        many = is_tree(shards.n_shards)
        kind = HalvingCommunicator if many else SocketCommunicator
    sockets = Rendezvous(
        listener,
        addresses,
        secret,
        Hello(run, generation, rank, fingerprint),
        limit,
        ssl_contexts,
        partners=kind.partners(rank, shards),
    ).run()
    return kind(
        rank,
        shards,
        sockets,
        step_limit=limit if step_limit is None else step_limit,
        addresses=addresses,
    )
