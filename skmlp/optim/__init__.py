"""The mathematics of the optimizers."""
