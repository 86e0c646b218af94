"""The step to which samples were rounded, where there is one: images of few bits, tables of few digits.

Rounding to a step q moves every number by up to q / 2, evenly where samples lie far apart: an energy of
q^2 / 12 each (Widrow & Kollár, Quantization Noise, 2008).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from manifold_jax.geometry.manifold import Points
from manifold_jax.geometry.sources import Stored

FEATURES = 64  # features up to which a step is looked for: of more the high differences tell enough
ALONG = 64  # samples that are looked at along each of the two longest axes of a grid
ALONE = 4096  # the same along the only one
FEWEST = 16  # gaps between values that a step has to explain
CLEAR = 64.0  # least step, over the rounding of the dtype
REMAINDERS = 6  # of Euclid's algorithm: the smallest gap is rarely more than a few steps
UNCLEAR = 0.25  # share of a step within which a gap must be known, or it may be of any number of steps


def rounded_energy(points: Points) -> float:
    """Energy E |eta|^2 of a sample rounded to the step that the samples have in common; 0 where none is seen.

    Functions are not rounded, and samples that a program is being traced for cannot be looked at.
    """
    if points.evaluated or points.traced or points.features > FEATURES:
        return 0.0
    shape = points.grid.shape
    longest = sorted(range(len(shape)), key=lambda k: -shape[k])[:2]
    most = ALONG if len(shape) > 1 else ALONE
    index = [np.arange(min(n, most)) if k in longest else np.array([n // 2]) for k, n in enumerate(shape)]
    values = points.values
    if isinstance(values, Stored):
        samples = values.take(index).reshape(-1, points.features)
    else:
        samples = points.at(np.ravel_multi_index(np.meshgrid(*index, indexing="ij"), shape).reshape(-1))
    step, varying = common_step(np.asarray(samples))
    return varying * step**2 / 12


def common_step(samples: Float[np.ndarray, "n f"]) -> tuple[float, int]:
    """Step of which all differences between samples are multiples, and how many features vary.

    Features may start anywhere. Equally spaced samples of a straight line have a step too, which is no
    rounding: the caller asks whether high differences bear it out.

    Example:
        >>> step, varying = common_step(np.round(np.sin(np.arange(40.0)) + 0.2, 3)[:, None])
        >>> round(step, 9), varying
        (0.001, 1)
        >>> common_step(np.sin(np.arange(40.0))[:, None])
        (0.0, 1)
    """
    kind = samples.dtype if samples.dtype.kind == "f" else np.dtype(np.float64)
    samples = samples[np.isfinite(samples).all(axis=1)].astype(np.float64)
    if len(samples) < 2:
        return 0.0, 0
    rounding = 2 * float(np.finfo(kind).eps) * np.abs(samples).max()
    gaps = np.diff(np.sort(samples, axis=0), axis=0)
    varying = int((gaps > rounding).any(axis=0).sum())
    gaps = np.sort(gaps[gaps > rounding])
    step = float(gaps[0]) if len(gaps) >= FEWEST else 0.0
    for _ in range(REMAINDERS):
        if step < CLEAR * rounding:
            break
        step, remainder = _fitted(gaps, step, rounding)
        if not remainder:
            return step, varying
        step = remainder
    return 0.0, varying


def _fitted(gaps: Float[np.ndarray, "m"], step: float, rounding: float) -> tuple[float, float]:
    """The step by least squares, from the smallest gap to the largest, and what it leaves of one, if any.

    The more steps a gap has, the better the step is known that tells how many.
    """
    products, squares = 0.0, 0.0
    for gap in gaps.tolist():
        count = round(gap / step)
        allowed = 2 * rounding * (1 + count / max(squares, 1.0) ** 0.5)
        left = abs(gap - count * step)
        if left > allowed or allowed > UNCLEAR * step:
            return step, left
        products, squares = products + count * gap, squares + count**2
        step = products / squares
    return step, 0.0
