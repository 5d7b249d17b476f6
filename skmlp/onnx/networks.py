"""Converters of the networks, and of `TransformedTargetRegressor` around any."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from skmlp.onnx.graph import Graph, heads, layers


def _begin(scope: Any, operator: Any, container: Any) -> tuple[Any, Graph, str]:
    """The model, where its nodes go, and the rows in the dtype of the numbers."""
    from skl2onnx.common.data_types import guess_proto_type
    from skl2onnx.proto import onnx_proto

    number = guess_proto_type(operator.inputs[0].type)
    if number != onnx_proto.TensorProto.DOUBLE:
        number = onnx_proto.TensorProto.FLOAT
    g = Graph(scope, container, number)
    rows = g.add("Cast", operator.inputs[0].full_name, to=number)
    return operator.raw_operator, g, rows


def convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    """The outputs."""
    model, g, rows = _begin(scope, operator, container)
    g.add("Identity", layers(model, g, rows), out=operator.outputs[0].full_name)


def convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    """Labels and probabilities, of one or several columns."""
    model, g, rows = _begin(scope, operator, container)
    labels, probabilities = (output.full_name for output in operator.outputs)
    raw = layers(model, g, rows)
    unsigned = _needs_unsigned(model)
    if hasattr(model, "n_classes_"):
        widths = model.n_classes_
        best = [
            g.add("ArgMax", head, axis=1, keepdims=1) for head in heads(g, raw, widths)
        ]
        names = [g.labels(classes, unsigned) for classes in model.classes_]
        columns = [g.add("Gather", *p, axis=0) for p in zip(names, best, strict=True)]
        g.add("Concat", *columns, axis=1, out=labels)
        shape = g.integers([1, -1, max(widths)])
        padded = heads(g, raw, widths, max(widths))
        tables = [g.add("Reshape", block, shape) for block in padded]
        g.add("Concat", *tables, axis=0, out=probabilities)
        return
    if model._label_binarizer.y_type_.startswith("multilabel"):
        g.add("Identity", raw, out=probabilities)
        g.add("Cast", g.add("Greater", raw, 0.5), to=g.kinds.INT64, out=labels)
        return
    if model.n_outputs_ == 1:
        other = g.add("Sub", 1.0, raw)
        g.add("Concat", other, raw, axis=1, out=probabilities)
    else:
        g.add("Identity", raw, out=probabilities)
    # A single class has two probabilities, as in scikit-learn, and is always predicted.
    best_of = raw if len(model.classes_) == 1 else probabilities
    likeliest = g.add("ArgMax", best_of, axis=1, keepdims=0)
    labelling = g.labels(model.classes_, unsigned)
    g.add("Gather", labelling, likeliest, axis=0, out=labels)


def _needs_unsigned(model: Any) -> bool:
    """Whether there are labels above the largest int64; else labels are int64."""
    several = hasattr(model, "n_classes_")
    largest = np.iinfo(np.int64).max
    return any(
        classes.dtype == np.uint64 and classes.max() > largest
        for classes in (model.classes_ if several else [model.classes_])
    )


def classifier_shape(operator: Any) -> None:
    """Types and shapes of labels and probabilities."""
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
    )

    calculate_linear_classifier_output_shapes(operator)
    model = operator.raw_operator
    if _needs_unsigned(model):
        from skl2onnx.common.data_types import UInt64TensorType

        labels = operator.outputs[0]
        labels.set_type(UInt64TensorType(labels.type.shape))
    if hasattr(model, "n_classes_"):
        return
    rows = operator.inputs[0].get_first_dimension()
    if model._label_binarizer.y_type_.startswith("multilabel"):
        operator.outputs[0].type.shape = [rows, model.n_outputs_]
    elif len(model.classes_) == 1:
        operator.outputs[1].type.shape = [rows, 2]


def regressor_shape(operator: Any) -> None:
    """Rows and outputs."""
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type.shape = [rows, operator.raw_operator.n_outputs_]


def _line_back(model: Any) -> tuple[Any, Any]:
    """Factor and summand of the inverse of a `TransformedTargetRegressor`'s target."""
    scaler = model.transformer_
    if isinstance(scaler, StandardScaler):
        factor = scaler.scale_ if scaler.with_std else 1.0
        return factor, scaler.mean_ if scaler.with_mean else 0.0
    if isinstance(scaler, MinMaxScaler):
        return 1 / scaler.scale_, -scaler.min_ / scaler.scale_
    if isinstance(scaler, FunctionTransformer) and scaler.inverse_func is None:
        return 1.0, 0.0
    function = getattr(scaler, "inverse_func", None)
    what = getattr(function, "__name__", None) or type(scaler).__name__
    raise ValueError(
        f"there is no ONNX for a target that {what} transforms back, only for "
        "StandardScaler and MinMaxScaler: convert `regressor_`, which predicts the "
        "transformed target, and transform its output back yourself"
    )


def convert_target(scope: Any, operator: Any, container: Any) -> None:
    """The inner regressor, and a line back."""
    from skl2onnx.algebra.onnx_operator import OnnxSubEstimator
    from skl2onnx.algebra.onnx_ops import OnnxAdd, OnnxMul
    from skl2onnx.common.data_types import guess_numpy_type

    model, version = operator.raw_operator, container.target_opset
    rows = operator.inputs[0]
    dtype = np.float64 if guess_numpy_type(rows.type) is np.float64 else np.float32
    factor, summand = (np.atleast_1d(a).astype(dtype) for a in _line_back(model))
    inner = OnnxSubEstimator(model.regressor_, rows, op_version=version)
    back = OnnxMul(inner, factor, op_version=version)
    back = OnnxAdd(back, summand, op_version=version, output_names=operator.outputs)
    back.add_to(scope=scope, container=container)


def target_shape(operator: Any) -> None:
    """Rows, and as many outputs as there are."""
    from skl2onnx.common.utils import check_input_and_output_numbers

    check_input_and_output_numbers(operator, output_count_range=1)
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type.shape = [rows, None]
