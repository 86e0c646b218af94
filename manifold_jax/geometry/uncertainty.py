"""Error bars of measures on a grid, from two stencils on the same data.

Let m_p and m_q be a measure computed at order p and by a comparison stencil of order q = p - 2 (for p = 2:
the same order at twice the spacing). Their difference is the error of m_q. With delta the largest such
difference over all measures, each relative to its natural scale, delta ~ h^q, and the error of m_p itself is
of size delta^(p/q). The bar is therefore

    max over neighbours of |m_p - m_q| * min(1, SAFETY delta^((p - q)/q)) + rounding,

which is below the difference, and of the stencil's own order wherever the grid resolves the manifold.
(Two-grid error estimates go back to Richardson; Roache, Annu. Rev. Fluid Mech. 29, 1997.) The rounding part
propagates the noise of stored samples through the stencil weights. On a coarse grid the two orders may agree
by chance in one measure; so where the shrunk delta exceeds the tolerance, every bar is at least that share of
its scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from manifold_jax.geometry.blocks import Stencil
from manifold_jax.geometry.curvature import is_null
from manifold_jax.geometry.fields import Fields, PointMeasures
from manifold_jax.geometry.grid import Accuracy, Axis, DType, Grid, axis_weights

SAFETY = 4.0
"""Factor on the estimated error in the resolved regime; its coverage and sharpness are benchmarked."""


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


def comparison_stencil(stencil: Stencil) -> Stencil:
    """The lower-order (or wider) stencil that error bars compare with."""

    def lower(accuracy: Accuracy, stride: int) -> tuple[Accuracy, int]:
        if accuracy == "spectral":
            return 8, stride
        return (2, 2 * stride) if accuracy == 2 else (int(accuracy) - 2, stride)

    return tuple(lower(*axis) for axis in stencil)


def lowered_on_axis(stencil: Stencil, axis: int) -> Stencil:
    """The stencil with only one axis lowered, to find which axis is to blame."""
    lower = comparison_stencil(stencil)
    return tuple(lower[k] if k == axis else spec for k, spec in enumerate(stencil))


def gain_exponent(stencil: Stencil) -> float:
    """(p - q)/q of the lowest order in a stencil; 0 when only the spacing differs."""
    orders = [10 if accuracy == "spectral" else int(accuracy) for accuracy, _ in stencil]
    order = min(orders)
    return 0.0 if order == 2 else 2.0 / (order - 2)


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
    measures: PointMeasures, grid: Grid, stencil: Stencil | None, tolerance: float
) -> tuple[Fields, Array, Array]:
    """Every field as an Estimate, and what totals need to know of their bars.

    Args:
        measures: Fields of the grid's shape.
        grid: The grid.
        stencil: The main stencil; None for exact jets.
        tolerance: Largest bar, relative to the natural scale, that counts as resolved.

    Returns:
        Fields of :class:`Estimate`; the factor min(1, SAFETY delta^((p - q)/q)) at every point; and the
        relative error below which no bar may fall there, 0 where the jets are resolved.
    """
    volume = measures.value.volume_element
    null = is_null(volume) | (8 * measures.rounding.volume_element >= volume)
    scales = natural_scales(measures)
    differences = Fields(
        *(
            neighbourhood_maximum(jnp.abs(value - low), grid) if stencil else jnp.zeros_like(value)
            for value, low in zip(measures.value, measures.low, strict=True)
        )
    )
    # A lower bound (the maximum found) says nothing about convergence: leave the search out of delta.
    relative = [
        getattr(differences, name) / getattr(scales, name)
        for name in ("volume_element", "scalar_curvature", "mean_curvature", "second_form_norm")
    ]
    delta = jnp.nan_to_num(jnp.max(jnp.stack(relative), axis=0), nan=1.0)
    exponent = gain_exponent(stencil) if stencil else 0.0
    shrink = jnp.minimum(1.0, SAFETY * delta**exponent)
    # Every measure comes from the same jets: where one of them is not resolved, none is trusted beyond that.
    failing = jnp.where(delta * shrink > tolerance, delta * shrink, 0.0)
    estimates = []
    for name, value, difference, rounding, scale in zip(
        Fields._fields, measures.value, differences, measures.rounding, scales, strict=True
    ):
        error = jnp.maximum(difference * shrink, failing * scale) + rounding
        if name == "volume_element":
            # A vanishing volume element is a value, not a failure.
            error = jnp.where(jnp.isnan(error), difference, error)
            undefined = jnp.isnan(value)
        else:
            undefined = null | jnp.isnan(value)
        value = jnp.where(undefined, jnp.nan, value)
        error = jnp.where(undefined | jnp.isnan(error), jnp.inf, error)
        estimates.append(Estimate(value, error, error <= tolerance * scale))
    return Fields(*estimates), shrink, failing


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
    shrink: Float[Array, "*shape"],
    grid: Grid,
    accuracy: tuple[Accuracy, ...],
    tolerance: float,
) -> Estimate:
    """Integral over the chart with an error bar for stencil, quadrature and rounding.

    The stencil part integrates the (shrunk) difference of the two stencils with its sign; the quadrature part
    compares, axis by axis, with every second sample.

    Args:
        values: Integrand including the volume element, by the main stencil.
        low: The same by the comparison stencil.
        rounding: Rounding noise of the integrand.
        scale: Natural scale of the integrand, whose integral the error is compared to.
        shrink: Factor on the differences at every point.
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
    stencil = jnp.abs(_integral((values - low) * shrink, weights))
    quadrature = jnp.zeros((), dtype)
    for k, axis in enumerate(grid.axes):
        coarse = [_thinned_weights(axis, accuracy[k]) if j == k else c for j, c in enumerate(columns)]
        quadrature += jnp.abs(total - _integral(values, _outer(coarse, dtype)))
    summation = jnp.finfo(dtype).eps * math.sqrt(grid.size) * _integral(jnp.abs(values), weights)
    error = stencil + quadrature + _integral(rounding, weights) + summation
    return Estimate(total, error, error <= tolerance * _integral(scale, weights))
