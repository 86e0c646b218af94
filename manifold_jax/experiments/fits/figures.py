"""Figures on fits of Koulakis & Seibold (arXiv 2606.15760), by the presets of manifold-microscope 0.2.0."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from manifold_jax import fitting
from manifold_jax._checks import choice, whole
from manifold_jax.datasets import coil20, sprite
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.fits import report
from manifold_jax.experiments.fits.outcomes import (
    Panel,
    Theory,
    error_figure,
    fit_line,
    outcome_of,
    panel_title,
)
from manifold_jax.experiments.fits.report import Results, Trend
from manifold_jax.experiments.fits.runner import FITS, Plan
from manifold_jax.experiments.fits.samples import Setting
from manifold_jax.plotting.style import PALETTE

_STEP, _FIRST, _LAST = 0.5 / 21, 3, 18  # scales of the lattice: 22 from 0.5 to 1, without 3 at either end
_SHAPES = ("square", "ellipse", "heart")
_SPRITES = ("scale", "orientation", "y", "x")
_BY_DIMENSION = {1: ("orientation",), 2: _SPRITES[:2], 3: _SPRITES[:3], 4: _SPRITES}
_BLUR = 0.8  # pixels
_OBJECTS = range(1, 21)  # of COIL-20
_TURNTABLE = {1: {"view": 18}, 2: {"view": 18, "rotation": 16}, 3: {"view": 18, "zoom": 16, "rotation": 16}}

LATTICES = ("dsprites", "dsprites-once", "coil20")
"""Unions of images: three sprites on the lattice of the paper, which turns all of them by 2 pi (a square
comes four times, an ellipse twice); the same with every image once; all objects of COIL-20."""


def lattices(plan: Plan) -> list[Setting]:
    """The union of all classes, for each data set and dimension; COIL-20 where its place is given."""
    settings = []
    for data in plan.data:
        choice("bounds", "data", data, LATTICES)
        if data == "coil20" and plan.path is None:
            continue
        for dimension in plan.dimensions[data]:
            whole("bounds", f"a dimension of {data}", dimension, 1, 3 if data == "coil20" else 4)
            settings.append(_union(data, dimension, plan.pixels, plan.path))
    return settings


@cache
def _union(data: str, dimension: int, pixels: int, path: Path | None) -> Setting:
    if data == "coil20":
        sizes = _TURNTABLE[dimension]
        options: dict[str, Any] = {"factors": tuple(sizes), "size": pixels, "sizes": sizes}
        parts = tuple(coil20(path, number, **options) for number in _OBJECTS)
        return Setting(f"{data} {dimension}", parts, grids=tuple(part.grid for part in parts))
    factors, centre = _BY_DIMENSION[dimension], (pixels - 1) / 2
    place = (centre - pixels / 4, centre + pixels / 4 - pixels / 32)  # 16 places, 2 of 64 pixels apart
    ranges = {"scale": (0.5 + _FIRST * _STEP, 0.5 + _LAST * _STEP), "y": place, "x": place}
    fixed = {"scale": ranges["scale"][1], "y": place[0], "x": place[0]}
    options = {"factors": factors, "layout": "balanced", "size": pixels, "blur": _BLUR}
    options["ranges"] = {name: ranges[name] for name in factors if name in ranges}
    options["fixed"] = {name: value for name, value in fixed.items() if name not in factors}
    parts = tuple(sprite(shape, **options) for shape in _SHAPES)
    turned = [sprite(shape, **options, full_turn=data == "dsprites") for shape in _SHAPES]
    return Setting(f"{data} {dimension}", parts, grids=tuple(part.grid for part in turned))


_DRAWN = {
    "perpendicular_hausdorff_lower": (0.01, PALETTE[2]),
    "perpendicular_hausdorff_upper": (0.99, PALETTE[2]),
    "small_additive_hausdorff_upper_as_drawn": (0.99, PALETTE[4]),
}
"""Rates that the paper draws, each through which quantile of the fitted line over the rate."""


def fitted_line(trend: Trend) -> tuple[float, np.ndarray, np.ndarray]:
    """The line of the paper: -alpha, sizes and values of the least squares of log mean error on log n."""
    sizes, errors = trend.series.sizes, np.nanmean(trend.errors, axis=1)
    slope, height = np.polyfit(np.log(sizes), np.log(errors), 1)
    return float(slope), sizes, np.exp(height + slope * np.log(sizes))


def local_slopes(trend: Trend) -> tuple[float, float]:
    """Slopes of the log mean error over the lower half of the sizes, on a log axis, and of the last two."""
    x, y = np.log(trend.series.sizes), np.log(np.nanmean(trend.errors, axis=1))
    lower = x <= max((x[0] + x[-1]) / 2, x[1])
    return float(np.polyfit(x[lower], y[lower], 1)[0]), float(np.diff(y)[-1] / np.diff(x)[-1])


def bracket(trend: Trend) -> list[fitting.Curve]:
    """The rates that the paper draws around the line."""
    _, sizes, line = fitted_line(trend)
    dimension = trend.series.setting.dimension
    return [
        fitting.fit_constant(sizes, line, fitting.RATES[name], dimension, kind="quantile", level=level)
        for name, (level, _) in _DRAWN.items()
    ]


def _row(results: Results, trend: Trend) -> Row:
    """The error of the paper with its line and our slope; our error with its slope; slopes of the rates."""
    series, setting = trend.series, trend.series.setting
    both = results.of("hausdorff", setting=setting, fit=series.fit)[0]
    lower, last = local_slopes(trend)
    row: Row = {
        "setting": setting.name,
        "fit": series.fit,
        "repetitions": trend.errors.shape[1],
        "n": f"{series.sizes[0]} to {series.sizes[-1]}",
        "error": f"{np.nanmean(trend.errors[0]):.3g} to {np.nanmean(trend.errors[-1]):.3g}",
        "line": round(fitted_line(trend)[0], 3),
        "lower half": round(lower, 3),
        "last two": round(last, 3),
        "slope [95 %]": report.slope_words(trend.slope),
        "two-sided": f"{np.nanmean(both.errors[-1]):.3g}",
        "its slope [95 %]": report.slope_words(both.slope),
    }
    for curve in bracket(trend):
        effective = fitting.effective_slope(curve.rate, series.sizes, setting.dimension)
        row[_SHORT[curve.rate.name]] = round(float(effective), 3)
    return row | {"(log n / n)^(2/d)": "-" if trend.theory is None else f"{trend.theory[1]:.3f}"}


_SHORT = {
    "perpendicular_hausdorff_lower": "n^(-2/(2+d))",
    "perpendicular_hausdorff_upper": "(log n / n)^(2/(2+d))",
    "small_additive_hausdorff_upper_as_drawn": "(log n / n)^(1/d)",
}


def _panel(results: Results, setting: Setting) -> Panel:
    lines, theory = [], []
    for trend in results.of("maximum", setting=setting):
        both = results.of("hausdorff", setting=setting, fit=trend.series.fit)[0]
        name = FITS[trend.series.fit].label
        lines += [fit_line(trend, f"{name}, |x - fit(x)|")]
        lines += [fit_line(both, f"{name}, two-sided", "s--")]
        if not theory:
            for curve in bracket(trend):
                level, colour = _DRAWN[curve.rate.name]
                style = {"ls": ":" if level > 0.5 else "-.", "color": colour, "lw": 1.5}
                n = np.geomspace(trend.series.sizes[0], trend.series.sizes[-1], 40)
                theory.append(Theory(curve.label, n, np.asarray(curve(n)), style))
    return Panel(panel_title(setting), lines, theory)


def show_figure(differences: str, results: Results) -> Outcome:
    """The figure of the paper, with our error and our slopes."""
    trends = results.of("maximum")
    images = [setting for setting in results.settings if setting.grids]
    notes = [
        "error: largest |x - fit(x)| over the test points, mean over the repetitions at the least and at the "
        "largest n; line: slope of the least squares of its logarithm on log n over all n, minus the alpha "
        "of the paper; lower half, last two: of the lower half of the sizes (on a log axis) and of the last "
        "two; slope: of the upper half, with an interval from the repetitions.",
        "A line through all sizes has the slope of a rate only where these slopes are equal. The largest "
        "size of a lattice is all of it but its test images: neighbours on all sides, no sample any more.",
        "two-sided: the larger of the distances of images of test points from the manifold, refined in its "
        "chart, and of test points from the nearest image.",
        "Slopes of rates are effective ones over the same n; (log n / n)^(2/d) is that of the fit.",
        *(f"{name}: {FITS[name].about}." for name in results.plan.fits),
        *(_sizes_words(results, setting) for setting in images),
        *(words for trend in trends for words in _lost_words(trend)),
        f"As in the presets of manifold-microscope 0.2.0, but: {differences}",
        "Two-sided slopes agree with (* exponents not verified):",
        *map(report.rate_words, results.of("hausdorff")),
        *(report.bound_words(results, setting) for setting in results.settings),
    ]
    groups = [_panel(results, setting) for setting in results.settings]
    name = results.name.replace("figure", "Figure ")
    title = f"{name} of arXiv 2606.15760: errors, and its rates through 1 or 99 % of the line"
    columns = 2 if len(groups) < 5 else 3
    figure = error_figure(title, groups, "number of samples n", "largest error", columns=columns)
    rows = [_row(results, trend) for trend in trends]
    title = f"Errors of fits by the protocol of arXiv 2606.15760, {name.lower()}"
    outcome = outcome_of(results, title, rows, notes, {"": figure})
    for trend in trends:
        outcome.data[trend.series.setting.name][trend.series.fit]["line of the paper"] = {
            "slope": fitted_line(trend)[0],
            "curves": [curve.label for curve in bracket(trend)],
        }
    return outcome


def _sizes_words(results: Results, setting: Setting) -> str:
    tests, classes = setting.tests(results.plan.tests), len(setting.parts)
    total, different = sum(grid.size for grid in setting.grids), 0
    for part, grid in zip(setting.parts, setting.grids, strict=True):
        lengths = [[axis.stop - axis.start for axis in each.axes] for each in (grid, part.grid)]
        different += round(grid.size * float(np.prod(np.divide(lengths[1], lengths[0]))))
    copies = f" ({different} different ones)" if different < total else ""
    return f"{setting.name}: {total} images{copies} of {classes} classes, of which {tests} are test images."


def _lost_words(trend: Trend) -> list[str]:
    """Where test points were lost."""
    failed = trend.series.values["failed"].mean(axis=1)
    rows = [f"{share:.2g} at n = {n}" for n, share in zip(trend.series.sizes, failed, strict=True) if share]
    after = "the errors there are those of the others"
    name = f"{trend.series.setting.name}, {trend.series.fit}"
    return [f"{name}: share of lost test points {', '.join(rows)}; {after}."] if rows else []


_SHARES = (0.01, 0.02, 0.05, *(k / 10 for k in range(1, 11)))
_DIFFERENCES = (
    "images are smooth ones of the same factors, not rasters (shapes as in dSprites); volume elements are "
    "exact; the random numbers are others; sizes below the number of neighbours are left out, as there."
)
FIGURE3 = Plan(("ref",), (), 3, 500, data=("dsprites",), shares=_SHARES)
FIGURE3 = FIGURE3._replace(
    dimensions={"dsprites": (1, 2, 3, 4), "dsprites-once": (1, 2, 3, 4), "coil20": (3,)}
)
FEW_FIGURE3 = FIGURE3._replace(dimensions=dict.fromkeys(LATTICES, (1, 2)), shares=(0.1, 0.2, 0.5, 1.0))
show_figure3 = partial(show_figure, _DIFFERENCES)

_NETWORK = (
    f"{_DIFFERENCES} The beta-VAE has SiLU in place of ReLU, a learning rate that falls to 0, and a capacity "
    "of 20 nats that is reached at the last step, not at step 100 000."
)
FIGURE4 = FIGURE3._replace(fits=("ref", "vae-b"), steps=2_000_000, dimensions=dict.fromkeys(LATTICES, (4,)))
FEW_FIGURE4 = FIGURE4._replace(seeds=2, steps=500, shares=(0.01, 0.1, 1.0), pixels=16, tests=100)
show_figure4 = partial(show_figure, _NETWORK)

_TOYS = (
    f"{_DIFFERENCES} Toys have radius 1, not volume 1; their test points are farthest points of 2000, their "
    "sizes four to a factor of ten; COIL-20 is an interpolant of its views, and is left out without --path."
)
FIGURE5 = FIGURE3._replace(dimensions=dict.fromkeys(LATTICES, (4,)) | {"coil20": (3,)})
FIGURE5 = FIGURE5._replace(seeds=20, data=("dsprites", "coil20"))
FEW_FIGURE5 = FIGURE5._replace(seeds=4, tests=100, data=(), dimensions=FEW_FIGURE3.dimensions)
show_figure5 = partial(show_figure, _TOYS)
