"""Several columns of classes on Dask: the model of this process, lazy predictions."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tests.estimators.test_dask_kinds import (
    KEPT,
    NAMES,
    N,
    W,
    X,
    Y,
    arrays,
    assert_same,
    filtered,
    model,
    pieces,
)

#: Of each worker of the cluster.
THREADS = 2

#: Columns of numbers, texts and booleans.
HEADS = np.empty((N, 3), object)
HEADS[:, 0], HEADS[:, 1], HEADS[:, 2] = Y, np.where(X[:, 1] > 0, "yes", "no"), W > 1


def heads_of(kind: str, a: np.ndarray) -> Any:
    """`HEADS`, or X, as a collection of some kind."""
    if kind == "arrays":
        return arrays(a)
    if kind == "unknown sizes":
        return filtered(a)
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe", reason="it needs pyarrow")
    names = NAMES if a is X else ["n", "t", "b"]
    parts = pieces(pd.DataFrame(a, columns=names).infer_objects())
    lazy = [dask.delayed(part) for part in parts]
    return lazy if kind == "delayed frames" else dd.from_delayed(lazy, meta=parts[0])


@pytest.mark.parametrize(
    "kind", ["arrays", "unknown sizes", "frames", "delayed frames"]
)
def test_several_columns_of_classes(kind, client):
    rows = KEPT if kind == "unknown sizes" else slice(None)
    alone = model("MLPClassifier", class_weight="balanced").fit(X[rows], HEADS[rows])
    lazy_X, lazy_Y = heads_of(kind, X), heads_of(kind, HEADS)
    fitted = model("MLPClassifier", class_weight="balanced").fit(lazy_X, lazy_Y)
    assert_same(fitted, alone)
    for one, other in zip(fitted.classes_, alone.classes_, strict=True):
        assert_array_equal(one, other)
    score = fitted.score(lazy_X, lazy_Y)
    assert score == pytest.approx(alone.score(X[rows], HEADS[rows]), rel=1e-9)
    if kind == "delayed frames":
        return
    labels = fitted.predict(lazy_X)
    assert dask.is_dask_collection(labels)
    assert_array_equal(np.asarray(labels.compute()), alone.predict(X[rows]))
    found = fitted.predict_proba(lazy_X), fitted.predict_log_proba(lazy_X)
    expected = alone.predict_proba(X[rows])
    for p, log_p, of_column, labels in zip(
        *found, expected, alone.classes_, strict=True
    ):
        if kind == "frames":
            assert list(p.columns) == list(labels)
        assert_allclose(np.asarray(p.compute()), of_column, rtol=1e-6)
        assert_allclose(np.exp(np.asarray(log_p.compute())), of_column, rtol=1e-6)
