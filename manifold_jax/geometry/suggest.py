"""Which stencil measures noisy samples best: every candidate is tried."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from manifold_jax._checks import checked_function, choice
from manifold_jax._files import Progress, silent
from manifold_jax.geometry.error_bars import comparison_stencil
from manifold_jax.geometry.grid import ORDERS, Accuracy, Grid
from manifold_jax.geometry.manifold import as_points
from manifold_jax.geometry.measure import measure
from manifold_jax.geometry.quantities import FIELDS
from manifold_jax.geometry.stencil import fewest_samples, stencil_of


class Suggestion(NamedTuple):
    """A stencil, and how well it measures.

    Attributes:
        accuracy: Order of the stencil.
        stride: Its spacing in samples.
        smooth: Samples on each side of its local polynomials, or 0.
        bar: Median error bar of the quantity over the points, in its unit; infinite where it has none.
        resolved: Share of the points at which it is resolved.
    """

    accuracy: Accuracy
    stride: int
    smooth: int
    bar: float
    resolved: float


def suggest_stencil(
    points_or_manifold: Any,
    grid: Grid | None = None,
    *,
    quantity: str = "second_form_norm",
    accuracies: Iterable[Accuracy] = ORDERS,
    strides: Iterable[int] = (1, 2, 3, 4),
    smooths: Iterable[int] = (0, 6, 9),
    progress: Progress = silent,
    **options: Any,
) -> list[Suggestion]:
    """Measure with every order, stride and smoothing, the best first.

    Noise falls with stride and smoothing and rises with the order; the error of a stencil does the opposite.
    The best are those with the largest resolved share and then the smallest bar. Where even the first row is
    resolved nowhere no stencil helps, and the samples must have less noise: averages of several images, more
    bits, wider blur, or more of them. Stencils that need more samples than an axis has are left out.

    Args:
        points_or_manifold: As in :func:`measure`.
        grid: The lattice.
        quantity: Name of the field whose bars count.
        accuracies: Orders to try.
        strides: Strides to try.
        smooths: Half widths of local polynomials to try, 0 for none.
        progress: Called with the number of stencils that are done and of all.
        options: Other arguments of :func:`measure`.

    Returns:
        One row per stencil that fits.

    Raises:
        ValueError: The quantity is unknown, or no stencil fits the grid.

    Example:
        >>> grid = mj.Grid((mj.Axis("angle", 0.0, 2 * math.pi, 64, periodic=True),))
        >>> angle = grid.coordinates()[..., 0]
        >>> noise = 1e-4 * jax.random.normal(jax.random.key(0), (64, 2))
        >>> circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1) + noise
        >>> best = mj.suggest_stencil(circle, grid, accuracies=(4,), strides=(1, 4), smooths=(0,))[0]
        >>> best.stride, best.resolved > 0.9
        (4, True)
    """
    quantity = choice("suggest_stencil", "quantity", quantity, FIELDS)
    checked_function("suggest_stencil", "progress", progress)
    checked = as_points("suggest_stencil", points_or_manifold, grid, in_pieces=True)
    fitting = []
    for accuracy, stride, smooth in product(accuracies, strides, smooths):
        if smooth and (accuracy == "spectral" or smooth < int(accuracy) // 2 + 2):
            continue
        stencil = stencil_of("suggest_stencil", checked.grid, accuracy, stride, smooth)
        comparison = comparison_stencil(stencil, checked.grid, evaluated=checked.evaluated)
        needed = (stencil,) if checked.evaluated else (stencil, comparison)
        columns = [zip(checked.grid.axes, one, strict=True) for one in needed]
        if any(fewest_samples(axis, *spec) > axis.size for pairs in columns for axis, spec in pairs):
            continue
        fitting.append((accuracy, stride, smooth))
    if not fitting:
        raise ValueError(
            f"suggest_stencil: no stencil fits the grid {checked.grid.shape}: take more samples."
        )
    rows = []
    for k, (accuracy, stride, smooth) in enumerate(fitting, 1):
        geometry = measure(
            points_or_manifold, grid, accuracy=accuracy, stride=stride, smooth=smooth, **options
        )
        estimate = getattr(geometry, quantity)
        bar, resolved = float(np.median(estimate.error)), float(np.mean(estimate.resolved))
        rows.append(Suggestion(accuracy, stride, smooth, bar, resolved))
        progress(k, len(fitting))
    return sorted(rows, key=lambda row: (-row.resolved, row.bar))
