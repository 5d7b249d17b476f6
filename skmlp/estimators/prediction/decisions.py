"""From what a classifier's network gives to probabilities and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skmlp.arrays import arrays_of, xp_of
from skmlp.estimators.fitting.inputs import is_dask
from skmlp.estimators.targets.labels import Labels


class DecisionsMixin(BaseEstimator):
    """The predictions of a classifier."""

    def predict(self, X: Any) -> Any:
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows. A Dask array gives a lazy Dask array.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels or n_columns)
            The labels.
        """
        if not hasattr(self, "coefs_"):  # it costs a third of the check
            check_is_fitted(self)
        target: Labels = self._target
        if is_dask(X):
            return self._lazy(
                "predict", X, dtype=target.dtype, n_columns=target.n_columns
            )
        if target.sparse and arrays_of(self.coefs_[0]) is None:
            found: list[Any] = []
            self._forward(X, finish=lambda raw, _: found.append(target.predicted(raw)))
            return sparse.vstack(found, format="csr") if len(found) > 1 else found[0]
        return self._forward(X, finish=lambda raw, _: target.decided(raw))

    def predict_proba(self, X: Any) -> Any:
        """Predict probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows. A Dask array gives a lazy Dask array.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples, n_labels), or list
            In the order of `classes_`. For several columns of classes, an array for
            each of them.
        """
        if not hasattr(self, "coefs_"):
            check_is_fitted(self)
        target: Labels = self._target
        if not is_dask(X):
            return self._forward(X, finish=lambda raw, _: target.probabilities(raw))
        if not target.heads:
            return self._lazy("predict_proba", X, n_columns=max(self.n_outputs_, 2))
        from skmlp.estimators.prediction import lazy

        return lazy.probabilities_of_heads(self, X)

    def predict_log_proba(self, X: Any) -> Any:
        """Predict the logarithms of probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes) or (n_samples, n_labels), or list
            ``log(predict_proba(X))``.
        """
        probabilities = self.predict_proba(X)
        several = isinstance(probabilities, list)
        each = probabilities if several else [probabilities]
        in_numpy = isinstance(each[0], np.ndarray)
        logs = [np.log(p, out=p) if in_numpy else xp_of(p).log(p) for p in each]
        return logs if several else logs[0]
