"""Errors of fits, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from manifold_jax._files import Progress
from manifold_jax.experiments.cells import Cells, Values, cell_name
from manifold_jax.experiments.fits.data import Probes, Setting, _key, probe_points, training_samples
from manifold_jax.experiments.fits.fits import FITS, fitted
from manifold_jax.fitting.distances import fit_distances, summarise_distances

MEASURES = {
    "hausdorff": "Hausdorff distance, both directions",
    "maximum": "largest |x - fit(x)| at test points",
    "rms": "root mean square of |x - fit(x)|",
    "mean_squared": "mean square of |x - fit(x)|",
}


class Plan(NamedTuple):
    """Which fits on which sizes.

    Attributes:
        fits: Names of ``FITS``.
        sizes: Numbers of samples.
        seeds: Repetitions.
        network_sizes: The same for networks.
        network_seeds: The same for networks.
        tests: Test points on the manifold.
        steps: Training steps of networks.
    """

    fits: tuple[str, ...]
    sizes: tuple[int, ...]
    seeds: int
    network_sizes: tuple[int, ...]
    network_seeds: int
    tests: int
    steps: int

    def sizes_of(self, fit: str, dimension: int, images: bool) -> list[int]:
        """Sizes on which a fit can run."""
        least = FITS[fit].least(dimension, images)
        sizes = self.network_sizes if FITS[fit].network else self.sizes
        return [size for size in sizes if size >= least]

    def seeds_of(self, fit: str) -> int:
        """Repetitions of a fit."""
        return self.network_seeds if FITS[fit].network else self.seeds

    @property
    def largest(self) -> int:
        """Most samples."""
        return max(*self.sizes, *self.network_sizes)


def check_plan(plan: Plan) -> None:
    """Refuse what makes no sense before anything starts.

    Raises:
        ValueError: A fit is unknown, or a number out of range.
    """
    for name in plan.fits:
        if name not in FITS:
            raise ValueError(f"no fit {name!r}: choose from {', '.join(FITS)}.")
    if not plan.fits:
        raise ValueError(f"at least one fit is needed: choose from {', '.join(FITS)}.")
    if min(plan.seeds, plan.network_seeds) < 2:
        raise ValueError("seeds must be at least 2: an interval of a slope needs them.")
    for name, least in (("tests", 8), ("steps", 1)):
        if getattr(plan, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(plan, name)}.")
    for sizes in (plan.sizes, plan.network_sizes):
        check_sizes(sizes)


def check_sizes(sizes: Sequence[int]) -> None:
    """Refuse what are no numbers of samples."""
    if len(set(sizes)) != len(sizes) or not sizes or min(sizes) < 2:
        raise ValueError(f"sizes must be different whole numbers from 2, got {tuple(sizes)}.")


def check_feasible(plan: Plan, dimension: int, images: bool) -> None:
    """Refuse a fit that no size has enough samples for."""
    for name in plan.fits:
        if not plan.sizes_of(name, dimension, images):
            least = FITS[name].least(dimension, images)
            raise ValueError(f"{name} needs at least {least} samples for d = {dimension}: raise --sizes.")


class Job(NamedTuple):
    """One cell."""

    setting: Setting
    fit: str
    size: int
    run: int

    def name(self, plan: Plan, seed: int) -> str:
        """Everything that its errors depend on."""
        steps = plan.steps if FITS[self.fit].network else None
        # How many samples are drawn, and to what size they are filled up, decides the random numbers.
        return cell_name(
            setting=self.setting.name,
            identity=self.setting.identity,
            fit=self.fit,
            size=self.size,
            run=self.run,
            seed=seed,
            tests=plan.tests,
            largest=plan.largest,
            steps=steps,
        )


def jobs(settings: Sequence[Setting], plan: Plan) -> Iterator[Job]:
    """All cells; those of one training set behind each other."""
    for setting in settings:
        images = len(setting.parts[0].feature_shape) > 1
        sizes = {fit: plan.sizes_of(fit, setting.dimension, images) for fit in plan.fits}
        for size in sorted({size for found in sizes.values() for size in found}):
            for run in range(max(map(plan.seeds_of, plan.fits))):
                for fit in plan.fits:
                    if size in sizes[fit] and run < plan.seeds_of(fit):
                        yield Job(setting, fit, size, run)


def run_cells(
    settings: Sequence[Setting], plan: Plan, cells: Cells, *, seed: int, progress: Progress | None = None
) -> None:
    """Compute all cells that are not there yet, and keep each one.

    Args:
        settings: Manifolds and noises.
        plan: Fits and sizes.
        cells: Where the errors are kept.
        seed: Of all random choices.
        progress: Called with the number of cells done and of all.
    """
    every = list(jobs(settings, plan))
    drawn: tuple[Any, np.ndarray] | None = None
    try:
        for done, job in enumerate(every):
            name = job.name(plan, seed)
            if name not in cells:
                which = (job.setting, job.size, job.run)
                if drawn is None or drawn[0] != which:
                    samples = training_samples(job.setting, job.size, job.run, seed, plan.largest)
                    drawn = which, samples
                cells.put(name, _errors(job, drawn[1], plan, seed))
            if progress is not None:
                progress(done + 1, len(every))
    finally:
        cells.save()


def _errors(job: Job, samples: np.ndarray, plan: Plan, seed: int) -> Values:
    """Fit, and measure the fit; NaN is kept as null."""
    key = _key(seed, job.setting.name, job.fit, job.size, job.run)
    project = fitted(job.fit, samples, plan.largest, job.setting.dimension, key, plan.steps)
    tests = probe_points(job.setting, plan.tests, seed)
    values = measured(project, job.setting.truth, tests)
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def measured(project: Any, truth: Any, tests: Probes) -> dict[str, float]:
    """Errors of one fit.

    Args:
        project: The fit.
        truth: The manifold.
        tests: Where to look.

    Returns:
        The errors of ``MEASURES``, ``"maximum REGION"`` and ``"rms REGION"`` for each region, the share of
        test points that the fit ``"failed"`` on, and of feet that did not converge.
    """
    found = fit_distances(project, truth, tests.off, true_points=tests.on)
    total = len(tests.on) + len(tests.off)
    values = {
        "hausdorff": float(found.hausdorff),
        "maximum": float(found.projected.maximum),
        "rms": float(found.projected.rms),
        "mean_squared": float(found.projected.rms) ** 2,
        "failed": float(found.forward.failed) / total,
        "unconverged": float(found.forward.unconverged) / total,
    }
    for name, inside in tests.regions.items():
        here = np.asarray(found.projected.values)[inside]
        part = summarise_distances(jax.numpy.asarray(here if len(here) else np.full(1, np.nan)))
        values |= {f"maximum {name}": float(part.maximum), f"rms {name}": float(part.rms)}
    return values


class Series(NamedTuple):
    """Errors of one fit on one setting.

    Attributes:
        setting: Which.
        fit: Which.
        sizes: Numbers of samples.
        values: By measure, ``(sizes, seeds)``, NaN where there is none.
    """

    setting: Setting
    fit: str
    sizes: np.ndarray
    values: dict[str, np.ndarray]


def series(settings: Sequence[Setting], plan: Plan, cells: Cells, seed: int) -> list[Series]:
    """All cells, sorted by setting and fit.

    Args:
        settings: As for :func:`run_cells`.
        plan: As there.
        cells: Filled by it.
        seed: As there.

    Returns:
        One entry for each setting and fit that has a size.
    """
    found = []
    for setting in settings:
        images = len(setting.parts[0].feature_shape) > 1
        for fit in plan.fits:
            sizes = plan.sizes_of(fit, setting.dimension, images)
            if not sizes:
                continue
            table = [
                [cells[Job(setting, fit, size, run).name(plan, seed)] for run in range(plan.seeds_of(fit))]
                for size in sizes
            ]
            values = {
                name: np.array(
                    [[np.nan if cell[name] is None else cell[name] for cell in row] for row in table]
                )
                for name in table[0][0]
            }
            found.append(Series(setting, fit, np.array(sizes), values))
    return found
