"""Size, batch and learning rate
=============================

Begin with the defaults: 100 units, 200 rows a batch, a rate of 0.001. Then change one
of the three, in this order: the learning rate, the size, the batch.

.. index:: ! learning rate, ! batch size, ! hidden_layer_sizes

The digits here are scaled to 0 to 1. Each line below is a fit of 60 epochs at most.
"""

import warnings

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skmlp import MLPClassifier

X, y = load_digits(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(X / 16, y, random_state=0)


def fit(**params):
    """One fit, with the validation loss of each epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPClassifier(max_iter=60, random_state=0, **params)
        return model.fit(X_train, y_train, X_val=X_val, y_val=y_val)


def compare(name, values, **others):
    """Draw a curve for each value."""
    _, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for value in values:
        model = fit(**{name: value}, **others)
        axes.semilogy(model.validation_loss_curve_, label=f"{name}={value}")
        print(
            f"{name}={value!s:10} loss {min(model.validation_loss_curve_):.3f} "
            f"accuracy {model.best_validation_score_:.3f}"
        )
    axes.set(xlabel="epoch", ylabel="validation loss")
    axes.legend()


fit()  # the first fit compiles

# %%
# The learning rate
# -----------------
# Try factors of three to ten. Take the largest one that still falls evenly. A rate that
# falls in the end, ``learning_rate="cosine"``, allows for a larger one.

compare("learning_rate_init", [1e-4, 1e-3, 1e-2, 1e-1])

# %%
# The size
# --------
# Make the network wider while the validation loss gets better. Then add a layer.

compare("hidden_layer_sizes", [(10,), (100,), (200, 100)], learning_rate_init=0.01)

# %%
# The batch
# ---------
# Smaller batches make more steps of an epoch, and larger ones faster epochs. If you
# double the batch, raise the rate by about 1.4. On a cluster, take thousands of rows.

compare("batch_size", [20, 200, 1000], learning_rate_init=0.003)
