"""A fitted network in words: layers, shapes, parameters, memory, where trained."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.utils import estimator_html_repr
from sklearn.utils.validation import check_is_fitted

from skmlp.arrays import fetch
from skmlp.estimators.fitting import hyperparameters

_COLUMNS = 80
_HEAD = ("layer", "shape", "activation", "parameters", "memory")


class Describable:
    """Estimators that tell what they are made of."""

    def summary(self) -> str:
        """Describe the fitted network.

        Returns
        -------
        str
            A table of the layers with their shapes, activations, parameters and
            memory, and a line on the training: to be printed, 80 columns wide at most.
            A notebook shows the same above the parameters.

        Raises
        ------
        NotFittedError
            There is nothing to describe yet.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skmlp import MLPClassifier
        >>> clf = MLPClassifier((5,), max_iter=20, random_state=0)
        >>> print(clf.fit(*load_iris(return_X_y=True)).summary())
        MLPClassifier: 43 parameters, 344 B, float64
        layer  shape  activation  parameters  memory
        1      4 x 5  relu                25   200 B
        2      5 x 3  softmax             18   144 B
        Trained in process, 20 epochs in ... s, loss ...
        """
        check_is_fitted(self)
        rows = [_HEAD, *_rows(self)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEAD))]
        lines = textwrap.wrap(_title(self), _COLUMNS)
        for row in rows:
            cells = [
                cell.rjust(width) if k > 2 else cell.ljust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        lines += textwrap.wrap(training_of(self), _COLUMNS)
        return "\n".join(lines)

    def _html_repr(self) -> str:
        """scikit-learn's diagram, with the summary in its box."""
        shown: str = estimator_html_repr(self)
        if not hasattr(self, "coefs_"):
            return shown
        table = "".join(
            '<tr class="default">'
            + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
            + "</tr>"
            for tag, row in (("th", _HEAD), *(("td", row) for row in _rows(self)))
        )
        table = (
            '<div class="estimator-table skmlp-summary"><details><summary>'
            f"{html.escape(_title(self))}</summary>"
            f'<table class="parameters-table"><tbody>{table}</tbody></table>'
            f"<p>{html.escape(training_of(self))}</p></details></div>"
        )
        box = re.search(r'<div class="sk-toggleable__content[^>]*>', shown)
        end = box.end() if box else len(shown)
        return shown[:end] + table + shown[end:]


def _title(model: Any) -> str:
    arrays = [fetch(array) for array in (*model.coefs_, *model.intercepts_)]
    count = sum(np.size(a) for a in arrays)
    size = sum(np.asarray(a).nbytes for a in arrays)
    title = f"{type(model).__name__}: {count:,} parameters, {_bytes(size)}, "
    title += " and ".join(sorted({np.asarray(a).dtype.name for a in arrays}))
    moments = sum(m.nbytes for m in getattr(model, "_resume", {}).get("moments", []))
    return title + (f" (and {_bytes(moments)} of moments)" if moments > 2**20 else "")


def _rows(model: Any) -> Iterator[tuple[str, ...]]:
    """A row of the table for each layer."""
    hidden = hyperparameters.activations(model, len(model.coefs_) - 1)
    names = *hidden, model.out_activation_
    layers = map(fetch, model.coefs_), map(fetch, model.intercepts_), names
    for k, (W, b, activation) in enumerate(zip(*layers, strict=True), 1):
        yield (
            str(k),
            f"{W.shape[0]} x {W.shape[1]}",
            _name(activation),
            f"{W.size + b.size:,}",
            _bytes(W.nbytes + b.nbytes),
        )


def _name(activation: Any) -> str:
    own = not isinstance(activation, str)
    return (type(activation).__name__ if own else activation)[:24]


def training_of(model: Any) -> str:
    """Where and how long it was trained, as far as that is known."""
    history = getattr(model, "history_", None) or []
    epochs = getattr(model, "n_iter_", len(history))
    unit = "iteration" if model.solver == "lbfgs" else "epoch"
    words = [f"{epochs:,} {unit}{'s' if epochs != 1 else ''}"]
    times = [record.get("seconds", np.nan) for record in history[-epochs:] if epochs]
    # Those of scikit-learn's models, of pickles, and before the last `history_length`
    # epochs are not known.
    if len(times) == epochs > 0 and np.isfinite(seconds := sum(times)):
        words[0] += f" in {seconds:.3g} s"
    if hasattr(model, "loss_"):
        words.append(f"loss {model.loss_:.4g}")
    score = getattr(model, "best_validation_score_", None)
    if score is not None:
        words.append(f"best validation score {score:.4g}")
    place = getattr(model, "_trained_where", None)
    if place is None:
        return f"Trained: {', '.join(words)}"
    where, n_ranks = place
    if where != "in process":
        kind = "workers" if where == "dask" else where
        where = f"on {n_ranks} {'Dask ' if where == 'dask' else ''}{kind}"
    return f"Trained {where}, {', '.join(words)}"


def _bytes(count: float) -> str:
    """A size for people: 344 B, 50.8 kB, 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
