"""Counters in memory that several processes share: publish, and wait for the others.

A counter is one int64 in a cache line of its own. It holds twice the number of the last
move that its writer has published, plus one if its reader has gone to sleep since: then
the writer owes it a message. Both change it by one atomic instruction each, so they
always agree on whether there will be one.

Who publishes releases all that it has written, or read, before; who finds the number
acquires it: that is LLVM's, and so C11's, order of memory, and holds on processors that
move loads and stores about (ARM, POWER).
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from skmlp.kernels.atomics import load, pause, replace, swap, yield_core
from skmlp.kernels.cached import cached_njit
from skmlp.kernels.compiled_updates import inner

Array = np.ndarray[Any, np.dtype[Any]]

#: CLOCK_MONOTONIC of Linux, the only system that has memory to share in this way.
_MONOTONIC = 1
#: Nanoseconds without the core after which others count as wanting it: the system lets
#: a program compute for milliseconds on end, and the small jobs of an idle machine are
#: over before.
_TAKEN = 1_000_000
#: Looks at the counters between two looks at the clock: about half a microsecond.
_LOOKS = 32

# Of the C library, which every process has: from compiled code, without the GIL.
_clock_gettime: Any = types.ExternalFunction(
    "clock_gettime", types.int32(types.int32, types.intp)
)

counting = cached_njit()


@counting
def publish(counters: Array, number: int, owed: Array) -> int:
    """Say that this rank's part in a move is ready.

    Parameters
    ----------
    counters : ndarray of shape (n,), intp
        Addresses of the counters that this rank writes.
    number : int
        Of the move: larger than all before.
    owed : ndarray of shape (n,), int64
        Where 1 is written if the reader sleeps and must be sent a message, else 0.

    Returns
    -------
    int
        How many messages are owed.
    """
    n_owed = 0
    for i in range(len(counters)):
        owed[i] = swap(counters[i], 2 * number) & 1
        n_owed += owed[i]
    return n_owed


@counting
def missing(counters: Array, number: int) -> bool:
    """Whether a counter of another rank has not come to a number."""
    for i in range(len(counters)):  # noqa: SIM110 - numba knows no generators in any()
        if load(counters[i]) < 2 * number:
            return True
    return False


@counting
def _now(room: Array) -> int:
    """Nanoseconds of a clock; `room` is an int64 array of two at least."""
    _clock_gettime(_MONOTONIC, room.ctypes.data)
    return int(room[0]) * 1_000_000_000 + int(room[1])


@inner
def fall_asleep(counter: int, number: int) -> bool:
    """Say in a counter that its reader sleeps, unless it has come to a number."""
    held = load(counter)
    while held < 2 * number:
        if replace(counter, held, held | 1):
            return True
        held = load(counter)
    return False


@counting
def wait(
    counters: Array, number: int, nanoseconds: int, room: Array, asleep: Array
) -> int:
    """Look until all counters have come to a number, or the time is up.

    The thread stays awake, but hands its core now and then to whoever wants it; if
    somebody did, it goes to sleep, too.

    Parameters
    ----------
    counters : ndarray of shape (n,), intp
        Addresses of the counters that this rank reads.
    number : int
        Of the move.
    nanoseconds : int
        How long to look; at least one look is taken.
    room : ndarray of shape (3,), int64
        For the clock; the last is set to 1 if others wanted the core, else to 0.
    asleep : ndarray of shape (n,), int64
        Where 1 is written if the counter had not come to the number: its writer now
        knows that a message is owed. Else 0.

    Returns
    -------
    int
        How many messages are owed.
    """
    end = before = 0
    room[2] = 0
    while missing(counters, number):
        for _ in range(_LOOKS):
            pause()
            if not missing(counters, number):
                break
        else:
            now = _now(room)
            if not end:
                end = now + nanoseconds
            elif now - before > _TAKEN:
                room[2] = 1
            if now >= end:
                break
            before = now
            yield_core()
    n_owed = 0
    for i in range(len(counters)):
        asleep[i] = fall_asleep(counters[i], number)
        n_owed += asleep[i]
    return n_owed
