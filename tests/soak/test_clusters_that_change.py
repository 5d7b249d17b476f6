"""Clusters that scale, restart, run out of memory, lose their driver: with figures."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from distributed import Client

from skmlp import config_context, testing
from tests.launch.dask_clusters import ROOT, addresses, cluster, left_behind, until
from tests.laws.places import Fit, assert_same_bits

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

#: About ten seconds on two workers.
LONG = Fit(
    "multiclass",
    {"max_iter": 400, "tol": 0.0, "n_iter_no_change": np.inf},
    rows=900,
)
SHORT = Fit("multiclass", {"max_iter": 3})
ENDLESS = Fit("multiclass", {**LONG.params, "max_iter": 10**6}, rows=900)


def fit_on(client: Client, task: Fit = LONG) -> Any:
    X, y, _ = task.data()
    given = [da.from_array(X, chunks=(100, -1)), da.from_array(y, chunks=100)]
    with config_context(ranks="as_asked"), client.as_current():
        return task.estimator(2).fit(*given)


@pytest.fixture(scope="module")
def undisturbed():
    with cluster(2) as client:
        return fit_on(client)


@pytest.fixture
def before_requests() -> Iterator[Callable[[dict[int, Callable[[], Any]]], None]]:
    """Do something before the n-th request goes out; a round is an epoch."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(testing.settings(round_s=0.0, new_workers_s=0.0))

        def enter(actions: dict[int, Callable[[], Any]]) -> None:
            count = 0

            @contextlib.contextmanager
            def acting(request: testing.Request) -> Iterator[None]:
                nonlocal count
                count += 1
                actions.get(count, int)()
                yield

            stack.enter_context(testing.around_requests(acting))

        yield enter


def ranks(model: Any) -> list[int]:
    """The numbers of ranks in the course of a fit."""
    counts = [len(epoch["computing"]) for epoch in model.history_]
    return [n for n, before in zip(counts, [0, *counts], strict=False) if n != before]


def test_adaptive_scaling_within_bounds_that_change(undisturbed, before_requests):
    """Up by other bounds; down only by `retire_workers`: Dask spares busy workers.

    Its scheduler names no worker with a task that has seceded when an adaptive cluster
    asks whom to close.
    """
    with cluster(0) as client:

        def adapt(least: int, most: int) -> None:
            client.cluster.adapt(
                minimum=least, maximum=most, interval="100ms", wait_count=1
            )

        def have(n_workers: int, least: int, most: int) -> None:
            adapt(least, most)
            reached = f"{n_workers} workers, of {least} to {most}"
            until(lambda: len(addresses(client)) == n_workers, reached, 60)

        def stay(n_workers: int, least: int, most: int) -> None:
            adapt(least, most)
            for _ in range(20):
                assert len(addresses(client)) == n_workers
                time.sleep(0.1)

        def retire() -> None:
            client.retire_workers(addresses(client)[:1], close_workers=True)
            have(1, 1, 1)

        have(1, 1, 1)
        actions = {
            3: lambda: have(2, 2, 2),
            60: lambda: stay(2, 1, 1),
            100: retire,
            150: lambda: have(3, 3, 4),
            200: lambda: have(2, 0, 1),
        }
        before_requests(actions)
        found = fit_on(client)
        print("bounds:", ranks(found), [r["reason"] for r in found.restarts_])
        assert ranks(found) == [1, 2, 1, 2]
        assert_same_bits(found, undisturbed)
        have(0, 0, 1)


def test_adaptive_scaling(undisturbed, before_requests):
    with cluster(0) as client:
        client.cluster.adapt(minimum=0, maximum=3, interval="200ms", wait_count=2)
        others: list[Any] = []

        def want() -> None:
            others.extend(client.map(time.sleep, [0.5] * 30, pure=False))
            until(lambda: len(addresses(client)) > 1, "more workers", 60)

        def want_no_more() -> None:
            client.gather(others)
            others.clear()

        before_requests({3: want, 50: want_no_more})
        found = fit_on(client)
        print("adaptive:", ranks(found), [r["reason"] for r in found.restarts_])
        assert_same_bits(found, undisturbed)


def test_scaling_by_hand(undisturbed, before_requests):
    with cluster(1) as client:

        def scale(n_workers: int) -> None:
            client.cluster.scale(n_workers)
            until(lambda: len(addresses(client)) == n_workers, "other workers", 60)

        before_requests({3: lambda: scale(3), 50: lambda: scale(1)})
        found = fit_on(client)
        print("scaled:", ranks(found), [r["reason"] for r in found.restarts_])
        assert ranks(found) == [1, 2, 1]
        assert_same_bits(found, undisturbed)


def test_workers_that_are_retired_while_others_come(undisturbed, before_requests):
    """Each worker of the fit is taken away in its turn, in the midst of an order."""
    with cluster(2) as client:
        timers = []

        def replace() -> None:
            first, *_ = addresses(client)

            def retire() -> None:
                client.cluster.scale(3)
                client.retire_workers([first], close_workers=True)

            timers.append(threading.Timer(0.005, retire))
            timers[-1].start()

        before_requests({3: replace, 60: replace, 120: replace})
        found = fit_on(client)
        for timer in timers:
            timer.join()
        print("retired:", ranks(found), [r["reason"] for r in found.restarts_])
        assert len(found.restarts_) >= 3
        assert_same_bits(found, undisturbed)
        until(lambda: not left_behind(client), "a clean cluster")


def test_all_workers_are_restarted(undisturbed):
    with cluster(2) as client:
        timer = threading.Timer(1.5, client.restart, kwargs={"timeout": 60})
        timer.start()
        found = fit_on(client)
        timer.join()
        print("restart:", [r["reason"] for r in found.restarts_])
        assert_same_bits(found, undisturbed)
        until(lambda: not left_behind(client), "a clean cluster")


def eat_once(flag: str) -> None:
    """Take more memory than the worker may, unless somebody has done so before."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    eaten = []
    while True:
        eaten.append(np.ones(10_000_000))
        time.sleep(0.02)


def test_a_worker_that_is_out_of_memory(undisturbed, tmp_path):
    flag = tmp_path / "eaten"
    eats = testing.failing_rank(1, 2, partial(eat_once, str(flag)))
    with cluster(2, memory_limit="600MB") as client, eats:
        found = fit_on(client)
        assert flag.exists()
        print("memory:", [r["reason"] for r in found.restarts_])
        assert found.restarts_
        assert_same_bits(found, undisturbed)


DRIVER = """
from distributed import Client
from tests.soak.test_clusters_that_change import ENDLESS, fit_on

with Client("{address}") as client:
    ENDLESS.params["verbose"] = True
    fit_on(client, ENDLESS)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_is_gone(number, tmp_path: Path):
    with cluster(2) as client:
        fit_on(client, SHORT)
        script = DRIVER.format(address=client.scheduler.address)
        with subprocess.Popen(
            [sys.executable, "-u", "-c", script],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as driver:
            try:
                assert driver.stdout is not None
                for line in driver.stdout:
                    if line.startswith("Iteration 3,"):
                        break
                driver.send_signal(number)
                gone = time.monotonic()
                driver.wait(timeout=30)
            finally:
                driver.kill()
        assert fit_on(client, SHORT).n_iter_ == 3
        next_fit = time.monotonic() - gone
        until(lambda: not left_behind(client), "a clean cluster")
        print(
            f"{number.name}: the next client's fit was over after {next_fit:.2f} s, "
            f"nothing was left after {time.monotonic() - gone:.2f} s"
        )
        assert len(addresses(client)) == 2
