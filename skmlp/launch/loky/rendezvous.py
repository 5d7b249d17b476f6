"""Where the driver of a group lets in who knows the group's secret."""

from __future__ import annotations

import contextlib
import logging
import secrets
import selectors
import socket
from collections.abc import Generator

from skmlp.comm.base import CommError
from skmlp.comm.handshake import Expected, Hello, Secret, acceptor, drive
from skmlp.comm.listener import format_address, prepare

logger = logging.getLogger(__name__)

#: Connections that may be in their handshake; one more, and the oldest is dropped.
MOST_STRANGERS = 128


class Door:
    """A listening socket and the handshakes under way behind it.

    A stranger that is silent, slow or ignorant costs a descriptor until the door is
    closed, and delays nobody.

    Parameters
    ----------
    host : str
        A numeric address of this host.
    generation : int
        The count of restarts that callers must show.
    fingerprint : bytes
        32 bytes that callers must show.
    n_ranks : int
        Ranks from 0 to ``n_ranks - 1`` may call.
    bell : socket
        Ends a wait when it becomes readable.

    Attributes
    ----------
    address : tuple of (str, int)
        Where to call.
    secret : Secret
        What callers must know.
    run : bytes
        What callers must name: 16 bytes.
    """

    def __init__(
        self,
        host: str,
        generation: int,
        fingerprint: bytes,
        n_ranks: int,
        bell: socket.socket,
    ) -> None:
        self.secret = Secret.new()
        self.run = secrets.token_bytes(16)
        self._expected = Expected(self.run, generation, fingerprint, range(n_ranks))
        self._bell = bell
        self._talks: dict[socket.socket, Generator[int, None, Hello]] = {}
        self._names: dict[socket.socket, str] = {}
        self._socket = socket.create_server((host, 0), backlog=1024)
        self._socket.setblocking(False)
        self.address: tuple[str, int] = self._socket.getsockname()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(bell, selectors.EVENT_READ)

    def wait(self, seconds: float) -> dict[int, socket.socket]:
        """Wait until something happens, at most so many seconds.

        Returns
        -------
        dict of int to socket
            Who has come in, by rank; the sockets are the caller's from now on. It may
            be empty, above all if the bell has rung.
        """
        come: dict[int, socket.socket] = {}
        for key, event in self._selector.select(seconds):
            if key.fileobj is self._socket:
                self._accept(come)
            elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._talks:
                self._advance(key.fileobj, event, come)
        return come

    def close(self) -> None:
        """Give back the port, and drop who is not in yet."""
        self._selector.close()
        for sock in self._talks:
            sock.close()
        self._talks.clear()
        try:
            # A process that was forked in the meantime may hold the port, too.
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:  # macOS does not shut down what listens
            logger.debug("the listening socket was not shut down: %s", error)
        self._socket.close()

    def _accept(self, come: dict[int, socket.socket]) -> None:
        """Take a connection, and begin its handshake."""
        try:
            sock, where = self._socket.accept()
        except OSError as error:
            logger.debug("a connection was gone before it was accepted: %s", error)
            return
        if len(self._talks) >= MOST_STRANGERS:
            self._drop(next(iter(self._talks)), "too many connections at once")
        prepare(sock)
        self._names[sock] = format_address(where)
        self._talks[sock] = drive(sock, acceptor(self.secret, self._expected))
        self._selector.register(sock, selectors.EVENT_READ)
        self._advance(sock, selectors.EVENT_READ, come)

    def _advance(
        self, sock: socket.socket, event: int, come: dict[int, socket.socket]
    ) -> None:
        """Go on with a handshake that waited for `event`."""
        try:
            wanted = next(self._talks[sock])
        except StopIteration as done:
            hello: Hello = done.value
            self._selector.unregister(sock)
            del self._talks[sock], self._names[sock]
            come[hello.rank] = sock
        except (CommError, OSError) as error:
            self._drop(sock, str(error))
        else:
            if wanted != event:
                self._selector.modify(sock, wanted)

    def _drop(self, sock: socket.socket, reason: str) -> None:
        """Refuse a connection."""
        logger.warning("refused a connection from %s: %s", self._names[sock], reason)
        self._selector.unregister(sock)
        del self._talks[sock], self._names[sock]
        sock.close()


def let_go(open_things: list[Door | socket.socket]) -> None:
    """Close door and connections; who is at the other end sees it and ends."""
    for thing in open_things:
        if isinstance(thing, socket.socket):
            with contextlib.suppress(OSError):  # the other end may have closed it
                thing.shutdown(socket.SHUT_RDWR)
        thing.close()
