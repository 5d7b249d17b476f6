"""Processes that are killed or stopped, drivers that die, Ctrl-C: no hang, no rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from skmlp.launch.loky import control_channel
from skmlp.training.protocol import Message, RankFailed, RankGroup
from tests.launch.launchers import ONE_EACH, an_order, facts, leaving_nothing, start
from tests.launch.servants import ADD, ECHO, KILL, TURN, Plan
from tests.limits import HANG_S

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="the faults are signals that Windows does not have"
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path, monkeypatch):
    folder = tmp_path / "joblib"
    folder.mkdir()
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(folder))
    with leaving_nothing(folder):
        yield


def pids_of(gang: RankGroup) -> list[int]:
    return [int(row["pid"]) for row in facts(gang)]


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid)


def eventually(condition: Callable[[], bool], what: str, limit: float = HANG_S) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {limit:g} s"
        time.sleep(0.02)


def interrupted_after(seconds: float, work: Callable[[], object]) -> None:
    """Press Ctrl-C once, soon, in the midst of `work`, or before it has begun."""
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGINT))
    # No context manager: Ctrl-C may fall between its yield and the block.
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        timer.start()
        work()
    timer.join(HANG_S)


# ---- Killed and stopped ------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_is_named_and_the_next_gang_works(rank):
    with start("processes") as gang:
        pids = pids_of(gang)
        with pytest.raises(RankFailed, match=f"rank {rank} .process {pids[rank]}. is"):
            gang.request(an_order(KILL, rank))
    with start("processes") as gang:
        assert not set(pids) & set(pids_of(gang))


def test_a_process_that_is_killed_between_two_messages_is_named():
    with start("processes") as gang:
        (pid, _) = pids_of(gang)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(pid), "the end of the process")
        with pytest.raises(RankFailed, match=f"rank 0 .process {pid}. is gone"):
            gang.request(Message(ECHO))


def test_the_process_that_was_killed_is_named_whatever_the_order_of_the_looks():
    """The selector may show the ones first that loky has killed since."""
    with start("processes") as gang:
        pids = pids_of(gang)
        os.kill(pids[0], signal.SIGKILL)
        for pid in pids:
            eventually(partial(ended, pid), f"the end of process {pid}")
        look = gang._channel._selector.select
        gang._channel._selector.select = lambda limit=None: look(limit)[::-1]
        with pytest.raises(RankFailed, match=f"rank 0 .process {pids[0]}. is gone"):
            gang.request(Message(ECHO))


def test_a_process_that_ends_while_it_builds_is_named():
    with pytest.raises(RankFailed, match=r"rank 1 \(process \d+\) is gone"):
        start("processes", plan=Plan(exit=1))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_multiprocessing_notices_no_death_but_the_gang_does(monkeypatch):
    monkeypatch.setattr(control_channel, "CAUSE_LIMIT_S", 0.5)
    with start("processes", backend="multiprocessing") as gang:
        (flat,) = gang.request(Message(ADD, (np.ones(5),))).arrays
        np.testing.assert_array_equal(flat, np.full(5, 3.0))
        pids = pids_of(gang)
        with pytest.raises(RankFailed, match=f"rank 1 .process {pids[1]}. is gone"):
            gang.request(an_order(KILL, 1))
    assert not any(map(psutil.pid_exists, pids))


def test_a_stopped_process_counts_as_lost_after_the_limit(monkeypatch):
    monkeypatch.setattr(control_channel, "CAUSE_LIMIT_S", 0.5)
    with start("processes", step_limit=5.0) as gang:
        pids = pids_of(gang)
        os.kill(pids[1], signal.SIGSTOP)
        with pytest.raises(RankFailed, match=r"rank 0.*rank 1"):
            gang.request(Message(ADD, (np.ones(5),)))
    assert not any(map(psutil.pid_exists, pids))


def test_a_rank_that_works_without_a_word_is_killed_at_the_end():
    gang = start("processes", (0,), plan=Plan(), close_limit=3.0)
    (pid,) = pids_of(gang)
    os.kill(pid, signal.SIGSTOP)
    gang.close()
    assert not psutil.pid_exists(pid)


# ---- Ctrl-C ------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "holders"), ONE_EACH)
def test_an_interrupt_ends_the_ranks(where, holders):
    """In this process the request is finished; two processes that turn are ended."""
    with start(where, holders) as gang:
        gang.request(Message(ADD, (np.ones(5),)))
        interrupted_after(0.2, lambda: gang.request(Message(TURN)))
        answer = gang.finish_epoch()
        assert (answer is None) == (where == "processes")
        assert answer is None or np.all(answer.arrays[0] > 1)
    with start(where, holders) as gang:
        gang.request(Message(ECHO))


def test_in_process_the_second_interrupt_ends_a_request_at_once():
    pressed = []

    def press_again() -> None:
        pressed.append(signal.getsignal(signal.SIGINT))
        signal.raise_signal(signal.SIGINT)

    with start("in process") as gang:
        gang._worker.pause = press_again
        interrupted_after(0.2, lambda: gang.request(Message(TURN)))
        assert gang.finish_epoch() is None
    assert pressed != [signal.default_int_handler]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.03, 0.1])
@pytest.mark.parametrize(("where", "holders"), ONE_EACH[1:])
def test_an_interrupt_at_the_start_leaves_nothing(where, holders, seconds):
    def work() -> None:
        with start(where, holders) as gang:
            gang.request(Message(TURN))

    interrupted_after(seconds, work)


# ---- The driver --------------------------------------------------------------------

DRIVER = """
import os, signal, sys
from skmlp.training.protocol import Message
from tests.launch.launchers import facts, start
from tests.launch.servants import TURN

def pids(gang):
    return [int(row["pid"]) for row in facts(gang)]

with start("processes") as gang:
    try:
        print(*pids(gang), flush=True)
        gang.request(Message(TURN))
    except KeyboardInterrupt:
        gang.close()
with start("processes") as gang:
    print(*pids(gang), flush=True)
"""


class Driver:
    """A process in a session of its own, with a gang that turns until it is ended."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.ranks = [int(pid) for pid in self.process.stdout.readline().split()]

    def end(self) -> None:
        self.process.kill()
        # joblib's resource tracker ends after its workers, and cleans up.
        for pid in self.ranks:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate(timeout=HANG_S)


@pytest.fixture
def driver():
    driver = Driver()
    yield driver
    driver.end()


def test_the_ranks_of_a_driver_that_dies_end(driver):
    assert len(driver.ranks) == 2
    assert not any(map(ended, driver.ranks))
    driver.process.kill()
    for rank in driver.ranks:
        eventually(partial(ended, rank), f"the end of process {rank}")


def test_ctrl_c_in_a_terminal_is_left_to_the_driver(driver):
    os.killpg(driver.process.pid, signal.SIGINT)
    out, _ = driver.process.communicate(timeout=HANG_S)
    assert driver.process.returncode == 0, out
    assert sorted(map(int, out.split())) == sorted(driver.ranks)
