"""Samples whose geometry is known: uniform by volume, with the exact values beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from manifold_jax.datasets.noise import ambient_noise, normal_noise
from manifold_jax.datasets.sampling import map_points, sample_uniform
from manifold_jax.geometry import Manifold, gram_from_function, measure, reach
from manifold_jax.geometry.local_fit import CURVATURES

Noise = Callable[[PRNGKeyArray, Manifold, Array, Array], Array] | tuple[str, float] | None
"""A kind and a scale, or a function of a key, the manifold, chart coordinates and points."""

NOISES = ("ambient", "normal", "normal-uniform")


class Cloud(NamedTuple):
    """Samples of a manifold or a union.

    Attributes:
        points: What an estimator sees ``(n, f)``, noise included.
        clean: The same without noise ``(n, f)``.
        coordinates: Chart coordinates ``(n_i, d)`` of every component.
    """

    points: Float[Array, "n f"]
    clean: Float[Array, "n f"]
    coordinates: tuple[Array, ...]


def components(manifold: Manifold | Sequence[Manifold]) -> tuple[Manifold, ...]:
    """The components of a union; a manifold is its own only one."""
    return (manifold,) if isinstance(manifold, Manifold) else tuple(manifold)


def total_volume(part: Manifold) -> float:
    """Volume of one manifold: the closed form, or quadrature of exact volume elements on its grid."""
    if "total_volume" in part.known:
        return float(part.known["total_volume"])  # type: ignore[arg-type]
    return float(measure(part, exact=True).total_volume.value)


def draw(
    key: PRNGKeyArray, parts: tuple[Manifold, ...], volumes: Sequence[float], count: int, noise: Noise
) -> Cloud:
    """Samples uniform by volume; each component of a union gets its share of them, rounded."""
    ends = np.round(np.cumsum(volumes) / np.sum(volumes) * count).astype(int)
    counts = np.diff(ends, prepend=0)
    if counts.min() < 1:
        raise ValueError(f"calibrate: {count} samples leave none for the smallest component of a union.")
    clean, noisy, coordinates = [], [], []
    for i, (part, share) in enumerate(zip(parts, counts, strict=True)):
        place, shift = jax.random.split(jax.random.fold_in(key, i))
        samples = sample_uniform(place, part, int(share))
        if not bool(jnp.all(samples.accepted)):
            raise ValueError(f"calibrate: {part.name!r} could not be sampled uniformly; see sample_uniform.")
        clean.append(samples.points.reshape(int(share), -1))
        moved = _noisy(shift, part, samples.coordinates, samples.points, noise)
        noisy.append(moved.reshape(int(share), -1))
        coordinates.append(samples.coordinates)
    return Cloud(jnp.concatenate(noisy), jnp.concatenate(clean), tuple(coordinates))


def _noisy(key: PRNGKeyArray, part: Manifold, coordinates: Array, points: Array, noise: Noise) -> Array:
    if noise is None:
        return points
    if callable(noise):
        return jnp.asarray(noise(key, part, coordinates, points))
    kind, scale = noise
    if kind == "ambient":
        return ambient_noise(key, points, scale)
    return normal_noise(key, part, coordinates, scale, kind="gaussian" if kind == "normal" else "uniform")


# --- exact values ------------------------------------------------------------------------------------------


def exact_field(parts: tuple[Manifold, ...], coordinates: tuple[Array, ...], name: str) -> np.ndarray:
    """Curvature ``(n,)`` or tangent frames ``(n, d, f)`` at chart coordinates, by closed form or AD."""
    one = tangents_at if name == "tangent" else partial(_curvature_at, name=name)
    values = [np.asarray(one(part, u)) for part, u in zip(parts, coordinates, strict=True)]
    return np.concatenate(values)


def exact_total(parts: tuple[Manifold, ...], name: str) -> float:
    """Volume, reach or dimension."""
    if name == "dimension":
        return float(parts[0].grid.ndim)
    if name == "volume":
        return sum(total_volume(part) for part in parts)
    if len(parts) == 1 and "reach" in parts[0].known:
        return float(parts[0].known["reach"])  # type: ignore[arg-type]
    return float(reach(parts[0] if len(parts) == 1 else parts).value)


@partial(jax.jit, static_argnames="part")
def tangents_at(part: Manifold, coordinates: Float[Array, "n d"]) -> Float[Array, "n d f"]:
    """Orthonormal frames of the tangent spaces."""

    def frame(u: Float[Array, "d"]) -> Float[Array, "d f"]:
        return jnp.linalg.qr(jax.jacfwd(lambda v: jnp.ravel(part.embedding(v)))(u))[0].T

    return map_points(part, frame, coordinates)


@partial(jax.jit, static_argnames=("part", "name"))
def _curvature_at(part: Manifold, coordinates: Float[Array, "n d"], *, name: str) -> Float[Array, "n"]:
    form = part.known.get(name)
    if callable(form):
        return jax.vmap(form)(coordinates)
    return CURVATURES[name](gram_from_function(part.embedding, coordinates))
