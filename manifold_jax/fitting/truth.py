"""Samples whose geometry is known: uniform by volume, with exact values and what errors are divided by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from manifold_jax._linalg import block_rows
from manifold_jax._programs import frozen
from manifold_jax.datasets.noise import ambient_noise, normal_noise
from manifold_jax.datasets.sampling import map_points, sample_uniform
from manifold_jax.fitting.distances import distances_to_manifold, hausdorff_distance
from manifold_jax.geometry import Grid, Manifold, gram_from_function, measure, reach
from manifold_jax.geometry.embeddings import frozen_embedding
from manifold_jax.geometry.local_fit import CURVATURES

Noise = Callable[[PRNGKeyArray, Manifold, Array, Array], Array] | tuple[str, float] | None
"""A kind and a scale, or a function of a key, the manifold, chart coordinates and points."""

NOISES = ("ambient", "normal", "normal-uniform")

FLAT = 1e-3
"""A curvature whose RMS is below this share of its natural scale is compared with the natural scale."""


class Sample(NamedTuple):
    """Samples of a manifold or of the components of a union, with and without noise."""

    parts: tuple[Manifold, ...]
    points: Float[Array, "n f"]  # what an estimator sees
    clean: Float[Array, "n f"]
    coordinates: tuple[Array, ...]  # (n_i, d) of every component
    held: Any = None  # further points (m, f) without noise, on which a fit is judged


def draw(
    key: PRNGKeyArray, parts: tuple[Manifold, ...], volumes: Sequence[float], count: int, noise: Noise
) -> Sample:
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
        moved = _add_noise(shift, part, samples.coordinates, samples.points, noise)
        clean.append(samples.points.reshape(int(share), -1))
        noisy.append(moved.reshape(int(share), -1))
        coordinates.append(samples.coordinates)
    return Sample(parts, jnp.concatenate(noisy), jnp.concatenate(clean), tuple(coordinates))


def _add_noise(key: PRNGKeyArray, part: Manifold, coordinates: Array, points: Array, noise: Noise) -> Array:
    if noise is None:
        return points
    if callable(noise):
        return jnp.asarray(noise(key, part, coordinates, points))
    kind, scale = noise
    if kind == "ambient":
        return ambient_noise(key, points, scale)
    return normal_noise(key, part, coordinates, scale, kind="gaussian" if kind == "normal" else "uniform")


def exact_total(parts: tuple[Manifold, ...], name: str) -> float:
    """Volume, reach or dimension: the closed form, or quadrature and search on the grid."""
    first, *others = parts
    if name == "dimension":
        return float(first.grid.ndim)
    if others:
        return float(reach(parts).value) if name == "reach" else sum(exact_total((p,), name) for p in parts)
    known = first.known.get("total_volume" if name == "volume" else name)
    if known is not None:
        return float(known)  # type: ignore[arg-type]
    return float(reach(first).value if name == "reach" else measure(first, exact=True).total_volume.value)


def exact_field(parts: tuple[Manifold, ...], coordinates: tuple[Array, ...], name: str) -> np.ndarray:
    """Curvature ``(n,)`` or tangent frames ``(n, d, f)`` at chart coordinates, by closed form or AD."""
    fields = (_exact_part(part, u, name) for part, u in zip(parts, coordinates, strict=True))
    return np.concatenate([np.asarray(field) for field in fields])


def _exact_part(part: Manifold, coordinates: Float[Array, "n d"], name: str) -> Array:
    form = part.known.get(name)
    if name != "tangent" and callable(form):
        return _map(frozen(form, coordinates[0]), coordinates)
    embedding = frozen_embedding(part.embedding, part.grid.ndim, coordinates.dtype)
    if name == "tangent":
        return _tangents_at(embedding, part.grid, coordinates)
    return _curvature_at(embedding, coordinates, name=name)


@jax.jit
def _map(form: Any, coordinates: Float[Array, "n d"]) -> Float[Array, "n"]:
    return jax.vmap(form)(coordinates)


@partial(jax.jit, static_argnames="grid")
def _tangents_at(embedding: Any, grid: Grid, coordinates: Float[Array, "n d"]) -> Float[Array, "n d f"]:
    """Orthonormal frames of the tangent spaces."""

    def frame(u: Float[Array, "d"]) -> Float[Array, "d f"]:
        return jnp.linalg.qr(jax.jacfwd(lambda v: jnp.ravel(embedding(v)))(u))[0].T

    return map_points(Manifold("exact", embedding, grid), frame, coordinates)


@partial(jax.jit, static_argnames="name")
def _curvature_at(embedding: Any, coordinates: Float[Array, "n d"], *, name: str) -> Float[Array, "n"]:
    return CURVATURES[name](gram_from_function(embedding, coordinates))


class Truth(NamedTuple):
    """How an estimate of one quantity is judged on one sample; errors are NaN where it failed."""

    shapes: tuple[tuple[int, ...], ...]  # that an estimate may have
    errors: Callable[[np.ndarray], np.ndarray]  # (n,) or (1,), in the units of the quantity
    scale: float  # what errors are divided by
    reference: str  # what that is, in words


def truth_of(quantity: str, sample: Sample, totals: dict[str, float]) -> Truth:
    """Exact values of a quantity on a sample; ``totals`` keeps what is the same for all samples."""
    parts, (n, f) = sample.parts, sample.points.shape
    if quantity == "tangent":
        frames = exact_field(parts, sample.coordinates, quantity)
        shape = (n, parts[0].grid.ndim, f)
        return Truth((shape,), partial(largest_angle, exact=frames), 1.0, "sine of the angle")
    if quantity == "fit":
        centred = np.asarray(sample.clean - jnp.mean(sample.clean, axis=0), np.float64)
        size = float(np.sqrt(np.mean(np.sum(centred**2, axis=1))))
        errors = partial(_fit_errors, parts, sample.held)
        return Truth((sample.held.shape,), errors, size, "RMS distance from the centroid")
    if quantity in CURVATURES:
        exact = exact_field(parts, sample.coordinates, quantity)
        norm = exact_field(parts, sample.coordinates, "second_form_norm")
        scale, reference = field_scale(quantity, exact, norm, np.ones(n))
        return Truth(((n,),), lambda values: values.astype(np.float64) - exact, scale, reference)
    if quantity not in totals:
        totals[quantity] = exact_total(parts, quantity)
    total = totals[quantity]
    shapes = ((), (n,)) if quantity == "dimension" else ((),)
    errors = lambda values: np.atleast_1d(values.astype(np.float64)) - total  # noqa: E731
    return Truth(shapes, errors, abs(total), "exact value")


def field_scale(name: str, exact: np.ndarray, norm: np.ndarray, weight: np.ndarray) -> tuple[float, str]:
    """What errors of a curvature are divided by, in words too: weighted RMS of the field, or of |II|."""
    power = 2 if name == "scalar_curvature" else 1
    scale, natural = _rms(exact, weight), _rms(norm**power, weight)
    if scale >= FLAT * natural and scale > 0:
        return scale, "RMS of the exact field"
    if natural > 0:
        return natural, "RMS of |II|^2" if power == 2 else "RMS of |II|"
    return 1.0, "none: the manifold is flat in its ambient space"


def _rms(values: np.ndarray, weight: np.ndarray) -> float:
    good = np.isfinite(values) & (weight > 0)
    return float(np.sqrt(np.average(values[good] ** 2, weights=weight[good]))) if good.any() else 0.0


def largest_angle(frames: Any, exact: Any) -> np.ndarray:
    """Sine of the largest principal angle between spans ``(n, d, f)``; NaN where vectors are dependent.

    The second must be orthonormal. The norm of what lies outside the other span keeps its digits.
    """
    sines = np.full(len(frames), np.nan)
    step = block_rows(frames[0].size, most=len(frames))
    for start in range(0, len(frames), step):
        mine, other = (np.asarray(x[start : start + step], np.float64) for x in (frames, exact))
        finite = np.flatnonzero(np.isfinite(mine).all(axis=(1, 2)))
        if len(finite) == 0:
            continue
        basis, triangle = np.linalg.qr(np.swapaxes(mine[finite], 1, 2))
        other = np.swapaxes(other[finite], 1, 2)
        outside = basis - other @ (np.swapaxes(other, 1, 2) @ basis)
        sine = np.linalg.norm(outside, ord=2, axis=(1, 2))
        pivots = np.abs(np.diagonal(triangle, axis1=1, axis2=2))
        full = pivots.min(axis=1) > 1e-6 * pivots.max(axis=1)
        sines[start + finite] = np.where(full, np.minimum(sine, 1.0), np.nan)
    return sines


def _fit_errors(parts: tuple[Manifold, ...], held: Array, images: np.ndarray) -> np.ndarray:
    """Larger of the distances from each image to the manifold and from each point to the images."""
    onto = distances_to_manifold(parts, jnp.asarray(images).reshape(-1, *parts[0].feature_shape)).values
    back = hausdorff_distance(held, images).forward.values
    return np.asarray(jnp.maximum(onto, back), np.float64)  # NaN where the fit gave no point
