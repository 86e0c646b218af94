"""The reach seen by lengths: how much longer shortest paths of samples are than chords."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from manifold_jax._checks import real
from manifold_jax.geometry.neighbours import nearest_neighbours
from manifold_jax.geometry.reach.scales import Scales

MOST_POINTS = 5000  # up to which matrices of distances are held
BYTES = 100  # of all matrices, for a pair of points
NEIGHBOURS = (
    2  # edges of a point, over the points of the smallest local fit: they bridge sparse places up to gaps
)
RARE = 3.0  # in 5 % of all clouds chance leaves a wider gap, which then counts as one
STEEP = 0.7  # sine of the angle to both tangent spaces beyond which an edge would leave the manifold
FACING = 0.95  # chord over twice the radius above which the length of the path hardly matters
SOFT = 0.2  # bar of a chord, over the chord, beyond which it counts for nothing
SCALES = (0.9, 0.8, 0.7, 0.6, 0.5)  # least chords that are tried, over twice the smallest radius in sight
NEAR = (2.0, 4.0)  # chords, in edges, whose paths tell how long detours are
SHARES = (0.25, 0.99)  # quantiles of these detours, which long paths make at least and at most
STEPS = 4  # of Newton's method, from a start that is 1 % off at most


def distortion_radius(chord: Float[Any, ""], arc: Float[Any, ""]) -> Float[Array, ""]:
    """Radius r of the circle on which a chord has this arc: arc = 2 r arcsin(chord / 2 r).

    For one pair (use ``vmap``); differentiable. In a set of reach tau points closer than 2 tau are joined by
    paths no longer than 2 tau arcsin(|x - y| / 2 tau), and tau is the largest such number (Boissonnat,
    Lieutier & Wintraecken, J. Appl. Comput. Topol. 3, 2019, theorem 1).

    Args:
        chord: |x - y|.
        arc: Length of the shortest path from x to y.

    Returns:
        The radius; half the chord where the arc is longer than half a circle, infinite where it is no longer
        than the chord.

    Example:
        >>> print(f"{mj.distortion_radius(2.0, jnp.pi):.4f}, {mj.distortion_radius(1.0, jnp.pi / 3):.4f}")
        1.0000, 1.0000
    """
    chord, arc = (1.0 * real("distortion_radius", name, x) for name, x in (("chord", chord), ("arc", arc)))
    return _radius(chord, arc, jnp)


def _radius(chord: Any, arc: Any, xp: Any = np) -> Any:
    """The radius arc / 2 t, where half the angle t solves sin(t) / t = chord / arc."""
    far, longer = 2 * arc >= math.pi * chord, ~(arc <= chord)
    ratio = xp.where(longer & ~far, chord / xp.where(longer & ~far, arc, 1.0), 0.8)
    rest = 1 - ratio
    t = xp.sqrt(6 * rest + 1.8 * rest**2)
    for _ in range(STEPS):
        t = t - (xp.sin(t) - ratio * t) / (xp.cos(t) - ratio)
    return xp.where(longer, xp.where(far, chord / 2, arc / (2 * t)), xp.inf)


class Distortion(NamedTuple):
    """Spherical distortion radius of samples.

    Attributes:
        value: The radius, infinite where no path is longer than its chord.
        error: Its bar, infinite where something narrower may hide between the samples.
        pair: The two samples that attain it.
        shortest: Chords from which on pairs are compared.
        detour: Relative length by which paths through samples are longer than shortest paths, at most.
    """

    value: float
    error: float
    pair: tuple[int, int]
    shortest: float
    detour: float


def spherical_distortion(
    rows: Float[np.ndarray, "n f"], known: Scales, count: int, rounding: Float[np.ndarray, "n"]
) -> Distortion:
    """The least radius of the pairs that are far enough apart, with bars of chords and of paths.

    With chords c_ij and paths s_ij between the points on the fits, sdr = min of :func:`distortion_radius` of
    (c_ij, s_ij) over c_ij >= delta (Aamari, Berenfeld & Levrard, Ann. Statist. 51, 2023). The edges of the
    graph are the nearest neighbours, twice as many as in the smallest local fit, that are not steep to both
    tangent spaces and no longer than :func:`widest_gap`. An edge is shorter than the manifold along it, and
    gets the length of an arc: of the least curvature near it in one graph, of the largest in the other. Both
    make detours from sample to sample: by how much, pairs a few edges apart show, of which the first takes
    many and the second few. No pair far apart is taken to make a larger detour than the largest of these.
    """
    n = len(rows)
    k = min(NEIGHBOURS * count, n - 1)
    index = np.asarray(nearest_neighbours(rows, rows, k + 1).indices)[:, 1:]
    feet, blur = known.feet - known.feet.mean(axis=0), known.blur + rounding
    chords, sine = _chords(feet, known.frames)
    first, second = np.repeat(np.arange(n), k), index.ravel()
    length = chords[first, second]
    kept = np.minimum(sine, sine.T)[first, second] * length <= STEEP * length + blur[first] + blur[second]
    gap = widest_gap(length.reshape(n, k), index, known.frames.shape[1])
    kept &= length <= np.maximum(gap[first], gap[second])
    first, second, length = first[kept], second[kept], length[kept]
    # Normal curvature along an edge is between those at all near points.
    low = np.maximum(known.curvature - known.error, 0.0)[index].min(axis=1)
    high = np.nan_to_num((known.curvature + known.error)[index].max(axis=1))
    inner = _arc(length, np.minimum(low[first], low[second]))
    outer = _arc(length, np.maximum(high[first], high[second])) * (1 + (known.curvature * blur)[first])
    lower, upper = (shortest_paths(first, second, x, n) for x in (inner, outer))
    step = float(np.median(length))
    least, detour, longest = _detours(chords, lower, low, step)
    # What blurs a point is normal to the manifold, and so to chords along it.
    off = blur[:, None] * np.minimum(sine + known.tilt[:, None], 1.0)
    pairs = np.triu_indices(n, 1)
    off, sine = (off + off.T)[pairs], np.maximum(sine, sine.T)[pairs]
    chords, lower, upper = chords[pairs], lower[pairs], upper[pairs] / (1 + least)
    # Of all pairs the least radius finds the one with the largest detour.
    lower = np.minimum(lower / (1 + detour), lower - longest)
    value, largest = _radius(chords, (lower + upper) / 2), _radius(chords + off, lower)
    smallest = _radius(np.maximum(chords - off, 0.0), upper)
    facing = (value * 2 * FACING <= chords) & (off <= SOFT * chords)
    curvature = float(known.curvature.max())
    in_sight = [float(chords.max()) / 2, 1 / curvature if curvature > 0 else math.inf]
    in_sight.append(float(value[facing].min(initial=np.inf)))
    result = Distortion(math.inf, math.inf, (0, 0), 0.0, detour)
    for shortest in (2 * scale * min(in_sight) for scale in SCALES):
        chosen = np.flatnonzero((chords >= shortest) & np.isfinite(value))
        if not len(chosen):
            continue
        place = chosen[np.argmin(value[chosen])]
        best, top, bottom = float(value[place]), largest[chosen].min(), smallest[chosen].min()
        # Ends that miss the closest by s lengthen the chord c by about s^2 / c.
        bottom -= known.spacing**2 / (2 * best)
        # Ends of a border that face each other are a spacing away from its samples.
        bottom -= 2 * known.spacing if facing[place] and sine[place] <= STEEP else 0.0
        # What is narrower than these chords shows as pairs just as long, on paths of more than half a circle.
        hidden = bottom <= (shortest + known.spacing) / 2
        error = math.inf if hidden else float(max(best - bottom, top - best))
        if error < result.error or not math.isfinite(result.value):
            ends = int(pairs[0][place]), int(pairs[1][place])
            result = Distortion(best, error, ends, shortest, detour)
    return result


def widest_gap(
    edges: Float[np.ndarray, "n k"], index: Int[np.ndarray, "n k"], dimension: int
) -> Float[np.ndarray, "n"]:
    """Length without a sample that chance leaves somewhere among n independent samples, at most; near each.

    A ball that holds m samples on average is empty with probability e^-m: none of n balls with m = log n +
    :data:`RARE` is, but for a share e^-RARE of all clouds. The distance to the k-th neighbour is the radius
    of a ball with m = k; its median over neighbours of neighbours does not see a gap beside the sample.
    """
    radius, k = edges.max(axis=1), edges.shape[1]
    for _ in range(2):
        radius = np.median(radius[index], axis=1)
    return 2 * radius * ((math.log(len(edges)) + RARE) / k) ** (1 / dimension)


def _chords(
    points: Float[np.ndarray, "n f"], frames: Float[np.ndarray, "n d f"]
) -> tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """Lengths of chords, and sines of their angle to the tangent space at the first end."""
    sizes = np.sum(points**2, axis=1)
    squares = np.maximum(sizes[:, None] + sizes[None, :] - 2 * points @ points.T, 0.0)
    along = np.zeros_like(squares)
    for axis in np.swapaxes(frames.astype(np.float64), 0, 1):
        along += (axis @ points.T - np.sum(axis * points, axis=1)[:, None]) ** 2
    sine = np.sqrt(np.clip(1 - along / np.where(squares > 0, squares, 1.0), 0.0, 1.0))
    return np.sqrt(squares), sine


def _arc(chord: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Arc of a circle of this curvature over a chord, half of it at most."""
    x = np.clip(chord * curvature / 2, 0.0, 1.0)
    return chord * np.where(x > 1e-6, np.arcsin(x) / np.maximum(x, 1e-6), 1.0)


