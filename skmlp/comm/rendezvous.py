"""How ranks in different processes find each other: TCP connections.

Every rank has a `Listener`, made before its address is announced. Higher ranks dial
lower ones. One loop over non-blocking sockets serves all pending connections, so a
silent or slow stranger costs one descriptor for a few seconds and delays no rank.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from skmlp.comm.base import CommError, PeerLost
from skmlp.comm.handshake import (
    Expected,
    Hello,
    Refused,
    Secret,
    TooEarly,
    acceptor,
    dialer,
    drive,
    unblocked,
)
from skmlp.comm.listener import (
    Address,
    Listener,
    format_address,
    local_name,
    prepare,
)

logger = logging.getLogger(__name__)

#: The TLS contexts of the accepting and of the dialing side.
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

#: A stranger must finish its handshake within this time.
STRANGER_LIMIT_S = 10.0
#: At most this many strangers are served at once; one more, and the oldest is dropped.
MAX_STRANGERS = 128
#: Refusals of one rendezvous that are logged as warnings; further ones are counted.
MAX_WARNINGS = 10
#: A rank that refuses this many connections is gone. (Listeners exist before their
#: addresses are announced; but an overflowing backlog may refuse a connection too.)
MAX_REFUSALS = 5
#: A host that has accepted no connection for this time can't be reached. TCP repeats
#: its first packet after 1, 3 and 7 s.
CONNECT_LIMIT_S = 15.0
#: Pause between two attempts to dial: the first one, doubled up to the last one.
REDIAL_PAUSE_S = (0.05, 0.5)


class Unreachable(PeerLost):
    """A rank's host refused all connections, or did not answer."""


@dataclass(eq=False)
class _Pending:
    """A connection in its handshake.

    `rank` is the dialed rank, or None for an incoming connection. `steps` yields the
    event that the handshake waits for; the selector was told `event` last.
    """

    sock: socket.socket
    name: str
    rank: int | None
    deadline: float
    connected: bool
    event: int = selectors.EVENT_READ
    steps: Iterator[int] = field(default_factory=lambda: iter(()))

    def __post_init__(self) -> None:
        # TLS replaces the socket object, and a failure closes it: the number stays.
        self.descriptor = self.sock.fileno()

    def timed_out(self) -> PeerLost:
        if self.connected:
            return PeerLost("its time for the handshake is over")
        return Unreachable("its host does not answer")


@dataclass
class _Dialing:
    """The attempts to reach one rank. `when` is the time of the next attempt.

    `local`: the next one is by the UNIX socket of a rank on this host.
    """

    local: bool = False
    n_refusals: int = 0
    when: float = 0.0
    pause: float = REDIAL_PAUSE_S[0]
    reachable_until: float = math.inf
    trouble: str = "it does not answer"


