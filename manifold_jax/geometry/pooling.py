"""Largest value and mean over the neighbours of every sample of a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax.geometry.grid import Grid


def _pool(
    values: Array, grid: Grid, radii: Sequence[int], start: float, combine: Callable, finish: Callable
) -> Array:
    """Combine what lies within ``radii`` samples along one axis after the other, and ``finish`` each of them.

    ``start`` stands for samples that do not exist; ``finish`` is given the number of those that do, of the
    shape of the axis.
    """
    for k, (axis, radius) in enumerate(zip(grid.axes, radii, strict=True)):
        radius = min(radius, (axis.size - 1) // 2)
        width, window = [(0, 0)] * grid.ndim, [1] * grid.ndim
        width[k], window[k] = (radius, radius), 2 * radius + 1
        pad = (
            jnp.pad(values, width, mode="wrap")
            if axis.periodic
            else jnp.pad(values, width, constant_values=start)
        )
        pooled = jax.lax.reduce_window(pad, start, combine, window, (1,) * grid.ndim, "VALID")
        here = np.arange(axis.size)
        inside = np.minimum(here + radius, axis.size - 1) - np.maximum(here - radius, 0) + 1
        counts = np.where(axis.periodic, 2 * radius + 1, inside)
        values = finish(pooled, counts.reshape([-1 if j == k else 1 for j in range(grid.ndim)]))
    return values


def neighbourhood_maximum(
    values: Float[Array, "*shape"], grid: Grid, radii: Sequence[int]
) -> Float[Array, "*shape"]:
    """Largest value within ``radii`` samples along the axes; NaN is passed over."""
    there = jnp.where(jnp.isnan(values), -jnp.inf, values)
    best = _pool(there, grid, radii, -jnp.inf, jax.lax.max, lambda pooled, _: pooled)
    return jnp.where(jnp.isneginf(best), jnp.nan, best)


def local_mean(values: Float[Array, "*shape"], grid: Grid, radii: Sequence[int]) -> Float[Array, "*shape"]:
    """Mean over the samples within ``radii`` along the axes."""
    # Counts by axis: those of the whole grid would be a constant that XLA spends minutes to compute.
    return _pool(
        values, grid, radii, 0.0, jax.lax.add, lambda pooled, counts: pooled / counts.astype(pooled.dtype)
    )
