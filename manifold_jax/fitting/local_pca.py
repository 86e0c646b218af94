"""Projection onto one weighted affine plane: what is called MMLS in places, and is local PCA."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from manifold_jax._checks import flat, floating, positive, whole
from manifold_jax._linalg import matmul, safe_sqrt
from manifold_jax.fitting.projections import DEGENERATE, OK, LocalFit, Projection, as_project

WEIGHTS = ("gaussian", "exponential")


class _Settings(NamedTuple):
    dimension: int
    weights: str
    adaptive: bool


def local_pca_projection(
    samples: Float[Any, "n *features"],
    *,
    dimension: int,
    neighbours: int | None = None,
    weights: str = "gaussian",
    sigma: float | Float[Array, ""] | None = None,
    block_size: int | None = None,
) -> Partial:
    """Fit a manifold by projecting once onto the weighted principal plane of the k nearest samples.

    With the k samples r_i nearest to a point r and weights w_i,

        mu = sum w_i r_i / sum w_i,   P = projector on the d leading eigenvectors of
        sum w_i (r_i - mu) (r_i - mu)^T,   r -> mu + P (r - mu).

    The error at interior points is O(h^2), h the size of the neighbourhoods; there is no iterated base point
    and no polynomial, see :func:`moving_least_squares` for these. Two kinds of weights:

    - ``"gaussian"``: w_i = exp(-|r_i - r|^2 / (2 sigma^2)).
    - ``"exponential"``: w_i = exp(-|r_i - r| / (2 sigma^2)), the distance *not* squared. With ``sigma=1``
      this is what manifold-microscope 0.2.0 computes under the name MMLS (arXiv 2606.15760); it takes
      ``neighbours=6`` by default, 5 for its toy manifolds and 2 * 2^d for images. Note that sigma^2 is a
      length, and that weights are nearly equal where the neighbourhood is small beside 2.

    Args:
        samples: n points of any feature shape.
        dimension: d, below the number of features.
        neighbours: k, from d + 1 to n; by default the larger of 6 and 2 * 2^d.
        weights: ``"gaussian"`` or ``"exponential"``.
        sigma: Width of the weights; by default half the distance to the k-th neighbour for Gaussian weights,
            and 1 for exponential ones.
        block_size: Queries treated at once.

    Returns:
        ``project(points)``, a ``jax.tree_util.Partial`` that maps ``(*batch, *features)`` (or ``(q, f)``) to
        points of the same shape, NaN where the d-th and the next eigenvalue are equal to rounding and no
        plane is singled out (:func:`project_with_status` tells). It may be passed through ``jit``
        (other samples of the same shape do not retrace), ``vmap``, ``jvp`` and ``grad``; the neighbours count
        as constant.

    Raises:
        ValueError: Shapes, types or ranges do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax.fitting.local_pca import local_pca_projection
        >>> t = jnp.linspace(0.0, 2 * jnp.pi, 200, endpoint=False)
        >>> project = local_pca_projection(jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1), dimension=1)
        >>> print(f"{jnp.linalg.norm(project(jnp.array([0.0, 1.1]))):.2f}")
        1.00
    """
    samples = floating("local_pca_projection", "samples", samples)
    rows = flat(samples)
    dimension = checked_dimension("local_pca_projection", dimension, rows)
    count = max(6, 2 * 2**dimension) if neighbours is None else neighbours
    count = checked_count("local_pca_projection", count, dimension + 1, rows)
    if weights not in WEIGHTS:
        raise ValueError(
            f"local_pca_projection: weights must be 'gaussian' or 'exponential', got {weights!r}."
        )
    positive("local_pca_projection", "sigma", sigma)
    if block_size is not None:
        block_size = whole("local_pca_projection", "block_size", block_size)
    adaptive = sigma is None and weights == "gaussian"
    settings = _Settings(dimension, weights, adaptive)
    width = jnp.asarray(1.0 if sigma is None else sigma, rows.dtype)
    return as_project(LocalFit(rows, width, _plane, settings, count, samples.shape[1:], block_size))


def checked_dimension(caller: str, dimension: Any, rows: Array) -> int:
    """d, below the number of features."""
    dimension = whole(caller, "dimension", dimension)
    if dimension >= rows.shape[1]:
        raise ValueError(
            f"{caller}: dimension must be below the {rows.shape[1]} features of a point, got {dimension}."
        )
    return dimension


def checked_count(caller: str, count: Any, least: int, rows: Array) -> int:
    """A number of neighbours that the fit can use and the samples can supply."""
    count = whole(caller, "neighbours", count)
    if count < least:
        raise ValueError(f"{caller}: this fit needs at least {least} neighbours, got {count}.")
    if count > rows.shape[0]:
        raise ValueError(
            f"{caller}: the fit takes {count} neighbours, but there are only {rows.shape[0]} samples: give "
            "more samples or fewer neighbours."
        )
    return count


def _plane(settings: _Settings, sigma: Array, r: Array, near: Array) -> Projection:
    """One query; see :func:`local_pca_projection`."""
    difference = near - r
    squares = jnp.sum(difference**2, axis=1)
    if settings.adaptive:
        sigma = safe_sqrt(jnp.max(squares)) / 2
    lengths = squares if settings.weights == "gaussian" else safe_sqrt(squares)
    exponent = -lengths / (2 * sigma**2)
    # A common factor changes nothing, and without it all weights may underflow.
    root = jnp.exp((exponent - jax.lax.stop_gradient(jnp.max(exponent))) / 2)
    move, values = weighted_plane(difference, root, settings.dimension)
    gap = values[-settings.dimension] - values[-settings.dimension - 1]
    floor = 16 * jnp.finfo(r.dtype).eps * values[-1]
    status = jnp.where(gap > floor, OK, DEGENERATE)
    return Projection(r + move, status, jnp.full((), jnp.nan, r.dtype), jnp.zeros((), int))


def weighted_plane(
    difference: Float[Array, "k f"], root: Float[Array, "k"], dimension: int
) -> tuple[Float[Array, "f"], Float[Array, "s"]]:
    """Foot of the origin on the weighted principal plane of rows, and eigenvalues ascending (the last ones).

    Args:
        difference: Samples relative to the query.
        root: Square roots of the weights.
        dimension: d.
    """
    mean, centred = centred_rows(difference, root)
    apply, values = plane_projector(centred, dimension)
    return mean - apply(mean), values


def centred_rows(difference: Array, root: Array) -> tuple[Array, Array]:
    """Weighted mean, and sqrt(w_i) (r_i - mean)."""
    weights = root**2
    mean = jnp.sum(weights[:, None] * difference, axis=0) / jnp.sum(weights)
    return mean, root[:, None] * (difference - mean)


def plane_projector(centred: Float[Array, "k f"], dimension: int) -> tuple[Any, Array]:
    """Projector on the leading right singular vectors of A, from the smaller of A A^T and A^T A.

    With g(A A^T) = sum over the d largest eigenvalues of v v^T / lambda, the projector is A^T g(A A^T) A.
    """
    k, f = centred.shape
    if k < f:
        inverse, values = leading_inverse(matmul(centred, centred.T), dimension)
        return lambda v: matmul(centred.T, matmul(inverse, matmul(centred, v))), values
    gram = matmul(centred.T, centred)
    inverse, values = leading_inverse(gram, dimension)
    return lambda v: matmul(gram, matmul(inverse, v)), values


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def leading_inverse(matrix: Float[Array, "s s"], dimension: int) -> tuple[Array, Array]:
    """Sum over the d largest eigenvalues of v v^T / lambda, and all eigenvalues, ascending.

    Its derivative by divided differences (Daleckii & Krein 1965; Bhatia, *Matrix Analysis*, theorem V.3.3)
    only asks for a gap below the d-th eigenvalue, where that of the eigenvectors asks for all to be distinct.
    The eigenvalues count as constant.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    leading = vectors[:, -dimension:]
    return matmul(leading * _inverse(values[-dimension:]), leading.T), values


@leading_inverse.defjvp
def _leading_inverse_jvp(dimension: int, primals: Any, tangents: Any) -> Any:
    (matrix,), (change,) = primals, tangents
    values, vectors = jnp.linalg.eigh(matrix)
    top = jnp.arange(len(values)) >= len(values) - dimension
    g = jnp.where(top, _inverse(values), 0)
    both = -g[:, None] * g[None]
    mixed = (g[:, None] - g[None]) * _inverse(values[:, None] - values[None])
    divided = jnp.where(top[:, None] & top[None], both, jnp.where(top[:, None] ^ top[None], mixed, 0))
    inner = matmul(vectors.T, matmul(change, vectors))
    moved = matmul(vectors, matmul(divided * inner, vectors.T))
    leading = vectors[:, -dimension:]
    inverse = matmul(leading * _inverse(values[-dimension:]), leading.T)
    return (inverse, values), (moved, jnp.zeros_like(values))


def _inverse(x: Array) -> Array:
    return jnp.where(x != 0, 1 / jnp.where(x != 0, x, 1), 0)
