"""What is shown of each study: its table, notes and figures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.fits import report
from manifold_jax.experiments.fits.report import CONSTANTS, Results, Trend, explicit_bound, usable
from manifold_jax.experiments.fits.runner import FITS, QUANTITIES
from manifold_jax.experiments.fits.samples import Setting
from manifold_jax.plotting.style import LENGTH, PALETTE, Figure, quantity_panels, tick_at

_MARKS = "osD^vP*"
STARRED = "* exponents that were not found in the source, or that are those of a picture only"
_LEGEND = 58  # characters in a line of a legend below a panel


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
    title: str,
    groups: Sequence[Panel],
    x_label: str,
    y_label: str,
    *,
    columns: int = 2,
    height: float = 5.4,
    unit: str = f" [{LENGTH}]",
) -> Figure:
    """Panels on logarithmic axes, in rows of ``columns`` and so many inches high."""
    title = textwrap.fill(title, 52 * min(columns, len(groups)))
    figure, pairs = quantity_panels(title, groups, (5.2, height), columns)
    fits: dict[str, Any] = {}  # by label: the panels share one legend, which covers none of them
    for at, panel in pairs:
        fits |= {line.label: handle for line in panel.lines for handle in _draw_line(at, line)}
        at.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label + unit)
        tick_at(at, [x for line in panel.lines for x in line.x])
        limits = at.get_ylim()
        curves = [
            at.plot(
                curve.x,
                curve.y,
                label=textwrap.fill(curve.label.replace(" = ", "\u00a0=\u00a0"), _LEGEND),
                **curve.style,
            )[0]
            for curve in panel.theory
        ]
        if any(curve.held for curve in panel.theory):
            at.set_ylim(limits)
        at.set_title(panel.title, fontsize=10)
        at.grid(alpha=0.3)
        if curves:
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
            at.legend(handles=curves, fontsize=8, frameon=False, **place)
    starred = any("*" in curve.label for panel in groups for curve in panel.theory)
    if fits or starred:
        place = {"loc": "outside lower center", "ncols": 2 * min(columns, len(groups))}
        words = {"title": STARRED if starred else None, "title_fontsize": 8, "fontsize": 8}
        figure.legend(handles=[*fits.values()], frameon=False, **place, **words)
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


def colour_of(fit: str) -> str:
    """The colour of a fit, the same in all figures."""
    return PALETTE[list(FITS).index(fit) % len(PALETTE)]


def fit_line(trend: Trend, label: str = "", style: str = "") -> Line:
    """The errors of a trend, by default under the name and with the mark of its fit."""
    fit = trend.series.fit
    style = style or _MARKS[list(FITS).index(fit) % len(_MARKS)] + "-"
    good = usable(trend.series, trend.quantity)
    return Line(label or FITS[fit].label, trend.series.sizes, trend.errors, colour_of(fit), style, good)


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
            label = f"{curve.label}, to {FITS[trend.series.fit].label}"
            curves[curve.rate.name] = Theory(label, n, np.asarray(curve(n)), style, held=True)
    return list(curves.values())


def _bound(setting: Setting, sizes: Sequence[int]) -> list[Theory]:
    """The explicit bound from the size on at which it says something, for small, medium and large C."""
    n = np.geomspace(min(sizes), max(sizes), 60)
    bound = explicit_bound(setting, n)
    if bound is None:
        return []
    facts = f"V = {setting.volume:.3g}, τ = {setting.reach:.3g}, R = {setting.radius:.3g}"
    curves = []
    for k in (0, len(CONSTANTS) // 2, len(CONSTANTS) - 1):
        label = (
            f"explicit bound* of the RMS (Fefferman et al. 2016), {facts}, C = {CONSTANTS[k]:g}: "
            f"vacuous below n = {float(bound.least_samples[k, 0]):.2g}"
        )
        keep, values = ~np.asarray(bound.vacuous[k]), np.asarray(bound.root_mean_square[k])
        style = {"color": PALETTE[1], "lw": 1.5, "ls": ("-", "--", ":")[len(curves)]}
        curves.append(Theory(label, n[keep], values[keep], style))
    return curves


def outcome_of(
    results: Results, title: str, rows: list[Row], notes: list[str], drawn: dict[str, Figure]
) -> Outcome:
    """An outcome with the numbers that all studies have; figures are given by the ends of their names."""
    named = {f"{results.name}{end}": figure for end, figure in drawn.items()}
    return Outcome(title, rows, report.numbers(results), named, notes, headline=_in_short(rows))


def _in_short(rows: Sequence[Row]) -> str:
    """Slopes of the first setting, or errors where there is none, in words."""
    column = next(name for name in ("slope [95 %]", "RMS") if name in rows[0])
    of = next(name for name in ("setting", "fixed", "D") if name in rows[0])
    here = [row for row in rows if row[of] == rows[0][of] and row.get("where", "all") == "all"]
    here = [row for row in here if row.get("noise") == rows[0].get("noise")]
    here = [row for row in here if of != "D" or row["n"] == rows[-1]["n"]]
    words = [f"{row['fit']} {_number(row[column])}" for row in here]
    where = f"D = {rows[0][of]}, n = {rows[-1]['n']}" if of == "D" else rows[0][of]
    return f"{column.removesuffix(' [95 %]')}, {where}: {', '.join(words)}."


def _number(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def show_slopes(results: Results) -> Outcome:
    """Slopes of the Hausdorff distance in n; figures of both errors, one for each noise."""
    trends = results.of("hausdorff")
    notes = [
        "slope: of log(Hausdorff) on log n over the upper half of the sizes (on a log axis) at which at most "
        "1 % of the test points are lost; error: its median at the largest of them; lost: share at the "
        "largest n.",
        "theory: slope of n^(-k/d), h^k the order of the fit, and in brackets of (log n / n)^(k/d) over the "
        "same sizes; with normal noise (+nor) of the minimax upper bound, with ambient noise (+amb) of the "
        "minimax lower bound, which no fit can beat. A fixed number of test points does not see the largest "
        "gap, and with it the logarithm, once n is larger.",
        "Test points lie on the manifold, and as many off it, by up to a tenth of the reach; the Hausdorff "
        "distance takes both, the other errors the former. In figures hollow marks lost more than 1 %.",
        *(f"{name}: {FITS[name].about}." for name in results.plan.fits),
        "Hausdorff slopes agree with (* exponents not verified):",
        *map(report.rate_words, trends),
        *(report.bound_words(results, setting) for setting in results.settings),
    ]
    captions = {"hausdorff": "rates with fitted constants", "rms": "the explicit bound"}
    drawn = {}
    for noise in dict.fromkeys(setting.noise for setting in results.settings):
        for quantity, caption in captions.items():
            groups = setting_panels(results, quantity, noise)
            drawn_with = f"; {caption}" if any(panel.theory for panel in groups) else ""
            title = f"{QUANTITIES[quantity]}, {noise.replace('none', 'no')} noise{drawn_with}"
            drawn[f"-{quantity}-{noise}"] = size_figure(title, groups, quantity)
    what = f" of images of {results.plan.pixels} pixels" if results.plan.data else ""
    title = f"Error of fits{what} against n: slopes of the Hausdorff distance"
    return outcome_of(results, title, [trend.row for trend in trends], notes, drawn)


def show_reach(results: Results) -> Outcome:
    """Slopes of the Hausdorff distance in n for each reach, and in the reach for each n."""
    fits, sizes = results.plan.fits, results.plan.sizes
    columns = ("slope [95 %]", "theory", "error")
    rows = [
        {"fit": fit, "fixed": row["setting"], "in": "n", **{name: row[name] for name in columns}}
        for fit in fits
        for row in (trend.row for trend in results.of("hausdorff", fit=fit))
    ]
    rows += [_row_in_tau(results, fit, size) for fit in fits for size in sizes]
    notes = [
        "slope in tau: of log(Hausdorff) on log tau at fixed n, over the tori on which at most 1 % of "
        "the test points are lost. Volume grows with tau here (V = 4 pi^2 R r), so that h^2 grows like tau.",
        "theory in tau, for h below tau: h^k tau^(1-k) with h^2 = V / n gives tau^(1 - k/2).",
        *(report.bound_words(results, setting) for setting in results.settings),
    ]
    groups = []
    for fit in fits:
        curves = [(f"n = {size}", *_over_reach(results, fit, size)) for size in sizes]
        lines = [Line(*curve, colour) for curve, colour in zip(curves, PALETTE, strict=False)]
        groups.append(Panel(FITS[fit].label, [line for line in lines if len(line.x)]))
    title, axis = "Hausdorff error of tori, R = 2", f"reach tau = minor radius [{LENGTH}]"
    explicit = "Tori of several reach: RMS and the explicit bound"
    drawn = {"": error_figure(title, groups, axis, "Hausdorff distance", columns=3, height=4.2)}
    drawn["-rms"] = size_figure(explicit, setting_panels(results, "rms"), "rms")
    return outcome_of(results, "Error of fits of tori against their reach", rows, notes, drawn)


def _row_in_tau(results: Results, fit: str, size: int) -> Row:
    radii, errors = _over_reach(results, fit, size)
    order = FITS[fit].order
    # Only ratios count, and the slope is taken over numbers from 2.
    measured = report.fit_slope(2.0 * radii / radii.min(), errors, results.seed) if len(radii) > 1 else None
    return {
        "fit": fit,
        "fixed": f"n = {size}",
        "in": "tau",
        "slope [95 %]": report.slope_words(measured),
        "theory": "-" if order is None else f"{1 - order / 2:.2f}",
        "error": f"{np.median(errors[-1]):.2e}" if len(radii) else "-",
    }


def _over_reach(results: Results, fit: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Reaches and Hausdorff errors ``(reaches, seeds)`` at one size, where few points are lost."""
    pairs = [
        (trend.series.setting.reach, trend.errors[k])
        for trend in results.of("hausdorff", fit=fit)
        for k in np.flatnonzero((trend.series.sizes == size) & report.usable(trend.series, "hausdorff"))
    ]
    return np.array([reach for reach, _ in pairs]), np.array([errors for _, errors in pairs])