def _detours(
    chords: np.ndarray, paths: np.ndarray, curvature: np.ndarray, step: float
) -> tuple[float, float, float]:
    """By what share paths of a few edges are too long, at least and at most, and by what length at most.

    One hole that is gone around adds a length, many of them along a path a share.
    """
    near = (chords >= NEAR[0] * step) & (chords <= NEAR[1] * step) & (paths <= 1.5 * chords)
    if not near.any():
        return 0.0, 0.0, 0.0
    i, _ = np.nonzero(near)
    arcs = _arc(chords[near], curvature[i])
    few, many = np.maximum(np.quantile(paths[near] / arcs, SHARES) - 1, 0.0)
    return float(few), float(many), float(np.max(paths[near] - arcs, initial=0.0))


def shortest_paths(
    first: Int[np.ndarray, "e"], second: Int[np.ndarray, "e"], length: Float[np.ndarray, "e"], count: int
) -> Float[np.ndarray, "n n"]:
    """Lengths of the shortest paths of a graph, infinite between its components; edges may be named twice."""
    # Late: JAX itself installs SciPy, but only this needs the two modules.
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import dijkstra

    # SciPy takes an edge of length exactly zero for none.
    length = np.maximum(length, np.finfo(np.float64).tiny)
    graph = csr_matrix((length, (first, second)), shape=(count, count))
    return dijkstra(graph.maximum(graph.T), directed=False)
