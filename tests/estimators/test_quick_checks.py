"""What is checked quickly is checked as scikit-learn checks it."""

from __future__ import annotations

import warnings
from typing import ClassVar

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import get_tags
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import validate_data

from skmlp import InputEncoding, MLPClassifier, MLPRegressor
from skmlp.estimators.fitting import fast_checks
from skmlp.model import predict

RANDOM = np.random.default_rng(0)
SOUND = RANDOM.normal(size=(6, 3))
TARGETS = RANDOM.normal(size=6)


def _with(array, value):
    changed = array.copy()
    changed.flat[1] = value
    return changed


#: Rows, and whether they need no look by scikit-learn.
ROWS = {
    "float64": (SOUND, True),
    "float32": (SOUND.astype(np.float32), True),
    "columns first": (np.asfortranarray(SOUND), False),
    "every second row": (RANDOM.normal(size=(12, 3))[::2], False),
    "swapped bytes": (SOUND.astype(SOUND.dtype.newbyteorder()), False),
    "float16": (SOUND.astype(np.float16), False),
    "integers": (SOUND.astype(int), False),
    "objects": (SOUND.astype(object), False),
    "complex": (SOUND.astype(complex), False),
    "words": (SOUND.astype(str), False),
    "list": (SOUND.tolist(), False),
    "matrix": (SOUND.view(np.matrix), False),
    "masked": (np.ma.masked_array(SOUND), False),
    "NaN": (_with(SOUND, np.nan), False),
    "infinite": (_with(SOUND, -np.inf), False),
    "sum overflows": (np.full((6, 3), 1.5e308), False),
    "a row": (SOUND[0], False),
    "a cube": (SOUND[None], False),
    "no rows": (SOUND[:0], False),
    "no columns": (SOUND[:, :0], False),
    "None": (None, False),
}

#: Targets, and whether they need no look.
KINDS_OF_TARGETS = {
    "float64": (TARGETS, True),
    "float16": (TARGETS.astype(np.float16), True),
    "integers": (np.arange(6), True),
    "booleans": (TARGETS > 0, True),
    "every second": (RANDOM.normal(size=12)[::2], True),
    "column": (TARGETS[:, None], False),
    "columns": (SOUND, False),
    "objects": (TARGETS.astype(object), False),
    "complex": (TARGETS.astype(complex), False),
    "NaN": (_with(TARGETS, np.nan), False),
    "infinite": (_with(TARGETS, np.inf), False),
    "too few": (TARGETS[:5], False),
    "a number": (np.float64(1.0), False),
    "list": (TARGETS.tolist(), False),
    "None": (None, False),
}

FULL = {
    "accept_sparse": ["csr", "csc"],
    "multi_output": True,
    "dtype": (np.float64, np.float32),
    "order": "C",
    "y_numeric": True,
}


def _outcome(check, *arguments, fitted=None, **options):
    """What came out, or which error; and the features noted."""
    model = MLPRegressor()
    vars(model).update(fitted or {"feature_names_in_": np.array(["a", "b", "c"])})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = check(model, *arguments, **options)
        except (TypeError, ValueError) as error:
            return type(error), str(error), {}
    noted = {k: v for k, v in vars(model).items() if k.endswith("_in_")}
    return "fine", found, noted


@pytest.fixture
def looked(monkeypatch):
    """How often scikit-learn was asked."""
    calls = []

    def count(*arguments, **options):
        calls.append(arguments)
        return validate_data(*arguments, **options)

    monkeypatch.setattr(fast_checks, "validate_data", count)
    return calls


@pytest.mark.parametrize("kind", KINDS_OF_TARGETS)
@pytest.mark.parametrize("rows", ROWS)
def test_pairs_as_scikit_learn(rows, kind, looked):
    (X, plain), (y, plain_y) = ROWS[rows], KINDS_OF_TARGETS[kind]
    how, found, noted = _outcome(
        fast_checks.checked_pair, X, y, reset=True, y_numeric=True
    )
    quick = not looked
    expected = _outcome(validate_data, X, y, reset=True, **FULL)
    assert how == expected[0]
    assert quick == (plain and plain_y)
    if how != "fine":
        assert found == expected[1]
        return
    assert noted == expected[2] == {"n_features_in_": 3}
    for one, other in zip(found, expected[1], strict=True):
        assert_array_equal(one, other, strict=True)


def _rows_to_predict(model, X):
    rows, check = fast_checks.checked_rows(model, X)
    if check is not None:
        check()
    return rows


@pytest.mark.parametrize("rows", ROWS)
def test_rows_to_predict_as_scikit_learn(rows):
    X, _ = ROWS[rows]
    for n_features in (3, 4):
        fitted = {"n_features_in_": n_features}
        how, found, _ = _outcome(_rows_to_predict, X, fitted=fitted)
        options = {"accept_sparse": ["csr", "csc"], "reset": False}
        expected = _outcome(validate_data, X, fitted=fitted, **options)
        assert how == expected[0]
        if how == "fine":
            assert_array_equal(found, expected[1], strict=True)
        else:
            assert found == expected[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, np.finfo(np.float64).max])
