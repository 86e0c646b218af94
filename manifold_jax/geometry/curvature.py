"""Metric, volume element and every curvature, as algebra on the Gram matrix of a 2-jet, with any batch axes.

Signs: R_1212 > 0 on the sphere. Where the metric is degenerate (dV = 0) curvatures are NaN.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax._checks import choice, floating, instance, real
from manifold_jax._linalg import matmul, safe_sqrt
from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.jet import Jet
from manifold_jax.geometry.tensors import (
    JetGram,
    contract,
    frame,
    is_null,
    point_volume_element,
    pointwise,
    second_form_gram,
    traces,
)

DEPENDENT = 8  # roundings of |u|^2 |v|^2 below which the area of two tangent vectors counts as 0


def _gram(caller: str, gram: JetGram) -> JetGram:
    instance(caller, "gram", gram, JetGram, "use gram(jet)")
    return gram


def metric(gram: JetGram) -> Float[Array, "*batch d d"]:
    """Induced metric (first fundamental form) g_ij = <X_i, X_j>.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(..., d, d)``, in squared feature units per coordinate units.

    Example:
        >>> mj.metric(mj.gram_from_function(lambda u: 3.0 * u, jnp.zeros(2)))
        Array([[9., 0.], [0., 9.]], dtype=float32)
    """
    return _gram("metric", gram).metric


def volume_element(gram: JetGram) -> Float[Array, "*batch"]:
    """Density of the volume, dV = sqrt(det g) du.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(...)``; 0 where the metric is degenerate to rounding.

    Example:
        >>> print(mj.volume_element(mj.gram_from_function(lambda u: 3.0 * u, jnp.zeros(2))))
        9.0
    """
    return pointwise(point_volume_element, gram)


def christoffel(gram: JetGram, *, kind: int = 2) -> Float[Array, "*batch d d d"]:
    """Christoffel symbols of the Levi-Civita connection.

    Args:
        gram: Gram of a 2-jet.
        kind: 1 for Gamma_ij,k = <X_ij, X_k>; 2 for Gamma^k_ij = g^kl Gamma_ij,l.

    Returns:
        ``(..., d, d, d)``, indexed ``[..., i, j, k]``, with k the upper index for ``kind=2``.

    Raises:
        ValueError: ``kind`` is neither 1 nor 2.

    Example:
        >>> polar = lambda u: u[0] * jnp.stack([jnp.cos(u[1]), jnp.sin(u[1])])
        >>> symbols = mj.christoffel(mj.gram_from_function(polar, jnp.array([2.0, 0.0])))
        >>> print(symbols[1, 1, 0], symbols[0, 1, 1])  # -r and 1 / r
        -2.0 0.5
    """
    if choice("christoffel", "kind", kind, (1, 2)) == 1:
        return _gram("christoffel", gram).mixed
    return pointwise(_symbols, gram)


def _symbols(point: JetGram) -> Float[Array, "d d d"]:
    return contract("kl,ijl->ijk", _inverse_metric(point), point.mixed)


def riemann(gram: JetGram) -> Float[Array, "*batch d d d d"]:
    """Riemann tensor R_ijkl = <II_ik, II_jl> - <II_il, II_jk> (Gauss equation), all indices down.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(..., d, d, d, d)`` in chart components.

    Example:
        >>> bowl = lambda u: jnp.stack([u[0], u[1], (u[0] ** 2 + u[1] ** 2) / 2])
        >>> print(mj.riemann(mj.gram_from_function(bowl, jnp.zeros(2)))[0, 1, 0, 1])
        1.0
    """
    return pointwise(_riemann, gram)


def _riemann(point: JetGram) -> Float[Array, "d d d d"]:
    c = _chart_second_form_gram(point)
    return jnp.einsum("ikjl->ijkl", c) - jnp.einsum("iljk->ijkl", c)


def _chart_second_form_gram(point: JetGram) -> Float[Array, "d d d d"]:
    """<II_ij, II_kl> in chart components."""
    tangential = contract("ck,ijk->ijc", frame(point.metric), point.mixed)
    return point.second - contract("ijc,klc->ijkl", tangential, tangential)


def _inverse_metric(point: JetGram) -> Float[Array, "d d"]:
    """g^ij."""
    e = frame(point.metric)
    return contract("ai,aj->ij", e, e)


def ricci(gram: JetGram) -> Float[Array, "*batch d d"]:
    """Ricci tensor Ric_jl = g^ik R_ijkl.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(..., d, d)`` in chart components; (n - 1) g on the unit sphere S^n.

    Example:
        >>> bowl = lambda u: jnp.stack([u[0], u[1], (u[0] ** 2 + u[1] ** 2) / 2])
        >>> mj.ricci(mj.gram_from_function(bowl, jnp.zeros(2)))
        Array([[1., 0.], [0., 1.]], dtype=float32)
    """
    return pointwise(_ricci, gram)


def _ricci(point: JetGram) -> Float[Array, "d d"]:
    return contract("ik,ijkl->jl", _inverse_metric(point), _riemann(point))


def scalar_curvature(gram: JetGram) -> Float[Array, "*batch"]:
    """Scalar curvature S = g^jl Ric_jl = d^2 |H|^2 - |II|^2.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(...)``; n (n - 1) / r^2 on S^n(r), twice the Gaussian curvature of a surface.

    Example:
        >>> saddle = lambda u: jnp.stack([u[0], u[1], u[0] * u[1]])
        >>> print(mj.scalar_curvature(mj.gram_from_function(saddle, jnp.zeros(2))))
        -2.0
    """
    return pointwise(_scalar, gram)


def _scalar(point: JetGram) -> Float[Array, ""]:
    return jnp.subtract(*traces(second_form_gram(point)))


def mean_curvature(gram: JetGram) -> Float[Array, "*batch"]:
    """Length |H| of the mean curvature vector H = (1/d) g^ij II_ij (the average, divided by d).

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(...)``; 1/r on S^n(r).

    Example:
        >>> bowl = lambda u: jnp.stack([u[0], u[1], u[0] ** 2 + u[1] ** 2])
        >>> print(mj.mean_curvature(mj.gram_from_function(bowl, jnp.zeros(2))))
        2.0
    """
    return pointwise(_mean, gram)


def _mean(point: JetGram) -> Float[Array, ""]:
    return safe_sqrt(traces(second_form_gram(point))[0]) / point.metric.shape[0]


def second_form_norm(gram: JetGram) -> Float[Array, "*batch"]:
    """Norm |II| of the second fundamental form, |II|^2 = g^ik g^jl <II_ij, II_kl>.

    Args:
        gram: Gram of a 2-jet.

    Returns:
        ``(...)``; sqrt(n)/r on S^n(r).

    Example:
        >>> bowl = lambda u: jnp.stack([u[0], u[1], (u[0] ** 2 + u[1] ** 2) / 2])
        >>> print(mj.second_form_norm(mj.gram_from_function(bowl, jnp.zeros(2))).round(4))
        1.4142
    """
    return pointwise(_second_form_norm, gram)


def _second_form_norm(point: JetGram) -> Float[Array, ""]:
    return safe_sqrt(traces(second_form_gram(point))[1])


def sectional_curvature(
    gram: JetGram, u: Float[Array, "*batch d"], v: Float[Array, "*batch d"]
) -> Float[Array, "*batch"]:
    """Sectional curvature R(u, v, u, v) / (|u|^2 |v|^2 - <u, v>^2) of the plane of two tangent vectors.

    Args:
        gram: Gram of a 2-jet.
        u: Chart components of the first vector, ``(..., d)``, broadcast over points.
        v: Chart components of the second, linearly independent of u.

    Returns:
        ``(...)``; NaN for dependent vectors.

    Raises:
        ValueError: d = 1, or a vector has the wrong number of components.

    Example:
        >>> saddle = lambda u: jnp.stack([u[0], u[1], u[0] * u[1]])
        >>> gram = mj.gram_from_function(saddle, jnp.zeros(2))
        >>> print(mj.sectional_curvature(gram, jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])))
        -1.0
    """
    d = _gram("sectional_curvature", gram).metric.shape[-1]
    u, v = (real("sectional_curvature", name, vector) for name, vector in (("u", u), ("v", v)))
    if d < 2:
        raise ValueError("sectional_curvature needs a manifold of dimension 2 or more, got d = 1.")
    for name, vector in (("u", u), ("v", v)):
        batch, fewer = gram.metric.shape[:-2], vector.shape[:-1]
        pairs = zip(fewer[::-1], batch[::-1], strict=False)
        if vector.shape[-1:] != (d,) or len(fewer) > len(batch) or any(a not in (1, b) for a, b in pairs):
            wanted = f"{d} chart components in its last axis, and broadcast over {batch} points"
            raise ValueError(f"sectional_curvature: {name} must have {wanted}, got shape {vector.shape}.")

    return pointwise(_sectional, gram, u, v)


def _sectional(point: JetGram, u: Float[Array, "d"], v: Float[Array, "d"]) -> Float[Array, ""]:
    g, c = point.metric, _chart_second_form_gram(point)
    uu, vv, uv = (contract("ij,i,j->", g, a, b) for a, b in ((u, u), (v, v), (u, v)))
    curvature = contract("ijkl,i,j,k,l->", c, u, u, v, v) - contract("ijkl,i,j,k,l->", c, u, v, u, v)
    area = uu * vv - uv**2
    dependent = area <= DEPENDENT * jnp.finfo(g.dtype).eps * uu * vv
    return jnp.where(dependent, jnp.nan, curvature / jnp.where(dependent, 1.0, area))


def second_fundamental_form(jet: Jet) -> Float[Array, "*batch d d f"]:
    """Second fundamental form II_ij: the part of X_ij normal to the manifold.

    Args:
        jet: Derivatives with batch axes first.

    Returns:
        ``(..., d, d, f)`` in chart components.

    Example:
        >>> circle = lambda u: 2.0 * jnp.stack([jnp.cos(u[0]), jnp.sin(u[0])])
        >>> mj.second_fundamental_form(mj.jet_from_function(circle, jnp.zeros(1)))[0, 0]
        Array([-2., -0.], dtype=float32)
    """
    instance("second_fundamental_form", "jet", jet, Jet, "see jet_from_function")
    *batch, d, f = jet.first.shape

    def normal_part(first: Array, second: Array) -> Array:
        tangents = matmul(frame(matmul(first, first.T)), first)
        inner = matmul(second.reshape(d * d, f), tangents.T)
        return second - matmul(inner, tangents).reshape(d, d, f)

    result = jax.vmap(normal_part)(jet.first.reshape(-1, d, f), jet.second.reshape(-1, d, d, f))
    return result.reshape(*batch, d, d, f)


def integrate(
    values: Float[Array, "*shape"],
    volume_element: Float[Array, "*shape"],
    grid: Grid,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
) -> Float[Array, ""]:
    """Integral of a function over the manifold, by quadrature of the stencil's own order.

    Args:
        values: Function values on the grid (or one that broadcasts, such as 1.0 for the volume).
        volume_element: sqrt(det g) on the grid.
        grid: The lattice.
        accuracy: Order of the end corrections on open axes; periodic axes converge spectrally.

    Returns:
        The integral, a scalar. Points where dV = 0 to rounding (the poles of a sphere) count 0.

    Raises:
        ValueError: A shape is not that of the grid.

    Example:
        >>> polar, azimuth = mj.Axis("theta", 0, jnp.pi, 33), mj.Axis("phi", 0, 2 * jnp.pi, 8, periodic=True)
        >>> grid = mj.Grid((polar, azimuth))
        >>> print(f"{mj.integrate(1.0, jnp.sin(grid.coordinates()[..., 0]), grid):.3f}")  # 4 pi
        12.566
    """
    instance("integrate", "grid", grid, Grid)
    volume_element = floating("integrate", "volume_element", volume_element, 0)
    values = real("integrate", "values", values).astype(volume_element.dtype)
    if volume_element.shape != grid.shape or values.shape not in ((), grid.shape):
        got = f"{values.shape} and {volume_element.shape}"
        raise ValueError(
            f"integrate: values and volume_element need the grid's shape {grid.shape}, got {got}."
        )
    weights = grid.weights(accuracy, dtype=volume_element.dtype)
    return _weighted_sum(weights, volume_element, values)


@partial(jax.jit, inline=True)
def _weighted_sum(weights: Array, volume_element: Array, values: Array) -> Float[Array, ""]:
    null = is_null(volume_element)
    return jnp.sum(weights * jnp.where(null, 0.0, volume_element) * jnp.where(null, 0.0, values))
