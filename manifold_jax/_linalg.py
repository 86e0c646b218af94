"""Linear algebra that the whole package shares: block maps, products, lengths, factors of small matrices.

No two independent LAPACK calls under ``vmap``: in one program they block each other for ever on a machine
with two cores (seen with jaxlib 0.10.1). So small matrices are decomposed by rotations and Gram-Schmidt, and
those of :func:`leading_rows`, which may be larger, by calls that follow each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

HIGHEST = jax.lax.Precision.HIGHEST
"""Precision of every geometric product: the default is TF32 or bfloat16 on accelerators."""

BLOCK_NUMBERS = 2**22
"""Numbers that the temporaries of one block may hold, about: 16 MiB in float32."""

MOST_SWEEPS = 30
"""Sweeps of one-sided Jacobi at most; five to ten are usual."""

SYMMETRIC_SWEEPS = 6
"""Sweeps of two-sided Jacobi: convergence is quadratic, so that these reach rounding for small matrices."""

# --- maps over rows ------------------------------------------------------------


def block_rows(numbers_per_row: int, block_size: int | None = None, most: int = 1024) -> int:
    """Rows of a block: as asked, or as many as keep its temporaries within :data:`BLOCK_NUMBERS`."""
    return block_size or max(1, min(most, BLOCK_NUMBERS // max(1, numbers_per_row)))


def map_blocks(function: Callable[..., Any], block: int, *arguments: Any) -> Any:
    """Apply a function of blocks ``(b, ...)`` to arrays ``(n, ...)``, one block after the other.

    There is one block size and so one trace: a size without remainder where that is easily had, else the last
    block is filled up with copies of the last row. With ``lax.map(..., batch_size=b)`` the rest would be a
    second, independent part of the program; on two cores its batched decompositions and those of the loop
    then wait for each other's threads for ever (seen with the QR of jaxlib 0.10.1 on CPU, which waits inside
    of the pool that should do its work).

    Args:
        function: Takes blocks of every argument, returns a pytree of arrays ``(b, ...)``.
        block: Most rows of a block.
        arguments: Pytrees of arrays with one leading axis of the same length.

    Returns:
        What ``function`` returns, for all rows.
    """
    n = jax.tree.leaves(arguments)[0].shape[0]
    if n <= block:
        return function(*arguments)
    least = -(-n // block)
    count = next((c for c in range(least, 2 * least) if n % c == 0), least)
    size = -(-n // count)

    def split(x: Array) -> Array:
        padding = [(0, count * size - n)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding, mode="edge").reshape(count, size, *x.shape[1:])

    stacked = jax.lax.map(lambda blocks: function(*blocks), jax.tree.map(split, arguments))
    return jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[:n], stacked)


# --- products and lengths ------------------------------------------------------------


def matmul(a: Array, b: Array) -> Array:
    """Matrix product in full precision."""
    return jnp.matmul(a, b, precision=HIGHEST)


def contract(subscripts: str, *operands: Array) -> Array:
    """Einsum of small tensors as a broadcast product and a sum.

    Under vmap this stays one fused loop over points. Dot products of tiny matrices would instead become a
    batched matrix product, slow on CPUs and of reduced precision on accelerators.
    """
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    letters = output + "".join(sorted(set("".join(terms)) - set(output)))
    total: Array | float = 1.0
    for term, operand in zip(terms, operands, strict=True):
        order = [c for c in letters if c in term]
        moved = jnp.transpose(operand, [term.index(c) for c in order])
        shape = [operand.shape[term.index(c)] if c in term else 1 for c in letters]
        total = total * moved.reshape(shape)
    return jnp.sum(jnp.asarray(total), axis=tuple(range(len(output), len(letters))))


def safe_sqrt(x: Array) -> Array:
    """Square root that is 0 with derivative 0 at and below 0, and passes NaN on."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), jnp.where(jnp.isnan(x), x, 0.0))


