"""From labels to what the losses take, and back."""

from __future__ import annotations

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import unique_labels

from skmlp.data.targets import encode
from skmlp.estimators._plain import binarizer_of, checked_pair
from skmlp.estimators._validation import check_known
from skmlp.model.losses import entry


class LabelsMixin:
    """What a classifier does with labels before they are trained on."""

    def _check_targets(self, X, y, *, incremental, reset):
        X, y = self._check_pair(X, y, reset=reset)
        self._check_classes(y, incremental=incremental)
        return X, self._encode(y)

    def _check_validation(self, X, y):
        X, y = self._check_pair(X, y, reset=False)
        kind = self._label_binarizer.y_type_
        multilabel = kind.startswith("multilabel")
        if multilabel != (y.ndim == 2):
            raise ValueError(f"y_val is not of the kind of y, which is {kind}")
        check_known(y, [0, 1] if multilabel else self.classes_)
        return X, self._encode(y)

    def _check_pair(self, X, y, *, reset):
        X, y = checked_pair(self, X, y, reset=reset)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _check_classes(self, y, *, incremental):
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

    def _decode(self, y):
        if self._label_binarizer.y_type_.startswith("multilabel"):
            return y.astype(int)
        return self.classes_.take(y[:, 0].astype(np.intp))

    def _encode(self, y):
        """Labels as the loss takes them."""
        if self._label_binarizer.y_type_.startswith("multilabel"):
            y = self._label_binarizer.transform(y)
        return encode(entry(self._loss_name()).target, self.classes_, y, None)
