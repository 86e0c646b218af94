"""Reach of a cloud of samples, without a grid: the plug-in estimator with given or estimated tangents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._files import Progress
from manifold_jax.geometry.error_bars import check_tolerance
from manifold_jax.geometry.reach.cloud import Cloud, make_cloud, norms
from manifold_jax.geometry.reach.pairs import (
    Rows,
    all_pairs,
    check_tile_size,
    compact_order,
    tile_shape,
)
from manifold_jax.geometry.reach.result import NOWHERE, ComponentReach, End, Reach, chords


def tangent_ball_radius(
    x: Float[Array, "f"], y: Float[Array, "f"], frame: Float[Array, "d f"]
) -> Float[Array, ""]:
    """R(x, y) = |y - x|^2 / (2 d(y - x, T_x)), the ball that touches T_x at x and passes through y.

    Federer, *Curvature measures*, Trans. AMS 93 (1959), theorem 4.18.

    Args:
        x: Centre.
        y: Another point.
        frame: Orthonormal rows that span the tangent space at x.

    Returns:
        The radius, infinite where y lies in the tangent plane; for one pair (use ``vmap``), differentiable.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import tangent_ball_radius
        >>> x, y = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> print(tangent_ball_radius(x, y, jnp.array([[0.0, 1.0]])))
        1.0
    """
    v = jnp.ravel(y) - jnp.ravel(x)
    along = jnp.sum(frame * v, axis=-1)
    rest = v - jnp.sum(frame * along[:, None], axis=0)
    return jnp.sum(v**2) / (2 * jnp.sqrt(jnp.sum(rest**2)))


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
        points: ``(n, *features)``. Points at the same place (to rounding) are not compared, and counted in
            ``coincident``.
        tangents: ``(n, d, *features)`` vectors that span the tangent space at every point; estimated by
            a local quadratic fit if not given.
        dimension: d.
        neighbours: Points of each local estimate; by default ``d (d + 3) + 4``.
        separation: Least distance of a pair. By default 0 for given tangents (pairs spoilt by rounding are
            left out in any case), and the largest radius of the neighbourhoods for estimated ones.
        tolerance: Relative error up to which the value counts as resolved.
        tile_size: As for :func:`reach`.
        progress: Called as ``progress(points done, points)``.

    Returns:
        The estimate. ``error`` holds rounding and, for estimated tangents, their angle (from neighbourhoods
        of half the size), not the sampling bias. ``local`` and ``bottleneck`` are the smallest ratios of
        near and of far pairs (chord at more than 30 degrees to the tangent space), ``pair`` the two deciding
        points.

    Raises:
        ValueError: Shapes do not fit, values are NaN, all points coincide, or there are too few.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import reach_from_samples
        >>> t = jax.random.uniform(jax.random.key(0), (400,), maxval=2 * jnp.pi)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> tangent = jnp.stack([-jnp.sin(t), jnp.cos(t)], axis=-1)[:, None]
        >>> print(f"{reach_from_samples(circle, tangent, dimension=1).value:.2f}")
        1.00
    """
    check_tolerance("reach_from_samples", tolerance)
    if separation is not None and not 0 <= separation < math.inf:
        raise ValueError(f"separation must be a length, at least 0 and finite, got {separation!r}.")
    cloud = _checked_points(points, dimension, tile_size)
    n = len(cloud)
    count = neighbours if neighbours is not None else dimension * (dimension + 3) + 4
    if tangents is None:
        least = dimension * (dimension + 3) // 2 + 2
        if not isinstance(count, int | np.integer) or not least <= count <= n - 1:
            raise ValueError(
                f"Tangents are estimated from {least} to {n - 1} neighbours in dimension {dimension}, got "
                f"{count!r}: take more points, or give tangents."
            )
        frames, angle, radius = estimated_tangents(cloud, dimension, count)
        separation = float(radius.max()) if separation is None else separation
    else:
        frames, angle = _given_tangents(tangents, cloud, dimension), np.zeros(n)
        separation = 0.0 if separation is None else separation
    noise = float(np.finfo(cloud.dtype).eps) * norms(cloud)
    if np.ptp(cloud.astype(np.float64), axis=0).max() <= 4 * noise.max():
        raise ValueError("All points lie in one place: they have no reach.")
    whole = make_cloud(cloud, noise, np.zeros(n))
    rows, columns = tile_shape(cloud.shape[1], n, tile_size)
    found = all_pairs(
        whole,
        _tiles(whole, frames, rows, progress),
        longest=0.0,
        separation=separation,
        columns=columns,
    )
    return _result(whole.points, found, angle, tolerance)


