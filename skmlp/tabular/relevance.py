"""How much the columns of a raw table say about the targets, each by itself.

The ramps of a number, or the categories of a column, explain some of the targets'
variance even if they have nothing to do with them. What is left of it when this is
taken off is a share between 0 and 1: the factor by which James and Stein shrink effects
("Estimation with quadratic loss", 1961; for groups: Efron and Morris, JASA 1973).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skmlp.arrays import Array
from skmlp.model.input_encoding import InputEncoding

#: A column that says nothing by itself may say something together with others. This
#: is through the root of the number of its ramps or categories: the more of them there
#: are, the more noise they can be fitted to.
LEAST = 0.3


def moments(
    blocks: Sequence[Array], inputs: InputEncoding, X: Array, Y: Array
) -> Array:
    """Sums over rows that `scales` needs, in one dimension.

    `blocks` are inputs; all the ramps of a number, for example.
    """
    found = [[float(len(X))], Y.sum(axis=0), np.square(Y).sum(axis=0)]
    for block in blocks:
        H = inputs.take(block).encode(X).astype(np.float64)
        found += [H.sum(axis=0), (H.T @ H).ravel(), (H.T @ Y).ravel()]
    return np.concatenate(found)


def scales(
    blocks: Sequence[Array], sums: Array, n_columns: int, n_targets: int
) -> Array:
    """What each column is to be multiplied by: 1 for one that is in no block."""
    found = np.ones(n_columns, np.float32)
    taken = 0

    def take(*shape: int) -> Array:
        nonlocal taken
        size = int(np.prod(shape))
        taken += size
        return sums[taken - size : taken].reshape(shape)

    n = float(take(1)[0])
    mean = take(n_targets) / n
    total = float(np.sum(take(n_targets) - n * np.square(mean)))
    for block in blocks:
        k = len(block)
        middle, gram, cross = take(k) / n, take(k, k), take(k, n_targets)
        gram = gram - n * np.outer(middle, middle)
        cross = cross - n * np.outer(middle, mean)
        effects, _, rank, _ = np.linalg.lstsq(gram, cross, rcond=1e-9)
        explained = float(np.sum(cross * effects))
        rest = n - 1 - rank
        if rank == 0 or rest <= 0 or explained <= 0:
            continue
        noise = max(total - explained, 0.0) / rest
        share = max(0.0, 1 - noise * rank / explained)
        found[block] = max(share, LEAST / np.sqrt(rank))
    return found
