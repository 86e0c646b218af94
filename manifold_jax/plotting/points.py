"""Pictures of the points themselves: images along the axes, curves, surfaces, principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from manifold_jax._checks import require
from manifold_jax.geometry import Geometry, Grid, Manifold
from manifold_jax.geometry.manifold import evaluate_points
from manifold_jax.plotting.images import image_grid
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
    quantity_panels,
    shown,
    subset,
    values_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(manifold: Manifold, coordinates: np.ndarray) -> np.ndarray:
    """Flat features ``(n, f)`` at coordinates ``(n, d)``."""
    return evaluate_points(manifold.embedding, coordinates, jnp.result_type(float))


def grid_coordinates(grid: Grid, index: Any) -> np.ndarray:
    """Coordinates ``(*, d)`` of points of a grid by their flat indices."""
    places = np.unravel_index(index, grid.shape)
    return np.stack([axis.samples()[i] for axis, i in zip(grid.axes, places, strict=True)], axis=-1)


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
        points = render(manifold, grid_coordinates(geometry.grid, chosen))
    else:
        points = np.asarray(manifold).reshape(geometry.grid.size, -1)[chosen]
    scores, shares = principal_components(points)
    title = f"{geometry.name}: principal components of {len(chosen)} points, in {LENGTH}"
    projection = "3d" if scores.shape[1] == 3 else None
    figure, panels = quantity_panels(title, shown(geometry), (4.8, 3.8), projection=projection)
    for axes, quantity in panels:
        values = values_of(geometry, quantity).ravel()[chosen]
        _scatter(figure, axes, scores, values, geometry, quantity)
        _name_components(axes, shares)
    return figure


def _scatter(
    figure: Figure, axes: Any, points: np.ndarray, values: np.ndarray, geometry: Geometry, quantity: str
) -> None:
    """Points in two or three dimensions, coloured by a field."""
    norm, cmap = colours(values, geometry, quantity)
    keep = finite(values)
    if points.shape[1] == 1:
        points = np.pad(points, ((0, 0), (0, 1)))
    depth = {"depthshade": False} if points.shape[1] == 3 else {}
    drawn = axes.scatter(*points[keep].T, c=values[keep], norm=norm, cmap=cmap, s=8, lw=0, **depth)
    figure.colorbar(drawn, ax=axes, label=label(geometry, quantity), extend="both", shrink=0.7, pad=0.12)
    _equal_scales(axes, points)


def _surface(
    figure: Figure, axes: Any, points: np.ndarray, values: np.ndarray, geometry: Geometry, quantity: str
) -> None:
    """A whole surface in space, every face coloured by the mean of its corners."""
    norm, cmap = colours(values, geometry, quantity)
    shape, around = geometry.grid.shape, [(0, int(axis.wraps)) for axis in geometry.grid.axes]
    x, y, z = (np.pad(column.reshape(shape), around, mode="wrap") for column in points.T)
    corners = np.pad(values.reshape(shape), around, mode="wrap")
    stacked = np.stack([corners[:-1, :-1], corners[1:, :-1], corners[:-1, 1:], corners[1:, 1:]])
    seen = np.isfinite(stacked)
    faces = np.where(seen, stacked, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    mappable = require("matplotlib.cm", "plots", "A plot").ScalarMappable(norm, cmap)
    edges = {"edgecolor": (0, 0, 0, 0.15), "lw": 0.3}
    colour = mappable.to_rgba(faces)
    axes.plot_surface(x, y, z, facecolors=colour, rstride=1, cstride=1, shade=False, **edges)
    figure.colorbar(mappable, ax=axes, label=label(geometry, quantity), extend="both", shrink=0.7, pad=0.12)
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
        geometry: What was measured, for the colours of a curve or surface.
        columns: Images per axis.

    Returns:
        The figure.
    """
    if len(manifold.feature_shape) in (2, 3):
        return _image_rows(manifold, columns)
    grid = manifold.grid
    chosen = subset(grid.size, 4 * MAX_POINTS)
    points = render(manifold, grid_coordinates(grid, chosen))
    direct = points.shape[1] <= 3
    scores, shares = (points, None) if direct else principal_components(points)
    note = "" if direct else f", principal components of R^{points.shape[1]}"
    figure = new_figure(7.0, 5.8, f"{manifold.name}{note}")
    axes = figure.add_subplot(projection="3d" if scores.shape[1] == 3 else None)
    if geometry is None:
        axes.scatter(*scores.T, s=8, color=COLOURS[0])
        _equal_scales(axes, scores)
    else:
        quantity = _telling(geometry)
        values = values_of(geometry, quantity).ravel()[chosen]
        whole = direct and grid.ndim == 2 and points.shape[1] == 3 and len(chosen) == grid.size
        (_surface if whole else _scatter)(figure, axes, scores, values, geometry, quantity)
    if shares is not None:
        _name_components(axes, shares)
    else:
        for name in "xyz"[: scores.shape[1]]:
            getattr(axes, f"set_{name}label")(f"{name} [{LENGTH}]")
    return figure


def _telling(geometry: Geometry) -> str:
    """Scalar curvature, or mean curvature where the scalar curvature vanishes."""
    largest = np.nanmax(np.abs(values_of(geometry, "scalar_curvature")), initial=0.0)
    flat = largest <= 3 * median_bar(geometry, "scalar_curvature")
    return "mean_curvature" if geometry.grid.ndim == 1 or flat else "scalar_curvature"


def _image_rows(manifold: Manifold, columns: int) -> Figure:
    """One row of images along each axis, the other coordinates in the middle of their range."""
    axes = manifold.grid.axes
    middle = np.array([axis.samples()[axis.size // 2] for axis in axes])
    positions = [np.linspace(axis.start, axis.stop, columns, endpoint=not axis.wraps) for axis in axes]
    coordinates = np.tile(middle, (len(axes), columns, 1))
    for k, values in enumerate(positions):
        coordinates[k, :, k] = values
    images = render(manifold, coordinates.reshape(-1, len(axes)))
    images = images.reshape(len(axes), columns, *manifold.feature_shape)
    period = "\n(one period\nof the metric)"
    return image_grid(
        f"{manifold.name}: images along each axis",
        list(images),
        rows=[axis_label(axis) + (period if axis.periodic and not axis.wrap else "") for axis in axes],
        columns=[""] * columns,
        captions=[[f"{value:.4g}" for value in values] for values in positions],
        size=1.35,
        largest=float(images.max()) or 1.0,
    )
