"""Gangs on real Dask workers: orders, errors, several at once, nothing left behind."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections import Counter
from concurrent.futures import CancelledError

import dask.array as da
import numpy as np
import pytest
from distributed import Client, MultiLock

from skmlp.dask.ingest.load_rows import load_rows
from skmlp.dask.ingest.tasks import put_part
from skmlp.dask.rank_group import DaskGroup
from skmlp.dask.worker.tasks import serve_rank
from skmlp.dask.worker_group import Limits
from skmlp.training.protocol import Message, RankFailed
from tests.launch import servants
from tests.launch.dask_clusters import (
    addresses,
    cluster,
    left_behind,
    sockets,
    until,
)
from tests.launch.dask_servants import (
    COUNT,
    N,
    RowPlan,
    Unreadable,
    X,
    Y,
    ask,
    build_on_rows,
    gang_on,
    hold_thread,
    until_turning,
)
from tests.limits import HANG_S

DASK_X = da.from_array(X, chunks=(20, 4))

# ---- Orders ------------------------------------------------------------------------


@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize("n_shards", [1, 2, 3])
def test_answers_depend_on_shards_and_not_on_workers(clean, n_shards, n_workers):
    workers = addresses(clean)[:n_workers]
    x = np.array([0.1, 1, np.pi, -7, 1e-9])
    expected = np.zeros(5)
    with (
        load_rows(clean, X, Y, n_shards=n_shards, workers=workers) as data,
        gang_on(data) as gang,
    ):
        assert gang.shards.n_shards == n_shards
        assert gang.shards.n_ranks == min(n_shards, n_workers)
        assert set(data.group.workers) <= set(workers)
        for _ in range(3):
            total = x * 1
            for shard in range(1, n_shards):
                total = total + x * (shard + 1)
            expected = expected + total
            np.testing.assert_array_equal(ask(gang, servants.ADD, x), expected)


def test_large_messages_travel(clean):
    numbers = (
        np.arange(1_000_000.0),
        np.arange(1_000_000, dtype=np.int64),
        np.ones(3, np.float32),
        np.empty(0),
    )
    with load_rows(clean, X, Y) as data, gang_on(data) as gang:
        answer = gang.request(Message(servants.ECHO, numbers))
        assert answer.op == servants.ECHO
        for sent, back in zip(numbers, answer.arrays, strict=True):
            assert back.dtype == sent.dtype
            np.testing.assert_array_equal(back, sent)


def test_ranks_use_the_threads_of_their_workers():
    with (
        cluster(2, threads=2) as client,
        load_rows(client, X, Y) as data,
        gang_on(data) as gang,
    ):
        facts = ask(gang, servants.FACTS).reshape(2, -1)
        column = servants.COLUMNS.index("blas")
        np.testing.assert_array_equal(facts[:, column], 2)


def test_workers_of_one_process_are_ranks_of_their_own():
    with cluster(2, processes=False) as client:
        for given in (X, DASK_X):
            with load_rows(client, given, Y) as data, gang_on(data) as gang:
                assert gang.shards.n_ranks == 2
                np.testing.assert_array_equal(ask(gang, COUNT), 1)
                message = Message(servants.ECHO, (np.zeros(3),))
                assert gang.request(message).arrays[0] is not message.arrays[0]
        until(lambda: not left_behind(client), "a clean cluster")


# ---- Failures ----------------------------------------------------------------------

ERRORS = [(0, servants.ServantError), (1, ZeroDivisionError), (2, ValueError)]


@pytest.mark.parametrize(("rank", "error"), ERRORS)
def test_an_error_in_build_comes_through_as_itself(clean, rank, error):
    plan = RowPlan(n_rows=N, fails=rank, error=error)
    with load_rows(clean, X, Y) as data:
        with pytest.raises(error, match="not built") as caught:
            gang_on(data, plan=plan)
        assert caught.value.args == (rank, "not built")
        assert "servants.py" in str(caught.value.__cause__)
        with gang_on(data, generation=1) as gang:
            np.testing.assert_array_equal(ask(gang, COUNT), 1)


@pytest.mark.parametrize(("rank", "error"), ERRORS)
def test_an_error_in_handle_comes_through_as_itself(clean, rank, error):
    plan = RowPlan(n_rows=N, error=error)
    with load_rows(clean, X, Y) as data, gang_on(data, plan=plan) as gang:
        with pytest.raises(error, match="not handled") as caught:
            gang.request(Message(servants.FAIL, (np.array([rank]),)))
        assert caught.value.args == (rank, "not handled")
        with pytest.raises(RuntimeError, match="failed"):
            gang.request(Message(COUNT))


def test_an_error_that_cannot_travel_is_told(clean):
    plan = RowPlan(n_rows=N, error=servants.Unpicklable)
    with (
        load_rows(clean, X, Y) as data,
        gang_on(data, plan=plan) as gang,
        pytest.raises(RuntimeError, match="Unpicklable: 1: not handled"),
    ):
        gang.request(Message(servants.FAIL, (np.array([1]),)))


def test_a_task_that_cannot_begin_is_told(clean):
    plan = Unreadable(os.getpid())
    with (
        load_rows(clean, X, Y) as data,
        pytest.raises(ArithmeticError, match="not to be read by workers"),
    ):
        DaskGroup(build_on_rows, plan, data)


def test_a_busy_worker_is_named_when_the_start_takes_too_long(clean, tmp_path):
    (worker, *_) = addresses(clean)
    flag = tmp_path / "free"
    with load_rows(clean, X, Y) as data:
        busy = clean.submit(hold_thread, flag, workers=[worker], pure=False)
        until(lambda: clean.processing()[worker], "a busy worker")
        with pytest.raises(
            RankFailed, match=rf"not ready within 0.5 s because of {worker}:"
        ):
            gang_on(data, limits=Limits(start=0.5, settle=0.5))
        flag.touch()
        busy.result(timeout=HANG_S)
        with gang_on(data, generation=1) as gang:
            np.testing.assert_array_equal(ask(gang, COUNT), 1)


def test_an_interrupt_frees_the_workers(clean):
    with load_rows(clean, X, Y) as data, gang_on(data) as gang:
        timer = threading.Timer(0, interrupt_when_turning, [clean])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            gang.request(Message(servants.TURN))
        timer.join()
        assert gang.finish_epoch() is None  # these ranks turn for ever
        with pytest.raises(RuntimeError, match="interrupted"):
            gang.request(Message(COUNT))
    gang.close()


def interrupt_when_turning(client):
    until_turning(client)
    press_ctrl_c()


# ---- Several at once ---------------------------------------------------------------


def test_two_gangs_take_turns_on_the_same_workers(clean):
    """In opposite order, where tasks alone would wait crosswise for ever."""
    workers = addresses(clean)
    finished = []

    def fit(order, n_asks):
        with load_rows(clean, X, Y, workers=order) as data, gang_on(data) as gang:
            for _ in range(n_asks):
                ask(gang, servants.ADD, np.ones(5))
            finished.append(ask(gang, COUNT))

    threads = [
        threading.Thread(target=fit, args=(order, 5))
        for order in (workers, workers[::-1]) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=HANG_S)
    assert len(finished) == 4
    np.testing.assert_array_equal(finished, 1)


def test_who_waits_is_told_for_whom(clean):
    workers = addresses(clean)
    with load_rows(clean, X, Y) as first, load_rows(clean, X, Y) as second:
        names = [data.group.run[:8] for data in (first, second)]
        with (
            gang_on(first),
            pytest.raises(
                RankFailed,
                match=f"{names[1]}.* waits .* held by fit {names[0]}",
            ),
        ):
            gang_on(second, limits=Limits(lock=0.2))
        with (
            MultiLock(workers[1:2]),
            pytest.raises(
                RankFailed, match=r"by something else than skmlp, in vain for 0\.2 s"
            ),
        ):
            gang_on(second, limits=Limits(lock=0.2))
        with gang_on(second) as gang:
            np.testing.assert_array_equal(ask(gang, COUNT), 1)


def test_who_holds_locks_waits_for_no_other(clean):
    """Two fits that each want a worker of the other go on without it."""
    workers = addresses(clean)
    with (
        load_rows(clean, X, Y, workers=workers[:1]) as first,
        load_rows(clean, X, Y, workers=workers[1:2]) as second,
        gang_on(first, keeps_locks=True),
    ):
        run = first.group.rpc.run
        with gang_on(second):
            assert not run(first.locks.take(first.group, workers[1]))
            assert not run(second.locks.take(second.group, workers[0]))
        assert run(first.locks.take(first.group, workers[1]))
        assert run(first.locks.take(first.group, workers[1]))
        run(first.locks.release(first.group, workers[1]))
        with gang_on(second, limits=Limits(lock=5.0)) as gang:
            np.testing.assert_array_equal(ask(gang, COUNT), 1)


def test_an_interrupt_of_the_wait_takes_the_request_back(clean):
    (name, *_) = addresses(clean)
    with load_rows(clean, X, Y) as data:
        with MultiLock([name]):
            timer = threading.Timer(0, interrupt_when_waiting, [clean, name])
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                gang_on(data)
            timer.join()
        with gang_on(data) as gang:
            np.testing.assert_array_equal(ask(gang, COUNT), 1)


@pytest.mark.parametrize("blocked", [[], ["run_function"]], ids=str)
def test_a_request_that_was_never_made_is_taken_back(
    clean, caplog, monkeypatch, blocked
):
    """As of a fit that loses a worker before the request goes out."""
    monkeypatch.setattr(clean.cluster.scheduler, "blocked_handlers", blocked)
    with load_rows(clean, X, Y) as data, gang_on(data, keeps_locks=True):
        data.locks.requests["never made"] = data.group.workers
        logger = logging.getLogger("distributed")
        logger.addHandler(caplog.handler)
        data.group.rpc.run(data.locks.release(data.group))
        logger.removeHandler(caplog.handler)
        errors = [one for one in caplog.records if one.levelno >= logging.ERROR]
        # Dask's own call raises in the scheduler.
        assert bool(errors) == bool(blocked), errors


def press_ctrl_c():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def interrupt_when_waiting(client, name):
    def queue(dask_scheduler):
        return len(dask_scheduler.extensions["multi_locks"].locks[name])

    until(lambda: client.run_on_scheduler(queue) == 2, "a request in the queue")
    press_ctrl_c()


# ---- Nothing left behind -----------------------------------------------------------


def test_gangs_leave_no_sockets(clean):
    def use():
        with load_rows(clean, X, Y) as data, gang_on(data) as gang:
            ask(gang, COUNT)

    use()
    until(lambda: not left_behind(clean), "a clean cluster")
    before = sockets(clean)
    for _ in range(5):
        use()
    until(lambda: not left_behind(clean), "a clean cluster")
    assert sockets(clean) == before


def test_gangs_leave_no_objects(clean):
    """Dask holds on to much that it was ever handed: to handlers, for one."""

    def alive() -> Counter[str]:
        gc.collect()
        kinds = map(type, gc.get_objects())
        return Counter(str(k) for k in kinds if str(k.__module__).startswith("skmlp."))

    def use() -> dict[str, Counter[str]]:
        with load_rows(clean, X, Y) as data, gang_on(data) as gang:
            ask(gang, COUNT)
        until(lambda: not left_behind(clean), "a clean cluster")
        return dict(clean.run(alive))

    use()
    before = use()
    use()
    until(lambda: use() == before, "as many objects as before")


def test_when_a_client_closes_its_fit_goes(clean):
    other = Client(clean.scheduler.address, set_as_default=False)
    data = load_rows(other, X, Y)
    gang = gang_on(data)
    asked = threading.Thread(target=ask_and_swallow, args=(gang,))
    asked.start()
    until_turning(clean)
    assert left_behind(clean)
    other.close()
    asked.join(timeout=HANG_S)
    until(lambda: not left_behind(clean), "a clean cluster")
    gang.close()
    data.close()


def ask_and_swallow(gang):
    with pytest.raises((RankFailed, RuntimeError, CancelledError)):
        gang.request(Message(servants.TURN))


def test_a_task_of_an_ended_fit_does_nothing(clean):
    (worker, *_) = addresses(clean)
    late = clean.submit(serve_rank, "0" * 32, 0, worker, pure=False)
    assert "knows nothing" in late.result(timeout=HANG_S)
    put = clean.submit(
        put_part, "0" * 32, 0, 4, (None, None), (0, N, 0, N, ""), X, Y, None, pure=False
    )
    assert "knows nothing" in put.result(timeout=HANG_S).problem
