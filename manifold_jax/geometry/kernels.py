"""Local geometry at one point: small tensor algebra on the Gram matrix of a 2-jet.

In an orthonormal frame e_a = E_a^i X_i of the tangent space (E = L^-1, g = L L^T), with
II_ab = E_a^i E_b^j (normal part of X_ij), everything follows from the inner products

    C_abcd = <II_ab, II_cd> = E E E E <X_ij, X_kl> - sum_e Gamma_ab,e Gamma_cd,e

through the Gauss equation (do Carmo, Riemannian Geometry, 1992, chapter 6). Functions of one point; the
batched ones are in ``curvature``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax._linalg import contract, map_blocks, safe_sqrt
from manifold_jax.geometry.jet import JetGram

BATCH = 8192
"""Most points whose tensors are held at once."""


def map_points(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Apply a one-point function to arrays of points ``(n, ...)``, a batch at a time.

    Args:
        kernel: Function of one point.
        arguments: Pytrees of arrays with one leading axis of points.

    Returns:
        What ``kernel`` returns, with that axis in front.
    """
    return map_blocks(jax.vmap(kernel), BATCH, *arguments)


def pointwise(kernel: Callable[..., Array], gram: JetGram, *vectors: Array) -> Array:
    """Apply a one-point function over the batch axes of a Gram."""
    if not isinstance(gram, JetGram):
        raise ValueError(f"Measures are functions of a JetGram, got {type(gram).__name__}: use gram(jet).")
    batch = gram.metric.shape[:-2]
    d = gram.metric.shape[-1]
    flat = JetGram(
        gram.metric.reshape(-1, d, d), gram.mixed.reshape(-1, d, d, d), gram.second.reshape(-1, d, d, d, d)
    )
    arguments = [jnp.broadcast_to(v, (*batch, d)).reshape(-1, d) for v in vectors]
    result = map_points(kernel, flat, *arguments)
    return result.reshape(*batch, *result.shape[1:])


def cholesky(g: Float[Array, "d d"]) -> tuple[list[list[Array]], list[Array]]:
    """Rows of L with g = L L^T, and the pivots L_kk^2; pivots of rounding size count as 0."""
    d = g.shape[0]
    tolerance = 4 * d * jnp.finfo(g.dtype).eps
    rows: list[list[Array]] = []
    pivots: list[Array] = []
    for i in range(d):
        row: list[Array] = []
        for j in range(i):
            row.append((g[i, j] - sum(row[k] * rows[j][k] for k in range(j))) / rows[j][j])
        pivot = g[i, i] - sum(x * x for x in row)
        pivot = jnp.where((pivot <= tolerance * g[i, i]) & jnp.isfinite(g[i, i]), 0.0, pivot)
        pivots.append(pivot)
        rows.append([*row, jnp.where(pivot > 0, jnp.sqrt(jnp.where(pivot > 0, pivot, 1.0)), jnp.nan)])
    return rows, pivots


