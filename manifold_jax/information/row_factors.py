"""Factors of matrices with few, long rows: orthonormal rows, and singular values with their own accuracy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from manifold_jax._linalg import matmul, norm, rotation, scale_of
from manifold_jax._sharding import of_one_point
from manifold_jax.information.precision import NOISE

MOST_SWEEPS = 30  # sweeps of one-sided Jacobi at most; five to ten are usual


@of_one_point
@jax.jit
def orthonormal_rows(
    rows: Float[Array, "m n"], rtol: Float[Array, ""] | float = 0.0
) -> tuple[Float[Array, "m n"], Float[Array, "m m"], Float[Array, "m"]]:
    """Row-pivoted Gram-Schmidt of A ``(m, n)``, every vector orthogonalised twice.

    The largest remaining row becomes the next basis vector. Errors of a row are relative to that row, so that
    rows sqrt(p_y) a_y of very different size all keep their digits. Two passes give orthogonality to rounding
    (Giraud, Langou, Rozloznik & van den Eshof, Numer. Math. 101, 2005). What is at most ``rtol`` times the
    largest pivot counts as dependent; so does, always, what is left of a row at its own rounding errors.

    Returns:
        Orthonormal rows Q ``(m, n)``, zero past the rank; coefficients T ``(m, m)``, A = T Q; and the pivots,
        lengths of the rows of Q before they were normalised ``(m,)``, descending. NaN where A holds NaN.
    """
    m = rows.shape[0]
    scale = scale_of(rows)
    rows = rows / scale
    floor = (m + NOISE) * jnp.finfo(rows.dtype).eps * jax.lax.stop_gradient(norm(rows))
    rtol = jnp.asarray(rtol, rows.dtype)

    def step(k: Int[Array, ""], state: tuple[Array, ...]) -> tuple[Array, ...]:
        rest, basis, coefficients, pivots = state
        i = jnp.argmax(jnp.sum(rest * rest, axis=1))
        q = rest[i]
        q = q - matmul(matmul(basis, q), basis)
        length = norm(q)
        dependent = (length <= rtol * pivots[0]) | (length <= floor[i])
        q = jnp.where(dependent, 0.0, q / jnp.where(dependent, 1.0, length))
        along = matmul(rest, q)
        rest = (rest - along[:, None] * q[None, :]).at[i].set(0.0)
        pivots = pivots.at[k].set(jnp.where(dependent, 0.0, length))
        return rest, basis.at[k].set(q), coefficients.at[:, k].set(along), pivots

    nothing = jnp.zeros((m, m), rows.dtype)
    begin = (rows, jnp.zeros_like(rows), nothing, nothing[0])
    _, basis, coefficients, pivots = jax.lax.fori_loop(0, m, step, begin)
    # A row may be dependent while smaller ones are not: its empty place goes to the end.
    order = jnp.argsort(-pivots)
    return basis[order], coefficients[:, order] * scale, pivots[order] * scale


def _rotate(top: Float[Array, "h m"], bottom: Float[Array, "h m"]) -> tuple[Array, Array, Array]:
    """Make each pair of rows orthogonal; the largest cosine before."""
    alpha, beta, gamma = (jnp.sum(a * b, axis=1) for a, b in ((top, top), (bottom, bottom), (top, bottom)))
    size = jnp.sqrt(alpha) * jnp.sqrt(beta)
    some = (gamma != 0) & (size > 0)
    cos, sin = rotation(alpha, beta, gamma, some)
    worst = jnp.max(jnp.where(some, jnp.abs(gamma) / jnp.where(some, size, 1.0), 0.0))
    return cos[:, None] * top - sin[:, None] * bottom, sin[:, None] * top + cos[:, None] * bottom, worst


def _orthogonal_by_rotations(square: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """Rotate the rows of a matrix until they are orthogonal: one-sided Jacobi, all pairs of a round at once.

    Hestenes, J. SIAM 6 (1958); the rounds are those of a tournament (Brent & Luk, SIAM J. Sci. Stat. Comput.
    6, 1985).
    """
    m = square.shape[0]
    half = (m + 1) // 2
    padded = jnp.pad(square, ((0, 2 * half - m), (0, 0)))

    def turn(_: Int[Array, ""], state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, bottom, worst = state
        top, bottom, cosine = _rotate(top, bottom)
        if half > 1:
            moved = jnp.concatenate([top[:1], bottom[:1], top[1:-1]])
            top, bottom = moved, jnp.concatenate([bottom[1:], top[-1:]])
        return top, bottom, jnp.maximum(worst, cosine)

    def sweep(state: tuple[Array, ...]) -> tuple[Array, ...]:
        top, bottom, _, count = state
        nothing = jnp.zeros((), square.dtype)
        return *jax.lax.fori_loop(0, 2 * half - 1, turn, (top, bottom, nothing)), count + 1

    def unfinished(state: tuple[Array, ...]) -> Array:
        return (state[2] > m * jnp.finfo(square.dtype).eps) & (state[3] < MOST_SWEEPS)

    begin = (padded[:half], padded[half:], jnp.asarray(jnp.inf, square.dtype), jnp.zeros((), int))
    top, bottom, _, _ = jax.lax.while_loop(unfinished, sweep, begin)
    return jnp.concatenate([top, bottom])


@of_one_point
@jax.jit
def singular_rows(rows: Float[Array, "m n"]) -> tuple[Float[Array, "m"], Float[Array, "m n"]]:
    """Singular values, descending, and right singular vectors of a matrix A ``(m, n)``, m small.

    Gram-Schmidt, then Jacobi rotations of the m x m factor. For A = D B, D diagonal and B well conditioned,
    every singular value has its own relative accuracy, however small (Demmel & Veselic, SIAM J. Matrix Anal.
    Appl. 13, 1992): the case of sqrt(p_y) a_y where p saturates.

    Rows past the rank are 0. First derivatives of the values are exact; the vectors count as constant.
    """
    fixed = jax.lax.stop_gradient(rows)
    basis, coefficients, _ = orthonormal_rows(fixed)
    scale = scale_of(coefficients)
    rotated = _orthogonal_by_rotations(coefficients / scale)
    values = norm(rotated)
    order = jnp.argsort(-values)[: rows.shape[0]]
    values, rotated = values[order], rotated[order]
    zero = values == 0
    directions = jnp.where(zero[:, None], 0.0, rotated / jnp.where(zero, 1.0, values)[:, None])
    vectors = matmul(directions, basis)
    # The images A v have the right derivative (v is stationary), the rotated rows the more accurate value.
    images = norm(matmul(vectors, rows.T))
    values = values * scale
    return values + (images - jax.lax.stop_gradient(images)), vectors
