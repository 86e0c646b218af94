"""Tangent cones at the border of open axes, and how far a tangent vector lies outside of them.

At a point of the border the tangent cone is {sum a_i X_i : a_i >= 0 for the axes that end there}, with X_i
pointing inward: a half space at a face, narrower at edges and corners. Federer's formula asks for the
distance to this cone, not to its span: ends that face each other bound the reach, as does a border that turns
outward.
"""

from __future__ import annotations

from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.reach.cloud import distances

APART = 8  # rounding errors within which two points of the border are one place


class Cones(NamedTuple):
    """Tangent cones of points, by sets S of bordering axes whose coefficients vanish; all in the frame.

    The nearest point of a cone is the projection on the span of the axes not in S for some S; of those that
    lie in the cone, the nearest counts.

    Attributes:
        beyond: ``(s, a, d, d)`` turns a tangent vector (from the left) into what such a projection misses.
        inward: ``(s, a, d, d)`` turns it into those coefficients of the projection that must not be negative.
    """

    beyond: Any
    inward: Any


def tangent_cones(directions: Float[np.ndarray, "a d d"], inward: Int[np.ndarray, "a d"]) -> Cones:
    """Cones from the coordinate directions in the frame and the signs that lead inward, 0 off the border."""
    d = inward.shape[1]
    known = np.all(np.isfinite(directions), axis=(1, 2), keepdims=True)
    directions = np.where(known, directions, np.eye(d))
    open_axes = np.flatnonzero(inward.any(axis=0))
    beyond, coefficients = [], []
    for zero in product((False, True), repeat=len(open_axes)):
        vanishes = np.zeros(d, bool)
        vanishes[open_axes] = zero
        spanned = np.where((vanishes & (inward != 0))[:, :, None], 0.0, directions)
        inverse = np.linalg.pinv(spanned)
        beyond.append(np.eye(d) - inverse @ spanned)
        coefficients.append(inverse * np.where(vanishes, 0, inward)[:, None, :])
    return Cones(np.stack(beyond), np.stack(coefficients))


def squared_distance(cones: Cones, along: Any, module: ModuleType) -> Any:
    """Squared distances of tangent vectors to their cones.

    Args:
        cones: Maps ``(s, ..., d, d)`` that broadcast against the vectors.
        along: Coordinates in the frame, d arrays ``(...)``.
        module: numpy or jax.numpy.
    """
    d = len(along)

    def turned(maps: Any) -> list[Any]:
        return [sum(maps[..., j, i] * along[j] for j in range(d)) for i in range(d)]

    least = module.inf
    for beyond, inward in zip(cones.beyond, cones.inward, strict=True):
        feasible = module.stack([c >= 0 for c in turned(inward)]).all(axis=0)
        squares = sum(entry**2 for entry in turned(beyond))
        least = module.minimum(least, module.where(feasible, squares, module.inf))
    return least


def inward_signs(grid: Grid) -> Int[np.ndarray, "n d"]:
    """For every lattice point and axis the sign that leads inward at an end of an open axis, else 0."""
    signs = np.zeros((*grid.shape, grid.ndim), np.int8)
    for k, axis in enumerate(grid.axes):
        if not axis.periodic:
            layers = np.moveaxis(signs[..., k], k, 0)
            layers[0], layers[-1] = 1, -1
    return signs.reshape(-1, grid.ndim)


def open_seams(
    points: np.ndarray, noise: np.ndarray, inward: Int[np.ndarray, "n d"], component: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "n d"]:
    """The signs without those of ends that meet: a closed axis sampled at both ends, charts side by side.

    Within a component the axes go along which two points at one place lie at different ends; between
    components all axes go.
    """
    border = np.flatnonzero(inward.any(axis=1))
    direction = np.random.default_rng(0).normal(size=points.shape[1])
    heights = np.asarray(points[border], np.float64) @ direction
    border = border[np.argsort(heights, kind="stable")]
    signs = inward.copy()
    for step in range(1, 4):
        first, second = border[:-step], border[step:]
        near = distances(points, first, second) <= APART * (noise[first] + noise[second])
        first, second = first[near], second[near]
        alike = component[first] == component[second]
        meets = np.where(alike[:, None], inward[first] != inward[second], True)
        for end in (first, second):
            np.multiply.at(signs, end, ~meets)
    return signs
