"""Solvers step as the papers and torch say; penalties, bounds and means do as told."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import Lasso

import skmlp
from skmlp import MLPClassifier, MLPRegressor
from skmlp.kernels import compiled, reference
from skmlp.optim.solvers import SOLVERS

KERNELS = pytest.mark.parametrize("kernels", [compiled, reference])
SETTINGS = {
    "alpha": 0.0,
    "l1_ratio": 0.0,
    "average": None,
    "momentum": 0.9,
    "nesterovs_momentum": True,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-15,
    "rho": 0.9,
    "weight_decay": 0.3,
}

#: Three parameters after six steps of torch 2.13.0, float64, with lr=0.1, eps=1e-15
#: (so that the place of epsilon means nothing), RMSprop's alpha=0.9 and AdamW's
#: weight_decay=0.3; start and gradients as in `descend`.
OF_TORCH = {
    "adamw": [0.34379307132292575, 0.03910747842868397, 0.5622635616736547],
    "nadam": [0.5762112738627989, -0.2368226510237936, 0.40736049818377595],
    "rmsprop": [0.334661717467511, 0.08022959220390632, 0.26264027277129454],
    "adagrad": [0.6688276266224669, -0.2966978608231372, 0.38651775575495767],
}


def descend(name, kernels, **settings):
    """Take six steps down a gradient that changes from step to step."""
    plan = SimpleNamespace(**{**SETTINGS, **settings})
    optimizer = SOLVERS[name](plan, kernels)
    params, total = np.array([1.0, -0.5, 0.25]), np.empty(3)
    moments = [np.zeros(3) for _ in range(optimizer.n_moments)]
    move = optimizer.bind(params, total, moments, 3)
    for step in range(1, 7):
        # The sum over a minibatch of four rows.
        total[:] = 4.0 * (params**3 - 0.5 + 0.1 * step)
        move(4.0, 0.1, step)
    return params


@KERNELS
@pytest.mark.parametrize("name", OF_TORCH)
def test_the_steps_of_torch(name, kernels):
    # torch keeps the product of the momenta in float32.
    rtol = 1e-8 if name == "nadam" else 1e-12
    assert_allclose(descend(name, kernels), OF_TORCH[name], rtol=rtol)


@KERNELS
def test_adamw_without_decay_is_adam(kernels):
    adam = descend("adam", kernels, epsilon=1e-3)
    assert_allclose(
        descend("adamw", kernels, epsilon=1e-3, weight_decay=0.0), adam, rtol=1e-13
    )


DATA = np.random.default_rng(0).normal(size=(120, 6))
TARGETS = DATA @ [1.0, -2.0, 0.0, 0.0, 0.5, 0.0] + 0.1 * DATA[:, 0] ** 2


def fit(**params):
    params = {"hidden_layer_sizes": 8, "max_iter": 5, "random_state": 0, **params}
    return MLPRegressor(**params).fit(DATA, TARGETS)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_learns(solver):
    rate = 0.1 if solver == "adagrad" else 0.01
    model = fit(solver=solver, learning_rate_init=rate, max_iter=60, batch_size=20)
    assert model.score(DATA, TARGETS) > 0.9
    assert len(model._optimizer.moments) == SOLVERS[solver].n_moments


@pytest.mark.filterwarnings("ignore::skmlp.UnusedParameterWarning")
@pytest.mark.parametrize("solver", SOLVERS)
def test_l1_makes_the_weights_of_a_linear_model_those_of_the_lasso(solver):
    """Stationary where the data's gradient equals the penalty's, with any solver."""
    n, strength = len(DATA), 0.2
    lasso = Lasso(alpha=strength).fit(DATA, TARGETS)
    schedule = {"learning_rate": "exponential", "decay_rate": 0.5, "decay_epochs": 150}
    model = fit(
        solver=solver,
        hidden_layer_sizes=(),
        activation="identity",
        batch_size=n,
        alpha=strength * n,
        l1_ratio=1.0,
        **({"weight_decay": 0.0} if solver == "adamw" else {}),
        momentum=0.5,
        learning_rate_init={"sgd": 0.1, "adagrad": 0.3}.get(solver, 0.05),
        max_iter=2000,
        tol=0.0,
        n_iter_no_change=np.inf,
        **schedule,
    )
    weights = model.coefs_[0].ravel()
    assert_allclose(weights, lasso.coef_, atol=2e-3)
    assert_array_equal(weights == 0, lasso.coef_ == 0)
    objective = 0.5 * np.mean((TARGETS - lasso.predict(DATA)) ** 2)
    objective += strength * np.abs(lasso.coef_).sum()
    assert_allclose(model.loss_, objective, rtol=1e-3)


def test_l1_needs_a_stochastic_solver():
    with pytest.raises(ValueError, match="l1_ratio"):
        fit(solver="lbfgs", l1_ratio=0.5)


def test_clip_norm_bounds_a_step():
    """Of plain gradient descent: a step is as long as rate times norm, at most."""
    params = {"solver": "sgd", "momentum": 0.0, "batch_size": 120, "max_iter": 1}
    begin = fit(**params, learning_rate_init=1e-300)
    flat = [np.concatenate([a.ravel() for a in m.coefs_ + m.intercepts_]) for m in (
        begin,
        fit(**params, learning_rate_init=1e-3),
        fit(**params, learning_rate_init=1e-3, clip_norm=0.01),
        fit(**params, learning_rate_init=1e-3, clip_norm=1e9),
    )]  # fmt: skip
    free, bound, loose = (f - flat[0] for f in flat[1:])
    assert np.linalg.norm(free) > 2e-5
    assert_allclose(np.linalg.norm(bound), 1e-5, rtol=1e-9)
    assert_allclose(bound / 1e-5, free / np.linalg.norm(free), rtol=1e-6, atol=1e-9)
    assert_array_equal(loose, free)


def test_the_average_is_the_mean_of_the_steps():
    params = {"solver": "sgd", "batch_size": 120, "shuffle": False, "tol": 0.0}
    every = [fit(**params, max_iter=n).coefs_[0] for n in range(1, 7)]
    mean = fit(**params, max_iter=6, average=True).coefs_[0]
    assert_allclose(mean, np.mean(every, axis=0), rtol=1e-12)
    moving = every[0]
    for step, weights in enumerate(every[1:], 2):
        share = max(1 / step, 0.4)
        moving = moving + share * (weights - moving)
    assert_allclose(fit(**params, max_iter=6, average=0.6).coefs_[0], moving)


def test_pieces_go_on_from_what_was_averaged():
    params = {"solver": "adamw", "batch_size": 16, "average": 0.9}
    whole = fit(**params, max_iter=4)
    pieces = MLPRegressor("squared_error", 8, random_state=0, **params)
    for _ in range(4):
        pieces.partial_fit(DATA, TARGETS)
    assert_allclose(pieces.coefs_[0], whole.coefs_[0], rtol=1e-12)
    pieces.coefs_[0][:] = 0.5  # the user's weights count
    pieces.partial_fit(DATA, TARGETS)
    assert abs(pieces.coefs_[0] - 0.5).max() < 0.1


def test_unused_parameters_are_told():
    with pytest.warns(skmlp.UnusedParameterWarning, match=r"weight_decay=0\.1"):
        fit(weight_decay=0.1)
    with pytest.warns(skmlp.UnusedParameterWarning, match="clip_norm.*average"):
        fit(solver="lbfgs", clip_norm=1.0, average=True)


def test_a_classifier_takes_them_all():
    labels = TARGETS > 0
    params = {"solver": "nadam", "l1_ratio": 0.5, "clip_norm": 0.5, "average": 0.9}
    params["learning_rate_init"] = 0.02
    model = MLPClassifier(8, max_iter=60, random_state=0, **params)
    assert model.fit(DATA, labels).score(DATA, labels) > 0.8
