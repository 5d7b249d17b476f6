"""The estimators: the only place that knows scikit-learn's estimator interface."""
