"""The local data matrix G(x) = E_(y ~ p(.|x)) [grad_x log p_y grad_x log p_y^T] of a classifier, and F.

Grementieri & Fioresi, *Model-centric data manifold* (SIAM J. Imaging Sci. 15, 2022). Everything goes through
the C x n factor of G: diag(p) - p p^T, which loses all digits where p saturates, is never formed.
KL(p(x + dx) || p(x)) = 1/2 dx^T G dx + O(|dx|^3). The local Fisher matrix F(w) = E_y [grad_w log p_y
grad_w log p_y^T] is its counterpart for the parameters.

Mapped by ``jax.vmap`` over inputs that are cut over a ``jax.sharding.Mesh``, they leave these where they are,
as paths do; arrays of the network that lie on the mesh too come as a pair ``(apply, params)``.

All functions raise a ValueError where :func:`local_data_factor` or :func:`fisher_factor` does, and for a
vector that is not shaped like the input or the parameters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from manifold_jax._checks import fits_in_memory
from manifold_jax._linalg import matmul
from manifold_jax._sharding import of_one_point
from manifold_jax.information.log_prob import (
    Apply,
    Input,
    LogProb,
    centred,
    checked_input,
    checked_params,
    checked_vector,
    map_scores,
    scores,
)
from manifold_jax.information.precision import rank_tolerances
from manifold_jax.information.row_factors import orthonormal_rows, singular_rows


class LocalDataRank(NamedTuple):
    """Numerical ranks at one input; -1 where the gradients are not finite.

    Attributes:
        matrix: Rank of G. Falls where p saturates, although the directions are still there.
        distribution: Dimension of D_x, the span of the scores grad log p_y; at most C - 1.
    """

    matrix: Int[Array, ""]
    distribution: Int[Array, ""]


def _weighted(log_p: Float[Array, ""], score: Any) -> Any:
    """sqrt(p_y) grad log p_y of one class."""
    return jax.tree.map(lambda s: jnp.exp(log_p / 2) * s, score)


@of_one_point
def _product(function: LogProb, at: Any, vector: Any) -> Any:
    """sum_y p_y <grad log p_y, vector> grad log p_y: one push-forward, one pull-back."""
    log_p, pull_back = jax.vjp(function, at)
    weighted = jnp.exp(log_p) * jax.jvp(function, (at,), (vector,))[1]
    # They sum to 0 (E_y[score] = 0), which gives that of the most likely class without cancellation.
    top = jnp.arange(log_p.shape[0]) == jnp.argmax(log_p)
    return pull_back(jnp.where(top, -jnp.sum(jnp.where(top, 0.0, weighted)), weighted))[0]


def _trace(function: LogProb, at: Any, batch_size: int | None) -> Float[Array, ""]:
    """sum_y p_y |grad log p_y|^2, a block of classes in memory at a time."""

    def square(log_p: Array, score: Any) -> Array:
        return jnp.sum(jnp.stack([jnp.sum(s**2) for s in jax.tree.leaves(_weighted(log_p, score))]))

    return jnp.sum(map_scores(function, at, batch_size, square)[1])


def _spectrum(function: LogProb, at: Any, batch_size: int | None) -> tuple[Array, Float[Array, "C n"]]:
    """Squared singular values of the factor, and right singular vectors as flat rows."""
    factor = map_scores(function, at, batch_size, _weighted)[1]
    values, vectors = singular_rows(jax.vmap(lambda row: ravel_pytree(row)[0])(factor))
    return values**2, vectors


def local_data_factor(log_prob: LogProb, x: Input, *, batch_size: int | None = None) -> Float[Array, "C n"]:
    """The factor A of the local data matrix, G = A^T A: rows sqrt(p_y) grad_x log p_y.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities, a callable or a pair ``(apply, params)``; for a
            batch of inputs use ``jax.vmap``. Under a ``jax.jit`` of yours, parameters that change travel as
            arguments: ``jax.tree_util.Partial(apply, params)``.
        x: One input of any shape, n numbers.
        batch_size: Classes differentiated at once; by default 16 MiB of gradients.

    Returns:
        ``(C, n)``.

    Raises:
        ValueError: Not log-probabilities, ``x`` not floating-point or not finite, ``batch_size`` below 1.

    Example:
        >>> print(mj.local_data_factor(jax.nn.log_softmax, jnp.zeros(2)).round(3))
        [[ 0.354 -0.354]
         [-0.354  0.354]]
    """
    log_prob, x = checked_input("local_data_factor", log_prob, x, batch_size=batch_size)
    return map_scores(log_prob, x, batch_size, _weighted)[1].reshape(-1, x.size)


def local_data_matrix(log_prob: LogProb, x: Input, *, batch_size: int | None = None) -> Float[Array, "n n"]:
    """The local data matrix G = sum_y p_y grad log p_y grad log p_y^T itself, n x n: for small n.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape.
        batch_size: Classes differentiated at once.

    Returns:
        ``(n, n)``.

    Example:
        >>> print(mj.local_data_matrix(jax.nn.log_softmax, jnp.zeros(2)).round(3))
        [[ 0.25 -0.25]
         [-0.25  0.25]]
    """
    log_prob, x = checked_input("local_data_matrix", log_prob, x, batch_size=batch_size)
    what = f"the numbers of a matrix {x.size} x {x.size}"
    remedy = "take local_data_spectrum or local_data_matvec"
    fits_in_memory("local_data_matrix", what, x.size**2 * x.dtype.itemsize, remedy)
    factor = map_scores(log_prob, x, batch_size, _weighted)[1].reshape(-1, x.size)
    return matmul(factor.T, factor)


def local_data_matvec(log_prob: LogProb, x: Input, v: Input) -> Input:
    """G v without a matrix: one push-forward and one pull-back, whatever the number of classes.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape.
        v: A vector in the shape of ``x``.

    Returns:
        G v in the shape of ``x``.

    Example:
        >>> print(mj.local_data_matvec(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0])).round(3))
        [ 0.25 -0.25]
    """
    log_prob, x = checked_input("local_data_matvec", log_prob, x)
    return _product(log_prob, x, checked_vector("local_data_matvec", v, x))


def local_data_trace(log_prob: LogProb, x: Input, *, batch_size: int | None = None) -> Float[Array, ""]:
    """Tr G = sum_y p_y |grad log p_y|^2, in the memory of ``batch_size`` gradients.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape.
        batch_size: Classes differentiated at once; by default 16 MiB of gradients.

    Returns:
        A scalar.

    Example:
        >>> print(mj.local_data_trace(jax.nn.log_softmax, jnp.zeros(2)).round(3))
        0.5
    """
    log_prob, x = checked_input("local_data_trace", log_prob, x, batch_size=batch_size)
    return _trace(log_prob, x, batch_size)


def local_data_spectrum(
    log_prob: LogProb, x: Input, *, batch_size: int | None = None
) -> tuple[Float[Array, "C"], Float[Array, "C n"]]:
    """The C largest eigenvalues of G (all others are 0) and their eigenvectors, from the C x n factor.

    By Jacobi rotations: each eigenvalue has its own relative accuracy, so that small ones survive where p
    saturates. At most C - 1 are not zero.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape; an eigenvector as an image is ``vectors[i].reshape(x.shape)``.
        batch_size: Classes differentiated at once.

    Returns:
        Eigenvalues ``(C,)``, descending, and orthonormal rows ``(C, n)``, zero past the rank. First
        derivatives of the eigenvalues are exact; the vectors count as constant.

    Example:
        >>> values, vectors = mj.local_data_spectrum(jax.nn.log_softmax, jnp.zeros(2))
        >>> print(values.round(3), abs(vectors[0]).round(3))
        [0.5 0. ] [0.707 0.707]
    """
    log_prob, x = checked_input("local_data_spectrum", log_prob, x, batch_size=batch_size)
    return _spectrum(log_prob, x, batch_size)


def local_data_rank(
    log_prob: LogProb, x: Input, *, rtol: float | None = None, batch_size: int | None = None
) -> LocalDataRank:
    """Numerical rank of G, and the dimension of the distribution D_x.

    G loses rank to rounding where p saturates. D_x is the span of the centred scores J_y - mean J (J the
    Jacobian of the logits), which do not depend on p.

    Args:
        log_prob: As for :func:`local_data_factor`.
        x: One input of any shape.
        rtol: What counts as zero: eigenvalues of G relative to the largest, and pivots of the centred scores
            relative to the first. By default as in :func:`horizontal_basis`; for eigenvalues, which are
            squares, with the square of the second part.
        batch_size: Classes differentiated at once.

    Returns:
        Both ranks.

    Example:
        >>> rank = mj.local_data_rank(jax.nn.log_softmax, jnp.array([0.0, 20.0, 40.0]))
        >>> int(rank.matrix), int(rank.distribution)
        (1, 2)
    """
    log_prob, x = checked_input("local_data_rank", log_prob, x, batch_size=batch_size, rtol=rtol)
    log_p, rows = scores(log_prob, x, batch_size)
    of_pivots, of_eigenvalues = rank_tolerances(rtol, log_prob, x)
    values, _ = singular_rows(jnp.exp(log_p / 2)[:, None] * rows)
    pivots = orthonormal_rows(centred(rows), of_pivots)[2]
    ranks = (jnp.sum(values > of_eigenvalues**0.5 * values[0]), jnp.sum(pivots > 0))
    finite = jnp.isfinite(log_p).all() & jnp.isfinite(rows).all()
    return LocalDataRank(*(jnp.where(finite, rank, -1) for rank in ranks))


def fisher_factor(apply: Apply, params: Any, x: Input, *, batch_size: int | None = None) -> Any:
    """The factor of the local Fisher matrix: sqrt(p_y) grad_w log p_y for every class y.

    Args:
        apply: Parameters and one input to ``(C,)`` log-probabilities.
        params: Pytree of floating-point arrays.
        x: One input of any shape. On a CPU map over inputs with ``jax.lax.map``: under ``vmap`` the gradients
            of convolutions become slow grouped convolutions.
        batch_size: Classes differentiated at once; by default 16 MiB of gradients.

    Returns:
        A pytree like ``params``, every leaf with a leading axis of length C.

    Raises:
        ValueError: Not log-probabilities, or a leaf of ``params`` is not floating-point.

    Example:
        >>> apply = lambda w, x: jax.nn.log_softmax(w["scale"] * x)
        >>> rows = mj.fisher_factor(apply, {"scale": jnp.ones(2)}, jnp.array([1.0, 1.0]))
        >>> print(rows["scale"].round(3))
        [[ 0.354 -0.354]
         [-0.354  0.354]]
    """
    function, params = checked_params("fisher_factor", apply, params, x, batch_size=batch_size)
    return map_scores(function, params, batch_size, _weighted)[1]


def fisher_matvec(apply: Apply, params: Any, x: Input, v: Any) -> Any:
    """F v without a matrix: one push-forward and one pull-back.

    Args:
        apply: As for :func:`fisher_factor`.
        params: Pytree of floating-point arrays.
        x: One input of any shape.
        v: A pytree like ``params``.

    Returns:
        A pytree like ``params``.

    Example:
        >>> apply = lambda w, x: jax.nn.log_softmax(w["scale"] * x)
        >>> v = {"scale": jnp.array([1.0, 0.0])}
        >>> print(mj.fisher_matvec(apply, {"scale": jnp.ones(2)}, jnp.ones(2), v)["scale"].round(3))
        [ 0.25 -0.25]
    """
    function, params = checked_params("fisher_matvec", apply, params, x)
    return _product(function, params, checked_vector("fisher_matvec", v, params, of="params"))


def fisher_trace(apply: Apply, params: Any, x: Input, *, batch_size: int | None = None) -> Float[Array, ""]:
    """Tr F = sum_y p_y |grad_w log p_y|^2, in the memory of ``batch_size`` gradients.

    Args:
        apply: As for :func:`fisher_factor`.
        params: Pytree of floating-point arrays.
        x: One input of any shape.
        batch_size: Classes differentiated at once.

    Returns:
        A scalar.

    Example:
        >>> apply = lambda w, x: jax.nn.log_softmax(w * x)
        >>> print(mj.fisher_trace(apply, jnp.ones(2), jnp.ones(2)).round(3))
        0.5
    """
    function, params = checked_params("fisher_trace", apply, params, x, batch_size=batch_size)
    return _trace(function, params, batch_size)


def fisher_spectrum(
    apply: Apply, params: Any, x: Input, *, batch_size: int | None = None
) -> tuple[Float[Array, "C"], Any]:
    """The C largest eigenvalues of F (all others are 0) and their eigenvectors; never |w| x |w|.

    Args:
        apply: As for :func:`fisher_factor`.
        params: Pytree of floating-point arrays.
        x: One input of any shape.
        batch_size: Classes differentiated at once.

    Returns:
        Eigenvalues ``(C,)``, descending, and a pytree like ``params``, every leaf with a leading axis of
        length C; zero past the rank. As for :func:`local_data_spectrum`.

    Example:
        >>> apply = lambda w, x: jax.nn.log_softmax(w["scale"] * x)
        >>> values, vectors = mj.fisher_spectrum(apply, {"scale": jnp.ones(2)}, jnp.ones(2))
        >>> print(values.round(3), vectors["scale"].shape)
        [0.5 0. ] (2, 2)
    """
    function, params = checked_params("fisher_spectrum", apply, params, x, batch_size=batch_size)
    values, vectors = _spectrum(function, params, batch_size)
    return values, jax.vmap(ravel_pytree(params)[1])(vectors)
