"""A union of manifolds, such as the classes of a data set, scaled to unit volume.

With V the volume of all of them and d their dimension, lengths are divided by V^(1/d), so that totals of the
scalar curvature, of dimension d - 2 in lengths, are divided by V^((d - 2) / d); Koulakis & Seibold, "The Data
Manifold under the Microscope" (ICML 2026), compare the layers of a network so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from manifold_jax._checks import checked_function, flag, instance, optional, positive, shown, text
from manifold_jax._executors import check_executor
from manifold_jax._files import Progress
from manifold_jax._partial import keeping_parts
from manifold_jax.geometry.embeddings import evaluate_points
from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.manifold import as_points, is_union
from manifold_jax.geometry.measure import measure
from manifold_jax.geometry.neighbours import nearest_neighbours
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.quantities import Estimate
from manifold_jax.geometry.reach import Reach, reach
from manifold_jax.geometry.reach.lattice import neighbours
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.union_result import CURVATURES, Balls, ClassDistance, ClassGeometry, UnionGeometry


@keeping_parts()  # of one class until all are complete
def measure_union(  # noqa: PLR0913
    manifolds: Sequence[Any],
    grid: Grid | None = None,
    *,
    names: Sequence[str] | None = None,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
    stride: int | tuple[int, ...] = 1,
    exact: bool = False,
    noise: float | None = None,
    geometry: Sequence[Geometry] | None = None,
    with_reach: bool = True,
    with_distances: bool = True,
    tolerance: float = 0.1,
    block_size: int | None = None,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    executor: Any = None,
) -> UnionGeometry:
    """Volume, curvature, reach and distances of the classes of a union, scaled to unit volume.

    Args:
        manifolds: The classes: Manifolds of one dimension and one feature shape, or arrays on one ``grid``.
        grid: The lattice of arrays; for Manifolds by default their own.
        names: Of the classes; by default those of Manifolds, or numbers.
        accuracy: As in :func:`measure`.
        stride: As in :func:`measure`.
        exact: As in :func:`measure`, for all classes.
        noise: As in :func:`measure`.
        geometry: Results of :func:`measure`, one for every class; by default measured here.
        with_reach: Search the reach of every class alone and of the union, see :func:`reach`; all points are
            held.
        with_distances: Distances between the classes; all points are held.
        tolerance: Relative error up to which something counts as resolved.
        block_size: As in :func:`measure`.
        progress: Called as ``progress(done, points)`` in every measurement and search.
        checkpoint: As in :func:`measure` and :func:`reach`. Distances between classes are taken again.
        executor: As in :func:`measure` and :func:`reach`. Distances between classes are taken in this
            process.

    Returns:
        All of it with error bars, which hold that of the scale.

    Raises:
        ValueError: The classes are not a sequence of Manifolds or arrays, or do not fit each other.

    Example:
        >>> union = mj.measure_union(mj.datasets.parallel_circles(gap=0.5, size=32), exact=True)
        >>> print(f"{union.volume.value:.3f} {union.classes[0].volume.value:.2f}")
        12.566 0.50
        >>> print(f"{union.least_reach.value / union.scale:.3f}")
        0.250
    """
    if not is_union(manifolds, grid):
        wanted = "a non-empty sequence of Manifolds, or of arrays on a grid that is given"
        raise ValueError(f"measure_union: manifolds must be {wanted}, got {shown(manifolds)}.")
    tolerance = positive("measure_union", "tolerance", tolerance, below=1)
    optional(checked_function, "measure_union", "progress", progress)
    for option, value in {"with_reach": with_reach, "with_distances": with_distances}.items():
        flag("measure_union", option, value)
    names = _names(manifolds, names)
    sources = [as_points("measure_union", part, grid, exact=exact) for part in manifolds]
    for kind, values in {
        "axes": [p.grid.ndim for p in sources],
        "features": [p.features for p in sources],
    }.items():
        if len(set(values)) > 1:
            raise ValueError(f"measure_union: the classes must have equally many {kind}, got {values}.")
    options: dict[str, Any] = {"accuracy": accuracy, "stride": stride, "exact": exact}
    options |= {"tolerance": tolerance, "block_size": block_size, "progress": progress}
    options |= {"checkpoint": checkpoint, "executor": check_executor("measure_union", executor)}
    if geometry is None:
        pairs = zip(manifolds, names, strict=True)
        geometry = [measure(part, grid, name=name, noise=noise, **options) for part, name in pairs]
    if len(geometry) != len(manifolds):
        got = f"{len(manifolds)}, got {len(geometry)}"
        raise ValueError(f"measure_union: geometry must be one result per class, {got}.")
    for part in geometry:
        instance("measure_union", "every geometry", part, Geometry, "see measure")
    alone = together = None
    if with_reach:
        options["exact"] = True if exact else None
        parts = zip(manifolds, geometry, strict=True)
        alone = [reach(part, grid, geometry=known, **options) for part, known in parts]
        together = reach(manifolds, grid, geometry=list(geometry), **options)
    points = [p.at(np.arange(p.grid.size)) for p in sources] if with_distances else []
    distances = _distances(sources, points, geometry, tolerance)
    return unite(names, geometry, alone, together, distances, tolerance)


def _names(manifolds: Sequence[Any], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(getattr(m, "name", None) or f"class {k + 1}" for k, m in enumerate(manifolds))
    if isinstance(names, str) or len(names) != len(manifolds):
        raise ValueError(f"measure_union: names must be {len(manifolds)}, one per class, got {shown(names)}.")
    return tuple(text("measure_union", "every name", name) for name in names)


def unite(
    names: Sequence[str],
    geometries: Sequence[Geometry],
    alone: Sequence[Reach] | None,
    together: Reach | None,
    distances: Sequence[ClassDistance] = (),
    tolerance: float = 0.1,
    volume: Estimate | None = None,
) -> UnionGeometry:
    """The union of measured classes; reaches and ``distances`` are those before scaling.

    ``volume`` is what is scaled to 1, by default that of the geometries: they may be those of fewer points.
    """
    d = geometries[0].grid.ndim
    volumes = [part.total_volume for part in geometries]
    volume = _sum(volumes) if volume is None else volume
    shares = [_share(part, volume) for part in volumes]
    totals = {name: [getattr(part, name) for part in geometries] for name in CURVATURES}
    length, curvature = -1 / d, -(d - 2) / d
    none = _estimate(math.nan, math.inf, False)
    unknown = Balls(none, none)
    balls: list[tuple[Balls, Balls, float]] = [(unknown, unknown, math.nan)] * len(names)
    least = mean = none
    if alone is not None and together is not None:
        weights = [_weights(part) for part in geometries]
        raw = _balls(alone, together, weights, tolerance)
        balls = [(_scaled_balls(a, volume, length), _scaled_balls(b, volume, length), c) for a, b, c in raw]
        means = [balls_in_union.mean for _, balls_in_union, _ in raw]
        least = _scaled(_estimate(together.value, together.error, together.resolved), volume, length)
        mean = _scaled(_average(means, [float(w.sum()) for w in weights]), volume, length)
    classes = []
    for k, name in enumerate(names):
        whole, above, below = (_scaled(totals[total][k], volume, curvature) for total in CURVATURES)
        classes.append(ClassGeometry(name, shares[k], whole, above, below, *balls[k]))
    with np.errstate(divide="ignore"):
        scale = float(np.float64(float(volume.value)) ** length)
    scaled = [
        pair._replace(
            nearest=_scaled(pair.nearest, volume, length),
            paired=_scaled(pair.paired, volume, length),
            least_paired=pair.least_paired * scale,
        )
        for pair in distances
    ]
    whole, above, below = (_scaled(_sum(totals[name]), volume, curvature) for name in CURVATURES)
    known = (least, mean, tuple(classes), tuple(scaled), tuple(geometries), together)
    return UnionGeometry(volume, scale, whole, above, below, *known)


def _estimate(value: float, error: float, resolved: bool) -> Estimate:
    return Estimate(jnp.asarray(value), jnp.asarray(error), jnp.asarray(resolved))


def _sum(parts: Sequence[Estimate]) -> Estimate:
    value, error = (math.fsum(float(part[k]) for part in parts) for k in (0, 1))
    return _estimate(value, error, all(bool(part.resolved) for part in parts))


def _average(parts: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    if not sum(weights) > 0:  # classes without volume
        return _estimate(math.nan, math.inf, False)
    value, error = (float(np.average([float(part[k]) for part in parts], weights=weights)) for k in (0, 1))
    return _estimate(value, error, all(bool(part.resolved) for part in parts))


def _enclosed(formula: Any, *parts: Estimate) -> Estimate:
    """A formula that is monotone in each of its parts, which are positive but for the first."""
    values, errors = ([float(part[k]) for part in parts] for k in (0, 1))
    with np.errstate(all="ignore"):
        value = float(formula(*map(np.float64, values)))
        corners = itertools.product(*((v - e, v + e) for v, e in zip(values, errors, strict=True)))
        ends = [formula(*map(np.float64, corner)) for corner in corners]
    known = all(math.isfinite(e) for e in errors) and values[-1] > errors[-1]
    error = max(abs(float(end) - value) for end in ends) if known else math.inf
    return _estimate(value, error, known and all(bool(part.resolved) for part in parts))


def _scaled(part: Estimate, volume: Estimate, power: float) -> Estimate:
    """A quantity times a power of the volume."""
    return _enclosed(lambda q, v: q * v**power, part, volume)


def _share(part: Estimate, volume: Estimate) -> Estimate:
    """A part of the volume over the whole."""
    value, error = (float(volume[k]) - float(part[k]) for k in (0, 1))
    if value <= error:  # the others may be nothing, as for a single class
        certain = value == 0.0
        return _estimate(
            1.0 if certain else float(part.value) / float(volume.value), 0.0 if certain else 1.0, certain
        )
    return _enclosed(
        lambda own, others: own / (own + others), part, _estimate(value, error, bool(volume.resolved))
    )


def _scaled_balls(balls: Balls, volume: Estimate, power: float) -> Balls:
    return Balls(*(_scaled(part, volume, power) for part in balls))


def _weights(geometry: Geometry) -> Float[np.ndarray, "n"]:
    """Volume that belongs to every point, 0 where it is not known."""
    weights = np.asarray(geometry.volume_element.value) * np.asarray(geometry.grid.weights())
    return np.nan_to_num(weights.ravel().astype(np.float64))


def _balls(
    alone: Sequence[Reach], together: Reach, weights: Sequence[np.ndarray], tolerance: float
) -> list[tuple[Balls, Balls, float]]:
    """Tangent balls of every class alone and in the union, and the share that others stop.

    The union may be one component of all points, in the order of the classes, or have one for each.
    """
    radius, error, witness = (
        np.concatenate([np.ravel(getattr(part, name)) for part in together.components])
        for name in ("pointwise", "pointwise_error", "witness")
    )
    ends = np.cumsum([0, *map(len, weights)])
    result = []
    for number, (own, weight) in enumerate(zip(alone, weights, strict=True)):
        start, stop = ends[number], ends[number + 1]
        here, bars, met = radius[start:stop], error[start:stop], witness[start:stop]
        foreign = (met >= 0) & ((met < start) | (met >= stop))
        least = own.value, own.error
        if foreign.any():
            first = int(np.nanargmin(np.where(foreign, here, np.inf)))
            least = min(least, (float(here[first]), float(bars[first])))
        if len(together.components) > 1 and number in [end.component for end in together.ends]:
            least = min(least, (together.value, together.error))
        alone_at = (np.ravel(own.pointwise), np.ravel(own.pointwise_error))
        share = float(weight[foreign].sum() / weight.sum()) if weight.sum() > 0 else math.nan
        result.append(
            (
                Balls(_with_tolerance(own.value, own.error, tolerance), _mean(*alone_at, weight, tolerance)),
                Balls(_with_tolerance(*least, tolerance), _mean(here, bars, weight, tolerance)),
                share,
            )
        )
    return result


def _with_tolerance(value: float, error: float, tolerance: float) -> Estimate:
    return _estimate(value, error, math.isfinite(error) and bool(error <= tolerance * abs(value)))


def _mean(radius: np.ndarray, error: np.ndarray, weight: np.ndarray, tolerance: float) -> Estimate:
    """Mean of the radii over the volume."""
    kept = (weight > 0) & ~np.isnan(radius)
    if not kept.any():
        return _estimate(math.nan, math.inf, False)
    value, bar = (float(np.average(part[kept], weights=weight[kept])) for part in (radius, error))
    return _with_tolerance(value, bar, tolerance)


def _distances(
    sources: Sequence[Points], points: Sequence[np.ndarray], geometries: Sequence[Geometry], tolerance: float
) -> list[ClassDistance]:
    """Distances of all pairs of classes, without scaling; of none where no points are given."""
    result = []
    for i, j in itertools.combinations(range(len(points)), 2):
        nearest = nearest_pair((points[i], points[j]), (geometries[i], geometries[j]), tolerance)
        paired, least = _paired(sources[i], sources[j], points[i], points[j], tolerance)
        result.append(ClassDistance(i, j, nearest, paired, least))
    return result


def nearest_pair(
    points: tuple[np.ndarray, np.ndarray], geometries: tuple[Geometry, Geometry], tolerance: float = 0.1
) -> Estimate:
    """Distance of the nearest points of two classes.

    Between the lattice points that are nearest to the true feet, which lie off by a cell c along the manifold
    and by k c^2 / 2 across it (k the normal curvature), the distance D' is at most

        sqrt(D^2 + (c_1 + c_2)^2) + (k_1 c_1^2 + k_2 c_2^2) / 2,

    and at least the least one of the lattice: so much smaller may the true D be.
    """
    nearest = nearest_neighbours(*points, 1)
    second = int(np.argmin(nearest.distances[:, 0]))
    value, ends = float(nearest.distances[second, 0]), (int(nearest.indices[second, 0]), second)
    cells = [_half_cell(p, g.grid, at) for p, g, at in zip(points, geometries, ends, strict=True)]
    curvatures = [
        float(np.ravel(g.normal_curvature.value)[at]) for g, at in zip(geometries, ends, strict=True)
    ]
    across = sum(k * c**2 / 2 for k, c in zip(curvatures, cells, strict=True))
    least = math.sqrt(max(max(value - across, 0.0) ** 2 - sum(cells) ** 2, 0.0))
    return _with_tolerance(value, value - least if math.isfinite(across) else value, tolerance)


def _half_cell(points: np.ndarray, grid: Grid, at: int) -> float:
    """Half the diagonal of the cell around a point, at most."""
    around = neighbours(grid, np.array([at]))[0]
    there = np.where(around >= 0, around, at)
    edges = np.linalg.norm(points[there].astype(np.float64) - points[at], axis=-1).max(axis=1)
    return float(edges.sum() / 2)


def _paired(
    first: Points, second: Points, a: np.ndarray, b: np.ndarray, tolerance: float
) -> tuple[Estimate, float]:
    """Mean and least distance of points of equal chart coordinates."""
    grid = first.grid
    if first.grid != second.grid:  # arrays share their grid
        grid = max(
            first.grid, second.grid, key=lambda g: math.prod(axis.stop - axis.start for axis in g.axes)
        )
        places = np.asarray(grid.coordinates(first.dtype)).reshape(-1, grid.ndim)
        a, b = (evaluate_points(part.values, places, part.dtype) for part in (first, second))
    return mean_distance(a, b, grid, tolerance)


def mean_distance(a: np.ndarray, b: np.ndarray, grid: Grid, tolerance: float = 0.1) -> tuple[Estimate, float]:
    """Mean over a chart, and least, of the distances of points ``(n, f)`` of equal coordinates."""
    lengths = np.linalg.norm(a.astype(np.float64) - b, axis=-1)
    fine, coarse = (np.average(lengths, weights=np.ravel(grid.weights(order))) for order in (4, 2))
    rounding = float(np.finfo(a.dtype).eps) * float(np.abs(a).max()) * math.sqrt(a.shape[-1])
    return _with_tolerance(float(fine), abs(float(fine - coarse)) + rounding, tolerance), float(lengths.min())
