"""From labels to what the losses take, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    type_of_target,
    unique_labels,
)

from skmlp.data.checks import check_target
from skmlp.data.frames import as_values, is_frame
from skmlp.data.targets import encode
from skmlp.estimators.fitting.fast_checks import binarizer_of, checked_pair
from skmlp.estimators.fitting.inputs import is_dask
from skmlp.estimators.fitting.validation_rows import check_known
from skmlp.estimators.targets import multioutput
from skmlp.model.layout import Array
from skmlp.model.losses import entry


class LabelsMixin(BaseEstimator):
    """What a classifier does with labels before they are trained on."""

    classes_: Any

    @property
    def n_classes_(self) -> list[int]:
        """The number of classes of each target, as a list, where there are several."""
        heads = multioutput.widths(self)
        if not heads:
            raise AttributeError(
                f"{type(self).__name__} has n_classes_ where it is fitted to several "
                "columns of classes; the number of those of one is len(classes_)"
            )
        return list(heads)

    def _begin_in_pieces(
        self, X: Any, y: Any, sample_weight: Any, classes: Any
    ) -> tuple[Any, Any, Any]:
        """Define the classes in the first call of `partial_fit`."""
        of_columns = None if classes is None else multioutput.given(classes)
        if of_columns is None and not self._is_first_call(classes):
            return X, y, sample_weight
        some = y
        if is_dask(y):
            from skmlp.estimators.fitting import dask_driver

            X, y, sample_weight = dask_driver.understand(X, y, sample_weight)
            some = dask_driver.labels_like(y)
        shape = np.shape(some)
        n_columns = shape[1] if len(shape) == 2 else 1
        if of_columns is not None:
            multioutput.first_call(self, of_columns, n_columns)
            return X, y, sample_weight
        if n_columns > 1 and not sparse.issparse(some):
            multioutput.check_one_block(self, np.asarray(some))
        multilabel = type_of_target(some).startswith("multilabel")
        if multilabel and not np.array_equal(self.classes_, np.arange(n_columns)):
            raise ValueError(
                f"`classes={classes!r}`, but y has {n_columns} columns of 0 and 1, "
                "which are labels that may all apply: their classes are the numbers "
                f"of the columns, range({n_columns}). For several targets, each with "
                "classes of its own, give a list with the labels of each"
            )
        self._label_binarizer = LabelBinarizer().fit(some if multilabel else classes)
        return X, y, sample_weight

    def _is_first_call(self, classes: Any) -> bool:
        if classes is not None and multioutput.widths(self):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to "
                f"partial_fit, was: {self.classes_!r}"
            )
        return bool(_check_partial_fit_first_call(self, classes))

    def _check_targets(
        self, X: Any, y: Any, *, incremental: bool, reset: bool
    ) -> tuple[Any, Array]:
        X, y = self._check_pair(X, y, reset=reset)
        if multioutput.several(y) or self._goes_on_with_heads(incremental):
            found = multioutput.found(y)
            multioutput.check_classes(self, found, incremental=incremental)
        else:
            self._check_classes(y, incremental=incremental)
        return X, self._encode(y)

    def _check_labels(self, columns: Sequence[Array], *, incremental: bool) -> None:
        """Define `classes_`, or compare with them, from the labels of each column."""
        one = len(columns) == 1
        natural = columns if one else multioutput.natural(columns)
        some = not one and not multioutput.are_indicators(natural)
        if some or self._goes_on_with_heads(incremental):
            multioutput.check_classes(self, natural, incremental=incremental)
            return
        labels = columns[0] if one else np.indices((2, len(columns)))[0]
        self._check_classes(labels, incremental=incremental)

    def _goes_on_with_heads(self, incremental: bool) -> bool:
        return bool(multioutput.widths(self)) and (self.warm_start or incremental)

    def _check_validation(self, X: Any, y: Any) -> tuple[Any, Array]:
        X, y = self._check_pair(X, y, reset=False)
        if multioutput.widths(self):
            multioutput.check_known(self, multioutput.found(y))
            return X, self._encode(y)
        kind = self._label_binarizer.y_type_
        multilabel = kind.startswith("multilabel")
        if multilabel != (y.ndim == 2):
            raise ValueError(f"y_val is not of the kind of y, which is {kind}")
        labels = y.data if sparse.issparse(y) else y
        check_known(labels, [0, 1] if multilabel else self.classes_)
        return X, self._encode(y)

    def _check_pair(self, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
        if is_frame(y) and y.shape[1] > 1:
            # scikit-learn wants the columns of a frame to be of one kind.
            y = as_values(y)
            check_target(y)
        X, y = checked_pair(self, X, y, reset=reset)
        if y.dtype == object and y.ndim == 2:
            y = multioutput.plain(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _check_classes(self, y: Any, *, incremental: bool) -> None:
        """Define `classes_`, or compare the labels with them."""
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = binarizer_of(y)
            self.classes_ = self._label_binarizer.classes_
            return
        classes = unique_labels(y)
        if self.warm_start and not incremental:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in "
                    f"the previous call to fit. Previously got {self.classes_}, `y` "
                    f"has {classes}"
                )
        elif len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _decode(self, y: Any) -> Any:
        if multioutput.widths(self):
            return multioutput.decode(self, y.astype(np.intp))
        if self._label_binarizer.y_type_.startswith("multilabel"):
            return y.astype(int)
        return self.classes_.take(y[:, 0].astype(np.intp))

    def _encode(self, y: Any) -> Array:
        """Labels as the loss takes them."""
        if multioutput.widths(self):
            return encode("heads", self.classes_, y, None)
        if self._label_binarizer.y_type_.startswith("multilabel"):
            y = self._label_binarizer.transform(y)
        return encode(entry(self._loss_name()).target, self.classes_, y, None)
