"""The one reader of hyper-parameters: everything else gets what it returns."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from skmlp import kernels as kernel_sets
from skmlp.config import get_config
from skmlp.estimators import suggestions
from skmlp.estimators.fitting.inputs import Input, check_validation_given
from skmlp.estimators.fitting.judge import check_scorer, scorer_of
from skmlp.estimators.targets import class_labels, class_weights, regression_losses
from skmlp.estimators.targets.class_labels import Mode
from skmlp.estimators.targets.labels import Labels
from skmlp.estimators.targets.real import Real as RealTarget
from skmlp.estimators.targets.real import as_levels
from skmlp.exceptions import UnusedParameterWarning
from skmlp.model.activations import ACTIVATIONS, METHODS, entry
from skmlp.optim.schedules import BY_EPOCH, PARAMETERS, SCHEDULES, Schedule
from skmlp.optim.solvers import SOLVERS

#: Decay of the moving mean of the weights with ``average=True``.
DECAY = 0.999

#: What some solvers use, or some schedules: all that one of them does.
_OF_SOLVERS = {name for solver in SOLVERS.values() for name in solver.parameters}
_OF_SCHEDULES = {name for names in PARAMETERS.values() for name in names}

#: Parameters of one loss alone.
_OF_LOSSES = {"huber_delta": "huber", "quantile": "quantile"}

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


@dataclass(frozen=True)
class Hyperparameters:
    """What a call of `fit` or `partial_fit` asks for, checked.

    Most names are those of the estimator's parameters. `plan` has the fields of a
    `skmlp.plan.Plan` that no data decides; `first` says that a new model begins;
    `first_activations` are those that the first weights are drawn for.
    """

    plan: dict[str, Any]
    mode: Mode
    first: bool
    hidden_sizes: list[int]
    first_activations: tuple[Any, ...]
    stochastic: bool
    early_stopping: bool
    shuffle: bool
    validation_fraction: float
    batch_size: int | None
    random_state: Any
    coefs_init: Any
    intercepts_init: Any
    output_bias_init: str
    scoring: Any
    scorer: Callable[..., Any] | None
    class_weight: Any
    n_jobs: int | None
    verbose: Any
    max_fun: int
    max_time: float | None


def read(estimator: Any, given: Input, epochs: Any) -> Hyperparameters:
    """Read the parameters; ValueError, with the cure, where data can't make them right.

    `epochs` are those of `partial_fit`; None in `fit`.
    """
    sizes = hidden_sizes(estimator)
    n_hidden, stochastic = len(sizes), is_stochastic(estimator)
    names, rates = activations(estimator, n_hidden), dropout(estimator, n_hidden)
    _check_steps(estimator, names)
    regression_losses.check(estimator)
    frozen = frozen_layers(estimator, n_hidden + 1)
    class_weight = getattr(estimator, "class_weight", None)
    weighted = given.sample_weight is not None or class_weight is not None
    scorer = _check_validation(estimator, given, epochs is not None, weighted)
    if epochs is not None and (not isinstance(epochs, Integral) or epochs < 1):
        raise ValueError(f"epochs={epochs!r} must be a whole number of 1 or more")
    class_weights.check(class_weight, epochs is not None)
    mode: Mode = "warm_start" if estimator.warm_start else "fit"
    if epochs is not None:
        mode = "partial_fit"
    early_stopping = stochastic and bool(estimator.early_stopping)
    plan = {
        "activation": names,
        "solver": estimator.solver,
        "alpha": float(estimator.alpha),
        "learning_rate": estimator.learning_rate,
        "learning_rate_init": float(estimator.learning_rate_init),
        "power_t": float(estimator.power_t),
        "momentum": float(estimator.momentum),
        "nesterovs_momentum": bool(estimator.nesterovs_momentum),
        "beta_1": float(estimator.beta_1),
        "beta_2": float(estimator.beta_2),
        "epsilon": float(estimator.epsilon),
        "max_iter": int(estimator.max_iter if epochs is None else epochs),
        "tol": float(estimator.tol),
        "tol_scale": estimator.tol_scale,
        "n_iter_no_change": float(estimator.n_iter_no_change),
        "early_stopping": early_stopping,
        "incremental": epochs is not None,
        "frozen": frozen,
        "kernels": kernel_sets.resolve(get_config()["kernels"]),
        "dropout": rates,
        "encoding": estimator.input_encoding,
        "weight_decay": float(estimator.weight_decay),
        "l1_ratio": float(estimator.l1_ratio),
        "rho": float(estimator.rho),
    }
    if stochastic:
        plan |= _of_steps(estimator)
    one_for_all = not isinstance(estimator.activation, (list, tuple))
    auto = estimator.batch_size == "auto"
    return Hyperparameters(
        plan=plan,
        mode=mode,
        first=mode == "fit" or not hasattr(estimator, "coefs_"),
        hidden_sizes=sizes,
        first_activations=names or ((estimator.activation,) if one_for_all else ()),
        stochastic=stochastic,
        early_stopping=early_stopping,
        shuffle=stochastic and bool(estimator.shuffle),
        validation_fraction=float(estimator.validation_fraction),
        batch_size=None if auto else int(estimator.batch_size),
        random_state=estimator.random_state,
        coefs_init=estimator.coefs_init,
        intercepts_init=estimator.intercepts_init,
        output_bias_init=estimator.output_bias_init,
        scoring=estimator.scoring,
        scorer=scorer,
        class_weight=class_weight,
        n_jobs=estimator.n_jobs,
        verbose=estimator.verbose,
        max_fun=int(estimator.max_fun),
        max_time=estimator.max_time,
    )


def is_stochastic(estimator: Any) -> bool:
    """Whether the solver goes by minibatches."""
    return estimator.solver in SOLVERS


def label_target(estimator: Any) -> Labels:
    """What a classifier with `classes_` learns."""
    return class_labels.target_of(estimator, float(estimator.label_smoothing))


def real_target(estimator: Any) -> RealTarget:
    """What a regressor learns."""
    return RealTarget(
        estimator.loss,
        estimator.huber_delta,
        as_levels(estimator.quantile),
        estimator.missing_targets == "mask",
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


def _of_layers(estimator: Any, name: str, n_hidden: int, what: str) -> tuple[Any, ...]:
    """A parameter that has an entry for each hidden layer, or one for all."""
    given = getattr(estimator, name)
    if not isinstance(given, (list, tuple)):
        given = (given,) * n_hidden
    if len(given) != n_hidden:
        raise ValueError(
            f"{name} has {len(given)} entries, but there are {n_hidden} hidden "
            f"layers: give one for each, or one {what} for all"
        )
    return tuple(given)


def activations(estimator: Any, n_hidden: int) -> tuple[Any, ...]:
    """The activation of each hidden layer."""
    return _of_layers(estimator, "activation", n_hidden, "name")


def dropout(estimator: Any, n_hidden: int) -> tuple[float, ...]:
    """The share dropped of the features and of each hidden layer; () for none ever."""
    given = _of_layers(estimator, "dropout", n_hidden, "number")
    for rate in given:
        if not isinstance(rate, Real) or not 0 <= float(rate) < 1:
            raise ValueError(
                f"dropout must be at least 0 and less than 1 in each layer, got {rate}"
            )
    rates = (float(estimator.input_dropout), *map(float, given))
    return rates if any(rates) and is_stochastic(estimator) else ()


def frozen_layers(estimator: Any, n_layers: int) -> tuple[int, ...]:
    """`frozen_layers` as rising numbers from 0. ValueError for what is no layer."""
    layers = estimator.frozen_layers
    if layers is None:
        return ()
    for layer in layers:
        if not isinstance(layer, Integral) or not -n_layers <= int(layer) < n_layers:
            raise ValueError(
                f"frozen_layers={layers!r} names {layer!r}, but the network has "
                f"{n_layers} layers of weights, numbered from 0"
            )
    found = sorted({int(layer) % n_layers for layer in layers})
    if len(found) == n_layers:
        raise ValueError(
            f"frozen_layers={layers!r} leaves nothing to train: it names all "
            f"{n_layers} layers"
        )
    return tuple(found)


def _check_steps(estimator: Any, names: tuple[Any, ...]) -> None:
    for activation in names:
        check_activation(activation)
    rate = estimator.learning_rate
    if callable(rate):
        Schedule(rate, 1.0).rates(0, 0, 1)
    if estimator.l1_ratio and not is_stochastic(estimator):
        raise ValueError(
            f"solver={estimator.solver!r} needs a smooth penalty, but l1_ratio is "
            f"{estimator.l1_ratio}: set it to 0, or take another solver"
        )


def _check_validation(
    estimator: Any, given: Input, incremental: bool, weighted: bool
) -> Callable[..., Any] | None:
    """Refuse what can't go together; return the scorer, if the driver scores."""
    check_validation_given(given)
    if incremental and estimator.early_stopping and given.X_val is None:
        raise ValueError("partial_fit does not support early_stopping=True")
    scorer = scorer_of(estimator.scoring)
    validates = estimator.early_stopping or given.X_val is not None
    if scorer is not None and validates and is_stochastic(estimator):
        weighted = weighted or given.sample_weight_val is not None
        check_scorer(scorer, {"sample_weight": None} if weighted else {})
    return scorer


def warn_unused(estimator: Any, held_out: bool) -> None:
    """Tell once which parameters were set and have no effect.

    `held_out` says that the caller gave validation rows.
    """
    told = []
    for cause, names in _unused(estimator, held_out):
        changed = estimator._set_among(names)
        given = [f"{n}={getattr(estimator, n)!r}" for n in changed]
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
        quantiles = hasattr(estimator, "quantile") and real_target(estimator).several
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
        yield (
            f"loss={estimator.loss!r}",
            [n for n, loss in _OF_LOSSES.items() if loss != estimator.loss],
        )


def _of_steps(estimator: Any) -> dict[str, Any]:
    """Fields of a plan that only steps have."""
    average = estimator.average
    if isinstance(average, (bool, np.bool_)):
        average = DECAY if average else None
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
    return {"clip_norm": estimator.clip_norm, "average": average, "schedule": schedule}


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
