"""Every kind of Dask collection: the model of the in-process fit, lazy predictions."""

from __future__ import annotations

import functools
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Future, default_client
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

import skmlp
from tests.estimators.attempts import ESTIMATORS
from tests.launch.dask_clusters import cluster

N = 120
RNG = np.random.RandomState(3)
X = RNG.normal(size=(N, 4)) * (RNG.uniform(size=(N, 4)) > 0.3)
Y = (X[:, 0] + X[:, 1] > 0).astype(int) + (X[:, 2] > 0.3)
W = RNG.uniform(0.5, 2, size=N)
#: Rows that stay where a collection is filtered: its sizes are unknown then, and the
#: third part is empty.
KEPT = (np.arange(N) % 3 > 0) & ~((np.arange(N) >= 50) & (np.arange(N) < 60))
CUTS = (7, 43, 10, 0, 60)
NAMES = list("abcd")


#: Of each worker of the cluster.
THREADS = 2


def arrays(a: np.ndarray, cuts: Any = CUTS) -> Any:
    return da.from_array(a, chunks=(cuts, *((-1,) * (a.ndim - 1))))


def pieces(a: Any) -> list[Any]:
    ends = np.cumsum(CUTS)
    return [a[end - n : end] for n, end in zip(CUTS, ends, strict=True)]


def filtered(a: np.ndarray) -> Any:
    return arrays(a)[arrays(KEPT)]


@functools.cache
def table() -> Any:
    """All columns side by side, with divisions and one part without rows."""
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe", reason="it needs pyarrow")
    whole = pd.DataFrame(X, columns=NAMES).assign(y=Y, w=W, keep=KEPT)
    whole.index = np.arange(N) * 10
    parts = [dask.delayed(piece) for piece in pieces(whole)]
    divisions = (0, 70, 500, 600, 600, whole.index[-1])
    return dd.from_delayed(parts, meta=whole[:0], divisions=divisions)


def columns_of(whole: Any, a: np.ndarray) -> Any:
    """Those that hold an array."""
    return whole[{id(X): NAMES, id(Y): "y", id(W): "w"}[id(a)]]


def frames(a: np.ndarray) -> Any:
    return columns_of(table(), a)


def filtered_frames(a: np.ndarray) -> Any:
    return columns_of(table()[table().keep], a)


def of_scipy(a: np.ndarray) -> Any:
    if a.ndim == 1:
        return arrays(a)
    return arrays(a).map_blocks(sparse.csr_matrix, meta=sparse.csr_matrix((0, 0)))


def of_sparse(a: np.ndarray, kind: str = "COO") -> Any:
    package = pytest.importorskip("sparse")
    if a.ndim == 1:
        return arrays(a)
    as_kind = functools.partial(package.as_coo if kind == "COO" else package.GCXS)
    meta = as_kind(np.zeros((0, 0)))
    return da.concatenate([arrays(a)[:, :3], arrays(a)[:, 3:]], axis=1).map_blocks(
        as_kind, meta=meta
    )


def delayed(a: np.ndarray, kind: Callable[[Any], Any] = np.asarray) -> Any:
    return [dask.delayed(kind)(piece) for piece in pieces(a)]


def named(a: np.ndarray) -> Any:
    pd = pytest.importorskip("pandas")
    return pd.Series(a) if a.ndim == 1 else pd.DataFrame(a, columns=NAMES)


#: How each input is given; whether only the rows in KEPT are.
KINDS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "arrays": (arrays, False),
    "column chunks": (lambda a: arrays(a).rechunk(17).rechunk({a.ndim - 1: 3}), False),
    "unknown sizes": (filtered, True),
    "unknown sizes, column chunks": (
        lambda a: arrays(a).rechunk({a.ndim - 1: 3 if a.ndim == 2 else -1})[
            arrays(KEPT)
        ],
        True,
    ),
    "scipy chunks": (of_scipy, False),
    "scipy chunks, unknown sizes": (lambda a: of_scipy(a)[arrays(KEPT)], True),
    "sparse chunks": (of_sparse, False),
    "frames": (frames, False),
    "frames, filtered": (filtered_frames, True),
    "delayed arrays": (delayed, False),
    "delayed scipy": (
        lambda a: delayed(a, sparse.csr_matrix) if a.ndim == 2 else delayed(a),
        False,
    ),
    "delayed frames": (lambda a: delayed(a, named), False),
    "futures": (
        # A key that was released a moment ago may still be on its way out.
        lambda a: default_client().scatter(pieces(a), hash=False),
        False,
    ),
}
#: X of one kind, the others of another.
MIXED = {
    "frame, arrays of unknown size": (frames, lambda a: arrays(a)[arrays(W) > 0]),
    "frame, arrays": (frames, arrays),
    "array, frames": (arrays, frames),
    "array, delayed": (arrays, delayed),
    "unknown sizes, arrays": (lambda a: arrays(a)[arrays(W) > 0], arrays),
}


