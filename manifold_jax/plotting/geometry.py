"""Pictures of a measured manifold: samples, histograms, pairs, maps, principal components, comparisons.

Every function takes results and returns a new ``matplotlib.figure.Figure``; nothing is shown, and no global
state of matplotlib is read or changed. Lengths are in the unit of the ambient space, written ℓ.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manifold_jax._files import replacing
from manifold_jax.geometry import Geometry
from manifold_jax.plotting.points import plot_pca as plot_pca
from manifold_jax.plotting.points import plot_samples as plot_samples
from manifold_jax.plotting.points import principal_components as principal_components
from manifold_jax.plotting.reach import plot_reach as plot_reach
from manifold_jax.plotting.style import (
    COLOURS,
    axis_label,
    colours,
    compare,
    errors,
    finite,
    label,
    limits,
    median_bar,
    new_figure,
    panels,
    shown,
    subset,
)
from manifold_jax.plotting.style import Comparison as Comparison
from manifold_jax.plotting.style import unit_of as unit_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# --- figures -----------------------------------------------------------------------------------------------


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure aside and rename it; a half-written picture never takes the name.

    Args:
        figure: The figure.
        path: Destination; its suffix (.png, .pdf, .svg) chooses the format.

    Returns:
        The path.

    Raises:
        ValueError: The file cannot be written.
    """
    path = Path(path)
    with replacing(path) as aside:
        figure.savefig(aside)
    return path


def plot_histograms(geometry: Geometry) -> Figure:
    """Histogram of every field, with its median and the median error bar.

    Args:
        geometry: The result.

    Returns:
        The figure.
    """
    measures = shown(geometry, bounds=True)
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    figure = new_figure(4.4 * columns, 3.3 * rows + 0.5, f"{geometry.name}: {geometry.grid.size} points")
    for axes, measure in zip(panels(figure, len(measures), columns), measures, strict=True):
        _histogram(axes, geometry, measure)
    return figure


def _histogram(axes: Any, geometry: Geometry, measure: str) -> None:
    values = np.asarray(getattr(geometry, measure).value).ravel()
    values = values[np.isfinite(values)]
    axes.set_xlabel(label(geometry, measure))
    axes.set_yticks([])
    if not values.size:
        axes.set_title("not defined anywhere", fontsize=10)
        return
    low, high = np.percentile(values, (0.5, 99.5))
    middle, half = float(np.median(values)), median_bar(geometry, measure)
    least = max(2 * half, 0.01 * abs(middle)) or 1.0
    margin = 0.03 * (high - low)
    low, high = min(low - margin, middle - least), max(high + margin, middle + least)
    axes.hist(values, bins=40, range=(low, high), color=COLOURS[0], alpha=0.75)
    axes.axvspan(middle - half, middle + half, color=COLOURS[1], alpha=0.3, lw=0)
    axes.axvline(middle, color=COLOURS[1], lw=1.5)
    axes.set_xlim(low, high)
    axes.locator_params(axis="x", nbins=5)
    share = geometry.verdict(measure).share
    axes.set_title(f"median {middle:.4g} ± {half:.1g}; {share:.0%} resolved", fontsize=10)


def plot_pairs(geometry: Geometry) -> Figure:
    """Scatter plot of every field against every other one, rank correlations above the diagonal.

    Args:
        geometry: The result.

    Returns:
        The figure.
    """
    measures = shown(geometry)
    n = len(measures)
    columns = {m: np.asarray(getattr(geometry, m).value).ravel() for m in measures}
    keep = np.all([np.isfinite(values) for values in columns.values()], axis=0)
    columns = {m: values[keep] for m, values in columns.items()}
    chosen = subset(int(keep.sum()))
    note = f", {len(chosen)} points drawn" if len(chosen) < keep.sum() else ""
    figure = new_figure(2.6 * n + 0.6, 2.4 * n + 0.6, f"{geometry.name}: pairs of measures{note}")
    table = figure.subplots(n, n)
    for i, row in enumerate(measures):
        for j, column in enumerate(measures):
            axes = table[i, j]
            if i < j:
                _correlation(axes, geometry, (row, column), columns)
                continue
            _pair(axes, geometry, (row, column), columns, chosen)
            axes.tick_params(labelbottom=i == n - 1, labelleft=j == 0 < i, labelsize=8)
            if i == n - 1:
                axes.set_xlabel(label(geometry, column), fontsize=9)
            if j == 0 < i:
                axes.set_ylabel(label(geometry, row), fontsize=9)
    return figure


def _pair(axes: Any, geometry: Geometry, names: tuple[str, str], columns: dict, chosen: np.ndarray) -> None:
    row, column = names
    if not len(chosen):
        return
    limits = [_range(columns[name], geometry, name) for name in (column, row)]
    axes.set_xlim(*limits[0])
    axes.locator_params(axis="x", nbins=4)
    if row == column:
        axes.hist(columns[row], bins=40, range=limits[0], color=COLOURS[0], alpha=0.75)
        axes.set_yticks([])
        return
    axes.set_ylim(*limits[1])
    axes.locator_params(axis="y", nbins=4)
    x, y = columns[column][chosen], columns[row][chosen]
    axes.scatter(x, y, s=5, color=COLOURS[0], alpha=0.25, lw=0, rasterized=True)


