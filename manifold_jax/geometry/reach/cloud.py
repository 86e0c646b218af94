"""The points that a tangent ball may meet, with their rounding errors, and projected to few dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from manifold_jax.geometry.neighbours import DIRECT_FEATURES

PROJECTION = 48  # directions onto which long points are projected before they are compared
SAMPLE = 256  # points from which these directions are found
PIECE = 2**22  # numbers that are turned into float64 at a time: 32 MiB


class Cloud(NamedTuple):
    """All points that a ball may meet.

    Attributes:
        points: ``(n, f)`` on the host, in memory or memory-mapped.
        noise: ``(n,)`` rounding error of each point and its noise in one direction, a length.
        half_cell: ``(n,)`` half the sum of the edges of the cell around each point; 0 without a lattice.
        projected: ``(n, k)`` after an orthogonal projection; the points themselves where they are short.
        squares: ``(n,)`` squared lengths of the projected points.
        slack: Rounding error of projected distances.
        inward: ``(n, d)`` for every axis the sign that leads inward at a border, else 0; None: no lattice.
    """

    points: np.ndarray
    noise: np.ndarray
    half_cell: np.ndarray
    projected: np.ndarray
    squares: np.ndarray
    slack: float
    inward: Any = None

    @property
    def short(self) -> bool:
        """Whether differences are formed feature by feature, without cancellation."""
        return self.points.shape[1] <= DIRECT_FEATURES


def check_extent(caller: str, points: np.ndarray, rounding: float) -> None:
    """Refuse points in one place, and those whose squared distances leave the range of their dtype.

    Inverse squares and the rounding errors of both must stay within it too.
    """
    kind = np.finfo(points.dtype)
    low, high = (np.asarray(end(points, axis=0), np.float64) for end in (np.min, np.max))
    extent = float(np.max(high - low))
    if extent <= rounding:
        raise ValueError(f"{caller}: all points lie in one place: they have no reach.")
    if not kind.tiny / kind.eps <= extent**2 <= kind.max * kind.eps:
        raise ValueError(
            f"{caller}: points extend over {extent:.1e}, whose square leaves {kind.dtype}: scale them."
        )


def make_cloud(
    points: np.ndarray, noise: np.ndarray, half_cell: np.ndarray, inward: np.ndarray | None = None
) -> Cloud:
    """Project the points onto their principal directions (of a sample); see :class:`Cloud`."""
    n, f = points.shape
    if f <= PROJECTION:
        projected = np.asarray(points) - points[: min(n, SAMPLE)].mean(axis=0)
    else:
        sample = np.asarray(points[np.linspace(0, n - 1, min(n, SAMPLE)).round().astype(int)], np.float64)
        centre = sample.mean(axis=0)
        sample -= centre
        weights = np.linalg.eigh(sample @ sample.T)[1][:, -PROJECTION:]
        basis, centre = (x.astype(points.dtype) for x in (np.linalg.qr(sample.T @ weights)[0], centre))
        projected = np.concatenate([(points[part] - centre) @ basis for part in pieces(n, f)])
    squares = np.sum(projected**2, axis=1)
    slack = 16 * float(np.finfo(points.dtype).eps) * float(squares.max()) ** 0.5
    return Cloud(points, noise, half_cell, projected, squares, slack, inward)


def pieces(rows: int, numbers: int) -> Iterator[slice]:
    """Slices of rows of so many numbers, :data:`PIECE` numbers each."""
    step = max(1, PIECE // numbers)
    return (slice(start, start + step) for start in range(0, rows, step))


def lengths(points: np.ndarray) -> np.ndarray:
    """Lengths of points ``(n, f)`` in float64."""
    return np.concatenate(
        [np.linalg.norm(points[k].astype(np.float64), axis=1) for k in pieces(*points.shape)]
    )


def distances(points: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances in float64 between points of the given positions ``(p,)``."""
    result = np.empty(len(first))
    for part in pieces(len(first), points.shape[1]):
        difference = points[second[part]].astype(np.float64) - points[first[part]]
        result[part] = np.linalg.norm(difference, axis=1)
    return result