def test_threads_that_share_rows_look_at_all_of_them(value, looked, monkeypatch):
    """Numbers whose sum overflows are fine; scikit-learn says so."""
    rows, targets = np.tile(SOUND, (100, 1)), np.tile(TARGETS, 100)
    model = MLPRegressor(hidden_layer_sizes=8, max_iter=2).fit(rows, targets)
    monkeypatch.setattr(predict, "_WORTH_THREADS", 0)
    assert_allclose(model.predict(rows), model.predict(rows[:6]).tolist() * 100)
    assert not looked
    rows[555, 1:] = value
    if value < np.inf:
        model.predict(rows)
    else:
        with pytest.raises(ValueError, match=r"X contains (NaN|infinity)"):
            model.predict(rows)
    assert len(looked) == 1


def test_encoded_rows_are_checked_as_they_came(monkeypatch):
    """A ramp of infinity is 1."""
    rows, targets = np.tile(SOUND, (100, 1)), np.tile(TARGETS, 100)
    encoding = InputEncoding.of_quantiles(rows, n_ramps=2)
    encoding = encoding.take(np.flatnonzero(encoding.kinds == 1))
    model = MLPRegressor(hidden_layer_sizes=8, max_iter=2, input_encoding=encoding)
    model.fit(rows, targets)
    monkeypatch.setattr(predict, "_WORTH_THREADS", 0)
    rows[555, 1] = np.inf
    assert np.isfinite(encoding.encode(rows)).all()
    with pytest.raises(ValueError, match="X contains infinity"):
        model.predict(rows)


def test_rows_without_names_are_told_of():
    model = MLPRegressor()
    model.n_features_in_, model.feature_names_in_ = 3, np.array(["a", "b", "c"])
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        fast_checks.checked_rows(model, SOUND)


@pytest.mark.parametrize(
    "labels",
    [
        [0, 1] * 3,
        [3, -1, 7] * 9,
        [5] * 4,
        [True, False, True],
        [2.0, 1.0, 1.0],
        ["b", "a", "b", "c"],
        [[0, 1], [1, 1]],
        list(range(30)),
        [4],
    ],
    ids=lambda labels: f"{len(labels)} like {labels[0]}",
)
@pytest.mark.parametrize("dtype", [None, np.uint8, object])
def test_binarizer_as_scikit_learn(labels, dtype):
    if dtype is np.uint8:
        labels = np.unique(labels, return_inverse=True)[1]
    y = np.asarray(labels, dtype)
    found, expected = [], []
    for make, told in (
        (fast_checks.binarizer_of, found),
        (lambda y: LabelBinarizer().fit(y), expected),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                told.append(vars(make(y)))
            except ValueError as error:
                told.append({"error": str(error)})
        told.append([str(warning.message) for warning in caught])
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        assert_array_equal(found[0][name], value, strict=isinstance(value, np.ndarray))


# -- parameters ------------------------------------------------------------------------


class Careless(MLPClassifier):
    """A default that is no good."""

    def __init__(self, alpha=-1.0, hidden_layer_sizes=(2,)):
        super().__init__(hidden_layer_sizes, alpha=alpha)


class Strict(MLPClassifier):
    """Constraints of its own."""

    _parameter_constraints: ClassVar = {
        **MLPClassifier._parameter_constraints,
        "solver": [type(None)],
    }


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (MLPClassifier(alpha=-1.0), "alpha"),
        (MLPClassifier(shuffle=1.5), "shuffle"),
        (MLPClassifier(max_iter=200.0), "max_iter"),
        (MLPRegressor(tol=True, beta_1=2), "beta_1"),
        (Careless(), "alpha"),
        (Strict(), "solver"),
    ],
    ids=lambda case: case if isinstance(case, str) else type(case).__name__,
)
def test_parameters_are_looked_at(model, name):
    for _ in range(2):
        with pytest.raises(InvalidParameterError, match=f"{name!r} parameter of"):
            model.fit(SOUND, np.arange(6) % 2)
    assert name in clone(model).get_params()


def test_constraints_of_one_estimator():
    model = MLPClassifier()
    model._parameter_constraints = {"solver": [type(None)]}
    with pytest.raises(InvalidParameterError, match="'solver' parameter of"):
        model.fit(SOUND, np.arange(6) % 2)


def test_a_class_that_changes(monkeypatch):
    assert "alpha" in Strict().get_params()

    def other(self, hidden_layer_sizes=(2,), *, solver=None):
        MLPClassifier.__init__(self, hidden_layer_sizes, solver=solver)

    monkeypatch.setattr(Strict, "__init__", other)
    assert set(Strict().get_params()) == {"hidden_layer_sizes", "solver"}
    assert get_tags(Strict()).estimator_type == "classifier"
