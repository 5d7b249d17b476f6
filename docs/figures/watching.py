"""What the displays show of a fit on the digits."""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

from skmlp import LearningRateDisplay, LossCurveDisplay, MLPClassifier

X, y = load_digits(return_X_y=True)
model = MLPClassifier(
    (32,),
    solver="sgd",
    learning_rate="adaptive",
    learning_rate_init=0.05,
    early_stopping=True,
    n_iter_no_change=4,
    random_state=0,
).fit(X / 16, y)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
LossCurveDisplay.from_estimator(model, ax=left)
LearningRateDisplay.from_estimator(model, ax=right)
figure.tight_layout()
