"""Blocks of points that lie in pieces on the devices of a mesh: every device takes those of its piece.

Along an axis of the grid it gets the halo of its piece from its neighbours, around a ring of ``ppermute``;
sums over features are added up. The results lie where the points do; in those of windows features come last.
A window that is as long as its axis (a spectral one, or one of few samples) needs the whole axis on every
device, for which it is gathered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from manifold_jax._sharding import Names, in_pieces, joined, mesh_of, names_of, place_in, shift_pieces, total
from manifold_jax.geometry.grid import DType
from manifold_jax.geometry.stencil import AxisPlan
from manifold_jax.geometry.windows import BlockPlan, Job, Sums, Window, keep_grams, locate, sum_chunks


def cut_window(
    values: Array, plan: BlockPlan, columns: Sequence[Array], origins: Sequence[Any], start: Any, size: int
) -> Array:
    """Window ``(m_1, ..., m_d, size)`` of an array ``(*shape, f)``, from feature ``start`` on.

    An axis that begins at a sample of the grid of its own, its origin, holds whatever a window needs. Of
    others, whose origin is None, there is all, and they are wrapped.
    """
    starts: list[Any] = [0] * plan.grid.ndim
    sizes = list(values.shape[:-1])
    wrapped = []
    for axis, (layout, index, origin) in enumerate(zip(plan.axes, columns, origins, strict=True)):
        n = plan.grid.shape[axis]
        if origin is not None:
            starts[axis], sizes[axis] = index[0] - origin, len(index)
        elif layout.columns.min() >= 0 and layout.columns.max() < n:
            starts[axis], sizes[axis] = index[0], len(index)
        else:
            wrapped.append((axis, index % n))
    # One slice of all axes: a window of all features is never made.
    window = jax.lax.dynamic_slice(values, (*starts, start), (*sizes, size))
    for axis, index in wrapped:
        window = jnp.take(window, index, axis=axis)
    return window


def _halos(layout: AxisPlan, piece: int, count: int) -> tuple[int, int]:
    """Samples that windows need before and after a piece, the most that any of them does."""
    pieces, columns = np.repeat(np.arange(count), len(layout.columns) // count), layout.columns
    before, after = (piece * pieces - columns[:, 0]).max(), (columns[:, -1] + 1 - piece * (pieces + 1)).max()
    return max(0, int(before)), max(0, int(after))


def _with_halo(values: Array, axis: int, names: Names, halos: tuple[int, int]) -> Array:
    """A piece with so many samples of those before and after it; what lies beyond the ends is wrapped."""
    size = values.shape[axis]

    def neighbours(width: int, step: int) -> list[Array]:
        """The nearest first; of the last one only what is needed."""
        parts = []
        for hop in range(1, -(-width // size) + 1):
            part = min(size, width - (hop - 1) * size)
            first = size - part if step > 0 else 0
            sent = jax.lax.slice_in_dim(values, first, first + part, axis=axis)
            parts.append(shift_pieces(sent, names, step * hop))
        return parts

    before, after = neighbours(halos[0], 1), neighbours(halos[1], -1)
    return jnp.concatenate([*before[::-1], values, *after], axis=axis)


def _held(values: Array, plan: BlockPlan, names: Sequence[Names]) -> tuple[Array, list[Any]]:
    """What this device needs of the points, and the sample at which it begins along each axis that is cut."""
    origins: list[Any] = []
    for axis, (layout, over) in enumerate(zip(plan.axes, names, strict=True)):
        n, piece = plan.grid.shape[axis], values.shape[axis]
        if over and layout.columns.shape[1] == n:
            values = jax.lax.all_gather(values, over, axis=axis, tiled=True)
        halos = _halos(layout, piece, n // piece) if values.shape[axis] < n else None
        if halos:
            values = _with_halo(values, axis, over, halos)
        origins.append(place_in(over, piece) - halos[0] if halos else None)
    return values, origins


def _flat_number(plan: BlockPlan, number: Array, names: Sequence[Names]) -> Array:
    """Number in the grid of a block of this device, from that in its piece."""
    index = jnp.unravel_index(number, plan.piece_counts)
    moved = [place_in(over, c) + i for i, over, c in zip(index, names, plan.piece_counts, strict=True)]
    return jnp.ravel_multi_index(tuple(moved), plan.counts, mode="clip")


def _sums_over(names: Names, sums: Sums) -> Sums:
    """The sums over the features of all devices, from those over its own."""
    grams, squares, high = total(tuple(sums[:3]), names)
    return Sums(grams, squares, high, total(sums.peak, names, largest=True))


def _spec(values: Array, names: Sequence[Names], windows: bool, *before: Any) -> PartitionSpec:
    """How results are cut along the axes of the grid, and those of windows along features."""
    rest = (None, names_of(values)[-1]) if windows else ()
    return PartitionSpec(*before, *names, *rest)


@partial(jax.jit, static_argnames=("dtype", "function", "windows"))
def piece_blocks(
    values: Array, plan: BlockPlan, numbers: Any, dtype: DType, function: Job, windows: bool
) -> Any:
    """Results of blocks, numbered within every piece: ``(blocks, pieces, *block, ...)``."""
    *names, features = names_of(values)

    def local(values: Array, plan: BlockPlan, numbers: Array) -> Any:
        held, origins = _held(values, plan, names)

        def one(number: Array) -> Any:
            block = _flat_number(plan, number, names)
            place = locate(plan, block, dtype)
            cut = partial(cut_window, held, plan, place.columns, origins)
            if windows:
                return function(Window(cut(0, held.shape[-1]), block), plan)
            sums = _sums_over(features, sum_chunks(plan, place, cut, held.shape[-1]))
            return function(keep_grams(plan, place.rows, sums), plan)

        return jax.tree.map(lambda x: x[:, None], jax.lax.map(one, numbers))

    given = jax.typeof(values).sharding.spec, PartitionSpec(), PartitionSpec()
    blocks = [()] * plan.grid.ndim
    result = _spec(values, blocks, windows, None, joined(tuple(names)))
    return in_pieces(local, mesh_of(values), given, result)(values, plan, jnp.asarray(numbers))


@partial(jax.jit, static_argnames="windows")
def join_blocks(values: Array, plan: BlockPlan, stacked: Any, windows: bool) -> Any:
    """Results of all blocks of :func:`piece_blocks` on the grid, ``(*grid.shape, ...)``."""
    *names, _ = names_of(values)
    mesh, blocks = mesh_of(values), [()] * plan.grid.ndim
    given = _spec(values, blocks, windows, None, joined(tuple(names)))

    def join(stacked: Any) -> Any:
        return jax.tree.map(lambda x: plan.reassemble(x[:, 0]), stacked)

    return in_pieces(join, mesh, (given,), _spec(values, names, windows))(stacked)


def back_in_pieces(values: Array, stacked: Any) -> Any:
    """Results of :func:`piece_blocks` from the host to where they came from."""
    names = joined(names_of(values)[:-1])
    return jax.device_put(stacked, NamedSharding(values.sharding.mesh, PartitionSpec(None, names)))  # type: ignore[attr-defined]


@partial(jax.jit, static_argnames=("dtype", "function", "windows"))
def grid_results(values: Array, plan: BlockPlan, dtype: DType, function: Job, windows: bool) -> Any:
    """Results of all blocks of a grid, cut as the points are."""
    stacked = piece_blocks(values, plan, np.arange(math.prod(plan.piece_counts)), dtype, function, windows)
    return join_blocks(values, plan, stacked, windows)


@partial(jax.jit, static_argnames=("dtype", "function"))
def few_blocks(values: Array, plan: BlockPlan, numbers: Any, dtype: DType, function: Job) -> Any:
    """Results of a few blocks of any plan, stacked, whole on every device.

    Each device gives what it has of a window.
    """
    *names, features = names_of(values)

    def local(values: Array, plan: BlockPlan, numbers: Array) -> Any:
        def one(number: Array) -> Any:
            place = locate(plan, number, dtype)

            def cut(start: Any, size: int) -> Array:
                window = jax.lax.dynamic_slice_in_dim(values, start, size, axis=-1)
                for axis, (index, over) in enumerate(zip(place.columns, names, strict=True)):
                    n = window.shape[axis]
                    own = index % plan.grid.shape[axis] - place_in(over, n)
                    window = jnp.take(window, jnp.clip(own, 0, n - 1), axis=axis)
                    held = jax.lax.broadcast_in_dim((own >= 0) & (own < n), window.shape, (axis,))
                    window = jnp.where(held, window, 0)
                return total(window, joined(tuple(names)))

            sums = _sums_over(features, sum_chunks(plan, place, cut, values.shape[-1]))
            return function(keep_grams(plan, place.rows, sums), plan)

        return jax.lax.map(one, numbers)

    given = jax.typeof(values).sharding.spec, PartitionSpec(), PartitionSpec()
    return in_pieces(local, mesh_of(values), given, PartitionSpec())(values, plan, jnp.asarray(numbers))
