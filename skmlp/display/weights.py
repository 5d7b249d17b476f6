"""Weights as images."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np

from skmlp.display.history import axes_for
from skmlp.display.inside import network_of


@dataclass(repr=False, eq=False)
class FirstLayerWeightsDisplay:
    """Weights of the first layer: what each hidden unit looks for.

    Parameters
    ----------
    weights : ndarray of shape (n_features, n_units)
        The first layer's.
    shape : tuple of (int, int), default=None
        Height and width of the image that the features are, row by row. None draws a
        table instead: a row for each feature, a column for each unit.
    feature_names : array-like of str of shape (n_features,), default=None
        For the rows of the table.

    Attributes
    ----------
    axes_ : ndarray of matplotlib.axes.Axes
        One for each unit shown; one for a table.
    figure_ : matplotlib.figure.Figure
        The figure.
    images_ : list of matplotlib.image.AxesImage
        The images, all on the same scale, with 0 in its middle.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmlp import FirstLayerWeightsDisplay, MLPClassifier
    >>> clf = MLPClassifier((9,), max_iter=9, random_state=0)
    >>> clf = clf.fit(*load_digits(return_X_y=True))
    >>> FirstLayerWeightsDisplay.from_estimator(clf)  # doctest: +SKIP
    """

    weights: Any
    _: KW_ONLY
    shape: tuple[int, int] | None = None
    feature_names: Any = None

    def __repr__(self) -> str:
        n_features, n_units = np.shape(self.weights)
        return (
            f"<FirstLayerWeightsDisplay: {n_units} units, {n_features} features, "
            f"weights up to {np.abs(self.weights).max():.3g}>"
        )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        shape: tuple[int, int] | None = None,
        max_units: int = 36,
        **kwargs: Any,
    ) -> Self:
        """Draw those of a fitted estimator.

        Parameters
        ----------
        estimator : MLPClassifier, MLPRegressor or an estimator around one
            Fitted. Pipelines, searches and other wrappers may hold one network; of
            several, give one.
        shape : tuple of (int, int), default=None
            Height and width of the images. By default a square, if the number of
            features is one and they have no names; otherwise all units are columns of
            one table, with the features as rows.
        max_units : int, default=36
            The most units to show: those with the largest weights, the largest first.
        **kwargs : dict
            Handed to `plot`.

        Returns
        -------
        FirstLayerWeightsDisplay

        Raises
        ------
        ValueError
            `shape` does not go with the number of features, or there are no weights.
        NotFittedError
            It is not fitted.
        """
        model = network_of(estimator)
        if not hasattr(model, "coefs_"):
            raise ValueError(
                f"this {type(model).__name__} has no weights (coefs_) to show"
            )
        weights = np.asarray(model.coefs_[0])
        n_features = weights.shape[0]
        side = math.isqrt(n_features)
        names = getattr(model, "feature_names_in_", None)
        if getattr(model, "input_encoding", None) is not None:
            names = np.array([f"input {j}" for j in range(n_features)], object)
        if shape is None and side * side == n_features and names is None:
            shape = side, side
        if shape is not None and math.prod(shape) != n_features:
            raise ValueError(
                f"shape={shape!r} has {math.prod(shape)} pixels, but there are "
                f"{n_features} features"
            )
        norms = (weights.astype(float) ** 2).sum(axis=0)
        largest = np.argsort(-norms, kind="stable")[:max_units]
        display = cls(weights[:, largest], shape=shape, feature_names=names)
        return display.plot(**kwargs)

    def plot(self, *, figure: Any = None, **kwargs: Any) -> Self:
        """Draw.

        Parameters
        ----------
        figure : matplotlib.figure.Figure, default=None
            Where; by default a new one.
        **kwargs : dict
            Handed to matplotlib's `imshow`.

        Returns
        -------
        FirstLayerWeightsDisplay
        """
        weights = np.asarray(self.weights)
        limit = float(np.abs(weights).max()) or 1.0
        style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, **kwargs}
        if figure is None:
            figure, first = axes_for(None)
            first.remove()
        self.figure_ = figure
        draw = self._plot_table if self.shape is None else self._plot_images
        axes = draw(weights, style)
        figure.colorbar(self.images_[0], ax=list(axes), shrink=0.8, label="Weight")
        return self

    def _plot_table(self, weights: Any, style: dict[str, Any]) -> Any:
        """One image of all weights, with a name at each row that has room for it."""
        n_features, n_units = weights.shape
        names = self.feature_names
        names = np.arange(n_features) if names is None else np.asarray(names)
        ax = self.figure_.subplots()
        self.axes_ = np.array([ax])
        self.images_ = [ax.imshow(weights, **{"aspect": "auto", **style})]
        step = math.ceil(n_features / 40)
        ax.set_yticks(np.arange(0, n_features, step), names[::step])
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel=f"Hidden unit (the {n_units} largest first)", ylabel="Feature")
        return self.axes_

    def _plot_images(self, weights: Any, style: dict[str, Any]) -> Any:
        """An image of each unit."""
        assert self.shape is not None
        n_units = weights.shape[1]
        columns = math.ceil(math.sqrt(n_units))
        rows = math.ceil(n_units / columns)
        axes = self.figure_.subplots(rows, columns, squeeze=False).ravel()
        self.axes_ = axes[:n_units]
        self.images_ = [
            ax.imshow(weights[:, k].reshape(self.shape), **style)
            for k, ax in enumerate(self.axes_)
        ]
        for ax in axes:
            ax.set_axis_off()
        return axes
