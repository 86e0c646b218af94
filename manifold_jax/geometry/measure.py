"""One call that measures a manifold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax._files import PartialResult, Progress, fingerprint
from manifold_jax.geometry.blocks import host_block, map_blocks, reassemble
from manifold_jax.geometry.error_bars import (
    Estimate,
    check_tolerance,
    comparison_stencil,
    integral_estimate,
    natural_scales,
    pointwise_estimates,
    safety_factor,
)
from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.jet import gram_from_function
from manifold_jax.geometry.manifold import Manifold, points_and_grid
from manifold_jax.geometry.plan import BlockPlan, Stencil
from manifold_jax.geometry.quantities import (
    Fields,
    PointMeasures,
    chart_ranges,
    exact_measures,
    grid_measures,
)
from manifold_jax.geometry.report import TOTALS, Geometry
from manifold_jax.geometry.sensitivity import axis_sensitivity
from manifold_jax.geometry.source import PointSource, plan_for, point_source, stencil_of


def measure(
    points_or_manifold: Any,
    grid: Grid | None = None,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
    stride: int | tuple[int, ...] = 1,
    exact: bool = False,
    tolerance: float = 0.1,
    block_size: int | None = None,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    name: str | None = None,
) -> Geometry:
    """Volume and curvatures of one manifold with error bars; :func:`reach` gives its reach.

    Args:
        points_or_manifold: A :class:`Manifold`; or an array ``(*grid.shape, *features)``, in memory or
            memory-mapped; or an embedding, a function of one chart point. The components of a union are
            measured one by one.
        grid: The lattice; for a Manifold by default its own.
        accuracy: Order of the stencils, 2, 4, 6, 8 or ``"spectral"``; one for all axes or one per axis.
        stride: Spacing of the stencils in samples.
        exact: Differentiate the embedding automatically instead; errors are then rounding alone.
        tolerance: Error relative to the natural scale of a measure (itself for volumes, |II| for curvatures,
            |II|^2 for the scalar curvature) up to which it counts as resolved.
        block_size: Points differentiated at once; by default set by memory.
        progress: Called as ``progress(points done, points)`` after every group of blocks.
        checkpoint: Folder in which finished blocks are kept while the measurement runs; called again with the
            same arguments it goes on from there.
        name: Title of the report; by default that of the Manifold.

    Returns:
        A :class:`Geometry`: fields and totals as :class:`Estimate` (value, error, resolved), a pytree. Works
        under ``jit`` (without progress and checkpoint) for arrays and embeddings.

    Raises:
        ValueError: A sequence of manifolds is given, points and grid do not fit, the points hold NaN or
            infinite values, ``exact`` is asked for an array, or an option is out of range.

    Example:
        >>> import math
        >>> import jax.numpy as jnp
        >>> from manifold_jax import Axis, Grid, measure
        >>> grid = Grid((Axis("angle", 0.0, 2 * math.pi, 32, periodic=True),))
        >>> ellipse = measure(lambda u: jnp.stack([2 * jnp.cos(u[0]), jnp.sin(u[0])]), grid)
        >>> perimeter = ellipse.total_volume
        >>> print(f"{perimeter.value:.3f}", bool(perimeter.error < 0.01), bool(perimeter.resolved))
        9.688 True True
    """
    if isinstance(points_or_manifold, Sequence) and not grid:
        raise ValueError(
            f"measure takes one manifold, got a sequence of {len(points_or_manifold)}: measure each, and "
            "pass the sequence to reach."
        )
    points, grid = points_and_grid(points_or_manifold, grid, "measure")
    title, attributes = _described(points_or_manifold, name)
    check_tolerance(tolerance)
    source = point_source(points, grid, exact=exact)
    stencil = stencil_of(grid, accuracy, stride)
    traced = _is_traced(source, grid)
    if source.kind == "array" and not traced:
        _refuse_nonfinite(source.points, grid)
    partial_result = None
    if checkpoint is not None:
        key = _fingerprint(source, grid, title, stencil, exact, block_size, attributes)
        partial_result = PartialResult(Path(checkpoint), key)
    if exact:
        measures = _measure_exactly(source, grid, block_size, progress, partial_result, traced)
        sensitivity, factor = None, 0.0
    else:
        comparison = comparison_stencil(stencil, grid, evaluated=source.kind == "function")
        factor = safety_factor(stencil, comparison)
        plan = plan_for(source, grid, (stencil, comparison), block_size)
        sensitivity = factor * axis_sensitivity(source, grid, stencil, comparison)
        measures = _measure_blocks(source, plan, progress, partial_result, traced)
    result = report_on(
        measures,
        grid,
        title,
        tolerance,
        stencil=None if exact else stencil,
        factor=factor,
        sensitivity=sensitivity,
        attributes=attributes,
    )
    if partial_result is not None:
        partial_result.remove()
    return result


def _described(points: Any, name: str | None) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Title and attributes of what was given."""
    if not isinstance(points, Manifold):
        return name or "manifold", ()
    return name or points.name, tuple((key, str(value)) for key, value in points.attributes.items())


