"""The communicator of ranks in different processes or hosts: plain sockets, or TLS.

All messages of a collective travel at once, one to and one from each other rank.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from skmlp.comm.base import Array, Communicator, Exchange, Shards
from skmlp.comm.halving_sockets import HalvingCommunicator
from skmlp.comm.handshake import Hello, Secret
from skmlp.comm.listener import Address, Listener
from skmlp.comm.mesh import Mesh, MeshCommunicator, Transfer
from skmlp.comm.ordered_sum import (
    BoundCall,
    check_buffers,
    check_table,
    is_tree,
    row_additions,
    sum_calls,
    sum_table,
)
from skmlp.comm.rendezvous import Contexts, meet

__all__ = ["Listener", "SocketCommunicator", "connect"]


class SocketExchange(Exchange):
    """A step's two collectives over `mesh`; each is bound when it is first called."""

    def __init__(
        self,
        mesh: Mesh,
        rank: int,
        shards: Shards,
        parts: Sequence[Array],
        flat: Array,
    ) -> None:
        self._mesh, self._rank, self._shards = mesh, rank, shards
        self._parts, self._flat = list(parts), flat
        self.segments = shards.segments_of(rank, flat.size)
        self.total = np.empty_like(flat)
        self.totals = [self.total[segment] for segment in self.segments]
        self._scatter: list[Transfer] | None = None
        self._additions: list[BoundCall] = []
        self._gather: list[Transfer] | None = None

    def reduce_scatter(self) -> None:
        """Send each peer its segments of our parts, and sum all parts of our own."""
        if self._scatter is None:
            self._scatter = self._bind_scatter()
        began = time.perf_counter()
        self._mesh.run(self._scatter)
        for function, arguments in self._additions:
            function(*arguments)
        self.seconds += time.perf_counter() - began

    def all_gather(self) -> None:
        """Send our segments to all peers, and receive theirs."""
        if self._gather is None:
            self._gather = self._bind_gather()
        began = time.perf_counter()
        self._mesh.run(self._gather)
        self.seconds += time.perf_counter() - began

    def _bind_scatter(self) -> list[Transfer]:
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
        for total, received in zip(self.totals, by_shard, strict=True):
            in_order = [received[k] for k in range(shards.n_shards)]
            self._additions += sum_calls(in_order, total)
        return transfers

    def _bind_gather(self) -> list[Transfer]:
        flat = self._flat
        ours = [flat[segment] for segment in self.segments]
        return [
            Transfer(
                connection,
                ours,
                [flat[s] for s in self._shards.segments_of(peer, flat.size)],
            )
            for peer, connection in self._mesh.connections.items()
        ]


class SocketCommunicator(MeshCommunicator):
    """How a rank reaches ranks in other processes, over one connection to each."""

    @staticmethod
    def partners(rank: int, shards: Shards) -> set[int]:
        """The ranks that a rank needs connections to."""
        return set(range(shards.n_ranks)) - {rank}

    def exchange(self, parts: Sequence[Array], flat: Array) -> Exchange:
        """Bind a step's two collectives to their buffers."""
        check_buffers(parts, flat, len(self.own_shards))
        return SocketExchange(self._mesh, self.rank, self.shards, parts, flat)

    def all_reduce(self, table: Array) -> Array:
        """Receive the rows of the others, and sum all in shard order."""
        check_table(table, self.shards.n_shards)
        ours = [table[k] for k in self.own_shards]
        self._mesh.run(
            [
                Transfer(
                    connection, ours, [table[k] for k in self.shards.held_by(peer)]
                )
                for peer, connection in self._mesh.connections.items()
            ]
        )
        return sum_table(table, row_additions(self.shards.n_shards))


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
    `skmlp.comm.rendezvous.meet`.
    """
    if len(addresses) != shards.n_ranks:
        raise ValueError(
            f"{shards.n_ranks} ranks need as many addresses, not {len(addresses)}"
        )
    if kind is None:
        many = is_tree(shards.n_shards)
        kind = HalvingCommunicator if many else SocketCommunicator
    sockets = meet(
        listener,
        addresses,
        secret,
        Hello(run, generation, rank, fingerprint),
        limit,
        ssl_contexts,
        partners=kind.partners(rank, shards),
    )
    return kind(
        rank,
        shards,
        sockets,
        step_limit=limit if step_limit is None else step_limit,
        addresses=addresses,
    )
