"""Nearest point of a leaf, and lengths in the metric G against lengths of the outputs."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._linalg import map_blocks, norm
from manifold_jax.information.log_prob import (
    LogProb,
    as_input,
    check_log_prob,
    checked_batch_size,
)
from manifold_jax.information.paths import common, share, two_points
from manifold_jax.information.walker import (
    PathStatus,
    Plan,
    Step,
    checked_clip,
    checked_count,
    checked_positive,
    checked_step,
    follow,
    settings_of,
)


class LeafProjection(NamedTuple):
    """Where a horizontal path towards an input can come no nearer, from :func:`leaf_projection`.

    Attributes:
        point: On the leaf of the anchor, in the shape of ``x``.
        distance: From ``x`` to ``point``, the leaf distance.
        converged: Whether the chord from ``point`` to ``x`` is vertical, to the tolerance, or vanishes.
        steps: Steps tried.
        status: The reason why it ended, a :class:`PathStatus`.
        log_probs: Log-probabilities at ``point`` ``(C,)``.
        horizontal: Horizontal share of the chord that is left.
        length: Of the path on the leaf.
        drift: Summed estimates of how far each step left the leaf.
        clipped: Summed length that the clip undid.
        clip: Whether values were clipped after every step.
        rejected: Steps tried in vain.
    """

    point: Float[Array, "*shape"]
    distance: Float[Array, ""]
    converged: Bool[Array, ""]
    steps: Int[Array, ""]
    status: Int[Array, ""]
    log_probs: Float[Array, "C"]
    horizontal: Float[Array, ""]
    length: Float[Array, ""]
    drift: Float[Array, ""]
    clipped: Float[Array, ""]
    clip: Bool[Array, ""]
    rejected: Int[Array, ""]


def leaf_projection(
    log_prob: LogProb,
    anchor: Float[Array, "*shape"],
    x: Float[Array, "*shape"],
    *,
    step_size: float = 0.03,
    max_steps: int = 5000,
    tolerance: float = 1e-3,
    clip: tuple[float, float] | None = None,
    step: Step = "fixed",
    error_tolerance: float | None = None,
    rtol: float | None = None,
) -> LeafProjection:
    """Start from an anchor and follow its leaf towards x until the chord is vertical.

    The end is a critical point of the distance to ``x`` on the leaf, found by going downhill from the anchor:
    the nearest point where the leaf is flat, and a local minimum elsewhere.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        anchor: A point of the leaf, any shape.
        x: The input to project.
        step_size: Largest step.
        max_steps: Most steps to try.
        tolerance: Horizontal share of the chord at which it counts as vertical; also the distance, relative
            to that of the anchor, at which ``x`` counts as lying on the leaf.
        clip: As for :func:`horizontal_path`.
        step: As for :func:`horizontal_path`. Steps to and fro across a kink of a ReLU network slide along it
            and off the leaf: ``drift`` says how far.
        error_tolerance: As for :func:`horizontal_path`.
        rtol: As for :func:`horizontal_basis`.

    Returns:
        The projection.

    Raises:
        ValueError: As :func:`horizontal_path`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import leaf_projection
        >>> found = leaf_projection(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0]))
        >>> print(found.point.round(3), found.distance.round(3), found.converged)
        [ 0.5 -0.5] 0.707 True
    """
    anchor, x = two_points(log_prob, anchor, x, ("anchor", "x"))
    ends = checked_clip(clip, {"anchor": anchor, "x": x})
    tolerance = checked_positive(tolerance, "tolerance")
    settings = settings_of(
        anchor,
        step_size,
        ends,
        tolerance=tolerance * norm(jnp.ravel(x - anchor)),
        stationarity=tolerance,
        error_tolerance=error_tolerance,
    )
    count = checked_count(max_steps, "max_steps")
    track = follow(
        log_prob, anchor, x, settings, Plan(True, checked_step(step), count, count, clip is not None, rtol)
    )
    end = track.end
    horizontal = share(end.pull, end.distance)
    arrived = end.status == PathStatus.CONVERGED
    return LeafProjection(
        point=end.x.reshape(anchor.shape),
        distance=end.distance,
        converged=arrived | ((end.status == PathStatus.STALLED) & (horizontal <= tolerance)),
        log_probs=end.log_p,
        horizontal=horizontal,
        **common(track, clip),
    )


def leaf_distance(
    log_prob: LogProb,
    anchor: Float[Array, "*shape"],
    x: Float[Array, "*shape"],
    *,
    step_size: float = 0.03,
    max_steps: int = 5000,
    tolerance: float = 1e-3,
    clip: tuple[float, float] | None = None,
    step: Step = "fixed",
) -> Float[Array, ""]:
    """Distance of x to the leaf of an anchor: that of :func:`leaf_projection`, NaN where that has not ended.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        anchor: A point of the leaf, any shape.
        x: The input.
        step_size: Largest step.
        max_steps: Most steps to try.
        tolerance: As for :func:`leaf_projection`.
        clip: As for :func:`horizontal_path`.
        step: As for :func:`horizontal_path`.

    Returns:
        A scalar, NaN where ``max_steps`` were not enough.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import leaf_distance
        >>> print(leaf_distance(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 1.0])).round(3))
        1.414
    """
    found = leaf_projection(
        log_prob,
        anchor,
        x,
        step_size=step_size,
        max_steps=max_steps,
        tolerance=tolerance,
        clip=clip,
        step=step,
    )
    ended = (found.status == PathStatus.CONVERGED) | (found.status == PathStatus.STALLED)
    return jnp.where(ended, found.distance, jnp.nan)


def _checked_points(log_prob: LogProb, points: Float[Array, "k *shape"]) -> Array:
    points = as_input(points, "points")
    if points.ndim < 1 or points.shape[0] < 2:
        raise ValueError(f"points must hold at least two inputs (k, *shape), got shape {points.shape}.")
    check_log_prob(log_prob, points[0])
    return points


def path_length(
    log_prob: LogProb, points: Float[Array, "k *shape"], *, batch_size: int | None = None
) -> Float[Array, ""]:
    """Length of a path in the metric G: the sum of sqrt(dx^T G dx), G at the middle of every piece.

    Second order in the length of the pieces. x -> 2 sqrt(p(x)) pulls the Euclidean metric back to G, so
    that in the limit it equals :func:`output_length`.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        points: ``(k, *shape)``, k at least 2; repeated points add nothing.
        batch_size: Pieces at once; by default 16 MiB of inputs.

    Returns:
        A scalar.

    Raises:
        ValueError: There are fewer than two points, or as :func:`local_data_factor`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import path_length
        >>> t = jnp.linspace(0.0, 1.0, 50)[:, None]
        >>> print(f"{path_length(jax.nn.log_softmax, t * jnp.array([1.0, -1.0])):.3f}")
        0.866
    """
    points = _checked_points(log_prob, points)

    def piece(a: Array, b: Array) -> Array:
        log_p, change = jax.jvp(log_prob, ((a + b) / 2,), (b - a,))
        return norm(jnp.exp(log_p / 2) * change)

    batch = checked_batch_size(batch_size, len(points) - 1, points[0].size)
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
        A scalar; as the pieces shrink, :func:`path_length`, and at least :func:`fisher_rao_distance` of the
        two ends.

    Raises:
        ValueError: As :func:`path_length`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import output_length
        >>> t = jnp.linspace(0.0, 1.0, 50)[:, None]
        >>> print(f"{output_length(jax.nn.log_softmax, t * jnp.array([1.0, -1.0])):.3f}")
        0.866
    """
    points = _checked_points(log_prob, points)
    batch = checked_batch_size(batch_size, len(points), points[0].size)
    outputs = 2 * jnp.exp(map_blocks(jax.vmap(log_prob), batch, points) / 2)
    return jnp.sum(norm(outputs[1:] - outputs[:-1]))


def fisher_rao_distance(
    log_p: Float[Array, "*batch C"], log_q: Float[Array, "*batch C"]
) -> Float[Array, "*batch"]:
    """2 arccos sum_y sqrt(p_y q_y): the shortest way between two distributions.

    Rao, Bull. Calcutta Math. Soc. 37 (1945). Computed as
    4 arcsin(|sqrt p - sqrt q| / 2), which keeps its digits for distributions that are near.

    Args:
        log_p: Log-probabilities ``(..., C)``.
        log_q: Log-probabilities ``(..., C)``.

    Returns:
        ``(...)``, from 0 to pi.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax import fisher_rao_distance
        >>> p, q = jnp.array([0.5, 0.5]), jnp.array([0.8, 0.2])
        >>> print(f"{fisher_rao_distance(jnp.log(p), jnp.log(q)):.4f}")
        0.6435
    """
    chord = norm(jnp.exp(log_p / 2) - jnp.exp(log_q / 2))
    return 4 * jnp.arcsin(jnp.minimum(chord / 2, 2**-0.5))
