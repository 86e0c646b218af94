"""Paths across and along the leaves of a classifier's foliation, and the nearest point of a leaf.

Algorithm 1 of Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022), and what it lacks: a step that adapts,
the drift off the leaf, the reason why a path ended. Lengths are Euclidean, in the units of the input. What
the paths share, options and errors, is described at :func:`horizontal_path`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from manifold_jax._checks import choice, fits_in_memory, interval, is_traced, positive, real, whole
from manifold_jax._linalg import norm
from manifold_jax.information.log_prob import LogProb, as_input, checked_input, checked_label, checked_vector
from manifold_jax.information.walker import STEPS, Options, Path, PathStatus, Step, follow

_VERTICAL = 1e-3  # horizontal share of a chord at which it counts as vertical

_ERROR_SHARE = 1 / 30
"""Error of one step that the error control allows by default, a share of the longest step."""

_LOST_DIGITS = 100  # a vertical part below this many machine epsilons is rounding noise


def _checked_clip(caller: str, clip: Any, points: dict[str, Array]) -> tuple[float, float]:
    """The ends of the clip; points outside of it are refused."""
    low, high = interval(caller, "clip", clip)
    for name, x in points.items():
        if not is_traced(x) and (np.min(x) < low or np.max(x) > high):
            got = f"values from {float(np.min(x)):.3g} to {float(np.max(x)):.3g}"
            wanted, remedy = f"inside clip = ({low:g}, {high:g})", "scale the images or widen the clip"
            raise ValueError(f"{caller}: {name} must lie {wanted}, got {got}: {remedy}.")
    return low, high


def _walk(caller: str, log_prob: LogProb, points: dict[str, Array], goal: Array, options: Options) -> Path:
    """Check the options and follow a field from the first of the points."""
    source = next(iter(points.values()))
    size = positive(caller, "step_size", options.step_size)
    error = size * _ERROR_SHARE if options.error_tolerance is None else options.error_tolerance
    scalars = {
        "step_size": size,
        "error_tolerance": positive(caller, "error_tolerance", error),
        "clip": None if options.clip is None else _checked_clip(caller, options.clip, points),
        "tolerance": options.tolerance,
        "stationarity": options.stationarity,
    }
    choice(caller, "step", options.step, STEPS)
    counts = {name: whole(caller, name, getattr(options, name)) for name in ("max_steps", "save_every")}
    saved = 2 + counts["max_steps"] // counts["save_every"]
    what, remedy = f"{saved} saved points", f"raise save_every={counts['save_every']}"
    fits_in_memory(caller, what, saved * source.size * source.dtype.itemsize, remedy)
    scalars = jax.tree.map(lambda value: jnp.asarray(value, source.dtype), scalars)
    return follow(log_prob, source, goal, replace(options, **scalars, **counts))


def _walk_to(
    caller: str, log_prob: LogProb, ends: dict[str, Any], options: Options, *, relative: bool = False
) -> Path:
    """A horizontal path between two inputs; the tolerance may be relative to their distance."""
    (first, second), (a, b) = ends, (as_input(caller, x, name) for name, x in ends.items())
    if a.shape != b.shape:
        raise ValueError(f"{caller}: {first} and {second} must have one shape, got {a.shape} and {b.shape}.")
    dtype = jnp.promote_types(a.dtype, b.dtype)
    log_prob, a = checked_input(caller, log_prob, a.astype(dtype), name=first, rtol=options.rtol)
    b = b.astype(a.dtype)
    tolerance = positive(caller, "tolerance", options.tolerance, below=1.0 if relative else math.inf)
    stationarity = positive(caller, "stationarity", options.stationarity)
    if relative:
        tolerance = tolerance * norm(jnp.ravel(b - a))
    if options.step == "full":  # full steps never stall
        stationarity = 0.0
    options = replace(options, tolerance=tolerance, stationarity=stationarity)
    return _walk(caller, log_prob, {first: a, second: b}, b, options)


def _walk_along(caller: str, log_prob: LogProb, x: Any, direction: Any, options: Options) -> Path:
    """A walk along a vector in the shape of x, or along a Gaussian one drawn from a key."""
    log_prob, x = checked_input(caller, log_prob, x, rtol=options.rtol)
    whole(caller, "steps", options.max_steps)
    if options.field == "label-keeping":
        classes = jax.eval_shape(log_prob, x).shape[0]
        options = replace(options, label=checked_label(caller, options.label, classes))
    name = "direction (a vector or a key)"
    w = direction if hasattr(direction, "dtype") else real(caller, name, direction)
    legacy_key = w.dtype == jnp.uint32 and w.shape == (2,)
    if legacy_key or jnp.issubdtype(w.dtype, jax.dtypes.prng_key):
        w = jax.random.normal(w, x.shape, x.dtype)
    else:
        w = checked_vector(caller, w, x, name=name)
    options = replace(options, stationarity=_LOST_DIGITS * float(jnp.finfo(x.dtype).eps))
    return _walk(caller, log_prob, {"x": x}, w, options)


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
    stationarity: float = _VERTICAL,
    rtol: float | None = None,
) -> Path:
    """Follow the leaf of ``source`` towards ``destination``.

    x <- x + h P_x(d - x) / |P_x(d - x)|, where P_x projects on D_x, the span of the scores grad_x log p_y at
    x (:func:`horizontal_basis`); the leaf of x is what can be reached from it along D_x. This is Algorithm 1
    of Grementieri & Fioresi, the normalised gradient flow of |x - d|^2 / 2 on the leaf. It ends near d or
    where d - x is vertical. Unless it is ``"full"``, a step is at most |P_x(d - x)| long: all come closer.

    For a batch of pairs use ``jax.vmap``: one loop, which ends with its last path; those that have ended stay
    where they are. A network is compiled once for all its weights.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        source: Where to start, any shape.
        destination: Where to go.
        step_size: h, Euclidean, in units of the input; the largest h where it adapts.
        max_steps: Largest number of steps to try.
        tolerance: Distance at which the destination counts as reached.
        clip: Range (low, high) to which values are clipped after every step; this leaves the leaf.
        save_every: Steps from one saved point to the next; ``max_steps`` saves only the ends.
        step: ``"fixed"``; ``"full"``, never shortened, as in the paper: it does not stall but goes back and
            forth where it can get no closer, and slides off the leaf; ``"decreasing"``,
            ``step_size / (1 + k / 100)`` in step k; or ``"controlled"``, Heun's method, the step such that
            the error of Euler's stays below ``error_tolerance``.
        error_tolerance: Error of one step, for ``"controlled"``; by default ``step_size / 30``.
        stationarity: Horizontal share of d - x at which the path counts as stalled.
        rtol: As for :func:`horizontal_basis`.

    Returns:
        The path, with the reason why it ended.

    Raises:
        ValueError: Not log-probabilities; inputs of different shapes, not floating-point, not finite or
            outside ``clip``; or an option out of range.

    Example:
        >>> source, destination = jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])
        >>> path = mj.horizontal_path(jax.nn.log_softmax, source, destination, max_steps=100)
        >>> print(mj.PathStatus(path.status).name, path.steps, path.point.round(3))
        STALLED 24 [ 0.5 -0.5]
    """
    counts, sizes = (max_steps, save_every), (step_size, error_tolerance, clip, rtol)
    options = Options("horizontal", step, *counts, *sizes, tolerance, stationarity)
    return _walk_to("horizontal_path", log_prob, {"source": source, "destination": destination}, options)


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

    p does not change along it, apart from the error of the steps: it adds noise w that the classifier does
    not see (Grementieri & Fioresi, section 5).

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: Where to start, any shape.
        direction: w, a vector in the shape of ``x``, or a key of ``jax.random`` that draws a Gaussian one.
        step_size: As for :func:`horizontal_path`.
        steps: Number of steps.
        clip: As for :func:`horizontal_path`.
        save_every: As for :func:`horizontal_path`.
        step: As for :func:`horizontal_path`; ``"full"`` is ``"fixed"`` here.
        error_tolerance: As for :func:`horizontal_path`.
        rtol: As for :func:`horizontal_path`.

    Returns:
        The walk.

    Example:
        >>> walk = mj.vertical_walk(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0]), steps=10)
        >>> print(walk.points[-1].round(2), jnp.exp(walk.log_probs[-1]).round(2))
        [0.21 0.21] [0.5 0.5]
    """
    options = Options("vertical", step, steps, save_every, step_size, error_tolerance, clip, rtol)
    return _walk_along("vertical_walk", log_prob, x, direction, options)


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
        step_size: As for :func:`vertical_walk`.
        steps: As for :func:`vertical_walk`.
        clip: As for :func:`vertical_walk`.
        save_every: As for :func:`vertical_walk`.
        step: As for :func:`vertical_walk`.
        error_tolerance: As for :func:`vertical_walk`.
        rtol: As for :func:`vertical_walk`.

    Returns:
        The walk; it has stalled where every horizontal part of the direction lowers the label.

    Example:
        >>> walk = mj.label_keeping_walk(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0]), 0, steps=10)
        >>> print(walk.point.round(2))
        [ 0.21 -0.21]
    """
    sizes = (step_size, error_tolerance, clip, rtol)
    options = Options("label-keeping", step, steps, save_every, *sizes, label=label)
    return _walk_along("label_keeping_walk", log_prob, x, direction, options)


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

    The end is a critical point of the distance to ``x`` on the leaf, downhill from the anchor: the nearest
    point where the leaf is flat, and a local minimum elsewhere.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        anchor: A point of the leaf, any shape.
        x: The input to project.
        step_size: As for :func:`horizontal_path`.
        max_steps: As for :func:`horizontal_path`.
        tolerance: Horizontal share of the chord at which it counts as vertical; also the distance, relative
            to that of the anchor, at which ``x`` counts as lying on the leaf.
        clip: As for :func:`horizontal_path`.
        step: As for :func:`horizontal_path`. Steps back and forth across a kink of a ReLU network slide
            along it and off the leaf: ``drift`` tells how far.
        error_tolerance: As for :func:`horizontal_path`.
        rtol: As for :func:`horizontal_path`.

    Returns:
        The projection with two saved points: ``point`` and ``distance`` are its own, the first is the anchor.

    Example:
        >>> path = mj.leaf_projection(jax.nn.log_softmax, jnp.zeros(2), jnp.array([1.0, 0.0]))
        >>> print(path.point.round(3), path.distance.round(3), path.converged)
        [ 0.5 -0.5] 0.707 True
    """
    counts, sizes = (max_steps, max_steps), (step_size, error_tolerance, clip, rtol)
    options = Options("horizontal", step, *counts, *sizes, tolerance, stationarity=tolerance)
    path = _walk_to("leaf_projection", log_prob, {"anchor": anchor, "x": x}, options, relative=True)
    vertical = (path.status == PathStatus.STALLED) & (path.horizontal <= tolerance)
    return path._replace(converged=path.converged | vertical)
