"""One compiled loop that follows a horizontal or vertical direction field; the engine of all paths."""

from __future__ import annotations

import enum
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import is_traced
from manifold_jax._linalg import norm, unit
from manifold_jax.information.foliation import project, reject, span
from manifold_jax.information.log_prob import LogProb, scores

Step = Literal["fixed", "full", "decreasing", "controlled"]
STEPS = ("fixed", "full", "decreasing", "controlled")

_SMALLEST = 2.0**-10
_DECAY = 100
_SAFETY, _LEAST, _MOST = 0.9, 0.2, 2.0


class PathStatus(enum.IntEnum):
    """Why a path ended.

    Attributes:
        STEPS_USED: All steps were made (the normal end of a vertical walk).
        CONVERGED: The destination is within the tolerance.
        STALLED: There is nowhere to go: the wanted direction is orthogonal to the distribution (or, for a
            vertical walk, inside of it), or the clip undoes the whole step.
        NOT_FINITE: The network returned NaN or infinite values.
    """

    STEPS_USED = 0
    CONVERGED = 1
    STALLED = 2
    NOT_FINITE = 3


class Plan(NamedTuple):
    """What is fixed when the loop is compiled."""

    horizontal: bool
    step: Step
    max_steps: int
    save_every: int
    clip: bool
    rtol: float | None


class Settings(NamedTuple):
    """What may change without compiling anew: scalars, and the ends of the clip."""

    step_size: Array
    tolerance: Array
    stationarity: Array
    error_tolerance: Array
    low: Array
    high: Array


class Walk(NamedTuple):
    """Where a walk is, with everything known there; features are flat.

    Attributes:
        x: Point ``(n,)``.
        log_p: Log-probabilities there ``(C,)``.
        basis: Of D_x ``(C, n)``.
        heading: Unit vector to follow ``(n,)``.
        pull: Length of the part of the aim that can be followed.
        distance: To the destination, or of a vertical walk to the source.
        size: Length of the next step.
        steps: Steps tried; -1 before the source was looked at.
        rejected: Steps tried in vain.
        length: Of the path so far.
        drift: Summed estimates of how far each step left the leaf.
        clipped: Summed length that the clip undid.
        status: A :class:`PathStatus`.
    """

    x: Array
    log_p: Array
    basis: Array
    heading: Array
    pull: Array
    distance: Array
    size: Array
    steps: Array
    rejected: Array
    length: Array
    drift: Array
    clipped: Array
    status: Array


class Track(NamedTuple):
    """A walk and what was saved along it, every leaf stacked."""

    end: Walk
    points: Float[Array, "saved n"]
    distances: Float[Array, "saved"]
    log_probs: Float[Array, "saved C"]


