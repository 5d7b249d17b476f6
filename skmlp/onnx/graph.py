"""Graphs of ONNX: their nodes, and the layers of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from skmlp.estimators.fitting import hyperparameters
from skmlp.kernels.reference import CATEGORY, CLIP, RAMP
from skmlp.model.activations import ACTIVATIONS
from skmlp.model.input_encoding import InputEncoding


class Graph:
    """Adds nodes to skl2onnx's container, in one dtype."""

    def __init__(self, scope: Any, container: Any, proto_type: int) -> None:
        self._scope, self._container, self._type = scope, container, proto_type

    @property
    def kinds(self) -> Any:
        """The types of numbers, and texts, that ONNX has."""
        from skl2onnx.proto import onnx_proto

        return onnx_proto.TensorProto

    def constant(self, value: Any) -> str:
        """Numbers."""
        name: str = self._scope.get_unique_variable_name("skmlp_constant")
        array = np.asarray(value, dtype=float)
        self._container.add_initializer(name, self._type, array.shape, array.ravel())
        return name

    def integers(self, value: Any, dtype: Any = np.int64) -> str:
        """Whole numbers."""
        name: str = self._scope.get_unique_variable_name("skmlp_integers")
        array = np.asarray(value, dtype=dtype)
        kind = self.kinds.UINT64 if array.dtype == np.uint64 else self.kinds.INT64
        self._container.add_initializer(name, kind, array.shape, array)
        return name

    def labels(self, classes: Any, unsigned: bool = False) -> str:
        """Labels of classes, as ONNX has them: whole numbers or texts."""
        if classes.dtype.kind in "iubf":
            numbers = classes.astype(np.uint64 if unsigned else np.int64)
            if not np.array_equal(classes, numbers):
                raise ValueError(
                    "ONNX takes class labels that are whole numbers, or texts"
                )
            return self.integers(numbers, numbers.dtype)
        name: str = self._scope.get_unique_variable_name("skmlp_classes")
        texts = [str(label).encode() for label in classes]
        kind = self.kinds.STRING
        self._container.add_initializer(name, kind, [len(texts)], texts)
        return name

    def add(self, op: str, *inputs: Any, out: str = "", **attributes: Any) -> str:
        """A node of the standard domain; numbers among its inputs become constants."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        out = out or self._scope.get_unique_variable_name(f"skmlp_{op.lower()}")
        label = self._scope.get_unique_operator_name(op)
        self._container.add_node(op, names, out, name=label, **attributes)
        return out


def _increasing(g: Graph, z: str, widths: Sequence[int]) -> str:
    """The first column as it is, each other one the softplus of it above the last."""
    (width,) = widths
    rest = np.arange(width) > 0
    softplus: Any = ACTIVATIONS["softplus"].onnx
    steps = g.add("Mul", softplus(g, z), rest)
    steps = g.add("Add", steps, g.add("Mul", z, ~rest))
    return g.add("MatMul", steps, np.triu(np.ones((width, width))))


def heads(g: Graph, z: str, widths: Sequence[int], padded: int = 0) -> list[str]:
    """The columns of each head, or more with zeros behind them."""
    columns, found, start = np.eye(sum(widths)), [], 0
    for width in widths:
        own = columns[:, start : start + width]
        zeros = np.zeros((len(own), max(padded - width, 0)))
        found.append(g.add("MatMul", z, np.hstack([own, zeros])))
        start += width
    return found


def _softmax_heads(g: Graph, z: str, widths: Sequence[int]) -> str:
    """Softmax of the columns of each head."""
    parts = [g.add("Softmax", head, axis=1) for head in heads(g, z, widths)]
    return g.add("Concat", *parts, axis=1)


#: And each output activation, by the number of columns of each head of the layer.
OUTPUTS: dict[str, Callable[[Graph, str, Sequence[int]], str]] = {
    "identity": lambda g, z, widths: g.add("Identity", z),
    "logistic": lambda g, z, widths: g.add("Sigmoid", z),
    "softmax": lambda g, z, widths: g.add("Softmax", z, axis=1),
    "softmax_heads": _softmax_heads,
    "exp": lambda g, z, widths: g.add("Exp", z),
    "increasing": _increasing,
}


def _encoded(g: Graph, encoding: InputEncoding, rows: str) -> str:
    """The inputs that rows stand for: those of each kind, then all in their order."""
    parts, order = [], np.argsort(encoding.kinds, kind="stable")
    for kind in np.unique(encoding.kinds):
        e = encoding.take(np.flatnonzero(encoding.kinds == kind))
        x = g.add("Gather", rows, g.integers(e.sources), axis=1)
        x = g.add("Mul", g.add("Sub", x, e.origins), e.slopes)
        if kind == RAMP:
            x = g.add("Min", g.add("Max", x, 0.0), 1.0)
        elif kind == CATEGORY:
            x = g.add("Where", g.add("Equal", x, 0.0), 1.0, 0.0)
        else:
            share = g.add("Div", x, CLIP)
            share = g.add("Add", g.add("Mul", share, share), 1.0)
            x = g.add("Div", x, g.add("Sqrt", share))
        if (e.gates >= 0).any():
            gate = g.add("Gather", rows, g.integers(e.gates.clip(0)), axis=1)
            gate = g.add("Mul", gate, e.gates >= 0)
            x = g.add("Where", g.add("Equal", gate, 0.0), x, 0.0)
        parts.append(x)
    places = g.integers(np.argsort(order))
    inputs = g.add("Gather", g.add("Concat", *parts, axis=1), places, axis=1)
    return g.add("Mul", inputs, encoding.weights)


def layers(model: Any, g: Graph, rows: str) -> str:
    """All layers."""
    names = hyperparameters.activations(model, len(model.coefs_) - 1)
    forms: list[Any] = [
        ACTIVATIONS[a].onnx if isinstance(a, str) else None for a in names
    ]
    if None in forms:
        odd = names[forms.index(None)]
        raise ValueError(f"there is no ONNX for the activation {odd!r}")
    if model.out_activation_ not in OUTPUTS:
        raise ValueError(
            f"there is no ONNX for the output activation {model.out_activation_!r}"
        )
    a = rows
    if model.input_encoding is not None:
        a = _encoded(g, model.input_encoding, rows)
    for k, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        z = g.add("Add", g.add("MatMul", a, W), b)
        if k < len(names):
            a = forms[k](g, z)
        else:
            widths = getattr(model, "n_classes_", (len(b),))
            a = OUTPUTS[model.out_activation_](g, z, widths)
    return a
