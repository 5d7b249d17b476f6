"""A table of fits: sequences of calls that must end in one model, wherever they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

import skmlp
from skmlp import InputEncoding
from tests.laws.twins import ATOL, RTOL, data_of
from tests.model.own import LogCosh, Sine

if TYPE_CHECKING:
    from tests.laws.places import Place

# ---- The table of fits -------------------------------------------------------------

EVERYTHING = slice(None)
ONCE = (("fit", EVERYTHING),)
TWICE = ONCE * 2
#: Pieces of several lengths, one of them again: the order of its rows goes on.
PIECES = tuple(
    ("partial_fit", rows) for rows in (slice(0, 15), slice(15, 40), slice(15, 40))
)


@dataclass(frozen=True)
class Fit:
    """A sequence of calls that ends in a model.

    Attributes
    ----------
    task : str
        Of `tests.laws.twins.data_of`.
    params : mapping
        The estimator's parameters, beside those that all have.
    rows, columns : int
        How much of the task's data.
    weighted : bool
        The rows have weights, some of them 0.
    kind : {"dense", "csr", "float32"}
        What X is.
    calls : tuple of (str, slice)
        Method and rows of each call.
    seed : {"int", "instance"}
        What random_state is.
    held_out : int
        So many of the rows, the last ones, are for validation.
    gaps : bool
        A third of the targets is missing.
    options : mapping
        Further arguments of the calls.
    """

    task: str
    params: Mapping[str, Any]
    rows: int = 40
    columns: int = 7
    weighted: bool = False
    kind: str = "dense"
    calls: tuple[tuple[str, slice], ...] = ONCE
    seed: str = "int"
    held_out: int = 0
    gaps: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tolerances(self) -> dict[str, float]:
        # 4 epochs of sums in another order, in float32: 1e-6 and less each.
        exact = self.kind != "float32"
        return {"rtol": RTOL, "atol": ATOL} if exact else {"rtol": 1e-4, "atol": 1e-5}

    def data(self) -> tuple[Any, Any, Any]:
        """X, y and weights or None."""
        X, y = data_of(self.task, self.rows)
        X = X[:, : self.columns]
        if self.gaps:
            missing = np.random.default_rng(7).random(y.shape) < 1 / 3
            missing[8:12] = True  # whole rows
            y = np.where(missing, np.nan, y)
        w = np.arange(self.rows) % 4 / 2.0 if self.weighted else None
        if self.kind == "csr":
            return sparse.csr_matrix(X), y, w
        return X.astype(np.float32) if self.kind == "float32" else X, y, w

    def estimator(self, n_jobs: int | None) -> Any:
        params: dict[str, Any] = {
            "hidden_layer_sizes": 6,
            "batch_size": 8,
            "max_iter": 4,
            "random_state": 3 if self.seed == "int" else np.random.RandomState(3),
            "n_jobs": n_jobs,
            **({"missing_targets": "mask"} if self.gaps else {}),
            **self.params,
        }
        if params.get("solver") == "lbfgs":
            del params["batch_size"]
        if self.held_out:
            params.pop("validation_fraction", None)
        if self.task.startswith("poisson"):
            params.setdefault("loss", "poisson")
        regression = "output" in self.task or "loss" in params
        return (skmlp.MLPRegressor if regression else skmlp.MLPClassifier)(**params)

    def run(self, place: Place) -> Any:
        """Make all calls in `place`; return the estimator."""
        data = self.data()
        last = self.rows - self.held_out
        rows_of = [None if a is None else a[last:] for a in data]
        data = tuple(None if a is None else a[:last] for a in data)
        model = self.estimator(place.n_jobs)
        for method, rows in self.calls:
            given = [None if a is None else a[rows] for a in data]
            first = method == "partial_fit" and not hasattr(model, "coefs_")
            kwargs = dict(self.options)
            if first and hasattr(model, "predict_proba"):
                labels = data[1]
                if self.task.startswith("heads"):
                    kwargs["classes"] = [np.unique(column) for column in labels.T]
                elif labels.ndim == 2:
                    kwargs["classes"] = np.arange(labels.shape[1])
                else:
                    kwargs["classes"] = np.unique(labels)
            with place.entered():
                if self.held_out:
                    names = ("X_val", "y_val", "sample_weight_val")
                    brought = place.bring(*rows_of)
                    kwargs |= dict(zip(names, brought, strict=True))
                getattr(model, method)(*place.bring(*given), **kwargs)
            assert model.n_shards_ == place.n_shards
        return model


def encoding_of(columns: int = 7) -> InputEncoding:
    """Numbers with ramps, a column of them that is 0 where another one is not."""
    X = np.random.default_rng(5).normal(size=(50, columns))
    found = InputEncoding.of_quantiles(X, n_ramps=4)
    gates = np.where(found.sources == 1, 2, found.gates)
    return replace(found, gates=gates, weights=np.linspace(0.5, 1, found.n_inputs))


def _sgd(**params: Any) -> dict[str, Any]:
    return {"solver": "sgd", "learning_rate_init": 0.05, **params}


#: What depends on the constant prediction, which all ranks find together.
LEVEL = {"output_bias_init": "mean", "tol_scale": "initial", "tol": 0.02}
#: 30 iterations at most: L-BFGS magnifies the last bit.
LBFGS = {"solver": "lbfgs", "max_iter": 12}
STOP = {"early_stopping": True, "validation_fraction": 0.3, "n_iter_no_change": 2}


def _first_right(model: Any, X: Any, y: Any, **weights: Any) -> float:
    """Accuracy in the first column."""
    return float((model.predict(X)[:, 0] == y[:, 0]).mean())


TABLE = {
    "sgd": Fit("multiclass", _sgd(activation="tanh")),
    "sgd, plain momentum, invscaling": Fit(
        "binary",
        _sgd(nesterovs_momentum=False, learning_rate="invscaling", power_t=0.3),
    ),
    "sgd, no momentum, adaptive": Fit(
        "one output",
        _sgd(
            momentum=0,
            learning_rate="adaptive",
            tol=0.5,
            n_iter_no_change=1,
            max_iter=9,
        ),
        weighted=True,
    ),
    "adam": Fit("multiclass", {"hidden_layer_sizes": (5, 4)}, seed="instance"),
    "adam, unequal batches": Fit("two outputs", {"batch_size": 7}, weighted=True),
    "adam, one batch": Fit("binary strings", {"batch_size": "auto"}, weighted=True),
    "every layer its own": Fit(
        "multiclass",
        {"hidden_layer_sizes": (5, 4, 3), "activation": ("gelu", "elu", "silu")},
        weighted=True,
    ),
    "dropout": Fit(
        "two outputs",
        {"hidden_layer_sizes": (5, 6), "dropout": 0.3, "input_dropout": 0.2},
        weighted=True,
    ),
    "encoded": Fit(
        "multiclass",
        {**STOP, "dropout": 0.2, "input_dropout": 0.1, "input_encoding": encoding_of()},
        weighted=True,
    ),
    "encoded, lbfgs": Fit("one output", {**LBFGS, "input_encoding": encoding_of()}),
    "encoded, validation rows": Fit(
        "one output",
        _sgd(input_encoding=encoding_of(), early_stopping=True),
        kind="float32",
        held_out=9,
    ),
    "encoded, pieces": Fit(
        "two outputs", {"input_encoding": encoding_of()}, calls=PIECES
    ),
    "dropout, csr": Fit(
        "binary",
        _sgd(activation="mish", dropout=[0.5], input_dropout=0.3, shuffle=False),
        kind="csr",
        seed="instance",
    ),
    "dropout, stopping early": Fit("multiclass", {**STOP, "dropout": 0.2}),
    "dropout, pieces": Fit("one output", {"dropout": 0.2}, calls=PIECES),
    "adamw, one cycle": Fit(
        "multiclass",
        {"solver": "adamw", "learning_rate": "one_cycle", "learning_rate_init": 0.05},
        weighted=True,
    ),
    "nadam, clipped, frozen": Fit(
        "binary",
        {
            **{"hidden_layer_sizes": (5, 4), "frozen_layers": [1]},
            **{"solver": "nadam", "clip_norm": 0.05, "learning_rate": "cosine"},
        },
    ),
    "rmsprop, averaged, stopping early": Fit(
        "one output", {"solver": "rmsprop", "average": 0.8, **STOP}, weighted=True
    ),
    "adagrad, l1": Fit(
        "two outputs",
        {"solver": "adagrad", "l1_ratio": 0.5, "alpha": 0.1, "average": True},
        kind="float32",
    ),
    "averaged, pieces, frozen": Fit(
        "multiclass", {"average": 0.7, "frozen_layers": [0]}, calls=PIECES
    ),
    "huber": Fit("two outputs", {"loss": "huber", "huber_delta": 0.3}, weighted=True),
    "absolute error": Fit("one output", _sgd(loss="absolute_error")),
    "quantile": Fit("two outputs", {"loss": "quantile", "quantile": 0.8}, kind="csr"),
    "quantiles": Fit(
        "one output",
        {"loss": "quantile", "quantile": [0.1, 0.5, 0.9], **STOP},
        weighted=True,
    ),
    "gamma": Fit("gamma", {"loss": "gamma"}, weighted=True, kind="float32"),
    "gamma, pieces": Fit("gamma", _sgd(loss="gamma"), calls=PIECES),
    "output biases, tolerance of the loss": Fit(
        "two outputs",
        {**_sgd(**LEVEL), "loss": "absolute_error"},
        weighted=True,
        gaps=True,
    ),
    "output biases, quantiles": Fit(
        "one output",
        {**LEVEL, **STOP, "loss": "quantile", "quantile": [0.1, 0.5, 0.9]},
        kind="csr",
    ),
    "output biases, classes": Fit(
        "multiclass",
        {**LEVEL, **STOP, "class_weight": {1: 3.0}, "scoring": "loss"},
        weighted=True,
    ),
    "output biases, heads": Fit(
        "heads, mixed", {**LEVEL, "label_smoothing": 0.1}, weighted=True
    ),
    "output biases, labels, validation rows": Fit(
        "multilabel",
        {**LEVEL, "early_stopping": True, "n_iter_no_change": 2, "scoring": "loss"},
        held_out=9,
    ),
    "output biases, poisson, lbfgs": Fit(
        "poisson, two", {**LBFGS, **LEVEL, "max_iter": 8}, weighted=True
    ),
    "gamma, lbfgs": Fit("gamma", {**LBFGS, "loss": "gamma", "max_iter": 8}),
    "smoothed": Fit("multiclass", {"label_smoothing": 0.1}, weighted=True),
    "smoothed, multilabel": Fit("multilabel", {"label_smoothing": 0.1}),
    "heads": Fit("heads, mixed", {"activation": "tanh"}, weighted=True),
    "heads, class weights, stopping early": Fit(
        "heads",
        _sgd(**STOP, class_weight=[{1: 3.0}, {0: 0.5}], label_smoothing=0.1),
        kind="csr",
    ),
    "heads, validation rows": Fit(
        "heads, mixed", {**STOP, "class_weight": "balanced"}, held_out=11
    ),
    "heads, scorer": Fit("heads", {"scoring": _first_right}, held_out=12),
    "heads, lbfgs, float32": Fit("heads", {**LBFGS, "max_iter": 8}, kind="float32"),
    "heads, pieces": Fit("heads, mixed", {"dropout": 0.2}, weighted=True, calls=PIECES),
    "missing targets": Fit(
        "two outputs", {**STOP, "batch_size": 3}, weighted=True, gaps=True
    ),
    "missing targets, quantiles, lbfgs": Fit(
        "one output",
        {**LBFGS, "loss": "quantile", "quantile": [0.2, 0.7], "max_iter": 8},
        kind="csr",
        gaps=True,
    ),
    "missing targets, scorer": Fit(
        "two outputs",
        _sgd(**STOP, loss="huber", scoring="neg_mean_absolute_error"),
        kind="float32",
        held_out=12,
        gaps=True,
    ),
    "own loss and activation": Fit(
        "two outputs", {"loss": LogCosh(), "activation": Sine()}, weighted=True
    ),
    "lbfgs": Fit("multiclass", LBFGS),
    "lbfgs, two outputs": Fit("two outputs", LBFGS, weighted=True),
    "lbfgs, poisson": Fit("poisson, two", {**LBFGS, "max_iter": 8}),
    "stopping early": Fit("multiclass", {**STOP, "max_iter": 12}, seed="instance"),
    "stopping early, stratified": Fit("binary", _sgd(**STOP), weighted=True),
    "stopping early, R2": Fit("two outputs", _sgd(**STOP), weighted=True),
    "stopping early, labels, csr": Fit("multilabel", {**STOP}, kind="csr"),
    "validation rows": Fit(
        "multiclass", _sgd(**STOP, max_iter=12), weighted=True, held_out=12
    ),
    "validation rows, loss, class weights": Fit(
        "binary strings",
        {**STOP, "scoring": "loss", "class_weight": {"no": 3.0}, "max_iter": 8},
        held_out=9,
    ),
    "validation rows, looked at": Fit("multilabel", {}, kind="csr", held_out=13),
    "validation rows, float32": Fit(
        "two outputs", {**STOP, "shuffle": False}, kind="float32", held_out=11
    ),
    "scorer": Fit(
        "binary strings", {**STOP, "scoring": "roc_auc", "max_iter": 8}, weighted=True
    ),
    "scorer, validation rows": Fit(
        "two outputs",
        _sgd(
            early_stopping=True,
            scoring="neg_mean_absolute_error",
            learning_rate="adaptive",
            n_iter_no_change=1,
            tol=0.1,
            max_iter=9,
        ),
        held_out=10,
    ),
    "scorer, looked at, labels": Fit(
        "multilabel", {"scoring": "f1_macro"}, held_out=15
    ),
    "several epochs of pieces": Fit(
        "multiclass", {}, calls=PIECES, options={"epochs": 3}
    ),
    "pieces, stopping early": Fit(
        "one output",
        {"early_stopping": True, "n_iter_no_change": 1, "tol": 0.05},
        calls=PIECES,
        options={"epochs": 9},
        rows=50,
        held_out=10,
    ),
    "multilabel": Fit("multilabel", {"activation": "logistic"}, weighted=True),
    "poisson": Fit("poisson", {"activation": "tanh"}),
    "warm start": Fit("multiclass", {"warm_start": True}, calls=TWICE, seed="instance"),
    "warm start, lbfgs": Fit(
        "binary", {**LBFGS, "warm_start": True, "max_iter": 8}, calls=TWICE
    ),
    "warm start, stopping early": Fit(
        "one output", {**STOP, "warm_start": True}, calls=TWICE, seed="instance"
    ),
    "pieces": Fit("multiclass", {}, weighted=True, calls=PIECES),
    "pieces, sgd": Fit("multilabel", _sgd(), calls=PIECES, seed="instance"),
    "in their order": Fit("one output", {"shuffle": False}),
    "in their order, sgd": Fit("binary", _sgd(shuffle=False, batch_size=9)),
    "class weights": Fit(
        "multiclass", {"class_weight": {1: 3.0, 5: 0.5}}, weighted=True
    ),
    "class weights, balanced, two classes": Fit(
        "binary strings", {"class_weight": "balanced", **LBFGS}
    ),
    "class weights, labels": Fit(
        "multilabel", {"class_weight": [{1: 5.0}, {0: 0.5, 1: 2.0}, {}], **STOP}
    ),
    "class weights, pieces": Fit(
        "multiclass", {"class_weight": {3: 4.0}}, calls=PIECES
    ),
    "frozen": Fit(
        "one output",
        {"hidden_layer_sizes": (5, 4, 3), "frozen_layers": [0, -2], "alpha": 0.5},
    ),
    "frozen, lbfgs": Fit(
        "multiclass",
        {"hidden_layer_sizes": (5, 4), "frozen_layers": [1], "alpha": 0.5, **LBFGS},
    ),
    "csr": Fit("multiclass", {}, kind="csr", weighted=True),
    "csr, lbfgs": Fit("one output", LBFGS, kind="csr"),
    "float32": Fit("two outputs", {}, kind="float32", weighted=True),
    "float32, lbfgs": Fit("multiclass", {**LBFGS, "max_iter": 8}, kind="float32"),
    "batches of one row": Fit("multiclass", {"batch_size": 1}, rows=20),
    "batches of two rows": Fit("binary", _sgd(batch_size=2, **STOP), rows=21),
    "two rows": Fit("one output", {"batch_size": "auto"}, rows=2, weighted=True),
    "one row, lbfgs": Fit("two outputs", LBFGS, rows=1),
    "two parameters": Fit("one output", {"hidden_layer_sizes": ()}, columns=1),
}
