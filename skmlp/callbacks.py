"""Callbacks that watch a fit: a progress bar and checkpoints.

They follow scikit-learn's protocol (`sklearn.callback.FitCallback`) and are set with
``estimator.set_callbacks(...)``. What that protocol has no words for (epochs' records,
ranks, the optimizer's state) they find in the estimator's `Training`, which is there
while it trains.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from skmlp import persistence
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


class Checkpoint(OwnCallback):
    """Keep the state of training in a file, so that a fit can go on after a crash.

    The file is written next to its place and moved there in one step, so there is
    always a whole one; it holds no pickle and has a checksum. `skmlp.load` makes the
    fitted estimator of the epoch out of it, and a fit of the same estimator on the same
    data with ``resume=True`` goes on from it, with the same bits as a fit that nobody
    disturbed.

    Parameters
    ----------
    path : str or path-like
        The file. Each fit has one: clones that a search fits overwrite each other's.
    epochs : int or None, default=1
        Write it whenever so many epochs have passed since the last time.
    seconds : float or None, default=None
        Or so many seconds; whichever comes first.
    resume : bool, default=False
        Go on from the file if it is there. The estimator's parameters, the number of
        rows and the columns must be those of the fit that wrote it, but for `max_iter`,
        `verbose` and `n_jobs`; `random_state` must be an int.

    Raises
    ------
    ValueError
        Neither epochs nor seconds are given, or one is not positive. In fit: the solver
        is 'lbfgs', whose memory is SciPy's own, or the file is damaged or that of
        another fit.

    Notes
    -----
    With `resume`, the ranks keep the shards of the file's fit, however many of them
    there are now, so that the bits are the same: see the page on keeping models.

    Examples
    --------
    >>> import tempfile, os
    >>> from sklearn.datasets import load_iris
    >>> from skmlp import Checkpoint, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "iris.skmlp")
    >>> def fit(max_iter):
    ...     clf = MLPClassifier((5,), max_iter=max_iter, random_state=0)
    ...     return clf.set_callbacks(Checkpoint(path, resume=True)).fit(X, y)
    >>> fit(20).n_iter_, fit(50).n_iter_  # the second does 30 more
    (20, 50)
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        epochs: int | None = 1,
        seconds: float | None = None,
        resume: bool = False,
    ) -> None:
        given: list[tuple[str, Any, Any]] = [
            ("epochs", epochs, Integral),
            ("seconds", seconds, Real),
        ]
        for name, value, kind in given:
            if value is not None and not (isinstance(value, kind) and value > 0):
                raise ValueError(f"{name}={value!r} must be above 0, or None")
        if epochs is None and seconds is None:
            raise ValueError("one of epochs and seconds must be given")
        self.path = os.fspath(path)
        self.epochs = epochs
        self.seconds = seconds
        self.resume = resume
        self._written: dict[int, tuple[int, float]] = {}

    def setup(self, estimator: Any, context: Any) -> None:
        """Note when the fit begins."""
        if getattr(estimator, "solver", None) == "lbfgs":
            raise ValueError(
                "Checkpoint keeps the state of the stochastic solvers; that of "
                "solver='lbfgs' is inside SciPy. Save the fitted model instead."
            )
        folder = os.path.dirname(self.path) or "."
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"there is no folder {folder!r} for the checkpoint")
        self._written[id(estimator)] = 0, time.monotonic()

    def teardown(self, estimator: Any, context: Any) -> None:
        """Forget the fit."""
        self._written.pop(id(estimator), None)

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Write nothing: an epoch that begins has brought nothing yet."""

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Write the file if it is due, and at the end of the fit."""
        training = training_of(estimator)
        if training is None or training.state is None:
            return
        epoch, now = training.state.epoch, time.monotonic()
        last_epoch, last_time = self._written[id(estimator)]
        due = context.task_name == FIT or (
            self.epochs is not None and epoch - last_epoch >= self.epochs
        )
        due = due or (self.seconds is not None and now - last_time >= self.seconds)
        if due and epoch != last_epoch:
            persistence.write(self.path, "checkpoint", estimator._watch.checkpoint())
            self._written[id(estimator)] = epoch, time.monotonic()


#: Fields of a plan that a resumed fit may have otherwise: they do not decide what is
#: computed, only how long and where.
MAY_DIFFER = frozenset(
    {"max_iter", "max_time", "n_shards", "blas_threads", "kernels", "classes"}
)


def record_of(training: Training) -> dict[str, Any]:
    """What a checkpoint holds of the training itself, as plain data."""
    assert training.state is not None
    # The records may be of several gangs; those of a state are of one.
    state = replace(training.state, records=[])
    plan = training.plan
    return {
        "plan": plain_plan(plan),
        "n_shards": plan.n_shards,
        "blas_threads": plan.blas_threads,
        "state": list(state.to_arrays()),
        "records": [vars(record).copy() for record in training.records],
    }


def plain_plan(plan: Plan) -> dict[str, Any]:
    """The fields of a plan that a resumed fit must have too."""
    fields = vars(plan).items()
    return {k: _plain(v) for k, v in fields if k not in MAY_DIFFER}


def _plain(value: Any) -> Any:
    """A value as it is written; of a user's own objects, the name of their class."""
    if hasattr(value, "__dataclass_fields__"):
        return {k: _plain(v) for k, v in vars(value).items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if value is None or isinstance(value, (bool, int, float, str, bytes, np.ndarray)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    kind = value if callable(value) and hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


#: What a plan holds of the random state.
_DRAWN = {"order_rng", "split", "dropout_key"}


def check_same_fit(record: Mapping[str, Any], plan: Plan, path: str) -> None:
    """Refuse to go on with the checkpoint of another fit.

    Raises
    ------
    ValueError
        Names what differs.
    """
    now, then = plain_plan(plan), record["plan"]
    names = sorted({*now, *then})
    other = [n for n in names if not _equal(now.get(n), then.get(n))]
    if not other:
        return
    if set(other) <= _DRAWN:
        raise ValueError(
            f"{path} can't be resumed: the rows would be drawn in another order. Give "
            "random_state the int that the first fit had."
        )
    said = ", ".join(n if n in _DRAWN else f"{n} (was {then.get(n)!r})" for n in other)
    raise ValueError(f"{path} is of another fit, which differs in {said}")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (one != one and other != other)
    return bool(one == other)
