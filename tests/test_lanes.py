"""The threads of lanes: who helps, who is woken, whose error it is."""

from __future__ import annotations

import threading

import pytest

from skmlp import lanes
from tests.limits import HANG_S


@pytest.fixture
def on(monkeypatch):
    """Give this process so many cores, which BLAS may use."""

    def set_cores(n_cores):
        monkeypatch.setattr(lanes, "usable_cores", lambda: n_cores)
        monkeypatch.setattr(lanes, "blas_threads_allowed", lambda: n_cores)

    yield set_cores
    assert [t for t in threading.enumerate() if t.name.startswith("skmlp-lane")] == []
    assert lanes.CORES.taken() == 0


def test_helpers_do_help(on):
    on(3)
    there, seen = threading.Barrier(3), []

    def meet(lane):
        there.wait(HANG_S)
        seen.append((lane, threading.current_thread().name))

    team = lanes.Lanes(3)
    for _ in range(3):
        team.run(meet)
        there.reset()
    team.close()
    assert {lane for lane, _ in seen} == {0, 1, 2}
    assert {name for lane, name in seen if lane} == {"skmlp-lane-1", "skmlp-lane-2"}


@pytest.mark.parametrize("lane", [0, 1])
def test_what_is_shared_fails_with_its_own_error(lane, on):
    on(2)
    both, done = threading.Barrier(2), []
    names = {0: threading.current_thread().name, 1: "skmlp-lane-1"}

    def work(part):
        both.wait(HANG_S)
        if threading.current_thread().name == names[lane]:
            raise ZeroDivisionError(f"in lane {lane}")
        done.append(part)

    team = lanes.Lanes(2)
    with pytest.raises(ZeroDivisionError, match=f"in lane {lane}"):
        team.share(work)
    team.close()
    assert len(done) == 1


def test_each_part_is_done_once(on):
    on(3)
    team, done = lanes.Lanes(3), []
    for _ in range(20):
        team.share(done.append)
    team.close()
    assert sorted(done) == sorted([0, 1, 2] * 20)


def test_a_helper_that_sleeps_is_woken(on):
    on(2)
    team, ran = lanes.Lanes(2), threading.Event()

    def note(lane):
        if lane:
            ran.set()

    for _ in range(3):
        team.run(note)
        assert ran.wait(HANG_S)
        helper = team._helpers[0]
        # It has given up looking when it has set the lowest bit.
        while not helper._counter[0] & 1:
            threading.Event().wait(0.001)
        ran.clear()
    team.close()
