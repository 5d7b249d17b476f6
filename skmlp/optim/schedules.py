"""Learning rates: when and how they change.

scikit-learn's schedules have one rate per epoch: "constant", "invscaling", and
"adaptive", which lowers it when the training comes to a standstill. Those of
`SCHEDULES` have one for each step and are pure functions of where the step stands in
the training, so that every rank finds the same. A new one is one entry there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, floor, isfinite, pi
from typing import Any

#: Below this an adaptive learning rate ends the training, as in scikit-learn.
SMALLEST_ADAPTIVE = 1e-6

#: scikit-learn's, which its adam ignores.
BY_EPOCH = ("constant", "invscaling", "adaptive")

# Of one_cycle: the share of the steps in which the rate rises, what the peak is divided
# by for the first rate, and this one for the last; those of torch.
_RISING, _FIRST, _LAST = 0.3, 25.0, 1e4


@dataclass(frozen=True)
class Schedule:
    """What the schedules of `SCHEDULES` read; the estimators' parameters.

    `name` is a key of `SCHEDULES` or of `BY_EPOCH`, or a function of (step, epoch);
    `initial` the first rate, or the highest one where the rate rises before; `smallest`
    the last one of "cosine". `decay_rate` and `decay_epochs` are of "step" and
    "exponential", `restart_epochs`, None for one cycle, of "cosine". In the first
    `warmup_epochs` the rate rises linearly; not with "one_cycle".
    """

    name: Any
    initial: float
    smallest: float = 0.0
    decay_rate: float = 0.5
    decay_epochs: float = 20
    warmup_epochs: float = 0
    restart_epochs: float | None = None
    n_epochs: int = 200

    def rates(self, epoch: int, step: int, n_steps: int) -> list[float] | None:
        """The rates of all steps of an epoch; None where the rate is one for the epoch.

        `epoch` and `step` count those before it. ValueError if the user's function
        returned something that is no learning rate.
        """
        if callable(self.name):
            return [self._asked(step + i, epoch) for i in range(n_steps)]
        if self.name in BY_EPOCH:
            return None
        rate = SCHEDULES[self.name]
        return [rate(self, epoch * n_steps + i, n_steps) for i in range(n_steps)]

    def _asked(self, step: int, epoch: int) -> float:
        rate = self.name(step, epoch)
        try:
            value = float(rate)
        except (TypeError, ValueError):
            value = float("nan")
        if not isfinite(value) or value < 0:
            raise ValueError(
                "learning_rate, called with the numbers of step and epoch, must return "
                f"a number of 0 or more; of step {step}, epoch {epoch} it returned "
                f"{rate!r}"
            )
        return value

    def _after_warmup(self, step: int, n_steps: int) -> tuple[float, float]:
        """A factor of the rate, and the epochs since the warm-up."""
        epochs = step / n_steps
        if epochs < self.warmup_epochs:
            return min((step + 1) / (self.warmup_epochs * n_steps), 1.0), 0.0
        return 1.0, epochs - self.warmup_epochs


def decay_in_steps(schedule: Schedule, step: int, n_steps: int) -> float:
    """``decay_rate ** floor(epochs / decay_epochs)``."""
    factor, epochs = schedule._after_warmup(step, n_steps)
    power = floor(epochs / schedule.decay_epochs)
    return schedule.initial * factor * float(schedule.decay_rate**power)


def exponential(schedule: Schedule, step: int, n_steps: int) -> float:
    """``decay_rate ** (epochs / decay_epochs)``, in each step."""
    factor, epochs = schedule._after_warmup(step, n_steps)
    power = epochs / schedule.decay_epochs
    return schedule.initial * factor * float(schedule.decay_rate**power)


def cosine(schedule: Schedule, step: int, n_steps: int) -> float:
    """Half a wave of a cosine, from the first rate to the smallest, again and again.

    Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR
    2017, equation 5.
    """
    factor, epochs = schedule._after_warmup(step, n_steps)
    if schedule.restart_epochs is not None:
        share = epochs % schedule.restart_epochs / schedule.restart_epochs
    else:
        share = min(epochs / max(schedule.n_epochs - schedule.warmup_epochs, 1.0), 1.0)
    low, high = schedule.smallest, schedule.initial * factor
    return low + (high - low) * 0.5 * (1.0 + cos(pi * share))


def one_cycle(schedule: Schedule, step: int, n_steps: int) -> float:
    """Up from a 25th of the rate, then down to almost nothing, both as cosines.

    Smith and Topin, "Super-convergence: very fast training of neural networks using
    large learning rates", 2018; the shape is that of torch's OneCycleLR.
    """
    last = schedule.n_epochs * n_steps - 1
    peak_at = _RISING * (last + 1) - 1
    peak = schedule.initial
    first = peak / _FIRST
    low, high, share = first, peak, 1.0
    if step < peak_at:
        share = step / peak_at
    else:
        low, high = peak, first / _LAST
        if last > peak_at:
            share = min((step - peak_at) / (last - peak_at), 1.0)
    return high + (low - high) * 0.5 * (1.0 + cos(pi * share))


SCHEDULES: dict[str, Callable[[Schedule, int, int], float]] = {
    "step": decay_in_steps,
    "exponential": exponential,
    "cosine": cosine,
    "one_cycle": one_cycle,
}

_DECAY = ("decay_rate", "decay_epochs", "warmup_epochs")

#: The parameters of the estimators that a schedule reads beside `learning_rate_init`.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "invscaling": ("power_t",),
    "step": _DECAY,
    "exponential": _DECAY,
    "cosine": ("learning_rate_min", "warmup_epochs", "restart_epochs"),
}


def after_epoch(
    schedule: Any, current: float, initial: float, samples_seen: int, power_t: float
) -> float:
    """The learning rate of the next epoch; it changes with "invscaling" alone.

    There it is ``initial / (samples_seen + 1) ** power_t``.
    """
    if schedule == "invscaling":
        scale: float = (samples_seen + 1) ** power_t
        return initial / scale
    return current


def at_standstill(schedule: Any, current: float) -> float | None:
    """The lowered learning rate, or None where the training is to stop."""
    if schedule != "adaptive" or current <= SMALLEST_ADAPTIVE:
        return None
    return current / 5.0
