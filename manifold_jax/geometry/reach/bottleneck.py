"""From a lattice to the exact place: the largest normal curvature, and the shortest bottleneck."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._linalg import damping_matrix, matmul, norm
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.jet import gram_from_function
from manifold_jax.geometry.quantities import chart_ranges, exact_quantities
from manifold_jax.geometry.reach.cloud import Cloud
from manifold_jax.geometry.reach.frames import first_derivatives, local_model
from manifold_jax.geometry.reach.lattice import NOWHERE, Component, End, drop_on_grid, locate, vertex_drop
from manifold_jax.geometry.reach.pairs import PairSearch

SEARCH_STEPS = 60  # of the search for the largest curvature at most; a smooth maximum takes about thirty
FINEST = 2.0**-14  # lattice steps at which it ends: a smooth maximum is then known to rounding in float32
CERTAIN = 0.1  # relative error up to which a radius of curvature is taken for what it says

MARQUARDT_STEPS = 40  # at most; an isolated bottleneck takes about five
FIRST_DAMPING, LARGEST_DAMPING = 4e-2, 1e4  # relative to the diagonal: at first, and where no step helps
FARTHEST = 8.0  # lattice steps from its start beyond which an iteration is given up

BATCH, TRIED = 8, 24  # lattice pairs refined before the shortest is taken, and in all if none ends well
EQUAL = 1e-9  # relative difference of cosines that is rounding, as between the pairs of two circles
COSINE = 1e3  # largest at a bottleneck, in eps^(3/4): its square, the error of the length, is below 1e6 eps
MOVED_EXACT, MOVED_STENCIL = 4, 1  # lattice steps of an end: a Taylor polynomial is only good for one
SHRUNK = 0.5  # least length relative to the lattice pair: a point would soon be paired with itself
OUTSIDE = 1e-3  # lattice steps by which an end may overstep the end of an open axis, by rounding
EVALUATION = 32  # error of an evaluated length, in eps


class Candidate(NamedTuple):
    """A value that the reach may have, with its bar and the two places that attain it."""

    value: float
    error: float
    ends: tuple[End, End]


NONE = Candidate(math.inf, math.inf, NOWHERE)
"""What a search returns that ends nowhere."""

BY_VALUE = attrgetter("value")
"""Key by which the smallest candidate is taken."""


def smallest_radius(component: Component) -> Candidate:
    """Smallest radius of curvature of a component, refined where there is an embedding."""
    c, radii = component, component.radii
    certain = np.isfinite(radii.radius) & (radii.error <= CERTAIN * radii.radius)
    index = int(np.argmin(np.where(certain, radii.radius, np.inf) if certain.any() else radii.radius))
    u, value, error = c.coordinates[index], float(radii.radius[index]), float(radii.error[index])
    if not math.isfinite(value):  # flat, or degenerate everywhere
        error = 0.0 if radii.defined.any() else math.inf
    elif c.stencil is None:
        ranges = jnp.asarray(chart_ranges(c.grid, u.dtype))
        place, curvature, *rest = largest_curvature(c.source.values, ranges, *start_and_box(c.grid, u))
        # Curvature from stencils is only where to start.
        better = not c.geometry.exact or 1 / float(curvature) < value
        if rest[0] < CERTAIN * curvature and better:
            u, (value, error) = np.asarray(place), radius_of_maximum(curvature, *rest)
    else:
        error += drop_on_grid(c.grid, radii.radius, index, value)
        # Where the curvature is not resolved it may be larger: by what is seen there.
        error += max(0.0, value - float(radii.radius.min()))
    end = End(c.number, u)
    return Candidate(value, error, (end, end))


def start_and_box(grid: Grid, u: Float[np.ndarray, "d"], held: int | None = None) -> tuple[Array, ...]:
    """Where a search starts, its first steps, and its box ``(d, 2)``; an axis may be held."""
    box = [(-math.inf, math.inf) if axis.periodic else (axis.start, axis.stop) for axis in grid.axes]
    if held is not None:
        box[held] = (u[held], u[held])
    return tuple(jnp.asarray(x, u.dtype) for x in (u, grid.spacing, box))


def radius_of_maximum(curvature: Any, noise: Any, around: Any) -> tuple[float, float]:
    """Radius at the maximum that a search found, and its bar.

    It holds what rounding hides, what the last steps leave to gain, four times for a maximum with a kink, and
    what they have not gained.
    """
    radius, around = 1 / float(curvature), np.asarray(around)
    sides = 1 / np.maximum(around.T, np.finfo(around.dtype).tiny).astype(np.float64)
    error = 4 * (float(noise) * radius**2 + float(vertex_drop(np.array([radius]), sides[None])[0]))
    return radius, error + max(0.0, radius - float(sides.min()))


@jax.jit
def largest_curvature(
    embedding: Any, ranges: Array, start: Array, spacing: Array, box: Float[Array, "d 2"]
) -> tuple[Float[Array, "d"], Float[Array, ""], Float[Array, ""], Float[Array, "2 d"]]:
    """Chart point of a local maximum of the largest normal curvature in a box, its value and rounding error.

    Last come the values after and before it, at the last steps along every axis.
    The maximum over directions has kinks, so a pattern search without derivatives: step along the axes, halve
    the step when no neighbour is better (Kolda, Lewis & Torczon, SIAM Review 45, 2003). The lower end of the
    rounding interval climbs, lest the search be drawn to a pole, where all digits are lost.
    """

    def curvature(points: Array) -> tuple[Array, Array]:
        quantities = exact_quantities(gram_from_function(embedding, points), ranges)
        return quantities.value.normal_curvature, quantities.rounding.normal_curvature

    return pattern_search(curvature, start, spacing, box)


def pattern_search(
    curvature: Callable[[Array], tuple[Array, Array]], start: Array, spacing: Array, box: Float[Array, "d 2"]
) -> tuple[Float[Array, "d"], Float[Array, ""], Float[Array, ""], Float[Array, "2 d"]]:
    """The search of :func:`largest_curvature`, for values and rounding errors of points ``(p, d)``."""
    d = start.shape[0]
    moves = jnp.concatenate([jnp.zeros((1, d)), jnp.eye(d), -jnp.eye(d)]).astype(start.dtype)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        point, size, count, *_ = state
        tried = jnp.clip(point + moves * size, *box.T)
        value, noise = curvature(tried)
        # The last step only looks around.
        ended = (count >= SEARCH_STEPS) | (size[0] <= FINEST * spacing[0])
        ahead = jnp.argmax(jnp.nan_to_num(value - noise, nan=-jnp.inf, posinf=-jnp.inf))
        best = jnp.where(ended, 0, ahead)
        return tried[best], jnp.where(best == 0, size / 2, size), count + 1, ended, value, noise

    nothing = jnp.zeros(len(moves), start.dtype)
    begin = (start, spacing / 2, jnp.zeros((), int), jnp.zeros((), bool), nothing, nothing)
    point, *_, value, noise = jax.lax.while_loop(lambda state: ~state[3], step, begin)
    return point, value[0], noise[0], value[1:].reshape(2, d)


def shortest_bottleneck(components: Sequence[Component], search: PairSearch) -> Candidate:
    """Shortest chord that is normal at both ends, refined from lattice pairs."""
    pairs, length, defect = search.bottlenecks()
    keep = np.flatnonzero(_isolated(components, pairs, defect, len(search.cloud.points)))
    keep = keep[np.argsort(length[keep], kind="stable")][:TRIED]
    best = NONE
    for start in range(0, len(keep), BATCH):
        for k in keep[start : start + BATCH]:
            best = min(best, refine(components, search.cloud, pairs[k], float(length[k])), key=BY_VALUE)
        if math.isfinite(best.value):
            break
    return best


def _isolated(
    components: Sequence[Component], pairs: np.ndarray, defect: np.ndarray, count: int
) -> np.ndarray:
    """Pairs whose chord is at least as normal as those one lattice step away at either end."""
    keys = pairs[:, 0] * count + pairs[:, 1]
    keep = np.ones(len(keys), bool)
    for component in components:
        for end in range(2):
            mine = np.flatnonzero(component.holds(pairs[:, end]))
            for moved in component.neighbours(pairs[mine, end]).reshape(len(mine), -1).T if len(mine) else ():
                pair = np.sort(np.stack([moved, pairs[mine, 1 - end]], 1), axis=1)
                key = pair[:, 0] * count + pair[:, 1]
                place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
                known = (moved >= 0) & (keys[place] == key)
                keep[mine] &= ~(known & (defect[place] < defect[mine] * (1 - EQUAL)))
    return keep


def refine(
    components: Sequence[Component],
    cloud: Cloud,
    pair: np.ndarray,
    length: float,
    places: Sequence[np.ndarray] | None = None,
) -> Candidate:
    """Bottleneck near a lattice pair, or infinity where the iteration does not end in one.

    It starts at the pair, or at the chart points ``places`` next to it, which are ``length`` apart.
    """
    starts = [locate(components, int(position)) for position in pair]
    parts = [components[end.component] for end in starts]
    dtype = parts[0].source.dtype
    (first, missed), (second, missed_too) = (
        local_model(part, int(position), end.coordinates)
        for part, position, end in zip(parts, pair, starts, strict=True)
    )
    nodes = [end.coordinates for end in starts]
    coordinates = tuple(jnp.asarray(u, dtype) for u in (nodes if places is None else places))
    spacings = tuple(jnp.asarray(part.grid.spacing, dtype) for part in parts)
    signs = np.concatenate([cloud.inward[p, : part.grid.ndim] for part, p in zip(parts, pair, strict=True)])
    # Ends at a border stay there, as long as the chord lies in the normal cone.
    offset = np.abs(np.concatenate(coordinates) - np.concatenate(nodes))
    held = (signs != 0) & (offset <= OUTSIDE * np.concatenate(spacings))
    eps = float(jnp.finfo(dtype).eps)
    straight = COSINE * eps**0.75
    solution: Any = coordinates
    numbers, turns_inward = [math.inf] * 3, held
    for _ in range(len(signs)):
        free = jnp.asarray(~held, dtype)
        solution, cosine, *numbers = refine_bottleneck((first, second), coordinates, spacings, free)
        turns_inward = held & (signs * np.asarray(cosine) > straight)
        if not turns_inward.any():
            break
        held &= ~turns_inward
    new, defect, moved = (float(x) for x in numbers)
    one, two = (End(part.number, np.asarray(u, np.float64)) for part, u in zip(parts, solution, strict=True))
    farthest = MOVED_EXACT if all(part.stencil is None for part in parts) else MOVED_STENCIL
    inside = all(_inside(part, end.coordinates) for part, end in zip(parts, (one, two), strict=True))
    if turns_inward.any() or not (
        defect <= straight and moved <= farthest and new > SHRUNK * length and inside
    ):
        return NONE
    # The length is stationary: a cosine c off costs about c^2. Evaluation costs rounding, a Taylor polynomial
    # what it misses next to its point.
    error = new / 2 * (defect**2 + EVALUATION * eps) + float(cloud.noise[pair].sum())
    if missed.size or missed_too.size:
        chord = np.subtract(
            *(np.ravel(model(u)) for model, u in zip((second, first), solution[::-1], strict=True))
        )
        error += sum(np.abs(deviations @ chord).sum() for deviations in (missed, missed_too)) / new / 2
    return Candidate(new / 2, float(error), (one, two))


def _inside(component: Component, u: Float[np.ndarray, "d"]) -> bool:
    """Whether a chart point lies on the lattice, but for rounding."""
    axes = component.lattice.axes
    return all(
        axis.periodic or -OUTSIDE <= (x - axis.start) / axis.spacing <= axis.size - 1 + OUTSIDE
        for axis, x in zip(axes, u, strict=True)
    )


@jax.jit
def refine_bottleneck(
    embeddings: tuple[Any, ...],
    starts: tuple[Array, ...],
    spacings: tuple[Array, ...],
    free: Float[Array, "n"],
) -> tuple[tuple[Array, Array], Float[Array, "n"], Array, Array, Array]:
    """Solve for a chord that is normal at both ends: its ends, cosines, length, largest cosine and shift.

    The unknowns are the chart coordinates of the ends, in lattice steps; the residuals are the cosines
    between the chord and the coordinate directions. The damping of Levenberg and Marquardt copes with
    bottlenecks that are not isolated (spheres, parallel circles), where Newton's equations are singular.
    Coordinates that are not ``free`` (0, else 1) are held, and nothing is asked of their cosines.
    """
    count = starts[0].shape[0]

    def ends(z: Array) -> tuple[Array, Array]:
        return starts[0] + z[:count] * spacings[0], starts[1] + z[count:] * spacings[1]

    def cosines(z: Array) -> tuple[Array, tuple[Array, ...]]:
        (x, x_first), (y, y_first) = map(point_and_derivative, embeddings, ends(z * free))
        length = norm(y - x)
        both = [jnp.sum(first * v, axis=1) / norm(first) for first, v in ((x_first, y - x), (y_first, x - y))]
        cosine = jnp.concatenate(both) / length
        return cosine * free, (cosine * free, cosine, length)

    def unfinished(state: tuple[Any, ...]) -> Array:
        (z, value, *_), _, damping, tries = state
        going = (tries <= MARQUARDT_STEPS) & (damping < LARGEST_DAMPING)
        floor = (4 * jnp.finfo(z.dtype).eps) ** 2
        return going & (value > floor) & (jnp.max(jnp.abs(z)) < FARTHEST)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        best, tried, damping, tries = state
        jacobian, (residual, cosine, length) = jax.jacfwd(cosines, has_aux=True)(tried)
        trial = (tried, jnp.sum(residual**2), residual, jacobian, cosine, length)
        better = trial[1] < best[1]
        best = jax.tree.map(partial(jnp.where, better), trial, best)
        damping = jnp.where(better, damping / 4, damping * 4)
        z, _, residual, jacobian, *_ = best
        normal = matmul(jacobian.T, jacobian)
        gradient = jnp.sum(jacobian * residual[:, None], axis=0)
        damped = normal + damping * damping_matrix(normal) + jnp.diag(1 - free)
        return best, z - jnp.linalg.solve(damped, gradient) * free, damping, tries + 1

    dtype, size = starts[0].dtype, len(free)
    zero, worst = jnp.zeros(size, dtype), jnp.asarray(jnp.inf, dtype)
    nothing = (zero, worst, zero + worst, jnp.zeros((size, size), dtype), zero, worst)
    begin = (nothing, zero, jnp.asarray(FIRST_DAMPING, dtype), jnp.zeros((), int))
    z, _, residual, _, cosine, length = jax.lax.while_loop(unfinished, step, begin)[0]
    return ends(z), cosine, length, jnp.max(jnp.abs(residual)), jnp.max(jnp.abs(z))


def point_and_derivative(embedding: Any, u: Array) -> tuple[Array, Array]:
    """X ``(f,)`` and X_i ``(d, f)``."""
    return jnp.ravel(embedding(u)), first_derivatives(embedding, u)
