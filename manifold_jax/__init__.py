"""Measure data manifolds in JAX."""

from manifold_jax.geometry import Axis as Axis
from manifold_jax.geometry import Grid as Grid
from manifold_jax.geometry import Manifold as Manifold