def model(name: str, **params: Any) -> Any:
    if params.get("solver") != "lbfgs":
        params["batch_size"] = 32
    return getattr(skmlp, name)(
        hidden_layer_sizes=5, max_iter=6, random_state=1, **params
    )


@functools.cache
def here(name: str, kept: bool, **params: Any) -> Any:
    rows = KEPT if kept else slice(None)
    return model(name, **params).fit(X[rows], Y[rows], W[rows])


def assert_same(one: Any, other: Any) -> None:
    for a, b in zip(one.coefs_, other.coefs_, strict=True):
        assert_allclose(a, b, rtol=1e-6, atol=1e-10)
    assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_model_is_that_of_this_process(name, kind, client):
    of, kept = KINDS[kind]
    fitted = model(name).fit(of(X), of(Y), of(W))
    assert fitted.n_shards_ == 2
    assert_same(fitted, here(name, kept))
    names = getattr(fitted, "feature_names_in_", None)
    assert (list(names) if "frame" in kind else names) == (
        NAMES if "frame" in kind else None
    )
    score = fitted.score(of(X), of(Y), of(W))
    rows = KEPT if kept else slice(None)
    assert type(score) is float
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # arrays have no names
        assert score == pytest.approx(fitted.score(X[rows], Y[rows], W[rows]), rel=1e-9)


@pytest.mark.parametrize("kinds", MIXED)
def test_kinds_can_be_mixed_where_the_parts_fit(kinds, client):
    of_X, of = MIXED[kinds]
    fitted = model("MLPClassifier").fit(of_X(X), of(Y), of(W))
    assert_same(fitted, here("MLPClassifier", False))
    assert isinstance(fitted.score(of_X(X), of(Y), of(W)), float)


@pytest.mark.parametrize("kind", ["unknown sizes", "frames, filtered"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_early_stopping_and_lbfgs_of_unknown_sizes(kind, solver, client):
    """The split is stratified by labels that were never brought here."""
    of, kept = KINDS[kind]
    binary = (Y > 0).astype(int)
    params = {"early_stopping": True} if solver == "adam" else {"solver": solver}
    given = of(Y) > 0
    ours = model("MLPClassifier", **params).fit(of(X), given.astype(int))
    theirs = model("MLPClassifier", **params).fit(X[KEPT], binary[KEPT])
    for a, b in zip(ours.coefs_, theirs.coefs_, strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-8)
    assert kept


@pytest.mark.parametrize("kind", ["frames, filtered", "delayed frames"])
def test_partial_fit(kind, client):
    of, kept = KINDS[kind]
    rows = KEPT if kept else slice(None)
    ours, theirs = model("MLPClassifier"), model("MLPClassifier")
    for _ in range(2):
        ours.partial_fit(of(X), of(Y), of(W), classes=[0, 1, 2])
        theirs.partial_fit(X[rows], Y[rows], W[rows], classes=[0, 1, 2])
    assert_same(ours, theirs)


#: Validation rows of some kind beside training rows of another.
HELD_OUT = [(train, kind) for train in ("arrays", "unknown sizes") for kind in KINDS]
HELD_OUT += [("frames", kind) for kind in ("frames, filtered", "delayed frames")]


@pytest.mark.filterwarnings("ignore:X .*feature names")  # arrays have none
@pytest.mark.parametrize(("train", "kind"), HELD_OUT)
def test_validation_rows_of_every_kind(train, kind, client):
    """They are numbered after the others, whose sizes may be unknown, too."""
    if ("scipy" in kind or "sparse" in kind) and train != "scipy chunks":
        train = "scipy chunks, unknown sizes" if "unknown" in train else "scipy chunks"
    (of, kept), (of_val, kept_val) = KINDS[train], KINDS[kind]
    params = {"early_stopping": True, "max_iter": 4, "batch_size": 16}
    ours, theirs = (model("MLPClassifier").set_params(**params) for _ in range(2))
    ours.fit(
        of(X), of(Y), X_val=of_val(X), y_val=of_val(Y), sample_weight_val=of_val(W)
    )
    rows, rows_val = (KEPT if k else slice(None) for k in (kept, kept_val))
    theirs.fit(
        X[rows],
        Y[rows],
        X_val=X[rows_val],
        y_val=Y[rows_val],
        sample_weight_val=W[rows_val],
    )
    assert_same(ours, theirs)
    assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-9)
    losses = ours.validation_loss_curve_, theirs.validation_loss_curve_
    assert_allclose(*losses, rtol=1e-6)


#: Validation rows that are wrong where nobody knows it before, and what is said.
WRONG_ROWS: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "NaN": (
        lambda: (filtered(np.where(np.arange(N) == 100, np.nan, X.T).T), filtered(Y)),
        "validation rows: Input X contains NaN. (partition 4)",
    ),
    "other lengths": (
        lambda: (filtered(X), arrays(Y)[arrays(W) > 1]),
        "rows, but y has",
    ),
    "other columns": (lambda: (filtered(X)[:, :3], filtered(Y)), "4 features"),
    "no rows": (
        lambda: (arrays(X)[arrays(W) > 9], arrays(Y)[arrays(W) > 9]),
        "validation rows: Found array with 0 sample(s)",
    ),
    "new labels": (lambda: (filtered(X), filtered(Y) + 1), "y has not: [3]"),
    "other names": (
        lambda: (frames(X).rename(columns={"b": "z"}), frames(Y)),
        "feature names should match",
    ),
    "text": (
        lambda: (frames(X).astype({"b": "string"}), frames(Y)),
        "X_val must hold numbers, but these columns do not: 'b'",
    ),
    "parts that can't be paired": (
        lambda: (filtered(X), arrays(Y, 9)[arrays(W, 9) > 1]),
        "X_val has 5 partitions and y_val has 14",
    ),
}


