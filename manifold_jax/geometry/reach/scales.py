"""Tangents, curvature and noise of samples by quadratic fits in neighbourhoods of several sizes, with bars.

What no single fit can tell, fits of different size can: noise is what does not grow with the neighbourhood,
and what a fit misses is about what it changes by in one twice as large.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from manifold_jax.geometry.neighbours import nearest_neighbours
from manifold_jax.geometry.normal_curvature import normal_curvature
from manifold_jax.geometry.reach.cloud import pieces
from manifold_jax.geometry.tensors import JetGram

SIGMAS = 2.5  # standard errors that a bar holds
SURE = 2  # of these, beyond which a smaller fit that differs is believed, whichever of the many points
MOST = 256  # neighbours of the largest fit
NEIGHBOURS, NUMBERS = 2**21, 2**29  # of all points in the largest fit, and of their differences, at most
SHAPE = 0.03  # relative error of a curvature k from points within r, over (k r)^2 + (k r)^4, at least
STRIDE = 3.0  # error of an extrapolation over its length, for each relative change between the two sizes
TINY = np.finfo(np.float64).tiny
FOLLOWED = 2.0  # variance of the noise, over that of what the smallest fits miss, at most
CLOSEST = 10  # pairs of closest points that are looked at, at least
SINGULAR = 1e-13  # added to the moments of the coordinates, which are of the order of 1


class Fit(NamedTuple):
    """Quadratic fits to the neighbours of every point, of one size.

    Attributes:
        frames: Orthonormal frames of the tangent spaces.
        curvature: Largest normal curvature.
        noise: Root mean square distance of the neighbours from the fit, in one normal direction.
        curvature_gain: Standard error of the curvature, over the noise.
        tilt_gain: Standard error of the sine of the tilt of the tangent space, over the noise.
        radius: Distance of the farthest neighbour, along the tangent space.
        shift: From the point to the fit.
        shift_gain: Standard error of the fit there, over the noise.
    """

    frames: Float[np.ndarray, "n d f"]
    curvature: Float[np.ndarray, "n"]
    noise: Float[np.ndarray, "n"]
    curvature_gain: Float[np.ndarray, "n"]
    tilt_gain: Float[np.ndarray, "n"]
    radius: Float[np.ndarray, "n"]
    shift: Float[np.ndarray, "n f"]
    shift_gain: Float[np.ndarray, "n"]


class Scales(NamedTuple):
    """What the fits of all sizes say.

    Attributes:
        frames: Tangent frames ``(n, d, f)``, of the size at which they are known best.
        tilt: Bar of the sine of their tilt.
        curvature: Largest normal curvature at every point.
        error: Its bar.
        feet: The points on the fits ``(n, f)``, or as they came where those are known no better.
        blur: Bar of their distance from the manifold.
        noise: Standard deviation of the points in one normal direction.
        closest: Root mean square distance, in one normal direction, of the closest points to each other's
            tangent space: at most sqrt(2) times the noise, and what curvature does.
        spacing: Distance to the 3 2^(d - 1)-th neighbour, the median over the points.
    """

    frames: Float[np.ndarray, "n d f"]
    tilt: Float[np.ndarray, "n"]
    curvature: Float[np.ndarray, "n"]
    error: Float[np.ndarray, "n"]
    feet: Float[np.ndarray, "n f"]
    blur: Float[np.ndarray, "n"]
    noise: float
    closest: float
    spacing: float

    @property
    def largest_curvature(self) -> tuple[float, float]:
        """Interval of the largest normal curvature of the manifold."""
        return float(np.max(self.curvature - self.error)), float(np.max(self.curvature + self.error))


def fit_scales(
    rows: Float[np.ndarray, "n f"],
    dimension: int,
    count: int,
    frames: Float[np.ndarray, "n d f"] | None = None,
    noise: float | None = None,
) -> Scales:
    """Fit in neighbourhoods of ``count``, twice, four times ... as many points; frames are where to start.

    The noise is estimated where it is not given.
    """
    n, f = rows.shape
    sizes = [count, min(2 * count, n - 1)]
    while 2 * sizes[-1] <= min(n // 3, MOST, NEIGHBOURS // n, NUMBERS // (n * f)):
        sizes.append(2 * sizes[-1])
    near = nearest_neighbours(rows, rows, sizes[-1] + 1)
    distance, index = (np.asarray(x)[:, 1:] for x in near)
    fits = [_fit(rows, index[:, :size], dimension, frames) for size in sizes]
    noise = _noise(fits, dimension) if noise is None else noise
    curvature, error = _curvature(fits, noise, dimension)
    if sizes[1] < 2 * count:  # too few points for two sizes
        error = error + np.inf
    best, tilt = _tangents(fits, noise)
    feet, blur = _feet(rows, fits, noise)
    # A bar that is small by chance is not believed: the largest among near points counts.
    together = index[:, : 2 * dimension + 4]
    error, tilt = (np.maximum(x, x[together].max(axis=1)) for x in (error, tilt))
    spacing = float(np.median(distance[:, min(3 * 2 ** (dimension - 1), sizes[-1]) - 1]))
    few = np.argsort(distance[:, 0])[: max(CLOSEST, n // 50)]
    chord = rows[index[few, 0]].astype(np.float64) - rows[few]
    plane = (best if frames is None else frames)[few]
    normal = chord - np.einsum("pdf,pd->pf", plane, np.einsum("pdf,pf->pd", plane, chord))
    closest = float(np.sqrt(np.mean(np.sum(normal**2, axis=1)) / (f - dimension)))
    return Scales(best, tilt, curvature, error, feet, blur, noise, closest, spacing)


def _fit(rows: np.ndarray, index: Int[np.ndarray, "n k"], d: int, frames: np.ndarray | None) -> Fit:
    parts = []
    for part in pieces(len(rows), index.shape[1] * rows.shape[1]):
        difference = rows[index[part]].astype(np.float64) - rows[part, None]
        start = _principal(difference, d) if frames is None else frames[part].astype(np.float64)
        parts.append(_regress(difference, start))
    tangents, second, *rest = (np.concatenate(field) for field in zip(*parts, strict=True))
    n = len(rows)
    leaves: Any = (np.broadcast_to(np.eye(d), (n, d, d)), np.zeros((n, d, d, d)), second)
    return Fit(tangents.astype(rows.dtype), np.asarray(normal_curvature(JetGram(*leaves)), np.float64), *rest)


def _principal(difference: Float[np.ndarray, "p k f"], d: int) -> Float[np.ndarray, "p d f"]:
    """Leading principal directions, from the smaller of the two matrices of products."""
    turned = np.swapaxes(difference, 1, 2)
    k, f = difference.shape[1:]
    if f <= k:
        return np.swapaxes(np.linalg.eigh(turned @ difference)[1][:, :, -d:], 1, 2)
    weights = np.linalg.eigh(difference @ turned)[1][:, :, -d:]
    return _orthonormal(np.swapaxes(weights, 1, 2) @ difference)


def _orthonormal(frames: Float[np.ndarray, "p d f"]) -> Float[np.ndarray, "p d f"]:
    return np.swapaxes(np.linalg.qr(np.swapaxes(frames, 1, 2))[0], 1, 2)


def _regress(difference: Float[np.ndarray, "p k f"], frame: np.ndarray) -> tuple[np.ndarray, ...]:
    """Fit normal parts by a quadratic function of the tangential ones; the fields of a :class:`Fit`.

    Tangential parts keep their direction and get the length of the whole chord: on a sphere the fit is then
    exact, whatever its size, and elsewhere a mean of the curvatures 2 d(y - x, T_x) / |y - x|^2 of chords.
    Instead of curvature come the products of the second derivatives. The first of two fits finds the plane
    and the place of the second.
    """
    count, (d, f) = difference.shape[1], frame.shape[1:]
    i, j = np.triu_indices(d)
    linear, quadratic = slice(1, 1 + d), slice(1 + d, None)
    coefficients, _, _, radius = _least_squares(difference, frame)
    frame = _orthonormal(frame + coefficients[:, linear] / radius)
    shift = coefficients[:, :1]
    coefficients, missed, inverse, radius = _least_squares(difference - shift, frame)
    shift = (shift + coefficients[:, :1])[:, 0]
    frame = _orthonormal(frame + coefficients[:, linear] / radius)
    freedom = max(count - coefficients.shape[1], 1) * max(f - d, 1)
    noise = np.sqrt(np.sum(missed**2, axis=(1, 2)) / freedom)
    second = np.zeros((len(frame), d, d, f))
    second[:, i, j] = second[:, j, i] = coefficients[:, quadratic] * np.where(i == j, 2, 1)[:, None]
    second = second.reshape(len(frame), d * d, f) / radius**2
    products = (second @ np.swapaxes(second, 1, 2)).reshape(-1, d, d, d, d)
    radius = radius[:, 0, 0]
    gain = 2 * np.sqrt(np.linalg.norm(inverse[:, quadratic, quadratic], axis=(1, 2))) / radius**2
    tilt = np.sqrt(np.linalg.norm(inverse[:, linear, linear], axis=(1, 2))) / radius
    return frame, products, noise, gain, tilt, radius, shift, np.sqrt(inverse[:, 0, 0])


def _least_squares(chord: Float[np.ndarray, "p k f"], frame: np.ndarray) -> tuple[np.ndarray, ...]:
    """Coefficients of 1, t, t t in units of the radius, what they miss, (A^T A)^-1 and the radius."""
    i, j = np.triu_indices(frame.shape[1])
    along = chord @ np.swapaxes(frame, 1, 2)
    normal = chord - along @ frame
    flat, length = np.linalg.norm(along, axis=2), np.linalg.norm(chord, axis=2)
    radius = length.max(axis=1)[:, None, None]
    radius = np.where(radius > 0, radius, 1.0)
    t = along * (length / np.where(flat > 0, flat, 1.0))[:, :, None] / radius
    design = np.concatenate([np.ones_like(t[:, :, :1]), t, t[:, :, i] * t[:, :, j]], axis=2)
    turned = np.swapaxes(design, 1, 2)
    inverse = np.linalg.inv(turned @ design + SINGULAR * design.shape[1] * np.eye(design.shape[2]))
    coefficients = inverse @ (turned @ normal)
    return coefficients, normal - design @ coefficients, inverse, radius


def _noise(fits: list[Fit], dimension: int) -> float:
    """Noise level: what fits miss grows as the cube of the radius, noise does not.

    The smallest fit may follow the noise a little, but no more than that.
    """
    variances = [float(np.median(fit.noise)) ** 2 for fit in fits]
    growth = 2 ** (6 / dimension)
    levels = [(growth * small - large) / (growth - 1) for small, large in pairwise(variances)]
    return math.sqrt(max(0.0, min(max(levels), FOLLOWED * variances[0])))


def _curvature(fits: list[Fit], noise: float, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Curvature and its bar, of the size at which the bar is smallest.

    What a fit misses grows as the square of its size: so the value is extrapolated from two sizes, and the
    extrapolation is part of the bar, more where it is large, as are steps from smaller sizes beyond noise.
    """
    share = 1 / (4 ** (1 / d) - 1)
    errors = [SIGMAS * np.maximum(fit.noise, noise) * fit.curvature_gain for fit in fits]
    values, bars = [], []
    for k, (fit, larger) in enumerate(pairwise(fits)):
        change = fit.curvature - larger.curvature
        step = share * change
        bar = np.abs(step) * (1 + STRIDE * np.abs(change) / np.maximum(fit.curvature, np.abs(change) + TINY))
        for smaller, error in zip(fits[:k], errors[:k], strict=True):
            bar = np.maximum(bar, np.abs(fit.curvature - smaller.curvature) - SURE * error - errors[k])
        turn = (fit.curvature * fit.radius) ** 2
        shape = SHAPE * fit.curvature * (turn + turn**2)
        values.append(fit.curvature + step)
        bars.append(bar + (1 + share) * errors[k] + shape)
    best = np.argmin(bars, axis=0)[None]
    return tuple(np.take_along_axis(np.stack(x), best, axis=0)[0] for x in (values, bars))


