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

Array = np.ndarray[Any, np.dtype[Any]]

#: ``update(divisor, learning_rate, step)`` takes a step and returns the squared norm of
#: the penalised parameters before it. `step` is its count, from 1.
Update = Callable[[float, float, int], float]


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

    @abstractmethod
    def step(
        self, xp: Any, gradient: Any, moments: Sequence[Any], rate: float, count: int
    ) -> tuple[Any, Sequence[Any]]:
        """Return what is added to the parameters, and the new moments.

        `gradient` is divided, with the penalty; the moments are zeros before the first
        step, whose `count` is 1.
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
        own, kernels, ratio = moments[: self.n_moments], self._kernels, self.l1_ratio
        move = (self._bind_kernel if self._kernel else self._bind_formula)(
            params, total, own, n_penalised
        )
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
        def update(divisor: float, rate: float, step: int) -> float:
            weights = params[:n_penalised]
            norm = float(np.dot(weights, weights))
            gradient = total / divisor
            gradient[:n_penalised] += self.alpha / divisor * weights
            weights *= self.decay(rate)
            added, new = self.step(np, gradient, moments, rate, step)
            params[:] += added
            for moment, value in zip(moments, new, strict=True):
                moment[:] = value
            return norm

        return update


class SGD(Solver):
    """Gradient descent with momentum, Nesterov's or the plain one."""

    name = "sgd"
    n_moments = 1
    parameters = ("momentum", "nesterovs_momentum")

    def step(
        self, xp: Any, gradient: Any, moments: Sequence[Any], rate: float, count: int
    ) -> tuple[Any, Sequence[Any]]:
        """See `Solver.step`."""
        momentum, nesterov = self._own
        velocity = momentum * moments[0] - rate * gradient
        added = momentum * velocity - rate * gradient if nesterov else velocity
        return added, [velocity]

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

    def _moments(self, gradient: Any, moments: Sequence[Any]) -> Sequence[Any]:
        beta_1, beta_2 = self._own[:2]
        first = beta_1 * moments[0] + (1 - beta_1) * gradient
        second = beta_2 * moments[1] + (1 - beta_2) * (gradient * gradient)
        return first, second

    def step(
        self, xp: Any, gradient: Any, moments: Sequence[Any], rate: float, count: int
    ) -> tuple[Any, Sequence[Any]]:
        """See `Solver.step`."""
        first, second = self._moments(gradient, moments)
        beta_1, beta_2 = self._own[:2]
        rate *= sqrt(1 - beta_2**count) / (1 - beta_1**count)
        return -rate * first / (xp.sqrt(second) + self.epsilon), (first, second)

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

    def step(
        self, xp: Any, gradient: Any, moments: Sequence[Any], rate: float, count: int
    ) -> tuple[Any, Sequence[Any]]:
        """See `Solver.step`."""
        first, second = self._moments(gradient, moments)
        now, ahead = self._momentum(count), self._momentum(count + 1)
        product = self.product(count)
        rate *= sqrt(1 - self._own[1] ** count)
        of_gradient = rate * (1 - now) / (1 - product)
        of_moment = rate * ahead / (1 - product * ahead)
        added = -(of_gradient * gradient + of_moment * first)
        return added / (xp.sqrt(second) + self.epsilon), (first, second)


class RMSprop(Solver):
    """RMSprop (Tieleman and Hinton, 2012); `rho` is the decay of its mean."""

    name = "rmsprop"
    n_moments = 1
    parameters = ("rho", "epsilon")
    scaled_by = 0

    def step(
        self, xp: Any, gradient: Any, moments: Sequence[Any], rate: float, count: int
    ) -> tuple[Any, Sequence[Any]]:
        """See `Solver.step`."""
        rho = self._own[0]
        mean = rho * moments[0] + (1 - rho) * (gradient * gradient)
        return -rate * gradient / (xp.sqrt(mean) + self.epsilon), [mean]


class AdaGrad(Solver):
    """AdaGrad (Duchi, Hazan and Singer, JMLR 12, 2011)."""

    name = "adagrad"
    n_moments = 1
    parameters = ("epsilon",)
    scaled_by = 0

    def step(
        self, xp: Any, gradient: Any, moments: Sequence[Any], rate: float, count: int
    ) -> tuple[Any, Sequence[Any]]:
        """See `Solver.step`."""
        total = moments[0] + gradient * gradient
        return -rate * gradient / (xp.sqrt(total) + self.epsilon), [total]


SOLVERS: dict[str, type[Solver]] = {
    solver.name: solver for solver in (SGD, Adam, AdamW, NAdam, RMSprop, AdaGrad)
}
