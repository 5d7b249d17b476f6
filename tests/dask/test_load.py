"""Loads on a cluster, small: ``benchmarks/load.py`` runs them as large as they get."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from distributed import wait

import skmlp
from benchmarks import load
from tests.launch.dask_clusters import cluster


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
    ("kind", "sizes", "features"),
    [
        ("lazy", "unknown", 200),
        ("persisted", "known", 200),
        ("lazy", "known", 50),
        ("persisted", "known", 10),
    ],
)
def test_rows_are_held_once(sizes, kind, features):
    """All workers together: 1.4 times the data, beyond what the user keeps.

    With few columns, what is kept for each row beside them counts.
    """
    size = 240e6 if features == 200 else 80e6
    n_rows = int(size / 4 / features)
    chunk = n_rows // 100
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


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_a_million_predictions_take_a_block(method):
    """Lazy ones: neither a hidden layer of all rows nor all rows are ever there.

    Each worker computes, and lets go, chunk by chunk. All rows are 40 MB, of which Dask
    may hold some ahead; the hidden activations of one chunk would be 400 MB.
    """
    n_rows, chunk = 1_000_000, 50_000
    X, y = load.made(n_rows, 10, chunk)
    model = load.model(hidden_layer_sizes=2048)
    with cluster(2) as client:
        model.fit(X[:1000].compute(), y[:1000].compute())
        lazy = getattr(model, method)(X)
        client.run(getattr(model, method), np.ones((5000, 10), "f4"))  # the code
        grown = load.growth(client, lambda: lazy.sum().compute())
        assert lazy.shape[0] == n_rows
        assert grown < 200e6, grown
        values = [getattr(n, "value", n) for n in dict(lazy.__dask_graph__()).values()]
        assert sum(isinstance(v, skmlp.MLPClassifier) for v in values) == 1
