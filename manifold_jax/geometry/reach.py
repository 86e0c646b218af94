"""Reach of a manifold: its local part (curvature), its global part (bottlenecks), and where they sit.

The reach tau is the largest r such that every point closer than r to the manifold has one nearest point on it.
It is the smallest radius of an empty tangent ball (Federer, Trans. AMS 93, 1959, theorem 4.18),

    tau = inf over x of tau(x),   tau(x) = inf over y of |y - x|^2 / (2 d(y - x, T_x)),

and is attained either locally, as 1 over the largest normal curvature, or globally, as half the length of the
shortest chord that is normal at both ends, a bottleneck (Aamari et al., Electron. J. Stat. 13, 2019, theorem
3.4). Both are measured, and told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.manifold import Manifold
from manifold_jax.geometry.measure import measure
from manifold_jax.geometry.reach_lattice import (
    Component,
    all_points,
    centres,
    extended,
    half_cells,
    home,
    local_model,
    neighbours,
    originals,
    tiles,
    vertex_drop,
)
from manifold_jax.geometry.reach_pairs import (
    Cloud,
    Pairs,
    Rows,
    all_pairs,
    ball_radius,
    make_cloud,
    mutual,
    pair_terms,
    slack_of,
)
from manifold_jax.geometry.reach_refine import largest_curvature, refine_bottleneck
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.source import point_source, stencil_of

Progress = Callable[[int, int], None]
"""Called with the number of points done and the number of all points."""

_COLUMNS = 16
"""Columns of a tile per row."""

_MARGIN = 1.05
_BATCH = 8
_TRIED = 64


class Reach(NamedTuple):
    """Reach of a manifold, with witnesses and error bars.

    Attributes:
        value: The reach, the smaller of the local and the global part.
        error: Bar such that the truth lies within value +- error.
        resolved: Whether the bar is below the tolerance.
        case: ``"local"`` (curvature decides), ``"global"`` (a bottleneck or the border of an open axis) or
            ``"tie"`` (equal within their bars, as on circles, spheres and flat tori).
        local: 1 / largest normal curvature.
        local_error: Its bar.
        local_bounds: Enclosure of ``local`` by the bounds of the largest normal curvature (equal for d <= 2).
        bottleneck: Half the length of the shortest bottleneck that was found, infinite where there is none up
            to ``searched``.
        bottleneck_error: Its bar.
        searched: Half length up to which bottlenecks were looked for; longer ones cannot decide.
        pointwise: Radius of the largest empty tangent ball at every grid point, ``(*shape,)``; not the local
            feature size. NaN where the metric is degenerate. A tuple for a union.
        pointwise_error: Its bar.
        witness: Flat index of the point that the ball meets, the point itself where curvature decides, -1 where
            the metric is degenerate; for a union, indices count through all components.
        pair: Chart coordinates ``(2, d)`` of the two points that decide (equal for the local case); for a union
            a pair of ``(component, coordinates)``.
        upper_bound: Mask ``(*shape,)`` of points at the border of an open axis: there the tangent span stands
            for the tangent cone, and the ball may be too large.
        coincident: Number of ordered pairs of different grid points at the same place; they are left out. A
            multiple cover: declare it with ``copies``.
        pruned: Share of all pairs that were excluded by their projected distance.
    """

    value: float
    error: float
    resolved: bool
    case: str
    local: float
    local_error: float
    local_bounds: tuple[float, float]
    bottleneck: float
    bottleneck_error: float
    searched: float
    pointwise: Any
    pointwise_error: Any
    witness: Any
    pair: Any
    upper_bound: Any
    coincident: int
    pruned: float

    def sentence(self) -> str:
        """One sentence for people."""
        how = {
            "local": "the largest normal curvature decides",
            "global": "two far points decide",
            "tie": "curvature and a bottleneck tie",
        }
        text = f"reach {self.value:.5g} +- {self.error:.1e}: {how[self.case]}"
        masks = self.upper_bound if isinstance(self.upper_bound, tuple) else (self.upper_bound,)
        if not self.resolved:
            text += "; not resolved: refine the grid"
        if any(np.asarray(mask).any() for mask in masks):
            text += "; an upper bound, since the manifold has a border"
        if self.coincident:
            text += f"; {self.coincident} pairs of grid points coincide: declare copies={{axis: times}}"
        return text + "."


class _Part(NamedTuple):
    """Local data of one component, flat over its grid."""

    component: Component
    offset: int
    local: np.ndarray
    local_error: np.ndarray
    bend: np.ndarray
    border: np.ndarray


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
    tile_size: int = 256,
    block_size: int | None = None,
    progress: Progress | None = None,
) -> Reach:
    """Reach of a manifold or a union of manifolds, with witnesses.

    The search runs on the host, tile by tile, and prunes; it is exact, not approximate: a pair is left out only
    where a rigorous bound excludes it. It cannot be traced by ``jit``; for a differentiable ratio of given
    pairs use :func:`tangent_ball_radius`.

    Args:
        points_or_manifold: As for :func:`measure`: a :class:`Manifold`, a sequence of them (a union; pairs run
            across the components), an array ``(*grid.shape, *features)``, or an embedding.
        grid: The lattice; for a Manifold by default its own.
        accuracy: Order of the stencils of tangents and curvature.
        stride: Their stride.
        exact: Differentiate the embedding automatically; by default wherever there is one. The curvature
            maximum and the bottlenecks are then refined beyond the lattice.
        geometry: Result of :func:`measure` on the same grid, whose normal curvature is taken (one per component
            for a union); by default measured here.
        longest: Look for bottlenecks up to this half length; by default a little beyond the local part.
        copies: For each axis that runs several times over the same points, how often: ``{"orientation": 2}``.
        periods: On axes whose metric repeats though the points do not (``wrap=False``), how many periods beyond
            each end the points y may lie.
        tolerance: Relative error up to which the reach counts as resolved.
        tile_size: Centres per tile; memory follows it (about ``16 tile_size`` points y at once).
        block_size: As for :func:`measure`.
        progress: Called as ``progress(points done, points)`` after every tile.

    Returns:
        The reach.

    Raises:
        ValueError: Arguments do not fit each other, points are NaN, all in one place, or traced.

    Example:
        >>> from manifold_jax import reach
        >>> from manifold_jax.datasets import ellipse
        >>> found = reach(ellipse(2.0, 1.0))
        >>> print(found.case, f"{found.value:.4f}")
        local 0.5000
    """
    whole = isinstance(points_or_manifold, Sequence)
    options: dict[str, Any] = {"accuracy": accuracy, "stride": stride, "block_size": block_size}
    components = _components(points_or_manifold, grid, exact, geometry, copies or {}, periods, options)
    _check_sizes(tile_size, tolerance, longest)
    clouds = [all_points(c.source, c.lattice) for c in components]
    if len({c.shape[1] for c in clouds}) > 1:
        sizes = [c.shape[1] for c in clouds]
        raise ValueError(f"The components of a union must share their features, got {sizes} numbers per point.")
    cloud = _cloud(components, clouds)
    parts = _local_parts(components)
    shortest = min(float(np.min(p.local, initial=math.inf)) for p in parts)
    searched = longest if longest is not None else _MARGIN * shortest
    drop = np.zeros(len(cloud.points))
    pairs = all_pairs(
        cloud,
        _all_tiles(parts, clouds, cloud, tile_size, progress),
        longest=searched,
        columns=_COLUMNS * tile_size,
        allowed=_allowed(parts),
        after=lambda rows, found: _lattice_error(cloud, parts, rows, found, drop),
    )
    return _assemble(parts, cloud, pairs, drop, searched, tolerance, whole)


# --- checks and preparation --------------------------------------------------------------------------------


def _check_sizes(tile_size: int, tolerance: float, longest: float | None) -> None:
    if isinstance(tile_size, bool) or not isinstance(tile_size, (int, np.integer)) or tile_size < 1:
        raise ValueError(f"tile_size must be a whole number of points, at least 1, got {tile_size!r}.")
    if tile_size > 16384:
        raise ValueError(
            f"tile_size {tile_size} would compare {_COLUMNS * tile_size**2:.1e} pairs at once; take at most 16384."
        )
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance!r}.")
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
    union = isinstance(points, Sequence) and len(points) > 0 and all(isinstance(p, Manifold) for p in points)
    if isinstance(points, Sequence) and not union:
        raise ValueError("reach takes a Manifold, a non-empty sequence of Manifolds, an array or an embedding.")
    sources = list(points) if union else [points]
    given = list(geometry) if isinstance(geometry, (tuple, list)) else [geometry] * len(sources)
    if len(given) != len(sources) or (geometry is not None and union and len(given) == 1 != len(sources)):
        raise ValueError(f"geometry must hold one result per component ({len(sources)}), got {len(given)}.")
    return [_component(p, grid, exact, g, copies, periods, options) for p, g in zip(sources, given, strict=True)]


def _component(
    points: Any,
    grid: Grid | None,
    exact: bool | None,
    geometry: Geometry | None,
    copies: Mapping[str, int],
    periods: int,
    options: dict[str, Any],
) -> Component:
    if isinstance(points, Manifold):
        points, grid = points.embedding, grid or points.grid
    if grid is None:
        raise ValueError("reach needs a grid beside points or an embedding: reach(points, Grid(...)).")
    source = point_source(points, grid)
    if isinstance(source.points, jax.core.Tracer):
        raise ValueError("reach searches on the host and cannot be traced: call it outside of jit and vmap.")
    exactly = source.kind == "function" if exact is None else exact
    if exactly and source.kind != "function":
        raise ValueError("exact=True needs an embedding (a function or a Manifold), not an array of points.")
    sizes = {axis.name: axis for axis in grid.axes}
    for name, times in copies.items():
        if name not in sizes:
            raise ValueError(f"copies names the axis {name!r}, but the axes are {grid.names}.")
        if not isinstance(times, int) or times < 1 or sizes[name].size % times or not sizes[name].wraps:
            raise ValueError(
                f"copies of axis {name!r} must be a whole number that divides its {sizes[name].size} samples, "
                f"and the axis periodic; got {times!r}."
            )
    if geometry is None:
        geometry = measure(points, grid, exact=exactly, **options)
    elif not isinstance(geometry, Geometry) or geometry.grid != grid:
        raise ValueError("geometry must be the result of measure on the same grid.")
    stencil = None if exactly else stencil_of(grid, options["accuracy"], options["stride"])
    lattice = extended(grid, periods) if source.kind == "function" else grid
    return Component(source, grid, lattice, geometry, stencil, dict(copies))


def _cloud(components: Sequence[Component], clouds: Sequence[np.ndarray]) -> Cloud:
    """All points of all components with their rounding errors and cells."""
    dtype = np.result_type(*[c.source.dtype for c in components])
    points = clouds[0] if len(clouds) == 1 else np.concatenate(clouds)
    if not isinstance(points, np.memmap) and points.dtype != dtype:
        points = points.astype(dtype)
    noise = float(np.finfo(dtype).eps) * _norms(points)
    if not np.isfinite(noise).all():
        bad = np.flatnonzero(~np.isfinite(noise))
        raise ValueError(f"{len(bad)} of {len(points)} points hold NaN or infinite values, first point {bad[0]}.")
    spread = np.concatenate([half_cells(c, m.lattice) for c, m in zip(clouds, components, strict=True)])
    if spread.max() <= 4 * noise.max():
        raise ValueError("All points lie in one place: a constant map has no reach.")
    return make_cloud(points, noise, spread)


def _norms(points: np.ndarray) -> np.ndarray:
    step = max(1, 2**22 // points.shape[1])
    pieces = [np.linalg.norm(points[k : k + step].astype(np.float64), axis=1) for k in range(0, len(points), step)]
    return np.concatenate(pieces)


def _local_parts(components: Sequence[Component]) -> list[_Part]:
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
        parts.append(_Part(c, offset, local, bar, bend, border))
        offset += c.lattice.size
    return parts


def _border(grid: Grid) -> np.ndarray:
    mask = np.zeros(grid.shape, bool)
    for k, axis in enumerate(grid.axes):
        if not axis.periodic:
            mask[(slice(None),) * k + ([0, -1],)] = True
    return mask


def _allowed(parts: Sequence[_Part]) -> np.ndarray | None:
    """Points that count as y, where copies were declared."""
    if not any(p.component.copies for p in parts):
        return None
    masks = []
    for p in parts:
        first = originals(p.component) == np.arange(p.component.grid.size)
        masks.append(first[home(p.component, np.arange(p.component.lattice.size))])
    return np.concatenate(masks)


def _all_tiles(
    parts: Sequence[_Part], clouds: Sequence[np.ndarray], cloud: Cloud, size: int, progress: Progress | None
) -> Iterator[Rows]:
    done, total = 0, sum(p.component.grid.size for p in parts)
    for part, points in zip(parts, clouds, strict=True):
        c = part.component
        noise = cloud.noise[part.offset + centres(c)]
        radius = part.local + part.local_error
        for flat, rows in tiles(c, points, noise, part.bend, radius, size):
            yield rows._replace(index=rows.index + part.offset)
            done += len(flat)
            if progress is not None:
                progress(min(done, total), total)


def _lattice_error(
    cloud: Cloud, parts: Sequence[_Part], rows: Rows, found: Pairs, drop: np.ndarray
) -> None:
    """How far R(x, .) may fall below its smallest sample, from the neighbours of the witness."""
    local = np.flatnonzero(found.witness >= 0)
    for part in parts:
        lattice = part.component.lattice
        inside = (found.witness[local] >= part.offset) & (found.witness[local] < part.offset + lattice.size)
        chosen = local[inside]
        if not len(chosen):
            continue
        beside = neighbours(lattice, found.witness[chosen] - part.offset)
        values = np.full(beside.shape, np.nan)
        for k in range(lattice.ndim):
            for side in range(2):
                other = np.where(beside[:, k, side] >= 0, beside[:, k, side] + part.offset, -1)
                usable = (other >= 0) & (other != rows.index[chosen])
                chord, normal = pair_terms(cloud, rows, chosen[usable], other[usable])
                soft = rows.tilt[chosen[usable]] * chord + cloud.noise[other[usable]]
                radius, _ = ball_radius(chord, normal, soft, 0.0)
                values[usable, k, side] = np.where(np.isfinite(radius), radius, np.nan)
        drop[rows.index[chosen]] = vertex_drop(found.radius[chosen], values[:, :, 0], values[:, :, 1])


# --- the result --------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A value with its bar and the two places that attain it, ``(part, chart point)`` each."""

    value: float
    error: float
    ends: tuple[Any, Any]


