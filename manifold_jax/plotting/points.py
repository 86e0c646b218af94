"""Pictures of the points themselves: images along the axes, curves, surfaces, principal components."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

import manifold_jax.plotting.style as style
from manifold_jax._checks import finite, real, shown, whole
from manifold_jax.geometry import Geometry, Grid, Manifold
from manifold_jax.geometry.embeddings import evaluate_points
from manifold_jax.geometry.manifold import as_points
from manifold_jax.plotting.images import image_grid, is_image
from manifold_jax.plotting.style import COLOURS, LENGTH, MAX_POINTS, Figure

NUMBERS = 2**26  # numbers of stored points that are read for a picture
_DENSE = 256  # points or features up to which all principal components are found; of more the first alone


def render(source: Manifold | Any, grid: Grid, coordinates: np.ndarray) -> np.ndarray:
    """Flat features ``(n, f)`` at coordinates ``(n, d)``; of an array those of the nearest samples."""
    if isinstance(source, Manifold):
        return evaluate_points(source.embedding, coordinates, jnp.result_type(float))
    columns = zip(grid.axes, coordinates.T, strict=True)
    index = [axis.nearest(x) % axis.size for axis, x in columns]
    places = np.asarray(np.ravel_multi_index(index, grid.shape))
    return as_points("plot", source, grid).at(places).astype(float)


def feature_shape(source: Manifold | Any, grid: Grid) -> tuple[int, ...]:
    """Shape of one point."""
    return (
        source.feature_shape if isinstance(source, Manifold) else tuple(np.shape(source)[len(grid.shape) :])
    )


def _most(source: Manifold | Any, grid: Grid, count: int = MAX_POINTS) -> int:
    """Points that are read for a picture, so many at most."""
    return min(count, max(1, NUMBERS // math.prod(feature_shape(source, grid))))


def grid_coordinates(grid: Grid, index: Any) -> np.ndarray:
    """Coordinates ``(*, d)`` of points of a grid by their flat indices."""
    places = np.unravel_index(index, grid.shape)
    return np.stack([axis.samples()[i] for axis, i in zip(grid.axes, places, strict=True)], axis=-1)


def checked_cloud(caller: str, points: Any) -> np.ndarray:
    """Finite points ``(n, f)`` in double precision."""
    points = real(caller, "points", points, np)
    if points.ndim != 2 or not points.size:
        raise ValueError(f"{caller}: points must have shape (n, f), got {shown(points)}.")
    finite(caller, "points", points)
    return points.astype(float)


def principal_components(points: np.ndarray, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``(n, count)`` of points ``(n, f)`` on the first principal components, and shares of variance.

    There are fewer than ``count`` components if f or n is smaller.
    """
    points = checked_cloud("principal_components", points)
    count = whole("principal_components", "count", count)
    centred = points - points.mean(axis=0)
    scale = max(np.abs(centred).max(), np.finfo(float).tiny)
    centred /= scale  # the squares of what is small would vanish
    if min(centred.shape) <= max(_DENSE, count) or not centred.any():
        left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    else:
        # Late: JAX itself installs SciPy, but it takes long to import.
        from scipy.sparse import linalg as sparse_linalg

        start = np.random.default_rng(0).normal(size=min(centred.shape))
        parts: Any = sparse_linalg.svds(centred, count, v0=start)
        left, sizes = parts[0][:, ::-1], parts[1][::-1]
    variance = max(np.sum(centred**2), np.finfo(float).tiny)
    return left[:, :count] * sizes[:count] * scale, sizes[:count] ** 2 / variance


