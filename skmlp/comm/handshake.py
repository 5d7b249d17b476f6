"""How the two ends of a new connection authenticate each other.

The frames have a fixed length and hold raw numbers; nothing is unpickled. Both ends
show that they know the fit's `Secret` by HMAC-SHA256 (RFC 2104) over both ends' fresh
nonces; the secret itself never travels::

    dialer                                   acceptor
    magic version nonce               ->
                                      <-     magic version status | nonce proof
    run generation rank fingerprint proof ->
                                      <-     status proof

Magic and version (of the dialer), and the status after them (of the acceptor), keep
their place in all versions of the protocol: both ends can say why they do not go on.

What follows on the connection is neither encrypted nor signed: an attacker who can
change packets can change numbers. On such a network, use TLS below this.

The protocol is written once, as generators without a socket: `dialer` and `acceptor`.
A generator yields ``bytes`` to send, or an ``int``, a count of bytes to read, which it
is sent next. `drive` runs one on a non-blocking socket, `run_protocol` within a limit.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import platform
import secrets
import selectors
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from skmlp.comm.base import CommError, PeerLost

R = TypeVar("R")
T = TypeVar("T")
Protocol = Generator["bytes | int", bytes, T]

MAGIC = b"skmlp\0"
VERSION = 1

_OPEN = struct.Struct("!6sH")  # magic, version
_HEAD = struct.Struct("!6sHB")  # magic, version, status
_PROOF = struct.Struct("!32s32s")  # nonce, proof
_HELLO = struct.Struct("!16sQI32s")  # run, generation, rank, fingerprint
_NONCE_BYTES = 32
_MAC_BYTES = 32


class Refused(CommError):
    """One end refused the other; the message says why."""


class TooEarly(Refused):
    """The acceptor has not come to the dialer's generation yet: try again."""


class Status(IntEnum):
    """The acceptor's answer to a dialer."""

    WELCOME = 0
    VERSION = 1
    RUN = 2
    STALE = 3
    EARLY = 4
    RANK = 5
    FINGERPRINT = 6


_REASONS = {
    Status.VERSION: "it speaks another version of the protocol: "
    "install the same skmlp everywhere",
    Status.RUN: "it belongs to another fit",
    Status.STALE: "its generation is over: the group has started again without it",
    Status.EARLY: "its generation has not begun here yet",
    Status.RANK: "its rank is not one that is waited for here",
    Status.FINGERPRINT: "its fingerprint differs, so the ranks would not compute the "
    "same bits: give all of them the same versions of skmlp and numpy, the same "
    "kernels and the same CPU type",
}


class Secret:
    """32 random bytes that the members of one fit share.

    It can be pickled, and its `repr` shows nothing, so that it may be an argument of a
    task that gets logged.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError(f"a secret has 32 bytes, not {len(key)}")
        self._key = key

    @classmethod
    def new(cls) -> Secret:
        """Make a secret from the system's source of randomness."""
        return cls(secrets.token_bytes(32))

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> tuple[type[Secret], tuple[bytes]]:
        return Secret, (self._key,)

    def prove(self, label: bytes, *facts: bytes) -> bytes:
        """HMAC-SHA256 of `facts`; `label` keeps the proofs of one end from serving
        the other. All labels and facts of a protocol have fixed lengths.
        """
        return hmac.digest(self._key, label + b"".join(facts), "sha256")

    def check(self, proof: bytes, label: bytes, *facts: bytes) -> bool:
        """Whether `proof` is right, in a time that tells nothing of where it fails."""
        return hmac.compare_digest(proof, self.prove(label, *facts))


@dataclass(frozen=True)
class Hello:
    """What a dialing rank says of itself.

    `run`, of 16 bytes, names the fit; `generation` counts its restarts; `fingerprint`,
    of 32 bytes, is equal on all ranks that compute the same bits.
    """

    run: bytes
    generation: int
    rank: int
    fingerprint: bytes

    def __post_init__(self) -> None:
        if len(self.run) != 16 or len(self.fingerprint) != 32:
            raise ValueError(
                "run must have 16 bytes and fingerprint 32, "
                f"not {len(self.run)} and {len(self.fingerprint)}"
            )


@dataclass(frozen=True)
class Expected:
    """What an acceptor expects in a `Hello`: one of `ranks`, and these values."""

    run: bytes
    generation: int
    fingerprint: bytes
    ranks: Collection[int]

    def judge(self, hello: Hello) -> Status:
        """Decide on `hello`, whose secret has been checked."""
        if hello.run != self.run:
            return Status.RUN
        if hello.generation < self.generation:
            return Status.STALE
        if hello.generation > self.generation:
            return Status.EARLY
        if hello.rank not in self.ranks:
            return Status.RANK
        if hello.fingerprint != self.fingerprint:
            return Status.FINGERPRINT
        return Status.WELCOME


