"""The mathematics of the network."""
