"""Partitions that are not what they seem, and rows that are no more."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, wait
from numpy.testing import assert_allclose, assert_array_equal

import skmlp
from skmlp.dask.errors import DataLost
from tests.launch.dask_clusters import addresses, cluster, left_behind, until

pd = pytest.importorskip("pandas")
dd = pytest.importorskip("dask.dataframe", reason="it needs pyarrow")

# Dask's reading of Parquet files with pandas 3.1.
pytestmark = pytest.mark.filterwarnings("ignore:.*The inplace keyword")

N, CUT = 120, 40
RNG = np.random.RandomState(5)
NAMES = list("abc")
ROWS = pd.DataFrame(RNG.normal(size=(N, 3)) * [1, 3, 9], columns=NAMES)
REAL = (ROWS.a + ROWS.b / 3).rename("real")
BOTH = pd.DataFrame({"one": REAL, "two": ROWS.c / 9})
LABELS = (REAL > 0).astype(int)
CASES = {
    "MLPRegressor": REAL,
    "MLPRegressor, two targets": BOTH,
    "MLPClassifier": LABELS,
}


def model(case: str, **params: Any) -> Any:
    return getattr(skmlp, case.partition(",")[0])(
        hidden_layer_sizes=4, max_iter=4, batch_size=30, random_state=0, **params
    )


def lazy(whole: Any, change: Callable[[Any], Any] = lambda part: part) -> Any:
    """A frame whose last two of three partitions are changed, which it does not say."""
    parts = [whole[at : at + CUT] for at in range(0, N, CUT)]
    parts = [dask.delayed(p) for p in (parts[0], *map(change, parts[1:]))]
    return dd.from_delayed(parts, meta=whole[:0], verify_meta=False)


def backwards(part: Any) -> Any:
    return part[list(part.columns)[::-1]]


# ---- Columns -------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_columns_are_put_in_the_order_that_the_frame_says(case, client):
    y = CASES[case]

    def both(change: Callable[[Any], Any] = lambda part: part) -> tuple[Any, Any]:
        return lazy(ROWS, change), lazy(y, change if y.ndim == 2 else lambda p: p)

    good, odd = both(), both(backwards)
    X_val, y_val = odd
    expected = model(case).fit(*good, X_val=good[0], y_val=good[1])
    fitted = model(case).fit(*odd, X_val=X_val, y_val=y_val)
    for one, other in zip(expected.coefs_, fitted.coefs_, strict=True):
        assert_array_equal(one, other)
    assert expected.validation_scores_ == fitted.validation_scores_
    assert fitted.score(*odd) == pytest.approx(fitted.score(ROWS, y), rel=1e-12)
    assert_allclose(fitted.predict(odd[0]).compute(), fitted.predict(ROWS))
    more = {"classes": [0, 1]} if case == "MLPClassifier" else {}
    one, other = (model(case).partial_fit(*g, **more) for g in (good, odd))
    assert_array_equal(one.coefs_[0], other.coefs_[0])


OTHER_COLUMNS = {
    "missing": (lambda part: part[["a", "b"]], "lacks 'c'"),
    "further": (lambda part: part.assign(z=1.0), "has also 'z'"),
    "other": (lambda part: part.rename(columns={"b": "q"}), "lacks 'b' and has also"),
    "twice": (lambda part: part[["a", "b", "b"]], "lacks 'c' and has also 'b'"),
}


@pytest.mark.parametrize("what", OTHER_COLUMNS)
def test_other_columns_are_refused_with_their_place(what, client):
    change, words = OTHER_COLUMNS[what]
    odd, good, y = lazy(ROWS, change), lazy(ROWS), lazy(REAL)
    fitted = model("MLPRegressor").fit(good, y)
    calls = {
        "fit": lambda: model("MLPRegressor").fit(odd, y),
        "partial_fit": lambda: model("MLPRegressor").partial_fit(odd, y),
        "X_val": lambda: model("MLPRegressor").fit(good, y, X_val=odd, y_val=y),
        "predict": lambda: fitted.predict(odd).compute(),
        "score": lambda: fitted.score(odd, y),
    }
    for call in calls.values():
        # Of the two odd ones, Dask may compute either first.
        with pytest.raises(ValueError, match=rf"{words}.*\(partition [12]\)"):
            call()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_placed_by_column_and_partition(wrong, client):
    spoiled = ROWS.copy()
    spoiled.loc[N - 3, ["a", "c"]] = wrong
    message = r"It is in 'a', 'c' \(partition 2\)"
    with pytest.raises(ValueError, match=message):
        model("MLPRegressor").fit(lazy(spoiled), lazy(REAL))
    held_out = {"X_val": lazy(spoiled), "y_val": lazy(REAL)}
    with pytest.raises(ValueError, match=rf"^validation rows: .*{message}"):
        model("MLPRegressor").fit(lazy(ROWS), lazy(REAL), **held_out)


@pytest.mark.parametrize("kind", ["frames", "arrays"])
@pytest.mark.parametrize("loss", ["squared_error", "quantile"])
def test_what_is_not_finite_is_placed_in_predictions_and_scores(kind, loss, client):
    fitted = model("MLPRegressor", loss=loss).fit(ROWS.to_numpy(), REAL)
    if loss == "quantile":
        fitted.set_params(quantile=[0.1, 0.9]).fit(ROWS.to_numpy(), REAL)
    spoiled = ROWS.copy()
    spoiled.loc[N - 3, ["a", "c"]] = np.nan
    X, y = lazy(spoiled), lazy(REAL)
    where = r"contains NaN. It is in 'a', 'c' \(partition 2\)"
    if kind == "arrays":
        X = da.from_array(spoiled.to_numpy(), chunks=(CUT, -1))
        y = da.from_array(REAL.to_numpy(), chunks=CUT)
        where = r"(?s)contains NaN.*\(partition 2\)"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X has feature names")
        for call in (lambda: fitted.predict(X).compute(), lambda: fitted.score(X, y)):
            with pytest.raises(ValueError, match=where):
                call()


# ---- Partitions that optimising merges -----------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A data set of eight files of 40 columns, and one of as many of one column."""
    columns = [f"c{j}" for j in range(40)]
    whole = pd.DataFrame(RNG.normal(size=(160, 40)), columns=columns)
    folder = tmp_path_factory.mktemp("parquet")
    dd.from_pandas(whole, npartitions=8).to_parquet(folder / "X")
    labels = pd.DataFrame({"y": whole.c0})
    dd.from_pandas(labels, npartitions=8).to_parquet(folder / "y")
    return whole, columns, folder


