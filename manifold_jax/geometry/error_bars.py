"""Error bars of measures on a grid, from two stencils on the same data.

A measure m_p at order p is compared with m_(p+2), two orders higher. Their difference is the error of m_p up
to the smaller error of m_(p+2), so the bar is

    SAFETY * max over neighbours of |m_p - m_(p+2)| + rounding.

Where an axis has too few samples for order p + 2 the comparison is m_(p-2) (for p = 2: twice the spacing),
whose difference is the larger error of m_(p-2) and is taken as it is. (Two-grid error estimates go back to
Richardson; Roache, Annu. Rev. Fluid Mech. 29, 1997.) The rounding part propagates the noise of stored samples
through the stencil weights. On a coarse grid two orders may agree by chance in one measure; since all come
from the same jets, where the relative bar of one exceeds the tolerance, every bar is at least that share of
its scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from manifold_jax.geometry.curvature import is_null
from manifold_jax.geometry.grid import Accuracy, Axis, DType, Grid, axis_weights
from manifold_jax.geometry.plan import Stencil
from manifold_jax.geometry.quantities import Fields, PointMeasures

SAFETY = 3.0
"""Factor on the estimated error; its coverage and sharpness are benchmarked."""


class Estimate(NamedTuple):
    """A measured quantity with its error bar.

    Attributes:
        value: The quantity; NaN where it is not defined (degenerate metric).
        error: Bar such that the truth lies within value +- error; infinite where unknown.
        resolved: Whether the bar is below the tolerance, relative to the natural scale of the measure.
    """

    value: Float[Array, "*shape"]
    error: Float[Array, "*shape"]
    resolved: Bool[Array, "*shape"]


def check_tolerance(tolerance: float) -> None:
    """Refuse a relative error that is none."""
    if not isinstance(tolerance, (int, float)) or not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance!r}.")


def comparison_stencil(stencil: Stencil, grid: Grid, *, evaluated: bool) -> Stencil:
    """The stencil that error bars compare with: two orders higher, or lower where samples are too few.

    Args:
        stencil: The main stencil.
        grid: The grid.
        evaluated: Samples beyond the ends exist.

    Returns:
        The comparison; a spectral axis is compared with order 8.
    """

    def raised(axis: Axis, accuracy: Accuracy, stride: int) -> bool:
        if accuracy == "spectral":
            return False
        order = int(accuracy) + 2
        return evaluated or axis.size >= (order * stride + 1 if axis.wraps else (order + 2) * stride)

    def other(accuracy: Accuracy, stride: int, raise_it: bool) -> tuple[Accuracy, int]:
        if accuracy == "spectral":
            return 8, stride
        if raise_it:
            return int(accuracy) + 2, stride
        return (2, 2 * stride) if accuracy == 2 else (int(accuracy) - 2, stride)

    pairs = zip(grid.axes, stencil, strict=True)
    up = all(raised(axis, *spec) for axis, spec in pairs if spec[0] != "spectral")
    return tuple(other(*spec, up) for spec in stencil)


def changed_on_axis(stencil: Stencil, comparison: Stencil, axis: int) -> Stencil:
    """The stencil with the comparison on one axis only, to find which axis is to blame."""
    return tuple(comparison[k] if k == axis else spec for k, spec in enumerate(stencil))


def safety_factor(stencil: Stencil, comparison: Stencil) -> float:
    """SAFETY where the comparison is of higher order; 1 where its own error dominates the difference."""
    higher = [
        other[0] != "spectral" and spec[0] != "spectral" and int(other[0]) > int(spec[0])
        for spec, other in zip(stencil, comparison, strict=True)
    ]
    return SAFETY if any(higher) else 1.0


def natural_scales(measures: PointMeasures) -> Fields:
    """Scale to which the error of each measure is compared.

    The volume element has itself; curvatures have |II|, scalar curvature |II|^2, but not less than what
    bends visibly within the extent of the manifold.
    """
    tiny = jnp.finfo(measures.extent.dtype).tiny
    flat = 1 / jnp.maximum(measures.extent, tiny)
    bend = jnp.maximum(measures.value.second_form_norm, flat)
    return Fields(measures.value.volume_element, bend**2, bend, bend, bend, bend)


def neighbourhood_maximum(values: Float[Array, "*shape"], grid: Grid) -> Float[Array, "*shape"]:
    """Largest value within one step along every axis, wrapping on periodic axes; NaN is passed over."""
    best = jnp.where(jnp.isnan(values), -jnp.inf, values)
    for k, axis in enumerate(grid.axes):
        forward, backward = jnp.roll(best, 1, k), jnp.roll(best, -1, k)
        if not axis.periodic:
            first = (slice(None),) * k + (0,)
            last = (slice(None),) * k + (-1,)
            forward, backward = forward.at[first].set(best[first]), backward.at[last].set(best[last])
        best = jnp.maximum(best, jnp.maximum(forward, backward))
    return jnp.where(jnp.isneginf(best), jnp.nan, best)


def pointwise_estimates(
    measures: PointMeasures, grid: Grid, factor: float, tolerance: float
) -> tuple[Fields, Array]:
    """Every field as an Estimate, and what totals need to know of their bars.

    Args:
        measures: Fields of the grid's shape.
        grid: The grid.
        factor: Factor on the difference of the two stencils; 0 for exact jets.
        tolerance: Largest bar, relative to the natural scale, that counts as resolved.

    Returns:
        Fields of :class:`Estimate`; and the relative error below which no bar may fall, 0 where the jets are
        resolved.
    """
    volume = measures.value.volume_element
    null = is_null(volume) | (8 * measures.rounding.volume_element >= volume)
    scales = natural_scales(measures)
    bars = Fields(
        *(
            factor * neighbourhood_maximum(jnp.abs(value - other), grid) if factor else jnp.zeros_like(value)
            for value, other in zip(measures.value, measures.low, strict=True)
        )
    )
    # The maximum found by a search says nothing about convergence: leave it out.
    names = ("volume_element", "scalar_curvature", "mean_curvature", "second_form_norm")
    relative = jnp.stack([getattr(bars, name) / getattr(scales, name) for name in names])
    worst = jnp.max(jnp.nan_to_num(relative, nan=1.0), axis=0)
    failing = jnp.where(worst > tolerance, worst, 0.0)
    estimates = []
    for name, value, bar, rounding, scale in zip(
        Fields._fields, measures.value, bars, measures.rounding, scales, strict=True
    ):
        error = jnp.maximum(bar, failing * scale) + rounding
        if name == "volume_element":
            # A vanishing volume element is a value, not a failure.
            error = jnp.where(jnp.isnan(error), bar, error)
            undefined = jnp.isnan(value)
        else:
            undefined = null | jnp.isnan(value)
        value = jnp.where(undefined, jnp.nan, value)
        error = jnp.where(undefined | jnp.isnan(error), jnp.inf, error)
        estimates.append(Estimate(value, error, error <= tolerance * scale))
    return Fields(*estimates), failing


def _integral(values: Array, weights: Array) -> Array:
    return jnp.sum(jnp.where(jnp.isfinite(values), values, 0.0) * weights)


def _outer(columns: list[np.ndarray], dtype: DType) -> Array:
    total = np.ones(())
    for column in columns:
        total = np.multiply.outer(total, column)
    return jnp.asarray(total, dtype)


def _thinned_weights(axis: Axis, accuracy: Accuracy) -> np.ndarray:
    """Weights of a coarser rule on the same samples: every second one, or a lower order."""
    halves = axis.size % 2 == (0 if axis.periodic else 1) and axis.size >= (2 if axis.periodic else 5)
    if axis.periodic:
        coarse = np.full(axis.size, axis.spacing)
        if halves:
            coarse = np.where(np.arange(axis.size) % 2 == 0, 2 * axis.spacing, 0.0)
        return coarse
    if halves:
        coarse = np.zeros(axis.size)
        coarse[::2] = axis_weights(Axis(axis.name, axis.start, axis.stop, (axis.size + 1) // 2), accuracy)
        return coarse
    if accuracy == 2:
        return np.full(axis.size, (axis.stop - axis.start) / axis.size)
    return axis_weights(axis, int(accuracy) - 2)


def integral_estimate(
    values: Float[Array, "*shape"],
    low: Float[Array, "*shape"],
    rounding: Float[Array, "*shape"],
    scale: Float[Array, "*shape"],
    *,
    factor: float,
    grid: Grid,
    accuracy: tuple[Accuracy, ...],
    tolerance: float,
) -> Estimate:
    """Integral over the chart with an error bar for stencil, quadrature and rounding.

    The stencil part integrates the difference of the two stencils with its sign; the quadrature part
    compares, axis by axis, with every second sample.

    Args:
        values: Integrand including the volume element, by the main stencil.
        low: The same by the comparison stencil.
        rounding: Rounding noise of the integrand.
        scale: Natural scale of the integrand, whose integral the error is compared to.
        factor: Factor on the difference of the two stencils.
        grid: The grid.
        accuracy: Order of the quadrature on each axis.
        tolerance: As for fields.

    Returns:
        The integral, a scalar estimate.
    """
    dtype = values.dtype
    columns = [axis_weights(axis, order) for axis, order in zip(grid.axes, accuracy, strict=True)]
    weights = _outer(columns, dtype)
    total = _integral(values, weights)
    stencil = factor * jnp.abs(_integral(values - low, weights))
    quadrature = jnp.zeros((), dtype)
    for k, axis in enumerate(grid.axes):
        coarse = [_thinned_weights(axis, accuracy[k]) if j == k else c for j, c in enumerate(columns)]
        quadrature += jnp.abs(total - _integral(values, _outer(coarse, dtype)))
    summation = jnp.finfo(dtype).eps * math.sqrt(grid.size) * _integral(jnp.abs(values), weights)
    error = stencil + quadrature + _integral(rounding, weights) + summation
    return Estimate(total, error, error <= tolerance * _integral(scale, weights))
