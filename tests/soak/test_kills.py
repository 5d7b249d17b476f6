"""Processes killed at random moments of a fit, round after round: the same bits.

``pytest -m soak -s tests/soak`` prints the figures; the environment variable
``SKMLP_SOAK_ROUNDS`` sets the number of rounds, ``SKMLP_SOAK_SEED`` the seed.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import joblib
import numpy as np
import psutil
import pytest

from skmlp import config_context
from skmlp.dask.launcher import DaskLauncher
from skmlp.launch.local_launcher import LocalLauncher
from skmlp.training.protocol import RankGroup
from tests.launch.dask_clusters import (
    MortalWorkers,
    addresses,
    cluster,
    left_behind,
    pids,
    until,
)
from tests.laws.places import Fit, assert_same_bits

ROUNDS = int(os.environ.get("SKMLP_SOAK_ROUNDS", "50"))
SEED = int(os.environ.get("SKMLP_SOAK_SEED", "0"))
N_RANKS = 3

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

ENDLESS = {"tol": 0.0, "n_iter_no_change": np.inf}
FITS = {
    "adam": Fit("multiclass", {**ENDLESS, "max_iter": 60}, rows=900, weighted=True),
    "early stopping": Fit(
        "binary", {**ENDLESS, "max_iter": 60, "early_stopping": True}, rows=900
    ),
    "lbfgs": Fit(
        "multiclass", {"solver": "lbfgs", "tol": 0.0, "max_iter": 120}, rows=900
    ),
}
#: Parts of the time of an undisturbed fit: see `Times`.
MOMENTS = ["before the gang", "start of the gang", "training", "last epochs"]
SCHEMES = ["one", "two in turn", "all but one"]


@dataclass
class Times:
    """When things happened in a fit, in seconds since its beginning."""

    began: float = field(default_factory=time.monotonic)
    #: When `start` was called, and when the gang was ready, for each gang.
    starts: list[float] = field(default_factory=list)
    ready: list[float] = field(default_factory=list)
    end: float = 0.0

    def now(self) -> float:
        return time.monotonic() - self.began

    def moment(self, kind: str, rng: np.random.RandomState) -> float:
        """A random moment in a part of this fit."""
        start, ready, end = self.starts[0], self.ready[0], self.end
        low, high = {
            "before the gang": (0.0, start),
            "start of the gang": (start, ready),
            "training": (ready, end),
            "last epochs": (end - 0.1 * (end - ready), end),
        }[kind]
        return float(rng.uniform(low, high))


class Pool:
    """What joblib's processes and Dask's workers have in common here."""

    def data(self, task: Fit) -> list[Any]:
        raise NotImplementedError

    def around(self) -> Any:
        raise NotImplementedError

    def members(self) -> list[int]:
        """Process ids of those that can be killed."""
        raise NotImplementedError

    def mend(self) -> None:
        """Be complete again."""


class Loky(Pool):
    def data(self, task: Fit) -> list[Any]:
        return [a for a in task.data() if a is not None]

    def around(self) -> Any:
        return joblib.parallel_config(backend="loky", n_jobs=N_RANKS)

    def members(self) -> list[int]:
        found = []
        for child in psutil.Process().children():
            try:
                command = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if "popen_loky" in command or "LokyProcess" in command:
                found.append(child.pid)
        return sorted(found)


class Dask(Pool):
    def __init__(self, workers: MortalWorkers) -> None:
        self.workers = workers

    def data(self, task: Fit) -> list[Any]:
        chunks = 100
        return [
            da.from_array(a, chunks=(chunks,) + (-1,) * (a.ndim - 1))
            for a in task.data()
            if a is not None
        ]

    def around(self) -> Any:
        return self.workers.client.as_current()

    def members(self) -> list[int]:
        return [p.pid for p in self.workers._processes if p.poll() is None]

    def mend(self) -> None:
        client = self.workers.client
        alive = len(self.members())
        until(lambda: len(addresses(client)) == alive, "the news of the dead")
        self.workers.start(N_RANKS)
        until(lambda: not left_behind(client), "a clean cluster")


@pytest.fixture(params=["loky", "dask"])
def pool(request) -> Iterator[Pool]:
    if request.param == "loky":
        yield Loky()
        return
    with cluster(0) as client:
        workers = MortalWorkers(client)
        try:
            workers.start(N_RANKS)
            yield Dask(workers)
        finally:
            workers.close()


def fit(pool: Pool, task: Fit) -> tuple[Any, Times]:
    """Fit there, and note the times of the gangs."""
    times = Times()

    def seeing(start: Callable[..., RankGroup]) -> Callable[..., RankGroup]:
        def see(launcher: Any, generation: int) -> RankGroup:
            times.starts.append(times.now())
            gang = start(launcher, generation)
            times.ready.append(times.now())
            return gang

        return see

    n_jobs = N_RANKS if isinstance(pool, Dask) else None
    model = task.estimator(n_jobs)
    data = pool.data(task)
    with pytest.MonkeyPatch.context() as patch:
        for launcher in (LocalLauncher, DaskLauncher):
            patch.setattr(launcher, "start", seeing(launcher.start))
        with pool.around(), config_context(ranks="as_asked"):
            times.began = time.monotonic()
            model.fit(*data)
    times.end = times.now()
    assert model.n_shards_ == N_RANKS
    return model, times


class Killer(threading.Thread):
    """Kills members of a pool at given moments."""

    def __init__(self, pool: Pool, kills: list[tuple[float, int]], seed: int) -> None:
        super().__init__(name="killer", daemon=True)
        self.pool = pool
        self.kills = kills
        self.rng = np.random.RandomState(seed)
        self.killed: list[tuple[float, int]] = []
        self.over = threading.Event()

    def run(self) -> None:
        began = time.monotonic()
        for delay, n_victims in self.kills:
            if self.over.wait(max(0.0, began + delay - time.monotonic())):
                return
            members = self.pool.members()
            most = len(members) - (isinstance(self.pool, Dask))
            for victim in self.rng.permutation(members)[: min(n_victims, most)]:
                try:
                    os.kill(int(victim), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.killed.append((time.monotonic(), int(victim)))


def test_kills_at_random_moments(pool):
    rng = np.random.RandomState(SEED)
    calm = {}
    for name, task in FITS.items():
        fit(pool, task)  # the first use compiles, and starts the pool
        calm[name] = fit(pool, task)
    lines, resumed, n_restarts = [], [], 0
    for number in range(ROUNDS):
        name = list(FITS)[number % len(FITS)]
        scheme = SCHEMES[(number // len(FITS)) % len(SCHEMES)]
        kind = MOMENTS[rng.randint(len(MOMENTS))]
        undisturbed, reference = calm[name]
        moment = reference.moment(kind, rng)
        n_victims = N_RANKS - 1 if scheme == "all but one" else 1
        kills = [(moment, n_victims)]
        if scheme == "two in turn":
            kills.append((moment + float(rng.uniform(0.0, reference.end)), 1))
        killer = Killer(pool, kills, int(rng.randint(2**31)))
        killer.start()
        model, times = fit(pool, FITS[name])
        killer.over.set()
        killer.join()
        assert_same_bits(model, undisturbed)
        n_restarts += len(model.restarts_)
        gaps = []
        for when, _ in killer.killed:
            # Until the first gang that was ready after the kill; a kill that hit
            # nobody's work has none.
            after = [t - (when - times.began) for t in times.ready[1:]]
            gaps += (
                [min(gap for gap in after if gap > 0)]
                if max(after, default=-1) > 0
                else []
            )
        resumed += gaps
        lines.append(
            f"{number:3d} {name:15s} {scheme:12s} {kind:18s} killed "
            f"{len(killer.killed)}, gangs {len(times.ready)}, {times.end:6.2f} s "
            f"(undisturbed {reference.end:.2f}), went on after "
            + ", ".join(f"{gap:.2f}" for gap in gaps)
        )
        print(lines[-1], flush=True)
        pool.mend()
    assert n_restarts > 0
    went_on = "no kill hit ranks that were ready"
    if resumed:
        quarter, median, most = np.quantile(resumed, [0.25, 0.5, 1.0])
        went_on = (
            f"training went on after {median:.2f} s in the median (quarter "
            f"{quarter:.2f}, most {most:.2f})"
        )
    print(
        f"{type(pool).__name__}: {ROUNDS} rounds, {n_restarts} restarts, the same bits "
        f"each time; {went_on}"
    )
    if isinstance(pool, Dask):
        assert set(pids(pool.workers.client).values()) == set(pool.members())
