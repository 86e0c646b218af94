"""Measures of a manifold; imports nothing of the package outside itself."""

from manifold_jax.geometry.grid import Axis as Axis
from manifold_jax.geometry.grid import Grid as Grid
from manifold_jax.geometry.manifold import Manifold as Manifold
