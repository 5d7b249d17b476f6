"""Errors that name what was probably meant: a parameter, an option, a column."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from sklearn.utils._param_validation import StrOptions

Function = TypeVar("Function", bound=Callable[..., Any])

#: What Keras, torch, skorch, xgboost and LightGBM call a parameter or an option, in
#: lower case, without "_", "-" and " ".
_OTHER_NAMES = {
    "activation": "activationfunction nonlinearity",
    "alpha": "l2 l2reg reglambda",
    "batch_size": "bs minibatchsize",
    "categorical_features": "catfeatures categoricalfeature enablecategorical",
    "clip_norm": "gradclip gradientclipval maxgradnorm",
    "decay_rate": "gamma",
    "epsilon": "eps",
    "hidden_layer_sizes": "nhidden hiddenlayers hiddensize hiddenunits layers units",
    "learning_rate": "scheduler lrscheduler lrschedule",
    "learning_rate_init": "lr eta",
    "loss": "criterion objective lossfunction lossfn",
    "max_iter": "epochs nepochs numepochs maxepochs nestimators numboostround",
    "n_iter_no_change": "patience earlystoppingrounds",
    "n_jobs": "nworkers numworkers nthread nthreads numthreads",
    "random_state": "seed randomseed",
    "scoring": "metric metrics evalmetric",
    "solver": "optimizer optimiser",
    "tol": "mindelta tolerance",
    "validation_fraction": "validationsplit valsize",
}
_OTHER_OPTIONS = {
    "absolute_error": "mae l1",
    "cosine": "cosineannealing cosinedecay",
    "huber": "smoothl1",
    "identity": "linear",
    "leaky_relu": "leaky lrelu",
    "logistic": "sigmoid",
    "neg_log_loss": "logloss crossentropy",
    "neg_mean_absolute_error": "mae",
    "neg_mean_squared_error": "mse",
    "neg_root_mean_squared_error": "rmse",
    "quantile": "pinball",
    "roc_auc": "auc",
    "silu": "swish",
    "squared_error": "mse l2",
}
#: What is no parameter here: what to do instead.
_INSTEAD = {
    "betas": "They are two parameters: beta_1 and beta_2",
    "callback callbacks": "Use set_callbacks(...) of MLPClassifier or MLPRegressor",
    "client backend": "joblib.parallel_config(backend=...) or Dask data say where",
    "categoricalfeatures": "TabularMLPClassifier and -Regressor take raw tables",
    "device gpu cuda": "Networks are trained on the CPU; n_jobs says on which workers",
    "dtype": "The dtype is that of X: give float32 or float64 rows",
    "evalset validationdata validationset xval yval": (
        "Validation rows are arguments of fit: fit(X, y, X_val=..., y_val=...)"
    ),
    "sampleweight classweight": "Use the argument sample_weight of fit",
    "kernelinitializer weightinit": "The activation sets it; coefs_init takes arrays",
    "loss": "A classifier has the log loss; see label_smoothing and class_weight",
}


class Names(StrOptions):
    """scikit-learn's constraint of options, which an error lists in a stable order."""

    def __str__(self) -> str:
        return f"a str among {{{', '.join(map(repr, sorted(self.options)))}}}"


def options_of(constraints: Iterable[Any]) -> list[str]:
    """All strings that constraints allow."""
    names = [c.options for c in constraints if isinstance(c, StrOptions)]
    return sorted({one for options in names for one in options})


def point(error: Exception, hint: str) -> None:
    """Put a pointer at the end of an error's message."""
    # Python 3.13 guesses as well, by spelling alone.
    text = re.sub(r"\. Did you mean '\w+'\?$", "", str(error)).rstrip(".")
    if hint:
        error.args = (f"{text}. {hint}",)


