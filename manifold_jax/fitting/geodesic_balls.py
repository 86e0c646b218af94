"""Scalar curvature from the volumes of geodesic balls, estimated from samples or distances alone."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from manifold_jax._checks import flat_points, interval, positive, real, whole
from manifold_jax.geometry.neighbours import nearest_neighbours
from manifold_jax.geometry.reach.distortion import shortest_paths

MOST_POINTS = 5000  # points up to which an n x n matrix of distances is held unless more are allowed
_RADII = 32  # radii at which volumes are taken
_LEAST = 4  # other points that a ball must hold


class BallCurvature(NamedTuple):
    """Scalar curvature by ball volumes, in NumPy float64.

    Attributes:
        scalar_curvature: S ``(n,)`` in inverse squared feature units; NaN where ``ok`` is False.
        density: Probability density ``(n,)``, per unit of volume.
        ok: ``(n,)``, False where the largest ball has fewer than 4 other points, or there is no density.
        components: Connected components of the neighbour graph; 1 if distances were given.
        bandwidth: Radius of the density kernel; NaN if densities were given.
        largest: Radius of the largest ball.
    """

    scalar_curvature: Float[np.ndarray, "n"]
    density: Float[np.ndarray, "n"]
    ok: Bool[np.ndarray, "n"]
    components: int
    bandwidth: float
    largest: float


def ball_volume(dimension: int) -> float:
    """Volume omega_d of the unit ball in R^d, pi^(d/2) / Gamma(d/2 + 1)."""
    return math.pi ** (dimension / 2) / math.gamma(dimension / 2 + 1)


def graph_distances(
    points: Float[Any, "n *features"], *, neighbours: int = 20, most: int = MOST_POINTS
) -> tuple[Float[np.ndarray, "n n"], int]:
    """Shortest paths in the symmetric graph of nearest neighbours (Isomap; Tenenbaum et al., 2000).

    Infinite between components, the number of which is returned too.
    """
    cloud = flat_points("graph_distances", points, 1)
    n = len(cloud)
    _check_many("graph_distances", n, most)
    neighbours = whole("graph_distances", "neighbours", neighbours, 1, n - 1)
    near = nearest_neighbours(cloud, cloud, neighbours + 1)
    columns, lengths = (np.asarray(x)[:, 1:].ravel() for x in (near.indices, near.distances))
    paths = shortest_paths(np.repeat(np.arange(n), neighbours), columns, lengths.astype(np.float64), n)
    # Every component has one point that is the first within reach of itself.
    first = np.argmax(np.isfinite(paths), axis=1)
    return paths, int(np.sum(first == np.arange(n)))


def scalar_curvature_from_balls(
    points: Float[Any, "n *features"] | None = None,
    *,
    dimension: int,
    distances: Float[Any, "n n"] | None = None,
    density: Float[Any, "n"] | None = None,
    neighbours: int = 20,
    radii: tuple[float, float] | None = None,
    bandwidth: float | None = None,
    most: int = MOST_POINTS,
) -> BallCurvature:
    """Scalar curvature from the growth of geodesic balls.

    The volume of a ball of radius r about x, over that of a ball in R^d, is

        vol B_r(x) / (omega_d r^d) = 1 - S(x) r^2 / (6 (d + 2)) + O(r^4)

    (Gray, *Michigan Mathematical Journal* 20, 1973). Following Hickok & Blumberg (arXiv 2308.02615),
    distances are shortest paths in a neighbour graph, the density rho is a kernel estimate with the biweight
    kernel on these distances, the volume is the sum of 1/rho_j over the ball divided by n - 1, and
    1 + C r^2 is fitted to the ratio by least squares between two radii: S = -6 (d + 2) C.

    The defaults differ from theirs in being covariant under scaling: the bandwidth is the median distance
    to the n^(4/(d+4))-th other point, and the largest radius that to the n^(8/(d+8))-th, so that the squared
    bias O(r^4) of S and its variance O(1/(n r^(d+4))) shrink alike; the smallest radius is a quarter of it.

    Three errors do not vanish at practical n. The kernel is itself biased by the curvature, towards S = 0;
    the mean of 1/rho is above 1/mean(rho), which lowers S; and shortest paths make detours. On 2000 points of
    S^2, where S = 2, the mean is 1.9 with exact arcs and density, 1.2 with exact arcs only, and 1.0 from
    samples alone; on S^3 (S = 6) it is 6.0, 2.7 and 5.4, the last because errors cancel. Near a boundary
    balls are cut, and S is far too large.

    Args:
        points: Samples; may be left out if distances are given.
        dimension: d.
        distances: Geodesic distances ``(n, n)`` to use in place of the graph's.
        density: Densities ``(n,)`` to use in place of the kernel estimate.
        neighbours: Edges from every point of the graph.
        radii: Smallest and largest radius of the fit.
        bandwidth: Radius of the kernel.
        most: Refuse more points than this: n x n distances are held, 8 n^2 bytes.

    Raises:
        ValueError: Points are too many or too few or not given, shapes do not fit, or radii do not increase.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(800, 3))
        >>> sphere = x / np.linalg.norm(x, axis=1, keepdims=True)
        >>> balls = mj.fitting.scalar_curvature_from_balls(sphere, dimension=2)
        >>> print(f"{np.mean(balls.scalar_curvature):.1f}")
        1.1
    """
    name = "scalar_curvature_from_balls"
    most, dimension = whole(name, "most", most), whole(name, "dimension", dimension)
    if distances is None and points is None:
        raise ValueError(f"{name}: give points or a matrix of distances.")
    if distances is None:
        cloud = flat_points(name, points, dimension)
        lengths, components = graph_distances(cloud, neighbours=neighbours, most=most)
    else:
        lengths, components = real(name, "distances", distances, np).astype(np.float64), 1
        if lengths.ndim != 2 or lengths.shape[0] != lengths.shape[1]:
            raise ValueError(f"{name}: distances must have shape (n, n), got {lengths.shape}.")
        _check_many(name, len(lengths), most)
    n, d = len(lengths), dimension
    r = _radii(name, lengths, n ** (8 / (d + 8)), radii, components)
    h = math.nan
    if density is not None:
        rho = real(name, "density", density, np).astype(np.float64)
        if rho.shape != (n,):
            raise ValueError(f"{name}: density must have shape ({n},), got {rho.shape}.")
    else:
        h = _median_radius(lengths, n ** (4 / (d + 4))) if bandwidth is None else bandwidth
        h = float(positive(name, "bandwidth", h))
        rho = _kernel_density(lengths, d, h)
    volumes, inside = _ball_volumes(lengths, 1 / np.where(rho > 0, rho, np.nan), r)
    slope = (volumes / (ball_volume(d) * r**d) - 1) @ r**2 / np.sum(r**4)
    values = -6 * (d + 2) * slope
    ok = np.isfinite(values) & (rho > 0) & (inside >= _LEAST)
    return BallCurvature(np.where(ok, values, np.nan), rho, ok, components, h, float(r[-1]))


def _check_many(caller: str, n: int, most: int) -> None:
    if not 2 * _LEAST <= n <= most:
        limits = f"it needs at least {2 * _LEAST} points and takes up to {most} points, got {n}"
        remedy = "thin the samples or raise most"
        raise ValueError(f"{caller} holds an n x n matrix, 8 n^2 bytes: {limits}; {remedy}.")


def _radii(
    name: str, lengths: np.ndarray, place: float, given: tuple[float, float] | None, components: int
) -> np.ndarray:
    largest = _median_radius(lengths, place)
    smallest, largest = (largest / 4, largest) if given is None else interval(name, "radii", given)
    if given is None and not largest < math.inf:
        remedy = "take more neighbours, give radii, or measure each component by itself"
        raise ValueError(f"{name}: most points reach too few others, in {components} components: {remedy}.")
    if not 0 < smallest < largest < math.inf:
        raise ValueError(f"{name}: radii must increase and be positive, got {smallest:g} and {largest:g}.")
    return np.linspace(smallest, largest, _RADII)


def _median_radius(lengths: np.ndarray, place: float) -> float:
    k = min(max(round(place), 1), len(lengths) - 1)
    return float(np.median(np.partition(lengths, k, axis=1)[:, k]))


def _kernel_density(lengths: np.ndarray, dimension: int, h: float) -> np.ndarray:
    """rho_i = sum_(j != i) K(d_ij / h) / ((n - 1) h^d), row by row, K the normalised biweight."""
    d = dimension
    integral = d * ball_volume(d) * (1 / d - 2 / (d + 2) + 1 / (d + 4))  # of (1 - t^2)^2 on the unit ball
    total = np.array([np.sum((1 - np.minimum(row / h, 1) ** 2) ** 2) for row in lengths])
    return (total - 1) / (integral * (len(lengths) - 1) * h**d)  # the point itself counts 1


def _ball_volumes(lengths: np.ndarray, inverse: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Volumes ``(n, radii)`` of the balls, and the other points that the largest holds ``(n,)``."""
    n = len(lengths)
    volumes, count = np.zeros((n, len(r))), np.zeros(n, int)
    for i in range(n):  # one row of distances at a time
        inside = np.flatnonzero(lengths[i] <= r[-1])
        inside = inside[inside != i]
        # A point counts in every ball from the first that reaches it.
        first = np.searchsorted(r, lengths[i, inside])
        volumes[i] = np.cumsum(np.bincount(first, inverse[inside], len(r)))
        count[i] = len(inside)
    return volumes / (n - 1), count
