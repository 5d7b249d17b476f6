"""Losses and their links against outside oracles, and what estimators make of them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn._loss import (
    AbsoluteError,
    HalfGammaLoss,
    HalfPoissonLoss,
    HuberLoss,
    PinballLoss,
)
from sklearn.linear_model import GammaRegressor, QuantileRegressor
from sklearn.metrics import (
    d2_pinball_score,
    mean_absolute_error,
    mean_gamma_deviance,
    mean_pinball_loss,
)

from skmlp import MLPClassifier, MLPRegressor
from skmlp.kernels import compiled, reference
from skmlp.model.losses import kernel_of, output_of
from tests.model.own import Exponential, LogCosh, Sine

KERNELS = pytest.mark.parametrize("kernels", [compiled, reference])
RNG = np.random.default_rng(0)
RAW = RNG.normal(size=(40, 1))
Y = RNG.gamma(2.0, 1.0, (40, 1))

#: Our loss and its parameters, scikit-learn's, and the mean of a target that theirs
#: lacks to be a deviance.
OF_SKLEARN = {
    "absolute_error": ((), AbsoluteError(), 0.0),
    "huber": ((0.7,), HuberLoss(delta=0.7), 0.0),
    "quantile": ((0.2,), PinballLoss(quantile=0.2), 0.0),
    "gamma": ((), HalfGammaLoss(), -np.log(Y) - 1),
    "poisson": ((), HalfPoissonLoss(), Y * np.log(Y) - Y),
}


def value_and_gradient(kernels, name, settings, raw, y):
    z = raw.copy()
    arrays = np.zeros(z.shape[1]), y, np.empty(0), np.empty(z.shape[1])
    value = kernel_of(name, settings, kernels)(z, *arrays)
    return value, z


@KERNELS
@pytest.mark.parametrize("name", OF_SKLEARN)
def test_the_losses_of_scikit_learn(name, kernels):
    settings, theirs, constant = OF_SKLEARN[name]
    loss, gradient = theirs.loss_gradient(Y[:, 0], RAW[:, 0])
    value, mine = value_and_gradient(kernels, name, settings, RAW, Y)
    expected = loss.sum() + np.sum(constant)
    assert_allclose(value, expected, rtol=1e-12)
    assert_allclose(mine[:, 0], gradient, rtol=1e-12, atol=1e-14)


@KERNELS
def test_the_smoothed_cross_entropy_of_torch(kernels):
    # torch 2.13.0: cross_entropy(raw, y, label_smoothing=0.2, reduction="sum").
    raw = np.array([[0.3, -1.2, 2.0], [1.0, 0.1, -0.4]])
    value, gradient = value_and_gradient(
        kernels, "smoothed_softmax_log_loss", (0.2,), raw, np.array([2, 0], np.int32)
    )
    assert_allclose(value, 1.184363859487305, rtol=1e-12)
    assert_allclose(
        gradient,
        [
            [0.08265219551672452, -0.033349125034505274, -0.04930307048221927],
            [-0.26176696347000117, 0.17926719983919104, 0.08249976363080992],
        ],
        rtol=1e-10,
    )


@KERNELS
def test_two_classes_are_smoothed_alike(kernels):
    """The logistic function of a number is the softmax of it and 0."""
    y = np.arange(len(RAW)) % 2
    one, gradient = value_and_gradient(
        kernels, "smoothed_logistic_log_loss", (0.3,), RAW, y[:, None].astype(np.uint8)
    )
    both = np.hstack([np.zeros_like(RAW), RAW])
    other, gradients = value_and_gradient(
        kernels, "smoothed_softmax_log_loss", (0.3,), both, y.astype(np.int32)
    )
    assert_allclose(one, other, rtol=1e-12)
    assert_allclose(gradient[:, 0], gradients[:, 1], rtol=1e-10)


@KERNELS
def test_several_quantiles_are_each_a_pinball_loss(kernels):
    levels, raw = (0.1, 0.5, 0.8), RNG.normal(size=(40, 3))
    value, _ = value_and_gradient(kernels, "quantiles", levels, raw, Y)
    predictions = raw.copy()
    output_of("increasing", (), kernels)(predictions, np.zeros(3))
    assert (np.diff(predictions, axis=1) > 0).all()
    expected = sum(
        len(Y) * mean_pinball_loss(Y[:, 0], column, alpha=level)
        for level, column in zip(levels, predictions.T, strict=True)
    )
    assert_allclose(value, expected, rtol=1e-12)


# ---- Fits ----------------------------------------------------------------------------

X = RNG.normal(size=(200, 3))
TARGET = X @ [1.0, -0.5, 0.2] + (1 + 0.5 * np.tanh(X[:, 0])) * RNG.normal(size=200)
LINEAR = {"hidden_layer_sizes": (), "alpha": 0.0, "tol": 0.0, "n_iter_no_change": 1000}


def descend(loss, y=TARGET, **params):
    params = {"learning_rate": "cosine", "learning_rate_init": 0.05, **params}
    model = MLPRegressor(loss, max_iter=400, batch_size=200, random_state=0, **params)
    return model.fit(X, y)


def test_a_linear_model_of_a_quantile_is_scikit_learns():
    theirs = QuantileRegressor(quantile=0.8, alpha=0.0).fit(X, TARGET)
    mine = descend("quantile", quantile=0.8, **LINEAR)
    best = mean_pinball_loss(TARGET, theirs.predict(X), alpha=0.8)
    found = mean_pinball_loss(TARGET, mine.predict(X), alpha=0.8)
    assert best <= found < 1.001 * best
    assert_allclose(mine.loss_, found, rtol=1e-3)
    median = QuantileRegressor(quantile=0.5, alpha=0.0).fit(X, TARGET)
    best = mean_absolute_error(TARGET, median.predict(X))
    found = mean_absolute_error(TARGET, descend("absolute_error", **LINEAR).predict(X))
    assert best <= found < 1.001 * best


def test_a_linear_model_of_gamma_is_scikit_learns():
    positive = np.exp(TARGET / 2)
    theirs = GammaRegressor(alpha=0.0, tol=1e-8, max_iter=1000).fit(X, positive)
    mine = MLPRegressor("gamma", (), solver="lbfgs", alpha=0.0, tol=1e-8, max_iter=1000)
    mine.fit(X, positive)
    assert mine.out_activation_ == "exp"
    assert_allclose(mine.coefs_[0][:, 0], theirs.coef_, rtol=1e-3)
    deviance = mean_gamma_deviance(positive, mine.predict(X))
    assert_allclose(mine.loss_, deviance / 2, rtol=1e-8)


def test_huber_is_squared_error_for_small_errors():
    wide = descend("huber", huber_delta=1e6)
    # Not the same bits: small networks without parameters of the loss step in runs.
    assert_allclose(wide.predict(X), descend("squared_error").predict(X), rtol=1e-8)
    spoilt = TARGET.copy()
    spoilt[::20] += 1e3
    robust = descend("huber", spoilt, **LINEAR)
    assert abs(np.median(TARGET - robust.predict(X))) < 0.5


def test_quantiles_never_cross_and_say_what_share_lies_below():
    levels = [0.1, 0.5, 0.9]
    model = descend("quantile", quantile=levels, hidden_layer_sizes=16)
    predictions = model.predict(X)
    assert predictions.shape == (200, 3)
    assert model.n_outputs_ == 3
    assert (np.diff(predictions, axis=1) >= 0).all()
    assert_allclose((TARGET[:, None] <= predictions).mean(axis=0), levels, atol=0.06)
    far = model.predict(100 * RNG.normal(size=(500, 3)))
    assert (np.diff(far, axis=1) >= 0).all()
    scores = [
        d2_pinball_score(TARGET, column, alpha=level)
        for level, column in zip(levels, predictions.T, strict=True)
    ]
    assert_allclose(model.score(X, TARGET), np.mean(scores), rtol=1e-12)


def test_stopping_early_judges_several_quantiles_by_their_loss():
    params = {"early_stopping": True, "max_iter": 20, "random_state": 0}
    model = MLPRegressor("quantile", 8, quantile=[0.1, 0.9], **params).fit(X, TARGET)
    assert model.validation_scores_ == [-loss for loss in model.validation_loss_curve_]


def test_one_quantile_in_a_list_is_one():
    alone, listed = (
        MLPRegressor("quantile", 4, quantile=q, max_iter=3, random_state=0).fit(
            X, TARGET
        )
        for q in (0.3, [0.3])
    )
    assert_array_equal(alone.predict(X), listed.predict(X))


def test_label_smoothing_keeps_probabilities_off_the_ends():
    labels = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
    params = {"max_iter": 400, "learning_rate_init": 0.02, "random_state": 0}
    for y in (labels, labels > 0, np.c_[labels > 0, labels > 1]):
        plain = MLPClassifier(16, **params).fit(X, y)
        smooth = MLPClassifier(16, label_smoothing=0.2, **params).fit(X, y)
        assert smooth.predict_proba(X).max() < plain.predict_proba(X).max()
        assert (smooth.predict(X) == plain.predict(X)).mean() > 0.9
        assert smooth.out_activation_ == plain.out_activation_


# ---- A user's own --------------------------------------------------------------------


def test_an_own_loss_and_activation():
    model = descend(LogCosh(), activation=Sine(), hidden_layer_sizes=8)
    assert model.out_activation_ == "identity"
    assert model.score(X, TARGET) > 0.5
    quasi_newton = MLPRegressor(LogCosh(), (), solver="lbfgs").fit(X, TARGET)
    error = quasi_newton.predict(X) - TARGET
    assert abs(np.tanh(error).sum()) < 1e-1  # the gradient by the intercept
    waiting = np.exp(TARGET)
    model = descend(Exponential(), waiting, **LINEAR)
    gamma = descend("gamma", waiting, **LINEAR)
    assert_allclose(model.predict(X), gamma.predict(X), rtol=1e-6)


class Nothing:
    pass


class OfRows(LogCosh):
    def value_and_gradient(self, y, raw_prediction):
        values, gradient = super().value_and_gradient(y, raw_prediction)
        return values.sum(axis=1), gradient


class Lonely(LogCosh):
    def value_and_gradient(self, y, raw_prediction):
        return super().value_and_gradient(y, raw_prediction)[0]


class Greedy(LogCosh):
    def value_and_gradient(self, y, raw_prediction):
        found = super().value_and_gradient(y, raw_prediction)
        raw_prediction[:] = 0
        return found


class Odd(LogCosh):
    out_activation = "softmax"


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (Nothing(), "'loss' parameter"),
        (OfRows(), "of each number"),
        (Lonely(), "tuple of two arrays"),
        (Greedy(), "leave its arguments"),
        (Odd(), "out_activation"),
    ],
)
def test_a_loss_that_is_none(loss, words):
    with pytest.raises(ValueError, match=words):
        MLPRegressor(loss).fit(X, TARGET)


@pytest.mark.parametrize("loss", ["gamma", "poisson"])
@pytest.mark.parametrize("smallest", [-0.5, 0.0])
def test_targets_out_of_range(loss, smallest):
    y = np.abs(TARGET)
    y[7] = smallest
    model = MLPRegressor(loss, 4, max_iter=2)
    if loss == "poisson" and smallest == 0:
        model.fit(X, y)
        return
    with pytest.raises(ValueError, match=f"loss='{loss}'.*smallest"):
        model.fit(X, y)


@pytest.mark.parametrize(
    ("quantile", "words"),
    [
        ([], "between 0 and 1"),
        ([0.5, 1.0], "between 0 and 1"),
        ([0.5, "x"], "between 0 and 1"),
        ([0.5, 0.5], "must rise"),
        ([0.9, 0.1], "must rise"),
        (1.0, "quantile"),
        (None, "quantile"),
    ],
)
def test_bad_quantiles(quantile, words):
    with pytest.raises(ValueError, match=words):
        MLPRegressor("quantile", quantile=quantile).fit(X, TARGET)


def test_several_quantiles_are_of_one_target():
    with pytest.raises(ValueError, match="2 columns"):
        MLPRegressor("quantile", quantile=[0.1, 0.9]).fit(X, X[:, :2])
