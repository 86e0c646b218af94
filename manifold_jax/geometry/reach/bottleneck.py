"""From a lattice to the exact place: the largest normal curvature, and bottlenecks, of an embedding."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax._linalg import damping_matrix, matmul
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.jet import gram_from_function
from manifold_jax.geometry.quantities import chart_ranges, exact_quantities

_SEARCH_STEPS = 60
_FINEST = 2.0**-14
_MARQUARDT_STEPS = 40
_FARTHEST = 8.0


def largest_curvature(
    embedding: Any, start: Float[Array, "d"], grid: Grid
) -> tuple[Float[Array, "d"], Float[Array, ""], Float[Array, ""]]:
    """Climb to a local maximum of the largest normal curvature by a pattern search within the grid's box.

    The maximum over directions has kinks, so no derivatives: step along the axes, halve the step when no
    neighbour is better (Kolda, Lewis & Torczon, SIAM Review 45, 2003). What climbs is the lower end of the
    rounding interval, lest the search be drawn to a pole, where all digits are lost.

    Args:
        embedding: The embedding, a ``jax.tree_util.Partial``.
        start: Chart point to start from.
        grid: The lattice: its spacing is twice the first step, its open axes end the search.

    Returns:
        The chart point reached, its largest normal curvature, and the rounding error of that.
    """
    low = jnp.asarray([-math.inf if a.periodic else a.start for a in grid.axes], start.dtype)
    high = jnp.asarray([math.inf if a.periodic else a.stop for a in grid.axes], start.dtype)
    spacing, ranges = jnp.asarray(grid.spacing, start.dtype), chart_ranges(grid, start.dtype)
    return _pattern_search(embedding, start, spacing, ranges, (low, high))


@jax.jit
def _pattern_search(
    embedding: Any, start: Array, spacing: Array, ranges: Array, box: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    d = start.shape[0]
    moves = jnp.concatenate([jnp.zeros((1, d)), jnp.eye(d), -jnp.eye(d)]).astype(start.dtype)

    def curvature(points: Array) -> tuple[Array, Array]:
        quantities = exact_quantities(gram_from_function(embedding, points), ranges)
        return quantities.value.normal_curvature, quantities.rounding.normal_curvature

    def unfinished(state: tuple[Array, ...]) -> Array:
        return (state[4] < _SEARCH_STEPS) & (state[3][0] > _FINEST * spacing[0])

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        point, _, _, size, count = state
        tried = jnp.clip(point + moves * size, *box)
        value, noise = curvature(tried)
        best = jnp.argmax(jnp.nan_to_num(value - noise, nan=-jnp.inf, posinf=-jnp.inf))
        return tried[best], value[best], noise[best], jnp.where(best == 0, size / 2, size), count + 1

    nothing = jnp.zeros((), start.dtype)
    begin = (start, nothing, nothing, spacing / 2, jnp.zeros((), int))
    point, value, noise, *_ = jax.lax.while_loop(unfinished, step, begin)
    return point, value, noise


class Bottleneck(NamedTuple):
    """A critical pair of the distance.

    Attributes:
        first: Chart point of one end.
        second: Chart point of the other.
        length: Distance of the two ends.
        defect: Largest cosine between the chord and a coordinate direction at its ends; 0 for a bottleneck.
        moved: Largest shift from the start, in lattice steps.
    """

    first: Array
    second: Array
    length: Array
    defect: Array
    moved: Array


@jax.jit
def refine_bottleneck(
    embeddings: tuple[Any, Any],
    starts: tuple[Float[Array, "d"], Float[Array, "e"]],
    spacings: tuple[Float[Array, "d"], Float[Array, "e"]],
) -> Bottleneck:
    """Solve for a chord that is normal at both ends, by the Levenberg-Marquardt method.

    The unknowns are the chart coordinates of the ends, in lattice steps; the residuals are the cosines
    between the chord and the coordinate directions. Damping copes with bottlenecks that are not isolated
    (spheres, parallel circles), where Newton's equations are singular (Marquardt, SIAM J. Appl. Math. 11,
    1963).

    Args:
        embeddings: The embedding at each end (the same, or two components), ``jax.tree_util.Partial``.
        starts: Chart point of each end.
        spacings: Lattice spacing of each.

    Returns:
        Where the iteration ended, to be judged by ``defect`` and ``moved``.
    """
    count = starts[0].shape[0]

    def ends(z: Array) -> tuple[Array, Array]:
        return starts[0] + z[:count] * spacings[0], starts[1] + z[count:] * spacings[1]

    def residual(z: Array) -> tuple[Array, tuple[Array, Array]]:
        points, derivatives = zip(
            *(_point_and_derivative(e, u) for e, u in zip(embeddings, ends(z), strict=True)), strict=True
        )
        chord = points[1] - points[0]
        length = jnp.sqrt(jnp.sum(chord**2))
        cosines = [
            jnp.sum(first * chord, axis=1) / (jnp.sqrt(jnp.sum(first**2, axis=1)) * length)
            for first in derivatives
        ]
        return jnp.concatenate(cosines), (jnp.concatenate(cosines), length)

    def unfinished(state: _Iterate) -> Array:
        floor = (4 * jnp.finfo(state.best.z.dtype).eps) ** 2
        going = (state.tries <= _MARQUARDT_STEPS) & (state.damping < 1e4) & (state.best.value > floor)
        return going & (jnp.max(jnp.abs(state.best.z)) < _FARTHEST)

    def step(state: _Iterate) -> _Iterate:
        jacobian, (now, length) = jax.jacfwd(residual, has_aux=True)(state.tried)
        found = _Tried(state.tried, jnp.sum(now**2), now, jacobian, length)
        better = found.value < state.best.value
        best = jax.tree.map(partial(jnp.where, better), found, state.best)
        damping = jnp.where(better, state.damping / 4, state.damping * 4)
        normal = matmul(best.jacobian.T, best.jacobian)
        matrix = normal + damping * damping_matrix(normal)
        move = jnp.linalg.solve(matrix, jnp.sum(best.jacobian * best.residual[:, None], axis=0))
        return _Iterate(best, best.z - move, damping, state.tries + 1)

    dtype, size = starts[0].dtype, starts[0].shape[0] + starts[1].shape[0]
    zero, worst = jnp.zeros(size, dtype), jnp.asarray(jnp.inf, dtype)
    nothing = _Tried(zero, worst, zero + worst, jnp.zeros((size, size), dtype), worst)
    begin = _Iterate(nothing, zero, jnp.asarray(4e-2, dtype), jnp.zeros((), int))
    best = jax.lax.while_loop(unfinished, step, begin).best
    defect, moved = (jnp.max(jnp.abs(x)) for x in (best.residual, best.z))
    return Bottleneck(*ends(best.z), best.length, defect, moved)


class _Tried(NamedTuple):
    """Unknowns, sum of squared residuals, residuals, their Jacobian, length of the chord."""

    z: Array
    value: Array
    residual: Array
    jacobian: Array
    length: Array


class _Iterate(NamedTuple):
    """The best so far, what is tried next, the damping, and how many were tried."""

    best: _Tried
    tried: Array
    damping: Array
    tries: Array


def _point_and_derivative(embedding: Any, u: Array) -> tuple[Array, Array]:
    """X ``(f,)`` and X_i ``(d, f)``."""

    def both(x: Array) -> tuple[Array, Array]:
        value = jnp.ravel(embedding(x))
        return value, value

    first, value = jax.jacfwd(both, has_aux=True)(u)
    return value, first.T
