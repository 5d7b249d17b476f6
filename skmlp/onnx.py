"""ONNX: the fitted networks for every runtime, by converters for skl2onnx.

`register_converters` teaches skl2onnx our classes, also inside pipelines; `to_onnx`
does this and converts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingClassifier
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.utils import get_tags

from skmlp.display.inside import parts
from skmlp.estimators.classifier import MLPClassifier
from skmlp.estimators.regressor import MLPRegressor
from skmlp.model.activations import ACTIVATIONS


class _Graph:
    """Adds nodes to skl2onnx's container, in one dtype."""

    def __init__(self, scope: Any, container: Any, proto_type: int) -> None:
        self._scope, self._container, self._type = scope, container, proto_type

    def constant(self, value: Any) -> str:
        name: str = self._scope.get_unique_variable_name("skmlp_constant")
        array = np.asarray(value, dtype=float)
        self._container.add_initializer(name, self._type, array.shape, array.ravel())
        return name

    def integers(self, value: Any, dtype: Any = np.int64) -> str:
        name: str = self._scope.get_unique_variable_name("skmlp_integers")
        from skl2onnx.proto import onnx_proto

        array = np.asarray(value, dtype=dtype)
        kinds = onnx_proto.TensorProto
        kind = kinds.UINT64 if array.dtype == np.uint64 else kinds.INT64
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
        from skl2onnx.proto import onnx_proto

        name: str = self._scope.get_unique_variable_name("skmlp_classes")
        texts = [str(label).encode() for label in classes]
        kind = onnx_proto.TensorProto.STRING
        self._container.add_initializer(name, kind, [len(texts)], texts)
        return name

    def add(self, op: str, *inputs: Any, out: str = "", **attributes: Any) -> str:
        """A node of the standard domain; numbers among its inputs become constants."""
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        out = out or self._scope.get_unique_variable_name(f"skmlp_{op.lower()}")
        label = self._scope.get_unique_operator_name(op)
        self._container.add_node(op, names, out, name=label, **attributes)
        return out


def _increasing(g: _Graph, z: str, widths: Sequence[int]) -> str:
    """The first column as it is, each other one the softplus of it above the last."""
    (width,) = widths
    rest = np.arange(width) > 0
    softplus: Any = ACTIVATIONS["softplus"].onnx
    steps = g.add("Mul", softplus(g, z), rest)
    steps = g.add("Add", steps, g.add("Mul", z, ~rest))
    return g.add("MatMul", steps, np.triu(np.ones((width, width))))


def _heads(g: _Graph, z: str, widths: Sequence[int], padded: int = 0) -> list[str]:
    """The columns of each head, or more with zeros behind them."""
    columns, found, start = np.eye(sum(widths)), [], 0
    for width in widths:
        own = columns[:, start : start + width]
        zeros = np.zeros((len(own), max(padded - width, 0)))
        found.append(g.add("MatMul", z, np.hstack([own, zeros])))
        start += width
    return found


def _softmax_heads(g: _Graph, z: str, widths: Sequence[int]) -> str:
    """Softmax of the columns of each head."""
    parts = [g.add("Softmax", head, axis=1) for head in _heads(g, z, widths)]
    return g.add("Concat", *parts, axis=1)


#: And each output activation, by the number of columns of each head of the layer.
OUTPUTS: dict[str, Callable[[_Graph, str, Sequence[int]], str]] = {
    "identity": lambda g, z, widths: g.add("Identity", z),
    "logistic": lambda g, z, widths: g.add("Sigmoid", z),
    "softmax": lambda g, z, widths: g.add("Softmax", z, axis=1),
    "softmax_heads": _softmax_heads,
    "exp": lambda g, z, widths: g.add("Exp", z),
    "increasing": _increasing,
}


def _network(model: Any, g: _Graph, rows: str) -> str:
    """All layers."""
    names = model.activation
    if not isinstance(names, (list, tuple)):
        names = (names,) * (len(model.coefs_) - 1)
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
    for k, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        z = g.add("Add", g.add("MatMul", a, W), b)
        if k < len(names):
            a = forms[k](g, z)
        else:
            heads = getattr(model, "n_classes_", (len(b),))
            a = OUTPUTS[model.out_activation_](g, z, heads)
    return a


