"""One class is rare
==================

If 2 % of your rows are frauds, a model that always says "no" is right in 98 % of them.
So leave accuracy aside: stop early by the loss, compare models by the average
precision, and choose the threshold last.

.. index:: ! imbalanced classes, ! rare classes, ! class_weight
"""

import matplotlib.pyplot as plt
from sklearn.datasets import make_classification
from sklearn.metrics import PrecisionRecallDisplay, average_precision_score, f1_score
from sklearn.model_selection import TunedThresholdClassifierCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmlp import MLPClassifier

X, y = make_classification(
    12_000, 20, n_informative=6, weights=[0.98], class_sep=0.8, random_state=0
)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
print(f"{y_train.mean():.1%} of the rows are of the rare class")

# %%
# Weights or none?
# ----------------
# ``class_weight="balanced"`` lets the rare class count as much as the other one. It
# moves the probabilities, and rarely makes the ranking better. Without it the
# probabilities stay what they say.

figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
models = {}
for weight in (None, "balanced"):
    network = MLPClassifier(
        (64,), early_stopping=True, scoring="loss", class_weight=weight, random_state=0
    )
    model = make_pipeline(StandardScaler(), network).fit(X_train, y_train)
    models[weight] = model
    p = model.predict_proba(X_test)[:, 1]
    PrecisionRecallDisplay.from_predictions(
        y_test, p, name=f"class_weight={weight}", ax=axes
    )
    print(
        f"class_weight={weight!s:8}  average precision "
        f"{average_precision_score(y_test, p):.3f}  mean probability {p.mean():.3f}"
    )

# %%
# Choose the threshold
# --------------------
# ``predict`` says "yes" above a probability of 0.5. scikit-learn finds the threshold
# that is best for your measure, on folds of the training rows:

tuned = TunedThresholdClassifierCV(models[None], scoring="f1", cv=3, random_state=0)
tuned.fit(X_train, y_train)
before = f1_score(y_test, models[None].predict(X_test))
after = f1_score(y_test, tuned.predict(X_test))
print(f"F1 {before:.3f} at 0.5, {after:.3f} at {tuned.best_threshold_:.2f}")
