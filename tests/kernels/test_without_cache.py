"""No place for numba's cache of compiled code: kernels are compiled all the same."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import config
from numba.core.caching import IndexDataCacheFile

from skmlp import MLPClassifier
from skmlp.kernels import jit
from tests.limits import HANG_S

ROOT = Path(__file__).parents[2]

#: Runs a command as a uid that no user has, as in a container. It may read all files:
#: an environment in root's own folders would be closed to it.
BY_RANDOM_UID = (
    *("setpriv", "--reuid=54321", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)

# A child that predicts with the model of its standard input, fits the same, and fits it
# on a cluster whose worker is a process of its own.
CHILD = """
import pickle, sys, warnings

if __name__ == "__main__":
    model, X, y = pickle.load(sys.stdin.buffer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        proba = model.predict_proba(X)
        again = model.fit(X, y)
        texts = [str(w.message) for w in caught if "NUMBA_CACHE_DIR" in str(w.message)]
    assert len(texts) == 1, texts
    import dask.array as da
    from distributed import Client, LocalCluster
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
    ):
        rows = da.from_array(X, chunks=(50, -1)), da.from_array(y, chunks=50)
        there = model.fit(*rows)
    found = proba, again.coefs_, there.coefs_
    sys.stdout.buffer.write(b"FOUND" + pickle.dumps(found))
"""


@pytest.fixture
def installed():
    """A copy of the package outside pytest's folders, which only their owner enters."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "skmlp", folder / "skmlp", ignore=ignored)
    (folder / "child.py").write_text(CHILD)
    yield folder
    shutil.rmtree(folder)


def block(folder: Path) -> None:
    """Put a file where the cache's folder would be, which stops root, too."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            (path / "__pycache__").touch()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other folders, and no uid")
@pytest.mark.parametrize("user", ["any", "random"])
def test_fit_and_predict_without_a_place_for_the_cache(installed, user):
    command: tuple[str, ...] = (sys.executable, str(installed / "child.py"))
    if user == "any":
        block(installed / "skmlp")
    elif os.getuid() or not shutil.which("setpriv"):
        pytest.skip("only root can become another user, by setpriv")
    else:
        command = BY_RANDOM_UID + command
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 5))
    y = X[:, 0] > 0
    model = MLPClassifier((4,), max_iter=2, random_state=0).fit(X, y)
    unwanted = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    kept = {k: v for k, v in os.environ.items() if k not in unwanted}
    home = "/dev/null" if user == "any" else "/"
    work = {"HOME": home, "PYTHONPATH": str(installed), "PYTHONWARNINGS": "ignore"}
    child = subprocess.run(
        command,
        input=pickle.dumps((model, X, y)),
        cwd=installed,
        env={**kept, **work},
        capture_output=True,
        timeout=HANG_S,
    )
    assert child.returncode == 0, child.stderr.decode()
    proba, again, there = pickle.loads(child.stdout.partition(b"FOUND")[2])
    np.testing.assert_array_equal(proba, model.predict_proba(X))
    for coefs in (again, there):
        for mine, theirs in zip(coefs, model.coefs_, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)


@pytest.mark.parametrize("step", ["_load_index", "_save_data"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "disk full"), EOFError()])
def test_a_cache_that_fails_is_done_without_and_warns_once(monkeypatch, step, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(jit, "_warned", False)
    kernels = [jit.cached_njit()(lambda x, i=i: x + i) for i in range(2)]
    for kernel in kernels:
        monkeypatch.setattr(kernel._cache._cache_file, step, fail)
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR") as caught:
        assert [kernel(1.0) for kernel in kernels] == [1.0, 2.0]
    assert len(caught) == 1


def _twice(a):
    return a + a


def test_two_dtypes_that_are_saved_at_once_take_two_files(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    one, two = (jit.cached_njit()(_twice) for _ in range(2))
    with monkeypatch.context() as patch:
        # As in two processes that have read the index before either writes to it.
        patch.setattr(IndexDataCacheFile, "_load_index", lambda cache: {})
        one(np.float32(1))
        two(np.float64(1))
    assert len(list(tmp_path.rglob("*.nbc"))) == 2
    again = jit.cached_njit()(_twice)
    assert again(np.float64(1)) == 2
    assert sum(again.stats.cache_hits.values()) == 1


# A child that calls a kernel as soon as it may, and tells if it compiled that.
COMPILING = """
import sys
from skmlp.kernels import jit

def slow(x):
    total = 0.0
    for i in range(3):
        total += (x + i) ** 0.5
    return total

jit.OTHERS_LIMIT_S = float(sys.argv[1])
kernel = jit.cached_njit()(slow)
print(kernel._cache._cache_file._index_path, flush=True)
sys.stdin.readline()
kernel(2.0)
print(sum(kernel.stats.cache_misses.values()), flush=True)
"""


@pytest.fixture
def compiling(tmp_path):
    """Start processes that compile one kernel for one cache, and are ready to."""
    (tmp_path / "child.py").write_text(COMPILING)
    children = []

    def start(limit: float) -> Any:
        child: Any = subprocess.Popen(
            [sys.executable, str(tmp_path / "child.py"), str(limit)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        child.index = child.stdout.readline().strip()
        assert child.index
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.mark.skipif(os.name == "nt", reason="files are locked by fcntl")
def test_one_of_several_processes_compiles_a_kernel(compiling):
    children = [compiling(HANG_S) for _ in range(4)]
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    told = [int(child.communicate(timeout=HANG_S)[0]) for child in children]
    assert sorted(told) == [0, 0, 0, 1]


@pytest.mark.skipif(os.name == "nt", reason="files are locked by fcntl")
def test_a_process_that_takes_too_long_to_compile_is_not_waited_for(compiling):
    import fcntl

    child = compiling(0.2)
    with open(f"{child.index}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told, _ = child.communicate("\n", timeout=HANG_S)
    assert told == "1\n"
