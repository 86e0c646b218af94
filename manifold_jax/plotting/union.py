"""Pictures of a union of classes: where they lie, their total curvatures, tangent balls and distances."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import manifold_jax.plotting.style as style
from manifold_jax._checks import instance, shown
from manifold_jax.geometry import UnionGeometry
from manifold_jax.geometry.reach import ComponentReach
from manifold_jax.geometry.union_result import CURVATURES
from manifold_jax.plotting.points import grid_coordinates, principal_components, render
from manifold_jax.plotting.style import PALETTE, Figure

_MARKS = ("all", "positive", "negative")  # parts of the total scalar curvature
_BINS = 40


def plot_union(manifolds: Sequence[Any], union: UnionGeometry) -> Figure:
    """The classes of a union beside each other, scaled to unit volume.

    Args:
        manifolds: What was measured: Manifolds, or arrays of points.
        union: Result of :func:`manifold_jax.measure_union`.

    Returns:
        The figure: points of all classes on common principal components, total scalar curvatures with their
        parts, points by radius of the largest empty tangent ball, and distances between the classes.
    """
    instance("plot_union", "union", union, UnionGeometry, "see measure_union")
    if not isinstance(manifolds, Sequence) or len(manifolds) != len(union.classes):
        wanted = f"the {len(union.classes)} classes of the union"
        raise ValueError(f"plot_union: manifolds must be {wanted}, got {shown(manifolds)}.")
    title = f"{len(union.classes)} classes, scaled to unit volume"
    draw = [partial(_draw_points, manifolds), _draw_curvature]
    draw += [partial(_draw_balls, union.reach.components)] if union.reach is not None else []
    draw += [_draw_distances] * bool(union.distances)
    figure, panels = style.quantity_panels(title, draw, (6.5, 4.4), 2)
    for axes, drawing in panels:
        drawing(union, axes)
    return figure


def _colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


def _draw_points(manifolds: Sequence[Any], union: UnionGeometry, axes: Any) -> None:
    """All classes on two common principal components."""
    rows = []
    for source, geometry in zip(manifolds, union.geometries, strict=True):
        chosen = style.subset(geometry.grid.size, style.MAX_POINTS // len(manifolds))
        rows.append(render(source, geometry.grid, grid_coordinates(geometry.grid, chosen)))
    scores, shares = principal_components(np.concatenate(rows) * union.scale, 2)
    ends = np.cumsum([0, *map(len, rows)])
    for k, part in enumerate(union.classes):
        axes.scatter(*scores[ends[k] : ends[k + 1]].T, s=6, lw=0, color=_colour(k), label=part.name)
    names = (f"PC {k + 1} ({share:.0%} of the variance)" for k, share in enumerate(shares))
    style.name_axes(axes, *names)
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(fontsize=8)


def _draw_curvature(union: UnionGeometry, axes: Any) -> None:
    """Total scalar curvature, its positive and its negative part."""
    width = 0.8 / len(union.classes)
    for k, part in enumerate(union.classes):
        estimates = [getattr(part, name) for name in CURVATURES]
        values, bars = (np.array([float(e[i]) for e in estimates]) for i in (0, 1))
        places = np.arange(len(values)) + (k - (len(union.classes) - 1) / 2) * width
        bars = np.where(np.isfinite(bars), bars, 0.0)
        axes.bar(places, values, width, yerr=bars, color=_colour(k), capsize=2)
    axes.axhline(0.0, color="0.5", lw=0.8)
    axes.set_xticks(range(len(_MARKS)), _MARKS)
    axes.set_title("total scalar curvature", fontsize=10)


def _draw_balls(components: Sequence[ComponentReach], union: UnionGeometry, axes: Any) -> None:
    """Share of the points by the radius of the largest empty tangent ball in the union."""
    radii = [np.ravel(part.pointwise) * union.scale for part in components]
    radii = [part[np.isfinite(part) & (part > 0)] for part in radii]
    every = np.concatenate(radii)
    if every.size:
        bins = np.geomspace(every.min() * 0.999, max(np.quantile(every, 0.99), every.min()) * 1.001, _BINS)
        for k, part in enumerate(radii):
            weights = np.full(len(part), 1 / max(len(part), 1))
            axes.hist(part, bins, weights=weights, histtype="step", lw=1.5, color=_colour(k))
        axes.set_xscale("log")
    axes.set_title("radius of the largest empty tangent ball, share of the points", fontsize=10)


def _draw_distances(union: UnionGeometry, axes: Any) -> None:
    """Nearest distance of every pair of classes, and the mean one at equal chart coordinates."""
    labels = [
        f"{union.classes[pair.first].name} to\n{union.classes[pair.second].name}" for pair in union.distances
    ]
    for k, name in enumerate(("nearest", "paired")):
        estimates = [getattr(pair, name) for pair in union.distances]
        values, bars = (np.array([float(e[i]) for e in estimates]) for i in (0, 1))
        below = np.where(np.isfinite(bars), np.minimum(bars, values), 0.0)
        above = below if name == "paired" else np.zeros_like(below)  # the nearest pair is an upper bound
        places = np.arange(len(values)) + (k - 0.5) * 0.2
        axes.errorbar(places, values, [below, above], fmt="os"[k], color=_colour(k), capsize=3, label=name)
    axes.set_xticks(range(len(labels)), labels, fontsize=8, rotation=30 * (len(labels) > 3))
    axes.set_ylim(bottom=0.0)
    axes.set_title("distance between classes", fontsize=10)
    axes.legend(fontsize=8)
