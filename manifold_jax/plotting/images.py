"""Pictures of rows of images, and of what changes along paths."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from manifold_jax.plotting.style import PALETTE, Figure, new_figure, panels

_SIDE = 4  # pixels that an image has at least to each side: two rows of numbers are none
_LETTERS = 10  # of a title, per inch


def is_image(shape: Sequence[int]) -> bool:
    """Whether points of this shape are images: of grey levels, or with 1, 3 or 4 channels last."""
    channels = tuple(shape[2:]) in ((), (1,), (3,), (4,))
    return len(shape) >= 2 and min(shape[:2]) >= _SIDE and channels


def image_grid(
    title: str,
    images: Sequence[Sequence[Any]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
    differences: Collection[int] = (),
    size: float = 1.2,
    largest: float = 1.0,
    figure: Any = None,
) -> Figure:
    """Rows of images (None leaves a place empty) with names of rows and columns, and captions below.

    Columns of ``differences`` are drawn in colours about 0 with one scale, all other images from black to
    white on [0, ``largest``], each ``size`` inches wide. ``figure`` may be a part of a figure to draw in.
    """
    height = size * (1.22 if captions else 1.05)
    width = size * len(columns) + 1.8
    title = "\n".join(textwrap.fill(line, int(_LETTERS * width)) for line in title.splitlines())
    figure = figure or new_figure(width, height * len(images) + 0.9, title)
    table = figure.subplots(len(images), len(columns), squeeze=False)
    steps = [np.abs(row[k]).max() for row in images for k in differences if row[k] is not None]
    steepest = float(max(steps, default=1.0)) or 1.0
    plain, signed = None, None
    for (i, k), axes in np.ndenumerate(table):
        image = None if images[i][k] is None else np.squeeze(images[i][k])
        axes.set(xticks=[], yticks=[])
        axes.set_title(columns[k] if i == 0 else "", fontsize=9)
        axes.set_ylabel(rows[i] if k == 0 else "", fontsize=9)
        axes.set_xlabel(captions[i][k] if captions else "", fontsize=8, labelpad=2)
        if image is None:
            axes.set_frame_on(False)
        elif k in differences:
            value = image if image.ndim == 2 else image.mean(axis=-1)
            signed = axes.imshow(value, cmap="RdBu_r", vmin=-steepest, vmax=steepest)
        elif image.ndim == 2:
            plain = axes.imshow(image, cmap="gray", vmin=0, vmax=largest)
        else:
            axes.imshow(np.clip(image / largest, 0, 1))
    bars = {f"pixel, clipped to [0, {largest:.3g}]": plain, "difference of pixels": signed}
    for label, drawn in bars.items():
        if drawn is not None:
            figure.colorbar(drawn, ax=table, label=label, shrink=0.6, aspect=40, pad=0.01)
    return figure


class Curves(NamedTuple):
    """Curves ``y (curves, k)`` over ``x (k,)`` in one panel, and dashed lines by name and height."""

    title: str
    x: np.ndarray
    y: np.ndarray
    marks: dict[str, float]


def curve_panels(
    title: str, groups: Sequence[Curves], x_label: str, y_label: str, *, columns: int = 3, **limits: Any
) -> Figure:
    """One panel for every group of curves, with their median; ``limits`` are ``xlim`` or ``ylim`` of all."""
    columns = min(columns, len(groups))
    title = textwrap.fill(title, 40 * columns)
    height = 3.2 * -(-len(groups) // columns) + 0.25 * (2 + title.count("\n"))
    figure = new_figure(4.2 * columns, height, title)
    for k, (at, group) in enumerate(zip(panels(figure, len(groups), columns), groups, strict=True)):
        at.plot(group.x, group.y.T, color=PALETTE[0], alpha=max(0.25, 1 / (1 + len(group.y))), lw=0.8)
        at.plot(group.x, np.nanmedian(group.y, axis=0), color="black", lw=2, label="median")
        for (name, level), colour in zip(group.marks.items(), PALETTE[1:], strict=False):
            at.axhline(level, ls="--", color=colour, lw=1, label=name)
        at.set_title(group.title, fontsize=9)
        at.set(xlabel=x_label, ylabel="" if k % columns else y_label, **limits)
        at.legend(fontsize=8)
    return figure
