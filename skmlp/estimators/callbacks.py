"""Callbacks that watch a fit: what they see of it, and a progress bar.

They follow scikit-learn's protocol (`sklearn.callback.FitCallback`) and are set with
``estimator.set_callbacks(...)``. What that protocol has no words for (epochs' records,
ranks, the optimizer's state) they find in the estimator's `Training`, which is there
while it trains.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skmlp.plan import Plan
from skmlp.state import Record, TrainState

#: Names of the tasks that callbacks see.
FIT, EPOCH, ITERATION = "fit", "epoch", "iteration"


@dataclass
class Training:
    """A fit under way; see `training_of`.

    The arrays of `state` may be those that the next epoch writes to.
    """

    plan: Plan | None = field(default=None, repr=False)
    state: TrainState | None = field(default=None, repr=False)
    records: list[Record] = field(default_factory=list, repr=False)
    losses: list[float] = field(default_factory=list)
    n_ranks: int = 1
    n_restarts: int = 0
    began: float = field(default_factory=time.perf_counter)


def training_of(estimator: Any) -> Training | None:
    """What is known of a fit under way, for a `Callback`.

    Parameters
    ----------
    estimator : estimator
        As a callback gets it.

    Returns
    -------
    Training or None
        None if it is no network of this package, such as a pipeline. Its attributes:

        - ``losses``, a list with the loss of each finished epoch or iteration;
        - ``records``, one for each finished epoch, with ``loss``, ``score`` and
          ``validation_loss`` (NaN without validation rows), ``learning_rate``,
          ``gradient_norm`` and ``seconds``; empty for 'lbfgs';
        - ``n_ranks``, how many workers train now, and ``n_restarts``, how often some
          were replaced;
        - ``began``, when the fit did, by `time.perf_counter`.

    See Also
    --------
    Callback : An example.
    """
    found = getattr(estimator, "_training", None)
    return found if isinstance(found, Training) else None


class Callback:
    """What watches a fit: four methods, with empty bodies here.

    Derive from it, and write those that you need. It follows scikit-learn's protocol
    `sklearn.callback.FitCallback`, and works with scikit-learn 1.7 and 1.8 too. A fit
    is a task (``context.task_name`` is "fit"), and so is each of its epochs ("epoch";
    of 'lbfgs' each "iteration"). `training_of` tells what they have brought.

    Set it on the network. With ``max_propagation_depth = None`` as a class attribute
    it is one of scikit-learn's auto-propagated callbacks instead: set it on the
    outermost estimator, which hands it on to the networks inside.

    See Also
    --------
    training_of : The loss, score and time of the epochs.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skmlp import Callback, MLPClassifier, training_of
    >>> class StopBelow(Callback):
    ...     def __init__(self, loss):
    ...         self.loss = loss
    ...
    ...     def on_fit_task_end(self, estimator, context):
    ...         return training_of(estimator).losses[-1] < self.loss
    >>> clf = MLPClassifier(random_state=0).set_callbacks(StopBelow(0.6))
    >>> bool(clf.fit(*load_iris(return_X_y=True)).loss_ < 0.6)
    True
    """

    def setup(self, estimator: Any, context: Any) -> None:
        """Make ready, before the fit begins.

        Parameters
        ----------
        estimator : estimator
            That is being fitted.
        context : sklearn.callback.CallbackContext
            Of the fit.
        """

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Look at where an epoch, or the fit, begins.

        Parameters
        ----------
        estimator : estimator
            That is being fitted.
        context : sklearn.callback.CallbackContext
            Of the task.
        """

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool | None:
        """Look at what an epoch, or the fit, has brought.

        Parameters
        ----------
        estimator : estimator
            That is being fitted.
        context : sklearn.callback.CallbackContext
            Of the task.

        Returns
        -------
        bool or None
            True stops the fit, which keeps what it has. An exception ends it, and
            leaves the estimator as it was.
        """

    def teardown(self, estimator: Any, context: Any) -> None:
        """Clean up, also after a fit that failed.

        Parameters
        ----------
        estimator : estimator
            That was being fitted.
        context : sklearn.callback.CallbackContext
            Of the fit.
        """


#: The methods of every callback.
METHODS = ("setup", "on_fit_task_begin", "on_fit_task_end", "teardown")


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """TypeError that names the method which a callback lacks."""
    for callback in callbacks:
        if isinstance(callback, type):
            name = callback.__name__
            raise TypeError(f"{name} is a class: set an instance of it, {name}(...)")
        for method in METHODS:
            if not callable(getattr(callback, method, None)):
                raise TypeError(
                    f"{type(callback).__name__} is no callback: it lacks the method "
                    f"{method}. Derive from skmlp.Callback, which has all of them"
                )


