"""Layers by stencils: a window of the grid goes from layer to layer, and is differentiated in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax._files import Progress
from manifold_jax.geometry.blocks import BlockGrams, function_window, reassemble, window_block
from manifold_jax.geometry.error_bars import comparison_stencil, safety_factor
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.manifold import Manifold
from manifold_jax.geometry.measure import report_on
from manifold_jax.geometry.plan import BlockPlan, Stencil
from manifold_jax.geometry.quantities import PointMeasures, grid_measures
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.sensitivity import (
    probed_blocks,
    relative_changes,
    sensitivity_plan,
    stencil_fields,
)
from manifold_jax.geometry.source import PointSource, as_partial, plan_for

_BATCH = 64

_block_measures = jax.jit(grid_measures, static_argnames="plan")


@partial(jax.jit, static_argnames="ndim")
def _advance(function: Any, window: Array, ndim: int) -> Array:
    """A window in the next layer."""
    flat = window.reshape(-1, *window.shape[ndim:])
    after = jax.lax.map(function, flat, batch_size=min(_BATCH, len(flat)))
    return after.reshape(*window.shape[:ndim], *after.shape[1:])


def _blocks(
    manifold: Manifold, functions: Sequence[Callable[[Any], Any]], plan: BlockPlan, block: int, dtype: Any
) -> Iterator[BlockGrams]:
    """Gram matrices of one block in the input and in one layer after the other."""
    window = function_window(as_partial(manifold.embedding), plan, block, dtype)
    window = window.reshape(*window.shape[:-1], *manifold.feature_shape)
    yield window_block(window, plan, block)
    for function in functions:
        window = _advance(as_partial(function), window, manifold.grid.ndim)
        yield window_block(window, plan, block)


def _sensitivities(
    manifold: Manifold, functions: Sequence[Callable[[Any], Any]], plan: BlockPlan, dtype: Any
) -> list[Array]:
    """What one axis changes, for every layer."""
    rows = [
        [stencil_fields(grams, plan) for grams in _blocks(manifold, functions, plan, int(block), dtype)]
        for block in probed_blocks(plan)
    ]
    return [relative_changes(jnp.stack(column)) for column in zip(*rows, strict=True)]


def _measures(
    manifold: Manifold,
    functions: Sequence[Callable[[Any], Any]],
    plan: BlockPlan,
    dtype: Any,
    progress: Progress | None,
) -> list[PointMeasures]:
    """Measures of every layer on the whole grid."""
    parts: list[list[PointMeasures]] = [[] for _ in range(len(functions) + 1)]
    size, per_block = manifold.grid.size, math.prod(plan.block)
    for block in range(plan.size):
        grams = _blocks(manifold, functions, plan, block, dtype)
        for found, part in zip(parts, grams, strict=True):
            found.append(jax.device_get(_block_measures(part, plan)))
        if progress is not None:
            progress(min((block + 1) * per_block, size), size)

    def whole(*leaves: np.ndarray) -> Array:
        return reassemble(jnp.asarray(np.stack(leaves)), plan)

    return [jax.tree.map(whole, *found) for found in parts]


def _features(manifold: Manifold, functions: Sequence[Callable[[Any], Any]], dtype: Any) -> int:
    """Of the largest layer."""
    point = jax.ShapeDtypeStruct(manifold.feature_shape, dtype)
    sizes = [point.size]
    for function in functions:
        point = jax.eval_shape(function, point)
        sizes.append(point.size)
    return max(sizes)


def layers_by_stencils(
    manifold: Manifold,
    functions: Sequence[Callable[[Any], Any]],
    names: Sequence[str],
    stencil: Stencil,
    tolerance: float,
    block_size: int | None,
    progress: Progress | None,
) -> tuple[Geometry, ...]:
    """Reports on the input and all layers by stencils on the grid of activations.

    Samples that a stencil needs beyond the ends of an open axis are evaluated too, as by :func:`measure` for
    an embedding.

    Args:
        manifold: Its embedding gives the input of the first layer.
        functions: The layers, whose shapes chain.
        names: Of the layers.
        stencil: Order and stride of every axis.
        tolerance: As for :func:`measure`.
        block_size: Points of a block; by default as many as memory allows in the largest layer.
        progress: Called as ``progress(points done, points)``.

    Returns:
        One report each.
    """
    grid: Grid = manifold.grid
    dtype = jnp.result_type(float)
    source = PointSource(None, "function", _features(manifold, functions, dtype), dtype)
    comparison = comparison_stencil(stencil, grid, evaluated=True)
    factor = safety_factor(stencil, comparison)
    changes = _sensitivities(manifold, functions, sensitivity_plan(source, grid, stencil, comparison), dtype)
    plan = plan_for(source, grid, (stencil, comparison), block_size)
    found = _measures(manifold, functions, plan, dtype, progress)
    return tuple(
        report_on(part, grid, name, tolerance, stencil=stencil, factor=factor, sensitivity=factor * change)
        for name, part, change in zip(("input", *names), found, changes, strict=True)
    )
