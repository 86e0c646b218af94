"""The classes of a data set as one union of unit volume, in every layer of a network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from manifold_jax._checks import flat
from manifold_jax._files import Progress, silent
from manifold_jax.experiments.layers.trial import layer_arrays
from manifold_jax.geometry import Geometry, Grid, Manifold, Reach, measure, measure_layers
from manifold_jax.geometry.error_bars import report_on
from manifold_jax.geometry.layers import BATCH, jet_quantities, layer_jets
from manifold_jax.geometry.quantities import chart_ranges
from manifold_jax.geometry.reach import ComponentReach
from manifold_jax.geometry.reach.lattice import End
from manifold_jax.geometry.union import mean_distance, nearest_pair, unite
from manifold_jax.geometry.union_result import ClassDistance, UnionGeometry
from manifold_jax.models import Layers

TOLERANCE = 0.1  # relative error up to which something counts as resolved
FLAT = 1e-10  # eigenvalues of the metric below this share of the largest are rounding of float32 jets
SAME = 64  # points nearer than so many roundings of their length are in one place
STATUS = ("resolved", "not resolved", "degenerate", "not finite")


class LayerUnion(NamedTuple):
    """A union of classes in one layer.

    Attributes:
        name: Of the layer.
        features: Numbers of an activation.
        totals: Volume and curvatures by exact jets on the lattice, scaled to unit volume.
        pairs: Reach and distances on the coarser lattice of the pairs, by the scale of ``totals``.
        stencils: What stencils on the activations of the lattice say of volume and curvatures, or None.
        dropped: Share of the points of the pairs, of all classes, at which the metric loses rank.
        lost: Share of the points of the lattice at which a curvature or the volume is not finite.
        status: One of ``STATUS``, the worst that holds.
        why: What is wrong, empty where nothing is.
    """

    name: str
    features: int
    totals: UnionGeometry
    pairs: UnionGeometry
    stencils: UnionGeometry | None
    dropped: float
    lost: float
    status: str
    why: str


class _Sample(NamedTuple):
    """One class in one layer, on the lattice of the pairs."""

    points: Float[np.ndarray, "n f"]
    tangents: Float[np.ndarray, "n d f"]
    geometry: Geometry


def measure_unions(
    charts: Sequence[Manifold],
    layers: Layers,
    pairs: Sequence[Grid],
    *,
    accuracy: int | None = None,
    progress: Progress = silent,
) -> list[LayerUnion]:
    """The union in the input and every layer.

    Curvatures are integrated over the grids of the charts, by exact jets. After a ReLU these are the jets of
    the smooth pieces: they exist almost everywhere, at all points where no unit is exactly 0, and what is
    bent in the kinks between the pieces is not in the totals. Pairs of points are compared on the coarser
    grids ``pairs``, one for each chart: there are as many of them as points squared.

    Args:
        charts: The classes.
        layers: Of the network.
        pairs: Grids of the reach and the distances; classes of equal grids are paired at equal coordinates.
        accuracy: Order of the stencils on activations; none by default.
        progress: Called as ``progress(done, classes)``.

    Returns:
        One union for the input and every layer.
    """
    names, exact, samples = [chart.name for chart in charts], [], []
    for k, (chart, grid) in enumerate(zip(charts, pairs, strict=True)):
        exact.append(measure_layers(chart, layers.functions, layers.names, tolerance=TOLERANCE))
        samples.append(_sample(chart, layers, grid))
        progress(k + 1, len(charts))
    titles = "input", *layers.names
    stenciled = [None] * len(titles) if accuracy is None else _stencils(charts, layers, accuracy)
    columns = zip(titles, zip(*exact, strict=True), zip(*samples, strict=True), stenciled, strict=True)
    return [_unite(names, *column) for column in columns]


def _sample(chart: Manifold, layers: Layers, grid: Grid) -> list[_Sample]:
    """One class in every layer, with all its tangents, a batch of points at a time."""
    u = np.asarray(grid.coordinates()).reshape(-1, grid.ndim)
    ranges, parts = None, []
    for start in range(0, len(u), BATCH):
        batch = u[start : start + BATCH]
        fill = np.pad(batch, ((0, BATCH - len(batch)), (0, 0)), mode="edge")  # one shape, one compilation
        jets = layer_jets(chart.embedding, layers.functions, fill)
        row = []
        for part in jets:
            ranges = chart_ranges(grid, part.vectors.dtype)
            measured = (flat(part.points), part.tangents, jet_quantities(part, ranges))
            row.append(jax.tree.map(np.asarray, measured))
        parts.append(row)
    result = []
    for column in zip(*parts, strict=True):
        points, tangents, quantities = jax.tree.map(lambda *rows: np.concatenate(rows)[: len(u)], *column)
        result.append(_Sample(points, tangents, report_on(quantities, grid, chart.name, TOLERANCE)))
    return result


def _stencils(charts: Sequence[Manifold], layers: Layers, accuracy: int) -> list[tuple[Geometry, ...]]:
    """Every class in every layer by stencils on the activations, none beyond the ends of the lattice."""
    streams = [
        layer_arrays(chart, layers, np.asarray(chart.grid.coordinates()).reshape(-1, chart.grid.ndim))
        for chart in charts
    ]
    return [
        tuple(
            measure(
                np.asarray(part).reshape(*chart.grid.shape, -1),
                chart.grid,
                accuracy=accuracy,
                name=chart.name,
                tolerance=TOLERANCE,
            )
            for part, chart in zip(parts, charts, strict=True)
        )
        for parts in zip(*streams, strict=True)
    ]


def _unite(
    names: Sequence[str],
    name: str,
    exact: Sequence[Geometry],
    samples: Sequence[_Sample],
    stenciled: Sequence[Geometry] | None,
) -> LayerUnion:
    """One layer."""
    totals = unite(names, exact, None, None, tolerance=TOLERANCE)
    flat_at = [loses_rank(part.tangents) for part in samples]
    together, alone = lattice_reach(samples, flat_at, exact)
    geometries = [part.geometry for part in samples]
    pairs = unite(names, geometries, alone, together, _distances(samples), TOLERANCE, volume=totals.volume)
    stencils = None if stenciled is None else unite(names, stenciled, None, None, tolerance=TOLERANCE)
    dropped = float(np.mean(np.concatenate(flat_at)))
    lost = float(np.mean(np.concatenate([_not_finite(part) for part in exact])))
    features = samples[0].points.shape[1]
    status, why = _judge(totals, pairs, dropped, lost, features)
    return LayerUnion(name, features, totals, pairs, stencils, dropped, lost, status, why)


def loses_rank(tangents: Float[np.ndarray, "n d f"]) -> Bool[np.ndarray, "n"]:
    """At which points the tangents are dependent, to the rounding of their type."""
    vectors = tangents.astype(np.float64)
    gram = vectors @ np.swapaxes(vectors, 1, 2)
    lengths = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    scaled = np.where(lengths > 0, lengths, 1.0)
    finite = np.asarray(np.isfinite(gram).all(axis=(1, 2)))
    gram = np.where(finite[:, None, None], gram / scaled[:, :, None] / scaled[:, None], 0.0)
    values = np.linalg.eigvalsh(gram)
    return ~finite | (values[:, 0] <= FLAT * values[:, -1]) | (lengths.min(axis=1) == 0)


def _not_finite(geometry: Geometry) -> Bool[np.ndarray, "n"]:
    """At which points the volume is no number, or a curvature is none where there is volume."""
    volume, curvature = (
        np.ravel(np.asarray(part.value)) for part in (geometry.volume_element, geometry.scalar_curvature)
    )
    return ~np.isfinite(volume) | ((volume > 0) & ~np.isfinite(curvature))


def _judge(
    totals: UnionGeometry, pairs: UnionGeometry, dropped: float, lost: float, features: int
) -> tuple[str, str]:
    """The worst that is wrong with a layer, and all of it in words."""
    volume, curvature = totals.volume, totals.total_scalar_curvature
    d, reasons = totals.geometries[0].grid.ndim, []
    if not (math.isfinite(float(volume.value)) and math.isfinite(float(curvature.value))) or lost > 0:
        reasons.append((3, f"not finite at {lost:.2%} of the points" if lost else "totals are not finite"))
    if features < d:
        reasons.append((2, f"{features} features have no room for {d} dimensions"))
    elif dropped > 0:
        reasons.append((2, f"the metric loses rank at {dropped:.0%} of the points"))
    size = max(float(pair.paired.value) for pair in pairs.distances) if pairs.distances else 1.0
    for pair in pairs.distances:
        if float(pair.nearest.value) <= SAME * float(np.finfo(np.float32).eps) * size:
            both = " and ".join(totals.classes[k].name for k in (pair.first, pair.second))
            reasons.append((2, f"{both} meet"))
    unresolved = [word for word, part in (("volume", volume), ("S", curvature)) if not bool(part.resolved)]
    if unresolved:
        reasons.append((1, f"{' and '.join(unresolved)} not resolved"))
    worst = max((rank for rank, _ in reasons), default=0)
    return STATUS[worst], "; ".join(words for _, words in reasons)


def lattice_reach(
    samples: Sequence[_Sample], flat_at: Sequence[Bool[np.ndarray, "n"]], fine: Sequence[Geometry]
) -> tuple[Reach, list[Reach]]:
    """The reach of the union, and of every class alone, over pairs of lattice points.

    The radius at a point is the smaller of 1 / largest normal curvature and of Federer's ratio over all other
    points; the value is the least, and that of 1 / curvature on the ``fine`` lattice too where it is
    resolved. It is an upper bound, for what lies between the points is not known; bars hold rounding alone.
    """
    starts = np.cumsum([0, *(len(part.points) for part in samples)])
    points = np.concatenate([part.points for part in samples])
    flat_points = np.concatenate(flat_at)
    curved = np.concatenate([_curved(part.geometry, at) for part, at in zip(samples, flat_at, strict=True)])
    local = [_least_radius(part) for part in fine]
    chunks = [
        tangent_balls(points, part.tangents, start) for part, start in zip(samples, starts, strict=False)
    ]
    blocks = [slice(start, stop) for start, stop in itertools.pairwise(starts)]
    alone = []
    for block, chunk, least in zip(blocks, chunks, local, strict=True):
        near = [part[:, block] for part in chunk]
        alone.append(_as_reach("class", near, curved[block], flat_points[block], least))
    every = [np.concatenate(parts) for parts in zip(*chunks, strict=True)]
    return _as_reach("union", every, curved, flat_points, min(local)), alone


def _curved(geometry: Geometry, flat_at: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """1 / largest normal curvature of every point, infinite where it is not known."""
    curvature = np.ravel(np.asarray(geometry.normal_curvature.value, np.float64))
    known = np.ravel(np.asarray(geometry.normal_curvature.resolved)) & ~flat_at & (curvature > 0)
    return np.where(known, 1 / np.where(known, curvature, 1.0), np.inf)


def _least_radius(geometry: Geometry) -> float:
    return float(_curved(geometry, np.zeros(geometry.grid.size, bool)).min())


def tangent_balls(
    points: Float[np.ndarray, "n f"], tangents: Float[np.ndarray, "m d f"], start: int
) -> tuple[np.ndarray, np.ndarray]:
    """Federer's ratio |y - x|^2 / (2 d(y - x, T_x)) of m points and all, and its rounding.

    The m points are those from ``start`` on. Both are ``(m, n)``, infinite for a point and itself, and where
    two are in one place.
    """
    y = points.astype(np.float64)
    y = y - y.mean(0)
    x = y[start : start + len(tangents)]
    frames = np.linalg.qr(np.swapaxes(tangents.astype(np.float64), 1, 2))[0]
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    squares = np.maximum(squares, 0.0)
    height = squares.copy()
    for k in range(frames.shape[2]):
        axis = np.ascontiguousarray(frames[:, :, k])
        height -= (axis @ y.T - (axis * x).sum(1)[:, None]) ** 2
    length = np.sqrt(np.maximum(squares, 0.0))
    # Squares from products lose half of the digits of a short distance.
    share = max(float(np.finfo(points.dtype).eps), float(np.finfo(np.float64).eps) ** 0.5)
    rounding = share * float(np.linalg.norm(points, axis=1).max())
    height = np.sqrt(np.maximum(height, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = squares / (2 * height)
        error = radius * (2 * rounding / length + rounding / height)
    itself = np.arange(len(points)) == start + np.arange(len(tangents))[:, None]
    nowhere = itself | (length <= SAME * rounding) | (height <= rounding)
    return np.where(nowhere, np.inf, radius), np.where(nowhere, np.inf, error)


def _as_reach(
    name: str,
    near: Sequence[np.ndarray],
    curved: Float[np.ndarray, "n"],
    flat_at: Bool[np.ndarray, "n"],
    least: float,
) -> Reach:
    """The result from the radii ``(n, n)`` of pairs and those of the curvature ``(n,)``."""
    radius, error = near
    witness = radius.argmin(1)
    here = np.arange(len(radius))
    radius, error = radius[here, witness], error[here, witness]
    bent = curved <= radius
    radius, error = np.where(bent, curved, radius), np.where(bent, TOLERANCE * curved, error)
    known = ~flat_at & np.isfinite(radius)
    radius, error = np.where(known, radius, np.nan), np.where(known, error, np.inf)
    witness: Int[np.ndarray, "n"] = np.where(known, np.where(bent, here, witness), -1)
    balls = ComponentReach(name, None, radius, error, witness, np.zeros(len(radius), bool))
    value, bar, at = math.nan, math.inf, 0
    if known.any():
        at = int(np.nanargmin(radius))
        value, bar = float(radius[at]), float(error[at])
        if least < value:
            value, bar = least, TOLERANCE * least
    ends = (End(0, np.array([at])), End(0, np.array([int(witness[at])])))
    facing = float(np.min(np.where(known & ~bent, radius, np.inf), initial=np.inf))
    local = min(float(np.min(curved, initial=np.inf)), least)
    case = "local" if local <= facing else "global"
    bars = (local, TOLERANCE * local, (local, local), facing, math.inf, math.inf)
    resolved = math.isfinite(bar) and bar <= TOLERANCE * value
    return Reach(value, bar, resolved, case, *bars, ends, 0, 0.0, (balls,), on_lattice=True)


def _distances(samples: Sequence[_Sample]) -> list[ClassDistance]:
    """Distances of all pairs of classes; those at equal coordinates where the grids are equal."""
    result = []
    for i, j in itertools.combinations(range(len(samples)), 2):
        a, b = samples[i], samples[j]
        nearest = nearest_pair((a.points, b.points), (a.geometry, b.geometry), TOLERANCE)
        if a.geometry.grid != b.geometry.grid:
            raise ValueError("classes are paired at equal coordinates: their grids must be equal.")
        paired, least = mean_distance(a.points, b.points, a.geometry.grid, TOLERANCE)
        result.append(ClassDistance(i, j, nearest, paired, least))
    return result
