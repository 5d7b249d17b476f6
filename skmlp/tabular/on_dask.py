"""Raw tables on Dask: partitions stay where they are, and are encoded there.

One pass over them brings what each column holds, the targets and the weights. The
networks are then trained on lists of delayed objects. Imported when a Dask collection
comes in, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dask
import numpy as np

from skmlp.arrays import Array
from skmlp.dask.ingest import collections
from skmlp.data.frames import as_values
from skmlp.estimators.fitting import dask_inputs
from skmlp.estimators.prediction.scores import NO_ROWS
from skmlp.tabular import columns
from skmlp.tabular.encoder import TableEncoder
from skmlp.tabular.summary import Summary


@dataclass(frozen=True)
class Partitioned:
    """Encoded rows of a table whose partitions lie on a cluster.

    Attributes
    ----------
    parts : list of Delayed
        The raw partitions.
    encoder : Delayed
        What encodes them.
    sizes : tuple of int
        Rows of each partition.
    rows : ndarray of int
        Which rows of all these are.
    """

    parts: Sequence[Any]
    encoder: Any
    sizes: tuple[int, ...]
    rows: Array

    @property
    def shape(self) -> tuple[int]:
        """The number of rows."""
        return (len(self.rows),)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Array) -> Partitioned:
        """Rows at some indices."""
        return replace(self, rows=self.rows[rows])

    def _cuts(self) -> Array:
        """Where the rows of each partition begin in `rows`, which is sorted."""
        return np.searchsorted(self.rows, np.cumsum([0, *self.sizes]))

    def delayed(self) -> list[Any]:
        """The encoded rows of each partition."""
        starts, cuts = np.cumsum([0, *self.sizes]), self._cuts()
        encoded = dask.delayed(_encoded, pure=False)
        return [
            encoded(part, self.encoder, self.rows[cuts[k] : cuts[k + 1]] - start)
            for k, (part, start) in enumerate(zip(self.parts, starts, strict=False))
        ]

    def split(self, values: Array | None) -> list[Any] | None:
        """Values, one for each row, as the partitions are."""
        if values is None:
            return None
        cuts = self._cuts()[1:-1]
        return [dask.delayed(part, pure=False) for part in np.split(values, cuts)]

    def map(self, function: Callable[..., Array], *arguments: Any) -> Array:
        """What a function of the encoded rows gives, of all partitions."""
        shared = [dask.delayed(one, pure=False) for one in arguments]
        apply = dask.delayed(function, pure=False)
        parts = dask.compute(*[apply(*shared, part) for part in self.delayed()])
        return np.concatenate([part for part in parts if len(part)])

    def total(self, function: Callable[[Array, Array], Array], values: Array) -> Array:
        """The sum over the partitions of what a function makes of them."""
        add = dask.delayed(function, pure=False)
        pairs = zip(self.delayed(), self.split(values) or [], strict=True)
        found: Array = sum(dask.compute(*[add(*pair) for pair in pairs]))
        return found


def taken(
    encoder: TableEncoder, X: Any, y: Any, sample_weight: Any, *, fit: bool
) -> tuple[Partitioned, Array, Array | None]:
    """The encoded rows, and their targets and weights in this process.

    With `fit` the encoder is fitted first.

    Raises
    ------
    ValueError
        Not all are Dask collections, their lengths differ, or a column is of different
        kinds.
    """
    given = [
        one for one in dask_inputs.understand(X, y, sample_weight) if one is not None
    ]
    given = collections.paired(given)
    meta = given[0].meta
    if not columns.is_frame(meta):
        meta = np.empty((1, *meta.shape[1:]), meta.dtype)
    encoder._checked(meta, reset=fit)
    # Held on the cluster during the fit: no partition is computed twice.
    parts = list(dask.persist(*given[0].delayed()))
    look = dask.delayed(_looked_at, pure=False)
    tool = dask.delayed(encoder, pure=False)
    rest = zip(*(one.delayed() for one in given[1:]), strict=True)
    found = dask.compute(
        *[look(tool, k, *pair) for k, pair in enumerate(zip(parts, rest, strict=True))]
    )
    sizes = tuple(one[0] for one in found)
    if fit:
        summaries = [one[1] for one in found if one[0]]
        if not summaries:
            raise ValueError(NO_ROWS)
        encoder.learn([_joined(each) for each in zip(*summaries, strict=True)])
        tool = dask.delayed(encoder, pure=False)
    y, *weights = (
        np.concatenate(each) for each in zip(*(f[2] for f in found), strict=True)
    )
    rows = Partitioned(parts, tool, sizes, np.arange(sum(sizes)))
    return rows, y, weights[0] if weights else None


def _looked_at(
    encoder: TableEncoder, number: int, part: Any, rest: Sequence[Any]
) -> tuple[int, list[list[Summary]], list[Array]]:
    """Rows of a partition, what its columns hold, its targets and weights."""
    values = [as_values(one) for one in rest]
    n = columns.n_rows(part)
    if any(len(one) != n for one in values):
        raise ValueError(
            f"partition {number} has {n} rows of X and {[len(v) for v in values]} of "
            "the targets and weights"
        )
    if n == 0:
        return 0, [], values
    found = columns.read(*encoder._checked(part, reset=False), encoder)
    groups = [[Summary.of(one) for one in column.parts()] for column in found]
    return n, groups, values


def _joined(parts: Sequence[Sequence[Summary]]) -> list[Summary]:
    """What all partitions hold in a column, of dates in several."""
    full = max(parts, key=len)
    for part in parts:
        if len(part) < len(full) and len(part[0].values) + sum(part[0].counts.values()):
            raise ValueError(
                f"column {full[0].name!r} holds dates in some partitions and "
                "other things in others: give it one type, for example with astype"
            )
    # Where all is missing it had no kind of its own.
    alike = [
        part if len(part) == len(full) else [part[0]] * len(full) for part in parts
    ]
    found = map(Summary.joined, zip(*alike, strict=True))
    return [replace(one, name=own.name) for one, own in zip(found, full, strict=True)]


def _encoded(part: Any, encoder: TableEncoder, rows: Array) -> Array:
    """Some rows of a partition, as `TableEncoder.columns` gives them."""
    if len(rows) == 0:
        return np.empty((0, encoder.input_encoding().n_features), np.float32)
    return encoder.columns(part)[rows]


# -- predictions -----------------------------------------------------------------------


def mean_and_std(estimator: Any, X: Any, n_columns: int | None) -> tuple[Any, Any]:
    """Predictions and the deviations between the networks, of one forward pass.

    `n_columns` is None for one dimension.
    """
    k = n_columns or 1
    both = estimator._lazy("_mean_and_std", X, np.float64, 2 * k)
    if not columns.is_frame(both):
        halves = (0, 1) if n_columns is None else (slice(k), slice(k, None))
        return both[:, halves[0]], both[:, halves[1]]
    if n_columns is None:
        return both[0].rename(None), both[1].rename(None)
    names = {k + j: j for j in range(k)}
    return both[list(range(k))], both[list(names)].rename(columns=names)


def intervals(estimator: Any, X: Any, half: Array, one_column: bool) -> Any:
    """Lower and upper ends; of a frame all beside each other."""
    k = len(half)
    ends = estimator._lazy("_ends", X, np.float64, 2 * k, half=half)
    if columns.is_frame(ends):
        targets = [""] if one_column else [f" {j}" for j in range(k)]
        names = [f"{end}{j}" for j in targets for end in ("lower", "upper")]
        return ends.rename(columns=dict(enumerate(names)))
    if one_column:
        return ends
    chunks = (ends.chunks[0], (k,), (2,))
    return ends.map_blocks(_in_pairs, chunks=chunks, new_axis=2, dtype=np.float64)


def _in_pairs(ends: Array) -> Array:
    return ends.reshape(len(ends), -1, 2)
