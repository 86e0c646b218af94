"""Experiments: fits."""
