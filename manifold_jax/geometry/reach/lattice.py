"""What the reach needs of one component: its points, tangent frames tile by tile, neighbours, curvature."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax.geometry.blocks import read_window
from manifold_jax.geometry.error_bars import comparison_stencil, safety_factor
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.manifold import Points, evaluate_points
from manifold_jax.geometry.quantities import stencil_noise
from manifold_jax.geometry.reach.pairs import Rows
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.stencil import Stencil
from manifold_jax.geometry.tensors import frame
from manifold_jax.geometry.windows import BlockPlan, window_derivatives

_HIGHEST = jax.lax.Precision.HIGHEST


class Component(NamedTuple):
    """One manifold of a union.

    Attributes:
        source: Its points.
        grid: The lattice of centres x.
        lattice: The lattice of points y: that of the centres, and beyond the ends where the points go on.
        geometry: Measured curvature on the grid.
        stencil: Stencil of the tangents; None where they are differentiated automatically.
        copies: Covers of the manifold by axis name: only the first of each is looked at.
    """

    source: Points
    grid: Grid
    lattice: Grid
    geometry: Geometry
    stencil: Stencil | None
    copies: Mapping[str, int]


def extended(grid: Grid, periods: int) -> Grid:
    """The lattice continued by whole periods where the metric repeats but the points do not."""
    axes = []
    for axis in grid.axes:
        if axis.periodic and not axis.wrap:
            length = (axis.stop - axis.start) * periods
            stop = axis.stop + length - axis.spacing
            size = axis.size * (2 * periods + 1)
            axis = replace(axis, start=axis.start - length, stop=stop, size=size, periodic=False, wrap=True)
        axes.append(axis)
    return Grid(tuple(axes))


def all_points(source: Points, lattice: Grid) -> np.ndarray:
    """Every point of the lattice, ``(n, f)`` on the host."""
    if source.kind != "function":
        return np.asarray(source.values).reshape(lattice.size, source.features)
    coordinates = np.asarray(lattice.coordinates(source.dtype)).reshape(-1, lattice.ndim)
    return evaluate_points(source.values, coordinates, source.dtype)


def centres(component: Component) -> np.ndarray:
    """Position of every grid point in the lattice, flat."""
    grid, lattice = component.grid, component.lattice
    starts = [(m - n) // 2 for n, m in zip(grid.shape, lattice.shape, strict=True)]
    index = np.meshgrid(*[s + np.arange(n) for s, n in zip(starts, grid.shape, strict=True)], indexing="ij")
    return np.ravel_multi_index(index, lattice.shape).reshape(-1)


def home(component: Component, position: np.ndarray) -> np.ndarray:
    """Flat grid index of lattice positions, moved back by whole periods."""
    grid, lattice = component.grid, component.lattice
    index = np.unravel_index(position, lattice.shape)
    starts = [(m - n) // 2 for n, m in zip(grid.shape, lattice.shape, strict=True)]
    back = [(i - s) % n for i, s, n in zip(index, starts, grid.shape, strict=True)]
    return np.ravel_multi_index(back, grid.shape)


def originals(component: Component) -> np.ndarray:
    """Flat grid index of the first copy of every grid point."""
    index = list(np.unravel_index(np.arange(component.grid.size), component.grid.shape))
    for k, axis in enumerate(component.grid.axes):
        index[k] = index[k] % (axis.size // component.copies.get(axis.name, 1))
    return np.ravel_multi_index(index, component.grid.shape)


def neighbours(grid: Grid, position: np.ndarray) -> np.ndarray:
    """Flat index of the neighbours before and after along every axis, ``(p, d, 2)``; -1 beyond an end."""
    index = np.stack(np.unravel_index(position, grid.shape), axis=-1)
    found = np.full((len(position), grid.ndim, 2), -1)
    for k, (axis, side) in itertools.product(range(grid.ndim), enumerate((-1, 1))):
        moved = index.copy()
        moved[:, k] += side
        inside = (moved[:, k] >= 0) & (moved[:, k] < grid.shape[k]) | grid.axes[k].wraps
        moved[:, k] %= grid.shape[k]
        flat = np.ravel_multi_index(tuple(moved.T), grid.shape)
        found[:, k, axis] = np.where(inside, flat, -1)
    return found


def half_cells(points: np.ndarray, lattice: Grid) -> np.ndarray:
    """Half the sum of the edges of the cell around every lattice point, ``(n,)``."""
    total = np.zeros(lattice.size)
    step = max(1, 2**22 // points.shape[1])
    for start in range(0, lattice.size, step):
        here = np.arange(start, min(start + step, lattice.size))
        beside = neighbours(lattice, here)
        for k in range(lattice.ndim):
            other = np.where(beside[:, k, 1] >= 0, beside[:, k, 1], beside[:, k, 0])
            total[here] += np.linalg.norm(points[other] - points[here], axis=1) / 2
    return total


def vertex_drop(middle: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far a smooth function may fall below its smallest sample, from the samples beside it.

    A parabola with second difference s has its vertex at most s/8 below the sample next to it; with several
    variables (and by Cauchy-Schwarz for the mixed terms) at most (sum of sqrt s)^2 / 8.

    Args:
        middle: ``(p,)`` values at the smallest sample.
        before: ``(p, k)`` values one step before along each variable, NaN beyond an end.
        after: The same one step after.

    Returns:
        ``(p,)``.
    """
    rise = np.stack([before, after]) - middle[:, None]
    rise = np.where(np.isfinite(rise), np.maximum(rise, 0.0), np.nan)
    missing = np.isnan(rise)
    rise = np.where(missing, np.where(missing[::-1], 0.0, rise[::-1]), rise)
    return np.sum(np.sqrt(rise.sum(axis=0)), axis=1) ** 2 / 8


