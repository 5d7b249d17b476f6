"""What a user might write: an activation and losses of their own, at module level."""

from __future__ import annotations

import numpy as np


class Sine:
    """An activation."""

    init_factor = 4.0

    def value(self, z):
        return np.sin(z)

    def derivative(self, z):
        return np.cos(z)


class LogCosh:
    """A loss between squared and absolute error."""

    def value_and_gradient(self, y, raw_prediction):
        error = raw_prediction - y
        return np.logaddexp(error, -error) - np.log(2), np.tanh(error)


class Exponential:
    """Negative log-likelihood of waiting times with rate ``1 / exp(raw)``."""

    out_activation = "exp"

    def value_and_gradient(self, y, raw_prediction):
        ratio = y * np.exp(-raw_prediction)
        return raw_prediction + ratio, 1 - ratio
