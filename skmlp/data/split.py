"""Which rows are set aside for early stopping."""

from __future__ import annotations

from typing import Any

import numpy as np

from skmlp.plan import Split, set_twister_state

Array = np.ndarray[Any, np.dtype[Any]]


def split_rows(
    split: Split, rng: np.random.RandomState | None = None
) -> tuple[Array, Array]:
    """Set rows aside as scikit-learn's MLP does.

    Parameters
    ----------
    split : Split
        How.
    rng : RandomState, optional
        Stands at ``split.rng``; it is advanced. One of our own if left out.

    Returns
    -------
    train, validation : ndarray of intp
        Row numbers, in the order of the split.

    Raises
    ------
    ValueError
        Too few rows, or too few of a class; in scikit-learn's words.
    """
    # Ranks that split nothing need not load so much of scikit-learn.
    from sklearn.model_selection import train_test_split

    if rng is None:
        rng = np.random.RandomState(0)
        set_twister_state(rng, split.rng)
    labels = None
    if split.labels is not None:
        bits = np.frombuffer(split.labels, dtype=np.uint8)
        # Named as scikit-learn's message about too few of them names them.
        second = np.unpackbits(bits, count=split.n_rows)
        labels = np.where(second, "True", "False")
    train, validation = train_test_split(
        np.arange(split.n_rows),
        random_state=rng,
        test_size=split.fraction,
        stratify=labels,
    )
    if len(validation) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' "
            "or the size of your dataset."
        )
    return train, validation
