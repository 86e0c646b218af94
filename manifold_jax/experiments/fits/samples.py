"""What is fitted: manifolds with their volume and reach, samples with and without noise, test points."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from manifold_jax._checks import choice, positive
from manifold_jax._keys import digest_function
from manifold_jax.datasets import ambient_noise, farthest_points, normal_noise, sample_uniform
from manifold_jax.datasets.sampling import map_points
from manifold_jax.experiments.sprites import ends
from manifold_jax.fitting.nearest_points import components
from manifold_jax.geometry import Grid, Manifold

NOISES = ("none", "ambient", "normal")

OFF = 0.1  # how far off the manifold the second half of the test points lies, in units of the reach
_BALL = 1024  # lattice points of which the radius is taken

REGIONS = {
    "interior": lambda place: np.all((place > 0.25) & (place < 0.75), axis=1),
    "border": lambda place: np.any((place < 1e-6) | (place > 1 - 1e-6), axis=1),
}
"""Regions of a chart with open ends, from the places ``(n, d)`` of its points on the axes, 0 to 1: the middle
half of every axis, and the ends of the axes, to rounding."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One manifold with one kind of noise.

    Noise is ``"none"``, ``"ambient"`` (Gaussian, of standard deviation ``scale`` on every feature) or
    ``"normal"`` (uniform in the normal ball of radius ``scale``). Where axes have open ends, every fourth
    test point is moved to one of them, because the layer in which a boundary is felt is as thin as a
    neighbourhood, and random points hardly meet it; errors are also taken in each of ``REGIONS``.
    """

    name: str  # for tables and cells
    parts: tuple[Manifold, ...]  # the manifold, or the parts of a union, of equal volume
    volume: float = math.nan  # V, in length^d; NaN until it is measured
    reach: float = math.nan  # tau, a length; NaN until it is measured
    noise: str = "none"
    scale: float = 0.0  # a length
    stream: str = ""  # name of the random numbers; settings of one stream have the same chart points
    farthest: bool = False  # whether test points are farthest points among many, or uniform by volume
    open_ends: bool = False
    # Lattices of all parts: then tests and samples are images on them, see lattices.py.
    grids: tuple[Grid, ...] = ()

    @property
    def dimension(self) -> int:
        """Intrinsic dimension d."""
        return self.parts[0].grid.ndim

    @property
    def features(self) -> tuple[int, ...]:
        """Shape of a point."""
        return self.parts[0].feature_shape

    @property
    def images(self) -> bool:
        """Whether points are images."""
        return len(self.features) > 1

    def tests(self, asked: int) -> int:
        """Test images of a lattice: as many as asked for, but at most 30 % of all."""
        return min(asked, int(0.3 * sum(grid.size for grid in self.grids)))

    def pool(self, asked: int) -> int:
        """Images of a lattice that are no test images."""
        return sum(grid.size for grid in self.grids) - self.tests(asked)

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions in which errors are taken as well as everywhere."""
        return tuple(REGIONS) if self.open_ends else ()

    @cached_property
    def identity(self) -> str:
        """What a cell depends on, except for the name of the setting; images count with all their pixels."""
        axes = [(a.name, a.start, a.stop, a.periodic) for part in self.parts for a in part.grid.axes]
        known = (self.volume, self.reach, self.noise, self.scale, self.features)
        points = [jax.ShapeDtypeStruct((part.grid.ndim,), float) for part in self.parts]
        programs = [digest_function(part.embedding, u) for part, u in zip(self.parts, points, strict=True)]
        others = [*(["edges"] if self.open_ends else []), *self.grids]
        return repr((known, axes, programs, sorted(self.regions), *others))

    @cached_property
    def radius(self) -> float:
        """Radius R of a ball that holds the manifold, to the spacing of its lattice, and its normal noise.

        The smallest ball about lattice points is found by steps towards the farthest one (Badoiu & Clarkson,
        *Smaller core-sets for balls*, SODA 2003): after i steps of length 1 / (i + 1) the radius is within a
        factor 1 + i^(-1/2), and usually much closer. It always contains the points. Their Gram matrix is all
        that the steps need: images have thousands of pixels.
        """
        points = []
        for part in self.parts:
            chart = part.grid.coordinates().reshape(-1, part.grid.ndim)
            chart = jnp.asarray(chart[:: -(-len(chart) // _BALL)], float)
            points.append(np.asarray(map_points(part, part.embedding, chart)).reshape(len(chart), -1))
        cloud = np.concatenate(points)
        cloud = cloud - cloud.mean(axis=0)
        gram = cloud @ cloud.T
        squares, along, length = np.diagonal(gram), np.zeros(len(gram)), 0.0  # <x, x>, <x, c>, <c, c>
        for step in range(1, 1000):
            far, share = np.argmax(squares - 2 * along), 1 / (step + 1)
            length = (
                (1 - share) ** 2 * length + 2 * share * (1 - share) * along[far] + share**2 * squares[far]
            )
            along = along + share * (gram[far] - along)
        return float(np.sqrt((squares - 2 * along).max() + length)) + self.scale


def known_setting(name: str, parts: Any, **options: Any) -> Setting:
    """A setting whose volume and reach are known in closed form."""
    parts = components(name, parts)
    volume: Any = sum(part.known["total_volume"] for part in parts)
    reach = parts[0].attributes.get("union_reach", parts[0].known["reach"])
    return Setting(name, parts, float(volume), float(reach), **options)


def add_noise(setting: Setting, noise: str, share: float) -> Setting:
    """A setting of known reach with one of ``NOISES``, whose scale is a share of the reach, in (0, 1)."""
    choice("bounds", "noises", noise, NOISES)
    positive("bounds", "noise, a share of the reach,", share, below=1)
    if noise == "none":
        return setting
    name, stream = f"{setting.name}+{noise[:3]}", setting.stream or setting.name
    return replace(setting, name=name, noise=noise, scale=share * setting.reach, stream=stream)


class Probes(NamedTuple):
    """Points at which errors of a fit are measured."""

    on: Float[Array, "q *features"]  # on the manifold, without noise
    off: Float[Array, "q *features"]  # the same moved along normals by up to OFF reaches
    regions: Mapping[str, Bool[np.ndarray, "q"]]  # which of `on` lie in a region


def key_of(seed: int, *words: Any) -> Array:
    """A random key of its own for every list of words."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(repr(words).encode()) & 0x7FFFFFFF)


def _shares(count: int, parts: int) -> list[int]:
    """Points of each part, as equal as they can be."""
    return [count // parts + (k < count % parts) for k in range(parts)]


def training_samples(setting: Setting, size: int, run: int, seed: int, largest: int) -> np.ndarray:
    """Independent samples ``(size, *features)``, uniform by volume, with the noise of the setting.

    Repetitions (``run``) have random numbers of their own. Every time ``largest`` samples are drawn, so that
    there is one compilation for all sizes.
    """
    key, count = key_of(seed, setting.stream or setting.name, size, run), len(setting.parts)
    drawn = []
    for k, (part, share) in enumerate(zip(setting.parts, _shares(size, count), strict=True)):
        key_points, key_noise = jax.random.split(jax.random.fold_in(key, k))
        samples = sample_uniform(key_points, part, _shares(largest, count)[0])
        points = samples.points
        if setting.noise == "ambient":
            points = ambient_noise(key_noise, points, setting.scale)
        elif setting.noise == "normal":
            points = normal_noise(key_noise, part, samples.coordinates, setting.scale, kind="uniform")
        drawn.append(np.asarray(points)[:share])
    whole = np.concatenate(drawn)
    if not np.isfinite(whole).all():
        raise ValueError(f"{setting.name}: the volume element has too high a peak to sample it uniformly.")
    return whole


@lru_cache(maxsize=64)
def probe_points(setting: Setting, count: int, seed: int) -> Probes:
    """Fixed test points without noise, independent of all training samples."""
    key = key_of(seed, setting.stream or setting.name, "tests")
    on, off, places = [], [], []
    for k, (part, share) in enumerate(zip(setting.parts, _shares(count, len(setting.parts)), strict=True)):
        key_points, key_off = jax.random.split(jax.random.fold_in(key, k))
        samples = sample_uniform(key_points, part, 4 * share if setting.farthest else share)
        chosen = farthest_points(samples.points, share) if setting.farthest else jnp.arange(share)
        u, points = samples.coordinates[chosen], samples.points[chosen]
        if setting.open_ends:
            u = _move_to_ends(part, u)
            points = map_points(part, part.embedding, u)
        on.append(points)
        off.append(normal_noise(key_off, part, u, OFF * setting.reach, kind="uniform"))
        start, stop = ends(part)
        places.append((np.asarray(u) - start) / (stop - start))
    regions = {name: REGIONS[name](np.concatenate(places)) for name in setting.regions}
    return Probes(jnp.concatenate(on), jnp.concatenate(off), regions)


def _move_to_ends(part: Manifold, u: Array) -> Array:
    """Every fourth chart point at an end of an axis: all ends of all axes in turn."""
    rows = jnp.arange(0, len(u), 4)
    turn = jnp.arange(len(rows))
    axis, upper = turn % part.grid.ndim, turn // part.grid.ndim % 2
    return u.at[rows, axis].set(jnp.asarray(ends(part), u.dtype)[upper, axis])
