"""Protocols of fixed-length frames, apart from the sockets that they run on.

A protocol is a generator: it yields ``bytes`` to send, or an ``int``, the count of
bytes to read, which it is sent next.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from skmlp.comm.base import PeerLost

R = TypeVar("R")
T = TypeVar("T")
Protocol = Generator["bytes | int", bytes, T]


def converse(sock: socket.socket, protocol: Protocol[T]) -> Generator[int, None, T]:
    """Run `protocol` on a non-blocking socket, plain or TLS.

    Yields the event, ``selectors.EVENT_READ`` or ``EVENT_WRITE``, that the socket must
    be ready for before the generator is resumed; returns the protocol's result.

    Raises
    ------
    PeerLost
        The connection was closed.
    OSError
        It broke.
    """
    try:
        wish = next(protocol)
        while True:
            if isinstance(wish, int):
                data = b""
                while len(data) < wish:
                    more = yield from unblocked(
                        selectors.EVENT_READ, sock.recv, wish - len(data)
                    )
                    if not more:
                        raise PeerLost("the connection was closed in the handshake")
                    data += more
                wish = protocol.send(data)
            else:
                while wish:
                    sent = yield from unblocked(selectors.EVENT_WRITE, sock.send, wish)
                    wish = wish[sent:]
                wish = next(protocol)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        protocol.close()


def unblocked(
    event: int, function: Callable[..., R], *arguments: object
) -> Generator[int, None, R]:
    """Call a socket's function until it does not block, yielding what it waits for:
    `event`, unless TLS knows better.
    """
    while True:
        try:
            return function(*arguments)
        except ssl.SSLWantReadError:
            yield selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            yield selectors.EVENT_WRITE
        except BlockingIOError:
            yield event


def run_protocol(sock: socket.socket, protocol: Protocol[T], limit: float) -> T:
    """Run `protocol` on a connected socket, within `limit` seconds."""
    deadline = time.monotonic() + limit
    before = sock.gettimeout()
    sock.setblocking(False)
    conversation = converse(sock, protocol)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            while True:
                selector.modify(sock, next(conversation))
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise PeerLost(f"the handshake took longer than {limit:g} s")
    except StopIteration as done:
        result: T = done.value
        return result
    except OSError as error:
        raise PeerLost(f"the connection broke in the handshake: {error}") from error
    finally:
        conversation.close()
        sock.settimeout(before)
