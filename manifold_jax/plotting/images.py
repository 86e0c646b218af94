"""Pictures of rows of images and of what changes along paths, for the experiments on a classifier."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from manifold_jax.plotting.style import new_figure, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe & Ito, 2008, and grey."""


def image_grid(
    title: str,
    images: Sequence[Sequence[Any]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
    differences: Sequence[int] = (),
    size: float = 1.2,
) -> Figure:
    """Rows of images with names of rows and columns.

    Args:
        title: Of the figure.
        images: Rows of images, ``None`` for an empty place; pixels in [0, 1].
        rows: Names of the rows.
        columns: Names of the columns.
        captions: A line above every image.
        differences: Columns of differences, drawn in colours about 0 with one scale.
        size: Inches per image.

    Returns:
        The figure, with colour bars for grey levels and for differences.
    """
    height = size * (1.22 if captions else 1.05)
    figure = new_figure(size * len(columns) + 1.8, height * len(images) + 0.9, title)
    grid = np.atleast_2d(figure.subplots(len(images), len(columns), squeeze=False))
    shown = [np.abs(row[k]).max() for row in images for k in differences if row[k] is not None]
    largest = float(max(shown, default=1.0)) or 1.0
    plain, signed = None, None
    for i, row in enumerate(images):
        for k, image in enumerate(row):
            axes = grid[i, k]
            axes.set_xticks([])
            axes.set_yticks([])
            if i == 0:
                axes.set_title(columns[k], fontsize=9)
            if k == 0:
                axes.set_ylabel(rows[i], fontsize=9)
            if image is None:
                axes.set_frame_on(False)
                continue
            if k in differences:
                value = np.asarray(image) if np.ndim(image) == 2 else np.asarray(image).mean(axis=-1)
                signed = axes.imshow(value, cmap="RdBu_r", vmin=-largest, vmax=largest)
            else:
                drawn = axes.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1)
                plain = drawn if np.ndim(image) == 2 else plain
            if captions and captions[i][k]:
                axes.set_xlabel(captions[i][k], fontsize=7, labelpad=2)
    if plain is not None:
        figure.colorbar(plain, ax=grid, label="pixel, clipped to [0, 1]", shrink=0.6, aspect=40, pad=0.01)
    if signed is not None:
        figure.colorbar(signed, ax=grid, label="difference of pixels", shrink=0.6, aspect=40, pad=0.01)
    return figure


class Curves(NamedTuple):
    """Curves of one panel.

    Attributes:
        title: Of the panel.
        x: ``(k,)``.
        y: ``(curves, k)``: each thin, and their median thick.
        marks: Name to height of dashed lines.
    """

    title: str
    x: np.ndarray
    y: np.ndarray
    marks: dict[str, float]


def curve_panels(
    title: str, groups: Sequence[Curves], x_label: str, y_label: str, *, columns: int = 3, **limits: Any
) -> Figure:
    """One panel for every group of curves, with their median.

    Args:
        title: Of the figure.
        groups: The panels.
        x_label: Below them.
        y_label: Beside them.
        columns: Panels in a row.
        limits: ``ylim`` or ``xlim`` of all.

    Returns:
        The figure.
    """
    columns = min(columns, len(groups))
    title = textwrap.fill(title, 40 * columns)
    height = 3.2 * -(-len(groups) // columns) + 0.25 * (2 + title.count("\n"))
    figure = new_figure(4.2 * columns, height, title)
    for k, (at, group) in enumerate(zip(panels(figure, len(groups), columns), groups, strict=True)):
        at.plot(group.x, group.y.T, color=PALETTE[0], alpha=max(0.25, 1 / (1 + len(group.y))), lw=0.8)
        at.plot(group.x, np.nanmedian(group.y, axis=0), color="black", lw=2, label="median")
        for (name, height), colour in zip(group.marks.items(), PALETTE[1:], strict=False):
            at.axhline(height, ls="--", color=colour, lw=1, label=name)
        at.set_title(group.title, fontsize=9)
        at.set_xlabel(x_label)
        if k % columns == 0:
            at.set_ylabel(y_label)
        at.legend(fontsize=7)
        at.set(**limits)
    return figure
