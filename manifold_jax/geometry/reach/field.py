"""Tangent balls of all pairs of points, as one program that can be traced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import finite, flat, floating, optional, positive, real, whole
from manifold_jax._linalg import block_rows, map_blocks, norm, safe_sqrt, scale_of
from manifold_jax._sharding import (
    Names,
    explicit,
    in_pieces,
    mesh_of,
    names_of,
    place_in,
    rows_only,
    shift_pieces,
)
from manifold_jax.geometry.neighbours import DIRECT_FEATURES, least_columns
from manifold_jax.geometry.reach.frames import ROUNDING, orthonormal
from manifold_jax.geometry.reach.samples import tangent_ball_radius
from manifold_jax.geometry.reach.screen import RELIABLE
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

    Points that are cut over a ``jax.sharding.Mesh`` along their first axis stay where they are: each device
    keeps its own as centres x, while those of all others come by as y, a part at a time. Only features that
    are cut are gathered; and the gradient of the soft minimum keeps all points on every device.

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
    (points, tangents), back = explicit((points, tangents))
    points = flat(rows_only(points))
    tangents = rows_only(tangents).reshape(*tangents.shape[:2], -1).astype(points.dtype)
    whole(name, "the number of tangents", tangents.shape[1], most=points.shape[1])
    return back(_field(points, tangents, temperature, block_size))


@partial(jax.jit, static_argnames="block_size")
def _field(points: Array, tangents: Array, temperature: Any, block_size: int | None) -> ReachField:
    cut = next((x for x in (points, tangents) if mesh_of(x) is not None), None)
    if cut is None:
        return _field_of(points, tangents, temperature, (), block_size)
    names = names_of(cut)[0]
    rows, run = PartitionSpec(names), partial(_field_of, names=names, block_size=block_size)
    return in_pieces(run, mesh_of(cut), (rows, rows, PartitionSpec()), rows)(points, tangents, temperature)


def _field_of(
    points: Array, tangents: Array, temperature: Any, names: Names, block_size: int | None
) -> ReachField:
    """The field at some points, of this device; those of other devices come by in turn, see :func:`_fold`."""
    n, f = points.shape
    frames, regular = _orthonormal_frames(tangents)
    regular &= jnp.all(jnp.isfinite(points), axis=1)
    noise = jnp.finfo(points.dtype).eps * norm(jax.lax.stop_gradient(points))
    everyone = _Points(place_in(names, n) + jnp.arange(n), points, noise)
    rows = block_rows(min(n, COLUMNS) * (tangents.shape[1] + 8), block_size)
    centres, held = jax.lax.stop_gradient((everyone, frames))
    fold = partial(_fold, names=names)

    def search(part: _Points) -> _Nearest:
        return map_blocks(partial(_search, tiles=_split(part, COLUMNS)), rows, centres, held)

    nearest = fold(search, _nearer, _nobody(centres), centres)
    candidates = jnp.concatenate([nearest.rows[:, : _count(f)], nearest.sure[:, None]], axis=1)
    some = block_rows(4 * f * candidates.shape[1], block_size)

    def compare(part: _Points) -> tuple[Array, Array]:
        return map_blocks(partial(_balls, part), some, centres, held, candidates)

    nothing = jnp.full(candidates.shape, jnp.inf, points.dtype), jnp.zeros(candidates.shape, points.dtype)
    radii, shares = fold(compare, _smaller, nothing, centres)
    witness, error = jax.vmap(_best)(candidates, radii, shares, _lower_bound(nearest, _count(f)))
    there = regular & (witness >= 0)
    # The points that the balls meet, with their derivatives.
    met = fold(partial(_rows_of, rows=witness), jnp.add, jnp.zeros_like(points), everyone)
    radius = map_blocks(jax.vmap(tangent_ball_radius), block_rows(4 * f, block_size), points, met, frames)
    radius = jnp.where(there, radius, jnp.inf)
    if temperature is not None:
        least = jax.lax.stop_gradient(jnp.where(there, radius, 0.0))

        def weigh(part: _Points) -> Array:
            of_block = partial(_weights, tiles=_split(part, COLUMNS), temperature=temperature)
            return map_blocks(of_block, rows, everyone, frames, least)

        total = fold(weigh, jnp.add, jnp.zeros_like(least), everyone)
        radius = jnp.where(there, least - temperature * jnp.log(jnp.where(there, total, 1.0)), jnp.inf)
    radius = jnp.where(regular, radius, jnp.nan)
    error = jnp.where(there, error, jnp.inf)
    return ReachField(radius, error, jnp.where(there, witness, -1), nearest.together)


def _fold(
    function: Callable[[Any], Any], combine: Callable[[Any, Any], Any], start: Any, part: Any, names: Names
) -> Any:
    """``function`` of the parts of all devices, put together: every part goes round the ring once."""
    if not names:
        return function(part)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        part, result = carry
        return (shift_pieces(part, names, 1), combine(result, function(part))), None

    return jax.lax.scan(step, (part, start), length=jax.lax.axis_size(names))[0][1]


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


def _count(features: int) -> int:
    """How many balls of a point are computed again."""
    return FEW if features <= DIRECT_FEATURES else CANDIDATES


class _Nearest(NamedTuple):
    """Balls to compute again: those that may be the smallest, and the smallest sure one.

    Lower ends of radii in ascending order and the rows of these balls ``(a, k)``, the upper end and the row
    of the smallest sure one, and whether any point lies in the same place.
    """

    lower: Float[Array, "a k"]
    rows: Int[Array, "a k"]
    upper: Float[Array, "a"]
    sure: Int[Array, "a"]
    together: Bool[Array, "a"]


def _nobody(x: _Points) -> _Nearest:
    """What is known of points before any are compared."""
    none, dtype = jnp.full((len(x.row), _count(x.points.shape[1]) + 1), -1), x.points.dtype
    lower = jnp.full(none.shape, jnp.inf, dtype)
    return _Nearest(lower, none.astype(x.row.dtype), lower[:, 0], x.row, jnp.zeros(x.row.shape, bool))


def _nearer(first: _Nearest, second: _Nearest) -> _Nearest:
    """The smallest balls of both, of which the second may be fewer."""
    most = first.lower.shape[1]
    width = ((0, 0), (0, most - second.lower.shape[1]))
    lower = jnp.pad(second.lower, width, constant_values=jnp.inf)
    second = second._replace(lower=lower, rows=jnp.pad(second.rows, width, constant_values=-1))
    return _nearest(jax.tree.map(lambda *pair: jnp.stack(pair), first, second), most)


def _nearest(parts: _Nearest, most: int) -> _Nearest:
    """The smallest balls of several parts ``(t, a, ...)``."""
    lower, rows = (jnp.moveaxis(z, 0, 1).reshape(z.shape[1], -1) for z in parts[:2])
    lower, place = least_columns(lower, min(most, lower.shape[1]))
    first = jnp.argmin(parts.upper, axis=0)[None]
    upper, sure = (jnp.take_along_axis(z, first, axis=0)[0] for z in (parts.upper, parts.sure))
    rows = jnp.take_along_axis(rows, place, axis=1)
    return _Nearest(lower, rows, upper, sure, jnp.any(parts.together, axis=0))


def _search(x: _Points, frames: Float[Array, "a d f"], tiles: _Points) -> _Nearest:
    """The smallest balls that meet points of the tiles."""
    most = _count(x.points.shape[1]) + 1

    def of_tile(y: _Points) -> _Nearest:
        _, upper, lower, together = _compare(x, frames, y)
        lower, columns = least_columns(lower, min(most, lower.shape[1]))
        sure, column = jnp.min(upper, axis=1), jnp.argmin(upper, axis=1)
        return _Nearest(lower, y.row[columns], sure, y.row[column], jnp.any(together, axis=1))

    nearest = _nearest(jax.lax.map(of_tile, tiles), most)
    return nearest._replace(rows=jnp.where(jnp.isfinite(nearest.lower), nearest.rows, -1))


def _lower_bound(nearest: _Nearest, count: int) -> Float[Array, "a"]:
    """A lower bound of all balls but the first so many."""
    lower = nearest.lower
    return lower[:, -1] if lower.shape[1] > count else jnp.full(len(lower), jnp.inf, lower.dtype)


def _place(part: _Points, rows: Int[Array, "*a"]) -> tuple[Array, Array]:
    """Where rows lie in a part, and whether they do."""
    place = rows - part.row[0]
    return jnp.clip(place, 0, len(part.row) - 1), (place >= 0) & (place < len(part.row))


def _rows_of(part: _Points, rows: Int[Array, "a"]) -> Float[Array, "a f"]:
    """Points by their rows, 0 where they are not in the part."""
    place, inside = _place(part, rows)
    return jnp.where(inside[:, None], part.points[place], 0.0)


def _balls(
    part: _Points, x: _Points, frames: Array, candidates: Int[Array, "a k"]
) -> tuple[Float[Array, "a k"], Float[Array, "a k"]]:
    """Radii of balls that meet candidates in a part by differences, infinite for others, and their error.

    The error is that of the distance to the tangent space, over this distance.
    """
    eps = jnp.finfo(x.points.dtype).eps
    place, inside = _place(part, candidates)

    def ball(row: Array, point: Array, noise: Array, frame: Array, other: Array, y: Array) -> Any:
        radius = tangent_ball_radius(point, part.points[y], frame)
        length = norm(part.points[y] - point)
        soft = noise + part.noise[y] + ROUNDING * eps * length
        # The distance to T_x is |y - x|^2 / 2 R.
        share = soft * 2 * radius / jnp.where(length > 0, length**2, jnp.inf)
        reliable = (other >= 0) & (other != row) & (share <= RELIABLE)
        return jnp.where(reliable, radius, jnp.inf), share

    over_candidates = jax.vmap(ball, (None, None, None, None, 0, 0))
    radii, shares = jax.vmap(over_candidates)(*x, frames, candidates, place)
    return jnp.where(inside, radii, jnp.inf), jnp.where(inside, shares, 0.0)


def _smaller(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Balls of two parts, each of which has met a candidate in one of them."""
    return jnp.minimum(first[0], second[0]), first[1] + second[1]


def _best(
    candidates: Int[Array, "k"], radii: Float[Array, "k"], shares: Float[Array, "k"], lower: Float[Array, ""]
) -> tuple[Array, Array]:
    """The best of the candidates of a point (the first of these, at a tie), and the bar of its radius."""
    least = jnp.min(radii)
    attained = jnp.isfinite(least) & (radii == least)
    witness = jnp.min(jnp.where(attained, candidates, jnp.iinfo(candidates.dtype).max))
    share = jnp.max(jnp.where(attained, shares, 0.0))
    error = jnp.maximum(least * share / (1 - share), least - lower)
    return jnp.where(jnp.any(attained), witness, -1), error


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
