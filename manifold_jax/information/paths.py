"""Paths across and along the leaves of a classifier's foliation.

Algorithm 1 of Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022) and what it lacks: a step that adapts,
the drift off the leaf, a reason why it ended. Lengths are Euclidean, in the units of the input.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from manifold_jax.information.log_prob import LogProb, as_input, checked_input, checked_vector
from manifold_jax.information.walker import (
    PathStatus,
    Plan,
    Step,
    Track,
    checked_clip,
    checked_count,
    checked_positive,
    checked_step,
    follow,
    settings_of,
)

_STATIONARY = 1e-3


class HorizontalPath(NamedTuple):
    """A path on (or near) one leaf, from :func:`horizontal_path`.

    Attributes:
        points: Every ``save_every``-th point, from the source on ``(saved, *shape)``; after the end of the
            path the last point is repeated.
        distances: Distance of each to the destination ``(saved,)``.
        steps: Steps tried.
        converged: Whether the destination came within the tolerance.
        status: The reason why it ended, a :class:`PathStatus`.
        log_probs: Log-probabilities at the saved points ``(saved, C)``.
        horizontal: At the end, the horizontal part of the rest of the way, |P(d - x)| / |d - x|; 0 where the
            path cannot come nearer.
        length: Of the path.
        drift: Summed estimates of how far each step left the leaf, to be compared with ``length``. First
            order: what later steps make of an early departure is not in it.
        clipped: Summed length that the clip undid; 0 without a clip.
        clip: Whether values were clipped after every step, which leaves the leaf.
        rejected: Steps tried in vain, by the error control.
    """

    points: Float[Array, "saved *shape"]
    distances: Float[Array, "saved"]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    status: Int[Array, ""]
    log_probs: Float[Array, "saved C"]
    horizontal: Float[Array, ""]
    length: Float[Array, ""]
    drift: Float[Array, ""]
    clipped: Float[Array, ""]
    clip: Bool[Array, ""]
    rejected: Int[Array, ""]


class VerticalWalk(NamedTuple):
    """A path orthogonal to the distribution, from :func:`vertical_walk`.

    Attributes:
        points: Every ``save_every``-th point, from the source on ``(saved, *shape)``.
        distances: Distance of each to the source, the level of the noise ``(saved,)``.
        steps: Steps tried.
        status: The reason why it ended, a :class:`PathStatus`; ``STALLED`` where D_x is everything.
        log_probs: Log-probabilities at the saved points ``(saved, C)``; constant but for the error of steps.
        length: Of the path.
        drift: Summed estimates of the horizontal part of the error of each step.
        clipped: Summed length that the clip undid; 0 without a clip.
        clip: Whether values were clipped after every step.
        rejected: Steps tried in vain, by the error control.
    """

    points: Float[Array, "saved *shape"]
    distances: Float[Array, "saved"]
    steps: Int[Array, ""]
    status: Int[Array, ""]
    log_probs: Float[Array, "saved C"]
    length: Float[Array, ""]
    drift: Float[Array, ""]
    clipped: Float[Array, ""]
    clip: Bool[Array, ""]
    rejected: Int[Array, ""]


def two_points(log_prob: LogProb, first: Any, second: Any, names: tuple[str, str]) -> tuple[Array, Array]:
    """Two inputs of one shape and one dtype."""
    a, b = as_input(first, names[0]), as_input(second, names[1])
    if a.shape != b.shape:
        raise ValueError(f"{names[0]} and {names[1]} must have one shape, got {a.shape} and {b.shape}.")
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return checked_input(log_prob, a.astype(dtype), names[0]), b.astype(dtype)


def share(part: Array, whole: Array) -> Array:
    """Part / whole, 0 where both vanish."""
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)


def common(track: Track, clip: Any) -> dict[str, Array]:
    """What all results have of the end of a walk."""
    end = track.end
    return {
        "steps": end.steps,
        "status": end.status,
        "length": end.length,
        "drift": end.drift,
        "clipped": end.clipped,
        "clip": jnp.asarray(clip is not None),
        "rejected": end.rejected,
    }


def horizontal_path(
    log_prob: LogProb,
    source: Float[Array, "*shape"],
    destination: Float[Array, "*shape"],
    *,
    step_size: float = 0.03,
    max_steps: int = 5000,
    tolerance: float = 0.3,
    clip: tuple[float, float] | None = None,
    save_every: int = 1,
    step: Step = "fixed",
    error_tolerance: float | None = None,
    stationarity: float = _STATIONARY,
    rtol: float | None = None,
) -> HorizontalPath:
    """Follow the leaf of ``source`` towards ``destination``.

    x <- x + h P_x(d - x) / |P_x(d - x)|, P_x the projection on D_x: Algorithm 1 of Grementieri & Fioresi
    (SIAM J. Imaging Sci. 15, 2022), the normalised gradient flow of |x - d|^2 / 2 on the leaf. It ends
    near d or where d - x is vertical; unless it is ``"full"``, a step is never longer than |P_x(d - x)|, so
    that all come nearer to d.

    For a batch of pairs use ``jax.vmap``: one loop, which ends with its last member; those that have ended
    stay where they are. A ``jax.tree_util.Partial(apply, params)`` is compiled once for all parameters.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        source: Where to start, any shape.
        destination: Where to go.
        step_size: h, Euclidean, in units of the input; the largest h where it adapts.
        max_steps: Most steps to try.
        tolerance: Distance at which the destination counts as reached.
        clip: Range (low, high) of the values, restored after every step. Off by default: it leaves the leaf.
        save_every: Steps from one saved point to the next; ``max_steps`` saves only the ends.
        step: ``"fixed"``; ``"full"``, never shortened, as in the paper: it does not stall but goes to and
            fro where it can come no nearer, and slides off the leaf; ``"decreasing"``,
            ``step_size / (1 + k / 100)`` in step k; or ``"controlled"``, Heun's method, the step such that
            the error of Euler's stays below ``error_tolerance``.
        error_tolerance: Error of one step, for ``"controlled"``; by default ``step_size / 30``.
        stationarity: Horizontal share of d - x at which the path counts as stalled.
        rtol: As for :func:`horizontal_basis`.

    Returns:
        The path, with the reason why it ended.

    Raises:
        ValueError: ``log_prob`` does not return log-probabilities, the shapes differ, an input is not
            floating-point, not finite or outside of ``clip``, or an option is out of range.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import horizontal_path
        >>> source, destination = jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])
        >>> path = horizontal_path(jax.nn.log_softmax, source, destination, max_steps=100)
        >>> print(path.status, path.steps, path.points[-1].round(3))
        2 24 [ 0.5 -0.5]
    """
    source, destination = two_points(log_prob, source, destination, ("source", "destination"))
    ends = checked_clip(clip, {"source": source, "destination": destination})
    settings = settings_of(
        source,
        step_size,
        ends,
        tolerance=checked_positive(tolerance, "tolerance"),
        stationarity=checked_positive(stationarity, "stationarity"),
        error_tolerance=error_tolerance,
    )
    steps, every = checked_count(max_steps, "max_steps"), checked_count(save_every, "save_every")
    plan = Plan(True, checked_step(step), steps, every, clip is not None, rtol)
    track = follow(log_prob, source, destination, settings, plan)
    return HorizontalPath(
        points=track.points.reshape(-1, *source.shape),
        distances=track.distances,
        log_probs=track.log_probs,
        converged=track.end.status == PathStatus.CONVERGED,
        horizontal=share(track.end.pull, track.end.distance),
        **common(track, clip),
    )


def _direction_of(direction: Any, x: Array) -> Array:
    """A fixed vector, or a Gaussian one drawn from a key."""
    value = direction if hasattr(direction, "dtype") else jnp.asarray(direction)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or (
        value.dtype == jnp.uint32 and value.shape == (2,)
    ):
        return jax.random.normal(value, x.shape, x.dtype)
    return checked_vector(value, x, "direction (a vector or a key)")


def vertical_walk(
    log_prob: LogProb,
    x: Float[Array, "*shape"],
    direction: Any,
    *,
    step_size: float = 0.03,
    steps: int = 250,
    clip: tuple[float, float] | None = None,
    save_every: int = 1,
    step: Step = "fixed",
    error_tolerance: float | None = None,
    rtol: float | None = None,
) -> VerticalWalk:
    """Walk across the leaves: x <- x + h V_x(w) / |V_x(w)|, V_x the projection orthogonal to D_x.

    p does not change along it but for the error of the steps, so that noise w is added which the classifier
    does not see (Grementieri & Fioresi, SIAM J. Imaging Sci. 15, 2022, section 5).

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: Where to start, any shape.
        direction: w, a vector in the shape of ``x``, or a key of ``jax.random`` from which a Gaussian one is
            drawn, once.
        step_size: h, Euclidean, in units of the input; the largest h where it adapts.
        steps: Steps to make.
        clip: Range (low, high) of the values, restored after every step. Off by default.
        save_every: Steps from one saved point to the next.
        step: ``"fixed"``, ``"full"`` or ``"decreasing"`` (Euler, p constant to first order in h), or
            ``"controlled"`` (Heun).
        error_tolerance: As for :func:`horizontal_path`.
        rtol: As for :func:`horizontal_basis`.

    Returns:
        The walk.

    Raises:
        ValueError: As :func:`horizontal_path`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax import vertical_walk
        >>> walk = vertical_walk(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0]), steps=10)
        >>> print(walk.points[-1].round(2), jnp.exp(walk.log_probs[-1]).round(2))
        [0.21 0.21] [0.5 0.5]
    """
    x = checked_input(log_prob, x)
    w = _direction_of(direction, x)
    ends = checked_clip(clip, {"x": x})
    stationary = 100 * float(jnp.finfo(x.dtype).eps)
    settings = settings_of(x, step_size, ends, stationarity=stationary, error_tolerance=error_tolerance)
    count, every = checked_count(steps, "steps"), checked_count(save_every, "save_every")
    plan = Plan(False, checked_step(step), count, every, clip is not None, rtol)
    track = follow(log_prob, x, w, settings, plan)
    return VerticalWalk(
        points=track.points.reshape(-1, *x.shape),
        distances=track.distances,
        log_probs=track.log_probs,
        **common(track, clip),
    )
