"""Distances between point clouds, and between a fit and the manifold it should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from manifold_jax._checks import checked_function, finite, flat, floating, optional, whole
from manifold_jax._linalg import norm, safe_sqrt
from manifold_jax.fitting.nearest_points import components, nearest_points
from manifold_jax.geometry.manifold import Manifold
from manifold_jax.geometry.neighbours import nearest_neighbours


class Distances(NamedTuple):
    """Distances from each point of one set to another set, summarised over the points that count.

    Attributes:
        maximum: Largest distance: the one-sided Hausdorff distance. NaN where no point counts.
        mean: Mean distance.
        rms: Root of the mean squared distance.
        witness: Rows of the point at the largest distance and of its nearest (-1 on a manifold).
        values: All distances ``(q,)``, NaN where a point does not count.
        failed: How many points do not count, because the fit failed there.
        unconverged: How many foot points did not converge; their distances count, and are upper bounds.
    """

    maximum: Float[Array, ""]
    mean: Float[Array, ""]
    rms: Float[Array, ""]
    witness: Int[Array, "2"]
    values: Float[Array, "q"]
    failed: Int[Array, ""]
    unconverged: Int[Array, ""]


class Hausdorff(NamedTuple):
    """Two-sided Hausdorff distance of two clouds.

    Attributes:
        value: The larger of the two maxima.
        forward: Distances from the points of the first cloud to the second.
        backward: The other way.
    """

    value: Float[Array, ""]
    forward: Distances
    backward: Distances


class FitDistances(NamedTuple):
    """How far a fitted manifold and the true one are apart; F holds the images of all test and true points.

    Attributes:
        forward: From every point of F to the true manifold, refined in its chart. The maximum is a lower
            bound of the supremum over the whole fitted manifold.
        backward: From every true point to its nearest point of F: upper bounds of the true distances.
        projected: From every true point to its own image: upper bounds of ``backward``.
        hausdorff: The larger maximum of ``forward`` and ``backward``, an estimate of the two-sided Hausdorff
            distance that is limited by the spacing of the test and true points.
    """

    forward: Distances
    backward: Distances
    projected: Distances
    hausdorff: Float[Array, ""]


def summarise_distances(
    values: Float[Any, "q"], *, nearest: Int[Any, "q"] | None = None, unconverged: Int[Any, ""] | int = 0
) -> Distances:
    """Summary of distances ``(q,)``, NaN left out; ``nearest``: rows of the other set, for the witness."""
    values = floating("summarise_distances", "values", values, 1)
    if values.ndim != 1:
        raise ValueError(f"summarise_distances: values must be a vector, got shape {values.shape}.")
    return _summary(values, nearest, unconverged)


@jax.jit
def _summary(values: Array, nearest: Array | None, unconverged: Array | int) -> Distances:
    counts = ~jnp.isnan(values)
    kept = jnp.where(counts, values, 0)
    number = jnp.sum(counts)
    share = jnp.where(number > 0, 1 / jnp.maximum(number, 1), jnp.nan).astype(values.dtype)
    first = jnp.argmax(jnp.where(counts, values, -jnp.inf))
    maximum = jnp.where(number > 0, kept[first], jnp.nan)
    second = jnp.asarray(-1) if nearest is None else jnp.asarray(nearest)[first]
    # Scaled, so that squares of tiny distances do not vanish.
    scale = jnp.where((maximum > 0) & jnp.isfinite(maximum), maximum, 1)
    rms = scale * safe_sqrt(jnp.sum((kept / scale) ** 2) * share)
    witness, failed = jnp.stack([first, second.astype(first.dtype)]), jnp.sum(~counts)
    return Distances(maximum, jnp.sum(kept) * share, rms, witness, values, failed, jnp.asarray(unconverged))


def hausdorff_distance(
    first: Float[Any, "n *features"], second: Float[Any, "m *features"], *, block_size: int | None = None
) -> Hausdorff:
    """Two-sided Hausdorff distance of two clouds, max(sup_a inf_b |a - b|, sup_b inf_a |a - b|), to rounding.

    Points that are not finite are infinitely far away. May be traced by ``jit`` and ``vmap``.

    Args:
        first: n points of any feature shape.
        second: m points of the same feature shape.
        block_size: Points treated at once.

    Raises:
        ValueError: Shapes or types do not fit.

    Example:
        >>> a, b = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [5.0]])
        >>> value, forward, backward = mj.fitting.hausdorff_distance(a, b)
        >>> float(forward.maximum), float(backward.maximum), backward.witness.tolist()
        (1.0, 4.0, [1, 1])
    """
    name = "hausdorff_distance"
    first, second = floating(name, "first", first), floating(name, "second", second)
    if first.shape[1:] != second.shape[1:]:
        shapes = f"{first.shape[1:]} and {second.shape[1:]}"
        raise ValueError(f"{name}: both clouds must have the same feature shape, got {shapes}.")
    block_size = optional(whole, name, "block_size", block_size)
    forward, backward = _one_sided(first, second, block_size), _one_sided(second, first, block_size)
    return Hausdorff(jnp.maximum(forward.maximum, backward.maximum), forward, backward)


@partial(jax.jit, static_argnames="block_size")
def _one_sided(points: Array, others: Array, block_size: int | None) -> Distances:
    nearest = nearest_neighbours(others, points, 1, block_size=block_size)
    return summarise_distances(nearest.distances[:, 0], nearest=nearest.indices[:, 0])


def distances_to_manifold(
    manifold: Manifold | Sequence[Manifold], points: Float[Any, "q *features"], **options: Any
) -> Distances:
    """One-sided distances from points to a known manifold, refined in its chart.

    Arguments and errors are those of :func:`nearest_points`; points with NaN are counted as failed.

    Example:
        >>> points = jnp.array([[3.0, 4.0], [0.0, 0.9]])
        >>> distances = mj.fitting.distances_to_manifold(mj.datasets.circle(), points)
        >>> print(f"{distances.maximum:.3f} {distances.mean:.3f}")
        4.000 2.050
    """
    feet = nearest_points(manifold, points, **options)
    lost = ~feet.converged & ~jnp.isnan(feet.distances)
    return summarise_distances(feet.distances, unconverged=jnp.sum(lost))


def fit_distances(
    project: Callable[[Array], Array],
    manifold: Manifold | Sequence[Manifold],
    test_points: Float[Any, "q *features"],
    *,
    true_points: Float[Any, "p *features"] | None = None,
    block_size: int | None = None,
    **options: Any,
) -> FitDistances:
    """Distances between the image of a fit and the true manifold, in both directions.

    Args:
        project: The fit, ``(q, *features)`` to points of the same shape; NaN where it fails.
        manifold: The true manifold, as in :func:`nearest_points`.
        test_points: Points to project, on the true manifold or near it.
        true_points: Points of the true manifold for ``backward``, dense enough for the accuracy wanted; by
            default the feet of the test points.
        block_size: Points treated at once.
        **options: As in :func:`nearest_points`.

    Raises:
        ValueError: The fit does not keep shapes, shapes do not fit, or points are not finite.

    Example:
        >>> truth = mj.datasets.circle()
        >>> points = truth.embedding(jnp.linspace(0.0, 6.0, 50)[None]).T
        >>> fit = mj.fitting.fit_distances(lambda x: 1.1 * x, truth, points)
        >>> print(f"{fit.forward.maximum:.3f} {fit.projected.rms:.3f} {fit.hausdorff:.3f}")
        0.100 0.100 0.100
    """
    components("fit_distances", manifold)
    checked_function("fit_distances", "project", project, "points")
    options["block_size"] = block_size
    test_points = floating("fit_distances", "test_points", test_points)
    finite("fit_distances", "test_points", test_points)
    fitted = _images(project, test_points)  # a fit that cannot be is refused before anything is searched
    if true_points is None:
        true_points = nearest_points(manifold, test_points, **options).points
    else:
        true_points = floating("fit_distances", "true_points", true_points)
        finite("fit_distances", "true_points", true_points)
    images = _images(project, true_points)
    fitted = jnp.concatenate([fitted, images])
    forward = distances_to_manifold(manifold, fitted, **options)
    # A true point whose own image failed still has a nearest fitted point.
    backward = _one_sided(true_points, fitted, block_size)
    projected = summarise_distances(norm(flat(images - true_points)))
    return FitDistances(forward, backward, projected, jnp.maximum(forward.maximum, backward.maximum))


def _images(project: Callable[[Array], Array], points: Array) -> Array:
    """Images under the fit, of the shape of the points."""
    images = jnp.asarray(project(points))
    if images.shape != points.shape:
        shapes = f"{points.shape}, got {images.shape}"
        raise ValueError(f"fit_distances: the fit must keep the shape of its input, {shapes}.")
    return images
