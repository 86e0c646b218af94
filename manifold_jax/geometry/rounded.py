"""The step to which samples were rounded, where there is one, as in a table of few digits.

Rounding to a step q moves a number by up to q / 2, evenly where samples lie far apart: an energy of q^2 / 12
each (Widrow & Kollár, Quantization Noise, 2008).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from manifold_jax.geometry.points import Points

FEATURES = 64  # features up to which a step is looked for
FEW = 16  # rounded features up to which it counts: of more the high differences tell enough
ALONG = 64  # samples that are looked at along each of the two longest axes of a grid, from its beginning
ALONE = 4096  # the same along the only one
DIFFERENCE = 10  # order of the difference that a rounded feature has; of a smooth one nothing is left in it
BORNE_OUT = 0.01  # share of the energy of rounding that it has at least
FEWEST = 16  # gaps between values that a step has to explain
CLEAR = 32.0  # least step, over the rounding of the dtype
REMAINDERS = 6  # of Euclid's algorithm: the smallest gap is rarely more than a few steps
UNCLEAR = 0.4  # share of a step within which a gap must be known, or it may be of any number of steps


def rounded_energy(points: Points) -> float:
    """Energy E |eta|^2 of a sample rounded to the step that the samples have in common; 0 where none is seen.

    Features count that vary and have high differences too: equally spaced ones have a step, and are exact.
    Functions are not rounded, and samples that a program is being traced for cannot be looked at.
    """
    if points.evaluated or points.traced or points.features > FEATURES:
        return 0.0
    shape = points.grid.shape
    longest = sorted(range(len(shape)), key=lambda k: -shape[k])[:2]
    most = ALONG if len(shape) > 1 else ALONE
    index = [np.arange(min(n, most)) if k in longest else np.array([n // 2]) for k, n in enumerate(shape)]
    window = np.asarray(points.window(index))
    energy = common_step(window.reshape(-1, points.features)) ** 2 / 12
    if not energy:
        return 0.0
    left = np.zeros(points.features)
    for axis in longest:
        order = min(DIFFERENCE, window.shape[axis] - 1)
        squares = np.diff(window.astype(np.float64), order, axis=axis) ** 2 / math.comb(2 * order, order)
        squares = squares.reshape(-1, points.features)
        left = np.maximum(left, np.nan_to_num(squares).mean(axis=0))
    rounded = int(np.sum(left > BORNE_OUT * energy))
    return energy * rounded if rounded <= FEW else 0.0


def common_step(samples: Float[np.ndarray, "n f"]) -> float:
    """Step of which all differences between samples are multiples, feature by feature; 0 where there is none.

    Features may start anywhere.

    Example:
        >>> round(common_step(np.round(np.sin(np.arange(40.0)) + 0.2, 3)[:, None]), 9)
        0.001
        >>> common_step(np.sin(np.arange(40.0))[:, None])
        0.0
    """
    kind = samples.dtype if samples.dtype.kind == "f" else np.dtype(np.float64)
    samples = samples[np.isfinite(samples).all(axis=1)].astype(np.float64)
    if len(samples) < 2:
        return 0.0
    # That of the largest feature: small ones counted from an offset in common carry the rounding of it.
    rounding = 2 * float(np.finfo(kind).eps) * float(np.abs(samples).max())
    gaps = np.diff(np.sort(samples, axis=0), axis=0)
    gaps = np.sort(gaps[gaps > rounding])
    step = float(gaps[0]) if len(gaps) >= FEWEST else 0.0
    for _ in range(REMAINDERS):
        if step < CLEAR * rounding:
            break
        step, remainder = _fitted(gaps, rounding, step)
        if not remainder:
            return step
        step = remainder
    return 0.0


def _fitted(gaps: Float[np.ndarray, "m"], rounding: float, step: float) -> tuple[float, float]:
    """The step by least squares, from the smallest gap to the largest, and what it leaves of one, if any.

    The more steps a gap has, the better the step is known that tells how many.
    """
    products, squares = 0.0, 0.0
    for gap in gaps.tolist():
        count = round(gap / step)
        allowed = rounding * (1 + count / max(squares, 1.0) ** 0.5)
        left = abs(gap - count * step)
        if left > allowed or allowed > UNCLEAR * step:
            return step, left
        products, squares = products + count * gap, squares + count**2
        step = products / squares
    return step, 0.0
