"""Targets that are missing: gathering what is known, and scattering, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def gather_known(
    z: Array,
    b: Array,
    y: Array,
    w: Array,
    known_z: Array,
    known_y: Array,
    known_w: Array,
) -> int:
    """Write down, one below the other, the numbers whose target is known.

    Parameters
    ----------
    z : ndarray of shape (rows, n_outputs)
        The products of the last layer, without bias; left as they are.
    b : ndarray of shape (n_outputs,)
        Its bias.
    y : ndarray of shape (rows, n_targets)
        The targets; NaN where one is missing. Each has ``n_outputs / n_targets``
        numbers of `z`: one, or all the quantiles of a single target.
    w : ndarray of shape (rows,) or (0,)
        The rows' weights; empty for none.
    known_z : ndarray of shape (rows * n_targets, n_outputs / n_targets)
        Where ``z + b`` of the known targets is written, row after row.
    known_y : ndarray of shape (rows * n_targets, 1)
        Where they are themselves.
    known_w : ndarray of shape (rows * n_targets,) or (0,)
        Where the weights of their rows are.

    Returns
    -------
    int
        How many are known.
    """
    known = ~np.isnan(y)
    n = np.count_nonzero(known)
    known_z[:n] = (z + b).reshape(*y.shape, -1)[known]
    known_y[:n, 0] = y[known]
    if w.size:
        known_w[:n] = np.broadcast_to(w[:, None], y.shape)[known]
    return int(n)


def scatter_known(known: Array, y: Array, z: Array, grad_b: Array) -> None:
    """Write the gradient of the known targets to its places in `z`, and 0 elsewhere.

    Parameters
    ----------
    known : ndarray of shape (n, n_outputs / n_targets)
        The gradient, in the order of `gather_known`.
    y : ndarray of shape (rows, n_targets)
        The targets.
    z : ndarray of shape (rows, n_outputs)
        Where it goes.
    grad_b : ndarray of shape (n_outputs,)
        Where the sum over the rows goes.
    """
    z.fill(0)
    z.reshape(*y.shape, -1)[~np.isnan(y)] = known
    z.sum(axis=0, out=grad_b)
