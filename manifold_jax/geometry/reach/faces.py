"""Curvature of borders that turn outward: an annulus has the reach of its hole.

A curve c in a face of the border leaves the tangent cone not only by the second fundamental form II of the
manifold, but also within it, where the face turns away from its inward conormal nu: the limit of the tangent
balls at c along c' = v is 1 / sqrt(|II(v, v)|^2 + max(0, -<c'', nu>)^2) for unit v.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from manifold_jax._linalg import map_blocks, matmul, norm, safe_sqrt
from manifold_jax.geometry.blocks import block_vectors, read_window
from manifold_jax.geometry.error_bars import comparison_stencil, safety_factor
from manifold_jax.geometry.jet import jet_batch, point_vectors
from manifold_jax.geometry.reach.bottleneck import (
    BY_VALUE,
    CERTAIN,
    NONE,
    Candidate,
    pattern_search,
    radius_of_maximum,
    start_and_box,
)
from manifold_jax.geometry.reach.cloud import Cloud
from manifold_jax.geometry.reach.frames import orthonormal
from manifold_jax.geometry.reach.lattice import Component, CurvatureRadii, End, drop_on_grid, inverse_with_bar
from manifold_jax.geometry.tensors import derivative_indices, frame
from manifold_jax.geometry.windows import BlockPlan

JET_ROUNDING = 64  # rounding error of the curvature of a face, in eps of the second derivatives


class FaceCurvature(NamedTuple):
    """Largest curvature that turns outward, an upper bound of what may be missed beyond, size of c''."""

    value: Any
    turning: Any
    size: Any


def face_curvature(
    vectors: Float[Array, "v f"], sign: Float[Array, ""], axis: int, dimension: int
) -> FaceCurvature:
    """Curvature of the face where ``axis`` ends, from the derivatives; ``sign`` leads inward."""
    others = [i for i in range(dimension) if i != axis]
    place = {index: n for n, index in enumerate(derivative_indices(dimension))}
    second = jnp.stack([jnp.stack([vectors[place[min(i, j), max(i, j)]] for j in others]) for i in others])
    frames, _ = orthonormal(vectors[jnp.array([*others, axis])])
    along = vectors[jnp.array(others)]
    change = frame(matmul(along, along.T))
    turned = jnp.einsum("ai,bj,ijf->abf", change, change, second)
    turning, directions = jnp.linalg.eigh(-sign * jnp.sum(turned * frames[-1], axis=-1))
    v, turning = directions[:, -1], jnp.maximum(turning[-1], 0.0)
    acceleration = jnp.einsum("a,b,abf->f", v, v, turned)
    normal = acceleration - matmul(frames.T, matmul(frames, acceleration[:, None]))[:, 0]
    size = norm(jnp.ravel(turned))
    return FaceCurvature(safe_sqrt(jnp.sum(normal**2) + turning**2), turning, size)


@partial(jax.jit, static_argnames=("axis", "dimension"))
def _all_faces(vectors: Float[Array, "a v f"], sign: Array, axis: int, dimension: int) -> FaceCurvature:
    return jax.vmap(partial(face_curvature, sign=sign, axis=axis, dimension=dimension))(vectors)


@partial(jax.jit, static_argnames=("axis", "batch"))
def _exact_faces(embedding: Any, u: Float[Array, "a d"], sign: Array, axis: int, batch: int) -> FaceCurvature:
    def faces(block: Array) -> FaceCurvature:
        vectors = jax.vmap(partial(point_vectors, embedding))(block)
        return _all_faces(vectors, sign, axis, u.shape[1])

    return map_blocks(faces, batch, u)


def with_borders(component: Component, cloud: Cloud) -> CurvatureRadii:
    """Radii of curvature, at borders those of the faces where these are smaller."""
    radii, d = component.radii, component.grid.ndim
    inward = cloud.inward[component.centres, :d]
    if d == 1 or not inward.any():
        return radii
    radius, error = radii.radius.copy(), radii.error.copy()
    for axis in np.flatnonzero(inward.any(axis=0)):
        for sign in (1, -1):
            rows = np.flatnonzero(inward[:, axis] == sign)
            if not len(rows):
                continue
            curvature, bar, turning = _of_face(component, rows, int(axis), sign, cloud)
            if d > 2:
                # Between the direction that turns most and that which is curved most.
                bar = bar + np.hypot(radii.curvature[rows], turning) - curvature
            turns = (curvature > 1 / radius[rows]) & (turning > 0)
            radius[rows[turns]], error[rows[turns]] = inverse_with_bar(curvature[turns], bar[turns])
    return radii._replace(radius=radius, error=error)


def _of_face(
    component: Component, rows: Int[np.ndarray, "a"], axis: int, sign: int, cloud: Cloud
) -> tuple[np.ndarray, ...]:
    """Curvature, bar and turning part at some points of a face."""
    d, dtype = component.grid.ndim, component.source.dtype
    eps = float(jnp.finfo(dtype).eps)
    if component.stencil is None:
        batch = jet_batch(d, component.source.features, dtype)
        side, u = jnp.asarray(sign, dtype), jnp.asarray(component.coordinates[rows])
        faces = _exact_faces(component.source.values, u, side, axis, batch)
        main = FaceCurvature(*(np.asarray(field, np.float64) for field in faces))
        return main.value, JET_ROUNDING * eps * main.size, main.turning
    value, bar, turning = np.zeros((3, len(rows)))
    for stencil, mask in component.stencils:
        here = np.flatnonzero(mask[rows])
        if not len(here):
            continue
        evaluated = component.source.evaluated
        stencils = (stencil, comparison_stencil(stencil, component.grid, evaluated=evaluated))
        noise = float(cloud.noise[component.centres[rows[here]]].max())
        main, other, gain = _from_stencils(component, stencils, rows[here], axis, sign)
        value[here], turning[here], size = main.T.astype(np.float64)
        change = safety_factor(*stencils) * np.abs(main - other)[:, :2].sum(axis=1)
        bar[here] = change + noise * gain + JET_ROUNDING * eps * size
    return value, bar, turning


def _from_stencils(
    component: Component, stencils: tuple[Any, Any], rows: np.ndarray, axis: int, sign: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Curvature of a face by both stencils ``(a, 3)``, and how noise counts."""
    grid, source, d = component.grid, component.source, component.grid.ndim
    block = tuple(1 if k == axis else n for k, n in enumerate(grid.shape))
    plan = BlockPlan(grid, stencils, block, source.evaluated, source.features)
    layer = 0 if sign > 0 else grid.shape[axis] - 1
    window = read_window(source, plan, layer)
    index = np.unravel_index(rows, grid.shape)
    within = np.ravel_multi_index([0 * i if k == axis else i for k, i in enumerate(index)], block)
    vectors = block_vectors(window, plan)[:, within]
    side = jnp.asarray(sign, vectors[0].dtype)
    main, other = (np.stack(_all_faces(v, side, axis, d), axis=-1) for v in vectors)
    lengths = np.linalg.norm(np.asarray(vectors[0][:, :d], np.float64), axis=2)
    first, second = (np.stack([plan.axes[k].gains[m][index[k]] for k in range(d)], axis=-1) for m in (0, 1))
    gain = np.sum(second / lengths**2, axis=1) + np.sum(first / lengths, axis=1) * main[:, 2]
    return main, other, gain


