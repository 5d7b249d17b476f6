"""Learning rates: when and how they change.

Pure functions of numbers; a schedule has one value per epoch and may be lowered when
the training comes to a standstill.
"""

from __future__ import annotations

#: Below this an adaptive learning rate ends the training, as in scikit-learn.
SMALLEST_ADAPTIVE = 1e-6


def after_epoch(
    schedule: str, current: float, initial: float, samples_seen: int, power_t: float
) -> float:
    """The learning rate of the next epoch.

    Parameters
    ----------
    schedule : {"constant", "invscaling", "adaptive"}
        The name of the schedule.
    current, initial : float
        The learning rate of this epoch, and that of the first.
    samples_seen : int
        Rows seen so far, over all epochs.
    power_t : float
        Exponent of "invscaling": ``initial / (samples_seen + 1) ** power_t``.
    """
    if schedule == "invscaling":
        scale: float = (samples_seen + 1) ** power_t
        return initial / scale
    return current


def at_standstill(schedule: str, current: float) -> float | None:
    """The lowered learning rate, or None where the training is to stop."""
    if schedule != "adaptive" or current <= SMALLEST_ADAPTIVE:
        return None
    return current / 5.0
