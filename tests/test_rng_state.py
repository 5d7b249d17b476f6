"""The state of a twister is read and put as NumPy itself does it, only faster."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skmlp import rng_state


@pytest.fixture(params=["as it lies in memory", "through NumPy"])
def way(request, monkeypatch):
    """Both ways; the second where the state lies otherwise than expected."""
    if request.param == "through NumPy":
        monkeypatch.setattr(rng_state, "_lies_as_expected", lambda: False)
    else:
        assert rng_state._lies_as_expected()


@pytest.mark.parametrize("draws", [0, 1, 623, 624, 1000])
@pytest.mark.usefixtures("way")
def test_state_is_numpys(draws):
    rng = np.random.RandomState(3)
    rng.randint(2**32, size=draws, dtype=np.uint32)
    inner = rng.get_state(legacy=False)["state"]
    assert rng_state.twister_state(rng) == (inner["key"].tobytes(), inner["pos"])


@pytest.mark.usefixtures("way")
def test_put_where_another_stands():
    one, other = np.random.RandomState(1), np.random.RandomState(2)
    one.random_sample(5)
    other.normal()
    cached = other.get_state()[3:]
    rng_state.set_twister_state(other, rng_state.twister_state(one))
    assert other.get_state()[3:] == cached
    assert rng_state.twister_state(other) == rng_state.twister_state(one)
    assert_array_equal(other.permutation(700), one.permutation(700))


@pytest.mark.usefixtures("way")
def test_the_threads_own_twister():
    rng = np.random.RandomState(4)
    start = rng_state.twister_state(rng)
    for _ in range(2):
        assert rng_state.twister_at(start).randint(2**31) == (
            np.random.RandomState(4).randint(2**31)
        )
    assert rng_state.twister_state(rng) == start


def test_a_state_that_lies_otherwise_is_noticed(monkeypatch):
    monkeypatch.setattr(rng_state, "_read", lambda rng: (b"", 0))
    assert not rng_state._lies_as_expected.__wrapped__()
