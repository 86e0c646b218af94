"""The fits that are compared, and their errors, cell by cell: one fit of one sample of one setting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax._checks import flat
from manifold_jax._executors import shares_memory
from manifold_jax._files import Progress, silent
from manifold_jax._linalg import norm
from manifold_jax.experiments.fits.lattices import draw_rows, feet_of_images, lattice_of, project_among
from manifold_jax.experiments.fits.samples import Setting, key_of, probe_points, training_samples
from manifold_jax.experiments.results import Cells, Values, cell_name
from manifold_jax.fitting import (
    fit_distances,
    hausdorff_distance,
    local_pca_projection,
    moving_least_squares,
)
from manifold_jax.fitting.distances import summarise_distances
from manifold_jax.geometry.neighbours import DIRECT_FEATURES
from manifold_jax.models.manifold_fits import denoising_autoencoder, variational_autoencoder

FAR = 1e5  # where samples that fill up an array lie, over the largest coordinate: they get no weight


class Fit(NamedTuple):
    """One way to fit a manifold; a network has neither an order nor neighbours."""

    label: str  # for legends
    about: str
    make: Callable[..., Any]  # of samples and dimension=
    order: int | None = None  # k of the error h^k in the fill distance h that theory gives
    # Number of neighbours from d and whether samples are images; a fit needs as many samples.
    neighbours: Callable[[int, bool], int] | None = None

    @property
    def network(self) -> bool:
        """Whether it is trained, instead of looking at neighbours."""
        return self.neighbours is None

    def least(self, dimension: int, images: bool) -> int:
        """Least number of samples."""
        return 2 if self.neighbours is None else self.neighbours(dimension, images)


def _moving(degree: int) -> Fit:
    """Moving least squares; twice the terms of a polynomial, and some neighbours for the plane."""
    make = partial(moving_least_squares, degree=degree)
    neighbours = lambda d, images: 2 * math.comb(d + degree, degree) + 2 * d  # noqa: E731
    label = f"moving least squares, degree {degree}"
    return Fit(label, f"manifold {label.replace(', ', ' of ')}", make, degree + 1, neighbours)


_PCA = "local PCA, Gaussian weights, the larger of 6 and 2 * 2^d neighbours"
_REF = "local PCA as in manifold-microscope: exp(-distance / 2), 5 neighbours (images 2 * 2^d)"
_VAE_B = "beta-VAE B of the published widths (32 channels, 256 units, 10 latents), SiLU, decoded means"
_published = partial(variational_autoencoder, channels=32, width=256, latent=10, learning_rate=5e-4)
_exponential = partial(local_pca_projection, weights="exponential", sigma=1.0)
FITS: dict[str, Fit] = {
    "pca": Fit("local PCA", _PCA, local_pca_projection, 2, lambda d, images: max(6, 2 * 2**d)),
    "ref": Fit(
        "local PCA as in manifold-microscope",
        _REF,
        _exponential,
        2,
        lambda d, images: 2 * 2**d if images else 5,
    ),
    **{f"mmls{degree}": _moving(degree) for degree in (1, 2, 3)},
    "dae": Fit("denoising autoencoder", "denoising autoencoder", denoising_autoencoder),
    "vae": Fit("beta-VAE", "beta-VAE, decoded means", variational_autoencoder),
    "vae-b": Fit("beta-VAE B", _VAE_B, _published),
}


def fit_samples(name: str, samples: np.ndarray, largest: int, dimension: int, key: Array, steps: int) -> Any:
    """Fit samples; where it can be done without changing the fit, in arrays of ``largest`` samples.

    One array shape for all sizes is one compilation. Local fits get samples so far away that no weight
    reaches them, networks each sample a whole number of times: as often in an epoch.
    """
    fit, n = FITS[name], len(samples)
    if fit.neighbours is None:
        if largest % n == 0:
            samples = np.tile(samples, (largest // n, *(1,) * (samples.ndim - 1)))
        # Networks are trained in single precision, also where all else is double.
        with jax.enable_x64(False):
            return fit.make(np.asarray(samples, np.float32), dimension=dimension, key=key, steps=steps)
    images = samples.ndim > 2
    if n < largest and not images and samples.shape[1] <= DIRECT_FEATURES:
        far = FAR * max(1.0, float(np.abs(samples).max()))
        samples = np.concatenate([samples, np.full((largest - n, samples.shape[1]), far, samples.dtype)])
    return fit.make(samples, dimension=dimension, neighbours=fit.neighbours(dimension, images))


QUANTITIES = {
    "hausdorff": "Hausdorff distance, both directions",
    "maximum": "largest |x - fit(x)| at test points",
    "rms": "root mean square of |x - fit(x)|",
    "mean_squared": "mean square of |x - fit(x)|",
    "foot": "largest distance of fit(x) from the manifold",
}
"""Errors of a fit, ``"foot"`` on lattices only; each region of a setting has a ``"maximum REGION"`` and an
``"rms REGION"`` of its own."""

SHARES = ("failed", "unconverged")
"""Shares next to these errors: of test points that a fit failed on, of foot points that did not converge."""


class Plan(NamedTuple):
    """Size of a study. The fields after ``network_seeds`` belong to some studies only."""

    fits: tuple[str, ...]
    sizes: tuple[int, ...]  # numbers of samples, for settings without a lattice
    seeds: int = 20  # repetitions
    tests: int = 500  # test points on the manifold
    steps: int = 5000  # training steps of networks
    network_sizes: tuple[int, ...] | None = None  # by default the largest size alone
    network_seeds: int | None = None  # by default as many as of other fits
    image_seeds: int | None = None  # repetitions on lattices of images, by default as many as of toys
    noises: tuple[str, ...] = ("none",)
    noise: float = 0.1  # scale of the noise over the reach
    with_noise: tuple[str, ...] = ()  # toys that are also sampled with noise
    values: tuple[float, ...] = ()  # what is swept over: minor radii of tori, or ambient dimensions
    data: tuple[str, ...] = ()  # image data sets
    dimensions: Mapping[str, tuple[int, ...]] = {}  # of their manifolds, by data set
    shares: tuple[float, ...] = ()  # numbers of samples of a lattice, over the images that are no tests
    pixels: int = 64  # per side of an image
    path: Path | None = None  # where COIL-20 is

    def sizes_of(self, fit: str, setting: Setting) -> list[int]:
        """Sizes on which a fit can run."""
        sizes = (self.network_sizes or self.sizes[-1:]) if FITS[fit].network else self.sizes
        if setting.grids:
            sizes = sorted({int(share * setting.pool(self.tests)) for share in self.shares})
        least = FITS[fit].least(setting.dimension, setting.images)
        return [size for size in sizes if size >= least]

    def seeds_of(self, fit: str, setting: Setting) -> int:
        """Repetitions of a fit."""
        of_network = self.network_seeds if FITS[fit].network else None
        return (self.image_seeds if setting.grids else None) or of_network or self.seeds

    @property
    def largest(self) -> int:
        """Most samples."""
        return max((*self.sizes, *(self.network_sizes or ())), default=0)


class Job(NamedTuple):
    """One cell."""

    setting: Setting
    fit: str
    size: int
    run: int

    def name(self, plan: Plan, seed: int) -> str:
        """Everything that its errors depend on."""
        return cell_name(
            **self._asdict() | {"setting": self.setting.name},
            identity=self.setting.identity,
            seed=seed,
            tests=plan.tests,
            # How many samples are drawn, and to what size they are filled up, decides the random numbers.
            largest=None if self.setting.grids else plan.largest,
            steps=plan.steps if FITS[self.fit].network else None,
        )


def list_jobs(settings: Sequence[Setting], plan: Plan) -> list[Job]:
    """All cells; those of one training set follow each other."""
    jobs = []
    for setting in settings:
        sizes = {fit: plan.sizes_of(fit, setting) for fit in plan.fits}
        for size in sorted({size for some in sizes.values() for size in some}):
            seeds = {fit: plan.seeds_of(fit, setting) for fit in plan.fits}
            for run in range(max(seeds.values())):
                fits = [fit for fit in plan.fits if size in sizes[fit] and run < seeds[fit]]
                jobs += [Job(setting, fit, size, run) for fit in fits]
    return jobs


class Series(NamedTuple):
    """Errors of one fit on one setting."""

    setting: Setting
    fit: str
    sizes: np.ndarray
    values: dict[str, np.ndarray]  # errors and SHARES by name, (sizes, seeds), NaN where there is none


Make = Callable[[Plan], Sequence[Setting]]
"""A function of a module that makes the settings of a plan, whose volume and reach may not be known yet."""


def run_cells(
    settings: Sequence[Setting],
    plan: Plan,
    cells: Cells,
    *,
    seed: int,
    make: Make | None = None,
    progress: Progress = silent,
) -> list[Series]:
    """Compute the cells that are not there yet, keep each one, and sort all by setting and fit.

    Settings do not travel: other processes ``make`` them.
    """
    jobs = list_jobs(settings, plan)
    if make is None or shares_memory(cells.executor):
        computed = [(job.name(plan, seed), partial(_compute_job, job, plan, seed)) for job in jobs]
    else:
        known, places = tuple((s.volume, s.reach) for s in settings), {s: k for k, s in enumerate(settings)}
        computed = [
            (
                job.name(plan, seed),
                partial(_compute_elsewhere, make, known, places[job.setting], job[1:], plan, seed),
            )
            for job in jobs
        ]
    tables: dict[tuple[Setting, str], dict[int, list[Values]]] = {}
    for job, values in zip(jobs, cells.fill(computed, progress), strict=True):
        tables.setdefault((job.setting, job.fit), {}).setdefault(job.size, []).append(values)
    every = []
    for setting, fit in itertools.product(settings, plan.fits):
        sizes, rows = zip(*tables[setting, fit].items(), strict=True)
        names = rows[0][0]
        values = {name: np.array([[cell[name] for cell in row] for row in rows], float) for name in names}
        every.append(Series(setting, fit, np.array(sizes), values))
    return every


def _compute_job(job: Job, plan: Plan, seed: int) -> Values:
    """The errors of one cell."""
    if job.setting.grids:
        return lattice_errors(job, plan, seed)
    return errors_of(job, _samples(job.setting, job.size, job.run, seed, plan.largest), plan, seed)


@lru_cache(maxsize=1)
def _samples(setting: Setting, size: int, run: int, seed: int, largest: int) -> np.ndarray:
    """Those that all fits of a training set share."""
    return training_samples(setting, size, run, seed, largest)


_MADE: dict[Any, list[Setting]] = {}  # the settings that this process made last


def _compute_elsewhere(
    make: Make,
    known: tuple[tuple[float, float], ...],
    place: int,
    which: tuple[Any, ...],
    plan: Plan,
    seed: int,
) -> Values:
    """The errors of one cell of a setting that is made here; ``known`` are volume and reach of all."""
    key = (make, repr((plan, known)))
    if key not in _MADE:
        made = zip(make(plan), known, strict=True)
        _MADE.clear()
        _MADE[key] = [replace(setting, volume=volume, reach=reach) for setting, (volume, reach) in made]
    return _compute_job(Job(_MADE[key][place], *which), plan, seed)


def errors_of(job: Job, samples: np.ndarray, plan: Plan, seed: int) -> Values:
    """Errors of one fit: ``QUANTITIES``, those of each region, and ``SHARES``; NaN is kept as null."""
    setting, probes = job.setting, probe_points(job.setting, plan.tests, seed)
    key = key_of(seed, setting.name, job.fit, job.size, job.run)
    project = fit_samples(job.fit, samples, plan.largest, setting.dimension, key, plan.steps)
    distances = fit_distances(project, setting.parts, probes.off, true_points=probes.on)
    projected, forward = distances.projected, distances.forward
    total = len(probes.on) + len(probes.off)
    values: dict[str, Any] = {"hausdorff": distances.hausdorff, "maximum": projected.maximum}
    values |= {"rms": projected.rms, "mean_squared": float(projected.rms) ** 2}
    values |= {name: int(getattr(forward, name)) / total for name in SHARES}
    for name, inside in probes.regions.items():
        here = np.asarray(projected.values)[inside]
        part = summarise_distances(jnp.asarray(here if len(here) else np.full(1, np.nan)))
        values |= {f"maximum {name}": part.maximum, f"rms {name}": part.rms}
    return _as_cell(values)


def _as_cell(values: dict[str, Any]) -> Values:
    """Numbers as a cell keeps them."""
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def lattice_errors(job: Job, plan: Plan, seed: int) -> Values:
    """Errors of one fit of images drawn from a lattice, at its test images; see ``QUANTITIES``."""
    setting, lattice = job.setting, lattice_of(job.setting, plan.tests)
    rows = draw_rows(lattice, key_of(seed, setting.stream or setting.name, job.size, job.run), job.size)
    tests, fit, dimension = lattice.points[lattice.tests], FITS[job.fit], setting.dimension
    if fit.neighbours is None:
        key = key_of(seed, setting.name, job.fit, job.size, job.run)
        samples = np.asarray(lattice.points[rows])
        images = fit_samples(job.fit, samples, job.size, dimension, key, plan.steps)(tests)
    else:
        count = fit.neighbours(dimension, setting.images)
        images = project_among(lattice, rows, fit.make(lattice.points, dimension=dimension, neighbours=count))
    feet, unconverged = feet_of_images(setting, lattice, images)
    projected = summarise_distances(norm(flat(images - tests)))
    there = np.isfinite(np.asarray(flat(images))).all(axis=1)  # a lost point has no image to be near to
    backward = hausdorff_distance(tests[there], images[there]).forward.maximum if there.any() else np.nan
    values = {"hausdorff": np.fmax(backward, np.nanmax(feet)), "maximum": projected.maximum}
    values |= {"rms": projected.rms, "mean_squared": float(projected.rms) ** 2, "foot": np.nanmax(feet)}
    return _as_cell(values | {"failed": int(projected.failed) / len(tests), "unconverged": unconverged})
