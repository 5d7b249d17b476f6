"""ONNX: the fitted networks for every runtime, by converters for skl2onnx.

`register_converters` teaches skl2onnx our classes, also inside pipelines; `to_onnx`
does this and converts.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import VotingClassifier
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skmlp.display.inside import parts
from skmlp.estimators.classifier import MLPClassifier
from skmlp.estimators.regressor import MLPRegressor
from skmlp.onnx import networks, tables
from skmlp.tabular.base import BaseTabularMLP
from skmlp.tabular.classifier import TabularMLPClassifier
from skmlp.tabular.regressor import TabularMLPRegressor


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
        networks.classifier_shape,
        networks.convert_classifier,
        options={
            "zipmap": [True, False, "columns"],
            "output_class_labels": [False, True],
            "nocl": [True, False],
        },
    )
    update_registered_converter(
        MLPRegressor,
        "SkmlpMLPRegressor",
        networks.regressor_shape,
        networks.convert_regressor,
    )
    update_registered_converter(
        TransformedTargetRegressor,
        "SkmlpTransformedTargetRegressor",
        networks.target_shape,
        networks.convert_target,
    )
    for kind, convert in (
        (TabularMLPClassifier, tables.convert_classifier),
        (TabularMLPRegressor, tables.convert_regressor),
    ):
        name = f"Skmlp{kind.__name__}"
        update_registered_converter(
            kind,
            name,
            tables.shape,
            convert,
            options={"zipmap": [False], "nocl": [True, False]}
            if kind is TabularMLPClassifier
            else None,
        )


def to_onnx(estimator: Any, X: Any = None, **kwargs: Any) -> Any:
    """Convert a fitted network, or an estimator around networks, to ONNX.

    All activations of skmlp are converted, and several outputs too; so are the
    estimators of raw tables with their preprocessing, pipelines,
    searches, `TransformedTargetRegressor` with `StandardScaler` or `MinMaxScaler`,
    `CalibratedClassifierCV`, and what else skl2onnx knows.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    X : array-like of shape (n_samples, n_features), default=None
        A row or more; the input of the ONNX model has its dtype. By default float32.
        Not used for the estimators of raw tables: they have an input of shape
        (n_samples, 1) for each column, by its name (``x0``, ``x1``, ... without
        names), of float64 for numbers and of texts for categories, where an empty text
        is a missing one.
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
        `StandardScaler` or `MinMaxScaler`; or a raw table has dates.

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

    check_is_fitted(estimator)
    # skl2onnx knows one of scikit-learn's searches, around estimators of its own list.
    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    if isinstance(estimator, BaseTabularMLP):
        X, kwargs["initial_types"] = None, tables.inputs_of(estimator.preprocessor_)
    elif X is None:
        X = np.zeros((1, estimator.n_features_in_), np.float32)
    if get_tags(estimator).estimator_type == "classifier":
        kwargs.setdefault("options", {"zipmap": False})
    if any(isinstance(part, VotingClassifier) for _, part in parts(estimator)):
        # It concerns `transform` alone, but skl2onnx takes no other.
        estimator = copy.deepcopy(estimator)
        for _, part in parts(estimator):
            if isinstance(part, VotingClassifier):
                part.flatten_transform = False
    return skl2onnx.to_onnx(estimator, X, **kwargs)
