"""Data sets whose geometry is controlled."""

from manifold_jax.datasets.sprites import sprite as sprite
