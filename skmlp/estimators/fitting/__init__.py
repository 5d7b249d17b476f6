"""From parameters and data to a plan, a run and fitted attributes."""
