"""Pictures of the reach: the witnesses side by side, and the field of tangent balls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from manifold_jax.geometry import Manifold, Reach
from manifold_jax.geometry.manifold import evaluate_points
from manifold_jax.plotting.style import COLOURS, LENGTH, finite, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXTRA = 3
"""Pairs drawn beside the deciding one."""


def plot_reach(manifolds: Manifold | Sequence[Manifold], found: Reach) -> Figure:
    """The points that decide the reach: images side by side, or chords on a curve or surface.

    Args:
        manifolds: What was measured, one Manifold or the components of a union.
        found: Its reach.

    Returns:
        The figure: for images, one row per pair (x, y, y - x), the deciding pair first, then the smallest
        tangent balls that a far point stops; else the points coloured by tau(x) with the deciding chord.
        Below, a histogram of tau(x).
    """
    parts = [manifolds] if isinstance(manifolds, Manifold) else list(manifolds)
    fields = [component.pointwise for component in found.components]
    if len(parts[0].feature_shape) == 2:
        return _images(parts, fields, found)
    return _chords(parts, fields, found)


def _point(part: Manifold, u: np.ndarray) -> np.ndarray:
    return np.asarray(part.embedding(jnp.asarray(u, jnp.result_type(float))))


def _title(parts: Sequence[Manifold], found: Reach) -> str:
    names = " and ".join(dict.fromkeys(part.name for part in parts))
    how = {"local": "local (curvature)", "global": "global (two points)", "tie": "local and global tie"}
    return f"{names}: reach {found.value:.4g} ± {found.error:.1g} {LENGTH}, {how[found.case]}"


def _place(part: Manifold, u: np.ndarray) -> str:
    return ", ".join(f"{axis.name} {x:.3g}" for axis, x in zip(part.grid.axes, u, strict=True))


def _other_pairs(parts: Sequence[Manifold], fields: Sequence[np.ndarray], found: Reach) -> list[tuple]:
    """Smallest far pairs ``(radius, (component, u), (component, u))``, spread over the manifold."""
    repeats = any(axis.periodic and not axis.wrap for part in parts for axis in part.grid.axes)
    if repeats:
        return []  # a witness may lie a period away from its grid point
    witnesses = [component.witness for component in found.components]
    starts = np.cumsum([0, *[part.grid.size for part in parts]])
    coordinates = [np.asarray(part.grid.coordinates(jnp.result_type(float))) for part in parts]
    flat = [c.reshape(-1, c.shape[-1]) for c in coordinates]
    rows = []
    for k, (field, witness) in enumerate(zip(fields, witnesses, strict=True)):
        value, target = np.asarray(field).ravel(), np.asarray(witness).ravel()
        far = np.isfinite(value) & (target >= 0) & (target != starts[k] + np.arange(len(value)))
        for index in np.flatnonzero(far)[np.argsort(value[far])][: 50 * _EXTRA]:
            other = int(np.searchsorted(starts, target[index], side="right")) - 1
            rows.append(
                (value[index], (k, flat[k][index]), (other, flat[other][target[index] - starts[other]]))
            )
    rows.sort(key=lambda row: row[0])
    chosen: list[tuple] = []
    for row in rows:
        # The mirror image of a pair, and the pairs one step beside it, tell nothing new.
        apart = [np.abs(row[1][1] - old[end][1]).max() > 1e-9 for old in chosen for end in (1, 2)]
        if all(apart):
            chosen.append(row)
        if len(chosen) == _EXTRA:
            break
    return chosen


def _images(parts: Sequence[Manifold], fields: Sequence[np.ndarray], found: Reach) -> Figure:
    pairs = [(found.value, *found.ends), *_other_pairs(parts, fields, found)]
    rows = len(pairs)
    figure = new_figure(9.5, 2.9 * rows + 2.6, _title(parts, found))
    grid = figure.add_gridspec(rows + 1, 3)
    for row, (radius, *ends) in enumerate(pairs):
        images = [_point(parts[number], u) for number, u in ends]
        difference = images[1] - images[0]
        same = float(np.abs(difference).max()) < 1e-6
        top = max(float(image.max()) for image in images)
        what = "decides" if row == 0 else "a tangent ball"
        for column, (image, (number, u), name) in enumerate(zip(images, ends, "xy", strict=True)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image, cmap="gray", vmin=0, vmax=top)
            axes.set_title(f"{name}: {_place(parts[number], u)}", fontsize=8)
            axes.set_ylabel(f"{what}\nτ(x) = {radius:.3g} {LENGTH}" if column == 0 else "", fontsize=9)
            axes.set(xticks=[], yticks=[])
        axes = figure.add_subplot(grid[row, 2])
        axes.set(xticks=[], yticks=[])
        if same:
            text = "x = y: the curvature at x decides,\nno second point is met"
            axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9)
            continue
        scale = float(np.abs(difference).max())
        drawn = axes.imshow(difference, cmap="RdBu_r", vmin=-scale, vmax=scale)
        chord = float(np.linalg.norm(difference))
        axes.set_title(f"y − x, length {chord:.3g} {LENGTH}", fontsize=8)
        figure.colorbar(drawn, ax=axes, shrink=0.8)
    _histogram(figure.add_subplot(grid[rows, :]), fields, found)
    return figure


def _chords(parts: Sequence[Manifold], fields: Sequence[np.ndarray], found: Reach) -> Figure:
    """Points in two or three dimensions, coloured by tau(x), with the chord that decides."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = new_figure(8.5, 8.0, _title(parts, found))
    grid = figure.add_gridspec(2, 1, height_ratios=[3, 1])
    size = int(np.prod(parts[0].feature_shape))
    flat = size <= 2
    axes: Any = figure.add_subplot(grid[0], **({} if flat else {"projection": "3d"}))
    values = np.concatenate([np.asarray(field).ravel() for field in fields])
    seen = finite(values)
    low, high = np.quantile(values[seen], (0.0, 0.95)) if seen.any() else (0.0, 1.0)
    norm = Normalize(float(low), float(high))
    for part, field in zip(parts, fields, strict=True):
        coordinates = np.asarray(part.grid.coordinates(jnp.result_type(float))).reshape(-1, part.grid.ndim)
        points = evaluate_points(part.embedding, _thin(coordinates), coordinates.dtype)[:, :3]
        colour = _thin(np.asarray(field).ravel())
        axes.scatter(*points.T, c=colour, s=10, norm=norm, cmap="viridis")
    chord = np.stack([_point(parts[number], u).ravel()[:3] for number, u in found.ends])
    axes.plot(*chord.T, "o-", color=COLOURS[0], lw=2, ms=8, label="deciding pair")
    axes.legend(loc="upper right")
    if flat:
        axes.set_aspect("equal", adjustable="datalim")
    else:
        axes.set_box_aspect(
            [np.ptp(limits) for limits in (axes.get_xlim(), axes.get_ylim(), axes.get_zlim())]
        )
        if size > 3:
            axes.set_title("the first three of the ambient coordinates", fontsize=9)
    mappable = ScalarMappable(norm, "viridis")
    figure.colorbar(mappable, ax=axes, label=f"τ(x) in {LENGTH}", extend="max", shrink=0.8)
    _histogram(figure.add_subplot(grid[1]), fields, found)
    return figure


def _thin(values: np.ndarray, largest: int = 4000) -> np.ndarray:
    return values[:: max(1, -(-len(values) // largest))]


def _histogram(axes: Any, fields: Sequence[np.ndarray], found: Reach) -> None:
    values = np.concatenate([np.asarray(field).ravel() for field in fields])
    values = values[np.isfinite(values)]
    top = np.quantile(values, 0.99) if len(values) else 1.0
    top = max(float(top), 1.2 * found.value)
    axes.hist(np.minimum(values, top), bins=40, range=(0, top), color="0.7")
    axes.axvline(found.value, color=COLOURS[0], lw=2, label=f"reach {found.value:.4g}")
    axes.set_xlabel(f"radius of the largest empty tangent ball τ(x), {LENGTH}")
    axes.set_ylabel("points")
    axes.legend()
