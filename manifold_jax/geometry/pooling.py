"""Largest value and mean over the neighbours of every sample of a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax.geometry.grid import Axis, Grid


def _within(axis: Axis, radius: int) -> int:
    """A radius that does not reach around the axis."""
    return min(radius, (axis.size - 1) // 2)


def _counts(axis: Axis, radius: int) -> np.ndarray:
    """Number of samples within a radius of every sample of an axis."""
    radius, here = _within(axis, radius), np.arange(axis.size)
    inside = np.minimum(here + radius, axis.size - 1) - np.maximum(here - radius, 0) + 1
    return np.where(axis.periodic, 2 * radius + 1, inside)


def _pool(values: Array, grid: Grid, radii: Sequence[int], start: float, combine: Callable) -> Array:
    """Combine what lies within ``radii`` samples along the axes; ``start`` stands for what does not exist."""
    for k, (axis, radius) in enumerate(zip(grid.axes, radii, strict=True)):
        radius = _within(axis, radius)
        width, window = [(0, 0)] * grid.ndim, [1] * grid.ndim
        width[k], window[k] = (radius, radius), 2 * radius + 1
        pad = (
            jnp.pad(values, width, mode="wrap")
            if axis.periodic
            else jnp.pad(values, width, constant_values=start)
        )
        values = jax.lax.reduce_window(pad, start, combine, window, (1,) * grid.ndim, "VALID")
    return values


def neighbourhood_maximum(
    values: Float[Array, "*shape"], grid: Grid, radii: Sequence[int]
) -> Float[Array, "*shape"]:
    """Largest value within ``radii`` samples along the axes; NaN is passed over."""
    best = _pool(jnp.where(jnp.isnan(values), -jnp.inf, values), grid, radii, -jnp.inf, jax.lax.max)
    return jnp.where(jnp.isneginf(best), jnp.nan, best)


def local_mean(values: Float[Array, "*shape"], grid: Grid, radii: Sequence[int]) -> Float[Array, "*shape"]:
    """Mean over the samples within ``radii`` along the axes."""
    total = _pool(values, grid, radii, 0.0, jax.lax.add)
    # Counts by axis: those of the whole grid would be a constant that XLA spends minutes to compute.
    for k, pair in enumerate(zip(grid.axes, radii, strict=True)):
        shape = [-1 if j == k else 1 for j in range(grid.ndim)]
        total = total / _counts(*pair).reshape(shape).astype(values.dtype)
    return total
