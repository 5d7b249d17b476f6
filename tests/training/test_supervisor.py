"""How long a round is: a loss must cost little, and so must the state's way home."""

from __future__ import annotations

import pytest

from skmlp.training.supervisor import _length_of_next


@pytest.mark.parametrize(
    ("n_epochs", "inside", "elapsed", "expected"),
    [
        (1, 0.010, 0.010, 4),  # short epochs: longer rounds, step by step
        (64, 0.64, 0.65, 100),  # up to a second
        (1, 3.0, 3.1, 1),  # a long epoch is a round
        (1, 0.5, 0.61, 4),  # 0.1 s to hand over: 5 % of two seconds
        (4, 2.0, 2.1, 4),
        (20, 10.0, 13.0, 20),  # but never more than ten
        (1, 0.0, 0.0, 4),
    ],
)
def test_epochs_of_the_next_round(n_epochs, inside, elapsed, expected):
    assert _length_of_next(n_epochs, inside, elapsed) == expected
