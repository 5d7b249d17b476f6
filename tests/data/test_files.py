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

from skmlp.data.partitions import merge
from skmlp.data.store import file_matrix, shard_store
from skmlp.data.store.file_matrix import FileMatrix
from skmlp.data.store.shard_store import Piece, ShardStore
from tests.limits import HANG_S

pytestmark = pytest.mark.skipif(
    not file_matrix.AVAILABLE, reason="rows are kept in memory on this system"
)

N, FEATURES = 50, 3
X = np.arange(N * FEATURES, dtype=float).reshape(N, FEATURES)


@pytest.fixture
def on_disk(tmp_path):
    rows = FileMatrix(str(tmp_path), X.shape, X.dtype)
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
    rows = FileMatrix(str(tmp_path), X.shape, X.dtype)
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
    rows = FileMatrix(str(tmp_path), X.shape, X.dtype)
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

PIECES = [Piece(0, 20, 0, 20, "here"), Piece(20, 1, 0, 1, ""), Piece(40, 29, 0, 29, "")]


def store_in(folder: Path, dtype=np.float64) -> ShardStore:
    return ShardStore(((0, 21), (40, 29)), FEATURES, dtype, folder=str(folder))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_store_keeps_its_rows_in_a_file(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(shard_store, "PIECE_BYTES", 7 * X[0].nbytes)
    store = store_in(tmp_path, dtype)
    cuts = [X[-piece.rows :].astype(int) for piece in PIECES]
    parts = {
        k: store.put(PIECES[k], cuts[k], np.ones(len(cuts[k])), None) for k in (2, 0, 1)
    }
    rows = store.rows(merge([parts[k] for k in (0, 1, 2)]))
    assert isinstance(rows.X, FileMatrix)
    assert (rows.X.shape, rows.X.dtype) == ((50, FEATURES), dtype)
    assert rows.ranges == ((0, 21), (40, 29))
    assert_array_equal(rows.X[:], np.concatenate(cuts))
    assert store.resident_bytes == 0
    store.close()
    with pytest.raises(ValueError, match="the fit is over"):
        rows.X[:3]
    late = store.put(PIECES[1], cuts[1], np.ones(1), None)
    assert "the fit is over" in late.problem


def test_bad_rows_are_found_on_their_way(tmp_path):
    store = store_in(tmp_path)
    bad = X[:20].copy()
    bad[11, 1] = np.nan
    stats = store.put(PIECES[0], bad, np.ones(20), None)
    assert stats.problem == "Input X contains NaN. (here)"
    store.close()


def test_sparse_rows_are_refused_when_they_are_too_many():
    """They are kept in memory alone."""
    thin = sparse.csr_array(X * (X % 2 > 0))
    sizes = []

    def has_room(size: int) -> bool:
        sizes.append(size)
        return size < 1000

    store = ShardStore(((0, 50),), FEATURES, float, has_room=has_room)
    assert not store.put(PIECES[0], thin[:20], np.ones(20), None).problem
    assert store.resident_bytes == sizes[0] < 1000
    with pytest.raises(MemoryError, match=r"memory_limit.*Use more workers"):
        store.put(Piece(20, 30, 0, 30, ""), thin[20:], np.ones(30), None)
    assert sizes[1] > 1000