def components(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the points that are there, NaN for those that are missing; and shares."""
    there = np.isfinite(points).all(axis=1)
    scores, shares = principal_components(points[there])
    result = np.full((len(points), scores.shape[1]), np.nan)
    result[there] = scores
    return result, shares


def plot_pca(manifold: Manifold | Any, geometry: Geometry) -> Figure:
    """A Manifold, or its points ``(*grid.shape, *features)``, on three principal components, by field."""
    grid = style.checked_geometry("plot_pca", "geometry", geometry).grid
    chosen = style.subset(grid.size, _most(manifold, grid))
    scores, shares = components(render(manifold, grid, grid_coordinates(grid, chosen)))
    title = f"{geometry.name}: principal components of {len(chosen)} points, in {LENGTH}"
    projection = "3d" if scores.shape[1] == 3 else None
    figure, panels = style.quantity_panels(title, style.shown(geometry), (4.8, 3.8), projection=projection)
    for axes, quantity in panels:
        _draw_field(axes, _plane(scores), chosen, geometry, quantity, surface=False)
        style.name_axes(axes, *component_names(shares))
    return figure


def plot_cloud(points: np.ndarray, values: np.ndarray, name: str, label: str) -> Figure:
    """A cloud of points ``(n, f)``, on principal components where f > 3, coloured by ``values (n,)``."""
    points, values = checked_cloud("plot_cloud", points), real("plot_cloud", "values", values, np)
    if values.shape != (len(points),):
        wanted = f"one number for each of {len(points)} points"
        raise ValueError(f"plot_cloud: values must be {wanted}, got {shown(values)}.")
    chosen = style.subset(len(points), min(4 * MAX_POINTS, max(1, NUMBERS // points.shape[1])))
    drawn, colour = points[chosen], values[chosen]
    names, note = [f"{letter} [{LENGTH}]" for letter in "xyz"], ""
    if drawn.shape[1] > 3:
        drawn, shares = principal_components(drawn)
        note, names = f", principal components of R^{points.shape[1]}", component_names(shares)
    drawn = _plane(drawn)
    figure = style.new_figure(7.0, 5.8, f"{name}: {len(points)} points{note}")
    axes = figure.add_subplot(projection="3d" if drawn.shape[1] == 3 else None)
    limits = style.value_range(colour[np.isfinite(colour)], 0.0)
    drawing: Any = {"c": colour, "vmin": limits[0], "vmax": limits[1], "s": 8, "lw": 0, "cmap": "viridis"}
    mappable = axes.scatter(*drawn.T, **drawing)
    figure.colorbar(mappable, ax=axes, label=label, extend="both", shrink=0.7, pad=0.12)
    _equal_scales(axes, drawn)
    style.name_axes(axes, *names[: drawn.shape[1]])
    return figure


def _plane(points: np.ndarray) -> np.ndarray:
    """Points with a second coordinate 0 if they have only one."""
    return np.pad(points, ((0, 0), (0, int(points.shape[1] == 1))))


def _draw_field(
    axes: Any, points: np.ndarray, chosen: np.ndarray, geometry: Geometry, quantity: str, surface: bool
) -> None:
    """Chosen points of a grid in two or three dimensions, or the whole surface, coloured by a field."""
    values = style.values_of(geometry, quantity).ravel()[chosen]
    norm, cmap = style.colours(values, geometry, quantity)
    mappable = style.matplotlib("cm").ScalarMappable(norm, cmap)
    if surface:
        _draw_surface(axes, points, values, geometry.grid, mappable)
    else:
        keep = np.isfinite(values)
        depth = {"depthshade": False} if points.shape[1] == 3 else {}
        axes.scatter(*points[keep].T, c=values[keep], norm=norm, cmap=cmap, s=8, lw=0, **depth)
    label = style.label(geometry, quantity)
    axes.figure.colorbar(mappable, ax=axes, label=label, extend="both", shrink=0.7, pad=0.12)
    _equal_scales(axes, points)


def _draw_surface(axes: Any, points: np.ndarray, values: np.ndarray, grid: Grid, mappable: Any) -> None:
    """A surface, every face coloured by the mean of its corners."""
    around = [(0, int(axis.wraps)) for axis in grid.axes]
    x, y, z, corners = (np.pad(v.reshape(grid.shape), around, mode="wrap") for v in (*points.T, values))
    stacked = np.stack([corners[:-1, :-1], corners[1:, :-1], corners[:-1, 1:], corners[1:, 1:]])
    seen = np.isfinite(stacked)
    faces = np.where(seen, stacked, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    edges = {"edgecolor": (0, 0, 0, 0.15), "lw": 0.3}
    colour = mappable.to_rgba(faces)
    axes.plot_surface(x, y, z, facecolors=colour, rstride=1, cstride=1, shade=False, **edges)


def _equal_scales(axes: Any, points: np.ndarray) -> None:
    """The same length per unit in every direction, but no direction drawn thinner than 0.3 of the longest."""
    axes.locator_params(nbins=4)
    axes.tick_params(labelsize=8)
    spans = np.nanmax(points, axis=0) - np.nanmin(points, axis=0)
    if points.shape[1] == 3:
        axes.set_box_aspect(np.maximum(spans, 0.3 * spans.max() or 1.0))
    else:
        axes.set_aspect("equal", adjustable="datalim")


def component_names(shares: np.ndarray) -> list[str]:
    """Names of principal components with their shares of the variance."""
    return [f"PC {k} ({share:.0%})" for k, share in enumerate(shares, 1)]


def plot_samples(manifold: Manifold | Any, geometry: Geometry | None = None, *, columns: int = 8) -> Figure:
    """What the points are: images, ``columns`` along each axis, or the curve or surface itself.

    A curve or surface is coloured by its curvature if the geometry that was measured is given, as it must be
    for an array of points ``(*grid.shape, *features)``.
    """
    if geometry is not None or not isinstance(manifold, Manifold):
        style.checked_geometry("plot_samples", "geometry", geometry)
    columns = whole("plot_samples", "columns", columns)
    measured: Any = manifold if isinstance(manifold, Manifold) else geometry
    grid, name = measured.grid, measured.name
    if is_image(feature_shape(manifold, grid)):
        return _image_rows(manifold, grid, name, columns)
    chosen = style.subset(grid.size, _most(manifold, grid, 4 * MAX_POINTS))
    points = render(manifold, grid, grid_coordinates(grid, chosen))
    features, note, names = points.shape[1], "", [f"{letter} [{LENGTH}]" for letter in "xyz"]
    if features > 3:
        points, shares = components(points)
        note, names = f", principal components of R^{features}", component_names(shares)
    points = _plane(points)
    figure = style.new_figure(7.0, 5.8, f"{name}{note}")
    axes = figure.add_subplot(projection="3d" if points.shape[1] == 3 else None)
    if geometry is None:
        axes.scatter(*points.T, s=8, color=COLOURS[0])
        _equal_scales(axes, points)
    else:
        whole_grid = len(chosen) == grid.size and bool(np.isfinite(points).all())
        surface = features == 3 and grid.ndim == 2 and whole_grid
        _draw_field(axes, points, chosen, geometry, _telling(geometry), surface)
    style.name_axes(axes, *names[:features], size=9 if note else None)
    return figure


def _telling(geometry: Geometry) -> str:
    """Scalar curvature, or mean curvature where the scalar curvature vanishes."""
    largest = np.nanmax(np.abs(style.values_of(geometry, "scalar_curvature")), initial=0.0)
    flat = largest <= 3 * style.median_bar(geometry, "scalar_curvature")
    return "mean_curvature" if geometry.grid.ndim == 1 or flat else "scalar_curvature"


def _image_rows(manifold: Manifold | Any, grid: Grid, name: str, columns: int) -> Figure:
    """One row of images along each axis, the other coordinates in the middle of their range."""
    axes = grid.axes
    middle = np.array([axis.samples()[axis.size // 2] for axis in axes])
    positions = [np.linspace(axis.start, axis.stop, columns, endpoint=not axis.wraps) for axis in axes]
    if not isinstance(manifold, Manifold):  # it is known at its samples only
        pairs = zip(axes, positions, strict=True)
        positions = [axis.samples()[np.minimum(axis.nearest(x), axis.size - 1)] for axis, x in pairs]
    coordinates = np.tile(middle, (len(axes), columns, 1))
    for k, values in enumerate(positions):
        coordinates[k, :, k] = values
    images = render(manifold, grid, coordinates.reshape(-1, len(axes)))
    images = images.reshape(len(axes), columns, *feature_shape(manifold, grid))
    period = "\n(one period\nof the metric)"
    rows = [style.axis_label(axis) + (period if axis.periodic and not axis.wrap else "") for axis in axes]
    captions = [[f"{value:.4g}" for value in values] for values in positions]
    options: dict[str, Any] = {"captions": captions, "size": 1.35, "largest": float(images.max()) or 1.0}
    title = f"{name}: images along each axis"
    return image_grid(title, list(images), rows=rows, columns=[""] * columns, **options)
