"""Several threads at the parts of one step, in compiled code: claims, and waits.

A step goes through phases, and each phase has one task for each part of the step. A
thread does the task of its own part first, and then those that nobody has claimed. So
one that comes late, or whose core is taken away, keeps the others waiting for no more
than the task that it is at; and what is computed does not depend on who does it.

A part has two counters, int64, each in a cache line of its own: the last phase whose
task was claimed, and the last one whose task is done. A phase begins when all tasks of
the one before are done, so nobody can claim the task of another phase than the present
one, however late he is.

Between two runs of steps a helper polls its counter of runs for a while; then it falls
asleep. The counter holds twice the number of the last run that was posted, plus one if
the helper has fallen asleep since: then it must be woken. Both sides change it by one
atomic instruction each, so they always agree. Posting releases what was written before
and reading acquires it, which holds on processors that reorder memory (ARM, POWER).
"""

# mypy cannot see what numba infers.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

import numpy as np

from skmlp.arrays import Array
from skmlp.kernels.atomics import load, pause, replace, swap, yield_core
from skmlp.kernels.jit import compiled, inner

#: Bytes from one counter to the next: two cache lines, since some processors fetch
#: pairs. A part has two, of which the second one says what is done.
_SPACING = 128
DONE = _SPACING
COUNTERS = 2 * _SPACING

#: Looks before the core is offered to others: some microseconds.
LOOKS = 64


def counters(number: int) -> Array:
    """Make so many counters, of which the first begins a line."""
    each = _SPACING // 8
    room = np.zeros((number + 1) * each, np.int64)
    first = -room.ctypes.data % _SPACING // 8
    return room[first : first + number * each]


@inner
def wait_for(counter: int, number: int) -> None:
    """Wait until a counter has come to a number."""
    n_looks = 0
    while load(counter) < number:
        n_looks += 1
        if n_looks % LOOKS:
            pause()
        else:
            yield_core()


@compiled
def publish(counter: int, number: int) -> bool:
    """Post a run, larger than all before; whether the helper sleeps and must be woken.

    `counter` is the address of the helper's counter of runs.
    """
    held: int = swap(counter, 2 * number)
    return held & 1 == 1


@inner
def fall_asleep(counter: int, number: int) -> bool:
    """Mark in a counter that its helper sleeps, unless a run has been posted."""
    held = load(counter)
    while held < 2 * number:
        if replace(counter, held, held | 1):
            return True
        held = load(counter)
    return False


@compiled
def attend(counter: int, number: int, patience: int) -> bool:
    """Wait for a run; return whether the caller gave up and will be woken for it.

    `counter` is the address of the helper's counter of runs; `patience` says how often
    to look between two offers of the core.
    """
    for _ in range(patience):
        for _ in range(LOOKS):
            if load(counter) >= 2 * number:
                return False
            pause()
        yield_core()
    asleep: bool = fall_asleep(counter, number)
    return asleep
