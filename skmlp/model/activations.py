"""The activations of hidden layers, by name.

A new activation is one entry here and its two kernels in `skmlp.kernels`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Activation:
    """A function applied to every unit of a hidden layer.

    Attributes
    ----------
    name : str
        The name of its kernels.
    init_factor : float
        Numerator ``f`` of the Glorot bound ``sqrt(f / (fan_in + fan_out))``.
    """

    name: str
    init_factor: float = 6.0


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("identity"),
        Activation("logistic", init_factor=2.0),
        Activation("tanh"),
        Activation("relu"),
    )
}
