"""How ranks in different processes find each other: a full mesh of TCP connections.

Every rank has a `Listener`, made before the addresses are told to anybody. Higher ranks
dial lower ones. One loop over non-blocking sockets serves all connections on their way,
so that a silent or slow stranger costs a descriptor for a few seconds, and delays
nobody.

A rank that can't be dialed, since something between the two lets nobody through, may be
reached by a *detour*: connections made for the meeting by somebody else. On both ends
they come in by `Listener.deliver`, and go through the same handshake.
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
from collections.abc import Callable, Iterator, Sequence
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
)
from skmlp.comm.listener import NOWHERE, Address, Listener, name_of, prepare
from skmlp.comm.nonblocking import converse, unblocked
from skmlp.comm.ways import RETRY, Call, Detour, Talk, give_turn, take_turn

logger = logging.getLogger(__name__)

#: The TLS contexts of the accepting and of the dialing side.
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

#: Seconds that a stranger has for its handshake.
STRANGER_LIMIT = 10.0
#: Strangers served at once; one more, and the oldest has to go.
MOST_STRANGERS = 128
#: Refusals of one meeting that are logged as warnings; more are only counted.
MOST_WARNINGS = 10
#: Attempts that may find no listener. The listeners are there before the addresses are
#: told, so that rank's process is gone; but where a backlog overflows it looks alike.
MOST_ABSENT = 5
#: Where there is a detour: seconds for a host to take a connection at all, and failures
#: of connections that it took, before the detour is tried.
DIRECT_LIMIT = 5.0
MOST_FAILED = 5


class _Meeting:
    """The way from addresses to links; for the parameters see `meet`."""

    def __init__(
        self,
        listener: Listener,
        addresses: Sequence[Address],
        secret: Secret,
        hello: Hello,
        limit: float,
        contexts: Contexts | None,
        detour: Detour | None,
    ) -> None:
        self._listener = listener
        self._addresses = addresses
        self._secret = secret
        self._hello = hello
        callers = range(hello.rank + 1, len(addresses))
        self._expected = Expected(
            hello.run, hello.generation, hello.fingerprint, callers
        )
        self._limit = limit
        self._deadline = time.monotonic() + limit
        self._contexts = contexts
        self._detour = detour
        self._missing = {*range(hello.rank), *callers}
        self._calls = {
            rank: Call(around=addresses[rank] == NOWHERE) for rank in range(hello.rank)
        }
        self._talks: dict[Talk, None] = {}  # in the order of their beginning
        self._links: dict[int, socket.socket] = {}
        self._n_refused = 0
        self._last_refusal = ""
        self._selector = selectors.DefaultSelector()

    def run(self) -> dict[int, socket.socket]:
        """Meet the other ranks; leave no other socket behind, whatever happens."""
        try:
            if self._listener.socket is not None:
                accept = partial(self._accept, self._listener.socket)
                self._serve(self._listener.socket.fileno(), accept)
            self._serve(self._listener.bell.fileno(), self._take_deliveries)
            while self._missing:
                self._listener.check(self._hello.generation)
                now = time.monotonic()
                if now >= self._deadline:
                    raise PeerLost(self._who_is_missing())
                for talk in [t for t in self._talks if t.deadline <= now]:
                    self._drop(talk, PeerLost(talk.late))
                for rank, call in list(self._calls.items()):
                    if call.when <= now:
                        call.when = math.inf
                        self._dial(rank)
                for key, _ in self._selector.select(self._next_event() - now):
                    key.data()
            links, self._links = self._links, {}
            return links
        finally:
            self._selector.close()
            for sock in (*(t.sock for t in self._talks), *self._links.values()):
                sock.close()
            if self._n_refused > MOST_WARNINGS:
                logger.warning("%d connections were refused", self._n_refused)

    def _next_event(self) -> float:
        """When there is something to do although no socket is ready."""
        times = [self._deadline, *(call.when for call in self._calls.values())]
        times += [talk.deadline for talk in self._talks]
        return min(times)

    def _serve(self, descriptor: int, function: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, function)

    def _name(self, rank: int) -> str:
        return f"rank {rank} at {name_of(self._addresses[rank])}"

    def _who_is_missing(self) -> str:
        names = [
            f"{self._name(rank)}: "
            + (self._calls[rank].trouble if rank in self._calls else "it did not call")
            for rank in sorted(self._missing)
        ]
        text = f"rank {self._hello.rank} waited {self._limit:g} s for "
        text += "; ".join(names)
        if self._n_refused:
            text += f" ({self._n_refused} refused, the last one: {self._last_refusal})"
        return text

    def _dial(self, rank: int) -> None:
        """Start to dial `rank`, or to reach it by the detour."""
        if self._calls[rank].around:
            if self._detour is None:
                raise PeerLost(f"rank {rank} has no port, and there is no detour")
            self._detour(rank)
            return
        host, port = self._addresses[rank]
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )[0]
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            self._redial(rank, error)
            return
        sock.setblocking(False)
        deadline = self._deadline
        if self._detour:
            deadline = min(deadline, time.monotonic() + DIRECT_LIMIT)
        talk = Talk(sock, self._name(rank), rank, deadline)
        self._begin(talk, self._call(talk, rank, where))

    def _take_deliveries(self) -> None:
        """Take the connections that came by the detour."""
        for rank, thing in self._listener.deliveries():
            waited_for = rank in self._calls and self._calls[rank].around
            if isinstance(thing, OSError):
                if rank is not None and waited_for:
                    self._redial(rank, thing)
            elif rank is None:
                self._welcome(thing, "the detour", around=True)
            elif not waited_for:
                thing.close()
            else:
                thing.setblocking(False)
                name = f"{self._name(rank)}, by the detour"
                talk = Talk(thing, name, rank, self._deadline, connected=True)
                self._begin(talk, self._call_around(talk, rank))

    def _accept(self, listening: socket.socket) -> None:
        """Take one connection that the system has accepted."""
        try:
            sock, where = listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise CommError(
                    f"no more connections can be accepted: {error}"
                ) from error
            return  # it was gone before it could be taken
        self._welcome(sock, name_of(where))

    def _welcome(self, sock: socket.socket, name: str, around: bool = False) -> None:
        """Begin to talk to a stranger."""
        sock.setblocking(False)
        strangers = [talk for talk in self._talks if talk.rank is None]
        if len(strangers) >= MOST_STRANGERS:
            self._drop(strangers[0], PeerLost("too many connections at once"))
        deadline = min(self._deadline, time.monotonic() + STRANGER_LIMIT)
        talk = Talk(sock, name, None, deadline, connected=True)
        self._begin(talk, self._answer(talk, around))

    def _begin(self, talk: Talk, steps: Iterator[int]) -> None:
        self._talks[talk] = None
        talk.steps = steps
        self._serve(talk.descriptor, partial(self._advance, talk))
        self._advance(talk)

    def _advance(self, talk: Talk) -> None:
        """Go on with `talk` until it waits again."""
        if talk not in self._talks:
            return  # dropped while its event was on the way
        try:
            event = next(talk.steps, None)
        except (CommError, OSError) as error:
            self._drop(talk, error)
            return
        if event is not None and event != talk.event:
            serve = partial(self._advance, talk)
            self._selector.modify(talk.descriptor, event, serve)
            talk.event = event

    def _forget(self, talk: Talk) -> None:
        """Take `talk` out of the loop; its socket stays open."""
        del self._talks[talk]
        self._selector.unregister(talk.descriptor)

    def _drop(self, talk: Talk, error: Exception) -> None:
        """End `talk`, for which `error` is the reason."""
        self._forget(talk)
        talk.sock.close()
        if talk.rank is not None:
            self._redial(talk.rank, error, talk.connected)
            return
        level = logging.DEBUG
        if not isinstance(error, TooEarly):
            self._n_refused += 1
            self._last_refusal = f"{talk.name}: {error}"
            if self._n_refused <= MOST_WARNINGS:
                level = logging.WARNING
        logger.log(level, "refused a connection from %s: %s", talk.name, error)

    def _redial(self, rank: int, error: Exception, connected: bool = False) -> None:
        """Plan the next attempt to reach `rank`, unless `error` is final."""
        call = self._calls[rank]
        call.trouble = str(error)
        forged = isinstance(error, ssl.SSLCertVerificationError)
        early = isinstance(error, TooEarly)
        if forged or (isinstance(error, Refused) and not early):
            raise Refused(f"{self._name(rank)}: {error}") from error
        call.n_failed += not early
        if self._detour is None or call.around:
            absent = OSError if call.around else ConnectionRefusedError
            call.n_absent += isinstance(error, absent)
        elif not early and (not connected or call.n_failed >= MOST_FAILED):
            logger.warning(
                "rank %d can't reach %s directly (%s): it takes the detour, which may "
                "be slower; let the hosts of the ranks connect to all ports of each "
                "other",
                self._hello.rank,
                self._name(rank),
                error,
            )
            call.around, call.when = True, 0.0
            return
        if call.n_absent >= MOST_ABSENT:
            raise PeerLost(f"{self._name(rank)} is gone: {error}") from error
        call.when = time.monotonic() + call.pause
        call.pause = min(2 * call.pause, RETRY[1])

    def _keep(self, talk: Talk, rank: int) -> None:
        """Make the connection of `talk` the link to `rank`."""
        prepare(talk.sock)
        self._forget(talk)
        # A rank dials again only if its first connection came to nothing.
        if rank in self._links:
            self._links[rank].close()
        self._links[rank] = talk.sock
        self._missing.discard(rank)
        self._calls.pop(rank, None)

    # -- what happens on a connection: generators of events to wait for ----------------

    def _call(self, talk: Talk, rank: int, where: Any) -> Iterator[int]:
        """Dial, and show who we are."""
        code = talk.sock.connect_ex(where)
        if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            yield selectors.EVENT_WRITE
            code = talk.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if talk.sock.getsockname() == talk.sock.getpeername():
            # On a port that nobody listens on, TCP lets a dialer reach itself.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
        # From here on it takes as long as that rank takes to come to the meeting.
        talk.connected, talk.deadline = True, self._deadline
        if self._contexts:
            context = self._contexts[1]
            host = self._addresses[rank][0] if context.check_hostname else None
            talk.sock = secured = context.wrap_socket(
                talk.sock, do_handshake_on_connect=False, server_hostname=host
            )
            yield from unblocked(selectors.EVENT_READ, secured.do_handshake)
        yield from converse(talk.sock, dialer(self._secret, self._hello))
        self._keep(talk, rank)

    def _call_around(self, talk: Talk, rank: int) -> Iterator[int]:
        """Show who we are to a rank that was reached by the detour."""
        yield from converse(talk.sock, take_turn())
        yield from converse(talk.sock, dialer(self._secret, self._hello))
        self._keep(talk, rank)

    def _answer(self, talk: Talk, around: bool) -> Iterator[int]:
        """Find out who calls."""
        if around:
            yield from converse(talk.sock, give_turn())
        elif self._contexts:
            talk.sock = secured = self._contexts[0].wrap_socket(
                talk.sock, server_side=True, do_handshake_on_connect=False
            )
            yield from unblocked(selectors.EVENT_READ, secured.do_handshake)
        hello = yield from converse(talk.sock, acceptor(self._secret, self._expected))
        self._keep(talk, hello.rank)


def meet(
    listener: Listener,
    addresses: Sequence[Address],
    secret: Secret,
    hello: Hello,
    limit: float,
    contexts: Contexts | None = None,
    detour: Detour | None = None,
) -> dict[int, socket.socket]:
    """Connect this rank with all others.

    Bad connections are refused and logged; they neither fail nor delay the meeting.

    Parameters
    ----------
    listener : Listener
        This rank's.
    addresses : sequence of (str, int)
        The listeners' addresses, by rank.
    secret : Secret
        The fit's.
    hello : Hello
        Who this rank is; the others must show the same but for the rank.
    limit : float
        Seconds for all of it.
    contexts : tuple of (SSLContext, SSLContext), optional
        For TLS: of the accepting and of the dialing side. Connections by the detour
        have none of their own.
    detour : callable, optional
        Another way to a rank, taken when its host lets nobody through: within moments
        if it says so, else after `DIRECT_LIMIT`.

    Returns
    -------
    dict of int to socket
        By rank; non-blocking, without Nagle's delay, with keep-alive.

    Raises
    ------
    PeerLost
        Ranks are missing at the limit, or nobody listens at an address any more. The
        message names them.
    Refused
        This rank was turned down for good, or an address belongs to somebody else.
    Aborted
        `Listener.abort` was called for this generation or a later one.
    """
    return _Meeting(listener, addresses, secret, hello, limit, contexts, detour).run()
