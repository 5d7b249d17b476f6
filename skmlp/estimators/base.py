"""What the classifier and the regressor share: parameters, `fit`, fitted attributes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, _fit_context, is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils._param_validation import HasMethods, Interval, Options
from sklearn.utils.validation import check_is_fitted

from skmlp import __version__
from skmlp import kernels as kernel_sets
from skmlp.arrays import Array, fetch
from skmlp.config import get_config
from skmlp.data.partitions import PartStats
from skmlp.estimators import array_support, conversion, kept
from skmlp.estimators.fitting import (
    callback_support,
    driver,
    fitted_attributes,
    hyperparameters,
    inputs,
)
from skmlp.estimators.fitting.fast_checks import checked_rows
from skmlp.estimators.fitting.inputs import Input
from skmlp.estimators.fitting.parameter_checks import CheckedParameters
from skmlp.estimators.fitting.resume import resume_of
from skmlp.estimators.prediction import scores
from skmlp.estimators.suggestions import Names, SettingWithPointers, pointing
from skmlp.estimators.summary import Describable
from skmlp.estimators.targets.class_labels import Mode
from skmlp.estimators.targets.target import Target
from skmlp.model.activations import ACTIVATIONS, METHODS
from skmlp.model.input_encoding import EncodedRows, InputEncoding
from skmlp.model.predict import forward
from skmlp.optim.schedules import BY_EPOCH, SCHEDULES
from skmlp.optim.solvers import SOLVERS


@contextmanager
def unchanged_on_error(estimator: Any) -> Iterator[None]:
    """Put an estimator's attributes and its random state back if the block raises."""
    before = dict(vars(estimator))
    curves = [
        v for n in fitted_attributes.CURVES if isinstance(v := before.get(n), list)
    ]
    lengths = [len(curve) for curve in curves]
    rng = estimator.random_state
    drawn_from = isinstance(rng, np.random.RandomState)
    state = rng.get_state(legacy=False) if drawn_from else None
    try:
        yield
    except BaseException:
        if drawn_from:
            rng.set_state(state)
        attributes: dict[str, Any] = vars(estimator)
        attributes.clear()
        attributes.update(before)
        for curve, length in zip(curves, lengths, strict=True):
            del curve[length:]
        raise


