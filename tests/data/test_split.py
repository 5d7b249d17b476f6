"""The rows that are set aside are scikit-learn's, with its draws and its words."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import train_test_split

from skmlp.data.split import split_rows
from skmlp.plan import Split
from skmlp.rng_state import twister_state


def both(n_rows: int, fraction: float, second: np.ndarray, seed: int) -> list:
    """What scikit-learn and we make of it, each with the next number drawn."""
    names = np.where(second, "True", "False")
    found = []
    for ours in (False, True):
        rng = np.random.RandomState(seed)
        packed = np.packbits(second).tobytes()
        split = Split(n_rows, fraction, twister_state(rng), packed, False)
        try:
            rows = (
                split_rows(split, rng)
                if ours
                else train_test_split(
                    np.arange(n_rows),
                    random_state=rng,
                    test_size=fraction,
                    stratify=names,
                )
            )
        except ValueError as error:
            rows = str(error)
        found.append((rows, rng.randint(2**30)))
    return found


@pytest.mark.parametrize("n_rows", [8, 11, 20, 57, 1000, 4097])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 1 / 3, 0.5])
def test_a_split_by_two_classes(n_rows, fraction):
    rng, compared = np.random.default_rng(n_rows), 0
    for share in (0.02, 0.1, 0.5, 0.9):
        for seed in range(3):
            second = rng.random(n_rows) < share
            (theirs, drawn), (ours, next_drawn) = both(n_rows, fraction, second, seed)
            if isinstance(theirs, str):
                assert ours == theirs
                continue
            if len(theirs[1]) < 2:
                assert "validation set is too small" in ours
                continue
            for one, other in zip(ours, theirs, strict=True):
                assert_array_equal(one, other)
                assert one.dtype == other.dtype
            assert drawn == next_drawn
            compared += 1
    assert compared or fraction * n_rows < 2


@pytest.mark.parametrize(
    ("second", "fraction", "message"),
    [
        ([1] + 19 * [0], 0.25, "has only 1 member|have only 1 member"),
        (10 * [1, 0], 0.05, "test_size = 1 should be"),
        (10 * [1, 0], 0.95, "train_size = 1 should be"),
    ],
)
def test_what_can_not_be_split_is_told_in_scikit_learns_words(
    second, fraction, message
):
    (theirs, _), (ours, _) = both(len(second), fraction, np.array(second, bool), 0)
    assert ours == theirs
    assert any(text in ours for text in message.split("|"))


def test_one_class_of_two():
    """All rows that are left of a class that an earlier call knew."""
    (theirs, drawn), (ours, next_drawn) = both(30, 0.2, np.ones(30, bool), 0)
    for one, other in zip(ours, theirs, strict=True):
        assert_array_equal(one, other)
    assert drawn == next_drawn
