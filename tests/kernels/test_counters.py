"""Counters in shared memory: who publishes and who waits agree on every message."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import pytest

from skmlp.comm import shared
from skmlp.kernels import compiled_counters as kernels

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        not shared.AVAILABLE, reason="without shared memory nobody counts"
    ),
]

LIMIT = 30.0  # seconds for a message: without it, a test would hang


class End:
    """One end of a pair: it counts in one place, and looks at another."""

    def __init__(self, memory, ours, theirs):
        self._memory = memory
        self._ours = np.array([memory[ours:].ctypes.data], np.intp)
        self._theirs = np.array([memory[theirs:].ctypes.data], np.intp)
        self._owed, self._asleep = np.zeros((2, 1), np.int64)
        self._room = np.zeros(3, np.int64)

    def publish(self, number):
        n_owed = kernels.publish(self._ours, number, self._owed)
        assert n_owed == self._owed[0]
        return n_owed

    def wait(self, number, nanoseconds):
        n_owed = kernels.wait(
            self._theirs, number, nanoseconds, self._room, self._asleep
        )
        assert n_owed == self._asleep[0]
        return n_owed


@pytest.fixture
def ends():
    memory = np.zeros(32, np.int64)
    return End(memory, 0, 16), End(memory, 16, 0)


def test_what_is_there_is_found_and_owes_nothing(ends):
    one, other = ends
    for number in (1, 2, 5):
        assert one.publish(number) == 0
        assert other.wait(number, 0) == 0
    assert other.wait(3, 0) == 0  # the other end may be one move ahead


def test_who_gives_up_looking_is_owed_one_message(ends):
    one, other = ends
    one.publish(1)
    assert other.wait(2, 1000) == 1
    assert one.publish(2) == 1
    assert other.wait(2, 0) == 0
    assert one.publish(3) == 0
    assert other.wait(3, 0) == 0


@pytest.mark.parametrize("patience", [0, 300, 20_000])
def test_for_each_sleep_there_is_one_message_and_what_was_written_is_seen(
    ends, patience
):
    n_moves, data = 3000, np.zeros((2, 64), np.int64)
    messages = SimpleQueue(), SimpleQueue()
    n_sleeps = [0, 0]

    def rank(me):
        end, rng = ends[me], np.random.default_rng(me)
        for number, pause in enumerate(rng.integers(60, size=n_moves), start=1):
            for _ in range(pause):
                pass
            data[me] = number
            if end.publish(number):
                messages[1 - me].put(number)
            if end.wait(number, patience):
                n_sleeps[me] += 1
                assert messages[me].get(timeout=LIMIT) == number
            # The other one may be writing for its next move.
            assert (data[1 - me] >= number).all()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(rank, (0, 1)))
    assert messages[0].empty()
    assert messages[1].empty()
    assert any(n_sleeps) or patience
