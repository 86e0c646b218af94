"""What plots share: figures and panels, colours, units and labels, ranges, errors against exact values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from manifold_jax._checks import choice, instance, require
from manifold_jax.geometry import Geometry, quantities
from manifold_jax.geometry.quantities import FIELDS, LABELS, Fields, finite_median, natural_scales
from manifold_jax.geometry.quantities import LENGTH as LENGTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # matplotlib is imported late

T = TypeVar("T")

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Colours told apart by colour-blind readers (Okabe & Ito, 2008), and grey."""

COLOURS = PALETTE[:3]  # marks, highlights and a third colour
_TICKS = 6  # at most, on the x axis
MAX_POINTS = 2000  # points drawn in a scatter plot, and images held to find principal components


def matplotlib(module: str) -> Any:
    """A module of matplotlib, imported late; ImportError with the pip command if it is not installed."""
    return require(f"matplotlib.{module}", "plots", "A plot")


def new_figure(width: float, height: float, title: str) -> Figure:
    """Empty figure with a title, drawn by Agg without any window; sizes in inches."""
    figure = matplotlib("figure").Figure(figsize=(width, height), dpi=150, layout="constrained")
    matplotlib("backends.backend_agg").FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    return figure


def name_axes(axes: Any, *names: str, size: float | None = 9) -> None:
    """Label x, y and, if there are three names, z."""
    for letter, name in zip("xyz", names, strict=False):
        getattr(axes, f"set_{letter}label")(name, fontsize=size)


def panels(figure: Figure, count: int, columns: int, **options: Any) -> list[Any]:
    """So many axes in rows of ``columns``."""
    rows = -(-count // columns)
    return [figure.add_subplot(rows, columns, k + 1, **options) for k in range(count)]


def quantity_panels(
    title: str, quantities: Sequence[T], size: tuple[float, float], columns: int = 3, **options: Any
) -> tuple[Figure, Iterator[tuple[Any, T]]]:
    """A figure with one panel for each quantity, and pairs of axes and quantity; ``size`` is of a panel."""
    columns = min(columns, len(quantities))
    rows = -(-len(quantities) // columns)
    figure = new_figure(size[0] * columns, size[1] * rows + 0.5, title)
    return figure, zip(panels(figure, len(quantities), columns, **options), quantities, strict=True)


def checked_geometry(caller: str, name: str, geometry: Any) -> Geometry:
    """A result of :func:`manifold_jax.measure`."""
    instance(caller, name, geometry, Geometry, "see measure")
    return geometry


def subset(count: int, largest: int = MAX_POINTS) -> np.ndarray:
    """Indices of all points, or of a random subset that is the same every time."""
    if count <= largest:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, largest, replace=False))


def values_of(geometry: Geometry, quantity: str) -> np.ndarray:
    """Values of a field, of the grid's shape, on the host."""
    return np.asarray(getattr(geometry, quantity).value)


def unit_of(geometry: Geometry, quantity: str) -> str:
    """Unit of a field or total, for example ``"ℓ⁴/(rad px²)"``; ``""`` for a pure number.

    Totals over an axis on which only the metric repeats (``wrap=False``) are per unit of that axis.
    """
    checked_geometry("unit_of", "geometry", geometry)
    return quantities.unit_of(choice("unit_of", "quantity", quantity, LABELS), geometry.grid)


def label(geometry: Geometry, quantity: str) -> str:
    """Name of a field with its unit."""
    name, unit = LABELS[quantity].name, unit_of(geometry, quantity)
    return f"{name} [{unit}]" if unit else name


def axis_label(axis: Any) -> str:
    """Name of an axis with its unit."""
    return f"{axis.name} [{axis.unit}]" if axis.unit else axis.name


def shown(geometry: Geometry, *, bounds: bool = False) -> tuple[str, ...]:
    """Fields that differ: a curve has only one curvature, and on a surface both bounds are equal."""
    if geometry.grid.ndim == 1:
        return ("volume_element", "mean_curvature")
    return FIELDS if bounds and geometry.grid.ndim > 2 else FIELDS[:-1]


def median_bar(geometry: Geometry, quantity: str) -> float:
    """Median error bar of a field; 0 where no point has one."""
    return finite_median(getattr(geometry, quantity).error, 0.0)


def value_range(
    values: np.ndarray, bar: float, clip: float = 0.2, margin: float = 0.04
) -> tuple[float, float]:
    """Range of nearly all values (``clip`` percent are left out at both ends) and a margin.

    It is never narrower than the error bar, or 1 % of the values, on both sides.
    """
    low, middle, high = np.percentile(values, (clip, 50, 100 - clip))
    least = max(bar, 0.01 * abs(middle)) or 1.0
    wider = max(margin * (high - low), least - (high - low) / 2, 0.0)
    return float(low - wider), float(high + wider)


