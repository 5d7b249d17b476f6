"""Reading the parameters that say what the network is: one value, or one a layer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np

from skmlp.estimators import suggestions
from skmlp.estimators.targets import regression_losses
from skmlp.exceptions import UnusedParameterWarning
from skmlp.model.activations import ACTIVATIONS, METHODS, entry
from skmlp.optim.schedules import BY_EPOCH, PARAMETERS, SCHEDULES, Schedule
from skmlp.optim.solvers import SOLVERS

#: Decay of the moving mean of the weights with ``average=True``.
DECAY = 0.999

#: What some solvers use, or some schedules: all that one of them does.
_OF_SOLVERS = {name for solver in SOLVERS.values() for name in solver.parameters}
_OF_SCHEDULES = {name for names in PARAMETERS.values() for name in names}

#: What L-BFGS leaves aside, beside these. (It never shuffles, as shuffle=False asks.)
_ONLY_BY_STEPS = (
    "batch_size",
    "learning_rate",
    "learning_rate_init",
    "early_stopping",
    "validation_fraction",
    "scoring",
    "n_iter_no_change",
    "dropout",
    "input_dropout",
    "clip_norm",
    "average",
)


def hidden_sizes(estimator: Any) -> list[int]:
    """`hidden_layer_sizes` as a list, checked."""
    sizes = estimator.hidden_layer_sizes
    sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    if all(type(size) is int and size > 0 for size in sizes):
        return sizes
    if any(isinstance(size, Real) and size <= 0 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
    if any(isinstance(n, bool) or not isinstance(n, Integral) for n in sizes):
        raise TypeError(f"hidden_layer_sizes must be whole numbers, got {sizes}.")
    return [int(size) for size in sizes]


def check_layer(layer: Any, n_hidden: int) -> None:
    """ValueError unless `layer` is the index of a hidden layer."""
    if not -n_hidden <= layer < n_hidden:
        raise ValueError(
            f"layer={layer!r} is not a hidden layer of this network: it has "
            f"{n_hidden}, numbered from 0"
        )


def activations(estimator: Any, n_hidden: int) -> tuple[Any, ...]:
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


def dropout(estimator: Any, n_hidden: int) -> tuple[float, ...]:
    """The share that is dropped of the features and of each hidden layer.

    Returns
    -------
    tuple of float
        Empty if nothing is ever dropped.
    """
    given = estimator.dropout
    if not isinstance(given, (list, tuple)):
        given = (given,) * n_hidden
    if len(given) != n_hidden:
        raise ValueError(
            f"dropout has {len(given)} entries, but there are {n_hidden} hidden "
            "layers: give one for each, or one number for all"
        )
    for rate in given:
        if not isinstance(rate, Real) or not 0 <= float(rate) < 1:
            raise ValueError(
                f"dropout must be at least 0 and less than 1 in each layer, got {rate}"
            )
    rates = (float(estimator.input_dropout), *map(float, given))
    return rates if any(rates) and estimator.solver in SOLVERS else ()


def for_first_weights(estimator: Any, n_hidden: int) -> tuple[Any, ...]:
    """As `activations`; of a network without hidden layers what stands for them."""
    found = activations(estimator, n_hidden)
    one_for_all = not isinstance(estimator.activation, (list, tuple))
    return found or ((estimator.activation,) if one_for_all else ())


def check(estimator: Any, n_hidden: int) -> None:
    """ValueError, with the cure, if a parameter can't be what it says."""
    for activation in activations(estimator, n_hidden):
        check_activation(activation)
    dropout(estimator, n_hidden)
    rate = estimator.learning_rate
    if callable(rate):
        Schedule(rate, 1.0).rates(0, 0, 1)
    if estimator.l1_ratio and estimator.solver not in SOLVERS:
        raise ValueError(
            f"solver={estimator.solver!r} needs a smooth penalty, but l1_ratio is "
            f"{estimator.l1_ratio}: set it to 0, or take another solver"
        )


