"""How two ends of a fresh connection make sure of each other before they talk.

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

What follows on the connection is neither encrypted nor signed: who can change packets
on the way can change numbers. On such a network, use TLS below this.

The protocol is written once, as generators without a socket: `dialer` and `acceptor`
(see `skmlp.comm.nonblocking`). `send_hello` and `accept_hello` run it on one socket;
`skmlp.comm.rendezvous` runs it on many at once.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import platform
import secrets
import socket
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from skmlp.comm.base import CommError
from skmlp.comm.nonblocking import Protocol, run_protocol

MAGIC = b"skmlp\0"
VERSION = 1

_OPEN = struct.Struct("!6sH")  # magic, version
_HEAD = struct.Struct("!6sHB")  # magic, version, status
_PROOF = struct.Struct("!32s32s")  # nonce, proof
_HELLO = struct.Struct("!16sQI32s")  # run, generation, rank, fingerprint
_NONCE_BYTES = 32
_MAC_BYTES = 32


class Refused(CommError):
    """One end turned the other down; the message says why."""


class TooEarly(Refused):
    """The acceptor has not come to the dialer's generation yet: try again."""


class Status(IntEnum):
    """The acceptor's word on a dialer."""

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
    Status.STALE: "its generation is over: the gang has started again without it",
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
    """Who calls.

    Attributes
    ----------
    run : bytes
        16 bytes that name the fit.
    generation : int
        The count of the fit's restarts.
    rank : int
        The caller's rank.
    fingerprint : bytes
        32 bytes, equal on all ranks that compute the same bits (`fingerprint`).
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
    """Who may call.

    Attributes
    ----------
    run, generation, fingerprint
        What a caller must show; see `Hello`.
    ranks : range
        The ranks that may call.
    """

    run: bytes
    generation: int
    fingerprint: bytes
    ranks: range

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
    """Run the protocol of the end that dials. Errors: see `send_hello`."""
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
    word = Status(answer[0])
    if word is Status.EARLY:
        raise TooEarly(f"this rank was refused: {_REASONS[word]}")
    if word is not Status.WELCOME:
        raise Refused(f"this rank was refused: {_REASONS[word]}")


def acceptor(secret: Secret, expected: Expected) -> Protocol[Hello]:
    """Run the protocol of the end that is dialed. Errors: see `accept_hello`."""
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
    word = expected.judge(hello)
    answer = bytes([word])
    yield answer + secret.prove(b"answer  ", nonces, body, answer)
    if word is not Status.WELCOME:
        kind = TooEarly if word is Status.EARLY else Refused
        raise kind(
            f"{_REASONS[word]} (rank {hello.rank}, generation {hello.generation})"
        )
    return hello


def send_hello(sock: socket.socket, secret: Secret, hello: Hello, limit: float) -> None:
    """Introduce this end to the one that it dialed, and make sure of that one.

    Parameters
    ----------
    sock : socket
        Connected; a TLS socket has its TLS handshake behind it. Its own time limit is
        left as it was.
    secret : Secret
        The fit's.
    hello : Hello
        Who calls.
    limit : float
        Seconds for all of it.

    Raises
    ------
    Refused
        The other end said no, or does not know the secret. `TooEarly` if it may say
        yes later.
    PeerLost
        The connection ended, or the limit passed.
    """
    run_protocol(sock, dialer(secret, hello), limit)


def accept_hello(
    sock: socket.socket, secret: Secret, expected: Expected, limit: float
) -> Hello:
    """Find out who calls, and tell it what was decided.

    Parameters
    ----------
    sock : socket
        As for `send_hello`.
    secret : Secret
        The fit's.
    expected : Expected
        Who may call.
    limit : float
        Seconds for all of it, however slowly the bytes drip in.

    Returns
    -------
    Hello
        Checked against `expected`.

    Raises
    ------
    Refused
        The caller is none of the expected ones. The socket is left to be closed.
    PeerLost
        The connection ended, or the limit passed.
    """
    return run_protocol(sock, acceptor(secret, expected), limit)


def fingerprint(**facts: object) -> bytes:
    """32 bytes that are equal for equal facts: SHA-256 of their sorted ``repr``.

    Parameters
    ----------
    **facts
        Strings, numbers, and tuples or lists of such, whose `repr` says all.
    """
    text = "\n".join(f"{name}={value!r}" for name, value in sorted(facts.items()))
    return hashlib.sha256(text.encode()).digest()


@functools.cache
def default_facts() -> Mapping[str, object]:
    """Gather what, besides the plan, the bits of a fit depend on in this process.

    Returns
    -------
    mapping
        Versions of skmlp and numpy, byte order, machine type, the CPU features that
        numpy uses, and the CPU type that the BLAS of numpy has chosen its kernels for.
        The kernel set is the plan's; add it: ``fingerprint(kernels=..., **facts)``.
    """
    import numpy as np
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
        "byte_order": sys.byteorder,
        "machine": platform.machine(),
        "simd": tuple(config["SIMD Extensions"].get("found", ())),
        "blas": sorted(
            (lib["internal_api"], lib["version"], str(lib.get("architecture")))
            for lib in ours
        ),
    }
