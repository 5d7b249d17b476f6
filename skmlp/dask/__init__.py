"""Ranks on the workers of a Dask cluster. Nothing below imports this folder."""
