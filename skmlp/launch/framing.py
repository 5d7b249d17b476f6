"""Messages as raw frames over a socket: numbers of bounded length, never a pickle.

A frame is a header of fixed length, one entry for each array, and the arrays' bytes::

    magic (4 bytes)  kind (1 byte)  count of arrays (1 byte)  op (8 bytes, signed)
    dtype code (1 byte)  length (8 bytes)          for each array
    the numbers of all arrays, in the machine's byte order

The header's own numbers are big-endian. Who sends and who receives have made sure of
each other before, and of having the same byte order (`skmlp.comm.handshake`).
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from typing import Any

import numpy as np

from skmlp.training.protocol import Message

Array = np.ndarray[Any, np.dtype[Any]]

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

#: Up to this many bytes a frame is joined to one piece: a copy costs less than a
#: second call to the system.
_JOINED = 1 << 16


class BadFrame(ValueError):
    """What came is no frame, or a larger one than was agreed."""


class Closed(ConnectionError):
    """The other end has closed the connection."""


class Kind(IntEnum):
    """What a frame is: the launcher's own word, apart from the rank worker's `op`."""

    HERE = 1  # a rank has arrived: its process id and its port
    TABLE = 2  # the ports of all ranks
    READY = 3  # a rank has built its rank worker
    ORDER = 4  # a message for the rank worker
    ANSWER = 5  # the lead's answer
    DONE = 6  # another rank's word that it has handled the message
    FAILED = 7  # a rank ends because its rank worker raised; the text says what
    LOST = 8  # a rank ends because it lost another one; the text says how
    ABORTED = 9  # a rank ends because it was told to
    ALIVE = 10  # a rank's sign of life
    PAUSE = 11  # to the lead: end the order under way after this epoch


def text_message(text: str) -> Message:
    """Make a message that holds nothing but `text`."""
    return Message(0, (np.frombuffer(text.encode("utf-8", "replace"), np.uint8),))


def text_of(message: Message) -> str:
    """Return the text of a `text_message`."""
    return "".join(a.tobytes().decode("utf-8", "replace") for a in message.arrays)


def send(sock: socket.socket, kind: Kind, message: Message) -> None:
    """Send one frame.

    Parameters
    ----------
    sock : socket
        Blocking, or with the time limit for each piece of progress.
    kind : Kind
        What it is.
    message : Message
        At most 255 arrays, one-dimensional and C-contiguous, of dtype int64, float64,
        float32 or uint8.

    Raises
    ------
    ValueError
        An array can't travel. Nothing has been sent.
    OSError
        The connection is broken. `TimeoutError` if the other end took nothing within
        the socket's time limit.
    """
    pieces = [_HEADER.pack(MAGIC, kind, _count(message), message.op)]
    for array in message.arrays:
        pieces.append(_ENTRY.pack(_code(array), array.size))
    if message.nbytes <= _JOINED:
        sock.sendall(b"".join([*pieces, *(a.data for a in message.arrays)]))
        return
    sock.sendall(b"".join(pieces))
    for array in message.arrays:
        rest = array.view(np.uint8).data
        # Not `sendall`: its time limit would be one for all of a large array.
        while rest:
            rest = rest[sock.send(rest) :]


def receive(sock: socket.socket, max_bytes: int) -> tuple[Kind, Message]:
    """Receive one frame.

    Parameters
    ----------
    sock : socket
        Blocking, or with the time limit for each piece of progress.
    max_bytes : int
        The most that the arrays of the frame may hold together; nothing is allocated
        for a frame that says it has more.

    Raises
    ------
    BadFrame
        What came is no frame, or too large.
    Closed
        The other end closed the connection, at or within a frame.
    OSError
        The connection is broken. `TimeoutError` if nothing came within the socket's
        time limit.
    """
    header = bytearray(_HEADER.size)
    _fill(sock, memoryview(header))
    magic, kind, count, op = _HEADER.unpack(header)
    if magic != MAGIC:
        raise BadFrame(f"this is no frame of skmlp: it begins with {magic!r}")
    if kind not in set(Kind):
        raise BadFrame(f"a frame of unknown kind {kind}")
    table = bytearray(_ENTRY.size * count)
    _fill(sock, memoryview(table))
    entries = list(_ENTRY.iter_unpack(table))
    for code, _ in entries:
        if code not in _DTYPES:
            raise BadFrame(f"a frame with an array of unknown dtype {code}")
    size = sum(_DTYPES[code].itemsize * length for code, length in entries)
    if size > max_bytes:
        raise BadFrame(f"a frame of {size} bytes, where at most {max_bytes} may come")
    arrays = tuple(np.empty(length, _DTYPES[code]) for code, length in entries)
    for array in arrays:
        _fill(sock, array.view(np.uint8).data)
    return Kind(kind), Message(op, arrays)


def _count(message: Message) -> int:
    """Count the arrays; the number must fit the header."""
    if len(message.arrays) > 255:
        raise ValueError(f"a message has at most 255 arrays, not {len(message.arrays)}")
    return len(message.arrays)


def _code(array: Array) -> int:
    """Look up the code of an array's dtype; the array must be fit to travel."""
    code = _CODES.get(array.dtype)
    if code is None or array.ndim != 1 or not array.flags.c_contiguous:
        raise ValueError(
            "a message holds one-dimensional, C-contiguous arrays of dtype int64, "
            f"float64 or float32, not one of shape {array.shape} and dtype "
            f"{array.dtype}"
        )
    return code


def _fill(sock: socket.socket, view: memoryview) -> None:
    """Receive just as many bytes as `view` has."""
    while view:
        got = sock.recv_into(view)
        if not got:
            raise Closed("the other end has closed the connection")
        view = view[got:]