def _range(values: np.ndarray, geometry: Geometry, measure: str) -> tuple[float, float]:
    """Plotted range: nearly all values, never narrower than the error bar."""
    low, middle, high = np.percentile(values, (0.2, 50, 99.8))
    least = max(median_bar(geometry, measure), 0.01 * abs(middle)) or 1.0
    margin = max(0.04 * (high - low), least - (high - low) / 2, 0.0)
    return float(low - margin), float(high + margin)


def _correlation(axes: Any, geometry: Geometry, names: tuple[str, str], columns: dict) -> None:
    """Spearman's rank correlation as a number, where both fields vary by more than their bars."""
    axes.axis("off")
    pair = [columns[name] for name in names]
    varies = all(
        len(v) > 2 and np.ptp(np.percentile(v, (5, 95))) > 2 * median_bar(geometry, name)
        for v, name in zip(pair, names, strict=True)
    )
    text = "constant\nwithin bars"
    if varies:
        # Late: JAX itself installs SciPy, but its statistics take long to import.
        from scipy.stats import rankdata

        text = f"{np.corrcoef(rankdata(pair, axis=1))[0, 1]:+.2f}"
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=13 if varies else 9, color="0.3")


def plot_maps(geometry: Geometry, *, pairs: int = 6) -> Figure:
    """Map of every field over pairs of axes, the median over the other axes; a line for a curve.

    Args:
        geometry: The result.
        pairs: Largest number of pairs; those of the longest axes come first.

    Returns:
        The figure.
    """
    if geometry.grid.ndim == 1:
        return _curve_maps(geometry)
    chosen = _axis_pairs(geometry.grid.shape, pairs)
    measures = shown(geometry)
    over = ", median over the other axes" if geometry.grid.ndim > 2 else ""
    width = max(3.0 * len(chosen) + 1.6, 5.5)
    figure = new_figure(width, 2.5 * len(measures) + 0.6, f"{geometry.name}: maps{over}")
    table = figure.subplots(len(measures), len(chosen), squeeze=False)
    for row, measure in zip(table, measures, strict=True):
        values = np.asarray(getattr(geometry, measure).value)
        maps = [_median_map(values, pair) for pair in chosen]
        norm, cmap = colours(np.concatenate([m.ravel() for m in maps]), geometry, measure)
        mesh: Any = None
        for axes, pair, image in zip(row, chosen, maps, strict=True):
            vertical, horizontal = (geometry.grid.axes[k] for k in pair)
            x, y = horizontal.samples(), vertical.samples()
            mesh = axes.pcolormesh(x, y, image, norm=norm, cmap=cmap, shading="nearest", rasterized=True)
            axes.set_facecolor("0.8")
            axes.set_xlabel(axis_label(horizontal), fontsize=9)
            axes.set_ylabel(axis_label(vertical), fontsize=9)
            axes.tick_params(labelsize=8)
            axes.locator_params(nbins=4)
        figure.colorbar(mesh, ax=list(row), label=label(geometry, measure), extend="both", pad=0.01)
    return figure


def _axis_pairs(shape: tuple[int, ...], count: int) -> list[tuple[int, int]]:
    """Pairs of axes, those with most samples first, leaving out pairs of very short axes."""
    pairs = list(itertools.combinations(range(len(shape)), 2))
    pairs.sort(key=lambda pair: -shape[pair[0]] * shape[pair[1]])
    long = [pair for pair in pairs if max(shape[k] for k in pair) > 3]
    return (long or pairs)[:count]


def _median_map(values: np.ndarray, pair: tuple[int, int]) -> np.ndarray:
    """Median over all axes but two; NaN where nothing is defined."""
    others = tuple(k for k in range(values.ndim) if k not in pair)
    moved = np.moveaxis(values, pair, (0, 1)).reshape(*(values.shape[k] for k in pair), -1)
    if not others:
        return moved[..., 0]
    empty = ~np.any(np.isfinite(moved), axis=-1, keepdims=True)
    return np.where(empty[..., 0], np.nan, np.nanmedian(np.where(empty, 0.0, moved), axis=-1))


def _curve_maps(geometry: Geometry) -> Figure:
    """Fields along a curve with their bars."""
    (axis,) = geometry.grid.axes
    measures = shown(geometry)
    figure = new_figure(7.0, 2.6 * len(measures) + 0.5, f"{geometry.name}: along the curve")
    for axes, measure in zip(panels(figure, len(measures), 1), measures, strict=True):
        estimate = getattr(geometry, measure)
        value, error = np.asarray(estimate.value), np.asarray(estimate.error)
        error = np.where(np.isfinite(error), error, np.nan)
        axes.fill_between(axis.samples(), value - error, value + error, color=COLOURS[1], alpha=0.4, lw=0)
        axes.plot(axis.samples(), value, color=COLOURS[0])
        axes.set_xlabel(axis_label(axis))
        axes.set_ylabel(label(geometry, measure))
        low, high = limits(value, geometry, measure, clip=0.0)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return figure


