"""Who may talk: the handshake, without sockets first, then over them."""

from __future__ import annotations

import copy
import pickle
import socket
import threading

import numpy as np
import pytest

from skmlp.comm.base import CommError, PeerLost
from skmlp.comm.handshake import (
    Expected,
    Hello,
    Refused,
    Secret,
    TooEarly,
    acceptor,
    default_facts,
    dialer,
    fingerprint,
    send_hello,
)
from tests.comm.gangs import LIMIT, accept_hello, in_threads

SECRET = Secret(bytes(range(32)))
HELLO = Hello(run=b"r" * 16, generation=3, rank=2, fingerprint=b"f" * 32)
EXPECTED = Expected(run=b"r" * 16, generation=3, fingerprint=b"f" * 32, ranks=range(4))


class Wire:
    """Two protocols, and all that passes between them."""

    def __init__(self, alter=lambda position, data: data):
        self.bytes = b""
        self._alter = alter

    def pump(self, one, other):
        """Run both to their ends; return their results or exceptions, in order."""
        ends = [one, other]
        pending = [b"", b""]  # on its way to each end
        results = [None, None]
        wishes = [next(one), next(other)]
        running = {0, 1}
        while running:
            moved = False
            for i in sorted(running):
                try:
                    if isinstance(wishes[i], bytes):
                        data = self._alter(len(self.bytes), wishes[i])
                        self.bytes += data
                        pending[1 - i] += data
                        wishes[i] = next(ends[i])
                    elif len(pending[i]) >= wishes[i]:
                        data = pending[i][: wishes[i]]
                        pending[i] = pending[i][wishes[i] :]
                        wishes[i] = ends[i].send(data)
                    else:
                        continue
                except StopIteration as done:
                    results[i] = done.value
                    running.remove(i)
                except CommError as error:
                    results[i] = error
                    running.remove(i)
                moved = True
            if not moved:  # the other end has gone: who waits learns of it
                for i in list(running):
                    ends[i].close()
                    results[i] = PeerLost("closed")
                    running.remove(i)
        return results


def both(hello=HELLO, expected=EXPECTED, secrets=(SECRET, SECRET), wire=None):
    wire = wire or Wire()
    return wire.pump(dialer(secrets[0], hello), acceptor(secrets[1], expected))


def test_the_right_hello_is_welcome():
    assert both() == [None, HELLO]


