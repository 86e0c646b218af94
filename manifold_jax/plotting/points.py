"""Pictures of the points themselves: images along the axes, curves and surfaces, principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from manifold_jax.geometry import Geometry, Manifold
from manifold_jax.geometry.manifold import evaluate_points
from manifold_jax.plotting.style import (
    COLOURS,
    LENGTH,
    MAX_POINTS,
    axis_label,
    colours,
    finite,
    label,
    median_bar,
    new_figure,
    panels,
    shown,
    subset,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _render(manifold: Manifold, coordinates: np.ndarray) -> np.ndarray:
    """Flat features ``(n, f)`` at coordinates ``(n, d)``."""
    return evaluate_points(manifold.embedding, coordinates, jnp.result_type(float))


def principal_components(points: np.ndarray, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Scores on the first principal components, and the share of variance of each.

    Args:
        points: ``(n, f)``.
        count: Components wanted; fewer are returned if f or n is smaller.

    Returns:
        Scores ``(n, count)`` and shares ``(count,)``.
    """
    centred = points.astype(float) - points.mean(axis=0)
    small = centred.T @ centred if centred.shape[1] <= len(centred) else centred @ centred.T
    power, vectors = np.linalg.eigh(small)
    order = np.argsort(-power)[: min(count, len(power))]
    power, vectors = np.maximum(power, 0.0), vectors[:, order]
    shares = power[order] / max(power.sum(), np.finfo(float).tiny)
    scores = centred @ vectors if centred.shape[1] <= len(centred) else vectors * np.sqrt(power[order])
    return scores, shares


def plot_pca(manifold: Manifold | Any, geometry: Geometry) -> Figure:
    """The manifold on its first three principal components, coloured by every field.

    Args:
        manifold: The Manifold that was measured, or its points ``(*grid.shape, *features)``.
        geometry: The result.

    Returns:
        The figure.
    """
    chosen = subset(geometry.grid.size)
    if isinstance(manifold, Manifold):
        index = np.unravel_index(chosen, geometry.grid.shape)
        columns = [axis.samples()[i] for axis, i in zip(geometry.grid.axes, index, strict=True)]
        points = _render(manifold, np.stack(columns, axis=-1))
    else:
        points = np.asarray(manifold).reshape(geometry.grid.size, -1)[chosen]
    scores, shares = principal_components(points)
    measures = shown(geometry)
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    title = f"{geometry.name}: principal components of {len(chosen)} points, in {LENGTH}"
    figure = new_figure(4.8 * columns, 3.8 * rows + 0.5, title)
    options = {"projection": "3d"} if scores.shape[1] == 3 else {}
    for axes, measure in zip(panels(figure, len(measures), columns, **options), measures, strict=True):
        values = np.asarray(getattr(geometry, measure).value).ravel()[chosen]
        _scatter(figure, axes, scores, values, geometry, measure)
        _name_components(axes, shares)
    return figure


def _scatter(
    figure: Figure, axes: Any, points: np.ndarray, values: np.ndarray, geometry: Geometry, measure: str
) -> None:
    """Points in two or three dimensions, coloured by a field."""
    norm, cmap = colours(values, geometry, measure)
    keep = finite(values)
    if points.shape[1] == 1:
        points = np.pad(points, ((0, 0), (0, 1)))
    depth = {"depthshade": False} if points.shape[1] == 3 else {}
    drawn = axes.scatter(*points[keep].T, c=values[keep], norm=norm, cmap=cmap, s=8, lw=0, **depth)
    figure.colorbar(drawn, ax=axes, label=label(geometry, measure), extend="both", shrink=0.7, pad=0.12)
    _equal_scales(axes, points)


