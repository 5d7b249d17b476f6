"""Training: the loop, the ranks, the supervisor. Read `loop` first."""
