"""What a fit is warned of: the quality of a model, early stopping, time."""
