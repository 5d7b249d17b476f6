"""The stochastic optimizers, by name.

An optimizer turns the summed gradient of a segment into a step on that segment. It
keeps one or more *moments*, flat arrays like the parameters. A new optimizer is one
entry here and its kernel in `skmlp.kernels`.
"""

from __future__ import annotations

from abc import ABC
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

    #: The hyper-parameters that it reads, in the order of the kernel's settings.
    parameters: ClassVar[tuple[str, ...]]

    #: Which moment, if one, scales the step of each parameter by its root.
    scaled_by: ClassVar[int | None] = None

    #: Settings of the kernel that follow the hyper-parameters.
    scratch_settings: ClassVar[tuple[float, ...]] = ()

    def __init__(self, plan: Any, kernels: ModuleType) -> None:
        self._kernel = kernels.STEP[self.name]
        self.epsilon = float(plan.epsilon)
        alpha = plan.alpha * (1.0 - plan.l1_ratio)
        own = (getattr(plan, name) for name in self.parameters)
        #: What stays the same in all steps, as the kernel takes it.
        self.settings = np.array([alpha, *own, *self.scratch_settings], np.float64)

    def reach(self, learning_rate: float, step: int) -> float:
        """How far a constant gradient of 1 moves a parameter, but for `scaled_by`."""
        return learning_rate

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
        kernel, settings, numbers = self._kernel, self.settings, np.empty(3)
        first, second = moments[0], moments[-1]

        def move(divisor: float, learning_rate: float, step: int) -> float:
            numbers[0], numbers[1], numbers[2] = divisor, learning_rate, step
            norm: float = kernel(
                params, total, first, second, scratch, n_penalised, numbers, settings
            )
            return norm

        return move


class SGD(Optimizer):
    """Gradient descent with momentum, Nesterov's or the plain one."""

    name = "sgd"
    n_moments = 1
    scheduled = True
    parameters = ("momentum", "nesterovs_momentum")

    def reach(self, learning_rate: float, step: int) -> float:
        """With momentum, that of all steps that follow from a gradient."""
        stays = 1.0 - float(self.settings[1])
        return learning_rate / stays if stays else learning_rate


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015) with scikit-learn's place of epsilon."""

    name = "adam"
    n_moments = 2
    scheduled = False
    parameters = ("beta_1", "beta_2", "epsilon")
    scaled_by = 1

    def reach(self, learning_rate: float, step: int) -> float:
        """See `Optimizer.reach`."""
        return learning_rate * sqrt(1.0 - float(self.settings[2]) ** step)


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights shrink by ``rate * weight_decay``.

    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019. Without
    decay it is `Adam`. The biases do not decay.
    """

    name = "adamw"
    scheduled = True
    parameters = (*Adam.parameters, "weight_decay")


class NAdam(Adam):
    """Adam with Nesterov's momentum, whose strength grows as in Dozat's paper.

    ``mu_t = beta_1 (1 - 0.5 * 0.96 ** (t / 250))``; Dozat, "Incorporating Nesterov
    momentum into Adam", ICLR workshop 2016, and so in Keras and torch.
    """

    name = "nadam"
    scheduled = True
    # The kernel keeps the product of all momenta up to a step from one step to the
    # next: it follows from the step's count alone.
    scratch_settings = (0.0, 1.0)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton, 2012); `rho` is the decay of its mean."""

    name = "rmsprop"
    n_moments = 1
    scheduled = True
    parameters = ("rho", "epsilon")
    scaled_by = 0


class AdaGrad(RMSprop):
    """AdaGrad (Duchi, Hazan and Singer, JMLR 12, 2011)."""

    name = "adagrad"
    parameters = ("epsilon",)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    optimizer.name: optimizer
    for optimizer in (SGD, Adam, AdamW, NAdam, RMSprop, AdaGrad)
}
