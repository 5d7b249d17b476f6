"""Rows that stay narrow, and are encoded as a network's inputs when they are taken.

Numbers become ramps between their quantiles, the piecewise-linear encoding of
Gorishniy et al. (arXiv 2203.05556), and categories become one-hot. All of that takes
many times the memory of the rows; so it is done for a minibatch at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import sparse

from skmlp import kernels as kernel_sets
from skmlp.arrays import Array
from skmlp.config import get_config
from skmlp.kernels.reference import CATEGORY, NUMBER, RAMP

NOT_SPARSE = (
    "Sparse data was passed, but input_encoding requires dense data: pass X.toarray()"
)


@dataclass(frozen=True, eq=False)
class InputEncoding:
    """What each input of a network is computed from.

    A value for the parameter `input_encoding` of the estimators: the rows keep their
    columns, in memory, in files and on workers, and each minibatch is encoded when it
    is taken. Input `j` is ``weights[j] * f((X[:, sources[j]] - origins[j]) *
    slopes[j])``.

    Parameters
    ----------
    kinds : ndarray of shape (n_inputs,), int8
        What `f` is: 0 a number, clipped smoothly to (-3, 3) by ``x / sqrt(1 + (x /
        3)**2)`` as in RealMLP (arXiv 2407.04491); 1 a ramp from 0 to 1; 2 a category, 1
        where `x` is 0.
    sources : ndarray of shape (n_inputs,), int64
        The column of X that each is computed from.
    gates : ndarray of shape (n_inputs,), int64
        A column of X that says where the input is 0: where it is not 0 itself, as for
        missing values. -1 for none.
    origins, slopes, weights : ndarray of shape (n_inputs,), float64
        Of each input.
    n_features : int
        Columns of X.

    See Also
    --------
    skmlp.TabularMLPClassifier : Encodes raw tables by itself.

    Examples
    --------
    >>> import numpy as np
    >>> from skmlp import InputEncoding, MLPRegressor
    >>> X = np.linspace(0, 6, 200)[:, None]
    >>> y = np.sin(X[:, 0])
    >>> encoding = InputEncoding.of_quantiles(X, n_ramps=4)
    >>> encoding.n_inputs
    5
    >>> encoding.encode(X[:1]).round(2)
    array([[-0.95,  0.  ,  0.  ,  0.  ,  0.  ]])
    >>> net = MLPRegressor(hidden_layer_sizes=20, input_encoding=encoding, max_iter=500)
    >>> net.fit(X, y).coefs_[0].shape
    (5, 20)
    """

    kinds: Array
    sources: Array
    gates: Array
    origins: Array
    slopes: Array
    weights: Array
    n_features: int

    @classmethod
    def of_quantiles(cls, X: Any, n_ramps: int = 16) -> Self:
        """Encode each number of a table by itself and ramps between its quantiles.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows that are like those for training, or some of them: of a Dask array a
            sample in memory. Finite numbers.
        n_ramps : int, default=16
            The most ramps of a number. Fewer where its quantiles are equal.

        Returns
        -------
        InputEncoding
            Numbers less their median, by their interquartile range, and their ramps.
        """
        X = np.asarray(X, np.float64)
        parts = []
        for column in X.T:
            low, center, high = np.quantile(column, [0.25, 0.5, 0.75])
            spread = high - low or np.ptp(column) / 2
            edges = np.unique(np.quantile(column, np.linspace(0, 1, n_ramps + 1)))
            parts.append((center, 1 / spread if spread > 0 else 0.0, edges))
        found = [number(j, *part) for j, part in enumerate(parts)]
        return cls.joined(found, X.shape[1])

    @classmethod
    def joined(cls, parts: list[Array], n_features: int) -> Self:
        """The inputs of several columns; see `number` and `category`."""
        every = np.concatenate([np.empty((0, 5)), *parts])
        kinds, sources, gates, origins, slopes = every.T.copy()
        return cls(
            kinds.astype(np.int8),
            sources.astype(np.int64),
            gates.astype(np.int64),
            origins,
            slopes,
            np.ones(len(every)),
            n_features,
        )

    @property
    def n_inputs(self) -> int:
        """Inputs of the network."""
        return len(self.kinds)

    def __repr__(self) -> str:
        return f"<InputEncoding of {self.n_features} columns to {self.n_inputs} inputs>"

    def take(self, inputs: Array) -> InputEncoding:
        """Some of the inputs, by number."""
        parts = vars(self).items()
        return InputEncoding(
            **{name: x[inputs] if name != "n_features" else x for name, x in parts}
        )

    def encode(self, X: Any) -> Array:
        """Compute the inputs of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        ndarray of shape (n_samples, n_inputs)
            In the dtype of `X`, if that is float32, else in float64.
        """
        X = np.asarray(X)
        if X.dtype != np.float32:
            X = X.astype(np.float64, copy=False)
        kernels = kernel_sets.resolve(get_config()["kernels"])
        return self.write(X, np.empty((len(X), self.n_inputs), X.dtype), kernels)

    def write(self, X: Array, out: Array, kernels: str) -> Array:
        """Write the inputs of rows to an array by a kernel set, and return it."""
        *parts, _ = vars(self).values()
        # What came from another process may be read-only, another type for numba.
        own = (np.require(x, requirements=["C", "A", "W"]) for x in (X, *parts))
        kernel_sets.load(kernels).encode_rows(*own, out)
        return out

    def check(self, n_features: int, is_sparse: bool) -> int:
        """Return the number of inputs. An error unless rows fit to this."""
        if is_sparse:
            raise TypeError(NOT_SPARSE)
        if n_features != self.n_features:
            raise ValueError(
                f"X has {n_features} features, but input_encoding is for "
                f"{self.n_features}: make it anew, for example by "
                "InputEncoding.of_quantiles(X)"
            )
        return self.n_inputs


def number(
    source: int, center: float, scale: float, edges: Array, gate: int = -1
) -> Array:
    """A number, less its center and scaled, and its ramps: a line for each input."""
    ramps = np.empty((max(len(edges) - 1, 0), 5))
    ramps[:] = RAMP, source, gate, 0, 0
    ramps[:, 3], ramps[:, 4] = edges[:-1], 1 / np.diff(edges)
    return np.vstack([[NUMBER, source, -1, center, scale], ramps])


def category(source: int, n_categories: int) -> Array:
    """The codes from 0 of a column: an input for each."""
    found = np.ones((n_categories, 5))
    found[:, :4] = CATEGORY, source, -1, 0
    found[:, 3] = np.arange(n_categories)
    return found


class EncodedRows:
    """Rows of an array, or of a file, that are encoded when they are taken.

    It has what `skmlp.data.sampler.RowTable` and `skmlp.model.predict` ask of X.
    """

    def __init__(self, rows: Any, encoding: InputEncoding, kernels: str) -> None:
        if sparse.issparse(rows):
            raise TypeError(NOT_SPARSE)
        self._rows, self._encoding, self._kernels = rows, encoding, kernels
        self.dtype = rows.dtype
        if self.dtype not in (np.float32, np.float64):
            self.dtype = np.dtype(np.float64)
        self.shape = len(self), encoding.n_inputs

    def __len__(self) -> int:
        return int(self._rows.shape[0])

    def __getitem__(self, rows: Any) -> Array:
        X = self._rows[rows].astype(self.dtype, copy=False)
        out = np.empty((len(X), self.shape[1]), self.dtype)
        return self._encoding.write(X, out, self._kernels)

    def take(self, rows: Array, axis: int, out: Array, mode: Any) -> Array:
        """As numpy's, along the first axis."""
        X = self._rows.take(rows, axis, mode=mode)
        return self._encoding.write(X, out, self._kernels)

    def astype(self, dtype: Any, copy: bool = True) -> Array:
        """All rows."""
        return self[:].astype(dtype, copy=copy)
