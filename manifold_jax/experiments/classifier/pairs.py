"""Many pairs of images at once: blocks that are compiled once, nearest training images, anchors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float, Int, Num

from manifold_jax.experiments.classifier.task import Progress
from manifold_jax.information import Path, leaf_projection
from manifold_jax.models import Apply, pixels

ANCHORS = {
    "class": "nearest training image of the predicted class",
    "any": "nearest training image",
    "mean": "mean of the predicted class",
}

_COLUMNS = 10_000


class Training(NamedTuple):
    """Training images as the baselines and the anchors use them.

    Attributes:
        images: Pixels in [0, 1] ``(n, *shape)``.
        labels: ``(n,)``.
    """

    images: Float[np.ndarray, "n *shape"]
    labels: Int[np.ndarray, "n"]

    @property
    def flat(self) -> Float[np.ndarray, "n m"]:
        """One row an image."""
        return self.images.reshape(len(self.images), -1)


def in_blocks(function: Callable[..., Any], *pairs: Any, block: int, progress: Progress | None = None) -> Any:
    """Apply a compiled function to blocks of equal length; the last one is filled up by repetition.

    Args:
        function: Arrays ``(block, ...)`` to a pytree of such.
        pairs: Arrays of one length.
        block: Rows at once.
        progress: Called with rows done and all rows.

    Returns:
        The pytree, as NumPy arrays of all rows.

    Raises:
        ValueError: ``block`` is below 1, or there are no rows.
    """
    total = len(pairs[0])
    if block < 1 or total < 1:
        raise ValueError(f"there must be images and a positive block of them, got {total} and {block}.")
    found = []
    for begin in range(0, total, block):
        rows = np.minimum(np.arange(begin, begin + min(block, total)), total - 1)
        result = function(*(jnp.asarray(part[rows]) for part in pairs))
        found.append(jax.tree.map(lambda a: np.asarray(a)[: total - begin], result))  # noqa: B023
        if progress is not None:
            progress(min(begin + block, total), total)
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


@partial(jax.jit, static_argnames="max_steps")
def _projections(
    log_prob: Partial, anchors: Any, images: Any, step_size: Any, tolerance: Any, max_steps: int
) -> Path:
    one = partial(leaf_projection, log_prob, step_size=step_size, tolerance=tolerance, max_steps=max_steps)
    return jax.vmap(one)(anchors, images)


def projections(
    log_prob: Partial,
    anchors: Float[np.ndarray, "n *shape"],
    images: Float[np.ndarray, "n *shape"],
    *,
    step_size: float,
    max_steps: int,
    tolerance: float,
    block: int,
    progress: Progress | None = None,
) -> Path:
    """:func:`leaf_projection` of every image from its anchor.

    Args:
        log_prob: One image to ``(C,)`` log-probabilities.
        anchors: On the leaves.
        images: To project.
        step_size: Of every step.
        max_steps: Most steps.
        tolerance: Horizontal share of the chord at which it counts as vertical.
        block: Pairs at once.
        progress: Called with pairs done and all pairs.

    Returns:
        The projections, all attributes with an axis of pairs.
    """

    def one(a: Any, b: Any) -> Path:
        return _projections(log_prob, a, b, step_size, tolerance, max_steps)

    return in_blocks(one, anchors, images, block=block, progress=progress)


@partial(jax.jit, static_argnames="batch_size")
def _outputs(function: Partial, images: Any, batch_size: int) -> Any:
    return jax.lax.map(lambda image: function(pixels(image)), images, batch_size=batch_size)


def outputs(
    function: Partial, images: Num[np.ndarray, "n *shape"], *, batch_size: int = 250
) -> Float[np.ndarray, "n C"]:
    """A function of one image at many."""
    return np.asarray(_outputs(function, jnp.asarray(images), min(batch_size, len(images))))


def predictions(log_prob: Partial, images: Num[np.ndarray, "n *shape"]) -> Int[np.ndarray, "n"]:
    """The most likely class of every image."""
    return outputs(log_prob, images).argmax(axis=1)


def layer(log_prob: Partial, method: str) -> Partial:
    """The logits or features of the network behind a classifier.

    Args:
        log_prob: ``Partial(apply, params)`` with ``apply`` from :func:`manifold_jax.models.pure`.
        method: ``"logits"`` or ``"features"``.

    Returns:
        One image to these.

    Raises:
        ValueError: The classifier is another function.
    """
    if not isinstance(log_prob, Partial) or not isinstance(log_prob.func, Apply):
        raise ValueError(
            f"the {method} are needed: log_prob must be Partial(apply, params) of pure(network)."
        )
    return Partial(log_prob.func.of(method), *log_prob.args)


def nearest(
    images: Float[np.ndarray, "k *shape"],
    training: Training,
    classes: Int[np.ndarray, "k"] | None = None,
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Nearest training image in Euclidean distance of pixels.

    Args:
        images: To look for.
        training: Where to look.
        classes: Look among this class only.

    Returns:
        Rows of the training images, and distances.

    Raises:
        ValueError: There is no training image of a class.
    """
    rows, flat = images.reshape(len(images), -1), training.flat
    if classes is not None and not np.isin(classes, training.labels).all():
        missing = sorted({int(c) for c in classes} - {int(c) for c in training.labels})
        raise ValueError(f"there is no training image of class {missing[0]}: take more training images.")
    best, least = np.zeros(len(rows), int), np.full(len(rows), np.inf)
    for begin in range(0, len(flat), _COLUMNS):
        part = flat[begin : begin + _COLUMNS]
        squares = np.sum(part**2, axis=1) - 2 * rows @ part.T
        if classes is not None:
            other = classes[:, None] != training.labels[None, begin : begin + _COLUMNS]
            squares = np.where(other, np.inf, squares)
        at = squares.argmin(axis=1)
        value = squares[np.arange(len(rows)), at]
        best, least = np.where(value < least, at + begin, best), np.minimum(value, least)
    return best, np.linalg.norm(rows - flat[best], axis=1)