@pytest.mark.parametrize("n_columns", [39, 3])
@pytest.mark.parametrize("persisted", [False, True])
def test_two_frames_of_one_parquet_data_set(wide, n_columns, persisted, client):
    whole, columns, folder = wide
    frame = dd.read_parquet(folder / "X")
    chosen = columns[:n_columns]
    X, y = frame[chosen], frame["c39"]
    if persisted:
        with dask.config.set({"optimization.tune.active": False}):
            X = X.persist()
    fitted = model("MLPRegressor").fit(X, y)
    expected = model("MLPRegressor").fit(whole[chosen], whole.c39)
    assert_allclose(fitted.coefs_[0], expected.coefs_[0], rtol=1e-6)
    assert fitted.score(X, y) == pytest.approx(expected.score(whole[chosen], whole.c39))


def test_a_frame_that_was_persisted_with_merged_partitions(wide, client):
    """Dask itself can't compute it any more: it says that it has eight partitions."""
    whole, columns, folder = wide
    chosen = columns[:3]
    X = dd.read_parquet(folder / "X")[chosen].persist()
    y = X["c0"] * 2
    fitted = model("MLPRegressor").fit(X, y)
    expected = model("MLPRegressor").fit(whole[chosen], whole.c0 * 2)
    assert_allclose(fitted.coefs_[0], expected.coefs_[0], rtol=1e-6)
    assert_allclose(fitted.predict(X).compute(), expected.predict(whole[chosen]))


def test_others_are_merged_as_dask_has_merged_a_persisted_frame(wide, client):
    """The issue's own: both say that they have eight partitions."""
    whole, columns, folder = wide
    frame = dd.read_parquet(folder / "X")
    y = frame["c39"]
    for chosen in (columns[:39], columns[:3]):
        X = frame[chosen].persist()
        fitted = model("MLPRegressor").fit(X, y, X_val=frame[chosen], y_val=y)
        expected = model("MLPRegressor").fit(whole[chosen], whole.c39)
        assert_allclose(fitted.coefs_[0], expected.coefs_[0], rtol=1e-6)
        score = expected.score(whole[chosen], whole.c39)
        assert fitted.score(X, y) == pytest.approx(score)
    assert len(X.dask) < 8
    pieces = [dask.delayed(whole.c39[at : at + 20]) for at in range(0, 160, 20)]
    with pytest.raises(ValueError, match=r"X says 8, but Dask.*tune\.active"):
        model("MLPRegressor").fit(X, pieces)