def _is_traced(source: PointSource, grid: Grid) -> bool:
    """Whether the points depend on values that are being traced by a transformation."""
    if source.kind == "function":
        point = jnp.zeros(grid.ndim, source.dtype)
        return isinstance(source.points(point), jax.core.Tracer)
    return isinstance(source.points, jax.core.Tracer)


def _fingerprint(source: PointSource, grid: Grid, *parts: Any) -> str:
    """Digest of the points and arguments of a measurement."""
    places = np.linspace(0, grid.size - 1, 5).round().astype(int)
    if source.kind == "function":
        coordinates = np.asarray(grid.coordinates(source.dtype)).reshape(-1, grid.ndim)[places]
        probe = np.asarray(jax.vmap(lambda u: jnp.ravel(source.points(u)))(jnp.asarray(coordinates)))
        return fingerprint(None, probe, grid, *parts)
    probe = np.asarray(source.points.reshape(grid.size, source.features)[places])
    return fingerprint(source.points, probe, grid, *parts)


def _refuse_nonfinite(points: Any, grid: Grid) -> None:
    finite = np.asarray(jnp.all(jnp.isfinite(points), axis=-1))
    if not finite.all():
        bad = np.argwhere(~finite)
        raise ValueError(
            f"points hold NaN or infinite values at {len(bad)} of {grid.size} grid points, first at index "
            f"{tuple(int(k) for k in bad[0])} of axes {grid.names}: remove or repair them."
        )


# --- fields ------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("plan", "dtype"))
def _block_group(points: Any, plan: BlockPlan, blocks: Any, dtype: Any) -> PointMeasures:
    return map_blocks(points, plan, blocks, dtype, lambda block: grid_measures(block, plan))


@partial(jax.jit, static_argnames="plan")
def _host_fields(block: Any, plan: BlockPlan) -> PointMeasures:
    return grid_measures(block, plan)


