"""A helper's counter of runs: both sides agree on every sleep and every wake-up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import pytest

from skmlp.kernels import sync as kernels
from tests.limits import HANG_S


class End:
    """One end of a pair: it posts at one counter, and waits at another."""

    def __init__(self, ours, theirs):
        self._memory = ours, theirs
        self._ours, self._theirs = ours.ctypes.data, theirs.ctypes.data

    def publish(self, number):
        return kernels.publish(self._ours, number)

    def wait(self, number, patience):
        return kernels.attend(self._theirs, number, patience)


@pytest.fixture
def ends():
    one, other = kernels.counters(1), kernels.counters(1)
    return End(one, other), End(other, one)


def test_what_is_there_is_found_and_wakes_no_thread(ends):
    one, other = ends
    for number in (1, 2, 5):
        assert not one.publish(number)
        assert not other.wait(number, 1)
    assert not other.wait(3, 1)  # the other end may be one run ahead


def test_a_thread_that_has_fallen_asleep_is_woken_once(ends):
    one, other = ends
    one.publish(1)
    assert other.wait(2, 1)
    assert one.publish(2)
    assert not other.wait(2, 1)
    assert not one.publish(3)
    assert not other.wait(3, 1)


@pytest.mark.parametrize("patience", [0, 1, 100])
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
                assert messages[me].get(timeout=HANG_S) == number
            # The other one may be writing for its next run.
            assert (data[1 - me] >= number).all()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(rank, (0, 1)))
    assert messages[0].empty()
    assert messages[1].empty()
    assert any(n_sleeps) or patience
