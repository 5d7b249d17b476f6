"""One model, whatever library X is an array of, and on whatever device it lies."""

from __future__ import annotations

import copy
import importlib.util
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skmlp
from skmlp import InputEncoding, MLPClassifier, MLPRegressor
from skmlp.arrays import arrays_of, fetch
from tests.laws.places import TABLE, Place, alone, assert_same_model, gangs_seen
from tests.limits import HANG_S
from tests.model.own import Sine

#: Set in the process that `test_jax_in_a_process_of_its_own` starts. Where JAX runs, a
#: process must not fork any more, which other tests do, and the smallest numbers are 0.
JAX_HERE = "SKMLP_TEST_JAX"

#: Those that the extra `test-arrays` installs, and torch, whose wheel on Linux brings
#: several GB of CUDA libraries: it is tried where somebody has installed it.
WHY_NOT = "torch is tested where it is installed: CI would load several GB with it"


def _strict(name: str) -> Callable[[Any], Any]:
    strict = pytest.importorskip("array_api_strict")
    return lambda array: strict.asarray(array, device=strict.Device(name))


def _torch() -> Callable[[Any], Any]:
    torch = pytest.importorskip("torch", reason=WHY_NOT)
    return lambda array: torch.asarray(np.array(array))


def _import_jax() -> Any:
    if JAX_HERE not in os.environ:
        pytest.skip("see test_jax_in_a_process_of_its_own")
    return pytest.importorskip("jax")


def _jax() -> Callable[[Any], Any]:
    jax = _import_jax()
    jax.config.update("jax_enable_x64", True)
    return lambda array: jax.numpy.asarray(array)


#: From an array of numpy to that of a library.
LIBRARIES: dict[str, Callable[[], Callable[[Any], Any]]] = {
    "array_api_strict": lambda: _strict("CPU_DEVICE"),
    # numpy can't read what lies there: nothing is moved in silence.
    "array_api_strict, another device": lambda: _strict("device1"),
    "torch": _torch,
    "jax": _jax,
}
EVERY_LIBRARY = pytest.mark.parametrize("library", LIBRARIES)

#: Of JAX, which compiles each fit for a second or two, one of each kind.
SOME = ["adam", "dropout", "nadam, clipped, frozen", "heads, lbfgs, float32"]
SOME += ["rmsprop, averaged, stopping early", "missing targets", "adagrad, l1"]
#: What lies on a device is dense, and no object computes in numpy.
FITS = {
    name: fit
    for name, fit in TABLE.items()
    if fit.kind != "csr" and not name.startswith(("own", "encoded"))
}
PREDICTIONS = ("predict", "predict_proba", "hidden_outputs")


@pytest.fixture(autouse=True)
def _dispatch(monkeypatch):
    """scikit-learn asks for the variable; skmlp calls nothing of SciPy with arrays."""
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    with sklearn.config_context(array_api_dispatch=True), gangs_seen():
        yield


def brought_to(there: Callable[[Any], Any]) -> Callable[[Any, Any, Any], Sequence[Any]]:
    """X, y and weights as arrays of a library; texts stay in numpy."""

    def bring(X: Any, y: Any, w: Any) -> Sequence[Any]:
        y = there(y) if y.dtype.kind in "biuf" else y
        return there(X), y, None if w is None else there(w)

    return bring


def assert_lies_there(model: Any, X: Any) -> None:
    for array in (*model.coefs_, *model.intercepts_):
        assert arrays_of(array) == arrays_of(X)
        assert array.dtype == X.dtype


def in_numpy(model: Any) -> Any:
    return model.__sklearn_array_api_convert__(fetch)


