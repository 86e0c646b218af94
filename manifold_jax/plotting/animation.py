"""Images that move: paths, walks, traversals and geodesics as GIF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manifold_jax._checks import instance, positive, require
from manifold_jax._files import replacing, user_path
from manifold_jax.plotting.images import image_grid

ACROSS = 4  # moving images in a row


class Moving(NamedTuple):
    """Images that change together.

    Attributes:
        title: What is shown.
        images: ``(k, frames, h, w)`` or ``(k, frames, h, w, c)``, k images beside each other.
        names: What stands above each of the k images.
        captions: What stands below each, frame by frame ``[k][frame]``.
        largest: Value that is white; the largest one by default.
    """

    title: str
    images: np.ndarray
    names: Sequence[str]
    captions: Sequence[Sequence[str]]
    largest: float | None = None


def save_animation(moving: Moving, path: str | Path, *, seconds: float = 0.1) -> Path:
    """Write images that move as an endless GIF.

    Args:
        moving: The images, all with as many frames.
        path: The file, ``.gif``.
        seconds: Time that a frame is shown; the last one ten times as long.

    Returns:
        The path.

    Raises:
        ValueError: The suffix is not ``.gif``, numbers of images, names and captions differ, or the file
            cannot be written.
        ImportError: matplotlib is not installed.

    Example:
        >>> import tempfile
        >>> images = np.linspace(0, 1, 8 * 16).reshape(1, 8, 4, 4)
        >>> moving = mj.plotting.Moving("lighter", images, ["a"], [[f"frame {k}" for k in range(8)]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mj.plotting.save_animation(moving, f"{folder}/lighter.gif").name
        'lighter.gif'
    """
    instance("save_animation", "moving", moving, Moving, "which holds images, names and captions")
    seconds, path = positive("save_animation", "seconds", seconds), user_path(path)
    images = _checked(moving)
    if path.suffix != ".gif":
        raise ValueError(f"save_animation: path must end in .gif, got {path.name!r}.")
    picture = require("PIL.Image", "plots", "An animation").fromarray
    frames = [picture(frame) for frame in _frames(moving, images)]
    times = [round(1000 * seconds)] * (len(frames) - 1) + [round(10_000 * seconds)]
    with replacing(path) as aside:
        first, *rest = frames
        first.save(aside, "gif", save_all=True, append_images=rest, duration=times, loop=0)
    return path


def _checked(moving: Moving) -> np.ndarray:
    """The images as an array."""
    images = np.asarray(moving.images)
    if images.ndim not in (4, 5) or not images.size or images.dtype.kind not in "iuf":
        wanted = "(k, frames, h, w) or (k, frames, h, w, c)"
        raise ValueError(f"save_animation: images must have shape {wanted}, got {images.shape}.")
    k, frames = images.shape[:2]
    counts = [len(moving.names), len(moving.captions), *map(len, moving.captions)]
    if counts != [k, k, *[frames] * k]:
        wanted = f"{k} names, and {k} lists of {frames} captions"
        raise ValueError(f"save_animation: names and captions must be {wanted}, got {counts}.")
    return images


def _frames(moving: Moving, images: np.ndarray) -> Any:
    """Every frame as an array of colours; one figure, whose images and captions change."""
    count = len(images)
    across, largest = min(ACROSS, count), moving.largest or float(images.max()) or 1.0
    rows = -(-count // across)

    def placed(values: Sequence[Any], empty: Any) -> list[list[Any]]:
        filled = [*values, *[empty] * (rows * across - count)]
        return [filled[i * across : (i + 1) * across] for i in range(rows)]

    # The longest captions decide how much room there is.
    longest = [max(captions, key=len) for captions in moving.captions]
    captions = [
        f"{name}\n{caption}" if rows > 1 else caption
        for name, caption in zip(moving.names, longest, strict=True)
    ]
    figure = image_grid(
        moving.title,
        placed([image[0] for image in images], None),
        rows=[""] * rows,
        columns=list(moving.names) if rows == 1 else [""] * across,
        captions=placed(captions, ""),
        size=1.9,
        largest=largest,
    )
    figure.canvas.draw()
    figure.set_layout_engine("none")  # nothing moves but the images
    canvas: Any = figure.canvas
    panels = [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"][:count]
    for frame in range(images.shape[1]):
        for k, axes in enumerate(panels):
            image = np.squeeze(images[k, frame])
            axes.images[0].set_data(image if image.ndim == 2 else np.clip(image / largest, 0, 1))
            caption = moving.captions[k][frame]
            axes.set_xlabel(f"{moving.names[k]}\n{caption}" if rows > 1 else caption, fontsize=8, labelpad=2)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()
