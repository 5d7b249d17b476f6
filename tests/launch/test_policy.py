"""How many of the ranks that are asked for are taken: a rule, and no clock."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import skmlp
from skmlp.launch import policy
from skmlp.launch.policy import Place, step_parts, worthwhile
from tests.launch.dask_clusters import cluster

SMALL, MIDDLE, WIDE = (20, 100, 1), (512, 512, 1), (512, 1024, 1024, 10)


@pytest.mark.parametrize(
    ("place", "units", "rows", "expected"),
    [
        (Place("processes", 2), SMALL, 200, 1),
        (
            Place("processes", 16),
            (512, *(2048,) * 3, 10),
            1024,
            8,
        ),  # no more than cores
        (Place("processes", 2), WIDE, 1024, 2),
        (Place("dask", 16, n_threads=16), WIDE, 1024, 16),
        (Place("dask", 16, n_threads=16), MIDDLE, 1024, 4),
        (Place("dask", 16, n_threads=16), SMALL, 200, 1),
        (Place("dask", 3, n_threads=3), WIDE, 1024, 1),  # BLAS does as well, here
        (Place("dask", 3, n_threads=24), WIDE, 1024, 3),
        (Place("dask", 6, n_threads=6), WIDE, 1024, 6),
    ],
)
def test_the_ranks_that_are_taken(place, units, rows, expected, monkeypatch):
    monkeypatch.setattr(policy, "usable_cores", lambda: 8)
    monkeypatch.setattr(policy, "blas_threads_allowed", lambda: 8)
    assert worthwhile(place, units, rows, "float32") == expected
    # Twice the work; where there is enough of it, nothing changes.
    assert expected <= worthwhile(place, units, rows, "float64") <= 2 * expected


@pytest.mark.parametrize(
    ("units", "batch", "rows", "cores", "expected"),
    [
        (SMALL, 200, 20_000, 1, 1),
        (SMALL, 200, 20_000, 2, 2),
        (SMALL, 200, 20_000, 16, 6),  # 32 rows each
        (SMALL, 1024, 20_000, 16, 8),
        (SMALL, 63, 20_000, 2, 1),
        (SMALL, 64, 20_000, 2, 2),
        (SMALL, 200, 200, 2, 1),  # over before a thread wakes up
        ((4, 3), 64, 10**6, 2, 1),  # nothing to share
        (WIDE, 1024, 8192, 2, 2),
        (WIDE, 1024, 8192, 8, 8),
        (WIDE, 1024, 8192, 9, 1),  # BLAS takes all cores
        (WIDE, 100, 8192, 4, 1),
    ],
)
def test_the_parts_of_a_step(units, batch, rows, cores, expected, monkeypatch):
    monkeypatch.setattr(policy, "usable_cores", lambda: cores)
    for blas in (1, cores):  # which changes the threads, but not the parts
        monkeypatch.setattr(policy, "blas_threads_allowed", lambda n=blas: n)
        assert step_parts(units, batch, rows, "float32") == expected
    monkeypatch.setattr(policy, "blas_threads_allowed", lambda: None)
    # A BLAS that nobody can limit.
    assert step_parts(units, batch, rows, "float32") == 1


@pytest.mark.parametrize(("blas", "expected"), [(2, 1), (1, 2)])
def test_rows_of_this_process_on_a_cluster(blas, expected, monkeypatch, capsys):
    """Two workers of a thread, against two BLAS threads of this process, or one."""
    monkeypatch.setattr(policy, "usable_cores", lambda: 2)
    monkeypatch.setattr(policy, "blas_threads_allowed", lambda: blas)
    X = np.random.default_rng(0).normal(size=(1024, 512)).astype(np.float32)
    y = (X[:, 0] > 0).astype(int)
    model = skmlp.MLPClassifier((512,), batch_size=1024, verbose=2, max_iter=1)
    with (
        cluster(2),
        joblib.parallel_config(backend="dask"),
        pytest.warns(ConvergenceWarning),
    ):
        model.fit(X, y)
    assert model.n_shards_ == expected
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Trained in process" if expected == 1 else "Trained on 2")
    assert ("would not be faster" in last) == (expected == 1)
