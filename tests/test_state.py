"""A training state survives its own wire format."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skmlp.rng_state import twister_state
from skmlp.state import Record, TrainState


@pytest.mark.parametrize("n_moments", [0, 1, 2])
@pytest.mark.parametrize("with_rng", [False, True])
@pytest.mark.parametrize("n_records", [0, 3])
def test_there_and_back(n_records, with_rng, n_moments):
    rng = np.random.default_rng(0)
    state = TrainState(
        params=rng.normal(size=7),
        moments=tuple(rng.normal(size=7) for _ in range(n_moments)),
        learning_rate=0.01,
        best=-np.inf,
        best_params=rng.normal(size=7),
        epoch=3,
        step=40,
        samples_seen=10**12,
        no_improvement=2,
        shuffles=5,
        status=1,
        rng=twister_state(np.random.RandomState(4)) if with_rng else None,
        records=[Record(1.5, np.nan, 0.1, 1, 0.02, 3.0, (1.0, 2.5))] * n_records,
    )
    arrays = state.to_arrays()
    assert all(a.ndim == 1 and a.flags.c_contiguous for a in arrays)
    other = TrainState.from_arrays(arrays)
    for name, value in vars(state).items():
        if name in ("params", "best_params"):
            assert_array_equal(getattr(other, name), value)
        elif name == "moments":
            assert len(other.moments) == n_moments
            assert_array_equal(other.moments, value)
        else:
            assert repr(getattr(other, name)) == repr(value)


def test_a_missing_moment_is_an_error():
    state = TrainState(np.zeros(2), (np.zeros(2),), 0.1, 0.0)
    with pytest.raises(ValueError, match="has 0 moments, it should have 1"):
        TrainState.from_arrays(state.to_arrays()[:-1])


def test_a_copy_has_arrays_of_its_own():
    state = TrainState(np.zeros(2), (np.ones(2),), 0.1, 0.0, np.full(2, 2.0), epoch=7)
    other = state.copy()
    for array in (state.params, *state.moments, state.best_params):
        array[:] = np.nan
    assert other.epoch == 7
    assert_array_equal(
        [other.params, *other.moments, other.best_params], [[0, 0], [1, 1], [2, 2]]
    )
