"""Scores from summed parts are scikit-learn's, however the rows are cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import accuracy_score, r2_score

from skmlp.model import metrics

RNG = np.random.default_rng(0)
CUTS = [(0, 30), (0, 1, 30), (0, 7, 7, 19, 30)]


def summed(loss, prediction, y, w, cuts, heads=(), masked=False):
    parts = np.zeros(metrics.n_parts(loss, prediction.shape[1]))
    spreads = np.empty(0)
    pieces = [slice(a, b) for a, b in pairwise(cuts)]
    for rows in pieces:
        given = prediction[rows], y[rows], w[rows]
        metrics.score_parts(loss, *given, parts, heads, masked)
    if loss == "squared_error":
        sums, spreads = np.zeros(2 * y.shape[1]), np.zeros(y.shape[1])
        for rows in pieces:
            metrics.mean_parts(y[rows], w[rows], sums, masked)
        means = metrics.means(sums)
        for rows in pieces:
            metrics.spread_parts(y[rows], w[rows], means, spreads, masked)
    return metrics.score(loss, parts, spreads, masked)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("weighted", [False, True])
def test_accuracy(weighted, cuts):
    w = RNG.uniform(size=30) if weighted else np.empty(0)
    expected = {"sample_weight": w if weighted else None}
    p = RNG.uniform(size=(30, 3))
    codes = RNG.integers(0, 3, 30)
    labels = RNG.integers(0, 2, (30, 3))
    assert_allclose(
        summed("softmax_log_loss", p, codes, w, cuts),
        accuracy_score(codes, p.argmax(axis=1), **expected),
    )
    assert_allclose(
        summed("logistic_log_loss", p, labels, w, cuts),
        accuracy_score(labels, p > 0.5, **expected),
    )
    heads = np.c_[codes > 0, labels[:, 0]].astype(int)
    best = np.c_[p[:, :2].argmax(axis=1), np.zeros(30, int)]
    assert_allclose(
        summed("softmax_heads_log_loss", p, heads, w, cuts, (2, 1)),
        accuracy_score(2 * heads[:, 0] + heads[:, 1], 2 * best[:, 0], **expected),
    )


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", [0, 1e6])
def test_r2(offset, weighted, cuts):
    w = RNG.uniform(size=30) if weighted else np.empty(0)
    y = RNG.normal(size=(30, 3)) + offset
    if not weighted:
        y[:, 2] = 5  # an output without spread; with weights its mean is off by a bit
    p = y + RNG.normal(size=(30, 3))
    expected = {"sample_weight": w if weighted else None}
    assert_allclose(
        summed("squared_error", p, y, w, cuts), r2_score(y, p, **expected), rtol=1e-9
    )
    p[:, 2] = y[:, 2]
    assert_allclose(
        summed("squared_error", p, y, w, cuts), r2_score(y, p, **expected), rtol=1e-9
    )
    p[3, 1] = np.inf
    assert np.isnan(summed("squared_error", p, y, w, cuts))


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("empty", [False, True])
def test_r2_of_known_targets(empty, weighted, cuts):
    """The mean of that of each output that has some, over its known rows."""
    w = RNG.uniform(size=30) if weighted else np.empty(0)
    y = RNG.normal(size=(30, 3))
    y[RNG.uniform(size=y.shape) < 0.4] = np.nan
    if empty:
        y[:, 1] = np.nan
    p = RNG.normal(size=(30, 3))
    known = ~np.isnan(y)
    expected = [
        r2_score(y[k, j], p[k, j], sample_weight=w[k] if weighted else None)
        for j, k in enumerate(known.T)
        if k.any()
    ]
    found = summed("squared_error", p, y, w, cuts, masked=True)
    assert_allclose(found, np.mean(expected), rtol=1e-9)


def test_the_weight_of_known_targets():
    y = RNG.normal(size=(30, 3))
    w = RNG.uniform(size=30).astype(np.float32)
    for weights in (w, np.empty(0)):
        # To the bit where none is missing.
        assert metrics.weight_of(y, weights, True) == metrics.weight_of(y, weights)
    gaps = np.where(RNG.uniform(size=y.shape) < 0.4, np.nan, y)
    known = ~np.isnan(gaps)
    assert_allclose(metrics.weight_of(gaps, np.empty(0), True), known.sum() / 3)
    assert_allclose(metrics.weight_of(gaps, w, True), (w @ known).sum() / 3, rtol=1e-6)
    assert_allclose(metrics.weight_of(gaps * np.nan, w, True), 0, atol=1e-6)
