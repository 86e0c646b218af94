"""Experiments: layers."""
