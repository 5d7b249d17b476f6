"""A whole fit is the one that torch's modules, losses and optimizers give."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skmlp import MLPClassifier, MLPRegressor

torch = pytest.importorskip("torch", reason="torch is the oracle, and not light")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5))
TARGET = np.tanh(X[:, 0]) + X[:, 1] * X[:, 2] + 0.3 * RNG.normal(size=40)
LABELS = (TARGET > 0.3).astype(int) + (TARGET > 1)
STEPS, RATE = 12, 0.02

ACTIVATIONS = {
    "leaky_relu": torch.nn.LeakyReLU(),
    "elu": torch.nn.ELU(),
    "selu": torch.nn.SELU(),
    "gelu": torch.nn.GELU(),
    "silu": torch.nn.SiLU(),
    "mish": torch.nn.Mish(),
    "softplus": torch.nn.Softplus(),
    "hard_tanh": torch.nn.Hardtanh(),
    "hard_sigmoid": torch.nn.Hardsigmoid(),
}

#: Our parameters, and torch's optimizer. Its epsilon has another place, so it is small.
SOLVERS = {
    "adamw": (
        {"solver": "adamw", "weight_decay": 0.3},
        lambda groups: torch.optim.AdamW(groups, lr=RATE, eps=1e-14),
    ),
    "nadam": (
        {"solver": "nadam"},
        lambda groups: torch.optim.NAdam(groups, lr=RATE, eps=1e-14),
    ),
    "rmsprop": (
        {"solver": "rmsprop"},
        lambda groups: torch.optim.RMSprop(groups, lr=RATE, alpha=0.9, eps=1e-14),
    ),
    "adagrad": (
        {"solver": "adagrad"},
        lambda groups: torch.optim.Adagrad(groups, lr=RATE, eps=1e-14),
    ),
    "sgd, clipped": (
        {"solver": "sgd", "momentum": 0.9, "nesterovs_momentum": False}
        | {"clip_norm": 0.1},
        lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9),
    ),
}

#: Estimator, parameters, targets, and torch's loss.
LOSSES = {
    "huber": (
        *(MLPRegressor, {"loss": "huber", "huber_delta": 0.4}, TARGET),
        lambda z, y: torch.nn.functional.huber_loss(z[:, 0], y, delta=0.4),
    ),
    "absolute_error": (
        *(MLPRegressor, {"loss": "absolute_error"}, TARGET),
        lambda z, y: torch.nn.functional.l1_loss(z[:, 0], y),
    ),
    "label_smoothing": (
        *(MLPClassifier, {"label_smoothing": 0.2}, LABELS),
        lambda z, y: torch.nn.functional.cross_entropy(z, y, label_smoothing=0.2),
    ),
    "heads": (
        *(MLPClassifier, {"label_smoothing": 0.1}, np.c_[LABELS, LABELS > 0]),
        lambda z, y: sum(
            torch.nn.functional.cross_entropy(part, y[:, k], label_smoothing=0.1)
            for k, part in enumerate((z[:, :3], z[:, 3:]))
        ),
    ),
}


def fit_both(loss="huber", solver="adamw", activation="gelu"):
    """Weights and biases after some steps on all rows, ours and torch's."""
    cls, params, y, criterion = LOSSES[loss]
    settings, optimizer_of = SOLVERS[solver]
    n_outputs = 3 if y.ndim == 1 else 5
    units = (5, 7, 6, n_outputs if cls is MLPClassifier else 1)
    layers = [torch.nn.Linear(*pair).double() for pair in pairwise(units)]
    model = cls(
        hidden_layer_sizes=units[1:-1],
        activation=activation,
        coefs_init=[layer.weight.detach().numpy().T.copy() for layer in layers],
        intercepts_init=[layer.bias.detach().numpy().copy() for layer in layers],
        alpha=0.0,
        batch_size=len(X),
        learning_rate_init=RATE,
        epsilon=1e-14,
        max_iter=STEPS,
        tol=0.0,
        n_iter_no_change=STEPS,
        shuffle=False,
        **params,
        **settings,
    ).fit(X, y)
    act = ACTIVATIONS[activation]
    net = torch.nn.Sequential(layers[0], act, layers[1], act, layers[2])
    groups = [
        {"params": [layer.weight for layer in layers]},
        {"params": [layer.bias for layer in layers]},
    ]
    if "weight_decay" in settings:
        for group, decay in zip(groups, (settings["weight_decay"], 0.0), strict=True):
            group["weight_decay"] = decay
    optimizer = optimizer_of(groups)
    rows, targets = torch.tensor(X), torch.tensor(y)
    for _ in range(STEPS):
        optimizer.zero_grad()
        criterion(net(rows), targets).backward()
        if "clip_norm" in settings:
            torch.nn.utils.clip_grad_norm_(net.parameters(), settings["clip_norm"])
        optimizer.step()
    ours = [*model.coefs_, *model.intercepts_]
    theirs = [layer.weight.detach().numpy().T for layer in layers]
    theirs += [layer.bias.detach().numpy() for layer in layers]
    return ours, theirs


def assert_close(ours, theirs):
    # torch adds 1e-6 to the norm that it clips by, and keeps a product in float32.
    for one, other in zip(ours, theirs, strict=True):
        assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    assert_close(*fit_both(activation=activation))


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers(solver):
    assert_close(*fit_both(solver=solver))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss):
    assert_close(*fit_both(loss=loss))
