"""Noise on samples of a manifold: in every ambient direction, or in the normal directions only."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from manifold_jax._checks import choice, floating, instance, positive, random_key, real
from manifold_jax._linalg import matmul
from manifold_jax.datasets.sampling import map_points
from manifold_jax.geometry.embeddings import frozen_embedding
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.manifold import Manifold


def ambient_noise(
    key: PRNGKeyArray, points: Float[Array, "*shape"], scale: float | Float[Array, ""]
) -> Float[Array, "*shape"]:
    """Points plus independent Gaussian noise of standard deviation ``scale`` on every feature.

    Args:
        key: Random key.
        points: Array of any shape and floating type; the result has both (other types are a ValueError).
        scale: Standard deviation, at least 0, in the units of the features.

    Example:
        >>> ambient_noise(jax.random.key(0), jnp.zeros((3, 2)), 0.1).shape
        (3, 2)
    """
    random_key("ambient_noise", "key", key)
    x = floating("ambient_noise", "points", points, least_ndim=0)
    positive("ambient_noise", "scale", scale, zero=True)
    noise = jax.random.normal(key, x.shape, x.dtype)
    return (x + jnp.asarray(scale, x.dtype) * noise).astype(jnp.asarray(points).dtype)


def normal_noise(
    key: PRNGKeyArray,
    manifold: Manifold,
    coordinates: Float[Array, "n d"],
    scale: float | Float[Array, ""],
    *,
    kind: str = "gaussian",
) -> Float[Array, "n *features"]:
    """Points of a manifold moved within their normal spaces.

    ``"gaussian"``: standard deviation ``scale`` in each of the m = f - d normal directions.
    ``"uniform"``: uniform in the normal ball of radius ``scale``, the perpendicular noise model of
    Genovese, Perone-Pacifico, Verdinelli & Wasserman, *Journal of Machine Learning Research* 13 (2012),
    1263-1291; the radius is scale * U^(1/m), U uniform in (0, 1). If ``scale`` is below the reach, the
    nearest point of the manifold is the point that was moved.

    The normal part of a Gaussian vector z is z - Q Q^T z, taken twice, Q from the QR of the Jacobian (f, d).

    Args:
        key: Random key.
        manifold: The manifold.
        coordinates: Chart points ``(n, d)``.
        scale: Standard deviation or radius, as for :func:`ambient_noise`.
        kind: ``"gaussian"`` or ``"uniform"``.

    Returns:
        Noisy points ``(n, *features)`` in the type of the embedding; NaN at chart points where the tangent
        vectors are linearly dependent to rounding (a pole) and the normal space is not defined.

    Raises:
        ValueError: An argument is not as described, or the manifold has no normal direction (f <= d).

    Example:
        >>> sphere, where = mj.datasets.sphere(), jnp.ones((5, 2))
        >>> noisy = mj.datasets.normal_noise(jax.random.key(0), sphere, where, 0.1, kind="uniform")
        >>> bool(jnp.all(jnp.abs(jnp.linalg.norm(noisy, axis=1) - 1) < 0.1001))
        True
    """
    choice("normal_noise", "kind", kind, ("gaussian", "uniform"))
    positive("normal_noise", "scale", scale, zero=True)
    random_key("normal_noise", "key", key)
    instance("normal_noise", "manifold", manifold, Manifold, "move the members of a union one by one")
    coordinates, d = real("normal_noise", "coordinates", coordinates), manifold.grid.ndim
    coordinates = coordinates.astype(jnp.result_type(coordinates, float))
    if coordinates.ndim != 2 or coordinates.shape[1] != d:
        raise ValueError(f"normal_noise: coordinates must have shape (n, {d}), got {coordinates.shape}.")
    features = math.prod(manifold.feature_shape)
    if features <= d:
        what = f"{manifold.name!r} has dimension {d} and {features} feature(s)"
        raise ValueError(f"normal_noise: {what}, so no normal direction; use ambient_noise.")
    key_direction, key_radius = jax.random.split(key)
    noise = jax.random.normal(key_direction, (len(coordinates), features), coordinates.dtype)
    embedding = frozen_embedding(manifold.embedding, d, coordinates.dtype)
    points, normal = _points_and_normals(embedding, manifold.grid, coordinates, noise)
    if kind == "uniform":
        radius = jax.random.uniform(key_radius, (len(points), 1), normal.dtype) ** (1.0 / (features - d))
        normal = normal * (radius / jnp.linalg.norm(normal, axis=1, keepdims=True))
    return points + (jnp.asarray(scale, points.dtype) * normal).reshape(points.shape)


@partial(jax.jit, static_argnames="grid")
def _points_and_normals(
    embedding: Any, grid: Grid, coordinates: Float[Array, "n d"], noise: Float[Array, "n f"]
) -> tuple[Float[Array, "n *features"], Float[Array, "n f"]]:
    """Embedded points, and the normal part of a vector at each of them."""
    manifold = Manifold("moved", embedding, grid)
    points = map_points(manifold, embedding, coordinates)
    return points, map_points(manifold, partial(_normal_part, manifold), coordinates, noise)


def _normal_part(manifold: Manifold, u: Float[Array, "d"], vector: Float[Array, "f"]) -> Float[Array, "f"]:
    """A vector without its tangential part; NaN where the Jacobian loses rank to rounding."""
    jacobian = jax.jacfwd(lambda v: jnp.ravel(manifold.embedding(v)))(u)
    basis, triangle = jnp.linalg.qr(jacobian)
    pivots = jnp.abs(jnp.diag(triangle))
    floor = 8.0 * jnp.finfo(jacobian.dtype).eps * jacobian.shape[0] ** 0.5
    for _ in range(2):
        vector = vector - matmul(basis, matmul(basis.T, vector))
    return jnp.where(jnp.min(pivots) > floor * jnp.max(pivots), vector, jnp.nan)
