"""Who trains: the bare matrix products, scikit-learn, and skmlp in each place."""

from __future__ import annotations

import contextlib
import statistics
import time
from itertools import pairwise
from typing import Any

import joblib
import numpy as np

from benchmarks import cases
from benchmarks.cases import Shape
from benchmarks.child import Contestant


class Machine(Contestant):
    """Tells what computes here."""

    def blas(self) -> str:
        """NumPy's BLAS, the kernel that it has chosen, and its threads."""
        import threadpoolctl

        return "; ".join(
            f"{library['internal_api']} {library['version']}, "
            f"{library.get('architecture', 'unknown')} kernels, "
            f"{library['num_threads']} threads"
            for library in threadpoolctl.threadpool_info()
            if library["user_api"] == "blas"
        )


class Products(Contestant):
    """The matrix products of the step alone, into buffers that stay in the cache."""

    def prepare(self, shape: dict[str, Any], dtype: str) -> None:
        """Make the operands."""
        self._shape = Shape(**shape)
        random = np.random.default_rng(0)

        def draw(*size: int) -> Any:
            return random.standard_normal(size, dtype=dtype)

        units, batch = self._shape.units, self._shape.batch
        self._a = [draw(batch, width) for width in units]
        self._delta = [draw(batch, width) for width in units]
        self._W = [draw(i, o) for i, o in pairwise(units)]
        self._gradients = [np.empty_like(W) for W in self._W]
        self.run(1)

    def run(self, epochs: int) -> dict[str, float]:
        """Time epochs of them."""
        steps = self._shape.rows // self._shape.batch
        seconds = []
        for _ in range(epochs):
            began = time.perf_counter()
            for _ in range(steps):
                self._step()
            seconds.append(time.perf_counter() - began)
        epoch = statistics.median(seconds)
        return {"epoch": epoch, "fit": sum(seconds) / epochs}

    def _step(self) -> None:
        """Forward; then, from the last layer to the first, backward."""
        a, delta, weights = self._a, self._delta, self._W
        for i, W in enumerate(weights):
            np.dot(a[i], W, out=a[i + 1])
        for i in range(len(weights) - 1, -1, -1):
            np.dot(a[i].T, delta[i + 1], out=self._gradients[i])
            if i:
                np.dot(delta[i + 1], weights[i].T, out=delta[i])


class Sklearn(Contestant):
    """Whole fits of scikit-learn; it has no clock for an epoch."""

    def prepare(self, shape: dict[str, Any], dtype: str) -> None:
        """Make the data, and fit once to warm up."""
        self._shape = Shape(**shape)
        self._X, self._y = cases.data(self._shape, dtype)
        self.run(1)

    def run(self, epochs: int) -> dict[str, float]:
        """Time a fit."""
        model = cases.estimator(cases.package("sklearn"), self._shape, epochs)
        began = time.perf_counter()
        model.fit(self._X, self._y)
        seconds = time.perf_counter() - began
        assert model.n_iter_ == epochs
        return {
            "fit": seconds / epochs,
            "epoch": seconds / epochs,
            "loss": float(model.loss_),
        }


def median_epoch(model: Any) -> float:
    """Seconds of an epoch in steady state: the first one is left out."""
    seconds = [record["seconds"] for record in model.history_]
    return statistics.median(seconds[1:] or seconds)


def fitted(
    shape: Shape, epochs: int, X: Any, y: Any, **parameters: Any
) -> dict[str, float]:
    """Time a fit of skmlp."""
    import skmlp

    model = cases.estimator(skmlp, shape, epochs, **parameters)
    began = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - began
    assert model.n_iter_ == epochs
    inside = sum(record["seconds"] for record in model.history_)
    return {
        "fit": seconds / epochs,
        "epoch": median_epoch(model),
        "outside": seconds - inside,
        "loss": float(model.loss_),
        "shards": model.n_shards_,
    }


class Skmlp(Contestant):
    """Whole fits of skmlp, and its own clock for an epoch.

    Parameters
    ----------
    place : {"process", "loky", "dask"}
        Where.
    n_jobs : int, optional
        How many ranks.
    ranks : {"as_asked", "auto"}
        Whether skmlp may take fewer.
    """

    def __init__(
        self, place: str = "process", n_jobs: int | None = None, ranks: str = "as_asked"
    ) -> None:
        self._place, self._n_jobs, self._ranks = place, n_jobs, ranks
        self._stack = contextlib.ExitStack()
        if place == "dask":
            import dask
            from distributed import Client, LocalCluster

            # A worker that stands still between its turns is not dead.
            dask.config.set({"distributed.scheduler.worker-ttl": None})
            cluster = LocalCluster(
                n_workers=2 if n_jobs is None or n_jobs < 0 else n_jobs,
                threads_per_worker=1,
                dashboard_address=":0",
            )
            self._stack.enter_context(cluster)
            self._stack.enter_context(Client(cluster))

    def prepare(self, shape: dict[str, Any], dtype: str) -> dict[str, float]:
        """Make the data, and fit once to warm up."""
        self._shape = Shape(**shape)
        self._X, self._y = cases.data(self._shape, dtype)
        return self.run(2)

    def run(self, epochs: int) -> dict[str, float]:
        """Time a fit."""
        with self._where():
            found = fitted(self._shape, epochs, self._X, self._y, n_jobs=self._n_jobs)
        shards, asked = found["shards"], self._n_jobs or 1
        assert self._ranks == "auto" or shards == asked, shards
        return found

    @contextlib.contextmanager
    def _where(self) -> Any:
        import skmlp

        backend: Any = contextlib.nullcontext()
        if self._place in ("loky", "dask"):
            backend = joblib.parallel_config(backend=self._place)
        with backend, skmlp.config_context(ranks=self._ranks):
            yield

    def close(self) -> None:
        """End the cluster, if there is one, or joblib's processes."""
        self._stack.close()
        if self._place == "loky":
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor().shutdown(wait=True, kill_workers=True)
