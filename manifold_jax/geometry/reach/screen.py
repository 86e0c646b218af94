"""Kernels that compare a tile of centres with a batch of points, in the dtype of the points."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

RELIABLE = 0.02
"""Largest share of the distance to the tangent space that noise may make up: below it a pair counts."""

DIRECT_FEATURES = 16
"""Up to so many features differences are formed one by one, without cancellation."""

_HIGHEST = jax.lax.Precision.HIGHEST


class _Terms(NamedTuple):
    """What a pair needs.

    Attributes:
        chord: Squared length of the chord.
        normal: Squared distance to the tangent space.
        square_error: Rounding error of both.
        length_error: Rounding error of the distance, per length of the chord.
    """

    chord: Array
    normal: Array
    square_error: Array
    length_error: Array


def _direct(x: Array, frames: Array, y: Array) -> _Terms:
    """By differences, one feature after the other: one fused loop."""
    eps = jnp.finfo(x.dtype).eps
    d, f = frames.shape[1:]
    v = [y[None, :, c] - x[:, None, c] for c in range(f)]
    along = [sum(frames[:, k, c, None] * v[c] for c in range(f)) for k in range(d)]
    rest = [v[c] - sum(frames[:, k, c, None] * along[k] for k in range(d)) for c in range(f)]
    chord = jnp.asarray(sum(entry**2 for entry in v))
    normal = jnp.asarray(sum(entry**2 for entry in rest))
    return _Terms(chord, normal, jnp.zeros((), x.dtype), jnp.asarray(4 * eps, x.dtype))


def _by_products(x: Array, frames: Array, y: Array) -> _Terms:
    """By matrix products: |P v|^2 = |v|^2 - |Q^T v|^2, centred on the tile."""
    eps = jnp.finfo(x.dtype).eps
    a, d, f = frames.shape
    centre = jnp.mean(x, axis=0)
    x, y = x - centre, y - centre
    stacked = jnp.concatenate([x, frames.reshape(a * d, f)])
    products = jnp.matmul(stacked, y.T, precision=_HIGHEST)
    xx, yy = jnp.sum(x * x, axis=1), jnp.sum(y * y, axis=1)
    sizes = xx[:, None] + yy[None, :]
    chord = jnp.maximum(sizes - 2 * products[:a], 0.0)
    here = jnp.einsum("adf,af->ad", frames, x, precision=_HIGHEST)
    along = products[a:].reshape(a, d, -1) - here[:, :, None]
    normal = jnp.maximum(chord - jnp.sum(along * along, axis=1), 0.0)
    return _Terms(chord, normal, eps * (8 + f**0.5) * sizes, jnp.zeros((), x.dtype))


class Side(NamedTuple):
    """Traced data of the rows or the columns of a tile."""

    number: Array
    points: Array
    noise: Array
    spread: Array


@jax.jit
def screen(
    rows: Side,
    frames: Array,
    tilt: Array,
    bend: Array,
    columns: Side,
    best: Array,
    longest: Array,
    separation: Array,
    slack: Array,
) -> tuple[Array, Array]:
    """Mask of the pairs of a tile to compute again, and the best sure radius of every row."""
    direct = rows.points.shape[1] <= DIRECT_FEATURES
    terms = (_direct if direct else _by_products)(rows.points, frames, columns.points)
    other = (columns.number[None, :] >= 0) & (rows.number[:, None] != columns.number[None, :])
    noise = rows.noise[:, None] + columns.noise[None, :]
    length = jnp.sqrt(terms.chord)
    rounding = terms.length_error * length
    soft = tilt[:, None] * length + noise
    low = jnp.sqrt(jnp.maximum(terms.normal - terms.square_error, 0.0)) - rounding
    high = jnp.sqrt(terms.normal + terms.square_error) + rounding
    tiny = jnp.finfo(low.dtype).tiny
    apart = other & (terms.chord + terms.square_error >= separation**2)
    # The upper end of the interval bounds the minimum; the lower end says which pairs may still beat it.
    upper = (terms.chord + terms.square_error) / (2 * jnp.maximum(low, tiny))
    upper = jnp.where(apart & (soft <= RELIABLE * low), upper, jnp.inf)
    squares = jnp.maximum(terms.chord - terms.square_error, 0.0)
    lower = jnp.where(apart & (soft <= RELIABLE * high), squares / (2 * jnp.maximum(high, tiny)), jnp.inf)
    # Where the metric is degenerate (at a pole) points coincide by nature.
    together = other & (squares <= 4 * noise**2) & jnp.isfinite(frames[:, :1, 0])
    cells = rows.spread[:, None] * (1 + length * bend[:, None]) + columns.spread[None, :]
    tangent = terms.chord - terms.normal
    normal = other & (tangent - terms.square_error <= cells**2) & (4 * tangent <= terms.chord)
    normal = normal & (squares <= 4 * longest**2)
    lower = jnp.where(together | normal, -jnp.inf, lower)
    # Kept apart, or the compiler would compute all of it once for the minimum and once for the mask.
    upper, lower = jax.lax.optimization_barrier((upper, lower))
    bound = jnp.minimum(best, jnp.min(upper, axis=1))
    chosen = (upper <= bound[:, None]) & jnp.isfinite(upper)
    return chosen | (lower < bound[:, None] * (1 - slack)), bound


@jax.jit
def near(rows: Array, columns: Array, limit: Array, slack: Array) -> tuple[Array, Array]:
    """Columns within the limit of any row after projection, and how many pairs that is."""
    xx, yy = jnp.sum(rows * rows, axis=1), jnp.sum(columns * columns, axis=1)
    sizes = xx[:, None] + yy[None, :]
    squares = sizes - 2 * jnp.matmul(rows, columns.T, precision=_HIGHEST)
    eps = jnp.finfo(rows.dtype).eps * (8 + rows.shape[1] ** 0.5)
    close = squares - eps * sizes <= (limit[:, None] + slack) ** 2
    return jnp.any(close, axis=0), jnp.sum(close, axis=1)
