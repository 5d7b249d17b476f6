"""Converters of the estimators for raw tables: one input for each column.

All is computed in float64, as `predict` does, from inputs that are numbers in float64
or texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skmlp.onnx.graph import Graph, layers
from skmlp.tabular.encoder import MOST, RARE, TableEncoder


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


def _columns(g: Graph, encoder: TableEncoder, inputs: list[str]) -> str:
    """What `TableEncoder.columns` makes of a table, rounded to float32 as there."""
    pairs = list(zip(inputs, encoder._is_number, strict=True))
    numbers = [name for name, number in pairs if number]
    words = [name for name, number in pairs if not number]
    parts, gaps = [], []
    for j, name in enumerate(numbers):
        missing, center = g.add("IsNaN", name), encoder.centers_[j]
        filled = g.add("Where", missing, [center], name)
        scaled = g.add("Mul", g.add("Sub", filled, center), encoder.scales_[j])
        parts.append(g.add("Min", g.add("Max", scaled, -MOST), MOST))
        if encoder._with_missing[j]:
            gaps.append(g.add("Cast", missing, to=g.kinds.DOUBLE))
    known = [] if encoder.one_hot_ is None else encoder.one_hot_.categories_
    codes = [_code(g, *pair) for pair in zip(known, words, strict=True)]
    table = g.add("Concat", *parts, *gaps, *codes, axis=1)
    rounded = g.add("Cast", table, to=g.kinds.FLOAT)
    return g.add("Cast", rounded, to=g.kinds.DOUBLE)


def _code(g: Graph, categories: Sequence[str | None], name: str) -> str:
    """The numbers of the categories of a column."""
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
    return g.add("Cast", code, to=g.kinds.DOUBLE)


def _outputs(scope: Any, operator: Any, container: Any) -> tuple[Any, Graph, list[str]]:
    """The model, where its nodes go, and what each of its networks makes of a table."""
    from skl2onnx.proto import onnx_proto

    g = Graph(scope, container, onnx_proto.TensorProto.DOUBLE)
    model = operator.raw_operator
    names = [variable.full_name for variable in operator.inputs]
    rows = _columns(g, model.preprocessor_, names)
    return model, g, [layers(network, g, rows) for network in model.estimators_]


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
