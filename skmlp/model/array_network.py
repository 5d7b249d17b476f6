"""The network in the array API standard, for arrays of any library.

The formulas of activations and losses are those of numpy. Arrays come in, and new ones
go out, but for what `skmlp.fused` does in place. See `skmlp.model.network` for what is
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from skmlp.arrays import AnyArray, Array, Arrays, fetch
from skmlp.fused import InPlace, affine, affine_backward, joined, parts, scaled
from skmlp.model.activations import entry as activation_entry
from skmlp.model.layout import Views
from skmlp.model.losses import OUTPUT_ACTIVATIONS, encoded, entry, heads_of, of_known
from skmlp.model.predict import row_blocks
from skmlp.model.special import cast, concat

#: For each layer the mask of its inputs; None without dropout.
Masks = Sequence[AnyArray | None]


class ArrayNetwork:
    """The network of a plan on a device; the interface of `skmlp.model.network`.

    X lies on the device; targets and weights, of numpy, are sent there.
    """

    def __init__(self, arrays: Arrays, plan: Any) -> None:
        self.arrays, self.layout, self._plan = arrays, plan.layout, plan
        self._hidden = [activation_entry(name) for name in plan.activation]
        self._loss, self._masked = entry(plan.loss), plan.masked
        self._settings: Sequence[float] = plan.loss_settings
        self._heads = heads_of(plan.loss, self._settings)
        n_layers = len(plan.units) - 1
        self._trained = [i not in plan.frozen for i in range(n_layers)]
        self._lowest = self._trained.index(True)
        places = chain(*self.layout.slices())
        self._ends = [0, *sorted(place.stop for place in places)]
        #: Where the parts of a flat vector end that a step moves one by one, after a 0:
        #: where JAX compiles it, an array's each, which it need not copy.
        self.ends = self._ends if arrays.name == "jax" else [0, self.layout.size]
        #: The last flat vector, with its views.
        self._viewed: tuple[AnyArray, Views] = (None, [])
        self._no_masks: Masks = [None] * n_layers
        self._wide = arrays.float_dtypes()[0]

    def views(self, flat: Sequence[AnyArray]) -> Views:
        """The pairs ``(W, b)`` of all layers, of the parts of a flat vector."""
        xp, first, shapes = self.arrays.xp, flat[0], self.layout.shapes
        if first is self._viewed[0]:  # as where steps are done in place
            return self._viewed[1]
        arrays = flat if len(flat) > 1 else parts(xp, first, self._ends)
        weights = map(xp.reshape, arrays, shapes)
        views = [*zip(weights, arrays[len(shapes) :], strict=True)]
        if isinstance(xp, InPlace):
            self._viewed = first, views
        return views

    def rows(self, X: AnyArray, taken: Any, y: Array, w: Array, *masks: Any) -> Any:
        """What `gradient` takes of some rows: `taken`, or of such numbers in X."""
        send = self.arrays.send
        if taken.ndim == 1:
            taken = self.arrays.xp.take(X, send(taken), axis=0)
        return [taken, *self.targets(y, w), *(send(mask, copy=False) for mask in masks)]

    def _passed(
        self, views: Views, X: AnyArray, masks: Masks
    ) -> tuple[AnyArray, list[AnyArray], list[AnyArray]]:
        """Raw predictions; what each layer sees; what the derivatives follow from."""
        seen: list[AnyArray] = []
        kept: list[AnyArray] = []
        xp, a = self.arrays.xp, X
        for i, (W, b) in enumerate(views):
            mask = masks[i]
            a = a if mask is None else a * mask
            seen.append(a)
            z = affine(xp, a, W, b)
            if i == len(self._hidden):
                return z, seen, kept
            rule = self._hidden[i]
            a = rule.value(xp, z)
            kept.append(a if rule.of_value else z)
        raise AssertionError("the last layer has no activation of its own")

    def targets(self, y: Array, w: Array) -> tuple[AnyArray, AnyArray | None]:
        """Targets and weights of rows, sent to the device, as `gradient` takes them."""
        xp, send, n = self.arrays.xp, self.arrays.send, self.layout.units[-1]
        of = xp, send(y), n, getattr(xp, self._plan.dtype), self._settings
        return encoded(self._loss, *of), send(w)[:, None] if w.size else None

    @cached_property
    def _gradient(self) -> tuple[AnyArray | None, Any]:
        """The flat vector that gradients are written over, and its views."""
        if not isinstance(self.arrays.xp, InPlace):
            return None, self._no_masks
        flat = self.arrays.send(np.zeros(self.layout.size, self._plan.dtype))
        return flat, self.layout.views(flat)

    def _losses(self, raw: AnyArray, y: AnyArray) -> tuple[AnyArray, AnyArray]:
        """The loss of each number, and its derivative by the raw prediction."""
        xp = self.arrays.xp
        values, delta = self._loss.formula(xp, y, raw, self._settings)
        if self._masked:
            values, delta = of_known(xp, y, values), of_known(xp, y, delta)
        return values, delta

    def _total(self, values: AnyArray) -> AnyArray:
        """Add up all numbers, in float64 where the device has it."""
        return self.arrays.xp.sum(values, dtype=self._wide)

    def gradient(
        self, views: Views, rows: Sequence[Any], divisor: Any = 1.0
    ) -> tuple[AnyArray, list[AnyArray]]:
        """The summed loss of some rows, and the parts of its divided gradient.

        They are valid until the next call. `rows` are as `rows` gives them.
        """
        X, y, w, *masks = rows
        masks = masks or [*self._no_masks]
        xp, (flat, views_of_flat) = self.arrays.xp, self._gradient
        raw, seen, kept = self._passed(views, X, masks)
        values, delta = self._losses(raw, y)
        delta = scaled(xp, delta, 1 / divisor)
        if w is not None:
            values, delta = scaled(xp, values, w), scaled(xp, delta, w)
        found: list[tuple[AnyArray, AnyArray]] = []
        for i in range(len(views) - 1, -1, -1):
            W, b = views[i]
            if self._trained[i]:
                found.append(affine_backward(xp, seen[i], delta, views_of_flat[i]))
            else:
                found.append((xp.zeros_like(W), xp.zeros_like(b)))
            if i > self._lowest:
                delta, mask = delta @ W.T, masks[i]
                delta = delta if mask is None else scaled(xp, delta, mask)
                delta = self._hidden[i - 1].backward(xp, kept[i - 1], delta)
        of_weights, of_biases = zip(*found[::-1], strict=True)
        arrays = [*of_weights, *of_biases]
        if len(self.ends) == 2:
            return self._total(values), [joined(xp, arrays, flat)]
        return self._total(values), [xp.reshape(array, (-1,)) for array in arrays]

    def outputs(self, views: Views, X: AnyArray, n_layers: int | None = None) -> Any:
        """Predictions, or what the first hidden layers give, on the device."""
        raw, seen, _ = self._passed(views, X, self._no_masks)
        if n_layers is not None:
            return seen[n_layers]
        return OUTPUT_ACTIVATIONS[self._loss.output](self.arrays.xp, raw, self._heads)

    def predict(
        self,
        X: AnyArray,
        views: Views,
        n_layers: int | None,
        finish: Callable[[AnyArray, slice], Any] | None,
    ) -> Any:
        """As `skmlp.model.predict.forward`, of a fitted network."""
        xp, found = self.arrays.xp, []
        dtype = views[0][0].dtype
        if X.dtype in self.arrays.float_dtypes():
            dtype = xp.result_type(X.dtype, dtype)
        views = [(cast(xp, W, dtype), cast(xp, b, dtype)) for W, b in views]
        with self.arrays.quietly():
            for rows in row_blocks(X.shape[0], max(self.layout.units)):
                part = self.outputs(views, cast(xp, X[rows, :], dtype), n_layers)
                found.append(part if finish is None else finish(part, rows))
        return _joined(xp, found)

    # -- as `skmlp.model.network.Network` has them -----------------------------------

    def _sent(self, views: Views, y: Array, w: Array) -> tuple[Views, Any, Any]:
        send = self.arrays.send
        return [(send(W), send(b)) for W, b in views], *self.targets(y, w)

    def validate(
        self, views: Views, X: AnyArray, y: Array, w: Array
    ) -> tuple[AnyArray, float]:
        """Predictions of some rows, on the device, and their summed loss."""
        with self.arrays.quietly():
            there, of_y, of_w = self._sent(views, y, w)
            raw, _, _ = self._passed(there, X, self._no_masks)
            values, _ = self._losses(raw, of_y)
            loss = self._total(values if of_w is None else values * of_w)
            output = OUTPUT_ACTIVATIONS[self._loss.output]
            return output(self.arrays.xp, raw, self._heads), float(loss)

    def bind(
        self, views: Views, out: Views
    ) -> Callable[[AnyArray, Array, Array], float]:
        """Make the function that writes some rows' gradient to `out`, of numpy."""

        def gradient_of(X: AnyArray, y: Array, w: Array) -> float:
            with self.arrays.quietly():
                there, of_y, of_w = self._sent(views, y, w)
                loss, flat = self.gradient(there, (X, of_y, of_w))
                found = self.layout.views(np.concatenate([*map(fetch, flat)]))
            for (W, b), (of_W, of_b) in zip(out, found, strict=True):
                W[...], b[...] = of_W, of_b
            return float(loss)

        return gradient_of


def _joined(xp: Any, parts: list[Any]) -> Any:
    """The arrays of all blocks as one; of lists of arrays, a list."""
    if len(parts) == 1 or parts[0] is None:
        return parts[0]
    if isinstance(parts[0], list):
        return [_joined(xp, [*each]) for each in zip(*parts, strict=True)]
    return concat(np if isinstance(parts[0], np.ndarray) else xp, parts, 0)
