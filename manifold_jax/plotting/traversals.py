"""Images along the axes of a manifold and along its geodesics, as they move."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax.geometry import Axis, Grid, Manifold, geodesic
from manifold_jax.plotting.animation import Moving
from manifold_jax.plotting.points import feature_shape, render
from manifold_jax.plotting.style import axis_label

FRAMES = 40
_SHARE = 0.45  # of the range of an axis that a geodesic along it may use


def _middle(grid: Grid) -> np.ndarray:
    return np.array([axis.samples()[axis.size // 2] for axis in grid.axes])


def _there_and_back(axis: Axis, frames: int) -> np.ndarray:
    """Coordinates once around a periodic axis, to the end of an open one and back."""
    if axis.periodic:
        return np.linspace(axis.start, axis.stop, frames, endpoint=False)
    there = np.linspace(axis.start, axis.stop, -(-frames // 2))
    return np.concatenate([there, there[::-1]])[:frames]


def traversals(manifold: Manifold, frames: int = FRAMES) -> Moving:
    """One moving image for each axis, the other coordinates in the middle of their range."""
    grid = manifold.grid
    values = [_there_and_back(axis, frames) for axis in grid.axes]
    coordinates = np.tile(_middle(grid), (grid.ndim, frames, 1))
    for k, along in enumerate(values):
        coordinates[k, :, k] = along
    captions = [
        [f"{x:.3g} {axis.unit}" for x in along] for axis, along in zip(grid.axes, values, strict=True)
    ]
    return _moving(f"{manifold.name}: along each axis", manifold, coordinates, captions)


def geodesics(manifold: Manifold, frames: int = FRAMES) -> Moving:
    """One moving image for each axis, along the geodesic that leaves the middle in its direction.

    It begins with a velocity that would use 45 % of the range of the axis, and stops before it leaves the
    range of an open axis, or where the metric degenerates.
    """
    grid = manifold.grid
    start, spans = _middle(grid), np.array([axis.stop - axis.start for axis in grid.axes])
    velocities = jnp.diag(jnp.asarray(_SHARE * spans, float))

    def follow(velocity: jax.Array) -> jax.Array:
        path = geodesic(manifold.embedding, jnp.asarray(start, float), velocity, steps=frames - 1)
        return path.coordinates

    coordinates = np.asarray(jax.vmap(follow)(velocities), float)
    ends = np.array([[-np.inf, np.inf] if axis.periodic else [axis.start, axis.stop] for axis in grid.axes])
    for path in coordinates:  # NaN, where the metric degenerates, is not inside either
        outside = ~((path >= ends[:, 0]) & (path <= ends[:, 1])).all(axis=1)
        if outside.any():
            first = int(np.argmax(outside))
            path[first:] = path[first - 1]
    captions = [[", ".join(f"{x:.3g}" for x in point) for point in path] for path in coordinates]
    title = f"{manifold.name}: geodesics from the middle; below: {', '.join(grid.names)}"
    return _moving(title, manifold, coordinates, captions)


def _moving(title: str, manifold: Manifold, coordinates: np.ndarray, captions: list[list[str]]) -> Moving:
    """Images at coordinates ``(k, frames, d)``."""
    grid = manifold.grid
    k, frames = coordinates.shape[:2]
    images = render(manifold, grid, coordinates.reshape(-1, grid.ndim))
    names = [axis_label(axis) for axis in grid.axes]
    return Moving(title, images.reshape(k, frames, *feature_shape(manifold, grid)), names, captions)
