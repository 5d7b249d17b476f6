"""Rows onto real Dask workers: every row on one worker, or an error that helps."""

from __future__ import annotations

import asyncio
import threading

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client
from scipy import sparse

from skmlp.comm.base import Shards
from skmlp.dask import rpc
from skmlp.dask import workers as dask_workers
from skmlp.dask.ingest import array_source, collection_source
from skmlp.dask.ingest.load_rows import load_rows
from skmlp.dask.rpc import current_client
from skmlp.data.assignment import EVEN
from skmlp.training.protocol import RankFailed
from tests.launch.dask_clusters import addresses, cluster
from tests.launch.dask_servants import (
    COUNT,
    LAYOUT,
    SUMS,
    N,
    W,
    X,
    Y,
    ask,
    gang_on,
)


def rows_of(chunks, X=X, y=Y, w=W):
    return (
        da.from_array(X, chunks=(chunks, -1)),
        da.from_array(y, chunks=50),
        da.from_array(w, chunks=N),
    )


# ---- Every row arrives -------------------------------------------------------------

CHUNKS = {
    "one chunk": (N,),
    "two for three workers": (100, 37),
    "even": (40, 40, 40, 17),
    "uneven": (1, 90, 2, 3, 30, 11),
    "many": (10,) * 13 + (7,),
    "some empty": (0, 60, 0, 77, 0),
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("given", ["lazy", "persisted", "unknown", "sparse, unknown"])
def test_every_row_is_on_one_worker_and_knows_its_number(
    clean, chunks, given, monkeypatch
):
    """No worker has far more than its share, whatever is known of the parts."""
    monkeypatch.setattr(collection_source, "PIECE_BYTES", 20 * X[0].nbytes)
    kind, given = given, [a + 0 for a in rows_of(chunks)]
    if kind == "persisted":
        given = clean.persist(given)
    if "unknown" in kind:
        given = [a.rechunk({0: chunks}) for a in given]
        kept = da.ones(N, chunks=(chunks,)) > 0
        given = [a[kept] for a in given]
    if "sparse" in kind:
        given[0] = given[0].map_blocks(sparse.csr_array)
    with (
        load_rows(clean, *given, n_jobs=-1, labels=True) as data,
        gang_on(data) as gang,
    ):
        assert data.shards == Shards((0, 1, 2))
        np.testing.assert_array_equal(ask(gang, COUNT), 1)
        expected = (X.sum(), Y.sum(), W.sum())
        np.testing.assert_allclose(ask(gang, SUMS), expected, rtol=1e-12)
        n_rows = ask(gang, LAYOUT).reshape(3, 3)[:, 0]
        assert max(n_rows) <= EVEN * N / 3
        assert (data.stats.rows, data.stats.features) == (N, 4)
        assert data.stats.weight_sum == pytest.approx(W.sum(), rel=1e-12)
        np.testing.assert_array_equal(data.stats.classes, [0, 1, 2])


INPUTS = {
    "array": X,
    "float32": X.astype(np.float32),
    "csr": sparse.csr_array(X),
    "csc": sparse.csc_matrix(X),
    "dask, column chunks": da.from_array(X, chunks=(50, 3)),
    "dask, sparse chunks": da.from_array(X, chunks=(50, 4)).map_blocks(
        sparse.csr_matrix, meta=sparse.csr_matrix((0, 0))
    ),
    "dask, float32": da.from_array(X.astype(np.float32), chunks=(50, 4)),
    "dask, integers": da.from_array((X * 7).astype(int), chunks=(50, 4)) // 7,
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_rows_arrives(clean, kind):
    given = INPUTS[kind]
    with load_rows(clean, given, Y, n_shards=5) as data, gang_on(data) as gang:
        assert data.dtype == np.float32 if "32" in kind else np.float64
        assert data.stats.sparse == any(
            word in kind for word in ("csr", "csc", "sparse")
        )
        assert data.shards == Shards((0, 0, 1, 1, 2))
        np.testing.assert_array_equal(ask(gang, COUNT), 1)
        total, of_y, of_w = ask(gang, SUMS)
        expected = INPUTS["array"].sum() if "integers" not in kind else X[:, 0].sum()
        assert total == pytest.approx(expected, rel=1e-6)
        assert (of_y, of_w) == (Y.sum(), 0)


def test_large_arrays_travel_in_pieces(clean, monkeypatch):
    monkeypatch.setattr(array_source, "PIECE_BYTES", 10 * X[0].nbytes)
    with load_rows(clean, X, Y, W) as data, gang_on(data) as gang:
        assert sum(map(len, data.sources[0].spans)) == 15
        np.testing.assert_array_equal(ask(gang, COUNT), 1)


def test_rows_do_not_pass_through_the_driver(client):
    chunk, features, parts = 2000, 50, 6
    big = da.random.RandomState(0).uniform(
        size=(parts * chunk, features), chunks=(chunk, features)
    )
    y = da.zeros(parts * chunk, chunks=chunk)
    workers = set(addresses(client))

    def sent(dask_worker):
        log = dask_worker.transfer_outgoing_log
        return sum(entry["total"] for entry in log if entry["who"] not in workers)

    before = client.run(sent)
    with load_rows(client, big, y) as data:
        after = client.run(sent)
        assert data.stats.rows == parts * chunk
    assert sum(after.values()) - sum(before.values()) < chunk * features * 8 / 10


def test_persisted_parts_stay_where_they_are(client):
    """Also if something small is yet to be computed on them."""
    workers = addresses(client)
    scattered = [
        client.submit(np.full, (100, 4), i, workers=[workers[i % 3]], pure=False)
        for i in range(6)
    ]
    delayed = [da.from_delayed(dask.delayed(f), (100, 4), float) for f in scattered]
    given = da.concatenate(delayed)
    scaled = given - given.mean(axis=0).persist()
    with load_rows(client, scaled, np.zeros(600)) as data:
        parts = [[span.part for span in spans] for spans in data.sources[0].spans]
    assert parts == [[0, 3], [1, 4], [2, 5]]


def nan_at(row):
    spoiled = X.copy()
    spoiled[row, 1] = np.nan
    return da.from_array(spoiled, chunks=(20, 4))


def fails(block):
    raise ZeroDivisionError("in the user's own function")


DASK_X = da.from_array(X, chunks=(20, 4))
DASK_Y = da.from_array(Y, chunks=(20,))
WRONG = {
    "lengths of y": (DASK_X, DASK_Y[:-1], None, r"inconsistent numbers.*\[137, 136\]"),
    "lengths of w": (DASK_X, DASK_Y, W[:-1], r"sample_weight.shape == \(136,\)"),
    "lengths of arrays": (X, Y[:-1], None, r"inconsistent numbers.*\[137, 136\]"),
    "NaN": (nan_at(105), Y, None, r"Input X contains NaN.*chunk 5: rows 100 to 119"),
    "NaN in an array": (nan_at(105).compute(), Y, None, "Input X contains NaN"),
    "y of numpy, unknown chunks": (
        DASK_X[DASK_Y > 0],
        Y,
        None,
        "sizes of X's partitions are unknown: make y a Dask collection",
    ),
    "unknown chunks of y alone": (
        DASK_X,
        DASK_Y[DASK_Y > 0],
        None,
        r"X has 20 rows, but y has \d+ \(chunk 0: rows 0 to 19\)",
    ),
    "unknown chunks that differ": (
        DASK_X[DASK_Y > 0],
        DASK_Y[DASK_Y > 1],
        None,
        r"X has \d+ rows, but y has \d+ \(partition \d\)",
    ),
    "partitions that can't be paired": (
        DASK_X[DASK_Y > 0],
        DASK_Y.rechunk(10)[DASK_Y.rechunk(10) > 0],
        None,
        "X has 7 partitions and y has 14.*can't be paired",
    ),
    "no row is left": (DASK_X[DASK_Y > 9], DASK_Y[DASK_Y > 9], None, r"0 sample\(s\)"),
    "1-D X": (DASK_Y, DASK_Y, None, "Expected 2D array, got 1D array"),
    "3-D y": (DASK_X, DASK_X[:, :, None], None, "1d or 2d"),
    "2-D weights": (DASK_X, DASK_Y, DASK_X, "Sample weights must be 1D"),
    "no rows": (DASK_X[:0], DASK_Y[:0], None, r"0 sample\(s\)"),
    "no columns": (DASK_X[:, :0], DASK_Y, None, r"0 feature\(s\)"),
    "Dask y alone": (X, DASK_Y, None, "y can't be a Dask collection where X is none"),
    "other rows than declared": (
        DASK_X.map_blocks(lambda b: b[:-1], dtype=float, chunks=DASK_X.chunks),
        DASK_Y,
        None,
        "19 rows and 4 columns here",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_bad_data_are_refused_with_the_place(clean, what):
    X, y, w, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        load_rows(clean, X, y, w)


def test_an_error_of_the_users_graph_is_raised_as_it_is(clean):
    given = DASK_X.map_blocks(fails, dtype=float)
    with pytest.raises(ZeroDivisionError, match="in the user's own function"):
        load_rows(clean, given, DASK_Y)


# ---- Clients and workers -----------------------------------------------------------


def test_the_current_client_is_found(client):
    assert current_client() is client


def test_without_a_client_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(rpc.Client, "current", no_client)
    with pytest.raises(ValueError, match=r"distributed.Client\(...\).*compute\(\)"):
        current_client()


def no_client():
    raise ValueError("No clients found")


def test_an_event_loop_is_not_blocked(client):
    async def fit():
        async with Client(client.scheduler.address, asynchronous=True) as inner:
            with inner.as_current(), pytest.raises(ValueError, match="to_thread"):
                current_client()

    asyncio.run(fit())


def test_fit_waits_for_the_first_worker(monkeypatch):
    with cluster(0) as client:
        monkeypatch.setattr(dask_workers, "FIRST_WORKER_LIMIT_S", 0.2)
        with pytest.raises(RankFailed, match=r"no worker within 0\.2 s.*scale"):
            load_rows(client, X, Y)
        monkeypatch.setattr(dask_workers, "FIRST_WORKER_LIMIT_S", 50)
        timer = threading.Timer(0, client.cluster.scale, [1])
        timer.start()
        with load_rows(client, DASK_X, Y) as data, gang_on(data) as gang:
            np.testing.assert_array_equal(ask(gang, COUNT), 1)
        timer.join()


def test_workers_that_are_not_there_are_named(client):
    with pytest.raises(RankFailed, match=r"not there: tcp://127\.0\.0\.1:1"):
        load_rows(client, X, Y, workers=["tcp://127.0.0.1:1", *addresses(client)])


def test_fewer_ranks_use_the_workers_with_most_rows(client):
    workers = addresses(client)
    part = client.submit(np.ones, (100, 4), workers=workers[1:2], pure=False)
    given = da.from_delayed(dask.delayed(part), (100, 4), float)
    with load_rows(client, given, np.zeros(100), n_shards=1) as data:
        assert data.group.workers == (workers[1],)


def test_workers_that_would_compute_other_bits_are_refused():
    facts = [{"numpy": "2.0", "simd": (1, 2)}, {"numpy": "2.1", "simd": (1, 2)}]
    with pytest.raises(ValueError, match=r"in numpy.*a has '2\.0', b has '2\.1'"):
        dask_workers.refuse_differences(["a", "b"], facts)
