"""What all launchers of one host promise, as laws over launchers and shard layouts."""

from __future__ import annotations

import gc
import os
import threading
import weakref

import numpy as np
import pytest
from joblib.parallel import SequentialBackend

from skmlp.threads import blas_threads_now
from skmlp.training.protocol import Message
from tests.launch.launchers import (
    GANGS,
    ONE_EACH,
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
        for k in (1, 2, 3):
            (flat,) = gang.request(Message(ADD, (x,))).arrays
            np.testing.assert_array_equal(flat, k * sum_of_shards * x)


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
def test_an_error_of_the_servant_is_the_first_cause(rank, error):
    # What can't be pickled is told of by a RuntimeError.
    kind = error if error is ServantError else RuntimeError
    with pytest.raises(kind, match=f"{rank}.*not built") as caught:
        start("processes", plan=Plan(fails=rank, error=error))
    if error is Unpicklable:
        assert "Unpicklable" in str(caught.value)
    with start("processes", plan=Plan(error=error)) as gang:
        gang.request(Message(ADD, (np.ones(5),)))
        with pytest.raises(kind, match=f"{rank}.*not handled"):
            gang.request(an_order(FAIL, rank))
        with pytest.raises(RuntimeError, match=r"serves no more.*not handled"):
            gang.request(Message(ECHO))
    with start("processes") as gang:
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
    assert gang.finish_epoch() is None


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


def test_ranks_that_would_run_one_after_another_are_refused():
    with pytest.raises(RuntimeError, match="2 ranks one after another"):
        start("processes", backend=SequentialBackend(nesting_level=2))


@pytest.mark.parametrize(
    ("where", "holders"), [("in process", (0, 0)), ("processes", (0, 1))]
)
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