# --- tangent frames ----------------------------------------------------------------------------------------


def _orthonormal(first: Float[Array, "d f"]) -> tuple[Array, Array]:
    """Rows spanning the tangent space by Cholesky QR, twice for accuracy, and the first change of basis."""

    def step(vectors: Array) -> tuple[Array, Array]:
        change = frame(jnp.matmul(vectors, vectors.T, precision=_HIGHEST))
        return jnp.matmul(change, vectors, precision=_HIGHEST), change

    once, change = step(first)
    return step(once)[0], change


@jax.jit
def _exact_frames(embedding: Any, coordinates: Float[Array, "a d"]) -> tuple[Array, Array]:
    """Frames and tilt, by automatic differentiation."""

    def one(u: Array) -> tuple[Array, Array]:
        first = jax.jacfwd(lambda x: jnp.ravel(embedding(x)))(u).T
        frames, change = _orthonormal(first)
        eps = jnp.finfo(u.dtype).eps
        lengths = jnp.linalg.norm(first, axis=1)
        return frames, 4 * eps * (1 + jnp.sqrt(jnp.sum((change * lengths) ** 2)))

    return jax.vmap(one)(coordinates)


@partial(jax.jit, static_argnames=("factor",))
def _stencil_frames(
    window: Array, matrices: Any, gains: Float[Array, "a d"], noise: Array, factor: float
) -> tuple[Array, Array]:
    """Frames by the main stencil; tilt from the comparison stencil and the rounding of the samples."""
    d = len(matrices[0])

    def one(first: Array, second: Array, gain: Array) -> tuple[Array, Array]:
        frames, change = _orthonormal(first)
        compared, _ = _orthonormal(second)
        inner = jnp.matmul(compared, frames.T, precision=_HIGHEST)
        beyond = compared - jnp.matmul(inner, frames, precision=_HIGHEST)
        rounding = noise * jnp.sqrt(jnp.sum((change * gain) ** 2))
        return frames, factor * jnp.linalg.norm(beyond) + rounding + 4 * jnp.finfo(frames.dtype).eps

    first, second = (window_derivatives(window, of_stencil)[:, :d] for of_stencil in matrices)
    return jax.vmap(one)(first, second, gains)


def _window(component: Component, plan: BlockPlan, place: tuple[int, ...]) -> Array:
    """Samples of the block at ``place`` and its halo, ``(m_1, ..., m_d, f)``."""
    return read_window(component.source, plan, int(np.ravel_multi_index(place, plan.counts))).points


@cache
def _point_plan(grid: Grid, stencil: Stencil, evaluated: bool, features: int) -> BlockPlan:
    return BlockPlan(grid, (stencil,), (1,) * grid.ndim, evaluated, features)


def _taylor(point: Array, vectors: Array, place: Array, u: Array) -> Array:
    """Second-order Taylor polynomial from the jet at ``place``."""
    d = len(place)
    step = u - place
    i, j = np.triu_indices(d)
    second = step[i] * step[j] * jnp.asarray(np.where(i == j, 0.5, 1.0), u.dtype)
    return point + jnp.sum(jnp.concatenate([step, second])[:, None] * vectors, axis=0)


def local_model(component: Component, points: np.ndarray, position: int) -> tuple[Any, np.ndarray]:
    """The embedding near a lattice point, and by how much it misses the lattice points beside it.

    Args:
        component: The component.
        points: Its lattice points.
        position: Flat position in the lattice.

    Returns:
        The embedding itself, or its Taylor polynomial by the stencil, as a ``jax.tree_util.Partial``; and the
        deviations ``(m, f)`` of the polynomial, none for an embedding.
    """
    source, lattice = component.source, component.lattice
    if component.stencil is None:
        return source.values, np.zeros((0, source.features))
    plan = _point_plan(lattice, component.stencil, source.kind == "function", source.features)
    place = tuple(int(k) for k in np.unravel_index(position, lattice.shape))
    window = _window(component._replace(grid=lattice), plan, place)
    vectors = window_derivatives(window, _matrices(plan, 0, place, window.dtype))[0]
    u = jnp.asarray([a.start + a.spacing * i for a, i in zip(lattice.axes, place, strict=True)], window.dtype)
    model = jax.tree_util.Partial(_taylor, jnp.asarray(points[position], window.dtype), vectors, u)
    beside = neighbours(lattice, np.array([position]))[0]
    missed = []
    for k, side in zip(*np.nonzero(beside >= 0), strict=True):
        step = np.zeros(lattice.ndim)
        step[k] = (2 * side - 1) * lattice.spacing[k]
        missed.append(points[beside[k, side]] - np.asarray(model(u + jnp.asarray(step, u.dtype))))
    return model, np.stack(missed).astype(np.float64)


