"""The estimators for raw tables: kinds of tables, members, intervals, errors."""

from __future__ import annotations

import datetime as dt
import pickle
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.stats import f_oneway
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import estimator_checks_generator

from skmlp import TabularMLPClassifier, TabularMLPRegressor, UnusedParameterWarning
from skmlp.tabular.encoder import TableEncoder
from skmlp.tabular.members import held_out_rows
from skmlp.tabular.relevance import LEAST

ESTIMATORS = (TabularMLPClassifier, TabularMLPRegressor)
N = 240
RNG = np.random.default_rng(3)
NUMBERS = RNG.normal(size=N).round(3)
NUMBERS[::17] = np.nan
COLORS = RNG.choice(["blue", "green", "red"], N).astype(object)
COLORS[5::31] = None
FLAGS = RNG.random(N) > 0.5
DAYS = [dt.datetime(2024, 1, 1) + dt.timedelta(days=int(d)) for d in range(N)]
REAL = np.nan_to_num(NUMBERS) + (COLORS == "red") - 0.5 * FLAGS
LABELS = np.where(REAL > 0.4, "high", "low")
COLUMNS = {"size": NUMBERS, "color": COLORS, "flag": FLAGS, "day": DAYS}


def frame(kind: str) -> Any:
    if kind == "pandas":
        return pd.DataFrame(COLUMNS)
    columns = {**COLUMNS, "size": [None if v != v else float(v) for v in NUMBERS]}
    columns |= {"color": list(COLORS), "flag": FLAGS.tolist()}
    return (
        pl.DataFrame(columns, strict=False) if kind == "polars" else pa.table(columns)
    )


def quick(kind: Any, **params: Any) -> Any:
    sizes = {"n_estimators": 2, "hidden_layer_sizes": (32,), "max_iter": 12}
    return kind(**{**sizes, "random_state": 0, **params})


def targets(kind: Any) -> Any:
    return LABELS if kind is TabularMLPClassifier else REAL


@pytest.mark.parametrize("other", ["polars", "pyarrow"])
def test_frames_of_all_kinds_are_encoded_alike(other):
    expected = TableEncoder().fit(frame("pandas"))
    found = TableEncoder().fit(frame(other))
    assert_array_equal(
        found.transform(frame(other)), expected.transform(frame("pandas"))
    )
    assert list(found.feature_names_in_) == list(COLUMNS)
    names = found.get_feature_names_out()
    assert list(names) == list(expected.get_feature_names_out())
    assert len(names) == found.transform(frame(other)).shape[1]


def test_an_array_of_objects_is_as_the_frame():
    table = pd.DataFrame(COLUMNS)[["size", "color"]]
    expected = TableEncoder().fit_transform(table)
    assert_array_equal(
        TableEncoder().fit_transform(table.to_numpy(dtype=object)), expected
    )


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_what_transformers_give_elsewhere_changes_nothing(kind):
    table, y = frame("pandas"), targets(kind)
    expected = quick(kind).fit(table, y).predict(table)
    with sklearn.config_context(transform_output="pandas"):
        model = quick(kind).fit(table, y)
        assert_array_equal(model.predict(table), expected)
        shown = model.preprocessor_.transform(table)
    assert list(shown) == list(model.preprocessor_.get_feature_names_out())


def test_numbers_that_are_categories():
    codes = np.array([[1.0, 7.0], [2.0, 8.0], [1.0, 9.0]] * 5)
    asked = [[True, False], [0]]
    for categorical in asked:
        encoder = TableEncoder(categorical, n_ramps=0).fit(codes)
        assert list(encoder.one_hot_.categories_[0]) == ["1", "2"]
    table = pd.DataFrame(codes, columns=["a", "b"])
    assert TableEncoder(["b"]).fit(table).one_hot_.n_features_in_ == 1
    # A column of whole numbers becomes one of floats where a value is missing.
    whole = pd.DataFrame({"a": pd.Categorical([1, 2] * 5)})
    some = pd.DataFrame({"a": pd.Categorical([1.0, np.nan])})
    assert TableEncoder().fit(whole).transform(some)[0].tolist() == [1.0, 0.0]


