"""Missing targets in every kind of Dask collection: the model of the in-process fit."""

from __future__ import annotations

import warnings
from typing import Any

import dask
import numpy as np
import pytest

from tests.estimators.test_dask_kinds import (
    KEPT,
    KINDS,
    RNG,
    N,
    W,
    X,
    arrays,
    assert_same,
    frames,
    model,
    pieces,
)

#: Of each worker of the cluster.
THREADS = 2


def pandas_own(a: np.ndarray) -> Any:
    """Targets as a frame of pandas' own numbers, which know missing ones."""
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe", reason="it needs pyarrow")
    columns = pd.DataFrame(a, columns=["u", "v"]).astype("Float64")
    return dd.from_delayed(list(map(dask.delayed, pieces(columns))), meta=columns[:0])


@pytest.mark.parametrize(
    "kind", ["arrays", "unknown sizes", "frames", "delayed arrays"]
)
def test_missing_targets(kind, client):
    """A part has no target at all."""
    y = np.where(RNG.uniform(size=(N, 2)) < 0.4, np.nan, np.c_[X[:, 0], W])
    y[7:50] = np.nan
    of, kept = KINDS[kind]
    rows, lazy = KEPT if kept else slice(None), pandas_own if of is frames else of
    ours, theirs = (model("MLPRegressor", missing_targets="mask") for _ in range(2))
    ours.fit(of(X), lazy(y), of(W))
    theirs.fit(X[rows], y[rows], W[rows])
    assert_same(ours, theirs)
    expected = theirs.score(X[rows], y[rows], W[rows])
    assert ours.score(of(X), lazy(y), of(W)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match=r"set missing_targets='mask'.*(part|chunk)"):
        model("MLPRegressor").fit(of(X), lazy(y))
    for call in (ours.fit, ours.score):
        with pytest.raises(ValueError, match="no known target"):
            call(of(X), lazy(y * np.nan))


@pytest.mark.parametrize("kind", ["unknown sizes", "frames", "delayed arrays"])
@pytest.mark.parametrize("case", ["all", "weighted", "gaps", "constant"])
def test_the_score_of_several_quantiles(case, kind, client):
    """It is that of arrays in memory; a part has no rows, another no targets."""
    y = X[:, 0] + W
    if case == "gaps":
        y = np.where(np.arange(N) % 3 == 1, np.nan, y)
        y[7:50] = np.nan
    elif case == "constant":
        y = np.ones(N)
    fitted = model("MLPRegressor", loss="quantile", quantile=[0.1, 0.5, 0.8])
    fitted.set_params(missing_targets="mask").fit(X, X[:, 0] + W)
    of, kept = KINDS[kind]
    rows, lazy = KEPT if kept else slice(None), arrays if of is frames else of
    given = [(of(X), X[rows]), (lazy(y), y[rows])]
    if case != "all":
        given.append((of(W), W[rows]))
    there, here = zip(*given, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # arrays have no names
        assert fitted.score(*there) == pytest.approx(fitted.score(*here), rel=1e-9)
