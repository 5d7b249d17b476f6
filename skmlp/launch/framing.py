"""Messages as raw frames: numbers of bounded length, never a pickle.

A frame is a header of fixed length, one entry for each array, and the arrays' bytes::

    magic (4 bytes)  kind (1 byte)  count of arrays (1 byte)  op (8 bytes, signed)
    dtype code (1 byte)  length (8 bytes)          for each array
    the numbers of all arrays, in the machine's byte order

The header's own numbers are big-endian. The two ends have authenticated each other
before, and have the same byte order (`skmlp.comm.handshake`).
"""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.training.protocol import Message

MAGIC = b"skm1"
_HEADER = struct.Struct("!4sBBq")
_ENTRY = struct.Struct("!BQ")

#: The dtypes that travel, by their code. The last is for texts.
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.int64),
    2: np.dtype(np.float64),
    3: np.dtype(np.float32),
    4: np.dtype(np.uint8),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}

#: Up to this size a frame is sent in one piece: a copy costs less than a second call
#: to the system.
_ONE_PIECE_BYTES = 1 << 16


class BadFrame(ValueError):
    """What came is no frame, or a larger one than was agreed."""


class Closed(ConnectionError):
    """The other end has closed the connection."""


class Kind(IntEnum):
    """What a frame, or a Dask worker's answer, is."""

    HERE = 1  # a rank has arrived: its process id and its port
    TABLE = 2  # the ports of all ranks
    READY = 3  # a rank has built its worker object
    REQUEST = 4  # a message for the worker object
    ANSWER = 5  # rank 0's answer
    DONE = 6  # another rank has handled the request
    FAILED = 7  # a rank ends because its worker object raised; the text says what
    LOST = 8  # a rank ends because it lost another one; the text says how
    ABORTED = 9  # a rank ends because it was told to
    ALIVE = 10  # a rank's heartbeat
    PAUSE = 11  # to rank 0: end the request under way after this epoch
    GONE = 12  # a Dask worker knows of no such fit or rank


def text_message(text: str) -> Message:
    """Make a message that holds nothing but `text`."""
    return Message(0, (np.frombuffer(text.encode("utf-8", "replace"), np.uint8),))


def text_of(message: Message) -> str:
    """Return the text of a `text_message`."""
    return "".join(a.tobytes().decode("utf-8", "replace") for a in message.arrays)


def pack(kind: Kind, message: Message) -> bytes:
    """Make a frame. ValueError if an array can't travel; see `_entry`."""
    return b"".join([_head(kind, message), *(a.data for a in message.arrays)])


def unpack(frame: bytes) -> tuple[Kind, Message]:
    """Read a frame of `pack`; the arrays are new ones."""
    return _read(io.BytesIO(frame).readinto, len(frame))


def send(sock: socket.socket, kind: Kind, message: Message) -> None:
    """Send one frame; the socket's time limit holds for each piece of progress.

    Raises
    ------
    ValueError
        An array can't travel. Nothing has been sent.
    OSError
        The connection is broken. `TimeoutError`: the other end took nothing in time.
    """
    if message.nbytes <= _ONE_PIECE_BYTES:
        sock.sendall(pack(kind, message))
        return
    sock.sendall(_head(kind, message))
    for array in message.arrays:
        rest = array.view(np.uint8).data
        # Not `sendall`: its time limit would be one for all of a large array.
        while rest:
            rest = rest[sock.send(rest) :]


def receive(sock: socket.socket, max_bytes: int) -> tuple[Kind, Message]:
    """Receive one frame, whose arrays hold at most `max_bytes` together.

    Raises
    ------
    BadFrame
        What came is no frame, or too large; nothing is allocated for it.
    Closed
        The other end closed the connection, at or within a frame.
    OSError
        The connection is broken. `TimeoutError`: nothing came in time.
    """
    return _read(sock.recv_into, max_bytes)


def _read(
    read_into: Callable[[memoryview], int], max_bytes: int
) -> tuple[Kind, Message]:
    """Read one frame by a function that fills a part of a buffer."""

    def fill(view: memoryview) -> None:
        while view:
            n_bytes = read_into(view)
            if not n_bytes:
                raise Closed("the other end has closed the connection")
            view = view[n_bytes:]

    header = bytearray(_HEADER.size)
    fill(memoryview(header))
    magic, kind, count, op = _HEADER.unpack(header)
    if magic != MAGIC:
        raise BadFrame(f"this is no frame of skmlp: it begins with {magic!r}")
    if kind not in set(Kind):
        raise BadFrame(f"a frame of unknown kind {kind}")
    table = bytearray(_ENTRY.size * count)
    fill(memoryview(table))
    entries = list(_ENTRY.iter_unpack(table))
    for code, _ in entries:
        if code not in _DTYPES:
            raise BadFrame(f"a frame with an array of unknown dtype {code}")
    size = sum(_DTYPES[code].itemsize * length for code, length in entries)
    if size > max_bytes:
        raise BadFrame(f"a frame of {size} bytes, where at most {max_bytes} may come")
    arrays = tuple(np.empty(length, _DTYPES[code]) for code, length in entries)
    for array in arrays:
        fill(array.view(np.uint8).data)
    return Kind(kind), Message(op, arrays)


def _head(kind: Kind, message: Message) -> bytes:
    """The header and the entries of a frame."""
    count = len(message.arrays)
    if count > 255:
        raise ValueError(f"a message has at most 255 arrays, not {count}")
    entries = map(_entry, message.arrays)
    return b"".join([_HEADER.pack(MAGIC, kind, count, message.op), *entries])


def _entry(array: Array) -> bytes:
    """The entry of an array. ValueError if it can't travel."""
    code = _CODES.get(array.dtype)
    if code is None or array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError(
            "a message holds one-dimensional, C-contiguous arrays of dtype int64, "
            f"float64 or float32, not one of shape {array.shape} and dtype "
            f"{array.dtype}"
        )
    return _ENTRY.pack(code, array.size)
