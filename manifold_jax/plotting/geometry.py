"""Pictures of a measured manifold: histograms, pairs of fields, maps, comparisons with exact values.

Every function takes results and returns a new ``matplotlib.figure.Figure``; nothing is shown, and no global
state of matplotlib is read or changed. Lengths are in the unit of the ambient space, written ℓ.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

import manifold_jax.plotting.style as style
from manifold_jax._checks import shown, whole
from manifold_jax._files import replacing, user_path
from manifold_jax.geometry import Geometry
from manifold_jax.geometry.quantities import with_bar
from manifold_jax.plotting.style import COLOURS, Comparison, Figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure in the format of the suffix (.png, .pdf, .svg) and return the path.

    It is written aside and renamed, so that a half-written picture never takes the name; if it
    cannot be written, there is a ValueError.
    """
    path = user_path(path)
    if not hasattr(figure, "savefig"):
        raise ValueError(f"save_figure: figure must be a Figure of matplotlib, got {shown(figure)}.")
    with replacing(path) as aside:
        figure.savefig(aside)
    return path


def plot_histograms(geometry: Geometry) -> Figure:
    """Histogram of every field, with its median and the median error bar."""
    style.checked_geometry("plot_histograms", "geometry", geometry)
    title = f"{geometry.name}: {geometry.grid.size} points"
    figure, panels = style.quantity_panels(title, style.shown(geometry, bounds=True), (4.4, 3.3))
    for axes, quantity in panels:
        values = style.values_of(geometry, quantity).ravel()
        values = values[np.isfinite(values)]
        axes.set_xlabel(style.label(geometry, quantity))
        axes.set_yticks([])
        if not values.size:
            axes.set_title("not defined anywhere", fontsize=10)
            continue
        middle, bar = float(np.median(values)), style.median_bar(geometry, quantity)
        limits = style.value_range(values, 2 * bar)
        axes.hist(values, bins=40, range=limits, color=COLOURS[0], alpha=0.75)
        axes.axvspan(middle - bar, middle + bar, color=COLOURS[1], alpha=0.3, lw=0)
        axes.axvline(middle, color=COLOURS[1], lw=1.5)
        axes.set_xlim(limits)
        axes.locator_params(axis="x", nbins=5)
        share = geometry.verdict(quantity).share
        axes.set_title(f"median {with_bar(middle, bar)}; {share:.0%} resolved", fontsize=10)
    return figure


def plot_pairs(geometry: Geometry) -> Figure:
    """Scatter plot of every field against every other one, rank correlations above the diagonal."""
    style.checked_geometry("plot_pairs", "geometry", geometry)
    names = style.shown(geometry)
    n = len(names)
    fields = {name: style.values_of(geometry, name).ravel() for name in names}
    keep = np.isfinite(list(fields.values())).all(axis=0)
    fields = {name: values[keep] for name, values in fields.items()}
    chosen = style.subset(int(keep.sum()))
    note = f", {len(chosen)} points drawn" if len(chosen) < keep.sum() else ""
    figure = style.new_figure(2.6 * n + 0.6, 2.4 * n + 0.6, f"{geometry.name}: pairs of quantities{note}")
    table = figure.subplots(n, n)
    for (i, j), axes in np.ndenumerate(table):
        pair = {name: fields[name] for name in (names[j], names[i])}
        if i < j:
            _correlation(axes, geometry, pair)
            continue
        if len(chosen):
            _pair(axes, geometry, pair, chosen)
        lowest, leftmost = i == n - 1, j == 0 < i
        axes.tick_params(labelbottom=lowest, labelleft=leftmost, labelsize=8)
        x, y = (style.label(geometry, name) for name in (names[j], names[i]))
        style.name_axes(axes, x if lowest else "", y if leftmost else "")
    return figure


