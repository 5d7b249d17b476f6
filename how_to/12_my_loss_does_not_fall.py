"""My loss does not fall
=====================

Draw the loss of each epoch, and compare it with these pictures. The four causes below
explain nearly all fits that go wrong.

.. index:: ! overfitting, ! loss does not fall, ! diverged
"""

import warnings

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skmlp import LossCurveDisplay, MLPClassifier

X, y = load_breast_cancer(return_X_y=True)
X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.3, random_state=0)
scaler = StandardScaler().fit(X_train)
scaled, scaled_val = scaler.transform(X_train), scaler.transform(X_val)


def curves(title, X, X_val, **params):
    """Fit, and draw both losses."""
    params = {"max_iter": 60, "batch_size": 32, "tol": 0, "random_state": 0, **params}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPClassifier((50,), n_iter_no_change=60, **params)
        model.fit(X, y_train, X_val=X_val, y_val=y_val)
    _, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    display = LossCurveDisplay(
        model.loss_curve_, validation_loss=model.validation_loss_curve_
    )
    display.plot(ax=axes)
    axes.set_title(title)
    print(f"loss {model.loss_:.3g}, validation {model.validation_loss_curve_[-1]:.3g}")


# %%
# Healthy
# -------
# Both losses fall fast, then slowly, and end near each other.

curves("scaled, default rate", scaled, scaled_val)

# %%
# The features are not scaled
# ---------------------------
# The loss begins far above 1 and jumps. skmlp warns of it (``ModelQualityWarning``).
# **Cure:** a ``StandardScaler`` in a pipeline.

curves("not scaled", X_train, X_val)

# %%
# The learning rate is too high
# -----------------------------
# The loss jumps up and down, or the fit ends with "diverged". **Cure:** a tenth of
# ``learning_rate_init``.

curves("learning_rate_init=0.5", scaled, scaled_val, learning_rate_init=0.5)

# %%
# The learning rate is too low
# ----------------------------
# The loss falls evenly and is still high at the end. **Cure:** ten times the rate, or
# more epochs.

curves("learning_rate_init=1e-5", scaled, scaled_val, learning_rate_init=1e-5)

# %%
# Overfitting
# -----------
# The training loss goes to 0, and the validation loss turns round and rises. **Cure:**
# ``early_stopping=True``, more rows, a smaller network, a larger ``alpha``, or
# ``dropout``.

curves("overfitting", scaled, scaled_val, learning_rate_init=0.02, max_iter=150)
