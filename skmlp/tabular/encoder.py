"""A raw table as the dense numbers that a network learns well from.

Numbers are scaled robustly and clipped smoothly, as RealMLP does (arXiv 2407.04491),
and followed by ramps between their quantiles (the piecewise-linear encoding of arXiv
2203.05556). Categories are one-hot, with the rare ones together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from skmlp.arrays import Array
from skmlp.exceptions import ModelQualityWarning
from skmlp.kernels.reference import RAMP
from skmlp.model.input_encoding import InputEncoding, category, number
from skmlp.tabular import columns
from skmlp.tabular.summary import Summary

#: The largest scaled number: float32 has it, and its square.
MOST = 1e18
#: What stands for rare and for unknown categories, as in scikit-learn.
RARE = "infrequent_sklearn"


class TableEncoder(TransformerMixin, BaseEstimator):
    """Encode a raw table of numbers, categories, booleans and dates as numbers.

    Parameters
    ----------
    categorical_features : 'from_dtype', array-like of bool, int or str, or None, \
            default='from_dtype'
        Columns that are categories. Columns of texts, objects or pandas' categories
        always are; the others are named by a mask, by index or by name.
    n_ramps : int, default=16
        The most ramps of a number. Fewer where its quantiles are equal.
    min_frequency : int, default=5
        Categories with fewer rows are taken together.

    Attributes
    ----------
    n_features_in_ : int
        Columns of the table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if it had any.
    one_hot_ : OneHotEncoder or None
        Fitted on the categories.
    centers_, scales_ : ndarray of shape (n_numbers,)
        Median of each number, and what it is multiplied by.
    edges_ : list of ndarray
        The quantiles between which the ramps of each number rise.
    is_ramp_ : ndarray of bool
        Which of the encoded columns are ramps.
    weights_ : ndarray of float
        What the encoded columns are multiplied by: 1, unless an estimator has found how
        much a column says about its targets.

    Examples
    --------
    >>> import numpy as np
    >>> from skmlp.tabular.encoder import TableEncoder
    >>> X = np.array([[1.0, "a"], [2.0, "b"], [3.0, "a"]], dtype=object)
    >>> TableEncoder(n_ramps=0, min_frequency=1).fit_transform(X).round(2)
    array([[-0.95,  1.  ,  0.  ],
           [ 0.  ,  0.  ,  1.  ],
           [ 0.95,  1.  ,  0.  ]], dtype=float32)
    """

    _kept_as = "TableEncoder"  # in files
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "categorical_features": [StrOptions({"from_dtype"}), "array-like", None],
        "n_ramps": [Interval(Integral, 0, None, closed="left")],
        "min_frequency": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        categorical_features: Any = "from_dtype",
        n_ramps: int = 16,
        min_frequency: int = 5,
    ) -> None:
        self.categorical_features = categorical_features
        self.n_ramps = n_ramps
        self.min_frequency = min_frequency

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn quantiles and categories.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            The table.
        y : None
            Not used.

        Returns
        -------
        self : TableEncoder
            Fitted.
        """
        self._fit(X)
        return self

    def fit_transform(self, X: Any, y: Any = None, **options: Any) -> Array:
        """Fit, and encode the same table; see `fit` and `transform`.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            The table.
        y : None
            Not used.
        **options
            None are taken.

        Returns
        -------
        ndarray of shape (n_samples, n_encoded), float32
            The numbers.
        """
        self._validate_params()
        table = self.columns(X, fit=True)
        return self.input_encoding().encode(table)

    def _fit(self, X: Any) -> list[list[columns.Column]]:
        found = columns.read(*self._checked(X, reset=True), self)
        parts = [column.parts() for column in found]
        self.learn([[Summary.of(one) for one in group] for group in parts])
        return parts

    def learn(self, groups: Sequence[Sequence[Summary]]) -> None:
        """Fit to what the columns hold; a date is a group of several numbers."""
        summaries = [one for group in groups for one in group]
        self._kinds = [
            "dates" if len(one) > 1 else "numbers" if one[0].is_number else "texts"
            for one in groups
        ]
        self._is_known = [len(one.values) + len(one.counts) > 0 for one, *_ in groups]
        self._names = [one.name for one in summaries]
        self._is_number = [one.is_number for one in summaries]
        numbers = [one for one in summaries if one.is_number]
        words = [one for one in summaries if not one.is_number]
        self.centers_, self.scales_ = np.zeros((2, len(numbers)))
        self.edges_: list[Array] = []
        self._with_missing = np.array([one.n_missing > 0 for one in numbers], bool)
        levels = np.linspace(0, 1, self.n_ramps + 1)
        for j, one in enumerate(numbers):
            if len(one.values) == 0:
                self.edges_.append(np.empty(0))
                continue
            low, self.centers_[j], high = one.quantiles([0.25, 0.5, 0.75])
            spread = high - low or (one.values[-1] - one.values[0]) / 2
            self.scales_[j] = 1 / spread if spread > 0 else 0.0
            different = np.unique(one.values)
            edges = different
            if len(edges) > self.n_ramps + 1:
                # Many a number is 0 most of the time: the others are to be seen, too.
                level = one.levelled(1 / max(self.n_ramps, 1))
                edges = np.unique(level.quantiles(levels))
            # Two values have nothing between them: the scaled number says it all.
            several = self.n_ramps > 0 and len(different) > 2
            self.edges_.append(edges if several else np.empty(0))
        self.one_hot_ = None
        if words:
            kept = [one.categories(self.min_frequency, RARE) for one in words]
            _warn_of_rare(words, kept, self.min_frequency)
            self.one_hot_ = OneHotEncoder(
                categories=kept,
                handle_unknown="ignore",
                sparse_output=False,
                dtype=np.float32,
            ).set_output(transform="default")
            self.one_hot_.fit(np.array([[own[0] for own in kept]], object))
        self.weights_: Array | float = 1.0
        inputs = self.input_encoding()
        self.weights_ = inputs.weights
        of_numbers = inputs.sources < len(numbers)
        self.is_ramp_ = (inputs.kinds == RAMP) & of_numbers

    def transform(self, X: Any) -> Array:
        """Encode a table.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            The table, of the same columns. Unknown categories count as rare ones, and
            a number that is missing where none was is the median.

        Returns
        -------
        ndarray of shape (n_samples, n_encoded), float32
            The numbers.
        """
        return self.encode(X)

    def encode(self, X: Any) -> Array:
        """The numbers as an array, whatever `set_output` says."""
        table = self.columns(X)
        return self.input_encoding().encode(table)

    def columns(self, X: Any, *, fit: bool = False) -> Array:
        """A table as few numbers, in float32, of which `input_encoding` makes many.

        The scaled numbers; which of them are missing, where any was in `fit`; and the
        numbers of the categories.
        """
        if fit:
            groups = self._fit(X)
        else:
            check_is_fitted(self)
            found = columns.read(*self._checked(X, reset=False), self)
            fitted = zip(found, self._kinds, self._is_known, strict=True)
            groups = [columns.as_kind(*one).parts() for one in fitted]
        parts = [one for group in groups for one in group]
        numbers = [c.values for c in parts if c.is_number]
        words = [c.values for c in parts if not c.is_number]
        gaps = self._gap_columns()
        n_columns = len(numbers) + int(self._with_missing.sum()) + len(words)
        table = np.empty((len(parts[0].values), n_columns), np.float32)
        for j, values in enumerate(numbers):
            missing = np.isnan(values)
            scaled = (values - self.centers_[j]) * self.scales_[j]
            table[:, j] = np.clip(np.where(missing, 0.0, scaled), -MOST, MOST)
            if self._with_missing[j]:
                table[:, gaps[j]] = missing
        for j, texts in enumerate(words, n_columns - len(words)):
            table[:, j] = self._codes(j - n_columns, texts)
        return table

    def input_encoding(self) -> InputEncoding:
        """How a network makes its inputs of `columns`."""
        gaps, edges = self._gap_columns(), self.edges_
        numbers, n_gaps = len(gaps), int(self._with_missing.sum())
        parts = []
        for j, gap in enumerate(gaps):
            scaled = (edges[j] - self.centers_[j]) * self.scales_[j]
            parts.append(number(j, 0.0, 1.0, scaled, gap))
            if gap >= 0:
                parts.append(number(gap, 0.0, 1.0, np.array([0.0, 1.0]))[1:])
        known = [] if self.one_hot_ is None else self.one_hot_.categories_
        for j, texts in enumerate(known, numbers + n_gaps):
            parts.append(category(j, len(texts)))
        found = InputEncoding.joined(parts, numbers + n_gaps + len(known))
        return replace(found, weights=found.weights * self.weights_)

    def _gap_columns(self) -> Array:
        """The place in `columns` of what is missing of each number; -1 for nothing."""
        places = len(self._with_missing) + np.cumsum(self._with_missing) - 1
        return np.where(self._with_missing, places, -1)

    def _codes(self, j: int, texts: Array) -> list[int]:
        """The number of each category; of others that of `RARE`, or -1."""
        assert self.one_hot_ is not None
        code = {text: k for k, text in enumerate(self.one_hot_.categories_[j])}
        rare = code.get(RARE, -1)
        return [code.get(text, rare) for text in texts]

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Names of the encoded columns.

        Parameters
        ----------
        input_features : None
            Not used.

        Returns
        -------
        ndarray of str
            One for each column of `transform`.
        """
        check_is_fitted(self)
        return np.array([name for name, _ in self._encoded_columns()], object)

    def blocks(self) -> list[Array]:
        """Encoded columns that belong together: ramps of a number, or categories."""
        block_of = np.array([block for _, block in self._encoded_columns()])
        return [np.flatnonzero(block_of == b) for b in np.unique(block_of) if b >= 0]

    def _encoded_columns(self) -> list[tuple[str, int]]:
        """Name of each encoded column, and its block or -1."""
        found: list[tuple[str, int]] = []
        pairs = list(zip(self._names, self._is_number, strict=True))
        for j, name in enumerate(name for name, is_number in pairs if is_number):
            found.append((name, -1))
            n_ramps = len(self.edges_[j][1:])
            found += [(f"{name} ramp {k}", j) for k in range(n_ramps)]
            found += [(f"{name} missing", -1)] * bool(self._with_missing[j])
        if self.one_hot_ is not None:
            words = [name for name, is_number in pairs if not is_number]
            names = self.one_hot_.get_feature_names_out(words)
            sizes = [len(categories) for categories in self.one_hot_.categories_]
            numbers = np.repeat(np.arange(len(words)) + len(self.edges_), sizes)
            found += [(n, int(b)) for n, b in zip(names, numbers, strict=True)]
        return found

    def _checked(self, X: Any, *, reset: bool) -> tuple[Any, list[bool] | None]:
        """A table with the right columns, and which of them are asked as categories."""
        X = columns.as_table(X, self)
        names = columns.names_of(X)
        if names is None or hasattr(X, "iloc"):
            validate_data(self, X, reset=reset, skip_check_array=True)
        else:
            _check_names(self, names, reset)
        return X, _mask(self.categorical_features, names, self.n_features_in_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


def _warn_of_rare(
    words: Sequence[Summary], kept: Sequence[list[str | None]], least: int
) -> None:
    """Name columns without a common category, where more rows than a few are."""
    useless = [
        repr(one.name)
        for one, categories in zip(words, kept, strict=True)
        if set(categories) <= {RARE, None} and len(one.counts) > 2 * least
    ]
    if useless:
        warnings.warn(
            f"No category of {', '.join(useless)} has {least} rows or more: such a "
            "column says nothing. Convert texts that show numbers or dates, for "
            "example with pandas.to_numeric or pandas.to_datetime; take features out "
            "of other texts; or leave the column out",
            ModelQualityWarning,
            stacklevel=2,
        )


def _check_names(encoder: Any, names: list[str], reset: bool) -> None:
    """As `validate_data`, for frames that it does not know."""
    if reset:
        encoder.feature_names_in_ = np.asarray(names, object)
        encoder.n_features_in_ = len(names)
    elif list(getattr(encoder, "feature_names_in_", names)) != names:
        raise ValueError(
            "The feature names should match those that were passed during fit: "
            f"{names} instead of {list(encoder.feature_names_in_)}"
        )
    elif len(names) != encoder.n_features_in_:
        raise ValueError(
            f"X has {len(names)} features, but {type(encoder).__name__} is expecting "
            f"{encoder.n_features_in_} features as input."
        )


def _mask(asked: Any, names: list[str] | None, n_features: int) -> list[bool] | None:
    """`categorical_features` as one bool a column; None where the types say it."""
    if asked is None or isinstance(asked, str):
        return None
    asked = np.asarray(asked)
    if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "biuUO"):
        raise ValueError(
            f"categorical_features={asked.tolist()!r} must be a mask of bools, indices "
            "or names, in one dimension"
        )
    if asked.dtype.kind == "b":
        if asked.shape != (n_features,):
            raise ValueError(
                f"categorical_features is a mask of shape {asked.shape}, but X has "
                f"{n_features} features"
            )
        return [bool(one) for one in asked]
    mask = [False] * n_features
    for one in asked:
        if isinstance(one, str):
            if names is None or one not in names:
                raise ValueError(
                    f"categorical_features names {str(one)!r}, which is no column of X"
                )
            mask[names.index(one)] = True
        elif not 0 <= one < n_features:
            raise ValueError(
                f"categorical_features has the index {one}, but X has {n_features} "
                "features"
            )
        else:
            mask[int(one)] = True
    return mask