def _pair(axes: Any, geometry: Geometry, pair: dict[str, np.ndarray], chosen: np.ndarray) -> None:
    """One field against another, or the histogram of one."""
    ranges = [style.value_range(values, style.median_bar(geometry, name)) for name, values in pair.items()]
    x, *others = pair.values()
    axes.set_xlim(*ranges[0])
    axes.locator_params(axis="x", nbins=4)
    if not others:
        axes.hist(x, bins=40, range=ranges[0], color=COLOURS[0], alpha=0.75)
        axes.set_yticks([])
        return
    axes.set_ylim(*ranges[1])
    axes.locator_params(axis="y", nbins=4)
    axes.scatter(x[chosen], others[0][chosen], s=5, color=COLOURS[0], alpha=0.25, lw=0, rasterized=True)


def _correlation(axes: Any, geometry: Geometry, pair: dict[str, np.ndarray]) -> None:
    """Spearman's rank correlation as a number, where both fields vary by more than their bars."""
    axes.axis("off")
    varies = all(
        len(values) > 2 and np.ptp(np.percentile(values, (5, 95))) > 2 * style.median_bar(geometry, name)
        for name, values in pair.items()
    )
    text = f"{rank_correlation(*pair.values()):+.2f}" if varies else "constant\nwithin bars"
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=13 if varies else 9, color="0.3")


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's; NaN where one of the two is constant."""
    # Late: JAX itself installs SciPy, but its statistics take long to import.
    from scipy.stats import rankdata

    if (a == a[0]).all() or (b == b[0]).all():
        return math.nan
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def plot_maps(geometry: Geometry, *, pairs: int = 6) -> Figure:
    """Map of every field over pairs of axes, the median over the other axes; a line for a curve.

    At most ``pairs`` pairs are drawn, those of the longest axes first.
    """
    style.checked_geometry("plot_maps", "geometry", geometry)
    pairs = whole("plot_maps", "pairs", pairs)
    if geometry.grid.ndim == 1:
        return _curve_maps(geometry)
    chosen = _axis_pairs(geometry.grid.shape, pairs)
    names = style.shown(geometry)
    over = ", median over the other axes" if geometry.grid.ndim > 2 else ""
    width = max(3.0 * len(chosen) + 1.6, 5.5)
    figure = style.new_figure(width, 2.5 * len(names) + 0.6, f"{geometry.name}: maps{over}")
    table = figure.subplots(len(names), len(chosen), squeeze=False)
    for row, name in zip(table, names, strict=True):
        maps = [_median_map(style.values_of(geometry, name), pair) for pair in chosen]
        norm, cmap = style.colours(np.concatenate([m.ravel() for m in maps]), geometry, name)
        for axes, pair, image in zip(row, chosen, maps, strict=True):
            vertical, horizontal = (geometry.grid.axes[k] for k in pair)
            x, y = horizontal.samples(), vertical.samples()
            axes.pcolormesh(x, y, image, norm=norm, cmap=cmap, shading="nearest", rasterized=True)
            axes.set_facecolor("0.8")
            style.name_axes(axes, style.axis_label(horizontal), style.axis_label(vertical))
            axes.tick_params(labelsize=8)
            axes.locator_params(nbins=4)
        mappable, label = style.matplotlib("cm").ScalarMappable(norm, cmap), style.label(geometry, name)
        figure.colorbar(mappable, ax=list(row), label=label, extend="both", pad=0.01)
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
    title = f"{geometry.name}: along the curve"
    figure, panels = style.quantity_panels(title, style.shown(geometry), (7.0, 2.6), 1)
    for axes, quantity in panels:
        value, error = style.values_of(geometry, quantity), np.asarray(getattr(geometry, quantity).error)
        error = np.where(np.isfinite(error), error, np.nan)
        axes.fill_between(axis.samples(), value - error, value + error, color=COLOURS[1], alpha=0.4, lw=0)
        axes.plot(axis.samples(), value, color=COLOURS[0])
        style.name_axes(axes, style.axis_label(axis), style.label(geometry, quantity), size=None)
        low, high = style.limits(value, geometry, quantity, clip=0.0)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return figure


