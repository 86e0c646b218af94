"""The foliation of a classifier: the distribution D_x, horizontal and vertical parts, involutivity.

D_x is spanned by the scores grad_x log p_y, at most C - 1 dimensions of n. Horizontal directions lie in D_x;
vertical ones are orthogonal to it, and leave p unchanged to first order. Grementieri & Fioresi (SIAM J.
Imaging Sci. 15, 2022), section 4. All functions raise a ValueError where :func:`horizontal_basis` does, and
for a vector whose shape is not that of the input.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from manifold_jax._linalg import block_rows, map_blocks, matmul, norm, safe_sqrt, unit
from manifold_jax._sharding import of_one_point
from manifold_jax.information.log_prob import (
    Apply,
    Input,
    LogProb,
    centred,
    checked_input,
    checked_label,
    checked_params,
    checked_vector,
    scores,
)
from manifold_jax.information.precision import rank_tolerances
from manifold_jax.information.row_factors import orthonormal_rows

_STILL = 1e-6
"""What is left of a direction opposite to the score is rounding noise when it is smaller than this share."""


def span(rows: Float[Array, "C n"], tolerance: Any) -> Float[Array, "C n"]:
    """Orthonormal basis of D_x from the scores."""
    return orthonormal_rows(centred(rows), tolerance)[0]


def _basis(log_prob: LogProb, x: Array, rtol: Any, batch_size: int | None = None) -> Float[Array, "C n"]:
    return span(scores(log_prob, x, batch_size)[1], rank_tolerances(rtol, log_prob, x)[0])


def project(basis: Float[Array, "C n"], v: Float[Array, "n"]) -> Float[Array, "n"]:
    """Q^T Q v."""
    return matmul(matmul(basis, v), basis)


def reject(basis: Float[Array, "C n"], v: Float[Array, "n"]) -> Float[Array, "n"]:
    """The rest v - Q^T Q v, taken twice, so that it is orthogonal to the last digit."""
    v = v - project(basis, v)
    return v - project(basis, v)


def keep_label(
    log_p: Float[Array, "C"], rows: Array, basis: Float[Array, "C n"], label: Int[Array, ""] | int, w: Array
) -> Float[Array, "n"]:
    """The part of w in D_x, less what would lower log p of a label to first order."""
    u, length = unit(project(basis, w))
    others = jax.nn.softmax(jnp.where(jnp.arange(log_p.shape[0]) == label, -jnp.inf, log_p))
    s, _ = unit(-matmul(others, rows))
    kept = u - jnp.minimum(jnp.sum(u * s), 0.0) * s
    return jnp.where(norm(kept) <= _STILL, 0.0, length * kept)


def horizontal_basis(
    log_prob: LogProb, x: Input, *, rtol: float | None = None, batch_size: int | None = None
) -> Float[Array, "C n"]:
    """Orthonormal basis of the distribution D_x = span of grad_x log p_y.

    Row-pivoted Gram-Schmidt of the centred scores J_y - mean J, well conditioned where p is saturated.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: One input of any shape, n numbers.
        rtol: Pivots at most this times the first count as zero. By default C machine epsilons for rounding in
            the orthogonalisation, for any n (Higham, Accuracy and stability of numerical algorithms, 2nd
            ed., 2002, theorem 19.13), and 16 of the least precise dtype that ``log_prob`` computes in, 4 of
            16 bits.
        batch_size: Classes differentiated at once.

    Returns:
        ``(C, n)``, rows orthonormal, zero past the numerical rank.

    Raises:
        ValueError: Not log-probabilities, ``x`` not floating-point or not finite, ``rtol`` not in [0, 1).

    Example:
        >>> print(abs(mj.horizontal_basis(jax.nn.log_softmax, jnp.zeros(2))).round(3))
        [[0.707 0.707]
         [0.    0.   ]]
    """
    log_prob, x = checked_input("horizontal_basis", log_prob, x, batch_size=batch_size, rtol=rtol)
    return _basis(log_prob, x, rtol, batch_size)


def horizontal_projection(log_prob: LogProb, x: Input, v: Input, *, rtol: float | None = None) -> Input:
    """The part of v in D_x.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: One input of any shape.
        v: A vector in the shape of ``x``.
        rtol: As for :func:`horizontal_basis`.

    Returns:
        In the shape of ``x``.

    Example:
        >>> print(mj.horizontal_projection(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0])).round(3))
        [ 0.5 -0.5]
    """
    log_prob, x = checked_input("horizontal_projection", log_prob, x, rtol=rtol)
    v = checked_vector("horizontal_projection", v, x)
    return project(_basis(log_prob, x, rtol), jnp.ravel(v)).reshape(x.shape)


def vertical_projection(log_prob: LogProb, x: Input, v: Input, *, rtol: float | None = None) -> Input:
    """The part of v orthogonal to D_x: along it p does not change to first order.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: One input of any shape.
        v: A vector in the shape of ``x``.
        rtol: As for :func:`horizontal_basis`.

    Returns:
        In the shape of ``x``.

    Example:
        >>> print(mj.vertical_projection(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0])).round(3))
        [0.5 0.5]
    """
    log_prob, x = checked_input("vertical_projection", log_prob, x, rtol=rtol)
    v = checked_vector("vertical_projection", v, x)
    return reject(_basis(log_prob, x, rtol), jnp.ravel(v)).reshape(x.shape)


def label_keeping_projection(
    log_prob: LogProb, x: Array, v: Array, label: Int[Array, ""] | int, *, rtol: float | None = None
) -> Input:
    """The part of v in D_x, less what would lower log p of a label to first order.

    u = P_x(v), then u - min(0, <u, s>) s / |s|^2, where s = grad log p_label lies in D_x. It is along
    - sum_y p_y grad log p_y over the others, which keeps its digits where p saturates.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: One input of any shape.
        v: A vector in the shape of ``x``.
        label: The class to keep.
        rtol: As for :func:`horizontal_basis`.

    Returns:
        In the shape of ``x``; 0 where u is opposite to s.

    Example:
        >>> v = jnp.array([1.0, 0.0])
        >>> print(mj.label_keeping_projection(jax.nn.log_softmax, jnp.zeros(2), v, label=0).round(3))
        [ 0.5 -0.5]
    """
    log_prob, x = checked_input("label_keeping_projection", log_prob, x, rtol=rtol)
    v = checked_vector("label_keeping_projection", v, x)
    log_p, rows = scores(log_prob, x)
    label = checked_label("label_keeping_projection", label, len(log_p))
    basis = span(rows, rank_tolerances(rtol, log_prob, x)[0])
    return keep_label(log_p, rows, basis, label, jnp.ravel(v)).reshape(x.shape)


@of_one_point
def _defect(function: LogProb, at: Any, rtol: float | None, batch_size: int | None) -> Array:
    """|vertical part| / |all| of the brackets, over pairs a < b."""
    x, unravel = ravel_pytree(at)
    log_prob = lambda z: function(unravel(z))  # noqa: E731
    rows = scores(log_prob, x)[1]
    basis = span(rows, rank_tolerances(rtol, log_prob, x)[0])
    first, second = (jnp.asarray(i) for i in np.triu_indices(len(rows), 1))

    def hessian_product(y: Int[Array, ""], v: Float[Array, "n"]) -> Float[Array, "n"]:
        """(d^2 log p_y) v, forward over reverse."""
        return jax.jvp(jax.grad(lambda z: log_prob(z)[y]), (x,), (v,))[1]

    def squares(a: Int[Array, ""], b: Int[Array, ""]) -> Float[Array, "3"]:
        """|bracket|^2, |vertical part|^2, and the squares that the bracket is made of."""
        there, back = hessian_product(b, rows[a]), hessian_product(a, rows[b])
        bracket = there - back
        made_of = jnp.sum(there**2) + jnp.sum(back**2)
        return jnp.stack([jnp.sum(bracket**2), jnp.sum(reject(basis, bracket) ** 2), made_of])

    batch = block_rows(x.size, batch_size, most=len(first))
    total, vertical, made_of = jnp.sum(map_blocks(jax.vmap(squares), batch, first, second), axis=0)
    # A bracket that cancels to rounding errors is 0; its direction would be noise.
    vanishes = total <= (16 * jnp.finfo(x.dtype).eps) ** 2 * made_of
    return jnp.where(vanishes, 0.0, safe_sqrt(vertical / jnp.where(vanishes, 1.0, total)))


def involutivity_defect(
    log_prob: LogProb, x: Input, *, rtol: float | None = None, batch_size: int | None = None
) -> Float[Array, ""]:
    """How far the distribution is from involutive: |vertical part| / |all| of the brackets of the scores.

    [grad log p_a, grad log p_b] = H_b grad log p_a - H_a grad log p_b (H the Hessians), over all pairs a < b
    in the Frobenius norm, from Hessian-vector products. By Frobenius' theorem there is a leaf through x where
    it vanishes in a neighbourhood. With ReLU it does inside every linear region: all H_y are
    - J^T (diag p - p p^T) J there, which maps into D_x.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities, twice differentiable at ``x``.
        x: One input of any shape.
        rtol: As for :func:`horizontal_basis`.
        batch_size: Pairs of classes at once; by default 16 MiB of vectors.

    Returns:
        From 0 to 1; 0 where the brackets vanish.

    Example:
        >>> warped = lambda x: jax.nn.log_softmax(jnp.stack([x[0], x[1] + x[0] * x[2], 0.0]))
        >>> print(mj.involutivity_defect(warped, jnp.array([0.1, 0.2, 0.3])) > 0.1)
        True
    """
    log_prob, x = checked_input("involutivity_defect", log_prob, x, batch_size=batch_size, rtol=rtol)
    return _defect(log_prob, x, rtol, batch_size)


def fisher_involutivity_defect(
    apply: Apply, params: Any, x: Array, *, rtol: float | None = None, batch_size: int | None = None
) -> Float[Array, ""]:
    """:func:`involutivity_defect` of the distribution of the local Fisher matrix, over the parameters.

    It is not involutive in general, not even with ReLU (Grementieri & Fioresi).

    Args:
        apply: As for :func:`fisher_factor`.
        params: Pytree of floating-point arrays.
        x: One input of any shape.
        rtol: As for :func:`horizontal_basis`.
        batch_size: As for :func:`involutivity_defect`.

    Returns:
        From 0 to 1; 0 where the brackets vanish.

    Example:
        >>> apply = lambda w, x: jax.nn.log_softmax(w["out"] @ jnp.tanh(w["in"] @ x))
        >>> w = {"in": jnp.eye(3), "out": jnp.eye(3) + 0.5}
        >>> print(mj.fisher_involutivity_defect(apply, w, jnp.array([1.0, 0.5, -1.0])) > 0.01)
        True
    """
    options = {"batch_size": batch_size, "rtol": rtol}
    function, params = checked_params("fisher_involutivity_defect", apply, params, x, **options)
    return _defect(function, params, rtol, batch_size)