@pytest.mark.filterwarnings("ignore:X .*feature names")
@pytest.mark.parametrize("what", WRONG_ROWS)
def test_validation_rows_that_are_wrong(what, client):
    of, words = WRONG_ROWS[what]
    X_val, y_val = of()
    of_train = frames if what in ("other names", "text") else filtered
    fitted = model("MLPClassifier", early_stopping=True)
    with pytest.raises(ValueError, match=re.escape(words)):
        fitted.fit(of_train(X), of_train(Y), X_val=X_val, y_val=y_val)
    assert not hasattr(fitted, "coefs_")


# ---- Numbers of pandas' own, and what is none ----------------------------------------


def test_columns_of_every_numeric_kind(client):
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe", reason="it needs pyarrow")
    rows = pd.DataFrame(
        {
            "float32": X[:, 0].astype("f4"),
            "int": Y * 7,
            "bool": Y > 1,
            "Int64": pd.array(Y, "Int64"),
            "Float32": pd.array(X[:, 1].astype("f4"), "Float32"),
            "arrow": pd.array(Y, "int8[pyarrow]"),
        }
    )
    lazy = dd.from_pandas(rows, npartitions=3)
    target = pd.Series(pd.array(Y, "Int16"))
    ours = model("MLPClassifier").fit(lazy, dd.from_pandas(target, npartitions=3))
    theirs = model("MLPClassifier").fit(rows.astype(float), Y)
    assert_same(ours, theirs)
    assert_array_equal(ours.predict(lazy).compute(), theirs.predict(rows))
    small = dd.from_pandas(rows[["float32", "Float32"]], npartitions=3)
    ours.fit(small, dd.from_pandas(target, npartitions=3))
    assert ours.coefs_[0].dtype == np.float32


#: What a column holds, and what is said of it.
BAD_COLUMNS: dict[str, tuple[Any, str]] = {
    "text": (["x"] * N, r"these columns do not: 'odd' \("),
    "dates": (np.zeros(N, "M8[s]"), r"'odd' \(datetime64\[s\]\)"),
    "missing": (np.where(np.arange(N) == 70, np.nan, 1.0), "NaN.*partition 1"),
    "objects": (np.array(["1"] * 100 + ["red"] * 20, object), "partition 2"),
}