def show_ambient(results: Results) -> Outcome:
    """Median errors for each ambient dimension, with and without noise."""
    fits = results.plan.fits
    rows: list[Row] = []
    for trend in (trend for fit in fits for trend in results.of("hausdorff", fit=fit)):
        setting, fit, sizes, values = trend.series
        for k, size in enumerate(sizes):
            row: Row = {"fit": fit, "n": int(size), "noise": setting.noise, "D": setting.features[0]}
            for word, quantity in (("Hausdorff", "hausdorff"), ("RMS", "rms")):
                row[word] = float(np.median(values[quantity][k]))
            rows.append(row | {"lost": report.lost_words(values["failed"][k])})
    share = f"{results.plan.noise:g} of the reach"
    notes = [f"noise: {share} on every coordinate, so that its length grows like D^(1/2)."]
    lines = []
    for fit in fits:
        (dimensions, clean), (_, noisy) = (_over_dimensions(results, fit, n) for n in ("none", "ambient"))
        change = np.nanmax(np.abs(clean / clean[0] - 1))
        notes.append(f"{fit}, no noise: RMS changes by at most {change:.1e} of itself over all D.")
        if len(dimensions) > 1 and np.isfinite(noisy).all():
            words = report.slope_words(report.fit_slope(dimensions, noisy, results.seed))
            notes.append(f"{fit}, ambient noise: slope of log RMS on log D {words}.")
        colour = colour_of(fit)
        lines.append(Line(f"{FITS[fit].label}, no noise", dimensions, clean, colour))
        lines.append(Line(f"{FITS[fit].label}, ambient noise", dimensions, noisy, colour, "s--"))
    title, panel = "Torus in R^D", Panel(f"n = {results.plan.sizes[-1]}", lines)
    figure = error_figure(title, [panel], "ambient dimension D", QUANTITIES["rms"], height=4.2)
    return outcome_of(results, "Error of fits of a torus in R^D", rows, notes, {"": figure})


