"""The classifier for raw tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from skmlp.arrays import Array
from skmlp.estimators.classifier import MLPClassifier
from skmlp.estimators.fitting.inputs import is_dask
from skmlp.estimators.suggestions import pointing
from skmlp.tabular import columns
from skmlp.tabular.base import NETWORK, BaseTabularMLP
from skmlp.tabular.members import Rows

#: Smoothed labels and the mean over networks make probabilities too cautious: the
#: temperature only sharpens them, by a power between 1 and this.
MOST_POWER = 3.0
#: Keeps the logarithm of a probability finite.
TINY = 1e-30


def _sharpened(shares: Array, temperature: float) -> Array:
    """Probabilities at a temperature: their logarithms divided by it."""
    powers = shares ** (1 / temperature)
    found: Array = powers / powers.sum(axis=1, keepdims=True)
    return found


class TabularMLPClassifier(ClassifierMixin, BaseTabularMLP):
    """Classifier for raw tables: several networks behind an encoding of their own.

    Parameters
    ----------
    n_estimators : int, default=6
        Networks whose probabilities are averaged.
    hidden_layer_sizes : array-like of int or int, default=(256, 256, 256)
        Width of each hidden layer.
    max_iter : int, default=64
        Epochs. The learning rate rises and falls once over all of them.
    categorical_features : 'from_dtype', array-like of bool, int or str, or None, \
            default='from_dtype'
        Columns that are categories although they hold numbers: a mask, indices or
        names. Columns of texts, objects and pandas' categories always are; by default
        they are the only ones.
    early_stopping : bool, default=True
        Let each network hold out other rows, and keep its best weights by them.
    validation_fraction : float, default=0.15
        Share of the rows that each network holds out.
    scoring : str, callable or None, default='loss'
        What the best weights are the best by, as in `MLPClassifier`; by default minus
        the loss on the held-out rows. A function is called with the estimator, as if
        of one network, and with rows and targets as they came.
    class_weight : dict or 'balanced', default=None
        Weights of the classes, ``{label: weight}``; 'balanced' gives all classes the
        same total. By default all rows count alike.
    network_params : dict, default=None
        Parameters of the networks that replace the defaults, such as
        ``{"dropout": 0.3}``; see `MLPClassifier`. By default none.
    random_state : int, RandomState instance or None, default=None
        For the held-out rows and the networks. By default each fit is another one.
    n_jobs : int or None, default=None
        Networks that are trained at the same time, by joblib: in threads unless a
        `joblib.parallel_config` names another backend. With None, one on each core;
        with 1, one after the other, each on all cores, which needs less memory.
    verbose : bool or int, default=False
        Print a line for each network when it is trained; from 2 on, its epochs as well.
        By default nothing is printed.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    preprocessor_ : TableEncoder
        What makes numbers of the raw table.
    estimators_ : list of MLPClassifier
        The networks. Their classes are the indices of `classes_`, and their
        `input_encoding` says what each makes of the table: every other one sees no
        ramps.
    estimator_weights_ : ndarray of shape (n_estimators,)
        Weights of the networks in the mean, by the loss on the held-out rows. Their
        sum is 1.
    temperature_ : float
        What the logarithms of the mean probabilities are divided by; at most 1.
    n_iter_ : int
        The most epochs of one of them.
    n_features_in_ : int
        Columns of the table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if it had any.

    See Also
    --------
    TabularMLPRegressor : The regressor.
    MLPClassifier : One network, on numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from skmlp import TabularMLPClassifier
    >>> size = np.linspace(0, 1, 60)
    >>> color = np.where(np.arange(60) % 2, "red", "blue")
    >>> X = np.array([size, color], dtype=object).T
    >>> y = np.where((size > 0.5) & (color == "red"), "yes", "no")
    >>> clf = TabularMLPClassifier(2, max_iter=30, random_state=0).fit(X, y)
    >>> clf.predict([[0.9, "red"], [0.9, "blue"]])
    array(['yes', 'no'], dtype='<U3')
    """

    _kept_as = "TabularMLPClassifier"  # in files
    _network_class = MLPClassifier
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseTabularMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    @pointing
    def __init__(
        self,
        n_estimators: int = 6,
        hidden_layer_sizes: int | ArrayLike = (256, 256, 256),
        *,
        max_iter: int = 64,
        categorical_features: Any = "from_dtype",
        early_stopping: bool = True,
        validation_fraction: float = 0.15,
        scoring: Any = "loss",
        class_weight: Mapping[Any, float] | str | None = None,
        network_params: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
        verbose: bool | int = False,
    ) -> None:
        self.n_estimators = n_estimators
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_iter = max_iter
        self.categorical_features = categorical_features
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.scoring = scoring
        self.class_weight = class_weight
        self.network_params = network_params
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _encode_targets(self, y: Any) -> Array:
        y = self._labels(y)
        self._encoder = LabelEncoder().fit(y)
        self.classes_ = self._encoder.classes_
        codes: Array = self._encoder.transform(y)
        return codes

    def _labels(self, y: Any, name: str = "y") -> Any:
        values = np.asarray(y).ravel()
        if values.dtype.kind in "fO":
            missing = np.flatnonzero([columns.is_missing(v) for v in values])
            if missing.size:
                raise ValueError(
                    f"Input {name} contains NaN: {missing.size} rows have no class, "
                    f"the first of which is row {missing[0]}. Leave these rows out"
                )
        check_classification_targets(y)
        if type_of_target(y) not in ("binary", "multiclass"):
            raise ValueError(
                f"{name} is a {type_of_target(y)} target, and {type(self).__name__} "
                "takes one column of classes: fit one estimator for each column, for "
                "example with sklearn.multioutput.MultiOutputClassifier"
            )
        return column_or_1d(y, warn=True)

    def _encode_more(self, y: Any) -> Array:
        labels = self._labels(y, "y_val")
        known = self.classes_.tolist()
        unknown = [label for label in np.unique(labels).tolist() if label not in known]
        if unknown:
            raise ValueError(
                f"y_val has labels that y has not: {unknown}; y has {known}"
            )
        codes: Array = self._encoder.transform(labels)
        return codes

    def _row_weights(self, y: Any, weights: Array | None) -> Array | None:
        if self.class_weight is None:
            return weights
        own: Array = compute_sample_weight(self.class_weight, y)
        return own if weights is None else own * weights

    def _strata(self, y: Array) -> Array:
        return y

    def _network(self) -> Any:
        smoothing = 0.05 if len(self.classes_) == 2 else 0.0
        return self._network_class(**NETWORK, label_smoothing=smoothing)

    def _first(self) -> Mapping[str, Any]:
        return {"classes": np.arange(len(self.classes_))}

    def _decoded(self, y: Array) -> Array:
        labels: Array = self.classes_[y]
        return labels

    def _as_numbers(self, y: Array) -> Array:
        return np.eye(len(self.classes_))[y]

    @staticmethod
    def _output(network: Any, X: Array) -> Array:
        # Of a single class it has two columns, as scikit-learn's.
        shares = network.predict_proba(X)[:, : len(network.classes_)]
        return np.asarray(shares, np.float64)

    def _loss_of(self, output: Array, rows: Rows) -> float:
        likely = output[np.arange(len(output)), rows.y]
        return -float(np.average(np.log(likely + TINY), weights=rows.weights))

    def _calibrate(self, output: Array, rows: Rows | None) -> None:
        self.temperature_ = 1.0
        if rows is None:
            return

        def loss(power: float) -> float:
            return self._loss_of(_sharpened(output, 1 / power), rows)

        power = minimize_scalar(loss, bounds=(1.0, MOST_POWER), method="bounded").x
        self.temperature_ = float(1 / power)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes: the mean over the networks, at a temperature.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            The raw table.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`. Of a Dask collection lazily.
        """
        if is_dask(X):
            return self._lazy("predict_proba", X, np.float64, len(self.classes_))
        return self._finished(X, self._shares)

    def _shares(self, outputs: Array) -> Array:
        mean = np.average(outputs, axis=0, weights=self.estimator_weights_)
        return _sharpened(mean, self.temperature_)

    def predict(self, X: Any) -> Any:
        """Predict the most probable class.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            The raw table.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels. Of a Dask collection lazily.
        """
        check_is_fitted(self)
        if is_dask(X):
            return self._lazy("predict", X, self.classes_.dtype, None)
        codes = self._finished(X, lambda outputs: self._shares(outputs).argmax(axis=1))
        labels: Array = self.classes_[codes]
        return labels
