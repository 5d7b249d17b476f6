"""Whether predictions, targets and weights of a partition have equal lengths."""

from __future__ import annotations

from typing import Any

from skmlp.model.layout import Array

NO_ROWS = "Found array with 0 sample(s) while a minimum of 1 is required."


def check_lengths(number: int, raw: Any, y: Any, w: Array) -> None:
    """ValueError unless a part has as many targets, and weights if any, as rows."""
    n_rows = raw.shape[0]
    lengths = {n_rows, len(y), len(w) if w.size else len(y)}
    if len(lengths) > 1:
        raise ValueError(
            "Found input variables with inconsistent numbers of samples: "
            f"{[n_rows, len(y)]} (partition {number})"
        )
