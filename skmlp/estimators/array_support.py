"""Estimators whose X, and so their weights, lie on a device of another library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from sklearn.utils import _array_api

from skmlp.arrays import AnyArray, Arrays, arrays_of, fetch, found_again
from skmlp.estimators.fitting.inputs import dispatched
from skmlp.launch import policy
from skmlp.model.array_network import ArrayNetwork
from skmlp.model.layout import Layout

#: Whether scikit-learn can move a model; from 1.9 on.
HAS_HELPERS = hasattr(_array_api, "move_estimator_to")

#: The fitted attributes that lie where X does.
FITTED = ("coefs_", "intercepts_")


def is_supported(estimator: Any) -> bool:
    """Whether all that an estimator asks for is a formula in the standard's terms."""
    activations = estimator.activation
    if not isinstance(activations, (list, tuple)):
        activations = [activations]
    known = all(isinstance(one, str) for one in [*activations, estimator.loss])
    return known and estimator.input_encoding is None


def begin(estimator: Any, arrays: Arrays | None, X: AnyArray) -> None:
    """Note where the weights are to lie, until `end`; refuse what can't be there."""
    end(estimator)
    if arrays is None:
        return
    if arrays.name == "torch" and X.layout != arrays.xp.strided:
        raise TypeError(
            f"a sparse tensor ({X.layout}) is no table: pass X.to_dense(), or a sparse "
            "matrix of SciPy, which is trained on in numpy"
        )
    if arrays.xp.isdtype(X.dtype, "complex floating"):
        raise ValueError("Complex data not supported")
    if not is_supported(estimator):
        raise ValueError(
            f"X is an array of {arrays}: an activation or a loss of your own, or an "
            "input_encoding, which compute in numpy, can't be used there. Pass X as an "
            "array of numpy"
        )
    if policy.choose(estimator.n_jobs).kind != "process":
        raise ValueError(
            f"X is an array of {arrays}, which is trained on in this process: leave "
            "n_jobs=None, outside of joblib.parallel_config"
        )
    estimator._arrays = arrays


def end(estimator: Any) -> None:
    """Forget it."""
    vars(estimator).pop("_arrays", None)


def put(estimator: Any, name: str, values: list[AnyArray]) -> None:
    """Set a list of arrays as a fitted attribute, where X lies."""
    arrays: Arrays | None = getattr(estimator, "_arrays", None)
    setattr(estimator, name, values if arrays is None else [*map(arrays.send, values)])


def predict(
    estimator: Any, arrays: Arrays, activations: Sequence[str], X: Any, *how: Any
) -> Any:
    """What a fitted network makes of rows on its device; see `BaseMLP._forward`."""
    views = [*zip(estimator.coefs_, estimator.intercepts_, strict=True)]
    units = (views[0][0].shape[0], *(b.shape[0] for _, b in views))
    target = estimator._target
    plan = SimpleNamespace(units=units, layout=Layout(units), activation=activations)
    plan.loss, plan.loss_settings = target.loss, target.settings
    plan.masked, plan.frozen = False, ()
    return ArrayNetwork(arrays, plan).predict(X, views, *how)


def twin(estimator: Any) -> Any:
    """A copy that shares all attributes: at each epoch none of them is looked at."""
    found: Any = object.__new__(type(estimator))
    vars(found).update(vars(estimator))
    return found


def converted(estimator: Any, convert: Callable[[AnyArray], AnyArray]) -> Any:
    """A copy of an estimator whose fitted arrays are converted."""
    copy = twin(estimator)
    for name in FITTED:
        if hasattr(estimator, name):
            setattr(copy, name, [convert(array) for array in getattr(estimator, name)])
    return copy


def to_keep(state: dict[str, Any]) -> None:
    """Let the attributes of a pickle have arrays of numpy, and note where they were."""
    arrays = arrays_of(state[FITTED[0]][0]) if FITTED[0] in state else None
    if arrays is not None:
        state["_kept_from"] = arrays.name, str(arrays.device)
        state.update({name: [*map(fetch, state[name])] for name in FITTED})


def from_kept(state: dict[str, Any]) -> None:
    """Put them back to where they were, if that is here."""
    where = state.pop("_kept_from", None)
    arrays = None if where is None else found_again(*where)
    if arrays is not None:
        state.update({name: [*map(arrays.send, state[name])] for name in FITTED})


def predicting_in_numpy(model: Any) -> Any:
    """Let a model on a device give predictions that every scorer can read."""
    if not hasattr(model, "_arrays"):
        return model

    def forward(X: Any, n_layers: Any = None, finish: Any = None) -> Any:
        raw = fetch(type(model)._forward(model, X, n_layers))
        return raw if finish is None else finish(raw, slice(0, len(raw)))

    model._forward = forward
    return model


def of_model(estimator: Any, X: Any) -> Arrays | None:
    """Where a fitted model and X lie; None for numpy.

    ValueError, in scikit-learn's words, if they lie in different places.
    """
    of_X, own = dispatched(X), arrays_of(estimator.coefs_[0])
    if of_X == own:
        return own
    if of_X is None and own is not None and dispatched(estimator.coefs_[0]) is None:
        return None  # the dispatch is off: all are read as arrays of numpy
    name = type(estimator).__name__
    methods = "predict", "predict_proba", "predict_log_proba", "hidden_outputs"
    raise ValueError(
        f"Inputs passed to {', '.join(f'{name}.{m}()' for m in methods)} must use the "
        "same namespace and the same device as those passed to fit(): the model's "
        f"arrays are {own or 'numpy'}, those of X {of_X or 'numpy'}. To move the "
        "model: 'from sklearn.utils._array_api import get_namespace_and_device, "
        "move_estimator_to; xp, _, device = get_namespace_and_device(X); "
        "estimator = move_estimator_to(estimator, xp, device)'"
    )
