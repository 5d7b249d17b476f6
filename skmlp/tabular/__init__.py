"""Estimators for raw tables: encoding, several networks, and their mean."""
