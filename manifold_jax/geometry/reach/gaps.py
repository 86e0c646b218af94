"""Bottlenecks of a union that are narrower than the spacing of its lattices.

Where two manifolds come nearer to each other than their points are apart, no chord of lattice points need be
close to normal. The nearest pairs of their lattices are then where a descent of the distance starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import KDTree

from manifold_jax._linalg import damping_matrix, matmul, norm
from manifold_jax.geometry.reach.bottleneck import BY_VALUE, NONE, Candidate, point_and_derivative, refine
from manifold_jax.geometry.reach.cloud import distances
from manifold_jax.geometry.reach.frames import local_model
from manifold_jax.geometry.reach.lattice import Component, locate
from manifold_jax.geometry.reach.pairs import PairSearch

SEEDS = 512  # nearest pairs from which a descent starts at most, the shortest first; 1 ms each, 30 for arrays
ROUNDS = 4  # descents from one pair at most, each from the lattice points nearest to the ends of the last
DESCENT_STEPS = 100  # of a descent at most; small gaps take about twenty
FIRST_DAMPING = 1e-3
NORMAL = 1e-2  # largest cosine of a chord that is normal enough to be refined
MEETS = 1e-6  # length, relative to that at the start, below which the ends are one point


class Narrow(NamedTuple):
    """The narrowest gap found below the spacing, and whether a narrower one cannot be excluded."""

    best: Candidate
    doubtful: bool


def narrowest_gap(components: Sequence[Component], search: PairSearch) -> Narrow:
    """Bottlenecks between different components from their nearest pairs below the spacing."""
    if len(components) == 1:
        return Narrow(NONE, doubtful=False)
    pairs = np.concatenate(list(_nearest_pairs(components, search)))
    points, cell = search.cloud.points, search.cloud.half_cell
    length = distances(points, *pairs.T)
    noise = search.cloud.noise[pairs].sum(axis=1)
    # Pairs that face each other have been refined already.
    count, (facing, *_) = len(points), search.bottlenecks()
    known = np.isin(pairs[:, 0] * count + pairs[:, 1], facing[:, 0] * count + facing[:, 1])
    wanted = np.flatnonzero((length > 2 * noise) & (length <= cell[pairs].sum(axis=1)) & ~known)
    wanted = wanted[np.argsort(length[wanted], kind="stable")]
    best, doubtful = NONE, len(wanted) > SEEDS
    for k in wanted[:SEEDS]:
        gap = _descend(components, search, pairs[k])
        if gap is None:
            doubtful = True
        else:
            best = min(best, gap, key=BY_VALUE)
    return Narrow(best, doubtful)


def _nearest_pairs(components: Sequence[Component], search: PairSearch) -> Iterator[Int[np.ndarray, "m 2"]]:
    """Positions of points of two components that are nearest to each other."""
    parts = [np.arange(c.offset, c.offset + c.lattice.size) for c in components]
    trees = [KDTree(search.cloud.projected[part]) for part in parts]
    for j, second in enumerate(trees):
        for i, first in enumerate(trees[:j]):
            to_second = np.asarray(second.query(first.data)[1])
            to_first = np.asarray(first.query(second.data)[1])
            mutual = np.flatnonzero(to_first[to_second] == np.arange(first.n))
            yield np.stack([parts[i][mutual], parts[j][to_second[mutual]]], axis=1)


def _descend(
    components: Sequence[Component], search: PairSearch, pair: Int[np.ndarray, "2"]
) -> Candidate | None:
    """Bottleneck where a descent from a lattice pair ends, NONE where it leads away, None where it fails."""
    cloud = search.cloud
    start = float(distances(cloud.points, pair[:1], pair[1:])[0])
    # So far as the cell of the other end, and a little further.
    farthest = float(cloud.half_cell[pair].sum())
    for _ in range(ROUNDS):
        ends = [locate(components, int(position)) for position in pair]
        parts = [components[end.component] for end in ends]
        dtype = parts[0].source.dtype
        models = [local_model(c, int(p), e.coordinates)[0] for c, p, e in zip(parts, pair, ends, strict=True)]
        boxes = [_box(c, e.coordinates, dtype) for c, e in zip(parts, ends, strict=True)]
        coordinates = tuple(jnp.asarray(end.coordinates, dtype) for end in ends)
        spacings = tuple(jnp.asarray(c.grid.spacing, dtype) for c in parts)
        places, length = closest_ends(tuple(models), coordinates, spacings, tuple(boxes))
        places = [np.asarray(u, np.float64) for u in places]
        if float(length) <= max(MEETS * start, 4 * float(cloud.noise[pair].sum())):
            # Charts that overlap go on side by side; what crosses has small tangent balls.
            return None if search.radius[pair].min() < start else NONE
        if all(c.stencil is None for c in parts):
            nearest = [_nearest_position(c, u) for c, u in zip(parts, places, strict=True)]
            if distances(cloud.points, pair, np.array(nearest)).max() > 4 * farthest:
                return NONE
            pair = np.array(nearest)
        else:
            opposite = [np.ravel(model(u)) for model, u in zip(models, places, strict=True)][::-1]
            nearest = [_nearest_point(c, point) for c, point in zip(parts, opposite, strict=True)]
        if np.array_equal(nearest, pair):
            gap = refine(components, cloud, np.array(nearest), float(length), places)
            return gap if math.isfinite(gap.value) else None
        pair = np.array(nearest)
    return None


def _box(component: Component, u: Float[np.ndarray, "d"], dtype: Any) -> tuple[Array, Array]:
    """How many lattice steps an end may go back and forth; a local model is only good for one."""
    axes = list(zip(component.lattice.axes, u, strict=True))
    back = [-math.inf if a.periodic else (a.start - x) / a.spacing for a, x in axes]
    forth = [math.inf if a.periodic else (a.start - x) / a.spacing + a.size - 1 for a, x in axes]
    most = math.inf if component.stencil is None else 1.0
    return jnp.maximum(jnp.asarray(back, dtype), -most), jnp.minimum(jnp.asarray(forth, dtype), most)


def _nearest_point(component: Component, point: np.ndarray) -> int:
    """Position of the lattice point nearest to a point."""
    return component.offset + int(np.argmin(np.linalg.norm(component.points - point, axis=1)))


def _nearest_position(component: Component, u: Float[np.ndarray, "d"]) -> int:
    """Position of the lattice point nearest to a chart point."""
    lattice = component.lattice
    index = [int(axis.nearest(x)) for axis, x in zip(lattice.axes, u, strict=True)]
    pairs = zip(index, lattice.axes, strict=True)
    inside = tuple(i % axis.size if axis.wraps else min(max(i, 0), axis.size - 1) for i, axis in pairs)
    return component.offset + int(np.ravel_multi_index(inside, lattice.shape))


@jax.jit
def closest_ends(
    embeddings: tuple[Any, ...],
    starts: tuple[Array, ...],
    spacings: tuple[Array, ...],
    boxes: tuple[tuple[Array, Array], ...],
) -> tuple[tuple[Array, Array], Array]:
    """Ends near a local minimum of the distance of two embeddings, and that distance.

    The method of Levenberg and Marquardt for the vector from one end to the other, in lattice steps within
    boxes; it converges fast, since gaps are narrow beside the radii of curvature.
    """
    count = len(starts[0])
    low, high = (jnp.concatenate(sides) for sides in zip(*boxes, strict=True))

    def ends(z: Array) -> tuple[Array, Array]:
        return starts[0] + z[:count] * spacings[0], starts[1] + z[count:] * spacings[1]

    def chord(z: Array) -> tuple[Array, Array]:
        (x, x_first), (y, y_first) = map(point_and_derivative, embeddings, ends(z))
        steps = [-x_first * spacings[0][:, None], y_first * spacings[1][:, None]]
        return y - x, jnp.concatenate(steps)

    def slope(z: Array, v: Array, steps: Array) -> tuple[Array, Array]:
        gradient = jnp.sum(steps * v, axis=1)
        stuck = ((z <= low) & (gradient > 0)) | ((z >= high) & (gradient < 0))
        return gradient, jnp.where(stuck, 0, 1).astype(z.dtype)

    def unfinished(state: tuple[Array, ...]) -> Array:
        return (state[-1] < DESCENT_STEPS) & ~state[-2]

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        z, v, steps, damping, _, tries = state
        gradient, free = slope(z, v, steps)
        metric = matmul(steps, steps.T)
        metric = metric * free[:, None] * free[None, :]
        matrix = metric + damping * damping_matrix(metric) + jnp.diag(1 - free)
        tried = jnp.clip(z - jnp.linalg.solve(matrix, gradient * free), low, high)
        new, new_steps = chord(tried)
        better = norm(new) < norm(v)
        following = (tried, new, new_steps)
        z, v, steps = jax.tree.map(partial(jnp.where, better), following, (z, v, steps))
        gradient, free = slope(z, v, steps)
        done = jnp.all(jnp.abs(gradient * free) <= NORMAL * norm(steps) * norm(v))
        return z, v, steps, jnp.where(better, damping / 4, damping * 4), done, tries + 1

    zero = jnp.zeros(len(low), starts[0].dtype)
    begin = (*chord(zero), jnp.asarray(FIRST_DAMPING, zero.dtype), jnp.zeros((), bool), jnp.zeros((), int))
    z, v, *_ = jax.lax.while_loop(unfinished, step, (zero, *begin))
    return ends(z), norm(v)
