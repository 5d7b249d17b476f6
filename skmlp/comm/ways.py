"""The ways of a rank to another one while they meet: by dialing, or by a detour."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from skmlp.comm.nonblocking import Protocol

#: ``detour(rank)`` begins to make a connection to the listener of a rank, and returns
#: at once. The end of it here, or why there is none, comes by `Listener.deliver` within
#: a bounded time; the other end by `Listener.deliver` with no rank.
Detour = Callable[[int], None]

#: Seconds between two attempts to dial: at first, and at most.
RETRY = (0.05, 0.5)


@dataclass(eq=False)
class Talk:
    """A connection on its way to becoming a link.

    `rank` is the one that was dialed, or None if a stranger called. `steps` yields the
    event that the talk waits for, `event` is what the selector was told last.
    `connected` says that the other host has taken the connection.
    """

    sock: socket.socket
    name: str
    rank: int | None
    deadline: float
    event: int = selectors.EVENT_READ
    steps: Iterator[int] = field(default_factory=lambda: iter(()))
    connected: bool = False

    def __post_init__(self) -> None:
        # TLS replaces the socket object, a failing one closes it: the number stays.
        self.descriptor = self.sock.fileno()

    @property
    def late(self) -> str:
        """What it means that the deadline has passed."""
        if self.connected:
            return "its time for the handshake is over"
        return "its host does not answer"


@dataclass
class Call:
    """What is known of the attempts to reach a rank; `when` is the time of the next.

    `around` says that the detour is taken.
    """

    around: bool = False
    n_failed: int = 0
    when: float = 0.0
    pause: float = RETRY[0]
    n_absent: int = 0
    trouble: str = "it does not answer"


# Who takes the detour is silent until the other rank has the connection: what it sent
# before might be taken as a message to whoever made the connection.


def take_turn() -> Protocol[None]:
    """Wait, on a connection by the detour, until the other rank has it."""
    yield 1


def give_turn() -> Protocol[None]:
    """Say so."""
    yield b"\0"