def _checked_points(points: Any, dimension: int, tile_size: int | None) -> np.ndarray:
    if isinstance(points, jax.core.Tracer):
        raise ValueError(
            "reach_from_samples searches on the host and cannot be traced: call it outside of jit."
        )
    cloud = np.asarray(points)
    if cloud.ndim < 2 or not np.issubdtype(cloud.dtype, np.floating):
        raise ValueError(
            f"points must be a floating-point array (n, *features), got {cloud.dtype} of shape {cloud.shape}."
        )
    cloud = cloud.reshape(len(cloud), -1)
    cloud = cloud.astype(jax.dtypes.canonicalize_dtype(cloud.dtype))
    if isinstance(dimension, bool) or not isinstance(dimension, (int, np.integer)) or dimension < 1:
        raise ValueError(f"dimension must be a whole number, at least 1, got {dimension!r}.")
    if dimension >= cloud.shape[1]:
        raise ValueError(
            f"dimension must be below the {cloud.shape[1]} features of a point, got {dimension}."
        )
    if len(cloud) < 3:
        raise ValueError(f"reach_from_samples needs at least 3 points, got {len(cloud)}.")
    check_tile_size(tile_size)
    bad = np.flatnonzero(~np.isfinite(cloud).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(cloud)} points hold NaN or infinite values, first point {bad[0]}."
        )
    return cloud


def _given_tangents(tangents: Any, cloud: np.ndarray, dimension: int) -> np.ndarray:
    """Orthonormal frames from spanning vectors."""
    vectors = np.asarray(tangents)
    if (
        vectors.ndim < 3
        or vectors.shape[:2] != (len(cloud), dimension)
        or vectors[0, 0].size != cloud.shape[1]
    ):
        raise ValueError(
            f"tangents must have shape ({len(cloud)}, {dimension}, {cloud.shape[1]}): points, vectors, "
            f"features; got {vectors.shape}."
        )
    vectors = vectors.reshape(len(cloud), dimension, -1).astype(np.float64)
    if not np.isfinite(vectors).all():
        raise ValueError("tangents hold NaN or infinite values.")
    frames, triangle = np.linalg.qr(np.swapaxes(vectors, 1, 2))
    pivots = np.abs(np.diagonal(triangle, axis1=1, axis2=2))
    flat = np.flatnonzero(pivots.min(axis=1) <= 1e-6 * pivots.max(axis=1))
    if len(flat):
        raise ValueError(f"The tangent vectors of {len(flat)} points are dependent, first point {flat[0]}.")
    return np.ascontiguousarray(np.swapaxes(frames, 1, 2)).astype(cloud.dtype)


