"""Points that are missing from a grid: stencils shrink to what is there, the rest is undefined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from manifold_jax._sharding import by_compiler
from manifold_jax.geometry.quantities import PointQuantities
from manifold_jax.geometry.stencil import AxisPlan, Stencil
from manifold_jax.geometry.windows import BlockPlan

SPECTRAL = 10
"""Order that a spectral axis counts as when its stencil shrinks."""


def lower_stencils(stencil: Stencil) -> Iterator[Stencil]:
    """Stencils of lower and lower order, down to 2; none for smoothing ones, whose width would not shrink."""
    if any(smooth for _, _, *smooth in stencil):
        return
    while True:
        orders = [SPECTRAL if order == "spectral" else int(order) for order, *_ in stencil]
        if max(orders) == 2:
            return
        pairs = zip(orders, stencil, strict=True)
        stencil = tuple((max(2, order - 2), stride) for order, (_, stride) in pairs)
        yield stencil


def _feels(layout: AxisPlan, uses: np.ndarray, missing: Bool[Array, "*shape"], axis: int) -> Array:
    """Samples whose rows of weights ``uses`` ``(kinds, block, window)`` hold a missing one of their axis."""
    moved = jnp.moveaxis(missing, axis, 0)
    result = jnp.zeros_like(moved)
    for rows, columns, kind in zip(layout.rows, layout.columns, layout.kinds, strict=True):
        window = moved[columns % len(moved)].astype(jnp.float32)
        held = jnp.tensordot(jnp.asarray(uses[kind], jnp.float32), window, 1) > 0
        result = result.at[rows].set(result[rows] | held)
    return jnp.moveaxis(result, 0, axis)


def defined_points(plan: BlockPlan, there: Bool[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Where all samples are there that the stencils of a plan use, mixed derivatives included."""
    missing = ~there
    for k, layout in enumerate(plan.axes):
        missing = _feels(layout, (layout.matrices != 0).any(axis=(0, 2)), missing, k)
    return ~missing


def _without_missing(
    plan: BlockPlan, quantities: PointQuantities, there: Bool[Array, "*shape"]
) -> PointQuantities:
    """High differences that hold a missing sample replaced by their median along the axis."""
    if not plan.differences:
        return quantities

    def along(values: Array, k: int) -> Array:
        layout = plan.axes[k]
        felt = _feels(layout, (layout.differences != 0).any(axis=1), ~there, k)
        return jnp.where(felt, jnp.nan_to_num(jnp.nanmedian(jnp.where(felt, jnp.nan, values))), values)

    def all_axes(values: Array) -> Array:
        values = jnp.asarray(values)
        return jnp.stack([along(values[..., k], k) for k in range(values.shape[-1])], axis=-1)

    terms = quantities.noise
    named = {name: all_axes(getattr(terms, name)) for name in ("energies", "below", "aligned")}
    return quantities._replace(noise=terms._replace(**named))


def shrunk_quantities(
    there: Bool[Array, "*shape"],
    plan: BlockPlan,
    plan_of: Callable[[Stencil], BlockPlan],
    run: Callable[[BlockPlan], PointQuantities],
) -> PointQuantities:
    """Quantities of every point by the stencil of highest order all of whose samples are there, else NaN.

    Args:
        there: Which points are there.
        plan: The plan of the stencil that was asked for.
        plan_of: The plan of a stencil of lower order.
        run: The quantities of a plan, from points that are all finite.
    """
    there = jnp.asarray(there)

    def spread(function: Callable[..., Any]) -> Callable[..., Any]:
        return by_compiler(function, there, there.ndim)

    quantities, defined = run(plan), spread(partial(defined_points, plan))(there)

    def choose(new: Array, old: Array, wanted: Array) -> Array:
        wanted = wanted.reshape(*wanted.shape, *(1,) * (jnp.ndim(old) - wanted.ndim))
        return jnp.where(wanted, new, old)

    for stencil in lower_stencils(plan.stencils[0]):
        lower = plan_of(stencil)
        more = spread(partial(defined_points, lower))(there) & ~defined
        quantities = jax.tree.map(lambda new, old, more=more: choose(new, old, more), run(lower), quantities)
        defined |= more
    undefined = jax.tree.map(lambda x: jnp.where(defined, x, jnp.nan), (quantities.value, quantities.low))
    quantities = quantities._replace(value=undefined[0], low=undefined[1])
    return spread(partial(_without_missing, plan))(quantities, there)
