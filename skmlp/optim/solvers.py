"""The stochastic solvers, by name.

A solver turns the summed gradient of a segment into a step on that segment. It keeps
one or more *moments*, flat arrays like the parameters. A new solver is one entry here
and its kernel in `skmlp.kernels.solvers`.

The formulas are written against the array API standard: `xp` is the namespace of the
arrays. In numpy they are the fall-back without numba, and what the tests hold the
kernels against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import sqrt
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from skmlp import fused
from skmlp.arrays import Array

#: ``update(divisor, learning_rate, step)`` takes a step and returns the squared norm of
#: the penalised parameters before it. `step` is its count, from 1.
Update = Callable[[float, float, int], float]
#: Parameters and moments after a step.
Moved = tuple[Any, Sequence[Any]]


class Solver(ABC):
    """The step on a segment of the flat vector, with the hyper-parameters of a plan."""

    name: ClassVar[str]
    n_moments: ClassVar[int]
    #: Whether the learning-rate schedules apply (scikit-learn's adam ignores them).
    scheduled: ClassVar[bool] = True
    #: The hyper-parameters that it reads, in the order of the kernel's settings.
    parameters: ClassVar[tuple[str, ...]]
    #: Which moment, if one, scales the step of each parameter by its root.
    scaled_by: ClassVar[int | None] = None

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        self._kernels, self._kernel = kernels, kernels.STEP.get(self.name)
        self.epsilon = float(plan.epsilon)
        #: Strengths of the L2 and of the L1 penalty, decay of the moving mean.
        self.alpha = float(plan.alpha * (1.0 - plan.l1_ratio))
        self.l1 = float(plan.alpha * plan.l1_ratio)
        self.l1_ratio = float(plan.l1_ratio)
        self.average = float(plan.average or 0.0)
        self._averages = plan.average is not None
        #: What stays the same in all steps, as the kernel takes it.
        own = [float(getattr(plan, name)) for name in self.parameters]
        self.settings = np.array([self.alpha, *own], np.float64)
        self._own = own

    def factors(self, rate: float, count: int) -> tuple[float, ...]:
        """Return what `step` takes of its learning rate and of its count, from 1."""
        return (rate,)

    @abstractmethod
    def step(self, xp: Any, x: Any, gradient: Any, moments: Any, *rates: Any) -> Moved:
        """Return parameters `x` and moments after a step; `rates` are the `factors`.

        `gradient` is divided, with the penalty; the moments are zeros before the first
        step. All of them may be written over where `xp` is `skmlp.fused.InPlace`.
        """

    def decay(self, rate: float) -> float:
        """Return the factor by which a step shrinks the penalised parameters first."""
        return 1.0

    def reach(self, learning_rate: float, step: int) -> float:
        """How far a constant gradient of 1 moves a parameter, but for `scaled_by`."""
        return learning_rate

    def product(self, step: int) -> float:
        """Return the product of the momenta up to a step."""
        return 1.0

    def numbers(self, divisors: Array, rates: Sequence[float], step: int) -> Array:
        """Return what changes from step to step, of shape (n_steps, 6), for the
        kernels.

        Divisor, rate, count from 1, `product`, how far the L1 penalty moves a weight
        times the divisor, and the new parameters' share in their mean. `step` counts
        those before.
        """
        table = np.empty((len(rates), 6))
        counts = range(step + 1, step + len(rates) + 1)
        table[:, 0], table[:, 1], table[:, 2] = divisors, rates, counts
        table[:, 3] = [self.product(count) for count in counts]
        table[:, 4] = 0.0
        if self.l1:
            pairs = zip(rates, counts, strict=True)
            table[:, 4] = [self.reach(rate, count) * self.l1 for rate, count in pairs]
        table[:, 5] = np.maximum(1.0 - self.average, 1.0 / table[:, 2])
        return table

    def settings_of(self, rate: float, count: int, divisor: float) -> tuple[float, ...]:
        """Return the divisor, and what `move` takes of a step: see there."""
        reach = self.reach(rate, count) * self.l1 / divisor if self.l1 else 0.0
        share = max(1.0 - self.average, 1.0 / count)
        return divisor, reach, share, self.decay(rate), *self.factors(rate, count)

    def norm(self, xp: Any, weights: Any) -> Any:
        """Return what `bind` says of the penalised parameters' norm."""
        square = weights @ weights
        if not self.l1_ratio:
            return square
        absolute = xp.sum(xp.abs(weights))
        return (1.0 - self.l1_ratio) * square + 2.0 * self.l1_ratio * absolute

    def move(
        self, xp: Any, params: Any, gradient: Any, moments: Any, *given: Any
    ) -> tuple[Any, ...]:
        """Return parameters and moments after a step, with all that goes with it.

        As `bind`, for arrays of any namespace `xp`; see `step` for what is written to.
        `gradient` is that of the step. Given are 1 for parameters with a penalty, else
        0; `settings_of` the step, but for the divisor; and what clipping has multiplied
        the gradient by.
        """
        penalised, (reach, share, decay, *factors), scale = given
        own = moments[: self.n_moments]
        if self.parameters[-1] == "weight_decay":
            params = fused.plus_quotient(xp, params, decay - 1, penalised * params)
        params, new = self.step(xp, params, gradient, own, *factors)
        if self.l1:
            reach = reach * scale * penalised
            if self.scaled_by is not None:
                reach = reach / (xp.sqrt(new[self.scaled_by]) + self.epsilon)
            params = fused.shrunk(xp, params, reach)
        if self._averages:
            mean = moments[-1]
            new = *new, fused.plus_quotient(xp, mean, share, params - mean)
        return params, *new

    def bind(
        self, params: Array, total: Array, moments: list[Array], n_penalised: int
    ) -> Update:
        """Make the function that moves a segment once, with all that goes with it.

        `total` is the gradient summed over the minibatch, which a step spoils. The mean
        of the parameters, if one is kept, comes last in `moments`. The first
        `n_penalised` parameters carry the penalty.

        An L1 penalty is a proximal step after each step, so that weights become exactly
        0: a weight is moved towards 0 as far as the solver would move it, in the long
        run, for a gradient as large as the penalty's. The penalty of a weight is
        ``alpha * (l1_ratio * |w| + (1 - l1_ratio) / 2 * w^2)``, scikit-learn's elastic
        net, and the result ``(1 - l1_ratio) * sum(w^2) + 2 * l1_ratio * sum(|w|)``
        (Parikh and Boyd, "Proximal algorithms", 2014, sections 4.2 and 6.5.2).

        The mean is the plain one of all steps as long as these are fewer than
        ``1 / (1 - average)`` (Polyak and Juditsky, "Acceleration of stochastic
        approximation by averaging", 1992).
        """
        if self._kernel is None:
            return self._bind_formula(params, total, moments, n_penalised)
        own, kernels, ratio = moments[: self.n_moments], self._kernels, self.l1_ratio
        move = self._bind_kernel(params, total, own, n_penalised)
        if not ratio and not self._averages:
            return move
        scale = params[:0] if self.scaled_by is None else own[self.scaled_by]

        def update(divisor: float, rate: float, step: int) -> float:
            absolute = kernels.absolute_sum(params, n_penalised) if ratio else 0.0
            norm = move(divisor, rate, step)
            if ratio:
                reach = self.reach(rate, step) * self.l1 / divisor
                penalised = params, scale, n_penalised
                kernels.soft_threshold(*penalised, reach, self.epsilon)
            if self._averages:
                share = max(1.0 - self.average, 1.0 / step)
                kernels.move_average(moments[-1], params, share)
            return (1.0 - ratio) * norm + 2.0 * ratio * float(absolute)

        return update

    def _bind_kernel(
        self, params: Array, total: Array, moments: list[Array], n_penalised: int
    ) -> Update:
        kernel, settings, numbers = self._kernel, self.settings, np.zeros(6)
        first, second = moments[0], moments[-1]

        def update(divisor: float, rate: float, step: int) -> float:
            numbers[:4] = divisor, rate, step, self.product(step)
            norm: float = kernel(
                params, total, first, second, n_penalised, numbers, settings
            )
            return norm

        return update

    def _bind_formula(
        self, params: Array, total: Array, moments: list[Array], n_penalised: int
    ) -> Update:
        penalised, weights = np.zeros_like(params), params[:n_penalised]
        penalised[:n_penalised] = 1

        def update(divisor: float, rate: float, step: int) -> float:
            norm = float(self.norm(np, weights))
            _, *settings = self.settings_of(rate, step, divisor)
            gradient = total / divisor
            gradient[:n_penalised] += self.alpha / divisor * weights
            given = gradient, moments, penalised, settings, 1.0
            found = self.move(np, params, *given)
            for array, value in zip([params, *moments], found, strict=True):
                array[:] = value
            return norm

        return update


