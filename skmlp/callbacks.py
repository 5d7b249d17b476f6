"""Callbacks that watch a fit: what they see of it, and a progress bar.

They follow scikit-learn's protocol (`sklearn.callback.FitCallback`) and are set with
``estimator.set_callbacks(...)``. What that protocol has no words for (epochs' records,
ranks, the optimizer's state) they find in the estimator's `Training`, which is there
while it trains.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skmlp.plan import Plan
from skmlp.state import Record, TrainState

#: Names of the tasks that callbacks see.
FIT, EPOCH, ITERATION = "fit", "epoch", "iteration"


@dataclass
class Training:
    """A fit under way.

    Attributes
    ----------
    plan : Plan
        What is to be done.
    state : TrainState or None
        After the last finished epoch. Its arrays may be those that the next epoch
        writes to. None with L-BFGS.
    records : list of Record
        The finished epochs.
    losses : list of float
        The loss of each finished epoch or iteration.
    n_ranks : int
        Ranks that train now.
    n_restarts : int
        How often ranks were replaced so far.
    """

    plan: Plan
    state: TrainState | None = None
    records: list[Record] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    n_ranks: int = 1
    n_restarts: int = 0


def training_of(estimator: Any) -> Training | None:
    """The fit under way of an estimator of this package; None for any other."""
    found = getattr(estimator, "_training", None)
    return found if isinstance(found, Training) else None


class OwnCallback(ABC):
    """What the callbacks of this package have in common.

    They need no more than the estimator, so they work with scikit-learn 1.7 and 1.8
    too, where there is no callback support to build on.
    """

    @abstractmethod
    def setup(self, estimator: Any, context: Any) -> None:
        """Make ready, before the fit begins."""

    @abstractmethod
    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Look at where an epoch, or the fit, begins."""

    @abstractmethod
    def teardown(self, estimator: Any, context: Any) -> None:
        """Clean up, also after a fit that failed."""

    @abstractmethod
    def on_fit_task_end(self, estimator: Any, context: Any) -> bool | None:
        """Look at what an epoch, or the fit, has brought; True stops the fit."""


class TrainingProgress(OwnCallback):
    """A progress bar with epochs, loss, score, speed, workers and the time left.

    Beside `sklearn.callback.ProgressBar`, which counts the epochs of any estimator,
    this one tells what a network's training is judged by. It is drawn by rich, in a
    terminal or a notebook, wherever the ranks are. The time left is that until
    `max_iter`; a fit that converges ends earlier.

    Parameters
    ----------
    console : rich.console.Console, default=None
        Where to draw; by default standard output.
    transient : bool, default=False
        Take the bar away when the fit has ended.

    Raises
    ------
    ImportError
        rich is not installed: ``pip install skmlp[progress]``.

    Notes
    -----
    In a notebook rich draws by ipywidgets: ``pip install "rich[jupyter]"``.

    Set it on the network itself, not on a pipeline or a search around it; for those
    there is `sklearn.callback.ProgressBar`.

    Examples
    --------
    >>> from skmlp import MLPClassifier, TrainingProgress
    >>> bar = TrainingProgress(transient=True)  # doctest: +SKIP
    >>> MLPClassifier().set_callbacks(bar).fit(X, y)  # doctest: +SKIP
    """

    def __init__(self, console: Any = None, transient: bool = False) -> None:
        try:
            import rich.progress  # noqa: F401 - is it there?
        except ImportError as error:
            raise ImportError(
                "TrainingProgress draws with rich, which is not installed: "
                "pip install 'skmlp[progress]'"
            ) from error
        self.console = console
        self.transient = transient
        # One bar for each fit: an instance may be shared by clones that are fitted at
        # the same time.
        self._bars: dict[int, tuple[Any, Any, float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A running bar holds threads and locks; a copy begins without one.
        return {**vars(self), "console": None, "_bars": {}}

    def setup(self, estimator: Any, context: Any) -> None:
        """Draw the empty bar."""
        from rich import progress

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[told]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=self.console,
            transient=self.transient,
        )
        bar.start()
        task = bar.add_task(
            type(estimator).__name__,
            total=getattr(estimator, "max_iter", None),
            told="",
        )
        self._bars[id(estimator)] = bar, task, time.perf_counter()

    def teardown(self, estimator: Any, context: Any) -> None:
        """Leave the bar as it is."""
        bar, _, _ = self._bars.pop(id(estimator))
        bar.refresh()  # a notebook's bar stays as it was drawn last
        bar.stop()

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Leave the bar where it is."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Move the bar on."""
        training = training_of(estimator)
        if training is None or context.task_name == FIT:
            return
        bar, task, began = self._bars[id(estimator)]
        done = len(training.losses)
        bar.update(task, completed=done, told=tell(training, began))


def tell(training: Training, began: float) -> str:
    """What the progress bar says beside the bar.

    Parameters
    ----------
    training : Training
        With at least one finished epoch.
    began : float
        When the fit did, by `time.perf_counter`.
    """
    plan = training.plan
    said = [f"loss {training.losses[-1]:.4g}"]
    seconds = time.perf_counter() - began
    if training.records:
        last = training.records[-1]
        if np.isfinite(last.score):
            said.append(f"score {last.score:.4f}")
        seconds = last.seconds
        speed = plan.n_rows / max(seconds, 1e-9)
    else:
        speed = plan.n_rows * len(training.losses) / max(seconds, 1e-9)
    said.append(f"{_short(speed)} rows/s")
    said.append(f"{training.n_ranks} worker{'s' if training.n_ranks > 1 else ''}")
    if training.n_restarts:
        said.append(f"{training.n_restarts} restarts")
    return ", ".join(said)


def _short(number: float) -> str:
    """A count with three digits: 950, 1.23k, 45.6M."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"
