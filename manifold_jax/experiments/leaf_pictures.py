"""Pictures of rows of images, for the experiments on a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manifold_jax._plot_words import new_figure

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