def _measure_blocks(
    source: PointSource,
    plan: BlockPlan,
    progress: Progress | None,
    partial_result: PartialResult | None,
    traced: bool,
) -> PointMeasures:
    """Fields on the whole grid, block by block."""
    if traced:
        stacked = _block_group(source.points, plan, jnp.arange(plan.size), source.dtype)
        return jax.tree.map(lambda leaf: reassemble(leaf, plan), stacked)

    def run(blocks: np.ndarray) -> PointMeasures:
        if source.on_host:
            parts = []
            for number in blocks:
                block = host_block(source.points, plan, int(number), whole_features=source.kind == "memmap")
                if not bool(jnp.isfinite(block.norm)):
                    _refuse_nonfinite(np.asarray(source.points), plan.grid)
                parts.append(_host_fields(block, plan))
            return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
        return _block_group(source.points, plan, jnp.asarray(blocks), source.dtype)

    points_per_block = math.prod(plan.block)
    group = 1 if source.on_host else max(1, plan.size // 64)
    stacked = _in_groups(run, plan.size, group, points_per_block, plan.grid.size, progress, partial_result)
    return jax.tree.map(lambda leaf: reassemble(jnp.asarray(leaf), plan), stacked)


@partial(jax.jit, static_argnames="batch_size")
def _exact_group(embedding: Any, coordinates: Any, ranges: Any, batch_size: int | None) -> PointMeasures:
    return exact_measures(gram_from_function(embedding, coordinates, batch_size=batch_size), ranges)


def _measure_exactly(
    source: PointSource,
    grid: Grid,
    batch_size: int | None,
    progress: Progress | None,
    partial_result: PartialResult | None,
    traced: bool,
) -> PointMeasures:
    """Fields on the whole grid by automatic differentiation."""
    ranges = chart_ranges(grid, source.dtype)
    if traced:
        flat = grid.coordinates(source.dtype).reshape(-1, grid.ndim)
        gram = gram_from_function(source.points, flat, batch_size=batch_size)
        return jax.tree.map(lambda leaf: leaf.reshape(grid.shape), exact_measures(gram, ranges))
    coordinates = np.asarray(grid.coordinates(source.dtype)).reshape(-1, grid.ndim)
    # Few sizes, so that small grids share a program.
    size = max(min(256, 1 << (grid.size - 1).bit_length()), -(-grid.size // 64))
    count = -(-grid.size // size)
    padded = np.pad(coordinates, ((0, count * size - grid.size), (0, 0)), mode="edge")
    pieces = padded.reshape(count, size, grid.ndim)

    def run(numbers: np.ndarray) -> PointMeasures:
        fields = _exact_group(source.points, jnp.asarray(pieces[numbers[0]]), ranges, batch_size)
        return jax.tree.map(lambda leaf: leaf[None], fields)

    stacked = _in_groups(run, count, 1, size, grid.size, progress, partial_result)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(-1)[: grid.size].reshape(grid.shape), stacked)


def _in_groups(
    run: Callable[[np.ndarray], PointMeasures],
    count: int,
    group: int,
    points_per_item: int,
    points: int,
    progress: Progress | None,
    partial_result: PartialResult | None,
) -> PointMeasures:
    """Run items 0..count-1 in groups of equal size, reporting and saving in between."""
    leaves: list[list[np.ndarray]] = []
    done = 0
    if partial_result is not None:
        leaves, done = partial_result.load()
    while done < count:
        # The last group repeats its last item: one shape, one compilation.
        numbers = np.minimum(np.arange(done, done + group), count - 1)
        fields = jax.tree.leaves(jax.device_get(run(numbers)))
        leaves.append([leaf[: count - done] for leaf in fields])
        done = min(done + group, count)
        if progress is not None:
            progress(min(done * points_per_item, points), points)
        if partial_result is not None:
            partial_result.save(leaves, done)
    merged = [np.concatenate(column) for column in zip(*leaves, strict=True)]
    kinds = len(Fields._fields)
    value, low, rounding = (Fields(*merged[k : k + kinds]) for k in range(0, 3 * kinds, kinds))
    return PointMeasures(value, low, rounding, merged[-1])


# --- totals ------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("grid", "stencil", "factor", "tolerance"))
def estimates(
    measures: PointMeasures, grid: Grid, stencil: Stencil | None, factor: float, tolerance: float
) -> tuple[Fields, dict[str, Estimate]]:
    """Error bars of the fields, and the totals by name; without a stencil the fields are exact."""
    fields, failing = pointwise_estimates(measures, grid, factor, tolerance)
    orders = tuple(a for a, _ in stencil) if stencil else (4,) * grid.ndim
    quadrature = tuple(8 if order == "spectral" else order for order in orders)
    integral = partial(integral_estimate, factor=factor, grid=grid, accuracy=quadrature, tolerance=tolerance)
    main, low, noise = measures.value, measures.low, measures.rounding
    volume = main.volume_element
    undefined = jnp.isnan(fields.scalar_curvature.value)
    # Relative to the integral of |S|, but a total that is small beside |II|^2 counts as flat.
    bend = natural_scales(measures).scalar_curvature
    scale = jnp.abs(main.scalar_curvature) + 0.01 * bend

    def curvature(part: Callable[[Array], Array]) -> tuple[Array, ...]:
        """Integrands: value, comparison, rounding and scale."""
        value = part(main.scalar_curvature)
        rounding = (noise.scalar_curvature + failing * bend) * volume
        rounding += jnp.abs(value) * noise.volume_element
        lower = part(low.scalar_curvature) * low.volume_element
        integrands = (value * volume, lower, rounding, scale * volume)
        return tuple(jnp.where(undefined, 0.0, x) for x in integrands)

    integrands = (
        (volume, low.volume_element, noise.volume_element + failing * volume, volume),
        curvature(lambda s: s),
        curvature(lambda s: jnp.maximum(s, 0.0)),
        curvature(lambda s: jnp.minimum(s, 0.0)),
    )
    # One program for all of them.
    totals = jax.vmap(integral)(*(jnp.stack(column) for column in zip(*integrands, strict=True)))
    parts = [Estimate(*(leaf[k] for leaf in totals)) for k in range(len(TOTALS))]
    return fields, dict(zip(TOTALS, parts, strict=True))


def report_on(
    measures: PointMeasures,
    grid: Grid,
    name: str,
    tolerance: float,
    *,
    stencil: Stencil | None = None,
    factor: float = 0.0,
    sensitivity: Array | None = None,
    attributes: tuple[tuple[str, str], ...] = (),
) -> Geometry:
    """The report on measures of all points of a grid, exact ones where there is no stencil.

    Args:
        measures: Fields of as many points as the grid has.
        grid: The lattice.
        name: Title.
        tolerance: As for :func:`measure`.
        stencil: Order and stride of every axis.
        factor: Of safety of the error bars.
        sensitivity: Relative change of each measure by each axis.
        attributes: How the manifold was made.

    Returns:
        The report.
    """
    measures = jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(grid.shape), measures)
    fields, totals = estimates(measures, grid, stencil, factor, tolerance)
    if sensitivity is None:
        sensitivity = jnp.zeros((len(Fields._fields), grid.ndim), measures.extent.dtype)
    return Geometry(
        **fields._asdict(),
        **totals,
        axis_sensitivity=sensitivity,
        rounding=measures.rounding,
        name=name,
        grid=grid,
        stencil=stencil,
        tolerance=tolerance,
        attributes=attributes,
    )