def dialer(secret: Secret, hello: Hello) -> Protocol[None]:
    """The protocol of the end that dials.

    Raises
    ------
    Refused
        The other end refused, or does not know the secret; `TooEarly`: it may accept
        later.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    yield _OPEN.pack(MAGIC, VERSION) + nonce

    head = yield _HEAD.size
    magic, version, status = _HEAD.unpack(head)
    if magic != MAGIC:
        raise Refused("the other end is no rank of skmlp")
    if version != VERSION or status != Status.WELCOME:
        raise Refused(
            f"this rank was refused: {_REASONS[Status.VERSION]} "
            f"(here {VERSION}, there {version})"
        )
    theirs, proof = _PROOF.unpack((yield _PROOF.size))
    nonces = nonce + theirs
    if not secret.check(proof, b"acceptor", head, nonces):
        raise Refused("the other end does not know the secret of this fit")

    body = _HELLO.pack(hello.run, hello.generation, hello.rank, hello.fingerprint)
    yield body + secret.prove(b"dialer  ", nonces, body)

    answer = yield 1 + _MAC_BYTES
    if not secret.check(answer[1:], b"answer  ", nonces, body, answer[:1]):
        raise Refused("the other end's answer is forged")
    status = Status(answer[0])
    if status is Status.EARLY:
        raise TooEarly(f"this rank was refused: {_REASONS[status]}")
    if status is not Status.WELCOME:
        raise Refused(f"this rank was refused: {_REASONS[status]}")


def acceptor(secret: Secret, expected: Expected) -> Protocol[Hello]:
    """The protocol of the end that is dialed; returns the dialer's checked `Hello`.

    Raises
    ------
    Refused
        The dialer is none of the expected ranks. The socket is left to be closed.
    """
    magic, version = _OPEN.unpack((yield _OPEN.size))
    if magic != MAGIC:
        raise Refused("it is no rank of skmlp")
    if version != VERSION:
        yield _HEAD.pack(MAGIC, VERSION, Status.VERSION)
        raise Refused(f"{_REASONS[Status.VERSION]} (here {VERSION}, there {version})")

    nonce = secrets.token_bytes(_NONCE_BYTES)
    nonces = (yield _NONCE_BYTES) + nonce
    head = _HEAD.pack(MAGIC, VERSION, Status.WELCOME)
    yield head + _PROOF.pack(nonce, secret.prove(b"acceptor", head, nonces))

    frame = yield _HELLO.size + _MAC_BYTES
    body, proof = frame[: _HELLO.size], frame[_HELLO.size :]
    if not secret.check(proof, b"dialer  ", nonces, body):
        raise Refused("it does not know the secret of this fit")
    hello = Hello(*_HELLO.unpack(body))
    status = expected.judge(hello)
    answer = bytes([status])
    yield answer + secret.prove(b"answer  ", nonces, body, answer)
    if status is not Status.WELCOME:
        kind = TooEarly if status is Status.EARLY else Refused
        raise kind(
            f"{_REASONS[status]} (rank {hello.rank}, generation {hello.generation})"
        )
    return hello


def send_hello(sock: socket.socket, secret: Secret, hello: Hello, limit: float) -> None:
    """Run `dialer` on a connected socket, within `limit` seconds."""
    run_protocol(sock, dialer(secret, hello), limit)


def drive(sock: socket.socket, protocol: Protocol[T]) -> Generator[int, None, T]:
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
        wanted = next(protocol)
        while True:
            if isinstance(wanted, int):
                data = b""
                while len(data) < wanted:
                    more = yield from unblocked(
                        selectors.EVENT_READ, sock.recv, wanted - len(data)
                    )
                    if not more:
                        raise PeerLost("the connection was closed in the handshake")
                    data += more
                wanted = protocol.send(data)
            else:
                while wanted:
                    sent = yield from unblocked(
                        selectors.EVENT_WRITE, sock.send, wanted
                    )
                    wanted = wanted[sent:]
                wanted = next(protocol)
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
    steps = drive(sock, protocol)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            while True:
                selector.modify(sock, next(steps))
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise PeerLost(f"the handshake took longer than {limit:g} s")
    except StopIteration as done:
        result: T = done.value
        return result
    except OSError as error:
        raise PeerLost(f"the connection broke in the handshake: {error}") from error
    finally:
        steps.close()
        sock.settimeout(before)


def fingerprint(**facts: object) -> bytes:
    """32 bytes that are equal for equal facts: SHA-256 of their sorted ``repr``.

    The facts are strings, numbers, and tuples or lists of such.
    """
    text = "\n".join(f"{name}={value!r}" for name, value in sorted(facts.items()))
    return hashlib.sha256(text.encode()).digest()


@functools.cache
def default_facts() -> Mapping[str, object]:
    """What, besides the plan, the bits of a fit depend on in this process.

    Versions of skmlp, numpy and scipy, byte order, machine type, the CPU features that
    numpy uses, and the CPU type that numpy's BLAS has chosen its kernels for.
    """
    import numpy as np
    import scipy
    import threadpoolctl

    config = np.show_config(mode="dicts")
    blas = [
        library
        for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas"
    ]
    # Wheels of numpy and of scipy each bring a BLAS; whether scipy's is loaded by now
    # says nothing about the bits.
    ours = [library for library in blas if "numpy" in library["filepath"]] or blas
    return {
        # The package itself stands above this floor; it is imported by now.
        "skmlp": sys.modules["skmlp"].__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,  # compiled steps call its BLAS
        "byte_order": sys.byteorder,
        "machine": platform.machine(),
        "simd": tuple(config["SIMD Extensions"].get("found", ())),
        "blas": sorted(
            (lib["internal_api"], lib["version"], str(lib.get("architecture")))
            for lib in ours
        ),
    }
