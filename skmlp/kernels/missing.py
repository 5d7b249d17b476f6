"""Targets that are missing: gather what is known, and scatter its gradient."""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np

from skmlp.kernels.jit import compiled

Array = np.ndarray[Any, np.dtype[Any]]


@compiled
def gather_known(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    known_z: Array,
    known_y: Array,
    known_w: Array,
) -> int:
    """Write down the numbers whose target is known."""
    n, width = 0, known_z.shape[1]
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            t = y[i, j]
            if t != t:
                continue
            for k in range(width):
                known_z[n, k] = z[i, j * width + k] + b[j * width + k]
            known_y[n, 0] = t
            if w.size:
                known_w[n] = w[i]
            n += 1
    return n


@compiled
def scatter_known(known: Array, y: Array, z: Array, grad_b: Array) -> None:
    """Write the gradient of the known targets to its places."""
    n, width = 0, known.shape[1]
    grad_b[:] = 0
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            if y[i, j] == y[i, j]:
                for k in range(j * width, (j + 1) * width):
                    z[i, k] = known[n, k - j * width]
                    grad_b[k] += z[i, k]
                n += 1
            else:
                z[i, j * width : (j + 1) * width] = 0
