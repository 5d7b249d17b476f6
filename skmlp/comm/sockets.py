"""The communicator of ranks in different processes or hosts: plain sockets, or TLS.

A step's two movements between two processes of one host (320 B, 320 kB, 4 MB) take
0.08, 0.21 and 3.4 ms, and 0.21, 1.1 and 12 ms over TLS; gloo's all-reduce takes 0.69,
0.73 and 3.4 ms.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from skmlp.comm import shared
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
        #: Segments in the memory of others, and where they go.
        self._copies: list[tuple[Array, Array]] = []

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
        for target, source in self._copies:
            np.copyto(target, source)
        self.seconds += time.perf_counter() - began

    def _bind_sum(self) -> list[Lane]:
        comm, parts = self._comm, self._parts
        size, dtype = self._flat.size, self._flat.dtype
        shown = comm.show(parts, size, dtype, by_shard=True)
        # by_shard[i][k]: shard k's part of segments[i]: ours, a peer's where it is, or
        # received.
        by_shard: list[dict[int, Array]] = [
            {k: p[segment] for k, p in zip(comm.own_shards, parts, strict=True)}
            for segment in self.segments
        ]
        lanes = []
        for peer, link in comm.links.items():
            theirs = comm.shards.held_by(peer)
            seen = shown.get(peer)
            out: list[Array] = []
            into: list[Array] = []
            if seen is None:
                wanted = comm.segments(peer, size)
                out = [part[segment] for segment in wanted for part in parts]
            for segment, total, received in zip(
                self.segments, self.totals, by_shard, strict=True
            ):
                for i, k in enumerate(theirs):
                    if seen is not None:
                        received[k] = seen[i][segment]
                    else:
                        received[k] = np.empty_like(total)
                        into.append(received[k])
            lanes.append(Lane(link, out, into))
        for total, received in zip(self.totals, by_shard, strict=True):
            in_order = [received[k] for k in range(comm.shards.n_shards)]
            self._calls += sum_calls(in_order, total)
        return lanes

    def _bind_gather(self) -> list[Lane]:
        comm, flat = self._comm, self._flat
        shown = comm.show([flat], flat.size, flat.dtype, by_shard=False)
        lanes = []
        for peer, link in comm.links.items():
            theirs = comm.segments(peer, flat.size)
            if peer in shown:
                (seen,) = shown[peer]
                self._copies += [(flat[segment], seen[segment]) for segment in theirs]
                lanes.append(Lane(link, [], []))
            else:
                ours = [flat[segment] for segment in self.segments]
                lanes.append(Lane(link, ours, [flat[segment] for segment in theirs]))
        return lanes


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
        self._plain = not any(link.until_blocked for link in links.values())
        self._files: list[shared.File] = []
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

    def array(self, size: int, dtype: np.dtype[Any]) -> Array:
        """Zeros that peers of the same host can read where they are, if they are many.

        Not with TLS: there everything goes by the encrypted connections.
        """
        dtype = np.dtype(dtype)
        if not self._plain or size * dtype.itemsize < shared.LEAST:
            return np.zeros(size, dtype)
        file = shared.File(size, dtype)
        self._files.append(file)
        return file.array

    def show(
        self,
        arrays: Sequence[Array],
        size: int,
        dtype: np.dtype[Any],
        *,
        by_shard: bool,
    ) -> dict[int, list[Array]]:
        """Have the peers look at arrays of this rank, and look at theirs.

        All ranks call it for the same arrays. It moves nothing unless these come from
        `array`.

        Parameters
        ----------
        arrays : sequence of ndarray of shape (size,)
            This rank's.
        size, dtype
            Of each array, here and there.
        by_shard : bool
            There is one for each shard of a rank; otherwise one for each rank.

        Returns
        -------
        dict from int to list of ndarray
            The arrays of those peers with which it works both ways.
        """
        known = {id(file.array): file for file in self._files}
        files = [known[id(array)] for array in arrays if id(array) in known]
        if len(files) < len(arrays):
            return {}
        ours = np.concatenate([file.offer for file in files])
        offers, seen = {}, {}
        for peer in self.links:
            n_arrays = len(self.shards.held_by(peer)) if by_shard else 1
            offers[peer] = np.zeros((n_arrays, shared.OFFER), np.int64)
        self._swap(dict.fromkeys(self.links, ours), offers)
        for peer, offer in offers.items():
            seen[peer] = [shared.look(one, size, dtype) for one in offer]
        here = {
            peer: np.array([all(one is not None for one in found)], np.int64)
            for peer, found in seen.items()
        }
        there = {peer: np.zeros(1, np.int64) for peer in self.links}
        self._swap(here, there)
        for file in files:
            file.close()
        return {
            peer: [one for one in found if one is not None]
            for peer, found in seen.items()
            if here[peer][0] and there[peer][0]
        }

    def _swap(self, out: Mapping[int, Array], into: Mapping[int, Array]) -> None:
        """Send an array to each peer, and receive one."""
        self.run([Lane(self.links[p], [out[p]], [into[p]]) for p in self.links])

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
        for file in self._files:
            file.close()
        self._files.clear()
