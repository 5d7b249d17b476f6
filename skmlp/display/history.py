"""The records of a fit's epochs, for people and for pictures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skmlp.arrays import Array
from skmlp.display.inside import network_of


def axes_for(ax: Any) -> tuple[Any, Any]:
    """The figure and axes to draw on; new ones for None."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "displays draw with matplotlib, which is not installed: "
            "pip install 'skmlp[plot]'"
        ) from error
    if ax is not None:
        return ax.figure, ax
    # What is beside the axes, such as a legend, finds its place in the figure.
    figure, new = plt.subplots(layout="constrained")
    return figure, new


def history_of(estimator: Any) -> list[Mapping[str, Any]]:
    """The records of the epochs of the one network in a fitted estimator.

    Raises
    ------
    NotFittedError
        It is not fitted.
    ValueError
        It holds none of skmlp's networks, or several.
    """
    model = network_of(estimator)
    history = getattr(model, "history_", None)
    if not history:
        raise ValueError(
            f"this {type(model).__name__} has no history_ to show: only skmlp's "
            "estimators keep one"
        )
    return list(history)


def history_frame(estimator: Any) -> Any:
    """The history of a fit as a pandas DataFrame.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor or an estimator around one
        Fitted. Pipelines, searches, `TransformedTargetRegressor` and other wrappers
        may hold one network; of several, give one.

    Returns
    -------
    pandas.DataFrame
        A row for each epoch, or iteration of 'lbfgs', with `epoch` as index, and the
        keys of `history_` as columns, but one number each: `computing` is that of the
        busiest rank and `waiting` the mean of all. `workers` counts the ranks, and
        `restarts` how often some were replaced during the epoch. A column in which
        there is nothing, such as the validation score of a fit without validation, is
        left out.

    Raises
    ------
    NotFittedError
        It is not fitted.
    ValueError
        It holds none of skmlp's networks, or several.
    ImportError
        pandas is not installed.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import skmlp
    >>> clf = skmlp.MLPClassifier(max_iter=5, random_state=0).fit(
    ...     *load_iris(return_X_y=True))
    >>> skmlp.history_frame(clf)["loss"].shape
    (5,)
    """
    history = history_of(estimator)
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(
            "history_frame makes a pandas DataFrame, but pandas is not installed"
        ) from error
    # Earlier calls of a warm start lie before the epochs that the restarts count.
    model = network_of(estimator)
    before = history[-1]["epoch"] - getattr(model, "n_iter_", len(history))
    restarts = Counter(
        before + restart["epoch"] for restart in getattr(model, "restarts_", [])
    )
    rows = []
    for record in history:
        row = dict(record)
        if row.get("computing"):
            row["workers"] = len(row["computing"])
            row["computing"] = max(row["computing"])
            row["waiting"] = float(np.mean(row["waiting"]))
        else:
            row.pop("computing", None)
            row.pop("waiting", None)
        row["restarts"] = restarts[row["epoch"]]
        rows.append(row)
    frame = pd.DataFrame(rows).set_index("epoch")
    return frame.dropna(axis=1, how="all")


def legend_beside(ax: Any, lines: Sequence[Any], *, alone: bool) -> None:
    """A legend below the axes; where they are not `alone`, in the emptiest corner."""
    labels = [str(line.get_label()) for line in lines]
    place: dict[str, Any] = {"loc": "best"}
    if alone:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 2}
    ax.legend(lines, labels, **place)


def column(history: Sequence[Mapping[str, Any]], name: str) -> Array:
    """A value of all epochs, NaN where there is none."""
    values = [record.get(name) for record in history]
    return np.array([math.nan if v is None else v for v in values], dtype=float)