def smallest_border_radius(component: Component, cloud: Cloud, radii: CurvatureRadii) -> Candidate:
    """Smallest radius of the faces of a component, refined along the face where there is an embedding."""
    c, grid = component, component.grid
    lower = np.flatnonzero((radii.radius < c.radii.radius) & (radii.error <= CERTAIN * radii.radius))
    if not len(lower):
        return NONE
    index = int(lower[np.argmin(radii.radius[lower])])
    u, value, error = c.coordinates[index], float(radii.radius[index]), float(radii.error[index])
    inward = cloud.inward[c.centres[index], : grid.ndim]
    best = NONE
    for axis in np.flatnonzero(inward):
        if c.stencil is None:
            sign, chart = jnp.asarray(inward[axis], u.dtype), start_and_box(grid, u, int(axis))
            place, *maximum = largest_face_curvature(c.source.values, sign, *chart, int(axis))
            radius, bar = radius_of_maximum(*maximum)
        else:
            place, radius = u, value
            bar = error + drop_on_grid(grid, radii.radius, index, value, inward)
        end = End(c.number, np.asarray(place))
        best = min(best, Candidate(radius, bar, (end, end)), key=BY_VALUE)
    return best


@partial(jax.jit, static_argnames="axis")
def largest_face_curvature(
    embedding: Any, sign: Array, start: Array, spacing: Array, box: Float[Array, "d 2"], axis: int
) -> tuple[Array, ...]:
    """As :func:`largest_curvature`, along the face where ``axis`` ends."""

    def curvature(points: Array) -> tuple[Array, Array]:
        face = _exact_faces(embedding, points, sign, axis, len(points))
        return face.value, JET_ROUNDING * jnp.finfo(start.dtype).eps * face.size

    return pattern_search(curvature, start, spacing, box)
