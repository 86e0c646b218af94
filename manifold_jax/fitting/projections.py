"""What all local fits share: find neighbours, fit one query at a time, say where it failed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax._checks import query_rows
from manifold_jax._linalg import block_rows, map_blocks
from manifold_jax.geometry.neighbours import neighbour_indices

STATUS = ("ok", "not converged", "too few samples in the support", "degenerate")
"""What the numbers of ``Projection.status`` mean."""

OK, NOT_CONVERGED, TOO_FEW, DEGENERATE = range(4)


class Projection(NamedTuple):
    """Projected points and how far they can be trusted.

    Attributes:
        points: Points on the fitted manifold, of the shape of the queries. Not to be used where ``status``
            is not 0: last iterate of an iteration that did not converge, else NaN or meaningless.
        status: For each query, an index into ``STATUS``.
        amplification: For each query, the sum of |a_i| of the combination sum a_i r_i of samples that gives
            the point (the Lebesgue constant of the local fit): noise and rounding of the samples may grow by
            so much. NaN for local PCA, which is no fixed combination.
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
    """A fit that looks at the samples near each query; a pytree whose leaves are samples and bandwidth.

    Attributes:
        samples: ``(n, f)``.
        bandwidth: Length scale of the weights, NaN where it follows the samples.
        kernel: The fit of one query.
        settings: Hashable settings of the kernel.
        candidates: Samples looked at for each query.
        features: Feature shape of a point.
        block_size: Queries of one block.
    """

    samples: Float[Array, "n f"]
    bandwidth: Any
    kernel: Kernel
    settings: Any
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

    ``project(points)`` gives the same points, with NaN wherever the status is not 0.

    Args:
        project: What :func:`local_pca_projection` or :func:`moving_least_squares` returned.
        points: ``(*batch, *features)``, or ``(q, f)`` with flattened features.
        indices: Rows of the samples near each query ``(q, c)``, from an approximate search, say; by default
            the nearest ones, found exactly. q counts the points of all batch axes.

    Returns:
        :class:`Projection`.

    Raises:
        ValueError: ``project`` comes from elsewhere, or shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax.fitting.moving_least_squares import moving_least_squares
        >>> from manifold_jax.fitting.projections import STATUS, project_with_status
        >>> x = jnp.linspace(0.0, 1.0, 20)
        >>> line = jnp.stack([x, 2 * x], axis=-1)
        >>> project = moving_least_squares(line, dimension=1, bandwidth=0.3)
        >>> found = project_with_status(project, jnp.array([[0.5, 1.0], [9.0, 9.0]]))
        >>> [STATUS[k] for k in found.status.tolist()]
        ['ok', 'too few samples in the support']
    """
    if not isinstance(project, Partial) or project.func is not _project:
        raise ValueError(
            "project_with_status needs what local_pca_projection or moving_least_squares returned, got "
            f"{type(project).__name__}."
        )
    fit = project.args[0]
    shape = jnp.shape(points)
    points, batch = query_rows("project", points, fit.features)
    if indices is not None:
        indices = jnp.asarray(indices)
        if indices.shape != (len(points), fit.candidates):
            raise ValueError(
                f"project_with_status: indices must have shape ({len(points)}, {fit.candidates}), got "
                f"{indices.shape}."
            )
    found = _fitted(fit, points, indices)
    rest = jax.tree.map(lambda x: x.reshape(batch), found._replace(points=found.status))
    return rest._replace(points=found.points.reshape(shape))


def _project(fit: LocalFit, points: Any) -> Array:
    shape = jnp.shape(points)
    points, _ = query_rows("project", points, fit.features)
    found = _fitted(fit, points, None)
    return jnp.where((found.status == OK)[:, None], found.points, jnp.nan).reshape(shape)


@jax.jit
def _fitted(fit: LocalFit, points: Float[Array, "q f"], indices: Int[Array, "q c"] | None) -> Projection:
    dtype = jnp.result_type(points, fit.samples)
    samples, points = fit.samples.astype(dtype), points.astype(dtype)
    bandwidth = jnp.asarray(fit.bandwidth, dtype)
    if indices is None:
        indices = neighbour_indices(samples, points, fit.candidates, fit.block_size)

    def block(queries: Array, rows: Array) -> Projection:
        return jax.vmap(lambda r, near: fit.kernel(fit.settings, bandwidth, r, samples[near]))(queries, rows)

    size = block_rows(4 * fit.candidates * samples.shape[1], fit.block_size)
    return map_blocks(block, size, points, indices)