def block_shape(points: np.ndarray, component: Component, size: int) -> tuple[int, ...]:
    """Compact tiles: doubles the shortest edge, measured on the manifold, up to ``size`` points."""
    grid = component.grid
    middle = np.array(
        [np.ravel_multi_index([n // 2 for n in component.lattice.shape], component.lattice.shape)]
    )
    beside = neighbours(component.lattice, middle)[0]
    steps = [float(np.linalg.norm(points[b[b >= 0][0]] - points[middle[0]])) for b in beside]
    block = [1] * grid.ndim
    while True:
        options = [
            (block[k] * steps[k], k)
            for k, n in enumerate(grid.shape)
            if block[k] < n and math.prod(block) // block[k] * min(2 * block[k], n) <= size
        ]
        if not options:
            return tuple(block)
        k = min(options)[1]
        block[k] = min(2 * block[k], grid.shape[k])


def tiles(
    component: Component,
    points: np.ndarray,
    noise: np.ndarray,
    bend: np.ndarray,
    radius: np.ndarray,
    size: int,
) -> Iterator[tuple[np.ndarray, Rows]]:
    """Centres with their tangent frames, tile by tile.

    Args:
        component: The component.
        points: Its lattice points.
        noise: ``(grid.size,)`` rounding of each point.
        bend: ``(grid.size,)`` normal curvature.
        radius: ``(grid.size,)`` upper bound of tau.
        size: Points per tile at most.

    Yields:
        Flat grid indices of a tile, and its rows with positions in the component's lattice.
    """
    grid = component.grid
    block = block_shape(points, component, size)
    wanted = originals(component) == np.arange(grid.size)
    position = centres(component)
    defined = np.isfinite(np.asarray(component.geometry.normal_curvature.value)).reshape(-1)
    frames_of = _exact_tiles(component) if component.stencil is None else _stencil_tiles(component, block)
    starts = [np.minimum(np.arange(0, n, b), n - b) for n, b in zip(grid.shape, block, strict=True)]
    for place in itertools.product(*[range(len(s)) for s in starts]):
        along = [s[i] + np.arange(b) for s, i, b in zip(starts, place, block, strict=True)]
        flat = np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), grid.shape).reshape(-1)
        keep = wanted[flat]
        if not keep.any():
            continue
        frames, tilt = frames_of(place, flat, noise[flat].max())
        # A degenerate metric has no tangent space, even where rounding pretends one.
        frames = np.where(defined[flat][:, None, None], np.asarray(frames), np.nan)
        rows = Rows(position[flat], frames, np.asarray(tilt, np.float64), radius[flat], bend[flat])
        yield flat[keep], Rows(*(field[keep] for field in rows))


TileFrames = Callable[[tuple[int, ...], np.ndarray, float], tuple[Array, Array]]
"""From the place of a tile, its flat grid indices and the noise of its points to frames and tilt."""


def _exact_tiles(component: Component) -> TileFrames:
    grid, source = component.grid, component.source
    coordinates = np.asarray(grid.coordinates(source.dtype)).reshape(-1, grid.ndim)
    return lambda place, flat, noise: _exact_frames(source.values, jnp.asarray(coordinates[flat]))


def _stencil_tiles(component: Component, block: tuple[int, ...]) -> TileFrames:
    grid, source, stencil = component.grid, component.source, component.stencil
    assert stencil is not None
    evaluated = source.kind == "function"
    comparison = comparison_stencil(stencil, grid, evaluated=evaluated)
    plan = BlockPlan(grid, (stencil, comparison), block, evaluated, source.features)
    factor = safety_factor(stencil, comparison)
    per_axis = [np.asarray(first) for first, _ in stencil_noise(plan, source.dtype)]
    gains = np.stack(np.meshgrid(*per_axis, indexing="ij"), axis=-1).reshape(-1, grid.ndim)

    def frames(place: tuple[int, ...], flat: np.ndarray, noise: float) -> tuple[Array, Array]:
        matrices = [_matrices(plan, s, place, source.dtype) for s in (0, 1)]
        window, gain = _window(component, plan, place), jnp.asarray(gains[flat])
        return _stencil_frames(window, matrices, gain, jnp.asarray(noise, gain.dtype), factor)

    return frames


def _matrices(plan: BlockPlan, stencil: int, place: tuple[int, ...], dtype: Any) -> list[Array]:
    """Derivative matrices of one stencil on the block at ``place``, one per axis."""
    return [
        jnp.asarray(axis.matrices[stencil, axis.kinds[i]], dtype)
        for axis, i in zip(plan.axes, place, strict=True)
    ]
