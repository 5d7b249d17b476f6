"""Curves over the epochs of a fit."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from skmlp.display.history import axes_for, column, history_of, legend_beside
from skmlp.display.inside import network_of


@dataclass(repr=False, eq=False)
class LossCurveDisplay:
    """Loss by epoch, with the validation loss and score where there are any.

    Parameters
    ----------
    loss : array-like of shape (n_epochs,)
        The training loss.
    validation_loss : array-like of shape (n_epochs,), default=None
        The loss on the validation rows.
    validation_score : array-like of shape (n_epochs,), default=None
        The score on them; drawn against an axis of its own.
    estimator_name : str, default=None
        For the legend.
    first_epoch : int, default=1
        The number of the first of these epochs.
    best_epoch : int, default=None
        The epoch of the best score, which is marked.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes of the losses.
    score_ax_ : matplotlib.axes.Axes or None
        The axes of the score.
    figure_ : matplotlib.figure.Figure
        The figure.
    lines_ : list of matplotlib.lines.Line2D
        The curves.
    best_line_ : matplotlib.lines.Line2D or None
        The mark of the best epoch.

    See Also
    --------
    LossCurveDisplay.from_estimator : Draw those of a fitted estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skmlp import LossCurveDisplay, MLPClassifier
    >>> clf = MLPClassifier(max_iter=9, random_state=0)
    >>> clf = clf.fit(*load_iris(return_X_y=True))
    >>> LossCurveDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    loss: Any
    _: KW_ONLY
    validation_loss: Any = None
    validation_score: Any = None
    estimator_name: str | None = None
    first_epoch: int = 1
    best_epoch: int | None = None

    def __repr__(self) -> str:
        name, losses = self.estimator_name or "", np.asarray(self.loss)
        return f"<LossCurveDisplay {name}: {len(losses)} epochs, loss {losses[-1]:.4g}>"

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the curves of a fitted estimator.

        Parameters
        ----------
        estimator : MLPClassifier, MLPRegressor or an estimator around one
            Fitted. Pipelines, searches and other wrappers may hold one network; of
            several, give one.
        ax : matplotlib.axes.Axes, default=None
            Where to draw; by default on a new figure.
        **kwargs : dict
            Handed to `plot`.

        Returns
        -------
        LossCurveDisplay
        """
        history = history_of(estimator)
        given = {
            name: values
            for name in ("validation_loss", "validation_score")
            if not np.isnan(values := column(history, name)).all()
        }
        model = network_of(estimator)
        return cls(
            column(history, "loss"),
            estimator_name=type(model).__name__,
            first_epoch=history[0]["epoch"],
            best_epoch=getattr(model, "best_epoch_", None),
            **given,
        ).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where; by default on a new figure.
        name : str, default=None
            For the legend, in place of `estimator_name`.
        **kwargs : dict
            Handed to matplotlib's `plot` of the losses.

        Returns
        -------
        LossCurveDisplay
        """
        self.figure_, self.ax_ = axes_for(ax)
        name = self.estimator_name if name is None else name
        label = f"{name}, " if name else ""
        epochs = self.first_epoch + np.arange(len(self.loss))
        self.lines_ = self.ax_.plot(
            epochs, self.loss, **{"label": f"{label}training loss", **kwargs}
        )
        if self.validation_loss is not None:
            self.lines_ += self.ax_.plot(
                epochs,
                self.validation_loss,
                **{**kwargs, "linestyle": "--", "label": f"{label}validation loss"},
            )
        self.ax_.set(xlabel="Epoch", ylabel="Loss")
        lines, self.score_ax_ = list(self.lines_), None
        if self.validation_score is not None:
            self.score_ax_ = self.ax_.twinx()
            self.lines_ += self.score_ax_.plot(
                epochs,
                self.validation_score,
                color="tab:green",
                label=f"{label}validation score",
            )
            self.score_ax_.set_ylabel("Validation score")
            lines = list(self.lines_)
        self.best_line_ = None
        if self.best_epoch is not None and self.best_epoch >= self.first_epoch:
            text = f"{label}best epoch: {self.best_epoch}"
            self.best_line_ = self.ax_.axvline(
                self.best_epoch, color="gray", linestyle=":", label=text
            )
            lines.append(self.best_line_)
        # On the axes that are drawn last, or the score's curve would run over it.
        legend_beside(self.score_ax_ or self.ax_, lines, alone=ax is None)
        return self


@dataclass(repr=False, eq=False)
class LearningRateDisplay:
    """Learning rate by epoch.

    Parameters
    ----------
    learning_rate : array-like of shape (n_epochs,)
        That of each epoch.
    estimator_name : str, default=None
        For the legend.
    first_epoch : int, default=1
        The number of the first of these epochs.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        The axes.
    figure_ : matplotlib.figure.Figure
        The figure.
    line_ : matplotlib.lines.Line2D
        The curve.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skmlp import LearningRateDisplay, MLPClassifier
    >>> clf = MLPClassifier(solver="sgd", learning_rate="invscaling", max_iter=9)
    >>> clf = clf.fit(*load_iris(return_X_y=True))
    >>> LearningRateDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    learning_rate: Any
    _: KW_ONLY
    estimator_name: str | None = None
    first_epoch: int = 1

    def __repr__(self) -> str:
        name, rates = self.estimator_name or "", np.asarray(self.learning_rate)
        told = f"from {rates[0]:.4g} to {rates[-1]:.4g} in {len(rates)} epochs"
        return f"<LearningRateDisplay {name}: {told}>"

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the learning rate that a fit went through.

        Parameters
        ----------
        estimator : MLPClassifier or MLPRegressor
            Fitted with a stochastic solver; or an estimator around one such network.
        ax : matplotlib.axes.Axes, default=None
            Where to draw; by default on a new figure.
        **kwargs : dict
            Handed to `plot`.

        Returns
        -------
        LearningRateDisplay

        Raises
        ------
        ValueError
            The solver has no learning rate.
        """
        history = history_of(estimator)
        rates = column(history, "learning_rate")
        if np.isnan(rates).all():
            raise ValueError(
                "this fit has no learning rate: solver='lbfgs' chooses its steps itself"
            )
        name = type(network_of(estimator)).__name__
        first = history[0]["epoch"]
        display = cls(rates, estimator_name=name, first_epoch=first)
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Where; by default on a new figure.
        name : str, default=None
            For the legend, in place of `estimator_name`.
        **kwargs : dict
            Handed to matplotlib's `step`.

        Returns
        -------
        LearningRateDisplay
        """
        self.figure_, self.ax_ = axes_for(ax)
        name = self.estimator_name if name is None else name
        epochs = self.first_epoch + np.arange(len(self.learning_rate))
        (self.line_,) = self.ax_.step(
            epochs, self.learning_rate, **{"where": "mid", "label": name, **kwargs}
        )
        self.ax_.set(xlabel="Epoch", ylabel="Learning rate")
        rates = np.asarray(self.learning_rate)
        if rates.min() > 0 and rates.max() / rates.min() > 20:
            self.ax_.set_yscale("log")
        else:
            self.ax_.set_ylim(bottom=0)
        if self.line_.get_label() and not str(self.line_.get_label()).startswith("_"):
            legend_beside(self.ax_, [self.line_], alone=ax is None)
        return self
