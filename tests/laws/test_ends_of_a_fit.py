"""Clients that close, and Ctrl-C in a terminal: the fit ends, the cluster is free."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import psutil
import pytest
from distributed import Client

from skmlp import config_context, testing
from tests.launch.dask_clusters import ROOT, cluster, left_behind, until
from tests.laws.places import Fit
from tests.limits import HANG_S

ENDLESS = Fit("multiclass", {"max_iter": 10**6, "tol": 0.0, "n_iter_no_change": np.inf})
SHORT = Fit("multiclass", {"max_iter": 3})


def arrays() -> list[Any]:
    X, y, _ = ENDLESS.data()
    return [da.from_array(X, chunks=(10, -1)), da.from_array(y, chunks=10)]


def fit_on(client: Client, task: Fit) -> Any:
    with config_context(ranks="as_asked"), client.as_current():
        return task.estimator(2).fit(*arrays())


def test_a_client_that_is_closed_ends_its_fit():
    with cluster(2) as client:
        other = Client(client.scheduler.address, set_as_default=False)
        threads = []

        @contextlib.contextmanager
        def closing(request: testing.Request) -> Iterator[None]:
            if not threads and request.generation == 0:
                threads.append(threading.Timer(0.3, other.close))
                threads[0].start()
            yield

        with (
            testing.around_requests(closing),
            pytest.raises(testing.RankFailed, match=r"client|scheduler"),
        ):
            fit_on(other, ENDLESS)
        threads[0].join()
        until(lambda: not left_behind(client), "a clean cluster")
        assert fit_on(client, SHORT).n_iter_ == 3


DRIVER = """
import sys, warnings
import joblib
import numpy as np
from distributed import Client, LocalCluster
from skmlp import config_context
from tests.laws.test_ends_of_a_fit import ENDLESS, fit_on

if __name__ == "__main__":
    options = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(n_workers=2, **options) as cluster:
        with Client(cluster) as client:
            ENDLESS.params["verbose"] = True
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = fit_on(client, ENDLESS)
            texts = [str(w.message) for w in caught]
            assert any("interrupted by user" in text for text in texts), texts
            n_predicted = len(model.predict(ENDLESS.data()[0]))
            print("KEPT", model.n_iter_, n_predicted, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups")
def test_ctrl_c_in_a_terminal_keeps_the_model(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen(
        [sys.executable, "-u", str(script)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as driver:
        try:
            assert driver.stdout is not None
            lines = []
            for line in driver.stdout:
                lines.append(line)
                if line.startswith("KEPT"):
                    break
                if line.startswith("Iteration 3,"):
                    # As a terminal does: to the driver, and to the workers, which Dask
                    # then ends.
                    os.killpg(driver.pid, signal.SIGINT)
        finally:
            os.killpg(driver.pid, signal.SIGKILL)
    told = [line.split() for line in lines if line.startswith("KEPT")]
    assert told, "".join(lines)
    ((_, n_iter, n_predicted),) = told
    assert int(n_iter) >= 3
    assert int(n_predicted) == len(ENDLESS.data()[1])


# ---- A driver that dies --------------------------------------------------------------

JOBLIB_DRIVER = """
import sys
from tests.laws.places import processes
from tests.laws.test_ends_of_a_fit import ENDLESS, SHORT

if __name__ == "__main__":
    ENDLESS.params["verbose"] = True
    with processes(2).around():
        SHORT.estimator(None).fit(*SHORT.data())
        if sys.argv[1] == "idle":
            print("Idle", flush=True)
            sys.stdin.read()
        ENDLESS.estimator(None).fit(*ENDLESS.data())
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes otherwise")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize(("work", "sign"), [("idle", "Idle"), ("fit", "Iteration 3,")])
def test_joblibs_workers_end_with_their_driver(tmp_path, how, work, sign):
    """loky's would still be there for minutes."""
    script = tmp_path / "driver.py"
    script.write_text(JOBLIB_DRIVER)
    with subprocess.Popen(
        [sys.executable, "-u", str(script), work],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as driver:
        try:
            assert driver.stdout is not None
            lines: list[str] = []
            while not (lines and lines[-1].startswith(sign)):
                lines.append(driver.stdout.readline())
                assert lines[-1], "".join(lines)
            children = psutil.Process(driver.pid).children(recursive=True)
            workers = [p for p in children if "LokyProcess" in " ".join(p.cmdline())]
            assert len(workers) == 2
            driver.send_signal(getattr(signal, how))
            _, alive = psutil.wait_procs(workers, timeout=HANG_S / 2)
            assert not alive, f"{alive} are still there"
        finally:
            os.killpg(driver.pid, signal.SIGKILL)
