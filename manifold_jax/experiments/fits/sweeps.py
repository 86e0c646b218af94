"""How the error of a fit depends on the reach and on the ambient dimension."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from manifold_jax._files import Progress
from manifold_jax.datasets import torus
from manifold_jax.experiments.cells import Cells
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.fits.data import Setting, known_setting, noisy
from manifold_jax.experiments.fits.figures import error_figure, log_ticks
from manifold_jax.experiments.fits.fits import FITS
from manifold_jax.experiments.fits.report import (
    bound_words,
    judge,
    last_error,
    numbers,
    slope_words,
)
from manifold_jax.experiments.fits.run import (
    MEASURES,
    Plan,
    Series,
    check_feasible,
    check_plan,
    run_cells,
    series,
)
from manifold_jax.experiments.fits.toys import geometric
from manifold_jax.fitting.slopes import slope
from manifold_jax.geometry import Manifold
from manifold_jax.plotting.images import PALETTE
from manifold_jax.plotting.style import LENGTH, new_figure, panels

MAJOR = 2.0
LATTICE = 32


class Settings(NamedTuple):
    """Size of a sweep.

    Attributes:
        plan: Fits and sizes.
        values: What is swept over: minor radii of tori, or ambient dimensions.
        noise: Scale of the noise over the reach, where there is one.
    """

    plan: Plan
    values: tuple[float, ...] = ()
    noise: float = 0.1


LOCAL = ("pca", "mmls1", "mmls2", "mmls3")
_RADII = tuple(float(f"{r:.3g}") for r in np.geomspace(0.1, 1.0, 7))


def small_plan(fits: tuple[str, ...], sizes: tuple[int, ...], seeds: int, tests: int) -> Plan:
    """A plan whose networks, where there are any, see only the largest size."""
    return Plan(fits, sizes, seeds, sizes[-1:], seeds, tests, 5000)


REACH_FULL = Settings(small_plan((*LOCAL, "dae"), geometric(125, 8000, 7), 20, 500), _RADII)
REACH_REDUCED = Settings(
    small_plan(("pca", "mmls1", "mmls2"), (250, 1000, 4000), 3, 100), (0.1, 0.215, 0.464, 1.0)
)
AMBIENT_FULL = Settings(small_plan(LOCAL, (500, 2000), 20, 500), (3, 10, 30, 100, 300, 1000))
AMBIENT_REDUCED = Settings(small_plan(("pca", "mmls2"), (1000,), 3, 100), (3, 30, 300, 1000))


def check_reach(settings: Settings) -> None:
    """Refuse what makes no sense before anything starts."""
    check_plan(settings.plan)
    check_feasible(settings.plan, 2, False)
    if len(settings.values) < 2 or not all(0 < r < MAJOR for r in settings.values):
        raise ValueError(
            f"a sweep of the reach takes at least two minor radii in (0, {MAJOR:g}), got {settings.values}."
        )


def check_ambient(settings: Settings) -> None:
    """Refuse what makes no sense before anything starts."""
    check_plan(settings.plan)
    check_feasible(settings.plan, 2, False)
    if not settings.values or not all(d >= 3 and int(d) == d for d in settings.values):
        raise ValueError(f"a torus fits into R^D for whole D from 3, got {settings.values}.")
    noisy(known_setting("torus", torus(size=4)), "ambient", settings.noise)


# --- reach -------------------------------------------------------------------------------------------------


def reach(folder: Path, settings: Settings, seed: int, progress: Progress | None = None) -> Outcome:
    """Tori of several minor radii r, which are their reach; at fixed n, and as n grows.

    Args:
        folder: Where finished cells are kept.
        settings: Size.
        seed: Of all random choices.
        progress: Called with the cells done and all of them.

    Returns:
        Table, numbers, figures.
    """
    check_reach(settings)
    plan = settings.plan
    every = [
        known_setting(f"r = {r:g}", torus(MAJOR, r, size=LATTICE), stream="torus") for r in settings.values
    ]
    with jax.enable_x64(True):
        found = computed("reach", every, plan, folder, seed, progress)
        judged = {measure: [judge(one, measure, seed=seed) for one in found] for measure in MEASURES}
        rows: list[Row] = [
            {
                "fit": one.series.fit,
                "fixed": one.series.setting.name,
                "in": "n",
                "slope [95 %]": slope_words(one.slope),
                "theory": one.theory,
                "error": f"{last_error(one):.2e}",
            }
            for fit in plan.fits
            for one in judged["hausdorff"]
            if one.series.fit == fit
        ]
        rows += _reach_rows(found, plan, seed)
        notes = [
            "slope in tau: of log(Hausdorff) on log tau at fixed n, over the tori on which at most 1 % of "
            "the test points are lost. Volume grows with tau here (V = 4 pi^2 R r), so that h^2 grows like "
            "tau.",
            "theory in tau, for h below tau: h^k tau^(1-k) with h^2 = V / n gives tau^(1 - k/2).",
            *(
                f"- {bound_words(s, [one for one in judged['rms'] if one.series.setting is s], plan, seed)}"
                for s in every
            ),
        ]
        figures = {
            "reach": _reach_figure(found, plan),
            "reach-rms": error_figure(
                "Tori of several reach: RMS and the explicit bound",
                [(s, [one for one in judged["rms"] if one.series.setting is s]) for s in every],
                "rms",
                plan,
                seed,
            ),
        }
        data = numbers([one for group in judged.values() for one in group], plan, seed)
        return Outcome("Error of fits of tori against their reach", rows, data, figures, notes)


def _reach_rows(found: list[Series], plan: Plan, seed: int) -> list[Row]:
    """Slopes in tau at fixed n."""
    rows: list[Row] = []
    for fit in plan.fits:
        for size in plan.sizes:
            radii, errors = _across(found, fit, size)
            words = "-"
            if len(radii) >= 2:
                # Only ratios count; the function wants numbers from 2.
                scaled = jnp.asarray(2.0 * radii / radii.min())
                words = slope_words(slope(scaled, jnp.asarray(errors), key=jax.random.key(seed)))
            order = FITS[fit].order
            rows.append(
                {
                    "fit": fit,
                    "fixed": f"n = {size}",
                    "in": "tau",
                    "slope [95 %]": words,
                    "theory": "-" if order is None else f"{1 - order / 2:.2f}",
                    "error": f"{np.median(errors[-1]):.2e}" if len(radii) else "-",
                }
            )
    return rows


def _across(found: list[Series], fit: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Radii and Hausdorff errors ``(radii, seeds)`` at one size, where few points are lost."""
    radii, errors = [], []
    for one in found:
        where = np.flatnonzero(one.sizes == size)
        if one.fit != fit or not len(where):
            continue
        values, failed = one.values["hausdorff"][where[0]], one.values["failed"][where[0]]
        if np.isfinite(values).all() and (failed <= 0.01).all():
            radii.append(one.setting.reach)
            errors.append(values)
    return np.array(radii), np.array(errors)


