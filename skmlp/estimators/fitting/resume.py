"""What a later call goes on with, beside the fitted attributes."""

from __future__ import annotations

import zlib
from typing import Any, TypedDict

import numpy as np

from skmlp.arrays import Array, fetch
from skmlp.rng_state import State


class OrderRecord(TypedDict):
    """Where the order of the rows stands: `shuffles` after that of `order_rng`."""

    n_rows: int
    order_rng: State
    shuffles: int
    rng: State


class Resume(TypedDict, total=False):
    """The attribute ``_resume``: a dictionary, for files and pickles of plain data.

    `split` is the number of rows and the random state of a split that was drawn.
    `raw_params` are the last parameters where the model has their mean; `last_params`,
    where it has the best ones, with the `fingerprint` of these.
    """

    solver: str
    moments: list[Array]
    step: int
    schedule_epoch: int
    learning_rate: float
    learning_rate_init: float
    dropout_key: tuple[int, int] | None
    split: tuple[int, State]
    order: OrderRecord
    raw_params: Array
    last_params: tuple[Array, int]


def resume_of(estimator: Any) -> Resume:
    """What the last call has left."""
    found: Resume | None = getattr(estimator, "_resume", None)
    return found or {}


def fingerprint(estimator: Any) -> int:
    """A checksum of the weights, by which it shows that they were changed."""
    crc = 0
    for array in (*estimator.coefs_, *estimator.intercepts_):
        crc = zlib.crc32(np.ascontiguousarray(fetch(array)).data, crc)
    return crc
