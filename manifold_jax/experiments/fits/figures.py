"""Figures of measured errors against n, with rates whose constant is fitted or with the explicit bound."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manifold_jax.experiments.fits.data import Setting
from manifold_jax.experiments.fits.fits import FITS
from manifold_jax.experiments.fits.report import Found, ball, explicit_bound, usable
from manifold_jax.experiments.fits.run import MEASURES, Plan
from manifold_jax.plotting.images import PALETTE
from manifold_jax.plotting.style import LENGTH, new_figure, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = "osD^vP*"


def _drawn(at: Any, found: Found) -> None:
    """Median over seeds with the range of the seeds; sizes at which points were lost are hollow."""
    fits = list(FITS)
    k = fits.index(found.series.fit)
    colour, mark = PALETTE[k % len(PALETTE)], _MARKS[k % len(_MARKS)]
    errors, sizes = found.errors, found.series.sizes
    any_value = np.isfinite(errors).any(axis=1)
    if not any_value.any():
        return
    errors, sizes, good = errors[any_value], sizes[any_value], usable(found.series, found.measure)[any_value]
    middle = np.nanmedian(errors, axis=1)
    at.fill_between(
        sizes, np.nanmin(errors, axis=1), np.nanmax(errors, axis=1), color=colour, alpha=0.15, lw=0
    )
    at.plot(sizes, middle, color=colour, lw=1)
    at.plot(sizes[good], middle[good], mark, color=colour, ms=4, label=found.series.fit)
    at.plot(sizes[~good], middle[~good], mark, mec=colour, mfc="white", ms=4)


def _fitted_curves(at: Any, found: Sequence[Found]) -> None:
    """Each rate of theory once, its constant fitted to the first fit that it is for."""
    seen = set()
    for one in found:
        curve = one.curve
        if curve is None or curve.rate.name in seen:
            continue
        style = ("--", "-.", ":")[len(seen) % 3]
        seen.add(curve.rate.name)
        sizes = one.series.sizes[one.used]
        n = np.geomspace(sizes[0], sizes[-1], 40)
        label = textwrap.fill(f"{curve.label}, to {one.series.fit}", 58)
        at.plot(n, np.asarray(curve(n)), style, color="black", lw=1.2, label=label)


def _explicit_curve(at: Any, setting: Setting, plan: Plan, seed: int) -> None:
    """The explicit bound where it is not vacuous, else a word."""
    dense = plan._replace(sizes=tuple(np.geomspace(min(plan.sizes), max(plan.sizes), 60).tolist()))
    bound = explicit_bound(setting, dense, seed)
    if bound is None:
        return
    radius = ball(setting, plan, seed)
    facts = f"V = {setting.volume:.3g}, tau = {setting.reach:.3g}, R = {radius:.3g}, C = 1"
    says = f"Fefferman-Mitter-Narayanan RMS, {facts} (explicit, exponents not verified)"
    least = float(bound.least_samples.max())
    if bool(bound.vacuous.all()):
        at.plot([], [], color="red", lw=2, label=textwrap.fill(f"{says}: vacuous below n = {least:.2g}", 58))
        return
    keep = ~np.asarray(bound.vacuous)
    sizes = np.asarray(dense.sizes)[keep]
    at.plot(sizes, np.asarray(bound.root_mean_square)[keep], color="red", lw=2, label=textwrap.fill(says, 58))
    at.axvline(least, color="red", ls=":", lw=1, label=f"explicit bound vacuous below n = {least:.2g}")


def _legends(at: Any) -> None:
    """Fits inside of the panel, curves with their long names below."""
    handles, labels = at.get_legend_handles_labels()
    names = set(FITS)
    inside = [(h, x) for h, x in zip(handles, labels, strict=True) if x in names]
    below = [(h, x) for h, x in zip(handles, labels, strict=True) if x not in names]
    if inside:
        first = at.legend(*zip(*inside, strict=True), fontsize=7, loc="best", framealpha=0.7)
        at.add_artist(first)
    if below:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
        at.legend(*zip(*below, strict=True), fontsize=7, frameon=False, **place)


def log_ticks(at: Any, values: Sequence[float], most: int = 6) -> None:
    """Ticks at some of the values: less than a decade has few powers of ten, and crowded labels."""
    kept = sorted({float(value) for value in values})
    kept = [kept[round(k)] for k in np.linspace(0, len(kept) - 1, min(most, len(kept)))]
    at.set_xticks(kept, [f"{value:g}" for value in kept])
    at.set_xticks([], minor=True)


def error_figure(
    title: str,
    groups: Sequence[tuple[Setting, Sequence[Found]]],
    measure: str,
    plan: Plan,
    seed: int,
    *,
    columns: int = 2,
) -> Figure:
    """Errors against n, one panel a setting.

    Hausdorff errors come with rates whose constant is *fitted*; root mean squares with the *explicit* bound.

    Args:
        title: Of the figure.
        groups: Settings with what was found for the measure.
        measure: One of ``MEASURES``, or that of a region.
        plan: Of the experiment.
        seed: Of the experiment.
        columns: Panels in a row.

    Returns:
        The figure.
    """
    columns = min(columns, len(groups))
    rows = -(-len(groups) // columns)
    figure = new_figure(5.2 * columns, 5.4 * rows + 0.5, textwrap.fill(title, 52 * columns))
    for at, (setting, found) in zip(panels(figure, len(groups), columns), groups, strict=True):
        for one in found:
            _drawn(at, one)
        at.set(xscale="log", yscale="log", xlabel="number of samples n")
        log_ticks(at, [size for one in found for size in one.series.sizes])
        low, high = at.get_ylim()
        if measure == "rms":
            _explicit_curve(at, setting, plan, seed)
        else:
            _fitted_curves(at, found)
            at.set_ylim(low, high)
        at.set_ylabel(f"{MEASURES.get(measure, measure)} [{LENGTH}]")
        at.set_title(f"{setting.name}, d = {setting.dimension}", fontsize=10)
        at.grid(alpha=0.3)
        _legends(at)
    return figure
