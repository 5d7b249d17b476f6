"""From labels or values to what the network learns, and back."""
