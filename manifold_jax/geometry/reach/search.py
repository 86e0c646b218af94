"""Reach of a manifold: its local part (curvature), its global part (bottlenecks), and where they sit.

The reach tau is the largest r such that every point closer than r to the manifold has one nearest point on
it. It is the smallest radius of an empty tangent ball (Federer, Trans. AMS 93, 1959, theorem 4.18),

    tau = inf over x of tau(x),   tau(x) = inf over y of |y - x|^2 / (2 d(y - x, T_x)),

and is attained either locally, as 1 over the largest normal curvature, or globally, as half the length of the
shortest chord that is normal at both ends, a bottleneck (Aamari et al., Electron. J. Stat. 13, 2019, theorem
3.4). Both are measured, and told apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from manifold_jax._files import Progress
from manifold_jax.geometry.error_bars import check_tolerance
from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.manifold import as_points, is_union
from manifold_jax.geometry.measure import measure
from manifold_jax.geometry.reach.cloud import Cloud, make_cloud, norms
from manifold_jax.geometry.reach.lattice import (
    Component,
    all_points,
    centres,
    extended,
    half_cells,
    home,
    neighbours,
    originals,
    tiles,
    vertex_drop,
)
from manifold_jax.geometry.reach.pairs import (
    Pairs,
    Rows,
    all_pairs,
    check_tile_size,
    pair_radii,
    tile_shape,
)
from manifold_jax.geometry.reach.result import Part, Reach, assemble
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.stencil import stencil_of

_MARGIN = 1.05


def reach(
    points_or_manifold: Any,
    grid: Grid | None = None,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
    stride: int | tuple[int, ...] = 1,
    exact: bool | None = None,
    geometry: Any = None,
    longest: float | None = None,
    copies: Mapping[str, int] | None = None,
    periods: int = 1,
    tolerance: float = 0.1,
    tile_size: int | None = None,
    block_size: int | None = None,
    progress: Progress | None = None,
) -> Reach:
    """Reach of a manifold or a union of manifolds, with witnesses.

    The search runs on the host, tile by tile, and prunes; it is exact, not approximate: a pair is left out
    only where a rigorous bound excludes it. It cannot be traced by ``jit``; for a differentiable ratio of
    given pairs use :func:`tangent_ball_radius`.

    Args:
        points_or_manifold: As for :func:`measure`: a :class:`Manifold`, a sequence of them (a union; pairs
            run across the components), an array ``(*grid.shape, *features)``, or an embedding.
        grid: The lattice; for a Manifold by default its own.
        accuracy: Order of the stencils of tangents and curvature.
        stride: Their stride.
        exact: Differentiate the embedding automatically; by default wherever there is one. The curvature
            maximum and the bottlenecks are then refined beyond the lattice.
        geometry: Result of :func:`measure` on the same grid, whose normal curvature is taken (one per
            component for a union); by default measured here.
        longest: Look for bottlenecks up to this half length; by default a little beyond the local part.
        copies: For each axis that runs several times over the same points, how often: ``{"orientation": 2}``.
        periods: On axes whose metric repeats though the points do not (``wrap=False``), how many periods
            beyond each end the points y may lie.
        tolerance: Relative error up to which the reach counts as resolved.
        tile_size: Centres per tile, which memory follows; by default 256, or 32 where points are long.
        block_size: As for :func:`measure`.
        progress: Called as ``progress(points done, points)`` after every tile.

    Returns:
        The reach.

    Raises:
        ValueError: Arguments do not fit each other, points are NaN, all in one place, or traced.

    Example:
        >>> from manifold_jax import reach
        >>> from manifold_jax.datasets import ellipse
        >>> result = reach(ellipse((2.0, 1.0)))
        >>> print(result.case, f"{result.value:.4f}")
        local 0.5000
    """
    options: dict[str, Any] = {"accuracy": accuracy, "stride": stride, "block_size": block_size}
    components = _components(points_or_manifold, grid, exact, geometry, copies or {}, periods, options)
    _check_sizes(tile_size, tolerance, longest)
    clouds = [all_points(c.source, c.lattice) for c in components]
    if len({c.shape[1] for c in clouds}) > 1:
        sizes = [c.shape[1] for c in clouds]
        raise ValueError(
            f"The components of a union must share their features, got {sizes} numbers per point."
        )
    cloud = _cloud(components, clouds)
    parts = _local_parts(components)
    shortest = min(float(np.min(p.local, initial=math.inf)) for p in parts)
    searched = longest if longest is not None else _MARGIN * shortest
    drop = np.zeros(len(cloud.points))
    rows, columns = tile_shape(cloud.points.shape[1], len(cloud.points), tile_size)
    pairs = all_pairs(
        cloud,
        _all_tiles(parts, clouds, cloud, rows, progress),
        longest=searched,
        columns=columns,
        allowed=_allowed(parts),
        after=lambda tile, found: _lattice_error(cloud, parts, tile, found, drop),
    )
    return assemble(parts, cloud, pairs, drop, searched, tolerance)


# --- checks and preparation --------------------------------------------------------------------------------


def _check_sizes(tile_size: int | None, tolerance: float, longest: float | None) -> None:
    check_tile_size(tile_size)
    check_tolerance("reach", tolerance)
    if longest is not None and not longest > 0:
        raise ValueError(f"longest must be a positive length, got {longest!r}.")


def _components(
    points: Any,
    grid: Grid | None,
    exact: bool | None,
    geometry: Any,
    copies: Mapping[str, int],
    periods: int,
    options: dict[str, Any],
) -> list[Component]:
    """Check the arguments, measure the curvature where it is not given."""
    union = is_union(points)
    if isinstance(points, Sequence) and not union:
        raise ValueError(
            "reach takes a Manifold, a non-empty sequence of Manifolds, an array or an embedding."
        )
    sources = list(points) if union else [points]
    given = list(geometry) if isinstance(geometry, (tuple, list)) else [geometry] * len(sources)
    if len(given) != len(sources):
        raise ValueError(f"geometry must hold one result per component ({len(sources)}), got {len(given)}.")
    return [
        _component(p, grid, exact, g, copies, periods, options) for p, g in zip(sources, given, strict=True)
    ]


def _component(
    points: Any,
    grid: Grid | None,
    exact: bool | None,
    geometry: Geometry | None,
    copies: Mapping[str, int],
    periods: int,
    options: dict[str, Any],
) -> Component:
    source = as_points("reach", points, grid, exact=bool(exact))
    grid = source.grid
    if source.traced:
        raise ValueError("reach searches on the host and cannot be traced: call it outside of jit and vmap.")
    exactly = source.kind == "function" if exact is None else exact
    sizes = {axis.name: axis for axis in grid.axes}
    for name, times in copies.items():
        if name not in sizes:
            raise ValueError(f"copies names the axis {name!r}, but the axes are {grid.names}.")
        if not isinstance(times, int) or times < 1 or sizes[name].size % times or not sizes[name].wraps:
            raise ValueError(
                f"copies of axis {name!r} must be a whole number dividing its {sizes[name].size} samples, "
                f"and the axis periodic; got {times!r}."
            )
    known = measure(points, grid, exact=exactly, **options) if geometry is None else geometry
    if not isinstance(known, Geometry) or known.grid != grid:
        raise ValueError("geometry must be the result of measure on the same grid.")
    stencil = None if exactly else stencil_of("reach", grid, options["accuracy"], options["stride"])
    lattice = extended(grid, periods) if source.kind == "function" else grid
    return Component(source, grid, lattice, known, stencil, dict(copies))


def _cloud(components: Sequence[Component], clouds: Sequence[np.ndarray]) -> Cloud:
    """All points of all components with their rounding errors and cells."""
    dtype = np.result_type(*[c.source.dtype for c in components])
    points = clouds[0] if len(clouds) == 1 else np.concatenate(clouds)
    if not isinstance(points, np.memmap) and points.dtype != dtype:
        points = points.astype(dtype)
    # Stored points are rounded once, evaluated ones several times.
    steps = [
        np.full(len(p), 4.0 if c.source.kind == "function" else 1.0)
        for p, c in zip(clouds, components, strict=True)
    ]
    noise = float(np.finfo(dtype).eps) * norms(points) * np.concatenate(steps)
    if not np.isfinite(noise).all():
        bad = np.flatnonzero(~np.isfinite(noise))
        raise ValueError(
            f"{len(bad)} of {len(points)} points hold NaN or infinite values, first point {bad[0]}."
        )
    spread = np.concatenate([half_cells(c, m.lattice) for c, m in zip(clouds, components, strict=True)])
    if spread.max() <= 4 * noise.max():
        raise ValueError("All points lie in one place: a constant map has no reach.")
    return make_cloud(points, noise, spread)


def _local_parts(components: Sequence[Component]) -> list[Part]:
    """1 / normal curvature with its bar at every grid point, and which points are at a border."""
    parts, offset = [], 0
    for c in components:
        value = np.asarray(c.geometry.normal_curvature.value, np.float64).reshape(-1)
        error = np.asarray(c.geometry.normal_curvature.error, np.float64).reshape(-1)
        defined = np.isfinite(value)
        bend = np.where(defined, np.maximum(value, 0.0), 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            local = np.where(bend > 0, 1 / bend, np.inf)
            bar = np.where(bend > error, error / (bend * (bend - error)), np.inf)
        local[~defined] = np.inf
        regular = np.asarray(c.geometry.volume_element.value).reshape(-1) > 0
        border = _border(c.grid).reshape(-1) & regular & defined
        parts.append(Part(c, offset, local, bar, bend, border))
        offset += c.lattice.size
    return parts


def _border(grid: Grid) -> np.ndarray:
    mask = np.zeros(grid.shape, bool)
    for k, axis in enumerate(grid.axes):
        if not axis.periodic:
            mask[(slice(None),) * k + ([0, -1],)] = True
    return mask


def _allowed(parts: Sequence[Part]) -> np.ndarray | None:
    """Points that count as y, where copies were declared."""
    if not any(p.component.copies for p in parts):
        return None
    masks = []
    for p in parts:
        first = originals(p.component) == np.arange(p.component.grid.size)
        masks.append(first[home(p.component, np.arange(p.component.lattice.size))])
    return np.concatenate(masks)


def _all_tiles(
    parts: Sequence[Part], clouds: Sequence[np.ndarray], cloud: Cloud, size: int, progress: Progress | None
) -> Iterator[Rows]:
    done, total = 0, sum(p.component.grid.size for p in parts)
    for part, points in zip(parts, clouds, strict=True):
        c = part.component
        noise = cloud.noise[part.offset + centres(c)]
        radius = part.local + part.local_error
        for flat, rows in tiles(c, points, noise, part.bend, radius, size):
            yield rows._replace(position=rows.position + part.offset)
            done += len(flat)
            if progress is not None:
                progress(min(done, total), total)


def _lattice_error(cloud: Cloud, parts: Sequence[Part], rows: Rows, found: Pairs, drop: np.ndarray) -> None:
    """How far R(x, .) may fall below its smallest sample, from the neighbours of the witness."""
    local = np.flatnonzero(found.witness >= 0)
    for part in parts:
        lattice = part.component.lattice
        inside = (found.witness[local] >= part.offset) & (found.witness[local] < part.offset + lattice.size)
        chosen = local[inside]
        if not len(chosen):
            continue
        beside = neighbours(lattice, found.witness[chosen] - part.offset)
        centre = np.broadcast_to(chosen[:, None, None], beside.shape)
        usable = (beside >= 0) & (beside + part.offset != rows.position[centre])
        balls = pair_radii(cloud, rows, centre[usable], beside[usable] + part.offset, 0.0)
        values = np.full(beside.shape, np.nan)
        values[usable] = np.where(np.isfinite(balls.radius), balls.radius, np.nan)
        drop[rows.position[chosen]] = vertex_drop(found.radius[chosen], values[:, :, 0], values[:, :, 1])
