"""One compiled loop that follows a direction field of a classifier's foliation; the engine of all paths."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from manifold_jax._checks import is_traced
from manifold_jax._linalg import norm, unit
from manifold_jax._programs import frozen
from manifold_jax._sharding import of_one_point
from manifold_jax.information.foliation import keep_label, project, reject, span
from manifold_jax.information.log_prob import LogProb, scores
from manifold_jax.information.precision import rank_tolerances
from manifold_jax.information.show import path_html

FieldName = Literal["horizontal", "vertical", "label-keeping"]
Step = Literal["fixed", "full", "decreasing", "controlled"]
STEPS = ("fixed", "full", "decreasing", "controlled")

_SMALLEST = 2.0**-10
"""Shortest step of the error control, a share of the longest: below it a step is accepted as it is."""

_DECAY = 100  # steps after which a decreasing step has half of its length

_SAFETY, _LEAST, _MOST = 0.9, 0.2, 2.0
"""Safety factor and bounds of the change of a step's length (Hairer, Norsett & Wanner, section II.4)."""

_STATIC = {"static": True}


class PathStatus(enum.IntEnum):
    """Why a path ended.

    Attributes:
        STEPS_USED: All steps were made (the normal end of a walk).
        CONVERGED: The destination is within the tolerance.
        STALLED: The wanted direction has no part in the field that is followed, or the clip undoes the step.
        NOT_FINITE: The network returned NaN or infinite values.
    """

    STEPS_USED = 0
    CONVERGED = 1
    STALLED = 2
    NOT_FINITE = 3


