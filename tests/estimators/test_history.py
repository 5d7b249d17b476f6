"""What `history_` says of an epoch, against what the epoch has done."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skmlp import MLPRegressor
from skmlp.model.layout import Layout
from tests.laws.places import HERE, all_shards_here

X = np.random.default_rng(0).normal(size=(30, 3))
Y = X @ np.random.default_rng(1).normal(size=(3, 2))


@pytest.mark.parametrize("place", [HERE, all_shards_here(2)], ids=["1", "2 shards"])
@pytest.mark.parametrize("params", [{}, {"clip_norm": 1e-3}, {"frozen_layers": [1]}])
def test_the_norm_is_that_of_the_step(place, params):
    """A step of plain gradient descent is the gradient times the learning rate."""
    layout = Layout((3, 5, 2))
    start = np.random.default_rng(2).uniform(-1, 1, layout.size)
    coefs, intercepts = zip(*layout.views(start), strict=True)
    model = MLPRegressor(
        hidden_layer_sizes=5,
        activation="tanh",
        solver="sgd",
        momentum=0,
        alpha=0,
        batch_size=30,
        max_iter=1,
        learning_rate_init=0.01,
        coefs_init=list(coefs),
        intercepts_init=list(intercepts),
        **params,
    )
    with place.around():
        model.fit(X, Y)
    assert model.n_shards_ == place.n_shards
    end = layout.pack(model.coefs_, model.intercepts_, np.dtype(np.float64))
    moved = np.linalg.norm(end - start) / 0.01
    (epoch,) = model.history_
    if "clip_norm" in params:
        assert epoch["gradient_norm"] > 1
        moved *= epoch["gradient_norm"] / 1e-3
    assert_allclose(epoch["gradient_norm"], moved, rtol=1e-9)
