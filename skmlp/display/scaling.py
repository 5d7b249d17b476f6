"""The speed of a fit over the number of workers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from sklearn import clone
from sklearn.exceptions import ConvergenceWarning

from skmlp.config import config_context
from skmlp.display.history import axes_for, column, history_of


@dataclass(repr=False, eq=False)
class ScalingDisplay:
    """Speed of training over the number of workers, beside the ideal.

    Parameters
    ----------
    n_workers : array-like of shape (n,)
        Workers of each fit, rising; the first is what the others are compared with.
    seconds : array-like of shape (n,)
        Seconds of an epoch.
    estimator_name : str, default=None
        For the legend.

    Attributes
    ----------
    speedup_ : ndarray of shape (n,)
        How many times as fast as the first.
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        The figure.
    line_, ideal_line_ : matplotlib.lines.Line2D
        The measured and the ideal speed.

    Examples
    --------
    >>> from skmlp import ScalingDisplay
    >>> ScalingDisplay([1, 2, 4], [8.0, 4.2, 2.5]).plot()  # doctest: +SKIP
    """

    n_workers: Any
    seconds: Any
    _: KW_ONLY
    estimator_name: str | None = None

    def __repr__(self) -> str:
        seconds = ", ".join(f"{s:.3g} s" for s in self.seconds)
        workers = ", ".join(map(str, self.n_workers))
        return f"<ScalingDisplay: an epoch on {workers} workers takes {seconds}>"

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        n_jobs: Sequence[int] = (1, 2),
        epochs: int = 5,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Fit clones on several numbers of workers, and draw how long an epoch takes.

        The workers are the processes of joblib's active backend, or those of the Dask
        cluster that `X` and `y` are on. As many are used as are asked for, also where
        skmlp would use fewer because more are slower. Under joblib's threads, the
        default, all fits are the same one in this process.

        Parameters
        ----------
        estimator : MLPClassifier, MLPRegressor or an estimator around one
            With a stochastic solver. It need not be fitted, and is not changed.
        X, y : array-like
            The rows. An epoch should take a tenth of a second at least.
        n_jobs : sequence of int, default=(1, 2)
            Numbers of workers, rising.
        epochs : int, default=5
            Epochs to take the median time of, beside a first one that does not count.
        ax : matplotlib.axes.Axes, default=None
            Where to draw; by default on a new figure.
        **kwargs : dict
            Handed to `plot`.

        Returns
        -------
        ScalingDisplay

        Raises
        ------
        ValueError
            The solver is 'lbfgs', which has no epochs, `n_jobs` does not rise, or there
            is not one network among the parameters.
        """
        if list(n_jobs) != sorted({*n_jobs}) or not n_jobs or n_jobs[0] < 1:
            raise ValueError(f"n_jobs={n_jobs!r} must be rising numbers of workers")
        params = {"": estimator, **estimator.get_params(deep=True)}
        found = [name for name in params if hasattr(params[name], "hidden_outputs")]
        if len(found) != 1:
            raise ValueError(
                f"this {type(estimator).__name__} must hold one network, but holds "
                f"{', '.join(found) or 'none'}"
            )
        prefix = f"{found[0]}__" if found[0] else ""
        if params[found[0]].solver == "lbfgs":
            raise ValueError("solver='lbfgs' has no epochs to measure")
        seconds = []
        for k in n_jobs:
            given = {"n_jobs": k, "max_iter": epochs + 1, "tol": 0.0}
            given["n_iter_no_change"] = epochs + 1
            model = clone(estimator)
            model.set_params(**{prefix + name: given[name] for name in given})
            with config_context(ranks="as_asked"), warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(X, y)
            times = column(history_of(model), "seconds")
            seconds.append(float(np.median(times[1:])))
        name = type(estimator).__name__
        return cls(list(n_jobs), seconds, estimator_name=name).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where; by default on a new figure.
        name : str, default=None
            For the legend, in place of `estimator_name`.
        **kwargs : dict
            Handed to matplotlib's `plot` of the measured speed.

        Returns
        -------
        ScalingDisplay
        """
        self.figure_, self.ax_ = axes_for(ax)
        name = self.estimator_name if name is None else name
        workers = np.asarray(self.n_workers, dtype=float)
        self.speedup_ = self.seconds[0] / np.asarray(self.seconds, dtype=float)
        (self.ideal_line_,) = self.ax_.plot(
            workers, workers / workers[0], linestyle=":", color="gray", label="ideal"
        )
        (self.line_,) = self.ax_.plot(
            workers, self.speedup_, **{"marker": "o", "label": name, **kwargs}
        )
        first = int(workers[0])
        self.ax_.set(
            xlabel="Workers",
            ylabel=f"Speed of an epoch (1 = {first} worker{'s' * (first > 1)})",
            xticks=workers,
        )
        self.ax_.set_ylim(bottom=0)
        self.ax_.legend()
        return self
