"""Experiments: classifier."""
