"""A class weight is the same weight of each row of the class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.utils.class_weight import compute_sample_weight

from skmlp import MLPClassifier
from skmlp.data.targets import class_weights_of
from skmlp.estimators.targets.class_weights import tables
from tests.estimators.attempts import CLASSES, X, Y, attempt, make
from tests.laws.twins import data_of

LABELS = [{0: 1.0, 1: 5.0}, {0: 0.5}, {0: 2.0, 1: 3.0}]
CASES: list[tuple[str, Any]] = [
    ("binary", "balanced"),
    ("binary", {1: 4}),
    ("binary strings", {"yes": 0.2, "no": 1.5}),
    ("binary strings", {}),
    ("multiclass", "balanced"),
    ("multiclass", {1: 0.0, 3: 2.0, 5: 0.3}),
    ("multilabel", "balanced"),
    ("multilabel", LABELS),
]


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("task", "class_weight"), CASES)
def test_it_is_scikit_learns_weight_of_the_rows(task, class_weight, weighted, solver):
    X, y = data_of(task)
    w = np.arange(len(y)) % 3 + 0.5 if weighted else None
    params = {"hidden_layer_sizes": 4, "max_iter": 4, "random_state": 0}
    model = MLPClassifier(**params, solver=solver, class_weight=class_weight)
    model.fit(X, y, w)
    rows = compute_sample_weight(class_weight, y)
    twin = MLPClassifier(**params, solver=solver)
    twin.fit(X, y, rows if w is None else w * rows)
    for mine, other in zip(model.coefs_, twin.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-12)
    assert model.loss_ == pytest.approx(twin.loss_, rel=1e-12)


@pytest.mark.parametrize("class_weight", ["balanced", LABELS])
def test_a_column_with_one_of_its_labels_only(class_weight):
    y = np.array([[0, 0, 1], [1, 0, 1], [1, 0, 1]])
    counts = [np.bincount(column, minlength=2) for column in y.T]
    rows = class_weights_of(tables(class_weight, [np.arange(2)] * 3, counts), y)
    assert_allclose(rows, compute_sample_weight(class_weight, y))


def test_pieces_need_not_have_all_classes():
    model = make("MLPClassifier", "", class_weight={2: 5.0}).set_params(verbose=False)
    some = Y < 2
    model.partial_fit(X[some], Y[some], classes=CLASSES)
    twin = make("MLPClassifier", "").set_params(verbose=False)
    twin.partial_fit(X[some], Y[some], classes=CLASSES)
    assert_allclose(model.coefs_[0], twin.coefs_[0])
    model.partial_fit(X, Y)
    twin.partial_fit(X, Y, np.where(Y == 2, 5.0, 1.0))
    assert_allclose(model.coefs_[0], twin.coefs_[0], rtol=1e-12)


@pytest.mark.parametrize("fitted", ["unfitted", "fitted"])
def test_pieces_can_not_be_balanced(fitted):
    model = make("MLPClassifier", fitted).set_params(class_weight="balanced")
    error = attempt(model, lambda m: m.partial_fit(X, Y, classes=CLASSES))
    assert "compute_class_weight('balanced'" in str(error)


@pytest.mark.parametrize("class_weight", [{0: 1, 1: 2}, LABELS[:2], [{}, {7: 1}, {}]])
def test_labels_need_a_dict_each(class_weight):
    y = np.stack([Y > 0, Y > 1, Y < 1], axis=1).astype(int)
    model = make("MLPClassifier", "", class_weight=class_weight)
    error = attempt(model, lambda m: m.fit(X, y))
    with pytest.raises(ValueError, match="class_weight") as theirs:
        compute_sample_weight(class_weight, y)
    assert str(error) == str(theirs.value)
