"""Moving numbers between ranks over connected sockets, all at once and without copies.

In one run of transfers, this rank sends a message to every peer and receives one from
each. The buffers are bound beforehand: the system reads from and writes to the arrays
themselves. A message is a header and its payload, raw numbers in the machine's byte
order::

    sequence number of the run, uint64 | bytes of the payload, uint64 | payload

Both ends know beforehand what the header must be; it shows at once when they have lost
step. Nothing that arrives decides how much is read, or where to.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import struct
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from skmlp.arrays import Array
from skmlp.comm.base import Aborted, CommError, Communicator, Exchange, PeerLost, Shards
from skmlp.comm.listener import Address, format_address
from skmlp.comm.ordered_sum import BoundCall, check_buffers

_HEADER = struct.Struct("!QQ")
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: Buffers handed to one system call; most systems take 1024.
_MAX_BUFFERS = 512
#: Seconds that one wait may last: the system counts milliseconds in 32 bits.
_MAX_WAIT_S = 86400.0

READ, WRITE = 1, 2

Views = list[memoryview]


class Connection:
    """The connection to one peer.

    `sock` is connected, plain or TLS, made fit by `skmlp.comm.listener.prepare`; `name`
    is the peer's rank and address, for messages.
    """

    def __init__(self, sock: socket.socket, name: str) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.name = name
        self.descriptor = sock.fileno()
        self.send: Callable[[Views], int] = self._send_one
        self.receive: Callable[[Views], int] = self._receive_one
        # TLS takes one buffer at a time, and may hold bytes that no poll reports: go on
        # until it blocks.
        self.until_blocked = isinstance(sock, ssl.SSLSocket)
        if not self.until_blocked and hasattr(sock, "recvmsg_into"):
            self.send = self._send_many
            self.receive = self._receive_many

    def _send_one(self, views: Views) -> int:
        return self.sock.send(views[0])

    def _receive_one(self, views: Views) -> int:
        return self.sock.recv_into(views[0])

    def _send_many(self, views: Views) -> int:
        return self.sock.sendmsg(views[:_MAX_BUFFERS])

    def _receive_many(self, views: Views) -> int:
        return self.sock.recvmsg_into(views[:_MAX_BUFFERS])[0]

    def shut_down(self) -> None:
        """End the connection, which wakes a thread that waits for it."""
        with contextlib.suppress(OSError):
            # Not the method of a TLS socket: it would first end the encryption, while
            # the other thread may be about to send.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


class Transfer:
    """A message to one peer and a message from it, bound to their arrays.

    `outgoing` and `incoming` are contiguous arrays of any dtype; empty ones are left
    out.
    """

    def __init__(
        self,
        connection: Connection,
        outgoing: Sequence[Array],
        incoming: Sequence[Array],
    ) -> None:
        self.connection = connection
        self._out_header = bytearray(_HEADER.size)
        self._in_header = bytearray(_HEADER.size)
        self._all_out = [memoryview(self._out_header), *_views(outgoing)]
        self._all_in = [memoryview(self._in_header), *_views(incoming)]
        self._out_bytes = sum(map(len, self._all_out)) - _HEADER.size
        self._in_bytes = sum(map(len, self._all_in)) - _HEADER.size
        self.out_left = self.in_left = 0
        self._send_event, self._receive_event = WRITE, READ
        self.moved = False
        self.deadline = math.inf

    def begin(self, number: int) -> None:
        """Start the run of this number, and send what can be sent at once."""
        self._number = number
        self.moved = True
        self._in, self.in_left = self._all_in, self._in_bytes + _HEADER.size
        _HEADER.pack_into(self._out_header, 0, number, self._out_bytes)
        self._out, self.out_left = self._all_out, self._out_bytes + _HEADER.size
        self._send()

    def work(self) -> bool:
        """Move what can be moved now; return whether more may move without waiting."""
        before = self.out_left + self.in_left
        if self.out_left:
            self._send()
        if self.in_left:
            self._receive()
        if self.out_left + self.in_left == before:
            return False
        self.moved = True
        return self.connection.until_blocked

    def events(self) -> int:
        """What the transfer waits for: `READ`, `WRITE` or both."""
        return (self._send_event if self.out_left else 0) | (
            self._receive_event if self.in_left else 0
        )

    def _send(self) -> None:
        """Send what the connection takes."""
        try:
            n_bytes = self.connection.send(self._out)
        except _WOULD_BLOCK as error:
            self._send_event = (
                READ if isinstance(error, ssl.SSLWantReadError) else WRITE
            )
            return
        except OSError as error:
            raise PeerLost(f"{self.connection.name} is lost: {error}") from error
        self._send_event = WRITE
        self.out_left -= n_bytes
        if self.out_left:
            self._out = _after(self._out, n_bytes)

    def _receive(self) -> None:
        """Receive what has arrived."""
        try:
            n_bytes = self.connection.receive(self._in)
        except _WOULD_BLOCK as error:
            self._receive_event = (
                WRITE if isinstance(error, ssl.SSLWantWriteError) else READ
            )
            return
        except OSError as error:
            raise PeerLost(f"{self.connection.name} is lost: {error}") from error
        if not n_bytes:
            raise PeerLost(f"{self.connection.name} is lost: it closed the connection")
        self._receive_event = READ
        headless = self.in_left > self._in_bytes
        self.in_left -= n_bytes
        if headless and self.in_left <= self._in_bytes:
            self._check_header()
        if self.in_left:
            self._in = _after(self._in, n_bytes)

    def _check_header(self) -> None:
        number, n_bytes = _HEADER.unpack(self._in_header)
        if (number, n_bytes) != (self._number, self._in_bytes):
            raise CommError(
                f"{self.connection.name} has lost step: it sent message {number} of "
                f"{n_bytes} bytes where message {self._number} of {self._in_bytes} "
                "bytes was due"
            )


class Mesh:
    """The connections of one rank to others, by rank.

    Within `limit` seconds at least one byte must move to or from each peer that a
    transfer waits for.
    """

    def __init__(self, connections: Mapping[int, Connection], limit: float) -> None:
        self.connections = dict(connections)
        self._limit = limit
        self._number = 0
        self._lock = threading.Lock()
        self._aborted: str | None = None
        self._failed: tuple[type[CommError], str] | None = None

    def run(self, transfers: Sequence[Transfer]) -> None:
        """Send and receive the messages of `transfers`, one for each peer.

        Raises
        ------
        Aborted
            `abort` was called.
        PeerLost
            A connection ended, or nothing moved on it within the limit.
        CommError
            The ranks have lost step; or an earlier run had failed.
        """
        self.check()
        self._number = number = self._number + 1
        try:
            for transfer in transfers:
                transfer.begin(number)
            ready = busy = list(transfers)
            while busy:
                again = [transfer for transfer in ready if transfer.work()]
                busy = [t for t in busy if t.out_left or t.in_left]
                ready = [transfer for transfer in again if transfer in busy]
                if busy and not ready:
                    ready = self._wait(busy)
        except CommError as error:
            self._failed = type(error), str(error)
            if self._aborted is not None:
                raise Aborted(self._aborted) from error
            raise
        except BaseException as error:  # Ctrl-C falls anywhere
            self._failed = CommError, f"an exchange was interrupted by {error!r}"
            raise

    def check(self) -> None:
        """Raise if the mesh has been aborted, has failed or is closed."""
        if self._aborted is not None:
            raise Aborted(self._aborted)
        if self._failed is not None:
            kind, reason = self._failed
            raise kind(reason)

    def _wait(self, busy: Sequence[Transfer]) -> list[Transfer]:
        """Wait until something can move; return the transfers where it can."""
        now = time.monotonic()
        for transfer in busy:
            if transfer.moved:
                transfer.moved = False
                transfer.deadline = now + self._limit
        late = [t.connection.name for t in busy if t.deadline <= now]
        if late:
            raise PeerLost(
                f"nothing came from, or went to, {', '.join(late)} "
                f"for {self._limit:g} s"
            )
        seconds = min(min(t.deadline for t in busy) - now, _MAX_WAIT_S)
        ready = wait({t.connection.descriptor: t.events() for t in busy}, seconds)
        return [t for t in busy if t.connection.descriptor in ready]

    def abort(self, reason: str) -> None:
        """Make the current and later runs raise `Aborted`. From any thread."""
        with self._lock:
            if self._aborted is None:
                self._aborted = reason
            for connection in self.connections.values():
                connection.shut_down()

    def close(self) -> None:
        """Close all connections; a second call does nothing."""
        with self._lock:
            if self._failed is None:
                self._failed = CommError, "the communicator is closed"
            for connection in self.connections.values():
                connection.sock.close()


def _views(arrays: Sequence[Array]) -> Views:
    """View the bytes of the arrays, without those that have none."""
    return [memoryview(array.data).cast("B") for array in arrays if array.size]


def _after(views: Views, n_bytes: int) -> Views:
    """Cut the first `n_bytes` off `views`."""
    for i, view in enumerate(views):
        if n_bytes < len(view):
            return [view[n_bytes:], *views[i + 1 :]]
        n_bytes -= len(view)
    return []


def _wait_by_poll(wanted: Mapping[int, int], seconds: float) -> set[int]:
    """Wait for events on descriptors; return those that are ready, or broken."""
    poll = select.poll()
    for descriptor, events in wanted.items():
        flags = select.POLLIN if events & READ else 0
        poll.register(descriptor, flags | (select.POLLOUT if events & WRITE else 0))
    # Polling 10 to 200 times before sleeping made no step faster on two cores.
    return {descriptor for descriptor, _ in poll.poll(math.ceil(seconds * 1000))}


def _wait_by_select(wanted: Mapping[int, int], seconds: float) -> set[int]:
    """Do the same where the system has no poll."""
    to_read = [d for d, events in wanted.items() if events & READ]
    to_write = [d for d, events in wanted.items() if events & WRITE]
    return set().union(*select.select(to_read, to_write, list(wanted), seconds))


wait = _wait_by_poll if hasattr(select, "poll") else _wait_by_select


#: The transfers of a stage of a collective, and what is added after them.
BoundStage = tuple[list[Transfer], list[BoundCall]]


class MeshExchange(Exchange):
    """A step's two collectives over a mesh; each is bound when it is first called."""

    def __init__(
        self,
        mesh: Mesh,
        rank: int,
        shards: Shards,
        parts: Sequence[Array],
        flat: Array,
    ) -> None:
        check_buffers(parts, flat, len(shards.held_by(rank)))
        self._mesh, self._rank, self._shards = mesh, rank, shards
        self._parts, self._flat = list(parts), flat
        self.segments = shards.segments_of(rank, flat.size)
        self.total = np.empty_like(flat)
        self.totals = [self.total[segment] for segment in self.segments]

    @property
    @abstractmethod
    def _scatter(self) -> list[BoundStage]:
        """The stages of the reduce-scatter."""

    @property
    @abstractmethod
    def _gather(self) -> list[BoundStage]:
        """The stages of the all-gather."""

    def reduce_scatter(self) -> None:
        """See `Exchange.reduce_scatter`."""
        self._run(self._scatter)

    def all_gather(self) -> None:
        """See `Exchange.all_gather`."""
        self._run(self._gather)

    def _run(self, stages: Sequence[BoundStage]) -> None:
        began = time.perf_counter()
        for transfers, additions in stages:
            self._mesh.run(transfers)
            for function, arguments in additions:
                function(*arguments)
        self.seconds += time.perf_counter() - began