def plot_comparison(stencil: Geometry, exact: Geometry) -> Figure:
    """Stencil against exact values of every field: scatter, relative errors, and errors against their bars.

    The arguments are those of :func:`compare`.
    """
    comparisons = style.compare(stencil, exact)
    names = style.shown(exact, bounds=True)
    figure = style.new_figure(12.5, 3.3 * len(names) + 0.6, f"{exact.name}: stencil against exact")
    table = figure.subplots(len(names), 3, squeeze=False)
    for row, name in zip(table, names, strict=True):
        error, relative, bars, resolved = style.errors(stencil, exact, name)
        if error.size:
            _values(row[0], stencil, exact, name)
            _relative_errors(row[1], relative, comparisons[name], name)
            _errors_and_bars(row[2], error, bars, resolved, comparisons[name])
    return figure


def _values(axes: Any, stencil: Geometry, exact: Geometry, name: str) -> None:
    """Values of the stencil against exact ones."""
    x, y = (style.values_of(geometry, name).ravel() for geometry in (exact, stencil))
    keep = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    limits = style.value_range(np.concatenate([x[keep], y[keep]]), style.median_bar(stencil, name))
    chosen = keep[style.subset(len(keep))]
    axes.plot(limits, limits, color=COLOURS[1], lw=1)
    axes.scatter(x[chosen], y[chosen], s=6, color=COLOURS[0], alpha=0.3, lw=0)
    axes.locator_params(nbins=5)
    axes.set(xlim=limits, ylim=limits)
    axes.set_title(style.label(exact, name), fontsize=10)
    style.name_axes(axes, "exact", "stencil")


def _relative_errors(axes: Any, relative: np.ndarray, comparison: Comparison, name: str) -> None:
    """Histogram of relative errors."""
    floor = np.finfo(relative.dtype).eps / 10
    clipped = np.maximum(relative, floor)
    low, high = _decades(clipped.min() / 1.5, clipped.max() * 1.5)
    axes.hist(clipped, bins=np.geomspace(low, high, 60), color=COLOURS[0], alpha=0.75)
    axes.axvline(max(comparison.median, floor), color=COLOURS[1], lw=1.5)
    axes.set_xscale("log")
    _powers_only(axes.xaxis)
    axes.set_yticks([])
    scale = {"volume_element": "exact value", "scalar_curvature": "|II|²"}.get(name, "|II|")
    style.name_axes(axes, f"error / {scale}")
    axes.set_title(f"median {comparison.median:.1e}, 95 % below {comparison.high:.1e}", fontsize=10)


def _decades(low: float, high: float) -> tuple[float, float]:
    """A logarithmic range of at least two decades, so that two powers of ten are on its axis."""
    centre = math.log10(low * high) / 2
    half = max(math.log10(high / low) / 2, 1.0)
    return 10 ** (centre - half), 10 ** (centre + half)


def _powers_only(*axis: Any) -> None:
    """No labels between powers of ten."""
    for one in axis:
        one.set_minor_formatter(style.matplotlib("ticker").NullFormatter())


def _errors_and_bars(
    axes: Any, error: np.ndarray, bars: np.ndarray, resolved: np.ndarray, comparison: Comparison
) -> None:
    """Above the diagonal the bar covers the error."""
    good = (error > 0) & (bars > 0) & np.isfinite(bars)
    if good.any():
        low = min(np.percentile(error[good], 1), bars[good].min()) / 2
        limits = _decades(low, max(error[good].max(), bars[good].max()) * 2)
        marks = {"resolved": (resolved, COLOURS[0]), "not resolved": (~resolved, COLOURS[2])}
        for name, (mask, colour) in marks.items():
            points = np.flatnonzero(good & mask)
            points = points[style.subset(len(points))]
            if len(points):
                axes.scatter(error[points], bars[points], s=6, color=colour, alpha=0.3, lw=0, label=name)
        axes.plot(limits, limits, color=COLOURS[1], lw=1)
        axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits)
        _powers_only(axes.xaxis, axes.yaxis)
        axes.legend(loc="lower right", fontsize=8, markerscale=2)
    coverage = comparison.coverage
    covered = f"{coverage:.1%} covered" if math.isfinite(coverage) else "nothing resolved"
    axes.set_title(f"{covered}, median bar / error {comparison.sharpness:.1f}", fontsize=10)
    style.name_axes(axes, "true error", "error bar")
