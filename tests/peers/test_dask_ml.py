"""dask-ml's wrappers around the estimators; its searches are broken by themselves.

``IncrementalSearchCV`` and ``HyperbandSearchCV`` of dask-ml 2025.1 raise under
distributed 2026.8 also with scikit-learn's ``SGDClassifier``: "asynchronous Client in a
synchronous context".
"""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest

import skmlp
from tests.estimators.attempts import W, X, Y

wrappers = pytest.importorskip(
    "dask_ml.wrappers", reason="dask-ml is large; it is tested where it is installed"
)

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def no_cluster():
    with dask.config.set(scheduler="synchronous"):
        yield


def model(**params):
    return skmlp.MLPClassifier((4,), max_iter=5, random_state=0, **params)


def test_parallel_post_fit_predicts_lazily():
    wrapped = wrappers.ParallelPostFit(model()).fit(X, Y)
    plain = model().fit(X, Y)
    rows = da.from_array(X, chunks=(10, -1))
    for method in ("predict", "predict_proba"):
        lazy = getattr(wrapped, method)(rows)
        assert isinstance(lazy, da.Array)
        np.testing.assert_allclose(lazy.compute(), getattr(plain, method)(X), rtol=1e-6)


def test_incremental_is_partial_fit_block_by_block():
    given = [da.from_array(a, chunks=(10, *(-1,) * (a.ndim - 1))) for a in (X, Y)]
    wrapped = wrappers.Incremental(model(), shuffle_blocks=False)
    wrapped.fit(*given, classes=[0, 1, 2])
    plain = model()
    for start in range(0, len(W), 10):
        rows = slice(start, start + 10)
        plain.partial_fit(X[rows], Y[rows], classes=[0, 1, 2])
    for one, other in zip(wrapped.estimator_.coefs_, plain.coefs_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
