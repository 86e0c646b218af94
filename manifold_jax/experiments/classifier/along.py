"""Walks along the leaves of a classifier from many images at once, and straight lines beside them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax._linalg import HIGHEST, unit
from manifold_jax.experiments.classifier.pairs import in_blocks, outputs
from manifold_jax.experiments.classifier.task import Progress
from manifold_jax.information import Path, PathStatus, horizontal_path
from manifold_jax.information.foliation import project, span
from manifold_jax.information.log_prob import scores

Images = Float[np.ndarray, "n *shape"]

CLASS, CLASS_LINE = "leaf, same class", "line, same class"
RANDOM, RANDOM_LINE = "leaf, random", "line, random"
KEPT = "leaf, random, label kept"

_STILL = 1e-6

_FAR = 1000.0


class Steps(NamedTuple):
    """Length and number of steps, steps between two saved points, horizontal share at which a walk ends."""

    size: float
    most: int
    save_every: int
    stationarity: float


class Way(NamedTuple):
    """Walks of one kind, all from the same sources.

    Attributes:
        points: Saved points ``(n, saved, *shape)``.
        log_probs: At these ``(n, saved, C)``.
        walked: Length of the way up to each ``(n, saved)``.
        drift: Estimate of how far it left the leaf ``(n,)``; NaN where there is none.
        stalled: Whether it could go no further ``(n,)``.
    """

    points: Float[np.ndarray, "n saved *shape"]
    log_probs: Float[np.ndarray, "n saved C"]
    walked: Float[np.ndarray, "n saved"]
    drift: Float[np.ndarray, "n"]
    stalled: np.ndarray

    @property
    def moved(self) -> Float[np.ndarray, "n"]:
        """Distance from the source to the end."""
        return norms(self.points[:, -1] - self.points[:, 0])


def norms(chords: Float[np.ndarray, "n *shape"]) -> Float[np.ndarray, "n"]:
    """Euclidean norm of each."""
    return np.linalg.norm(chords.reshape(len(chords), -1), axis=1)


def fisher_rao_lengths(log_probs: Float[np.ndarray, "n saved C"]) -> Float[np.ndarray, "n saved"]:
    """Length in G up to every saved point: Euclidean, of the outputs 2 sqrt(p); 0 at the first."""
    steps = 2 * np.diff(np.exp(log_probs / 2), axis=1)
    return np.pad(np.cumsum(np.linalg.norm(steps, axis=2), axis=1), ((0, 0), (1, 0)))


@partial(jax.jit, static_argnames=("most", "save_every"))
def _paths(
    log_prob: Partial, sources: Any, targets: Any, size: Any, stationarity: Any, most: int, save_every: int
) -> Path:
    one = partial(
        horizontal_path,
        log_prob,
        step_size=size,
        stationarity=stationarity,
        max_steps=most,
        save_every=save_every,
    )
    return jax.vmap(one)(sources, targets)


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
    s, _ = unit(-jnp.matmul(others, rows, precision=HIGHEST))
    kept, left = unit(u - jnp.minimum(jnp.sum(u * s), 0.0) * s)
    return jnp.where(left > _STILL, kept, 0.0).reshape(x.shape)


@partial(jax.jit, static_argnames=("most", "save_every"))
def _keeping(
    log_prob: Partial, sources: Any, directions: Any, labels: Any, size: Any, most: int, save_every: int
) -> tuple[Array, Array, Array]:
    """Points, log-probabilities and whether the last step had length 0, by Euler's method."""

    def walk(x: Array, w: Array, label: Array) -> tuple[Array, Array, Array]:
        def move(x: Array, last: Array) -> tuple[Array, Array]:
            heading = keeping_direction(log_prob, x, label, w)
            return x + size * heading, jnp.all(heading == 0)

        def save(state: tuple[Array, Array], slot: Array) -> tuple[tuple[Array, Array], Array]:
            count = jnp.minimum(save_every, most - slot * save_every)
            state = jax.lax.fori_loop(0, count, lambda _, state: move(*state), state)
            return state, state[0]

        (_, stalled), points = jax.lax.scan(save, (x, jnp.asarray(False)), jnp.arange(-(-most // save_every)))
        points = jnp.concatenate([x[None], points])
        return points, jax.lax.map(log_prob, points), stalled

    return jax.vmap(walk)(sources, directions, labels)


def straight(log_prob: Partial, sources: Images, chords: Images, saved: int) -> Way:
    """Points on straight lines.

    Args:
        log_prob: One image to ``(C,)`` log-probabilities.
        sources: Where lines begin.
        chords: From there to their ends.
        saved: Points on each line.

    Returns:
        The walks.
    """
    at = np.linspace(0, 1, saved, dtype=np.float32).reshape(saved, *(1,) * (sources.ndim - 1))
    points = sources[:, None] + at * chords[:, None]
    log_p = outputs(log_prob, points.reshape(-1, *sources.shape[1:])).reshape(*points.shape[:2], -1)
    none = np.full(len(sources), np.nan)
    return Way(points, log_p, norms(chords)[:, None] * at.ravel(), none, np.zeros(len(sources), bool))


def _as_way(*parts: np.ndarray) -> Way:
    """From points, log-probabilities, whether stalled, and drift."""
    points, log_probs, stalled, drift = parts
    pieces = np.linalg.norm(np.diff(points.reshape(*points.shape[:2], -1), axis=1), axis=2)
    return Way(points, log_probs, np.pad(np.cumsum(pieces, axis=1), ((0, 0), (1, 0))), drift, stalled)


def walks(
    log_prob: Partial,
    sources: Images,
    labels: Int[np.ndarray, "n"],
    destinations: Images,
    directions: Images,
    steps: Steps,
    *,
    block: int,
    progress: Progress | None = None,
) -> dict[str, Way]:
    """Horizontal walks to destinations and along directions, and straight ones that move as far.

    A fixed direction w is a destination far away, x + 1000 w / |w|: the walk goes along the part of w in D_x.

    Args:
        log_prob: One image to ``(C,)`` log-probabilities.
        sources: Where all begin.
        labels: Classes to keep, where walks are to keep one.
        destinations: Others of the same classes.
        directions: Of any length.
        steps: Of the horizontal walks.
        block: Walks at once.
        progress: Called with horizontal walks done and all of them.

    Returns:
        Kind to walks.
    """
    wide = (-1, *(1,) * (sources.ndim - 1))
    count = len(sources)
    units = directions / norms(directions).reshape(wide)
    targets = np.concatenate([destinations, sources + np.float32(_FAR) * units])

    def one(a: Any, b: Any) -> Path:
        return _paths(log_prob, a, b, steps.size, steps.stationarity, steps.most, steps.save_every)

    def another(a: Any, b: Any, label: Any) -> tuple[Array, Array, Array]:
        return _keeping(log_prob, a, b, label, steps.size, steps.most, steps.save_every)

    def report(before: int) -> Progress:
        return lambda done, _: None if progress is None else progress(before + done, 3 * count)

    both = np.concatenate([sources, sources])
    found = in_blocks(one, both, targets, block=block, progress=report(0))
    kept = in_blocks(
        another, sources, units, labels.astype(np.int32), block=block, progress=report(2 * count)
    )
    stalled = found.status == PathStatus.STALLED
    first, second = (
        _as_way(*(np.asarray(a[part]) for a in (found.points, found.log_probs, stalled, found.drift)))
        for part in (slice(count), slice(count, None))
    )

    def line(way: Way, chords: Images) -> Way:
        length = norms(chords)
        scale = (way.moved / np.where(length > 0, length, 1.0)).reshape(wide)
        return straight(log_prob, sources, (scale * chords).astype(np.float32), way.points.shape[1])

    return {
        CLASS: first,
        CLASS_LINE: line(first, destinations - sources),
        RANDOM: second,
        RANDOM_LINE: line(second, units),
        KEPT: _as_way(kept[0], kept[1], kept[2], np.full(count, np.nan)),
    }
