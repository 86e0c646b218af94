"""The local data matrix G(x) = E_(y ~ p(.|x)) [grad_x log p_y grad_x log p_y^T] of a classifier.

Grementieri & Fioresi, *Model-centric data manifold* (SIAM J. Imaging Sci. 15, 2022). Everything goes through
the C x n factor of G: diag(p) - p p^T, which loses all digits where p saturates, is never formed.
KL(p(x + dx) || p(x)) = 1/2 dx^T G dx + O(|dx|^3).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from manifold_jax._linalg import HIGHEST, orthonormal_rows, singular_rows
from manifold_jax.information.log_prob import (
    LogProb,
    centred,
    checked_input,
    checked_vector,
    map_scores,
    scores,
)


class LocalDataRank(NamedTuple):
    """Numerical ranks at one input; -1 where the gradients are not finite.

    Attributes:
        matrix: Rank of G. Falls where p saturates, although the directions are still there.
        distribution: Dimension of D_x, the span of the scores grad log p_y; at most C - 1.
    """

    matrix: Int[Array, ""]
    distribution: Int[Array, ""]


def weighted_rows(log_prob: LogProb, at: Any, batch_size: int | None) -> Any:
    """sqrt(p_y) grad log p_y, stacked over the classes; a pytree like ``at``."""
    return map_scores(
        log_prob, at, batch_size, lambda lp, score: jax.tree.map(lambda s: jnp.exp(lp / 2) * s, score)
    )[1]


def score_square(log_prob: LogProb, at: Any, batch_size: int | None) -> Float[Array, ""]:
    """sum_y p_y |grad log p_y|^2, a block of classes in memory at a time."""

    def square(lp: Array, score: Any) -> Array:
        squares = [jnp.sum((jnp.exp(lp / 2) * s) ** 2) for s in jax.tree.leaves(score)]
        return jnp.sum(jnp.stack(squares))

    return jnp.sum(map_scores(log_prob, at, batch_size, square)[1])


def score_product(log_prob: LogProb, at: Any, vector: Any) -> Any:
    """sum_y p_y <grad log p_y, vector> grad log p_y: one push-forward, one pull-back."""
    log_p, pull = jax.vjp(log_prob, at)
    weighted = jnp.exp(log_p) * jax.jvp(log_prob, (at,), (vector,))[1]
    # They sum to 0 (E_y[score] = 0), which gives the one of the most likely class without cancellation.
    top = jnp.arange(log_p.shape[0]) == jnp.argmax(log_p)
    return pull(jnp.where(top, -jnp.sum(jnp.where(top, 0.0, weighted)), weighted))[0]


def local_data_factor(
    log_prob: LogProb, x: Float[Array, "*shape"], *, batch_size: int | None = None
) -> Float[Array, "C n"]:
    """The factor A of the local data matrix, G = A^T A: rows sqrt(p_y) grad_x log p_y.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities; for a batch of inputs use ``jax.vmap``. Parameters
            that change travel as arguments: ``jax.tree_util.Partial(apply, params)``.
        x: One input of any shape, n numbers.
        batch_size: Classes differentiated at once; by default 16 MiB of gradients.

    Returns:
        ``(C, n)``.

    Raises:
        ValueError: ``log_prob`` does not return log-probabilities, ``x`` is not floating-point or not
            finite, or ``batch_size`` is below 1.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import local_data_factor
        >>> print(local_data_factor(jax.nn.log_softmax, jnp.zeros(2)).round(3))
        [[ 0.354 -0.354]
         [-0.354  0.354]]
    """
    x = checked_input(log_prob, x)
    rows = weighted_rows(log_prob, x, batch_size)
    return rows.reshape(rows.shape[0], -1)


def local_data_matrix(
    log_prob: LogProb, x: Float[Array, "*shape"], *, batch_size: int | None = None
) -> Float[Array, "n n"]:
    """The local data matrix G = sum_y p_y grad log p_y grad log p_y^T itself, n x n: for small n.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape.
        batch_size: Classes differentiated at once.

    Returns:
        ``(n, n)``.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import local_data_matrix
        >>> print(local_data_matrix(jax.nn.log_softmax, jnp.zeros(2)).round(3))
        [[ 0.25 -0.25]
         [-0.25  0.25]]
    """
    factor = local_data_factor(log_prob, x, batch_size=batch_size)
    return jnp.matmul(factor.T, factor, precision=HIGHEST)


def local_data_matvec(
    log_prob: LogProb, x: Float[Array, "*shape"], v: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """G v without a matrix: one push-forward and one pull-back, whatever the number of classes.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape.
        v: A vector in the shape of ``x``.

    Returns:
        G v in the shape of ``x``.

    Raises:
        ValueError: As :func:`local_data_factor`, or ``v`` has another shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import local_data_matvec
        >>> print(local_data_matvec(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0])).round(3))
        [ 0.25 -0.25]
    """
    x = checked_input(log_prob, x)
    return score_product(log_prob, x, checked_vector(v, x))


def local_data_trace(
    log_prob: LogProb, x: Float[Array, "*shape"], *, batch_size: int | None = None
) -> Float[Array, ""]:
    """Tr G = sum_y p_y |grad log p_y|^2, in the memory of ``batch_size`` gradients.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape.
        batch_size: Classes differentiated at once; by default 16 MiB of gradients.

    Returns:
        A scalar.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import local_data_trace
        >>> print(local_data_trace(jax.nn.log_softmax, jnp.zeros(2)).round(3))
        0.5
    """
    x = checked_input(log_prob, x)
    return score_square(log_prob, x, batch_size)


def local_data_spectrum(
    log_prob: LogProb, x: Float[Array, "*shape"], *, batch_size: int | None = None
) -> tuple[Float[Array, "C"], Float[Array, "C n"]]:
    """The C largest eigenvalues of G (all others are 0) and their eigenvectors, from the C x n factor.

    They are the squared singular values of the factor, found by Jacobi rotations: each has its own relative
    accuracy, so that small ones survive where p saturates. At most C - 1 are not zero.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape; an eigenvector as an image is ``vectors[i].reshape(x.shape)``.
        batch_size: Classes differentiated at once.

    Returns:
        Eigenvalues ``(C,)``, descending, and orthonormal rows ``(C, n)``, zero past the rank. First
        derivatives of the eigenvalues are exact; the vectors count as constant.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import local_data_spectrum
        >>> values, vectors = local_data_spectrum(jax.nn.log_softmax, jnp.zeros(2))
        >>> print(values.round(3), abs(vectors[0]).round(3))
        [0.5 0. ] [0.707 0.707]
    """
    values, vectors = singular_rows(local_data_factor(log_prob, x, batch_size=batch_size))
    return values**2, vectors


def rank_tolerance(rtol: float | None, rows: Float[Array, "C n"]) -> float:
    """The given tolerance, or that of ``numpy.linalg.matrix_rank``, max(C, n) eps."""
    if rtol is None:
        return max(rows.shape) * float(jnp.finfo(rows.dtype).eps)
    if isinstance(rtol, bool) or not isinstance(rtol, (int, float)) or not 0 <= rtol < 1:
        raise ValueError(f"rtol must be a number from 0 to below 1, got {rtol!r}.")
    return float(rtol)


def local_data_rank(
    log_prob: LogProb, x: Float[Array, "*shape"], *, rtol: float | None = None, batch_size: int | None = None
) -> LocalDataRank:
    """Numerical rank of G, and the dimension of the distribution D_x beside it.

    G is the sum of p_y grad log p_y grad log p_y^T and loses rank to rounding where p saturates. D_x is the
    span of the centred scores J_y - mean J (J the Jacobian of the logits), which do not depend on p.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape.
        rtol: What counts as zero: eigenvalues of G relative to the largest, and pivots of the centred scores
            relative to the first, as in :func:`horizontal_basis`. By default max(C, n) times the machine
            epsilon, as in ``numpy.linalg.matrix_rank``.
        batch_size: Classes differentiated at once.

    Returns:
        Both ranks.

    Raises:
        ValueError: As :func:`local_data_factor`, or ``rtol`` is not in [0, 1).

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import local_data_rank
        >>> rank = local_data_rank(jax.nn.log_softmax, jnp.array([0.0, 20.0, 40.0]))
        >>> int(rank.matrix), int(rank.distribution)
        (1, 2)
    """
    x = checked_input(log_prob, x)
    log_p, rows = scores(log_prob, x, batch_size)
    tolerance = rank_tolerance(rtol, rows)
    values, _ = singular_rows(jnp.exp(log_p / 2)[:, None] * rows)
    pivots = orthonormal_rows(centred(rows), tolerance).pivots
    found = [values > tolerance**0.5 * values[0], pivots > 0]
    finite = jnp.isfinite(log_p).all() & jnp.isfinite(rows).all()
    return LocalDataRank(*(jnp.where(finite, jnp.sum(f), -1) for f in found))