def _begin(scope: Any, operator: Any, container: Any) -> tuple[Any, _Graph, str]:
    """The model, where its nodes go, and the rows in the dtype of the numbers."""
    from skl2onnx.common.data_types import guess_proto_type
    from skl2onnx.proto import onnx_proto

    number = guess_proto_type(operator.inputs[0].type)
    if number != onnx_proto.TensorProto.DOUBLE:
        number = onnx_proto.TensorProto.FLOAT
    g = _Graph(scope, container, number)
    rows = g.add("Cast", operator.inputs[0].full_name, to=number)
    return operator.raw_operator, g, rows


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    model, g, rows = _begin(scope, operator, container)
    g.add("Identity", _network(model, g, rows), out=operator.outputs[0].full_name)


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    from skl2onnx.proto import onnx_proto

    kinds = onnx_proto.TensorProto
    model, g, rows = _begin(scope, operator, container)
    labels, probabilities = (output.full_name for output in operator.outputs)
    raw = _network(model, g, rows)
    unsigned = _needs_unsigned(model)
    if hasattr(model, "n_classes_"):
        widths = model.n_classes_
        best = [
            g.add("ArgMax", head, axis=1, keepdims=1) for head in _heads(g, raw, widths)
        ]
        names = [g.labels(classes, unsigned) for classes in model.classes_]
        columns = [g.add("Gather", *p, axis=0) for p in zip(names, best, strict=True)]
        g.add("Concat", *columns, axis=1, out=labels)
        shape = g.integers([1, -1, max(widths)])
        padded = _heads(g, raw, widths, max(widths))
        tables = [g.add("Reshape", block, shape) for block in padded]
        g.add("Concat", *tables, axis=0, out=probabilities)
        return
    if model._label_binarizer.y_type_.startswith("multilabel"):
        g.add("Identity", raw, out=probabilities)
        g.add("Cast", g.add("Greater", raw, 0.5), to=kinds.INT64, out=labels)
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


def _classifier_shape(operator: Any) -> None:
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


def _regressor_shape(operator: Any) -> None:
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


def _convert_target(scope: Any, operator: Any, container: Any) -> None:
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


def _target_shape(operator: Any) -> None:
    from skl2onnx.common.utils import check_input_and_output_numbers

    check_input_and_output_numbers(operator, output_count_range=1)
    rows = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type.shape = [rows, None]


def register_converters() -> None:
    """Teach skl2onnx our networks, and `TransformedTargetRegressor` around any.

    Raises
    ------
    ImportError
        skl2onnx is not installed: ``pip install skmlp[onnx]``.
    """
    try:
        from skl2onnx import update_registered_converter
    except ImportError as error:
        raise ImportError(
            "ONNX needs skl2onnx, which is not installed: pip install 'skmlp[onnx]'"
        ) from error
    update_registered_converter(
        MLPClassifier,
        "SkmlpMLPClassifier",
        _classifier_shape,
        _convert_classifier,
        options={
            "zipmap": [True, False, "columns"],
            "output_class_labels": [False, True],
            "nocl": [True, False],
        },
    )
    update_registered_converter(
        MLPRegressor, "SkmlpMLPRegressor", _regressor_shape, _convert_regressor
    )
    update_registered_converter(
        TransformedTargetRegressor,
        "SkmlpTransformedTargetRegressor",
        _target_shape,
        _convert_target,
    )


def to_onnx(estimator: Any, X: Any = None, **kwargs: Any) -> Any:
    """Convert a fitted network, or an estimator around networks, to ONNX.

    All activations of skmlp are converted, and several outputs too; so are pipelines,
    searches, `TransformedTargetRegressor` with `StandardScaler` or `MinMaxScaler`,
    `CalibratedClassifierCV`, and what else skl2onnx knows.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    X : array-like of shape (n_samples, n_features), default=None
        A row or more; the input of the ONNX model has its dtype. By default float32.
    **kwargs : dict
        Handed to `skl2onnx.to_onnx`. By default ``options={"zipmap": False}``, so that
        probabilities are an array, as `predict_proba` returns them.

    Returns
    -------
    onnx.ModelProto
        Of a classifier its outputs are the labels and the probabilities; where it was
        fitted to several columns of classes, these have the shape (n_columns,
        n_samples, most classes of a column), with zeros where a column has fewer. Of a
        regressor the predictions, of shape (n_samples, n_outputs).

    Raises
    ------
    ImportError
        skl2onnx is not installed: ``pip install skmlp[onnx]``.
    ValueError
        A network has an activation of the user's own, class labels are neither whole
        numbers nor texts, or a target is transformed back by something else than
        `StandardScaler` or `MinMaxScaler`.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> import skmlp
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = skmlp.MLPClassifier(max_iter=9).fit(X, y)
    >>> model = skmlp.to_onnx(clf, X[:1])  # doctest: +SKIP
    >>> model.SerializeToString()  # doctest: +SKIP
    """
    register_converters()
    import skl2onnx

    if X is None:
        X = np.zeros((1, estimator.n_features_in_), np.float32)
    # skl2onnx knows one of scikit-learn's searches, around estimators of its own list.
    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    if get_tags(estimator).estimator_type == "classifier":
        kwargs.setdefault("options", {"zipmap": False})
    if any(isinstance(part, VotingClassifier) for _, part in parts(estimator)):
        # It concerns `transform` alone, but skl2onnx takes no other.
        estimator = copy.deepcopy(estimator)
        for _, part in parts(estimator):
            if isinstance(part, VotingClassifier):
                part.flatten_transform = False
    return skl2onnx.to_onnx(estimator, X, **kwargs)
