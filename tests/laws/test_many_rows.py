"""With more rows than scikit-learn's order is made for: still one model everywhere.

The limit is lowered, in this process alone: what the ranks do they read in the plan.
"""

from __future__ import annotations

import numpy as np
import pytest

import skmlp
from skmlp import testing
from tests.launch.dask_clusters import cluster, left_behind, until
from tests.laws.places import (
    HERE,
    TABLE,
    all_shards_here,
    alone,
    assert_same_bits,
    assert_same_model,
    dask_arrays,
    gangs_seen,
    processes,
)
from tests.laws.twins import data_of

FITS = [
    "adam",
    "adam, unequal batches",
    "warm start",
    "warm start, stopping early",
    "pieces",
    "pieces, sgd",
    "stopping early, stratified",
    "stopping early, R2",
    "dropout",
    "dropout, stopping early",
    "csr",
]
EVERY_FIT = pytest.mark.parametrize("name", FITS)


@pytest.fixture(scope="module", autouse=True)
def _count():
    with gangs_seen():
        yield


@pytest.fixture(autouse=True)
def _low_limit():
    with testing.settings(exact_order_rows=10):
        yield


@pytest.fixture(scope="module")
def client():
    with cluster(2) as client:
        yield client
        until(lambda: not left_behind(client), "a clean cluster")


@EVERY_FIT
def test_on_every_place_of_this_host(name):
    here = TABLE[name].run(HERE)
    for place in (processes(2), all_shards_here(3)):
        assert_same_model(TABLE[name].run(place), here, **TABLE[name].tolerances)
    assert_same_bits(TABLE[name].run(HERE), here)


@EVERY_FIT
@pytest.mark.parametrize("layout", ["uneven", "one worker"])
def test_on_dask(client, layout, name):
    here = TABLE[name].run(HERE)
    model = TABLE[name].run(dask_arrays(client, 2, layout))
    assert_same_model(model, here, **TABLE[name].tolerances)


def test_windows_are_not_seen():
    here = TABLE["stopping early, R2"].run(HERE)
    with testing.settings(order_window_rows=3):
        assert_same_bits(TABLE["stopping early, R2"].run(HERE), here)


def test_it_is_another_order():
    keyed = TABLE["adam"].run(HERE)
    with testing.settings(exact_order_rows=40):  # that many rows are not too many
        exact = TABLE["adam"].run(HERE)
        assert_same_bits(exact, alone("adam"))
    assert keyed.loss_curve_ != exact.loss_curve_


@pytest.mark.parametrize("seed", ["int", "instance"])
def test_calls_of_partial_fit_are_one_fit(seed):
    X, y = data_of("one output", 40)

    def model(**params):
        state = 3 if seed == "int" else np.random.RandomState(3)
        return skmlp.MLPRegressor(
            hidden_layer_sizes=4, batch_size=8, random_state=state, **params
        )

    whole = model(max_iter=3, tol=0).fit(X, y)
    pieces = model()
    for _ in range(3):
        pieces.partial_fit(X, y)
    np.testing.assert_array_equal(pieces.loss_curve_, whole.loss_curve_)
    if seed == "instance":
        states = [m.random_state.get_state()[1:3] for m in (whole, pieces)]
        assert_state(*states)


def assert_state(one, other):
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]


def test_no_order_is_kept_of_all_rows():
    X, y = data_of("one output", 40)
    model = skmlp.MLPRegressor(
        hidden_layer_sizes=4, max_iter=1, random_state=0
    ).partial_fit(X, y)
    assert not hasattr(model, "_row_order")


@pytest.mark.parametrize(
    ("fraction", "words"),
    [(0.01, "validation set is too small"), (0.999, "train set will be empty")],
)
def test_a_split_needs_rows_on_both_sides(fraction, words):
    X, y = data_of("one output", 40)
    model = skmlp.MLPRegressor(
        hidden_layer_sizes=4, early_stopping=True, validation_fraction=fraction
    )
    with pytest.raises(ValueError, match=words):
        model.fit(X, y)
