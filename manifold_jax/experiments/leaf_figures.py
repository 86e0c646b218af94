"""Pictures of images along paths, and of what changes along them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from manifold_jax._plot_words import new_figure, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:cyan")


class Tile(NamedTuple):
    """One image of a grid.

    Attributes:
        image: ``(h, w)`` or ``(h, w, 3)``, pixels in [0, 1]; others are shown as the nearest end.
        words: What stands above it.
        signed: Whether it is a difference, shown from blue to red around 0.
    """

    image: Any
    words: str = ""
    signed: bool = False


def image_grid(title: str, rows: Sequence[Sequence[Tile]], names: Sequence[str]) -> Figure:
    """Images in rows, each row with a name.

    Args:
        title: Of the figure.
        rows: Tiles, row by row; rows may differ in length.
        names: Of the rows.

    Returns:
        The figure.
    """
    columns = max(len(row) for row in rows)
    lines = max((tile.words.count("\n") + 1 for row in rows for tile in row if tile.words), default=0)
    figure = new_figure(1.25 * columns + 1.0, (1.2 + 0.2 * lines) * len(rows) + 0.6, title)
    axes = panels(figure, len(rows) * columns, columns)
    for k, (row, name) in enumerate(zip(rows, names, strict=True)):
        for j in range(columns):
            at = axes[k * columns + j]
            at.set_xticks([])
            at.set_yticks([])
            if j >= len(row):
                at.set_axis_off()
                continue
            image = np.squeeze(np.asarray(row[j].image))
            if row[j].signed:
                largest = float(np.abs(image).max()) or 1.0
                image = image if image.ndim == 2 else image.mean(-1)
                at.imshow(image, cmap="RdBu_r", vmin=-largest, vmax=largest)
            else:
                at.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1)
            at.set_title(row[j].words, fontsize=8)
            if j == 0:
                at.set_ylabel(name, fontsize=9)
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
    figure = new_figure(4.2 * columns, 3.2 * -(-len(groups) // columns) + 0.5, title)
    for k, (at, group) in enumerate(zip(panels(figure, len(groups), columns), groups, strict=True)):
        at.plot(group.x, group.y.T, color="tab:blue", alpha=max(0.12, 1 / (1 + len(group.y))), lw=0.8)
        at.plot(group.x, np.nanmedian(group.y, axis=0), color="black", lw=2, label="median")
        for (name, height), colour in zip(group.marks.items(), COLOURS, strict=False):
            at.axhline(height, ls="--", color=colour, lw=1, label=name)
        at.set_title(group.title, fontsize=9)
        at.set_xlabel(x_label)
        if k % columns == 0:
            at.set_ylabel(y_label)
        at.legend(fontsize=7)
        at.set(**limits)
    return figure
