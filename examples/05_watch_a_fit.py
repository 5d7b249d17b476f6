"""Watch a fit: curves, learning rate, and what the first layer looks for
=========================================================================

Pictures follow scikit-learn's convention: ``SomethingDisplay.from_estimator(model)``.
The model here tells handwritten digits apart. Its validation score stops rising before
its training loss stops falling: from there on it learns the training rows by heart, and
early stopping keeps the weights from before.

Run it with ``python examples/05_watch_a_fit.py``; with a file's name as an argument it
also writes the pictures to that file.
"""

import sys

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from skmlp import (
    FirstLayerWeightsDisplay,
    LearningRateDisplay,
    LossCurveDisplay,
    MLPClassifier,
)

X, y = load_digits(return_X_y=True)
model = MLPClassifier(
    hidden_layer_sizes=(32,),
    solver="sgd",
    learning_rate="invscaling",
    power_t=0.2,
    learning_rate_init=0.5,
    early_stopping=True,
    n_iter_no_change=20,
    max_iter=300,
    random_state=0,
)
model.fit(X / 16, y)
print(f"{model.n_iter_} epochs, best score {model.best_validation_score_:.3f}")

# %%
# The loss of each epoch, with the validation score on an axis of its own, and the
# learning rate that was used.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
LossCurveDisplay.from_estimator(model, ax=left)
LearningRateDisplay.from_estimator(model, ax=right)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1])

# %%
# Each hidden unit weighs the 64 pixels. Red counts for, blue against what the unit
# stands for; the rim of the picture, which is always white, keeps its random start.

FirstLayerWeightsDisplay.from_estimator(model, shape=(8, 8))
