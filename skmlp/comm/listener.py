"""A rank's own end of the network: where it listens, and how its sockets behave."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from skmlp.comm.base import Aborted

Address = tuple[str, int]

#: A port that the system chooses.
ANY_PORT = (0,)
#: Connections that the system may hold until they are accepted; it may allow fewer.
BACKLOG = 1024
#: Buffers of a connection within this host; the system may allow less.
LOCAL_BUFFER_BYTES = 1 << 22
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
    """A listening socket, kept for all generations.

    Parameters
    ----------
    host : str
        An address of this host that the other ranks can dial. If the host does not know
        it, as behind a router, the listener takes connections on all interfaces.
    ports : sequence of int
        The first free one is taken; 0 stands for one of the system's choice.
    name : str, optional
        From `local_name`: ranks of this host can dial it, too.

    Attributes
    ----------
    address : tuple of (str, int)
        Host and port to dial.
    local : socket or None
        A UNIX socket that listens for ranks of this host. Short messages take two
        thirds of the time that they take over TCP.
    """

    def __init__(
        self, host: str, ports: Sequence[int] = ANY_PORT, name: str = ""
    ) -> None:
        self.socket, host = _listening(host, ports)
        self.local: socket.socket | None = None
        try:
            if name and sys.platform == "linux":
                self.local = socket.socket(socket.AF_UNIX)
                self.local.bind(name)
                self.local.listen(BACKLOG)
                self.local.setblocking(False)
            self.address: Address = (host, self.socket.getsockname()[1])
            # One byte from `abort` wakes the rendezvous.
            self.wake_up, self._waker = socket.socketpair()
        except BaseException:
            self.socket.close()
            if self.local is not None:
                self.local.close()
            raise
        for sock in (self.socket, self.wake_up, self._waker):
            sock.setblocking(False)
        self._stop: tuple[float, str] = (-1, "")

    def abort(self, reason: str, generation: int) -> None:
        """Make rendezvous up to `generation` raise `Aborted`. From any thread."""
        self._stop = max(self._stop, (generation, reason))
        # A full pipe wakes as well; a closed one has no reader to wake.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def check(self, generation: int) -> None:
        """Raise `Aborted` if the rendezvous of `generation` was told to stop."""
        last, reason = self._stop
        if generation <= last:
            raise Aborted(reason)

    def clear_wake_up(self) -> None:
        """Take the bytes of past aborts."""
        with contextlib.suppress(BlockingIOError):
            self.wake_up.recv(4096)

    def close(self) -> None:
        """Give back port and descriptors. Abort a rendezvous under way before."""
        with contextlib.suppress(OSError):  # macOS does not shut down what listens
            # A process that was forked in the meantime may hold the port, too.
            self.socket.shutdown(socket.SHUT_RDWR)
        for sock in (self.socket, self.wake_up, self._waker, self.local):
            if sock is not None:
                sock.close()


def _listening(host: str, ports: Sequence[int]) -> tuple[socket.socket, str]:
    """A socket that listens on the first free port, and the numeric host to dial."""
    family, kind, protocol, _, where = socket.getaddrinfo(
        host, 0, type=socket.SOCK_STREAM
    )[0]
    all_interfaces = "::" if family == socket.AF_INET6 else "0.0.0.0"
    for port in ports:
        sock = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                # Connections of an earlier fit may hold its port for a minute.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((where[0], port, *where[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                sock.bind((all_interfaces, port, *where[2:]))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return sock, str(where[0])
    raise OSError(
        errno.EADDRINUSE, f"no port from {ports[0]} to {ports[-1]} of {host} is free"
    )


def local_name(run: bytes, generation: int, rank: int) -> str:
    """The name of a rank for ranks of its host; Linux keeps no file of such a name.

    `run` is random, so no other process can have taken the name before.
    """
    return f"\0skmlp-{run.hex()}-{generation}-{rank}"


def prepare(sock: socket.socket) -> None:
    """Make a connected socket fit for short messages between long silences."""
    sock.setblocking(False)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        # Those of TCP grow by themselves.
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, buffer, LOCAL_BUFFER_BYTES)
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def format_address(address: Any) -> str:
    """Host and port of TCP over IPv4 or IPv6, as text."""
    if not address or not isinstance(address, tuple):
        return "this host"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