@pytest.mark.skipif(JAX_HERE in os.environ, reason="this is that process")
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not here")
def test_jax_in_a_process_of_its_own():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", "jax or mixed_libraries or no_float64"],
        env={**os.environ, JAX_HERE: "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= len(SOME) + 2, done.stdout[-4000:]


@pytest.mark.parametrize(
    ("library", "name"),
    [(library, name) for library in LIBRARIES for name in FITS
     if library != "jax" or name in SOME],
)  # fmt: skip
def test_every_fit(library, name):
    fit, there = FITS[name], LIBRARIES[library]()
    model = fit.run(Place("in process", bring=brought_to(there)))
    X, y, _ = fit.data()
    assert_lies_there(model, there(X))
    host = alone(name)
    assert_same_model(in_numpy(model), host, **fit.tolerances)
    tolerances = fit.tolerances
    for method in PREDICTIONS:
        if not hasattr(model, method) or (method[0] == "h" and len(model.coefs_) == 1):
            continue
        found, expected = getattr(model, method)(there(X)), getattr(host, method)(X)
        if not isinstance(expected, list):
            found, expected = [found], [expected]
        for one, other in zip(found, expected, strict=True):
            if other.dtype.kind in "biuf":
                assert arrays_of(one) == arrays_of(there(X))
            if other.dtype.kind == "f":
                assert_allclose(fetch(one), other, **tolerances)
            else:
                np.testing.assert_array_equal(fetch(one), other)
            assert fetch(one).dtype == other.dtype
    if len(X) > 1:
        score = model.score(*brought_to(there)(X, y, None))
        assert_allclose(score, host.score(X, y), **tolerances)


# ---- A few rows ----------------------------------------------------------------------

RNG = np.random.default_rng(4)
X = RNG.normal(size=(60, 5))
LABELS = (X[:, 0] + 0.3 * RNG.normal(size=60) > 0).astype(int) + (X[:, 1] > 0.5)
SMALL: dict[str, Any] = {"hidden_layer_sizes": (6, 4), "random_state": 1, "max_iter": 3}


@EVERY_LIBRARY
@pytest.mark.parametrize("solver", ["adam", "sgd", "rmsprop"])
def test_one_step_to_ten_digits(library, solver):
    there = LIBRARIES[library]()
    params = {**SMALL, "solver": solver, "max_iter": 1, "batch_size": 60}
    model = in_numpy(MLPClassifier(**params).fit(there(X), LABELS))
    host = MLPClassifier(**params).fit(X, LABELS)
    for one, other in zip(
        [*model.coefs_, *model.intercepts_],
        [*host.coefs_, *host.intercepts_],
        strict=True,
    ):
        assert_allclose(one, other, rtol=1e-10, atol=1e-14)


@EVERY_LIBRARY
def test_what_comes_with_x_follows_it(library):
    there = LIBRARIES[library]()
    names = np.array(["a", "b", "c"])[LABELS]
    weights = np.linspace(0.5, 2, 60)
    validation = {
        "X_val": X[:20],
        "y_val": list(names[:20]),
        "sample_weight_val": weights[:20],
    }
    params = {**SMALL, "early_stopping": True}
    model = MLPClassifier(**params).fit(
        there(X), names.tolist(), there(weights), **validation
    )
    host = MLPClassifier(**params).fit(X, names, weights, **validation)
    assert_same_model(in_numpy(model), host, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(model.predict(there(X)), host.predict(X))
    assert model.score(there(X), names.tolist(), there(weights)) == host.score(
        X, names, weights
    )


def test_sparse_validation_rows_and_several_blocks(monkeypatch):
    there = _strict("device1")
    kwargs = {"X_val": sparse.csr_array(X[:20]), "y_val": LABELS[:20]}
    model = MLPClassifier(**SMALL, early_stopping=True).fit(there(X), LABELS, **kwargs)
    host = MLPClassifier(**SMALL, early_stopping=True).fit(X, LABELS, **kwargs)
    assert_same_model(in_numpy(model), host, rtol=1e-6, atol=1e-9)
    shown = model.summary()
    assert shown.splitlines()[:3] == host.summary().splitlines()[:3]
    monkeypatch.setattr("skmlp.model.predict.BLOCK_NUMBERS", 64)
    rows = np.tile(X, (4, 1))
    assert_allclose(fetch(model.predict_proba(there(rows))), host.predict_proba(rows))
    np.testing.assert_array_equal(fetch(model.predict(there(rows))), host.predict(rows))


def test_mixed_libraries():
    """y of one library, X of another one, and X of numpy with y of another one."""
    strict, jax = _strict("device1"), _jax()
    host = MLPClassifier(**SMALL).fit(X, LABELS)
    for rows, labels in (
        (strict(X), jax(LABELS)),
        (jax(X), strict(LABELS)),
        (X, strict(LABELS)),
    ):
        model = MLPClassifier(**SMALL).fit(rows, labels)
        assert arrays_of(model.coefs_[0]) == arrays_of(rows)
        assert_same_model(in_numpy(model), host, rtol=1e-6, atol=1e-9)
        assert model.score(rows, labels) == host.score(X, LABELS)


@EVERY_LIBRARY
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_calls_that_follow_each_other(library, kind):
    there = LIBRARIES[library]()
    for params in ({"warm_start": True}, {"warm_start": True, "solver": "lbfgs"}):
        if library == "jax" and "solver" not in params:
            continue
        one, other = (kind(**{**SMALL, **params}) for _ in range(2))
        for _ in range(2):
            one.fit(there(X), there(LABELS))
            other.fit(X, LABELS)
        assert_same_model(in_numpy(one), other, rtol=1e-6, atol=1e-9)


def test_float32_where_there_is_no_float64():
    jax = _import_jax()
    jax.config.update("jax_enable_x64", False)
    try:
        rows = jax.numpy.asarray(X)
        model = MLPClassifier(**SMALL).fit(rows, LABELS)
        host = MLPClassifier(**SMALL).fit(X.astype(np.float32), LABELS)
        assert model.coefs_[0].dtype == np.float32
        assert model.predict_proba(rows).dtype == np.float32
        assert_allclose(
            fetch(model.predict_proba(rows)), host.predict_proba(X), rtol=1e-4
        )
        assert_allclose(model.loss_curve_, host.loss_curve_, rtol=1e-5)
    finally:
        jax.config.update("jax_enable_x64", True)


@EVERY_LIBRARY
def test_rows_in_their_own_order(library):
    """The last minibatch is shorter than the others."""
    there, params = LIBRARIES[library](), {**SMALL, "shuffle": False, "batch_size": 25}
    model = MLPClassifier(**params).fit(there(X), LABELS)
    assert_same_model(
        in_numpy(model), MLPClassifier(**params).fit(X, LABELS), rtol=1e-6, atol=1e-9
    )


@EVERY_LIBRARY
def test_parameters_that_overflow_in_the_last_step(library):
    """The loss, which is that before the step, is finite."""
    there, params = LIBRARIES[library](), {**SMALL, "solver": "sgd", "max_iter": 1}
    model = MLPRegressor(**params, batch_size=60, learning_rate_init=1e300)
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(there(X), 1e12 * X[:, 0])


def test_nothing_comes_back_in_silence(monkeypatch):
    """What a fit brings to the host: four numbers of each epoch, and the state at the
    end of a round; never a row."""
    there, sizes = _strict("device1"), []
    rows = there(X)
    usual = type(rows).to_device

    def to_device(array: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(int(np.prod(array.shape)))
        return usual(array, *args, **kwargs)

    monkeypatch.setattr(type(rows), "to_device", to_device)
    model = MLPClassifier(**SMALL, batch_size=20).fit(rows, LABELS)
    n_params = sum(int(np.prod(a.shape)) for a in model.coefs_ + model.intercepts_)
    n_rounds = sizes.count(n_params) // 3
    assert sizes.count(4) == model.n_iter_
    assert 1 <= n_rounds <= model.n_iter_
    allowed = {4: model.n_iter_, n_params: 3 * n_rounds, X.shape[1]: 1}
    assert {size: sizes.count(size) for size in sizes} == allowed
    sizes.clear()
    model.predict_proba(rows)
    model.predict(rows)
    assert sizes == []


# ---- Moving and keeping --------------------------------------------------------------


@EVERY_LIBRARY
def test_models_are_copied_and_kept(library, tmp_path):
    there = LIBRARIES[library]()
    rows = there(X)
    model = MLPRegressor(**SMALL).fit(rows, X[:, 0])
    expected = fetch(model.predict(rows))
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert arrays_of(again.coefs_[0]) == arrays_of(rows)
        assert_allclose(fetch(again.predict(rows)), expected, rtol=1e-12)
    skmlp.save(model, tmp_path / "model")
    assert_allclose(skmlp.load(tmp_path / "model").predict(X), expected, rtol=1e-6)
    assert_allclose(in_numpy(model).predict(X), expected, rtol=1e-6)
    assert not hasattr(clone(model), "coefs_")


def test_a_pickle_of_a_device_that_is_not_here(monkeypatch):
    there = _strict("device1")
    kept = pickle.dumps(MLPClassifier(**SMALL).fit(there(X), LABELS))
    monkeypatch.setitem(sys.modules, "array_api_strict", None)
    model = pickle.loads(kept)
    expected = MLPClassifier(**SMALL).fit(X, LABELS).predict_proba(X)
    assert_allclose(model.predict_proba(X), expected, rtol=1e-6)


# ---- What is refused -----------------------------------------------------------------


class Elsewhere:
    """Stands for a tensor on a GPU."""

    shape, device = (60, 5), "cuda:0"

    def __dlpack_device__(self):
        return (2, 0)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_without_the_dispatch():
    model, there = MLPClassifier(**SMALL).fit(X, LABELS), Elsewhere()
    calls = [
        lambda: model.fit(there, LABELS),
        lambda: model.fit(X, there),
        lambda: model.fit(X, LABELS, X_val=there, y_val=LABELS),
        lambda: model.partial_fit(X, there),
        lambda: model.predict(there),
        lambda: model.score(there, LABELS),
    ]
    with sklearn.config_context(array_api_dispatch=False):
        for call in calls:
            with pytest.raises(TypeError, match=r"SCIPY_ARRAY_API=1.*array_api_dispa"):
                call()


def test_what_is_of_another_place():
    there = _strict("device1")
    model = MLPClassifier(**SMALL).fit(there(X), LABELS)
    host = MLPClassifier(**SMALL).fit(X, LABELS)
    for one, rows in ((model, X), (model, _strict("CPU_DEVICE")(X)), (host, there(X))):
        for method in (*PREDICTIONS, "predict_log_proba"):
            with pytest.raises(ValueError, match=rf"{method}\(\).* must use the same"):
                getattr(one, method)(rows)


def test_what_is_not_supported_is_refused_before_training():
    there, refused = _strict("device1"), pytest.raises
    with refused(ValueError, match="of your own"):
        MLPClassifier(activation=Sine()).fit(there(X), LABELS)
    encoding = InputEncoding.of_quantiles(X)
    with refused(ValueError, match="input_encoding"):
        MLPClassifier(input_encoding=encoding).fit(there(X), LABELS)
    with refused(ValueError, match="in this process"), joblib.parallel_config("loky"):
        MLPClassifier(n_jobs=2).fit(there(X), LABELS)
    da = pytest.importorskip("dask.array")
    with refused(TypeError, match="Dask"):
        MLPClassifier().fit(there(X), da.from_array(LABELS, chunks=20))
    strict = pytest.importorskip("array_api_strict")
    with refused(ValueError, match="Complex data"):
        MLPClassifier().fit(strict.asarray(X + 1j), LABELS)
    bad = X.copy()
    bad[3, 2] = np.nan
    with refused(ValueError, match="NaN"):
        MLPClassifier().fit(there(bad), LABELS)
    with refused(ValueError, match="inconsistent numbers of samples"):
        MLPClassifier().fit(there(X), LABELS[:-1])


def test_a_sparse_tensor_is_refused():
    torch = pytest.importorskip("torch", reason=WHY_NOT)
    with pytest.raises(TypeError, match="sparse tensor"):
        MLPClassifier(**SMALL).fit(torch.asarray(X).to_sparse(), LABELS)


def test_a_grid_search():
    there = _torch()
    grid = {"alpha": [1e-4, 1.0]}
    one, other = (GridSearchCV(MLPClassifier(**SMALL), grid, cv=3) for _ in range(2))
    one.fit(there(X), there(LABELS))
    other.fit(X, LABELS)
    scores = (search.cv_results_["mean_test_score"] for search in (one, other))
    assert_allclose(*scores)
    assert arrays_of(one.best_estimator_.coefs_[0]) == arrays_of(there(X))


def test_torch_compiles_the_step():
    there = _torch()
    if shutil.which("g++") is None:
        pytest.skip("torch.compile takes a compiler, and none is here")
    params = {**SMALL, "batch_size": 25, "dropout": 0.2}
    with skmlp.config_context(torch_compile=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch's compiler says of itself
        model = MLPClassifier(**params).fit(there(X), LABELS)
    host = MLPClassifier(**params).fit(X, LABELS)
    assert_same_model(in_numpy(model), host, rtol=1e-6, atol=1e-9)
