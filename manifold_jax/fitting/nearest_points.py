"""Nearest points on a known manifold, refined from its lattice by a damped Newton method in the chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import optional, positive, query_rows, shown, whole
from manifold_jax._linalg import block_rows, damping_matrix, map_blocks, matmul, norm, safe_sqrt
from manifold_jax.geometry.embeddings import frozen_embedding
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.manifold import Manifold, is_union
from manifold_jax.geometry.neighbours import DIRECT_FEATURES, direct_squares, product_squares

_LARGEST_DAMPING = 1e10  # beyond it no step goes down: the search ends

_SINGULAR = 1e-5
"""A coordinate direction that is shorter than this share of the longest on the lattice is lost (a pole)."""


class NearestPoints(NamedTuple):
    """Nearest points of a manifold.

    Attributes:
        coordinates: Chart coordinates of the feet ``(q, d)``; in a union, NaN beyond the component's.
        points: The feet, of the shape of the queries.
        distances: Distance of every query to its foot ``(q,)``; an upper bound where it did not converge.
        converged: Whether the part of (query - foot) that is tangential, along axes that are free to move, is
            below the tolerance times its length, or is rounding ``(q,)``. Never at a pole of the chart,
            unless the query is the foot.
        component: Which Manifold of a union ``(q,)``; 0 for a single one.
    """

    coordinates: Float[Array, "q d"]
    points: Float[Array, "q *features"]
    distances: Float[Array, "q"]
    converged: Bool[Array, "q"]
    component: Int[Array, "q"]


def nearest_points(
    manifold: Manifold | Sequence[Manifold],
    points: Float[Any, "q *features"],
    *,
    starts: int = 2,
    max_steps: int = 60,
    tolerance: float | None = None,
    block_size: int | None = None,
) -> NearestPoints:
    """Nearest points on a manifold whose embedding is known.

    The squared distance |X(u) - y|^2 / 2 to a query y is minimised over the chart. Gradient and Hessian are

        <X_i, X - y>   and   <X_i, X_j> + <X - y, X_ij>,

    by forward-mode autodiff. Steps are damped as by Levenberg and Marquardt, and those that do not go down
    are taken back; convergence is quadratic at any distance below the reach. A search starts at each of the
    ``starts`` lowest local minima of the distance on the lattice of the manifold's grid, which is held:
    grid.size * f numbers. Periodic axes are wrapped; open ones (and periodic axes whose points do not repeat)
    are clamped to the box, where an axis that pushes outward counts as converged. The result is the nearest
    point if the lattice resolves the manifold, and never farther than the lattice point it started from.
    Queries with NaN give NaN.

    Args:
        manifold: A Manifold, or a sequence of them whose union is meant.
        points: Queries ``(q, *features)``, or ``(q, f)`` flattened.
        starts: Local minima of the lattice that are refined.
        max_steps: Most steps of each search.
        tolerance: Largest sine of the angle between (query - foot) and the normal space; by default
            the square root of eps. The distance errs by its square at most, over 1 - distance / reach.
        block_size: Queries treated at once.

    Raises:
        ValueError: The manifold is neither a Manifold nor a sequence of them, or shapes or ranges do not fit.

    Example:
        >>> feet = mj.fitting.nearest_points(mj.datasets.circle(), jnp.array([[3.0, 4.0], [0.3, 0.4]]))
        >>> [round(x, 4) for x in feet.distances.tolist()], feet.converged.tolist()
        ([4.0, 0.5], [True, True])
    """
    name = "nearest_points"
    parts = components(name, manifold)
    starts, max_steps = whole(name, "starts", starts), whole(name, "max_steps", max_steps)
    optional(positive, name, "tolerance", tolerance)
    options = (starts, max_steps, tolerance, optional(whole, name, "block_size", block_size))
    rows, _ = query_rows(name, points, parts[0].feature_shape)
    shape = jnp.shape(points)
    if len(shape) < 2 or len(rows) != shape[0]:
        raise ValueError(f"{name}: points must have shape (q, *features), got {shape}.")
    embeddings = [frozen_embedding(part.embedding, part.grid.ndim, rows.dtype) for part in parts]
    feet = [_on_one(f, rows, part.grid, options) for f, part in zip(embeddings, parts, strict=True)]
    nearest = _nearest_component(feet)
    return nearest._replace(points=nearest.points.reshape(shape))


def feet_from(
    manifold: Manifold, points: Float[Array, "q *features"], coordinates: Float[Array, "q d"]
) -> NearestPoints:
    """Feet on one manifold, each searched from a chart point that is known to be near: no lattice is needed.

    As :func:`nearest_points` from one start, in the dtype of the points, one query after the other. A search
    ends in the local minimum that it starts above: distances are upper bounds, and never larger than the
    distance to the starting point.
    """
    embedding = frozen_embedding(manifold.embedding, manifold.grid.ndim, points.dtype)
    feet = _from_starts(embedding, points.reshape(len(points), -1), coordinates, manifold.grid)
    return feet._replace(points=feet.points.reshape(points.shape))


@partial(jax.jit, static_argnames="grid")
def _from_starts(embedding: Any, rows: Array, coordinates: Array, grid: Grid) -> NearestPoints:
    dtype = rows.dtype
    limit = float(jnp.finfo(dtype).eps) ** 0.5
    search = partial(_search, embedding, _box(grid, dtype), jnp.zeros(grid.ndim, dtype), 60, limit)
    return jax.lax.map(lambda pair: search(*pair), (rows, coordinates.astype(dtype)))


def components(caller: str, manifold: Any) -> tuple[Manifold, ...]:
    """A Manifold, or those of a union, which must share their feature shape."""
    if isinstance(manifold, Manifold):
        return (manifold,)
    if not is_union(manifold):
        wanted = "manifold must be a Manifold or a sequence of them"
        raise ValueError(f"{caller}: {wanted}, got {shown(manifold)}.")
    shapes = {part.feature_shape for part in manifold}
    if len(shapes) > 1:
        raise ValueError(f"{caller}: the parts of a union need one feature shape, got {sorted(shapes)}.")
    return tuple(manifold)


def _nearest_component(feet: list[NearestPoints]) -> NearestPoints:
    """The nearest foot among those on each component."""
    width, padded = max(part.coordinates.shape[1] for part in feet), []
    for number, part in enumerate(feet):
        missing = width - part.coordinates.shape[1]
        coordinates = jnp.pad(part.coordinates, ((0, 0), (0, missing)), constant_values=jnp.nan)
        component = jnp.full_like(part.component, number)
        padded.append(part._replace(coordinates=coordinates, component=component))
    return _nearest_of(jax.tree.map(lambda *x: jnp.stack(x, axis=1), *padded))


@jax.jit
def _nearest_of(feet: NearestPoints) -> NearestPoints:
    """Along the second axis, the candidate of smallest distance."""
    distances = jnp.where(jnp.isnan(feet.distances), jnp.inf, feet.distances)
    nearest = jnp.argmin(distances, axis=1)
    return jax.tree.map(lambda x: jax.vmap(lambda row, i: row[i])(x, nearest), feet)


class _Box(NamedTuple):
    """Ranges of the chart: the period is infinite on axes that are clamped, the ends on others."""

    low: Array
    high: Array
    start: Array
    period: Array

    def put(self, u: Array) -> Array:
        """A chart point, wrapped and clamped."""
        turns = jnp.floor((u - self.start) / self.period)
        wrapped = jnp.where(jnp.isfinite(self.period), u - turns * self.period, u)
        return jnp.clip(jnp.where(jnp.isfinite(wrapped), wrapped, u), self.low, self.high)


def _box(grid: Grid, dtype: Any) -> _Box:
    ends = [
        (-math.inf, math.inf, a.start, a.stop - a.start) if a.wraps else (a.start, a.stop, a.start, math.inf)
        for a in grid.axes
    ]
    return _Box(*jnp.asarray(ends, dtype).T)


@partial(jax.jit, static_argnames=("grid", "options"))
def _on_one(embedding: Any, rows: Array, grid: Grid, options: tuple[Any, ...]) -> NearestPoints:
    """Feet on one component."""
    starts, max_steps, tolerance, block_size = options
    dtype = rows.dtype
    coordinates = jnp.asarray(grid.coordinates(), dtype).reshape(-1, grid.ndim)
    features = rows.shape[1]
    points_at = jax.vmap(lambda u: jnp.ravel(embedding(u)).astype(dtype))
    lattice = map_blocks(points_at, block_rows(4 * features), coordinates)
    # Matrix products of centred points lose fewer digits; for a start that is enough.
    centre = jnp.mean(lattice, axis=0)
    lattice = lattice - centre
    steps = _lattice_steps(lattice, grid)
    longest = jnp.max(steps, axis=0)
    # At a pole the direction of descent depends on a coordinate that is lost there: do not start at one.
    singular = jnp.any(steps < _SINGULAR * longest, axis=1)
    scale = longest / jnp.asarray(grid.spacing, dtype)
    box = _box(grid, dtype)
    limit = float(jnp.finfo(dtype).eps) ** 0.5 if tolerance is None else tolerance

    def block(queries: Array) -> NearestPoints:
        begin = coordinates[_lowest(lattice, singular, queries - centre, grid, starts)]
        search = partial(_search, embedding, box, scale, max_steps, limit)
        return _nearest_of(jax.vmap(lambda y, u: jax.vmap(partial(search, y))(u))(queries, begin))

    size = block_rows(max(grid.size, starts * features * (2 + grid.ndim) ** 2), block_size)
    return map_blocks(block, size, rows)


def _shifted(field: Array, grid: Grid, k: int, shift: int, beyond: Any) -> Array:
    """A field ``(..., *grid.shape)`` one step along axis k; ``beyond`` past the end of an open axis."""
    axis = grid.axes[k]
    rolled = jnp.roll(field, shift, axis=k - grid.ndim)
    if axis.wraps:
        return rolled
    end = jnp.arange(axis.size) == (0 if shift == 1 else axis.size - 1)
    return jnp.where(end.reshape(-1, *(1,) * (grid.ndim - 1 - k)), beyond, rolled)


def _lattice_steps(lattice: Array, grid: Grid) -> Float[Array, "n d"]:
    """Distance of each lattice point to the next along each axis, the longer of both sides."""
    index = jnp.arange(grid.size).reshape(grid.shape)
    batch = block_rows(2 * lattice.shape[1])
    columns = []
    for k in range(grid.ndim):
        after = _shifted(index, grid, k, -1, index)
        step = map_blocks(lambda i, j: norm(lattice[j] - lattice[i]), batch, index.ravel(), after.ravel())
        columns.append(jnp.maximum(step, jnp.roll(step.reshape(grid.shape), 1, axis=k).ravel()))
    return jnp.stack(columns, axis=1)


def _lowest(lattice: Array, singular: Array, queries: Array, grid: Grid, starts: int) -> Array:
    """Flat indices ``(q, starts)`` of the lowest local minima of the distance on the lattice, ascending."""
    direct = lattice.shape[1] <= DIRECT_FEATURES
    squares = direct_squares(lattice, queries) if direct else product_squares(0.0, lattice, queries)
    squares = jnp.where(jnp.isnan(squares) | singular, jnp.inf, squares)
    field = squares.reshape(-1, *grid.shape)
    lower = jnp.ones(field.shape, bool)
    for k in range(grid.ndim):
        for shift in (1, -1):
            lower &= field <= _shifted(field, grid, k, shift, jnp.inf)
    minima = jnp.where(lower.reshape(squares.shape), squares, jnp.inf)
    value, index = jax.lax.top_k(-minima, min(starts, grid.size))
    # Where there are fewer minima, the lowest again.
    return jnp.where(jnp.isfinite(value), index, index[:, :1])


class _State(NamedTuple):
    u: Array  # best chart point
    point: Array
    value: Array  # half its squared distance
    damping: Array
    done: Array
    steps: Array


def _search(
    embedding: Any, box: _Box, scale: Array, max_steps: int, limit: float, y: Array, u: Array
) -> NearestPoints:
    """Damped Newton from one chart point for one query."""

    def point_at(v: Array) -> Array:
        return jnp.ravel(embedding(v)).astype(y.dtype)

    def half_square(v: Array) -> tuple[Array, Array]:
        point = point_at(v)
        return jnp.sum((point - y) ** 2) / 2, point

    def unfinished(state: _State) -> Array:
        return (state.steps < max_steps) & ~state.done & (state.damping < _LARGEST_DAMPING)

    def step(state: _State) -> _State:
        done, move = _newton_move(point_at, box, scale, limit, y, state)
        trial = box.put(state.u - move)
        value, point = half_square(trial)
        # Near the foot the gain is below rounding, while the gradient still falls.
        noise = 2 * jnp.sqrt(2 * state.value) * _rounding(state.point, y)
        better = (value <= state.value + noise) & ~done
        damping = jnp.where(better, state.damping / 8, jnp.maximum(state.damping, 1e-3) * 8)
        last = state._replace(damping=damping, done=done, steps=state.steps + 1)
        moved = last._replace(u=trial, point=point, value=value)
        return jax.tree.map(partial(jnp.where, better), moved, last)

    u = box.put(u)
    value, point = half_square(u)
    begin = _State(u, point, value, jnp.zeros((), y.dtype), jnp.zeros((), bool), jnp.zeros((), int))
    last = jax.lax.while_loop(unfinished, step, begin)
    known = jnp.isfinite(last.value)  # else y is not finite, or squares overflow
    u, point, distance = (
        jnp.where(known, x, jnp.nan) for x in (last.u, last.point, safe_sqrt(2 * last.value))
    )
    return NearestPoints(u, point, distance, last.done & known, jnp.zeros((), int))


def _rounding(point: Array, y: Array) -> Array:
    """Rounding error of a difference of two points, about."""
    return 2 * jnp.finfo(y.dtype).eps * jnp.sqrt(jnp.sum(point**2) + jnp.sum(y**2))


def _newton_move(
    point_at: Any, box: _Box, scale: Array, limit: float, y: Array, state: _State
) -> tuple[Bool[Array, ""], Float[Array, "d"]]:
    """Whether the chart point is stationary, and the damped Newton move on the axes that are free."""
    first = jax.jacfwd(point_at)(state.u).T
    residual = state.point - y
    gradient = jnp.sum(first * residual, axis=1)
    metric = matmul(first, first.T)
    second = jax.jacfwd(lambda v: jax.jacfwd(lambda w: jnp.sum(point_at(w) * residual))(v))(state.u)
    # An axis at its end that would have to leave the box stays there.
    held = ((state.u <= box.low) & (gradient > 0)) | ((state.u >= box.high) & (gradient < 0))
    free = ~held
    both = free[:, None] & free[None]
    identity = jnp.eye(len(free), dtype=y.dtype)
    downhill = jnp.where(free, gradient, 0)
    damper = damping_matrix(metric) + jnp.finfo(y.dtype).tiny * identity
    move = jnp.linalg.solve(jnp.where(both, metric + second + state.damping * damper, identity), downhill)
    small = 4 * jnp.finfo(y.dtype).eps * damper
    along = jnp.sum(downhill * jnp.linalg.solve(jnp.where(both, metric + small, identity), downhill))
    tangential = safe_sqrt(along)
    rounding, length = 8 * _rounding(state.point, y), norm(residual)
    regular = jnp.all(jnp.sqrt(jnp.diagonal(metric)) >= _SINGULAR * scale)
    stationary = jnp.isfinite(tangential) & (tangential <= limit * length + rounding)
    return stationary & (regular | (length <= rounding)), move