def warn_unused(estimator: Any, held_out: bool) -> None:
    """Tell once which parameters were set and have no effect.

    `held_out` says that the caller gave validation rows.
    """
    told = []
    for cause, names in _unused(estimator, held_out):
        given = [
            f"{n}={getattr(estimator, n)!r}" for n in names if estimator._is_set(n)
        ]
        if held_out and "early_stopping" in names:
            given.append("X_val")
        if given:
            told.append(f"{cause} does not use {', '.join(given)}")
    if told:
        warnings.warn("; ".join(told), UnusedParameterWarning, stacklevel=2)


def _unused(estimator: Any, held_out: bool) -> Iterator[tuple[str, list[str]]]:
    """What leaves parameters aside, with their names."""
    solver, rate = f"solver={estimator.solver!r}", estimator.learning_rate
    optimizer = SOLVERS.get(estimator.solver)
    if optimizer is None:
        yield solver, [*_ONLY_BY_STEPS, *sorted(_OF_SOLVERS | _OF_SCHEDULES)]
    else:
        others = _OF_SOLVERS.difference(optimizer.parameters)
        if not optimizer.scheduled and rate in BY_EPOCH:
            yield solver, ["learning_rate", "max_fun", *sorted(others)]
            rate = "constant"
        else:
            yield solver, ["max_fun", *sorted(others)]
        name = "a function as learning_rate"
        if not callable(rate):
            name = f"learning_rate={rate!r}"
        yield name, sorted(_OF_SCHEDULES.difference(PARAMETERS.get(rate, ())))
        # With early stopping, X_val takes the place of what would be set aside.
        if held_out and not estimator.early_stopping:
            yield "a fit without early_stopping", ["validation_fraction"]
        elif not estimator.early_stopping:
            names = ["scoring", "validation_fraction"]
            yield "a fit without early_stopping or X_val", names
        quantiles = estimator._loss_name() == "quantiles"
        by_loss = estimator.scoring == "loss" or (not estimator.scoring and quantiles)
        if estimator.early_stopping and not by_loss:
            yield "a fit that stops by a score", ["tol_scale"]
        if not hidden_sizes(estimator):
            yield "a network without hidden layers", ["dropout"]
        if not estimator.alpha:
            yield f"alpha={estimator.alpha!r}", ["l1_ratio"]
    if estimator.intercepts_init is not None and (
        estimator.intercepts_init[-1] is not None
    ):
        yield "a last array of intercepts_init", ["output_bias_init"]
    if hasattr(estimator, "quantile"):
        yield f"loss={estimator.loss!r}", regression_losses.unused(estimator)


def training(estimator: Any, start: Any, incremental: bool) -> dict[str, Any]:
    """What a plan says of the steps, beyond scikit-learn's parameters."""
    if estimator.solver not in SOLVERS:
        return {}
    average = estimator.average
    if isinstance(average, (bool, np.bool_)):
        average = DECAY if average else None
    goes_on = incremental and not start.first
    name = estimator.learning_rate
    schedule = None
    if callable(name) or name in SCHEDULES:
        # Of the others the plan is the same whatever max_iter is: a checkpoint of
        # them can be trained for longer.
        one_wave = name == "cosine" and estimator.restart_epochs is None
        lasting = {}
        if one_wave or name == "one_cycle":
            lasting["n_epochs"] = int(estimator.max_iter)
        schedule = Schedule(
            name,
            float(estimator.learning_rate_init),
            float(estimator.learning_rate_min),
            float(estimator.decay_rate),
            float(estimator.decay_epochs),
            float(estimator.warmup_epochs),
            estimator.restart_epochs,
            **lasting,
        )
    return {
        "clip_norm": estimator.clip_norm,
        "average": average,
        "schedule": schedule,
        "first_epoch": getattr(estimator, "_schedule_epoch", 0) if goes_on else 0,
    }


def check_activation(activation: Any) -> None:
    """ValueError unless it is an activation."""
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            error = ValueError(
                f"activation={activation!r} is none of {', '.join(sorted(ACTIVATIONS))}"
            )
            hint = suggestions.for_option("activation", activation, ACTIVATIONS)
            suggestions.point(error, hint)
            raise error
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
