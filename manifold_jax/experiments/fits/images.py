"""Errors of fits of image manifolds, sprites and COIL-20, against the number of images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax._files import Progress
from manifold_jax.datasets import sprite
from manifold_jax.datasets.coil20 import coil20
from manifold_jax.datasets.sampling import map_points, sample_uniform, volume_elements
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.fits.data import Setting
from manifold_jax.experiments.fits.fits import FITS
from manifold_jax.experiments.fits.run import Plan, check_feasible, check_plan
from manifold_jax.experiments.fits.toys import study
from manifold_jax.experiments.layers.data import DATA, VIEWS
from manifold_jax.geometry import Manifold
from manifold_jax.geometry.reach.samples import reach_from_samples

FACTORS = ("orientation", "scale", "y", "x")
_MEASURED = 1000


class Settings(NamedTuple):
    """Size of the experiment.

    Attributes:
        data: Which of ``DATA``.
        dimensions: d of the manifolds.
        size: Pixels per side.
        pool: Images that stand for the fraction 1.
        fractions: Of the pool.
        seeds: Independent training sets of each fraction.
        network_fractions: The same for networks.
        tests: Test images.
        steps: Of networks.
        fits: Names of fits.
        path: Where COIL-20 is.
    """

    data: tuple[str, ...] = DATA
    dimensions: dict[str, tuple[int, ...]] = {"sprites": (1, 2, 3, 4), "coil20": (1, 2, 3)}  # noqa: RUF012
    size: int = 64
    pool: int = 50_000
    fractions: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    seeds: int = 3
    network_fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    tests: int = 500
    steps: int = 20_000
    fits: tuple[str, ...] = tuple(FITS)
    path: Path | None = None

    @property
    def plan(self) -> Plan:
        """Sizes of the training sets."""
        sizes = tuple(round(self.pool * part) for part in self.fractions)
        networks = tuple(round(self.pool * part) for part in self.network_fractions)
        return Plan(self.fits, sizes, self.seeds, networks, self.seeds, self.tests, self.steps)


FULL = Settings()
REDUCED = Settings(
    data=("sprites",),
    dimensions={"sprites": (1, 2), "coil20": (1,)},
    size=16,
    pool=1000,
    fractions=(0.05, 0.1, 0.3, 1.0),
    seeds=3,
    network_fractions=(0.1, 1.0),
    tests=100,
    steps=150,
    fits=("pca", "ref", "mmls1", "mmls2", "dae"),
)


def check(settings: Settings) -> None:
    """Refuse what makes no sense before anything starts."""
    check_plan(settings.plan)
    for name in settings.data:
        if name not in DATA:
            raise ValueError(f"data must be one of {', '.join(DATA)}, got {name!r}.")
        known = len(VIEWS) if name == "coil20" else len(FACTORS)
        if not all(1 <= d <= known for d in settings.dimensions[name]):
            raise ValueError(f"{name} has {known} factors, got d = {settings.dimensions[name]}.")
        for dimension in settings.dimensions[name]:
            check_feasible(settings.plan, dimension, True)
    if settings.size % 16:
        raise ValueError(f"size must be a multiple of 16, four strides halve it, got {settings.size}.")
    for name in settings.data:
        image_manifold(name, 1, settings.size, settings.path)


def image_manifold(name: str, dimension: int, size: int, path: Path | None = None) -> Manifold:
    """One shape or object with its first factors.

    Args:
        name: One of ``DATA``.
        dimension: d.
        size: Pixels per side.
        path: Where COIL-20 is.

    Returns:
        The manifold.
    """
    samples = {1: 128, 2: 32, 3: 12, 4: 8}[dimension]
    if name == "coil20":
        factors = VIEWS[:dimension]
        return coil20(path, 1, factors=factors, size=size, sizes=dict.fromkeys(factors, samples))
    chosen = FACTORS[:dimension]
    centre, shift = (size - 1) / 2, 3.0 * size / 32
    place = (centre - shift, centre + shift)
    ranges = {"scale": (0.75, 1.5), "y": place, "x": place}
    limits = {factor: ranges[factor] for factor in chosen if factor in ranges}
    counts: dict[str, int] = dict.fromkeys(chosen, samples)
    return sprite("ellipse", factors=chosen, layout="balanced", size=size, ranges=limits, sizes=counts)


def image_setting(name: str, dimension: int, settings: Settings, seed: int) -> Setting:
    """With volume and reach as measured.

    The volume is the mean volume element at uniform chart points times the size of the chart; the reach the
    plug-in of Federer's ratio at points uniform by volume with exact tangents, which is never too small.

    Args:
        name: One of ``DATA``.
        dimension: d.
        settings: Size.
        seed: Of the points.

    Returns:
        The setting.
    """
    manifold = image_manifold(name, dimension, settings.size, settings.path)
    count = min(_MEASURED, settings.pool)
    axes = manifold.grid.axes
    low, high = (np.array(ends) for ends in zip(*((a.start, a.stop) for a in axes), strict=True))
    key = jax.random.key(seed)
    chart = jax.random.uniform(key, (count, dimension), minval=jnp.asarray(low), maxval=jnp.asarray(high))
    elements = volume_elements(manifold, chart)
    drawn = sample_uniform(jax.random.fold_in(key, 1), manifold, count)
    tangents = map_points(manifold, lambda u: _tangents(manifold, u), drawn.coordinates)
    reach = reach_from_samples(np.asarray(drawn.points), np.asarray(tangents), dimension=dimension)
    volume = float(np.mean(elements)) * math.prod(high - low)
    return Setting(f"{name} {dimension}", (manifold,), volume, float(reach.value), spread=True)


def _tangents(manifold: Manifold, u: jax.Array) -> jax.Array:
    """Tangent vectors ``(d, *features)``."""
    return jnp.moveaxis(jax.jacfwd(manifold.embedding)(u), -1, 0)


def run(folder: Path, settings: Settings, seed: int, progress: Progress | None = None) -> Outcome:
    """Errors against the fraction of a pool of images.

    Args:
        folder: Where finished cells are kept.
        settings: Size.
        seed: Of all random choices.
        progress: Called with the cells done and all of them.

    Returns:
        Table, numbers, figures.
    """
    check(settings)
    with jax.enable_x64(True):
        every = [
            image_setting(name, d, settings, seed)
            for name in settings.data
            for d in settings.dimensions[name]
        ]
    title = f"Error of fits of images of {settings.size} pixels against n"
    return study("images", title, every, settings.plan, folder, seed, progress)
