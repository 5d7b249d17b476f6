"""scikit-learn's own checks of arrays of other libraries, with SCIPY_ARRAY_API=1."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skmlp.estimators.array_support import HAS_HELPERS
from tests.limits import HANG_S

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not HAS_HELPERS, reason="scikit-learn has these checks from 1.9 on")
def test_scikit_learns_checks():
    pytest.importorskip("array_api_strict")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/estimators/array_api_checks.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    here = {"array_api_strict", "numpy"}
    if importlib.util.find_spec("torch"):
        here.add("torch")
    lines = done.stdout.splitlines()
    for line in (line for line in lines if line.startswith("skipped")):
        # Of a GPU, of CuPy, or of a library that is not here.
        missing = {"torch", "cupy", "dpnp"} - here
        assert any(
            name in line for name in (*missing, "cuda", "cupy", "dpnp", "xpu", "mps")
        ), line
    assert sum(line.startswith("passed") for line in lines) > 60
