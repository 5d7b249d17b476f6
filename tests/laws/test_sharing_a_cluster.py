"""Fits beside fits, searches, tasks and locks on workers of one thread: none hangs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask.array as da
import joblib
import numpy as np
import pytest
from dask.utils import key_split
from distributed import Client, MultiLock, get_client, worker_client
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - enables it
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score

from skmlp import config_context, testing
from tests.launch.dask_clusters import addresses, cluster, left_behind, until
from tests.laws.in_workers import AsAsked
from tests.laws.places import Fit, assert_same_bits
from tests.limits import HANG_S

FIT = Fit("multiclass", {"max_iter": 6})


@pytest.fixture(scope="module")
def client():
    with cluster(2) as client:
        yield client


@pytest.fixture
def clean(client):
    """The client; at the end, its cluster is as it was."""
    yield client
    until(lambda: len(addresses(client)) == 2, "two workers")
    until(lambda: not left_behind(client), "a clean cluster")


def arrays(task: Fit = FIT) -> list[Any]:
    X, y, _ = task.data()
    return [da.from_array(X, chunks=(10, -1)), da.from_array(y, chunks=10)]


def fit_on(client: Client, task: Fit = FIT) -> Any:
    with config_context(ranks="as_asked"), client.as_current():
        return task.estimator(2).fit(*arrays(task))


@pytest.fixture(scope="module")
def undisturbed(client):
    model = fit_on(client)
    assert model.n_shards_ == 2
    return model


def all_at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    """Results of calls that begin together, each in a thread."""
    barrier = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        barrier.wait(HANG_S)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(begin, call) for call in calls]
        return [future.result(HANG_S) for future in futures]


@pytest.mark.parametrize("n_clients", [1, 3])
def test_five_fits_at_once(clean, undisturbed, n_clients):
    with contextlib.ExitStack() as stack:
        clients = [clean] + [
            stack.enter_context(Client(clean.scheduler.address, set_as_default=False))
            for _ in range(n_clients - 1)
        ]
        calls = [
            lambda own=clients[i % n_clients]: fit_on(own)  # type: ignore[misc]
            for i in range(5)
        ]
        for model in all_at_once(calls):
            assert_same_bits(model, undisturbed)


def test_beside_other_tasks(clean, undisturbed):
    tasks = clean.map(lambda i: time.sleep(0.02) or i, range(60), pure=False)
    model = fit_on(clean)
    assert clean.gather(tasks) == list(range(60))
    assert_same_bits(model, undisturbed)


def test_after_who_holds_the_locks_that_xgboost_takes(clean, undisturbed):
    lock = MultiLock(names=addresses(clean), client=clean)
    assert lock.acquire(timeout=HANG_S)
    with ThreadPoolExecutor(1) as pool:
        try:
            future = pool.submit(fit_on, clean)

            def waiting() -> int:
                def count(dask_scheduler):
                    return len(dask_scheduler.extensions["multi_locks"].requests)

                return int(clean.run_on_scheduler(count))

            until(lambda: waiting() == 2, "the request of the fit")
            assert not future.done()
        finally:
            lock.release()
        assert_same_bits(future.result(HANG_S), undisturbed)


def cross_validate(model: Any, X: Any, y: Any) -> list[Any]:
    return list(cross_val_score(model, X, y, cv=2, n_jobs=2))


def search_halving(model: Any, X: Any, y: Any) -> list[Any]:
    grid = {"hidden_layer_sizes": [(3,), (4,), (6,)]}
    search = HalvingGridSearchCV(model, grid, cv=2, n_jobs=2, random_state=0)
    return [search.fit(X, y).best_params_, *search.cv_results_["mean_test_score"]]


def search_grid(model: Any, X: Any, y: Any) -> list[Any]:
    grid = {"alpha": [1e-4, 1.0]}
    search = GridSearchCV(model, grid, cv=2, n_jobs=2)
    return [search.fit(X, y).best_params_, *search.cv_results_["mean_test_score"]]


@pytest.mark.parametrize("evaluate", [cross_validate, search_halving, search_grid])
def test_searches_around_the_estimator(clean, evaluate):
    X, y, _ = FIT.data()
    model = AsAsked(n_jobs=2, max_iter=3, random_state=0)
    alone = evaluate(model, X, y)
    with joblib.parallel_config(backend="dask", client=clean):
        found = evaluate(model, X, y)
    assert found[0] == alone[0]
    np.testing.assert_allclose(found[1:], alone[1:])


# ---- A fit inside a task -----------------------------------------------------------


def fit_with_worker_client() -> Any:
    with worker_client() as client:
        return fit_on(client)


def fit_with_get_client() -> Any:
    return fit_on(get_client())


@pytest.mark.parametrize("function", [fit_with_worker_client, fit_with_get_client])
def test_a_fit_inside_a_task(clean, undisturbed, function):
    tasks = [clean.submit(function, pure=False) for _ in range(2)]
    for task in tasks:
        assert_same_bits(task.result(HANG_S), undisturbed)


def test_rows_of_a_task_are_trained_in_its_process(clean):
    def inside() -> Any:
        with worker_client(), joblib.parallel_config(backend="dask"):
            return FIT.estimator(2).fit(*FIT.data()[:2])

    model = clean.submit(inside, pure=False).result(HANG_S)
    assert model.n_shards_ == 1
    assert_same_bits(model, FIT.estimator(None).fit(*FIT.data()[:2]))


# ---- Asynchronous clients ----------------------------------------------------------


def test_an_asynchronous_client(clean, undisturbed):
    async def main() -> Any:
        address = clean.scheduler.address
        async with Client(address, asynchronous=True, set_as_default=False) as client:
            with client.as_current():
                with pytest.raises(ValueError, match=r"await asyncio\.to_thread"):
                    FIT.estimator(2).fit(*arrays())
                return await asyncio.to_thread(fit_on, client)

    assert_same_bits(asyncio.run(main()), undisturbed)


# ---- What the dashboard shows ------------------------------------------------------


def test_names_that_a_person_can_read(clean):
    seen: dict[str, set[str]] = {"tasks": set(), "threads": set()}

    def names(dask_scheduler):
        return [str(key) for key in dask_scheduler.tasks]

    def threads():
        return [thread.name for thread in threading.enumerate()]

    @contextlib.contextmanager
    def looking(request: testing.Request) -> Iterator[None]:
        seen["tasks"] |= {key_split(k) for k in clean.run_on_scheduler(names)}
        for found in clean.run(threads).values():
            seen["threads"].update(found)
        yield

    with testing.around_requests(looking):
        fit_on(clean)
    assert {"skmlp-rank", "skmlp-rows"} <= seen["tasks"]
    assert {"skmlp-rank-0", "skmlp-rank-1"} <= seen["threads"]
