"""The points that a tangent ball may meet, with their rounding errors, and in few dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from manifold_jax.geometry.neighbours import DIRECT_FEATURES

SAMPLE = 512  # points from which the leading directions are found
PROJECTION = 48  # directions onto which long points are projected before they are compared
TAIL = 1e-7  # share of squared lengths in the directions that are left out where points are reduced
RANK = 1e-12  # ratio to the largest below which squared lengths are rounding
ROUNDED = 64 * float(np.finfo(np.float64).eps)  # of a product of long vectors in float64, relative
CERTAIN = 7 / 8  # of the sampled points: with more directions the sample does not tell what they leave out
PIECE = 2**20  # numbers turned into float64 at a time: 8 MiB, which malloc keeps; 32 were mapped each time


class Reduced(NamedTuple):
    """Points as m + B c + r, by their coordinates c in a few orthonormal directions B, to screen pairs.

    Attributes:
        points: c ``(n, k)``; the points themselves where they are short, or fill more directions.
        rest: |r| ``(n,)``.
        basis: B ``(f, k)`` in float64; None where there are no directions.
        drift: Bound on |B^T (r - r')| of any two points, which would vanish but for rounding.
    """

    points: np.ndarray
    rest: np.ndarray
    basis: np.ndarray | None
    drift: float

    def frames(self, frames: Float[np.ndarray, "a d f"]) -> tuple[np.ndarray, np.ndarray]:
        """Tangent frames in these directions, and the norm of what stands out of them ``(a,)``."""
        if self.basis is None:
            return frames, np.zeros(len(frames))
        a, d, f = frames.shape
        exact = frames.reshape(a * d, f).astype(np.float64)
        inside = exact @ self.basis
        squares = np.sum(exact**2, axis=1) - np.sum(inside**2, axis=1)
        # In float64 they cancel to a few of its eps.
        outside = np.sqrt(np.maximum(squares.reshape(a, d).sum(axis=1), 0.0) + d * ROUNDED)
        return inside.astype(frames.dtype).reshape(a, d, -1), outside


class Cloud(NamedTuple):
    """All points that a ball may meet.

    Attributes:
        points: ``(n, f)`` on the host, in memory or memory-mapped.
        noise: ``(n,)`` rounding error of each point and its noise in one direction, a length.
        half_cell: ``(n,)`` half the sum of the edges of the cell around each point; 0 without a lattice.
        reduced: The points in a few directions.
        projected: ``(n, k)`` in still fewer; the points themselves where they are short.
        squares: ``(n,)`` squared lengths of the projected points.
        slack: Rounding error of projected distances.
        inward: ``(n, d)`` for every axis the sign that leads inward at a border, else 0; None: no lattice.
    """

    points: np.ndarray
    noise: np.ndarray
    half_cell: np.ndarray
    reduced: Reduced
    projected: np.ndarray
    squares: np.ndarray
    slack: float
    inward: Any = None

    @property
    def short(self) -> bool:
        """Whether differences are formed feature by feature, without cancellation."""
        return self.reduced.points.shape[1] <= DIRECT_FEATURES


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


def make_cloud(points: np.ndarray, noise: np.ndarray, inward: np.ndarray | None = None) -> Cloud:
    """The points with what screens need; see :class:`Cloud`. Cells are 0."""
    reduced, projected = _reduce(points)
    squares = np.sum(projected**2, axis=1)
    slack = 16 * float(np.finfo(points.dtype).eps) * float(squares.max()) ** 0.5
    return Cloud(points, noise, np.zeros(len(points)), reduced, projected, squares, slack, inward)


def _reduce(points: np.ndarray) -> tuple[Reduced, np.ndarray]:
    """Principal coordinates (of a sample), as many as hold the points, and the leading ones.

    What they leave out is known of every point, so that the sample decides how many pairs a screen leaves,
    but not what is true.
    """
    n, f = points.shape
    whole = Reduced(points, np.zeros(n), None, 0.0)
    if f <= PROJECTION:
        return whole, np.asarray(points) - points[: min(n, SAMPLE)].mean(axis=0)
    place = np.sort(np.random.default_rng(0).permutation(n)[:SAMPLE])
    sample = np.asarray(points[place], np.float64)
    centre = sample.mean(axis=0)
    sample -= centre
    values, weights = (x[..., ::-1] for x in np.linalg.eigh(sample @ sample.T))
    left = np.maximum(values, 0.0)[::-1].cumsum()[::-1]
    count = max(1, int(np.sum(left > TAIL * left[0])))
    holds = 2 * count <= f and (n <= SAMPLE or count <= CERTAIN * SAMPLE)
    width = max(count, min(PROJECTION, len(sample))) if holds else min(PROJECTION, len(sample))
    width = max(1, min(width, int(np.sum(values > RANK * values[0]))))
    basis = _orthonormal(sample.T @ weights[:, :width])
    coordinates, rest, drift = np.empty((n, width), points.dtype), np.zeros(n), 0.0
    skew = float(np.linalg.norm(basis.T @ basis - np.eye(width)))
    for part in pieces(n, f):
        here = points[part].astype(np.float64) - centre
        exact = here @ basis
        coordinates[part] = exact
        if holds:
            # |here - B c|^2, of which float64 leaves so many digits.
            rounded = exact - coordinates[part]
            squares = np.sum(here**2, axis=1)
            left = squares - np.sum(exact**2, axis=1) + np.sum(rounded**2, axis=1)
            rest[part] = np.sqrt(np.maximum(left, 0.0) + (skew + ROUNDED) * squares)
            rounding = np.linalg.norm(rounded, axis=1) + (skew + ROUNDED) * np.sqrt(squares)
            drift = max(drift, 2 * float(rounding.max()))
    projected = np.ascontiguousarray(coordinates[:, :PROJECTION])
    return Reduced(coordinates, rest, basis, drift) if holds else whole, projected


def _orthonormal(columns: Float[np.ndarray, "f k"]) -> Float[np.ndarray, "f k"]:
    """An orthonormal basis of nearly orthogonal columns, by Cholesky: a tenth of the time of QR."""
    sizes = np.linalg.norm(columns, axis=0)
    basis = columns / np.where(sizes > 0, sizes, 1.0)
    try:
        for _ in range(2):  # the second time leaves rounding
            basis = np.linalg.solve(np.linalg.cholesky(basis.T @ basis), basis.T).T
    except np.linalg.LinAlgError:  # the sample lies in one place
        return np.linalg.qr(columns)[0]
    return basis


def pieces(rows: int, numbers: int) -> Iterator[slice]:
    """Slices of rows of so many numbers, :data:`PIECE` numbers each."""
    step = max(1, PIECE // numbers)
    return (slice(start, start + step) for start in range(0, rows, step))


def lengths(points: np.ndarray) -> np.ndarray:
    """Lengths of points ``(n, f)`` in float64, without a copy of them in it."""
    return np.sqrt(np.einsum("pf,pf->p", points, points, dtype=np.float64))


def distances(points: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distances in float64 between points of the given positions ``(p,)``."""
    result = np.empty(len(first))
    for part in pieces(len(first), points.shape[1]):
        difference = points[second[part]].astype(np.float64) - points[first[part]]
        result[part] = np.linalg.norm(difference, axis=1)
    return result
