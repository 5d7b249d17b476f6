"""The stochastic optimizers, by name.

An optimizer turns the summed gradient of a segment into a step on that segment. It
keeps one or more *moments*, flat arrays like the parameters. A new optimizer is one
entry here and its kernel in `skmlp.kernels`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import sqrt
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


#: ``move(divisor, learning_rate, step)`` takes a step and returns the squared norm of
#: the penalised parameters before it. `step` is its count, from 1.
Move = Callable[[float, float, int], float]


class Optimizer(ABC):
    """The step on a segment of the flat vector.

    Parameters
    ----------
    plan : Plan
        Read for the optimizer's own hyper-parameters.
    kernels : module
        The kernel set.
    """

    name: ClassVar[str]
    n_moments: ClassVar[int]
    #: Whether the learning-rate schedules apply (scikit-learn's adam ignores them).
    scheduled: ClassVar[bool]

    #: Which moment, if one, scales the step of each parameter by its root.
    scaled_by: ClassVar[int | None] = None

    #: Whether `skmlp.kernels.compiled_steps` has its step, too.
    in_runs: ClassVar[bool] = False

    #: What stays the same in all steps.
    settings: tuple[float, ...]

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        self._kernel = kernels.STEP[self.name]
        self.alpha = float(plan.alpha * (1.0 - plan.l1_ratio))
        self.epsilon = float(plan.epsilon)

    def reach(self, learning_rate: float, step: int) -> float:
        """How far a constant gradient of 1 moves a parameter, but for `scaled_by`."""
        return learning_rate

    @abstractmethod
    def numbers(self, learning_rate: float, step: int) -> tuple[float, ...]:
        """The last arguments of the kernel in a step, after the divisor."""

    def bind(
        self,
        params: Array,
        total: Array,
        moments: list[Array],
        scratch: Array,
        n_penalised: int,
    ) -> Move:
        """Make the function that moves a segment once.

        Parameters
        ----------
        params, total : ndarray of shape (size,)
            The segment, and the gradient summed over the minibatch, which a step
            spoils.
        moments : list of ndarray of shape (size,)
            Updated in place.
        scratch : ndarray of shape (size,) or (0,)
            Room for the kernels that need it.
        n_penalised : int
            So many entries from the front carry the L2 penalty.

        Returns
        -------
        callable
            See `Move`.
        """
        kernel, numbers, alpha = self._kernel, self.numbers, self.alpha

        def move(divisor: float, learning_rate: float, step: int) -> float:
            norm: float = kernel(
                params,
                total,
                *moments,
                scratch,
                n_penalised,
                alpha,
                divisor,
                *numbers(learning_rate, step),
            )
            return norm

        return move


class SGD(Optimizer):
    """Gradient descent with momentum, Nesterov's or the plain one."""

    name = "sgd"
    in_runs = True
    n_moments = 1
    scheduled = True

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        super().__init__(plan, kernels)
        self.settings = float(plan.momentum), bool(plan.nesterovs_momentum)

    def reach(self, learning_rate: float, step: int) -> float:
        """With momentum, that of all steps that follow from a gradient."""
        stays = 1.0 - self.settings[0]
        return learning_rate / stays if stays else learning_rate

    def numbers(self, learning_rate: float, step: int) -> tuple[float, ...]:
        """See `Optimizer.numbers`."""
        return learning_rate, *self.settings


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015) with scikit-learn's place of epsilon."""

    name = "adam"
    in_runs = True
    n_moments = 2
    scheduled = False
    scaled_by = 1

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        super().__init__(plan, kernels)
        self._beta_1 = float(plan.beta_1)
        self._beta_2 = float(plan.beta_2)
        self.settings = self._beta_1, self._beta_2, self.epsilon

    def reach(self, learning_rate: float, step: int) -> float:
        """See `Optimizer.reach`."""
        return learning_rate * sqrt(1.0 - self._beta_2**step)

    def numbers(self, learning_rate: float, step: int) -> tuple[float, ...]:
        """See `Optimizer.numbers`."""
        corrected = self.reach(learning_rate, step) / (1.0 - self._beta_1**step)
        return corrected, *self.settings


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights shrink by ``rate * weight_decay``.

    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019. Without
    decay it is `Adam`. The biases do not decay.
    """

    name = "adamw"
    scheduled = True

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        super().__init__(plan, kernels)
        self.settings = *self.settings, float(plan.weight_decay)

    def numbers(self, learning_rate: float, step: int) -> tuple[float, ...]:
        """See `Optimizer.numbers`."""
        corrected, *others, decay = super().numbers(learning_rate, step)
        return corrected, *others, learning_rate * decay


class NAdam(Adam):
    """Adam with Nesterov's momentum, whose strength grows as in Dozat's paper.

    ``mu_t = beta_1 (1 - 0.5 * 0.96 ** (t / 250))``; Dozat, "Incorporating Nesterov
    momentum into Adam", ICLR workshop 2016, and so in Keras and torch.
    """

    name = "nadam"
    in_runs = False  # its rates come from all steps before
    scheduled = True

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        super().__init__(plan, kernels)
        # The product of all momenta up to a step: a function of the step alone, which
        # is kept from one to the next.
        self._known, self._product = 0, 1.0

    def _momentum(self, step: int) -> float:
        return self._beta_1 * (1.0 - 0.5 * float(0.96 ** (step / 250)))

    def numbers(self, learning_rate: float, step: int) -> tuple[float, ...]:
        """See `Optimizer.numbers`."""
        if step < self._known:
            self._known, self._product = 0, 1.0
        while self._known < step:
            self._known += 1
            self._product *= self._momentum(self._known)
        product, now, ahead = (
            self._product,
            self._momentum(step),
            self._momentum(step + 1),
        )
        rate = self.reach(learning_rate, step)
        return (
            rate * (1.0 - now) / (1.0 - product),
            rate * ahead / (1.0 - product * ahead),
            *self.settings,
        )


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton, 2012); `rho` is the decay of its mean."""

    name = "rmsprop"
    in_runs = True
    n_moments = 1
    scheduled = True
    scaled_by = 0

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        super().__init__(plan, kernels)
        self.settings = float(plan.rho), self.epsilon

    def numbers(self, learning_rate: float, step: int) -> tuple[float, ...]:
        """See `Optimizer.numbers`."""
        return learning_rate, *self.settings


class AdaGrad(RMSprop):
    """AdaGrad (Duchi, Hazan and Singer, JMLR 12, 2011)."""

    name = "adagrad"

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        super().__init__(plan, kernels)
        self.settings = (self.epsilon,)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    optimizer.name: optimizer
    for optimizer in (SGD, Adam, AdamW, NAdam, RMSprop, AdaGrad)
}
