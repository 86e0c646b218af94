"""Reach of a manifold: its local part (curvature), its global part (bottlenecks), and where they sit.

The reach tau is the largest r such that every point closer than r to the manifold has exactly one nearest
point on it. With R(x, y) the radius of the ball that is tangent at x and passes through y, it is the infimum
of tau(x), up to which the tangent balls at x are empty (Federer, Trans. AMS 93, 1959, theorem 4.18),

    tau = inf over x of tau(x),   tau(x) = inf over y of R(x, y),   R(x, y) = |y - x|^2 / (2 d(y - x, T_x)),

with T_x the tangent space, at a border of an open axis the tangent cone (:mod:`cones`), and is attained
either locally, as 1 over the largest normal curvature, or globally, as half the length of the shortest chord
that is normal at both ends, a bottleneck (Aamari et al., Electron. J. Stat. 13, 2019, theorem 3.4). Both are
measured, and told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from manifold_jax._checks import (
    checked_function,
    finite,
    fits_in_memory,
    flag,
    keys,
    optional,
    positive,
    shown,
    whole,
)
from manifold_jax._executors import check_executor
from manifold_jax._files import Progress
from manifold_jax._partial import keeping_parts
from manifold_jax._programs import as_function
from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.manifold import Manifold, as_points, is_union
from manifold_jax.geometry.measure import measure
from manifold_jax.geometry.reach.cloud import Cloud, check_extent, lengths, make_cloud
from manifold_jax.geometry.reach.cones import open_seams
from manifold_jax.geometry.reach.frames import tiles
from manifold_jax.geometry.reach.lattice import Component, extend, half_cells, vertex_drop
from manifold_jax.geometry.reach.pairs import (
    PAIRS,
    PairSearch,
    Seen,
    Tile,
    check_options,
    pair_balls,
    tile_shape,
)
from manifold_jax.geometry.reach.result import Reach, assemble
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.stencil import stencil_of

MARGIN = 1.05  # bottlenecks are looked for so far beyond the local part: a tie within the bars is seen
EVALUATED = 4.0  # rounding error of an evaluated point, in eps of its length; a stored one is rounded once


@keeping_parts()  # of measurements until the search is complete
def reach(  # noqa: PLR0913
    points_or_manifold: Any,
    grid: Grid | None = None,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
    stride: int | tuple[int, ...] = 1,
    exact: bool | None = None,
    missing: str = "refuse",
    geometry: Any = None,
    longest: float | None = None,
    copies: Mapping[str, int] | None = None,
    periods: int = 1,
    tolerance: float = 0.1,
    tile_size: int | None = None,
    block_size: int | None = None,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    executor: Any = None,
) -> Reach:
    """Reach of a manifold or a union of manifolds, with witnesses.

    The search runs on the host, tile by tile; a pair of points is left out only where a rigorous bound
    excludes it. It cannot be traced by ``jit``; for a differentiable ratio of all pairs use
    :func:`reach_field`, of given ones :func:`tangent_ball_radius`. Points that are cut over the devices of a
    mesh are gathered on the host.

    Args:
        points_or_manifold: As in :func:`measure`, or a sequence of Manifolds, or of arrays on one
            ``grid``: their union.
        grid: The lattice; for a Manifold by default its own.
        accuracy: Order of the stencils of tangents and curvature.
        stride: Their stride.
        exact: Differentiate the embedding automatically; by default wherever there is one. The curvature
            maximum and the bottlenecks are then refined beyond the lattice.
        missing: As in :func:`measure`, ``"mask"`` where points of an array are missing. They are neither
            centres nor met by balls; points next to them whose tangents are not known are only met. The bar
            holds how far the reach may fall in such a hole by the way the balls around it do; a narrow
            feature that is missing as a whole cannot be known.
        geometry: Result of :func:`measure` on the same grid, one per component of a union, whose normal
            curvature is taken; by default measured here.
        longest: Look for bottlenecks up to this half length; by default a little beyond the local part.
        copies: For each axis that runs several times over the same points, how often: ``{"orientation": 2}``.
        periods: On axes whose metric repeats though the points do not (``wrap=False``), how many periods
            beyond each end the points y may lie.
        tolerance: Relative error up to which the reach counts as resolved.
        tile_size: Centres per tile, which memory follows; by default 256, or 64 where points are long.
        block_size: As in :func:`measure`.
        progress: Called as ``progress(points done, points)`` after every tile.
        checkpoint: Folder of finished tiles, and of finished blocks where the curvature is measured here,
            from which a call with the same arguments goes on.
        executor: Where pairs are compared, as in :func:`measure`, to which it is handed too. All points
            travel once to every worker, tiles with their tangents to one; the numbers are those of this
            process.

    Returns:
        Value, bar, case and witnesses; :attr:`Reach.sentence` says them in words. The bars of arrays hold the
        noise that :func:`measure` sees.

    Raises:
        ValueError: Arguments do not fit each other, points are NaN, all in one place, or traced, or squares
            of distances leave the range of the dtype.

    Example:
        >>> result = mj.reach(mj.datasets.ellipse((2.0, 1.0)))
        >>> print(result.case, f"{result.value:.4f}")
        local 0.5000
    """
    check_options("reach", tile_size, tolerance)
    periods = whole("reach", "periods", periods, least=0)
    if longest != math.inf:
        optional(positive, "reach", "longest", longest)
    optional(flag, "reach", "exact", exact)
    optional(checked_function, "reach", "progress", progress)
    executor = check_executor("reach", executor)
    union = is_union(points_or_manifold, grid)
    manifolds = list(points_or_manifold) if union else [as_function(points_or_manifold)]
    if isinstance(manifolds[0], Sequence) and not callable(manifolds[0]):
        wanted = "a Manifold, a non-empty sequence of Manifolds, an array or an embedding"
        raise ValueError(f"reach: points must be {wanted}, got {shown(manifolds[0])}.")
    known = list(geometry) if isinstance(geometry, (tuple, list)) else [geometry] * len(manifolds)
    if len(known) != len(manifolds):
        raise ValueError(
            f"reach: geometry must be one result per manifold, {len(manifolds)}, got {len(known)}."
        )
    sizes = [_features(m, grid) for m in manifolds] if len(manifolds) > 1 else []
    if len(set(sizes)) > 1:
        raise ValueError(f"reach: the manifolds of a union must share their features, got {sizes} of them.")
    settings = {"grid": grid, "exact": exact, "missing": missing, "accuracy": accuracy, "stride": stride}
    components: list[Component] = []
    for points, given in zip(manifolds, known, strict=True):
        start = (len(components), sum(c.lattice.size for c in components))
        how = (copies or {}, periods, block_size, checkpoint, executor)
        components.append(_component(start, points, given, *how, **settings))
    cloud = _cloud(components)
    shortest = min(float(np.min(c.radii.radius)) for c in components)
    rows, columns = tile_shape(cloud, tile_size)
    longest = MARGIN * shortest if longest is None else longest
    allowed = np.concatenate([c.wanted[c.homes] for c in components])
    allowed = None if allowed.all() else allowed
    search = PairSearch(cloud, columns, longest, allowed=allowed)
    drop = np.zeros(len(cloud.points))
    total = sum(int(c.wanted.sum()) for c in components)
    every = (tile for component in components for tile in tiles(component, cloud, rows))

    def take(tile: Tile, seen: Seen) -> None:
        drop[tile.position[tile.mine]] = _lattice_drop(components, cloud, tile, seen)[tile.mine]

    search.compare_all(every, total, progress, checkpoint, executor, take)
    return assemble(components, search, drop, tolerance)


def _features(points: Any, grid: Grid | None) -> int:
    """Numbers of one point of a Manifold, or of an array on a grid."""
    shape = (
        points.feature_shape if isinstance(points, Manifold) else points.shape[grid.ndim :] if grid else ()
    )
    return math.prod(shape)


def _component(
    start: tuple[int, int],
    points: Any,
    geometry: Any,
    copies: Mapping[str, int],
    periods: int,
    block_size: int | None,
    checkpoint: str | Path | None,
    executor: Any,
    *,
    grid: Grid | None,
    exact: bool | None,
    missing: str,
    **stencil: Any,
) -> Component:
    """Check one manifold, and measure its curvature where it is not given; accuracy and stride are last."""
    source = as_points("reach", points, grid, exact=bool(exact), missing=missing)
    if source.traced:
        raise ValueError("reach: the search runs on the host and cannot be traced; call it outside of jit.")
    grid = source.grid
    keys("reach", "copies", copies, grid.names)
    for axis in grid.axes:
        times = whole("reach", f"copies of axis {axis.name!r}", copies.get(axis.name, 1))
        if axis.size % times or (times > 1 and not axis.wraps):
            raise ValueError(
                f"reach: copies of axis {axis.name!r} must divide its {axis.size} samples, and the axis be "
                f"periodic, got {times!r}."
            )
    what, size = f"its {grid.size} points together", grid.size * source.features * source.dtype.itemsize
    fits_in_memory("reach", what, size, "take fewer samples of an axis")
    exact = source.evaluated if exact is None else exact
    if geometry is None:
        options = {"missing": missing, "block_size": block_size}
        options |= {"checkpoint": checkpoint, "executor": executor}
        geometry = measure(points, grid, exact=exact, **options, **stencil)
    if not isinstance(geometry, Geometry) or geometry.grid != grid:
        got = f"that of a grid {geometry.grid.shape}" if isinstance(geometry, Geometry) else shown(geometry)
        raise ValueError(f"reach: geometry must be the result of measure on the same grid, got {got}.")
    chosen = None if exact else stencil_of("reach", grid, **stencil)
    lattice = extend(grid, periods) if source.evaluated else grid
    return Component(source, grid, lattice, geometry, chosen, copies, *start)


def _cloud(components: Sequence[Component]) -> Cloud:
    """All points of all components with their rounding errors, noise and cells."""
    dtype = np.result_type(*[c.source.dtype for c in components])
    points = components[0].points if len(components) == 1 else np.concatenate([c.points for c in components])
    if not isinstance(points, np.memmap):
        points = np.asarray(points, dtype)
    roundings = [EVALUATED if c.source.evaluated else 1.0 for c in components]
    rounding = np.repeat(roundings, [c.lattice.size for c in components])
    offset = max(c.source.offset for c in components)
    rounding = float(np.finfo(dtype).eps) * (lengths(points) + offset) * rounding
    finite("reach", "points", rounding)
    check_extent("reach", points, 4 * float(rounding.max()))
    noise = rounding + PAIRS * np.concatenate([c.noise for c in components]) / 2**0.5
    dimension = max(c.grid.ndim for c in components)
    # Manifolds of several dimensions may be united.
    inward = np.concatenate([np.pad(c.inward, ((0, 0), (0, dimension - c.grid.ndim))) for c in components])
    number = np.repeat([c.number for c in components], [c.lattice.size for c in components])
    cloud = make_cloud(points, noise, open_seams(points, rounding, inward, number))
    return cloud._replace(half_cell=np.concatenate([half_cells(c, cloud) for c in components]))


def _beside_borders(
    component: Component,
    inward: Int[np.ndarray, "r d"],
    sides: Int[np.ndarray, "r d 2"],
    middle: Float[np.ndarray, "r"],
    radius: Float[np.ndarray, "r d 2"],
    radii: Callable[[np.ndarray], np.ndarray],
) -> Float[np.ndarray, "r d 2"]:
    """Radii around witnesses, where an axis ends with the second difference of the first three.

    R(x, .) does not go on beyond a border as it came, and may even jump from the border to the inside.
    """
    d = range(inward.shape[1])
    inner = np.where(inward > 0, sides[:, :, 1], sides[:, :, 0])
    flat = np.where(inner >= 0, inner, component.offset).reshape(-1)
    beyond = component.neighbours(flat).reshape(*inner.shape, -1, 2)[:, d, d]
    second = np.where(inward > 0, beyond[:, :, 1], beyond[:, :, 0])
    one, two = np.moveaxis(radii(np.stack([inner, second], axis=-1)), -1, 0)
    with np.errstate(invalid="ignore"):
        difference = np.maximum(middle[:, None] - 2 * one + two, 0.0)
    known = (inward != 0) & np.isfinite(difference)
    result = np.stack([middle[:, None] + difference, np.broadcast_to(middle[:, None], inner.shape)], axis=-1)
    return np.where(known[:, :, None], result, radius)


def _lattice_drop(
    components: Sequence[Component], cloud: Cloud, tile: Tile, seen: Seen
) -> Float[np.ndarray, "a"]:
    """How far R(x, .) may fall below its smallest sample, from the neighbours of the witnesses of a tile."""
    drop, witness = np.zeros(len(tile.position)), seen.witness
    below = seen.radius < tile.radius  # elsewhere curvature decides
    for component in components:
        rows = np.flatnonzero(component.holds(witness) & below)
        sides = component.neighbours(witness[rows])
        middle = seen.radius[rows]

        def radii(position: np.ndarray, rows: np.ndarray = rows) -> np.ndarray:
            row = np.broadcast_to(rows[:, None, None], position.shape)
            usable = (position >= 0) & (position != tile.position[row])
            result = np.full(position.shape, np.nan)
            result[usable] = pair_balls(cloud, tile, row[usable], position[usable]).radius
            return result

        radius = radii(sides)
        inward = cloud.inward[witness[rows], : component.grid.ndim]
        if inward.any():
            radius = _beside_borders(component, inward, sides, middle, radius, radii)
        drop[rows] = vertex_drop(middle, radius)
    return drop
