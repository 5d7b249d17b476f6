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

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        self._kernel = kernels.STEP[self.name]
        self._alpha = float(plan.alpha)

    @abstractmethod
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


class SGD(Optimizer):
    """Gradient descent with momentum, Nesterov's or the plain one."""

    name = "sgd"
    n_moments = 1
    scheduled = True

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        super().__init__(plan, kernels)
        self._momentum = float(plan.momentum)
        self._nesterov = bool(plan.nesterovs_momentum)

    def bind(
        self,
        params: Array,
        total: Array,
        moments: list[Array],
        scratch: Array,
        n_penalised: int,
    ) -> Move:
        """See `Optimizer.bind`."""
        kernel, alpha, (velocity,) = self._kernel, self._alpha, moments
        momentum, nesterov = self._momentum, self._nesterov

        def move(divisor: float, learning_rate: float, step: int) -> float:
            norm: float = kernel(
                params,
                total,
                velocity,
                scratch,
                n_penalised,
                alpha,
                divisor,
                learning_rate,
                momentum,
                nesterov,
            )
            return norm

        return move


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015) with scikit-learn's place of epsilon."""

    name = "adam"
    n_moments = 2
    scheduled = False

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        super().__init__(plan, kernels)
        self._beta_1 = float(plan.beta_1)
        self._beta_2 = float(plan.beta_2)
        self._epsilon = float(plan.epsilon)

    def bind(
        self,
        params: Array,
        total: Array,
        moments: list[Array],
        scratch: Array,
        n_penalised: int,
    ) -> Move:
        """See `Optimizer.bind`."""
        kernel, alpha, (first, second) = self._kernel, self._alpha, moments
        beta_1, beta_2, epsilon = self._beta_1, self._beta_2, self._epsilon

        def move(divisor: float, learning_rate: float, step: int) -> float:
            corrected = learning_rate * sqrt(1.0 - beta_2**step) / (1.0 - beta_1**step)
            norm: float = kernel(
                params,
                total,
                first,
                second,
                scratch,
                n_penalised,
                alpha,
                divisor,
                corrected,
                beta_1,
                beta_2,
                epsilon,
            )
            return norm

        return move


OPTIMIZERS: dict[str, type[Optimizer]] = {
    optimizer.name: optimizer for optimizer in (SGD, Adam)
}
