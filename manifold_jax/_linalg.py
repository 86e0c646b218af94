"""Linear algebra that packages share: block maps, products, lengths, principal components, rotations.

No two independent LAPACK calls under ``vmap``: in one program they block each other for ever on a machine
with two cores (seen with jaxlib 0.10.1). So small matrices are decomposed by rotations and Gram-Schmidt, and
those of :func:`leading_rows`, which may be larger, by calls that follow each other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from manifold_jax._sharding import over_rows

HIGHEST = jax.lax.Precision.HIGHEST
"""Precision of every geometric product: the default is TF32 or bfloat16 on accelerators."""

BLOCK_NUMBERS = 2**22
"""About how many numbers the temporaries of one block may hold: 16 MiB in float32."""


def block_rows(numbers_per_row: int, block_size: int | None = None, most: int = 1024) -> int:
    """Rows of a block: as asked, or as many as keep its temporaries within :data:`BLOCK_NUMBERS`."""
    return int(block_size or 0) or max(1, min(most, BLOCK_NUMBERS // max(1, numbers_per_row)))


def map_blocks(function: Callable[..., Any], block: int, *arguments: Any) -> Any:
    """Apply a function of blocks ``(b, ...)`` to arrays ``(n, ...)``, one block after the other.

    There is one block size (at most ``block``) and so one trace: a size without remainder where that is
    easily had, else the last block is filled up with copies of the last row. With
    ``lax.map(..., batch_size=b)`` the rest would be a second, independent part of the program, whose batched
    decompositions and those of the loop may wait for each other for ever (see above). Arguments and result
    are pytrees of arrays with one leading axis. Where that is cut over a mesh every device takes its rows.
    """
    return over_rows(lambda _, *rows: _map_blocks(function, block, *rows), (), *arguments)


def _map_blocks(function: Callable[..., Any], block: int, *arguments: Any) -> Any:
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


def matmul(a: Array, b: Array) -> Array:
    """Matrix product in full precision."""
    return jnp.matmul(a, b, precision=HIGHEST)


@partial(jax.jit, inline=True)
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


def _squared_rows(rows: Array) -> tuple[Array, Array]:
    """Eigenvalues of A^T A, ascending, and rows sqrt(lambda_j) v_j; by the smaller of A A^T and A^T A."""
    if rows.shape[0] < rows.shape[1]:
        values, vectors = jnp.linalg.eigh(matmul(rows, rows.T))
        return values, matmul(vectors.T, rows)
    values, vectors = jnp.linalg.eigh(matmul(rows.T, rows))
    return values, safe_sqrt(values)[:, None] * vectors.T


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def leading_rows(rows: Float[Array, "k f"], count: int) -> tuple[Float[Array, "s"], Float[Array, "d f"]]:
    """Principal components: the d leading right singular vectors of centred rows A ``(k, f)``.

    Returns:
        Eigenvalues of A^T A, ascending, the s = min(k, f) that need not vanish; they count as constant. And
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

    The eigenvalues, up to a common factor, and the rows are as :func:`leading_rows` gives them.
    """
    weights = root[:, None] ** 2
    mean = jnp.sum(weights * points, axis=0) / jnp.sum(weights)
    rows = root[:, None] * (points - mean)
    return mean, *leading_rows(rows / scale_of(rows), count)


def rotation(alpha: Array, beta: Array, gamma: Array, some: Bool[Array, "..."]) -> tuple[Array, Array]:
    """Cosine and sine that make [[alpha, gamma], [gamma, beta]] diagonal; 1 and 0 unless ``some``.

    Golub & Van Loan, Matrix Computations, 4th ed., section 8.5.2.
    """
    ratio = (beta - alpha) / (2 * jnp.where(some, gamma, 1.0))
    sign = jnp.where(ratio >= 0, 1.0, -1.0).astype(ratio.dtype)
    tangent = jnp.where(some, sign / (jnp.abs(ratio) + jnp.sqrt(ratio**2 + 1)), 0.0)
    cos = jax.lax.rsqrt(1 + tangent**2)
    return cos, tangent * cos
