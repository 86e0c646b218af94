"""From a lattice to the exact place: the largest normal curvature, and bottlenecks, of an embedding."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax.geometry.fields import exact_measures
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.jet import gram_from_function

_SEARCH_STEPS = 60
_FINEST = 2.0**-14
_MARQUARDT_STEPS = 40
_FARTHEST = 8.0


@partial(jax.jit, static_argnames="grid")
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
    d = start.shape[0]
    moves = jnp.concatenate([jnp.zeros((1, d)), jnp.eye(d), -jnp.eye(d)]).astype(start.dtype)
    spacing = jnp.asarray(grid.spacing, start.dtype)
    low = jnp.asarray([-jnp.inf if a.periodic else a.start for a in grid.axes], start.dtype)
    high = jnp.asarray([jnp.inf if a.periodic else a.stop for a in grid.axes], start.dtype)

    def curvature(points: Array) -> tuple[Array, Array]:
        measures = exact_measures(gram_from_function(embedding, points), grid)
        return measures.value.normal_curvature, measures.rounding.normal_curvature

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        return (state[2] < _SEARCH_STEPS) & (state[1][0] > _FINEST * spacing[0])

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        point, size, count = state
        tried = jnp.clip(point + moves * size, low, high)
        value, noise = curvature(tried)
        best = jnp.argmax(jnp.nan_to_num(value - noise, nan=-jnp.inf, posinf=-jnp.inf))
        return tried[best], jnp.where(best == 0, size / 2, size), count + 1

    point, _, _ = jax.lax.while_loop(unfinished, step, (start, spacing / 2, jnp.zeros((), int)))
    value, noise = curvature(point[None])
    return point, value[0], noise[0]


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

    def residual(z: Array) -> Array:
        points, derivatives = zip(
            *(_point_and_derivative(e, u) for e, u in zip(embeddings, ends(z), strict=True)), strict=True
        )
        chord = points[1] - points[0]
        length = jnp.sqrt(jnp.sum(chord**2))
        cosines = [
            jnp.sum(first * chord, axis=1) / (jnp.sqrt(jnp.sum(first**2, axis=1)) * length)
            for first in derivatives
        ]
        return jnp.concatenate(cosines)

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        z, damping, value, count = state
        floor = (4 * jnp.finfo(z.dtype).eps) ** 2
        return (
            (count < _MARQUARDT_STEPS) & (damping < 1e4) & (value > floor) & (jnp.max(jnp.abs(z)) < _FARTHEST)
        )

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        z, damping, value, count = state
        jacobian, now = jax.jacfwd(residual)(z), residual(z)
        normal = jnp.matmul(jacobian.T, jacobian, precision=jax.lax.Precision.HIGHEST)
        matrix = normal + damping * jnp.diag(jnp.diagonal(normal) + 1e-3 * jnp.trace(normal))
        tried = z - jnp.linalg.solve(matrix, jnp.sum(jacobian * now[:, None], axis=0))
        new = jnp.sum(residual(tried) ** 2)
        better = new < value
        z = jnp.where(better, tried, z)
        return z, jnp.where(better, damping / 4, damping * 4), jnp.where(better, new, value), count + 1

    zero = jnp.zeros(starts[0].shape[0] + starts[1].shape[0], starts[0].dtype)
    begin = (zero, jnp.asarray(1e-2, zero.dtype), jnp.sum(residual(zero) ** 2), jnp.zeros((), int))
    z, *_ = jax.lax.while_loop(unfinished, step, begin)
    u, w = ends(z)
    chord = jnp.ravel(embeddings[1](w)) - jnp.ravel(embeddings[0](u))
    length = jnp.sqrt(jnp.sum(chord**2))
    return Bottleneck(u, w, length, jnp.max(jnp.abs(residual(z))), jnp.max(jnp.abs(z)))


def _point_and_derivative(embedding: Any, u: Array) -> tuple[Array, Array]:
    """X ``(f,)`` and X_i ``(d, f)``."""

    def both(x: Array) -> tuple[Array, Array]:
        value = jnp.ravel(embedding(x))
        return value, value

    first, value = jax.jacfwd(both, has_aux=True)(u)
    return value, first.T