class MeshCommunicator(Communicator):
    """How a rank reaches ranks in other processes: over a connection to each partner.

    `sockets`, by rank, are connected and made fit by `skmlp.comm.listener.prepare`; the
    communicator owns them from now on. A peer counts as lost after `step_limit` seconds
    without a byte from it, or to it: more than the ranks can be apart, by a step and by
    whatever one of them does alone between two steps. `addresses` are for messages.
    """

    #: The kind of exchange that ranks with these partners make.
    _exchange: type[MeshExchange]

    def __init__(
        self,
        rank: int,
        shards: Shards,
        sockets: Mapping[int, socket.socket],
        *,
        step_limit: float,
        addresses: Sequence[Address] | None = None,
    ) -> None:
        partners = self.partners(rank, shards)
        if set(sockets) != partners:
            raise ValueError(
                f"rank {rank} of {shards.n_ranks} needs a socket to each other rank "
                f"of {sorted(partners)}, and got those to {sorted(sockets)}"
            )
        self.rank, self.shards = rank, shards
        connections = {}
        for peer, sock in sorted(sockets.items()):
            where = f" at {format_address(addresses[peer])}" if addresses else ""
            connections[peer] = Connection(sock, f"rank {peer}{where}")
        self._mesh = Mesh(connections, step_limit)

    @staticmethod
    @abstractmethod
    def partners(rank: int, shards: Shards) -> set[int]:
        """The ranks that a rank needs connections to."""

    def exchange(self, parts: Sequence[Array], flat: Array) -> Exchange:
        """Bind a step's two collectives to their buffers."""
        return self._exchange(self._mesh, self.rank, self.shards, parts, flat)

    def abort(self, reason: str) -> None:
        """Make this rank's verbs raise `Aborted`.

        Its partners see it as lost: in this collective, or in the next one if this rank
        had already sent its part.
        """
        self._mesh.abort(reason)

    def close(self) -> None:
        """Close the connections; the listener stays. To wake a verb, abort first."""
        self._mesh.close()
