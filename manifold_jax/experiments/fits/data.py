"""What is fitted: manifolds with their volume and reach, samples with and without noise, test points."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from manifold_jax.datasets import ambient_noise, farthest_points, normal_noise, sample_uniform
from manifold_jax.datasets.sampling import map_points
from manifold_jax.geometry import Manifold

NOISES = ("none", "ambient", "normal")

_BALL = 1024
"""Lattice points of which the radius is taken."""

ASIDE = 0.1
"""How far off the manifold the second half of the test points lies, in units of the reach."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One manifold with one kind of noise.

    Attributes:
        name: For tables and cells.
        parts: The manifold, or the parts of a union, of equal volume.
        volume: V, in length^d.
        reach: tau, a length; None where not known.
        noise: ``"none"``, ``"ambient"`` (Gaussian, of standard deviation ``scale`` on every feature) or
            ``"normal"`` (uniform in the normal ball of radius ``scale``).
        scale: A length.
        stream: Name of the random numbers; settings of one stream have the same chart points.
        regions: Names of regions of the chart, and whether chart points ``(n, d)`` lie in them.
        spread: Whether test points are spread by farthest points among many, or uniform by volume.
        edges: Whether every fourth test point is moved to an end of one of the axes: the layer in which a
            boundary is felt is as thin as a neighbourhood, and random points hardly meet it.
    """

    name: str
    parts: tuple[Manifold, ...]
    volume: float
    reach: float | None
    noise: str = "none"
    scale: float = 0.0
    stream: str = ""
    regions: Mapping[str, Callable[[Array], Array]] = field(default_factory=dict)
    spread: bool = False
    edges: bool = False

    @property
    def dimension(self) -> int:
        """D."""
        return self.parts[0].grid.ndim

    @property
    def truth(self) -> Any:
        """What distances are measured to."""
        return self.parts[0] if len(self.parts) == 1 else self.parts

    @property
    def identity(self) -> str:
        """What of the setting a cell depends on, beside its name."""
        axes = [(a.name, a.start, a.stop, a.periodic) for part in self.parts for a in part.grid.axes]
        known = (self.volume, self.reach, self.noise, self.scale, self.parts[0].feature_shape)
        return repr((known, axes, sorted(self.regions), *(["edges"] if self.edges else [])))


@dataclass(frozen=True, eq=False)
class Probes:
    """Points at which a fit is looked at.

    Attributes:
        on: On the manifold, without noise ``(q, *features)``.
        off: The same moved along normals by up to ``ASIDE`` reaches, or ``on`` where no reach is known.
        regions: By name, which of ``on`` lie in a region.
        radius: R of the smallest ball that contains points of the lattices of the grids.
    """

    on: Float[Array, "q *features"]
    off: Float[Array, "q *features"]
    regions: Mapping[str, Bool[np.ndarray, "q"]]
    radius: float


def _shares(count: int, parts: int) -> list[int]:
    """Points of each part, as equal as they can be."""
    return [count // parts + (k < count % parts) for k in range(parts)]


def _key(seed: int, *words: Any) -> Array:
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(repr(words).encode()) & 0x7FFFFFFF)


def training_samples(setting: Setting, size: int, run: int, seed: int, largest: int) -> np.ndarray:
    """Independent samples, uniform by volume, with the noise of the setting.

    Args:
        setting: Of what.
        size: n.
        run: Which repetition; another one has other random numbers.
        seed: Of the experiment.
        largest: Most samples of the experiment: so many are drawn each time, one compilation for all sizes.

    Returns:
        ``(n, *features)``.

    Raises:
        ValueError: Fewer points than asked for were accepted.
    """
    key = _key(seed, setting.stream or setting.name, size, run)
    drawn = []
    for k, (part, count) in enumerate(zip(setting.parts, _shares(size, len(setting.parts)), strict=True)):
        most = _shares(largest, len(setting.parts))[0]
        key_points, key_noise = jax.random.split(jax.random.fold_in(key, k))
        found = sample_uniform(key_points, part, most)
        points = found.points
        if setting.noise == "ambient":
            points = ambient_noise(key_noise, points, setting.scale)
        elif setting.noise == "normal":
            points = normal_noise(key_noise, part, found.coordinates, setting.scale, kind="uniform")
        drawn.append(np.asarray(points)[:count])
    samples = np.concatenate(drawn)
    if not np.isfinite(samples).all():
        raise ValueError(f"{setting.name}: the volume element has too high a peak to sample it uniformly.")
    return samples


@lru_cache(maxsize=64)
def probe_points(setting: Setting, count: int, seed: int) -> Probes:
    """Fixed test points, independent of all training samples.

    Args:
        setting: Of what; its noise is left out.
        count: Number of points.
        seed: Of the experiment.

    Returns:
        The points.
    """
    key = _key(seed, setting.stream or setting.name, "tests")
    on, off, chart = [], [], []
    for k, (part, share) in enumerate(zip(setting.parts, _shares(count, len(setting.parts)), strict=True)):
        key_points, key_off = jax.random.split(jax.random.fold_in(key, k))
        found = sample_uniform(key_points, part, 4 * share if setting.spread else share)
        chosen = farthest_points(found.points, share) if setting.spread else jnp.arange(share)
        u, points = found.coordinates[chosen], found.points[chosen]
        if setting.edges:
            u = _to_edges(part, u)
            points = map_points(part, part.embedding, u)
        on.append(points)
        chart.append(u)
        moved = points
        if setting.reach is not None:
            moved = normal_noise(key_off, part, u, ASIDE * setting.reach, kind="uniform")
        off.append(moved)
    whole = jnp.concatenate(on)
    regions = {name: np.asarray(inside(jnp.concatenate(chart))) for name, inside in setting.regions.items()}
    return Probes(whole, jnp.concatenate(off), regions, _radius(setting))


def _to_edges(part: Manifold, u: Array) -> Array:
    """Every fourth chart point at an end of an axis: all ends of all axes in turn."""
    rows = jnp.arange(0, len(u), 4)
    turn = jnp.arange(len(rows))
    axis, upper = turn % part.grid.ndim, turn // part.grid.ndim % 2
    ends = jnp.array([[a.start, a.stop] for a in part.grid.axes], u.dtype)
    return u.at[rows, axis].set(ends[axis, upper])


def _radius(setting: Setting) -> float:
    """Radius of the smallest ball about lattice points, by steps towards the farthest one.

    Badoiu & Clarkson (*Smaller core-sets for balls*, SODA 2003): after i steps of length 1 / (i + 1) the
    radius is within a factor 1 + i^(-1/2), and usually much closer. It always contains the points.
    """
    points = []
    for part in setting.parts:
        chart = part.grid.coordinates().reshape(-1, part.grid.ndim)
        chart = jnp.asarray(chart[:: -(-len(chart) // _BALL)], float)
        points.append(np.asarray(map_points(part, part.embedding, chart)).reshape(len(chart), -1))
    cloud = np.concatenate(points)
    centre = cloud.mean(axis=0)
    for step in range(1, 1000):
        far = np.argmax(np.linalg.norm(cloud - centre, axis=1))
        centre = centre + (cloud[far] - centre) / (step + 1)
    return float(np.linalg.norm(cloud - centre, axis=1).max())


def known_setting(name: str, parts: Any, **options: Any) -> Setting:
    """A setting whose volume and reach are known in closed form."""
    parts = parts if isinstance(parts, tuple) else (parts,)
    volume = sum(_number(part, "total_volume") for part in parts)
    reach = parts[0].attributes.get("union_reach", _number(parts[0], "reach"))
    return Setting(name, parts, volume, float(reach), **options)


def _number(part: Manifold, name: str) -> float:
    value = part.known[name]
    assert not callable(value)
    return float(value)


def noisy(setting: Setting, noise: str, share: float) -> Setting:
    """The same with noise, whose scale is a share of the reach.

    Args:
        setting: Without noise.
        noise: One of ``NOISES``.
        share: Scale over reach.

    Raises:
        ValueError: The noise is unknown, or the share is not in (0, 1).
    """
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}.")
    if not (math.isfinite(share) and 0 < share < 1):
        raise ValueError(f"the scale of the noise is a share of the reach, in (0, 1), got {share!r}.")
    if noise == "none":
        return setting
    assert setting.reach is not None
    return replace(
        setting,
        name=f"{setting.name}+{noise[:3]}",
        noise=noise,
        scale=share * setting.reach,
        stream=setting.stream or setting.name,
    )