def _tangents(fits: list[Fit], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Frames and the bar of their tilt, of the size at which the bar is smallest.

    It holds the standard error, the angle to the next larger size and those to smaller sizes beyond noise.
    """
    errors = [SIGMAS * np.maximum(fit.noise, noise) * fit.tilt_gain for fit in fits]
    bars = []
    for k, (fit, larger) in enumerate(pairwise(fits)):
        bar = _angle(fit.frames, larger.frames)
        for smaller, error in zip(fits[:k], errors[:k], strict=True):
            bar = np.maximum(bar, _angle(fit.frames, smaller.frames) - SURE * error - errors[k])
        bars.append(bar + errors[k])
    best = np.argmin(bars, axis=0)
    frames = np.stack([fit.frames for fit in fits[:-1]])
    return frames[best, np.arange(len(best))], np.min(bars, axis=0)


def _feet(rows: np.ndarray, fits: list[Fit], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Points on the fits of the size at which their bar is smallest, and that bar.

    It holds the standard error and the step to the next larger size; the points themselves are off by noise.
    """
    best, blur = rows.astype(np.float64), np.full(len(rows), SIGMAS * noise)
    for fit, larger in pairwise(fits):
        bar = SIGMAS * np.maximum(fit.noise, noise) * fit.shift_gain
        bar = bar + np.linalg.norm(fit.shift - larger.shift, axis=1)
        best = np.where((bar < blur)[:, None], rows + fit.shift, best)
        blur = np.minimum(bar, blur)
    return best, blur


def _angle(frames: Float[np.ndarray, "n d f"], others: Float[np.ndarray, "n d f"]) -> Float[np.ndarray, "n"]:
    """Sine of the angle between tangent spaces, about."""
    inside = others @ np.swapaxes(frames, 1, 2) @ frames
    return np.linalg.norm(others - inside, axis=(1, 2))
