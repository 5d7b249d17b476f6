"""What the two tabular estimators share: the members, their rows, and their mean.

Each member is an ordinary network that trains on the encoded table and holds out rows
of its own, so that together they learn from all rows.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from joblib import Parallel, delayed
from scipy.optimize import minimize_scalar
from sklearn.base import _fit_context
from sklearn.utils import check_consistent_length, check_random_state, get_tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from skmlp.arrays import Array
from skmlp.estimators import array_support
from skmlp.estimators.base import unchanged_on_error
from skmlp.estimators.fitting.inputs import Input, check_validation_given, is_dask
from skmlp.estimators.fitting.judge import scorer_of
from skmlp.estimators.fitting.parameter_checks import CheckedParameters
from skmlp.estimators.suggestions import SettingWithPointers, pointing
from skmlp.exceptions import UnusedParameterWarning
from skmlp.model.predict import rows_of_block, with_block
from skmlp.tabular import columns
from skmlp.tabular.beside import Beside
from skmlp.tabular.encoder import TableEncoder
from skmlp.tabular.members import Rows, held_out_rows, members_at_once, train
from skmlp.tabular.relevance import moments, scales

#: What the networks are, unless `network_params` says otherwise. The recipe is that of
#: RealMLP (arXiv 2407.04491) without its parts that brought nothing on the tables of
#: benchmarks/tables.py; docs/decisions has what was tried.
NETWORK: dict[str, Any] = {
    "activation": "mish",
    "solver": "adamw",
    "weight_decay": 0.01,
    "learning_rate": "one_cycle",
    "learning_rate_init": 0.004,
    "beta_2": 0.95,
    "dropout": 0.15,
    "alpha": 0.0,
    "output_bias_init": "mean",
    "n_iter_no_change": 12,
}
#: Rows that are predicted at once: encoded they take many times their own memory.
BLOCK_ROWS = 2**14
#: Rows of a minibatch: so many, or fewer where an epoch would have less than
#: `LEAST_STEPS` steps.
MOST_BATCH_ROWS, LEAST_BATCH_ROWS, LEAST_STEPS = 256, 8, 10


class BaseTabularMLP(SettingWithPointers, CheckedParameters, ABC):
    """Encode a raw table, train several networks, predict by their mean."""

    #: What each member is.
    _network_class: ClassVar[Any]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "categorical_features": [StrOptions({"from_dtype"}), "array-like", None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "scoring": [str, callable, None],
        "network_params": [dict, None],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    @abstractmethod
    def _encode_targets(self, y: Any) -> Array:
        """Check the targets of `fit` and note what they are."""

    @abstractmethod
    def _encode_more(self, y: Any) -> Array:
        """Check and encode the targets of validation rows."""

    @abstractmethod
    def _network(self) -> Any:
        """One member, with the defaults of its kind."""

    def _first(self) -> Mapping[str, Any]:
        """Further arguments of the first `partial_fit` of a member."""
        return {}

    def _row_weights(self, y: Any, weights: Array | None) -> Array | None:
        """The weights of rows with those of their classes."""
        return weights

    def _strata(self, y: Array) -> Array | None:
        """Group of each row, of which every held-out part has its share."""
        return None

    @abstractmethod
    def _decoded(self, y: Array) -> Array:
        """Targets as they came, of what `_encode_targets` gives."""

    @abstractmethod
    def _as_numbers(self, y: Array) -> Array:
        """Encoded targets as numbers in columns, in float64."""

    @staticmethod
    @abstractmethod
    def _output(network: Any, X: Array) -> Array:
        """What a network makes of encoded rows."""

    @abstractmethod
    def _loss_of(self, output: Array, rows: Rows) -> float:
        """The weighted mean loss of a mean of networks."""

    @abstractmethod
    def _calibrate(self, output: Array, rows: Rows | None) -> None:
        """Learn from what networks make of the rows that they held out, if any."""

    @pointing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Encode the table and train the networks.

        Parameters
        ----------
        X : array-like or frame of shape (n_samples, n_features)
            The raw table: a frame of pandas, polars or pyarrow, or an array. Numbers,
            booleans, dates, texts and categories, with missing values anywhere.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or real numbers for the regressor.
        sample_weight : array-like of shape (n_samples,), default=None
            A row of weight k counts like k rows.
        X_val, y_val : array-like or frame, default=None
            Validation rows for all members, in place of those that each holds out.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            The input is unfit for training, or a training diverged; the estimator is
            left as it was.
        """
        given = Input(X, y, sample_weight, X_val, y_val, sample_weight_val)
        check_validation_given(given)
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None"
            )
        with unchanged_on_error(self):
            self._fit(given)
        return self

    def _fit(self, given: Input) -> None:
        self._check_network_params()
        encoder = TableEncoder(self.categorical_features)
        encoded, given = _encoded(encoder, given)
        targets = self._encode_targets(given.y)
        self._weigh_inputs(encoder, encoded, targets)
        scorer = scorer_of(self.scoring) if self.early_stopping else None
        rows = self._rows(encoded, targets, given, shown=scorer is not None)
        rows = rows.with_weight()
        self._warn_unused()
        validation = None
        if given.X_val is not None:
            held = Input(given.X_val, given.y_val, given.sample_weight_val)
            more, held = _encoded(encoder, held, fit=False)
            own = self._encode_more(held.y)
            validation = self._rows(more, own, held, shown=scorer is not None)
        self.preprocessor_ = encoder
        self.n_features_in_ = encoder.n_features_in_
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(encoder, "feature_names_in_"):
            self.feature_names_in_ = encoder.feature_names_in_

        rng = check_random_state(self.random_state)
        n_members, n = self.n_estimators, len(rows.X)
        # Two by two they hold out the same rows; the second of a pair sees no ramps and
        # so errs elsewhere.
        n_pairs = -(-n_members // 2)
        parts: Sequence[Array | None] = [None] * n_pairs
        if self.early_stopping and validation is None:
            parts = held_out_rows(
                n, n_pairs, self.validation_fraction, self._strata(rows.y), rng
            )
        seeds = rng.randint(np.iinfo(np.int32).max, size=n_members)
        n_trained = n - (0 if parts[0] is None else len(parts[0]))
        networks = [self._member(int(seed), n_trained) for seed in seeds]
        first = dict(self._first())
        inputs = encoder.input_encoding()
        kinds = inputs, inputs.take(np.flatnonzero(~encoder.is_ramp_))
        for k, network in enumerate(networks):
            network.set_params(input_encoding=kinds[k % 2])
        judged = None if scorer is None else (self._alone(), scorer)
        told = f"of {n_members}" if self.verbose else ""
        with Beside() as beside:
            how = validation, first, judged, told, beside
            fits = [
                delayed(train)(k, network, rows, parts[k // 2], *how)
                for k, network in enumerate(networks)
            ]
            if rows.on_dask:  # each has the whole cluster
                self.estimators_ = [fit(*args, **kwargs) for fit, args, kwargs in fits]
            else:
                n_jobs = members_at_once(self.n_jobs, n_members)
                self.estimators_ = Parallel(n_jobs, prefer="threads")(fits)
        self.n_iter_ = max(network.n_iter_ for network in self.estimators_)
        if validation is not None and self.early_stopping:
            self._weigh([validation] * n_pairs)
        else:
            self._weigh([rows.take(part) for part in parts if part is not None])

    def _warn_unused(self) -> None:
        """Tell which parameters were set and have no effect."""
        names = self._set_among(("scoring", "validation_fraction"))
        if names and not self.early_stopping:
            told = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            warnings.warn(
                f"a fit without early_stopping does not use {told}",
                UnusedParameterWarning,
                stacklevel=2,
            )

    def _weigh_inputs(self, encoder: TableEncoder, table: Any, y: Array) -> None:
        """Weigh the inputs by what they say about the targets."""
        check_consistent_length(table, y)
        blocks, Y = encoder.blocks(), self._as_numbers(y)
        inputs = encoder.input_encoding()
        sums_of = partial(moments, blocks, inputs)
        here = isinstance(table, np.ndarray)
        sums = sums_of(table, Y) if here else table.total(sums_of, Y)
        encoder.weights_ = scales(blocks, sums, inputs.n_inputs, Y.shape[1])

    def _rows(self, encoded: Any, targets: Array, given: Input, *, shown: bool) -> Rows:
        """Rows of one length, with the weights that count; `shown` to scorers."""
        check_consistent_length(encoded, targets)
        weights: Array | None = None
        if given.sample_weight is not None:
            weights = _check_sample_weight(
                given.sample_weight, encoded, dtype=np.float64, ensure_non_negative=True
            )
        rows = Rows(encoded, targets, self._row_weights(given.y, weights))
        if not shown or rows.on_dask:
            return rows
        own = columns.as_table(given.X, self), columns.as_rows(given.y)
        return replace(rows, shown=own)

    def _alone(self, *networks: Any) -> Any:
        """A twin that predicts by a single network; for scorers."""
        twin = array_support.twin(self)
        twin.estimator_weights_ = np.ones(1)
        twin.temperature_ = 1.0
        twin.estimators_ = list(networks)
        return twin

    def _weigh(self, held_out: Sequence[Rows]) -> None:
        """Weigh the two kinds of networks by the rows that each pair held out."""
        n_members = self.n_estimators
        self.estimator_weights_ = np.full(n_members, 1 / n_members)
        if not held_out:
            self._calibrate(np.empty(0), None)
            return
        pairs = []
        for k, rows in enumerate(held_out):
            second = min(2 * k + 1, n_members - 1)  # the last may be alone
            pairs.append([self._output_of(i, rows.X) for i in (2 * k, second)])
        with_ramps, without = map(np.concatenate, zip(*pairs, strict=True))
        rows = Rows.joined(held_out)

        def mean(share: float) -> Array:
            found: Array = share * with_ramps + (1 - share) * without
            return found

        def loss(share: float) -> float:
            return self._loss_of(mean(share), rows)

        share = 1.0
        if n_members > 1:
            share = float(minimize_scalar(loss, bounds=(0, 1), method="bounded").x)
            kinds = np.arange(n_members) % 2
            shares = np.where(kinds == 0, share, 1 - share)
            self.estimator_weights_ = shares / np.bincount(kinds)[kinds]
        self._calibrate(mean(share), rows)

    def _check_network_params(self) -> None:
        """ValueError for what the networks get elsewhere, or cannot be trained with."""
        given = self.network_params or {}
        for name in given.keys() & self.get_params(deep=False).keys():
            raise ValueError(
                f"network_params has {name!r}, a parameter of {type(self).__name__} "
                f"itself: pass {name}={given[name]!r} there"
            )
        if "input_encoding" in given:
            raise ValueError(
                "network_params has 'input_encoding', which is made of the table: "
                "leave it out"
            )
        if given.get("solver") == "lbfgs":
            raise ValueError(
                "network_params has solver='lbfgs', but the networks are trained in "
                "minibatches: choose another solver, such as 'adamw' or 'adam'"
            )

    def _member(self, seed: int, n_rows: int) -> Any:
        """A network of this ensemble, not fitted."""
        rows = min(MOST_BATCH_ROWS, max(LEAST_BATCH_ROWS, n_rows // LEAST_STEPS))
        network = self._network().set_params(
            hidden_layer_sizes=self.hidden_layer_sizes,
            max_iter=self.max_iter,
            early_stopping=self.early_stopping,
            scoring=self.scoring if self.early_stopping else None,
            batch_size=max(1, min(rows, n_rows)),
            random_state=seed,
            verbose=max(int(self.verbose) - 1, 0),
        )
        return network.set_params(**self.network_params or {})

    def _finished(self, X: Any, finish: Callable[[Array], Any]) -> Any:
        """What `finish` makes of the networks' outputs for a raw table, stacked.

        It gets those of some rows at a time: all of them are never in memory together.
        """
        check_is_fitted(self)
        table, members = columns.as_table(X, self.preprocessor_), self.estimators_
        n, found = max(columns.n_rows(table), 1), None
        width = len(members) * members[0].n_outputs_
        step = min(BLOCK_ROWS, rows_of_block(width))
        for start in range(0, n, step):
            encoded = self.preprocessor_.columns(columns.block(table, start, step))
            every = range(len(members))
            outputs = np.stack([self._output_of(k, encoded) for k in every])
            found = with_block(found, finish(outputs), slice(start, start + step), n)
        return found

    def _lazy(
        self, method: str, X: Any, dtype: Any, n_columns: int | None, **options: Any
    ) -> Any:
        """Let a method run on each partition of a Dask collection, later."""
        from skmlp.estimators.prediction import lazy

        return lazy.predict(self, method, X, dtype, n_columns, options)

    def _output_of(self, k: int, encoded: Any) -> Array:
        """What network `k` makes of encoded rows."""
        network = self.estimators_[k]
        if isinstance(encoded, np.ndarray):
            return _output(self._output, network, encoded)
        found: Array = encoded.map(_output, self._output, network)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(TableEncoder()).input_tags
        return tags


def _encoded(
    encoder: TableEncoder, given: Input, *, fit: bool = True
) -> tuple[Any, Input]:
    """Encoded features, and the targets and weights in this process."""
    if is_dask(given.X) or is_dask(given.y):
        from skmlp.tabular import on_dask

        X, y, weights = on_dask.taken(
            encoder, given.X, given.y, given.sample_weight, fit=fit
        )
        return X, given._replace(y=y, sample_weight=weights)
    return encoder.columns(given.X, fit=fit), given


def _output(output: Callable[[Any, Array], Array], network: Any, X: Array) -> Array:
    """What a network makes of rows.

    In float64: a row's prediction must not depend on the rows beside it.
    """
    return output(network, X.astype(np.float64))
