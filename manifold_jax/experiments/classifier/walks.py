"""Walks from many images at once: along the leaves, across them, straight; their numbers and captions."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax._checks import flat, whole
from manifold_jax._executors import run_traced
from manifold_jax._files import Progress, silent
from manifold_jax._keys import digest_arrays, digest_function, fingerprint
from manifold_jax._partial import PartialResult
from manifold_jax.experiments.classifier.task import Images, outputs
from manifold_jax.experiments.experiment import replace_field
from manifold_jax.information import Path, PathStatus, horizontal_path, leaf_projection
from manifold_jax.information.walker import Step
from manifold_jax.plotting.animation import Moving


class PathOptions(NamedTuple):
    """How to walk; by default as in the paper, whose unit is the standard deviation of the images."""

    step_size: float = 0.1  # length of a step, of the longest one where it adapts
    max_steps: int = 5000
    clip: bool = True  # whether pixels are clamped to [0, 1] after every step, as the paper's code does
    step: Step = "full"  # rule of the step, as for `horizontal_path`
    tolerance: float = 1.0  # distance at which a destination counts as reached
    stationarity: float = 1e-3  # horizontal share of the rest of the way at which a path has ended
    save_every: int = 100  # steps from one saved point to the next
    unit: float = 1.0  # grey levels, from 0 to 1, in one unit of these lengths and of those in tables
    block: int = 25  # walks at once


LEAF = PathOptions(0.03, 500, False, "fixed", tolerance=0.3, stationarity=0.01, save_every=5, block=50)
"""Steps in grey levels that stay near the leaf."""

LEAF_REDUCED = LEAF._replace(step_size=0.05, max_steps=100, stationarity=0.02, save_every=2, block=24)


def change_path(settings: Any, option: str, value: Any) -> Any:
    """Settings with one option changed, that of their path too; None where they have no such option."""
    if "path" in settings._fields and option in PathOptions._fields:
        return settings._replace(path=settings.path._replace(**{option: value}))
    return replace_field(settings, option, value)


class Walks(NamedTuple):
    """Walks of one kind, with an axis of images first."""

    path: Path  # lengths in grey levels
    options: PathOptions
    kind: str = ""
    destinations: Any = None  # where they should end, if anywhere

    @property
    def caption(self) -> str:
        """Their options, for titles."""
        clamp = "clamped" if self.options.clip else "not clamped"
        return f"step {self.options.step_size:g} {self.options.step}, {clamp}"

    @property
    def distances(self) -> Float[Any, "n saved"]:
        """Distance to the destination, or from the source, at every saved point, in ``options.unit``."""
        return self.path.distances / self.options.unit

    @property
    def steps(self) -> Int[np.ndarray, "saved"]:
        """Step of every saved point."""
        saved = np.arange(self.path.points.shape[1])
        return np.minimum(saved * self.options.save_every, self.options.max_steps)

    def record(self) -> dict[str, Any]:
        """Every walk in numbers, for JSON; lengths in ``options.unit``."""
        path, unit = self.path, self.options.unit
        return {
            "options": self.options,
            "step": self.steps,
            "distances": self.distances,
            "confidence": confidence(path.log_probs),
            "label": path.log_probs.argmax(-1),
            "status": [PathStatus(int(status)).name for status in path.status],
            "steps": path.steps,
            "horizontal": path.horizontal,
        } | {name: getattr(path, name) / unit for name in ("length", "drift", "clipped")}


def in_blocks(
    function: Callable[..., Any],
    *arrays: Any,
    block: int,
    progress: Progress = silent,
    checkpoint: pathlib.Path | None = None,
    executor: Any = None,
) -> Any:
    """A traced function on blocks of equal length, the last one filled up; NumPy arrays of all rows.

    With an ``executor`` blocks are computed there. ``checkpoint`` is a folder of finished blocks, from which
    a call goes on that computes the same of the same arrays.
    """
    total = len(arrays[0])
    size = min(whole("in_blocks", "block", block), whole("in_blocks", "the number of rows", total))

    def task(begin: int) -> tuple[Array, ...]:
        chosen = np.minimum(np.arange(begin, begin + size), total - 1)
        return tuple(jnp.asarray(array[chosen]) for array in arrays)

    kept, parts = None, dict[int, list[np.ndarray]]()
    if checkpoint is not None:
        program = digest_function(function, *task(0))
        kept = PartialResult(checkpoint, fingerprint(None, program, digest_arrays(*arrays)))
        parts = kept.load()
        progress(min(len(parts) * size, total), total)
    missing = [begin for begin in range(0, total, size) if begin not in parts]
    result = None if missing else jax.eval_shape(function, *task(0))  # for the structure alone
    for k, result in run_traced("in_blocks", function, map(task, missing), executor) if missing else ():
        begin = missing[k]
        parts[begin] = [np.asarray(leaf)[: total - begin] for leaf in jax.tree.leaves(result)]
        if kept is not None:
            kept.save(begin, parts[begin])
        progress(min(len(parts) * size, total), total)
    if kept is not None:
        kept.remove()
    leaves = map(np.concatenate, zip(*(parts[begin] for begin in range(0, total, size)), strict=True))
    return jax.tree.unflatten(jax.tree.structure(result), leaves)


@partial(jax.jit, static_argnames=("walk", "fixed"))
def _walk_block(
    walk: Any, fixed: tuple[Any, ...], log_prob: Partial, numbers: dict[str, Any], *ends: Array
) -> Path:
    """A walk for every row; numbers may change without compiling anew, pairs of fixed keywords may not."""
    return jax.vmap(partial(walk, log_prob, **numbers, **dict(fixed)))(*ends)


def walk_all(
    walk: Any,
    log_prob: Partial,
    ends: Sequence[Any],
    options: PathOptions,
    progress: Progress = silent,
    checkpoint: pathlib.Path | None = None,
    executor: Any = None,
) -> Path:
    """Make a walk of the package from many images.

    ``walk`` is :func:`horizontal_path`, :func:`leaf_projection` (up to ``stationarity``),
    :func:`vertical_walk` or :func:`label_keeping_walk`; ``ends`` are its arguments after the classifier:
    sources, then destinations or directions, ``(n, ...)`` each; ``checkpoint`` and ``executor`` are those of
    :func:`in_blocks`. Returns NumPy arrays, axis of images first.
    """
    numbers = {"step_size": options.step_size * options.unit}
    fixed = {"step": options.step, "clip": (0.0, 1.0) if options.clip else None}
    has_destination = walk in (horizontal_path, leaf_projection)
    fixed["max_steps" if has_destination else "steps"] = options.max_steps
    if walk is horizontal_path:
        numbers |= {"tolerance": options.tolerance * options.unit, "stationarity": options.stationarity}
    if walk is leaf_projection:
        numbers["tolerance"] = options.stationarity
    else:
        fixed["save_every"] = options.save_every
    walk_block = partial(_walk_block, walk, tuple(fixed.items()), log_prob, numbers)
    how = {"progress": progress, "checkpoint": checkpoint, "executor": executor}
    return in_blocks(walk_block, *ends, block=options.block, **how)


def straighten(log_prob: Partial, path: Path, chords: Images) -> Path:
    """Walks along chords from the same sources, as far as the others moved, with as many saved points."""
    count, saved, *shape = path.points.shape
    wide = (-1, *(1,) * len(shape))
    lengths = norms(chords)
    scale = (moved(path) / np.where(lengths > 0, lengths, 1.0)).reshape(wide)
    share = np.linspace(0, 1, saved, dtype=np.float32).reshape(wide)
    points = path.points[:, :1] + share * (scale * chords).astype(np.float32)[:, None]
    log_probs = outputs(log_prob, points.reshape(-1, *shape)).reshape(count, saved, -1)
    status = np.full_like(path.status, PathStatus.STEPS_USED)
    return path._replace(points=points, log_probs=log_probs, status=status)


def norms(chords: Float[Any, "n *shape"]) -> Float[np.ndarray, "n"]:
    """Euclidean norm of each."""
    return np.linalg.norm(flat(chords), axis=1)


def moved(path: Path) -> Float[np.ndarray, "n"]:
    """Distance from the source to the end."""
    return norms(path.points[:, -1] - path.points[:, 0])


def walked(path: Path) -> Float[np.ndarray, "n"]:
    """Length of the polygon through the saved points."""
    pieces = np.diff(path.points.reshape(*path.points.shape[:2], -1), axis=1)
    return np.linalg.norm(pieces, axis=2).sum(axis=1)


def fisher_rao_lengths(log_probs: Float[Any, "n saved C"]) -> Float[np.ndarray, "n saved"]:
    """Length in G up to every saved point: Euclidean, of the outputs 2 sqrt(p); 0 at the first."""
    steps = 2 * np.diff(np.exp(log_probs / 2), axis=1)
    return np.pad(np.cumsum(np.linalg.norm(steps, axis=2), axis=1), ((0, 0), (1, 0)))


def confidence(log_probs: Float[Any, "*n C"]) -> Float[np.ndarray, "*n"]:
    """Largest probability."""
    return np.exp(np.asarray(log_probs).max(-1))


def animate(title: str, walks: Sequence[Walks], names: Sequence[str], rows: Sequence[str]) -> Moving:
    """The first paths of walks, all with as many saved points; class, probability and distance below each."""
    chosen = [(one, k) for one in walks for k in range(len(rows) // len(walks))]
    captions = []
    for one, k in chosen:
        pairs = zip(name_classes(one.path.log_probs[k], names), one.distances[k], strict=True)
        captions.append([f"{name}\nd = {d:.1f}" for name, d in pairs])
    return Moving(title, np.stack([one.path.points[k] for one, k in chosen]), rows, captions, 1.0)


def name_classes(log_probs: Float[Any, "n C"], names: Sequence[str]) -> list[str]:
    """Predicted classes and their probabilities, the captions of images."""
    return [f"{names[int(log_p.argmax())]}, p = {confidence(log_p):.3f}" for log_p in log_probs]
