"""A rank's own end of the network: where it listens, and how its sockets behave."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from skmlp.comm.base import Aborted

Address = tuple[str, int]

#: The address of a rank that has no port of its own.
NOWHERE: Address = ("", 0)
#: Connections that came another way and wait for the meeting; one more is turned away.
MOST_DELIVERED = 1024
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


#: A rank or None, and a connection to it or why there is none; see `Listener.deliver`.
Delivery = tuple[int | None, socket.socket | OSError]


class Listener:
    """A listening socket on a port of the system's choice, kept for all generations.

    Parameters
    ----------
    host : str or None
        A numeric address of this host that the other ranks can dial. None for no port:
        connections come by `deliver` only.

    Attributes
    ----------
    address : tuple of (str, int)
        Host and port to dial, or `NOWHERE`.
    """

    def __init__(self, host: str | None) -> None:
        self.socket = None if host is None else _listening(host)
        self.address: Address = NOWHERE
        try:
            if self.socket is not None:
                name = self.socket.getsockname()
                self.address = (name[0], name[1])
            # A byte from `abort` or `deliver` wakes the meeting.
            self.bell, self._button = socket.socketpair()
        except BaseException:
            if self.socket is not None:
                self.socket.close()
            raise
        self.bell.setblocking(False)
        self._button.setblocking(False)
        self._stop: tuple[float, str] = (-1, "")
        self._lock = threading.Lock()
        self._closed = False
        self._delivered: list[Delivery] = []

    def abort(self, reason: str, generation: int) -> None:
        """Make meetings of `generation` and before raise `Aborted`. From any thread."""
        self._stop = max(self._stop, (generation, reason))
        self._ring()

    def deliver(self, rank: int | None, thing: socket.socket | OSError) -> None:
        """Hand the meeting a connection that came another way. From any thread.

        Parameters
        ----------
        rank : int or None
            The rank that this one wanted to reach; None if somebody reached this rank.
        thing : socket or OSError
            A connected socket, which is the listener's from now on; or why there is
            none.
        """
        with self._lock:
            taken = not self._closed and len(self._delivered) < MOST_DELIVERED
            if taken:
                self._delivered.append((rank, thing))
        if taken:
            self._ring()
        elif isinstance(thing, socket.socket):
            thing.close()

    def _ring(self) -> None:
        # A full pipe wakes as well; a closed one has nobody to wake.
        with contextlib.suppress(OSError):
            self._button.send(b"\0")

    def check(self, generation: int) -> None:
        """Raise `Aborted` if meetings of `generation` were told to stop."""
        last, reason = self._stop
        if generation <= last:
            raise Aborted(reason)

    def deliveries(self) -> list[Delivery]:
        """Silence the bell, and take what `deliver` has brought since the last time."""
        with contextlib.suppress(BlockingIOError):
            self.bell.recv(4096)
        with self._lock:
            delivered, self._delivered = self._delivered, []
        return delivered

    def close(self) -> None:
        """Give back port and descriptors. Abort a meeting under way before."""
        with self._lock:
            self._closed = True
            delivered, self._delivered = self._delivered, []
        things = [self.socket, self.bell, self._button, *(t for _, t in delivered)]
        for thing in things:
            if isinstance(thing, socket.socket):
                thing.close()


def _listening(host: str) -> socket.socket:
    """A socket that listens on a free port."""
    family, kind, protocol, _, where = socket.getaddrinfo(
        host, 0, type=socket.SOCK_STREAM
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def prepare(sock: socket.socket) -> None:
    """Make a connected socket fit for short messages between long silences."""
    sock.setblocking(False)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return  # a pair of sockets within this process
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def name_of(address: Any) -> str:
    """Write an address of TCP over IPv4 or IPv6 for people."""
    host, port = address[:2]
    if not port:
        return "no port of its own"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