def test_frames_of_two_parquet_data_sets(wide, client):
    whole, columns, folder = wide
    X = dd.read_parquet(folder / "X")[columns[:5]]
    y = dd.read_parquet(folder / "y")["y"]
    fitted = model("MLPRegressor").fit(X, y)
    expected = model("MLPRegressor").fit(whole[columns[:5]], whole.c0)
    assert_allclose(fitted.coefs_[0], expected.coefs_[0], rtol=1e-6)


def test_a_nan_in_a_file_is_placed_as_the_user_counts(wide, tmp_path, client):
    whole, columns, _ = wide
    spoiled = whole.copy()
    spoiled.loc[75, "c1"] = np.nan
    dd.from_pandas(spoiled, npartitions=8).to_parquet(tmp_path)
    frame = dd.read_parquet(tmp_path)
    with pytest.raises(ValueError, match=r"It is in 'c1' \(partition 3\)"):
        model("MLPRegressor").fit(frame[columns[:3]], frame["c39"])
    fitted = model("MLPRegressor").fit(whole[columns[:3]], whole["c39"])
    with pytest.raises(ValueError, match=r"It is in 'c1' \(partition 3\)"):
        fitted.score(frame[columns[:3]], frame["c39"])
    with pytest.raises(ValueError, match=r"'c1' \(partition \d, as Dask reads the fil"):
        fitted.predict(frame[columns[:3]]).compute()


# ---- Rows that are no more -----------------------------------------------------------


def rows(seed: int) -> Any:
    """Other rows for each test: equal ones have equal keys."""
    return da.random.RandomState(seed).normal(size=(N, 3), chunks=(CUT, 3))


LOST = {
    "X": lambda P: ((P, P[:, 0]), {}),
    "made of it": lambda P: ((P * 2, P[:, 0]), {}),
    "y": lambda P: ((rows(0), P[:, 0]), {}),
    "X_val": lambda P: (
        (rows(0), rows(0)[:, 0]),
        {"X_val": P, "y_val": rows(0)[:, 0]},
    ),
    "delayed": lambda P: ((list(P.to_delayed().ravel()), rows(0)[:, 0]), {}),
}


@pytest.mark.parametrize("what", LOST)
def test_cancelled_rows(what, client):
    X = client.persist(rows(1))
    wait(X)
    args, more = LOST[what](X)
    client.cancel(X)
    with pytest.raises(DataLost, match="cancelled"):
        model("MLPRegressor").fit(*args, **more)


def test_cancelled_futures(client):
    pieces = [ROWS.to_numpy()[at : at + CUT] for at in range(0, N, CUT)]
    futures = client.scatter(pieces, hash=False)
    client.cancel(futures[1:])
    with pytest.raises(DataLost, match="2 of 3 partitions"):
        model("MLPRegressor").fit(futures, rows(0)[:, 0])


def test_rows_of_another_client(client):
    """They are there as long as it wants them."""
    with Client(client.scheduler.address, set_as_default=False) as other:
        X = other.persist(rows(2))
        with client.as_current():
            fitted = model("MLPRegressor").fit(X, X[:, 0])
        wait(X)
        pickled = pickle.dumps(X)
    with pytest.raises(DataLost, match="not on the cluster of the current client"):
        model("MLPRegressor").fit(X, X[:, 0])
    again = pickle.loads(pickled)
    with pytest.raises(DataLost, match="not on the cluster of the current client"):
        model("MLPRegressor").fit(again, again[:, 0])
    expected = model("MLPRegressor").fit(rows(2), rows(2)[:, 0])
    # Rows that lie elsewhere may make other shards.
    assert_allclose(fitted.coefs_[0], expected.coefs_[0], rtol=1e-10)


def test_rows_that_are_being_persisted(client):
    X = client.persist(rows(3) + 1)
    fitted = model("MLPRegressor").fit(X, X[:, 0])
    expected = model("MLPRegressor").fit(rows(3) + 1, (rows(3) + 1)[:, 0])
    # Rows that lie elsewhere may make other shards.
    assert_allclose(fitted.coefs_[0], expected.coefs_[0], rtol=1e-10)


