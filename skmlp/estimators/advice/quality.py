"""Models that are worse than they could be: what is warned of, what is an error."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.base import is_regressor

from skmlp.arrays import Array
from skmlp.data.checks import unscaled
from skmlp.exceptions import ModelQualityWarning
from skmlp.plan import Plan
from skmlp.state import DIVERGED, RATE_TOO_SMALL, STANDSTILL
from skmlp.training.lbfgs import Minimum
from skmlp.training.protocol import Message, RankFailed
from skmlp.training.rank import CONSTANT, LOSS
from skmlp.training.stopping import model_of
from skmlp.training.supervisor import Outcome, Supervisor

#: A fit has diverged whose loss is so many times that of the constant prediction.
MANY_TIMES = 1e6
#: Of targets that hardly vary, or not at all, as if the constant had this loss: the
#: first predictions of a network are of the size of one.
LEAST_LOSS = 1e-4
#: Where the constant's own loss is less, there is nothing to learn: of real targets,
#: and of classes, whose loss has a unit.
NO_SPREAD, NO_DOUBT = 1e-13, 1e-3
#: Above scikit-learn's default, `tol` is the user's wish to stop soon; of fewer rows
#: than a minibatch has by default, ten epochs of patience are ten steps.
DEFAULT_TOL, FEW_ROWS = 1e-4, 200
#: Relative difference of two losses that are equal.
ROUNDING = 1e-6
#: scikit-learn's words.
NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large "
    "values and need to be preprocessed."
)
#: How many columns a message names.
N_NAMED = 5


def note_unscaled(estimator: Any, columns: Mapping[int, float]) -> None:
    """Keep what `skmlp.data.checks.unscaled` has found for the end of the fit.

    A fit that has diverged is an error, without a warning. An encoding scales.
    """
    vars(estimator).pop("_unscaled", None)
    if columns and estimator.input_encoding is None:
        estimator._unscaled = columns


def check_scale(estimator: Any, X: Any, squares: float | None = None) -> None:
    """`note_unscaled` of rows in this process."""
    note_unscaled(estimator, unscaled(X, squares))


class Baseline:
    """What the best constant prediction has as loss, to compare a model with.

    The ranks are asked for it, once.
    """

    def __init__(self, supervisor: Supervisor, plan: Plan) -> None:
        self._supervisor, self._plan = supervisor, plan

    def _ask(self, op: int, *arrays: Array) -> tuple[Array, ...]:
        return self._supervisor.request(lambda fresh: Message(op, arrays)).arrays

    @cached_property
    def constant(self) -> tuple[Array, float]:
        """Its raw prediction, of shape (n_outputs,), and its loss."""
        raw, (loss,) = self._ask(CONSTANT)
        return raw, float(loss)

    @property
    def loss(self) -> float:
        """Its mean loss on the training rows."""
        return self.constant[1]

    @property
    def unit(self) -> float:
        """What `tol` is a share of, where a loss is compared with it."""
        absolute = self._plan.tol_scale == "absolute"
        return 1.0 if absolute or not self.loss > 0 else self.loss

    @property
    def _is_perfect(self) -> bool:
        """Whether nothing can be better than the constant, or it has no loss."""
        real = self._plan.loss_entry.target == "real"
        return not self.loss > (NO_SPREAD if real else NO_DOUBT)

    def _is_far_off(self, loss: float) -> bool:
        """Whether a loss is that of a fit that has diverged."""
        if loss <= MANY_TIMES * LEAST_LOSS or self._is_perfect:
            return False
        return loss > MANY_TIMES * max(self.loss, LEAST_LOSS)

    def _is_as_bad(self, loss: float, params: Array) -> bool:
        """Whether a model is no better than the constant.

        `loss` is an upper bound of its own one, which is looked at where it has to be.
        """
        if self._plan.tol > DEFAULT_TOL or self._plan.n_rows < FEW_ROWS:
            return False
        if loss < self.loss or self._is_perfect:
            return False
        params = params.astype(self._plan.dtype, copy=False)
        ((own,),) = self._ask(LOSS, params)
        return bool(own >= self.loss * (1 - ROUNDING))

    def judge(self, outcome: Outcome) -> bool:
        """Whether a stochastic run has converged to no better than the constant.

        The state's status becomes `DIVERGED` if it has. A run that a score has stopped
        has not converged.
        """
        plan, state, records = self._plan, outcome.state, outcome.records
        if not records or state.status == DIVERGED:
            return False
        last = records[-1]
        far_off = not np.isfinite(last.loss)
        try:
            if not (far_off or outcome.interrupted or plan.incremental):
                far_off = self._is_far_off(last.loss)
            if far_off:
                state.status = DIVERGED
            converged = state.status in (STANDSTILL, RATE_TOO_SMALL) and plan.by_loss
            if plan.incremental or not converged:
                return False
            params = model_of(plan, state)
            if plan.early_stopping:
                best = [r for r in records if r.score == state.best]
                last, params = (best or records)[-1], state.best_params
            return self._is_as_bad(last.loss, params)
        except RankFailed:  # the fit itself is done
            return False
        except KeyboardInterrupt:
            outcome.interrupted = True
            self._supervisor.finish_epoch()
            return False

    def judge_minimum(self, minimum: Minimum) -> bool:
        """As `judge`, of an L-BFGS run. ValueError if it has diverged."""
        if minimum.result is None:
            return False
        try:
            if not np.isfinite(minimum.loss) or self._is_far_off(minimum.loss):
                raise ValueError(diverged(minimum.loss))
            converged = minimum.result.success
            return converged and self._is_as_bad(minimum.loss, minimum.params)
        except RankFailed:
            return False
        except KeyboardInterrupt:
            minimum.result = None
            self._supervisor.finish_epoch()
            return False


def diverged(loss: float) -> str:
    """The message of a fit that has diverged."""
    return f"{NOT_FINITE} (The last loss is {loss:g}.)"


def tell(estimator: Any, baseline: Baseline, as_bad: bool) -> None:
    """Warn of features that are not scaled, or of a model as bad as the constant."""
    columns = vars(estimator).pop("_unscaled", None)
    if columns:
        names = getattr(estimator, "feature_names_in_", range(estimator.n_features_in_))
        named = [f"{names[j]!s} ({size:.2g})" for j, size in columns.items()]
        rest = len(named) - N_NAMED
        text = (
            "the features are not scaled, and a network hardly learns from such: the "
            f"root mean square of column(s) {', '.join(named[:N_NAMED])}"
            f"{f' and {rest} more' if rest > 0 else ''}. Scale them first, as "
            f"make_pipeline(StandardScaler(), {type(estimator).__name__}(...)) does"
        )
    elif as_bad:
        targets = ""
        if is_regressor(estimator):
            targets = (
                ", and the targets, as TransformedTargetRegressor does; for small ones "
                "tol_scale='initial' makes `tol` a share of that loss"
            )
        text = (
            "the fit has converged, but predicts the training rows no better than a "
            f"constant does, whose loss is {baseline.loss:.3g}. Scale the features, as "
            f"StandardScaler does{targets}. If they are: try another "
            "learning_rate_init, a smaller alpha, or more patience (n_iter_no_change)"
        )
    else:
        return
    warnings.warn(text, ModelQualityWarning, stacklevel=2)
