"""How ranks in different processes find each other: a full mesh of TCP connections.

Every rank has a `Listener`, made before the addresses are told to anybody and kept for
the whole fit. Higher ranks dial lower ones. One loop over non-blocking sockets serves
all connections on their way, so that a silent or slow stranger costs a descriptor for
a few seconds and delays nobody.
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
)
from skmlp.comm.listener import Address, Listener, name_of, prepare
from skmlp.comm.nonblocking import converse, unblocked

logger = logging.getLogger(__name__)

#: The TLS contexts of the accepting and of the dialing side.
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

#: Seconds that a stranger has for its handshake.
STRANGER_LIMIT = 10.0
#: Strangers served at once; one more, and the oldest has to go.
MOST_STRANGERS = 128
#: Refusals of one meeting that are logged as warnings; more are only counted.
MOST_WARNINGS = 10
#: Seconds between two attempts to dial: at first, and at most.
RETRY = (0.05, 0.5)
#: Attempts that may find no listener. The listeners are there before the addresses are
#: told, so that rank's process is gone; but where a backlog overflows it looks alike.
MOST_ABSENT = 5


@dataclass(eq=False)
class _Talk:
    """A connection on its way to becoming a link.

    `rank` is the one that was dialed, or None if a stranger called. `steps` yields the
    event that the talk waits for, `event` is what the selector was told last.
    """

    sock: socket.socket
    name: str
    rank: int | None
    deadline: float
    event: int = selectors.EVENT_READ
    steps: Iterator[int] = field(default_factory=lambda: iter(()))

    def __post_init__(self) -> None:
        # TLS replaces the socket object, a failing one closes it: the number stays.
        self.descriptor = self.sock.fileno()


@dataclass
class _Call:
    """What is known of the attempts to dial a rank; `when` is the time of the next."""

    when: float = 0.0
    pause: float = RETRY[0]
    n_absent: int = 0
    trouble: str = "it does not answer"


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
        self._missing = {*range(hello.rank), *callers}
        self._calls = {rank: _Call() for rank in range(hello.rank)}
        self._talks: dict[_Talk, None] = {}  # in the order of their beginning
        self._links: dict[int, socket.socket] = {}
        self._n_refused = 0
        self._last_refusal = ""
        self._selector = selectors.DefaultSelector()

    def run(self) -> dict[int, socket.socket]:
        """Meet the other ranks; leave no other socket behind, whatever happens."""
        try:
            self._serve(self._listener.socket.fileno(), self._accept)
            self._serve(self._listener.bell.fileno(), self._listener.hush)
            while self._missing:
                self._listener.check(self._hello.generation)
                now = time.monotonic()
                if now >= self._deadline:
                    raise PeerLost(self._who_is_missing())
                for talk in [t for t in self._talks if t.deadline <= now]:
                    self._drop(talk, PeerLost("its time for the handshake is over"))
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
        times = [call.when for call in self._calls.values()]
        times += [talk.deadline for talk in self._talks]
        return min(times, default=self._deadline)

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
        """Start to dial `rank`."""
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
        talk = _Talk(sock, self._name(rank), rank, self._deadline)
        self._begin(talk, self._call(talk, rank, where))

    def _accept(self) -> None:
        """Take one connection that the system has accepted."""
        try:
            sock, where = self._listener.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise CommError(
                    f"no more connections can be accepted: {error}"
                ) from error
            return  # it was gone before it could be taken
        sock.setblocking(False)
        strangers = [talk for talk in self._talks if talk.rank is None]
        if len(strangers) >= MOST_STRANGERS:
            self._drop(strangers[0], PeerLost("too many connections at once"))
        deadline = min(self._deadline, time.monotonic() + STRANGER_LIMIT)
        talk = _Talk(sock, name_of(where), None, deadline)
        self._begin(talk, self._answer(talk))

    def _begin(self, talk: _Talk, steps: Iterator[int]) -> None:
        self._talks[talk] = None
        talk.steps = steps
        self._serve(talk.descriptor, partial(self._advance, talk))
        self._advance(talk)

    def _advance(self, talk: _Talk) -> None:
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

    def _forget(self, talk: _Talk) -> None:
        """Take `talk` out of the loop; its socket stays open."""
        del self._talks[talk]
        self._selector.unregister(talk.descriptor)

    def _drop(self, talk: _Talk, error: Exception) -> None:
        """End `talk`, for which `error` is the reason."""
        self._forget(talk)
        talk.sock.close()
        if talk.rank is not None:
            self._redial(talk.rank, error)
            return
        level = logging.DEBUG
        if not isinstance(error, TooEarly):
            self._n_refused += 1
            self._last_refusal = f"{talk.name}: {error}"
            if self._n_refused <= MOST_WARNINGS:
                level = logging.WARNING
        logger.log(level, "refused a connection from %s: %s", talk.name, error)

    def _redial(self, rank: int, error: Exception) -> None:
        """Plan the next attempt to dial `rank`, unless `error` is final."""
        call = self._calls[rank]
        call.trouble = str(error)
        call.n_absent += isinstance(error, ConnectionRefusedError)
        forged = isinstance(error, ssl.SSLCertVerificationError)
        if forged or (isinstance(error, Refused) and not isinstance(error, TooEarly)):
            raise Refused(f"{self._name(rank)}: {error}") from error
        if call.n_absent >= MOST_ABSENT:
            raise PeerLost(f"{self._name(rank)} is gone: {error}") from error
        call.when = time.monotonic() + call.pause
        call.pause = min(2 * call.pause, RETRY[1])

    def _keep(self, talk: _Talk, rank: int) -> None:
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

    def _call(self, talk: _Talk, rank: int, where: Any) -> Iterator[int]:
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
        if self._contexts:
            context = self._contexts[1]
            host = self._addresses[rank][0] if context.check_hostname else None
            talk.sock = secured = context.wrap_socket(
                talk.sock, do_handshake_on_connect=False, server_hostname=host
            )
            yield from unblocked(selectors.EVENT_READ, secured.do_handshake)
        yield from converse(talk.sock, dialer(self._secret, self._hello))
        self._keep(talk, rank)

    def _answer(self, talk: _Talk) -> Iterator[int]:
        """Find out who calls."""
        if self._contexts:
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
        For TLS: of the accepting and of the dialing side.

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
    return _Meeting(listener, addresses, secret, hello, limit, contexts).run()
