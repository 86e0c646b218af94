"""Error bars of quantities on a grid, from two stencils on the same data, and the axis that is to blame.

A quantity q_p at order p is compared with q_(p+2). Their difference is the error of q_p up to the smaller
error of q_(p+2), so the bar is

    SAFETY * max over neighbours of |q_p - q_(p+2)| + rounding and noise.

What rounding and noise explain of the difference counts once instead of SAFETY times. Orders say little
beside a kink, which counts by the size of the high differences there.
Where an axis has too few samples for that, it is compared with q_(p-2) (for p = 2: twice the spacing), whose
larger error is taken as it is (Roache, Annu. Rev. Fluid Mech. 29, 1997). The rounding part propagates the
noise of stored samples through the stencil weights. On a coarse grid two orders may agree by chance in one
quantity; since all come from the same jets, a relative bar above the tolerance is the least for all, unless
noise explains the larger part of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._linalg import safe_sqrt
from manifold_jax._sharding import by_compiler
from manifold_jax.geometry.blocks import run_blocks
from manifold_jax.geometry.grid import Accuracy, Axis, Grid, mesh, skeleton
from manifold_jax.geometry.noise import (
    DEVIATIONS,
    NoiseModel,
    decay_of,
    noise_of,
    noise_terms,
    overlap_with_jets,
)
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.pooling import neighbourhood_maximum
from manifold_jax.geometry.quantities import (
    FIELDS,
    Estimate,
    Fields,
    PointQuantities,
    Spread,
    extent_of,
    has_no_digit,
    natural_scales,
    plain_fields,
    point_fields,
    point_rounding,
    tangent_lengths,
)
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.stencil import Spec, Stencil, fewest_samples, reaches
from manifold_jax.geometry.tensors import is_null, second_form_gram, unpack_gram
from manifold_jax.geometry.totals import Quadrature, quadrature_of, totals_of
from manifold_jax.geometry.windows import BlockGrams, BlockPlan, plan_blocks

SAFETY = 3.0  # factor on the estimated error; its coverage and sharpness are benchmarked
EVALUATION = 4.0  # deviation of what a function gives over that of numbers rounded once: 16 roundings
LEFT_OUT = 3  # least number of the highest modes that the comparison of a spectral axis leaves out
PROBED_BLOCKS = 6  # blocks from which the sensitivity to each axis is taken: medians need no more
PROBED_POINTS = 64  # points of each of them at most
PROBED_BYTES = 2**31  # of their windows: where points are large, one block is as much as can be read twice


def comparison_stencil(stencil: Stencil, grid: Grid, *, evaluated: bool) -> Stencil:
    """The stencil that error bars compare with: two orders higher, or lower where samples are too few.

    Points that are ``evaluated`` exist beyond the ends. A spectral axis is compared with the derivative
    without its highest modes.
    """
    up = evaluated or all(
        order == "spectral" or axis.size >= fewest_samples(axis, int(order) + 2, *rest)
        for axis, (order, *rest) in zip(grid.axes, stencil, strict=True)
    )

    def other(axis: Axis, order: Accuracy, stride: int, *smooth: int) -> Spec:
        if order == "spectral":
            return order, stride, max(LEFT_OUT, axis.size // 12)
        if up:
            return int(order) + 2, stride, *smooth
        return (2, 2 * stride, *smooth) if order == 2 else (int(order) - 2, stride, *smooth)

    return tuple(other(axis, *spec) for axis, spec in zip(grid.axes, stencil, strict=True))


def safety_factor(stencil: Stencil, comparison: Stencil) -> float:
    """SAFETY where the comparison is of higher order; 1 where its own error dominates the difference."""
    pairs = [(a, b) for (a, *_), (b, *_) in zip(stencil, comparison, strict=True)]
    return SAFETY if any(a == "spectral" or int(b) > int(a) for a, b in pairs) else 1.0


def grid_quantities(block: BlockGrams, plan: BlockPlan) -> PointQuantities:
    """Quantities ``(*block,)`` of every point of a block, by the main and the comparison stencil."""
    d, dtype = plan.grid.ndim, block.grams[0].dtype
    main, low = (unpack_gram(g.reshape(-1, *g.shape[-2:]), d) for g in block.grams[:2])

    def spread(tables: Sequence[Any]) -> list[Array]:
        """From values per axis and sample to those of the points of the block, ``(n, d)`` each."""
        columns = zip(*tables, strict=True)
        chosen = ([jnp.asarray(c, dtype)[r] for c, r in zip(x, block.rows, strict=True)] for x in columns)
        return [mesh(x).reshape(-1, d) for x in chosen]

    first, second, *farther = spread([axis.gains for axis in plan.axes])
    starts, steps, ranges = (jnp.asarray(x, dtype) for x in zip(*(a.chart for a in plan.axes), strict=True))
    coordinates = starts + steps * mesh(block.rows).reshape(-1, d)
    lengths = tangent_lengths(main)
    # Samples and their coordinates are rounded: a uniform error within half a unit in the last place, of
    # variance eps^2 / 12 at most, in every number for itself. Weights w turn it into one of |w| times the
    # deviation, along any direction that of the largest feature at most; and the length of independent
    # components has no larger deviation from its root mean square.
    deviation = jnp.finfo(dtype).eps / 12**0.5
    scale = deviation * (block.norm + jnp.sum(jnp.abs(coordinates) * lengths, axis=-1))
    norm, peak = (jnp.broadcast_to(size, scale.shape) for size in (block.norm, block.peak))
    single, sample = jnp.eye(d, dtype=bool), deviation * norm
    if plan.evaluated:
        sample *= EVALUATION
    crossed = jnp.where(single, second[:, :, None], first[:, :, None] * first[:, None, :])
    noises = sample[:, None] * first, sample[:, None, None] * crossed
    along = DEVIATIONS * peak / jnp.maximum(norm, jnp.finfo(dtype).tiny)
    # A coordinate is rounded once for all samples that share it: derivatives along its own axis feel that,
    # those along others see the samples move together.
    slips, (near, turns) = DEVIATIONS * deviation * jnp.abs(coordinates), farther
    bent = safe_sqrt(jnp.einsum("niiii->ni", main.second))
    own = (slips * first) ** 2
    turned = jnp.where(single, (slips * turns)[:, :, None], safe_sqrt(own[:, :, None] + own[:, None, :]))
    spread_of = Spread(
        along=along,
        length=1 + along,
        stretched=slips * first * lengths,
        tilted=slips * near * bent,
        slid=slips * second * lengths,
        turned=turned * lengths[:, :, None] * lengths[:, None, :],
    )
    rounding, basis, mixed = jax.vmap(point_rounding)(main, *noises, spread_of)
    # One program for both stencils compiles in half the time.
    both = jax.vmap(point_fields)(jax.tree.map(lambda *g: jnp.concatenate(g), main, low))
    value = jax.tree.map(lambda x: x[: plan.block_points], both)
    comparison = jax.tree.map(lambda x: x[plan.block_points :], both)
    terms = None
    if plan.differences:
        products = block.differences.reshape(-1, *block.differences.shape[-2:])
        overlap = overlap_with_jets(jnp.stack(spread([axis.overlaps for axis in plan.axes])))
        terms = noise_terms(basis, mixed, value.second_form_norm, products, overlap, scale)
    extent = extent_of(main, ranges)
    quantities = PointQuantities(value, comparison, rounding, extent, terms)
    return jax.tree.map(lambda leaf: leaf.reshape(*plan.block, *leaf.shape[1:]), quantities)


def axis_sensitivity(
    points: Points, stencil: Stencil, comparison: Stencil, of_window: Callable[[Any, Any], Any] | None = None
) -> Any:
    """Relative change ``(quantities, d)`` of each quantity when one axis takes the comparison stencil.

    It is the median over the points of a few small blocks. For layers ``of_window`` gives a pytree of what
    :func:`stencil_fields` does, from a window and the plan, and such a pytree comes back.
    """
    changed = [(*stencil[:k], comparison[k], *stencil[k + 1 :]) for k in range(points.grid.ndim)]
    whole = (1,) * points.grid.ndim  # blocks may lie in several pieces
    plan = plan_blocks(points, (stencil, *changed), min(PROBED_POINTS, points.grid.size), pieces=whole)
    window = math.prod(axis.columns.shape[-1] for axis in plan.axes)
    count = PROBED_BYTES // (window * points.features * np.dtype(points.dtype).itemsize)
    first, last = (0, plan.size - 1) if count > 1 else (plan.size // 2,) * 2
    chosen = np.linspace(first, last, min(max(count, 1), PROBED_BLOCKS)).round().astype(int)
    function, windows = of_window or stencil_fields, of_window is not None
    changes = run_blocks(points, plan, function, windows=windows, blocks=np.unique(chosen), calls=1)
    return jax.tree.map(_relative_changes, changes)


@jax.jit
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


def degenerate_points(quantities: PointQuantities) -> Array:
    """Where the metric has no digit left: its volume element vanishes to rounding."""
    volume = quantities.value.volume_element
    return is_null(volume) | has_no_digit(volume, quantities.rounding.volume_element)


def pointwise_estimates(
    quantities: PointQuantities,
    errors: Fields,
    grid: Grid,
    radii: tuple[int, ...],
    factor: float,
    tolerance: float,
) -> tuple[Fields, Array]:
    """Every field as an Estimate, and the relative error below which no bar may fall (0 where resolved).

    Differences of stencils count where they are largest within ``radii`` samples.
    """
    values, null = quantities.value, degenerate_points(quantities)
    scales = curvature_scales(quantities)

    def difference(name: str, value: Array, other: Array, error: Array) -> tuple[Array, Array]:
        """What the stencils disagree by, and the part of it that rounding and noise explain."""
        if not factor:  # exact jets
            return jnp.zeros_like(value), jnp.zeros_like(value)
        change = jnp.abs(value - other)
        if name != "volume_element":  # digits lost at a pole say nothing of its neighbours
            change = jnp.where(null, jnp.nan, change)
        # What rounding and noise explain of a change is no sign of more: it counts once, where it is.
        explained = jnp.fmin(change, jnp.where(jnp.isfinite(error), error, 0.0))
        return factor * neighbourhood_maximum(change - explained, grid, radii), explained

    parts = Fields(*map(difference, FIELDS, values, quantities.low, errors))
    bars = Fields(*(left + explained for left, explained in parts))
    # The maximum that a search finds says nothing about convergence: leave the normal curvatures out. Nor do
    # changes of which noise explains the larger part: the noise of II is none of the volume element.
    unexplained = [
        jnp.where(left <= factor * explained, 0.0, left) / scale
        for (left, explained), scale in zip(parts[:4], scales[:4], strict=True)
    ]
    worst = jnp.max(jnp.nan_to_num(jnp.stack(unexplained), nan=1.0), axis=0)
    # Where the metric is degenerate curvatures have no scale, which would say nothing of the volume.
    failing = jnp.where((worst > tolerance) & ~null, worst, 0.0)

    def estimate(name: str, value: Array, bar: Array, noise: Array, scale: Array) -> Estimate:
        if name == "scalar_curvature" and grid.ndim == 1:  # a curve has none
            zero = jnp.where(null | ~jnp.isfinite(values.volume_element), jnp.nan, 0.0)
            return Estimate(zero, jnp.where(jnp.isnan(zero), jnp.inf, 0.0), zero == 0)
        undefined = ~jnp.isfinite(value)
        if name == "volume_element":  # where it vanishes it is a value, not a failure
            error = jnp.maximum(bar, jnp.minimum(failing, 1.0) * scale) + noise
            error = jnp.where(jnp.isnan(error), bar, error)
        else:
            error = jnp.maximum(bar, failing * scale) + noise
            undefined |= null
        value = jnp.where(undefined, jnp.nan, value)
        error = jnp.where(undefined | jnp.isnan(error), jnp.inf, error)
        return Estimate(value, error, error <= tolerance * scale)

    fields = Fields(*map(estimate, FIELDS, values, bars, errors, scales))
    return fields, failing


@partial(jax.jit, static_argnames=("grid", "radii", "factor"))
def _estimates(
    quantities: PointQuantities,
    noise: Fields,
    rules: Quadrature,
    tolerance: float,
    *,
    grid: Grid,
    radii: tuple[int, ...],
    factor: float,
) -> tuple[Fields, dict[str, Estimate]]:
    errors = jax.tree.map(jnp.add, quantities.rounding, noise)
    fields, failing = pointwise_estimates(quantities, errors, grid, radii, factor, tolerance)
    scale, null = curvature_scales(quantities).scalar_curvature, degenerate_points(quantities)
    return fields, totals_of(quantities, errors, null, failing, scale, grid, rules, factor, tolerance)


def estimates(
    quantities: PointQuantities,
    noise: Fields,
    grid: Grid,
    stencil: Stencil | None,
    radii: tuple[int, ...],
    factor: float,
    tolerance: float,
) -> tuple[Fields, dict[str, Estimate]]:
    """Error bars of the fields, and the totals by name; without a stencil the fields are exact."""
    rules = quadrature_of(grid, stencil, quantities.extent.dtype)
    run = partial(_estimates, grid=skeleton(grid), radii=radii, factor=factor)
    return by_compiler(run, quantities.extent, grid.ndim)(quantities, noise, rules, tolerance)


def report_on(
    quantities: PointQuantities,
    grid: Grid,
    name: str,
    tolerance: float,
    *,
    stencil: Stencil | None = None,
    factor: float = 0.0,
    sensitivity: Array | None = None,
    noise: NoiseModel | None = None,
    attributes: tuple[tuple[str, str], ...] = (),
) -> Geometry:
    """The Geometry of quantities at all points of a grid, exact ones where there is no stencil.

    Differences of the two stencils count ``factor`` times, 0 for exact jets. The samples have a ``noise``.
    """
    terms, quantities = quantities.noise, quantities._replace(noise=None)
    quantities = jax.tree.map(lambda x: jnp.asarray(x).reshape(grid.shape), quantities)
    if noise is None:
        bars, level = jax.tree.map(jnp.zeros_like, quantities.rounding), jnp.zeros((*grid.shape, grid.ndim))
    else:
        terms = jax.tree.map(jnp.asarray, terms)
        bars, level = noise_of(quantities.value, terms, noise, grid)
    # What is wrong at a sample is felt by all whose stencil holds it; where kinks count by themselves, less.
    radii = (1,) * grid.ndim
    if stencil and not (noise and any(noise.orders)):
        radii = reaches(stencil, grid)
    fields, totals = estimates(quantities, bars, grid, stencil, radii, factor, tolerance)
    if sensitivity is None:
        sensitivity = jnp.zeros((len(FIELDS), grid.ndim), quantities.extent.dtype)
    about = {"name": name, "grid": grid, "stencil": stencil, "tolerance": tolerance, "attributes": attributes}
    parts = {
        "axis_sensitivity": sensitivity,
        "rounding": quantities.rounding,
        "noise": level,
        "noise_bars": bars,
        "noise_decay": jnp.full(grid.ndim, jnp.nan) if noise is None else decay_of(terms, noise),
    }
    return Geometry(**fields._asdict(), **totals, **parts, **about)
