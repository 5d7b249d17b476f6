"""Frames arrive as they were sent, and false ones are refused before anything else."""

from __future__ import annotations

import pickle
import socket
import struct
import threading

import numpy as np
import pytest

from skmlp.launch.framing import (
    BadFrame,
    Closed,
    Kind,
    receive,
    send,
    text_message,
    text_of,
)
from skmlp.training.protocol import Message
from tests.limits import HANG_S


@pytest.fixture
def pair():
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(HANG_S)
    yield ends
    for end in ends:
        end.close()


MESSAGES = {
    "bare": Message(7),
    "negative op": Message(-(2**63)),
    "three dtypes": Message(
        1,
        (
            np.array([-1, 2**62]),
            np.array([np.nan, -0.0, np.inf]),
            np.array([1.5], dtype=np.float32),
        ),
    ),
    "empty arrays": Message(2, (np.empty(0), np.empty(0, np.int64), np.ones(1))),
    "many arrays": Message(3, tuple(np.arange(k) for k in range(255))),
    "more than a socket holds": Message(
        4, (np.arange(1_000_003.0), np.empty(0), np.arange(9))
    ),
    "read-only": Message(5, (np.broadcast_to(np.ones(1), (1,)),)),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_a_message_arrives_as_it_was_sent(pair, message):
    sender = threading.Thread(target=send, args=(pair[0], Kind.REQUEST, message))
    sender.start()
    kind, got = receive(pair[1], message.nbytes)
    sender.join(HANG_S)
    assert (kind, got.op, len(got.arrays)) == (
        Kind.REQUEST,
        message.op,
        len(message.arrays),
    )
    for ours, theirs in zip(message.arrays, got.arrays, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
        assert theirs.flags.writeable


def test_frames_follow_each_other(pair):
    for op in range(5):
        send(pair[0], Kind.ANSWER, Message(op, (np.full(op, float(op)),)))
    assert [receive(pair[1], 100)[1].op for _ in range(5)] == list(range(5))


def test_texts_travel(pair):
    send(pair[0], Kind.FAILED, text_message("Ü: naïve\n"))
    kind, got = receive(pair[1], 100)
    assert (kind, text_of(got)) == (Kind.FAILED, "Ü: naïve\n")


CANT_TRAVEL = {
    "two dimensions": (np.ones((2, 2)),),
    "strided": (np.arange(9.0)[::2],),
    "objects": (np.array([None]),),
    "bool": (np.array([True]),),
    "other byte order": (np.arange(3, dtype=np.dtype(np.int64).newbyteorder()),),
    "too many": tuple(np.empty(0) for _ in range(256)),
}


@pytest.mark.parametrize("arrays", CANT_TRAVEL.values(), ids=CANT_TRAVEL.keys())
def test_what_cant_travel_is_refused_before_a_byte_is_sent(pair, arrays):
    with pytest.raises(ValueError, match=r"a message (holds|has)"):
        send(pair[0], Kind.REQUEST, Message(1, arrays))
    pair[0].close()
    with pytest.raises(Closed):
        receive(pair[1], 100)


HEAD = struct.pack("!4sBBq", b"skm1", Kind.REQUEST, 1, 1)
FALSE = {
    "a pickle": (pickle.dumps(list(range(100))), "no frame"),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "no frame"),
    "unknown kind": (struct.pack("!4sBBq", b"skm1", 77, 0, 1), "unknown kind 77"),
    "unknown dtype": (HEAD + struct.pack("!BQ", 9, 1), "unknown dtype 9"),
    "one byte too large": (HEAD + struct.pack("!BQ", 4, 101), "101 bytes"),
    "more than any memory": (HEAD + struct.pack("!BQ", 1, 2**64 - 1), "at most 100"),
    "too large together": (
        struct.pack("!4sBBq", b"skm1", Kind.REQUEST, 2, 1)
        + struct.pack("!BQ", 2, 10)
        + struct.pack("!BQ", 3, 10),
        "120 bytes",
    ),
}


@pytest.mark.parametrize(("frame", "text"), FALSE.values(), ids=FALSE.keys())
def test_false_frames_are_refused(pair, frame, text):
    pair[0].sendall(frame)
    with pytest.raises(BadFrame, match=text):
        receive(pair[1], 100)


@pytest.mark.parametrize("length", [0, 5, 14, 20, 23, 30])
def test_the_end_of_the_connection_within_a_frame_is_told(pair, length):
    frame = HEAD + struct.pack("!BQ", 2, 1) + bytes(8)
    assert length < len(frame)
    pair[0].sendall(frame[:length])
    pair[0].close()
    with pytest.raises(Closed):
        receive(pair[1], 100)


def test_silence_within_a_frame_is_limited(pair):
    pair[1].settimeout(0.05)
    pair[0].sendall(HEAD)
    with pytest.raises(TimeoutError):
        receive(pair[1], 100)
