"""Which rows are set aside for early stopping."""

from __future__ import annotations

import math

import numpy as np

from skmlp.arrays import Array
from skmlp.data.feistel import Bijection, KeyedIndices
from skmlp.plan import Split
from skmlp.rng_state import twister_at


def split_rows(
    split: Split, rng: np.random.RandomState | None = None
) -> tuple[Array, Array] | tuple[KeyedIndices, KeyedIndices]:
    """Numbers of the training and of the validation rows, in the order of the split.

    Set aside as scikit-learn's MLP does, or by a bijection if so told. `rng`, if given,
    stands at ``split.rng``, and is advanced. ValueError, in scikit-learn's words, if
    there are too few rows, or too few of a class.
    """
    if rng is None:
        rng = twister_at(split.rng)
    if split.keyed:
        return _split_keyed(split, rng)
    # Ranks that split nothing need not load so much of scikit-learn.
    from sklearn.model_selection import train_test_split

    labels = None
    if split.labels is not None:
        bits = np.frombuffer(split.labels, dtype=np.uint8)
        # Named as scikit-learn's message about too few of them names them.
        second = np.unpackbits(bits, count=split.n_rows)
        found = _stratified(split, second.view(bool), rng)
        if found is not None:
            return found
        labels = np.where(second, "True", "False")
    train, validation = train_test_split(
        np.arange(split.n_rows),
        random_state=rng,
        test_size=split.fraction,
        stratify=labels,
    )
    _check_size(len(validation))
    return train, validation


def _stratified(
    split: Split, second: Array, rng: np.random.RandomState
) -> tuple[Array, Array] | None:
    """Split two classes as scikit-learn does, with its draws, but on arrays.

    It makes lists of the rows and sorts texts: ten times the time, and 95 bytes a row,
    on every rank. None, and nothing drawn, where scikit-learn sees one class or has an
    error.
    """
    from sklearn.utils.extmath import _approximate_mode

    n_rows = split.n_rows
    n_validation = math.ceil(split.fraction * n_rows)
    n_train = n_rows - n_validation
    n_second = int(np.count_nonzero(second))
    counts = np.array([n_rows - n_second, n_second])
    if min(*counts, n_train, n_validation) < 2:
        return None
    n_first = _approximate_mode(counts, n_train, rng)
    n_then = _approximate_mode(counts - n_first, n_validation, rng)
    kept: tuple[list[Array], list[Array]] = [], []
    for of_class, cut, more in zip((~second, second), n_first, n_then, strict=True):
        rows = np.flatnonzero(of_class)
        rows = rows[rng.permutation(len(rows))]
        kept[0].append(rows[:cut])
        kept[1].append(rows[cut : cut + more])
    train, validation = map(np.concatenate, kept)
    rng.shuffle(train)
    rng.shuffle(validation)
    return train, validation


def _check_size(n_validation: int) -> None:
    if n_validation < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' "
            "or the size of your dataset."
        )


def _split_keyed(
    split: Split, rng: np.random.RandomState
) -> tuple[KeyedIndices, KeyedIndices]:
    """The first positions of a bijection are set aside."""
    n_rows = split.n_rows
    n_validation = math.ceil(split.fraction * n_rows)
    _check_size(n_validation)
    if n_validation >= n_rows:
        raise ValueError(
            f"With n_samples={n_rows} and validation_fraction={split.fraction}, the "
            "resulting train set will be empty. Decrease 'validation_fraction'."
        )
    every = Bijection(n_rows, rng.bytes(16), 0)
    train = KeyedIndices(n_rows - n_validation, None, every, n_validation)
    return train, KeyedIndices(n_validation, None, every)
