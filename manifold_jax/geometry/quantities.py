"""All quantities of one point at once, the rounding noise they carry, and how estimates of them look."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from manifold_jax._linalg import safe_sqrt
from manifold_jax.geometry.grid import DType, Grid
from manifold_jax.geometry.normal_curvature import bounds_of
from manifold_jax.geometry.tensors import (
    JetGram,
    contract,
    frame,
    frame_mixed,
    map_points,
    point_volume_element,
    second_form_gram,
    traces,
    unpack_gram,
)
from manifold_jax.geometry.windows import BlockGrams, BlockPlan

TENSOR_ROUNDINGS = 4
"""Roundings, in eps, of a contraction of small tensors relative to the size of its terms."""

JET_ROUNDINGS = 8
"""Roundings, in eps, of exact derivatives relative to their size."""


class Fields(NamedTuple):
    """Every quantity of a point, in the order of reports: arrays, or estimates with error bars.

    Attributes:
        volume_element: sqrt(det g).
        scalar_curvature: S.
        mean_curvature: |H|.
        second_form_norm: |II|.
        normal_curvature: Largest normal curvature, as far as it was searched.
        normal_curvature_upper: Upper bound of the largest normal curvature.
    """

    volume_element: Any
    scalar_curvature: Any
    mean_curvature: Any
    second_form_norm: Any
    normal_curvature: Any
    normal_curvature_upper: Any


FIELDS = Fields._fields
"""Names of the quantities of a point."""

TOTALS = (
    "total_volume",
    "total_scalar_curvature",
    "total_positive_curvature",
    "total_negative_curvature",
)
"""Names of the integrals over a manifold."""


class Estimate(NamedTuple):
    """A measured quantity with its error bar.

    Attributes:
        value: The quantity; NaN where it is not defined (degenerate metric).
        error: Bar such that the truth lies within value +- error; infinite where unknown.
        resolved: Whether the bar is below the tolerance, relative to the natural scale of the quantity.
    """

    value: Float[Array, "*shape"]
    error: Float[Array, "*shape"]
    resolved: Bool[Array, "*shape"]


class PointQuantities(NamedTuple):
    """What is kept of every point.

    Attributes:
        value: Quantities by the main stencil (or exactly).
        low: Quantities by the comparison stencil.
        rounding: Rounding noise of each quantity.
        extent: Length of the manifold seen from the point, sqrt(sum_i g_ii range_i^2); radii of curvature
            far beyond it count as flat.
    """

    value: Fields
    low: Fields
    rounding: Fields
    extent: Any


def natural_scales(value: Fields, least: Any = 0.0) -> Fields:
    """Scale of errors: the volume element itself, |II|^2 for S, |II| for others; |II| counts as ``least``."""
    norm = jnp.maximum(value.second_form_norm, least)
    return Fields(value.volume_element, norm**2, norm, norm, norm, norm)


# --- one point -------------------------------------------------------------------------------------------


def point_fields(gram: JetGram) -> Fields:
    """Quantities of one point from its Gram."""
    c = second_form_gram(gram)
    return Fields(*_plain(gram, c), *bounds_of(c))


def plain_fields(gram: JetGram) -> tuple[Array, Array, Array, Array]:
    """Volume element, S, |H| and |II| of one point."""
    return _plain(gram, second_form_gram(gram))


def _plain(gram: JetGram, c: Float[Array, "d d d d"]) -> tuple[Array, Array, Array, Array]:
    mean, norm = traces(c)
    return point_volume_element(gram), mean - norm, safe_sqrt(mean) / c.shape[0], safe_sqrt(norm)


def _point_rounding(gram: JetGram, first: Float[Array, "d"], second: Float[Array, "d d"]) -> Fields:
    """Rounding noise of the quantities of one point, from the noise of |X_i| and of |X_ij|."""
    eps = TENSOR_ROUNDINGS * jnp.finfo(gram.metric.dtype).eps
    d = gram.metric.shape[0]
    basis = frame(gram.metric)
    tangential = contract("abc,abc->", *(2 * [frame_mixed(gram, basis)]))
    normal = traces(second_form_gram(gram))[1]
    squares = basis**2
    tilt = safe_sqrt(contract("ai,i->", squares, first**2)) + eps
    moved = safe_sqrt(contract("ai,bj,ij->", squares, squares, second**2))
    noise = moved + (safe_sqrt(tangential) + safe_sqrt(normal)) * tilt
    # |II|^2 is a difference of products of the size of the tangential part.
    squared = 2 * safe_sqrt(normal) * noise + noise**2 + eps * (tangential + normal)
    length = squared / jnp.maximum(safe_sqrt(normal), jnp.sqrt(squared))
    volume = point_volume_element(gram) * d**0.5 * tilt
    return Fields(volume, squared, length, length, length, length)


# --- the points of a block -------------------------------------------------------------------------------


def stencil_noise(plan: BlockPlan, dtype: DType) -> tuple[tuple[Array, Array], ...]:
    """Noise gain of the first and second derivative at every sample of each axis, for the main stencil."""
    tables = []
    for axis, layout in zip(plan.grid.axes, plan.axes, strict=True):
        gains = np.zeros((2, axis.size))
        norms = np.linalg.norm(layout.matrices[0], axis=-1)
        for rows, kind in zip(layout.rows, layout.kinds, strict=True):
            gains[:, rows] = norms[kind, 1:]
        tables.append((jnp.asarray(gains[0], dtype), jnp.asarray(gains[1], dtype)))
    return tuple(tables)


def grid_quantities(block: BlockGrams, plan: BlockPlan) -> PointQuantities:
    """Quantities ``(*block,)`` of every point of a block, by the main and the comparison stencil."""
    grid, dtype = plan.grid, block.grams[0].dtype
    d = grid.ndim
    main, low = (unpack_gram(g.reshape(-1, *g.shape[-2:]), d) for g in block.grams[:2])
    gains = stencil_noise(plan, dtype)
    first, second = (
        _mesh([gain[k][rows] for gain, rows in zip(gains, block.rows, strict=True)]) for k in (0, 1)
    )
    samples = [jnp.asarray(a.samples(), dtype)[rows] for a, rows in zip(grid.axes, block.rows, strict=True)]
    coordinates = jnp.abs(_mesh(samples))
    lengths = _lengths(main)
    # Samples are rounded, and so are the coordinates at which they were taken: a uniform error within half a
    # unit in the last place, of variance eps^2 / 12.
    scale = jnp.finfo(dtype).eps / 12**0.5 * (block.norm + jnp.sum(coordinates * lengths, axis=-1))
    pairs = jnp.where(jnp.eye(d, dtype=bool), second[:, :, None], first[:, :, None] * first[:, None, :])
    noise = jax.vmap(_point_rounding)(main, scale[:, None] * first, scale[:, None, None] * pairs)
    # One program for both stencils compiles in half the time.
    both = jax.vmap(point_fields)(jax.tree.map(lambda *g: jnp.concatenate(g), main, low))
    value = jax.tree.map(lambda x: x[: plan.block_points], both)
    comparison = jax.tree.map(lambda x: x[plan.block_points :], both)
    quantities = PointQuantities(value, comparison, noise, _extent(main, chart_ranges(grid, dtype)))
    return jax.tree.map(lambda leaf: leaf.reshape(plan.block), quantities)


def exact_quantities(gram: JetGram, ranges: Float[Array, "d"]) -> PointQuantities:
    """Quantities ``(n,)`` of points from exact jets; only rounding is uncertain, the comparison is the value.

    ``ranges`` are the lengths of the axes of the chart.
    """
    noise = JET_ROUNDINGS * jnp.finfo(gram.metric.dtype).eps
    values = map_points(point_fields, gram)
    extent = _extent(gram, ranges)
    # A derivative that vanishes (along the orientation of a circle) is rounded like those that do not.
    first = jnp.maximum(_lengths(gram), extent[:, None] / ranges)
    second = safe_sqrt(jnp.einsum("...ijij->...ij", gram.second))
    second = jnp.maximum(second, extent[:, None, None] / (ranges[:, None] * ranges))
    rounding = map_points(_point_rounding, gram, noise * first, noise * second)
    return PointQuantities(values, values, rounding, extent)


def chart_ranges(grid: Grid, dtype: DType) -> Float[Array, "d"]:
    """Length of every axis."""
    return jnp.asarray([axis.stop - axis.start for axis in grid.axes], dtype)


def _lengths(gram: JetGram) -> Float[Array, "n d"]:
    """|X_i|."""
    return safe_sqrt(jnp.diagonal(gram.metric, axis1=-2, axis2=-1))


def _mesh(per_axis: list[Array]) -> Float[Array, "n d"]:
    """One value per axis and sample to rows of points."""
    mesh = jnp.stack(jnp.meshgrid(*per_axis, indexing="ij"), axis=-1)
    return mesh.reshape(-1, len(per_axis))


def _extent(gram: JetGram, ranges: Float[Array, "d"]) -> Array:
    return safe_sqrt(jnp.sum((_lengths(gram) * ranges) ** 2, axis=-1))
