"""Bounds of the radii of all pairs of a tile, in the dtype of the points, and which points lie near it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._linalg import matmul
from manifold_jax.geometry.neighbours import DIRECT_FEATURES
from manifold_jax.geometry.reach.cones import squared_distance
from manifold_jax.geometry.reach.squares import pair_squares, product_rounding

RELIABLE = 0.02  # largest share of noise in the distance to the tangent space, or a pair is ignored
STEEP = 0.5  # largest tangential share of a chord that may be normal: it rises by 60 degrees or more


class Side(NamedTuple):
    """Rows or columns of a tile: ``number`` in the cloud (-1 for padding), points, and their scales.

    The points are given in few directions; ``rest`` is the length of what these leave out.
    """

    number: Int[Any, "a"]
    points: Float[Any, "a k"]
    rest: Float[Any, "a"]
    noise: Float[Any, "a"]
    half_cell: Float[Any, "a"]


@jax.jit
def screen(
    rows: Side,
    tangents: tuple[Any, ...],
    columns: Side,
    best: tuple[Float[Array, "a"], Int[Array, "a"]],
    limits: tuple[Array, ...],
) -> tuple[Float[Array, "a b"], tuple[Float[Array, "a"], Int[Array, "a"]]]:
    """Lower bounds of the radii of a tile, -infinity where a pair is to be looked at in any case.

    Also the best sure radius of every row and the number of its column, after those of ``best``.
    """
    frames, outside, tilt, curvature, cones = tangents
    longest, separation, drift = limits
    chord, normal, along, rounding, relative = pair_squares(rows.points, frames, columns.points)
    # What the directions leave out is normal to them but for the drift, and to the tangents but for what
    # these have outside too; |P (v + r)|^2 - |P v|^2 = 2 <P v, r> + |P r|^2.
    rest = rows.rest[:, None] + columns.rest[None, :]
    rounding = rounding + 2 * jnp.sqrt(chord) * (2 * drift + outside[:, None] * rest) + (rest + drift) ** 2
    if rows.points.shape[1] <= DIRECT_FEATURES:
        # The part of a frame in the directions is not orthonormal: |v - F^T a|^2 misses a part of |a|^2.
        rounding = rounding + outside[:, None] ** 2 * sum(entry**2 for entry in along)
    if cones is not None:
        normal = normal + squared_distance(cones, along, jnp)
        rounding = 2 * rounding
    other = (columns.number[None, :] >= 0) & (rows.number[:, None] != columns.number[None, :])
    noise = rows.noise[:, None] + columns.noise[None, :]
    squares, length = jnp.maximum(chord - rounding, 0.0), jnp.sqrt(chord + rounding)
    soft, softest = tilt[:, None] * length + noise, tilt[:, None] * jnp.sqrt(squares) + noise
    low = jnp.sqrt(jnp.maximum(normal - rounding, 0.0)) - relative * length
    high = jnp.sqrt(normal + rounding) + relative * length
    tiny = jnp.finfo(low.dtype).tiny
    # The upper end of the interval bounds the minimum; the lower end says which pairs may still beat it.
    sure = other & (squares >= separation**2) & (soft <= RELIABLE * low)
    upper = jnp.where(sure, (chord + rounding) / (2 * jnp.maximum(low, tiny)), jnp.inf)
    maybe = other & (chord + rounding >= separation**2) & (softest <= RELIABLE * high)
    lower = jnp.where(maybe, squares / (2 * jnp.maximum(high, tiny)), jnp.inf)
    # Where the metric is degenerate (at a pole) points coincide by nature.
    together = other & (squares <= 4 * noise**2) & jnp.isfinite(frames[:, :1, 0])
    cells = rows.half_cell[:, None] * (1 + length * curvature[:, None]) + columns.half_cell[None, :]
    tangent = chord - normal - rounding
    facing = other & (tangent <= cells**2) & (tangent <= STEEP**2 * length**2)
    facing = facing & (squares <= 4 * longest**2)
    lower = jnp.where(together | facing, -jnp.inf, lower)
    # Kept apart, or the compiler would compute all of it once for the minimum and once for the bounds.
    upper, lower = jax.lax.optimization_barrier((upper, lower))
    least, place = jnp.min(upper, axis=1), columns.number[jnp.argmin(upper, axis=1)]
    better = least < best[0]
    return lower, (jnp.where(better, least, best[0]), jnp.where(better, place, best[1]))


@jax.jit
def near(
    points: Float[Array, "n k"], rows: Int[Array, "a"], columns: Int[Array, "b"], limit: Float[Array, "a"]
) -> tuple[Bool[Array, "b"], Int[Array, "a"]]:
    """Columns (-1 for padding) within the limit of any row, and how many pairs that is."""
    x, y = points[rows], points[columns]
    sizes = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    squares = sizes - 2 * matmul(x, y.T)
    close = (squares - product_rounding(x) * sizes <= limit[:, None] ** 2) & (columns >= 0)
    return jnp.any(close, axis=0), jnp.sum(close, axis=1)
