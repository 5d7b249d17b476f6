"""A training state survives its own wire format."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skmlp.comm.base import SoloCommunicator
from skmlp.rng_state import twister_state
from skmlp.state import Record, TrainState
from skmlp.training.snapshots import Commits


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


def test_a_commit_is_copied_when_the_next_epoch_begins():
    """The last epoch of a run is never copied; what was kept is safe from the next."""
    params, best, moment = (np.full(4, float(k)) for k in range(3))
    commits = Commits(SoloCommunicator(), [params, best, moment], [slice(0, 4)])
    state = TrainState(params, (moment,), 0.1, np.inf, best, epoch=1)
    assert commits.last() is None
    for epoch in (1, 2):
        commits.release()
        params += 10.0
        if epoch == 2:
            kept = commits.last()
            assert kept.epoch == 1
            assert_array_equal(kept.params, np.full(4, 10.0))
        state.epoch = epoch
        commits.keep(state)
        assert commits.last().params is params
    commits.release()
    # Once more before an epoch: a state that was loaded is no part of it.
    params[:] = np.nan
    commits.release()
    kept = commits.last()
    assert kept.epoch == 2
    assert_array_equal(kept.params, np.full(4, 20.0))
    assert_array_equal([*kept.moments, kept.best_params], [[2.0] * 4, [1.0] * 4])