def _key(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def _called(name: str, known: Mapping[str, str]) -> str:
    """The key of `known` among whose other names this one is."""
    return next((key for key in known if _key(name) in known[key].split()), "")


def _closest(name: str, known: Iterable[str]) -> str:
    """The name that is meant by another spelling of it."""
    keys = {_key(one): one for one in sorted(known)}
    found = difflib.get_close_matches(_key(name), keys, n=1, cutoff=0.75)
    return keys[found[0]] if found else ""


def for_name(cls: Any, name: str, known: Iterable[str]) -> str:
    """What to write in place of an argument that a function does not know."""
    own, parameters = [*known], cls._get_param_names()
    several = "network_params" in parameters
    inner: list[str] = cls._network_class._get_param_names() if several else []
    places = own, parameters, inner
    meant = _called(name, _OTHER_NAMES) or name
    if not any(meant in place for place in places):
        for names, instead in _INSTEAD.items():
            if _key(meant) in names.split():
                return instead
        meant = next(filter(None, (_closest(name, place) for place in places)), "")
    if meant in own:
        return f"Did you mean {meant!r}?"
    if meant in inner and meant not in parameters:
        return f"It belongs to the networks: network_params={{{meant!r}: ...}}"
    if meant:
        call = f"{cls.__name__}({meant}=...)"
        return f"{meant!r} is a parameter of the constructor: {call}"
    return ""


def for_option(name: str, value: Any, options: Iterable[str]) -> str:
    """What to write in place of a value that a parameter does not take."""
    if name == "loss" and isinstance(value, (int, tuple, list)):
        return f"loss comes first: write hidden_layer_sizes={value!r}"
    if name == "activation" and isinstance(value, int):
        return f"All widths are one argument: hidden_layer_sizes=(..., {value})"
    if name == "learning_rate" and isinstance(value, Real):
        return f"The rate itself is learning_rate_init={value!r}"
    if not isinstance(value, str):
        return ""
    known = {one: _OTHER_OPTIONS.get(one, "") for one in options}
    meant = _called(value, known) or _closest(value, known)
    return f"Did you mean {meant!r}?" if meant else ""


def pointing(function: Function) -> Function:
    """Let a method's TypeError of an unknown argument name the one that is meant."""
    known = [n for n in inspect.signature(function).parameters if n != "self"]

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return function(self, *args, **kwargs)
        except TypeError as error:
            unknown = [name for name in kwargs if name not in known]
            if unknown:
                point(error, for_name(type(self), unknown[0], known))
            raise

    return call  # type: ignore[return-value] # it has the signature of `function`


class SettingWithPointers:
    """`set_params` that names the parameter that is meant."""

    def set_params(self, **params: Any) -> Any:
        """Set parameters of this estimator.

        Parameters
        ----------
        **params : dict
            Their names and values.

        Returns
        -------
        self : estimator
            The estimator.

        Raises
        ------
        ValueError
            There is no such parameter; the message names the one that is meant.
        """
        try:
            return super().set_params(**params)  # type: ignore[misc] # a mixin: scikit-learn's base, which has it, comes after
        except ValueError as error:
            own: list[str] = type(self)._get_param_names()  # type: ignore[attr-defined] # as above
            unknown = [name for name in params if name not in own]
            if unknown:
                point(error, for_name(type(self), unknown[0], own))
            raise


@contextmanager
def columns_named(X: Any) -> Iterator[None]:
    """Name the columns of a data frame that hold no numbers, if the block fails."""
    try:
        yield
    except (TypeError, ValueError) as error:
        odd = _not_numbers(X) if hasattr(X, "columns") else []
        if not odd:
            raise
        raise ValueError(
            f"X must hold numbers, but these columns do not: {', '.join(odd)}. Encode "
            "them first, for example with scikit-learn's OneHotEncoder in a "
            "ColumnTransformer"
        ) from error


def _not_numbers(frame: Any) -> list[str]:
    """The columns that can't be made numbers, each with its type."""
    odd = []
    for k, name in enumerate(frame.columns):
        column = frame.iloc[:, k] if hasattr(frame, "iloc") else frame[name]
        try:
            np.asarray(column, dtype=float)
        except (TypeError, ValueError):
            odd.append(f"{name!r} ({column.dtype})")
    return odd
