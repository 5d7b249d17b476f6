"""The first weights of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.model.activations import entry
from skmlp.model.layout import Layout


def uniform(
    layout: Layout,
    activations: Sequence[Any],
    rng: np.random.RandomState,
    dtype: np.dtype[Any],
) -> Array:
    """Draw weights and biases, for scikit-learn's activations as scikit-learn does.

    Uniform in ``[-r, r]``, where r follows from the layer's width, that of the layer
    below, and its activation; see `skmlp.model.activations.Activation` (Glorot and
    Bengio, AISTATS 2010, equation 16). The last layer takes the rule of the last
    activation. The biases come from the same distribution. Drawn in float64, layer by
    layer, then cast.
    """
    rules = [entry(activation) for activation in activations] or [entry("relu")]
    rules += rules[-1:] * (len(layout.shapes) - len(rules))
    flat = np.empty(layout.size, dtype=dtype)
    for (W, b), rule in zip(layout.views(flat), rules, strict=True):
        bound = rule.bound(*W.shape)
        W[...] = rng.uniform(-bound, bound, W.shape)
        b[...] = rng.uniform(-bound, bound, b.shape)
    return flat
