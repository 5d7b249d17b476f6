"""A rank's own end of the network: where it listens, and how its sockets behave."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from skmlp.comm.base import Aborted

Address = tuple[str, int]

#: Connections that the system may hold until they are accepted; it may allow fewer.
BACKLOG = 1024
#: A host that vanishes is noticed after 30 s, as by distributed: after 10 s of silence
#: the system asks every 5 s whether the host is there, and gives up after 4 questions
#: without answer. The first name is macOS's for the second.
KEEPALIVE = {
    "TCP_KEEPALIVE": 10,
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 4,
}


class Listener:
    """A listening socket on a port of the system's choice, kept for all generations.

    Parameters
    ----------
    host : str
        A numeric address of this host that the other ranks can dial.

    Attributes
    ----------
    address : tuple of (str, int)
        Host and port to dial.
    """

    def __init__(self, host: str) -> None:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM
        )[0]
        self.socket = socket.socket(family, kind, protocol)
        try:
            self.socket.bind(where)
            self.socket.listen(BACKLOG)
            self.socket.setblocking(False)
            name = self.socket.getsockname()
            self.address: Address = (name[0], name[1])
            # A byte from `abort` wakes the meeting.
            self.bell, self._button = socket.socketpair()
        except BaseException:
            self.socket.close()
            raise
        self.bell.setblocking(False)
        self._button.setblocking(False)
        self._stop: tuple[float, str] = (-1, "")

    def abort(self, reason: str, generation: int) -> None:
        """Make meetings of `generation` and before raise `Aborted`. From any thread."""
        self._stop = max(self._stop, (generation, reason))
        # A full pipe wakes as well; a closed one has nobody to wake.
        with contextlib.suppress(OSError):
            self._button.send(b"\0")

    def check(self, generation: int) -> None:
        """Raise `Aborted` if meetings of `generation` were told to stop."""
        last, reason = self._stop
        if generation <= last:
            raise Aborted(reason)

    def hush(self) -> None:
        """Take the bytes of `abort` out of the bell."""
        with contextlib.suppress(BlockingIOError):
            self.bell.recv(4096)

    def close(self) -> None:
        """Give back port and descriptors. Abort a meeting under way before."""
        for sock in (self.socket, self.bell, self._button):
            sock.close()


def prepare(sock: socket.socket) -> None:
    """Make a connected socket fit for short messages between long silences."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def name_of(address: Any) -> str:
    """Write an address of TCP over IPv4 or IPv6 for people."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
