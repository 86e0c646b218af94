"""Streaming: one function of blocks, however the points are held.

This is the only place that knows how to read points: cut from an array, read window by window from the
host's memory or a file, or evaluate a function of the coordinates, traced or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import single
from manifold_jax._files import PartialResult, Progress
from manifold_jax._linalg import block_rows, map_blocks
from manifold_jax.geometry.derivatives import cross_columns, split_columns, window_derivatives
from manifold_jax.geometry.grid import DType, mesh
from manifold_jax.geometry.manifold import Points
from manifold_jax.geometry.sources import Stored
from manifold_jax.geometry.windows import (
    BatchPlan,
    BlockGrams,
    BlockPlan,
    Sums,
    Window,
    block_grams,
    cut_features,
    features_read,
    keep_grams,
    locate,
    sum_chunks,
)

CALLS = 64  # about how many compiled calls a long job is split into; between them results are kept
RENDERED = 16  # arrays of the size of a point that its rendering holds at once, about
CHUNKS_READ = 4  # chunks of features copied from the host at once: a call takes turns with the copying

Job = Callable[[Any, Any], Any]
"""A function of a block and the plan, see :func:`run_blocks`."""


def run_blocks(
    points: Points,
    plan: BlockPlan | BatchPlan,
    function: Job,
    *,
    windows: bool = False,
    blocks: np.ndarray | None = None,
    calls: int = CALLS,
    progress: Progress | None = None,
    checkpoint: PartialResult | None = None,
) -> Any:
    """Apply a function to every block of a grid, one after the other, and put the results together.

    There are three kinds of jobs, of which the last two compile their own programs:

    - **Grams**: ``function(grams, plan)`` of the :class:`BlockGrams` of a block. It is compiled together with
      the differentiation, so it must be hashable and outlive a call: a function of a module, not a lambda.
    - **Windows** (``windows=True``): ``function(window, plan)`` of a :class:`Window`, for example to push the
      samples through a layer or to find tangent frames.
    - **Exact** jobs (a :class:`BatchPlan`): ``function(coordinates, plan)`` of a batch of chart points
      ``(b, d)``, at which it differentiates an embedding automatically; the points are not read.

    Args:
        points: Where the points are, from ``as_points``.
        plan: How the grid is cut; if the points are a function, it may be another grid.
        function: What to compute: a pytree of arrays ``(*plan.block, ...)``, or ``(b, ...)`` for batches.
        windows: Hand over windows instead of their Grams.
        blocks: Numbers of a few blocks, whose results are only stacked.
        calls: About how many compiled calls a job on Grams is split into. With 1, results (of windows too)
            stay on the device, and there is neither progress nor checkpoint.
        progress: Called as ``progress(points done, points)`` after every call.
        checkpoint: Where results are saved, and where an interrupted job goes on; the caller removes it.

    Returns:
        What ``function`` returns, ``(*grid.shape, ...)`` or ``(len(blocks), ...)``. Where the points are
        traced it is part of the caller's program, and there is neither progress nor checkpoint.

    Raises:
        ValueError: A window of an array on the host holds NaN or infinite values.
    """
    if isinstance(plan, BlockPlan) and not points.traced:
        plan = jax.device_put(plan)  # once for all calls
    numbers = np.arange(plan.size) if blocks is None else np.asarray(blocks)
    one = _one_block(points, plan, function, windows)
    on_device = isinstance(plan, BlockPlan) and not windows and not points.on_host
    group = max(1, len(numbers) // calls) if on_device else 1

    def run(chosen: np.ndarray) -> Any:
        if on_device:
            return _device_blocks(points.values, plan, chosen, points.dtype, function)
        return _stack_one(one(int(chosen[0])))

    if points.traced:
        stacked = _map_one(one, jnp.asarray(numbers))
    elif calls == 1 and (on_device or windows):
        parts = [run(numbers[k : k + group]) for k in range(0, len(numbers), group)]
        stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    else:
        stacked = _in_groups(run, numbers, group, plan, progress, checkpoint)
    if blocks is not None:
        return stacked
    whole = jax.tree.map(plan.reassemble, stacked)
    return whole if points.traced else jax.device_put(whole)


def read_window(points: Points, plan: BlockPlan, block: Any) -> Window:
    """The window of one block, ``(m_1, ..., m_d, f)``; its number may be traced where the points are."""
    if points.on_host:
        part = points.read(_host_window(points.values, plan, block))
        if not np.isfinite(part).all():
            points.refuse_nonfinite()
        return Window(jax.device_put(part, may_alias=False), block)
    return Window(_device_window(points.values, plan, block, points.dtype), block)


@jax.jit
def block_vectors(window: Window, plan: BlockPlan) -> Float[Array, "stencils points v f"]:
    """First and second derivatives on a block by every stencil of the plan."""
    matrices = locate(plan, window.block, window.points.dtype).matrices
    stencils = range(len(plan.stencils))
    return jnp.stack([window_derivatives(window.points, [m[s] for m in matrices]) for s in stencils])


def _one_block(
    points: Points, plan: BlockPlan | BatchPlan, function: Job, windows: bool
) -> Callable[[Any], Any]:
    """From the number of a block to its result."""
    if isinstance(plan, BatchPlan):
        array = jnp if points.traced else np
        coordinates = array.asarray(plan.coordinates(points.dtype))
        return lambda block: function(jnp.asarray(coordinates[block]), plan)
    if windows:
        return lambda block: function(read_window(points, plan, block), plan)
    if points.on_host:
        after = replace(plan, chunk=0)  # once features are summed, one program for any number of them
        vars(after)["axes"] = plan.axes
        return lambda block: _host_block(points, plan, after, block, function)

    def one(block: Any) -> Any:
        grams = _device_grams(points.values, plan, block, points.dtype)
        return function(_add_offset(grams, points.offset), plan)

    return one


def _add_offset(grams: BlockGrams, offset: float) -> BlockGrams:
    """Grams whose norm and peak count the rounding of what was subtracted from the points."""
    return grams._replace(norm=grams.norm + offset, peak=grams.peak + offset)


def _stack_one(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


def _in_groups(
    run: Callable[[np.ndarray], Any],
    numbers: np.ndarray,
    group: int,
    plan: BlockPlan | BatchPlan,
    progress: Progress | None,
    checkpoint: PartialResult | None,
) -> Any:
    """Run blocks in groups of equal size, reporting and keeping results in between; they lie on the host."""
    leaves: list[list[np.ndarray]] = []
    count, done, structure = len(numbers), 0, None
    if checkpoint is not None:
        leaves, done = checkpoint.load()
        if done == count:  # the last block is run again: it tells the structure of the results
            done, leaves = count - 1, [[leaf[:-1] for leaf in part] for part in leaves]
    try:
        while done < count:
            # The last group repeats its last block: one shape, one compilation.
            chosen = numbers[np.minimum(np.arange(done, done + group), count - 1)]
            part, structure = jax.tree.flatten(jax.device_get(run(chosen)))
            leaves.append([leaf[: count - done] for leaf in part])
            done = min(done + group, count)
            if progress is not None:
                progress(min(done * plan.block_points, plan.grid.size), plan.grid.size)
            if checkpoint is not None:
                checkpoint.save(leaves, done)
    except KeyboardInterrupt:
        if checkpoint is not None:
            checkpoint.save(leaves, sum(len(part[0]) for part in leaves), now=True)
        raise
    merged = [np.concatenate(column) for column in zip(*leaves, strict=True)]
    return jax.tree.unflatten(structure, merged)


@partial(jax.jit, static_argnames=("dtype", "function"))
def _device_blocks(values: Any, plan: BlockPlan, blocks: Array, dtype: DType, function: Job) -> Any:
    """Results of blocks, stacked."""
    return _map_one(lambda block: function(_device_grams(values, plan, block, dtype), plan), blocks)


def _map_one(one: Callable[[Array], Any], blocks: Array) -> Any:
    """Map over blocks, one after the other; a single one needs no loop."""
    return _stack_one(one(blocks[0])) if len(blocks) == 1 else jax.lax.map(one, blocks)


def _device_grams(values: Any, plan: BlockPlan, block: Array, dtype: DType) -> BlockGrams:
    """Gram matrices of one block."""
    place = locate(plan, block, dtype)
    if not plan.evaluated:
        cut = partial(_cut_window, values, plan, place.columns)
        return block_grams(plan, place, cut, values.shape[-1])
    # Only what derivatives need of the window is rendered; of two axes they need all.
    parts = cross_columns(place.matrices) if plan.grid.ndim > 2 else {}
    lattices = [[x[c] for x, c in zip(place.columns, part, strict=True)] for part in parts.values()]
    points = _evaluate_at(values, plan, lattices or [place.columns], dtype)
    if not parts:
        return block_grams(plan, place, cut_features(points[0]), points[0].shape[-1])
    order = [jnp.concatenate(split_columns(m)) for m in place.matrices]
    matrices = tuple(m[..., c] for m, c in zip(place.matrices, order, strict=True))
    cut = cut_features(dict(zip(parts, points, strict=True)))
    return block_grams(plan, place._replace(matrices=matrices), cut, points[0].shape[-1])


@partial(jax.jit, static_argnames="dtype")
def _device_window(values: Any, plan: BlockPlan, block: Array | int, dtype: DType) -> Array:
    """A window of all features, ``(m_1, ..., m_d, f)``."""
    columns = locate(plan, block, dtype).columns
    if plan.evaluated:
        return _evaluate_at(values, plan, [columns], dtype)[0]
    return _cut_window(values, plan, columns, 0, values.shape[-1])


def _evaluate_at(
    embedding: Callable[..., Any], plan: BlockPlan, lattices: Sequence[Sequence[Array]], dtype: DType
) -> list[Array]:
    """Points ``(n_1, ..., n_d, f)`` at the index of each axis, also beyond its ends, for several lattices.

    Rendered as one list, a batch at a time, which its temporaries leave in the cache.
    """
    starts, steps = ([jnp.asarray(axis.chart[k], dtype) for axis in plan.axes] for k in (0, 1))

    def lattice(columns: Sequence[Array]) -> Array:
        return mesh([a + h * c.astype(dtype) for a, h, c in zip(starts, steps, columns, strict=True)])

    meshes = [lattice(columns) for columns in lattices]
    coordinates = jnp.concatenate([x.reshape(-1, plan.grid.ndim) for x in meshes])
    features = math.prod(jax.eval_shape(embedding, coordinates[0]).shape)
    render = jax.vmap(lambda u: single(jnp.ravel(embedding(u))))
    points = map_blocks(render, block_rows(RENDERED * features), coordinates)
    ends = np.cumsum([math.prod(x.shape[:-1]) for x in meshes])
    return [p.reshape(*x.shape[:-1], -1) for p, x in zip(jnp.split(points, ends[:-1]), meshes, strict=True)]


def _cut_window(values: Array, plan: BlockPlan, columns: Sequence[Array], start: Any, size: int) -> Array:
    """Window ``(m_1, ..., m_d, size)`` of an array ``(*shape, f)``, from feature ``start`` on."""
    starts: list[Any] = [0] * plan.grid.ndim
    sizes = list(plan.grid.shape)
    wrapped = []
    for axis, (layout, index) in enumerate(zip(plan.axes, columns, strict=True)):
        n = plan.grid.shape[axis]
        if layout.columns.min() >= 0 and layout.columns.max() < n:
            starts[axis], sizes[axis] = index[0], len(index)
        else:
            wrapped.append((axis, index % n))
    # One slice of all axes: a window of all features is never made.
    window = jax.lax.dynamic_slice(values, (*starts, start), (*sizes, size))
    for axis, index in wrapped:
        window = jnp.take(window, index, axis=axis)
    return window


def _host_window(
    values: np.ndarray | Stored, plan: BlockPlan, block: int, start: int = 0, stop: int | None = None
) -> np.ndarray:
    """Samples of a block and its halo, some features; a view of what is in memory unless an axis wraps."""
    index = np.unravel_index(block, plan.counts)
    if isinstance(values, Stored):
        rows = zip(plan.axes, index, plan.grid.shape, strict=True)
        return values.take([layout.columns[i] % n for layout, i, n in rows], start, stop)
    values = values[..., start:stop]
    for axis, (layout, i) in enumerate(zip(plan.axes, index, strict=True)):
        columns, n = layout.columns[i], plan.grid.shape[axis]
        inside = columns[0] >= 0 and columns[-1] < n
        selection: Any = slice(columns[0], columns[-1] + 1) if inside else columns % n
        values = values[(slice(None),) * axis + (selection,)]
    return values


@jax.jit
def _feature_sums(window: Float[Array, "*window f"], plan: BlockPlan, block: int) -> Sums:
    """What :func:`sum_chunks` gives, over the features that were read."""
    return sum_chunks(plan, locate(plan, block, window.dtype), cut_features(window), window.shape[-1])


@partial(jax.jit, static_argnames="function")
def _finish(sums: Sums, plan: BlockPlan, block: int, offset: float, function: Job) -> tuple[Any, Array]:
    """The result of a block from its :func:`_feature_sums`, and its norm."""
    grams = _add_offset(keep_grams(plan, locate(plan, block, sums.grams.dtype).rows, sums), offset)
    return function(grams, plan), grams.norm


def _host_block(points: Points, plan: BlockPlan, after: BlockPlan, block: int, function: Job) -> Any:
    """The result of one block, read some features at a time: of a file as many as the memory holds.

    ``after`` is the plan of what does not depend on the number of features, the larger program.
    """
    step = CHUNKS_READ * plan.chunk
    if points.kind == "file":
        window = math.prod(axis.columns.shape[-1] for axis in plan.axes)
        step = features_read(window, np.dtype(points.dtype).itemsize, plan.chunk)
        row = math.prod(points.feature_shape[1:])
        step -= step % row if step > row else 0  # files are read in whole rows
    total: Sums | None = None
    for start in range(0, points.features, step):
        chosen = slice(start, start + step)
        window = _host_window(points.values, plan, block, chosen.start, chosen.stop)
        part = jax.device_put(points.read(window, chosen), may_alias=False)
        jax.block_until_ready(total)  # two windows are held at most: one being read, one being used
        piece = _feature_sums(part, plan, block)
        total = piece if total is None else total.plus(piece)
    result, norm = _finish(total, after, block, points.offset, function)
    if not np.isfinite(norm):
        points.refuse_nonfinite()
    return result
