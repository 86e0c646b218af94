"""Which axis of a grid is too coarse: what changes when one axis takes another stencil."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax.geometry.blocks import BlockGrams, host_block, map_blocks
from manifold_jax.geometry.error_bars import changed_on_axis
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.jet import unpack_gram
from manifold_jax.geometry.plan import BlockPlan, Stencil
from manifold_jax.geometry.quantities import plain_fields
from manifold_jax.geometry.source import PointSource, plan_for

_BLOCKS = 6
_POINTS = 64


def sensitivity_plan(source: PointSource, grid: Grid, stencil: Stencil, comparison: Stencil) -> BlockPlan:
    """Small blocks with the main stencil, and with the comparison on one axis after the other."""
    stencils = (stencil, *(changed_on_axis(stencil, comparison, k) for k in range(grid.ndim)))
    return plan_for(source, grid, stencils, min(_POINTS, grid.size))


def probed_blocks(plan: BlockPlan) -> np.ndarray:
    """A few blocks spread over the grid."""
    return np.unique(np.linspace(0, plan.size - 1, _BLOCKS).round().astype(int))


def axis_sensitivity(
    source: PointSource, grid: Grid, stencil: Stencil, comparison: Stencil
) -> Float[Array, "measures d"]:
    """Relative change of each measure when one axis takes the comparison stencil.

    The median over a few small blocks. Normal curvatures, which are searched for, change as |II| does.
    """
    plan = sensitivity_plan(source, grid, stencil, comparison)
    chosen = probed_blocks(plan)
    if source.on_host:
        whole = source.kind == "memmap"
        blocks = [host_block(source.points, plan, int(b), whole_features=whole) for b in chosen]
        fields = jnp.stack([stencil_fields(block, plan) for block in blocks])
    else:
        fields = _group(source.points, plan, jnp.asarray(chosen), source.dtype)
    return relative_changes(fields)


@partial(jax.jit, static_argnames=("plan", "dtype"))
def _group(points: Any, plan: BlockPlan, blocks: Any, dtype: Any) -> Array:
    return map_blocks(points, plan, blocks, dtype, lambda block: stencil_fields(block, plan))


@partial(jax.jit, static_argnames="plan")
def stencil_fields(block: BlockGrams, plan: BlockPlan) -> Float[Array, "stencils points 4"]:
    """Volume element, S, |H| and |II| by every stencil of the plan."""
    packed = block.grams.reshape(-1, *block.grams.shape[-2:])
    values = jax.vmap(plain_fields)(unpack_gram(packed, plan.grid.ndim))
    return jnp.stack(values, axis=-1).reshape(len(block.grams), -1, len(values))


@jax.jit
def relative_changes(fields: Float[Array, "blocks stencils points 4"]) -> Float[Array, "measures d"]:
    """Medians of the changes that every stencil but the first makes."""
    main, others = fields[:, 0], jnp.moveaxis(fields[:, 1:], 1, 0)
    volume, bend = main[..., 0], main[..., 3]
    scales = jnp.stack([volume, bend**2, bend, bend], axis=-1)
    changes = jnp.nanmedian(jnp.abs(others - main) / scales, axis=(1, 2)).T
    return jnp.concatenate([changes, changes[3:], changes[3:]])
