"""Checkpoints: the state of training in a file, from which a fit can go on."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np

from skmlp import persistence
from skmlp.estimators.callbacks import FIT, Callback, Training, training_of
from skmlp.plan import Plan


class Checkpoint(Callback):
    """Keep the state of training in a file, so that a fit can go on after a crash.

    The file is written next to its place and moved there in one step, so there is
    always a whole one; it has the format of `skmlp.save`, without pickle. `skmlp.load`
    makes the fitted estimator of the epoch out of it, and a fit of the same estimator
    on the same data with ``resume=True`` goes on from it, with the same bits as a fit
    that nobody disturbed.

    Parameters
    ----------
    path : str or path-like
        The file, for one network.
    epochs : int or None, default=1
        Write it whenever so many epochs have passed since the last time.
    seconds : float or None, default=None
        Or so many seconds; whichever comes first.
    resume : bool, default=False
        Go on from the file if it is there. The estimator's parameters, the number of
        rows and the columns must be those of the fit that wrote it, but for `max_iter`,
        `verbose` and `n_jobs`. With ``random_state=None`` the draws are those of the
        fit that wrote it.

    Raises
    ------
    ValueError
        Neither epochs nor seconds are given, or one is not positive. In fit: the solver
        is 'lbfgs', whose memory is SciPy's own, the file is damaged or that of another
        fit, or several networks would write it: those of a search, of a pipeline with
        two, clones of one network, or fits at the same time.

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

    #: scikit-learn hands it on to a network at any depth.
    max_propagation_depth = None

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
        #: What the network that writes now has written last: epoch and time.
        self._written: tuple[int, float] | None = None
        #: The outermost fit that it trains in.
        self._root: Any = None
        #: The last network, and its list of callbacks, which its clones share.
        self._network: weakref.ref[Any] | None = None
        self._callbacks: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy belongs to no network yet.
        own = dict.fromkeys(("_written", "_root", "_network", "_callbacks"))
        return {**vars(self), **own}

    def setup(self, estimator: Any, context: Any) -> None:
        """Look for the folder, and for a search."""
        folder = os.path.dirname(self.path) or "."
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"there is no folder {folder!r} for the checkpoint")
        self._refuse_search(estimator)

    def _refuse_search(self, estimator: Any) -> None:
        if hasattr(estimator, "_run_search"):
            raise ValueError(
                f"the networks of this {type(estimator).__name__} would all write "
                f"{self.path}: fit one network with a Checkpoint, such as a clone of "
                "best_estimator_"
            )

    def teardown(self, estimator: Any, context: Any) -> None:
        """Forget the fit."""
        if self._root == context.root_uuid:
            self._written = self._root = None

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Note when a network's fit begins; refuse a second network's."""
        self._refuse_search(estimator)
        if training_of(estimator) is None or context.task_name != FIT:
            return
        if getattr(estimator, "solver", None) == "lbfgs":
            raise ValueError(
                "Checkpoint keeps the state of the stochastic solvers; that of "
                "solver='lbfgs' is inside SciPy. Save the fitted model instead."
            )
        last = self._network and self._network()
        clone = self._callbacks is estimator._skl_callbacks and last is not estimator
        if self._root is not None or clone:
            raise ValueError(
                f"several networks would write {self.path}: fit them one by one, each "
                "with a Checkpoint of its own and another path; clones share that of "
                "the network that they were made from"
            )
        self._network = weakref.ref(estimator)
        self._callbacks = estimator._skl_callbacks
        self._root = context.root_uuid
        self._written = 0, time.monotonic()

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Write the file if it is due, and at the end of the network's fit."""
        training = training_of(estimator)
        if training is None or training.state is None or self._written is None:
            return
        epoch, now = training.state.epoch, time.monotonic()
        last_epoch, last_time = self._written
        due = context.task_name == FIT or (
            self.epochs is not None and epoch - last_epoch >= self.epochs
        )
        due = due or (self.seconds is not None and now - last_time >= self.seconds)
        if due and epoch != last_epoch:
            persistence.write(self.path, "checkpoint", estimator._watch.checkpoint())
            self._written = epoch, time.monotonic()


#: Fields of a plan that a resumed fit may have otherwise: they do not decide what is
#: computed, only how long and where.
MAY_DIFFER = frozenset(
    {
        "max_iter",
        "max_time",
        "n_shards",
        "blas_threads",
        "step_parts",
        "kernels",
        "classes",
    }
)


def record_of(training: Training) -> dict[str, Any]:
    """What a checkpoint holds of the training itself, as plain data."""
    assert training.state is not None
    assert training.plan is not None
    # The records may be of several groups; those of a state are of one.
    state = replace(training.state, records=[])
    plan = training.plan
    return {
        "plan": plain_plan(plan),
        "n_shards": plan.n_shards,
        "blas_threads": plan.blas_threads,
        "step_parts": plan.step_parts,
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
    """ValueError, naming what differs, for the checkpoint of another fit."""
    now, then = plain_plan(plan), record["plan"]
    names = sorted({*now, *then})
    other = [n for n in names if not _equal(now.get(n), then.get(n))]
    if not other:
        return
    if set(other) <= _DRAWN:
        raise ValueError(
            f"{path} can't be resumed: the rows would be drawn in another order. Give "
            "random_state the int that the first fit had, or None, which goes on with "
            "its draws."
        )
    said = ", ".join(n if n in _DRAWN else f"{n} (was {then.get(n)!r})" for n in other)
    raise ValueError(f"{path} is of another fit, which differs in {said}")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (one != one and other != other)
    return bool(one == other)
