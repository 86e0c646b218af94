"""Many paths at once, block by block, and the lines of a table that sum them up."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from manifold_jax.experiments.classifier.pairs import in_blocks
from manifold_jax.experiments.classifier.task import Progress
from manifold_jax.information import Path, PathStatus, horizontal_path, vertical_walk
from manifold_jax.information.walker import Step

BLOCK = 25
PIXELS = (0.0, 1.0)


class How(NamedTuple):
    """How to walk; lengths in units of the normalised input of the network, as in the paper.

    Attributes:
        step_size: 0.1 in the paper.
        max_steps: 5000 in the paper.
        clip: Whether pixels are clamped to [0, 1] after every step, as the paper's code does.
        step: ``"full"`` in the paper: every step has the same length.
        tolerance: 1 in the paper.
        saved: Points kept of every path.
    """

    step_size: float = 0.1
    max_steps: int = 5000
    clip: bool = True
    step: Step = "full"
    tolerance: float = 1.0
    saved: int = 50

    @property
    def every(self) -> int:
        """Steps from one saved point to the next."""
        return max(1, self.max_steps // self.saved)

    def words(self) -> str:
        """For titles."""
        clamp = "clamped" if self.clip else "not clamped"
        return f"step {self.step_size:g} {self.step}, {clamp}"


PAPER = How()
STRIP = ("source", "1/6", "1/3", "1/2", "2/3", "5/6", "end", "destination")
"""Columns of an image strip: how much of the steps is made."""


@partial(jax.jit, static_argnames=("how", "std"))
def _horizontal(log_prob: Any, sources: Array, destinations: Array, *, how: How, std: float) -> Path:
    def one(source: Array, destination: Array) -> Path:
        return horizontal_path(
            log_prob,
            source,
            destination,
            step_size=how.step_size * std,
            max_steps=how.max_steps,
            tolerance=how.tolerance * std,
            clip=PIXELS if how.clip else None,
            save_every=how.every,
            step=how.step,
        )

    return jax.vmap(one)(sources, destinations)


@partial(jax.jit, static_argnames=("how", "std"))
def _vertical(log_prob: Any, images: Array, directions: Array, *, how: How, std: float) -> Path:
    def one(image: Array, direction: Array) -> Path:
        return vertical_walk(
            log_prob,
            image,
            direction,
            step_size=how.step_size * std,
            steps=how.max_steps,
            clip=PIXELS if how.clip else None,
            save_every=how.every,
            step=how.step,
        )

    return jax.vmap(one)(images, directions)


def walk(
    log_prob: Any,
    sources: Float[Array, "pairs *shape"],
    destinations: Float[Array, "pairs *shape"],
    how: How,
    std: float,
    progress: Progress | None = None,
) -> Path:
    """Horizontal paths between pairs, 25 at a time.

    Args:
        log_prob: The classifier.
        sources: Pixels in [0, 1].
        destinations: Pixels in [0, 1].
        how: Step, clamp, most steps.
        std: Pixels in one normalised unit.
        progress: Called with pairs done and all pairs.

    Returns:
        NumPy arrays with an axis of pairs first; lengths in pixels.
    """
    block = partial(_horizontal, log_prob, how=how, std=std)
    return in_blocks(block, sources, destinations, block=BLOCK, progress=progress)


def add_noise(
    log_prob: Any,
    images: Float[Array, "k *shape"],
    key: Array,
    how: How,
    std: float,
    progress: Progress | None = None,
) -> Path:
    """Walks across the leaves in one random direction each: noise that the classifier does not see.

    Args:
        log_prob: The classifier.
        images: Pixels in [0, 1].
        key: Of the directions.
        how: Step, clamp, number of steps.
        std: Pixels in one normalised unit.
        progress: Called with images done and all images.

    Returns:
        NumPy arrays with an axis of images first; lengths in pixels.
    """
    directions = jax.random.normal(key, images.shape, images.dtype)
    block = partial(_vertical, log_prob, how=how, std=std)
    return in_blocks(block, images, directions, block=BLOCK, progress=progress)


def confidence(log_probs: Any) -> np.ndarray:
    """Largest probability."""
    return np.exp(np.asarray(log_probs).max(-1))


def summary(path: Path, how: How, std: float) -> dict[str, Any]:
    """The line of a table for one set of paths; lengths in normalised units."""
    start, end = path.distances[:, 0] / std, path.distances[:, -1] / std
    statuses = [PathStatus(int(status)).name.lower() for status in path.status]
    return {
        "step": how.step_size,
        "kind": how.step,
        "clamp": how.clip,
        "pairs": len(end),
        "reached": float(np.mean(path.converged)),
        "distance before": float(np.median(start)),
        "after": float(np.median(end)),
        "ratio": float(np.median(end / start)),
        "best ratio": float(np.min(end / start)),
        "stalled": statuses.count("stalled") / len(statuses),
        "horizontal": float(np.median(path.horizontal)),
        "steps": float(np.median(path.steps)),
        "length": float(np.median(path.length)) / std,
        "drift/length": float(np.median(path.drift / np.maximum(path.length, 1e-12))),
        "confidence min": float(np.median(confidence(path.log_probs).min(1))),
    }


def record(path: Path, how: How, std: float) -> dict[str, Any]:
    """Every path in numbers, for JSON."""
    return {
        "how": how._asdict(),
        "saved every": how.every,
        "distances": path.distances / std,
        "confidence": confidence(path.log_probs),
        "label": path.log_probs.argmax(-1),
        "status": [PathStatus(int(status)).name for status in path.status],
        "steps": path.steps,
        "horizontal": path.horizontal,
        "length": path.length / std,
        "drift": path.drift / std,
        "clipped": path.clipped / std,
    }


def strip(
    path: Path, index: int, destination: Any, names: tuple[str, ...], std: float
) -> tuple[list[Any], list[str]]:
    """Images along one path, and last its destination; label, confidence and distance of each."""
    images, captions = [], []
    for k in np.linspace(0, path.points.shape[1] - 1, len(STRIP) - 1).astype(int):
        log_p = path.log_probs[index, k]
        images.append(path.points[index, k])
        distance = path.distances[index, k] / std
        captions.append(f"{names[int(log_p.argmax())]} {100 * confidence(log_p):.0f} %, d = {distance:.1f}")
    return [*images, destination], [*captions, ""]


def steps_axis(how: How, saved: int) -> np.ndarray:
    """Step of every saved point."""
    return np.minimum(np.arange(saved) * how.every, how.max_steps)
