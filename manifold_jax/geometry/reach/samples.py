"""Reach of a cloud of samples, without a grid: the plug-in estimator with given or estimated tangents."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import finite, flat_points, is_traced, positive, whole
from manifold_jax._files import Progress
from manifold_jax._linalg import norm
from manifold_jax.geometry.neighbours import nearest_neighbours
from manifold_jax.geometry.reach.bottleneck import NONE, Candidate
from manifold_jax.geometry.reach.cloud import distances, lengths, make_cloud, pieces
from manifold_jax.geometry.reach.frames import ROUNDING
from manifold_jax.geometry.reach.lattice import End
from manifold_jax.geometry.reach.pairs import PairSearch, Tile, check_options, tile_shape
from manifold_jax.geometry.reach.result import ComponentReach, Reach, conclude, smallest_pairs

DEPENDENT = 1e-6  # ratio of the smallest to the largest pivot at which tangent vectors count as dependent


def tangent_ball_radius(
    x: Float[Array, "f"], y: Float[Array, "f"], frame: Float[Array, "d f"]
) -> Float[Array, ""]:
    """R(x, y) = |y - x|^2 / (2 d(y - x, T_x)), the ball that touches T_x at x and passes through y.

    For one pair (use ``vmap``); differentiable. Federer, *Curvature measures*, Trans. AMS 93 (1959), theorem
    4.18.

    Args:
        x: Point that the ball touches.
        y: Point that it passes through.
        frame: Orthonormal rows that span the tangent space at x.

    Returns:
        The radius, infinite with derivative 0 where y lies in the tangent plane.

    Example:
        >>> x, y = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> print(mj.tangent_ball_radius(x, y, jnp.array([[0.0, 1.0]])))
        1.0
    """
    v = jnp.ravel(y) - jnp.ravel(x)
    along = jnp.sum(frame * v, axis=-1)
    height = norm(v - jnp.sum(frame * along[:, None], axis=0))
    flat = height == 0
    return jnp.where(flat, jnp.inf, jnp.sum(v**2) / (2 * jnp.where(flat, 1.0, height)))


def reach_from_samples(
    points: Float[Any, "n *features"],
    tangents: Float[Any, "n d *features"] | None = None,
    *,
    dimension: int,
    neighbours: int | None = None,
    separation: float | None = None,
    tolerance: float = 0.1,
    tile_size: int | None = None,
    progress: Progress | None = None,
) -> Reach:
    """Plug-in estimate of the reach from samples alone.

    The infimum of Federer's ratio is taken over pairs of samples,

        tau_n = min over i != j of |y_j - x_i|^2 / (2 d(y_j - x_i, T_i)),

    the estimator of Aamari, Kim, Chazal, Michel, Rinaldo & Wasserman (Electron. J. Stat. 13, 2019). With
    exact tangents it can only be too large, for the infimum runs over fewer pairs: by O(n^(-1/d)) where a
    bottleneck decides, and O(n^(-2/(3d-1))) where curvature does (their section 4). With tangents that are
    off by an angle theta, pairs at distance r err by at most 2 sin(theta) / r in 1/tau, so that near pairs
    must be left out.

    Args:
        points: Samples. Those at the same place (to rounding) are not compared but counted in ``coincident``.
        tangents: Vectors that span the tangent space at every point; by default from a local quadratic fit.
        dimension: d.
        neighbours: Points of each local estimate; by default ``d (d + 3) + 4``.
        separation: Least distance of a pair. By default 0 for given tangents (pairs spoilt by rounding are
            left out in any case), and the largest radius of the neighbourhoods for estimated ones.
        tolerance: As in :func:`reach`.
        tile_size: As in :func:`reach`.
        progress: As in :func:`reach`.

    Returns:
        The estimate. ``error`` holds rounding and, for estimated tangents, their angle (from neighbourhoods
        of half the size), not the sampling bias. ``local`` and ``bottleneck`` are the smallest ratios of
        near and of far pairs (chord at more than 30 degrees to the tangent space), ``pair`` the two deciding
        points.

    Raises:
        ValueError: Shapes do not fit, values are NaN, all points coincide, or there are too few.

    Example:
        >>> t = jax.random.uniform(jax.random.key(0), (400,), maxval=2 * jnp.pi)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> tangent = jnp.stack([-jnp.sin(t), jnp.cos(t)], axis=-1)[:, None]
        >>> print(f"{mj.reach_from_samples(circle, tangent, dimension=1).value:.2f}")
        1.00
    """
    name = "reach_from_samples"
    check_options(name, tile_size, tolerance)
    if separation is not None:
        positive(name, "separation", separation, zero=True)
    if is_traced(points):
        raise ValueError(f"{name}: the search runs on the host and cannot be traced; call it outside of jit.")
    rows = np.asarray(flat_points(name, points, dimension))
    n = len(rows)
    if n < 3:
        raise ValueError(f"{name}: points must be at least 3, got {n}.")
    if tangents is None:
        least = dimension * (dimension + 3) // 2 + 2
        count = dimension * (dimension + 3) + 4 if neighbours is None else neighbours
        whole(name, "neighbours, from which tangents are estimated,", count, least, n - 1)
        frames, angle, radius = estimate_tangents(rows, dimension, count)
        separation = float(radius.max()) if separation is None else separation
    else:
        frames, angle = _given_tangents(name, tangents, rows, dimension), np.zeros(n)
    noise = float(np.finfo(rows.dtype).eps) * lengths(rows)
    if np.ptp(rows.astype(np.float64), axis=0).max() <= 4 * noise.max():
        raise ValueError(f"{name}: all points lie in one place: they have no reach.")
    cloud = make_cloud(rows, noise, np.zeros(n))
    size, columns = tile_shape(cloud, tile_size)
    search = PairSearch(cloud, columns, separation=separation or 0.0)
    size, done = min(size, n), 0
    nothing = np.zeros(size)
    tilt = nothing + ROUNDING * float(np.finfo(rows.dtype).eps)
    for group in compact_groups(cloud.projected, size):
        # Filled up with the last point of the group: one shape, one compilation.
        position = np.pad(group, (0, size - len(group)), mode="edge")
        search.add(Tile(position, frames[position], tilt, nothing + np.inf, nothing))
        done += len(group)
        if progress is not None:
            progress(done, n)
    return _result(search, angle, tolerance)


def _given_tangents(caller: str, tangents: Any, rows: np.ndarray, dimension: int) -> np.ndarray:
    """Orthonormal frames from spanning vectors."""
    vectors, (n, f) = np.asarray(tangents), rows.shape
    if vectors.ndim < 3 or vectors.shape[:2] != (n, dimension) or vectors[0, 0].size != f:
        raise ValueError(f"{caller}: tangents must have shape ({n}, {dimension}, {f}), got {vectors.shape}.")
    vectors = vectors.reshape(n, dimension, f).astype(np.float64)
    finite(caller, "tangents", vectors)
    frames, triangle = np.linalg.qr(np.swapaxes(vectors, 1, 2))
    pivots = np.abs(np.diagonal(triangle, axis1=1, axis2=2))
    flat = np.flatnonzero(pivots.min(axis=1) <= DEPENDENT * pivots.max(axis=1))
    if len(flat):
        raise ValueError(
            f"{caller}: tangents must be independent, got dependent vectors at {len(flat)} "
            f"points, first at {flat[0]}."
        )
    return np.ascontiguousarray(np.swapaxes(frames, 1, 2)).astype(rows.dtype)


def estimate_tangents(
    rows: Float[np.ndarray, "n f"], dimension: int, count: int
) -> tuple[Float[np.ndarray, "n d f"], Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Tangent frames by a quadratic fit to the nearest neighbours.

    Principal components give coordinates t; the differences are then fitted by a polynomial of degree 2 in t
    through the point, whose linear part spans the tangent space to second order in the distance of the
    neighbours (Aamari & Levrard, Ann. Stat. 47, 2019), where principal components alone are first order.

    Returns:
        Frames; the sine of the angle to the fit with half the neighbours; the distance to the farthest.
    """
    n, f = rows.shape
    frames, angle = np.zeros((n, dimension, f), rows.dtype), np.zeros(n)
    fewer = max(dimension * (dimension + 3) // 2 + 1, count // 2)
    distance, index = map(np.asarray, nearest_neighbours(rows, rows, count + 1))
    for part in pieces(n, count * f):
        # The nearest is the point itself, or one at the same place.
        difference = rows[index[part, 1:]].astype(np.float64) - rows[part, None]
        full, half = (_fit_tangents(difference[:, :k], dimension) for k in (count, fewer))
        frames[part] = full
        angle[part] = np.linalg.norm(half - half @ np.swapaxes(full, 1, 2) @ full, axis=(1, 2))
    return frames, angle, distance[:, -1].astype(np.float64)


def _fit_tangents(difference: Float[np.ndarray, "p k f"], dimension: int) -> Float[np.ndarray, "p d f"]:
    """Orthonormal linear part of the quadratic fit to differences."""
    # The scores of the principal axes, from the k x k products: where points are long, much cheaper.
    products = difference @ np.swapaxes(difference, 1, 2)
    values, vectors = np.linalg.eigh(products)
    t = vectors[:, :, -dimension:] * np.sqrt(np.maximum(values[:, None, -dimension:], 0.0))
    scale = np.linalg.norm(t, axis=2).max(axis=1)[:, None, None]
    t = t / np.where(scale > 0, scale, 1.0)
    i, j = np.triu_indices(dimension)
    design = np.concatenate([t, t[:, :, i] * t[:, :, j]], axis=2)
    linear = (np.linalg.pinv(design) @ difference)[:, :dimension]
    return np.swapaxes(np.linalg.qr(np.swapaxes(linear, 1, 2))[0], 1, 2)


def compact_groups(points: np.ndarray, size: int) -> list[np.ndarray]:
    """Indices in groups of ``size`` near points, by halving along the widest direction (a k-d tree)."""
    groups, stack = [], [np.arange(len(points))]
    while stack:
        index = stack.pop()
        if len(index) <= size:
            groups.append(index)
            continue
        part = points[index]
        along = part[:, int(np.argmax(np.ptp(part, axis=0)))]
        # Cut at a multiple of the size, so that all groups but one are full.
        cut = max(1, round(len(index) / size / 2)) * size
        order = np.argpartition(along, min(cut, len(index) - 1))
        stack += [index[order[:cut]], index[order[cut:]]]
    return groups


def _result(search: PairSearch, angle: Float[np.ndarray, "n"], tolerance: float) -> Reach:
    points, witness = search.cloud.points, search.witness
    n, centres = len(points), np.flatnonzero(witness >= 0)
    error = np.full(n, np.inf)
    radius, chord = search.radius[centres], distances(points, centres, witness[centres])
    error[centres] = search.error[centres] + 2 * radius**2 * angle[centres] / chord
    near, far = (
        Candidate(float(search.radius[k]), float(error[k]), (End(0, points[k]), End(0, points[witness[k]])))
        if k >= 0
        else NONE
        for k in smallest_pairs(search)
    )
    balls = ComponentReach("samples", None, search.radius, error, witness, np.zeros(n, bool))
    result = conclude((near, near, far, far), (balls,), search, tolerance)
    return result._replace(resolved=result.resolved and math.isfinite(result.value), searched=math.inf)