def _reach_figure(found: list[Series], plan: Plan) -> Any:
    """Hausdorff error against tau, one line for each n."""
    figure = new_figure(
        4.6 * min(3, len(plan.fits)), 4.2 * -(-len(plan.fits) // 3), "Hausdorff error of tori, R = 2"
    )
    for at, fit in zip(panels(figure, len(plan.fits), min(3, len(plan.fits))), plan.fits, strict=True):
        for k, size in enumerate(plan.sizes):
            radii, errors = _across(found, fit, size)
            if len(radii):
                _band(at, radii, errors, PALETTE[k % len(PALETTE)], f"n = {size}")
        at.set(xscale="log", yscale="log", xlabel=f"reach tau = minor radius [{LENGTH}]")
        log_ticks(at, [one.setting.reach for one in found if one.setting.reach])
        at.set_ylabel(f"Hausdorff distance [{LENGTH}]")
        at.set_title(fit, fontsize=10)
        at.grid(alpha=0.3)
        at.legend(fontsize=8)
    return figure


def _band(at: Any, x: np.ndarray, errors: np.ndarray, colour: str, label: str) -> None:
    at.fill_between(x, errors.min(axis=1), errors.max(axis=1), color=colour, alpha=0.15, lw=0)
    at.plot(x, np.median(errors, axis=1), "o-", color=colour, ms=4, lw=1, label=label)


def computed(
    name: str, every: list[Setting], plan: Plan, folder: Path, seed: int, progress: Progress | None
) -> list[Series]:
    """Errors of all settings, from finished cells where there are any."""
    cells = Cells(folder / f"{name}.cells.jsonl")
    run_cells(every, plan, cells, seed=seed, progress=progress)
    return series(every, plan, cells, seed)


# --- ambient dimension -------------------------------------------------------------------------------------


def lifted(manifold: Manifold, dimension: int, seed: int = 0) -> Manifold:
    """The same in R^D, by a map with orthonormal columns: an isometry.

    Args:
        manifold: Of features ``(f,)``.
        dimension: D, at least f.
        seed: Of the map.

    Returns:
        The manifold, with the same closed forms.

    Example:
        >>> from manifold_jax.datasets import torus
        >>> from manifold_jax.experiments.fits.sweeps import lifted
        >>> lifted(torus(), 10).feature_shape
        (10,)
    """
    matrix = np.random.default_rng(seed).standard_normal((dimension, manifold.feature_shape[0]))
    columns = jnp.asarray(np.linalg.qr(matrix)[0], float)
    embedding = Partial(_lift, manifold.embedding, columns)
    return Manifold(manifold.name, embedding, manifold.grid, manifold.known, manifold.attributes)


def _lift(embedding: Any, columns: Array, u: Array) -> Array:
    return jnp.matmul(columns, embedding(u), precision=jax.lax.Precision.HIGHEST)


def ambient(folder: Path, settings: Settings, seed: int, progress: Progress | None = None) -> Outcome:
    """The torus in R^3, R^10, ... R^1000: the same chart points, without noise and with ambient noise.

    Args:
        folder: Where finished cells are kept.
        settings: Size.
        seed: Of all random choices.
        progress: Called with the cells done and all of them.

    Returns:
        Table, numbers, figures.
    """
    check_ambient(settings)
    plan = settings.plan
    with jax.enable_x64(True):
        base = torus(size=LATTICE)
        plain = [
            known_setting(f"D = {int(d)}", lifted(base, int(d)), stream="torus") for d in settings.values
        ]
        with_noise = [noisy(setting, "ambient", settings.noise) for setting in plain]
        found = computed("ambient", [*plain, *with_noise], plan, folder, seed, progress)
        rows: list[Row] = [
            {
                "fit": one.fit,
                "n": int(size),
                "noise": one.setting.noise,
                "D": one.setting.parts[0].feature_shape[0],
                "Hausdorff": float(np.median(one.values["hausdorff"][k])),
                "RMS": float(np.median(one.values["rms"][k])),
                "lost": f"{100 * one.values['failed'][k].mean():.0f} %",
            }
            for fit in plan.fits
            for kind in ("none", "ambient")
            for one in found
            if one.fit == fit and one.setting.noise == kind
            for k, size in enumerate(one.sizes)
        ]
        notes = _ambient_notes(found, plan, settings, seed)
        data = numbers([judge(one, m, seed=seed) for one in found for m in MEASURES], plan, seed)
        figure = _ambient_figure(found, plan)
        return Outcome("Error of fits of a torus in R^D", rows, data, {"ambient": figure}, notes)


def _ambient_notes(found: list[Series], plan: Plan, settings: Settings, seed: int) -> list[str]:
    """How much the errors change with D."""
    notes = [
        f"noise: {settings.noise:g} of the reach on every coordinate, so that its length grows like D^(1/2)."
    ]
    for fit in plan.fits:
        for kind in ("none", "ambient"):
            chosen = [one for one in found if one.fit == fit and one.setting.noise == kind]
            errors = np.array([one.values["rms"][-1] for one in chosen])
            if kind == "none":
                change = np.nanmax(np.abs(errors / errors[0] - 1))
                notes.append(f"{fit}, no noise: RMS changes by at most {change:.1e} of itself over all D.")
            elif len(chosen) > 1 and np.isfinite(errors).all():
                dims = jnp.asarray([one.setting.parts[0].feature_shape[0] for one in chosen], float)
                measured = slope(dims, jnp.asarray(errors), key=jax.random.key(seed))
                notes.append(f"{fit}, ambient noise: slope of log RMS on log D {slope_words(measured)}.")
    return notes


def _ambient_figure(found: list[Series], plan: Plan) -> Any:
    figure = new_figure(5.4, 4.4, f"Torus in R^D, n = {plan.sizes[-1]}")
    at = figure.add_subplot()
    for k, fit in enumerate(plan.fits):
        for kind, style in (("none", "o-"), ("ambient", "s--")):
            chosen = [one for one in found if one.fit == fit and one.setting.noise == kind]
            dims = [one.setting.parts[0].feature_shape[0] for one in chosen]
            errors = np.array([np.nanmedian(one.values["rms"][-1]) for one in chosen])
            label = f"{fit}, {'no' if kind == 'none' else kind} noise"
            at.plot(dims, errors, style, color=PALETTE[k], ms=5, label=label)
    at.set(xscale="log", yscale="log", xlabel="ambient dimension D")
    at.set_ylabel(f"root mean square of |x - fit(x)| [{LENGTH}]")
    at.grid(alpha=0.3)
    at.legend(fontsize=8)
    return figure
