"""Estimators that become scikit-learn's, and come from there."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

#: Attributes that scikit-learn's networks and ours share.
_SHARED = (
    "classes_",
    "coefs_",
    "intercepts_",
    "n_layers_",
    "n_outputs_",
    "out_activation_",
    "n_iter_",
    "t_",
    "loss_",
    "best_loss_",
    "loss_curve_",
    "validation_scores_",
    "validation_loss_curve_",
    "best_validation_score_",
    "n_features_in_",
    "feature_names_in_",
    "_label_binarizer",
    "_no_improvement_count",
)

#: What scikit-learn's networks can compute.
_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
_OUTPUTS = ("identity", "logistic", "softmax", "exp")


class Convertible(BaseEstimator):
    """Estimators that become scikit-learn's and come from there."""

    history_: list[dict[str, Any]]
    n_shards_: int

    def to_sklearn(self) -> Any:
        """Make scikit-learn's estimator of the same name, with the same predictions.

        It needs no skmlp where it is used, and all tools that know scikit-learn's
        networks take it.

        Returns
        -------
        sklearn.neural_network.MLPClassifier or MLPRegressor
            With copies of the fitted arrays. `partial_fit` and warm starts go on from
            them, with a fresh optimizer.

        Raises
        ------
        NotFittedError
            This estimator is not fitted.
        ValueError
            scikit-learn can't compute these predictions; the message says why.

        Warns
        -----
        UserWarning
            Parameters that scikit-learn lacks are left out: the predictions are the
            same, another fit would not be.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skmlp import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier(random_state=0).fit(X, y)
        >>> plain = clf.to_sklearn()
        >>> type(plain).__module__.partition(".")[0]
        'sklearn'
        >>> bool((plain.predict(X) == clf.predict(X)).all())
        True
        """
        from sklearn import neural_network

        check_is_fitted(self)
        cls = getattr(neural_network, _sklearn_name(type(self)))
        params = {**self.get_params(deep=False), "activation": _one_activation(self)}
        known = cls._get_param_names()
        kept = {n: v for n, v in params.items() if n in known and _takes(cls, n, v)}
        others = [name for name in params if name not in kept and name != "n_jobs"]
        left = [f"{name}={params[name]!r}" for name in self._set_among(others)]
        plain = cls(**{n: copy.deepcopy(v) for n, v in kept.items()})
        for name in _SHARED:
            if name in vars(self):
                setattr(plain, name, copy.deepcopy(getattr(self, name)))
        plain._random_state = np.random.RandomState(0)
        if left:
            warnings.warn(
                f"scikit-learn's {cls.__name__} has no {', '.join(left)}: it predicts "
                "the same, but would be fitted otherwise",
                stacklevel=2,
            )
        return plain

    @classmethod
    def from_sklearn(cls, estimator: Any, **params: Any) -> Self:
        """Make an estimator of scikit-learn's one of the same name.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
            Fitted or not. It is not changed.
        **params : dict
            Parameters to set beside its own, such as `n_jobs`.

        Returns
        -------
        MLPClassifier or MLPRegressor
            With its parameters and copies of its fitted arrays. `partial_fit` and warm
            starts go on from them, with a fresh optimizer.

        Raises
        ------
        TypeError
            It is another kind of estimator.

        Examples
        --------
        >>> from sklearn.neural_network import MLPClassifier as Plain
        >>> from skmlp import MLPClassifier
        >>> MLPClassifier.from_sklearn(Plain(alpha=0.1), n_jobs=2)
        MLPClassifier(alpha=0.1, n_jobs=2)
        """
        from sklearn import neural_network

        other = getattr(neural_network, _sklearn_name(cls))
        if not isinstance(estimator, other):
            raise TypeError(
                f"{cls.__name__}.from_sklearn takes a {other.__module__}."
                f"{other.__name__}, not {type(estimator)!r}"
            )
        own = copy.deepcopy(estimator.get_params(deep=False))
        made = cls(**{**own, **params})
        if not hasattr(estimator, "coefs_"):
            return made
        for name in _SHARED:
            if name in vars(estimator):
                setattr(made, name, copy.deepcopy(getattr(estimator, name)))
        losses = getattr(made, "loss_curve_", [])
        scores = getattr(made, "validation_scores_", None) or [None] * len(losses)
        made.history_ = [
            {"epoch": i, "loss": loss, "validation_score": score}
            for i, (loss, score) in enumerate(zip(losses, scores, strict=False), 1)
        ]
        made.n_shards_ = 1
        return made


def _sklearn_name(cls: type) -> str:
    """The name of scikit-learn's class that a class of ours, or a child, is like."""
    for parent in cls.__mro__:
        if "_kept_as" in vars(parent):
            return parent.__name__
    raise TypeError(f"{cls!r} has no like in scikit-learn")


def _one_activation(estimator: Any) -> str:
    """The activation of all hidden layers, if scikit-learn knows it."""
    activation = estimator.activation
    if isinstance(activation, (list, tuple)) and len(set(activation)) <= 1:
        activation = activation[0] if activation else "identity"
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ValueError(
            f"scikit-learn's networks have no activation={estimator.activation!r}, so "
            f"none predicts like this one; they have one of {', '.join(_ACTIVATIONS)} "
            "for all layers. skmlp.to_onnx exports every activation of skmlp."
        )
    if estimator.input_encoding is not None:
        raise ValueError(
            "scikit-learn's networks have no input_encoding, so none predicts like "
            "this one; skmlp.save keeps it, and skmlp.to_onnx exports it"
        )
    if isinstance(getattr(estimator, "classes_", None), list):
        raise ValueError(
            "scikit-learn's networks can't predict several columns of classes; "
            "skmlp.save keeps this one, and skmlp.to_onnx exports it"
        )
    if estimator.out_activation_ not in _OUTPUTS:
        raise ValueError(
            "scikit-learn's networks have no output activation "
            f"{estimator.out_activation_!r}, so none predicts like this one"
        )
    return activation


def _takes(cls: Any, name: str, value: Any) -> bool:
    """Whether scikit-learn's class takes a value for a parameter."""
    from sklearn.utils._param_validation import validate_parameter_constraints

    try:
        validate_parameter_constraints(
            {name: cls._parameter_constraints[name]}, {name: value}, cls.__name__
        )
    except ValueError:
        return False
    return True