class ScoreMixin(BaseEstimator):
    """Scores of Dask arrays beside those of the mixins of scikit-learn."""

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score predictions: accuracy of a classifier, R2 of a regressor.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            The truth. A Dask array if `X` is one; only sums then leave the workers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights.

        Returns
        -------
        float
            Rows of several labels count as right only with all of them right.
        """
        if inputs.is_dask(X):
            from skmlp.estimators.prediction import lazy

            return lazy.score(self, X, y, sample_weight)
        y, sample_weight = inputs.on_host(y), inputs.on_host(sample_weight)
        found = scores.in_blocks(self, X, y, sample_weight)
        if found is None and inputs.dispatched(X) is not None:
            metric = accuracy_score if is_classifier(self) else r2_score
            found = metric(y, fetch(self.predict(X)), sample_weight=sample_weight)
        return float(super().score(X, y, sample_weight) if found is None else found)


class BaseMLP(
    callback_support.CallbackSupport,
    conversion.Convertible,
    Describable,
    SettingWithPointers,
    CheckedParameters,
    ABC,
):
    """A multi-layer perceptron: parameters and training.

    Subclasses say what the targets are.
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [
            Names(set(ACTIVATIONS)),
            list,
            tuple,
            HasMethods(list(METHODS)),
        ],
        "solver": [Names({"lbfgs", *SOLVERS})],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "average": ["boolean", Interval(Real, 0, 1, closed="neither")],
        "rho": [Interval(Real, 0, 1, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), list, tuple],
        "input_dropout": [Interval(Real, 0, 1, closed="left")],
        "input_encoding": [InputEncoding, None],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [
            Names({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate": [Names({*BY_EPOCH, *SCHEDULES}), callable],
        "learning_rate_min": [Interval(Real, 0, None, closed="left")],
        "decay_rate": [Interval(Real, 0, 1, closed="neither")],
        "decay_epochs": [Interval(Real, 0, None, closed="neither")],
        "warmup_epochs": [Interval(Real, 0, None, closed="left")],
        "restart_epochs": [Interval(Real, 0, None, closed="neither"), None],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "tol_scale": [Names({"absolute", "initial"})],
        "output_bias_init": [Names({"auto", "mean"})],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "scoring": [str, callable, None],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "coefs_init": ["array-like", None],
        "intercepts_init": ["array-like", None],
        "frozen_layers": ["array-like", None],
        "n_jobs": [Integral, None],
    }

    @property
    @abstractmethod
    def _target(self) -> Target:
        """What the network learns, once the data is known."""

    @abstractmethod
    def _check_targets(
        self, X: Any, y: Any, mode: Mode, *, reset: bool
    ) -> tuple[Any, Array]:
        """Validate X and y; return them with y as the loss takes it."""

    @abstractmethod
    def _check_stats(self, stats: PartStats, mode: Mode) -> None:
        """Check targets that lie on workers."""

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
        """Train the network on `X` and `y`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows. float32 is kept, everything else becomes float64. A Dask array is
            trained where its chunks lie, on the current Dask client.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or real numbers for the regressor. A classifier takes several
            columns of 0 and 1 for labels that may all apply, and others for several
            targets, each with classes of its own.
        sample_weight : array-like of shape (n_samples,), default=None
            A row of weight k counts like k rows. None means equal weights.
        X_val, y_val : array-like, default=None
            Validation rows and their targets, in place of a part of `X` that is set
            aside. With `early_stopping` they say when to stop; without it they are
            only looked at, for `validation_scores_` and `validation_loss_curve_`.
            Dask arrays, or small arrays, where `X` is a Dask array.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights; `class_weight` applies to them as well.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            The input is unfit for training; the estimator is left as it was. Or the
            training diverged.
        """
        with (
            callback_support.watched(self, X, y, sample_weight),
            unchanged_on_error(self),
        ):
            validation = X_val, y_val, sample_weight_val
            driver.fit(self, Input(X, y, sample_weight, *validation))
        return self

    def _partial_fit(self, given: Input, epochs: int) -> Self:
        # scikit-learn checks the parameters in the first call only; a later set_params
        # counts here, so it is checked here.
        self._validate_params()
        with unchanged_on_error(self):
            driver.fit(self, given, epochs)
        return self

    def _check_solver(self) -> bool:
        if not hyperparameters.is_stochastic(self):
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{self.solver} is not stochastic."
            )
        return True

    def _forward(self, X: Any, n_layers: int | None = None, finish: Any = None) -> Any:
        """What the first `n_layers` layers, by default all, make of rows.

        See `skmlp.model.predict.forward` for `finish`.
        """
        if not hasattr(self, "coefs_"):
            check_is_fitted(self)
        arrays = array_support.of_model(self, X)
        X, check = checked_rows(self, X)
        activations = hyperparameters.activations(self, len(self.coefs_) - 1)
        if arrays is not None:
            return array_support.predict(self, arrays, activations, X, n_layers, finish)
        last, heads = self.out_activation_, tuple[int, ...]()
        if n_layers is not None:
            last = activations[n_layers - 1]
        elif last == "softmax_heads":
            heads = self._target.heads
        layers = self.coefs_[:n_layers], self.intercepts_[:n_layers]
        steps = activations[: len(layers[0]) - 1], last
        kernels = kernel_sets.resolve(get_config()["kernels"])
        if self.input_encoding is not None:
            X = EncodedRows(X, self.input_encoding, kernels)
        return forward(X, *layers, *steps, kernels, heads, finish, check)

    def hidden_outputs(self, X: Any, layer: int = -1) -> Any:
        """Compute what a hidden layer gives to the next one.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The rows. A Dask array gives a lazy Dask array.
        layer : int, default=-1
            Which hidden layer, from 0, or from the end: -1 is the last one.

        Returns
        -------
        ndarray of shape (n_samples, width of the layer)
            After the activation.

        Raises
        ------
        ValueError
            There is no such layer.
        """
        check_is_fitted(self)
        n_hidden = len(self.coefs_) - 1
        hyperparameters.check_layer(layer, n_hidden)
        last = int(layer) % n_hidden + 1
        if inputs.is_dask(X):
            width = np.shape(self.coefs_[last - 1])[1]
            return self._lazy("hidden_outputs", X, n_columns=width, layer=layer)
        return self._forward(X, last)

    def _lazy(
        self,
        method: str,
        X: Any,
        *,
        dtype: Any = None,
        n_columns: int | None = None,
        **options: Any,
    ) -> Any:
        """Let `method` run on each part of a Dask collection, later."""
        from skmlp.estimators.prediction import lazy

        return lazy.predict(self, method, X, dtype, n_columns, options)

    @property
    def _optimizer(self) -> SimpleNamespace:
        """The optimizer's state under scikit-learn's private names, to look at."""
        resume = resume_of(self)
        if "step" not in resume:
            raise AttributeError(
                f"{type(self).__name__} has no '_optimizer' before a stochastic fit"
            )
        return SimpleNamespace(
            learning_rate=resume["learning_rate"],
            learning_rate_init=resume["learning_rate_init"],
            t=resume["step"],
            moments=resume["moments"],
        )

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__().copy()
        # The order of the rows is found again from the random state; the others are
        # there while it trains.
        for name in ("_row_order", "_watch", "_training", "_arrays"):
            state.pop(name, None)
        for name in fitted_attributes.CURVES:
            if isinstance(state.get(name), list):
                # `copy.copy` comes here: what one copy appends is not the other's.
                state[name] = state[name].copy()
        if "history_" in state:
            # Equal fits have equal pickles, and so equal hashes.
            state["history_"] = fitted_attributes.without_times(state["history_"])
        array_support.to_keep(state)
        return {**state, "_skmlp_version": __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        kept.check_version(type(self).__name__, state.pop("_skmlp_version", "unknown"))
        array_support.from_kept(state)
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        known = array_support.HAS_HELPERS and array_support.is_supported(self)
        tags.array_api_support = known
        return tags

    def __sklearn_array_api_convert__(self, converter: Callable[[Any], Any]) -> Any:
        """Return a copy whose weights `converter` has moved; the rest is shared."""
        return array_support.converted(self, converter)
