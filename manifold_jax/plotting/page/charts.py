"""What the interactive plots of a measured manifold show, as data for ``page.js``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import manifold_jax.plotting.style as style
from manifold_jax.geometry import Geometry, Grid, Reach
from manifold_jax.geometry.quantities import finite_median
from manifold_jax.geometry.reach.result import ComponentReach
from manifold_jax.plotting.images import is_image
from manifold_jax.plotting.page.document import pack, png
from manifold_jax.plotting.points import (
    NUMBERS,
    component_names,
    components,
    feature_shape,
    grid_coordinates,
    render,
)

POINTS = 1200  # points of all manifolds together that are drawn, with their images
CELLS = 40_000  # points of all maps together
SIDE = 40  # pixels of an image's longest side
BINS = 40
BALL = "radius of the largest empty tangent ball τ"


class Column(NamedTuple):
    """A quantity at every point of a grid, flat, and what is said of it."""

    label: str
    unit: str
    value: np.ndarray
    error: np.ndarray
    resolved: np.ndarray
    limits: tuple[float, float]
    verdict: str
    signed: bool = False


def columns_of(geometry: Geometry, ball: ComponentReach | None, sentence: str) -> list[Column]:
    """Every quantity that differs from the others, and the tangent balls where the reach is known."""
    columns = []
    for name in style.shown(geometry, bounds=True):
        value, error, resolved = (np.asarray(part).ravel() for part in getattr(geometry, name))
        limits = style.limits(value, geometry, name)
        words = (style.label(geometry, name), style.unit_of(geometry, name))
        verdict = geometry.verdict(name).sentence
        signed = name == "scalar_curvature"
        columns.append(
            Column(*words, value, error, resolved, limits, verdict[:1].upper() + verdict[1:], signed)
        )
    if ball is not None:
        columns.append(ball_column(ball, geometry.tolerance, sentence))
    return columns


def limits_of(values: np.ndarray) -> tuple[float, float]:
    """Range of colours of nearly all finite values."""
    finite = values[np.isfinite(values)]
    return style.value_range(finite, 0.0, clip=2.0) if finite.size else (0.0, 1.0)


def ball_column(ball: ComponentReach, tolerance: float, sentence: str) -> Column:
    """Radii of the tangent balls."""
    value, error = ball.pointwise.ravel(), ball.pointwise_error.ravel()
    label, words = f"{BALL} [{style.LENGTH}]", f"The {sentence}"
    return Column(label, style.LENGTH, value, error, error <= tolerance * value, limits_of(value), words)


def _histogram(column: Column) -> dict[str, Any]:
    """Counts of the finite values, nearly all of them, and of those beyond at the ends."""
    values = column.value[np.isfinite(column.value)]
    if not values.size:
        return {"edges": [], "counts": []}
    low, high = style.value_range(values, 2 * finite_median(column.error, 0.0))
    counts, edges = np.histogram(np.clip(values, low, high), bins=BINS, range=(low, high))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _finite(value: float) -> float | None:
    """A number that JSON knows."""
    return float(value) if math.isfinite(value) else None


def thin(grid: Grid, most: int) -> tuple[int, ...]:
    """Steps along every axis that leave at most so many points, the longest axes thinned first."""
    steps = [1] * grid.ndim

    def left(k: int) -> int:
        return -(-grid.shape[k] // steps[k])

    while math.prod(map(left, range(grid.ndim))) > most:
        steps[max(range(grid.ndim), key=left)] += 1
    return tuple(steps)


def _quantities(
    columns: Sequence[Column], chosen: np.ndarray, maps: Callable[[np.ndarray], np.ndarray] | None
) -> list[dict[str, Any]]:
    """Columns at the chosen points, and the maps of their values and bars, where there are maps."""
    return [
        {
            "label": column.label,
            "unit": column.unit,
            "signed": column.signed,
            "limits": list(column.limits),
            "verdict": column.verdict,
            "median": finite_median(column.value, 0.0),
            "bar": _finite(finite_median(column.error, math.inf)),
            "histogram": _histogram(column),
            "values": pack(column.value[chosen]),
            "errors": pack(column.error[chosen]),
            "resolved": pack(column.resolved[chosen], "u1"),
            "map": [pack(maps(part)) for part in (column.value, column.error)] if maps else [],
        }
        for column in columns
    ]


def colours(images: np.ndarray) -> np.ndarray:
    """Images ``(n, h, w)`` or ``(n, h, w, c)`` as grey levels, or as three colours without transparency."""
    return images if images.ndim == 3 else images[..., :3] if images.shape[-1] >= 3 else images[..., 0]


def shrink(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Images ``(n, h, w, ...)`` of about ``side`` pixels, by means of equal rectangles of pixels."""
    n, h, w, *rest = images.shape
    by = -(-max(h, w) // side)
    down, right = min(by, h), min(by, w)
    h, w = h // down * down, w // right * right  # pixels at the far borders that fill none are left out
    parts = images[:, :h, :w].reshape(n, h // down, down, w // right, right, *rest)
    return parts.mean(axis=(2, 4))


def sheet(images: np.ndarray) -> dict[str, Any]:
    """Many small images in one picture, row by row; grey levels from the least (or 0) to the largest."""
    images = colours(images)
    low, high = min(0.0, float(np.nanmin(images))), float(np.nanmax(images))
    levels = np.nan_to_num(255 * (images - low) / ((high - low) or 1.0))
    n, h, w, *rest = levels.shape
    across = math.ceil(math.sqrt(n))
    levels = np.concatenate([levels, np.zeros((-n % across, h, w, *rest))])
    rows = np.moveaxis(levels.reshape(-1, across, h, w, *rest), 1, 2)
    return {
        "src": png(rows.reshape(rows.shape[0] * h, across * w, *rest).round()),
        "width": w,
        "height": h,
        "columns": across,
    }


def part_data(
    source: Any, geometry: Geometry, reach: Reach | None, number: int, count: int
) -> dict[str, Any]:
    """One of ``count`` manifolds: a sample of its points with images, quantities, and maps."""
    grid, shape = geometry.grid, feature_shape(source, geometry.grid)
    most = max(30, min(POINTS // count, NUMBERS // math.prod(shape)))
    chosen, steps = style.subset(grid.size, most), thin(grid, max(100, CELLS // count))
    coordinates = grid_coordinates(grid, chosen)
    ends = reach.ends if reach is not None else ()
    ends = ends if all(end.component == number and end.coordinates.size for end in ends) else ()
    places = np.concatenate([coordinates, *(end.coordinates[None] for end in ends)])
    features = np.asarray(render(source, grid, places), float)
    positions, names = _placed(features)
    chord, n = positions[len(chosen) :], len(chosen)
    sentence = reach.sentence() if reach is not None else ""
    columns = columns_of(geometry, reach.components[number] if reach is not None else None, sentence)
    cut = tuple(slice(None, None, step) for step in steps)
    thinned = [axis.samples()[::step].tolist() for axis, step in zip(grid.axes, steps, strict=True)]
    return {
        "name": geometry.name,
        "axes": [{"label": style.axis_label(axis)} for axis in grid.axes],
        "points": {"positions": pack(positions[:n]), "names": names, "coordinates": pack(coordinates)},
        "chord": pack(chord) if len(chord) and np.ptp(chord, axis=0).any() else None,
        "quantities": _quantities(columns, chosen, lambda values: values.reshape(grid.shape)[cut]),
        "map": {"shape": [len(samples) for samples in thinned], "samples": thinned},
        "images": sheet(shrink(features[:n].reshape(-1, *shape))) if is_image(shape) else None,
    }


def cloud_data(name: str, points: np.ndarray, columns: Sequence[Column]) -> dict[str, Any]:
    """Points ``(n, f)`` without a grid."""
    chosen = style.subset(len(points), max(60, min(POINTS, NUMBERS // points.shape[1])))
    positions, names = _placed(points[chosen].astype(float))
    return {
        "name": name,
        "axes": [],
        "points": {"positions": pack(positions), "names": names, "coordinates": ""},
        "chord": None,
        "quantities": _quantities(columns, chosen, None),
        "map": None,
        "images": None,
    }


def _placed(features: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Positions of points ``(n, f)`` in two or three dimensions, and names of the directions."""
    size = features.shape[1]
    if size in (2, 3):
        return features, [f"{letter} [{style.LENGTH}]" for letter in "xyz"[:size]]
    scores, shares = components(features)
    names = component_names(shares)
    lacking = max(0, 2 - scores.shape[1])
    return np.pad(scores, ((0, 0), (0, lacking))), names + [""] * lacking