@pytest.mark.parametrize("what", BAD_COLUMNS)
def test_columns_that_are_no_numbers_are_named(what, client):
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe", reason="it needs pyarrow")
    values, words = BAD_COLUMNS[what]
    rows = named(X).assign(odd=pd.Series(values, dtype=getattr(values, "dtype", None)))
    with dask.config.set({"dataframe.convert-string": False}):
        given = [dd.from_pandas(a, npartitions=3) for a in (rows, named(Y))]
        with pytest.raises(ValueError, match=words):
            model("MLPClassifier").fit(*given)


def test_columns_of_delayed_frames_are_those_of_the_first(client):
    parts = delayed(X, named)
    expected = model("MLPClassifier").fit(parts, delayed(Y))
    parts[1] = parts[1][NAMES[::-1]]
    found = model("MLPClassifier").fit(parts, delayed(Y))
    assert_array_equal(found.coefs_[0], expected.coefs_[0])
    parts[2] = parts[2][NAMES[1:]]
    with pytest.raises(ValueError, match=rf"lacks '{NAMES[0]}' \(partition 2\)"):
        model("MLPClassifier").fit(parts, delayed(Y))


# ---- Lazy predictions of data frames -------------------------------------------------


def labels(kind: str) -> np.ndarray:
    table = {"numbers": [3, 5, 9], "texts": ["no", "so", "yes"]}
    return np.array(table[kind])[Y]


@pytest.mark.parametrize("kind", ["numbers", "texts"])
@pytest.mark.parametrize("filtering", [False, True])
def test_predictions_of_a_frame_have_its_index(kind, filtering):
    pd = pytest.importorskip("pandas")
    fitted = model("MLPClassifier").fit(named(X), named(labels(kind)))
    lazy = filtered_frames(X) if filtering else frames(X)
    rows = lazy.compute(scheduler="synchronous")
    # The log of a probability of 0.
    with dask.config.set(scheduler="synchronous"), np.errstate(divide="ignore"):
        for method in ("predict", "predict_proba", "predict_log_proba"):
            ours = getattr(fitted, method)(lazy)
            assert ours.divisions == lazy.divisions
            assert ours.npartitions == lazy.npartitions
            computed = ours.compute()
            theirs = getattr(fitted, method)(rows)
            if method == "predict":
                expected = pd.Series(theirs, index=rows.index)
                pd.testing.assert_series_equal(computed, expected)
                assert ours.dtype == computed.dtype
                # In the graph that Dask makes of it, too.
                assert (ours == theirs[0]).sum().compute() == sum(theirs == theirs[0])
            else:
                expected = pd.DataFrame(theirs, rows.index, list(fitted.classes_))
                pd.testing.assert_frame_equal(computed, expected)
                assert list(ours.dtypes) == list(computed.dtypes)


@pytest.mark.parametrize("columns", [1, 2])
def test_a_regressor_gives_a_series_or_a_frame(columns):
    y = Y if columns == 1 else np.column_stack([Y, -Y])
    fitted = model("MLPRegressor").fit(named(X), y)
    computed = fitted.predict(frames(X)).compute(scheduler="synchronous")
    assert computed.shape == y.shape
    assert_allclose(computed.to_numpy(), fitted.predict(named(X)))


def test_names_of_columns_are_checked(client):
    fitted = model("MLPClassifier").fit(frames(X), frames(Y))
    other = frames(X).rename(columns={"b": "z"})
    for call in (fitted.predict, lambda rows: fitted.score(rows, frames(Y))):
        with pytest.raises(ValueError, match="feature names should match"):
            call(other)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        fitted.predict(arrays(X))


def test_a_prediction_outlives_the_client():
    """No future is in it, the model once; it is computed without a client."""
    dd = pytest.importorskip("dask.dataframe", reason="it needs pyarrow")
    with cluster(1):
        whole = dd.from_pandas(named(X).assign(y=Y), npartitions=3).persist()
        rows, target = whole[NAMES], whole["y"]
        fitted = model("MLPClassifier").fit(rows, target)
        lazy = fitted.predict_proba(frames(X))
        graph = dict(lazy.optimize().__dask_graph__())
    values = [getattr(node, "value", node) for node in graph.values()]
    assert sum(isinstance(v, skmlp.MLPClassifier) for v in values) == 1
    assert not any(isinstance(v, Future) for v in values)
    copy = pickle.loads(pickle.dumps(fitted))
    expected = copy.predict_proba(named(X))
    with dask.config.set(scheduler="synchronous"):
        assert_allclose(lazy.compute(), expected, rtol=1e-6)
        assert_allclose(copy.predict_proba(frames(X)).compute(), expected, rtol=1e-6)
