"""The three kinds of targets of classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_array, column_or_1d

from skmlp.arrays import AnyArray, Array, arrays_of, xp_of
from skmlp.data.checks import check_target
from skmlp.data.frames import as_values, is_frame
from skmlp.data.partitions import PartStats
from skmlp.data.targets import are_texts, encode
from skmlp.estimators.fitting.fast_checks import checked_pair
from skmlp.estimators.targets import columns as label_columns
from skmlp.estimators.targets.target import Target
from skmlp.model.losses import entry, split
from skmlp.model.metrics import decided, labels_of
from skmlp.model.predict import row_blocks
from skmlp.model.special import concat


class Labels(Target):
    """Targets of classes."""

    labels: list[Array]
    #: Of predictions: their dtype, and how many columns they have; None for one
    #: dimension.
    dtype: np.dtype[Any]
    n_columns: int | None
    #: Whether predictions are sparse, as the targets were.
    sparse = False

    @abstractmethod
    def encode(self, y: Any) -> Array:
        """Labels as the loss takes them."""

    @abstractmethod
    def predicted(self, raw: Array) -> Any:
        """The likeliest labels."""

    def decided(self, raw: AnyArray) -> Any:
        """As `predicted`, where `raw` lies."""
        arrays = arrays_of(raw)
        if arrays is None:
            return self.predicted(raw)
        codes = decided(arrays.xp, entry(self.loss).target, raw, self.heads)
        codes = codes[:, None] if codes.ndim == 1 else codes
        columns = [codes[:, j] for j in range(codes.shape[1])]
        pairs = zip(self.labels, columns, strict=True)
        each = [arrays.looked_up(known.astype(self.dtype), c) for known, c in pairs]
        return each[0] if self.n_columns is None else xp_of(each[0]).stack(each, axis=1)

    def probabilities(self, raw: Array) -> Any:
        """Those of each class, in an array or in one for each column."""
        return raw

    def check_known(self, columns: Sequence[Array]) -> None:
        """ValueError if validation targets have labels that the training has not."""
        known = self.labels[0]
        for labels in columns:
            unknown = np.setdiff1d(labels, known)
            if unknown.size:
                raise ValueError(
                    f"y_val has labels that y has not: {unknown}; y has {known}"
                )

    def check_stats(self, stats: PartStats) -> None:
        """See `check_known`."""
        self.check_known([labels for labels, _ in stats.labels])

    def scored(self, y: Any, n_outputs: int) -> Any:
        """By scikit-learn."""
        return None


class Classes(Labels):
    """One column of classes."""

    n_columns = None

    def __init__(self, binarizer: LabelBinarizer, classes: Any, smoothing: float):
        self._binarizer, self._classes = binarizer, np.asarray(classes)
        self.labels, self.dtype = [self._classes], self._classes.dtype
        self._several = binarizer.y_type_ == "multiclass"
        loss = "softmax_log_loss" if self._several else "logistic_log_loss"
        self.loss, self.settings = _smoothed(loss, smoothing)

    def n_outputs(self, n_columns: int) -> int:
        """The number of classes; 1 for two of them."""
        return len(self._classes) if self._several else n_columns

    def encode(self, y: Any) -> Array:
        """The index of each label, or whether it is the second one."""
        return encode(entry(self.loss).target, self._classes, y, None)

    def decode(self, y: Array) -> Any:
        """Labels in one dimension."""
        return self._classes.take(y[:, 0].astype(np.intp))

    def predicted(self, raw: Array) -> Any:
        """Labels in one dimension."""
        # The two usual cases of what the binarizer does, without its checks: they would
        # cost as much as the network does for a single row.
        if self._several and raw.shape[1] > 1:
            return self._classes.take(raw.argmax(axis=1))
        if not self._several and raw.shape[1] == 1 and len(self._classes) == 2:
            return self._classes.take(raw.ravel() > 0.5)
        return self._binarizer.inverse_transform(
            raw.ravel() if raw.shape[1] == 1 else raw
        )

    def probabilities(self, raw: Array) -> Any:
        """Of both classes where there are two."""
        return raw if raw.shape[1] > 1 else concat(xp_of(raw), [1 - raw, raw])

    def check_validation(self, estimator: Any, X: Any, y: Any) -> tuple[Any, Array]:
        """Refuse several columns, and unknown labels."""
        X, y = checked_labels(estimator, X, y, reset=False)
        if y.ndim == 2:
            raise ValueError(_OTHER_KIND.format(self._binarizer.y_type_))
        self.check_known([y])
        return X, self.encode(y)

    def compared(self, raw: Array, y: Array) -> tuple[Array, Array]:
        """Encode labels."""
        y, classes = y.reshape(-1), self._classes
        known = np.isin(y, classes) if len(classes) else np.ones(len(y), bool)
        codes = self.encode(y if known.all() else np.where(known, y, classes[0]))
        if known.all():
            return raw, codes
        if codes.ndim == 1:
            codes[~known] = -1
            return raw, codes
        return np.where(known[:, None], raw, np.nan), np.where(known[:, None], codes, 1)


class Indicator(Labels):
    """Several columns of 0 and 1: labels that may all apply."""

    dtype = np.dtype(int)

    def __init__(self, binarizer: LabelBinarizer, classes: Any, smoothing: float):
        self._binarizer, self._classes = binarizer, np.asarray(classes)
        self.n_columns = len(classes)
        self.labels = [np.arange(2)] * self.n_columns
        self.loss, self.settings = _smoothed("logistic_log_loss", smoothing)
        self.sparse = bool(binarizer.sparse_input_)

    def n_outputs(self, n_columns: int) -> int:
        """One for each label."""
        return n_columns

    def encode(self, y: Any) -> Array:
        """A dense table of 0 and 1."""
        return encode("indicator", self._classes, self._binarizer.transform(y), None)

    def decode(self, y: Array) -> Any:
        """As integers."""
        return y.astype(int)

    def predicted(self, raw: Array) -> Any:
        """A table of 0 and 1."""
        return self._binarizer.inverse_transform(raw)

    def check_validation(self, estimator: Any, X: Any, y: Any) -> tuple[Any, Array]:
        """Refuse one column, and other numbers."""
        X, y = checked_labels(estimator, X, y, reset=False)
        if y.ndim != 2:
            raise ValueError(_OTHER_KIND.format(self._binarizer.y_type_))
        self.check_known([y.data if sparse.issparse(y) else y])
        return X, self.encode(y)

    def scored(self, y: Any, n_outputs: int) -> Any:
        """As they are; by scikit-learn if it should have a word on them."""
        y = y.tocsr() if sparse.issparse(y) else np.asarray(y)
        if y.ndim != 2 or y.shape[1] != n_outputs or y.dtype == object:
            return None
        blocks = row_blocks(*y.shape)
        return None if any(label_columns.several(y[rows]) for rows in blocks) else y

    def compared(self, raw: Array, y: Array) -> tuple[Array, Array]:
        """Encode labels."""
        return raw, encode("indicator", self._classes, y, None)


class Columns(Labels):
    """Several columns of classes: the output layer has a softmax head for each."""

    loss = "softmax_heads_log_loss"

    def __init__(self, classes: list[Array], smoothing: float):
        self.labels, self.n_columns = classes, len(classes)
        self.heads = tuple(map(len, classes))
        self.settings = (float(smoothing), *map(float, self.heads))

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override] # computed where asked
        """The dtype of labels of several columns together."""
        kinds = {
            "U" if are_texts(c) else "b" if c.dtype == bool else "n"
            for c in self.labels
        }
        # Numbers and texts would become texts, and booleans numbers.
        return np.dtype(object) if len(kinds) > 1 else np.result_type(*self.labels)

    def n_outputs(self, n_columns: int) -> int:
        """The columns of all heads."""
        return sum(self.heads)

    def encode(self, y: Any) -> Array:
        """The index of each label."""
        return encode("heads", self.labels, y, None)

    def decode(self, y: Array) -> Any:
        """Labels from the index of each."""
        codes = y.astype(np.intp)
        labels = np.empty(codes.shape, self.dtype)
        for j, known in enumerate(self.labels):
            labels[:, j] = known.take(codes[:, j])
        return labels

    def predicted(self, raw: Array) -> Any:
        """The likeliest label of each column."""
        return self.decode(labels_of(np, raw, self.heads))

    def probabilities(self, raw: Array) -> Any:
        """An array for each column."""
        return [block + 0 for block in split(raw, self.heads)]

    def check_validation(self, estimator: Any, X: Any, y: Any) -> tuple[Any, Array]:
        """Refuse another number of columns, and unknown labels."""
        X, y = checked_labels(estimator, X, y, reset=False)
        self.check_known(label_columns.found(y))
        return X, self.encode(y)

    def check_known(self, columns: Sequence[Array]) -> None:
        """Compare with the classes of each column."""
        columns = label_columns.natural(columns)
        check_number(len(self.heads), len(columns))
        odd = self.unknown(columns)
        if odd is not None:
            j, labels = odd
            raise ValueError(
                f"y_val has labels that y has not: {labels} in column {j}, where y has "
                f"{self.labels[j]}"
            )

    def unknown(self, columns: Sequence[Array]) -> tuple[int, Array] | None:
        """The first column with labels that are not known: number and labels."""
        for j, (known, labels) in enumerate(zip(self.labels, columns, strict=True)):
            odd = labels[encode("heads", [known], labels[:, None], None)[:, 0] < 0]
            if odd.size:
                return j, odd
        return None

    def check_scoring(self, scoring: str) -> None:
        """scikit-learn's scorers take no such targets."""
        raise ValueError(
            f"scoring={scoring!r}: scikit-learn's scorers take no targets of "
            "several columns of classes. None scores by the share of rows with all "
            "labels right, 'loss' by the validation loss; a function "
            "scorer(estimator, X, y) may do as it likes"
        )

    def scored(self, y: Any, n_outputs: int) -> Any:
        """Encoded."""
        if is_frame(y):
            y = as_values(y)
        y = check_array(y, dtype=None, ensure_2d=False, input_name="y")
        if y.ndim != 2:
            y = y.reshape(-1, 1)
        check_number(len(self.heads), y.shape[1])
        columns = zip(self.labels, label_columns.columns_of(y), strict=True)
        return np.column_stack(
            [
                encode("heads", [known], labels[:, None], None)
                for known, labels in columns
            ]
        )

    def compared(self, raw: Array, y: Array) -> tuple[Array, Array]:
        """Encode labels."""
        return raw, self.encode(y)


def _smoothed(loss: str, smoothing: float) -> tuple[str, tuple[float, ...]]:
    return (f"smoothed_{loss}", (float(smoothing),)) if smoothing else (loss, ())


_OTHER_KIND = "y_val is not of the kind of y, which is {}"


def check_number(n_heads: int, n_columns: int) -> None:
    """ValueError unless targets have as many columns as the model has heads."""
    if n_columns == n_heads:
        return
    if not n_heads:
        raise ValueError(
            f"y has {n_columns} columns of classes, but this model was begun with "
            "targets of another kind. For several targets, the first call of "
            "partial_fit takes a list with the labels of each as `classes`"
        )
    raise ValueError(
        f"y has {n_columns} column(s), but this model was begun with {n_heads} columns "
        "of classes"
    )


def checked_labels(estimator: Any, X: Any, y: Any, *, reset: bool) -> tuple[Any, Any]:
    """Validate rows and labels, which stay as they are."""
    if is_frame(y) and y.shape[1] > 1:
        # scikit-learn wants the columns of a frame to be of one kind.
        y = as_values(y)
        check_target(y)
    X, y = checked_pair(estimator, X, y, reset=reset)
    if y.dtype == object and y.ndim == 2:
        y = label_columns.plain(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    return X, y
