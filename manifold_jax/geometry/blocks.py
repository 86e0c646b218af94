"""Streaming: differentiate a grid block by block and keep only Gram matrices.

A block of output points needs a window of input points, larger by the reach of the stencil. Windows are cut
from an array, read from a memory-mapped file, or evaluated from a function of the coordinates; in each, the
derivative along every axis is a small matrix product, and features are contracted in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.plan import BlockPlan

CACHE = 16 * 2**20
"""Bytes of the temporaries of one batch of autodiff on a CPU."""

Source = Any
"""Array ``(*shape, *features)``, memory-mapped array, or function of one chart point."""


class Window(NamedTuple):
    """Traced description of one block.

    Attributes:
        rows: ``(b_k,)`` index of the output samples along each axis.
        columns: ``(m_k,)`` index of the input samples along each axis.
        matrices: For each axis and stencil, derivatives 0, 1 and 2, ``(stencils, 3, b_k, m_k)``.
    """

    rows: tuple[Array, ...]
    columns: tuple[Array, ...]
    matrices: tuple[Array, ...]


class BlockGrams(NamedTuple):
    """What is kept of one block.

    Attributes:
        grams: For each stencil, inner products of the jet vectors, ``(stencils, *block, v, v)``.
        norm: Largest norm of a point in the window, the scale of rounding errors.
        rows: ``(b_k,)`` index of the block's samples along each axis.
    """

    grams: Array
    norm: Array
    rows: tuple[Array, ...]


def derivative_indices(dimension: int) -> list[tuple[int, ...]]:
    """Multi-indices of the jet: (i,) for X_i, then (i, j) with i <= j for X_ij."""
    pairs = [(i, j) for i in range(dimension) for j in range(i, dimension)]
    return [(i,) for i in range(dimension)] + pairs


def _apply(matrix: Array, values: Array, axis: int) -> Array:
    """Multiply a (b, m) matrix into one axis of an array, as a batched matrix product."""
    shape = values.shape
    lead, tail = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    flat = values.reshape(lead, shape[axis], tail)
    weights = jnp.broadcast_to(matrix, (lead, *matrix.shape))
    product = jnp.matmul(weights, flat, precision=jax.lax.Precision.HIGHEST)
    return product.reshape(*shape[:axis], matrix.shape[0], *shape[axis + 1 :])


def window_derivatives(window: Array, matrices: Sequence[Array]) -> Array:
    """First and second derivatives on a block from the samples on its window.

    Args:
        window: ``(m_1, ..., m_d, f)``.
        matrices: ``(3, b_k, m_k)`` for each axis: derivative 0 (which picks samples), 1 and 2.

    Returns:
        ``(b_1 * ... * b_d, v, f)`` with the v = d + d(d+1)/2 vectors of :func:`derivative_indices`.
    """
    d = len(matrices)
    partials: dict[tuple[int, ...], Array] = {(0,) * d: window}
    # Axes that shrink most come first: later products then run on fewer points.
    for axis in sorted(range(d), key=lambda k: matrices[k].shape[1] / matrices[k].shape[2]):
        size, offset = matrices[axis].shape[1], jnp.argmax(matrices[axis][0, 0])
        done = {}
        for orders, values in partials.items():
            done[orders] = jax.lax.dynamic_slice_in_dim(values, offset, size, axis=axis)
            for order in range(1, 3 - sum(orders)):
                product = _apply(matrices[axis][order], values, axis)
                done[(*orders[:axis], order, *orders[axis + 1 :])] = product
        partials = done
    orders = [tuple(index.count(axis) for axis in range(d)) for index in derivative_indices(d)]
    stacked = jnp.stack([partials[order] for order in orders], axis=d)
    return stacked.reshape(-1, *stacked.shape[d:])


def _inner_products(vectors: Array) -> Array:
    """``(p, v, f)`` to the Gram matrices ``(p, v, v)``; on a CPU a few points at a time, to stay in cache."""

    def products(v: Array) -> Array:
        return jnp.matmul(v, jnp.swapaxes(v, -1, -2), precision=jax.lax.Precision.HIGHEST)

    points, count = vectors.shape[:2]
    group = next((g for g in (16, 12, 9, 8) if points % g == 0), points)
    if jax.default_backend() != "cpu" or group == points:
        return products(vectors)
    grouped = vectors.reshape(points // group, group, *vectors.shape[1:])
    return jax.lax.map(products, grouped).reshape(points, count, count)


Cut = Callable[[Any, int], Array]
"""From the first feature and a number of features to their window ``(m_1, ..., m_d, features)``."""


def _window_grams(cut: Cut, features: int, matrices: tuple[Array, ...], chunk: int) -> tuple[Array, Array]:
    """Gram matrices of a block for every stencil and squared norms of its window, over chunks of features."""

    def contract(start: Any, size: int) -> tuple[Array, Array]:
        points = cut(start, size)
        # One stencil after the other: one program for all of them, and the jets of one held at a time.
        grams = jax.lax.map(lambda m: _inner_products(window_derivatives(points, m)), matrices)
        return grams, jnp.sum(jnp.square(points), axis=-1)

    def add(total: Any, start: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, contract(start, chunk)), None

    whole, rest = divmod(features, chunk)
    if whole == 1 and not rest:
        return contract(0, chunk)
    if rest:
        total = contract(whole * chunk, rest)
    else:
        total = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: contract(0, chunk))
        )
    return jax.lax.scan(add, total, jnp.arange(whole) * chunk)[0]


def _locate(plan: BlockPlan, block: Array | int, dtype: Any) -> Window:
    """Columns and matrices of one block, by its flat number."""
    place = jnp.unravel_index(jnp.asarray(block), plan.counts)
    rows = tuple(jnp.asarray(a.rows)[i] for a, i in zip(plan.axes, place, strict=True))
    columns = tuple(jnp.asarray(a.columns)[i] for a, i in zip(plan.axes, place, strict=True))
    kinds = [jnp.asarray(a.kinds)[i] for a, i in zip(plan.axes, place, strict=True)]
    matrices = tuple(jnp.asarray(a.matrices, dtype)[:, k] for a, k in zip(plan.axes, kinds, strict=True))
    return Window(rows, columns, matrices)


def evaluate_window(embedding: Callable, grid: Grid, columns: Sequence[Array], dtype: Any) -> Array:
    """Points ``(m_1, ..., m_d, f)`` at index ``columns`` of each axis, also beyond its ends."""
    samples = [
        jnp.asarray(axis.start, dtype) + jnp.asarray(axis.spacing, dtype) * c.astype(dtype)
        for axis, c in zip(grid.axes, columns, strict=True)
    ]
    mesh = jnp.stack(jnp.meshgrid(*samples, indexing="ij"), axis=-1)
    points = jax.vmap(lambda u: jnp.ravel(embedding(u)))(mesh.reshape(-1, grid.ndim))
    return points.reshape(*mesh.shape[:-1], -1)


def cut_window(points: Array, plan: BlockPlan, columns: Sequence[Array], start: Any, size: int) -> Array:
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
    window = jax.lax.dynamic_slice(points, (*starts, start), (*sizes, size))
    for axis, index in wrapped:
        window = jnp.take(window, index, axis=axis)
    return window


def _finish(plan: BlockPlan, grams: Array, squares: Array, rows: tuple[Array, ...]) -> BlockGrams:
    shaped = grams.reshape(len(plan.stencils), *plan.block, *grams.shape[-2:])
    return BlockGrams(shaped, jnp.sqrt(jnp.max(squares)), rows)


def map_windows(
    source: Source, plan: BlockPlan, blocks: Array, dtype: Any, function: Callable[[Cut, int, Window], Any]
) -> Any:
    """Apply a function to the windows of the blocks with the given numbers, one after the other.

    Args:
        source: Function of one chart point, or array ``(*shape, f)``.
        plan: The blocks.
        blocks: Flat block numbers ``(n,)``.
        dtype: Floating type of the computation.
        function: What to compute from the points of a window, the number of features, and its description.

    Returns:
        What ``function`` returns, stacked over blocks.
    """

    def one(block: Array) -> Any:
        window = _locate(plan, block, dtype)
        if plan.evaluated:
            points = evaluate_window(source, plan.grid, window.columns, dtype)
            return function(_cut_from(points), points.shape[-1], window)
        return function(partial(cut_window, source, plan, window.columns), source.shape[-1], window)

    if blocks.shape[0] == 1:
        return jax.tree.map(lambda leaf: leaf[None], one(blocks[0]))
    return jax.lax.map(one, blocks)


def _cut_from(points: Array) -> Cut:
    return lambda start, size: jax.lax.dynamic_slice_in_dim(points, start, size, axis=-1)


def map_blocks(
    source: Source, plan: BlockPlan, blocks: Array, dtype: Any, function: Callable[[BlockGrams], Any]
) -> Any:
    """Apply a function to the Gram matrices of blocks; as :func:`map_windows` otherwise."""

    def grams(cut: Cut, features: int, window: Window) -> Any:
        products, squares = _window_grams(cut, features, window.matrices, min(plan.chunk, features))
        return function(_finish(plan, products, squares, window.rows))

    return map_windows(source, plan, blocks, dtype, grams)


@partial(jax.jit, static_argnames="plan")
def _host_grams(points: Array, plan: BlockPlan, block: int) -> tuple[Array, Array]:
    """Gram matrices and squared norms of a window (or some of its features) that the host has read."""
    matrices, features = _locate(plan, block, points.dtype).matrices, points.shape[-1]
    return _window_grams(_cut_from(points), features, matrices, min(plan.chunk, features))


@partial(jax.jit, static_argnames=("plan", "dtype"))
def function_window(embedding: Callable, plan: BlockPlan, block: int, dtype: Any) -> Array:
    """Points ``(m_1, ..., m_d, f)`` of the window of a block, evaluated."""
    return evaluate_window(embedding, plan.grid, _locate(plan, block, dtype).columns, dtype)


def window_block(window: Array, plan: BlockPlan, block: int) -> BlockGrams:
    """Gram matrices of a block from the points ``(m_1, ..., m_d, *features)`` of its window."""
    points = window.reshape(*window.shape[: plan.grid.ndim], -1)
    place = np.unravel_index(block, plan.counts)
    rows = tuple(jnp.asarray(a.rows[i]) for a, i in zip(plan.axes, place, strict=True))
    grams, squares = _host_grams(points, plan, block)
    return _finish(plan, grams, squares, rows)


def host_window(points: np.ndarray, plan: BlockPlan, place: Sequence[Any]) -> np.ndarray:
    """Samples of the block at ``place`` and its halo; a view where no axis wraps around."""
    for axis, (layout, i) in enumerate(zip(plan.axes, place, strict=True)):
        index, n = layout.columns[i], plan.grid.shape[axis]
        inside = index[0] >= 0 and index[-1] < n
        selection: Any = slice(index[0], index[-1] + 1) if inside else index % n
        points = points[(slice(None),) * axis + (selection,)]
    return points


def host_block(points: np.ndarray, plan: BlockPlan, block: int, *, whole_features: bool) -> BlockGrams:
    """Gram matrices of one block of a NumPy array ``(*shape, f)``, read window by window.

    Args:
        points: The array, in memory or memory-mapped.
        plan: The blocks.
        block: Number of the block.
        whole_features: Read all features of a window at once (a file), or a few chunks at a time (memory).

    Returns:
        The Gram matrices of the block.
    """
    place = np.unravel_index(block, plan.counts)
    points = host_window(points, plan, place)
    # A few chunks at once: calls are not free, and take turns with the copying of the next part.
    step = points.shape[-1] if whole_features else 4 * plan.chunk
    parts = (points[..., k : k + step] for k in range(0, points.shape[-1], step))
    total: Any = None
    for part in parts:
        window = jnp.asarray(part)
        jax.block_until_ready(total)  # two windows are held at most: one being read, one being used
        piece = _host_grams(window, plan, block)
        total = piece if total is None else jax.tree.map(jnp.add, total, piece)
    rows = tuple(jnp.asarray(a.rows[i]) for a, i in zip(plan.axes, place, strict=True))
    grams, squares = total
    return _finish(plan, grams, squares, rows)


def reassemble(stacked: Array, plan: BlockPlan) -> Array:
    """``(blocks, *block, ...)`` to ``(*shape, ...)``."""
    d = plan.grid.ndim
    rest = stacked.shape[1 + d :]
    split = stacked.reshape(*plan.counts, *plan.block, *rest)
    order = [k for axis in range(d) for k in (axis, d + axis)]
    merged = split.transpose(*order, *range(2 * d, split.ndim))
    merged = merged.reshape(*(c * b for c, b in zip(plan.counts, plan.block, strict=True)), *rest)
    for axis, (n, b) in enumerate(zip(plan.grid.shape, plan.block, strict=True)):
        if n % b:
            # The last block overlaps the one before it.
            size = merged.shape[axis]
            parts = [(0, n - n % b), (size - n % b, size)]
            merged = jnp.concatenate(
                [jax.lax.slice_in_dim(merged, *part, axis=axis) for part in parts], axis=axis
            )
    return merged
