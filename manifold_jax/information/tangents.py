"""Where a data manifold with known tangents X_i and the distribution D_x of a classifier meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax._checks import checked_function, real, single
from manifold_jax._linalg import matmul, norm, scale_of
from manifold_jax.information.log_prob import LogProb
from manifold_jax.information.row_factors import orthonormal_rows, singular_rows


def _checked_pair(
    caller: str, tangents: Any, rows: Any, name: str
) -> tuple[Float[Array, "d n"], Float[Array, "C n"]]:
    """Two floating-point matrices with rows in one space."""
    pair = {label: real(caller, label, a) for label, a in (("tangents", tangents), (name, rows))}
    for label, a in pair.items():
        if a.ndim != 2 or a.size == 0 or not jnp.issubdtype(a.dtype, jnp.floating):
            wanted, got = "a floating-point matrix, vectors as rows", f"{a.dtype} of shape {a.shape}"
            remedy = "flatten the axes of an image, and map over points with jax.vmap"
            raise ValueError(f"{caller}: {label} must be {wanted}, got {got}: {remedy}.")
    first, second = pair.values()
    if first.shape[1] != second.shape[1]:
        lengths = f"{first.shape[1]} and {second.shape[1]}"
        raise ValueError(f"{caller}: tangents and {name} must have rows of one length, got {lengths}.")
    dtype = jnp.promote_types(first.dtype, second.dtype)
    return single(first.astype(dtype)), single(second.astype(dtype))


def _of_size_one(rows: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """Every row divided by its largest magnitude, so that no square underflows."""
    return rows / jax.vmap(scale_of)(rows)[:, None]


def principal_angles(tangents: Float[Array, "d n"], basis: Float[Array, "C n"]) -> Float[Array, "min(d,C)"]:
    """Principal angles between the spans of two sets of rows.

    With orthonormal bases Q of the tangents and B of the other span, the cosines are the singular values of
    Q B^T and the sines those of Q - Q B^T B. A cosine cannot tell an angle below sqrt(eps) from 0, nor a sine
    one that close to pi/2 from pi/2; arctan2(sine, cosine) has the absolute accuracy of the rows everywhere
    (Bjorck & Golub, Math. Comp. 27, 1973; Knyazev & Argentati, SIAM J. Sci. Comput. 23, 2002).

    Args:
        tangents: Vectors as rows; their lengths do not matter, dependent ones count once.
        basis: Vectors as rows, orthonormal or not; zero rows, as of :func:`horizontal_basis`, span nothing.

    Returns:
        ``(min(d, C),)``, in radians, ascending. Only as many angles exist as the smaller of the two ranks;
        the places past it hold pi/2, the cosine of a vector that is not there being 0. NaN for NaN.

    Raises:
        ValueError: An argument is not a floating-point matrix, or the rows differ in length.

    Example:
        >>> plane, line = jnp.eye(3)[:2], jnp.array([[0.0, 1.0, 1.0]])
        >>> print(mj.principal_angles(plane, line).round(4))
        [0.7854]
    """
    return _angles(*_checked_pair("principal_angles", tangents, basis, "basis"))


@jax.jit
def _angles(tangents: Array, basis: Array) -> Array:
    count = min(tangents.shape[0], basis.shape[0])
    q, _, pivots = orthonormal_rows(_of_size_one(tangents))
    b = orthonormal_rows(_of_size_one(basis))[0]
    products = matmul(q, b.T)
    rest = q - matmul(products, b)
    rest = rest - matmul(matmul(rest, b.T), b)
    sines = singular_rows(rest)[0]
    # Zero rows of q give zero sines, at the end: they are not angles of 0.
    exists = jnp.arange(sines.size) < jnp.sum(pivots != 0)
    sines = jnp.sort(jnp.where(exists, sines, 1.0))
    return jnp.arctan2(sines[:count], singular_rows(products)[0][:count])


def factor_visibility(tangents: Float[Array, "d n"], factor: Float[Array, "C n"]) -> Float[Array, "d"]:
    """How much of every tangent a classifier sees: X_i^T G X_i / (|X_i|^2 lambda_max(G)).

    1 along the direction that G sees best, 0 along a leaf's normals, Tr G / (n lambda_max) on average over
    random directions. G = A^T A is never formed: X^T G X = |A X|^2.

    Args:
        tangents: X_i as rows; their lengths do not matter.
        factor: A of :func:`local_data_factor`.

    Returns:
        ``(d,)``, from 0 to 1; 0 where the tangent or G vanishes. Errors as in :func:`principal_angles`.

    Example:
        >>> factor = mj.local_data_factor(jax.nn.log_softmax, jnp.zeros(2))
        >>> print(mj.factor_visibility(jnp.array([[1.0, -1.0], [1.0, 0.0], [1.0, 1.0]]), factor).round(3))
        [1.  0.5 0. ]
    """
    return _visibility(*_checked_pair("factor_visibility", tangents, factor, "factor"))


@jax.jit
def _visibility(tangents: Array, factor: Array) -> Array:
    tangents = _of_size_one(tangents)
    factor = factor / scale_of(factor)
    largest = norm(tangents) * singular_rows(factor)[0][0]
    seen = norm(matmul(tangents, factor.T))
    zero = largest == 0
    # At most 1, apart from rounding.
    return jnp.minimum(jnp.where(zero, 0.0, seen / jnp.where(zero, 1.0, largest)) ** 2, 1.0)


def pulled_back(log_prob: LogProb, embedding: Callable[[Any], Array]) -> Callable[[Any], Float[Array, "C"]]:
    """The map u -> 2 sqrt(p(X(u))), whose induced metric is the pull-back of G to the chart of the data.

    g_ij = X_i^T G X_j, because G = sum_y p_y a_y a_y^T and d(2 sqrt(p_y)) = sqrt(p_y) a_y^T dX, with the
    scores a_y = grad log p_y. The images lie in the sphere of radius 2 (Fisher-Rao metric; Amari & Nagaoka,
    Methods of information geometry, 2000, section 2.2), so that the rank of g is at most C - 1, and d = C - 1
    factors in general position have the sectional curvature 1/4. Give the function to ``gram_from_function``
    for volume and curvatures; these need a classifier with two derivatives.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        embedding: One chart point ``(d,)`` to one input.

    Returns:
        A function of one chart point ``(d,)`` with values ``(C,)``, of length 2. It closes over its
        arguments: inside ``jit`` build it from the parameters that are arguments there.

    Raises:
        ValueError: An argument is not callable.

    Example:
        >>> line = lambda u: jnp.array([1.0, -1.0]) * u[0]
        >>> embedding = mj.pulled_back(jax.nn.log_softmax, line)
        >>> print(mj.metric(mj.gram_from_function(embedding, jnp.zeros(1))).round(4))
        [[1.]]
    """
    for name, function in (("log_prob", log_prob), ("embedding", embedding)):
        checked_function("pulled_back", name, function, "one point")
    return lambda u: 2 * jnp.exp(single(log_prob(embedding(u))) / 2)
