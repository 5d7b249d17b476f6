"""Learning rates are those of their formulas, of torch, and of the user's function."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

import skmlp
from skmlp import MLPRegressor
from skmlp.optim.schedules import SCHEDULES, Schedule

# Rates that torch 2.13.0 gave, with a first or highest rate of 0.2.
ONE_CYCLE = [  # OneCycleLR(max_lr=0.2, total_steps=12)
    0.008000000000000007, 0.0699579308439166, 0.17585703182442575,
    0.19888308709018238, 0.18660259396828235, 0.1623491307899526,
    0.12947579953902066, 0.09252742053339501, 0.056612199641739844,
    0.02669550603776612, 0.006913397485079045, 8e-07,
]  # fmt: skip
COSINE = [  # CosineAnnealingWarmRestarts(T_0=3, eta_min=0.02), at each half epoch
    0.2, 0.1879422863405995, 0.155, 0.11, 0.065, 0.03205771365940052,
] * 2  # fmt: skip
STEPS = [0.2, 0.2, 0.06, 0.06, 0.018, 0.018]  # StepLR(step_size=2, gamma=0.3)


def rates(name, n_epochs, n_steps, **settings):
    schedule = Schedule(name, 0.2, n_epochs=n_epochs, **settings)
    return [
        rate
        for epoch in range(n_epochs)
        for rate in schedule.rates(epoch, epoch * n_steps, n_steps)
    ]


def test_the_rates_of_torch():
    assert_allclose(rates("one_cycle", 3, 4), ONE_CYCLE, rtol=1e-12)
    cosine = rates("cosine", 6, 2, smallest=0.02, restart_epochs=3)
    assert_allclose(cosine, COSINE, rtol=1e-12)
    steps = rates("step", 6, 1, decay_epochs=2, decay_rate=0.3)
    assert_allclose(steps, STEPS, rtol=1e-12)


def test_the_formulas():
    found = rates("exponential", 4, 5, decay_epochs=2, decay_rate=0.25)
    assert_allclose(found, 0.2 * 0.25 ** (np.arange(20) / 10), rtol=1e-12)
    half_wave = rates("cosine", 4, 5, smallest=0.1)
    expected = 0.1 + 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20))
    assert_allclose(half_wave, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["step", "exponential", "cosine"])
def test_the_rate_rises_to_the_first_one(name):
    found = rates(name, 6, 4, warmup_epochs=2)
    assert_allclose(found[:8], 0.2 * np.arange(1, 9) / 8, rtol=1e-12)
    without = rates(name, 4, 4)
    assert_allclose(found[8:], without, rtol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_defined_beyond_the_end(name):
    """As for partial_fit, called more often than max_iter says."""
    schedule = Schedule(name, 0.2, n_epochs=3)
    beyond = schedule.rates(50, 200, 4)
    assert all(0 <= rate <= 0.2 for rate in beyond)


RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), RNG.normal(size=40)


def fit(**params):
    params = {"hidden_layer_sizes": 4, "batch_size": 10, "random_state": 0, **params}
    return MLPRegressor(**params).fit(X, Y)


def told(model):
    return [epoch["learning_rate"] for epoch in model.history_]


def halving(step, epoch):
    assert epoch == step // 4
    return 0.01 * 0.5**epoch


@pytest.mark.parametrize("solver", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("name", [*SCHEDULES, halving])
def test_with_every_solver_and_without_a_warning(name, solver):
    model = fit(
        solver=solver, learning_rate=name, learning_rate_init=0.01, max_iter=6, tol=0
    )
    schedule = Schedule(name, 0.01, n_epochs=6)
    expected = [schedule.rates(epoch, 4 * epoch, 4)[0] for epoch in range(6)]
    assert_allclose(told(model), expected, rtol=1e-12)


def test_adam_ignores_scikit_learns_as_scikit_learn_does():
    with pytest.warns(skmlp.UnusedParameterWarning, match="learning_rate"):
        model = fit(solver="adam", learning_rate="invscaling", max_iter=2)
    assert told(model) == [0.001, 0.001]
    with warnings.catch_warnings():
        warnings.simplefilter("error", skmlp.UnusedParameterWarning)
        changing = fit(solver="adamw", learning_rate="invscaling", max_iter=2)
    assert told(changing)[1] < 0.001


def test_pieces_go_on_with_the_schedule():
    params = {"learning_rate": "cosine", "max_iter": 4, "tol": 0, "batch_size": 10}
    whole = fit(**params)
    pieces = MLPRegressor("squared_error", 4, random_state=0, **params)
    for _ in range(4):
        pieces.partial_fit(X, Y)
    assert_allclose(told(pieces), told(whole), rtol=1e-12)
    assert_allclose(pieces.coefs_[0], whole.coefs_[0], rtol=1e-12)


def test_a_rate_is_read_in_each_step():
    seen = []

    def constant(step, epoch):
        seen.append((step, epoch))
        return 0.01

    fit(learning_rate=constant, max_iter=3)
    assert seen[-12:] == [(step, step // 4) for step in range(12)]


@pytest.mark.parametrize("bad", [-1.0, None, "fast", float("nan"), [1, 2]])
def test_a_function_that_returns_no_rate(bad):
    with pytest.raises(ValueError, match=r"learning_rate.*returned"):
        fit(learning_rate=lambda step, epoch: bad)