def test_ramps_are_the_piecewise_linear_encoding():
    values = RNG.normal(size=(500, 1))
    encoder = TableEncoder(n_ramps=4).fit(values)
    edges = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    ramps = encoder.transform(values)[:, 1:]
    # Rising from 0 to 1 one after the other, their sum interpolates the rank.
    assert_allclose(
        ramps.sum(axis=1), np.interp(values[:, 0], edges, range(5)), atol=1e-5
    )


def test_a_number_that_is_mostly_0_has_ramps_for_the_others():
    values = np.concatenate([np.zeros(900), np.linspace(1, 2, 100)])[:, None]
    (edges,) = TableEncoder(n_ramps=4).fit(values).edges_
    assert len(edges) == 5
    assert (edges > 1).sum() >= 2
    # Few different numbers have a ramp between each two.
    few = np.repeat([0.0, 1.0, 5.0, 6.0], [90, 1, 1, 1])[:, None]
    assert_array_equal(TableEncoder(n_ramps=8).fit(few).edges_[0], [0, 1, 5, 6])


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_columns_that_say_nothing_by_themselves_count_less(kind):
    rng = np.random.default_rng(4)
    n = 400
    table = pd.DataFrame(
        {
            "useful": rng.normal(size=n),
            "noise": rng.normal(size=n),
            "town": rng.choice([f"town {k}" for k in range(20)], n),
            "color": rng.choice(["red", "green", "blue"], n),
        }
    )
    y = np.square(table["useful"]) + (table["color"] == "red")
    y = y > 1 if kind is TabularMLPClassifier else y
    encoder = quick(kind, max_iter=1).fit(table, y).preprocessor_
    weights = dict(zip(encoder.get_feature_names_out(), encoder.weights_, strict=True))
    of = {c: {w for n, w in weights.items() if n.startswith(c)} for c in table}
    assert of["useful"] == {1.0, weights["useful ramp 3"]}
    assert weights["useful ramp 3"] > 0.9
    assert weights["noise"] == 1  # the scaled number itself
    assert weights["noise ramp 3"] < 0.7
    assert max(of["town"]) < 0.7
    assert min(of["color"]) > 0.9
    # The share is that of an analysis of variance: one minus 1 / F.
    groups = [np.asarray(y, float)[table["town"] == t] for t in set(table["town"])]
    f = f_oneway(*groups).statistic
    (weight,) = of["town"]
    assert_allclose(weight, max(1 - 1 / f, LEAST / np.sqrt(19)), rtol=1e-4)


def test_a_date_shows_its_time_month_weekday_and_hour():
    names = TableEncoder(n_ramps=0).fit(frame("pandas")).get_feature_names_out()
    assert [n for n in names if n.startswith("day")] == [
        "day",
        "day month",
        "day weekday",
        "day hour",
    ]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_what_was_not_there_in_fit_can_be_predicted(kind):
    table = frame("pandas")
    model = quick(kind).fit(table.dropna(), targets(kind)[table.notna().all(axis=1)])
    new = table[:4].copy()
    new["color"] = ["pink", None, "red", "blue"]
    new.loc[0, "size"] = np.nan
    new["flag"] = new["flag"].astype(object)
    new.loc[1, "flag"] = None
    found = model.predict(new)
    assert len(found) == 4
    if kind is TabularMLPRegressor:
        assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_it_learns(kind):
    model = quick(kind, n_estimators=3, max_iter=60).fit(frame("pandas"), targets(kind))
    assert model.score(frame("pandas"), targets(kind)) > 0.9
    assert model.n_features_in_ == 4
    assert len(model.estimators_) == 3


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_members_are_the_same_wherever_they_are_trained(kind, backend):
    table, y = frame("pandas"), targets(kind)
    alone = quick(kind).fit(table, y)
    with joblib.parallel_config(backend, n_jobs=2):
        model = quick(kind).fit(table, y)
    for one, two in zip(alone.estimators_, model.estimators_, strict=True):
        for a, b in zip(one.coefs_, two.coefs_, strict=True):
            assert_array_equal(a, b)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(table), model.predict(table))


