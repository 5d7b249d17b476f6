"""Rows that are too many for the workers' memory are trained on from their disks."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from dask.utils import parse_bytes
from distributed import Client
from scipy import sparse

import skmlp
from skmlp.dask.ingest.load_rows import load_rows
from skmlp.dask.rank_group import DaskGroup
from skmlp.data.store import file_matrix
from tests.launch.dask_clusters import addresses, cluster, left_behind, until

pytestmark = pytest.mark.skipif(
    not file_matrix.AVAILABLE, reason="rows are kept in memory on this system"
)

#: Of each of the two workers: twice what an idle one takes, and more.
LIMIT = "400MB"
#: Bytes of a chunk of X.
CHUNK = 4_000_000
#: Where Linux shows the open files of a process.
PROC = Path("/proc/self/fd")


@pytest.fixture(scope="module")
def small():
    """A client of a cluster whose workers have little memory."""
    with cluster(2, memory_limit=LIMIT) as client:
        yield client


def rows_of(chunk: int, features: int) -> np.ndarray:
    size = CHUNK // features // 8, features
    return np.random.RandomState(chunk).uniform(size=size)


def target_of(X: np.ndarray) -> np.ndarray:
    return X[:, 0] - X[:, 1] * X[:, 2]


def made_there(n_chunks: int, features: int) -> tuple[da.Array, da.Array]:
    """Rows that each worker makes for itself, chunk by chunk."""

    def make(block_info=None):
        return rows_of(block_info[None]["chunk-location"][0], features)

    chunks = ((CHUNK // features // 8,) * n_chunks, (features,))
    X = da.map_blocks(make, chunks=chunks, dtype=float, meta=np.empty((0, 0)))
    y = X.map_blocks(target_of, drop_axis=1, meta=np.empty(0))
    return X, y


def made_here(n_chunks: int, features: int) -> tuple[Any, np.ndarray]:
    rows = CHUNK // features // 8
    y = np.empty(n_chunks * rows)
    pieces = []
    for chunk in range(n_chunks):
        X = rows_of(chunk, features)
        y[chunk * rows : (chunk + 1) * rows] = target_of(X)
        pieces.append(X)
    return np.concatenate(pieces), y


def files_open(client) -> list[int]:
    """How many files of rows each worker has, as far as the system tells."""

    def count() -> int:
        found = 0
        for entry in PROC.glob("*"):
            try:
                found += file_matrix.PREFIX in os.readlink(entry)
            except OSError:  # it is closed by now
                continue
        return found

    return list(client.run(count).values())


def states(client) -> list[str]:
    """All that the scheduler heard of the workers' states."""
    return [
        event["status"]
        for worker in addresses(client)
        for _, event in client.get_events(worker)
        if event["action"] == "worker-status-change"
    ]


