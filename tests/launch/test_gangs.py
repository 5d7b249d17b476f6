"""What all launchers of one host promise, as laws over launchers and shard layouts."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config
from joblib.parallel import SequentialBackend, ThreadingBackend

from skmlp.threads import blas_threads_now
from skmlp.training.protocol import Message
from tests.launch.launchers import (
    GANGS,
    ONE_EACH,
    PAIRS,
    an_order,
    facts,
    leaving_nothing,
    start,
)
from tests.launch.servants import ADD, ECHO, FAIL, Data, Plan, ServantError, Unpicklable
from tests.limits import HANG_S


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path, monkeypatch):
    folder = tmp_path / "joblib"
    folder.mkdir()
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(folder))
    with leaving_nothing(folder):
        yield


@pytest.mark.parametrize(("where", "holders"), GANGS)
def test_all_ranks_work_together_and_keep_their_state(where, holders):
    x = np.arange(5.0)
    sum_of_shards = sum(range(1, len(holders) + 1))
    with start(where, holders) as gang:
        assert (gang.where, gang.shards.holders) == (where, holders)
        assert gang.last_commit() is None
        for k in (1, 2, 3):
            (flat,) = gang.request(Message(ADD, (x,))).arrays
            np.testing.assert_array_equal(flat, k * sum_of_shards * x)
    # The supervisor reads the last state when the ranks are gone.
    (flat,) = gang.last_commit().arrays
    np.testing.assert_array_equal(flat, 3 * sum_of_shards * x)


@pytest.mark.parametrize(("where", "holders"), ONE_EACH)
def test_the_lead_answers_with_what_arrived(where, holders):
    arrays = (
        np.arange(1_000_003.0),
        np.array([-1, 2**62]),
        np.empty(0),
        np.ones(3, dtype=np.float32),
    )
    with start(where, holders) as gang:
        for sent in (arrays, (), arrays[2:]):
            got = gang.request(Message(ECHO, sent)).arrays
            assert [a.dtype for a in got] == [a.dtype for a in sent]
            for ours, theirs in zip(sent, got, strict=True):
                np.testing.assert_array_equal(ours, theirs)
                # Within a process nothing is copied.
                assert (ours is theirs) == (where != "processes")


@pytest.mark.parametrize(("where", "holders"), GANGS)
def test_ranks_live_where_they_should_under_the_limit_asked_for(where, holders):
    with start(where, holders, blas_threads=1) as gang:
        told = facts(gang)
        if where != "processes":
            assert blas_threads_now() in (1, None)
    pids = {told[k]["pid"] for k in range(len(holders))}
    if where == "processes":
        assert len(pids) == max(holders) + 1
        assert os.getpid() not in pids
        assert all(row["sigint_ignored"] for row in told)
    else:
        assert pids == {os.getpid()}
    assert {row["blas"] for row in told} <= {0, 1}


@pytest.mark.parametrize("error", [ServantError, Unpicklable])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("where", "holders"), PAIRS)
def test_an_error_of_the_servant_is_the_first_cause(where, holders, rank, error):
    # What can't be pickled is told of by a RuntimeError.
    travels = where != "processes" or error is ServantError
    kind = error if travels else RuntimeError
    with pytest.raises(kind, match=f"{rank}.*not built") as caught:
        start(where, holders, Plan(fails=rank, error=error))
    if not travels:
        assert "Unpicklable" in str(caught.value)
    with start(where, holders, Plan(error=error)) as gang:
        gang.request(Message(ADD, (np.ones(5),)))
        with pytest.raises(kind, match=f"{rank}.*not handled"):
            gang.request(an_order(FAIL, rank))
        with pytest.raises(RuntimeError, match=r"serves no more.*not handled"):
            gang.request(Message(ECHO))
    with start(where, holders) as gang:
        gang.request(Message(ECHO))


def test_in_process_an_error_is_raised_as_it_is():
    with pytest.raises(ServantError, match="not built"):
        start("in process", plan=Plan(fails=0), blas_threads=1)
    with start("in process", blas_threads=1) as gang:
        with pytest.raises(ServantError, match="not handled"):
            gang.request(an_order(FAIL, 0))
        gang.request(Message(ECHO))


@pytest.mark.parametrize(("where", "holders"), ONE_EACH)
def test_a_closed_gang_is_closed(where, holders):
    gang = start(where, holders)
    gang.close()
    gang.close()
    with pytest.raises(RuntimeError, match="been closed"):
        gang.request(Message(ECHO))
    assert gang.last_commit() is None


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("where", "holders"), ONE_EACH)
def test_the_data_are_let_go(where, holders, fails):
    data = Data(np.arange(9.0))
    watch = weakref.ref(data)
    gang = start(where, holders, data=data)
    del data
    if fails:
        with pytest.raises(ServantError):
            gang.request(an_order(FAIL, 0))
    gang.close()
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize(("where", "holders"), ONE_EACH)
def test_a_gang_that_is_dropped_ends(where, holders):
    before = set(threading.enumerate())
    gang = start(where, holders)
    mine = [t for t in threading.enumerate() if t.name.startswith("skmlp-")]
    assert bool(mine) == (where != "in process")
    del gang
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        if thread.name not in ("ExecutorManagerThread", "QueueFeederThread"):
            thread.join(HANG_S)
            assert not thread.is_alive(), thread


def test_threads_run_in_the_callers_context_and_have_names():
    with np.errstate(all="raise"), start("threads", (0, 1, 2)) as gang:
        names = {t.name for t in threading.enumerate()}
        assert names >= {f"skmlp-rank-{k}" for k in range(3)} | {"skmlp-joblib"}
        with pytest.raises(FloatingPointError):
            gang.request(Message(ADD, (np.full(5, 1e308),)))


@pytest.mark.parametrize(("where", "holders"), PAIRS)
def test_ranks_that_would_run_one_after_another_are_refused(where, holders):
    with pytest.raises(RuntimeError, match="2 ranks one after another"):
        start(where, holders, backend=SequentialBackend(nesting_level=2))


class Narrow(ThreadingBackend):
    """A backend that has two workers, whatever it is asked for."""

    def configure(self, n_jobs=1, parallel=None, **options):
        return super().configure(2, parallel, **options)


def test_a_rank_without_a_worker_is_missed():
    with pytest.raises(RuntimeError, match=r"rank 2 of 3 had not begun after 0\.3 s"):
        start("threads", (0, 1, 2), backend=Narrow(), start_limit=0.3)


@pytest.mark.parametrize(("where", "holders"), PAIRS)
def test_the_active_backend_stays_free_for_the_caller(where, holders):
    backend = {"threads": "threading", "processes": "loky"}[where]
    with parallel_config(backend), start(where, holders) as gang:
        gang.request(Message(ADD, (np.ones(5),)))
        if where == "threads":
            assert Parallel(n_jobs=2)(delayed(abs)(-k) for k in range(4)) == [*range(4)]
        (flat,) = gang.request(Message(ADD, (np.ones(5),))).arrays
        np.testing.assert_array_equal(flat, np.full(5, 6.0))


@pytest.mark.parametrize(("where", "holders"), PAIRS)
def test_gangs_of_several_threads_do_not_disturb_each_other(where, holders):
    results: dict[int, list[float]] = {}

    def fit(k: int) -> None:
        with start(where, holders, blas_threads=1) as gang:
            answers = [
                gang.request(Message(ADD, (np.full(5, k + 1.0),))) for _ in range(5)
            ]
        results[k] = [float(a.arrays[0][0]) for a in answers]

    threads = [threading.Thread(target=fit, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert results == {
        k: [3 * (k + 1) * n for n in range(1, 6)] for k in range(len(threads))
    }