def _surface(
    figure: Figure, axes: Any, points: np.ndarray, values: np.ndarray, geometry: Geometry, measure: str
) -> None:
    """A whole surface in space, every face coloured by the mean of its corners."""
    from matplotlib.cm import ScalarMappable

    norm, cmap = colours(values, geometry, measure)
    shape, around = geometry.grid.shape, [(0, int(axis.wraps)) for axis in geometry.grid.axes]
    x, y, z = (np.pad(column.reshape(shape), around, mode="wrap") for column in points.T)
    corners = np.pad(values.reshape(shape), around, mode="wrap")
    stacked = np.stack([corners[:-1, :-1], corners[1:, :-1], corners[:-1, 1:], corners[1:, 1:]])
    seen = np.isfinite(stacked)
    faces = np.where(seen, stacked, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    mappable = ScalarMappable(norm, cmap)
    edges = {"edgecolor": (0, 0, 0, 0.15), "lw": 0.3}
    colour = mappable.to_rgba(faces)
    axes.plot_surface(x, y, z, facecolors=colour, rstride=1, cstride=1, shade=False, **edges)
    figure.colorbar(mappable, ax=axes, label=label(geometry, measure), extend="both", shrink=0.7, pad=0.12)
    _equal_scales(axes, points)


def _equal_scales(axes: Any, points: np.ndarray) -> None:
    """The same length per unit in every direction, but no direction drawn thinner than 0.3 of the longest."""
    axes.locator_params(nbins=4)
    axes.tick_params(labelsize=8)
    spans = np.ptp(points, axis=0)
    if points.shape[1] == 3:
        axes.set_box_aspect(np.maximum(spans, 0.3 * spans.max() or 1.0))
    else:
        axes.set_aspect("equal", adjustable="datalim")


def _name_components(axes: Any, shares: np.ndarray) -> None:
    for name, k, share in zip("xyz", range(len(shares)), shares, strict=False):
        getattr(axes, f"set_{name}label")(f"PC {k + 1} ({share:.0%})", fontsize=9)


def plot_samples(manifold: Manifold, geometry: Geometry | None = None, *, columns: int = 8) -> Figure:
    """What the points are: images along each axis, or the curve or surface itself, coloured by curvature.

    Args:
        manifold: The manifold.
        geometry: Its measures, for the colours of a curve or surface.
        columns: Images per axis.

    Returns:
        The figure.
    """
    if len(manifold.feature_shape) in (2, 3):
        return _image_rows(manifold, columns)
    grid = manifold.grid
    coordinates = np.stack(np.meshgrid(*(a.samples() for a in grid.axes), indexing="ij"), axis=-1)
    coordinates = coordinates.reshape(-1, grid.ndim)
    chosen = subset(grid.size, 4 * MAX_POINTS)
    points = _render(manifold, coordinates[chosen])
    direct = points.shape[1] <= 3
    scores, shares = (points, None) if direct else principal_components(points)
    how = "" if direct else f", principal components of R^{points.shape[1]}"
    figure = new_figure(7.0, 5.8, f"{manifold.name}{how}")
    axes = figure.add_subplot(projection="3d" if scores.shape[1] == 3 else None)
    if geometry is None:
        axes.scatter(*scores.T, s=8, color=COLOURS[0])
        _equal_scales(axes, scores)
    else:
        measure = _telling(geometry)
        values = np.asarray(getattr(geometry, measure).value).ravel()[chosen]
        whole = direct and grid.ndim == 2 and points.shape[1] == 3 and len(chosen) == grid.size
        (_surface if whole else _scatter)(figure, axes, scores, values, geometry, measure)
    if shares is not None:
        _name_components(axes, shares)
    else:
        for name in "xyz"[: scores.shape[1]]:
            getattr(axes, f"set_{name}label")(f"{name} [{LENGTH}]")
    return figure


def _telling(geometry: Geometry) -> str:
    """Scalar curvature, or mean curvature where the scalar curvature vanishes."""
    values = np.asarray(geometry.scalar_curvature.value)
    flat = np.nanmax(np.abs(values), initial=0.0) <= 3 * median_bar(geometry, "scalar_curvature")
    return "mean_curvature" if geometry.grid.ndim == 1 or flat else "scalar_curvature"


def _image_rows(manifold: Manifold, columns: int) -> Figure:
    """One row of images along each axis, the other coordinates in the middle of their range."""
    axes = manifold.grid.axes
    middle = np.array([axis.samples()[axis.size // 2] for axis in axes])
    positions = [np.linspace(axis.start, axis.stop, columns, endpoint=not axis.wraps) for axis in axes]
    coordinates = np.tile(middle, (len(axes), columns, 1))
    for k, values in enumerate(positions):
        coordinates[k, :, k] = values
    images = _render(manifold, coordinates.reshape(-1, len(axes)))
    images = images.reshape(len(axes), columns, *manifold.feature_shape)
    figure = new_figure(
        1.35 * columns + 1.4, 1.62 * len(axes) + 0.6, f"{manifold.name}: images along each axis"
    )
    table = figure.subplots(len(axes), columns, squeeze=False)
    brightest = float(images.max()) or 1.0
    for row, axis, values, strip in zip(table, axes, positions, images, strict=True):
        for place, value, image in zip(row, values, strip, strict=True):
            place.imshow(np.squeeze(image), cmap="gray", vmin=0.0, vmax=brightest)
            place.set_xticks([])
            place.set_yticks([])
            place.set_title(f"{value:.4g}", fontsize=9)
        note = "\n(one period\nof the metric)" if axis.periodic and not axis.wrap else ""
        row[0].set_ylabel(axis_label(axis) + note, fontsize=10 if not note else 9)
    return figure
