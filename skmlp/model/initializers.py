"""The first weights of a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from skmlp.model.activations import ACTIVATIONS
from skmlp.model.layout import Layout

Array = np.ndarray[Any, np.dtype[Any]]


def glorot_uniform(
    layout: Layout, activation: str, rng: np.random.RandomState, dtype: np.dtype[Any]
) -> Array:
    """Draw weights and biases as scikit-learn does.

    Uniform in ``[-r, r]`` with ``r = sqrt(f / (fan_in + fan_out))``; ``f`` is 2 for
    the logistic activation, 6 for the others. The biases come from the same
    distribution. Drawn in float64, layer by layer, and then cast.

    Parameters
    ----------
    layout : Layout
        The network's shapes.
    activation : str
        Name of the hidden activation.
    rng : RandomState
        Advanced by the draws.
    dtype : dtype
        Of the result.

    Returns
    -------
    ndarray of shape (layout.size,)
        The flat vector.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward
    neural networks", AISTATS 2010, equation 16.
    """
    factor = ACTIVATIONS[activation].init_factor
    flat = np.empty(layout.size, dtype=dtype)
    for W, b in layout.views(flat):
        bound = np.sqrt(factor / (W.shape[0] + W.shape[1]))
        W[...] = rng.uniform(-bound, bound, W.shape)
        b[...] = rng.uniform(-bound, bound, b.shape)
    return flat
