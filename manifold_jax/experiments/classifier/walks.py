"""Walks from many images at once: along the leaves, across them, and straight ones; what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax._checks import whole
from manifold_jax._files import Progress
from manifold_jax._linalg import matmul, unit
from manifold_jax.experiments.classifier.task import Images, outputs
from manifold_jax.experiments.experiment import replace_field
from manifold_jax.information import (
    HorizontalPath,
    LeafProjection,
    PathStatus,
    VerticalWalk,
    horizontal_path,
    leaf_projection,
    vertical_walk,
)
from manifold_jax.information.foliation import project, span
from manifold_jax.information.log_prob import scores
from manifold_jax.information.walker import Step

PIXELS = (0.0, 1.0)

_STILL = 1e-6
"""Length of what is left of a unit vector at which it counts as 0, far above rounding in float32."""


class PathOptions(NamedTuple):
    """How to walk; by default as in the paper.

    Attributes:
        step_size: Length of a step, of the longest one where it adapts.
        max_steps: Most steps.
        clip: Whether pixels are clamped to [0, 1] after every step, as the paper's code does.
        step: Rule of the step, as for :func:`horizontal_path`.
        tolerance: Distance at which a destination counts as reached.
        stationarity: Horizontal share of the rest of the way at which a path has ended.
        save_every: Steps from one saved point to the next.
        unit: Pixels in one unit of these lengths and of those in tables. The paper's images are normalised:
            its unit is their standard deviation.
        block: Walks at once.
    """

    step_size: float = 0.1
    max_steps: int = 5000
    clip: bool = True
    step: Step = "full"
    tolerance: float = 1.0
    stationarity: float = 1e-3
    save_every: int = 100
    unit: float = 1.0
    block: int = 25

    @property
    def caption(self) -> str:
        """For titles."""
        clamp = "clamped" if self.clip else "not clamped"
        return f"step {self.step_size:g} {self.step}, {clamp}"

    def steps_at(self, saved: int) -> Int[np.ndarray, "saved"]:
        """Step of every saved point."""
        return np.minimum(np.arange(saved) * self.save_every, self.max_steps)


LEAF = PathOptions(
    step_size=0.03,
    max_steps=500,
    clip=False,
    step="fixed",
    tolerance=0.3,
    stationarity=0.01,
    save_every=5,
    block=50,
)
"""Steps in pixels that stay near the leaf."""

LEAF_REDUCED = LEAF._replace(step_size=0.05, max_steps=100, stationarity=0.02, save_every=2, block=24)


def change_path(settings: Any, option: str, value: Any) -> Any:
    """Settings with one option of the command line put in, that of the path too; None where there is none."""
    if option in settings.path._fields:
        return settings._replace(path=settings.path._replace(**{option: value}))
    return replace_field(settings, option, value)


def in_blocks(
    function: Callable[..., Any], *arrays: Any, block: int, progress: Progress | None = None
) -> Any:
    """Apply a compiled function to blocks of equal length; the last one is filled up by repetition.

    Args:
        function: Takes blocks ``(block, ...)`` of every array to a pytree of such.
        arrays: Arrays of one length.
        block: Rows at once.
        progress: Called with rows done and all rows.

    Returns:
        The pytree, as NumPy arrays of all rows.

    Raises:
        ValueError: ``block`` is below 1, or there are no rows.
    """
    total = whole("in_blocks", "the number of rows", len(arrays[0]))
    size = min(whole("in_blocks", "block", block), total)
    parts = []
    for begin in range(0, total, size):
        rows = np.minimum(np.arange(begin, begin + size), total - 1)
        result = function(*(jnp.asarray(array[rows]) for array in arrays))
        parts.append(jax.tree.map(lambda a: np.asarray(a)[: total - begin], result))  # noqa: B023
        if progress is not None:
            progress(min(begin + size, total), total)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


# --- walks -------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("walk", "keywords"))
def _walk(walk: Any, log_prob: Partial, starts: Array, targets: Array, keywords: tuple[Any, ...]) -> Any:
    """A walk from every start; keywords as pairs, which can be hashed."""
    return jax.vmap(partial(walk, log_prob, **dict(keywords)))(starts, targets)


def _walk_all(
    walk: Any, log_prob: Partial, ends: Sequence[Any], options: PathOptions, progress: Any, **keywords: Any
) -> Any:
    """Walk from starts, the first of ``ends``, to (or along) the second, a block at a time."""
    keywords |= {"step_size": options.step_size * options.unit, "step": options.step}
    keywords |= {"clip": PIXELS if options.clip else None}

    def walk_block(starts: Array, targets: Array) -> Any:
        return _walk(walk, log_prob, starts, targets, tuple(keywords.items()))

    return in_blocks(walk_block, *ends, block=options.block, progress=progress)


def horizontal_paths(
    log_prob: Partial,
    sources: Float[Any, "n *shape"],
    destinations: Float[Any, "n *shape"],
    options: PathOptions,
    progress: Progress | None = None,
) -> HorizontalPath:
    """:func:`horizontal_path` of every pair: NumPy arrays with an axis of pairs first, lengths in pixels."""
    keywords = {
        "max_steps": options.max_steps,
        "tolerance": options.tolerance * options.unit,
        "stationarity": options.stationarity,
        "save_every": options.save_every,
    }
    return _walk_all(horizontal_path, log_prob, (sources, destinations), options, progress, **keywords)


def vertical_walks(
    log_prob: Partial,
    images: Float[Any, "n *shape"],
    directions: Float[Any, "n *shape"],
    options: PathOptions,
    progress: Progress | None = None,
) -> VerticalWalk:
    """:func:`vertical_walk` from every image: noise that the classifier does not see."""
    keywords = {"steps": options.max_steps, "save_every": options.save_every}
    return _walk_all(vertical_walk, log_prob, (images, directions), options, progress, **keywords)


def leaf_projections(
    log_prob: Partial,
    anchors: Float[Any, "n *shape"],
    images: Float[Any, "n *shape"],
    options: PathOptions,
    progress: Progress | None = None,
) -> LeafProjection:
    """:func:`leaf_projection` of every image from its anchor, up to ``stationarity``."""
    keywords = {"max_steps": options.max_steps, "tolerance": options.stationarity}
    return _walk_all(leaf_projection, log_prob, (anchors, images), options, progress, **keywords)


class Walks(NamedTuple):
    """Walks of one kind, all from the same sources.

    Attributes:
        points: Saved points ``(n, saved, *shape)``.
        log_probs: Log-probabilities there ``(n, saved, C)``.
        drift: Estimate of how far each walk left its leaf ``(n,)``; NaN where there is none.
        stalled: Whether it could go no further ``(n,)``.
    """

    points: Float[np.ndarray, "n saved *shape"]
    log_probs: Float[np.ndarray, "n saved C"]
    drift: Float[np.ndarray, "n"]
    stalled: np.ndarray

    @property
    def walked(self) -> Float[np.ndarray, "n"]:
        """Length of the polygon through the saved points."""
        flat = self.points.reshape(*self.points.shape[:2], -1)
        return np.linalg.norm(np.diff(flat, axis=1), axis=2).sum(axis=1)

    @property
    def moved(self) -> Float[np.ndarray, "n"]:
        """Distance from the source to the end."""
        return norms(self.points[:, -1] - self.points[:, 0])


def walks_of(paths: HorizontalPath) -> Walks:
    """Horizontal paths as walks."""
    return Walks(paths.points, paths.log_probs, paths.drift, paths.status == PathStatus.STALLED)


def straight_walks(log_prob: Partial, beside: Walks, chords: Images) -> Walks:
    """Walks on straight lines along chords, from the same sources and as far as other walks moved."""
    (count, saved), shape = beside.points.shape[:2], beside.points.shape[2:]
    wide = (-1, *(1,) * len(shape))
    lengths = norms(chords)
    scale = (beside.moved / np.where(lengths > 0, lengths, 1.0)).reshape(wide)
    at = np.linspace(0, 1, saved, dtype=np.float32).reshape(wide)
    points = beside.points[:, :1] + at * (scale * chords).astype(np.float32)[:, None]
    log_probs = outputs(log_prob, points.reshape(-1, *shape)).reshape(count, saved, -1)
    return Walks(points, log_probs, np.full(count, np.nan), np.zeros(count, bool))


# --- walks that keep a label -------------------------------------------------------------------------------


def keeping_direction(
    log_prob: Partial, x: Float[Array, "*shape"], label: Int[Array, ""], w: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The part of w in D_x, less what would lower log p of a label to first order; of length 1.

    u = P_x(w), then u - min(0, <u, s>) s / |s|^2, where s = grad log p_label lies in D_x. Since
    E_y[grad log p_y] = 0, s is along - sum_y p_y grad log p_y over the others, which keeps its digits where
    p saturates.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        x: One input.
        label: The class to keep.
        w: A direction in the shape of ``x``.

    Returns:
        In the shape of ``x``; 0 where no such direction is left.
    """
    log_p, rows = scores(lambda z: log_prob(z.reshape(x.shape)), jnp.ravel(x))
    u, _ = unit(project(span(rows).basis, jnp.ravel(w)))
    others = jax.nn.softmax(jnp.where(jnp.arange(log_p.shape[0]) == label, -jnp.inf, log_p))
    s, _ = unit(-matmul(others, rows))
    kept, left = unit(u - jnp.minimum(jnp.sum(u * s), 0.0) * s)
    return jnp.where(left > _STILL, kept, 0.0).reshape(x.shape)