class TrainingProgress(Callback):
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

    With scikit-learn 1.9 and newer, set it on the outermost estimator: a pipeline or
    search hands it on to the networks inside, which have a bar each while they train,
    also in joblib's processes on this host.

    Examples
    --------
    >>> from skmlp import MLPClassifier, TrainingProgress
    >>> bar = TrainingProgress(transient=True)  # doctest: +SKIP
    >>> MLPClassifier().set_callbacks(bar).fit(X, y)  # doctest: +SKIP
    """

    #: scikit-learn hands it on to networks at any depth.
    max_propagation_depth = None

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
        # By the id of the outermost fit, since an instance may be shared by clones
        # that are fitted at the same time.
        self._bars: dict[Any, _Bars] = {}
        self._listeners: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Running bars hold threads and locks. A copy in another process sends what it
        # sees to the listener.
        return {**vars(self), "console": None, "_bars": {}}

    def setup(self, estimator: Any, context: Any) -> None:
        """Begin to draw."""
        bars = _Bars(self.console, self.transient)
        self._bars[context.root_uuid] = bars
        if training_of(estimator) is None:
            # The networks inside this estimator may be fitted by other processes.
            from sklearn.callback import _transport

            self._listeners[context.root_uuid] = _transport.open_listener(bars.show)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Leave the bars as they are."""
        listener = self._listeners.pop(context.root_uuid, None)
        if listener is not None:
            from sklearn.callback import _transport

            _transport.close_listener(listener)
        self._bars.pop(context.root_uuid).stop()

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Draw the empty bar of a network."""
        if context.task_name == FIT:
            self._show(estimator, context)

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Move the bar on."""
        self._show(estimator, context)

    def _show(self, estimator: Any, context: Any) -> None:
        training = training_of(estimator)
        if training is None:
            return
        told = tell(training) if training.losses else []
        seen = {
            "key": (os.getpid(), id(estimator), training.began),
            "name": type(estimator).__name__,
            "total": getattr(estimator, "max_iter", None),
            "completed": len(training.losses),
            "told": told,
            "ended": context.task_name == FIT and bool(told),
        }
        bars = self._bars.get(context.root_uuid)
        listener = self._listeners.get(context.root_uuid)
        if bars is not None:
            bars.show(seen)
        elif listener is not None:
            from sklearn.callback import _transport

            # From another host there is no way to it; the fit goes on undrawn.
            with contextlib.suppress(OSError, EOFError):
                _transport.send(listener, seen)


class _Bars:
    """The bars of one outermost fit: one for each network that trains in it."""

    def __init__(self, console: Any, transient: bool) -> None:
        from rich import progress

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[told]}"),
            # Of a fit that has ended, the time that it took.
            progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            transient=transient,
        )
        self._lock = threading.Lock()
        self._tasks: dict[Any, Any] = {}
        self._ended: set[Any] = set()
        self._progress.start()

    def show(self, seen: dict[str, Any]) -> None:
        """Draw what was seen of a network; any thread may call it."""
        key = seen["key"]
        with self._lock:
            if key not in self._tasks:
                # The bars of networks that have ended make room.
                for old in self._ended:
                    self._progress.remove_task(self._tasks.pop(old))
                self._ended.clear()
                self._tasks[key] = self._progress.add_task(
                    seen["name"], total=seen["total"], told=""
                )
            told, total = seen["told"], len(str(seen["total"]))
            room = self._progress.console.width - len(seen["name"]) - 2 * total - 20
            while len(", ".join(told)) > room and len(told) > 1:
                told = told[:-1]
            self._progress.update(
                self._tasks[key],
                # A fit that has converged needs no more epochs.
                total=seen["completed"] if seen["ended"] else seen["total"],
                completed=seen["completed"],
                told=", ".join(told),
            )
            if seen["ended"]:
                self._ended.add(key)

    def stop(self) -> None:
        """Draw for the last time: a notebook's bars stay as they were drawn last."""
        self._progress.refresh()
        self._progress.stop()


def tell(training: Training) -> list[str]:
    """What the progress bar says after an epoch; what matters least comes last."""
    assert training.plan is not None
    n_rows = training.plan.n_rows
    said = [f"loss {training.losses[-1]:.4g}"]
    seconds, n_epochs = time.perf_counter() - training.began, len(training.losses)
    if training.records:
        last = training.records[-1]
        if np.isfinite(last.score):
            said.append(f"score {last.score:.4f}")
        seconds, n_epochs = last.seconds, 1
    said.append(f"{training.n_ranks} worker{'s' if training.n_ranks > 1 else ''}")
    if training.n_restarts:
        said.append(f"{training.n_restarts} restarts")
    said.append(f"{_short(n_rows * n_epochs / max(seconds, 1e-9))} rows/s")
    return said


def _short(number: float) -> str:
    """A count with three digits: 950, 1.23k, 45.6M."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"
