"""What early stopping says of itself: no score at all, or probably the wrong one."""

from __future__ import annotations

import math
import warnings
from typing import Any

from skmlp.estimators.fitting import judge as fitting_judge
from skmlp.estimators.fitting.judge import Judge
from skmlp.exceptions import ModelQualityWarning
from skmlp.plan import Plan
from skmlp.state import DIVERGED, RATE_TOO_SMALL, STANDSTILL
from skmlp.training.supervisor import Outcome

#: By this share of the loss of the best epoch, at least, a later one is better.
FALL = 0.05
#: Where there are fewer in all, two epochs are a few steps, and which of them has the
#: best score is chance.
ENOUGH_ROWS = 500
#: Epochs after which it shows, where the patience has not run out before.
ENOUGH_EPOCHS = 10


def check(plan: Plan, end: Outcome, judge: Judge | None) -> None:
    """ValueError if early stopping has seen no finite score.

    Ctrl-C and callbacks, which have ended the run before its time, keep the last model.
    """
    cut_short = end.interrupted or end.stopped
    if not plan.early_stopping or math.isfinite(end.state.best) or cut_short:
        return
    lacking = "" if judge is None else judge.lacking
    raise ValueError(
        f"None of {len(end.records)} epochs has a finite validation score"
        + (lacking and f", and the validation rows lack {lacking}")
        + f": there are no best weights to keep. {fitting_judge.CURES}"
    )


def tell(estimator: Any, plan: Plan, end: Outcome) -> None:
    """Warn where early stopping has probably kept the wrong weights."""
    if not plan.early_stopping:
        return
    # A fit that diverges is told of as such, with all its epochs that overflow.
    records = end.records
    if end.state.status == DIVERGED:
        records = [r for r in records[:-1] if math.isfinite(r.validation_loss)]
    n_odd = sum(not math.isfinite(record.score) for record in records)
    if n_odd:
        _warn(
            f"The validation scores of {n_odd} of {len(records)} epochs are not "
            f"finite; these epochs were passed over. {fitting_judge.CURES}"
        )
    epoch = _too_early(estimator, plan, end)
    if epoch is not None:
        _warn(
            f"The best validation score is that of epoch {epoch}, whose weights are "
            "kept, although the validation loss still fell afterwards. The score may "
            "be too coarse to stop by, as accuracy is where a class is rare: "
            "scoring='loss' stops by the validation loss."
        )


def _too_early(estimator: Any, plan: Plan, end: Outcome) -> int | None:
    """The best epoch if it is one of the first two, while the loss still fell."""
    scores, losses = estimator.validation_scores_, estimator.validation_loss_curve_
    if plan.incremental or len(scores) <= len(end.records):
        scores = [record.score for record in end.records]
        losses = [record.validation_loss for record in end.records]
    elif len(scores) != len(losses) or estimator.history_[0]["epoch"] > 1:
        return None  # the first epochs of the warm start are not known any more
    ran_out = end.state.status in (STANDSTILL, RATE_TOO_SMALL)
    shows = ran_out or len(scores) > ENOUGH_EPOCHS
    few = plan.n_rows + plan.n_validation < ENOUGH_ROWS
    if few or not shows or end.state.best not in scores[:2]:
        return None
    best = scores.index(end.state.best)
    fall = losses[best] - min(losses[best:])
    return best + 1 if fall > FALL * abs(losses[best]) else None


def _warn(text: str) -> None:
    warnings.warn(text, ModelQualityWarning, stacklevel=2)
