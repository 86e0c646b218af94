"""Manifold moving least squares: an iterated local plane, then a polynomial over it (Sober & Levin 2020)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from manifold_jax._checks import below, flat, floating, optional, positive, whole
from manifold_jax._linalg import matmul, norm, principal_plane, safe_sqrt
from manifold_jax.fitting.projections import (
    DEGENERATE,
    NOT_CONVERGED,
    OK,
    TOO_FEW,
    LocalFit,
    Projection,
    as_project,
)
from manifold_jax.geometry.local_fit import monomials

_TANGENT_STEPS = 40  # iterations of the derivative of the fixed point


class _Settings(NamedTuple):
    dimension: int
    degree: int
    support: int  # 0 for a fixed bandwidth
    max_iterations: int
    tolerance: float | None


def moving_least_squares(
    samples: Float[Any, "n *features"],
    *,
    dimension: int,
    degree: int = 2,
    bandwidth: float | Float[Array, ""] | None = None,
    neighbours: int | None = None,
    candidates: int | None = None,
    max_iterations: int = 100,
    tolerance: float | None = None,
    block_size: int | None = None,
) -> Partial:
    """Fit a manifold by the moving least-squares projection of Sober & Levin.

    *Manifold approximation by moving least-squares projection (MMLS)*, Constructive Approximation 52 (2020),
    arXiv 1606.07104. Step 1 looks for a base point q and a d-dimensional H with r - q normal to H for which

        sum_i theta(|r_i - q| / b) d(r_i - q, H)^2

    is least near r, by the iteration of the paper: fit the samples by a weighted linear function over q + H,
    take its value and its orthonormalised slopes for the new q and H, drop the part of r - q along H, until q
    moves by less than the tolerance. Step 2 fits a polynomial p: H -> R^f of total degree m to the r_i over
    their coordinates along H, with the same weights, and gives p(0). The error is O(h^{m+1}) in the fill
    distance h for a manifold of class C^{m+1} without boundary; degree 1 is the plane itself. All the points
    q + H^perp near the fit have one image, so that projecting twice changes nothing.

    The weight is theta(t) = exp(-t^2 / (1 - t^2)) for t < 1 and 0 beyond. Its radius b is either given, the
    same everywhere, or by default the distance from q to its ``neighbours``-th nearest sample: the fit is
    then smooth between the places where two samples swap ranks. The iteration starts from the principal plane
    of these samples. Time and memory are linear in f.

    Args:
        samples: n points of any feature shape.
        dimension: d, below the number of features.
        degree: m, at least 1.
        bandwidth: b, in units of the features. It must hold more than C(d+m, m) samples everywhere.
        neighbours: Samples in the support for the adaptive bandwidth, the last on its edge with weight 0; by
            default 2 C(d+m, m) + 2 d. Not together with ``bandwidth``.
        candidates: Samples near r that are looked at; by default half more than ``neighbours`` (they need
            not be the ones nearest to q), or 4 C(d+m, m) + 4 d + 8 for a given bandwidth, whose farthest
            samples are left out where it holds more than these.
        max_iterations: Most iterations of step 1.
        tolerance: Step 1 ends when q moves by less than this times b; by default eps^(2/3).
        block_size: Queries treated at once.

    Returns:
        ``project(points)``, as :func:`local_pca_projection` returns it; NaN where step 1 did not converge or
        the samples in the support are too few or do not determine the polynomial. Derivatives are those of
        the fixed point, by the implicit function theorem, with constant candidates.

    Raises:
        ValueError: Shapes, types or ranges do not fit.

    Example:
        >>> t = jnp.linspace(0.0, 2 * jnp.pi, 60, endpoint=False)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> project = mj.fitting.moving_least_squares(circle, dimension=1, degree=3)
        >>> print(f"{jnp.linalg.norm(project(jnp.array([0.3, 1.1]))):.3f}")
        1.000
    """
    name = "moving_least_squares"
    samples = floating(name, "samples", samples)
    rows = flat(samples)
    dimension, degree = below(name, dimension, rows), whole(name, "degree", degree)
    max_iterations = whole(name, "max_iterations", max_iterations)
    block_size = optional(whole, name, "block_size", block_size)
    optional(positive, name, "bandwidth", bandwidth)
    optional(positive, name, "tolerance", tolerance)
    n, terms = len(rows), math.comb(dimension + degree, degree)
    if bandwidth is not None and neighbours is not None:
        raise ValueError(f"{name}: give a bandwidth, or a number of neighbours to set it, not both.")
    if n <= terms:
        place = f"degree {degree} in dimension {dimension}"
        raise ValueError(f"{name}: {place} needs at least {terms + 1} samples, got {n}.")
    count, near = 0, 4 * terms + 4 * dimension + 8
    if bandwidth is None:
        count = 2 * terms + 2 * dimension if neighbours is None else neighbours
        count = whole(name, "neighbours", count, terms + 1, n)
        near = count + count // 2
    near = min(near, n) if candidates is None else candidates
    near = whole(name, "candidates", near, max(count, terms + 1), n)
    settings = _Settings(dimension, degree, count, max_iterations, tolerance)
    radius = jnp.asarray(jnp.nan if bandwidth is None else bandwidth, rows.dtype)
    return as_project(LocalFit(rows, radius, _fit, settings, near, samples.shape[1:], block_size))


class _Plane(NamedTuple):
    base: Float[Array, "f"]  # q, relative to the query
    frame: Float[Array, "d f"]  # orthonormal rows that span H


def _fit(settings: _Settings, bandwidth: Array, r: Array, near: Array) -> Projection:
    """Both steps for one query; lengths are relative to r, so that nothing cancels far from the origin."""
    y = near - r
    plane, moved, iterations = _base_plane(settings, y, bandwidth)
    z, x, root = _local(settings, plane, y, bandwidth)
    terms = math.comb(settings.dimension + settings.degree, settings.degree)
    coefficients, pivots = _value_at_zero(x, root, settings.degree)
    value = jnp.sum(coefficients[:, None] * z, axis=0)
    eps = jnp.finfo(r.dtype).eps
    # Of several reasons the last one below is given.
    status = jnp.where(moved <= _tolerance(settings, r.dtype), OK, NOT_CONVERGED)
    status = jnp.where(jnp.isnan(moved) | ~(pivots > eps**0.5), DEGENERATE, status)
    status = jnp.where(jnp.sum(root > 0) >= terms, status, TOO_FEW)
    status = jnp.where(jnp.all(jnp.isfinite(value)) | (status != OK), status, DEGENERATE)
    return Projection(r + plane.base + value, status, jnp.sum(jnp.abs(coefficients)), iterations)


def _tolerance(settings: _Settings, dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps) ** (2 / 3) if settings.tolerance is None else settings.tolerance


def _weight_root(squares: Float[Array, "k"]) -> Float[Array, "k"]:
    """Square root of theta(t) = exp(-t^2 / (1 - t^2)), 0 for t >= 1, from t^2; smooth."""
    inside = squares < 1
    s = jnp.where(inside, squares, 0)
    return jnp.where(inside, jnp.exp(-s / (2 * (1 - s))), 0)


def _radius(settings: _Settings, squares: Array, bandwidth: Array) -> Array:
    """b: as given, or the distance of the last sample of the support."""
    return safe_sqrt(jnp.sort(squares)[settings.support - 1]) if settings.support else bandwidth


def _local(settings: _Settings, plane: _Plane, y: Array, bandwidth: Array) -> tuple[Array, Array, Array]:
    """Samples relative to q, their coordinates along H over b, and the roots of their weights."""
    z = y - plane.base
    squares = jnp.sum(z**2, axis=1)
    radius = _radius(settings, squares, bandwidth)
    radius = jnp.where(radius > 0, radius, 1)
    return z, matmul(z, plane.frame.T) / radius, _weight_root(squares / radius**2)


def _start(settings: _Settings, y: Array) -> _Plane:
    """Principal plane of the samples nearest to r, and the foot of r on it."""
    squares = jnp.sum(y**2, axis=1)
    farthest = jnp.sort(squares)[(settings.support or y.shape[0]) - 1]
    nearest = jnp.min(squares)
    # Squared distances along the plane, about: those to r, without the distance of r from the samples.
    along = jnp.maximum(farthest - nearest, jnp.finfo(y.dtype).tiny)
    mean, _, frame = principal_plane(y, _weight_root((squares - nearest) / along), settings.dimension)
    return _Plane(mean - matmul(matmul(frame, mean), frame), frame)


def _orthonormal(rows: Float[Array, "d f"]) -> Float[Array, "d f"]:
    """Orthonormal rows with the span of rows, by Cholesky; rows that are orthonormal stay as they are."""
    for _ in range(2):
        scale = norm(rows)[:, None]
        rows = rows / jnp.where(scale > 0, scale, 1)
        lower = jnp.linalg.cholesky(matmul(rows, rows.T))
        rows = jax.scipy.linalg.solve_triangular(lower, rows, lower=True)
    return rows


def _step(settings: _Settings, plane: _Plane, y: Array, bandwidth: Array) -> _Plane:
    """Weighted linear fit over q + H: its value and slopes give the new plane, where r has its foot q."""
    z, x, root = _local(settings, plane, y, bandwidth)
    theta = root**2
    share = theta / jnp.maximum(jnp.sum(theta), jnp.finfo(y.dtype).tiny)
    mean_x, mean_z = jnp.sum(share[:, None] * x, axis=0), jnp.sum(share[:, None] * z, axis=0)
    x = x - mean_x
    moments = matmul((share[:, None] * x).T, x)
    slopes = jnp.linalg.solve(moments, matmul((share[:, None] * x).T, z - mean_z))
    base = plane.base + mean_z - matmul(mean_x, slopes)
    frame = _orthonormal(slopes)
    return _Plane(base - matmul(matmul(frame, base), frame), frame)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _base_plane(settings: _Settings, y: Array, bandwidth: Array) -> tuple[_Plane, Array, Array]:
    """Fixed point of :func:`_step`, the last move of q over b, and the number of iterations."""
    tolerance = _tolerance(settings, y.dtype)

    def unfinished(state: tuple[_Plane, Array, Array]) -> Array:
        # A NaN ends the search, at the last plane.
        return (state[2] < settings.max_iterations) & (state[1] > tolerance)

    def iterate(state: tuple[_Plane, Array, Array]) -> tuple[_Plane, Array, Array]:
        plane = _step(settings, state[0], y, bandwidth)
        squares = jnp.sum((y - plane.base) ** 2, axis=1)
        move = jnp.sqrt(jnp.sum((plane.base - state[0].base) ** 2)) / _radius(settings, squares, bandwidth)
        defined = jnp.isfinite(move) & jnp.all(jnp.isfinite(plane.frame))
        plane = jax.tree.map(partial(jnp.where, defined), plane, state[0])
        return plane, jnp.where(defined, move, jnp.nan), state[2] + 1

    begin = (_start(settings, y), jnp.full((), jnp.inf, y.dtype), jnp.zeros((), int))
    return jax.lax.while_loop(unfinished, iterate, begin)


@_base_plane.defjvp
def _base_plane_jvp(settings: _Settings, primals: Any, tangents: Any) -> Any:
    """Tangent of the fixed point z = F(z, y), as the limit of dz <- F_z dz + F_y dy."""
    plane, moved, iterations = _base_plane(settings, *primals)
    _, along_plane = jax.linearize(lambda p: _step(settings, p, *primals), plane)
    _, forced = jax.jvp(lambda *inputs: _step(settings, plane, *inputs), primals, tangents)

    def horizontal(change: _Plane) -> _Plane:
        # A turn within H changes nothing, so that the iteration would not damp it.
        turn = matmul(change.frame, plane.frame.T)
        return change._replace(frame=change.frame - matmul(turn, plane.frame))

    def iterate(change: _Plane, _: None) -> tuple[_Plane, None]:
        return horizontal(jax.tree.map(jnp.add, along_plane(change), forced)), None

    change, _ = jax.lax.scan(iterate, horizontal(forced), length=_TANGENT_STEPS)
    still = jnp.zeros(iterations.shape, jax.dtypes.float0)
    return (plane, moved, iterations), (change, jnp.zeros_like(moved), still)


def _value_at_zero(x: Array, root: Array, degree: int) -> tuple[Array, Array]:
    """Coefficients a with p(0) = sum a_i z_i for the weighted least-squares polynomial, and a test of rank.

    From A = W^(1/2) V = Q R: p(0) = e_0^T R^-1 Q^T W^(1/2) z, the constant being the first column. The test
    is the smallest over the largest pivot of R.
    """
    q, r = jnp.linalg.qr(root[:, None] * monomials(x, degree))
    pivots = jnp.abs(jnp.diagonal(r))
    first = jnp.zeros_like(pivots).at[0].set(1)
    solved = jax.scipy.linalg.solve_triangular(r, first, trans=1)
    largest = jnp.max(pivots)
    return root * jnp.sum(q * solved, axis=1), jnp.min(pivots) / jnp.where(largest > 0, largest, 1)