def test_rows_of_another_cluster(client):
    with cluster(1) as other:
        X = other.persist(rows(4))
        wait(X)
        with client.as_current(), pytest.raises(DataLost, match="on another one"):
            model("MLPRegressor").fit(X, rows(0)[:, 0])
    with client.as_current(), pytest.raises(DataLost, match="on another one"):
        model("MLPRegressor").fit(X, rows(0)[:, 0])


def test_a_cluster_that_was_restarted():
    with cluster(2) as client:
        X = client.persist(rows(6))
        wait(X)
        client.restart()
        with pytest.raises(DataLost, match="restarted"):
            model("MLPRegressor").fit(X, X[:, 0])
        model("MLPRegressor").fit(rows(6), rows(6)[:, 0])
        until(lambda: not left_behind(client), "a clean cluster")
        assert len(addresses(client)) == 2


# ---- Predictions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [{}, {"early_stopping": True, "average": True, "warm_start": True}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["arrays", "frames"])
def test_only_the_weights_are_in_a_graph(kind, params):
    whole = pd.DataFrame(RNG.normal(size=(40, 200)))
    fitted = skmlp.MLPRegressor(hidden_layer_sizes=300, max_iter=2, **params)
    fitted.set_params(coefs_init=None).fit(whole.to_numpy(), np.arange(40.0))
    X = dd.from_pandas(whole, npartitions=5)
    lazy = fitted.predict(X if kind == "frames" else X.to_dask_array(lengths=True))
    weights = sum(a.nbytes for a in (*fitted.coefs_, *fitted.intercepts_))
    (optimized,) = dask.optimize(lazy)
    graph = dict(optimized.__dask_graph__())
    size = len(pickle.dumps(graph)) - whole.to_numpy().nbytes
    assert weights < size < 1.3 * weights
    assert_allclose(lazy.compute(), fitted.predict(whole.to_numpy()))


# ---- What Dask does in the midst of a fit --------------------------------------------


async def move_results_of_the_fit(dask_scheduler):
    """Do with them what `Client.rebalance` does with those that it chooses."""
    moved = 0
    for task in list(dask_scheduler.tasks.values()):
        if "skmlp-rows" in str(task.key) and len(task.who_has or ()) == 1:
            (here,) = (worker.address for worker in task.who_has)
            there = next(w for w in dask_scheduler.workers if w != here)
            await dask_scheduler.gather_on_worker(there, {task.key: [here]})
            await dask_scheduler.delete_worker_data(here, [task.key], "test")
            moved += 1
    return moved


class AtRound:
    """Runs something before the second round of a fit."""

    def __init__(self, monkeypatch, act):
        from skmlp.dask.rank_group import DaskGroup

        self.n_rounds, ask = 0, DaskGroup.request

        def counted(gang, message):
            self.n_rounds += 1
            if self.n_rounds == 2:
                act()
            return ask(gang, message)

        monkeypatch.setattr(DaskGroup, "request", counted)
        monkeypatch.setattr("skmlp.training.supervisor.ROUND_SECONDS", 0.0)


def test_results_that_dask_moves(monkeypatch, client):
    moved = []

    def move():
        moved.append(client.run_on_scheduler(move_results_of_the_fit))
        client.rebalance()

    X = client.persist(rows(7))
    expected = model("MLPRegressor").fit(X, X[:, 0])
    AtRound(monkeypatch, move)
    fitted = model("MLPRegressor").fit(X, X[:, 0])
    assert moved[0] >= 2
    assert fitted.restarts_ == []
    assert_array_equal(fitted.coefs_[0], expected.coefs_[0])
    until(lambda: not left_behind(client), "a clean cluster")


def test_the_end_of_a_client_whose_results_were_moved(monkeypatch, client):
    with Client(client.scheduler.address, set_as_default=False) as other:

        def move_and_leave():
            client.run_on_scheduler(move_results_of_the_fit)
            other.close()

        AtRound(monkeypatch, move_and_leave)
        with other.as_current(), pytest.raises(RuntimeError, match="closed"):
            model("MLPRegressor").fit(rows(8), rows(8)[:, 0])
    until(lambda: not left_behind(client), "a clean cluster")
