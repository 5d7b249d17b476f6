"""Dask workers that are lost, frozen, retired or new while a fit goes on: same bits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dask.array as da
import numpy as np
import pytest
from distributed import Client, wait

from skmlp import config_context, testing
from skmlp.testing import RankFailed
from tests.launch.dask_clusters import (
    MortalWorkers,
    addresses,
    cluster,
    left_behind,
    pids,
    until,
)
from tests.laws.fits import Fit
from tests.laws.places import assert_same_bits
from tests.limits import HANG_S

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL"),
]

FIT = Fit(
    "binary",
    {"max_iter": 20, "tol": 0.0, "n_iter_no_change": np.inf, "early_stopping": True},
    rows=60,
)
N_SHARDS = 4


@pytest.fixture(autouse=True)
def _settings():
    """All shards that are asked for, and a round for each epoch."""
    with testing.settings(round_s=0.0), config_context(ranks="as_asked"):
        yield


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
    """Four workers; at the end, nothing is left on those that still live."""
    mortals.start(4)
    yield mortals
    until(lambda: not left_behind(mortals.client), "a clean cluster")


@pytest.fixture
def seen() -> Iterator[list[tuple[int, int]]]:
    """Ranks and shards of each group of ranks, while it is ready."""
    found: list[tuple[int, int]] = []
    with testing.on_start(lambda _, *numbers: found.append(numbers)):
        yield found


def arrays(chunks: Any = 10) -> list[Any]:
    X, y, _ = FIT.data()
    return [da.from_array(X, chunks=(chunks, -1)), da.from_array(y, chunks=chunks)]


def model(**params: Any) -> Any:
    return FIT.estimator(N_SHARDS).set_params(**params)


@pytest.fixture(scope="module")
def undisturbed(mortals):
    mortals.start(4)
    with config_context(ranks="as_asked"):
        return model().fit(*arrays())


@pytest.fixture
def at_requests() -> Iterator[Callable[[dict[int, Callable[[], Any]]], None]]:
    """Do something just after the n-th request has gone out to the ranks."""
    with contextlib.ExitStack() as stack:

        def enter(actions: dict[int, Callable[[], Any]]) -> None:
            count = 0

            @contextlib.contextmanager
            def acting(request: testing.Request) -> Iterator[None]:
                nonlocal count
                count += 1
                action = actions.pop(count, None)
                if action is None:
                    yield
                    return
                thread = threading.Thread(target=action)
                thread.start()
                try:
                    yield
                finally:
                    thread.join()

            stack.enter_context(testing.around_requests(acting))

        yield enter


def test_two_are_killed_one_after_the_other(workers, undisturbed, seen, at_requests):
    first, second, *_ = addresses(workers.client)
    kills = {2: lambda: workers.kill(first), 5: lambda: workers.kill(second)}
    at_requests(kills)
    found = model().fit(*arrays())
    assert_same_bits(found, undisturbed)
    assert seen == [(4, 4), (3, 4), (2, 4)]
    # A round is an epoch here, and the second of them was cut short.
    epochs, reasons = zip(*(r.values() for r in found.restarts_), strict=True)
    assert epochs[0] == 2
    assert first in reasons[0]
    assert second in reasons[1]
    assert [len(epoch["computing"]) for epoch in found.history_[:2]] == [4, 3]


@pytest.mark.filterwarnings("ignore:20 Dask workers were asked for")
def test_two_of_a_fit_of_many_shards_are_killed(workers, seen, at_requests):
    """Its sums are trees, and a rank is connected to its partners alone."""
    calm = model(n_jobs=20).fit(*arrays())
    first, second, *_ = addresses(workers.client)
    at_requests({2: lambda: workers.kill(first), 5: lambda: workers.kill(second)})
    assert_same_bits(model(n_jobs=20).fit(*arrays()), calm)
    assert seen == [(4, 20), (4, 20), (3, 20), (2, 20)]


def test_all_but_one_are_killed_at_once(workers, undisturbed, seen, at_requests):
    victims = addresses(workers.client)[1:]
    at_requests({3: lambda: workers.kill(*victims)})
    assert_same_bits(model().fit(*arrays()), undisturbed)
    assert seen[0] == (4, 4)
    assert seen[-1] == (1, 4)


def test_all_are_killed_and_others_come(workers, undisturbed, seen, at_requests):
    client = workers.client
    victims = addresses(client)

    def replace() -> None:
        workers.kill(*victims)
        until(lambda: not addresses(client), "the news of their death")
        workers.start(2)

    at_requests({3: replace})
    assert_same_bits(model().fit(*arrays()), undisturbed)
    assert seen[0] == (4, 4)
    assert len(seen) > 1


@testing.settings(first_worker_s=1.0)
@pytest.mark.parametrize("when", ["rows are brought", "ranks train"])
def test_none_is_left_and_none_comes(workers, at_requests, monkeypatch, when):
    X, y = arrays()
    # Dask would blame the task that each of the dead was to run.
    monkeypatch.setattr(workers.client.cluster.scheduler, "allowed_failures", 10)
    if when == "ranks train":
        victims = addresses(workers.client)
        at_requests({2: lambda: workers.kill(*victims)})
    else:
        members = [*pids(workers.client).values()]

        def kill_all(block: Any) -> Any:
            for pid in sorted(members, key=os.getpid().__eq__):  # itself is the last
                os.kill(pid, signal.SIGKILL)
            return block

        X = X.map_blocks(kill_all, dtype=X.dtype, meta=X._meta)
    text = r"is gone.*can't go on: this Dask cluster had no worker within 1 s"
    with pytest.raises(RankFailed, match=text):
        model().fit(X, y)


def test_one_dies_while_rows_are_brought(workers, undisturbed, seen, tmp_path):
    flag = tmp_path / "dead"

    def dies_once(block: Any) -> Any:
        try:  # in one act: two workers may come here at once
            flag.touch(exist_ok=False)
        except FileExistsError:
            return block
        os.kill(os.getpid(), signal.SIGKILL)
        return block

    X, y = arrays()
    with pytest.warns(UserWarning, match="4 Dask workers were asked for, and 3"):
        found = model().fit(X.map_blocks(dies_once, dtype=X.dtype, meta=X._meta), y)
    assert flag.exists()
    assert_same_bits(found, undisturbed)
    assert seen == [(3, 4)]


def uneven() -> list[Any]:
    """Lazy parts of unknown sizes, of which one holds nearly all rows."""
    given = arrays((1, 55, 2, 2))
    kept = da.ones(60, chunks=given[1].chunks) > 0
    return [a[kept] for a in given]


LBFGS = {
    "solver": "lbfgs",
    "batch_size": "auto",
    "early_stopping": False,
    "n_iter_no_change": 10,
}


def test_one_that_holds_rows_of_others_dies(workers, seen, at_requests):
    """Its rows are cut out of their partitions again, to stand as they stood."""
    expected = model(**LBFGS).fit(*uneven())
    victims = addresses(workers.client)[:2]
    at_requests({2: lambda: workers.kill(*victims)})
    found = model(**LBFGS).fit(*uneven())
    assert_same_bits(found, expected)
    assert seen[0] == (4, 4)
    assert seen[-1] == (2, 4)


@testing.settings(ping_s=0.2)
def test_a_frozen_one_is_given_up(workers, undisturbed, seen, at_requests):
    victim = addresses(workers.client)[1]
    process = pids(workers.client)[victim]
    at_requests({2: lambda: os.kill(process, signal.SIGSTOP)})
    try:
        with config_context(worker_timeout=6.0):
            found = model().fit(*arrays())
        assert victim not in addresses(workers.client)
        assert_same_bits(found, undisturbed)
        assert seen == [(4, 4), (3, 4)]
        # It wakes in the midst of another fit, and does no harm.
        at_requests({2: lambda: os.kill(process, signal.SIGCONT)})
        with pytest.warns(UserWarning, match="4 Dask workers were asked for, and 3"):
            found = model().fit(*arrays())
        assert_same_bits(found, undisturbed)
        until(lambda: not left_behind(workers.client), "a clean cluster")
    finally:
        os.kill(process, signal.SIGKILL)


def test_a_slow_one_is_kept(workers, undisturbed, seen, at_requests):
    process = pids(workers.client)[addresses(workers.client)[1]]

    def doze() -> None:
        os.kill(process, signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (process, signal.SIGCONT)).start()

    at_requests({2: doze})
    found = model().fit(*arrays())
    assert found.restarts_ == []
    assert_same_bits(found, undisturbed)
    assert seen == [(4, 4)]


@testing.settings(new_workers_s=0.0)
def test_one_that_joins_takes_a_shard(workers, undisturbed, seen, at_requests):
    victim = addresses(workers.client)[0]

    def replace() -> None:
        workers.start(4)

    at_requests({2: lambda: workers.kill(victim), 4: replace})
    assert_same_bits(model().fit(*arrays()), undisturbed)
    assert seen == [(4, 4), (3, 4), (4, 4)]


@testing.settings(new_workers_s=0.0)
def test_nobody_comes_in_between(workers, undisturbed, seen, at_requests):
    """A fit that lost a worker, and takes up another one, keeps its place."""
    client, over = workers.client, []
    victim = addresses(client)[0]

    def rival() -> None:
        model(n_jobs=3, max_iter=1).fit(*arrays())
        over.append("rival")

    thread = threading.Thread(target=rival)

    def queue() -> None:
        until(lambda: len(addresses(client)) == 3, "the news of the death")
        thread.start()
        until(lambda: requests(client) == 2, "the rival's request")

    actions = {2: lambda: workers.kill(victim), 4: queue, 6: lambda: workers.start(4)}
    at_requests(actions)
    found = model().fit(*arrays())
    over.append("fit")
    thread.join(timeout=HANG_S)
    assert over == ["fit", "rival"]
    assert_same_bits(found, undisturbed)
    assert seen == [(4, 4), (3, 4), (4, 4), (3, 3)]


def requests(client: Client) -> int:
    def count(dask_scheduler):
        return len(dask_scheduler.extensions["multi_locks"].requests)

    return int(client.run_on_scheduler(count))


def test_workers_are_retired(workers, undisturbed, seen, at_requests):
    victim = addresses(workers.client)[2]

    def retire() -> None:
        workers.client.retire_workers([victim], close_workers=True)

    at_requests({2: retire})
    assert_same_bits(model().fit(*arrays()), undisturbed)
    assert seen[0] == (4, 4)
    assert seen[-1] == (3, 4)


def test_rows_that_cannot_be_computed_again(workers, at_requests):
    X, y, _ = FIT.data()
    members = addresses(workers.client)
    pieces = [
        workers.client.scatter(X[i : i + 15], workers=[members[i // 15]], hash=False)
        for i in range(0, 60, 15)
    ]
    wait(pieces, timeout=HANG_S)
    parts = [da.from_delayed(piece, (15, X.shape[1]), X.dtype) for piece in pieces]
    given = [da.concatenate(parts), da.from_array(y, chunks=15)]
    at_requests({2: lambda: workers.kill(members[3])})
    text = f"{members[3]}.*can't be computed again"
    with pytest.raises(RankFailed, match=text):
        model().fit(*given)


def test_the_scheduler_is_gone(tmp_path, at_requests):
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0"]
    command += ["--no-dashboard", "--scheduler-file", str(file)]
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(file.exists, "the scheduler's address", 30)
        with Client(scheduler_file=str(file)) as client:
            workers = MortalWorkers(client)
            try:
                workers.start(2)
                at_requests({2: scheduler.kill})
                with pytest.raises(RankFailed, match="Dask"):
                    model().set_params(n_jobs=2).fit(*arrays())
            finally:
                workers.close()
    finally:
        scheduler.kill()
        scheduler.wait(timeout=HANG_S)