@pytest.mark.parametrize(
    ("changes", "kind", "match"),
    [
        ({"run": b"x" * 16}, Refused, "another fit"),
        ({"generation": 2}, Refused, "generation is over"),
        ({"generation": 4}, TooEarly, "not begun"),
        ({"rank": 4}, Refused, "not one that is waited for"),
        ({"fingerprint": b"x" * 32}, Refused, "same versions of skmlp and numpy"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_hello_is_refused_and_both_ends_know_why(changes, kind, match):
    fields = {**vars(HELLO), **changes}
    for error in both(Hello(**fields)):
        assert isinstance(error, kind)
        assert isinstance(error, TooEarly) == (kind is TooEarly)
        assert match in str(error)


@pytest.mark.parametrize("whose", ["dialer", "acceptor"])
def test_who_does_not_know_the_secret_is_not_talked_to(whose):
    # A stranger that skips the check of the other end's proof.
    class Careless(Secret):
        def check(self, proof, label, *facts):
            return True

    stranger = Careless(bytes(32))
    secrets = (stranger, SECRET) if whose == "dialer" else (SECRET, stranger)
    victim = both(secrets=secrets)[whose == "dialer"]
    assert isinstance(victim, Refused)
    assert "does not know the secret" in str(victim)


def test_no_bit_on_the_way_can_be_flipped():
    wire = Wire()
    both(wire=wire)
    for place in range(len(wire.bytes)):
        for bit in (1, 128):

            def flip(position, data, place=place, bit=bit):
                data = bytearray(data)
                if 0 <= place - position < len(data):
                    data[place - position] ^= bit
                return bytes(data)

            results = both(wire=Wire(flip))
            assert any(isinstance(result, CommError) for result in results), place


def test_the_secret_never_travels_and_no_two_handshakes_are_alike():
    wires = [Wire(), Wire()]
    for wire in wires:
        both(wire=wire)
        assert bytes(range(32)) not in wire.bytes
    # All but magic, version, status and hello differ.
    same = sum(a == b for a, b in zip(wires[0].bytes, wires[1].bytes, strict=True))
    assert same < len(wires[0].bytes) / 2


def test_a_recorded_dialer_cannot_be_played_again():
    sent = []

    def record(protocol):
        try:
            wish = next(protocol)
            while True:
                if isinstance(wish, bytes):
                    sent.append(wish)
                    yield wish
                    wish = next(protocol)
                else:
                    wish = protocol.send((yield wish))
        except StopIteration:
            return

    assert Wire().pump(record(dialer(SECRET, HELLO)), acceptor(SECRET, EXPECTED))[1]

    def replay():
        yield sent[0]
        yield 9 + 64
        yield sent[1]

    refusal = Wire().pump(replay(), acceptor(SECRET, EXPECTED))[1]
    assert isinstance(refusal, Refused)


def test_an_end_does_not_take_itself_for_the_other():
    first, second = dialer(SECRET, HELLO), dialer(SECRET, HELLO)
    assert all(isinstance(r, CommError) for r in Wire().pump(first, second))


def test_another_version_of_the_protocol_is_told_so(monkeypatch):
    def newer():
        yield b"skmlp\0" + (2).to_bytes(2, "big") + bytes(32)
        return (yield 9)

    head, refusal = Wire().pump(newer(), acceptor(SECRET, EXPECTED))
    assert head == b"skmlp\0" + (1).to_bytes(2, "big") + b"\1"
    assert "here 1, there 2" in str(refusal)

    def newer_acceptor():
        yield 40
        yield b"skmlp\0" + (2).to_bytes(2, "big") + b"\1"

    refusal = Wire().pump(dialer(SECRET, HELLO), newer_acceptor())[0]
    assert "here 1, there 2" in str(refusal)


def test_over_sockets_both_ends_get_their_word_and_their_time_limit_back():
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(7)
        results = in_threads(
            [
                lambda: send_hello(one, SECRET, HELLO, LIMIT),
                lambda: accept_hello(other, SECRET, EXPECTED, LIMIT),
            ]
        )
        assert results == [None, HELLO]
        assert (one.gettimeout(), other.gettimeout()) == (7, None)
        # Nothing was read beyond the handshake.
        one.sendall(b"payload")
        assert other.recv(100) == b"payload"


@pytest.mark.parametrize("end", ["dialer", "acceptor"])
def test_a_closed_connection_is_a_lost_peer(end):
    one, other = socket.socketpair()
    other.close()
    function, who = {
        "dialer": (send_hello, HELLO),
        "acceptor": (accept_hello, EXPECTED),
    }[end]
    with one, pytest.raises(PeerLost, match="handshake"):
        function(one, SECRET, who, LIMIT)


def test_the_limit_is_for_all_of_it_however_slowly_the_bytes_drip():
    one, other = socket.socketpair()
    over = threading.Event()
    # A right first frame, and then bytes of no meaning: whoever reads on refuses them.
    first = next(dialer(SECRET, HELLO))

    def drip():
        for byte in first + bytes(1000):
            if over.wait(0.02):
                return
            one.sendall(bytes([byte]))

    thread = threading.Thread(target=drip)
    with one, other:
        thread.start()
        try:
            with pytest.raises(PeerLost, match=r"took longer than 0\.3 s"):
                accept_hello(other, SECRET, EXPECTED, 0.3)
        finally:
            over.set()
            thread.join(LIMIT)


def test_a_silent_acceptor_is_given_up():
    one, other = socket.socketpair()
    with one, other, pytest.raises(PeerLost, match=r"longer than 0\.05 s"):
        send_hello(one, SECRET, HELLO, 0.05)


def test_a_secret_shows_nothing_of_itself():
    secret = Secret.new()
    key = secret._key
    for text in (repr(secret), str(secret), f"{secret}", repr({"secret": secret})):
        assert key.hex() not in text
        assert repr(key) not in text
    assert len({Secret.new()._key for _ in range(10)}) == 10


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy, "pickle"])
def test_a_secret_survives_a_copy(copier):
    if copier == "pickle":
        copied = pickle.loads(pickle.dumps(SECRET))
    else:
        copied = copier(SECRET)
    assert both(secrets=(SECRET, copied)) == [None, HELLO]


@pytest.mark.parametrize("length", [0, 31, 33])
def test_lengths_are_checked(length):
    with pytest.raises(ValueError, match="32 bytes"):
        Secret(bytes(length))
    with pytest.raises(ValueError, match="bytes"):
        Hello(bytes(16), 0, 0, bytes(length))
    with pytest.raises(ValueError, match="bytes"):
        Hello(bytes(length), 0, 0, bytes(32))


def test_a_fingerprint_depends_on_each_fact_and_on_nothing_else():
    facts = {"skmlp": "1.0", "threads": 2, "simd": ("X86_V3",), "blas": [("a", "b")]}
    prints = {fingerprint(**facts), fingerprint(**dict(reversed(facts.items())))}
    assert len(prints) == 1
    for name in facts:
        prints.add(fingerprint(**{**facts, name: "other"}))
        prints.add(fingerprint(**{k: v for k, v in facts.items() if k != name}))
    prints.add(fingerprint(**facts, more=None))
    assert len(prints) == 2 + 2 * len(facts)
    assert {len(p) for p in prints} == {32}


def test_the_default_facts_are_those_of_this_process():
    facts = default_facts()
    assert facts["numpy"] == np.__version__
    assert facts["blas"]
    assert facts == default_facts()
    assert fingerprint(**facts) == fingerprint(**default_facts())