def test_members_hold_out_different_rows():
    strata = np.repeat([0, 1, 2], [60, 37, 3])
    rng = np.random.RandomState(0)
    parts = held_out_rows(100, 4, 0.2, strata, rng)
    rows = np.concatenate(parts)
    assert len(rows) == len(set(rows)) == 4 * (12 + 7)
    # A class of few rows stays with all members.
    assert not set(rows) & {97, 98, 99}
    # More are asked for than there are: all are held out by some member.
    assert len(set(np.concatenate(held_out_rows(10, 5, 0.4, None, rng)))) == 10
    assert held_out_rows(3, 2, 0.1, None, rng) == [None, None]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_rows_of_weight_0_are_as_rows_that_are_not_there(kind):
    table, y = frame("pandas")[["size"]].fillna(0), targets(kind)
    weights = RNG.uniform(0.5, 2, N)
    weights[::3] = 0
    params: dict[str, Any] = {"early_stopping": False}
    model = quick(kind, **params).fit(table, y, weights)
    # The quantiles are those of all rows that came.
    kept = weights > 0
    other = quick(kind, **params)
    other.fit(table[kept], y[kept], weights[kept])
    assert len(other.preprocessor_.edges_) == len(model.preprocessor_.edges_)
    assert model.estimators_[0].t_ == other.estimators_[0].t_


def test_class_weights_are_weights_of_rows():
    table = frame("pandas")
    weights = np.where(LABELS == "high", 3.0, 1.0)
    one = quick(TabularMLPClassifier, class_weight={"high": 3}).fit(table, LABELS)
    two = quick(TabularMLPClassifier).fit(table, LABELS, weights)
    assert_array_equal(one.predict_proba(table), two.predict_proba(table))
    assert_allclose(one.predict_proba(table).sum(axis=1), 1, rtol=1e-6)


