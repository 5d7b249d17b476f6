"""Memory of one rank that the others of its host read: instead of sending, they look.

What a rank would send lies in a file without a name, in memory; a peer maps the file
and reads the numbers where they are. Of a message, only the header goes by the socket,
or not even that (`skmlp.comm.counters`): it means that the numbers are there. So what
holds of the sockets, their limits, loss and abort, holds here, too; and an exchange's
contract is what makes it right: nobody writes to a part, or to a segment, that another
rank may still be reading.

A rank offers a file by process and descriptor, ``/proc/<process>/fd/<descriptor>``,
with random bytes that stand at its end: who can open it, and finds those bytes, is a
process of the same host and of the same user. Each pair of ranks finds that out for
itself; where one end can't, both go on by the socket, as on all systems but Linux.

Two copies by way of such memory, one in and one out, were no faster than a socket.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from typing import Any

import numpy as np

from skmlp.comm.base import Array

#: What the system calls the files.
NAME = "skmlp"
#: Bytes of an array from which that pays: less is a file for too little.
LEAST = 1 << 10
#: Bytes of the random mark at the end of a file.
MARK = 32
#: What a rank tells of a file: process, descriptor and mark, as int64; zeros for none.
OFFER = 2 + MARK // 8

AVAILABLE = hasattr(os, "memfd_create") and hasattr(os, "posix_fallocate")


class File:
    """A file without a name, for one array that this rank writes and others read.

    Parameters
    ----------
    size : int
        Length of the array.
    dtype : dtype
        Its dtype.

    Attributes
    ----------
    array : ndarray of shape (size,)
        Zeros; not in a file, where the system has none to give.
    """

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        self.offer = np.zeros(OFFER, np.int64)
        self._descriptor = -1
        n_bytes = size * dtype.itemsize
        try:
            if not AVAILABLE:
                raise OSError("this system has no such files")
            self._descriptor = os.memfd_create(NAME, os.MFD_CLOEXEC)
            # Not its length alone: a page that can't be had would kill the process.
            os.posix_fallocate(self._descriptor, 0, n_bytes + MARK)
            memory = mmap.mmap(self._descriptor, n_bytes + MARK)
        except OSError:
            self.close()
            self.array: Array = np.zeros(size, dtype)
            return
        mark = secrets.token_bytes(MARK)
        memory[n_bytes:] = mark
        self.array = np.frombuffer(memory, dtype, size)
        self.offer[:2] = os.getpid(), self._descriptor
        self.offer[2:] = np.frombuffer(mark, np.int64)

    def close(self) -> None:
        """Offer it no more; who has mapped it goes on. A second call does nothing."""
        self.offer[:] = 0
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with contextlib.suppress(OSError):
                os.close(descriptor)


def look(
    offer: Array, size: int, dtype: np.dtype[Any], write: bool = False
) -> Array | None:
    """Map the array of another rank.

    Parameters
    ----------
    offer : ndarray of shape (OFFER,), int64
        The `File.offer` that the other rank has told.
    size, dtype
        Of its array.
    write : bool
        To be written as well, not only to be read.

    Returns
    -------
    ndarray of shape (size,), or None
        None where it can't be had.
    """
    process, descriptor = map(int, offer[:2])
    if not AVAILABLE or not process:
        return None
    n_bytes = size * dtype.itemsize
    path = f"/proc/{process}/fd/{descriptor}"
    try:
        # On another host that may be anything, even what blocks when it is opened.
        if not os.readlink(path).startswith(f"/memfd:{NAME} "):
            return None
        access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
        with open(path, "r+b" if write else "rb") as file:
            # ValueError: it is another one, and shorter.
            memory = mmap.mmap(file.fileno(), n_bytes + MARK, access=access)
    except (OSError, ValueError):
        return None
    if memory[n_bytes:] != offer[2:].tobytes():
        return None
    return np.frombuffer(memory, dtype, size)
