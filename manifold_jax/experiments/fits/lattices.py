"""Lattices of images: test images far apart, and training images drawn from the rest of them by volume.

What Koulakis & Seibold (arXiv 2606.15760) do with their grids of images, one union of all classes. Images are
in single precision, and the distances of all test images to all images are computed once.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from manifold_jax.datasets import sample_grid
from manifold_jax.datasets.sampling import map_points, volume_elements
from manifold_jax.experiments.fits.samples import Setting
from manifold_jax.fitting import project_with_status
from manifold_jax.fitting.nearest_points import feet_from
from manifold_jax.fitting.projections import OK
from manifold_jax.geometry import Grid, Manifold
from manifold_jax.geometry.embeddings import frozen_embedding

_TILE = 4096  # images that are rendered at once


class Lattice(NamedTuple):
    """All images of a union, the test images among them, and how training images are drawn."""

    points: Float[Array, "n *features"]
    coordinates: Float[np.ndarray, "n d"]  # in the charts of the parts
    part: Int[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]  # volume elements over their sum in each part, 0 for test images
    tests: Int[np.ndarray, "q"]
    squares: Float[np.ndarray, "q n"]  # squared distances of the test images to all images


@lru_cache(maxsize=1)
def lattice_of(setting: Setting, tests: int) -> Lattice:
    """Render a lattice, choose its test images, and compute their distances."""
    pairs = list(zip(setting.parts, setting.grids, strict=True))
    coordinates = [np.asarray(grid.coordinates()).reshape(-1, grid.ndim) for _, grid in pairs]
    points = np.empty((sum(map(len, coordinates)), *setting.features), np.float32)
    weights, done = [], 0
    for (part, _), u in zip(pairs, coordinates, strict=True):
        volumes = np.empty(len(u))
        for start in range(0, len(u), _TILE):
            tile = jnp.asarray(u[start : start + _TILE], jnp.float32)
            embedding = frozen_embedding(part.embedding, part.grid.ndim, tile.dtype)
            place = slice(done + start, done + start + len(tile))
            points[place], volumes[start : start + len(tile)] = _render(embedding, tile, part.grid)
        weights.append(volumes / volumes.sum())
        done += len(u)
    chosen, squares = farthest_rows(points.reshape(len(points), -1), setting.tests(tests))
    every = np.concatenate(weights)
    every[chosen] = 0.0
    owner = np.repeat(np.arange(len(pairs)), [len(u) for u in coordinates])
    return Lattice(jnp.asarray(points), np.concatenate(coordinates), owner, every, chosen, squares)


@partial(jax.jit, static_argnames="grid")
def _render(embedding: Any, u: Float[Array, "n d"], grid: Grid) -> tuple[Array, Array]:
    """Images and volume elements."""
    part = Manifold("rendered", embedding, grid)
    return map_points(part, part.embedding, u), volume_elements(part, u)


def farthest_rows(
    rows: Float[np.ndarray, "n f"], count: int
) -> tuple[Int[np.ndarray, "count"], Float[np.ndarray, "count n"]]:
    """Farthest points from row 0 on, and their squared distances to all rows.

    As :func:`farthest_points`, by products of the matrix with one row: these are the distances in which
    neighbours are searched later, and a pass over gigabytes takes a fraction of the time. Squares are right
    to the rounding of squared lengths, which suffices to tell images apart, but not copies of one.
    """
    sizes = np.einsum("ij,ij->i", rows, rows)
    chosen, squares = np.zeros(count, int), np.empty((count, len(rows)), rows.dtype)
    nearest = np.full(len(rows), np.inf, rows.dtype)
    for k in range(count):
        chosen[k] = np.argmax(nearest) if k else 0
        squares[k] = sizes + sizes[chosen[k]] - 2 * (rows @ rows[chosen[k]])
        nearest = np.minimum(nearest, squares[k])
        nearest[chosen[k]] = -np.inf  # never again
    return chosen, squares


def draw_rows(lattice: Lattice, key: Array, size: int) -> Int[np.ndarray, "size"]:
    """Different training images, drawn with probability proportional to volume."""
    rows = np.sort(np.asarray(sample_grid(key, jnp.asarray(lattice.weights), size)))
    if rows[0] < 0:
        raise ValueError(f"a lattice has no {size} images of positive volume besides its test images.")
    return rows


def project_among(lattice: Lattice, rows: np.ndarray, project: Any) -> Float[Array, "q *features"]:
    """Test images projected by a local fit of all images that looks at these rows only; NaN where it failed.

    The nearest rows are found by a matrix product in single precision, as in manifold-microscope.
    """
    count = project.args[0].candidates
    nearest = np.argpartition(lattice.squares[:, rows], count - 1, axis=1)[:, :count]
    fit = project_with_status(project, lattice.points[lattice.tests], indices=jnp.asarray(rows[nearest]))
    return jnp.where((fit.status == OK).reshape(-1, *(1,) * (fit.points.ndim - 1)), fit.points, jnp.nan)


def feet_of_images(setting: Setting, lattice: Lattice, images: Array) -> tuple[np.ndarray, float]:
    """Distances of projected test images from the part that each comes from; share that did not converge."""
    distances, lost = np.full(len(images), np.nan), 0
    owner = lattice.part[lattice.tests]
    for k, part in enumerate(setting.parts):
        here = np.flatnonzero(owner == k)
        if len(here):
            starts = jnp.asarray(lattice.coordinates[lattice.tests[here]])
            feet = feet_from(part, images[here], starts)
            distances[here] = np.asarray(feet.distances)
            lost += int(np.sum(~np.asarray(feet.converged) & np.isfinite(distances[here])))
    return distances, lost / len(images)
