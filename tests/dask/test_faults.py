"""What breaks: workers that are killed, frozen or unfit, drivers that die."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading

import dask.array as da
import numpy as np
import pytest
from distributed import Client

from skmlp.dask import rpc
from skmlp.dask import workers as dask_workers
from skmlp.dask.errors import WorkerLost, WorkerSilent
from skmlp.dask.ingest.load_rows import load_rows
from skmlp.dask.worker_group import Limits
from skmlp.training.protocol import Message, RankFailed
from tests.launch import servants
from tests.launch.dask_clusters import (
    ROOT,
    MortalWorkers,
    addresses,
    cluster,
    left_behind,
    pids,
    until,
)
from tests.launch.dask_servants import (
    COUNT,
    N,
    RowPlan,
    X,
    Y,
    ask,
    gang_on,
    until_turning,
)
from tests.limits import HANG_S


@pytest.fixture(scope="module")
def mortals():
    with cluster(0) as client:
        workers = MortalWorkers(client)
        try:
            yield workers
        finally:
            workers.close()


@pytest.fixture
def workers(mortals):
    """Three workers; after the test, those that are left must be as they were."""
    mortals.start(3)
    yield mortals
    until(lambda: not left_behind(mortals.client), "a clean cluster")


def a_gang_works(client: Client, **kwargs) -> int:
    """Whether a new fit works; the number of its ranks."""
    given = da.from_array(X, chunks=(20, 4))
    with load_rows(client, given, Y, **kwargs) as data, gang_on(data) as gang:
        np.testing.assert_array_equal(ask(gang, COUNT), 1)
        return gang.shards.n_ranks


def when_it_turns(gang, action) -> threading.Thread:
    """Do something to a gang that is in the middle of an order."""

    def wait_and_act():
        until_turning(gang._rpc.client)
        action()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    return thread


# ---- Workers that are killed -------------------------------------------------------


@pytest.mark.parametrize("ranks", [[0], [2], [1, 2]], ids=str)
def test_killed_in_the_middle_of_an_order(workers, ranks):
    with load_rows(workers.client, X, Y) as data, gang_on(data) as gang:
        victims = [data.group.workers[rank] for rank in ranks]
        thread = when_it_turns(gang, lambda: workers.kill(*victims))
        with pytest.raises(WorkerLost) as caught:
            gang.request(Message(servants.TURN))
        thread.join()
        assert caught.value.address in victims
        assert caught.value.address in str(caught.value)
    assert a_gang_works(workers.client) == 3 - len(ranks)


def test_killed_between_two_orders(workers):
    with load_rows(workers.client, X, Y) as data, gang_on(data) as gang:
        ask(gang, COUNT)
        victim = data.group.workers[1]
        workers.kill(victim)
        with pytest.raises(WorkerLost, match=victim):
            ask(gang, servants.ADD, np.ones(5))
    assert a_gang_works(workers.client) == 2


def test_the_last_worker_is_killed(workers):
    (only, *_) = addresses(workers.client)
    with (
        load_rows(workers.client, X, Y, workers=[only]) as data,
        gang_on(data) as gang,
        pytest.raises(WorkerLost, match=only),
    ):
        gang.request(Message(servants.KILL, (np.array([0]),)))


def test_killed_while_servants_are_built(workers):
    plan = RowPlan(n_rows=N, exit=1)
    with load_rows(workers.client, X, Y) as data:
        victim = data.group.workers[1]
        with pytest.raises(WorkerLost, match=victim):
            gang_on(data, plan=plan)


def test_killed_while_rows_are_adopted(workers, tmp_path):
    flag = tmp_path / "killed"

    def dies_once(block):
        if block[0, 0] == 60 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    given = da.from_array(X, chunks=(20, 4)).map_blocks(dies_once, dtype=float)
    with pytest.raises(WorkerLost, match="is gone"):
        load_rows(workers.client, given, Y)
    assert a_gang_works(workers.client) == 2


@pytest.mark.parametrize("task", [1, 2], ids=["look", "lease"])
def test_killed_before_its_answer_is_fetched(workers, monkeypatch, task):
    client = workers.client
    victim = addresses(client)[1]
    process, count = pids(client)[victim], 0

    async def fetch_late(client, futures):
        nonlocal count
        count += 1
        if count == task:
            os.kill(process, signal.SIGKILL)
            while await client.scheduler.ncores(workers=[victim]):
                await asyncio.sleep(0.02)
        return await rpc.results(client, futures)

    monkeypatch.setattr(dask_workers, "results", fetch_late)
    with pytest.raises(WorkerLost, match=victim):
        load_rows(client, X, Y)
    assert count == task
    assert a_gang_works(client) == 2


def test_a_nanny_starts_the_worker_again():
    with cluster(2) as client:
        with load_rows(client, X, Y) as data, gang_on(data) as gang:
            victim = data.group.workers[1]
            process = pids(client)[victim]
            thread = when_it_turns(gang, lambda: os.kill(process, signal.SIGKILL))
            with pytest.raises(WorkerLost, match=victim):
                gang.request(Message(servants.TURN))
            thread.join()
        until(lambda: victim not in addresses(client), "the news of its death")
        client.wait_for_workers(2, timeout=HANG_S)
        assert a_gang_works(client) == 2
        until(lambda: not left_behind(client), "a clean cluster")


@pytest.mark.parametrize("kind", [WorkerLost, WorkerSilent])
def test_the_news_of_a_lost_worker_can_travel(kind):
    error = pickle.loads(pickle.dumps(kind("tcp://a:1", "is gone")))
    assert type(error) is kind
    assert error.address == "tcp://a:1"
    assert str(error) == "Dask worker tcp://a:1 is gone"


# ---- Workers that are silent, or unfit ---------------------------------------------


def test_a_frozen_worker_is_given_up(workers, monkeypatch):
    monkeypatch.setattr(rpc, "PING_S", 0.1)
    limits = Limits(silence=5, settle=3, end=5)
    with load_rows(workers.client, X, Y) as data:
        victim = data.group.workers[2]
        process = pids(workers.client)[victim]
        try:
            with gang_on(data, limits=limits) as gang:
                os.kill(process, signal.SIGSTOP)
                with pytest.raises(WorkerLost, match=f"{victim} gave no answer"):
                    gang.request(Message(servants.TURN))
        finally:
            os.kill(process, signal.SIGCONT)


def test_a_worker_without_skmlp_is_named_and_lives_on(mortals, tmp_path):
    mortals.start(1)
    others = set(addresses(mortals.client))
    (tmp_path / "skmlp").mkdir()
    (tmp_path / "skmlp" / "__init__.py").write_text("raise ImportError('not here')")
    mortals.start(len(others) + 1, python_path=str(tmp_path))
    (unfit,) = set(addresses(mortals.client)) - others
    with (
        pytest.warns(UserWarning, match=f"{unfit} can't run skmlp: .*not here"),
        load_rows(mortals.client, X, Y) as data,
    ):
        assert set(data.group.workers) == others
    with pytest.raises(RankFailed, match=f"{unfit} can't run skmlp: .*not here"):
        load_rows(mortals.client, X, Y, workers=[unfit])
    assert unfit in addresses(mortals.client)
    mortals.kill(unfit)
    until(lambda: unfit not in addresses(mortals.client), "the end of the unfit one")


# ---- Drivers that die --------------------------------------------------------------

DRIVER = """
from distributed import Client
from skmlp.training.protocol import Message
from skmlp.dask.rank_group import DaskGroup
from skmlp.dask.ingest.load_rows import load_rows
from tests.launch import servants
from tests.launch.dask_servants import X, Y, gang_on

