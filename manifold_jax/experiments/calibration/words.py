"""What the studies share: kept cells, manifolds, and numbers in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from manifold_jax._checks import choice
from manifold_jax.datasets import hyperboloid, sphere, torus
from manifold_jax.experiments.results import Cells
from manifold_jax.geometry import Manifold

WAIST, _ENDS = math.asinh(1.0), math.asinh(2.0)  # |z| below 1 and 2 on the hyperboloid of semi-axis 1
MANIFOLDS: dict[str, Callable[[], Manifold]] = {
    **{f"S{d}": partial(sphere, d) for d in (2, 3, 4)},
    "H2": partial(hyperboloid, 1, (2.0, 2.0, 1.0), _ENDS),
    "T2": partial(torus, 2.5, 0.5),
}
"""Those of the microscope paper, as the code of Sritharan, Wang & Hormoz (2021) has them: with 10 000 points,
and of the hyperboloid those with |z| < 1."""

Context = tuple[Cells, int]
"""Finished cells, and the seed of the samples."""


def range_words(values: Iterable[float], digits: int = 2) -> str:
    """Median, and least and largest of several clouds."""
    numbers = np.array(list(values), float)
    if not np.isfinite(numbers).all():
        return "-"
    low, middle, high = (f"{x:.{digits}g}" for x in (numbers.min(), np.median(numbers), numbers.max()))
    return f"{middle} [{low}, {high}]"


def share_words(hits: int, count: int) -> str:
    """A share of independent trials with its interval of 95 % (Clopper & Pearson, Biometrika 26, 1934)."""
    # Late: JAX itself installs SciPy, but its statistics take long to import.
    from scipy.stats import beta

    low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return f"{hits / count:.2f} [{low:.2f}, {high:.2f}]"


def check_manifolds(known: Iterable[str], settings: Any) -> None:
    """Refuse unknown manifolds before anything starts."""
    for name in settings.manifolds:
        choice("calibrate", "manifold", name, known)
