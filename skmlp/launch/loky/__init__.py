"""Ranks in joblib's loky processes."""
