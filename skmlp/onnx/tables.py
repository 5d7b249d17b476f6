"""Converters of the estimators for raw tables: one input for each column.

All is computed in float64, as `predict` does, from inputs that are numbers in float64
or texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skmlp.onnx.graph import Graph, layers
from skmlp.tabular.encoder import CLIP, RARE, TableEncoder


def inputs_of(encoder: TableEncoder) -> list[tuple[str, Any]]:
    """Names and types of the inputs, in the order of the columns.

    Raises
    ------
    ValueError
        There are columns of dates, or one has both empty texts and missing values.
    """
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType

    columns = list(zip(encoder._names, encoder._is_number, strict=True))
    if "dates" in encoder._kinds:
        names = [name[:-6] for name, _ in columns if name.endswith(" month")]
        raise ValueError(
            f"there is no ONNX for columns of dates, here {', '.join(names)}: fit to "
            "numbers instead, such as year, month and weekday"
        )
    words = [name for name, number in columns if not number]
    categories = () if encoder.one_hot_ is None else encoder.one_hot_.categories_
    for name, known in zip(words, categories, strict=True):
        if "" in known and None in known:
            raise ValueError(
                f"column {name!r} has empty texts and missing values, which are the "
                "same in ONNX: fit to one of them in place of the other"
            )
    return [
        (name, (DoubleTensorType if number else StringTensorType)([None, 1]))
        for name, number in columns
    ]


def _encoded(g: Graph, encoder: TableEncoder, inputs: list[str]) -> str:
    """What `TableEncoder.transform` makes of a table."""
    pairs = list(zip(inputs, encoder._is_number, strict=True))
    numbers = [name for name, number in pairs if number]
    words = [name for name, number in pairs if not number]
    parts: list[str] = []
    for j, name in enumerate(numbers):
        parts += _of_number(g, encoder, j, name)
    if encoder.one_hot_ is not None:
        parts += [
            _of_category(g, categories, name)
            for name, categories in zip(
                words, encoder.one_hot_.categories_, strict=True
            )
        ]
    encoded = _rounded(g, g.add("Concat", *parts, axis=1))
    return _rounded(g, g.add("Mul", encoded, encoder.weights_))


def _rounded(g: Graph, numbers: str) -> str:
    """As the encoder rounds to float32."""
    rounded = g.add("Cast", numbers, to=g.kinds.FLOAT)
    return g.add("Cast", rounded, to=g.kinds.DOUBLE)


def _of_number(g: Graph, encoder: TableEncoder, j: int, name: str) -> list[str]:
    """The encoded columns of number `j`."""
    center, edges = encoder.centers_[j], encoder.edges_[j]
    missing = g.add("IsNaN", name)
    filled = g.add("Where", missing, [center], name)
    scaled = g.add("Mul", g.add("Sub", filled, center), encoder.scales_[j])
    share = g.add("Div", scaled, CLIP)
    root = g.add("Sqrt", g.add("Add", g.add("Mul", share, share), 1.0))
    parts = [g.add("Div", scaled, root)]
    if len(edges):
        rise = g.add("Div", g.add("Sub", filled, edges[:-1]), np.diff(edges))
        rise = g.add("Min", g.add("Max", rise, 0.0), 1.0)
        parts.append(g.add("Where", missing, [0.0], rise))
    if encoder._with_missing[j]:
        parts.append(g.add("Cast", missing, to=g.kinds.DOUBLE))
    return parts


def _of_category(g: Graph, categories: Sequence[str | None], name: str) -> str:
    """The encoded columns of a category."""
    # ONNX has no missing text: an empty one stands for it.
    texts = ["" if text is None else text for text in categories]
    code = g.add(
        "LabelEncoder",
        name,
        op_domain="ai.onnx.ml",
        op_version=2,
        keys_strings=texts,
        values_int64s=list(range(len(texts))),
        default_int64=texts.index(RARE) if RARE in texts else -1,
    )
    equal = g.add("Equal", code, g.integers(np.arange(len(texts))))
    return g.add("Cast", equal, to=g.kinds.DOUBLE)


def _outputs(scope: Any, operator: Any, container: Any) -> tuple[Any, Graph, list[str]]:
    """The model, where its nodes go, and what each of its networks makes of a table."""
    from skl2onnx.proto import onnx_proto

    g = Graph(scope, container, onnx_proto.TensorProto.DOUBLE)
    model = operator.raw_operator
    names = [variable.full_name for variable in operator.inputs]
    encoded = _encoded(g, model.preprocessor_, names)
    found = []
    for network, seen in zip(
        model.estimators_, model.estimators_features_, strict=True
    ):
        rows = g.add("Gather", encoded, g.integers(seen), axis=1)
        found.append(layers(network, g, rows))
    return model, g, found


def _mean(g: Graph, model: Any, outputs: list[str]) -> str:
    weights = model.estimator_weights_
    parts = [g.add("Mul", *pair) for pair in zip(outputs, weights, strict=True)]
    return g.add("Sum", *parts)


def convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    """Within the range of the targets of `fit`."""
    model, g, outputs = _outputs(scope, operator, container)
    low, high = model._range
    for k, output in enumerate(outputs):
        values = g.add("Add", g.add("Mul", output, model._deviation), model._mean)
        outputs[k] = g.add("Min", g.add("Max", values, low), high)
    g.add("Identity", _mean(g, model, outputs), out=operator.outputs[0].full_name)


def convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    """Labels and probabilities."""
    model, g, outputs = _outputs(scope, operator, container)
    labels, probabilities = (output.full_name for output in operator.outputs)
    if len(model.classes_) == 2:
        outputs = [
            g.add("Concat", g.add("Sub", 1.0, output), output, axis=1)
            for output in outputs
        ]
    powers = g.add("Pow", _mean(g, model, outputs), 1 / model.temperature_)
    total = g.add("ReduceSum", powers, g.integers([1]), keepdims=1)
    shares = g.add("Div", powers, total, out=probabilities)
    best = g.add("ArgMax", shares, axis=1, keepdims=0)
    g.add("Gather", g.labels(model.classes_), best, axis=0, out=labels)


def shape(operator: Any) -> None:
    """Types and shapes of the outputs."""
    from skl2onnx.common.data_types import (
        DoubleTensorType,
        Int64TensorType,
        StringTensorType,
    )

    model = operator.raw_operator
    rows = operator.inputs[0].get_first_dimension()
    if hasattr(model, "classes_"):
        texts = model.classes_.dtype.kind not in "iubf"
        kind = StringTensorType if texts else Int64TensorType
        operator.outputs[0].set_type(kind([rows]))
        n_outputs = len(model.classes_)
    else:
        n_outputs = len(model._mean)
    operator.outputs[-1].set_type(DoubleTensorType([rows, n_outputs]))
