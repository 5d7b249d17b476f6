"""The regressor for raw tables."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.utils.validation import _check_y, check_is_fitted

from skmlp.arrays import Array
from skmlp.estimators.fitting.inputs import is_dask
from skmlp.estimators.regressor import MLPRegressor
from skmlp.estimators.suggestions import pointing
from skmlp.tabular.base import NETWORK, BaseTabularMLP
from skmlp.tabular.members import Rows


class TabularMLPRegressor(RegressorMixin, BaseTabularMLP):
    """Regressor for raw tables: several networks behind an encoding of their own.

    Parameters
    ----------
    n_estimators : int, default=6
        Networks whose predictions are averaged.
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
        What the best weights are the best by, as in `MLPRegressor`; by default minus
        the loss on the held-out rows. A function is called with the estimator, as if
        of one network, and with rows and targets as they came.
    network_params : dict, default=None
        Parameters of the networks that replace the defaults, such as
        ``{"dropout": 0.3}``; see `MLPRegressor`. By default none.
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
    preprocessor_ : TableEncoder
        What makes numbers of the raw table.
    estimators_ : list of MLPRegressor
        The networks. Their targets have mean 0 and deviation 1, and their
        `input_encoding` says what each makes of the table: every other one sees no
        ramps.
    estimator_weights_ : ndarray of shape (n_estimators,)
        Weights of the networks in the mean, by the loss on the held-out rows. Their
        sum is 1.
    n_iter_ : int
        The most epochs of one of them.
    n_features_in_ : int
        Columns of the table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if it had any.

    See Also
    --------
    TabularMLPClassifier : The classifier.
    MLPRegressor : One network, on numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from skmlp import TabularMLPRegressor
    >>> size = np.linspace(0, 1, 80)
    >>> color = np.where(np.arange(80) % 2, "red", "blue")
    >>> X = np.array([size, color], dtype=object).T
    >>> y = np.where(color == "red", 2 * size, 1 - size)
    >>> reg = TabularMLPRegressor(2, random_state=0).fit(X, y)
    >>> reg.score(X, y) > 0.9
    True
    """

    _kept_as = "TabularMLPRegressor"  # in files
    _network_class = MLPRegressor

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
        self.network_params = network_params
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _encode_targets(self, y: Any) -> Array:
        table = self._as_table(y)
        self._one_column = np.asarray(y).ndim == 1
        self._mean, self._deviation = table.mean(axis=0), table.std(axis=0)
        self._deviation[self._deviation == 0] = 1
        self._range = table.min(axis=0), table.max(axis=0)
        return self._scaled(table)

    def _as_table(self, y: Any) -> Array:
        found = _check_y(y, multi_output=True, y_numeric=True, estimator=self)
        return np.asarray(found, np.float64).reshape(len(found), -1)

    def _scaled(self, table: Array) -> Array:
        scaled: Array = ((table - self._mean) / self._deviation).astype(np.float32)
        return scaled[:, 0] if scaled.shape[1] == 1 else scaled

    def _encode_more(self, y: Any) -> Array:
        return self._scaled(self._as_table(y))

    def _network(self) -> Any:
        return self._network_class(**NETWORK)

    def _decoded(self, y: Array) -> Array:
        return self._shaped(y.reshape(len(y), -1) * self._deviation + self._mean)

    def _as_numbers(self, y: Array) -> Array:
        return y.reshape(len(y), -1).astype(np.float64)

    @staticmethod
    def _output(network: Any, X: Array) -> Array:
        return np.asarray(network.predict(X), np.float64).reshape(len(X), -1)

    def _loss_of(self, output: Array, rows: Rows) -> float:
        errors = np.square(output - rows.y.reshape(output.shape)).mean(axis=1)
        return float(np.average(errors, weights=rows.weights))

    def _calibrate(self, output: Array, rows: Rows | None) -> None:
        """Keep the sorted absolute errors."""
        self._errors = None
        if rows is not None:
            errors = abs(output - rows.y.reshape(output.shape)) * self._deviation
            self._errors = np.sort(errors, axis=0)

    def _mean_of(self, outputs: Array) -> Array:
        values = self._values(outputs)
        mean: Array = np.average(values, axis=0, weights=self.estimator_weights_)
        return mean

    def _values(self, outputs: Array) -> Array:
        """What the outputs of networks predict."""
        values: Array = outputs * self._deviation + self._mean
        return values.clip(*self._range)

    def _shaped(self, table: Array) -> Array:
        return table[:, 0] if self._one_column else table

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict targets: the mean over the networks, within the targets of `fit`.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            The raw table.
        return_std : bool, default=False
            Return the deviation between the networks, too. It says how much they
            disagree, not how far targets scatter: see `predict_interval`.

        Returns
        -------
        y_mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The predictions. Of a Dask collection lazily.
        y_std : ndarray of the same shape
            Only if `return_std`. To compute both at once, use ``dask.compute``.
        """
        check_is_fitted(self)
        if is_dask(X):
            n_columns = None if self._one_column else len(self._mean)
            if return_std:
                from skmlp.tabular import on_dask

                return on_dask.mean_and_std(self, X, n_columns)
            return self._lazy("predict", X, np.float64, n_columns)
        if not return_std:
            return self._shaped(self._finished(X, self._mean_of))
        mean, deviation = np.hsplit(self._mean_and_std(X), 2)
        return self._shaped(mean), self._shaped(deviation)

    def _mean_and_std(self, X: Any) -> Array:
        """Predictions, and beside them the deviations."""

        def both(outputs: Array) -> Array:
            deviation = self._values(outputs).std(axis=0)
            return np.concatenate([self._mean_of(outputs), deviation], axis=1)

        found: Array = self._finished(X, both)
        return found

    def predict_interval(self, X: Any, confidence_level: float = 0.9) -> Any:
        """Intervals that hold a new target with a given probability.

        Split conformal prediction: the half width is a quantile of the errors that the
        networks made on the rows that they held out. It is valid for rows that come
        from where those of `fit` came from.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            The raw table.
        confidence_level : float, default=0.9
            The probability, in (0, 1).

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, n_outputs, 2)
            Lower and upper ends. Of a Dask array lazily; of a Dask frame a frame with
            the columns "lower" and "upper", or "lower 0", "upper 0", "lower 1" and so
            on of several targets.

        Raises
        ------
        ValueError
            No rows were held out, or too few for this level.
        """
        check_is_fitted(self)
        is_number = isinstance(confidence_level, Real)
        if not (is_number and 0 < confidence_level < 1):
            raise ValueError(
                f"confidence_level={confidence_level!r} must be a number between 0 "
                "and 1"
            )
        if self._errors is None:
            raise ValueError(
                "predict_interval needs rows that the networks held out: fit with "
                "early_stopping=True and more rows"
            )
        n = len(self._errors)
        rank = int(np.ceil((n + 1) * confidence_level))
        if rank > n:
            raise ValueError(
                f"{n} held-out rows are too few for confidence_level="
                f"{confidence_level}: at most {n / (n + 1):.3f}"
            )
        half = self._errors[rank - 1]
        if is_dask(X):
            from skmlp.tabular import on_dask

            return on_dask.intervals(self, X, half, self._one_column)
        ends = self._ends(X, half)
        return ends if self._one_column else ends.reshape(len(ends), -1, 2)

    def _ends(self, X: Any, half: Array) -> Array:
        """Lower and upper end for each target, beside each other."""
        mean = self._finished(X, self._mean_of)
        return np.stack([mean - half, mean + half], axis=-1).reshape(len(mean), -1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
