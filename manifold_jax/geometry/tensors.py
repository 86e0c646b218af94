"""The Gram matrix of a 2-jet, and the small tensors at one point of which every curvature is made.

In an orthonormal frame e_a = E_a^i X_i of the tangent space (E = L^-1, g = L L^T), with
II_ab = E_a^i E_b^j (normal part of X_ij), everything follows from the inner products

    C_abcd = <II_ab, II_cd> = E E E E <X_ij, X_kl> - sum_e Gamma_ab,e Gamma_cd,e

through the Gauss equation (do Carmo, Riemannian Geometry, 1992, chapter 6).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._linalg import map_blocks, safe_sqrt
from manifold_jax._sharding import explicit, mesh_of, over_rows

BATCH = 8192  # most points whose tensors are held at once


class JetGram(NamedTuple):
    """Inner products of the vectors of a jet; every local quantity is a function of it.

    Attributes:
        metric: g_ij = <X_i, X_j>, shape ``(..., d, d)``.
        mixed: Gamma_ij,k = <X_ij, X_k>, shape ``(..., d, d, d)``.
        second: <X_ij, X_kl>, shape ``(..., d, d, d, d)``.
    """

    metric: Float[Array, "*batch d d"]
    mixed: Float[Array, "*batch d d d"]
    second: Float[Array, "*batch d d d d"]


def contract(subscripts: str, *operands: Array) -> Array:
    """Einsum of small tensors as a broadcast product and a sum.

    Under vmap this stays one fused loop over points. Dot products would instead become a batched matrix
    product, slow on CPUs and of reduced precision on accelerators.
    """
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    letters = output + "".join(sorted(set("".join(terms)) - set(output)))
    total: Array | float = 1.0
    for term, operand in zip(terms, operands, strict=True):
        moved = jnp.transpose(operand, [term.index(c) for c in letters if c in term])
        missing = [k for k, c in enumerate(letters) if c not in term]
        total = total * jnp.expand_dims(moved, missing)
    return jnp.sum(jnp.asarray(total), axis=tuple(range(len(output), len(letters))))


def derivative_indices(dimension: int) -> list[tuple[int, ...]]:
    """Multi-indices of the jet: (i,) for X_i, then (i, j) with i <= j for X_ij."""
    return [(i,) for i in range(dimension)] + list(combinations_with_replacement(range(dimension), 2))


def pair_positions(dimension: int) -> np.ndarray:
    """Position ``(d, d)`` of the vector X_ij in the packed list of :func:`derivative_indices`."""
    i, j = np.triu_indices(dimension)
    positions = np.empty((dimension, dimension), int)
    positions[i, j] = positions[j, i] = dimension + np.arange(len(i))
    return positions


@partial(jax.jit, static_argnames="dimension", inline=True)
def unpack_gram(packed: Float[Array, "*batch v v"], dimension: int) -> JetGram:
    """Gram matrix of the v = d + d(d+1)/2 jet vectors to a :class:`JetGram`."""
    d, pairs = dimension, pair_positions(dimension)
    mixed = packed[..., d:, :d][..., pairs - d, :]
    second = packed[..., d:, d:][..., pairs - d, :][..., pairs - d]
    return JetGram(packed[..., :d, :d], mixed, second)


def map_grams(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Apply a one-point function to Grams and other arrays ``(n, ...)``, a batch of points at a time."""
    return map_blocks(jax.vmap(kernel), BATCH, *arguments)


def pointwise(kernel: Callable[..., Array], gram: JetGram, *vectors: Array) -> Array:
    """Apply a one-point function of a module over the batch axes of a Gram."""
    if not isinstance(gram, JetGram):
        got = type(gram).__name__
        raise ValueError(f"Curvatures: gram must be a JetGram, got {got}: use gram(jet).")
    shape = *gram.metric.shape[:-2], gram.metric.shape[-1]
    vectors = tuple(jnp.broadcast_to(v, shape) for v in vectors)
    gram, back = explicit(gram)
    if mesh_of(gram.metric) is None:
        return _over_batch(kernel, gram, *vectors)
    return back(_over_mesh(kernel, gram, *vectors))


def _over_batch(kernel: Callable[..., Array], gram: JetGram, *vectors: Array) -> Array:
    batch, d = gram.metric.shape[:-2], gram.metric.shape[-1]
    rows = JetGram(*(leaf.reshape(-1, *leaf.shape[len(batch) :]) for leaf in gram))
    result = _compiled_map(kernel, rows, *(v.reshape(-1, d) for v in vectors))
    return result.reshape(*batch, *result.shape[1:])


@partial(jax.jit, static_argnames="kernel")
def _over_mesh(kernel: Callable[..., Array], gram: JetGram, *vectors: Array) -> Array:
    def of_rows(_: Any, gram: JetGram, *vectors: Array) -> Array:
        return _over_batch(kernel, gram, *vectors)

    return over_rows(of_rows, (), gram, *vectors, axes=gram.metric.ndim - 2)


# One program: operation by operation a curvature compiles a hundred of them.
_compiled_map = jax.jit(map_grams, static_argnames="kernel")


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
    zero = jnp.zeros(g.shape[0], g.dtype)
    rows: list[Array] = []
    for i, lower in enumerate(cholesky(g)[0]):
        rest = zero.at[i].set(1.0) - sum((lower[k] * rows[k] for k in range(i)), zero)
        rows.append(rest / lower[i])
    return jnp.stack(rows)


def point_volume_element(gram: JetGram) -> Float[Array, ""]:
    """sqrt(det g) = product of L_kk; 0 where the metric is degenerate, NaN where it or this overflows."""
    total, lost = jnp.ones((), gram.metric.dtype), jnp.zeros((), bool)
    for pivot in cholesky(gram.metric)[1]:
        # Past a vanishing pivot the factorisation is NaN; the determinant is 0 all the same.
        total = total * jnp.where(lost, 0.0, safe_sqrt(pivot))
        lost = lost | (pivot == 0)
    return jnp.where(jnp.isfinite(total), total, jnp.nan)


@partial(jax.jit, inline=True)
def is_null(volume_element: Float[Array, "*shape"]) -> Array:
    """Where the volume element vanishes to rounding: degenerate points, such as the poles of a sphere."""
    largest = jnp.max(jnp.where(jnp.isfinite(volume_element), jnp.abs(volume_element), 0.0))
    return jnp.abs(volume_element) <= 16 * jnp.finfo(volume_element.dtype).eps * largest


def second_form_gram(gram: JetGram) -> Float[Array, "d d d d"]:
    """C_abcd = <II_ab, II_cd> in the orthonormal frame."""
    e = frame(gram.metric)
    tangential = frame_mixed(gram, e)
    second = contract("ai,ijkl->ajkl", e, gram.second)
    second = contract("bj,ajkl->abkl", e, second)
    second = contract("ck,abkl->abcl", e, second)
    second = contract("dl,abcl->abcd", e, second)
    return second - contract("abe,cde->abcd", tangential, tangential)


def frame_mixed(gram: JetGram, e: Float[Array, "d d"]) -> Float[Array, "d d d"]:
    """Gamma_ab,c in the orthonormal frame."""
    mixed = contract("ai,ijk->ajk", e, gram.mixed)
    mixed = contract("bj,ajk->abk", e, mixed)
    return contract("ck,abk->abc", e, mixed)


def traces(c: Float[Array, "d d d d"]) -> tuple[Array, Array]:
    """|d H|^2 = C_aabb and |II|^2 = C_abab."""
    return jnp.einsum("aabb->", c), jnp.einsum("abab->", c)
