"""Lengths in the metric G, lengths of the outputs, which equal them in the limit, and distances.

All raise a ValueError where :func:`horizontal_path` does, and for fewer than two points.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax._checks import floating, optional, single, whole
from manifold_jax._linalg import block_rows, map_blocks, norm
from manifold_jax._programs import as_function
from manifold_jax.information.log_prob import Input, LogProb, as_input, check_log_prob
from manifold_jax.information.paths import leaf_projection
from manifold_jax.information.precision import promoted
from manifold_jax.information.walker import PathStatus


def _checked_points(
    caller: str, log_prob: LogProb, points: Any, batch_size: int | None
) -> tuple[LogProb, Array, int]:
    """A function and points of a path, checked together, and how many of them to take at once."""
    points = as_input(caller, points, "points")
    if points.ndim < 2 or points.shape[0] < 2:
        raise ValueError(f"{caller}: points must be at least two inputs (k, *shape), got {points.shape}.")
    log_prob = as_function(log_prob)
    check_log_prob(log_prob, points[0])
    optional(whole, caller, "batch_size", batch_size)
    function = promoted(log_prob, points[0])[0]
    return function, single(points), block_rows(points[0].size, batch_size, most=len(points))


def path_length(
    log_prob: LogProb, points: Float[Array, "k *shape"], *, batch_size: int | None = None
) -> Float[Array, ""]:
    """Length of a path in the metric G: the sum of sqrt(dx^T G dx), G at the middle of every piece.

    Second order in the length of the pieces; in the limit it equals :func:`output_length`, because
    x -> 2 sqrt(p(x)) pulls the Euclidean metric back to G.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        points: ``(k, *shape)``, k at least 2; repeated points add nothing.
        batch_size: Pieces at once; by default 16 MiB of inputs.

    Returns:
        A scalar.

    Example:
        >>> t = jnp.linspace(0.0, 1.0, 50)[:, None]
        >>> print(f"{mj.path_length(jax.nn.log_softmax, t * jnp.array([1.0, -1.0])):.3f}")
        0.866
    """
    log_prob, points, batch = _checked_points("path_length", log_prob, points, batch_size)

    def piece(a: Array, b: Array) -> Array:
        log_p, change = jax.jvp(log_prob, ((a + b) / 2,), (b - a,))
        return norm(jnp.exp(log_p / 2) * change)

    return jnp.sum(map_blocks(jax.vmap(piece), batch, points[:-1], points[1:]))


def output_length(
    log_prob: LogProb, points: Float[Array, "k *shape"], *, batch_size: int | None = None
) -> Float[Array, ""]:
    """Euclidean length of the outputs 2 sqrt(p) along a path, on the sphere of radius 2.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        points: ``(k, *shape)``, k at least 2.
        batch_size: Points at once; by default 16 MiB of inputs.

    Returns:
        A scalar, at least :func:`fisher_rao_distance` of the two ends.

    Example:
        >>> t = jnp.linspace(0.0, 1.0, 50)[:, None]
        >>> print(f"{mj.output_length(jax.nn.log_softmax, t * jnp.array([1.0, -1.0])):.3f}")
        0.866
    """
    log_prob, points, batch = _checked_points("output_length", log_prob, points, batch_size)
    outputs = 2 * jnp.exp(map_blocks(jax.vmap(log_prob), batch, points) / 2)
    return jnp.sum(norm(outputs[1:] - outputs[:-1]))


def fisher_rao_distance(
    log_p: Float[Array, "*batch C"], log_q: Float[Array, "*batch C"]
) -> Float[Array, "*batch"]:
    """2 arccos sum_y sqrt(p_y q_y): length of the shortest path between two distributions.

    Rao, Bull. Calcutta Math. Soc. 37 (1945). Computed as 4 arcsin(|sqrt p - sqrt q| / 2), which keeps its
    digits for distributions that are close to each other.

    Args:
        log_p: Log-probabilities ``(..., C)``.
        log_q: Log-probabilities ``(..., C)``.

    Returns:
        ``(...)``, from 0 to pi.

    Example:
        >>> p, q = jnp.array([0.5, 0.5]), jnp.array([0.8, 0.2])
        >>> print(f"{mj.fisher_rao_distance(jnp.log(p), jnp.log(q)):.4f}")
        0.6435
    """
    caller = "fisher_rao_distance"
    p, q = (floating(caller, name, one, 1) for name, one in (("log_p", log_p), ("log_q", log_q)))
    if p.shape[-1] != q.shape[-1]:
        shapes = f"{p.shape} and {q.shape}"
        raise ValueError(f"{caller}: log_p and log_q must be of as many classes, got {shapes}.")
    chord = norm(jnp.exp(p / 2) - jnp.exp(q / 2))
    length = 4 * jnp.arcsin(jnp.minimum(chord / 2, 2**-0.5))
    return jnp.where(jnp.isfinite(chord), length, jnp.nan)


def leaf_distance(log_prob: LogProb, anchor: Input, x: Input, **options: Any) -> Float[Array, ""]:
    """Distance of x to the leaf of an anchor, from :func:`leaf_projection`.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        anchor: A point of the leaf, any shape.
        x: The input.
        options: Options of :func:`leaf_projection`.

    Returns:
        A scalar, NaN where ``max_steps`` were not enough.

    Example:
        >>> print(mj.leaf_distance(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 1.0])).round(3))
        1.414
    """
    path = leaf_projection(log_prob, anchor, x, **options)
    ended = (path.status == PathStatus.CONVERGED) | (path.status == PathStatus.STALLED)
    return jnp.where(ended, path.distance, jnp.nan)
