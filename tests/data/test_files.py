"""Rows in files are as rows in memory."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from skmlp.data.assignment import Span
from skmlp.data.partitions import merge
from skmlp.data.store import buffers as data_buffers
from skmlp.data.store import file_rows
from skmlp.data.store.file_rows import FileRows
from skmlp.data.store.shard_store import ShardStore
from skmlp.data.store.sparse_file_rows import SparseFileRows
from tests.limits import HANG_S

pytestmark = pytest.mark.skipif(
    not file_rows.AVAILABLE, reason="rows are kept in memory on this system"
)

N, FEATURES = 50, 3
X = np.arange(N * FEATURES, dtype=float).reshape(N, FEATURES)


@pytest.fixture
def on_disk(tmp_path):
    rows = FileRows(str(tmp_path), X.shape, X.dtype)
    rows.write(30, X[30:])
    rows.write(0, X[:30])
    yield rows
    rows.close()


PICKS = {
    "in order": np.arange(N),
    "backwards": np.arange(N)[::-1],
    "shuffled": np.random.RandomState(0).permutation(N),
    "some": np.array([7, 3, 4, 5, 49, 0]),
    "one": np.array([11]),
    "again and again": np.array([3, 3, 4, 3]),
    "none": np.arange(0),
}


@pytest.mark.parametrize("pick", PICKS.values(), ids=PICKS)
def test_rows_are_taken_as_from_an_array(on_disk, pick):
    out = np.empty((len(pick), FEATURES))
    assert on_disk.take(pick, 0, out, "clip") is out
    assert_array_equal(out, X[pick])
    assert_array_equal(on_disk[pick], X[pick])


@pytest.mark.parametrize("rows", [slice(0, N), slice(4, 9), slice(48, 60), slice(5, 5)])
def test_successive_rows_are_a_slice(on_disk, rows):
    found = on_disk[rows]
    assert found.flags.c_contiguous
    assert_array_equal(found, X[rows])


def test_neighbours_are_read_at_once(on_disk, monkeypatch):
    read, seen = os.preadv, []

    def preadv(file, buffers, offset):
        seen.append((offset // X[0].nbytes, buffers[0].nbytes // X[0].nbytes))
        return read(file, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    on_disk[np.array([9, 1, 8, 0, 30, 10])]
    assert seen == [(0, 2), (8, 3), (30, 1)]


def test_short_reads_and_writes_go_on(tmp_path, monkeypatch):
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda f, b, at: read(f, [b[0][:7]], at))
    monkeypatch.setattr(os, "pwrite", lambda f, data, at: write(f, data[:5], at))
    rows = FileRows(str(tmp_path), X.shape, X.dtype)
    rows.write(0, X)
    assert_array_equal(rows[np.arange(N)[::-1]], X[::-1])
    rows.close()


def test_the_file_has_no_name_and_one_end(tmp_path, on_disk):
    assert list(tmp_path.iterdir()) == []
    on_disk.close()
    on_disk.close()
    for use in (lambda: on_disk[:], lambda: on_disk.write(0, X)):
        with pytest.raises(ValueError, match="the fit is over"):
            use()


def test_the_last_user_closes_it(tmp_path):
    rows = FileRows(str(tmp_path), X.shape, X.dtype)
    file = rows._file
    del rows
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(file)


def test_a_full_disk_is_said_with_the_cure(on_disk, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"No space left.*--local-directory") as caught:
        on_disk.write(0, X)
    assert caught.value.errno == errno.ENOSPC


def test_threads_do_not_disturb_each_other(on_disk):
    wrong = []

    def look(seed):
        rng = np.random.RandomState(seed)
        for _ in range(100):
            pick = rng.permutation(N)[: rng.randint(1, N)]
            if (on_disk[pick] != X[pick]).any():
                wrong.append(pick)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
    assert wrong == []


# ---- The store of a shard ----------------------------------------------------------

SPANS = [Span(0, 0, 20), Span(1, 20, 1), Span(2, 40, 29)]


def store_in(folder: Path, dtype=np.float64) -> ShardStore:
    return ShardStore(
        SPANS, FEATURES, dtype, False, False, lambda size, grows: str(folder)
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_store_keeps_its_rows_in_a_file(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(data_buffers, "PIECE", 7 * X[0].nbytes)
    store = store_in(tmp_path, dtype)
    cuts = {span.part: X[-span.rows :].astype(int) for span in SPANS}
    parts = {
        part: store.put(part, cuts[part], np.ones(len(cuts[part])))
        for part in (2, 0, 1)
    }
    rows = store.rows(merge([parts[part] for part in (0, 1, 2)]))
    assert isinstance(rows.X, FileRows)
    assert (rows.X.shape, rows.X.dtype) == ((50, FEATURES), dtype)
    assert_array_equal(rows.X[:], np.concatenate([cuts[0], cuts[1], cuts[2]]))
    assert store.resident_bytes == 0
    store.close()
    with pytest.raises(ValueError, match="the fit is over"):
        rows.X[:3]
    late = store.put(1, cuts[1], np.ones(1))
    assert "the fit is over" in late.problem


def test_bad_rows_are_found_on_their_way(tmp_path):
    store = store_in(tmp_path)
    bad = X[:20].copy()
    bad[11, 1] = np.nan
    stats = store.put(0, bad, np.ones(20))
    assert stats.problem == "Input X contains NaN. (chunk 0: rows 0 to 19)"
    store.close()


# ---- Sparse rows -------------------------------------------------------------------

THIN = sparse.random_array((N, 9), density=0.3, rng=np.random.default_rng(0))
THIN = sparse.csr_array(THIN)


@pytest.mark.parametrize("begins", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sparse_rows_go_to_files(tmp_path, dtype, begins):
    """From the first part on, or when it becomes too much: those before go along."""
    sizes = []

    def folder_for(size, grows):
        sizes.append(size)
        return str(tmp_path) if len(sizes) > begins else ""

    spans = [Span(0, 0, 20), Span(1, 20, 1), Span(2, 21, 29)]
    store = ShardStore(spans, 9, dtype, False, False, folder_for)
    stats = {}
    for part, start, rows in (spans[2], spans[0], spans[1]):
        cut = THIN[start : start + rows]
        stats[part] = store.put(part, cut, np.ones(rows))
    assert sizes == sorted(sizes)
    rows = store.rows(merge([stats[part] for part in (0, 1, 2)]))
    assert isinstance(rows.X, SparseFileRows)
    assert (rows.X.shape, rows.X.dtype, store.resident_bytes) == ((50, 9), dtype, 0)
    assert list(tmp_path.iterdir()) == []
    expected = THIN.toarray().astype(dtype)
    for pick in PICKS.values():
        some = rows.X.rows(pick)
        held = some.parts[2]
        table = sparse.csr_array(some.parts, shape=(len(held) - 1, 9))
        assert_array_equal(table[some.rows].toarray(), expected[pick])
    store.close()
    with pytest.raises(ValueError, match="the fit is over"):
        rows.X.rows(np.arange(3))
    assert "the fit is over" in store.put(1, THIN[20:21], np.ones(1)).problem