class SGD(Solver):
    """Gradient descent with momentum, Nesterov's or the plain one."""

    name = "sgd"
    n_moments = 1
    parameters = ("momentum", "nesterovs_momentum")

    def step(self, xp: Any, x: Any, gradient: Any, moments: Any, *rates: Any) -> Moved:
        """See `Solver.step`."""
        momentum, nesterov = self._own
        added = fused.scaled(xp, gradient, -rates[0])
        kept = fused.scaled(xp, moments[0], momentum)
        velocity = fused.plus_quotient(xp, kept, 1.0, added)
        if not nesterov:
            return fused.plus_quotient(xp, x, 1.0, velocity), [velocity]
        added = fused.plus_quotient(xp, added, momentum, velocity)
        return fused.plus_quotient(xp, x, 1.0, added), [velocity]

    def reach(self, learning_rate: float, step: int) -> float:
        """With momentum, that of all steps that follow from a gradient."""
        stays = 1.0 - self._own[0]
        return learning_rate / stays if stays else learning_rate


class Adam(Solver):
    """Adam (Kingma and Ba, ICLR 2015) with scikit-learn's place of epsilon.

    It is the "epsilon hat" of section 2 of the paper.
    """

    name = "adam"
    n_moments = 2
    parameters: ClassVar[tuple[str, ...]] = ("beta_1", "beta_2", "epsilon")
    scheduled = False
    scaled_by = 1

    def factors(self, rate: float, count: int) -> tuple[float, ...]:
        """See `Solver.factors`."""
        beta_1, beta_2 = self._own[:2]
        return (rate * sqrt(1 - beta_2**count) / (1 - beta_1**count),)

    def step(self, xp: Any, x: Any, gradient: Any, moments: Any, *rates: Any) -> Moved:
        """See `Solver.step`."""
        moved: Moved = fused.adam(xp, x, gradient, moments, *rates, *self._own[:3])
        return moved

    def reach(self, learning_rate: float, step: int) -> float:
        """See `Solver.reach`."""
        return learning_rate * sqrt(1.0 - self._own[1] ** step)


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights shrink by ``rate * weight_decay``.

    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019. Without
    decay it is `Adam`. The biases do not decay.
    """

    name = "adamw"
    parameters = (*Adam.parameters, "weight_decay")
    scheduled = True

    def decay(self, rate: float) -> float:
        """See `Solver.decay`."""
        return 1 - rate * self._own[3]


class NAdam(Adam):
    """Adam with Nesterov's momentum, whose strength grows as in Dozat's paper.

    ``mu_t = beta_1 (1 - 0.5 * 0.96 ** (t / 250))``; Dozat, "Incorporating Nesterov
    momentum into Adam", ICLR workshop 2016, and so in Keras and torch.
    """

    name = "nadam"
    scheduled = True
    #: The count up to which the momenta are multiplied, and their product.
    _known: tuple[int, float] = (0, 1.0)

    def _momentum(self, count: int) -> float:
        return float(self._own[0] * (1 - 0.5 * 0.96 ** (count / 250)))

    def product(self, step: int) -> float:
        """See `Solver.product`."""
        known, product = self._known if self._known[0] <= step else (0, 1.0)
        while known < step:
            known += 1
            product *= self._momentum(known)
        self._known = known, product
        return product

    def factors(self, rate: float, count: int) -> tuple[float, ...]:
        """See `Solver.factors`: one for the gradient, one for the first moment."""
        now, ahead = self._momentum(count), self._momentum(count + 1)
        product = self.product(count)
        rate *= sqrt(1 - self._own[1] ** count)
        return rate * (1 - now) / (1 - product), rate * ahead / (1 - product * ahead)

    def step(self, xp: Any, x: Any, gradient: Any, moments: Any, *rates: Any) -> Moved:
        """See `Solver.step`."""
        beta_1, beta_2 = self._own[:2]
        first = fused.mix(xp, moments[0], gradient, beta_1)
        second = fused.mix(xp, moments[1], gradient * gradient, beta_2)
        added = rates[0] * gradient + rates[1] * first
        root = xp.sqrt(second) + self.epsilon
        return fused.plus_quotient(xp, x, -1.0, added, root), (first, second)


class RMSprop(Solver):
    """RMSprop (Tieleman and Hinton, 2012); `rho` is the decay of its mean."""

    name = "rmsprop"
    n_moments = 1
    parameters = ("rho", "epsilon")
    scaled_by = 0

    def step(self, xp: Any, x: Any, gradient: Any, moments: Any, *rates: Any) -> Moved:
        """See `Solver.step`."""
        mean = fused.mix(xp, moments[0], gradient * gradient, self._own[0])
        root = xp.sqrt(mean) + self.epsilon
        return fused.plus_quotient(xp, x, -rates[0], gradient, root), [mean]


class AdaGrad(Solver):
    """AdaGrad (Duchi, Hazan and Singer, JMLR 12, 2011)."""

    name = "adagrad"
    n_moments = 1
    parameters = ("epsilon",)
    scaled_by = 0

    def step(self, xp: Any, x: Any, gradient: Any, moments: Any, *rates: Any) -> Moved:
        """See `Solver.step`."""
        total = fused.plus_quotient(xp, moments[0], 1.0, gradient * gradient)
        root = xp.sqrt(total) + self.epsilon
        return fused.plus_quotient(xp, x, -rates[0], gradient, root), [total]


SOLVERS: dict[str, type[Solver]] = {
    solver.name: solver for solver in (SGD, Adam, AdamW, NAdam, RMSprop, AdaGrad)
}
