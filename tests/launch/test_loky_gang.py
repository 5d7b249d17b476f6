"""What only a gang of processes does: maps data, takes turns, checks its processes."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
import scipy.sparse
from joblib import parallel_config

from skmlp.comm.handshake import Refused
from skmlp.launch.loky import process_group
from skmlp.launch.loky.pool_lock import PoolLock
from skmlp.training.protocol import Message
from tests.launch.launchers import facts, leaving_nothing, start
from tests.launch.servants import ECHO, Data, Plan, checksum
from tests.limits import HANG_S


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where joblib puts its files; empty again at the end."""
    folder = tmp_path / "joblib"
    folder.mkdir()
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(folder))
    with leaving_nothing(folder):
        yield folder


def big_data() -> Data:
    """Dense and sparse rows, whose arrays but one are larger than a MB."""
    dense = np.asfortranarray(np.arange(200_000.0).reshape(1000, 200))
    sparse = scipy.sparse.csr_matrix(dense + 1.0)
    assert [a.nbytes > 1 << 20 for a in (sparse.data, sparse.indices)] == [True, False]
    indices = scipy.sparse.random(3000, 3000, 0.05, "csr", random_state=0)
    assert min(indices.data.nbytes, indices.indices.nbytes) > 1 << 20
    return Data(dense, indices)


@pytest.mark.parametrize("cycle", [False, True])
def test_large_arrays_are_mapped_and_their_files_go_with_the_gang(folder, cycle):
    data = big_data()
    with start("processes", plan=Plan(cycle=cycle), data=data) as gang:
        for row in facts(gang):
            assert (row["mapped"], row["writeable"]) == (3, 0)
            assert row["checksum"] == checksum(data)
        files = [name for _, _, names in os.walk(folder) for name in names]
        assert len(files) == 3


def test_the_settings_of_joblibs_context_hold(folder):
    data = big_data()
    with parallel_config("loky", max_nbytes=None), start("processes", data=data) as g:
        assert [(row["mapped"], row["writeable"]) for row in facts(g)] == [(0, 3)] * 2


def test_ranks_in_one_process_are_refused(folder):
    with pytest.raises(RuntimeError, match="a process of its own"):
        start("processes", backend="threading")


def test_ranks_that_would_compute_other_bits_are_refused(folder, monkeypatch):
    monkeypatch.setattr(process_group, "own_fingerprint", lambda: bytes(32))
    with pytest.raises(Refused, match="its fingerprint differs"):
        start("processes")


def test_what_is_larger_than_agreed_is_refused(folder):
    with start("processes", max_bytes=100) as gang:
        gang.request(Message(ECHO, (np.ones(12),)))
        with pytest.raises(ValueError, match="more than the 100 that were agreed"):
            gang.request(Message(ECHO, (np.ones(13),)))
        gang.request(Message(ECHO, (np.ones(12),)))


def test_one_thread_has_one_gang_of_processes_at_a_time(folder):
    with start("processes"):
        with pytest.raises(RuntimeError, match="has a group of processes open"):
            start("processes")
        waited: list[BaseException] = []

        def other() -> None:
            try:
                start("processes", turn_limit=0.1)
            except RuntimeError as error:
                waited.append(error)

        thread = threading.Thread(target=other, name="second")
        thread.start()
        thread.join(HANG_S)
        (error,) = waited
        assert "'second' waited 0.1 s" in str(error)
        assert "'MainThread' hold:" in str(error)
    with start("processes") as gang:
        gang.request(Message(ECHO))


def test_turns_are_taken_one_after_another():
    turn, inside, most = PoolLock(), [], []

    def work() -> None:
        token = turn.acquire(20)
        inside.append(token)
        most.append(len(inside))
        time.sleep(0.001)
        inside.remove(token)
        turn.release(token)
        turn.release(token)  # a second word changes nothing

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert most == [1] * 8