def _over_dimensions(results: Results, fit: str, noise: str) -> tuple[np.ndarray, np.ndarray]:
    """Ambient dimensions and RMS errors ``(dimensions, seeds)`` at the largest size."""
    trends = [trend for trend in results.of("rms", fit=fit) if trend.series.setting.noise == noise]
    dimensions = np.array([trend.series.setting.features[0] for trend in trends])
    return dimensions, np.array([trend.errors[-1] for trend in trends])


def show_boundary(results: Results) -> Outcome:
    """Errors of closed and open manifolds; of open ones also in the interior and at the border."""
    notes = [
        "RMS and largest |x - fit(x)|: medians over seeds at the largest n; slope: of the RMS; interior: "
        "middle half of every axis; border: at its ends, where a quarter of the test points lie (the arc "
        "has two ends).",
    ]
    rows, groups = [], []
    for setting in results.settings:
        lines = []
        for fit in results.plan.fits:
            for region in ("", *setting.regions):
                names = [f"{quantity} {region}".strip() for quantity in ("rms", "maximum")]
                rms, largest = (results.of(name, setting=setting, fit=fit)[0] for name in names)
                row = {"setting": setting.name, "fit": fit, "where": region or "all"}
                row |= {"slope [95 %]": report.slope_words(rms.slope), "RMS": rms.row["error"]}
                rows.append(row | {"largest": largest.row["error"]})
                if region or not setting.regions:
                    label = FITS[fit].label + (f", {region}" if region else "")
                    lines.append(fit_line(rms, label, "s--" if region == "border" else "o-"))
        groups.append(Panel(panel_title(setting), lines))
    title = "RMS of |x - fit(x)|: closed (left), open with its interior and border (right)"
    figure = size_figure(title, groups, "rms", height=4.2)
    return outcome_of(results, "Errors with and without a boundary", rows, notes, {"": figure})
