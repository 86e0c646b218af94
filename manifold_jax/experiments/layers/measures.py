"""Geometry of a union of manifolds in every layer of one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from manifold_jax._files import Progress
from manifold_jax.geometry import (
    Geometry,
    Grid,
    LayerJets,
    Manifold,
    integrate,
    layer_jets,
    reach_from_samples,
)
from manifold_jax.geometry.layers import jet_quantities
from manifold_jax.geometry.quantities import chart_ranges
from manifold_jax.geometry.report import report_on
from manifold_jax.models import Layers


class Measures(NamedTuple):
    """One number for a layer: of one layer, or arrays with layers (and runs, checkpoints) as axes.

    Attributes:
        features: Dimension of the layer.
        volume: Of all classes together.
        bend: Mean of |II| over the volume.
        mean_curvature: Mean of |H|.
        scalar_curvature: Mean of S.
        local_reach: 1 / largest normal curvature on the grid, where it is resolved.
        reach: Smaller of it and of Federer's ratio over all pairs of grid points, of all classes; an upper
            bound, for there are finitely many pairs.
        gap: Least distance between points of different classes.
        separation: Mean distance between classes over the mean distance within.
        dimension: Participation ratio (sum l)^2 / sum l^2 of the eigenvalues l of the metric, the axes of the
            chart scaled to unit length; mean over points.
        rank: Eigenvalues above 1e-4 of the largest; mean over points.
    """

    features: Float[np.ndarray, "*layers"]
    volume: Float[np.ndarray, "*layers"]
    bend: Float[np.ndarray, "*layers"]
    mean_curvature: Float[np.ndarray, "*layers"]
    scalar_curvature: Float[np.ndarray, "*layers"]
    local_reach: Float[np.ndarray, "*layers"]
    reach: Float[np.ndarray, "*layers"]
    gap: Float[np.ndarray, "*layers"]
    separation: Float[np.ndarray, "*layers"]
    dimension: Float[np.ndarray, "*layers"]
    rank: Float[np.ndarray, "*layers"]


_TOLERANCE = 0.1  # up to which an error counts as resolved

POWERS = {"volume": None, "bend": 1, "mean_curvature": 1, "scalar_curvature": 2, "local_reach": -1}
POWERS |= {"reach": -1, "gap": -1}
"""How a measure grows when the manifold shrinks to unit volume, in powers of volume^(1/d)."""


def normalised(found: Measures, dimension: int) -> Measures:
    """The same after scaling every layer to unit total volume, as Koulakis & Seibold do.

    Args:
        found: Measures as they are.
        dimension: d.

    Returns:
        Lengths divided by volume^(1/d), curvatures multiplied; what has no unit is left alone.
    """
    length = found.volume ** (1 / dimension)
    scaled = {
        name: np.ones_like(length) if power is None else getattr(found, name) * length**power
        for name, power in POWERS.items()
    }
    return found._replace(**scaled)


def stack(parts: Sequence[Measures]) -> Measures:
    """A new first axis."""
    return Measures(*(np.stack(column) for column in zip(*parts, strict=True)))


def means(geometries: Sequence[Geometry]) -> dict[str, float]:
    """Volume of a union and means over it of |II|, |H| and S.

    Args:
        geometries: Of its components.

    Returns:
        By name; where a curvature is undefined, for the metric is degenerate, it counts 0.
    """
    total = sum(float(integrate(jnp.ones(()), part.volume_element.value, part.grid)) for part in geometries)

    def mean(measure: str) -> float:
        parts = []
        for part in geometries:
            values = getattr(part, measure).value
            values = jnp.where(jnp.isfinite(values), values, 0.0)
            parts.append(float(integrate(values, part.volume_element.value, part.grid)))
        return sum(parts) / total if total > 0 else np.nan

    return {
        "volume": total,
        "bend": mean("second_form_norm"),
        "mean_curvature": mean("mean_curvature"),
        "scalar_curvature": mean("scalar_curvature"),
    }


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Between rows; in double precision, for near points."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)


def distances(points: Sequence[Float[np.ndarray, "n f"]]) -> tuple[float, float]:
    """Least distance between classes, and mean distance between them over that within them.

    Args:
        points: Of each class.

    Returns:
        Both; NaN for one class, the second also where the classes are points.
    """
    within, between, gaps = [], [], []
    for k, mine in enumerate(points):
        n = len(mine)
        squares = _squared_distances(mine, mine)
        np.fill_diagonal(squares, 0)
        within.append(np.sqrt(squares).sum() / (n * max(n - 1, 1)))
        for other in points[:k]:
            apart = np.sqrt(_squared_distances(mine, other))
            between.append(apart.mean())
            gaps.append(apart.min())
    if not gaps:
        return np.nan, np.nan
    scale = max(float(np.abs(part).max()) for part in points)
    spread = float(np.mean(within)) if np.mean(within) > 1e-6 * scale else np.nan
    return float(min(gaps)), float(np.mean(between)) / spread


def spectrum(tangents: Float[np.ndarray, "n d f"], ranges: Float[np.ndarray, "d"]) -> tuple[float, float]:
    """Participation ratio and numerical rank of the metric, means over points."""
    scaled = tangents.astype(np.float64) * ranges[:, None]
    values = np.maximum(np.linalg.eigvalsh(scaled @ scaled.transpose(0, 2, 1)), 0)
    whole = values.sum(1)
    alive = whole > 0
    values, whole = values[alive], whole[alive]
    if not len(values):
        return 0.0, 0.0
    ratio = whole**2 / (values**2).sum(1)
    return float(ratio.mean()), float((values > 1e-4 * values[:, -1:]).sum(1).mean())


def two_nn(points: Sequence[Float[np.ndarray, "n f"]]) -> float:
    """Intrinsic dimension by the ratio of the distances to two neighbours, mean over classes.

    TwoNN (Facco et al., Sci. Rep. 7, 2017) as in scikit-dimension: an opinion from samples alone, beside the
    spectrum of the metric.

    Args:
        points: Random points of each class.

    Returns:
        The dimension; NaN without scikit-dimension (``pip install "manifold_jax[estimators]"``), or where
        points coincide.
    """
    try:
        from skdim.id import TwoNN
    except ImportError:
        return np.nan
    found = []
    for part in points:
        cloud = part.reshape(len(part), -1).astype(np.float64)
        distinct = np.unique(cloud, axis=0)
        found.append(TwoNN().fit(distinct).dimension_ if len(distinct) > 20 else np.nan)
    return float(np.mean(found))


def _reach(points: np.ndarray, tangents: np.ndarray, local: float) -> float:
    """Smaller of the local part and of Federer's ratio over all pairs."""
    d = tangents.shape[1]
    if points.shape[1] <= d or not np.isfinite(tangents).all():
        return np.nan
    try:
        found = float(reach_from_samples(points, tangents, dimension=d).value)
    except ValueError:  # degenerate tangents: a layer that has lost a factor
        return np.nan
    return float(np.fmin(local, found))


