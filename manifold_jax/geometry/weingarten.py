"""Curvature from samples by a regression of the Weingarten map on the normal spaces of neighbours."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import choice, flat_points, optional, whole
from manifold_jax._linalg import block_rows, map_blocks, matmul
from manifold_jax.geometry.jet import Jet, JetGram, gram
from manifold_jax.geometry.local_fit import (
    checked_frames,
    checked_radius,
    checked_rows,
    least_squares,
    local_pca_tangents,
    neighbour_count,
    weight_roots,
)
from manifold_jax.geometry.neighbours import neighbour_indices


class WeingartenFit(NamedTuple):
    """Second fundamental forms by regression of normals.

    Attributes:
        tangents: Orthonormal frames of the tangent spaces that were used.
        gram: Inner products of the frame and of the second fundamental form on it, for curvatures.
        radius: Distance of the farthest neighbour used.
        ok: False where the neighbours do not determine the map; the rest is NaN there.
    """

    tangents: Float[Array, "m d f"]
    gram: JetGram
    radius: Float[Array, "m"]
    ok: Bool[Array, "m"]


def default_neighbours(count: int, dimension: int) -> int:
    """Neighbours in so many points: enough for principal components, and at the rate of the theorem."""
    return max(2 * (dimension + 1) * (dimension + 2), round(count ** (4 / (dimension + 4)) / 4))


def weingarten_fit(
    points: Float[Array, "n *features"],
    *,
    dimension: int,
    neighbours: int | None = None,
    radius: float | Float[Array, "m"] | None = None,
    weights: str = "uniform",
    tangents: Float[Array, "n d f"] | None = None,
    rows: Int[Array, "m"] | None = None,
    block_size: int | None = None,
) -> WeingartenFit:
    """Second fundamental form by least squares of the Weingarten map.

    A normal vector xi at the point x is continued by its projections xi_i on the normal spaces at the
    neighbours x_i. With E an orthonormal frame of the tangent space at x and weights w_i the map of xi is

        A_xi = argmin_A sum_i w_i |E (xi_i - xi) + A E (x_i - x)|^2,

    made symmetric: the estimator of Cao, Li, Sun, Assadi & Zhang, *Efficient Weingarten map and curvature
    estimation on manifolds*, Machine Learning 110 (2021), arXiv 1905.10725. As A is linear in xi, all normals
    are done at once without a frame of the normal space: with P_i the projection on the tangent space at x_i,
    E (xi_i - xi) = -E P_i xi, and

        II = sym sum_i c_i (x) E P_i (1 - E^T E),   c = (T^T W T)^-1 T^T W,   rows of T: E (x_i - x).

    With exact tangent spaces it errs by O(h^2) where neighbours lie evenly around the point, h the size of
    the neighbourhood. Those of local PCA scatter by O(h), which divided by h does not vanish but averages out
    over neighbours: their number must grow with n. The paper has h ~ n^(-1/(d+4)) and a mean squared error
    O(n^(-4/(d+4))); a fixed number, as by default in its code, leaves an error of some 20 %.

    Args:
        points: Samples.
        dimension: d.
        neighbours: k, at least d; by default the larger of ``2 (d + 1)(d + 2)`` and n^(4/(d+4)) / 4, both for
            the map and for the tangent spaces.
        radius: Leave out those of them beyond this distance, one for all points or one per point.
        weights: ``"uniform"``, or ``"tricube"``, see :func:`local_quadratic_fit`.
        tangents: Orthonormal frames at all points; by default those of :func:`local_pca_tangents`.
        rows: Points at which to fit, all of them by default; ``radius`` is then that of these points.
        block_size: Points treated at once; by default about 4 million numbers.

    Returns:
        The fits, in the dtype of the points.

    Raises:
        ValueError: As :func:`local_quadratic_fit`.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (400, 3))
        >>> sphere = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        >>> fit = mj.fitting.weingarten_fit(sphere, dimension=2)
        >>> print(f"{jnp.median(mj.scalar_curvature(fit.gram)):.1f}")
        1.6
    """
    name = "weingarten_fit"
    choice(name, "weights", weights, ("uniform", "tricube"))
    block_size = optional(whole, name, "block_size", block_size)
    cloud = flat_points(name, points, dimension)
    dimension = whole(name, "dimension", dimension)
    if neighbours is None:
        neighbours = default_neighbours(len(cloud), dimension)
    count = neighbour_count(name, neighbours, cloud, dimension, dimension)
    centres = checked_rows(name, rows, len(cloud))
    centres = jnp.arange(len(cloud)) if centres is None else centres
    limit = checked_radius(name, radius, len(centres), cloud.dtype)
    if tangents is None:
        options = {"dimension": dimension, "neighbours": count, "block_size": block_size}
        frames = local_pca_tangents(cloud, **options)
    else:
        frames = checked_frames(name, tangents, (len(cloud), dimension, cloud.shape[1]), cloud.dtype)
    return _map_points(weights, cloud, frames, centres, limit, count, block_size)


@partial(jax.jit, static_argnames=("weights", "count", "block_size"))
def _map_points(
    weights: str,
    cloud: Float[Array, "n f"],
    frames: Float[Array, "n d f"],
    rows: Int[Array, "m"],
    limit: Float[Array, "m"],
    count: int,
    block_size: int | None,
) -> WeingartenFit:
    def one(row: Array, index: Array, most: Array) -> WeingartenFit:
        return _weingarten_map(weights, cloud[index] - cloud[row], frames[index], frames[row], most)

    nearest = neighbour_indices(cloud, cloud[rows], count + 1)[:, 1:]
    block = block_rows(2 * count * frames[0].size, block_size)
    return map_blocks(jax.vmap(one), block, rows, nearest, limit)


def _weingarten_map(
    weights: str,
    differences: Float[Array, "k f"],
    others: Float[Array, "k d f"],
    frame: Float[Array, "d f"],
    limit: Float[Array, ""],
) -> WeingartenFit:
    """The regression at one point; ``others`` are the frames of its neighbours."""
    d, f = frame.shape
    root, _, radius = weight_roots(differences, limit, weights)
    scale = jnp.where(radius > 0, radius, 1.0)
    ok = (radius > 0) & jnp.isfinite(frame).all() & jnp.isfinite(others).all()
    # NaN would spoil derivatives.
    frame, others = (jnp.where(ok, x, jnp.eye(d, f, dtype=frame.dtype)) for x in (frame, others))
    across = matmul(others, frame.T)
    normal = others - matmul(across, frame)
    turned = matmul(jnp.swapaxes(across, 1, 2), normal)  # E P_i (1 - E^T E)
    design = matmul(differences, frame.T) / scale * root[:, None]
    coefficients, determined = least_squares(design, turned.reshape(len(turned), -1) * root[:, None])
    ok &= determined
    second = coefficients.reshape(d, d, f) / scale
    products = gram(Jet(frame, (second + jnp.swapaxes(second, 0, 1)) / 2))
    fit = WeingartenFit(frame, products, radius, ok)
    return jax.tree.map(lambda x: x if x.dtype == bool else jnp.where(ok, x, jnp.nan), fit)
