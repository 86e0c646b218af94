"""The points that a tangent ball may meet, with their rounding errors, and projected to few dimensions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from manifold_jax._linalg import principal_directions
from manifold_jax.geometry.reach.screen import DIRECT_FEATURES

_PROJECTION = 48
_SAMPLE = 1024


class Cloud(NamedTuple):
    """All points that a ball may meet.

    Attributes:
        points: ``(n, f)`` on the host, in memory or memory-mapped.
        noise: ``(n,)`` rounding error of each point, a length.
        spread: ``(n,)`` half the diagonal of the cell around each point; 0 without a lattice.
        projected: ``(n, k)`` after an orthogonal projection; the points themselves where they are short.
        squares: ``(n,)`` squared lengths of the projected points.
        slack: Rounding error of projected distances.
    """

    points: np.ndarray
    noise: np.ndarray
    spread: np.ndarray
    projected: np.ndarray
    squares: np.ndarray
    slack: float


def norms(points: np.ndarray) -> np.ndarray:
    """Lengths of points ``(n, f)`` in float64, a few at a time."""
    step = max(1, 2**22 // points.shape[1])
    pieces = [
        np.linalg.norm(points[k : k + step].astype(np.float64), axis=1) for k in range(0, len(points), step)
    ]
    return np.concatenate(pieces)


def make_cloud(points: np.ndarray, noise: np.ndarray, spread: np.ndarray) -> Cloud:
    """Project the points onto their principal directions (of a sample); see :class:`Cloud`."""
    n, f = points.shape
    eps = float(np.finfo(points.dtype).eps)
    if f <= max(_PROJECTION, DIRECT_FEATURES):
        projected = np.asarray(points) - points[: min(n, _SAMPLE)].mean(axis=0)
    else:
        sample = np.asarray(points[np.linspace(0, n - 1, min(n, _SAMPLE)).round().astype(int)], np.float64)
        centre = sample.mean(axis=0)
        basis = principal_directions(sample - centre, _PROJECTION).astype(points.dtype)
        centre = centre.astype(points.dtype)
        pieces = [(points[k : k + 8192] - centre) @ basis for k in range(0, n, 8192)]
        projected = np.concatenate(pieces)
    squares = np.sum(projected**2, axis=1)
    return Cloud(points, noise, spread, projected, squares, 16 * eps * float(squares.max()) ** 0.5)
