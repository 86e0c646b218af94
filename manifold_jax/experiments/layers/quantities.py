"""Geometry of a union of manifolds in every layer of one network, and claims about depth that it tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from manifold_jax._checks import flat
from manifold_jax.experiments.experiment import Row
from manifold_jax.fitting import intrinsic_dimension
from manifold_jax.geometry import Geometry, Grid, LayerJets, Manifold, integrate, reach_from_samples
from manifold_jax.geometry.error_bars import report_on
from manifold_jax.geometry.layers import jet_quantities, layer_jets
from manifold_jax.geometry.quantities import chart_ranges
from manifold_jax.models import Layers
from manifold_jax.plotting.geometry import rank_correlation

_TOLERANCE = 0.1  # relative error up to which a normal curvature counts as resolved
_RANK = 1e-4  # eigenvalues of the metric above this share of the largest count for its rank
_POINTLIKE = 1e-6  # mean distance over the coordinates below which a class is a point to float32's rounding
_FEWEST = 20  # distinct points that an estimate of the dimension needs at least

Numbers = Float[np.ndarray, "*layers"]


class Quantities(NamedTuple):
    """One number for a layer: of one layer, or arrays with layers (and runs, checkpoints) as axes.

    The reach is the smaller of its local part and of Federer's ratio over all pairs of grid points, of all
    classes: an upper bound, for there are finitely many pairs. ``dimension`` and ``rank`` are means over
    points, of the eigenvalues l of the metric, the axes of the chart scaled to unit length.
    """

    features: Numbers  # of the layer
    volume: Numbers  # of all classes
    second_form_norm: Numbers  # this and the next two: means over the volume
    mean_curvature: Numbers
    scalar_curvature: Numbers
    local_reach: Numbers  # 1 / largest normal curvature on the grid, where it is resolved
    reach: Numbers
    gap: Numbers  # least distance between points of different classes
    separation: Numbers  # their mean distance over the mean distance within a class
    dimension: Numbers  # participation ratio (sum l)^2 / sum l^2
    rank: Numbers  # number of l above 1e-4 of the largest


CURVATURES = {"second_form_norm": 1, "mean_curvature": 1, "scalar_curvature": 2}
POWERS = CURVATURES | {"local_reach": -1, "reach": -1, "gap": -1}
"""How a quantity grows when the manifold shrinks to unit volume, in powers of volume^(1/d)."""


def as_quantities(**known: float) -> Quantities:
    """Numbers by name; NaN for the others."""
    numbers = dict.fromkeys(Quantities._fields, np.nan) | known
    return Quantities(**{name: np.asarray(value, np.float64) for name, value in numbers.items()})


def scale_to_unit_volume(quantities: Quantities, dimension: int) -> Quantities:
    """The same after scaling every layer to unit total volume, as Koulakis & Seibold do."""
    length = quantities.volume ** (1 / dimension)
    scaled = {name: getattr(quantities, name) * length**power for name, power in POWERS.items()}
    return quantities._replace(volume=np.ones_like(length), **scaled)


def stack(parts: Sequence[Quantities]) -> Quantities:
    """A new first axis."""
    return Quantities(*(np.stack(column) for column in zip(*parts, strict=True)))


def average(geometries: Sequence[Geometry]) -> dict[str, float]:
    """Volume of a union, and means of |II|, |H| and S over it, 0 counting where the metric is degenerate."""

    def total(name: str) -> float:
        result = 0.0
        for part in geometries:
            values = jnp.ones(()) if name == "volume" else getattr(part, name).value
            values = jnp.where(jnp.isfinite(values), values, 0.0)
            result += float(integrate(values, part.volume_element.value, part.grid))
        return result

    volume = total("volume")
    means = {name: total(name) / volume if volume > 0 else np.nan for name in CURVATURES}
    return {"volume": volume} | means


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances between rows; in double precision, for near points."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0))


def distances(points: Sequence[Float[np.ndarray, "n f"]]) -> tuple[float, float]:
    """Least distance between classes, and mean distance between them over that within them.

    NaN for one class; the second also where the classes are points.
    """
    between = [_distances(mine, other) for k, mine in enumerate(points) for other in points[:k]]
    if not between:
        return np.nan, np.nan
    within = []
    for part in points:
        matrix = _distances(part, part)
        np.fill_diagonal(matrix, 0)  # not the rounding that is there
        within.append(matrix.sum() / (len(part) * max(len(part) - 1, 1)))
    inner, scale = np.mean(within), max(np.abs(part).max() for part in points)
    inner = inner if inner > _POINTLIKE * scale else np.nan
    apart = np.mean([part.mean() for part in between])
    return float(min(part.min() for part in between)), float(apart / inner)


def spectrum(tangents: Float[np.ndarray, "n d f"], ranges: Float[np.ndarray, "d"]) -> tuple[float, float]:
    """Participation ratio and numerical rank of the metric, means over points."""
    scaled = tangents.astype(np.float64) * ranges[:, None]
    values = np.maximum(np.linalg.eigvalsh(scaled @ scaled.transpose(0, 2, 1)), 0)
    values = values[values.sum(1) > 0]
    if not len(values):
        return 0.0, 0.0
    ratio = values.sum(1) ** 2 / (values**2).sum(1)
    return float(ratio.mean()), float((values > _RANK * values[:, -1:]).sum(1).mean())


def two_nn(points: Sequence[Float[np.ndarray, "n f"]]) -> float:
    """Intrinsic dimension by TwoNN, mean over classes: an opinion from samples, next to the spectrum.

    NaN where points coincide.
    """
    estimates = []
    for part in points:
        distinct = np.unique(flat(part), axis=0)
        if len(distinct) <= _FEWEST or distinct.shape[1] == 1:
            return np.nan
        estimates.append(intrinsic_dimension(jnp.asarray(distinct), method="TwoNN").value)
    return float(np.mean(estimates))


def _reach(points: np.ndarray, tangents: np.ndarray, local: float) -> float:
    """Smaller of the local part and of Federer's ratio over all pairs."""
    d = tangents.shape[1]
    if points.shape[1] <= d or not np.isfinite(tangents).all():
        return np.nan
    try:
        return float(np.fmin(local, reach_from_samples(points, tangents, dimension=d, noise=0.0).value))
    except ValueError:  # degenerate tangents: a layer that has lost a factor
        return np.nan


