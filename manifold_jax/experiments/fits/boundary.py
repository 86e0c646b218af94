"""How the error of a fit depends on a boundary."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from manifold_jax._files import Progress
from manifold_jax.datasets import circle, torus
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.fits.data import Setting, known_setting
from manifold_jax.experiments.fits.figures import log_ticks
from manifold_jax.experiments.fits.fits import FITS
from manifold_jax.experiments.fits.report import (
    judge,
    last_error,
    numbers,
    slope_words,
)
from manifold_jax.experiments.fits.run import Series, check_feasible, check_plan
from manifold_jax.experiments.fits.sweeps import LATTICE, LOCAL, MAJOR, Settings, computed, small_plan
from manifold_jax.experiments.fits.toys import geometric
from manifold_jax.geometry import Axis, Grid, Manifold
from manifold_jax.plotting.images import PALETTE
from manifold_jax.plotting.style import LENGTH, new_figure, panels

FULL = Settings(small_plan(LOCAL, geometric(20, 5000, 9), 20, 500))
REDUCED = Settings(small_plan(("pca", "mmls1", "mmls2"), geometric(60, 2000, 5), 4, 200))


def check(settings: Settings) -> None:
    """Refuse what makes no sense before anything starts."""
    check_plan(settings.plan)
    check_feasible(settings.plan, 2, False)


def _inner(lows: tuple[float, ...], highs: tuple[float, ...], u: Array) -> Array:
    """In the middle half of every axis."""
    share = (u - jnp.asarray(lows)) / (jnp.asarray(highs) - jnp.asarray(lows))
    return jnp.all((share > 0.25) & (share < 0.75), axis=1)


def _outer(lows: tuple[float, ...], highs: tuple[float, ...], u: Array) -> Array:
    """At an end of an axis, to rounding."""
    share = (u - jnp.asarray(lows)) / (jnp.asarray(highs) - jnp.asarray(lows))
    return jnp.any((share < 1e-6) | (share > 1 - 1e-6), axis=1)


def opened(name: str, manifold: Manifold, volume: float) -> Setting:
    """The half of every axis of a closed manifold, with open ends.

    Args:
        name: Of the patch.
        manifold: With periodic axes.
        volume: Of the patch.

    Returns:
        The setting, with the regions interior and border.
    """
    axes = tuple(
        Axis(a.name, a.start, (a.start + a.stop) / 2, a.size, unit=a.unit) for a in manifold.grid.axes
    )
    patch = Manifold(name, manifold.embedding, Grid(axes))
    lows, highs = tuple(a.start for a in axes), tuple(a.stop for a in axes)
    regions = {"interior": Partial(_inner, lows, highs), "border": Partial(_outer, lows, highs)}
    reach = manifold.known["reach"]
    assert not callable(reach)
    # The smallest ball that touches is no smaller on a part.
    return Setting(name, (patch,), volume, float(reach), regions=regions, edges=True)


def boundary(folder: Path, settings: Settings, seed: int, progress: Progress | None = None) -> Outcome:
    """An arc beside the circle, a patch beside the torus: errors in the interior and near the border.

    Args:
        folder: Where finished cells are kept.
        settings: Size.
        seed: Of all random choices.
        progress: Called with the cells done and all of them.

    Returns:
        Table, numbers, figures.
    """
    check(settings)
    plan = settings.plan
    ring, tube = circle(), torus(size=LATTICE)
    # Half of both axes: a quarter of the chart, u in [0, pi], v in [0, pi] where cos v is odd about pi / 2.
    every = [
        known_setting("circle", ring),
        opened("arc", ring, math.pi),
        known_setting("torus", tube),
        opened("patch", tube, math.pi**2 * MAJOR * 0.5),
    ]
    with jax.enable_x64(True):
        found = computed("boundary", every, plan, folder, seed, progress)
        rows: list[Row] = []
        judged = []
        for one in found:
            for region in ("", *one.setting.regions):
                largest = judge(one, f"maximum {region}".strip(), seed=seed)
                result = judge(one, f"rms {region}".strip(), seed=seed)
                judged += [largest, result]
                rows.append(
                    {
                        "setting": one.setting.name,
                        "fit": one.fit,
                        "where": region or "all",
                        "slope [95 %]": slope_words(result.slope),
                        "RMS": f"{last_error(result):.2e}",
                        "largest": f"{last_error(largest):.2e}",
                    }
                )
        others = [judge(one, "hausdorff", seed=seed) for one in found]
        notes = [
            "RMS and largest |x - fit(x)|: medians over seeds at the largest n; slope: of the RMS; interior: "
            "middle half of every axis; border: at its ends, where a quarter of the test points lie (the arc "
            "has two ends).",
        ]
        figures = {"boundary": _boundary_figure(found, every)}
        data = numbers([*judged, *others], plan, seed)
        return Outcome("Errors with and without a boundary", rows, data, figures, notes)


def _boundary_figure(found: list[Series], every: list[Setting]) -> Any:
    """Closed and open beside each other; interior and border apart."""
    figure = new_figure(
        9.6, 8.4, "RMS of |x - fit(x)|: closed (left), open with its interior and border (right)"
    )
    styles = {"": "o-", "interior": "o-", "border": "s--"}
    for at, setting in zip(panels(figure, len(every), 2), every, strict=True):
        for one in (one for one in found if one.setting is setting):
            colour = PALETTE[list(FITS).index(one.fit) % len(PALETTE)]
            for region in setting.regions or ("",):
                errors = one.values[f"rms {region}".strip()]
                keep = np.isfinite(errors).any(axis=1)
                label = f"{one.fit}, {region}" if region else one.fit
                middle = np.nanmedian(errors[keep], axis=1)
                at.plot(one.sizes[keep], middle, styles[region], color=colour, ms=4, lw=1, label=label)
        at.set(xscale="log", yscale="log", xlabel="number of samples n")
        log_ticks(at, [size for one in found for size in one.sizes])
        at.set_ylabel(f"root mean square of |x - fit(x)| [{LENGTH}]")
        at.set_title(f"{setting.name}, d = {setting.dimension}", fontsize=10)
        at.grid(alpha=0.3)
        at.legend(fontsize=7)
    return figure