def norm(x: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Euclidean length along the last axis, with derivative 0 at 0."""
    return safe_sqrt(jnp.sum(x * x, axis=-1))


def unit(x: Float[Array, "n"]) -> tuple[Float[Array, "n"], Float[Array, ""]]:
    """Direction and length; the direction of 0 is 0."""
    length = norm(x)
    zero = length == 0
    return jnp.where(zero, 0.0, x / jnp.where(zero, 1.0, length)), length


def scale_of(rows: Float[Array, "m n"]) -> Float[Array, ""]:
    """Largest magnitude, 1 for a zero matrix; keeps squares from overflow and underflow."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(rows)))
    return jnp.where(largest == 0, 1.0, largest)


def damping_matrix(metric: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """What the damping of a Levenberg-Marquardt step multiplies: a diagonal in the units of the metric.

    A thousandth of the trace keeps directions that the metric has lost from moving without bound (Marquardt,
    SIAM J. Appl. Math. 11, 1963).
    """
    return jnp.diag(jnp.diagonal(metric) + 1e-3 * jnp.trace(metric))


# --- principal components ------------------------------------------------------------


def _squared_rows(rows: Array) -> tuple[Array, Array]:
    """Eigenvalues of A^T A, ascending, and rows sqrt(lambda_j) v_j; by the smaller of A A^T and A^T A."""
    if rows.shape[0] < rows.shape[1]:
        values, vectors = jnp.linalg.eigh(matmul(rows, rows.T))
        return values, matmul(vectors.T, rows)
    values, vectors = jnp.linalg.eigh(matmul(rows.T, rows))
    return values, safe_sqrt(values)[:, None] * vectors.T


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def leading_rows(rows: Float[Array, "k f"], count: int) -> tuple[Float[Array, "s"], Float[Array, "d f"]]:
    """Principal components: the leading right singular vectors of a matrix A.

    Args:
        rows: A, k centred rows.
        count: d, at most min(k, f).

    Returns:
        Eigenvalues of A^T A, ascending, the s = min(k, f) that need not vanish; they count as constant. And d
        orthonormal rows, that of the largest eigenvalue last. Their derivative has no turn within their span:
        right for what depends on the span only, and defined where eigenvalues within it are equal.
    """
    values, scaled = _squared_rows(rows)
    return values, _orthonormal_leading(scaled, count)


def _orthonormal_leading(scaled: Array, count: int) -> Array:
    """By QR rather than by division: orthonormal also where the leading eigenvalues differ much."""
    columns, triangle = jnp.linalg.qr(scaled[-count:].T)
    return (columns * jnp.where(jnp.diagonal(triangle) < 0, -1, 1)).T


@leading_rows.defjvp
def _leading_rows_jvp(count: int, primals: Any, tangents: Any) -> Any:
    """First-order perturbation: dv_i = sum_j v_j <v_j, dS v_i> / (lambda_i - lambda_j) over j not leading.

    With 1 / (lambda_i - lambda_j) = 1 / lambda_i + lambda_j / (lambda_i (lambda_i - lambda_j)) the null space
    of S = A^T A needs no basis, and nothing is divided by a small lambda_j.
    """
    (rows,), (change,) = primals, tangents
    values, scaled = _squared_rows(rows)
    frame, rest = _orthonormal_leading(scaled, count), scaled[:-count]
    turned = matmul(matmul(frame, change.T), rows) + matmul(matmul(frame, rows.T), change)
    turned = turned - matmul(matmul(turned, frame.T), frame)
    low, top = values[:-count], values[-count:, None]
    gap = jnp.where(top > low, top - low, jnp.inf)
    moved = turned + matmul(matmul(turned, rest.T) / gap, rest)
    return (values, frame), (jnp.zeros_like(values), moved / jnp.where(top > 0, top, jnp.inf))


def principal_plane(
    points: Float[Array, "k f"], root: Float[Array, "k"], count: int
) -> tuple[Float[Array, "f"], Float[Array, "s"], Float[Array, "d f"]]:
    """Weighted mean and leading principal components of points; ``root`` holds the roots of the weights.

    Returns:
        The mean, eigenvalues up to a common factor, and rows, both as :func:`leading_rows` gives them.
    """
    weights = root[:, None] ** 2
    mean = jnp.sum(weights * points, axis=0) / jnp.sum(weights)
    rows = root[:, None] * (points - mean)
    return mean, *leading_rows(rows / scale_of(rows), count)


# --- rotations ------------------------------------------------------------


def _rotation(alpha: Array, beta: Array, gamma: Array, some: Bool[Array, "..."]) -> tuple[Array, Array]:
    """Cosine and sine that make [[alpha, gamma], [gamma, beta]] diagonal; 1 and 0 unless ``some``.

    Golub & Van Loan, Matrix Computations, 4th ed., section 8.5.2.
    """
    ratio = (beta - alpha) / (2 * jnp.where(some, gamma, 1.0))
    sign = jnp.where(ratio >= 0, 1.0, -1.0).astype(ratio.dtype)
    tangent = jnp.where(some, sign / (jnp.abs(ratio) + jnp.sqrt(ratio**2 + 1)), 0.0)
    cos = jax.lax.rsqrt(1 + tangent**2)
    return cos, tangent * cos


def symmetric_eigenvectors(a: Float[Array, "d d"]) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Eigenvalues and (in columns) eigenvectors of a small symmetric matrix, by Jacobi rotations.

    Under vmap this is one fused loop, whereas batched LAPACK calls are slow on accelerators.
    """
    d = a.shape[0]
    eye = jnp.eye(d, dtype=a.dtype)

    def rotate(a: Array, vectors: Array, p: int, q: int) -> tuple[Array, Array]:
        cos, sin = _rotation(a[p, p], a[q, q], a[p, q], a[p, q] != 0)
        turn = eye.at[p, p].set(cos).at[q, q].set(cos).at[p, q].set(sin).at[q, p].set(-sin)
        return contract("ki,kl,lj->ij", turn, a, turn), contract("ik,kj->ij", vectors, turn)

    def sweep(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        for p in range(d - 1):
            for q in range(p + 1, d):
                state = rotate(*state, p, q)
        return state

    diagonal, vectors = jax.lax.fori_loop(0, SYMMETRIC_SWEEPS, sweep, (a, eye))
    return jnp.diagonal(diagonal), vectors


# --- factors of wide matrices ------------------------------------------------------------


class OrthonormalRows(NamedTuple):
    """A = coefficients @ basis, pivots in descending order.

    Attributes:
        basis: Orthonormal rows ``(m, n)``, zero past the rank.
        coefficients: ``(m, m)``.
        pivots: Length of every basis vector before it was normalised ``(m,)``, 0 past the rank.
    """

    basis: Float[Array, "m n"]
    coefficients: Float[Array, "m m"]
    pivots: Float[Array, "m"]


@jax.jit
def orthonormal_rows(rows: Float[Array, "m n"], rtol: Float[Array, ""] | float = 0.0) -> OrthonormalRows:
    """Row-pivoted Gram-Schmidt, every vector orthogonalised twice.

    The largest remaining row becomes the next basis vector. Errors of a row are relative to that row, so that
    rows sqrt(p_y) a_y of very different size all keep their digits. Two passes give orthogonality to rounding
    (Giraud, Langou, Rozloznik & van den Eshof, Numer. Math. 101, 2005).

    Args:
        rows: A, ``(m, n)``.
        rtol: Vectors at most this times the largest pivot count as dependent; so does, always, what is left
            of a row at the size of its own rounding errors.

    Returns:
        The factors; NaN where ``rows`` holds NaN.
    """
    m = rows.shape[0]
    scale = scale_of(rows)
    rows = rows / scale
    floor = 4 * m * jnp.finfo(rows.dtype).eps * jax.lax.stop_gradient(norm(rows))
    rtol = jnp.asarray(rtol, rows.dtype)

    def step(k: Int[Array, ""], state: tuple[Array, OrthonormalRows]) -> tuple[Array, OrthonormalRows]:
        rest, (basis, coefficients, pivots) = state
        i = jnp.argmax(jnp.sum(rest * rest, axis=1))
        q = rest[i]
        q = q - matmul(matmul(basis, q), basis)
        length = norm(q)
        dependent = (length <= rtol * pivots[0]) | (length <= floor[i])
        q = jnp.where(dependent, 0.0, q / jnp.where(dependent, 1.0, length))
        along = matmul(rest, q)
        rest = (rest - along[:, None] * q[None, :]).at[i].set(0.0)
        pivots = pivots.at[k].set(jnp.where(dependent, 0.0, length))
        return rest, OrthonormalRows(basis.at[k].set(q), coefficients.at[:, k].set(along), pivots)

    nothing = jnp.zeros((m, m), rows.dtype)
    begin = OrthonormalRows(jnp.zeros_like(rows), nothing, nothing[0])
    basis, coefficients, pivots = jax.lax.fori_loop(0, m, step, (rows, begin))[1]
    # A row may be dependent while smaller ones are not: its empty place goes to the end.
    order = jnp.argsort(-pivots)
    return OrthonormalRows(basis[order], coefficients[:, order] * scale, pivots[order] * scale)


def _rotate(top: Float[Array, "h m"], bottom: Float[Array, "h m"]) -> tuple[Array, Array, Array]:
    """Make each pair of rows orthogonal; the largest cosine before."""
    alpha, beta, gamma = (jnp.sum(a * b, axis=1) for a, b in ((top, top), (bottom, bottom), (top, bottom)))
    size = jnp.sqrt(alpha) * jnp.sqrt(beta)
    some = (gamma != 0) & (size > 0)
    cos, sin = _rotation(alpha, beta, gamma, some)
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

    def sweep(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        top, bottom, _, count = state
        nothing = jnp.zeros((), square.dtype)
        return *jax.lax.fori_loop(0, 2 * half - 1, turn, (top, bottom, nothing)), count + 1

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        return (state[2] > m * jnp.finfo(square.dtype).eps) & (state[3] < MOST_SWEEPS)

    begin = (padded[:half], padded[half:], jnp.asarray(jnp.inf, square.dtype), jnp.zeros((), int))
    top, bottom, _, _ = jax.lax.while_loop(unfinished, sweep, begin)
    return jnp.concatenate([top, bottom])


@jax.jit
def singular_rows(rows: Float[Array, "m n"]) -> tuple[Float[Array, "m"], Float[Array, "m n"]]:
    """Singular values (descending) and right singular vectors of a matrix, m small.

    Gram-Schmidt, then Jacobi rotations of the m x m factor. For A = D B, D diagonal and B well conditioned,
    every singular value has its own relative accuracy, however small (Demmel & Veselic, SIAM J. Matrix Anal.
    Appl. 13, 1992): the case of sqrt(p_y) a_y where p saturates.

    Args:
        rows: A, ``(m, n)``.

    Returns:
        ``(m,)`` and ``(m, n)``, rows zero past the rank. First derivatives of the values are exact; the
        vectors count as constant.
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


# --- on the host ------------------------------------------------------------


def principal_directions(sample: np.ndarray, count: int) -> np.ndarray:
    """Orthonormal columns that nearly span the main directions of the rows of a sample, ``(f, k)``.

    Subspace iteration: a threaded eigendecomposition takes seconds where the cores are shared.

    Args:
        sample: Centred points ``(n, f)``.
        count: k, at most.

    Returns:
        The columns, fewer where the sample spans less.
    """
    inner = sample @ sample.T
    columns = np.random.default_rng(0).normal(size=(len(sample), min(count, len(sample))))
    for _ in range(4):
        columns = _orthonormal_columns(inner @ columns)
    return _orthonormal_columns(sample.T @ columns)


def _orthonormal_columns(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis from the Gram matrix, twice for accuracy; dependent columns are dropped."""
    for _ in range(2):
        values, vectors = np.linalg.eigh(columns.T @ columns)
        keep = values > 1e-10 * values[-1]
        columns = columns @ (vectors[:, keep] / np.sqrt(values[keep]))
    return columns
