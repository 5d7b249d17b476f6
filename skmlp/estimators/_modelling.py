"""Reading the parameters that say what the network is: one value, or one a layer."""

from __future__ import annotations

import numpy as np

from skmlp.model.activations import ACTIVATIONS, METHODS, entry


def activations(estimator, n_hidden):
    """The activation of each hidden layer.

    Parameters
    ----------
    estimator : BaseMLP
        Its parameter `activation`.
    n_hidden : int
        How many hidden layers there are.

    Returns
    -------
    tuple of str or object, of length n_hidden

    Raises
    ------
    ValueError
        The list has another length.
    """
    given = estimator.activation
    if not isinstance(given, (list, tuple)):
        given = (given,) * n_hidden
    if len(given) != n_hidden:
        raise ValueError(
            f"activation has {len(given)} entries, but there are {n_hidden} hidden "
            "layers: give one for each, or one name for all"
        )
    return tuple(given)


def for_first_weights(estimator, n_hidden):
    """As `activations`; of a network without hidden layers what stands for them."""
    found = activations(estimator, n_hidden)
    one_for_all = not isinstance(estimator.activation, (list, tuple))
    return found or ((estimator.activation,) if one_for_all else ())


def check(estimator, n_hidden):
    """ValueError, with the cure, if a parameter can't be what it says."""
    for activation in activations(estimator, n_hidden):
        check_activation(activation)


def check_activation(activation):
    """ValueError unless it is an activation."""
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation={activation!r} is none of {', '.join(sorted(ACTIVATIONS))}"
            )
        return
    name = type(activation).__name__
    z = np.linspace(-2.0, 2.0, 12).reshape(3, 4)
    for method in METHODS:
        if not callable(getattr(activation, method, None)):
            raise ValueError(
                f"an activation of your own needs the methods {' and '.join(METHODS)}; "
                f"{name} has no {method}"
            )
        given = z.copy()
        found = getattr(activation, method)(given)
        if np.shape(found) != z.shape or np.asarray(found).dtype.kind != "f":
            raise ValueError(
                f"{name}.{method} must return an array of real numbers of the shape of "
                f"its argument, {z.shape}; it returned {type(found).__name__} of shape "
                f"{np.shape(found)}"
            )
        if not np.array_equal(given, z):
            raise ValueError(f"{name}.{method} must leave its argument as it was")
        if not np.isfinite(found).all():
            raise ValueError(
                f"{name}.{method} must be finite from -2 to 2, where it was tried"
            )
    entry(activation).bound(1, 1)
