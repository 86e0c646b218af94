"""Figures of measured errors on logarithmic axes, with fitted rates or the explicit bound."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from manifold_jax.experiments.fits.fits import FITS
from manifold_jax.experiments.fits.report import Results, Trend, explicit_bound, usable
from manifold_jax.experiments.fits.runner import QUANTITIES
from manifold_jax.experiments.fits.samples import Setting
from manifold_jax.plotting.style import LENGTH, PALETTE, quantity_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = "osD^vP*"
_LEGEND = 58  # characters in a line of a legend below a panel
_TICKS = 6  # at most, on the x axis


class Line(NamedTuple):
    """Errors of one fit, drawn as their median and range."""

    label: str
    x: np.ndarray  # (k,)
    errors: np.ndarray  # (k, seeds)
    colour: str
    style: str = "o-"
    good: Any = True  # (k,); marks are hollow where it is False, because points were lost


class Theory(NamedTuple):
    """A curve of theory, possibly without points; its long name stands below the panel."""

    label: str
    x: np.ndarray
    y: np.ndarray
    style: dict[str, Any]
    held: bool = False  # whether the range of the errors stays as it is


class Panel(NamedTuple):
    """The measured errors of one panel, and what theory says."""

    title: str
    lines: Sequence[Line]
    theory: Sequence[Theory] = ()


def error_figure(
    title: str, groups: Sequence[Panel], x_label: str, y_label: str, *, columns: int = 2, height: float = 5.4
) -> Figure:
    """Panels on logarithmic axes, in rows of ``columns`` and so many inches high."""
    title = textwrap.fill(title, 52 * min(columns, len(groups)))
    figure, pairs = quantity_panels(title, groups, (5.2, height), columns)
    for at, panel in pairs:
        fits = [handle for line in panel.lines for handle in _draw_line(at, line)]
        at.set(xscale="log", yscale="log", xlabel=x_label, ylabel=f"{y_label} [{LENGTH}]")
        _tick(at, [x for line in panel.lines for x in line.x])
        limits = at.get_ylim()
        curves = [
            at.plot(curve.x, curve.y, label=textwrap.fill(curve.label, _LEGEND), **curve.style)[0]
            for curve in panel.theory
        ]
        if any(curve.held for curve in panel.theory):
            at.set_ylim(limits)
        at.set_title(panel.title, fontsize=10)
        at.grid(alpha=0.3)
        if fits:
            at.add_artist(at.legend(handles=fits, fontsize=7, loc="best", framealpha=0.7))
        if curves:
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
            at.legend(handles=curves, fontsize=7, frameon=False, **place)
    return figure


def _draw_line(at: Any, line: Line) -> list[Any]:
    """The line with its band; its handle for the legend, where there is anything to draw."""
    defined = np.isfinite(line.errors).any(axis=1)
    if not defined.any():
        return []
    x, errors = line.x[defined], line.errors[defined]
    middle, lost = np.nanmedian(errors, axis=1), ~np.broadcast_to(line.good, defined.shape)[defined]
    low, high = np.nanmin(errors, axis=1), np.nanmax(errors, axis=1)
    at.fill_between(x, low, high, color=line.colour, alpha=0.15, lw=0)
    handles = at.plot(x, middle, line.style, color=line.colour, ms=4, lw=1, label=line.label)
    at.plot(x[lost], middle[lost], line.style[0], mec=line.colour, mfc="white", ms=4)
    return handles


def _tick(at: Any, values: Sequence[float]) -> None:
    """Ticks at some of the values: less than a decade has few powers of ten, and crowded labels."""
    kept = sorted({float(value) for value in values})
    kept = [kept[round(k)] for k in np.linspace(0, len(kept) - 1, min(_TICKS, len(kept)))]
    at.set_xticks(kept, [f"{value:g}" for value in kept])
    at.set_xticks([], minor=True)


def colour_of(fit: str) -> str:
    """The colour of a fit, the same in all figures."""
    return PALETTE[list(FITS).index(fit) % len(PALETTE)]


def fit_line(trend: Trend, label: str = "", style: str = "") -> Line:
    """The errors of a trend, by default under the name and with the mark of its fit."""
    fit = trend.series.fit
    style = style or _MARKS[list(FITS).index(fit) % len(_MARKS)] + "-"
    good = usable(trend.series, trend.quantity)
    return Line(label or fit, trend.series.sizes, trend.errors, colour_of(fit), style, good)


def size_figure(title: str, groups: Sequence[Panel], quantity: str, **options: Any) -> Figure:
    """Errors against the number of samples."""
    return error_figure(title, groups, "number of samples n", QUANTITIES[quantity], **options)


def setting_panels(results: Results, quantity: str, noise: str = "none") -> list[Panel]:
    """One panel a setting: RMS come with the *explicit* bound, others with rates of *fitted* constants."""
    groups = []
    for setting in results.settings:
        if setting.noise == noise:
            trends = results.of(quantity, setting=setting)
            theory = _bound(setting, results.plan.sizes) if quantity == "rms" else _rates(trends)
            groups.append(Panel(panel_title(setting), [fit_line(trend) for trend in trends], theory))
    return groups


def panel_title(setting: Setting) -> str:
    """Name and dimension."""
    return f"{setting.name}, d = {setting.dimension}"


def _rates(trends: Sequence[Trend]) -> list[Theory]:
    """Each rate of theory once, its constant fitted to the first fit that it is for."""
    curves: dict[str, Theory] = {}
    for trend in trends:
        curve = trend.curve
        if curve is not None and curve.rate.name not in curves:
            style = {"ls": ("--", "-.", ":")[len(curves) % 3], "color": "black", "lw": 1.2}
            sizes = trend.series.sizes[trend.used]
            n = np.geomspace(sizes[0], sizes[-1], 40)
            label = f"{curve.label}, to {trend.series.fit}"
            curves[curve.rate.name] = Theory(label, n, np.asarray(curve(n)), style, held=True)
    return list(curves.values())


def _bound(setting: Setting, sizes: Sequence[int]) -> list[Theory]:
    """The explicit bound from the size on at which it says something."""
    n = np.geomspace(min(sizes), max(sizes), 60)
    bound = explicit_bound(setting, n)
    if bound is None:
        return []
    label = (
        f"Fefferman-Mitter-Narayanan RMS, V = {setting.volume:.3g}, tau = {setting.reach:.3g}, "
        f"R = {setting.radius:.3g}, C = 1 (explicit, exponents not verified): vacuous below "
        f"n = {float(bound.least_samples.max()):.2g}"
    )
    keep = ~np.asarray(bound.vacuous)
    return [Theory(label, n[keep], np.asarray(bound.root_mean_square)[keep], {"color": "red", "lw": 2})]