def estimated_tangents(
    cloud: Float[np.ndarray, "n f"], dimension: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tangent frames by a quadratic fit to the nearest neighbours.

    Principal components give coordinates t; the differences are then fitted by a polynomial of degree 2 in t
    through the point, whose linear part spans the tangent space to second order in the distance of the
    neighbours (Aamari & Levrard, Ann. Stat. 47, 2019), where principal components alone are first order.

    Args:
        cloud: Points.
        dimension: d.
        count: Neighbours, more than d(d + 3)/2.

    Returns:
        Frames ``(n, d, f)``; the sine of the angle to the fit with half the neighbours ``(n,)``; the distance
        to the farthest neighbour ``(n,)``.
    """
    n, f = cloud.shape
    frames = np.zeros((n, dimension, f), cloud.dtype)
    angle, radius = np.zeros(n), np.zeros(n)
    half = max(dimension * (dimension + 3) // 2 + 1, count // 2)
    step = max(1, 2**24 // max(n, count * f))
    # About the middle and in float64: far from the origin products of float32 do not tell neighbours apart.
    centred = cloud.astype(np.float64)
    centred -= centred.mean(axis=0)
    squares = np.sum(centred**2, axis=1)
    for start in range(0, n, step):
        x = centred[start : start + step]
        distance = squares[start : start + step, None] + squares[None] - 2.0 * (x @ centred.T)
        nearest = np.argpartition(distance, count, axis=1)[:, : count + 1]
        difference = centred[nearest] - x[:, None]
        length = np.linalg.norm(difference, axis=2)
        order = np.argsort(length, axis=1)
        difference = np.take_along_axis(difference, order[:, :, None], axis=1)[:, 1:]
        here = slice(start, start + len(x))
        radius[here] = length.max(axis=1)
        full, other = _quadratic_fit(difference, dimension), _quadratic_fit(difference[:, :half], dimension)
        frames[here] = full
        inside = other @ np.swapaxes(full, 1, 2) @ full
        angle[here] = np.linalg.norm(other - inside, axis=(1, 2))
    return frames, angle, radius


def _quadratic_fit(difference: np.ndarray, dimension: int) -> np.ndarray:
    """Orthonormal linear part ``(p, d, f)`` of the quadratic fit to differences ``(p, k, f)``."""
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


def _tiles(cloud: Cloud, frames: np.ndarray, size: int, progress: Progress | None) -> Iterator[Rows]:
    n, done = len(cloud.points), 0
    eps = float(np.finfo(cloud.points.dtype).eps)
    for group in compact_order(cloud.projected, min(size, n)):
        # A short group is filled up with its last point: one shape, one compilation.
        position = np.pad(group, (0, min(size, n) - len(group)), mode="edge")
        nothing = np.zeros(len(position))
        yield Rows(position, frames[position], nothing + 4 * eps, nothing + np.inf, nothing)
        done += len(group)
        if progress is not None:
            progress(done, n)


def _result(points: np.ndarray, found: Any, angle: np.ndarray, tolerance: float) -> Reach:
    centre = found.witness >= 0
    length = chords(points, found.witness)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = found.error + 2 * found.radius**2 * angle / length
    pointwise = np.where(centre, found.radius, np.inf)
    error = np.where(centre, error, np.inf)
    with np.errstate(invalid="ignore"):
        far = centre & (length >= found.radius)
    parts = {}
    for name, mask in (("local", centre & ~far), ("global", far)):
        best = int(np.argmin(np.where(mask, pointwise, np.inf)))
        parts[name] = (
            (float(pointwise[best]), float(error[best]), best) if mask.any() else (math.inf, math.inf, -1)
        )
    case = min(parts, key=lambda name: parts[name][0])
    value, bar, best = parts[case]
    near, wide = parts["local"], parts["global"]
    if math.isfinite(near[0] + wide[0]) and abs(near[0] - wide[0]) <= near[1] + wide[1] <= tolerance * value:
        case = "tie"
    ends = (End(0, points[best]), End(0, points[found.witness[best]])) if best >= 0 else NOWHERE
    balls = ComponentReach("samples", None, pointwise, error, found.witness, np.zeros(len(points), bool))
    return Reach(
        value=value,
        error=bar,
        resolved=bool(math.isfinite(value) and bar <= tolerance * value),
        case=case,
        local=near[0],
        local_error=near[1],
        local_bounds=(near[0], near[0]),
        bottleneck=wide[0],
        bottleneck_error=wide[1],
        searched=math.inf,
        ends=ends,
        coincident=len(found.coincident),
        pruned=max(0.0, 1 - found.looked_at / len(points) ** 2),
        components=(balls,),
    )