# --- stencil against exact ---------------------------------------------------------------------------------


def plot_comparison(stencil: Geometry, exact: Geometry) -> Figure:
    """Stencil against exact values of every field: scatter, relative errors, and errors against their bars.

    Args:
        stencil: Measured by finite differences.
        exact: Measured by automatic differentiation on the same grid.

    Returns:
        The figure.

    Raises:
        ValueError: The grids differ.
    """
    table = compare(stencil, exact)
    measures = shown(exact, bounds=True)
    figure = new_figure(12.5, 3.3 * len(measures) + 0.6, f"{exact.name}: stencil against exact")
    rows = figure.subplots(len(measures), 3, squeeze=False)
    for row, measure in zip(rows, measures, strict=True):
        error, relative, bars, resolved = errors(stencil, exact, measure)
        if not error.size:
            continue
        _against(row[0], stencil, exact, measure)
        _relative_errors(row[1], relative, table[measure], measure)
        _errors_and_bars(row[2], error, bars, resolved, table[measure])
    return figure


def _against(axes: Any, stencil: Geometry, exact: Geometry, measure: str) -> None:
    x, y = (np.asarray(getattr(g, measure).value).ravel() for g in (exact, stencil))
    keep = np.flatnonzero(finite(x) & finite(y))
    both = np.concatenate([x[keep], y[keep]])
    low, high = _range(both, stencil, measure)
    chosen = keep[subset(len(keep))]
    axes.plot([low, high], [low, high], color=COLOURS[1], lw=1)
    axes.scatter(x[chosen], y[chosen], s=6, color=COLOURS[0], alpha=0.3, lw=0)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.locator_params(nbins=5)
    axes.set_title(label(exact, measure), fontsize=10)
    axes.set_xlabel("exact", fontsize=9)
    axes.set_ylabel("stencil", fontsize=9)


def _relative_errors(axes: Any, relative: np.ndarray, found: Comparison, measure: str) -> None:
    floor = np.finfo(relative.dtype).eps / 10
    clipped = np.maximum(relative, floor)
    low, high = _decades(clipped.min() / 1.5, clipped.max() * 1.5)
    axes.hist(clipped, bins=np.geomspace(low, high, 60), color=COLOURS[0], alpha=0.75)
    axes.set_xscale("log")
    _powers_only(axes.xaxis)
    axes.axvline(max(found.median, floor), color=COLOURS[1], lw=1.5)
    axes.set_yticks([])
    scale = {"volume_element": "exact value", "scalar_curvature": "|II|²"}.get(measure, "|II|")
    axes.set_xlabel(f"error / {scale}", fontsize=9)
    axes.set_title(f"median {found.median:.1e}, 95 % below {found.high:.1e}", fontsize=10)


def _decades(low: float, high: float) -> tuple[float, float]:
    """A logarithmic range of at least two decades, so that two powers of ten are on its axis."""
    centre = math.log10(low * high) / 2
    half = max(math.log10(high / low) / 2, 1.0)
    return 10 ** (centre - half), 10 ** (centre + half)


def _powers_only(axis: Any) -> None:
    from matplotlib.ticker import NullFormatter

    axis.set_minor_formatter(NullFormatter())


def _errors_and_bars(
    axes: Any, error: np.ndarray, bars: np.ndarray, resolved: np.ndarray, found: Comparison
) -> None:
    """Above the diagonal the bar covers the error."""
    good = (error > 0) & (bars > 0) & finite(bars)
    if good.any():
        low = min(np.percentile(error[good], 1), bars[good].min()) / 2
        low, high = _decades(low, max(error[good].max(), bars[good].max()) * 2)
        for mask, colour, name in (
            (resolved, COLOURS[0], "resolved"),
            (~resolved, COLOURS[2], "not resolved"),
        ):
            points = np.flatnonzero(good & mask)
            points = points[subset(len(points))]
            if len(points):
                axes.scatter(error[points], bars[points], s=6, color=colour, alpha=0.3, lw=0, label=name)
        axes.plot([low, high], [low, high], color=COLOURS[1], lw=1)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        _powers_only(axes.xaxis)
        _powers_only(axes.yaxis)
        axes.legend(loc="lower right", fontsize=8, markerscale=2)
    covered = f"{found.coverage:.1%} covered" if math.isfinite(found.coverage) else "nothing resolved"
    axes.set_title(f"{covered}, median bar / error {found.sharpness:.1f}", fontsize=10)
    axes.set_xlabel("true error", fontsize=9)
    axes.set_ylabel("error bar", fontsize=9)
