"""The places where each fit of the table runs, and what must agree."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import joblib
import numpy as np
from numpy.testing import assert_allclose
from scipy import sparse

import skmlp
from skmlp import testing
from tests.laws.fits import TABLE as TABLE  # also for those who import it from here
from tests.laws.fits import Fit as Fit
from tests.limits import HANG_S

# ---- The places --------------------------------------------------------------------


def _as_is(X: Any, y: Any, w: Any) -> Sequence[Any]:
    return X, y, w


@dataclass(frozen=True)
class Place:
    """Where a fit runs, and on how many ranks.

    Attributes
    ----------
    where : str
        What the gang must say of itself.
    n_ranks, n_shards : int
        How many there must be.
    n_jobs : int or None
        The estimator's parameter.
    context : mapping
        For `joblib.parallel_config`; empty for none.
    client : distributed.Client or None
        The current one, where there is a cluster.
    bring : callable
        Turns X, y and weights into what `fit` is handed.
    one_rank : bool
        All shards of joblib's processes on one rank, in this process.
    """

    where: str
    n_ranks: int = 1
    n_shards: int = 1
    n_jobs: int | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    client: Any = None
    bring: Callable[[Any, Any, Any], Sequence[Any]] = _as_is
    one_rank: bool = False

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Be there."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(skmlp.config_context(ranks="as_asked"))
            if self.client is not None:
                stack.enter_context(self.client.as_current())
            if self.context:
                stack.enter_context(joblib.parallel_config(**self.context))
            if self.one_rank:
                stack.enter_context(testing.shards_in_this_process())
            yield

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be there; at the end, check that the one gang was what it should be.

        Inside `gangs_seen`.
        """
        before = len(seen_here())
        with self.around():
            yield
        assert seen_here()[before:] == [(self.where, self.n_ranks, self.n_shards)]


_seen = threading.local()


def seen_here() -> list[tuple[str, int, int]]:
    """Where the gangs of this thread were so far, and how many ranks and shards."""
    if not hasattr(_seen, "gangs"):
        _seen.gangs = []
    gangs: list[tuple[str, int, int]] = _seen.gangs
    return gangs


@contextlib.contextmanager
def gangs_seen() -> Iterator[None]:
    """Note all gangs that fits of this process start; see `seen_here`."""
    with testing.on_start(lambda *start: seen_here().append(start)):
        yield


HERE = Place("in process")


def threads(n: int) -> Place:
    """joblib's threads, which change nothing: a fit here has its step threads."""
    return Place("in process", n_jobs=n, context={"backend": "threading"})


def processes(n: int) -> Place:
    """With n_jobs from the context: None in the estimator asks for that."""
    return Place("processes", n, n, context={"backend": "loky", "n_jobs": n})


def all_shards_here(n: int) -> Place:
    """The shards of so many processes, on one rank in this process."""
    context = {"backend": "loky", "n_jobs": n}
    return Place("in process", 1, n, context=context, one_rank=True)


def on_dask(client: Any, n_workers: int, n_shards: int) -> Place:
    """Arrays of this process, on a cluster."""
    return Place(
        "dask",
        min(n_workers, n_shards),
        n_shards,
        n_jobs=n_shards,
        context={"backend": "dask"},
        client=client,
    )


def dask_arrays(
    client: Any, n_workers: int, layout: str, n_jobs: int | None = None
) -> Place:
    """Dask arrays, cut as `layout` says; by default on all workers."""
    n_shards = n_workers if n_jobs is None else n_jobs

    def bring(X: Any, y: Any, w: Any) -> Sequence[Any]:
        arrays = to_dask(X, y, w, LAYOUTS[layout](X.shape[0], n_shards))
        return on_one_worker(client, arrays) if layout == "one worker" else arrays

    n_ranks = min(n_workers, n_shards)
    if layout == "one worker" and n_jobs is None:
        n_jobs = -1  # None means the workers that hold the rows
    return Place("dask", n_ranks, n_shards, n_jobs, client=client, bring=bring)


