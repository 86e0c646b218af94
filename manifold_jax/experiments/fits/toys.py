"""Errors of fits of closed-form curves and surfaces against the number of samples, with and without noise."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from manifold_jax._files import Progress
from manifold_jax.datasets import circle, sphere, torus, two_moons
from manifold_jax.experiments.cells import Cells
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.fits.data import NOISES, Setting, known_setting, noisy
from manifold_jax.experiments.fits.figures import error_figure
from manifold_jax.experiments.fits.fits import FITS
from manifold_jax.experiments.fits.report import (
    Found,
    bound_words,
    judge,
    numbers,
    row,
    words,
)
from manifold_jax.experiments.fits.run import MEASURES, Plan, check_feasible, check_plan, run_cells, series

TOYS = ("circle", "moons", "sphere", "torus")
_LATTICE = 32


class Settings(NamedTuple):
    """Size of an experiment.

    Attributes:
        plan: Fits and sizes.
        noises: Kinds of noise, ``"none"`` first.
        noisy: Manifolds that are also sampled with noise.
        noise: Scale of the noise over the reach.
    """

    plan: Plan
    noises: tuple[str, ...] = NOISES
    noisy: tuple[str, ...] = TOYS
    noise: float = 0.1


def geometric(first: int, last: int, count: int) -> tuple[int, ...]:
    """Whole numbers in geometric progression.

    Args:
        first: The first.
        last: The last.
        count: How many.

    Returns:
        The numbers.

    Example:
        >>> from manifold_jax.experiments.fits.toys import geometric
        >>> geometric(5, 5000, 4)
        (5, 50, 500, 5000)
    """
    return tuple(sorted({round(float(x)) for x in np.geomspace(first, last, count)}))


FULL = Settings(Plan(tuple(FITS), geometric(5, 5000, 13), 20, (20, 100, 500, 1000, 5000), 20, 500, 5000))
REDUCED = Settings(
    Plan(tuple(FITS), geometric(20, 2000, 8), 4, (20, 200, 2000), 2, 100, 1000), noisy=("circle",)
)


def toy(name: str) -> Setting:
    """One of ``TOYS`` without noise.

    Args:
        name: Which.

    Returns:
        The setting.
    """
    makers = {
        "circle": circle,
        "moons": two_moons,
        "sphere": lambda: sphere(2, size=_LATTICE),
        "torus": lambda: torus(size=_LATTICE),
    }
    return known_setting(name, makers[name]())


def check(settings: Settings) -> None:
    """Refuse what makes no sense before anything starts."""
    check_plan(settings.plan)
    check_feasible(settings.plan, 2, False)
    for kind in settings.noises:
        noisy(toy("circle"), kind, settings.noise)


def run(folder: Path, settings: Settings, seed: int, progress: Progress | None = None) -> Outcome:
    """Errors against n for circle, two moons, sphere and torus.

    Args:
        folder: Where finished cells are kept.
        settings: Size.
        seed: Of all random choices.
        progress: Called with the cells done and all of them.

    Returns:
        Table, numbers, figures.
    """
    check(settings)
    plain = [toy(name) for name in TOYS]
    every = [
        noisy(setting, kind, settings.noise)
        for kind in settings.noises
        for setting in plain
        if kind == "none" or setting.name in settings.noisy
    ]
    title = "Error of fits against n: slopes of the Hausdorff distance"
    return study("toys", title, every, settings.plan, folder, seed, progress)


def study(
    name: str,
    title: str,
    settings: list[Setting],
    plan: Plan,
    folder: Path,
    seed: int,
    progress: Progress | None,
) -> Outcome:
    """Run all cells of some settings, and say what their slopes are.

    Args:
        name: Of the experiment and of its files.
        title: Of the table.
        settings: Manifolds and noises.
        plan: Fits and sizes.
        folder: Where finished cells are kept.
        seed: Of all random choices.
        progress: Called with the cells done and all of them.

    Returns:
        Table, numbers, figures.
    """
    cells = Cells(folder / f"{name}.cells.jsonl")
    with jax.enable_x64(True):  # errors of h^4 leave single precision early
        run_cells(settings, plan, cells, seed=seed, progress=progress)
        found = series(settings, plan, cells, seed)
        judged = {measure: [judge(one, measure, seed=seed) for one in found] for measure in MEASURES}
        main = judged["hausdorff"]
        notes = [*_legend(plan), "Hausdorff slopes agree with (* exponents not verified):"]
        notes += [f"- {words(one)}" for one in main]
        notes += [
            f"- {bound_words(setting, _of(judged['rms'], setting), plan, seed)}" for setting in settings
        ]
        data = numbers([one for group in judged.values() for one in group], plan, seed)
        figures = {}
        for kind in dict.fromkeys(setting.noise for setting in settings):
            chosen = [setting for setting in settings if setting.noise == kind]
            for measure in ("hausdorff", "rms"):
                groups = [(setting, _of(judged[measure], setting)) for setting in chosen]
                what = "rates with fitted constants" if measure == "hausdorff" else "the explicit bound"
                head = f"{MEASURES[measure]}, {kind if kind != 'none' else 'no'} noise; {what}"
                figures[f"{name}-{measure}-{kind}"] = error_figure(head, groups, measure, plan, seed)
        return Outcome(title, [row(one) for one in main], data, figures, notes)


def _of(found: list[Found], setting: Setting) -> list[Found]:
    return [one for one in found if one.series.setting is setting]


def _legend(plan: Plan) -> list[str]:
    """What the columns mean."""
    return [
        "slope: of log(Hausdorff) on log n over the upper half of the sizes (on a log axis) at which at most "
        "1 % of the test points are lost; error: its median at the largest of them; lost: share at the "
        "largest n.",
        "theory: slope of n^(-k/d), h^k the order of the fit, and in brackets of (log n / n)^(k/d) over the "
        "same sizes; with normal noise (+nor) of the minimax upper bound, with ambient noise (+amb) of the "
        "minimax lower bound, which no fit can beat. A fixed number of test "
        "points does not see the largest gap, and with it the logarithm, once n is larger.",
        "Test points lie on the manifold, and as many beside it, by up to a tenth of the reach; the "
        "Hausdorff distance takes both, the other errors the former. In figures hollow marks lost more than "
        "1 %.",
        *(f"{name}: {FITS[name].about}." for name in plan.fits),
    ]
