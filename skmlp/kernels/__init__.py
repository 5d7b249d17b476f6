"""The fused loops of the step, compiled by numba, and what serves without numba.

Both kernel sets, `compiled` and `reference`, offer the tables ``FORWARD``,
``DERIVING``, ``BACKWARD``, ``LOSS`` and ``STEP``, under the names of `skmlp.model` and
`skmlp.optim`. Those of `reference` are empty: the formulas serve instead.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from types import ModuleType

#: What the environment variable and `config_context` may say.
CHOICES = ("auto", "reference", "compiled")
ENVIRONMENT = "SKMLP_KERNELS"


def resolve(choice: str = "auto") -> str:
    """The kernel set, "reference" or "compiled", that `choice` stands for on this
    machine.

    "auto" asks the environment variable ``SKMLP_KERNELS``, then takes the compiled
    kernels if numba is installed. ValueError if the variable holds another word,
    ImportError if the compiled kernels are asked for without numba.
    """
    if choice == "auto":
        choice = os.environ.get(ENVIRONMENT, "auto")
        if choice not in CHOICES:
            raise ValueError(
                f"the environment variable {ENVIRONMENT} is {choice!r}; "
                f"it takes one of {', '.join(CHOICES)}"
            )
    installed = _numba_is_installed()
    if choice == "compiled" and not installed:
        raise ImportError(
            "the compiled kernels need numba, which is not installed: "
            "'pip install numba', or set the kernels to 'auto' or 'reference'"
        )
    if choice == "auto":
        return "compiled" if installed else "reference"
    return choice


@functools.cache
def _numba_is_installed() -> bool:
    return importlib.util.find_spec("numba") is not None


def load(name: str) -> ModuleType:
    """The module of the kernel set `name`, "reference" or "compiled"."""
    return importlib.import_module(f"skmlp.kernels.{name}")
