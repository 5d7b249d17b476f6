"""Computed orders: bijections that depend on their key, and look like shuffles."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skmlp.data import feistel
from skmlp.data.feistel import Bijection, KeyedIndices
from skmlp.data.shuffle import KeyedOrder
from skmlp.rng_state import twister_state

KEY, OTHER = b"0123456789abcdef", b"0123456789abcdeg"
GOLDEN = [4, 2, 1, 6, 7, 5, 0, 9, 3, 8]
SIZES = [*range(1, 70), 127, 128, 129, 1000, 2**14 + 1, 100_003]


@pytest.mark.parametrize("n", SIZES)
def test_every_row_has_one_position(n):
    bijection = Bijection(n, KEY, 5)
    rows = bijection.rows(np.arange(n))
    assert rows.dtype == np.intp
    assert_array_equal(np.sort(rows), np.arange(n))
    assert_array_equal(bijection.positions(rows), np.arange(n))


@pytest.mark.parametrize("n", [2**31, 2**32 + 7, 10**12, 2**62])
def test_large_numbers_go_there_and_back(n):
    bijection = Bijection(n, KEY, 0)
    positions = np.random.RandomState(0).randint(0, n, 1000, dtype=np.int64)
    rows = bijection.rows(positions)
    assert rows.min() >= 0
    assert rows.max() < n
    assert_array_equal(bijection.positions(rows), positions)


def test_in_pieces_as_at_once(monkeypatch):
    at_once = Bijection(1000, KEY, 1).rows(np.arange(1000))
    monkeypatch.setattr(feistel, "PIECE", 7)
    assert_array_equal(Bijection(1000, KEY, 1).rows(np.arange(1000)), at_once)


def test_depends_on_key_and_epoch_and_on_nothing_else():
    def order(key, epoch):
        return Bijection(1000, key, epoch).rows(np.arange(1000))

    orders = [order(key, epoch) for key in (KEY, OTHER) for epoch in (1, 2, 3)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Of two shuffles, one number on average stands where it stood.
            assert (one == other).sum() < 12
    assert_array_equal(order(KEY, 2), orders[1])


def test_the_numbers_are_fixed():
    """A later version must go on where a pickled estimator of this one stood."""
    assert Bijection(10, KEY, 1).rows(np.arange(10)).tolist() == GOLDEN


def test_rows_are_spread_evenly():
    """Chi-square of where 30 stretches of rows go to, over many epochs."""
    n, epochs, cells = 3000, 40, 30
    counts = np.zeros((cells, cells))
    steps = np.zeros(cells)
    for epoch in range(epochs):
        rows = Bijection(n, KEY, epoch).rows(np.arange(n))
        np.add.at(counts, (np.arange(n) * cells // n, rows * cells // n), 1)
        # Neighbours in an order are as far apart as any two rows.
        np.add.at(steps, np.diff(rows) % n * cells // n, 1)
    expected = n * epochs / cells**2
    # The mean of chi-square is its degrees of freedom, and its variance twice that.
    freedom = (cells - 1) ** 2
    chi = ((counts - expected) ** 2).sum() / expected
    assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)
    expected = steps.mean()
    chi = ((steps - expected) ** 2).sum() / expected
    assert abs(chi - (cells - 1)) < 5 * np.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("split", [None, Bijection(40, KEY, 0)])
@pytest.mark.parametrize("shuffle", [None, Bijection(30, OTHER, 3)])
def test_rows_know_their_places(split, shuffle):
    some = KeyedIndices(30, shuffle, split, 10 if split else 0)
    assert len(some) == 30
    numbers = some[:]
    assert len(set(numbers)) == 30
    assert_array_equal(some[7:20], numbers[7:20])
    assert_array_equal(some[np.array([3, 29, 0])], numbers[[3, 29, 0]])
    own = np.array([1, 2, 5, 17, 18, 29, 33, 39])
    which, places = some.places(own)
    assert_array_equal(numbers[places], own[which])
    assert (np.diff(places) > 0).all()
    assert set(own[which]) == set(own) & set(numbers)
    assert_array_equal(pickle.loads(pickle.dumps(some))[:], numbers)


def test_one_draw_gives_the_key_of_all_epochs():
    rng = np.random.RandomState(3)
    start = twister_state(rng)
    order = KeyedOrder(20, start)
    orders = [order.seek(epoch)[:] for epoch in (1, 2, 3)]
    rng.bytes(16)
    assert order.rng == twister_state(rng)
    assert_array_equal(KeyedOrder(20, start).seek(2)[:], orders[1])
    assert_array_equal(np.sort(orders[0]), np.arange(20))
    assert (orders[0] != orders[1]).any()
