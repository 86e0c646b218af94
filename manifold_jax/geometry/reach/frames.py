"""Tangent frames of the centres, tile by tile, with a bound on their tilt; and local models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._linalg import matmul, norm
from manifold_jax.geometry.blocks import block_vectors, read_window
from manifold_jax.geometry.derivatives import window_derivatives
from manifold_jax.geometry.error_bars import comparison_stencil, safety_factor
from manifold_jax.geometry.grid import Grid, mesh
from manifold_jax.geometry.reach.cloud import Cloud, distances
from manifold_jax.geometry.reach.cones import tangent_cones
from manifold_jax.geometry.reach.lattice import Component, neighbours
from manifold_jax.geometry.reach.pairs import Tile
from manifold_jax.geometry.stencil import Stencil
from manifold_jax.geometry.tensors import frame
from manifold_jax.geometry.windows import BlockPlan, Window, locate

ROUNDING = 4  # tilt of a frame by the rounding of its own orthonormalisation, in eps


def tiles(component: Component, cloud: Cloud, size: int) -> Iterator[Tile]:
    """Centres with their tangent frames, in tiles of so many points at most; copies are left out.

    The last tile along an axis is as long as the others, for one shape, and so has some that are not its own.
    """
    grid, radii = component.grid, component.radii
    block = block_shape(component, size)
    find_frames = _frame_finder(component, block)
    starts = [np.minimum(np.arange(0, n, b), n - b) for n, b in zip(grid.shape, block, strict=True)]
    for number, place in enumerate(np.ndindex(*map(len, starts))):
        along = [s[i] + np.arange(b) for s, i, b in zip(starts, place, block, strict=True)]
        flat = np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), grid.shape).reshape(-1)
        first = [k >= i * b for k, i, b in zip(along, place, block, strict=True)]
        own = np.logical_and.reduce(np.meshgrid(*first, indexing="ij")).reshape(-1)
        keep = component.wanted[flat]
        if not (keep & own).any():
            continue
        noise = cloud.noise[component.centres[flat]].max()
        frames, tilt, turn, directions = (np.asarray(x)[keep] for x in find_frames(number, flat, noise))
        flat = flat[keep]
        position = component.centres[flat]
        inward = cloud.inward[position, : grid.ndim]
        # A degenerate metric has no tangent space, even where rounding pretends one.
        frames = np.where(radii.defined[flat][:, None, None], frames, np.nan)
        bound = (radii.radius + radii.error)[flat]
        cones = tangent_cones(directions.astype(np.float64), inward) if inward.any() else None
        tilt = np.where(inward.any(axis=1), turn, tilt).astype(np.float64)
        own = None if own.all() else own[keep]
        yield Tile(position, frames, tilt, bound, radii.curvature[flat], cones, own)


def block_shape(component: Component, size: int) -> tuple[int, ...]:
    """Compact tiles: doubles the shortest edge, measured on the manifold, up to ``size`` points."""
    shape, lattice = component.grid.shape, component.lattice
    middle = np.ravel_multi_index([n // 2 for n in lattice.shape], lattice.shape)
    before, after = neighbours(lattice, np.array([middle]))[0].T
    steps = distances(component.points, np.full(len(shape), middle), np.where(before >= 0, before, after))
    block = [1] * len(shape)
    while True:
        options = [
            (block[k] * steps[k], k)
            for k, n in enumerate(shape)
            if block[k] < n and math.prod(block) // block[k] * min(2 * block[k], n) <= size
        ]
        if not options:
            return tuple(block)
        k = min(options)[1]
        block[k] = min(2 * block[k], shape[k])


def orthonormal(first: Float[Array, "d f"]) -> tuple[Float[Array, "d f"], Float[Array, "d d"]]:
    """Rows spanning the tangent space by Cholesky QR, twice for accuracy, and the first change of basis."""

    def step(vectors: Array) -> tuple[Array, Array]:
        change = frame(matmul(vectors, vectors.T))
        return matmul(change, vectors), change

    once, change = step(first)
    return step(once)[0], change


def _directions(first: Float[Array, "d f"], frames: Float[Array, "d f"]) -> Float[Array, "d d"]:
    """Unit coordinate directions in the frame."""
    return matmul(first, frames.T) / norm(first)[:, None]


def first_derivatives(embedding: Any, u: Float[Array, "d"]) -> Float[Array, "d f"]:
    """X_i by automatic differentiation."""
    return jax.jacfwd(lambda x: jnp.ravel(embedding(x)))(u).T


@jax.jit
def _exact_frames(embedding: Any, coordinates: Float[Array, "a d"]) -> tuple[Array, ...]:
    """Frames, tilt (twice: as below) and coordinate directions, by automatic differentiation."""

    def one(u: Array) -> tuple[Array, ...]:
        first = first_derivatives(embedding, u)
        frames, change = orthonormal(first)
        tilt = ROUNDING * jnp.finfo(u.dtype).eps * (1 + norm(jnp.ravel(change * norm(first))))
        return frames, tilt, tilt, _directions(first, frames)

    return jax.vmap(one)(coordinates)


@partial(jax.jit, static_argnames="factor")
def _stencil_frames(
    window: Window, plan: BlockPlan, gains: Float[Array, "a d"], noise: Array, factor: float
) -> tuple[Array, ...]:
    """Frames by the main stencil; tilt from the comparison stencil and the rounding of the samples.

    Also how far any tangent vector may turn, within the tangent space too; and the coordinate directions.
    """
    d = gains.shape[1]

    def one(first: Array, second: Array, gain: Array) -> tuple[Array, ...]:
        frames, change = orthonormal(first)
        compared, _ = orthonormal(second)
        beyond = compared - matmul(matmul(compared, frames.T), frames)
        turned = matmul(change, second - first)
        rounding = noise * norm(jnp.ravel(change * gain)) + ROUNDING * jnp.finfo(frames.dtype).eps
        tilt, turn = (factor * norm(jnp.ravel(x)) + rounding for x in (beyond, turned))
        return frames, tilt, turn, _directions(first, frames)

    matrices = locate(plan, window.block, window.points.dtype).matrices
    jets = (window_derivatives(window.points, [m[s] for m in matrices])[:d] for s in (0, 1))
    first, second = (jnp.stack(vectors, axis=1) for vectors in jets)
    return jax.vmap(one)(first, second, gains)


def _frame_finder(
    component: Component, block: tuple[int, ...]
) -> Callable[[int, np.ndarray, float], tuple[Array, ...]]:
    """From the number of a tile, its flat grid indices and the noise of its points to what is above."""
    if component.stencil is None:
        embedding = component.source.values
        return lambda number, flat, noise: _exact_frames(embedding, component.coordinates[flat])
    finders = [(mask, _by_stencil(component, block, stencil)) for stencil, mask in component.stencils]

    def find(number: int, flat: np.ndarray, noise: float) -> tuple[Array, ...]:
        result = finders[0][1](number, flat, noise)
        for mask, finder in finders[1:]:
            here = mask[flat]
            if here.any():  # next to missing points
                both = zip(finder(number, flat, noise), result, strict=True)
                result = tuple(jnp.where(here.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in both)
        return result

    return find


def _by_stencil(
    component: Component, block: tuple[int, ...], stencil: Stencil
) -> Callable[[int, np.ndarray, float], tuple[Array, ...]]:
    """The same by one stencil, as if no point were missing."""
    grid, source = component.grid, component.source
    comparison = comparison_stencil(stencil, grid, evaluated=source.evaluated)
    plan = jax.device_put(BlockPlan(grid, (stencil, comparison), block, source.evaluated, source.features))
    factor = safety_factor(stencil, comparison)
    gains = mesh([np.asarray(axis.gains[0], source.dtype) for axis in plan.axes]).reshape(-1, grid.ndim)

    def find(number: int, flat: np.ndarray, noise: float) -> tuple[Array, ...]:
        window, gain = read_window(source, plan, number), jnp.asarray(gains[flat])
        return _stencil_frames(window, plan, gain, jnp.asarray(noise, gain.dtype), factor)

    return find


@cache
def _point_plan(grid: Grid, stencil: Stencil, evaluated: bool, features: int) -> BlockPlan:
    return BlockPlan(grid, (stencil,), (1,) * grid.ndim, evaluated, features)


@jax.jit
def _taylor(point: Array, vectors: Array, place: Array, u: Array) -> Array:
    """Second-order Taylor polynomial from the jet at ``place``."""
    step = u - place
    i, j = np.triu_indices(len(place))
    second = step[i] * step[j] * jnp.asarray(np.where(i == j, 0.5, 1.0), u.dtype)
    return point + jnp.sum(jnp.concatenate([step, second])[:, None] * vectors, axis=0)


def local_model(
    component: Component, position: int, place: Float[np.ndarray, "d"]
) -> tuple[Any, Float[np.ndarray, "m f"]]:
    """The embedding near a position, and by how much it misses the lattice points next to it.

    Without exact tangents this is the Taylor polynomial by the stencil; an embedding misses nothing.
    """
    source, lattice, points = component.source, component.lattice, component.points
    index = position - component.offset
    if (stencil := component.stencil_at(index)) is None:
        return source.values, np.zeros((0, source.features))
    plan = _point_plan(lattice, stencil, source.evaluated, source.features)
    window = read_window(source, plan, index)
    vectors = block_vectors(window, plan)[0, 0]
    u = jnp.asarray(place, window.points.dtype)
    model = jax.tree_util.Partial(_taylor, jnp.asarray(points[index], u.dtype), vectors, u)
    sides = component.neighbours(np.array([position]))[0]
    steps = jnp.asarray(np.diag(lattice.spacing), u.dtype)
    missed = [
        points[sides[k, side] - component.offset] - np.asarray(model(u + (2 * side - 1) * steps[k]))
        for k, side in zip(*np.nonzero(sides >= 0), strict=True)
    ]
    return model, np.reshape(missed, (-1, source.features)).astype(np.float64)
