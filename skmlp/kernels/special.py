"""scipy.special's functions for the kernels in numpy, imported when one is called.

The import takes a fifth of a second, of the second or so that a fresh process of a gang
needs to begin; the compiled kernels do without.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def expit(x: Array, out: Array | None = None) -> Array:
    """The logistic function ``1 / (1 + exp(-x))``; see `scipy.special.expit`."""
    from scipy import special

    result: Array = special.expit(x, out=out)
    return result


def erf(x: Array) -> Array:
    """The error function; see `scipy.special.erf`."""
    from scipy import special

    result: Array = special.erf(x)
    return result


def xlogy(x: Array, y: Array, out: Array | None = None) -> Array:
    """``x * log(y)``, and 0 where x is 0; see `scipy.special.xlogy`."""
    from scipy import special

    result: Array = special.xlogy(x, y, out=out)
    return result