_NOWHERE = ((0, np.zeros(0)), (0, np.zeros(0)))


def _prefer(fine: _Found, coarse: _Found) -> _Found:
    """The refined value, unless a lattice pair contradicts it beyond the bars."""
    if not math.isfinite(coarse.value) or not math.isfinite(fine.value + fine.error):
        return fine if math.isfinite(fine.value) and not math.isfinite(coarse.value + coarse.error) else coarse
    return fine if fine.value <= coarse.value + fine.error + coarse.error else coarse


def _assemble(
    parts: Sequence[_Part],
    cloud: Cloud,
    pairs: Pairs,
    drop: np.ndarray,
    searched: float,
    tolerance: float,
    whole: bool,
) -> Reach:
    fields = [_fields(part, parts, pairs, drop) for part in parts]
    local = min((_local(part, parts) for part in parts), key=lambda found: found.value)
    narrow = _bottleneck(parts, cloud, pairs)
    far, near = _smallest_pairs(parts, cloud, pairs, fields)
    curved, spread = _prefer(local, near), _prefer(narrow, far)
    best = min(curved, spread, key=lambda found: found.value)
    gap = abs(curved.value - spread.value) if math.isfinite(spread.value) else math.inf
    bars = curved.error + spread.error
    tie = gap <= bars and bars <= tolerance * best.value
    case = "tie" if tie else ("local" if best is curved else "global")
    upper = max(float(np.nanmax(p.component.geometry.normal_curvature_upper.value)) for p in parts)
    points = sum(p.component.grid.size / math.prod(p.component.copies.values()) for p in parts)

    def shaped(k: int) -> Any:
        arrays = [np.reshape(f[k], p.component.grid.shape) for f, p in zip(fields, parts, strict=True)]
        return tuple(arrays) if whole else arrays[0]

    masks = [np.reshape(p.border, p.component.grid.shape) for p in parts]
    ends = best.ends if whole else np.stack([np.asarray(end[1]) for end in best.ends])
    return Reach(
        best.value,
        best.error,
        bool(best.error <= tolerance * best.value),
        case,
        local.value,
        local.error,
        (min(local.value, 1 / upper) if upper > 0 else local.value, local.value),
        narrow.value,
        narrow.error,
        searched,
        shaped(0),
        shaped(1),
        shaped(2),
        ends,
        tuple(masks) if whole else masks[0],
        len(pairs.coincident),
        max(0.0, 1 - pairs.looked_at / (points * len(cloud.points))),
    )