SOAK = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("times", "features", "max_iter"),
    [
        pytest.param(1.05, 100, 2, id="a little more"),
        # Of fewer rows: scikit-learn's order of them all is on each worker.
        pytest.param(3, 1000, 4, id="three times", marks=SOAK),
    ],
)
def test_more_rows_than_the_cluster_has_memory(small, times, features, max_iter):
    workers = addresses(small)
    n_chunks = int(times * 2 * parse_bytes(LIMIT) / CHUNK) + 1
    model = skmlp.MLPRegressor(
        hidden_layer_sizes=8,
        batch_size=500_000 // features,
        random_state=0,
        max_iter=max_iter,
    )
    with skmlp.config_context(kernels="reference", ranks="as_asked"):
        model.fit(*made_there(n_chunks, features))
        assert model.n_shards_ == 2
        coefs, losses = model.coefs_, model.loss_curve_
        model.fit(*made_here(n_chunks, features))
    for one, other in zip(coefs, model.coefs_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(losses, model.loss_curve_, rtol=1e-6)
    assert addresses(small) == workers
    assert set(states(small)) <= {"init", "running"}
    until(lambda: not left_behind(small), "a clean cluster")
    assert sum(files_open(small)) == 0


# ---- When files are used, and how they end -------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    """A client of two workers that say they have 1 MB; what Dask does then is off."""
    measures = ("target", "spill", "pause", "terminate")
    off = {f"distributed.worker.memory.{name}": False for name in measures}
    with (
        dask.config.set(off),
        cluster(2, memory_limit="1MB") as client,
    ):
        yield client


def share_of(size: float) -> tuple[da.Array, da.Array]:
    """Rows of `size` bytes for each of two workers."""
    X = da.ones((int(2 * size / 80), 10), chunks=(int(size / 800), 10))
    return X, X[:, 0]


def assert_files(client: Client, number: int) -> None:
    """Of each worker; on a system that does not tell, nothing is looked at."""
    if PROC.exists():
        assert files_open(client) == [number, number]


def test_files_begin_at_half_of_the_memory_of_all_fits(tiny):
    """A second fit counts what the first one holds; each lets go of its own."""
    with load_rows(tiny, *share_of(0.4e6)):
        assert_files(tiny, 0)
        with load_rows(tiny, *share_of(0.2e6)):
            assert_files(tiny, 1)
            with load_rows(tiny, *share_of(0.05e6)):
                assert_files(tiny, 1)
            with load_rows(tiny, *share_of(0.7e6), n_shards=4):
                assert_files(tiny, 3)
            assert_files(tiny, 1)
        assert_files(tiny, 0)
    until(lambda: not left_behind(tiny), "a clean cluster")


def test_files_end_where_others_take_rows(tiny):
    """One partition is too much for a worker, and half of it is not."""
    X = da.ones((10_000, 10), chunks=(10_000, 10))
    with load_rows(tiny, X, X[:, 0]) as data:
        spans = data.sources[0].spans
        assert [sum(span.rows for span in own) for own in spans] == [5000, 5000]
        assert_files(tiny, 0)
    until(lambda: not left_behind(tiny), "a clean cluster")


def test_sparse_rows_are_refused_by_what_they_take(tiny):
    """Not by what they would take if they were dense."""
    X, y = share_of(0.7e6)

    def thin(kept: int) -> da.Array:
        return X.map_blocks(lambda b: sparse.csr_array(b * (np.arange(10) < kept)))

    with load_rows(tiny, thin(1), y) as data:
        assert data.stats.sparse
        assert_files(tiny, 0)
    with pytest.raises(MemoryError, match=r"sparse rows.*Use more workers"):
        load_rows(tiny, thin(10), y)
    until(lambda: not left_behind(tiny), "a clean cluster")


def test_files_end_with_the_client(tiny):
    """Also if it goes without a word, as one that dies does."""
    with Client(tiny.scheduler.address, set_as_default=False) as other:
        data = load_rows(other, *share_of(0.7e6))
        assert_files(tiny, 1)
        other.close()
        until(lambda: not left_behind(tiny), "the end of the fit")
        assert_files(tiny, 0)
        data.close()


@pytest.mark.parametrize(
    ("solver", "kind"),
    [
        ("adam", "dense"),
        ("lbfgs", "dense"),
        ("adam, stopping early", "dense"),
        ("lbfgs", "dense, uneven"),
    ],
)
def test_the_bits_are_those_of_rows_in_memory(tiny, client, solver, kind):
    rng = np.random.RandomState(0)
    X = rng.uniform(size=(30_000, 10)).astype(np.float32)
    chunks = (1500, 26_000, 2500) if "uneven" in kind else 3000
    given = [da.from_array(X, chunks=(chunks, 10)), da.from_array(target_of(X), 3000)]
    solver, _, stop = solver.partition(", ")
    params = {"early_stopping": bool(stop)} if solver == "adam" else {}

    def coefs(where):
        model = skmlp.MLPRegressor(
            hidden_layer_sizes=3,
            solver=solver,
            max_iter=3,
            n_jobs=2,
            random_state=0,
            **params,
        )
        with where.as_current(), skmlp.config_context(kernels="reference"):
            return model.fit(*given).coefs_

    for one, other in zip(coefs(tiny), coefs(client), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- Models --------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["Dask arrays", "arrays"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_model_that_no_worker_has_memory_for(tiny, given, solver):
    X, y = share_of(0.1e6)
    if given == "arrays":
        X, y = X.compute(), y.compute()
    model = skmlp.MLPRegressor(hidden_layer_sizes=(100, 400), solver=solver)
    with (
        tiny.as_current(),
        joblib.parallel_config("dask"),
        skmlp.config_context(ranks="as_asked"),
        pytest.raises(MemoryError, match=r"at least .* memory_limit is 0\.95 MiB"),
    ):
        model.set_params(n_jobs=2).fit(X, y)
    assert not hasattr(model, "coefs_")
    until(lambda: not left_behind(tiny), "a clean cluster")


def fill_memory(flag: Path) -> None:
    """Take more than the worker's limit; once."""
    if not flag.exists():
        flag.touch()
        taken = np.ones(int(1.5 * parse_bytes(LIMIT) / 8))
        time.sleep(60)
        del taken


@pytest.fixture
def watched():
    """A client of two workers that a nanny ends when they take too much."""
    with (
        dask.config.set({"distributed.worker.memory.terminate": 0.95}),
        cluster(2, memory_limit=LIMIT) as client,
    ):
        yield client


def test_a_worker_that_its_nanny_ended_for_its_memory(watched, monkeypatch, tmp_path):
    ask, n_rounds = DaskGroup.request, []

    def counted(gang, message):
        n_rounds.append(message.op)
        if len(n_rounds) == 2:
            victim, flag = addresses(watched)[0], tmp_path / "full"
            filled = watched.submit(fill_memory, flag, workers=[victim], pure=False)
            until(lambda: victim not in addresses(watched), "its end", 60)
            filled.release()
        return ask(gang, message)

    monkeypatch.setattr(DaskGroup, "request", counted)
    monkeypatch.setattr("skmlp.training.supervisor.ROUND_SECONDS", 0.0)
    model = skmlp.MLPRegressor(hidden_layer_sizes=4, max_iter=5, random_state=0)
    with watched.as_current():
        model.fit(*share_of(1e6))
    (restart,) = model.restarts_
    assert "was ended by its nanny when it took" in restart["reason"]
    until(lambda: not left_behind(watched), "a clean cluster")