def _local_reach(geometries: Sequence[Geometry]) -> float:
    """1 / largest normal curvature, of the points where it is resolved."""
    curvatures = [part.normal_curvature for part in geometries]
    values = [np.asarray(part.value)[np.asarray(part.resolved)] for part in curvatures]
    largest = max((float(part.max()) for part in values if part.size), default=np.nan)
    return np.inf if largest == 0 else 1 / largest


def _measure_layer(jets: Sequence[LayerJets], grids: Sequence[Grid], name: str) -> Quantities:
    """Quantities of one layer, from its jets on the grid of every class."""
    ranges = [chart_ranges(grid, jets[0].vectors.dtype) for grid in grids]
    reported = map(jet_quantities, jets, ranges)
    geometries = [report_on(part, grid, name, _TOLERANCE) for part, grid in zip(reported, grids, strict=True)]
    points = [flat(np.asarray(part.points)) for part in jets]
    tangents = [np.asarray(part.tangents) for part in jets]
    spectra = [spectrum(part, np.asarray(size)) for part, size in zip(tangents, ranges, strict=True)]
    dimension, rank = np.mean(spectra, axis=0)
    gap, separation = distances(points)
    local = _local_reach(geometries)
    room = points[0].shape[1] >= grids[0].ndim  # without it, what is left of the manifold is rounding
    numbers = average(geometries) | {"local_reach": local} if room else {}
    numbers |= {"gap": gap, "separation": separation, "dimension": dimension, "rank": rank}
    reach = _reach(np.concatenate(points), np.concatenate(tangents), local)
    return as_quantities(features=points[0].shape[1], reach=reach, **numbers)


def measure_union(charts: Sequence[Manifold], layers: Layers) -> Quantities:
    """Exact geometry of a union, a chart for each class, in the input and every layer, ``(1 + layers,)``."""
    grids = [chart.grid for chart in charts]
    places = [grid.coordinates().reshape(-1, grid.ndim) for grid in grids]
    streams = [layer_jets(m.embedding, layers.functions, u) for m, u in zip(charts, places, strict=True)]
    rows = zip(("input", *layers.names), *streams, strict=True)
    return stack([_measure_layer(jets, grids, name) for name, *jets in rows])


CLAIMS = {"curvature grows with depth": ("second_form_norm", 1), "reach falls with depth": ("reach", -1)}
"""Claims of Koulakis & Seibold (ICML 2026): quantity at unit volume, and sign of its rank correlation."""


def depth_correlation(values: Float[np.ndarray, "n"]) -> float:
    """Spearman's correlation of values with their order, without NaN; of three different values at least."""
    kept = values[~np.isnan(values)]
    return rank_correlation(np.arange(len(kept)), kept) if len(kept) > 2 else np.nan


def parts_of(names: tuple[str, ...]) -> dict[str, slice]:
    """The whole network; for an autoencoder its two halves too, which share the latent."""
    whole = {"all": slice(0, len(names))}
    if "latent" not in names:
        return whole
    middle = names.index("latent")
    return whole | {"encoder": slice(0, middle + 1), "decoder": slice(middle, len(names))}


def check_claims(quantities: Quantities, parts: dict[str, slice], when: str) -> list[Row]:
    """How many runs bear out each of ``CLAIMS`` in each part of the network.

    The quantities ``(runs, layers)`` are those of one checkpoint with unit volume; ``when`` names it.
    """
    rows = []
    for claim, (quantity, sign) in CLAIMS.items():
        for part, layers in parts.items():
            runs = getattr(quantities, quantity)[:, layers]
            correlations = np.array([depth_correlation(run) for run in runs])
            defined = correlations[np.isfinite(correlations)]
            row: Row = {"claim": f"{claim}, {when}", "layers": part, "runs": len(runs)}
            row["undefined in"] = len(runs) - len(defined)
            row["holds in"] = int(np.sum(np.sign(defined) == sign))
            row["rank correlation, mean"] = float(defined.mean()) if defined.size else np.nan
            row |= {"least": float(defined.min(initial=np.inf)), "most": float(defined.max(initial=-np.inf))}
            rows.append(row)
    return rows


def as_sentence(row: Row) -> str:
    """A row of :func:`check_claims` for people."""
    lost = f", undefined in {row['undefined in']}" if row["undefined in"] else ""
    share = f"in {row['holds in']} of {row['runs']} runs{lost}"
    correlation = f"{row['rank correlation, mean']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
    return f"{row['claim']}, {row['layers']}: {share}, rank correlation {correlation}."