def test_own_validation_rows_serve_all_members():
    table = frame("pandas")
    model = quick(TabularMLPRegressor)
    model.fit(table[:200], REAL[:200], X_val=table[200:], y_val=REAL[200:])
    assert model.estimators_[0].t_ == 200 * 12
    assert model.predict_interval(table).shape == (N, 2)
    for half, message in (
        ({"X_val": table}, "X_val is provided, but y_val was not provided"),
        ({"y_val": REAL}, "y_val is provided, but X_val was not provided"),
        ({"sample_weight_val": REAL}, "sample_weight_val is provided, but X_val"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(table, REAL, **half)


def test_intervals_hold_the_share_that_was_asked_for():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3))
    y = X[:, 0] + rng.normal(size=3000)
    model = TabularMLPRegressor(
        2, (16,), max_iter=8, validation_fraction=0.3, random_state=0
    )
    model.fit(X[:1000], y[:1000])
    for level in (0.5, 0.9):
        low, high = model.predict_interval(X[1000:], level).T
        covered = np.mean((low <= y[1000:]) & (y[1000:] <= high))
        # Four deviations of the quantile of 600 errors and of the share of 2,000.
        slack = 4 * np.sqrt(level * (1 - level) * (1 / 600 + 1 / 2000))
        assert abs(covered - level) < slack
    with pytest.raises(ValueError, match=r"too few for confidence_level=0\.9999"):
        model.predict_interval(X, 0.9999)
    for wrong in (90, [0.5, 0.9]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            model.predict_interval(X, wrong)
    model = quick(TabularMLPRegressor, early_stopping=False).fit(X[:50], y[:50])
    with pytest.raises(ValueError, match="early_stopping=True"):
        model.predict_interval(X)


def test_several_targets_and_the_deviation_between_members():
    table, y = frame("pandas"), np.column_stack([REAL, 100 - 50 * REAL])
    model = quick(TabularMLPRegressor).fit(table, y)
    mean, deviation = model.predict(table, return_std=True)
    assert mean.shape == deviation.shape == y.shape
    assert (deviation >= 0).all()
    assert model.predict_interval(table).shape == (N, 2, 2)
    # Nothing beyond the targets of fit is predicted.
    assert (mean >= y.min(axis=0)).all()
    assert (mean <= y.max(axis=0)).all()


def test_network_params_go_to_the_members():
    model = quick(TabularMLPClassifier, network_params={"dropout": 0.3})
    model.fit(frame("pandas"), LABELS)
    assert {m.dropout for m in model.estimators_} == {0.3}
    for params, message in (
        ({"drop": 0.3}, "Invalid parameter 'drop'"),
        ({"max_iter": 3}, "a parameter of TabularMLPClassifier itself: pass max_iter"),
        ({"solver": "lbfgs"}, "trained in minibatches: choose another solver"),
    ):
        model.set_params(network_params=params)
        with pytest.raises(ValueError, match=message):
            model.fit(frame("pandas"), LABELS)


def test_it_can_be_searched():
    grid = {"network_params": [{"dropout": 0.0}, {"dropout": 0.2}]}
    search = GridSearchCV(quick(TabularMLPRegressor, max_iter=4), grid, cv=2)
    search.fit(frame("pandas"), REAL)
    assert search.best_params_ in [
        {"network_params": p} for p in grid["network_params"]
    ]


BAD = {
    "sparse": (
        lambda: sparse.csr_array(np.eye(4)),
        TypeError,
        "Sparse data was passed",
    ),
    "lazy": (
        lambda: pl.LazyFrame({"a": [1.0, 2.0]}),
        TypeError,
        r"pass X\.collect\(\)",
    ),
    "a huge number of Python": (
        lambda: pd.DataFrame({"a": pd.Series([10**400, 1], dtype=object)}),
        ValueError,
        "too large .*column 'a'",
    ),
    "infinite": (
        lambda: pd.DataFrame({"a": [1.0, np.inf]}),
        ValueError,
        "infinity .*column 'a'",
    ),
    "no rows": (lambda: pd.DataFrame({"a": []}), ValueError, "0 sample"),
    "no columns": (lambda: pl.DataFrame(), ValueError, "0 feature"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused(case):
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        quick(TabularMLPRegressor).fit(make(), [0.0, 1.0])


def test_columns_of_another_kind_are_named():
    table = frame("pandas")
    model = quick(TabularMLPRegressor).fit(table, REAL)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(table.rename(columns={"size": "width"}))
    with pytest.raises(ValueError, match=r"'size' held numbers in fit .* 'big'"):
        model.predict(table.assign(size="big"))
    polar = quick(TabularMLPRegressor).fit(frame("polars"), REAL)
    with pytest.raises(ValueError, match="feature names should match"):
        polar.predict(frame("polars").rename({"size": "width"}))
    for categorical, message in (
        (["weight"], "no column of X"),
        ([9], "has the index 9"),
        ([True], "mask of shape"),
        ([0.5], "must be a mask of bools, indices or names"),
        ([[0]], "in one dimension"),
    ):
        with pytest.raises(ValueError, match=message):
            TableEncoder(categorical).fit(table)


NO_CLASS: dict[str, Any] = {
    "None": lambda y: pd.Series(y, dtype=object).mask(FLAGS, None),
    "NaN": lambda y: pd.Series(y, dtype=object).mask(FLAGS),
    "NA": lambda y: pd.Series(y, dtype="string").mask(FLAGS),
    "NA of Int64": lambda y: pd.Series(y == "high", dtype="Int64").mask(FLAGS),
    "polars": lambda y: pl.Series(
        [None if f else v for f, v in zip(FLAGS, y, strict=True)]
    ),
    "pyarrow": lambda y: pa.array(
        [None if f else v for f, v in zip(FLAGS, y, strict=True)]
    ),
}


@pytest.mark.parametrize("name", NO_CLASS)
def test_rows_without_a_class_are_named(name):
    first = np.flatnonzero(FLAGS)[0]
    words = f"Input y contains NaN: {FLAGS.sum()} rows .* is row {first}. Leave these"
    with pytest.raises(ValueError, match=words):
        quick(TabularMLPClassifier).fit(frame("pandas"), NO_CLASS[name](LABELS))


def test_labels_of_validation_rows_are_those_of_the_others():
    table = frame("pandas")
    words = r"y_val has labels that y has not: \['new'\]; y has \['high', 'low'\]"
    with pytest.raises(ValueError, match=words):
        quick(TabularMLPClassifier).fit(
            table, LABELS, X_val=table, y_val=np.where(FLAGS, "new", LABELS)
        )


def test_several_columns_of_classes_are_refused():
    with pytest.raises(ValueError, match="MultiOutputClassifier"):
        quick(TabularMLPClassifier).fit(
            frame("pandas"), np.eye(2, dtype=int)[FLAGS * 1]
        )


#: Rows are drawn into minibatches and held out, and quantiles are those of rows, not of
#: weights: a weight of k is not k rows to the last bit.
NOT_EQUAL = {"check_sample_weight_equivalence_on_dense_data"}
CHECKS = [
    (kind, number)
    for kind in ESTIMATORS
    for number in range(len(list(estimator_checks_generator(kind()))))
]


@pytest.mark.filterwarnings("ignore")  # as scikit-learn's own runner does
@pytest.mark.parametrize(("kind", "number"), CHECKS)
def test_scikit_learns_checks(kind, number):
    model = kind(2, (8,), max_iter=30, random_state=0)
    estimator, check = list(estimator_checks_generator(model))[number]
    name = check.func.__name__
    if name in NOT_EQUAL:
        pytest.xfail("a weight of k is not k rows to the last bit")
    check(estimator)


def test_every_other_network_sees_no_ramps():
    model = quick(TabularMLPRegressor).fit(frame("pandas"), REAL)
    names = model.preprocessor_.get_feature_names_out()
    is_ramp = model.preprocessor_.is_ramp_
    assert ["ramp" in name for name in names] == is_ramp.tolist()
    assert is_ramp.any()
    assert_allclose(model.estimator_weights_.sum(), 1)
    sizes = [len(m.coefs_[0]) for m in model.estimators_]
    assert sizes == [len(names), (~is_ramp).sum()]


def test_rows_stay_narrow():
    model = quick(TabularMLPRegressor).fit(frame("pandas"), REAL)
    table = model.preprocessor_.columns(frame("pandas"))
    assert {m.n_features_in_ for m in model.estimators_} == {table.shape[1]}
    assert table.shape[1] < len(model.preprocessor_.get_feature_names_out()) / 2
    encoded = model.preprocessor_.input_encoding().encode(table)
    assert_array_equal(encoded, model.preprocessor_.transform(frame("pandas")))


def test_the_temperature_undoes_what_smoothing_does():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(400, 2))
    y = X[:, 0] > 0
    sharp = {"network_params": {"label_smoothing": 0.3}}
    model = quick(TabularMLPClassifier, max_iter=30, **sharp).fit(X, y)
    assert model.temperature_ < 0.8
    shares = model.predict_proba(X)
    assert_allclose(shares.sum(axis=1), 1, rtol=1e-9)
    log_loss = -np.log(shares[np.arange(400), y.astype(int)]).mean()
    model.temperature_ = 1.0
    shares = model.predict_proba(X)
    assert log_loss < -np.log(shares[np.arange(400), y.astype(int)]).mean()


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_better_kind_of_network_has_the_greater_weight(kind):
    # A saw with a tooth for every two ramps is what ramps are made for.
    x = np.linspace(0, 1, 600)
    saw = (8 * x) % 1
    y = saw if kind is TabularMLPRegressor else saw > 0.5
    model = quick(kind, n_estimators=3, max_iter=40).fit(x[:, None], y)
    ramps, plain = model.estimator_weights_[0], model.estimator_weights_[1]
    assert ramps == model.estimator_weights_[2]
    assert 2 * ramps > plain
    # Without rows to go by, all weigh the same.
    model.set_params(early_stopping=False).fit(x[:, None], y)
    assert_allclose(model.estimator_weights_, 1 / 3)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_what_is_set_without_effect_is_named(kind):
    table, y = frame("pandas"), targets(kind)
    model = quick(kind, early_stopping=False, scoring="r2", validation_fraction=0.3)
    words = r"without early_stopping does not use scoring='r2', validation_fraction=0.3"
    with pytest.warns(UnusedParameterWarning, match=words):
        model.fit(table, y)
    model.set_params(early_stopping=True, scoring=None).fit(table, y)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_failed_fit_leaves_the_estimator_as_it_was(kind):
    table, y = frame("pandas"), targets(kind)
    model = quick(kind).fit(table, y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(table[["size"]], y[:-1])
    assert vars(model) == before
