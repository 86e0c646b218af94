"""Experiments: measure."""
