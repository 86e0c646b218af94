"""Tangent spaces and curvature from samples: local principal components and local quadratic regression."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import choice, flag, flat_points, is_traced, optional, real, whole
from manifold_jax._linalg import block_rows, map_blocks, matmul, norm, principal_plane, safe_sqrt
from manifold_jax.geometry.curvature import mean_curvature, scalar_curvature, second_form_norm
from manifold_jax.geometry.jet import Jet, JetGram, gram
from manifold_jax.geometry.neighbours import neighbour_indices
from manifold_jax.geometry.normal_curvature import normal_curvature
from manifold_jax.geometry.tensors import frame as orthonormal
from manifold_jax.geometry.tensors import pair_positions

CURVATURES: dict[str, Callable[[JetGram], Array]] = {
    "scalar_curvature": scalar_curvature,
    "mean_curvature": mean_curvature,
    "second_form_norm": second_form_norm,
    "normal_curvature": normal_curvature,
}
"""What :func:`curvature_from_samples` can return, by name."""


class QuadraticFit(NamedTuple):
    """Local quadratic graphs over the tangent planes of samples.

    Attributes:
        tangents: Orthonormal frames of the tangent spaces of the graphs.
        gram: Inner products of the 2-jet of each graph over the point itself, for curvatures.
        residual: Root mean square distance of the neighbours from the graph, in feature units.
        radius: Distance of the farthest neighbour used.
        ok: False where the neighbours do not determine a quadratic graph; the rest is NaN there.
    """

    tangents: Float[Array, "n d f"]
    gram: JetGram
    residual: Float[Array, "n"]
    radius: Float[Array, "n"]
    ok: Bool[Array, "n"]


def local_pca_tangents(
    points: Float[Array, "n *features"],
    *,
    dimension: int,
    neighbours: int | None = None,
    block_size: int | None = None,
) -> Float[Array, "n d f"]:
    """Tangent spaces by local principal components.

    The d leading eigenvectors of the covariance of the point and its nearest neighbours. The angle to the
    tangent space is of the order of the size of the neighbourhood times the curvature (Aamari & Levrard,
    *Discrete & Computational Geometry* 59, 2018).

    Args:
        points: Samples.
        dimension: d.
        neighbours: Neighbours, the point itself not counted, at least d; by default ``2 (d + 1)(d + 2)``.
        block_size: Points treated at once; by default about 4 million numbers.

    Returns:
        Orthonormal rows ``(n, d, f)``, features flattened, in the dtype of the points; NaN where the
        neighbours span fewer than d dimensions. Second derivatives are NaN where eigenvalues are equal.

    Raises:
        ValueError: The points are not floating-point, ``dimension`` is not between 1 and f - 1, or
            ``neighbours`` is out of range.

    Example:
        >>> t = jax.random.uniform(jax.random.key(0), (500,), maxval=2 * jnp.pi)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> tangents = mj.fitting.local_pca_tangents(circle, dimension=1)[:, 0]
        >>> bool(jnp.max(jnp.abs(jnp.sum(tangents * circle, axis=-1))) < 0.1)
        True
    """
    name = "local_pca_tangents"
    cloud = flat_points(name, points, dimension)
    dimension = whole(name, "dimension", dimension)
    count = neighbour_count(name, neighbours, cloud, dimension, dimension)
    block_size = optional(whole, name, "block_size", block_size)
    return _map_neighbourhoods(_principal_frame, dimension, cloud, None, [], count, block_size)


def local_quadratic_fit(
    points: Float[Array, "n *features"],
    *,
    dimension: int,
    neighbours: int | None = None,
    radius: float | Float[Array, "n"] | None = None,
    weights: str = "uniform",
    intercept: bool = True,
    tangents: Float[Array, "n d f"] | None = None,
    rows: Int[Array, "m"] | None = None,
    block_size: int | None = None,
) -> QuadraticFit:
    """Fit a quadratic graph over the tangent plane to the neighbours of every point.

    A neighbour y of the point x has tangent coordinates t = E (y - x), where E holds the d leading principal
    components of the neighbours, and the rest z = (y - x) - E^T t. The regression

        z ~ c + L t + 1/2 B(t, t)

    gives the 2-jet X_i = e_i + L_i, X_ij = B_ij of a graph through (or near) the point, where L corrects the
    tilt of the principal components. Curvature follows by the Gauss equation: the extrinsic estimator of
    Sritharan, Wang & Hormoz, *PNAS* 118 (2021), e2100473118. With k neighbours, B errs by the size of their
    neighbourhood times third derivatives, O(n^(-1/d)); no f x f matrix is formed if f is above k.

    Args:
        points: Samples.
        dimension: d.
        neighbours: k, at least ``(d + 1)(d + 2) / 2``; by default four times that.
        radius: Leave out those of them beyond this distance, one for all points or one per point.
        weights: ``"uniform"``, or ``"tricube"``: (1 - (r / R)^3)^3 with R the distance of the farthest.
        intercept: Whether the graph may miss the point, as it should for noisy samples.
        tangents: Orthonormal frames to use in place of principal components.
        rows: Points at which to fit, all of them by default; their neighbours are sought among all points.
            ``radius`` and ``tangents`` are then those of these points.
        block_size: Points treated at once; by default about 4 million numbers.

    Returns:
        The fits, in the dtype of the points.

    Raises:
        ValueError: As :func:`local_pca_tangents`; or weights, radius, tangents or rows do not fit.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (400, 3))
        >>> sphere = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        >>> fit = mj.fitting.local_quadratic_fit(sphere, dimension=2)
        >>> print(f"{jnp.median(mj.scalar_curvature(fit.gram)):.1f}")
        2.2
    """
    name = "local_quadratic_fit"
    choice(name, "weights", weights, ("uniform", "tricube"))
    block_size = optional(whole, name, "block_size", block_size)
    cloud = flat_points(name, points, dimension)
    dimension = whole(name, "dimension", dimension)
    count = neighbour_count(name, neighbours, cloud, math.comb(dimension + 2, 2), dimension)
    centres = checked_rows(name, rows, len(cloud))
    n = len(cloud) if centres is None else len(centres)
    extra = [checked_radius(name, radius, n, cloud.dtype)]
    if tangents is not None:
        extra.append(checked_frames(name, tangents, (n, dimension, cloud.shape[1]), cloud.dtype))
    settings = (dimension, weights, flag(name, "intercept", intercept))
    return _map_neighbourhoods(_quadratic_graph, settings, cloud, centres, extra, count, block_size)


def curvature_from_samples(
    points: Float[Array, "n *features"],
    *,
    dimension: int,
    quantity: str = "scalar_curvature",
    **options: Any,
) -> Float[Array, "n"]:
    """One curvature at every sample, from a local quadratic fit.

    It has no error bar: how far it is off with as many samples and as much noise is seen on manifolds of
    known curvature, by ``manifold-jax calibrate``.

    Args:
        points: Samples.
        dimension: d.
        quantity: ``"scalar_curvature"`` S, ``"mean_curvature"`` |H| (divided by d), ``"second_form_norm"``
            |II| or ``"normal_curvature"``, the largest |II(v, v)| over unit v.
        options: As for :func:`local_quadratic_fit`.

    Returns:
        ``(n,)``, in inverse feature units, squared for S; NaN where the fit fails.

    Raises:
        ValueError: The quantity is unknown, or as :func:`local_quadratic_fit`.

    Example:
        >>> t = jax.random.uniform(jax.random.key(0), (200,), maxval=2 * jnp.pi)
        >>> circle = 2 * jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> curvature = mj.fitting.curvature_from_samples(circle, dimension=1, quantity="mean_curvature")
        >>> print(f"{curvature.mean():.2f}")
        0.50
    """
    choice("curvature_from_samples", "quantity", quantity, CURVATURES)
    return _curvature(local_quadratic_fit(points, dimension=dimension, **options), quantity)


@partial(jax.jit, static_argnames="quantity")
def _curvature(fit: QuadraticFit, quantity: str) -> Array:
    return jnp.where(fit.ok, CURVATURES[quantity](fit.gram), jnp.nan)


def _principal_frame(dimension: int, differences: Array, root: Any = 1.0) -> Float[Array, "d f"]:
    """Principal components of the point and its neighbours; the point has the weight 1.

    NaN below rank d, and where distances overflow, so that the neighbours are not known.
    """
    points = jnp.concatenate([differences, jnp.zeros_like(differences[:1])])
    root = jnp.ones_like(points[:, 0]).at[:-1].set(root)
    _, values, frame = principal_plane(points, root, dimension)
    floor = 8 * len(points) * jnp.finfo(points.dtype).eps * jnp.maximum(values[-1], 0.0)
    known = (values[-dimension] > floor) & jnp.isfinite(jnp.sum(differences**2))
    return jnp.where(known, frame[::-1], jnp.nan)


def _quadratic_graph(
    settings: tuple[int, str, bool],
    differences: Float[Array, "k f"],
    limit: Float[Array, ""],
    frame: Float[Array, "d f"] | None = None,
) -> QuadraticFit:
    """Quadratic graph through the neighbours; settings are dimension, weights and intercept."""
    d, weights, intercept = settings
    root, inside, radius = weight_roots(differences, limit, weights)
    scale = jnp.where(radius > 0, radius, 1.0)
    if frame is None:
        frame = _principal_frame(d, differences, root)
    ok = jnp.isfinite(frame).all()
    frame = jnp.where(ok, frame, jnp.eye(*frame.shape, dtype=frame.dtype))  # NaN would spoil derivatives
    t = matmul(differences, frame.T)
    normal = differences - matmul(t, frame)
    design, origin = (monomials(x, 2)[:, 0 if intercept else 1 :] for x in (t / scale, jnp.zeros_like(t[:1])))
    rows = jnp.concatenate([design * root[:, None], origin])
    values = jnp.concatenate([normal * root[:, None], jnp.zeros_like(normal[:1])])
    coefficients, determined = least_squares(rows, values)
    ok &= determined & (radius > 0)
    missed = jnp.sum((normal - matmul(design, coefficients)) ** 2, axis=1)
    residual = safe_sqrt(jnp.sum(inside * missed) / jnp.maximum(jnp.sum(inside), 1))
    linear, quadratic = jnp.split(coefficients[-d * (d + 3) // 2 :], [d])
    jet = _graph_jet(frame, linear / scale, quadratic / scale**2)
    products = gram(jet)
    tangents = matmul(orthonormal(products.metric), jet.first)
    fit = QuadraticFit(tangents, products, residual, radius, ok)
    return jax.tree.map(lambda x: x if x.dtype == bool else jnp.where(ok, x, jnp.nan), fit)


def weight_roots(
    differences: Float[Array, "k f"], limit: Float[Array, ""], weights: str
) -> tuple[Float[Array, "k"], Bool[Array, "k"], Float[Array, ""]]:
    """Roots of the weights of neighbours, which of them are within the limit, and the farthest of these."""
    distance = norm(differences)
    inside = distance <= limit
    radius = jnp.max(jnp.where(inside, distance, 0.0))
    scale = jnp.where(radius > 0, radius, 1.0)
    tricube = (1 - (jnp.where(inside, distance, 0.0) / scale) ** 3) ** 1.5
    root = jnp.where(inside, jnp.ones_like(distance) if weights == "uniform" else tricube, 0.0)
    return root, inside, radius


def monomials(x: Float[Array, "k d"], degree: int) -> Float[Array, "k terms"]:
    """All products of coordinates up to a total degree: 1, x_i, x_i x_j for i <= j, ..."""
    terms = (combinations_with_replacement(range(x.shape[1]), order) for order in range(degree + 1))
    return jnp.stack([jnp.prod(x[:, index], axis=1) for term in terms for index in term], axis=1)


def least_squares(rows: Float[Array, "k p"], values: Float[Array, "k f"]) -> tuple[Array, Array]:
    """Coefficients ``(p, f)``, and whether they are determined."""
    pivots = jnp.abs(jnp.diagonal(jnp.linalg.qr(jax.lax.stop_gradient(rows), mode="r")))
    floor = 64 * jnp.finfo(rows.dtype).eps * len(rows)
    determined = jnp.min(pivots) > floor * jnp.max(pivots)  # False for NaN
    # Rows that can be differentiated take the place of those that cannot.
    basis, triangle = jnp.linalg.qr(jnp.where(determined, rows, jnp.eye(*rows.shape, dtype=rows.dtype)))
    inverse = jax.scipy.linalg.solve_triangular(triangle, basis.T)  # p x k: there are far more features
    return matmul(inverse, values), determined


def _graph_jet(frame: Array, linear: Float[Array, "d f"], quadratic: Float[Array, "s f"]) -> Jet:
    """Jet of t -> E^T t + L t + sum_(i <= j) q_ij t_i t_j at t = 0."""
    d = len(frame)
    twice = 1 + jnp.eye(d, dtype=quadratic.dtype)
    return Jet(frame + linear, quadratic[pair_positions(d) - d] * twice[:, :, None])


@partial(jax.jit, static_argnames=("kernel", "settings", "count", "block_size"))
def _map_neighbourhoods(
    kernel: Any,
    settings: Any,
    cloud: Array,
    rows: Array | None,
    extra: list[Array],
    count: int,
    block_size: int | None,
) -> Any:
    """Apply a one-point kernel to the differences from every point, or from some rows, to its neighbours."""

    def one(point: Array, index: Array, *more: Array) -> Any:
        return kernel(settings, cloud[index] - point, *more)

    centres = cloud if rows is None else cloud[rows]
    nearest = neighbour_indices(cloud, centres, count + 1)[:, 1:]
    block = block_rows(2 * count * (cloud.shape[1] + count), block_size)
    return map_blocks(jax.vmap(one), block, centres, nearest, *extra)


def neighbour_count(caller: str, neighbours: int | None, cloud: Array, least: int, dimension: int) -> int:
    """Number of neighbours: as asked, if the other points suffice."""
    count = 4 * math.comb(dimension + 2, 2) if neighbours is None else neighbours
    return whole(caller, "neighbours", count, least, len(cloud) - 1)


def checked_radius(caller: str, radius: Any, count: int, dtype: Any) -> Float[Array, "m"]:
    """One positive limit for every point, infinite where there is none."""
    limit = jnp.asarray(jnp.inf) if radius is None else real(caller, "radius", radius)
    if limit.shape not in ((), (count,)):
        raise ValueError(f"{caller}: radius must be one number or {count} of them, got shape {limit.shape}.")
    if not is_traced(limit) and not bool((limit > 0).all()):
        raise ValueError(f"{caller}: radius must be positive, got {float(limit.min()):g}.")
    return jnp.broadcast_to(jnp.asarray(limit, dtype), (count,))


def checked_frames(caller: str, tangents: Any, shape: tuple[int, ...], dtype: Any) -> Float[Array, "n d f"]:
    """Frames of the right shape."""
    frames = real(caller, "tangents", tangents)
    if frames.shape != shape:
        raise ValueError(f"{caller}: tangents must have shape {shape}, got {frames.shape}.")
    return frames.astype(dtype)


def checked_rows(caller: str, rows: Any, count: int) -> Int[Array, "m"] | None:
    """Rows of so many points; None stays None."""
    if rows is None:
        return None
    index = real(caller, "rows", rows)
    if index.ndim != 1 or len(index) == 0 or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(f"{caller}: rows must be whole numbers (m,), got {index.dtype} of {index.shape}.")
    if not is_traced(index) and not bool(((index >= 0) & (index < count)).all()):
        limits = f"from 0 to {count - 1}"
        raise ValueError(f"{caller}: rows must be {limits}, got {int(index.min())} to {int(index.max())}.")
    return index