class _Field(NamedTuple):
    """The direction field: what to aim at (a destination or a direction), and which part of it to follow."""

    log_prob: LogProb
    plan: Plan
    source: Array
    target: Array

    def look(self, x: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Log p, basis, heading, pull and distance at a point."""
        log_p, rows = scores(self.log_prob, x)
        basis = span(rows, self.plan.rtol).basis
        if self.plan.horizontal:
            heading, pull = unit(project(basis, self.target - x))
            return log_p, basis, heading, pull, norm(self.target - x)
        heading, pull = unit(reject(basis, self.target))
        return log_p, basis, heading, pull, norm(x - self.source)

    def aim_length(self, x: Array) -> Array:
        """Length of the whole aim, of which ``pull`` is the part that can be followed."""
        return norm(self.target - x) if self.plan.horizontal else norm(self.target)

    def off(self, basis: Array, chord: Array) -> Array:
        """The part of a chord that leaves the leaf."""
        return reject(basis, chord) if self.plan.horizontal else project(basis, chord)

    def reach(self, walk: Walk) -> Array:
        """Length of the next step: a horizontal one never passes the nearest point of the plane D_x.

        There the direction turns round, so that the error control, which looks ahead, goes half of the way.
        A full step is never shortened.
        """
        if self.plan.horizontal and self.plan.step != "full":
            return jnp.minimum(walk.size, walk.pull / 2 if self.plan.step == "controlled" else walk.pull)
        return jnp.where(walk.pull > 0, walk.size, 0.0)


def _propose(field: _Field, walk: Walk, settings: Settings) -> tuple[Array, Array, Array]:
    """Move, whether it is accepted, and the size of the next step (the embedded pair Euler-Heun).

    The local error of Euler's method is estimated by its distance to Heun's, |h (u(x + h u) - u(x)) / 2|
    (Hairer, Norsett & Wanner, Solving ordinary differential equations I, section II.4).
    """
    h = field.reach(walk)
    move = h * walk.heading
    if field.plan.step == "decreasing":
        # A divergent sum goes everywhere; the sum of squares, which bounds the drift, converges.
        return move, jnp.asarray(True), settings.step_size / (1 + (walk.steps + 1) / _DECAY)
    if field.plan.step in ("fixed", "full"):
        return move, jnp.asarray(True), walk.size
    ahead = field.look(walk.x + move)[2]
    error = norm(ahead - walk.heading) * h / 2
    smallest = _SMALLEST * settings.step_size
    accepted = (error <= settings.error_tolerance) | (h <= smallest) | jnp.isnan(error)
    ratio = settings.error_tolerance / jnp.where(error > 0, error, 1.0)
    factor = jnp.where(error > 0, jnp.clip(_SAFETY * jnp.sqrt(ratio), _LEAST, _MOST), _MOST)
    size = jnp.where(accepted & (h < walk.size), walk.size, jnp.maximum(h * factor, smallest))
    move = jnp.where(accepted, h / 2 * (walk.heading + ahead), 0.0)
    return move, accepted, jnp.minimum(size, settings.step_size)


def _advance(field: _Field, walk: Walk, settings: Settings) -> Walk:
    """Move along the heading found before, then look around at the new place.

    The departure from the leaf in a step with chord c is estimated by |V(c) + V'(c)| / 2, V and V' the
    projections off the leaf at both ends: for two points on one leaf it is O(|c|^3), and for Euler's step it
    is the vertical part of the local error.
    """
    move, accepted, size = _propose(field, walk, settings)
    wanted = walk.x + move
    x = jnp.clip(wanted, settings.low, settings.high) if field.plan.clip else wanted
    chord = x - walk.x
    log_p, basis, heading, pull, distance = field.look(x)
    begun = walk.steps >= 0
    off = norm(field.off(walk.basis, chord) + field.off(basis, chord)) / 2
    blocked = begun & accepted & (norm(chord) == 0)
    restless = field.plan.horizontal and field.plan.step == "full"
    least = 0.0 if restless else settings.stationarity * field.aim_length(x)
    lost = (pull <= least) | blocked
    arrived = (distance <= settings.tolerance) & field.plan.horizontal
    finite = jnp.isfinite(pull) & jnp.isfinite(distance) & jnp.isfinite(log_p).all()
    status = jnp.where(arrived, PathStatus.CONVERGED, jnp.where(lost, PathStatus.STALLED, 0))
    return Walk(
        x=x,
        log_p=log_p,
        basis=basis,
        heading=heading,
        pull=pull,
        distance=distance,
        size=size,
        steps=walk.steps + 1,
        rejected=walk.rejected + ~accepted,
        length=walk.length + norm(chord),
        drift=walk.drift + jnp.where(begun, off, 0.0),
        clipped=walk.clipped + norm(wanted - x),
        status=jnp.where(finite, status, PathStatus.NOT_FINITE).astype(walk.status.dtype),
    )


def _start(log_prob: LogProb, source: Array, settings: Settings) -> Walk:
    """A walk that has not looked around yet: its first step has length 0."""
    log_p = jax.eval_shape(log_prob, source)
    zero, none = jnp.zeros((), source.dtype), jnp.zeros((), int)
    return Walk(
        x=source,
        log_p=jnp.zeros(log_p.shape, log_p.dtype),
        basis=jnp.zeros((log_p.shape[0], source.size), source.dtype),
        heading=jnp.zeros_like(source),
        pull=zero,
        distance=zero + jnp.inf,
        size=settings.step_size,
        steps=none - 1,
        rejected=none,
        length=zero,
        drift=zero,
        clipped=zero,
        status=none,
    )


def _follow(log_prob: Any, source: Array, target: Array, settings: Settings, plan: Plan) -> Track:
    """Steps in a while loop that ends early, inside of a scan over the saved points.

    The saved points are outputs of the scan and not part of the loop's state, which ``vmap`` would copy at
    every step for the members that have ended.
    """
    flat = lambda x: log_prob(x.reshape(source.shape))  # noqa: E731
    begin = _start(flat, jnp.ravel(source), settings)
    field = _Field(flat, plan, begin.x, jnp.ravel(target))

    def save(walk: Walk, slot: Int[Array, ""]) -> tuple[Walk, tuple[Array, Array, Array]]:
        last = jnp.minimum(slot * plan.save_every, plan.max_steps)

        def unfinished(w: Walk) -> Bool[Array, ""]:
            return (w.status == PathStatus.STEPS_USED) & (w.steps < last)

        walk = jax.lax.while_loop(unfinished, lambda w: _advance(field, w, settings), walk)
        return walk, (walk.x, walk.distance, walk.log_p)

    slots = -(-plan.max_steps // plan.save_every) + 1
    end, saved = jax.lax.scan(save, begin, jnp.arange(slots))
    return Track(end, *saved)


_compiled_follow = partial(jax.jit, static_argnames="plan")(_follow)


def follow(log_prob: LogProb, source: Array, target: Array, settings: Settings, plan: Plan) -> Track:
    """Follow the field from ``source``.

    A ``jax.tree_util.Partial`` is compiled once, whatever its parameters. Any other function is traced anew
    at every call: one that reads a model trained in place must not be remembered with its old weights.
    """
    if isinstance(log_prob, jax.tree_util.Partial):
        return _compiled_follow(log_prob, source, target, settings, plan)
    return _follow(log_prob, source, target, settings, plan)


def checked_clip(clip: Any, points: dict[str, Array]) -> tuple[float, float] | None:
    """The ends of the clip; points that lie outside of it are refused."""
    if clip is None:
        return None
    if not isinstance(clip, (tuple, list)) or len(clip) != 2 or not clip[0] < clip[1]:
        raise ValueError(f"clip must be None or a pair (low, high) with low < high, got {clip!r}.")
    low, high = float(clip[0]), float(clip[1])
    for name, x in points.items():
        if not is_traced(x) and (np.min(x) < low or np.max(x) > high):
            raise ValueError(
                f"{name} has values from {float(np.min(x)):.3g} to {float(np.max(x)):.3g}, outside of clip = "
                f"({low:g}, {high:g}): scale the images or widen the clip."
            )
    return low, high


def checked_positive(value: Any, name: str) -> Any:
    """A finite positive number, or a tracer."""
    if is_traced(value):
        return value
    number = np.asarray(value)
    if number.ndim or number.dtype.kind not in "iuf" or not 0 < number < np.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}.")
    return value


def checked_count(value: Any, name: str) -> int:
    """A whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}.")
    return int(value)


def checked_step(step: Any) -> Step:
    """One of the step rules."""
    if step not in STEPS:
        raise ValueError(f"step must be one of {', '.join(map(repr, STEPS))}, got {step!r}.")
    return step


def settings_of(
    x: Array,
    step_size: Any,
    clip: tuple[float, float] | None,
    *,
    tolerance: Any = 0.0,
    stationarity: Any = 0.0,
    error_tolerance: Any = None,
) -> Settings:
    """Scalars in the dtype of x."""
    step_size = checked_positive(step_size, "step_size")
    if error_tolerance is None:
        error_tolerance = step_size / 30
    values = (step_size, tolerance, stationarity, checked_positive(error_tolerance, "error_tolerance"))
    return Settings(*(jnp.asarray(v, x.dtype) for v in (*values, *(clip or (-np.inf, np.inf)))))