def _fields(
    part: _Part, parts: Sequence[_Part], pairs: Pairs, drop: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pointwise radius, bar and witness of one component, flat over its grid."""
    first = originals(part.component)
    position = part.offset + centres(part.component)[first]
    radius, noise = pairs.radius[position], pairs.error[position] + drop[position]
    # At a tie take the one that is better known.
    bar = part.local_error[first]
    curved = part.local[first] <= radius + np.where(bar <= noise, np.minimum(bar + noise, 1e-3 * radius), 0.0)
    value = np.where(curved, part.local[first], radius)
    error = np.where(curved, part.local_error[first], noise)
    start = _grid_offsets(parts)
    witness = np.full(len(position), -1)
    for k, other in enumerate(parts):
        y = pairs.witness[position] - other.offset
        inside = (y >= 0) & (y < other.component.lattice.size)
        witness[inside] = start[k] + home(other.component, y[inside])
    own = start[[p is part for p in parts].index(True)]
    witness = np.where(curved, own + np.arange(len(first)), witness)
    undefined = ~np.isfinite(np.asarray(part.component.geometry.normal_curvature.value).reshape(-1)[first])
    value, witness = np.where(undefined, np.nan, value), np.where(undefined, -1, witness)
    return value, np.where(undefined, np.inf, error), witness


def _grid_offsets(parts: Sequence[_Part]) -> list[int]:
    sizes = [p.component.grid.size for p in parts]
    return [sum(sizes[:k]) for k in range(len(sizes))]


def _beside(grid: Grid, values: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Values one step before and after a grid point along each axis, NaN beyond an end."""
    flat = neighbours(grid, np.array([index]))[0]
    found = np.where(flat >= 0, values[flat], np.nan)
    return found[None, :, 0], found[None, :, 1]


def _local(part: _Part, parts: Sequence[_Part]) -> _Found:
    """Smallest radius of curvature, refined where there is an embedding."""
    c, number = part.component, [p is part for p in parts].index(True)
    reliable = part.local_error <= 0.1 * part.local
    index = int(np.argmin(np.where(reliable, part.local, np.inf) if reliable.any() else part.local))
    u = np.asarray(c.grid.coordinates(c.source.dtype)).reshape(-1, c.grid.ndim)[index]
    value, error = float(part.local[index]), float(part.local_error[index])
    if not math.isfinite(value):
        return _Found(math.inf, 0.0, ((number, u), (number, u)))
    if c.stencil is None:
        place, bend, noise = largest_curvature(c.source.points, jnp.asarray(u, c.source.dtype), c.grid)
        if float(noise) < 0.1 * float(bend) and 1 / float(bend) < value:
            value, error, u = 1 / float(bend), float(noise) / float(bend) ** 2, np.asarray(place)
    else:
        error += float(vertex_drop(np.array([value]), *_beside(c.grid, part.local, index))[0])
        # Where the curvature is not resolved it may be larger: by what is seen there.
        error += max(0.0, value - float(part.local.min()))
    return _Found(value, error, ((number, u), (number, u)))


def _locate(parts: Sequence[_Part], position: int) -> tuple[int, np.ndarray]:
    """Component number and chart point of a position in the cloud."""
    number = max(k for k, p in enumerate(parts) if position >= p.offset)
    c = parts[number].component
    index = np.unravel_index(position - parts[number].offset, c.lattice.shape)
    return number, np.array([a.start + a.spacing * i for a, i in zip(c.lattice.axes, index, strict=True)])


def _bottleneck(parts: Sequence[_Part], cloud: Cloud, pairs: Pairs) -> _Found:
    """Shortest chord that is normal at both ends, refined from lattice pairs."""
    candidates, lengths, defects = mutual(pairs, len(cloud.points))
    best = _Found(math.inf, math.inf, _NOWHERE)
    if not len(candidates):
        return best
    keep = _isolated(parts, candidates, defects, len(cloud.points))
    keep = keep[np.argsort(lengths[keep], kind="stable")]
    for start in range(0, min(len(keep), _TRIED), _BATCH):
        for k in keep[start : start + _BATCH]:
            found = _refined(parts, cloud, candidates[k], float(lengths[k]))
            best = min(best, found, key=lambda f: f.value)
        if math.isfinite(best.value):
            break
    return best


def _isolated(
    parts: Sequence[_Part], candidates: np.ndarray, defects: np.ndarray, count: int
) -> np.ndarray:
    """Candidates whose chord is at least as normal as those one lattice step away at either end."""
    keys = candidates[:, 0] * count + candidates[:, 1]
    keep = np.ones(len(keys), bool)
    for part in parts:
        low, high = part.offset, part.offset + part.component.lattice.size
        for end in range(2):
            mine = np.flatnonzero((candidates[:, end] >= low) & (candidates[:, end] < high))
            beside = neighbours(part.component.lattice, candidates[mine, end] - low)
            beside = beside.reshape(len(mine), 2 * part.component.lattice.ndim)
            for moved in beside.T:
                pair = candidates[mine].copy()
                pair[:, end] = moved + low
                pair.sort(axis=1)
                key = pair[:, 0] * count + pair[:, 1]
                place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
                known = (moved >= 0) & (keys[place] == key)
                keep[mine] &= ~(known & (defects[place] < defects[mine] * (1 - 1e-9)))
    return np.flatnonzero(keep)


def _refined(parts: Sequence[_Part], cloud: Cloud, pair: np.ndarray, length: float) -> _Found:
    """Bottleneck near a lattice pair, or infinity where the iteration does not end in one."""
    ends = [_locate(parts, int(position)) for position in pair]
    components = [parts[number].component for number, _ in ends]
    models, missed = [], []
    for position, (number, _) in zip(pair, ends, strict=True):
        part = parts[number]
        points = cloud.points[part.offset : part.offset + part.component.lattice.size]
        model, deviations = local_model(part.component, points, int(position) - part.offset)
        models.append(model)
        missed.append(deviations)
    dtype = components[0].source.dtype
    found = refine_bottleneck(
        tuple(models),
        tuple(jnp.asarray(u, dtype) for _, u in ends),
        tuple(jnp.asarray(c.grid.spacing, dtype) for c in components),
    )
    eps = float(jnp.finfo(dtype).eps)
    new, defect, moved = float(found.length), float(found.defect), float(found.moved)
    places = [np.asarray(u, np.float64) for u in (found.first, found.second)]
    inside = all(
        a.periodic or -1e-3 <= (x - a.start) / a.spacing <= a.size - 1 + 1e-3
        for c, u in zip(components, places, strict=True)
        for a, x in zip(c.lattice.axes, u, strict=True)
    )
    farthest = 4 if all(c.stencil is None for c in components) else 1
    if not (defect <= 1e3 * eps**0.75 and moved <= farthest and new > 0.5 * length and inside):
        return _Found(math.inf, math.inf, _NOWHERE)
    chord = cloud.points[pair[1]].astype(np.float64) - cloud.points[pair[0]]
    # The length is stationary: a cosine c off costs about c^2. Evaluation costs rounding, a Taylor polynomial
    # what it misses beside.
    error = new / 2 * (defect**2 + 32 * eps)
    for deviations in missed:
        error += np.abs(deviations @ chord).sum() / length / 2
    return _Found(new / 2, float(error), tuple((n, u) for (n, _), u in zip(ends, places, strict=True)))


def _smallest_pairs(
    parts: Sequence[_Part], cloud: Cloud, pairs: Pairs, fields: Sequence[Any]
) -> tuple[_Found, _Found]:
    """Smallest R(x, y) over far pairs (chord steeper than 30 degrees to the tangent space) and over near ones."""
    centre = pairs.witness >= 0
    chord = np.full(len(cloud.points), np.nan)
    x = np.flatnonzero(centre)
    for start in range(0, len(x), 512):
        part = x[start : start + 512]
        v = cloud.points[pairs.witness[part]].astype(np.float64) - cloud.points[part]
        chord[part] = np.linalg.norm(v, axis=1)
    with np.errstate(invalid="ignore"):
        steep = centre & (chord >= pairs.radius)
    found = []
    for mask in (steep, centre & ~steep):
        if not mask.any():
            found.append(_Found(math.inf, math.inf, _NOWHERE))
            continue
        best = int(np.argmin(np.where(mask, pairs.radius, np.inf)))
        number, u = _locate(parts, best)
        part = parts[number]
        values = np.asarray(fields[number][0])
        index = int(home(part.component, np.array([best - part.offset]))[0])
        drop = vertex_drop(pairs.radius[[best]], *_beside(part.component.grid, values, index))
        error = float(pairs.error[best] + fields[number][1][index] + drop[0])
        found.append(_Found(float(pairs.radius[best]), error, ((number, u), _locate(parts, int(pairs.witness[best])))))
    return found[0], found[1]


# --- one pair, and clouds without a grid --------------------------------------------------------------------


def tangent_ball_radius(
    x: Float[Any, "f"], y: Float[Any, "f"], frame: Float[Any, "d f"]
) -> Float[Any, ""]:
    """R(x, y) = |y - x|^2 / (2 d(y - x, T_x)), the ball that touches T_x at x and passes through y.

    Args:
        x: Centre.
        y: Another point.
        frame: Orthonormal rows that span the tangent space at x.

    Returns:
        The radius, infinite where y lies in the tangent plane; differentiable, for one pair (use ``vmap``).

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax.geometry.reach import tangent_ball_radius
        >>> x, y = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> print(tangent_ball_radius(x, y, jnp.array([[0.0, 1.0]])))
        1.0
    """
    v = jnp.ravel(y) - jnp.ravel(x)
    along = jnp.sum(frame * v, axis=-1)
    rest = v - jnp.sum(frame * along[:, None], axis=0)
    return jnp.sum(v**2) / (2 * jnp.sqrt(jnp.sum(rest**2)))


Witness = Int[np.ndarray, "*shape"]