def anchors_of(
    kind: str,
    images: Float[np.ndarray, "k *shape"],
    predicted: Int[np.ndarray, "k"],
    training: Training,
) -> Float[np.ndarray, "k *shape"]:
    """Where leaf projections start: training images, on the leaf of valid data, or class means.

    Args:
        kind: One of ``ANCHORS``.
        images: To project.
        predicted: Their predicted classes.
        training: What to choose from.

    Returns:
        An anchor for every image.

    Raises:
        ValueError: The kind is unknown, or there is no training image of a class.
    """
    if kind not in ANCHORS:
        raise ValueError(f"an anchor must be one of {', '.join(ANCHORS)}, got {kind!r}.")
    if kind == "mean":
        found = {
            int(c): training.images[training.labels == c].mean(axis=0) for c in np.unique(training.labels)
        }
        if not np.isin(predicted, training.labels).all():
            raise ValueError("there is no training image of a predicted class: take more training images.")
        return np.stack([found[int(c)] for c in predicted])
    return training.images[nearest(images, training, predicted if kind == "class" else None)[0]]


def split(data: Any, validation: int, training: int, seed: int) -> tuple[Training, Training]:
    """Training images drawn at random: some to choose options by, then at most ``training`` others."""
    count = len(data.labels)
    if not 1 <= validation < count or training < 1:
        raise ValueError(
            f"there must be 1 to {count - 1} validation images and at least 1 to fit, got {validation} and "
            f"{training}."
        )
    order = np.random.default_rng(seed).permutation(count)
    parts = order[:validation], order[validation : validation + training]
    chosen, fitted = (Training(np.asarray(pixels(data.images[rows])), data.labels[rows]) for rows in parts)
    return chosen, fitted
