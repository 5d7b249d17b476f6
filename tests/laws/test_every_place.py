"""One model, wherever it is trained and on however many ranks; twice the same bits.

Every fit of the table runs in this process, on joblib's processes and on Dask's
workers, and each time it is counted how many ranks and shards there were.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tests.launch.dask_clusters import cluster, left_behind, until
from tests.laws.places import (
    LAYOUTS,
    TABLE,
    Place,
    all_shards_here,
    alone,
    assert_same_bits,
    assert_same_model,
    dask_arrays,
    gangs_seen,
    on_dask,
    processes,
    threads,
)
from tests.limits import HANG_S

EVERY_FIT = pytest.mark.parametrize("name", TABLE)
#: One of each kind of training, for what is not tried with every fit.
SOME = ["adam", "lbfgs, two outputs", "stopping early, R2"]
SOME_FITS = pytest.mark.parametrize("name", SOME)


@pytest.fixture(scope="module", autouse=True)
def _count():
    with gangs_seen():
        yield


@pytest.fixture(scope="module")
def clusters():
    """Clients of a cluster of two workers and of one of three."""
    with cluster(2) as two, cluster(3) as three:
        clients = {2: two, 3: three}
        yield clients
        for client in clients.values():
            until(lambda client=client: not left_behind(client), "a clean cluster")


def run(name: str, place: Place) -> Any:
    return TABLE[name].run(place)


def assert_the_model(model: Any, name: str) -> None:
    assert_same_model(model, alone(name), **TABLE[name].tolerances)


# ---- This host ---------------------------------------------------------------------


@EVERY_FIT
def test_threads_change_nothing(name):
    assert_same_bits(run(name, threads(2)), alone(name))


# The last parameter changes least: joblib's pool keeps its size.
@EVERY_FIT
@pytest.mark.parametrize("n", [2, 3])
def test_processes(name, n):
    """The bits follow from the shards: one rank that holds all of them has the same."""
    model = run(name, processes(n))
    assert_the_model(model, name)
    assert_same_bits(run(name, all_shards_here(n)), model)


@SOME_FITS
def test_processes_twice(name):
    assert_same_bits(run(name, processes(2)), run(name, processes(2)))


# ---- Dask --------------------------------------------------------------------------


# Each fit with arrays of this process on two ranks and with Dask arrays on three, or
# the other way round; the layouts take turns.
TURNS = [
    (name, 2 + i % 2, list(LAYOUTS)[i // 2 % len(LAYOUTS)])
    for i, name in enumerate(TABLE)
]


@pytest.mark.parametrize(("name", "n", "layout"), TURNS)
def test_dask_arrays(name, n, layout, clusters):
    assert_the_model(run(name, dask_arrays(clusters[n], n, layout)), name)


@pytest.mark.parametrize(("name", "n"), [(name, 5 - n) for name, n, _ in TURNS])
def test_arrays_of_this_process_on_dask(name, n, clusters):
    assert_the_model(run(name, on_dask(clusters[n], n, n)), name)


@SOME_FITS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dask_arrays_in_every_layout(name, layout, clusters):
    place = dask_arrays(clusters[3], 3, layout)
    model = run(name, place)
    assert_the_model(model, name)
    assert_same_bits(run(name, place), model)


@SOME_FITS
def test_a_single_rank_on_a_cluster(name, clusters):
    assert_the_model(run(name, on_dask(clusters[2], 2, 1)), name)
    assert_the_model(run(name, dask_arrays(clusters[2], 2, "tiny", n_jobs=1)), name)


@SOME_FITS
@pytest.mark.filterwarnings("ignore:3 Dask workers were asked for")
def test_the_bits_follow_from_the_shards_alone(name, clusters):
    """Three shards on two workers or on three; sent there, or lying there."""
    two, three = clusters[2], clusters[3]
    model = run(name, on_dask(three, 3, 3))
    assert_same_bits(run(name, on_dask(two, 2, 3)), model)
    assert_same_bits(run(name, dask_arrays(three, 3, "even")), model)
    assert_same_bits(run(name, dask_arrays(two, 2, "even", n_jobs=3)), model)


@SOME_FITS
@pytest.mark.filterwarnings("ignore:20 Dask workers were asked for")
def test_many_shards_are_summed_alike_by_any_ranks(name, clusters):
    """As a tree, and their ranks talk to some of the others only."""
    model = run(name, on_dask(clusters[3], 3, 20))
    assert_the_model(model, name)
    assert_same_bits(run(name, on_dask(clusters[2], 2, 20)), model)
    # Here, a shard has other rows of a minibatch than on Dask.
    assert_the_model(run(name, all_shards_here(20)), name)


# ---- Several at once ---------------------------------------------------------------


@pytest.mark.parametrize("where", ["threads", "processes", "dask", "dask arrays"])
def test_fits_at_the_same_time(where, clusters):
    """They take turns where they must: none hangs, none disturbs another one."""
    place = {
        "threads": threads(2),
        "processes": processes(2),
        "dask": on_dask(clusters[2], 2, 2),
        "dask arrays": dask_arrays(clusters[2], 2, "uneven"),
    }[where]
    models: dict[str, Any] = {}

    def train(name: str) -> None:
        models[name] = run(name, place)

    workers = [threading.Thread(target=train, args=(name,)) for name in SOME]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(HANG_S)
    assert sorted(models) == sorted(SOME)
    for name, model in models.items():
        assert_the_model(model, name)


# ---- The table itself --------------------------------------------------------------


def test_the_table_is_about_what_it_says():
    """The fits do what their names promise, or nothing would be shown by them."""
    rates = [e["learning_rate"] for e in alone("sgd, no momentum, adaptive").history_]
    assert len(set(rates)) > 1
    stopped = alone("stopping early")
    assert stopped.n_iter_ < 12
    assert len(alone("warm start").loss_curve_) == 8
    assert alone("pieces").t_ == 15 + 25 + 25
    assert alone("lbfgs").n_iter_ > 5
    assert alone("float32").coefs_[0].dtype == np.float32
    assert sum(a.size for a in alone("two parameters").coefs_) == 1
