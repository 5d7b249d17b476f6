"""The threads of lanes: who helps, who is woken, whose error it is."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from skmlp import MLPClassifier, testing
from skmlp.kernels import step_threads
from tests.laws.test_lanes import PARAMETERS, X, Y, fitted, same_bits
from tests.limits import HANG_S


@pytest.fixture
def on(monkeypatch):
    """Give this process so many cores, which BLAS may use."""

    def set_cores(n_cores):
        monkeypatch.setattr(step_threads, "usable_cores", lambda: n_cores)
        monkeypatch.setattr(step_threads, "blas_threads_allowed", lambda: n_cores)

    yield set_cores
    assert [t for t in threading.enumerate() if t.name.startswith("skmlp-step")] == []
    assert step_threads.CORES.taken() == 0


def test_helpers_do_help(on):
    on(3)
    there, seen = threading.Barrier(3), []

    def meet(lane):
        there.wait(HANG_S)
        seen.append((lane, threading.current_thread().name))

    team = step_threads.StepThreads(3)
    for _ in range(3):
        team.run(meet)
        there.reset()
    team.close()
    assert {lane for lane, _ in seen} == {0, 1, 2}
    assert {name for lane, name in seen if lane} == {"skmlp-step-1", "skmlp-step-2"}


@pytest.mark.parametrize("lane", [0, 1])
def test_what_is_shared_fails_with_its_own_error(lane, on):
    on(2)
    both, done = threading.Barrier(2), []
    names = {0: threading.current_thread().name, 1: "skmlp-step-1"}

    def work(part):
        both.wait(HANG_S)
        if threading.current_thread().name == names[lane]:
            raise ZeroDivisionError(f"in lane {lane}")
        done.append(part)

    team = step_threads.StepThreads(2)
    with pytest.raises(ZeroDivisionError, match=f"in lane {lane}"):
        team.share(work)
    team.close()
    assert len(done) == 1


def test_each_part_is_done_once(on):
    on(3)
    team, done = step_threads.StepThreads(3), []
    for _ in range(20):
        team.share(done.append)
    team.close()
    assert sorted(done) == sorted([0, 1, 2] * 20)


def test_a_helper_that_sleeps_is_woken(on):
    on(2)
    team, ran = step_threads.StepThreads(2), threading.Event()

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


def test_fits_share_the_cores():
    """A second fit of the process finds no core free, and has the same bits."""
    counts, take = [], step_threads.CORES.take

    def counting(owner, wanted):
        counts.append(take(owner, wanted))
        return counts[-1]

    with (
        testing.step_threads(2, 2),
        ThreadPoolExecutor(4) as pool,
        pytest.MonkeyPatch.context() as patch,
    ):
        alone = fitted()
        patch.setattr(step_threads.CORES, "take", counting)
        for model in pool.map(lambda _: fitted(), range(8)):
            same_bits(model, alone)
    assert set(counts) <= {0, 1}


def test_an_interrupt_before_a_run_waits_for_the_helper(monkeypatch):
    """The helper has been told; it must have left the parameters when fit returns."""
    entered, left = threading.Event(), threading.Event()
    tell = step_threads._Helper.tell

    def hold(self, job):
        if job is not None:
            function, arguments, keep = job

            def slowly(*given):
                entered.set()
                interrupted.wait(HANG_S)
                function(*given)
                left.set()

            job = slowly, arguments, keep
        tell(self, job)
        if job is not None:
            assert entered.wait(HANG_S)
            interrupted.set()
            raise KeyboardInterrupt

    interrupted = threading.Event()
    monkeypatch.setattr(step_threads._Helper, "tell", hold)
    with (
        testing.step_threads(2, 2),
        pytest.warns(UserWarning, match="interrupted"),
    ):
        model = MLPClassifier(**PARAMETERS).fit(X, Y)
    assert left.is_set()
    # The first run of so few rows is not worth a thread.
    assert model.n_iter_ == 1
    monkeypatch.undo()
    with testing.step_threads(2, 2):
        same_bits(model, fitted(max_iter=1))