def frame(g: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """E = L^-1, so that E g E^T = 1: row a holds the chart components of the frame vector e_a."""
    d = g.shape[0]
    lower, _ = cholesky(g)
    rows: list[Array] = []
    for i in range(d):
        unit = jnp.zeros(d, g.dtype).at[i].set(1.0)
        rows.append(
            (unit - sum((lower[i][k] * rows[k] for k in range(i)), jnp.zeros(d, g.dtype))) / lower[i][i]
        )
    return jnp.stack(rows)


def point_volume_element(gram: JetGram) -> Float[Array, ""]:
    """sqrt(det g) = product of L_kk; 0 where the metric is degenerate."""
    _, pivots = cholesky(gram.metric)
    total = jnp.ones((), gram.metric.dtype)
    for k, pivot in enumerate(pivots):
        # Past a vanishing pivot the factorisation is NaN; the determinant is 0 all the same.
        lost = jnp.zeros((), bool)
        for earlier in pivots[:k]:
            lost = lost | (earlier == 0)
        total = total * jnp.where(lost, 0.0, safe_sqrt(pivot))
    return total


def second_form_gram(gram: JetGram) -> Float[Array, "d d d d"]:
    """C_abcd = <II_ab, II_cd> in the orthonormal frame."""
    e = frame(gram.metric)
    tangential = frame_mixed(gram, e)
    second = gram.second
    second = contract("ai,ijkl->ajkl", e, second)
    second = contract("bj,ajkl->abkl", e, second)
    second = contract("ck,abkl->abcl", e, second)
    second = contract("dl,abcl->abcd", e, second)
    return second - contract("abe,cde->abcd", tangential, tangential)


def frame_mixed(gram: JetGram, e: Float[Array, "d d"]) -> Float[Array, "d d d"]:
    """Gamma_ab,c in the orthonormal frame."""
    mixed = contract("ai,ijk->ajk", e, gram.mixed)
    mixed = contract("bj,ajk->abk", e, mixed)
    return contract("ck,abk->abc", e, mixed)


def chart_second_form_gram(gram: JetGram) -> Float[Array, "d d d d"]:
    """<II_ij, II_kl> in chart components."""
    tangential = contract("ck,ijk->ijc", frame(gram.metric), gram.mixed)
    return gram.second - contract("ijc,klc->ijkl", tangential, tangential)


def point_riemann(gram: JetGram) -> Float[Array, "d d d d"]:
    """R_ijkl in chart components (Gauss equation)."""
    c = chart_second_form_gram(gram)
    return jnp.einsum("ikjl->ijkl", c) - jnp.einsum("iljk->ijkl", c)


def inverse_metric(gram: JetGram) -> Float[Array, "d d"]:
    """g^ij."""
    e = frame(gram.metric)
    return contract("ai,aj->ij", e, e)


def point_ricci(gram: JetGram) -> Float[Array, "d d"]:
    """Ric_jl = g^ik R_ijkl."""
    return contract("ik,ijkl->jl", inverse_metric(gram), point_riemann(gram))


def traces(c: Float[Array, "d d d d"]) -> tuple[Array, Array]:
    """|d H|^2 = C_aabb and |II|^2 = C_abab."""
    return jnp.einsum("aabb->", c), jnp.einsum("abab->", c)


def point_scalar_curvature(gram: JetGram) -> Float[Array, ""]:
    """S = d^2 |H|^2 - |II|^2."""
    mean, norm = traces(second_form_gram(gram))
    return mean - norm


def point_mean_curvature(gram: JetGram) -> Float[Array, ""]:
    """|H|, divided by d."""
    return safe_sqrt(traces(second_form_gram(gram))[0]) / gram.metric.shape[0]


def point_second_form_norm(gram: JetGram) -> Float[Array, ""]:
    """|II|."""
    return safe_sqrt(traces(second_form_gram(gram))[1])


def sectional(gram: JetGram, u: Float[Array, "d"], v: Float[Array, "d"]) -> Float[Array, ""]:
    """Curvature of the plane of u and v."""
    g, c = gram.metric, chart_second_form_gram(gram)
    uu, vv, uv = (contract("ij,i,j->", g, a, b) for a, b in ((u, u), (v, v), (u, v)))
    curvature = contract("ijkl,i,j,k,l->", c, u, u, v, v) - contract("ijkl,i,j,k,l->", c, u, v, u, v)
    area = uu * vv - uv**2
    dependent = area <= 8 * jnp.finfo(g.dtype).eps * uu * vv
    return jnp.where(dependent, jnp.nan, curvature / jnp.where(dependent, 1.0, area))


def point_christoffel_second_kind(gram: JetGram) -> Float[Array, "d d d"]:
    """Gamma^k_ij, indexed [i, j, k]."""
    return contract("kl,ijl->ijk", inverse_metric(gram), gram.mixed)