def _local_reach(geometries: Sequence[Geometry]) -> float:
    """1 / largest normal curvature, of the points where it is resolved."""
    values = [
        np.asarray(part.normal_curvature.value)[np.asarray(part.normal_curvature.resolved)]
        for part in geometries
    ]
    largest = max((float(part.max()) for part in values if part.size), default=np.nan)
    return np.inf if largest == 0 else 1 / largest


def _layer(jets: Sequence[LayerJets], grids: Sequence[Grid], name: str) -> Measures:
    """Measures of one layer."""
    dtype = jets[0].vectors.dtype
    ranges = [chart_ranges(grid, dtype) for grid in grids]
    geometries = [
        report_on(jet_quantities(part, size), grid, name, _TOLERANCE)
        for part, size, grid in zip(jets, ranges, grids, strict=True)
    ]
    points = [np.asarray(part.points).reshape(len(part.points), -1) for part in jets]
    tangents = [np.asarray(part.tangents) for part in jets]
    local = _local_reach(geometries)
    gap, separation = distances(points)
    pairs = [spectrum(t, np.asarray(size)) for t, size in zip(tangents, ranges, strict=True)]
    dimension, rank = np.mean(pairs, axis=0)
    reach = _reach(np.concatenate(points), np.concatenate(tangents), local)
    numbers = means(geometries)
    if points[0].shape[1] < grids[0].ndim:  # no room for the manifold: what is left is rounding
        numbers, local = dict.fromkeys(numbers, np.nan), np.nan
    numbers |= {
        "features": points[0].shape[1],
        "local_reach": local,
        "reach": reach,
        "gap": gap,
        "separation": separation,
        "dimension": dimension,
        "rank": rank,
    }
    return Measures(**{name: np.asarray(value, np.float64) for name, value in numbers.items()})


def measure_union(
    charts: Sequence[Manifold],
    layers: Layers,
    *,
    progress: Progress | None = None,
) -> Measures:
    """Exact geometry of a union in the input and in every layer of a network.

    Args:
        charts: Its components, one for each class.
        layers: Of the network.
        progress: Called with the layers done and all of them.

    Returns:
        Measures, ``(1 + layers,)`` each. Two layers of jets are held at once.
    """
    grids = [chart.grid for chart in charts]
    coordinates = [grid.coordinates().reshape(-1, grid.ndim) for grid in grids]
    streams = [
        layer_jets(chart.embedding, layers.functions, points)
        for chart, points in zip(charts, coordinates, strict=True)
    ]
    names = ("input", *layers.names)
    found = []
    for k, (name, *jets) in enumerate(zip(names, *streams, strict=True)):
        found.append(_layer(jets, grids, name))
        if progress is not None:
            progress(k + 1, len(names))
    return stack(found)
