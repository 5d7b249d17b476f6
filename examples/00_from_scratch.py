"""The algorithm of skmlp on one page, in plain numpy
=====================================================

A multi-layer perceptron is trained by repeating four lines:

1. *forward*: push the rows through the layers, keep what each layer puts out;
2. *backward*: walk back through the layers, collecting the gradient of the loss;
3. *sum*: add up the gradients of all rows, divide by their number;
4. *update*: take a small step against the gradient.

Step 3 is what makes it easy to share the work. The gradient is a sum over rows, so the
rows can be cut into shards, each shard can be summed by somebody else, and the sum of
these sums is the same gradient. ``train(..., n_shards=2)`` below does just that; skmlp
does it with threads, processes or the workers of a Dask cluster.

The task is four rows with three inputs; the answer is the exclusive or (XOR) of the
first two, the third is always 1. No straight line separates the two classes, so a
hidden layer is needed.

Run it with ``python examples/00_from_scratch.py``.
"""

import warnings
from itertools import pairwise

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skmlp import MLPClassifier

X = np.array([[0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=float)
y = np.array([0, 1, 1, 0])


def identity(z):
    """Output of a regressor."""
    return z


def logistic(z):
    """Output of a classifier with two classes: the probability of the second."""
    return 1 / (1 + np.exp(-z))


def initial_weights(sizes, seed):
    """Small random numbers: a matrix W and a vector b for each pair of layers."""
    random = np.random.RandomState(seed)
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        bound = np.sqrt(6 / (fan_in + fan_out))
        W = random.uniform(-bound, bound, (fan_in, fan_out))
        b = random.uniform(-bound, bound, fan_out)
        layers.append((W, b))
    return layers


def forward(X, layers, output):
    """The outputs of all layers, the rows themselves first, the prediction last."""
    outputs = [X]
    for W, b in layers[:-1]:
        outputs.append(np.tanh(outputs[-1] @ W + b))
    W, b = layers[-1]
    outputs.append(output(outputs[-1] @ W + b))
    return outputs


def backward(outputs, y, layers):
    """The gradient of the loss, summed over the rows: a pair for each layer.

    For squared error after the identity, and for log loss after the logistic function,
    the derivative at the last layer is just prediction minus truth.
    """
    delta = outputs[-1] - y
    gradient = []
    for i in reversed(range(len(layers))):
        gradient.insert(0, (outputs[i].T @ delta, delta.sum(axis=0)))
        delta = delta @ layers[i][0].T * (1 - outputs[i] ** 2)  # tanh' is 1 - tanh^2
    return gradient


def train(
    X,
    y,
    hidden=(4,),
    *,
    output=logistic,
    learning_rate=0.5,
    alpha=0.0,
    n_steps=1000,
    seed=0,
    n_shards=1,
):
    """Train on all rows at once, `n_steps` times; give back the layers."""
    y = y.reshape(len(y), -1)
    layers = initial_weights((X.shape[1], *hidden, y.shape[1]), seed)
    X_shards = np.array_split(X, n_shards)
    y_shards = np.array_split(y, n_shards)
    for _ in range(n_steps):
        parts = [
            backward(forward(X_k, layers, output), y_k, layers)
            for X_k, y_k in zip(X_shards, y_shards, strict=True)
        ]
        for i, (W, b) in enumerate(layers):
            W_sum = sum(part[i][0] for part in parts)
            b_sum = sum(part[i][1] for part in parts)
            # The penalty alpha keeps weights small; it is added once, after the sum.
            W -= learning_rate * (W_sum + alpha * W) / len(X)
            b -= learning_rate * b_sum / len(X)
    return layers


def main():
    layers = train(X, y)
    shared = train(X, y, n_shards=2)
    prediction = forward(X, layers, logistic)[-1].ravel()
    print("inputs   XOR   prediction")
    for row, truth, p in zip(X.astype(int), y, prediction, strict=True):
        print(f"{row}    {truth}    {p:.3f}")
    assert np.array_equal(prediction.round(), y), "the task was not learnt"

    # The same with the package: plain gradient descent on the full batch.
    model = MLPClassifier(
        (4,),
        "tanh",
        solver="sgd",
        momentum=0,
        alpha=0,
        batch_size=4,
        learning_rate_init=0.5,
        shuffle=False,
        max_iter=1000,
        tol=0,
        random_state=0,
    )
    with warnings.catch_warnings():  # a thousand steps were asked for, and no more
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    for name, mine in (("one shard ", layers), ("two shards", shared)):
        theirs = zip(model.coefs_, model.intercepts_, strict=True)
        worst = max(
            abs(a - b).max()
            for pair, other in zip(mine, theirs, strict=True)
            for a, b in zip(pair, other, strict=True)
        )
        print(f"{name}: largest difference of a weight from skmlp's {worst:.1e}")
        assert worst < 1e-10, "the page and the package do not agree"


if __name__ == "__main__":
    main()