class Rendezvous:
    """Connects a rank with its partners, by default all others, within `limit` s.

    The driver of a group takes part as rank -1, which all others dial, with addresses
    without a host. `between` is the limit from one arrival to the next.

    `addresses` are the listeners' ones, by rank; the other ranks must show `hello` too,
    but for the rank; with `contexts`, all connections are TLS. Strangers are refused
    and logged; they neither fail nor delay the rendezvous. The sockets, by rank, are
    ready for `skmlp.comm.mesh`.
    """

    def __init__(
        self,
        listener: Listener,
        addresses: Sequence[Address],
        secret: Secret,
        hello: Hello,
        limit: float,
        contexts: Contexts | None = None,
        between: float | None = None,
        partners: Collection[int] | None = None,
    ) -> None:
        self._listener = listener
        self._addresses = addresses
        self._secret = secret
        self._hello = hello
        if partners is None:
            partners = {*range(len(addresses))} - {hello.rank}
        callers = {rank for rank in partners if rank > hello.rank}
        self._expected = Expected(
            hello.run, hello.generation, hello.fingerprint, callers
        )
        self._limit, self._between = limit, between
        self._deadline = time.monotonic() + limit
        self._contexts = contexts
        self._missing = set(partners)
        local = listener.local is not None and contexts is None
        self._dialing = {
            rank: _Dialing(local and addresses[rank][0] == listener.address[0])
            for rank in sorted(self._missing - callers)
        }
        self._pending: dict[_Pending, None] = {}  # oldest first
        self._connections: dict[int, socket.socket] = {}
        self._n_refused = 0
        self._last_refusal = ""
        self._selector = selectors.DefaultSelector()

    def run(self) -> dict[int, socket.socket]:
        """Meet the other ranks; close every other socket, whatever happens.

        Raises
        ------
        PeerLost
            Ranks are missing at the limit; `Unreachable`: one of them can't be reached.
            The message names them.
        Refused
            This rank was turned down for good, or an address belongs to another
            process.
        Aborted
            `Listener.abort` was called for this generation or a later one.
        """
        try:
            for listening in (self._listener.socket, self._listener.local):
                if listening is not None:
                    self._serve(listening.fileno(), partial(self._accept, listening))
            self._serve(self._listener.wake_up.fileno(), self._listener.clear_wake_up)
            while self._missing:
                self._listener.check(self._hello.generation)
                now = time.monotonic()
                if now >= self._deadline:
                    raise PeerLost(self._describe_missing())
                for pending in [p for p in self._pending if p.deadline <= now]:
                    self._drop(pending, pending.timed_out())
                for rank, dialing in list(self._dialing.items()):
                    if dialing.when <= now:
                        dialing.when = math.inf
                        self._dial(rank)
                # A rank of this host may have answered at once.
                seconds = self._next_event() - now if self._missing else 0.0
                for key, _ in self._selector.select(seconds):
                    key.data()
            connections, self._connections = self._connections, {}
            return connections
        finally:
            self._selector.close()
            unused = (*(p.sock for p in self._pending), *self._connections.values())
            for sock in unused:
                sock.close()
            if self._n_refused > MAX_WARNINGS:
                logger.warning("%d connections were refused", self._n_refused)

    def _next_event(self) -> float:
        """The time of the next thing to do although no socket is ready."""
        times = [self._deadline, *(d.when for d in self._dialing.values())]
        return min([*times, *(pending.deadline for pending in self._pending)])

    def _serve(self, descriptor: int, function: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, function)

    def _name(self, rank: int) -> str:
        host, _ = address = self._addresses[rank]
        return f"rank {rank}" + (f" at {format_address(address)}" if host else "")

    def _describe_missing(self) -> str:
        names = [
            f"{self._name(rank)}: "
            + (
                self._dialing[rank].trouble
                if rank in self._dialing
                else "it did not call"
            )
            for rank in sorted(self._missing)
        ]
        rank = self._hello.rank
        text = "the driver" if rank < 0 else f"rank {rank}"
        text += f" waited {self._limit:g} s for {'; '.join(names)}"
        if self._n_refused:
            text += f" ({self._n_refused} refused, the last one: {self._last_refusal})"
        return text

    # -- connections begin and end -----------------------------------------------------

    def _dial(self, rank: int) -> None:
        """Start to connect to `rank`."""
        dialing = self._dialing[rank]
        dialing.reachable_until = min(
            dialing.reachable_until, time.monotonic() + CONNECT_LIMIT_S
        )
        host, port = self._addresses[rank]
        where: Any
        try:
            if dialing.local:
                where = local_name(self._hello.run, self._hello.generation, rank)
                sock = socket.socket(socket.AF_UNIX)
            else:
                family, kind, protocol, _, where = socket.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM
                )[0]
                sock = socket.socket(family, kind, protocol)
        except OSError as error:
            self._redial(rank, error, connected=False)
            return
        sock.setblocking(False)
        deadline = min(self._deadline, dialing.reachable_until)
        pending = _Pending(sock, self._name(rank), rank, deadline, connected=False)
        self._begin(pending, self._introduce(pending, rank, where))

    def _accept(self, listening: socket.socket) -> None:
        """Take one connection that the system has accepted."""
        try:
            sock, where = listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise CommError(
                    f"no more connections can be accepted: {error}"
                ) from error
            return  # the other end has closed it already
        sock.setblocking(False)
        strangers = [pending for pending in self._pending if pending.rank is None]
        if len(strangers) >= MAX_STRANGERS:
            self._drop(strangers[0], PeerLost("too many connections at once"))
        deadline = min(self._deadline, time.monotonic() + STRANGER_LIMIT_S)
        name = format_address(where)
        pending = _Pending(sock, name, None, deadline, connected=True)
        self._begin(pending, self._identify(pending))

    def _begin(self, pending: _Pending, steps: Iterator[int]) -> None:
        self._pending[pending] = None
        pending.steps = steps
        self._serve(pending.descriptor, partial(self._advance, pending))
        self._advance(pending)

    def _advance(self, pending: _Pending) -> None:
        """Continue a handshake until it waits again."""
        if pending not in self._pending:
            return  # dropped after the selector had reported its event
        try:
            event = next(pending.steps, None)
        except (CommError, OSError) as error:
            self._drop(pending, error)
            return
        if event is not None and event != pending.event:
            advance = partial(self._advance, pending)
            self._selector.modify(pending.descriptor, event, advance)
            pending.event = event

    def _forget(self, pending: _Pending) -> None:
        """Take a connection out of the loop; its socket stays open."""
        del self._pending[pending]
        self._selector.unregister(pending.descriptor)

    def _drop(self, pending: _Pending, error: Exception) -> None:
        """Close a pending connection because of `error`."""
        self._forget(pending)
        pending.sock.close()
        if pending.rank is not None:
            self._redial(pending.rank, error, pending.connected)
            return
        level = logging.DEBUG
        if not isinstance(error, TooEarly):
            self._n_refused += 1
            self._last_refusal = f"{pending.name}: {error}"
            if self._n_refused <= MAX_WARNINGS:
                level = logging.WARNING
        logger.log(level, "refused a connection from %s: %s", pending.name, error)

    def _redial(self, rank: int, error: Exception, connected: bool) -> None:
        """Plan the next attempt to reach `rank`, unless `error` is final."""
        dialing = self._dialing[rank]
        dialing.trouble = str(error)
        if dialing.local:  # its process may see other names, as in a container
            dialing.local, dialing.when = False, time.monotonic()
            return
        forged = isinstance(error, ssl.SSLCertVerificationError)
        early = isinstance(error, TooEarly)
        if forged or (isinstance(error, Refused) and not early):
            raise Refused(f"{self._name(rank)}: {error}") from error
        now = time.monotonic()
        if connected:
            dialing.reachable_until = math.inf
        dialing.n_refusals += isinstance(error, ConnectionRefusedError)
        if dialing.n_refusals >= MAX_REFUSALS or now >= dialing.reachable_until:
            raise Unreachable(
                f"{self._name(rank)} is gone, or can't be reached from rank "
                f"{self._hello.rank}: {error}"
            ) from error
        dialing.when = now + dialing.pause
        dialing.pause = min(2 * dialing.pause, REDIAL_PAUSE_S[1])

    def _keep(self, pending: _Pending, rank: int) -> None:
        """Make a pending connection the one to `rank`."""
        prepare(pending.sock)
        self._forget(pending)
        # A rank dials again only if its first connection came to nothing.
        if rank in self._connections:
            self._connections[rank].close()
        self._connections[rank] = pending.sock
        self._missing.discard(rank)
        self._dialing.pop(rank, None)
        if self._between is not None:
            self._limit = self._between
            self._deadline = time.monotonic() + self._between

    # -- handshakes: generators of events to wait for ----------------------------------

    def _introduce(self, pending: _Pending, rank: int, where: Any) -> Iterator[int]:
        """Connect to `rank`, and show what rank this is."""
        code = pending.sock.connect_ex(where)
        if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            yield selectors.EVENT_WRITE
            code = pending.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if pending.sock.getsockname() == pending.sock.getpeername():
            # TCP lets a dialer reach itself on a port without a listener.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "no process listens")
        # The rest takes as long as the other rank takes to come to the rendezvous.
        pending.connected, pending.deadline = True, self._deadline
        if self._contexts:
            context = self._contexts[1]
            host = self._addresses[rank][0] if context.check_hostname else None
            pending.sock = secured = context.wrap_socket(
                pending.sock, do_handshake_on_connect=False, server_hostname=host
            )
            yield from unblocked(selectors.EVENT_READ, secured.do_handshake)
        yield from drive(pending.sock, dialer(self._secret, self._hello))
        self._keep(pending, rank)

    def _identify(self, pending: _Pending) -> Iterator[int]:
        """Find out which rank has dialed this one."""
        if self._contexts:
            pending.sock = secured = self._contexts[0].wrap_socket(
                pending.sock, server_side=True, do_handshake_on_connect=False
            )
            yield from unblocked(selectors.EVENT_READ, secured.do_handshake)
        handshake = acceptor(self._secret, self._expected)
        hello = yield from drive(pending.sock, handshake)
        self._keep(pending, hello.rank)
