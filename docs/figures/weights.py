"""The first layer's weights of a network that reads digits."""

from sklearn.datasets import load_digits

from skmlp import FirstLayerWeightsDisplay, MLPClassifier

X, y = load_digits(return_X_y=True)
model = MLPClassifier((18,), alpha=10, max_iter=60, tol=0, random_state=0)
model.fit(X / 16, y)
FirstLayerWeightsDisplay.from_estimator(model, max_units=12, interpolation="bilinear")
