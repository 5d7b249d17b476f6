"""A plan with the fields that a network reads."""

from __future__ import annotations

from types import SimpleNamespace


def plan_of(layout, activations, loss="squared_error", **fields):
    known = {"kernels": "compiled", "masked": False, "frozen": (), "loss_settings": ()}
    return SimpleNamespace(
        layout=layout,
        units=layout.units,
        activation=activations,
        loss=loss,
        dtype="float64",
        **{**known, **fields},
    )