def limits(values: np.ndarray, geometry: Geometry, quantity: str, clip: float = 2.0) -> tuple[float, float]:
    """Range of a colour map or axis, without a share of outliers; about 0 for the scalar curvature."""
    values = values[np.isfinite(values)]
    if not values.size:
        return -1.0, 1.0
    low, high = value_range(values, median_bar(geometry, quantity), clip, margin=0.0)
    if quantity == "scalar_curvature":
        largest = max(abs(low), abs(high))
        largest *= 1.4 if high - low < 0.1 * largest else 1.0  # a constant is not the end of the scale
        return -largest, largest
    return max(0.0, low), high  # all others are never negative, however wide the bar


def colours(values: np.ndarray, geometry: Geometry, quantity: str) -> tuple[Any, str]:
    """Normalisation and name of the colour map; diverging about 0 for the scalar curvature."""
    name = "RdBu_r" if quantity == "scalar_curvature" else "viridis"
    return matplotlib("colors").Normalize(*limits(values, geometry, quantity)), name


class Comparison(NamedTuple):
    """How far a stencil is from the exact values of one quantity.

    Attributes:
        coverage: Share of the resolved points whose error is within the bar (and the bar of the exact value).
        median: Median error, relative to the natural scale of the quantity.
        high: 95 % quantile of the same.
        sharpness: Median of bar / error over the resolved points.
        resolved: Share of resolved points.
        within: Share of all points whose error is within the bar.
    """

    coverage: float
    median: float
    high: float
    sharpness: float
    resolved: float
    within: float


def compare(stencil: Geometry, exact: Geometry) -> dict[str, Comparison]:
    """Errors of stencils and of their bars, by field, against exact values on the same grid.

    Errors are relative to the natural scale: the value itself for the volume element, |II|^2 for the scalar
    curvature, |II| for the other curvatures. Different grids are a ValueError.
    """
    checked_geometry("compare", "stencil", stencil)
    checked_geometry("compare", "exact", exact)
    if stencil.grid != exact.grid:
        raise ValueError(f"Results on different grids: {stencil.grid.shape} and {exact.grid.shape}.")
    return {quantity: _compare(stencil, exact, quantity) for quantity in FIELDS}


def _compare(stencil: Geometry, exact: Geometry, quantity: str) -> Comparison:
    error, relative, bar, resolved = errors(stencil, exact, quantity)
    if not error.size:
        return Comparison(*(math.nan,) * 6)
    bars = bar[resolved] / np.maximum(error[resolved], np.finfo(error.dtype).tiny)
    median, high = np.quantile(relative, (0.5, 0.95))
    sharpness = float(np.median(bars)) if bars.size else math.nan
    coverage = float(np.mean(bars >= 1)) if bars.size else math.nan
    within = float(np.mean(error <= bar))
    return Comparison(coverage, float(median), float(high), sharpness, float(resolved.mean()), within)


def errors(stencil: Geometry, exact: Geometry, quantity: str) -> tuple[np.ndarray, ...]:
    """Error, relative error, bar and whether resolved, at the points where both values are defined."""
    (value, bar, resolved), (truth, truth_bar, _) = (
        map(np.asarray, getattr(result, quantity)) for result in (stencil, exact)
    )
    defined = np.isfinite(value) & np.isfinite(truth)
    error = np.abs(value - truth)[defined]
    scales = natural_scales(Fields(*(values_of(exact, name) for name in FIELDS)))
    scale = np.asarray(getattr(scales, quantity))[defined]
    # In double precision, where a quotient by next to nothing does not overflow.
    relative = error / np.maximum(scale, np.finfo(error.dtype).tiny, dtype=np.float64)
    return error, relative, (bar.astype(np.float64) + truth_bar)[defined], resolved[defined]


def tick_at(at: Any, values: Sequence[float]) -> None:
    """Ticks at values far enough apart: less than a decade has few powers of ten, and crowded labels."""
    *rest, largest = sorted({float(value) for value in values})
    kept, apart = [largest], (largest / min([largest, *rest])) ** (1 / _TICKS)
    for value in reversed(rest):
        if kept[-1] >= apart * value:
            kept.append(value)
    at.set_xticks(kept, [f"{value:g}" for value in kept])
    at.set_xticks([], minor=True)