class Path(NamedTuple):
    """A horizontal path, a vertical or label-keeping walk, or a leaf projection.

    Arrays of paths (under ``jax.vmap``) have the axes of the batch first, ``point`` and ``distance`` too.

    Attributes:
        points: Every ``save_every``-th point ``(saved, *shape)``, the source first; after the end the last is
            repeated. A leaf projection keeps its two ends.
        distances: Distance of each to the destination, of a walk to the source ``(saved,)``.
        steps: Steps tried.
        converged: Whether the destination came within the tolerance; of a leaf projection, whether its chord
            is vertical, to the tolerance, or vanishes.
        status: The reason why it ended, a :class:`PathStatus`.
        log_probs: Log-probabilities at the saved points ``(saved, C)``.
        horizontal: |P(w)| / |w| at the end, w the rest of the chord to the destination, or the direction of a
            walk; 0 where a path cannot come nearer.
        length: Length of the path.
        drift: Summed estimates of how far each step left the field (off the leaf, or along the leaves for a
            vertical walk), to be compared with ``length``; what later steps make of it is not included.
        clipped: Summed length that the clip undid; 0 without a clip.
        clip: Whether values were clipped after every step, which leaves the leaf.
        rejected: Steps that the error control rejected.
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

    def _repr_html_(self) -> str | None:
        """A table for notebooks; None of traced paths, which are shown as text."""
        return None if is_traced(self) else path_html(self)

    @property
    def point(self) -> Float[Array, "*shape"]:
        """The last point; of a leaf projection, the projection."""
        return jnp.take(self.points, -1, axis=self.distances.ndim - 1)

    @property
    def distance(self) -> Float[Array, ""]:
        """Distance of the last point; of a leaf projection, the leaf distance."""
        return self.distances[..., -1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Options:
    """A field and how to follow it, as described at :func:`horizontal_path`.

    What is static is fixed when the loop is compiled; numbers may change without compiling again.
    """

    field: FieldName = dataclasses.field(metadata=_STATIC)
    step: Step = dataclasses.field(metadata=_STATIC)
    max_steps: int = dataclasses.field(metadata=_STATIC)
    save_every: int = dataclasses.field(metadata=_STATIC)
    step_size: Any
    error_tolerance: Any
    clip: tuple[Any, Any] | None
    rtol: Any
    tolerance: Any = 0.0
    stationarity: Any = 0.0
    label: Any = 0


class _View(NamedTuple):
    """What is known at a point, all flat; ``component`` is the length of the part that can be followed."""

    log_p: Float[Array, "C"]
    basis: Float[Array, "C n"]
    heading: Float[Array, "n"]
    component: Array
    distance: Array


class _Walk(NamedTuple):
    """Where a walk is and its totals so far, as in :class:`Path`; ``steps`` is -1 before the first look."""

    x: Float[Array, "n"]
    view: _View
    step_length: Array
    steps: Array
    rejected: Array
    length: Array
    drift: Array
    clipped: Array
    status: Array


class _Field(NamedTuple):
    """The part of a target that is followed: of the chord to a destination, or of a fixed direction."""

    log_prob: LogProb
    options: Options
    source: Array
    goal: Array

    @property
    def is_horizontal(self) -> bool:
        """Whether there is a destination."""
        return self.options.field == "horizontal"

    def target(self, x: Array) -> Array:
        """The vector to follow as far as the field allows."""
        return self.goal - x if self.is_horizontal else self.goal

    def look(self, x: Array) -> _View:
        """All that is known at a point."""
        log_p, rows = scores(self.log_prob, x)
        basis = span(rows, self.options.rtol)
        target = self.target(x)
        if self.is_horizontal:
            return _View(log_p, basis, *unit(project(basis, target)), norm(target))
        if self.options.field == "vertical":
            part = reject(basis, target)
        else:
            part = keep_label(log_p, rows, basis, self.options.label, target)
        return _View(log_p, basis, *unit(part), norm(x - self.source))

    def off(self, basis: Array, chord: Array) -> Array:
        """The part of a chord that leaves the field."""
        return project(basis, chord) if self.options.field == "vertical" else reject(basis, chord)

    def next_length(self, walk: _Walk) -> Array:
        """Length of the next step: a horizontal one never passes the nearest point of the plane D_x.

        There the direction reverses, so that the error control, which looks ahead, goes half of the way.
        A full step is never shortened.
        """
        component, step = walk.view.component, self.options.step
        if self.is_horizontal and step != "full":
            return jnp.minimum(walk.step_length, component / 2 if step == "controlled" else component)
        return jnp.where(component > 0, walk.step_length, 0.0)


def _propose(field: _Field, walk: _Walk) -> tuple[Array, Array, Array]:
    """Move, whether it is accepted, and the length of the next step (the embedded pair Euler-Heun).

    The local error of Euler's method is estimated by its distance to Heun's, |h (u(x + h u) - u(x)) / 2|
    (Hairer, Norsett & Wanner, Solving ordinary differential equations I, section II.4).
    """
    options, h, heading = field.options, field.next_length(walk), walk.view.heading
    move = h * heading
    if options.step == "decreasing":
        # A divergent sum goes everywhere; the sum of squares, which bounds the drift, converges.
        decay = 1 + (walk.steps + 1).astype(h.dtype) / _DECAY
        return move, jnp.asarray(True), options.step_size / decay
    if options.step in ("fixed", "full"):
        return move, jnp.asarray(True), walk.step_length
    ahead = field.look(walk.x + move).heading
    error = norm(ahead - heading) * h / 2
    smallest = _SMALLEST * options.step_size
    accepted = (error <= options.error_tolerance) | (h <= smallest) | jnp.isnan(error)
    ratio = options.error_tolerance / jnp.where(error > 0, error, 1.0)
    factor = jnp.where(error > 0, jnp.clip(_SAFETY * jnp.sqrt(ratio), _LEAST, _MOST), _MOST)
    shortened = accepted & (h < walk.step_length)
    length = jnp.where(shortened, walk.step_length, jnp.maximum(h * factor, smallest))
    move = jnp.where(accepted, h / 2 * (heading + ahead), 0.0)
    return move, accepted, jnp.minimum(length, options.step_size)


def _advance(field: _Field, walk: _Walk) -> _Walk:
    """Move along the known heading, then look around at the new place.

    The departure from the leaf in a step with chord c is estimated by |V(c) + V'(c)| / 2, V and V' the
    projections off the leaf at both ends: for two points on one leaf it is O(|c|^3), and for Euler's step it
    is the vertical part of the local error.
    """
    options = field.options
    move, accepted, step_length = _propose(field, walk)
    wanted = walk.x + move
    x = wanted if options.clip is None else jnp.clip(wanted, *options.clip)
    chord = x - walk.x
    view = field.look(x)
    begun = walk.steps >= 0
    off = norm(field.off(walk.view.basis, chord) + field.off(view.basis, chord)) / 2
    blocked = begun & accepted & (norm(chord) == 0)
    lost = (view.component <= options.stationarity * norm(field.target(x))) | blocked
    arrived = (view.distance <= options.tolerance) & field.is_horizontal
    finite = jnp.isfinite(view.component) & jnp.isfinite(view.distance) & jnp.isfinite(view.log_p).all()
    status = jnp.where(arrived, PathStatus.CONVERGED, jnp.where(lost, PathStatus.STALLED, 0))
    return _Walk(
        x=x,
        view=view,
        step_length=step_length,
        steps=walk.steps + 1,
        rejected=walk.rejected + ~accepted,
        length=walk.length + norm(chord),
        drift=walk.drift + jnp.where(begun, off, 0.0),
        clipped=walk.clipped + norm(wanted - x),
        status=jnp.where(finite, status, PathStatus.NOT_FINITE).astype(walk.status.dtype),
    )


def _start(field: _Field) -> _Walk:
    """A walk that has not looked around yet: its first step has length 0."""
    view = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(field.look, field.source))
    zero, none = jnp.zeros((), field.source.dtype), jnp.zeros((), int)
    return _Walk(field.source, view, field.options.step_size, none - 1, none, zero, zero, zero, none)


@jax.jit
def _follow(log_prob: Any, source: Array, goal: Array, options: Options) -> Path:
    """Steps in a while loop that ends early, inside a scan over the saved points.

    The saved points are outputs of the scan and not part of the loop's state, which ``vmap`` would copy at
    every step for the members that have ended.
    """
    flat = lambda x: log_prob(x.reshape(source.shape))  # noqa: E731
    start = jnp.ravel(source)
    options = dataclasses.replace(options, rtol=rank_tolerances(options.rtol, flat, start)[0])
    field = _Field(flat, options, start, jnp.ravel(goal))

    def save(walk: _Walk, slot: Int[Array, ""]) -> tuple[_Walk, tuple[Array, Array, Array]]:
        last = jnp.minimum(slot * options.save_every, options.max_steps)

        def unfinished(w: _Walk) -> Bool[Array, ""]:
            return (w.status == PathStatus.STEPS_USED) & (w.steps < last)

        walk = jax.lax.while_loop(unfinished, lambda w: _advance(field, w), walk)
        return walk, (walk.x, walk.view.distance, walk.view.log_p)

    slots = -(-options.max_steps // options.save_every) + 1
    end, (points, distances, log_probs) = jax.lax.scan(save, _start(field), jnp.arange(slots))
    target = field.target(end.x)
    whole = norm(target)
    part = end.view.component if field.is_horizontal else norm(project(end.view.basis, target))
    return Path(
        points=points.reshape(-1, *source.shape),
        distances=distances,
        steps=end.steps,
        converged=end.status == PathStatus.CONVERGED,
        status=end.status,
        log_probs=log_probs,
        horizontal=jnp.where(whole == 0, 0.0, part / jnp.where(whole == 0, 1.0, whole)),
        length=end.length,
        drift=end.drift,
        clipped=end.clipped,
        clip=jnp.asarray(options.clip is not None),
        rejected=end.rejected,
    )


@of_one_point
def follow(log_prob: LogProb, source: Array, goal: Array, options: Options) -> Path:
    """Follow the field from ``source`` towards a destination or along a direction.

    It is compiled once, whatever the weights of the network.
    """
    return _follow(frozen(log_prob, source), source, goal, options)