with Client("{address}") as client, load_rows(client, X, Y) as data:
    {action}
"""
ACTIONS = {
    "in the middle of an order": "gang_on(data).request(Message(servants.TURN))",
    "waiting for the locks": "gang_on(data)",
}


@pytest.mark.parametrize("when", ACTIONS)
def test_when_a_driver_is_killed_its_fit_goes(workers, when):
    client = workers.client
    address = client.scheduler.address
    script = DRIVER.format(address=address, action=ACTIONS[when])
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as driver:
        try:
            if when == "waiting for the locks":
                with load_rows(client, X, Y) as data, gang_on(data) as gang:
                    until(lambda: requests(client) == 2, "a second request", 60)
                    driver.kill()
                    until(lambda: requests(client) == 1, "its end")
                    np.testing.assert_array_equal(ask(gang, COUNT), 1)
            else:
                until(lambda: turning(client) == 3, "the ranks", 60)
        finally:
            driver.kill()
    until(lambda: not left_behind(client), "a clean cluster")
    assert a_gang_works(client) == 3


def requests(client: Client) -> int:
    def count(dask_scheduler):
        return len(dask_scheduler.extensions["multi_locks"].requests)

    return client.run_on_scheduler(count)


def turning(client: Client) -> int:
    """How many ranks are busy."""

    def count(dask_worker):
        service = dask_worker.plugins.get("skmlp")
        fits = [] if service is None else service._fits.values()
        mailboxes = [fit.mailbox for fit in fits]
        return sum(
            mailbox is not None and mailbox.begun and not mailbox._answer.done()
            for mailbox in mailboxes
        )

    return sum(client.run(count).values())


def test_when_the_scheduler_goes_the_fit_ends():
    with cluster(2) as client, load_rows(client, X, Y) as data, gang_on(data) as gang:
        thread = when_it_turns(gang, client.cluster.close)
        with pytest.raises(RankFailed):
            gang.request(Message(servants.TURN))
        thread.join()