@partial(jax.jit, static_argnames="options")
def _keep_labels(
    log_prob: Partial, sources: Array, directions: Array, labels: Array, options: PathOptions
) -> tuple[Array, Array, Array]:
    """Points, log-probabilities, and whether the last step had length 0, by Euler's method."""
    every, most = options.save_every, options.max_steps

    def walk(x: Array, w: Array, label: Array) -> tuple[Array, Array, Array]:
        def move(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
            heading = keeping_direction(log_prob, state[0], label, w)
            return state[0] + options.step_size * options.unit * heading, jnp.all(heading == 0)

        def save(state: tuple[Array, Array], slot: Array) -> tuple[tuple[Array, Array], Array]:
            state = jax.lax.fori_loop(0, jnp.minimum(every, most - slot * every), move, state)
            return state, state[0]

        (_, stalled), points = jax.lax.scan(save, (x, jnp.asarray(False)), jnp.arange(-(-most // every)))
        points = jnp.concatenate([x[None], points])
        return points, jax.lax.map(log_prob, points), stalled

    return jax.vmap(walk)(sources, directions, labels)


def label_keeping_walks(
    log_prob: Partial,
    sources: Images,
    directions: Images,
    labels: Int[np.ndarray, "n"],
    options: PathOptions,
    progress: Progress | None = None,
) -> Walks:
    """Walks along :func:`keeping_direction`, in steps of one length."""
    walk_block = partial(_keep_labels, log_prob, options=options)
    ends = (sources, directions, labels.astype(np.int32))
    points, log_probs, stalled = in_blocks(walk_block, *ends, block=options.block, progress=progress)
    return Walks(points, log_probs, np.full(len(sources), np.nan), stalled)


# --- what is said of walks ---------------------------------------------------------------------------------


def norms(chords: Float[np.ndarray, "n *shape"]) -> Float[np.ndarray, "n"]:
    """Euclidean norm of each."""
    return np.linalg.norm(chords.reshape(len(chords), -1), axis=1)


def fisher_rao_lengths(log_probs: Float[np.ndarray, "n saved C"]) -> Float[np.ndarray, "n saved"]:
    """Length in G up to every saved point: Euclidean, of the outputs 2 sqrt(p); 0 at the first."""
    steps = 2 * np.diff(np.exp(log_probs / 2), axis=1)
    return np.pad(np.cumsum(np.linalg.norm(steps, axis=2), axis=1), ((0, 0), (1, 0)))


def confidence(log_probs: Float[Any, "*n C"]) -> Float[np.ndarray, "*n"]:
    """Largest probability."""
    return np.exp(np.asarray(log_probs).max(-1))


def name_class(log_p: Float[np.ndarray, "C"], names: Sequence[str]) -> str:
    """The predicted class and its probability, the caption of an image."""
    return f"{names[int(log_p.argmax())]}, p = {confidence(log_p):.3f}"
