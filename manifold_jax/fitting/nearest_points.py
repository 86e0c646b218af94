"""Nearest points on a known manifold, refined from its lattice by a damped Newton method in the chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import positive, query_rows, whole
from manifold_jax._linalg import block_rows, map_blocks, matmul, safe_sqrt
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.manifold import Manifold, is_union
from manifold_jax.geometry.neighbours import DIRECT_FEATURES, direct_squares, product_squares
from manifold_jax.geometry.source import as_partial

_LARGEST_DAMPING = 1e10

_SINGULAR = 1e-5
"""A coordinate direction that is shorter than this share of the longest on the lattice is lost (a pole)."""


class NearestPoints(NamedTuple):
    """Nearest points of a manifold.

    Attributes:
        coordinates: Chart coordinates of the feet ``(q, d)``; in a union of different dimensions, NaN beyond
            those of the component.
        points: The feet, of the shape of the queries.
        distances: Distance of every query to its foot ``(q,)``. Where the search did not converge it is the
            distance to a point of the manifold all the same: an upper bound.
        converged: Whether the part of (query - foot) that is tangential, along axes that are free to move, is
            below the tolerance times its length, or is rounding ``(q,)``. Never where the chart is singular
            at the foot (a pole), unless the query is the foot: there the chart cannot tell.
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

    by forward-mode autodiff. Steps are damped as by Levenberg and Marquardt: those that do not go down are
    taken back, so a step with the full Hessian is safe; it converges quadratically at any distance below
    the reach, where Gauss-Newton has the rate distance / reach. A search starts at each of the ``starts``
    lowest local minima of the distance on the lattice of the manifold's grid. Periodic axes are wrapped; open
    ones (and periodic axes whose points do not repeat) are clamped to the box, where an axis that pushes
    outward counts as converged. What is found is the nearest point if the lattice resolves the manifold; in
    any case it is a point of the manifold and no farther than the lattice point it started from.

    The lattice is embedded once per call and held: grid.size * f numbers.

    Args:
        manifold: A Manifold, or a sequence of them whose union is meant.
        points: Queries ``(q, *features)``, or ``(q, f)`` flattened.
        starts: Local minima of the lattice that are refined.
        max_steps: Most steps of each search.
        tolerance: Largest sine of the angle between (query - foot) and the normal space; by default
            the square root of eps. The distance errs by its square at most, over 1 - distance / reach.
        block_size: Queries treated at once.

    Returns:
        :class:`NearestPoints`. Queries with NaN give NaN and ``converged`` False.

    Raises:
        ValueError: The manifold is neither a Manifold nor a sequence of them, or shapes or ranges do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax.datasets import circle
        >>> from manifold_jax.fitting.nearest_points import nearest_points
        >>> found = nearest_points(circle(), jnp.array([[3.0, 4.0], [0.3, 0.4]]))
        >>> [round(x, 4) for x in found.distances.tolist()], found.converged.tolist()
        ([4.0, 0.5], [True, True])
    """
    parts = components("nearest_points", manifold)
    starts = whole("nearest_points", "starts", starts)
    max_steps = whole("nearest_points", "max_steps", max_steps)
    positive("nearest_points", "tolerance", tolerance)
    if block_size is not None:
        block_size = whole("nearest_points", "block_size", block_size)
    shape = jnp.shape(points)
    rows, _ = query_rows("nearest_points", points, parts[0].feature_shape)
    if len(shape) < 2 or len(rows) != shape[0]:
        raise ValueError(f"nearest_points: points must have shape (q, *features), got {shape}.")
    found = [
        _on_one(as_partial(part.embedding), rows, part.grid, (starts, max_steps, tolerance, block_size))
        for part in parts
    ]
    best = _nearest_component(found)
    return best._replace(points=best.points.reshape(shape))


def components(caller: str, manifold: Any) -> tuple[Manifold, ...]:
    """A Manifold, or those of a union, which must share their feature shape."""
    if isinstance(manifold, Manifold):
        return (manifold,)
    if not is_union(manifold):
        raise ValueError(f"{caller} needs a Manifold or a sequence of them, got {type(manifold).__name__}.")
    shapes = {part.feature_shape for part in manifold}
    if len(shapes) > 1:
        raise ValueError(f"{caller}: the parts of a union need one feature shape, got {sorted(shapes)}.")
    return tuple(manifold)


def _nearest_component(found: list[NearestPoints]) -> NearestPoints:
    """The nearest foot among those on each component."""
    width = max(part.coordinates.shape[1] for part in found)
    padded = [
        part._replace(
            coordinates=jnp.pad(
                part.coordinates, ((0, 0), (0, width - part.coordinates.shape[1])), constant_values=jnp.nan
            ),
            component=jnp.full_like(part.component, number),
        )
        for number, part in enumerate(found)
    ]
    return _best_of(jax.tree.map(lambda *x: jnp.stack(x, axis=1), *padded))


def _best_of(found: NearestPoints) -> NearestPoints:
    """Along the second axis, the candidate of smallest distance."""
    distances = jnp.where(jnp.isnan(found.distances), jnp.inf, found.distances)
    best = jnp.argmin(distances, axis=1)
    return jax.tree.map(lambda x: jax.vmap(lambda row, i: row[i])(x, best), found)


class _Box(NamedTuple):
    """Ranges of the chart: ``period`` is infinite on axes that are clamped, else the ends are."""

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
    wraps = [axis.wraps for axis in grid.axes]
    inf = math.inf
    low = [-inf if w else a.start for a, w in zip(grid.axes, wraps, strict=True)]
    high = [inf if w else a.stop for a, w in zip(grid.axes, wraps, strict=True)]
    period = [a.stop - a.start if w else inf for a, w in zip(grid.axes, wraps, strict=True)]
    return _Box(*(jnp.asarray(x, dtype) for x in (low, high, [a.start for a in grid.axes], period)))


@partial(jax.jit, static_argnames=("grid", "options"))
def _on_one(embedding: Any, rows: Array, grid: Grid, options: tuple[Any, ...]) -> NearestPoints:
    """Feet on one component."""
    starts, max_steps, tolerance, block_size = options
    dtype = rows.dtype
    coordinates = jnp.asarray(grid.coordinates(), dtype).reshape(-1, grid.ndim)
    features = rows.shape[1]
    batch = block_rows(4 * features, None)
    lattice = map_blocks(jax.vmap(lambda u: jnp.ravel(embedding(u)).astype(dtype)), batch, coordinates)
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
        found = jax.vmap(lambda y, u: jax.vmap(partial(search, y))(u))(queries, begin)
        return _best_of(found)

    size = block_rows(max(grid.size, starts * features * (2 + grid.ndim) ** 2), block_size)
    return map_blocks(block, size, rows)


def _lattice_steps(lattice: Array, grid: Grid) -> Float[Array, "n d"]:
    """Distance of each lattice point to the next along each axis, the longer of both sides."""
    index = jnp.arange(grid.size).reshape(grid.shape)
    columns = []
    for k, axis in enumerate(grid.axes):
        beside = jnp.roll(index, -1, axis=k)
        if not axis.wraps:
            end = (jnp.arange(axis.size) == axis.size - 1).reshape(-1, *(1,) * (grid.ndim - 1 - k))
            beside = jnp.where(end, index, beside)
        batch = block_rows(2 * lattice.shape[1], None)
        step = map_blocks(
            lambda i, j: jnp.sqrt(jnp.sum((lattice[j] - lattice[i]) ** 2, axis=1)),
            batch,
            index.reshape(-1),
            beside.reshape(-1),
        )
        columns.append(jnp.maximum(step, jnp.roll(step.reshape(grid.shape), 1, axis=k).reshape(-1)))
    return jnp.stack(columns, axis=1)


def _lowest(
    lattice: Array, singular: Array, queries: Array, grid: Grid, starts: int
) -> Int[Array, "q starts"]:
    """Flat indices of the lowest local minima of the distance on the lattice, the smallest value first."""
    if lattice.shape[1] <= DIRECT_FEATURES:
        squares = direct_squares(lattice, queries)
    else:
        squares = product_squares(jnp.zeros((), lattice.dtype), lattice, queries)
    squares = jnp.where(jnp.isnan(squares) | singular, jnp.inf, squares)
    field = squares.reshape(-1, *grid.shape)
    lower = jnp.ones(field.shape, bool)
    for k, axis in enumerate(grid.axes):
        for shift in (1, -1):
            beside = jnp.roll(field, shift, axis=k + 1)
            if not axis.wraps:
                end = jnp.arange(axis.size) == (0 if shift == 1 else axis.size - 1)
                beside = jnp.where(end.reshape(-1, *(1,) * (grid.ndim - 1 - k)), jnp.inf, beside)
            lower &= field <= beside
    minima = jnp.where(lower.reshape(squares.shape), squares, jnp.inf)
    count = min(starts, grid.size)
    value, index = jax.lax.top_k(-minima, count)
    # Where there are fewer minima, the lowest again.
    return jnp.where(jnp.isfinite(value), index, index[:, :1])


class _State(NamedTuple):
    """Best chart point, its point and half squared distance; damping, whether done, steps."""

    u: Array
    point: Array
    value: Array
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
        keep = partial(jnp.where, better)
        damping = jnp.where(better, state.damping / 8, jnp.maximum(state.damping, 1e-3) * 8)
        return _State(
            keep(trial, state.u),
            keep(point, state.point),
            keep(value, state.value),
            damping,
            done,
            state.steps + 1,
        )

    u = box.put(u)
    value, point = half_square(u)
    begin = _State(u, point, value, jnp.zeros((), y.dtype), jnp.zeros((), bool), jnp.zeros((), int))
    last = jax.lax.while_loop(unfinished, step, begin)
    distance = safe_sqrt(jnp.where(jnp.isfinite(last.value), 2 * last.value, jnp.nan))
    distance = jnp.where(jnp.isfinite(last.value), distance, jnp.nan)
    return NearestPoints(last.u, last.point, distance, last.done, jnp.zeros((), int))


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
    bend = jax.jacfwd(lambda v: jax.jacfwd(lambda w: jnp.sum(point_at(w) * residual))(v))(state.u)
    # An axis at its end that would have to leave the box stays there.
    held = ((state.u <= box.low) & (gradient > 0)) | ((state.u >= box.high) & (gradient < 0))
    free = ~held
    both = free[:, None] & free[None]
    identity = jnp.eye(len(free), dtype=y.dtype)
    downhill = jnp.where(free, gradient, 0)
    damper = jnp.diag(jnp.diagonal(metric) + 1e-3 * jnp.trace(metric) + jnp.finfo(y.dtype).tiny)
    move = jnp.linalg.solve(jnp.where(both, metric + bend + state.damping * damper, identity), downhill)
    small = 4 * jnp.finfo(y.dtype).eps * damper
    along = jnp.sum(downhill * jnp.linalg.solve(jnp.where(both, metric + small, identity), downhill))
    tangential = safe_sqrt(jnp.maximum(along, 0))
    rounding = 8 * _rounding(state.point, y)
    length = jnp.sqrt(jnp.sum(residual**2))
    regular = jnp.all(jnp.sqrt(jnp.diagonal(metric)) >= _SINGULAR * scale)
    stationary = jnp.isfinite(tangential) & (tangential <= limit * length + rounding)
    return stationary & (regular | (length <= rounding)), move
