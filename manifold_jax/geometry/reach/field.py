"""Tangent balls of all pairs of points, as one program that can be traced."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import finite, flat, floating, optional, positive, real, whole
from manifold_jax._linalg import block_rows, map_blocks, norm, safe_sqrt, scale_of
from manifold_jax.geometry.neighbours import DIRECT_FEATURES, least_columns
from manifold_jax.geometry.reach.frames import ROUNDING, orthonormal
from manifold_jax.geometry.reach.pairs import RELIABLE
from manifold_jax.geometry.reach.samples import tangent_ball_radius
from manifold_jax.geometry.reach.squares import PairSquares, pair_squares

COLUMNS = 1024  # points y that are compared with a block of points x at once
CANDIDATES = 16  # balls of a point that are computed again where matrix products find them
FEW = 2  # the same where differences do
LARGEST_GAIN = 30.0  # exponent of a pair that is better than the best, by rounding


class ReachField(NamedTuple):
    """Tangent balls at every point.

    Attributes:
        radius: Radius of the largest empty tangent ball; infinite where there is no reliable pair, NaN where
            tangents are dependent or numbers are not finite. With a temperature its soft minimum.
        error: Bar of the radius of the largest empty ball by rounding, of the points and of the search.
        witness: Row of the point that the ball meets, -1 where there is none.
        coincident: Mask of points that rounding cannot tell from another one; such pairs are left out.
    """

    radius: Float[Array, "n"]
    error: Float[Array, "n"]
    witness: Int[Array, "n"]
    coincident: Bool[Array, "n"]


class _Points(NamedTuple):
    """Some of the points: rows (-1 for padding), coordinates, and their rounding errors."""

    row: Int[Array, "a"]
    points: Float[Array, "a f"]
    noise: Float[Array, "a"]


def reach_field(
    points: Float[Any, "n *features"],
    tangents: Float[Any, "n d *features"],
    *,
    temperature: float | None = None,
    block_size: int | None = None,
) -> ReachField:
    """Federer's ratio at every point, with witnesses, from all pairs and nothing else.

    With T_x the span of the tangents at x it is the minimum over all other points y of

        R(x, y) = |y - x|^2 / (2 d(y - x, T_x))

    (Federer, Trans. AMS 93, 1959, theorem 4.18), an upper bound of the reach that falls to it as the points
    get dense. :func:`reach` adds what lies between the points, and leaves out pairs that cannot count; this
    works under ``jit``, ``vmap`` and ``grad``, on any device. Pairs are compared in tiles: those of long
    points by matrix products, whose few smallest are computed again by differences. Pairs whose distance
    to T_x rounding hides are left out, as there.

    The gradient is that of the ball at the witness, which counts as constant; with a temperature t that of
    the soft minimum

        -t log of the sum over y of exp(-R(x, y) / t),

    which lies below the minimum by t log n at most, and to which all pairs contribute.

    Args:
        points: n points of any feature shape.
        tangents: d vectors at every point that span its tangent space.
        temperature: t, a length; by default the minimum itself.
        block_size: Points x treated at once; by default so many that a tile has about 4 million numbers.

    Returns:
        Radius, bar, witness and mask of coincident points, ``(n,)`` each, in the dtype of the points.

    Raises:
        ValueError: Shapes, types or options do not fit, or points or tangents are not finite.

    Example:
        >>> angle = jnp.linspace(0, 2 * jnp.pi, 60, endpoint=False)
        >>> ellipse = jnp.stack([2 * jnp.cos(angle), jnp.sin(angle)], axis=-1)
        >>> tangent = jnp.stack([-2 * jnp.sin(angle), jnp.cos(angle)], axis=-1)[:, None]
        >>> print(f"{mj.reach_field(ellipse, tangent).radius.min():.2f}")
        0.50
    """
    name = "reach_field"
    points, tangents = floating(name, "points", points), real(name, "tangents", tangents)
    shape = points.shape
    if tangents.ndim != points.ndim + 1 or (tangents.shape[0], *tangents.shape[2:]) != shape:
        wanted = f"({shape[0]}, d, {', '.join(map(str, shape[1:]))})"
        raise ValueError(f"{name}: tangents must have shape {wanted}, got {tangents.shape}.")
    optional(positive, name, "temperature", temperature)
    block_size = optional(whole, name, "block_size", block_size)
    for what, values in (("points", points), ("tangents", tangents)):
        finite(name, what, values)
    points = flat(points)
    tangents = tangents.reshape(*tangents.shape[:2], -1).astype(points.dtype)
    whole(name, "the number of tangents", tangents.shape[1], most=points.shape[1])
    return _field(points, tangents, temperature, block_size)


@partial(jax.jit, static_argnames="block_size")
def _field(points: Array, tangents: Array, temperature: Any, block_size: int | None) -> ReachField:
    n, f = points.shape
    frames, regular = _orthonormal_frames(tangents)
    regular &= jnp.all(jnp.isfinite(points), axis=1)
    noise = jnp.finfo(points.dtype).eps * norm(jax.lax.stop_gradient(points))
    everyone = _Points(jnp.arange(n), points, noise)
    tiles = _split(everyone, COLUMNS)
    size = tiles.row.shape[1]
    rows = block_rows(size * (tangents.shape[1] + 8), block_size)
    centres, held, others = jax.lax.stop_gradient((everyone, frames, tiles))
    candidates, lower, coincident = map_blocks(partial(_search, tiles=others), rows, centres, held)
    some = block_rows(4 * f * candidates.shape[1], block_size)
    witness, error = map_blocks(partial(_best, centres), some, centres, held, candidates, lower)
    there = regular & (witness >= 0)

    def balls(x: Array, frame: Array, y: Array) -> Array:
        return jax.vmap(tangent_ball_radius)(x, points[jnp.maximum(y, 0)], frame)

    radius = jnp.where(
        there, map_blocks(balls, block_rows(4 * f, block_size), points, frames, witness), jnp.inf
    )
    if temperature is not None:
        least = jax.lax.stop_gradient(jnp.where(there, radius, 0.0))
        weigh = partial(_weights, tiles=tiles, temperature=temperature)
        total = map_blocks(weigh, rows, everyone, frames, least)
        radius = jnp.where(there, least - temperature * jnp.log(jnp.where(there, total, 1.0)), jnp.inf)
    radius = jnp.where(regular, radius, jnp.nan)
    return ReachField(radius, jnp.where(there, error, jnp.inf), jnp.where(there, witness, -1), coincident)


def _orthonormal_frames(tangents: Float[Array, "n d f"]) -> tuple[Array, Array]:
    """Frames, and where tangents are independent; elsewhere the frame is any."""
    scaled = tangents / jax.vmap(scale_of)(tangents)[:, None, None]
    regular = jnp.isfinite(jax.vmap(orthonormal)(jax.lax.stop_gradient(scaled))[0]).all(axis=(1, 2))
    blank = jnp.eye(*tangents.shape[1:], dtype=tangents.dtype)
    frames, _ = jax.vmap(orthonormal)(jnp.where(regular[:, None, None], scaled, blank))
    return frames, regular


def _split(everyone: _Points, most: int) -> _Points:
    """Tiles ``(t, size)`` of all points; the last is filled up with copies of the last point, of row -1."""
    n = len(everyone.row)
    count = -(-n // most)
    size = -(-n // count)

    def split(x: Array) -> Array:
        padding = ((0, count * size - n), *((0, 0),) * (x.ndim - 1))
        return jnp.pad(x, padding, mode="edge").reshape(count, size, *x.shape[1:])

    row = jnp.pad(everyone.row, (0, count * size - n), constant_values=-1).reshape(count, size)
    return _Points(row, split(everyone.points), split(everyone.noise))


def _compare(x: _Points, frames: Array, y: _Points) -> tuple[PairSquares, Array, Array, Array]:
    """Squares of pairs; upper and lower ends of reliable radii; and pairs that may lie in one place.

    As in ``pairs.screen``, without cells and cones.
    """
    squares = pair_squares(x.points, frames, y.points)
    chord, normal, _, rounding, relative = jax.lax.stop_gradient(squares)
    other = (y.row[None] >= 0) & (x.row[:, None] != y.row[None])
    noise = x.noise[:, None] + y.noise[None]
    length = jnp.sqrt(chord)
    together = other & (jnp.maximum(chord - rounding, 0.0) <= 4 * noise**2)
    apart = other & ~together
    low = jnp.sqrt(jnp.maximum(normal - rounding, 0.0)) - relative * length
    high = jnp.sqrt(normal + rounding) + relative * length
    soft = ROUNDING * jnp.finfo(chord.dtype).eps * length + noise
    tiny = jnp.finfo(chord.dtype).tiny
    upper = jnp.where(
        apart & (soft <= RELIABLE * low), (chord + rounding) / (2 * jnp.maximum(low, tiny)), jnp.inf
    )
    lower = (chord - rounding) / (2 * jnp.maximum(high, tiny))
    return squares, upper, jnp.where(apart & (soft <= RELIABLE * high), lower, jnp.inf), together


def _search(x: _Points, frames: Float[Array, "a d f"], tiles: _Points) -> tuple[Array, Array, Array]:
    """Rows of balls to compute again ``(a, k)``, a lower bound of all others, and who is coincident.

    These are the balls that may be the smallest, and the smallest sure one.
    """
    count = FEW if x.points.shape[1] <= DIRECT_FEATURES else CANDIDATES

    def of_tile(y: _Points) -> tuple[Array, ...]:
        _, upper, lower, together = _compare(x, frames, y)
        lower, columns = least_columns(lower, min(count + 1, lower.shape[1]))
        sure, column = jnp.min(upper, axis=1), jnp.argmin(upper, axis=1)
        return lower, y.row[columns], sure, y.row[column], jnp.any(together, axis=1)

    lower, rows, upper, sure, together = jax.lax.map(of_tile, tiles)
    lower, rows = (jnp.moveaxis(z, 0, 1).reshape(len(x.row), -1) for z in (lower, rows))
    lower, place = least_columns(lower, min(count + 1, lower.shape[1]))
    rows = jnp.where(jnp.isfinite(lower), jnp.take_along_axis(rows, place, axis=1), -1)[:, :count]
    sure = jnp.take_along_axis(sure, jnp.argmin(upper, axis=0)[None], axis=0).T
    others = lower[:, -1] if lower.shape[1] > count else jnp.full(len(x.row), jnp.inf, lower.dtype)
    return jnp.concatenate([rows, sure], axis=1), others, jnp.any(together, axis=0)


def _best(
    everyone: _Points, x: _Points, frames: Array, candidates: Int[Array, "a k"], lower: Float[Array, "a"]
) -> tuple[Array, Array]:
    """The best of the candidates by differences (the first, at a tie), and the bar of its radius."""
    eps = jnp.finfo(x.points.dtype).eps

    def ball(row: Array, point: Array, noise: Array, frame: Array, other: Array) -> tuple[Array, Array]:
        y = jnp.maximum(other, 0)
        radius = tangent_ball_radius(point, everyone.points[y], frame)
        length = norm(everyone.points[y] - point)
        soft = noise + everyone.noise[y] + ROUNDING * eps * length
        # The distance to T_x is |y - x|^2 / 2 R.
        share = soft * 2 * radius / jnp.where(length > 0, length**2, jnp.inf)
        reliable = (other >= 0) & (other != row) & (share <= RELIABLE)
        return jnp.where(reliable, radius, jnp.inf), share

    def best(row: Array, *centre: Array) -> tuple[Array, Array]:
        point, noise, frame, others, lower = centre
        radii, shares = jax.vmap(partial(ball, row, point, noise, frame))(others)
        least = jnp.min(radii)
        attained = jnp.isfinite(least) & (radii == least)
        witness = jnp.min(jnp.where(attained, others, len(everyone.row)))
        share = jnp.max(jnp.where(attained, shares, 0.0))
        error = jnp.maximum(least * share / (1 - share), least - lower)
        return jnp.where(jnp.any(attained), witness, -1), error

    return jax.vmap(best)(*x, frames, candidates, lower)


def _weights(
    x: _Points, frames: Array, least: Float[Array, "a"], *, tiles: _Points, temperature: Any
) -> Float[Array, "a"]:
    """The sum over y of exp((least - R(x, y)) / t); a tile is computed again for its derivatives."""

    @jax.checkpoint
    def of_tile(y: _Points) -> Array:
        squares, upper, _, _ = _compare(x, frames, y)
        sure = jnp.isfinite(upper)
        radius = jnp.where(sure, squares.chord, 1.0) / (2 * safe_sqrt(jnp.where(sure, squares.normal, 1.0)))
        gain = jnp.minimum((least[:, None] - radius) / temperature, LARGEST_GAIN)
        return jnp.sum(jnp.where(sure, jnp.exp(gain), 0.0), axis=1)

    return jnp.sum(jax.lax.map(of_tile, tiles), axis=0)
