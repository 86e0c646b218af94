"""Error bars of quantities on a grid, from two stencils on the same data, and the axis that is to blame.

A quantity q_p at order p is compared with q_(p+2). Their difference is the error of q_p up to the smaller
error of q_(p+2), so the bar is

    SAFETY * max over neighbours of |q_p - q_(p+2)| + rounding.

Where an axis has too few samples for that, it is compared with q_(p-2) (for p = 2: twice the spacing), whose
larger error is taken as it is (Roache, Annu. Rev. Fluid Mech. 29, 1997). The rounding part propagates the
noise of stored samples through the stencil weights. On a coarse grid two orders may agree by chance in one
quantity; since all come from the same jets, a relative bar above the tolerance is the least for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax.geometry.blocks import run_blocks
from manifold_jax.geometry.grid import Accuracy, Axis, DType, Grid, axis_weights, mesh, outer_product
from manifold_jax.geometry.manifold import Points
from manifold_jax.geometry.quantities import (
    FIELDS,
    TOTALS,
    Estimate,
    Fields,
    PointQuantities,
    chart_ranges,
    extent_of,
    natural_scales,
    plain_fields,
    point_fields,
    point_rounding,
    tangent_lengths,
)
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.stencil import Stencil, fewest_samples
from manifold_jax.geometry.tensors import is_null, second_form_gram, unpack_gram
from manifold_jax.geometry.windows import BlockGrams, BlockPlan, plan_blocks

SAFETY = 3.0  # factor on the estimated error; its coverage and sharpness are benchmarked
LOST = 8  # a volume element of so many times its rounding noise has no digit left: the metric is degenerate
SPECTRAL_COMPARISON = 8  # order with which a spectral axis is compared: the highest there is
FLAT = 0.01  # share of |II|^2 below which a total of the scalar curvature counts as that of something flat
EXACT_QUADRATURE = 4  # order of the quadrature of exact quantities on open axes
PROBED_BLOCKS = 6  # blocks from which the sensitivity to each axis is taken: medians need no more
PROBED_POINTS = 64  # points of each of them at most


def comparison_stencil(stencil: Stencil, grid: Grid, *, evaluated: bool) -> Stencil:
    """The stencil that error bars compare with: two orders higher, or lower where samples are too few.

    Points that are ``evaluated`` exist beyond the ends. A spectral axis is compared with the highest order.
    """
    up = evaluated or all(
        order == "spectral" or axis.size >= fewest_samples(axis, int(order) + 2, stride)
        for axis, (order, stride) in zip(grid.axes, stencil, strict=True)
    )

    def other(order: Accuracy, stride: int) -> tuple[Accuracy, int]:
        if order == "spectral":
            return SPECTRAL_COMPARISON, stride
        if up:
            return int(order) + 2, stride
        return (2, 2 * stride) if order == 2 else (int(order) - 2, stride)

    return tuple(other(*spec) for spec in stencil)


def safety_factor(stencil: Stencil, comparison: Stencil) -> float:
    """SAFETY where the comparison is of higher order; 1 where its own error dominates the difference."""
    pairs = [(a, b) for (a, _), (b, _) in zip(stencil, comparison, strict=True) if a != "spectral"]
    return SAFETY if any(int(b) > int(a) for a, b in pairs) else 1.0


def stencil_noise(plan: BlockPlan) -> list[Float[np.ndarray, "2 n"]]:
    """Noise gain of the first and second derivative at every sample of each axis, for the main stencil."""
    tables = [np.zeros((2, n)) for n in plan.grid.shape]
    for gains, layout in zip(tables, plan.axes, strict=True):
        norms = np.linalg.norm(layout.matrices[0, :, 1:], axis=-1)
        for rows, kind in zip(layout.rows, layout.kinds, strict=True):
            gains[:, rows] = norms[kind]
    return tables


def grid_quantities(block: BlockGrams, plan: BlockPlan) -> PointQuantities:
    """Quantities ``(*block,)`` of every point of a block, by the main and the comparison stencil."""
    grid, dtype = plan.grid, block.grams[0].dtype
    d = grid.ndim
    main, low = (unpack_gram(g.reshape(-1, *g.shape[-2:]), d) for g in block.grams[:2])
    tables = [(*gains, axis.samples()) for gains, axis in zip(stencil_noise(plan), grid.axes, strict=True)]
    # From one value per axis and sample to the points of the block, (n, d).
    first, second, coordinates = (
        mesh([jnp.asarray(c, dtype)[r] for c, r in zip(columns, block.rows, strict=True)]).reshape(-1, d)
        for columns in zip(*tables, strict=True)
    )
    lengths = tangent_lengths(main)
    # Samples and their coordinates are rounded: a uniform error within half a unit in the last place, of
    # variance eps^2 / 12.
    scale = jnp.finfo(dtype).eps / 12**0.5 * (block.norm + jnp.sum(jnp.abs(coordinates) * lengths, axis=-1))
    pairs = jnp.where(jnp.eye(d, dtype=bool), second[:, :, None], first[:, :, None] * first[:, None, :])
    noise = jax.vmap(point_rounding)(main, scale[:, None] * first, scale[:, None, None] * pairs)
    # One program for both stencils compiles in half the time.
    both = jax.vmap(point_fields)(jax.tree.map(lambda *g: jnp.concatenate(g), main, low))
    value = jax.tree.map(lambda x: x[: plan.block_points], both)
    comparison = jax.tree.map(lambda x: x[plan.block_points :], both)
    quantities = PointQuantities(value, comparison, noise, extent_of(main, chart_ranges(grid, dtype)))
    return jax.tree.map(lambda leaf: leaf.reshape(plan.block), quantities)


def axis_sensitivity(
    points: Points, stencil: Stencil, comparison: Stencil, of_window: Callable[[Any, Any], Any] | None = None
) -> Any:
    """Relative change ``(quantities, d)`` of each quantity when one axis takes the comparison stencil.

    It is the median over the points of a few small blocks. For layers ``of_window`` gives a pytree of what
    :func:`stencil_fields` does, from a window and the plan, and such a pytree comes back.
    """
    changed = [(*stencil[:k], comparison[k], *stencil[k + 1 :]) for k in range(points.grid.ndim)]
    plan = plan_blocks(points, (stencil, *changed), min(PROBED_POINTS, points.grid.size))
    chosen = np.unique(np.linspace(0, plan.size - 1, PROBED_BLOCKS).round().astype(int))
    function, windows = of_window or stencil_fields, of_window is not None
    changes = run_blocks(points, plan, function, windows=windows, blocks=chosen, calls=1)
    return jax.tree.map(_relative_changes, changes)


@partial(jax.jit, static_argnames="plan")
def stencil_fields(block: BlockGrams, plan: BlockPlan) -> Float[Array, "stencils points 4"]:
    """Volume element, S, |H| and |II| by every stencil of the plan."""
    packed = block.grams.reshape(-1, *block.grams.shape[-2:])
    grams = unpack_gram(packed, plan.grid.ndim)
    values = jax.vmap(lambda gram: plain_fields(gram, second_form_gram(gram)))(grams)
    return jnp.stack(values, axis=-1).reshape(len(block.grams), -1, len(values))


@jax.jit
def _relative_changes(fields: Float[Array, "blocks stencils points 4"]) -> Float[Array, "quantities d"]:
    """Change of each quantity by each axis, relative to its scale: the median over the probed points.

    Normal curvatures, which are searched for, change as |II| does.
    """
    main, others = fields[:, 0], jnp.moveaxis(fields[:, 1:], 1, 0)
    volume, norm = main[..., 0], main[..., 3]
    scales = jnp.stack([volume, norm**2, norm, norm], axis=-1)
    changes = jnp.nanmedian(jnp.abs(others - main) / scales, axis=(1, 2)).T
    return jnp.concatenate([changes, changes[3:], changes[3:]])


def curvature_scales(quantities: PointQuantities) -> Fields:
    """Scale of each quantity; curvatures count as at least what is visible within the extent."""
    tiny = jnp.finfo(quantities.extent.dtype).tiny
    return natural_scales(quantities.value, 1 / jnp.maximum(quantities.extent, tiny))


def neighbourhood_maximum(values: Float[Array, "*shape"], grid: Grid) -> Float[Array, "*shape"]:
    """Largest value within one step along every axis, wrapping on periodic axes; NaN is passed over."""
    best = jnp.where(jnp.isnan(values), -jnp.inf, values)
    for k, axis in enumerate(grid.axes):
        width = [(1, 1) if other == k else (0, 0) for other in range(grid.ndim)]
        padded = jnp.pad(best, width, mode="wrap" if axis.periodic else "edge")
        shifted = [jax.lax.slice_in_dim(padded, start, start + axis.size, axis=k) for start in range(3)]
        best = reduce(jnp.maximum, shifted)
    return jnp.where(jnp.isneginf(best), jnp.nan, best)


def pointwise_estimates(
    quantities: PointQuantities, grid: Grid, factor: float, tolerance: float
) -> tuple[Fields, Array]:
    """Every field as an Estimate, and the relative error below which no bar may fall (0 where resolved)."""
    values, noise = quantities.value, quantities.rounding
    volume = values.volume_element
    null = is_null(volume) | (LOST * noise.volume_element >= volume)
    scales = curvature_scales(quantities)

    def difference(value: Array, other: Array) -> Array:
        if not factor:  # exact jets
            return jnp.zeros_like(value)
        return factor * neighbourhood_maximum(jnp.abs(value - other), grid)

    bars = jax.tree.map(difference, values, quantities.low)
    # The maximum that a search finds says nothing about convergence: leave the normal curvatures out.
    relative = jnp.stack([bar / scale for bar, scale in zip(bars[:4], scales[:4], strict=True)])
    worst = jnp.max(jnp.nan_to_num(relative, nan=1.0), axis=0)
    failing = jnp.where(worst > tolerance, worst, 0.0)

    def estimate(name: str, value: Array, bar: Array, rounding: Array, scale: Array) -> Estimate:
        error = jnp.maximum(bar, failing * scale) + rounding
        undefined = null | jnp.isnan(value)
        if name == "volume_element":  # where it vanishes it is a value, not a failure
            error, undefined = jnp.where(jnp.isnan(error), bar, error), jnp.isnan(value)
        value = jnp.where(undefined, jnp.nan, value)
        error = jnp.where(undefined | jnp.isnan(error), jnp.inf, error)
        return Estimate(value, error, error <= tolerance * scale)

    return Fields(*map(estimate, FIELDS, values, bars, noise, scales)), failing


def _integral(values: Array, weights: Array) -> Array:
    return jnp.sum(jnp.where(jnp.isfinite(values), values, 0.0) * weights)


def thinned_weights(axis: Axis, accuracy: Accuracy) -> np.ndarray:
    """Weights of a coarser rule on the same samples: every second one, or a lower order."""
    n = axis.size
    if axis.periodic:
        return np.full(n, axis.spacing) if n % 2 else np.tile([2 * axis.spacing, 0.0], n // 2)
    if n % 2 and n >= 5:
        coarse = np.zeros(n)
        coarse[::2] = axis_weights(Axis(axis.name, axis.start, axis.stop, (n + 1) // 2), accuracy)
        return coarse
    if accuracy == 2:
        return np.full(n, (axis.stop - axis.start) / n)
    return axis_weights(axis, int(accuracy) - 2)


def _quadrature_rules(grid: Grid, orders: Sequence[Accuracy], dtype: DType) -> list[Array]:
    """Weights on the grid, and for each axis those that are coarser along it."""
    orders = [SPECTRAL_COMPARISON if order == "spectral" else order for order in orders]
    columns = list(map(axis_weights, grid.axes, orders))
    thinned = map(thinned_weights, grid.axes, orders)
    coarser = [[*columns[:k], column, *columns[k + 1 :]] for k, column in enumerate(thinned)]
    return [outer_product(rule, dtype) for rule in (columns, *coarser)]


def _integral_estimate(
    integrand: tuple[Array, ...], rules: list[Array], factor: float, tolerance: float
) -> Estimate:
    """Integral over the chart with an error bar for stencil, quadrature and rounding.

    The integrand, which holds the volume element, comes with its comparison, its noise, and the scale of its
    errors. The two stencils are compared with sign, the first of the quadrature ``rules`` with the others.
    """
    values, low, rounding, scale = integrand
    weights, *coarser = rules
    total = _integral(values, weights)
    stencil = factor * jnp.abs(_integral(values - low, weights))
    quadrature = sum(jnp.abs(total - _integral(values, coarse)) for coarse in coarser)
    summation = jnp.finfo(values.dtype).eps * math.sqrt(values.size) * _integral(jnp.abs(values), weights)
    error = stencil + quadrature + _integral(rounding, weights) + summation
    return Estimate(total, error, error <= tolerance * _integral(scale, weights))


@partial(jax.jit, static_argnames=("grid", "stencil", "factor", "tolerance"))
def estimates(
    quantities: PointQuantities, grid: Grid, stencil: Stencil | None, factor: float, tolerance: float
) -> tuple[Fields, dict[str, Estimate]]:
    """Error bars of the fields, and the totals by name; without a stencil the fields are exact."""
    fields, failing = pointwise_estimates(quantities, grid, factor, tolerance)
    orders = [a for a, _ in stencil] if stencil else [EXACT_QUADRATURE] * grid.ndim
    rules = _quadrature_rules(grid, orders, quantities.extent.dtype)
    integral = partial(_integral_estimate, rules=rules, factor=factor, tolerance=tolerance)
    main, low, noise = quantities.value, quantities.low, quantities.rounding
    volume = main.volume_element
    undefined = jnp.isnan(fields.scalar_curvature.value)
    # Relative to the integral of |S|, but a total that is small next to |II|^2 counts as flat.
    squared_norm = curvature_scales(quantities).scalar_curvature
    scale = jnp.abs(main.scalar_curvature) + FLAT * squared_norm

    def curvature(part: Callable[[Array], Array]) -> tuple[Array, ...]:
        value = part(main.scalar_curvature)
        rounding = (noise.scalar_curvature + failing * squared_norm) * volume
        rounding += jnp.abs(value) * noise.volume_element
        lower = part(low.scalar_curvature) * low.volume_element
        integrand = (value * volume, lower, rounding, scale * volume)
        return tuple(jnp.where(undefined, 0.0, x) for x in integrand)

    integrands = (
        (volume, low.volume_element, noise.volume_element + failing * volume, volume),
        curvature(lambda s: s),
        curvature(lambda s: jnp.maximum(s, 0.0)),
        curvature(lambda s: jnp.minimum(s, 0.0)),
    )
    # One program for all of them.
    totals = jax.vmap(integral)(tuple(map(jnp.stack, zip(*integrands, strict=True))))
    parts = [Estimate(*(leaf[k] for leaf in totals)) for k in range(len(TOTALS))]
    return fields, dict(zip(TOTALS, parts, strict=True))


def report_on(
    quantities: PointQuantities,
    grid: Grid,
    name: str,
    tolerance: float,
    *,
    stencil: Stencil | None = None,
    factor: float = 0.0,
    sensitivity: Array | None = None,
    attributes: tuple[tuple[str, str], ...] = (),
) -> Geometry:
    """The Geometry of quantities at all points of a grid, exact ones where there is no stencil.

    Differences of the two stencils count ``factor`` times, 0 for exact jets.
    """
    quantities = jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(grid.shape), quantities)
    fields, totals = estimates(quantities, grid, stencil, factor, tolerance)
    if sensitivity is None:
        sensitivity = jnp.zeros((len(FIELDS), grid.ndim), quantities.extent.dtype)
    about = {"name": name, "grid": grid, "stencil": stencil, "tolerance": tolerance, "attributes": attributes}
    noise = quantities.rounding
    return Geometry(**fields._asdict(), **totals, axis_sensitivity=sensitivity, rounding=noise, **about)