def _even(n: int, k: int) -> tuple[int, ...]:
    return tuple((i + 1) * n // k - i * n // k for i in range(k))


def _tiny(n: int, k: int) -> tuple[int, ...]:
    return (3,) * (n // 3) + ((n % 3,) if n % 3 else ())


#: From the number of rows and of shards to the rows of each chunk of X.
LAYOUTS: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "even": _even,
    # It is cut, and goes to all shards.
    "one chunk": lambda n, k: (n,),
    "uneven": lambda n, k: (1, max(n - 4, 0), *(1,) * min(n - 1, 3)),
    "tiny": _tiny,
    "empty chunks": lambda n, k: (0, n // 3, 0, 0, n - n // 3, 0),
    "one worker": _tiny,
}


def to_dask(X: Any, y: Any, w: Any, chunks: tuple[int, ...]) -> list[Any]:
    """Lazy arrays; the chunks of y and of the weights are not those of X."""
    import dask.array as da

    dense = X.toarray() if sparse.issparse(X) else X
    rows = da.from_array(dense, chunks=(chunks, -1))
    if sparse.issparse(X):
        rows = rows.map_blocks(sparse.csr_matrix, meta=sparse.csr_matrix((0, 0)))
    half = max(len(y) // 2, 1)
    targets = da.from_array(y, chunks=(half,) + (1,) * (y.ndim - 1))
    return [rows, targets, None if w is None else da.from_array(w, chunks=len(w))]


def on_one_worker(client: Any, arrays: Sequence[Any]) -> list[Any]:
    """The arrays, computed, all of them on one worker."""
    from distributed import wait

    (address, *_) = sorted(client.scheduler_info(n_workers=-1)["workers"])
    given = [a for a in arrays if a is not None]
    persisted = client.persist(given, workers=[address])
    wait(persisted, timeout=HANG_S)
    there = iter(persisted)
    return [None if a is None else next(there) for a in arrays]


# ---- What must agree ---------------------------------------------------------------

NAMES = [
    *("classes_", "n_features_in_", "n_outputs_", "n_layers_", "out_activation_"),
    *("coefs_", "intercepts_", "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_"),
    *(
        "validation_loss_curve_",
        "validation_scores_",
        "best_validation_score_",
        "history_",
    ),
    "_no_improvement_count",
]


#: What differs from fit to fit, in the history of each epoch.
TIMES = {"seconds", "computing", "waiting", "communicating"}


def model_of(estimator: Any) -> dict[str, Any]:
    """All that a fit leaves, where it ran and how long it took apart."""
    found = {name: getattr(estimator, name, None) for name in NAMES}
    found["history_"] = [
        {name: value for name, value in epoch.items() if name not in TIMES}
        for epoch in found["history_"]
    ]
    optimizer = getattr(estimator, "_optimizer", None)  # none after L-BFGS
    found["_optimizer"] = None if optimizer is None else vars(optimizer)
    if isinstance(estimator.random_state, np.random.RandomState):
        found["random_state"] = estimator.random_state.get_state(legacy=False)
    return found


@functools.cache
def alone(name: str) -> Any:
    """The model of the in-process fit."""
    return TABLE[name].run(HERE)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Arrays, numbers, strings and None in nested containers, with their places."""
    if isinstance(value, dict):
        for key in value:
            yield from _leaves(value[key], f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        yield f"len({path})", len(value)
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}[{i}]")
    else:
        yield path, value


def assert_same_model(one: Any, other: Any, rtol: float, atol: float) -> None:
    """Compare everything that two fits left; ``rtol = atol = 0`` asks for all bits."""
    left, right = (dict(_leaves(model_of(m), "model")) for m in (one, other))
    assert left.keys() == right.keys()
    for path, value in left.items():
        real = isinstance(value, float) or getattr(value, "dtype", "") in ("f4", "f8")
        if real:
            assert_allclose(value, right[path], rtol=rtol, atol=atol, err_msg=path)
            assert np.asarray(value).dtype == np.asarray(right[path]).dtype, path
        else:
            np.testing.assert_array_equal(value, right[path], err_msg=path)


def assert_same_bits(one: Any, other: Any) -> None:
    assert_same_model(one, other, rtol=0, atol=0)
