"""Reach of a cloud of samples, without a grid: the plug-in estimator with given or estimated tangents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import (
    checked_function,
    choice,
    finite,
    fits_in_memory,
    flat_points,
    is_traced,
    optional,
    positive,
    real,
    whole,
)
from manifold_jax._executors import check_executor
from manifold_jax._files import Progress
from manifold_jax._linalg import norm
from manifold_jax.geometry.reach.bottleneck import NONE, Candidate
from manifold_jax.geometry.reach.cloud import Cloud, check_extent, lengths, make_cloud
from manifold_jax.geometry.reach.distortion import BYTES, MOST_POINTS, Distortion, spherical_distortion
from manifold_jax.geometry.reach.frames import ROUNDING
from manifold_jax.geometry.reach.lattice import End
from manifold_jax.geometry.reach.pairs import PAIRS, PairSearch, Tile, check_options, tile_shape
from manifold_jax.geometry.reach.result import ComponentReach, Reach, conclude, smallest_pairs
from manifold_jax.geometry.reach.scales import Scales, fit_scales
from manifold_jax.geometry.reach.screen import RELIABLE

TURNED = 0.2  # bar of the tilt of fitted tangent spaces beyond which samples are too few for any bar
METHODS = ("plug-in", "curvature", "distortion")
DEPENDENT = 1e-6  # ratio of the smallest to the largest pivot at which tangent vectors count as dependent


def tangent_ball_radius(
    x: Float[Array, "f"], y: Float[Array, "f"], frame: Float[Array, "d f"]
) -> Float[Array, ""]:
    """R(x, y) = |y - x|^2 / (2 d(y - x, T_x)), the ball that touches T_x at x and passes through y.

    For one pair (use ``vmap``); differentiable. Federer, *Curvature measures*, Trans. AMS 93 (1959), theorem
    4.18.

    Args:
        x: Point that the ball touches.
        y: Point that it passes through.
        frame: Orthonormal rows that span the tangent space at x.

    Returns:
        The radius, infinite with derivative 0 where y lies in the tangent plane.

    Example:
        >>> x, y = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> print(mj.tangent_ball_radius(x, y, jnp.array([[0.0, 1.0]])))
        1.0
    """
    x, y = (jnp.ravel(real("tangent_ball_radius", name, one)) for name, one in (("x", x), ("y", y)))
    frame = real("tangent_ball_radius", "frame", frame)
    for name, ends in (("y", y.shape), ("frame", frame.shape[1:])):
        if ends != x.shape or (name == "frame" and frame.ndim != 2):
            got = f"{y.shape}" if name == "y" else f"{frame.shape}"
            wanted = f"{x.size} coordinates as x has"
            raise ValueError(f"tangent_ball_radius: {name} must have {wanted}, got shape {got}.")
    v = y - x
    along = jnp.sum(frame * v, axis=-1)
    height = norm(v - jnp.sum(frame * along[:, None], axis=0))
    flat = height == 0
    return jnp.where(flat, jnp.inf, jnp.sum(v**2) / (2 * jnp.where(flat, 1.0, height)))


def reach_from_samples(
    points: Float[Any, "n *features"],
    tangents: Float[Any, "n d *features"] | None = None,
    *,
    dimension: int,
    neighbours: int | None = None,
    separation: float | None = None,
    noise: float | None = None,
    method: str = "plug-in",
    tolerance: float = 0.1,
    tile_size: int | None = None,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    executor: Any = None,
) -> Reach:
    """Reach from samples alone, with a bar for sampling, noise and the errors of tangents.

    The infimum of Federer's ratio is taken over pairs of samples,

        tau_n = min over i != j of |y_j - x_i|^2 / (2 d(y_j - x_i, T_i)),

    the estimator of Aamari, Kim, Chazal, Michel, Rinaldo & Wasserman (Electron. J. Stat. 13, 2019). With
    exact tangents and no noise it can only be too large, for the infimum runs over fewer pairs: by
    O(n^(-1/d)) where a bottleneck decides, and O(n^(-2/(3d-1))) where curvature does (their section 4). Noise
    and the tilt of estimated tangents change the distance to T_i; pairs for which that is more than the
    tolerance are left out. What sampling costs is seen by quadratic fits in neighbourhoods of several sizes:
    they tell noise, tangents and an interval of the largest curvature, in which the value must lie. What no
    sample lies near, no bar knows.

    ``method="distortion"`` is the estimator of Aamari, Berenfeld & Levrard (Ann. Statist. 51, 2023), the
    smaller of two halves,

        tau = min(1 / largest curvature, sdr_delta),

        sdr_delta = sup {r: d_M(x, y) <= 2 r arcsin(|x - y| / 2 r) wherever delta <= |x - y| < 2 r},

    where delta below 2 tau does (see :func:`distortion_radius`). The first half is that of the local fits.
    For the second, ``bottleneck`` of the result, d_M are shortest paths between the points on the fits, which
    lie nearer to the manifold than noisy samples do: it needs no tangents, and sees bottlenecks in noise that
    hides them from the plug-in. Its bar holds what edges are shorter than arcs, the detours of paths from
    sample to sample, noise, and bottlenecks below delta. Gaps that chance leaves somewhere in so many samples
    are bridged, on a curve those below log n + 3 mean distances.

    Args:
        points: Samples. Those at the same place are taken once and counted in ``coincident``. Those that are
            cut over the devices of a mesh are gathered on the host.
        tangents: Vectors that span the tangent space at every point; by default from the local fits.
        dimension: d.
        neighbours: Points of the smallest local fit; by default ``d (d + 3) + 4``.
        separation: Least distance of a pair, by default 0.
        noise: Standard deviation of the points in every direction off the manifold, 0 if they lie on it; by
            default what the local fits and the closest pairs say.
        method: ``"plug-in"``; ``"curvature"``: where curvature decides, the largest of the local fits instead
            of a pair; or ``"distortion"``: that, and shortest paths, for up to 5000 points.
        tolerance: As in :func:`reach`.
        tile_size: As in :func:`reach`.
        progress: As in :func:`reach`.
        checkpoint: Folder of finished tiles, from which a call with the same arguments goes on; local fits
            and shortest paths are made again.
        executor: As in :func:`reach`; local fits are made in this process.

    Returns:
        The estimate. ``local`` and ``bottleneck`` are those of near and of far pairs (chord at more than 30
        degrees to the tangent space), ``pair`` the two deciding points. ``error`` is infinite for fewer
        points than two local fits need, 2 d (d + 3) + 9; ``pointwise_error`` is without sampling.

    Raises:
        ValueError: Shapes do not fit, values are NaN, all points coincide, there are too few, or squares of
            distances leave the range of the dtype.

    Example:
        >>> t = jax.random.uniform(jax.random.key(0), (400,), maxval=2 * jnp.pi)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> tangent = jnp.stack([-jnp.sin(t), jnp.cos(t)], axis=-1)[:, None]
        >>> print(f"{mj.reach_from_samples(circle, tangent, dimension=1).value:.2f}")
        1.00
    """
    name = "reach_from_samples"
    check_options(name, tile_size, tolerance)
    optional(partial(positive, zero=True), name, "separation", separation)
    optional(partial(positive, zero=True), name, "noise", noise)
    optional(checked_function, name, "progress", progress)
    choice(name, "method", method, METHODS)
    executor = check_executor(name, executor)
    if is_traced(points):
        raise ValueError(f"{name}: the search runs on the host and cannot be traced; call it outside of jit.")
    everyone, dimension = (
        np.asarray(flat_points(name, points, dimension)),
        whole(name, "dimension", dimension),
    )
    if len(everyone) < 3:
        raise ValueError(f"{name}: points must be at least 3, got {len(everyone)}.")
    if method == "distortion":
        if len(everyone) > MOST_POINTS:
            raise ValueError(
                f"{name}: method='distortion' holds matrices of n x n distances, for up to {MOST_POINTS} "
                f"points, got {len(everyone)}; thin the samples, or take another method."
            )
        fits_in_memory(name, "n x n distances", BYTES * len(everyone) ** 2, "thin the samples")
    rounding = float(np.finfo(everyone.dtype).eps) * lengths(everyone)
    check_extent(name, everyone, 4 * float(rounding.max()))
    least = dimension * (dimension + 3) // 2 + 2
    count = dimension * (dimension + 3) + 4 if neighbours is None else neighbours
    if tangents is None or neighbours is not None:
        count = whole(name, "neighbours, of the smallest local fit,", count, least, len(everyone) - 1)
    frames = None if tangents is None else _given_tangents(name, tangents, everyone, dimension)
    first, place = _distinct(everyone)
    rows, frames = everyone[first], None if frames is None else frames[first]
    n, count = len(rows), min(count, len(rows) - 1)
    known = fit_scales(rows, dimension, count, frames, noise) if count >= least else None
    if noise is None:
        noise = 0.0 if known is None else max(known.noise, known.closest / 2**0.5)
    # The search takes pairs whose radius is known to RELIABLE; for what is estimated the tolerance will do.
    share, tilt = RELIABLE / tolerance, np.full(n, ROUNDING * float(np.finfo(rows.dtype).eps))
    if frames is None:
        if known is None:
            raise ValueError(f"{name}: points must be at least {least + 1} different ones, got {n}.")
        frames, tilt = known.frames, tilt + share * known.tilt
    cloud = make_cloud(rows, rounding[first] + share * PAIRS * noise / 2**0.5)
    how = progress, checkpoint, executor
    search = _compare_all(cloud, frames, tilt, separation or 0.0, tile_size, *how)
    paths = None
    if method == "distortion" and known is not None:
        paths = spherical_distortion(rows, known, count, rounding[first])
    result = _result(search, known, method, tolerance, paths)
    # Where tangent spaces are not seen the fits are none; and pairs were left out where they had to be seen.
    limit = TURNED if tangents is not None else min(TURNED, tolerance)
    if paths is None and known is not None and float(known.tilt.max()) > limit:
        result = result._replace(error=max(result.error, result.value), resolved=False)
    if noise > 0:
        # To the search, points within the noise of each other were in one place.
        result = result._replace(coincident=0)
    return _with_copies(result, place, first) if n < len(everyone) else result


def _compare_all(
    cloud: Cloud,
    frames: np.ndarray,
    tilt: np.ndarray,
    separation: float,
    tile_size: int | None,
    progress: Progress | None,
    checkpoint: str | Path | None,
    executor: Any,
) -> PairSearch:
    """Search all pairs, tile by tile."""
    n, (size, columns) = len(cloud.points), tile_shape(cloud, tile_size)
    search, size = PairSearch(cloud, columns, separation=separation), min(size, n)
    nothing = np.zeros(size)

    def tiles() -> Iterator[Tile]:
        for group in compact_groups(cloud.projected, size):
            # Filled up with the last point of the group: one shape, one compilation.
            position, own = np.pad(group, (0, size - len(group)), mode="edge"), np.arange(size) < len(group)
            yield Tile(position, frames[position], tilt[position], nothing + np.inf, nothing, own=own)

    search.compare_all(tiles(), n, progress, checkpoint, executor)
    return search


def _distinct(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the first of all points in one place, ascending, and for every point which of these it is."""
    _, first, place = np.unique(points, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[place.ravel()]


def _given_tangents(caller: str, tangents: Any, rows: np.ndarray, dimension: int) -> np.ndarray:
    """Orthonormal frames from spanning vectors."""
    vectors, (n, f) = real(caller, "tangents", tangents, np), rows.shape
    if vectors.ndim < 3 or vectors.shape[:2] != (n, dimension) or vectors[0, 0].size != f:
        raise ValueError(f"{caller}: tangents must have shape ({n}, {dimension}, {f}), got {vectors.shape}.")
    vectors = vectors.reshape(n, dimension, f).astype(np.float64)
    finite(caller, "tangents", vectors)
    frames, triangle = np.linalg.qr(np.swapaxes(vectors, 1, 2))
    pivots = np.abs(np.diagonal(triangle, axis1=1, axis2=2))
    flat = np.flatnonzero(pivots.min(axis=1) <= DEPENDENT * pivots.max(axis=1))
    if len(flat):
        raise ValueError(
            f"{caller}: tangents must be independent, got dependent vectors at {len(flat)} "
            f"points, first at {flat[0]}."
        )
    return np.ascontiguousarray(np.swapaxes(frames, 1, 2)).astype(rows.dtype)


def compact_groups(points: np.ndarray, size: int) -> list[np.ndarray]:
    """Indices in groups of ``size`` near points, by halving along the widest direction (a k-d tree)."""
    groups, stack = [], [np.arange(len(points))]
    while stack:
        index = stack.pop()
        if len(index) <= size:
            groups.append(index)
            continue
        part = points[index]
        along = part[:, int(np.argmax(np.ptp(part, axis=0)))]
        # Cut at a multiple of the size, so that all groups but one are full.
        cut = max(1, round(len(index) / size / 2)) * size
        order = np.argpartition(along, min(cut, len(index) - 1))
        stack += [index[order[:cut]], index[order[cut:]]]
    return groups


def _result(
    search: PairSearch, known: Scales | None, method: str, tolerance: float, paths: Distortion | None
) -> Reach:
    """From pairs and local fits; where there are no fits nothing is known about sampling."""
    points, witness = search.cloud.points, search.witness
    n, centres = len(points), np.flatnonzero(witness >= 0)
    error = np.full(n, np.inf)
    error[centres] = search.error[centres] * (tolerance / RELIABLE if known else 1.0)
    near, far = (
        Candidate(float(search.radius[k]), float(error[k]), (End(0, points[k]), End(0, points[witness[k]])))
        if k >= 0
        else NONE
        for k in smallest_pairs(search)
    )
    balls = ComponentReach("samples", None, search.radius, error, witness, np.zeros(n, bool))
    curved, facing, least = near, far, 0.0
    if known is not None:
        curved, shortest = _curved(known, near, points, method)
        facing, closest = _facing(known, far)
        if paths is not None:
            first, second = (End(0, points[k]) for k in paths.pair)
            facing = Candidate(paths.value, paths.error, (first, second))
            closest = paths.value - paths.error if math.isfinite(paths.error) else -math.inf
        least = min(shortest, closest)
    if search.separation > 0 and not len(centres):
        curved = NONE
    result = conclude((curved, curved, facing, facing), (balls,), search, tolerance)
    if not math.isfinite(result.value) or known is None:
        return result._replace(error=math.inf, resolved=False, searched=math.inf)
    bar = max(result.error, result.value - least)
    return result._replace(error=bar, resolved=bool(bar <= tolerance * result.value), searched=math.inf)


def _curved(known: Scales, near: Candidate, points: np.ndarray, method: str) -> tuple[Candidate, float]:
    """The local part in the interval that the largest curvature allows, and the lower end of that."""
    low, high = known.largest_curvature
    most = int(np.argmax(known.curvature))
    shortest = 1 / high if high > 0 else math.inf
    longest = min(1 / low if low > 0 else math.inf, near.value + near.error)
    shortest, longest = min(shortest, longest), max(shortest, longest)
    if method != "plug-in" or not math.isfinite(near.value):
        curvature = float(known.curvature[most])
        radius = 1 / curvature if curvature > 0 else math.inf
        place = End(0, points[most])
        near = Candidate(radius, math.inf, (place, place))
    value = min(max(near.value, shortest), longest)
    error = max(value - shortest, longest - value) if math.isfinite(value) else math.inf
    return Candidate(value, error, near.ends), shortest


def _facing(known: Scales, far: Candidate) -> tuple[Candidate, float]:
    """The far pair with what a nearer one between the samples may take off, and the least that leaves.

    Ends that miss the bottleneck by s lengthen the chord c by about s^2 / c.
    """
    if not math.isfinite(far.value):
        return far, math.inf
    error = far.error + known.spacing**2 / (2 * far.value)
    return far._replace(error=error), far.value - error


def _with_copies(result: Reach, place: np.ndarray, first: np.ndarray) -> Reach:
    """The result for all points, of which several lie in one place; ordered pairs of them are counted."""
    balls = result.components[0]
    radius, error, witness = balls.pointwise, balls.pointwise_error, np.append(first, -1)[balls.witness]
    border = np.zeros(len(place), bool)
    balls = ComponentReach(balls.name, None, radius[place], error[place], witness[place], border)
    copies = np.bincount(place)
    return result._replace(
        components=(balls,), coincident=result.coincident + int(np.sum(copies * (copies - 1)))
    )
