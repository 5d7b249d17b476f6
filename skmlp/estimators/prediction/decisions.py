"""From what a classifier's network gives to probabilities and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skmlp.estimators.fitting.inputs import is_dask
from skmlp.estimators.targets import multioutput
from skmlp.model.layout import Array
from skmlp.model.metrics import labels_of


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
        if is_dask(X):
            check_is_fitted(self)
            if multioutput.widths(self):
                dtype = multioutput.dtype_of(self.classes_)
                columns = len(self.classes_)
                return self._lazy("predict", X, dtype=dtype, n_columns=columns)
            multilabel = self._label_binarizer.y_type_.startswith("multilabel")
            dtype = np.dtype(int) if multilabel else self.classes_.dtype
            n_columns = self.n_outputs_ if multilabel else None
            return self._lazy("predict", X, dtype=dtype, n_columns=n_columns)
        if getattr(getattr(self, "_label_binarizer", None), "sparse_input_", False):
            found = []
            self._forward(X, finish=lambda *block: found.append(self._labels(*block)))
            return sparse.vstack(found, format="csr") if len(found) > 1 else found[0]
        return self._forward(X, finish=self._labels)

    def _labels(self, raw: Array, rows: Any) -> Any:
        """The labels of a block of rows."""
        heads = multioutput.widths(self)
        if heads:
            return multioutput.decode(self, labels_of(raw, heads))
        kind, classes = self._label_binarizer.y_type_, self.classes_
        # The two usual cases of what the binarizer does, without its checks: they would
        # cost as much as the network does for a single row.
        if kind == "multiclass" and self.n_outputs_ > 1:
            return classes.take(raw.argmax(axis=1))
        if kind == "binary" and self.n_outputs_ == 1 and len(classes) == 2:
            return classes.take(raw.ravel() > 0.5)
        return self._label_binarizer.inverse_transform(
            raw.ravel() if self.n_outputs_ == 1 else raw
        )

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
        if is_dask(X):
            check_is_fitted(self)
            if multioutput.widths(self):
                from skmlp.estimators.prediction import lazy

                return lazy.probabilities_of_heads(self, X)
            return self._lazy("predict_proba", X, n_columns=max(self.n_outputs_, 2))
        if not hasattr(self, "coefs_"):  # it costs a third of the check
            check_is_fitted(self)
        heads = multioutput.widths(self)
        if heads:
            return self._forward(X, finish=lambda raw, _: _copies(raw, heads))
        if self.n_outputs_ > 1:
            return self._forward(X)
        return self._forward(X, finish=lambda raw, _: np.hstack([1 - raw, raw]))

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
        logs = [np.log(p) if is_dask(X) else np.log(p, out=p) for p in each]
        return logs if several else logs[0]


def _copies(raw: Array, heads: Sequence[int]) -> list[Array]:
    """The columns of each head, in arrays of their own."""
    return [block.copy() for block in multioutput.blocks(raw, heads)]
