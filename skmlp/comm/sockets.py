"""The communicator of ranks in different processes or hosts: plain sockets, or TLS.

A step's two movements between two processes of one host (320 B, 320 kB, 4 MB) take
0.08, 0.21 and 3.4 ms, and 0.21, 1.1 and 12 ms over TLS; gloo's all-reduce takes 0.69,
0.73 and 3.4 ms.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from skmlp.comm.base import Array, Communicator, Exchange, Shards
from skmlp.comm.handshake import Hello, Secret
from skmlp.comm.listener import Address, Listener, name_of
from skmlp.comm.meeting import Contexts, meet
from skmlp.comm.mesh import Lane, Link, Mesh
from skmlp.comm.sums import Call, check_buffers, check_table, sum_calls, sum_table
from skmlp.comm.ways import Detour

__all__ = ["Listener", "SocketCommunicator"]

T = TypeVar("T")


class SocketExchange(Exchange):
    """A step's two movements: everybody's parts of my segments; my segments to all."""

    def __init__(
        self,
        segments: list[slice],
        totals: list[Array],
        scatter: Callable[[], None],
        calls: list[Call],
        gather: Callable[[], None],
    ) -> None:
        self.segments = segments
        self.totals = totals
        self._scatter = scatter
        self._calls = calls
        self._gather = gather

    def sum(self) -> None:
        """Hand each peer its segments of our parts, and sum all parts of our own."""
        began = time.perf_counter()
        self._scatter()
        for function, arguments in self._calls:
            function(*arguments)
        self.seconds += time.perf_counter() - began

    def gather(self) -> None:
        """Send our segments to all peers, and receive theirs."""
        began = time.perf_counter()
        self._gather()
        self.seconds += time.perf_counter() - began


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
            where = f" at {name_of(addresses[peer])}" if addresses else ""
            links[peer] = Link(sock, f"rank {peer}{where}")
        self._mesh = Mesh(links, step_limit)
        self._table: Array | None = None
        self._table_lanes: list[Lane] = []

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
        detour: Detour | None = None,
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
        detour : callable, optional
            Another way to ranks that can't be dialed; see `skmlp.comm.meeting.meet`.

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
        sockets = meet(listener, addresses, secret, hello, limit, ssl_contexts, detour)
        return cls(
            rank,
            shards,
            sockets,
            step_limit=limit if step_limit is None else step_limit,
            addresses=addresses,
        )

    def exchange(self, parts: Sequence[Array], flat: Array) -> Exchange:
        """Bind a step's two movements to their buffers."""
        own = self.own_shards
        check_buffers(parts, flat, len(own))
        segments = [self.shards.segment(k, flat.size) for k in own]
        totals = [np.empty(s.stop - s.start, flat.dtype) for s in segments]
        # by_shard[i][k]: shard k's part of segments[i], whether our own or received.
        by_shard: list[list[Array]] = []
        for segment, total in zip(segments, totals, strict=True):
            ours = {k: part[segment] for k, part in zip(own, parts, strict=True)}
            by_shard.append(
                [
                    ours[k] if k in ours else np.empty_like(total)
                    for k in range(self.shards.n_shards)
                ]
            )
        scatter, gather = [], []
        for peer, link in self._mesh.links.items():
            theirs = self.shards.held_by(peer)
            their_segments = [self.shards.segment(k, flat.size) for k in theirs]
            scatter.append(
                Lane(
                    link,
                    [part[segment] for segment in their_segments for part in parts],
                    [received[k] for received in by_shard for k in theirs],
                )
            )
            gather.append(
                Lane(
                    link,
                    [flat[segment] for segment in segments],
                    [flat[segment] for segment in their_segments],
                )
            )
        calls: list[Call] = []
        for received, total in zip(by_shard, totals, strict=True):
            calls += sum_calls(received, total)
        run = self._mesh.run
        return SocketExchange(
            segments, totals, partial(run, scatter), calls, partial(run, gather)
        )

    def sum_rows(self, table: Array) -> Array:
        """Receive the rows of the others, and sum all in shard order."""
        check_table(table, self.shards.n_shards)
        if table is not self._table:
            self._table = table
            self._table_lanes = [
                Lane(
                    link,
                    [table[k] for k in self.own_shards],
                    [table[k] for k in self.shards.held_by(peer)],
                )
                for peer, link in self._mesh.links.items()
            ]
        self._mesh.run(self._table_lanes)
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
