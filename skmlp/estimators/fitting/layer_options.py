"""Layers that are given, and layers that are kept: parameters checked and applied."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import assert_all_finite

from skmlp.model.layout import Array, Layout


def frozen(estimator: Any, n_layers: int) -> tuple[int, ...]:
    """`frozen_layers` as rising numbers from 0. ValueError for what is no layer."""
    layers = estimator.frozen_layers
    if layers is None:
        return ()
    for layer in layers:
        if not isinstance(layer, Integral) or not -n_layers <= int(layer) < n_layers:
            raise ValueError(
                f"frozen_layers={layers!r} names {layer!r}, but the network has "
                f"{n_layers} layers of weights, numbered from 0"
            )
    found = sorted({int(layer) % n_layers for layer in layers})
    if len(found) == n_layers:
        raise ValueError(
            f"frozen_layers={layers!r} leaves nothing to train: it names all "
            f"{n_layers} layers"
        )
    return tuple(found)


def put_given(estimator: Any, layout: Layout, params: Array) -> None:
    """Write `coefs_init` and `intercepts_init` over what was drawn.

    Parameters
    ----------
    estimator : BaseMLP
        Its parameters.
    layout : Layout
        The network's shapes.
    params : ndarray of shape (layout.size,)
        The flat vector.

    Raises
    ------
    ValueError
        An array is missing, of another shape, or not finite.
    """
    views = layout.views(params)
    for i, name in enumerate(("coefs_init", "intercepts_init")):
        given = getattr(estimator, name)
        if given is None:
            continue
        if len(given) != len(views):
            raise ValueError(
                f"{name} must have one array, or None, for each of the {len(views)} "
                f"layers, but it has {len(given)}"
            )
        for layer, (value, pair) in enumerate(zip(given, views, strict=True)):
            if value is not None:
                _put(f"{name}[{layer}]", value, pair[i])


def _put(name: str, value: Any, place: Array) -> None:
    value = np.asarray(value)
    if value.shape != place.shape:
        raise ValueError(
            f"{name} has the shape {value.shape}, but the layer it is for has "
            f"{place.shape}"
        )
    if value.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, but has dtype {value.dtype}")
    place[...] = value
    assert_all_finite(place, input_name=name)
