"""Predictions and scores, here and of Dask collections."""
