"""A network's hidden layer as features for other estimators."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

from sklearn import get_config
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    MetaEstimatorMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.utils import get_tags
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skmlp.estimators.base import BaseMLP
from skmlp.estimators.fitting import callback_support, hyperparameters


def _can_go_on(transformer: Any) -> bool:
    return hasattr(transformer.estimator, "partial_fit")


class HiddenLayerTransformer(
    callback_support.MetaCallbackSupport,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    MetaEstimatorMixin,
    BaseEstimator,
):
    """Train a network, and give what one of its hidden layers makes of the rows.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        The network; a clone of it is trained. To use one that is trained already, wrap
        it in `sklearn.frozen.FrozenEstimator`.
    layer : int, default=-1
        Which hidden layer, from 0, or from the end: -1 is the last one.

    Attributes
    ----------
    estimator_ : MLPClassifier or MLPRegressor
        The trained network.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if `X` had any.

    See Also
    --------
    MLPClassifier.hidden_outputs : The method behind it.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skmlp import HiddenLayerTransformer, MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> network = MLPClassifier((20, 3), max_iter=600, random_state=0)
    >>> features = HiddenLayerTransformer(network).fit(X, y)
    >>> features.transform(X[:2]).shape
    (2, 3)
    >>> features.get_feature_names_out()[0]
    'hiddenlayertransformer0'
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "estimator": [HasMethods(["fit", "hidden_outputs"])],
        "layer": [Integral],
    }

    def __init__(self, estimator: Any, layer: int = -1) -> None:
        self.estimator = estimator
        self.layer = layer

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> Self:
        """Train a clone of the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows. May be a Dask array.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            The targets. None only for a network in a `FrozenEstimator`.
        **fit_params : dict
            Handed to the network's `fit`, such as `sample_weight`; with scikit-learn's
            metadata routing, those that it requests.

        Returns
        -------
        self : HiddenLayerTransformer
            The fitted transformer.

        Raises
        ------
        ValueError
            The network has no such layer.
        """
        self._check_layer()
        own = self._routed("fit", fit_params)
        network = clone(self.estimator)
        with callback_support.handed_on(self, network, X, y):
            self.estimator_ = network.fit(X, y, **own)
        return self

    @available_if(_can_go_on)
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X: Any, y: Any = None, **partial_fit_params: Any) -> Self:
        """Train the network further, as its `partial_fit` does.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            The targets.
        **partial_fit_params : dict
            Handed to the network's `partial_fit`, such as `classes`.

        Returns
        -------
        self : HiddenLayerTransformer
            The fitted transformer.
        """
        self._check_layer()
        own = self._routed("partial_fit", partial_fit_params)
        if not hasattr(self, "estimator_"):
            self.estimator_ = clone(self.estimator)
        self.estimator_.partial_fit(X, y, **own)
        return self

    def _check_layer(self) -> None:
        """Refuse a layer that the network will not have, before it is trained."""
        network = self.estimator
        if isinstance(network, BaseMLP):
            network._validate_params()
            n_hidden = len(hyperparameters.hidden_sizes(network))
        elif hasattr(network, "coefs_"):  # a trained one, in a FrozenEstimator
            n_hidden = len(network.coefs_) - 1
        else:
            return
        hyperparameters.check_layer(self.layer, n_hidden)

    def _routed(self, method: str, params: dict[str, Any]) -> Any:
        """What the network's method is to get; all of it without routing."""
        if not get_config()["enable_metadata_routing"]:
            return params
        return process_routing(self, method, **params).estimator[method]

    def get_metadata_routing(self) -> MetadataRouter:
        """Tell which of the metadata of `fit` and `partial_fit` the network takes.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
            What scikit-learn's other meta-estimators return.
        """
        methods = MethodMapping()
        for name in ("fit", "partial_fit"):
            methods.add(caller=name, callee=name)
        router = MetadataRouter(owner=type(self).__name__)
        return router.add(estimator=self.estimator, method_mapping=methods)

    def transform(self, X: Any) -> Any:
        """Compute the hidden layer.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows. A Dask array gives a lazy Dask array.

        Returns
        -------
        ndarray of shape (n_samples, width of the layer)
            What the layer gives to the next one.
        """
        check_is_fitted(self)
        return self.estimator_.hidden_outputs(X, layer=self.layer)

    @property
    def _n_features_out(self) -> int:
        n_hidden = len(self.estimator_.coefs_) - 1
        return int(self.estimator_.coefs_[self.layer % n_hidden].shape[1])

    def __getattr__(self, name: str) -> Any:
        # What only the trained network knows.
        if name in ("n_features_in_", "feature_names_in_") and "estimator_" in vars(
            self
        ):
            return getattr(self.estimator_, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        network = get_tags(self.estimator)
        tags.input_tags.sparse = network.input_tags.sparse
        tags.target_tags.required = True
        return tags
