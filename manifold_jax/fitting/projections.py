"""Local fits: neighbours, a fit of one query at a time, a status; and local PCA, the simplest of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax import _checks
from manifold_jax._checks import flat, floating, optional, query_rows, whole
from manifold_jax._linalg import block_rows, map_blocks, matmul, principal_plane, safe_sqrt
from manifold_jax.geometry.neighbours import neighbour_indices

STATUS = ("ok", "not converged", "too few samples in the support", "degenerate")
"""What the numbers of ``Projection.status`` mean."""

OK, NOT_CONVERGED, TOO_FEW, DEGENERATE = range(4)

WEIGHTS = ("gaussian", "exponential")


class Projection(NamedTuple):
    """Projected points and how far they can be trusted.

    Attributes:
        points: Points on the fitted manifold, of the shape of the queries; meaningless where status is not 0.
        status: For each query, an index into ``STATUS``.
        amplification: For each query, the sum of |a_i| of the combination sum a_i r_i of samples that gives
            the point (the Lebesgue constant of the fit): noise may grow by so much. NaN for local PCA.
        iterations: For each query, iterations of the search for the plane; 0 for local PCA.
    """

    points: Float[Array, "*batch *features"]
    status: Int[Array, "*batch"]
    amplification: Float[Array, "*batch"]
    iterations: Int[Array, "*batch"]


Kernel = Callable[[Any, Array, Array, Array], Projection]
"""Settings, bandwidth, query ``(f,)`` and samples near it ``(c, f)`` to the projection of one query."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["samples", "bandwidth"],
    meta_fields=["kernel", "settings", "candidates", "features", "block_size"],
)
@dataclass(frozen=True)
class LocalFit:
    """A fit that looks at the ``candidates`` nearest samples; a pytree of samples and bandwidth."""

    samples: Float[Array, "n f"]
    bandwidth: Any  # NaN where it follows the samples
    kernel: Kernel
    settings: Any  # of the kernel, hashable
    candidates: int
    features: tuple[int, ...]
    block_size: int | None


def as_project(fit: LocalFit) -> Partial:
    """The function of points that a fitter returns."""
    return Partial(_project, fit)


def project_with_status(
    project: Any, points: Float[Any, "*batch *features"], *, indices: Int[Any, "q c"] | None = None
) -> Projection:
    """Project points with a local fit and say for each whether, and how well, that worked.

    Args:
        project: What :func:`local_pca_projection` or :func:`moving_least_squares` returned.
        points: ``(*batch, *features)``, or ``(q, f)`` with flattened features.
        indices: Rows of the samples near each query ``(q, c)``, from an approximate search, say; by default
            the nearest ones, found exactly. q counts the points of all batch axes.

    Raises:
        ValueError: ``project`` comes from elsewhere, or shapes do not fit.

    Example:
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> line = jnp.stack([x, 2 * x], axis=-1)
        >>> project = mj.fitting.moving_least_squares(line, dimension=1, bandwidth=0.3)
        >>> mj.fitting.project_with_status(project, jnp.array([[0.5, 1.0], [9.0, 9.0]])).status.tolist()
        [0, 2]
    """
    if not isinstance(project, Partial) or project.func is not _project:
        needed = "what local_pca_projection or moving_least_squares returned"
        raise ValueError(f"project_with_status: project must be {needed}, got {_checks.shown(project)}.")
    fit = project.args[0]
    rows, batch = query_rows("project", points, fit.features)
    wanted = (len(rows), fit.candidates)
    indices = optional(_checks.real, "project_with_status", "indices", indices)
    if indices is not None and (indices.shape != wanted or not jnp.issubdtype(indices.dtype, jnp.integer)):
        got = _checks.shown(indices)
        raise ValueError(f"project_with_status: indices must be whole numbers of shape {wanted}, got {got}.")
    images, *others = _fit_queries(fit, rows, indices)
    return Projection(images.reshape(jnp.shape(points)), *(x.reshape(batch) for x in others))


def _project(fit: LocalFit, points: Any) -> Array:
    projection = _fit_queries(fit, query_rows("project", points, fit.features)[0], None)
    images = jnp.where((projection.status == OK)[:, None], projection.points, jnp.nan)
    return images.reshape(jnp.shape(points))


@jax.jit
def _fit_queries(fit: LocalFit, points: Float[Array, "q f"], indices: Int[Array, "q c"] | None) -> Projection:
    dtype = jnp.result_type(points, fit.samples)
    samples, points = fit.samples.astype(dtype), points.astype(dtype)
    bandwidth = jnp.asarray(fit.bandwidth, dtype)
    if indices is None:
        indices = neighbour_indices(samples, points, fit.candidates, fit.block_size)

    def block(queries: Array, rows: Array) -> Projection:
        return jax.vmap(lambda r, near: fit.kernel(fit.settings, bandwidth, r, samples[near]))(queries, rows)

    size = block_rows(4 * fit.candidates * samples.shape[1], fit.block_size)
    return map_blocks(block, size, points, indices)


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
    - ``"exponential"``: w_i = exp(-|r_i - r| / (2 sigma^2)), the distance *not* squared: with ``sigma=1``
      what manifold-microscope 0.2.0 calls MMLS (arXiv 2606.15760). Here sigma^2 is a length.

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
        points of the same shape, NaN where the status of :func:`project_with_status` is not 0: the d-th and
        the next eigenvalue are equal to rounding. It may be passed through ``jit`` (other samples of the same
        shape do not retrace), ``vmap``, ``jvp`` and ``grad``; the neighbours count as constant.

    Raises:
        ValueError: Shapes, types or ranges do not fit.

    Example:
        >>> t = jnp.linspace(0.0, 2 * jnp.pi, 200, endpoint=False)
        >>> project = mj.fitting.local_pca_projection(jnp.stack([jnp.cos(t), jnp.sin(t)], -1), dimension=1)
        >>> print(f"{jnp.linalg.norm(project(jnp.array([0.0, 1.1]))):.2f}")
        1.00
    """
    name = "local_pca_projection"
    samples = floating(name, "samples", samples)
    rows = flat(samples)
    dimension = _checks.below(name, dimension, rows)
    count = max(6, 2 * 2**dimension) if neighbours is None else neighbours
    count = whole(name, "neighbours", count, dimension + 1, len(rows))
    _checks.choice(name, "weights", weights, WEIGHTS)
    optional(_checks.positive, name, "sigma", sigma)
    block_size = optional(whole, name, "block_size", block_size)
    width = jnp.asarray(1.0 if sigma is None else sigma, rows.dtype)
    settings = _Settings(dimension, weights, adaptive=sigma is None and weights == "gaussian")
    return as_project(LocalFit(rows, width, _plane, settings, count, samples.shape[1:], block_size))


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
    mean, values, frame = principal_plane(difference, root, settings.dimension)
    foot = mean - matmul(matmul(frame, mean), frame)
    gap = values[-settings.dimension] - values[-settings.dimension - 1]
    status = jnp.where(gap > 16 * jnp.finfo(r.dtype).eps * values[-1], OK, DEGENERATE)
    return Projection(r + foot, status, jnp.full((), jnp.nan, r.dtype), jnp.zeros((), int))
