"""Paths across and along the leaves of a classifier's foliation, and the nearest point of a leaf.

Algorithm 1 of Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022) and what it lacks: a step that adapts,
the drift off the leaf, a reason why it ended. Lengths are Euclidean, in the units of the input.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from manifold_jax._checks import choice, is_traced, positive, whole
from manifold_jax._linalg import norm
from manifold_jax.information.log_prob import LogProb, as_input, check_log_prob, checked_input, checked_vector
from manifold_jax.information.walker import STEPS, FieldName, Path, PathStatus, Plan, Settings, Step, follow

STATIONARY = 1e-3
"""Horizontal share of a chord at which it counts as vertical."""

_ERROR_SHARE = 1 / 30
"""Error of one step that the error control allows, by default, a share of the longest step."""

_LOST_DIGITS = 100
"""A vertical part below this many machine epsilons is rounding noise."""


class PathOptions(NamedTuple):
    """Options that all paths share, as :func:`horizontal_path` describes them."""

    step_size: float
    max_steps: int
    save_every: int
    step: Step
    clip: tuple[float, float] | None
    error_tolerance: float | None
    rtol: float | None


def _ends_of(caller: str, clip: Any, points: dict[str, Array]) -> tuple[float, float]:
    """The ends of the clip, infinite ones without a clip; points that lie outside are refused."""
    if clip is None:
        return -np.inf, np.inf
    if not isinstance(clip, tuple | list) or len(clip) != 2 or not clip[0] < clip[1]:
        raise ValueError(f"{caller}: clip must be None or a pair (low, high) with low < high, got {clip!r}.")
    low, high = float(clip[0]), float(clip[1])
    for name, x in points.items():
        if not is_traced(x) and (np.min(x) < low or np.max(x) > high):
            raise ValueError(
                f"{caller}: {name} must lie inside clip = ({low:g}, {high:g}), got values from "
                f"{float(np.min(x)):.3g} to {float(np.max(x)):.3g}: scale the images or widen the clip."
            )
    return low, high


def _walk(
    caller: str,
    field: FieldName,
    log_prob: LogProb,
    points: dict[str, Array],
    goal: Array,
    options: PathOptions,
    *,
    tolerance: Any = 0.0,
    stationarity: Any = 0.0,
    label: Any = 0,
) -> Path:
    """Check the options and follow a field from the first of the points."""
    source = next(iter(points.values()))
    low, high = _ends_of(caller, options.clip, points)
    size = positive(caller, "step_size", options.step_size)
    error = size * _ERROR_SHARE if options.error_tolerance is None else options.error_tolerance
    positive(caller, "error_tolerance", error)
    scalars = (size, tolerance, stationarity, error, low, high)
    settings = Settings(*(jnp.asarray(value, source.dtype) for value in scalars), label=jnp.asarray(label))
    plan = Plan(
        field,
        choice(caller, "step", options.step, STEPS),
        whole(caller, "max_steps", options.max_steps),
        whole(caller, "save_every", options.save_every),
        options.clip is not None,
        options.rtol,
    )
    return follow(log_prob, source, goal, settings, plan)


def _two_points(
    caller: str, log_prob: LogProb, first: Any, second: Any, names: tuple[str, str]
) -> dict[str, Array]:
    """Two inputs of one shape and one dtype, by name."""
    a, b = as_input(caller, first, names[0]), as_input(caller, second, names[1])
    if a.shape != b.shape:
        raise ValueError(
            f"{caller}: {names[0]} and {names[1]} must have one shape, got {a.shape} and {b.shape}."
        )
    dtype = jnp.promote_types(a.dtype, b.dtype)
    check_log_prob(log_prob, a.astype(dtype))
    return {names[0]: a.astype(dtype), names[1]: b.astype(dtype)}


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
    stationarity: float = STATIONARY,
    rtol: float | None = None,
) -> Path:
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
    caller = "horizontal_path"
    points = _two_points(caller, log_prob, source, destination, ("source", "destination"))
    positive(caller, "stationarity", stationarity)
    options = PathOptions(step_size, max_steps, save_every, step, clip, error_tolerance, rtol)
    return _walk(
        caller,
        "horizontal",
        log_prob,
        points,
        points["destination"],
        options,
        tolerance=positive(caller, "tolerance", tolerance),
        stationarity=0.0 if step == "full" else stationarity,
    )


def _direction_of(caller: str, direction: Any, x: Array) -> Array:
    """A fixed vector, or a Gaussian one drawn from a key."""
    value = direction if hasattr(direction, "dtype") else jnp.asarray(direction)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or (
        value.dtype == jnp.uint32 and value.shape == (2,)
    ):
        return jax.random.normal(value, x.shape, x.dtype)
    return checked_vector(caller, value, x, name="direction (a vector or a key)")


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
) -> Path:
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
    caller = "vertical_walk"
    x = checked_input(caller, log_prob, x, rtol=rtol)
    w = _direction_of(caller, direction, x)
    options = PathOptions(
        step_size, whole(caller, "steps", steps), save_every, step, clip, error_tolerance, rtol
    )
    stationarity = _LOST_DIGITS * float(jnp.finfo(x.dtype).eps)
    return _walk(caller, "vertical", log_prob, {"x": x}, w, options, stationarity=stationarity)


def label_keeping_walk(
    log_prob: LogProb,
    x: Float[Array, "*shape"],
    direction: Any,
    label: Int[Array, ""] | int,
    *,
    step_size: float = 0.03,
    steps: int = 250,
    clip: tuple[float, float] | None = None,
    save_every: int = 1,
    step: Step = "fixed",
    error_tolerance: float | None = None,
    rtol: float | None = None,
) -> Path:
    """Walk along the leaf of x in a direction, without lowering the probability of a label to first order.

    x <- x + h u / |u|, u = :func:`label_keeping_projection` of the direction at x.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: Where to start, any shape.
        direction: As for :func:`vertical_walk`.
        label: The class to keep.
        step_size: h, Euclidean, in units of the input; the largest h where it adapts.
        steps: Steps to make.
        clip: As for :func:`horizontal_path`.
        save_every: Steps from one saved point to the next.
        step: As for :func:`vertical_walk`.
        error_tolerance: As for :func:`horizontal_path`.
        rtol: As for :func:`horizontal_basis`.

    Returns:
        The walk; it has stalled where every horizontal part of the direction lowers the label.

    Raises:
        ValueError: As :func:`horizontal_path`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax.information import label_keeping_walk
        >>> walk = label_keeping_walk(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0]), 0, steps=10)
        >>> print(walk.point.round(2))
        [ 0.21 -0.21]
    """
    caller = "label_keeping_walk"
    x = checked_input(caller, log_prob, x, rtol=rtol)
    w = _direction_of(caller, direction, x)
    steps = whole(caller, "steps", steps)
    options = PathOptions(step_size, steps, save_every, step, clip, error_tolerance, rtol)
    return _walk(caller, "label-keeping", log_prob, {"x": x}, w, options, label=label)


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
) -> Path:
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
    caller = "leaf_projection"
    points = _two_points(caller, log_prob, anchor, x, ("anchor", "x"))
    positive(caller, "tolerance", tolerance)
    options = PathOptions(step_size, max_steps, max_steps, step, clip, error_tolerance, rtol)
    path = _walk(
        caller,
        "horizontal",
        log_prob,
        points,
        points["x"],
        options,
        tolerance=tolerance * norm(jnp.ravel(points["x"] - points["anchor"])),
        stationarity=0.0 if step == "full" else tolerance,
    )
    vertical = (path.status == PathStatus.STALLED) & (path.horizontal <= tolerance)
    return path._replace(converged=path.converged | vertical)


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
    path = leaf_projection(
        log_prob,
        anchor,
        x,
        step_size=step_size,
        max_steps=max_steps,
        tolerance=tolerance,
        clip=clip,
        step=step,
    )
    ended = (path.status == PathStatus.CONVERGED) | (path.status == PathStatus.STALLED)
    return jnp.where(ended, path.distance, jnp.nan)
