"""The communicator of ranks in different processes or hosts: plain sockets, or TLS.

A step's two movements between two processes of one host (320 B, 320 kB, 4 MB) take
0.08, 0.21 and 3.4 ms, and 0.21, 1.1 and 12 ms over TLS; gloo's all-reduce takes 0.69,
0.73 and 3.4 ms.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from skmlp.comm.base import Array, Communicator, Exchange, Shards
from skmlp.comm.handshake import Hello, Secret
from skmlp.comm.listener import Address, Listener, format_address
from skmlp.comm.mesh import Lane, Link, Mesh
from skmlp.comm.rendezvous import Contexts, meet
from skmlp.comm.sums import Call, check_buffers, check_table, sum_calls, sum_table

__all__ = ["Listener", "SocketCommunicator"]

T = TypeVar("T")

#: Tables whose messages stay bound; a fit has one or two that come again and again.
MAX_TABLES = 4


class SocketExchange(Exchange):
    """A step's two movements: everybody's parts of my segments; my segments to all.

    What makes a movement is bound when it is made first: some never are.

    Parameters
    ----------
    comm : SocketCommunicator
        The way to the others.
    parts, flat
        See `Communicator.exchange`.
    """

    def __init__(
        self, comm: SocketCommunicator, parts: Sequence[Array], flat: Array
    ) -> None:
        self._comm, self._parts, self._flat = comm, list(parts), flat
        self.segments = comm.segments(comm.rank, flat.size)
        self.totals = [np.empty(s.stop - s.start, flat.dtype) for s in self.segments]
        self._scatter: list[Lane] | None = None
        self._calls: list[Call] = []
        self._gather: list[Lane] | None = None

    def sum(self) -> None:
        """Hand each peer its segments of our parts, and sum all parts of our own."""
        if self._scatter is None:
            self._scatter = self._bind_sum()
        began = time.perf_counter()
        self._comm.run(self._scatter)
        for function, arguments in self._calls:
            function(*arguments)
        self.seconds += time.perf_counter() - began

    def gather(self) -> None:
        """Send our segments to all peers, and receive theirs."""
        if self._gather is None:
            self._gather = self._bind_gather()
        began = time.perf_counter()
        self._comm.run(self._gather)
        self.seconds += time.perf_counter() - began

    def _bind_sum(self) -> list[Lane]:
        comm, parts = self._comm, self._parts
        # by_shard[i][k]: shard k's part of segments[i], ours or received.
        by_shard: list[dict[int, Array]] = [
            {k: p[segment] for k, p in zip(comm.own_shards, parts, strict=True)}
            for segment in self.segments
        ]
        lanes = []
        for peer, link in comm.links.items():
            wanted = comm.segments(peer, self._flat.size)
            into: list[Array] = []
            for total, received in zip(self.totals, by_shard, strict=True):
                for k in comm.shards.held_by(peer):
                    received[k] = np.empty_like(total)
                    into.append(received[k])
            out = [part[segment] for segment in wanted for part in parts]
            lanes.append(Lane(link, out, into))
        for total, received in zip(self.totals, by_shard, strict=True):
            in_order = [received[k] for k in range(comm.shards.n_shards)]
            self._calls += sum_calls(in_order, total)
        return lanes

    def _bind_gather(self) -> list[Lane]:
        comm, flat = self._comm, self._flat
        ours = [flat[segment] for segment in self.segments]
        return [
            Lane(link, ours, [flat[s] for s in comm.segments(peer, flat.size)])
            for peer, link in comm.links.items()
        ]


class SocketCommunicator(Communicator):
    """How a rank talks to ranks in other processes, over one connection to each.

    Parameters
    ----------
    rank : int
        This rank.
    shards : Shards
        Which rank holds which shard.
    sockets : mapping of int to socket
        A connected stream socket for each other rank, whose other end is known to be
        that rank, made fit by `skmlp.comm.listener.prepare`. The communicator owns them
        from now on.
    step_limit : float
        Seconds without a byte from a peer, or to it, after which it counts as lost. It
        must be more than the ranks can be apart: the time of a step, and of whatever
        one of them does alone between two steps.
    addresses : sequence of (str, int), optional
        By rank, for messages.

    See Also
    --------
    SocketCommunicator.connect : From addresses to a communicator.
    """

    def __init__(
        self,
        rank: int,
        shards: Shards,
        sockets: Mapping[int, socket.socket],
        *,
        step_limit: float,
        addresses: Sequence[Address] | None = None,
    ) -> None:
        if set(sockets) != set(range(shards.n_ranks)) - {rank}:
            raise ValueError(
                f"rank {rank} of {shards.n_ranks} needs a socket to each other rank, "
                f"and got those to {sorted(sockets)}"
            )
        self.rank = rank
        self.shards = shards
        links = {}
        for peer, sock in sorted(sockets.items()):
            where = f" at {format_address(addresses[peer])}" if addresses else ""
            links[peer] = Link(sock, f"rank {peer}{where}")
        self._mesh = Mesh(links, step_limit)
        #: What moves messages, and the connections by rank.
        self.run, self.links = self._mesh.run, self._mesh.links
        #: The table is kept, so that no other one gets its identity.
        self._tables: dict[int, tuple[Array, list[Lane]]] = {}

    @classmethod
    def connect(
        cls,
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
    ) -> SocketCommunicator:
        """Meet the other ranks.

        Parameters
        ----------
        listener : Listener
            This rank's; it stays open.
        rank : int
            This rank.
        shards : Shards
            Which rank holds which shard.
        addresses : sequence of (str, int)
            The addresses of all ranks' listeners, by rank.
        secret : Secret
            The fit's.
        run : bytes
            16 bytes that name the fit.
        generation : int
            The count of the fit's restarts.
        fingerprint : bytes
            32 bytes, equal on ranks that compute the same bits.
        limit : float
            Seconds to meet.
        step_limit : float, optional
            Seconds without a byte from a peer after which it counts as lost; see the
            class. By default `limit`.
        ssl_contexts : tuple of (SSLContext, SSLContext), optional
            Of the accepting and the dialing side: talk TLS.

        Raises
        ------
        PeerLost
            Ranks are missing; the message names them.
        Refused
            This rank was turned down, or an address belongs to somebody else.
        Aborted
            `Listener.abort` was called for this generation.
        """
        if len(addresses) != shards.n_ranks:
            raise ValueError(
                f"{shards.n_ranks} ranks need as many addresses, not {len(addresses)}"
            )
        hello = Hello(run, generation, rank, fingerprint)
        sockets = meet(listener, addresses, secret, hello, limit, ssl_contexts)
        return cls(
            rank,
            shards,
            sockets,
            step_limit=limit if step_limit is None else step_limit,
            addresses=addresses,
        )

    def exchange(self, parts: Sequence[Array], flat: Array) -> Exchange:
        """Bind a step's two movements to their buffers."""
        check_buffers(parts, flat, len(self.own_shards))
        return SocketExchange(self, parts, flat)

    def segments(self, rank: int, size: int) -> list[slice]:
        """The segments of a rank in a flat array."""
        return [self.shards.segment(k, size) for k in self.shards.held_by(rank)]

    def sum_rows(self, table: Array) -> Array:
        """Receive the rows of the others, and sum all in shard order."""
        bound = self._tables.get(id(table))
        if bound is None:
            check_table(table, self.shards.n_shards)
            if len(self._tables) == MAX_TABLES:
                del self._tables[next(iter(self._tables))]
            ours = [table[k] for k in self.own_shards]
            lanes = [
                Lane(link, ours, [table[k] for k in self.shards.held_by(peer)])
                for peer, link in self.links.items()
            ]
            bound = self._tables[id(table)] = table, lanes
        self.run(bound[1])
        return sum_table(table)

    def once(self, function: Callable[[], T]) -> T:
        """Call `function`: this rank is the only one of its process."""
        self._mesh.check()
        return function()

    def abort(self, reason: str) -> None:
        """Make this rank's verbs raise `Aborted`.

        The others see it as lost: in this move, or in the next one if this rank had
        already sent its part.
        """
        self._mesh.abort(reason)

    def close(self) -> None:
        """Close the connections; the listener stays. To wake a verb, abort first."""
        self._mesh.close()
