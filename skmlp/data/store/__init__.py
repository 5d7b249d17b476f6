"""Rows that a rank keeps: in memory, or in files where memory is short."""
