"""Loads on a cluster, small: ``benchmarks/load.py`` runs them as large as they get."""

from __future__ import annotations

import dask.array as da
import pytest
from distributed import wait

import skmlp
from benchmarks import load
from tests.launch.dask_clusters import cluster

pytestmark = pytest.mark.timeout(110)


@pytest.mark.parametrize("case", [name for name in load.CASES if name != "rows"])
def test_a_cluster_bears_a_load(case):
    """No hang, no leak, equal models, no worker lost: the case says so itself."""
    assert load.CASES[case](True)


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("case", load.CASES)
def test_a_cluster_bears_a_full_load(case):
    assert load.CASES[case](False)


@pytest.mark.parametrize(
    ("kind", "sizes"), [("lazy", "unknown"), ("persisted", "known")]
)
def test_rows_are_held_once(sizes, kind):
    """All workers together: 1.4 times the data, beyond what the user keeps."""
    n_rows, features, chunk = 300_000, 200, 2_500
    size = 4 * n_rows * features
    with cluster(2) as client:

        def given(n_rows):
            X, y = load.made(n_rows, features, chunk)
            if sizes == "unknown":
                kept = da.ones(n_rows, chunks=chunk) > 0
                X, y = X[kept], y[kept]
            return client.persist([X, y]) if kind == "persisted" else [X, y]

        def fit(X, y):
            with skmlp.config_context(kernels="reference"):
                load.model(batch_size=5000, max_iter=1).fit(X, y)

        fit(*given(2 * chunk))
        X, y = given(n_rows)
        wait([X, y] if kind == "persisted" else [])
        grown = load.growth(client, lambda: fit(X, y))
        assert size / 2 < grown < 1.4 * size
