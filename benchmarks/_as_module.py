"""Start a script of this folder again, as a module, in a clean environment.

As a module it finds its neighbours and the skmlp of this checkout, installed or not,
and this folder is not searched for modules: Dask would take ``sparse.py`` for the
package of that name. It has to happen before numpy loads its BLAS.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: They force the choice of a BLAS kernel that is OpenBLAS's own to make.
FORCED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def clean_environment() -> dict[str, str]:
    """The environment of a benchmark and of all processes that it starts."""
    environment = {k: v for k, v in os.environ.items() if k not in FORCED}
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def start_again(script: str) -> None:
    """Replace this process by one that runs `script` as a module."""
    arguments = ["-m", f"benchmarks.{Path(script).stem}", *sys.argv[1:]]
    os.execve(sys.executable, [sys.executable, *arguments], clean_environment())
