"""Several columns of classes: each has its softmax, and their losses are added."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.utils.class_weight import compute_sample_weight

import skmlp
from skmlp import HiddenLayerTransformer, MLPClassifier
from skmlp.optim.solvers import SOLVERS
from tests.estimators.attempts import attempt

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
)

RNG = np.random.default_rng(7)
N = 60
X = RNG.normal(size=(N, 4))
FIRST = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.3)
SECOND = np.where(X[:, 2] + X[:, 0] > 0, "yes", "no")
THIRD = X[:, 3] > 0


def table(*columns: Any) -> np.ndarray:
    """Columns of any kinds, side by side as objects."""
    found = np.empty((len(columns[0]), len(columns)), object)
    for j, column in enumerate(columns):
        found[:, j] = column
    return found


NUMBERS = np.c_[FIRST * 2 - 1, THIRD + 5]
MIXED = table(FIRST, SECOND, THIRD)
WEIGHTS = np.arange(N) % 4 / 2.0


def make(**params: Any) -> MLPClassifier:
    return MLPClassifier(
        **{"hidden_layer_sizes": 6, "max_iter": 5, "random_state": 0, **params}
    )


# -- what is minimised -----------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_sum_of_the_log_losses(weighted):
    w = WEIGHTS if weighted else None
    model = make(solver="lbfgs", alpha=0.3).fit(X, MIXED, w)
    expected = sum(
        log_loss(column.astype(str), p, sample_weight=w, labels=labels.astype(str))
        for column, p, labels in zip(
            MIXED.T, model.predict_proba(X), model.classes_, strict=True
        )
    )
    weight = N if w is None else w.sum()
    expected += 0.15 * sum((W**2).sum() for W in model.coefs_) / weight
    assert_allclose(model.loss_, expected, rtol=1e-9)


@pytest.mark.parametrize("solver", [*SOLVERS, "lbfgs"])
def test_without_a_hidden_layer_each_head_is_a_fit_of_its_own(solver):
    params: dict[str, Any] = {"hidden_layer_sizes": (), "solver": solver, "max_iter": 3}
    if solver == "lbfgs":
        params |= {"max_iter": 300, "tol": 1e-9, "alpha": 1.0}
    Y = np.c_[FIRST, 3 - FIRST]
    W, b = RNG.normal(size=(4, 6)), RNG.normal(size=6)
    both = make(**params, coefs_init=[W], intercepts_init=[b]).fit(X, Y, WEIGHTS)
    for head, columns in enumerate((slice(0, 3), slice(3, 6))):
        one = make(**params, coefs_init=[W[:, columns]], intercepts_init=[b[columns]])
        one.fit(X, Y[:, head], WEIGHTS)
        tolerances = {"rtol": 1e-9, "atol": 1e-12}
        if solver == "lbfgs":
            tolerances = {"rtol": 1e-3, "atol": 1e-3}  # where it comes to an end
        assert_allclose(both.coefs_[0][:, columns], one.coefs_[0], **tolerances)
        probabilities = both.predict_proba(X)[head]
        assert_allclose(probabilities, one.predict_proba(X), **tolerances)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_target_with_one_class_changes_nothing(smoothing):
    params = {"alpha": 0.0, "label_smoothing": smoothing, "batch_size": 16}
    params["shuffle"] = False  # for more weights are drawn before
    W, V, b = RNG.normal(size=(4, 6)), RNG.normal(size=(6, 4)), RNG.normal(size=6)
    fits = []
    for Y, width in ((FIRST, 3), (np.c_[FIRST, np.full(N, 7)], 4)):
        start = {"coefs_init": [W, V[:, :width]], "intercepts_init": [b, b[:width]]}
        fits.append(make(**params, **start).fit(X, Y))
    alone, both = fits
    assert both.n_classes_ == [3, 1]
    assert_allclose(both.coefs_[0], alone.coefs_[0], rtol=1e-9)
    assert_allclose(both.coefs_[1][:, :3], alone.coefs_[1], rtol=1e-9)
    assert_array_equal(both.coefs_[1][:, 3], V[:, 3])
    assert_array_equal(both.predict(X), np.c_[alone.predict(X), np.full(N, 7)])


@pytest.mark.parametrize("class_weight", [None, "balanced", [{2: 3.0}, {"no": 0.5}]])
def test_weight_k_is_the_row_k_times(class_weight):
    Y, times = MIXED[:, :2], np.arange(N) % 3
    params = {"solver": "lbfgs", "max_iter": 9, "alpha": 0.1}
    weighted = make(**params, class_weight=class_weight)
    if class_weight is None:
        weighted.fit(X, Y, times)
        other = make(**params).fit(np.repeat(X, times, 0), np.repeat(Y, times, 0))
    else:
        weighted.fit(X, Y, WEIGHTS)
        each = class_weight if class_weight == "balanced" else [{2: 3.0}, {"no": 0.5}]
        columns = [Y[:, 0].astype(int), Y[:, 1].astype(str)]
        options = [each, each] if each == "balanced" else each
        rows = np.ones(N)
        for one, column in zip(options, columns, strict=True):
            rows *= compute_sample_weight(one, column)
        other = make(**params).fit(X, Y, WEIGHTS * rows)
    for one, two in zip(weighted.coefs_, other.coefs_, strict=True):
        assert_allclose(one, two, rtol=1e-6, atol=1e-8)


# -- what comes out --------------------------------------------------------------------


def frame(**columns: Any) -> Any:
    return pytest.importorskip("pandas").DataFrame(columns)


#: Targets, and the kinds of the classes of each column.
KINDS = {
    "numbers": (lambda: NUMBERS, "ii"),
    "two numbers, not 0 and 1": (lambda: np.c_[THIRD + 1, THIRD + 1], "ii"),
    "texts": (lambda: np.c_[SECOND, SECOND], "UU"),
    "texts of numbers": (lambda: np.c_[FIRST.astype(str), FIRST.astype(str)], "UU"),
    "objects": (lambda: MIXED, "iOb"),
    "whole reals": (lambda: np.c_[FIRST, FIRST + 1.0], "ff"),
    "lists": (lambda: [[int(a), 4] for a in FIRST], "ii"),
    "a frame": (lambda: frame(a=FIRST, b=SECOND, c=THIRD), "iOb"),
    "categories": (lambda: frame(a=SECOND, b=FIRST).astype("category"), "Oi"),
    "nullable": (lambda: frame(a=FIRST, b=SECOND).convert_dtypes(), "iO"),
    "booleans and numbers": (lambda: frame(a=FIRST, b=THIRD), "ii"),
    "dates": (lambda: np.c_[FIRST, FIRST].astype("datetime64[D]"), "MM"),
}


@pytest.mark.parametrize("name", KINDS)
def test_labels_come_back_as_they_were(name):
    of, kinds = KINDS[name]
    Y = of()
    model = make(max_iter=150, learning_rate_init=0.02).fit(X, Y, X_val=X, y_val=Y)
    assert isinstance(model.classes_, list)
    assert "".join(labels.dtype.kind for labels in model.classes_) == kinds
    assert model.n_classes_ == [len(labels) for labels in model.classes_]
    assert model.n_outputs_ == sum(model.n_classes_)
    found, given = model.predict(X), np.asarray(Y)
    assert found.shape == given.shape
    right = [
        all(a == b for a, b in zip(*rows, strict=True))
        for rows in zip(found, given, strict=True)
    ]
    assert np.mean(right) > 0.8
    assert model.score(X, Y) == model.validation_scores_[-1] == np.mean(right)
    assert model.score(X, Y, WEIGHTS) == pytest.approx(np.average(right, None, WEIGHTS))
    for p, labels, log_p, column in zip(
        model.predict_proba(X),
        model.classes_,
        model.predict_log_proba(X),
        found.T,
        strict=True,
    ):
        assert p.flags.c_contiguous
        assert_allclose(p.sum(axis=1), 1.0)
        assert_allclose(np.exp(log_p), p)
        assert_array_equal(labels[p.argmax(axis=1)], column)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(X), found)


def test_the_attributes_are_those_of_a_forest():
    ours, forest = make().fit(X, NUMBERS), RandomForestClassifier(5).fit(X, NUMBERS)
    for one, other in zip(ours.classes_, forest.classes_, strict=True):
        assert_array_equal(one, other)
    assert ours.n_classes_ == list(forest.n_classes_)
    shapes = [[p.shape for p in m.predict_proba(X)] for m in (ours, forest)]
    assert shapes[0] == shapes[1]
    assert ours.predict(X).dtype == NUMBERS.dtype


def test_labels_of_0_and_1_are_multilabel():
    for Y in (np.c_[THIRD, THIRD], table(THIRD, THIRD.astype(int))):
        model = make().fit(X, Y)
        assert model.out_activation_ == "logistic"
        assert not hasattr(model, "n_classes_")
    model = make().partial_fit(X, np.c_[THIRD, THIRD], classes=[[0, 1], [0, 1]])
    assert model.n_classes_ == [2, 2]


def test_other_tools(tmp_path):
    model = make().fit(X, MIXED)
    skmlp.save(model, tmp_path / "model")
    again = skmlp.load(tmp_path / "model")
    assert_array_equal(again.predict(X), model.predict(X))
    for one in (model, again):
        one.partial_fit(X, MIXED)
    assert_array_equal(again.coefs_[0], model.coefs_[0])
    with pytest.raises(ValueError, match="several columns of classes"):
        model.to_sklearn()
    search = GridSearchCV(make(), {"alpha": [0.1, 1.0]}, cv=2).fit(X, NUMBERS)
    assert 0 <= search.best_score_ <= 1
    found = cross_val_predict(make(), X, NUMBERS, method="predict_proba", cv=2)
    assert [p.shape for p in found] == [(N, 3), (N, 2)]
    hidden = HiddenLayerTransformer(make()).fit(X, NUMBERS)
    assert hidden.transform(X).shape == (N, 6)


# -- call after call -------------------------------------------------------------------


def test_pieces_are_one_fit():
    classes = [[0, 1, 2], np.array(["yes", "no"]), [False, True]]
    pieces = make(shuffle=False)
    for _ in range(5):
        pieces.partial_fit(X, MIXED, classes=classes)
    whole = make(shuffle=False).fit(X, MIXED)
    assert_allclose(pieces.coefs_[0], whole.coefs_[0], rtol=1e-12)
    assert_array_equal(pieces.predict(X), whole.predict(X))
    # A piece has some of the labels.
    pieces.partial_fit(X[:1], MIXED[:1])


def test_an_estimator_goes_from_kind_to_kind():
    model = make()
    for Y, output in (
        (FIRST, "softmax"),
        (MIXED, "softmax_heads"),
        (np.c_[THIRD, THIRD], "logistic"),
        (NUMBERS, "softmax_heads"),
        (THIRD, "logistic"),
    ):
        assert model.fit(X, Y).out_activation_ == output
        fresh = make().fit(X, Y)
        assert_array_equal(model.coefs_[-1], fresh.coefs_[-1])
        assert_array_equal(model.predict(X), fresh.predict(X))
        assert hasattr(model, "_label_binarizer") == (output != "softmax_heads")


# -- what is refused -------------------------------------------------------------------

THREE = [[0, 1, 2], ["no", "yes"], [False, True]]
UNSEEN = table(FIRST, np.where(FIRST == 0, "maybe", "no"), THIRD)
GAPS = table(FIRST, np.where(FIRST == 0, None, "no"), THIRD)
#: Whether the model is fitted to MIXED before, its parameters, what is done, and words.
WRONG: dict[str, tuple[bool, dict[str, Any], Any, str]] = {
    "no classes": (False, {}, lambda m: m.partial_fit(X, MIXED), "classes must be"),
    "classes of one": (
        *(False, {}, lambda m: m.partial_fit(X, MIXED, classes=[0, 1, 2])),
        "labels of each",
    ),
    "classes of two": (
        *(False, {}, lambda m: m.partial_fit(X, MIXED, classes=THREE[:2])),
        "labels of 2 targets, but y has 3",
    ),
    "classes of one in a list": (
        *(False, {}, lambda m: m.partial_fit(X, FIRST, classes=THREE[:1])),
        r"one column: give the labels alone, classes=\[0, 1, 2\]",
    ),
    "no class": (
        *(False, {}, lambda m: m.partial_fit(X, MIXED, classes=[*THREE[:2], []])),
        "array of shape",
    ),
    "mixed classes": (
        False,
        {},
        lambda m: m.partial_fit(X, MIXED, classes=[[0, "a"], *THREE[1:]]),
        "Mix of label input types",
    ),
    "other classes": (
        True,
        {},
        lambda m: m.partial_fit(X, MIXED, classes=[[0, 1], *THREE[1:]]),
        "not the same as on last call",
    ),
    "classes of one, later": (
        *(True, {}, lambda m: m.partial_fit(X, MIXED, classes=[0, 1])),
        "not the same as on last call",
    ),
    "an unseen label": (True, {}, lambda m: m.partial_fit(X, UNSEEN), "column 1.*mayb"),
    "fewer columns": (True, {}, lambda m: m.partial_fit(X, MIXED[:, :2]), "3 columns"),
    "one column": (True, {}, lambda m: m.partial_fit(X, FIRST), "3 columns"),
    "other labels": (
        *(True, {"warm_start": True}, lambda m: m.fit(X, UNSEEN)),
        "same classes as in the previous call",
    ),
    "gone labels": (
        *(True, {"warm_start": True}, lambda m: m.fit(X[:1], MIXED[:1])),
        "same classes as in the previous call",
    ),
    "unseen in y_val": (
        *(False, {}, lambda m: m.fit(X, MIXED, X_val=X, y_val=UNSEEN)),
        "y_val has labels.*maybe",
    ),
    "y_val of one column": (
        *(False, {}, lambda m: m.fit(X, MIXED, X_val=X, y_val=FIRST)),
        "3 columns",
    ),
    "fractions": (
        *(False, {}, lambda m: m.fit(X, np.c_[FIRST, X[:, 0]])),
        "continuous-multioutput",
    ),
    "gaps": (False, {}, lambda m: m.fit(X, GAPS), "NaN"),
    "a mixed column": (
        *(False, {}, lambda m: m.fit(X, table(FIRST, [1, "a"] * (N // 2)))),
        "Mix of label input types",
    ),
    "one dict of weights": (
        *(False, {"class_weight": {0: 2}}, lambda m: m.fit(X, MIXED)),
        "should be a list of dicts",
    ),
    "too few dicts": (
        *(False, {"class_weight": [{0: 2}]}, lambda m: m.fit(X, MIXED)),
        "number of elements in class_weight",
    ),
    "weights of a label that is not": (
        *(False, {"class_weight": [{}, {"maybe": 2}, {}]}, lambda m: m.fit(X, MIXED)),
        "not in class_weight",
    ),
    "weights that are no dict": (
        *(False, {"class_weight": [3, {}, {}]}, lambda m: m.fit(X, MIXED)),
        "class_weight must be",
    ),
    "balanced pieces": (
        False,
        {"class_weight": ["balanced", {}, {}]},
        lambda m: m.partial_fit(X, MIXED, classes=THREE),
        "not supported by partial_fit",
    ),
    "a scorer of one column": (
        *(False, {"scoring": "accuracy"}, lambda m: m.fit(X, MIXED)),
        "scorers take no targets",
    ),
    "score of two columns": (True, {}, lambda m: m.score(X, MIXED[:, :2]), "3 columns"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(name):
    fitted, params, call, words = WRONG[name]
    model = make()
    if fitted:
        model.fit(X, MIXED)
    error = attempt(model.set_params(**params), call)
    assert type(error) is ValueError
    assert pytest.raises(ValueError, match=words).matches(error) or str(error) == words
