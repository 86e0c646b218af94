"""Streaming: differentiate a grid block by block and keep only Gram matrices.

A block of output points needs a window of input points, larger by the reach of the stencil. Windows are cut
from an array, read from a memory-mapped file, or evaluated from a function of the coordinates; in each, the
derivative along every axis is a small matrix product, and features are contracted in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax.geometry.grid import Accuracy, Axis, Grid
from manifold_jax.geometry.stencil import AxisPlan, axis_plan, halo

MEMORY = 256 * 2**20
"""Bytes that the temporaries of one block may take when no block size is given."""

CHUNK = 256
"""Features contracted at a time: long enough for the matrix products, short enough for the cache."""

CACHE = 16 * 2**20
"""Bytes of the temporaries of one batch of autodiff on a CPU."""

LENGTH = 256
"""Most output samples of a block along one axis: its derivative matrix is dense."""

Stencil = tuple[tuple[Accuracy, int], ...]
"""``(accuracy, stride)`` for each axis."""

Source = Any
"""Array ``(*shape, *features)``, memory-mapped array, or function of one chart point."""


class Window(NamedTuple):
    """Traced description of one block.

    Attributes:
        rows: ``(b_k,)`` index of the output samples along each axis.
        columns: ``(m_k,)`` index of the input samples along each axis.
        matrices: For each stencil and axis, derivatives 0, 1 and 2, ``(3, b_k, m_k)``.
    """

    rows: tuple[Array, ...]
    columns: tuple[Array, ...]
    matrices: tuple[tuple[Array, ...], ...]


class BlockGrams(NamedTuple):
    """What is kept of one block.

    Attributes:
        grams: For each stencil, inner products of the jet vectors, ``(*block, v, v)``.
        norm: Largest norm of a point in the window, the scale of rounding errors.
        rows: ``(b_k,)`` index of the block's samples along each axis.
    """

    grams: tuple[Array, ...]
    norm: Array
    rows: tuple[Array, ...]


@dataclass(frozen=True)
class BlockPlan:
    """How a grid is cut into blocks; hashable, so usable as a static argument.

    Attributes:
        grid: The grid.
        stencils: One or more stencils, evaluated on the same windows.
        block: Output points per block along each axis.
        evaluated: The source is a function, so that points beyond the ends can be evaluated.
        chunk: Features contracted at a time.
    """

    grid: Grid
    stencils: tuple[Stencil, ...]
    block: tuple[int, ...]
    evaluated: bool
    chunk: int

    @cached_property
    def axes(self) -> tuple[AxisPlan, ...]:
        """Plan of every axis, made once."""
        per_axis = zip(*self.stencils, strict=True)
        return tuple(
            axis_plan(axis, tuple(specs), block, evaluated=self.evaluated)
            for axis, specs, block in zip(self.grid.axes, per_axis, self.block, strict=True)
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.grid.shape, self.block, strict=True))

    @property
    def size(self) -> int:
        """Number of blocks."""
        return math.prod(self.counts)


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
        matrices: ``(3, b_k, m_k)`` for each axis: derivative 0, 1 and 2.

    Returns:
        ``(b_1 * ... * b_d, v, f)`` with the v = d + d(d+1)/2 vectors of :func:`derivative_indices`.
    """
    d = len(matrices)
    partials: dict[tuple[int, ...], Array] = {(0,) * d: window}
    # Axes that shrink most come first: later products then run on fewer points.
    for axis in sorted(range(d), key=lambda k: matrices[k].shape[1] / matrices[k].shape[2]):
        partials = {
            (*orders[:axis], order, *orders[axis + 1 :]): _apply(matrix, values, axis)
            for orders, values in partials.items()
            for order, matrix in enumerate(matrices[axis][: 3 - sum(orders)])
        }
    orders = [tuple(index.count(axis) for axis in range(d)) for index in derivative_indices(d)]
    stacked = jnp.stack([partials[order] for order in orders], axis=d)
    return stacked.reshape(-1, *stacked.shape[d:])


def _inner_products(vectors: tuple[Array, ...]) -> tuple[Array, ...]:
    """``(p, v, f)`` to the Gram matrices ``(p, v, v)``, for each stencil.

    On a CPU a few points at a time, to stay in cache, and all stencils in one loop: independent loops run
    concurrently there and can block each other on a machine with few cores.
    """

    def products(pieces: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(
            jnp.matmul(v, jnp.swapaxes(v, -1, -2), precision=jax.lax.Precision.HIGHEST) for v in pieces
        )

    points, count = vectors[0].shape[:2]
    group = next((g for g in (16, 12, 9, 8) if points % g == 0), points)
    if jax.default_backend() != "cpu" or group == points:
        return products(vectors)
    grouped = tuple(v.reshape(points // group, group, *v.shape[1:]) for v in vectors)
    return tuple(k.reshape(points, count, count) for k in jax.lax.map(products, grouped))


def _window_grams(window: Array, matrices: Sequence[Sequence[Array]], chunk: int) -> tuple[Array, ...]:
    """Gram matrices of a block for every stencil, summed over chunks of features."""
    features = window.shape[-1]

    def contract(piece: Array) -> tuple[Array, ...]:
        return _inner_products(tuple(window_derivatives(piece, m) for m in matrices))

    def add(total: tuple[Array, ...], start: Array) -> tuple[tuple[Array, ...], None]:
        piece = jax.lax.dynamic_slice_in_dim(window, start, chunk, axis=-1)
        return jax.tree.map(jnp.add, total, contract(piece)), None

    whole = features // chunk
    if whole == 1 and features == chunk:
        return contract(window)
    rest = contract(window[..., whole * chunk :]) if features % chunk else None
    first = rest if rest is not None else contract(window[..., :chunk])
    starts = jnp.arange(0 if rest is not None else 1, whole) * chunk
    return jax.lax.scan(add, first, starts)[0]


def _squared_norms(window: Array) -> Array:
    """Squared norm of every point of the window."""
    return jnp.sum(jnp.square(window), axis=-1)


def _locate(plan: BlockPlan, block: Array | int, dtype: Any) -> Window:
    """Columns and matrices of one block, by its flat number."""
    place = jnp.unravel_index(jnp.asarray(block), plan.counts)
    rows = tuple(jnp.asarray(a.rows)[i] for a, i in zip(plan.axes, place, strict=True))
    columns = tuple(jnp.asarray(a.columns)[i] for a, i in zip(plan.axes, place, strict=True))
    kinds = [jnp.asarray(a.kinds)[i] for a, i in zip(plan.axes, place, strict=True)]
    matrices = tuple(
        tuple(jnp.asarray(a.matrices[s], dtype)[k] for a, k in zip(plan.axes, kinds, strict=True))
        for s in range(len(plan.stencils))
    )
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


def cut_window(points: Array, plan: BlockPlan, columns: Sequence[Array]) -> Array:
    """Window ``(m_1, ..., m_d, f)`` of an array ``(*shape, f)``."""
    for axis, (layout, index) in enumerate(zip(plan.axes, columns, strict=True)):
        n = plan.grid.shape[axis]
        if layout.columns.shape == (1, n) and layout.columns[0, 0] == 0:
            continue
        if layout.columns.min() >= 0 and layout.columns.max() < n:
            points = jax.lax.dynamic_slice_in_dim(points, index[0], len(index), axis=axis)
        else:
            points = jnp.take(points, index % n, axis=axis)
    return points


def _finish(plan: BlockPlan, grams: tuple[Array, ...], squares: Array, rows: tuple[Array, ...]) -> BlockGrams:
    shaped = tuple(g.reshape(*plan.block, *g.shape[-2:]) for g in grams)
    return BlockGrams(shaped, jnp.sqrt(jnp.max(squares)), rows)


def map_windows(
    source: Source, plan: BlockPlan, blocks: Array, dtype: Any, function: Callable[[Array, Window], Any]
) -> Any:
    """Apply a function to the windows of the blocks with the given numbers, one after the other.

    Args:
        source: Function of one chart point, or array ``(*shape, f)``.
        plan: The blocks.
        blocks: Flat block numbers ``(n,)``.
        dtype: Floating type of the computation.
        function: What to compute from the points ``(m_1, ..., m_d, f)`` of a window and its description.

    Returns:
        What ``function`` returns, stacked over blocks.
    """

    def one(block: Array) -> Any:
        window = _locate(plan, block, dtype)
        if plan.evaluated:
            return function(evaluate_window(source, plan.grid, window.columns, dtype), window)
        return function(cut_window(source, plan, window.columns), window)

    if blocks.shape[0] == 1:
        return jax.tree.map(lambda leaf: leaf[None], one(blocks[0]))
    return jax.lax.map(one, blocks)


def map_blocks(
    source: Source, plan: BlockPlan, blocks: Array, dtype: Any, function: Callable[[BlockGrams], Any]
) -> Any:
    """Apply a function to the Gram matrices of blocks; as :func:`map_windows` otherwise."""

    def grams(points: Array, window: Window) -> Any:
        products = _window_grams(points, window.matrices, min(plan.chunk, points.shape[-1]))
        return function(_finish(plan, products, _squared_norms(points), window.rows))

    return map_windows(source, plan, blocks, dtype, grams)


@partial(jax.jit, static_argnames="plan")
def _host_grams(window: Array, plan: BlockPlan, block: int) -> tuple[tuple[Array, ...], Array]:
    """Gram matrices and squared norms of a window (or some of its features) that the host has read."""
    matrices = _locate(plan, block, window.dtype).matrices
    return _window_grams(window, matrices, min(plan.chunk, window.shape[-1])), _squared_norms(window)


def host_block(points: np.ndarray, plan: BlockPlan, block: int, *, whole_features: bool) -> BlockGrams:
    """Gram matrices of one block of a NumPy array ``(*shape, f)``, read window by window.

    Args:
        points: The array, in memory or memory-mapped.
        plan: The blocks.
        block: Number of the block.
        whole_features: Read all features of a window at once (a file), or chunk by chunk (memory).

    Returns:
        The Gram matrices of the block.
    """
    place = np.unravel_index(block, plan.counts)
    for axis, (layout, i) in enumerate(zip(plan.axes, place, strict=True)):
        index, n = layout.columns[i], plan.grid.shape[axis]
        inside = index[0] >= 0 and index[-1] < n
        selection: Any = slice(index[0], index[-1] + 1) if inside else index % n
        points = points[(slice(None),) * axis + (selection,)]
    step = points.shape[-1] if whole_features else plan.chunk
    parts = (points[..., k : k + step] for k in range(0, points.shape[-1], step))
    total: Any = None
    for part in parts:
        piece = _host_grams(jnp.asarray(np.ascontiguousarray(part)), plan, block)
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


def longest_block(axis: Axis, spectral: bool) -> int:
    """Most output samples of a block along an axis: about :data:`LENGTH`, so that blocks overlap little."""
    return axis.size if spectral else -(-axis.size // -(-axis.size // LENGTH))


def plan_blocks(
    grid: Grid,
    stencils: Sequence[Stencil],
    features: int,
    itemsize: int,
    *,
    evaluated: bool,
    whole_features: bool,
    block_size: int | None = None,
) -> BlockPlan:
    """Choose blocks whose temporaries stay within :data:`MEMORY`.

    Blocks of an evaluated source grow by doubling the axis that leaves the fewest window points per output
    point; blocks of an array fill the last axes first, since a whole axis needs no halo. A long axis is cut,
    so that its matrices stay small.

    Args:
        grid: The grid.
        stencils: Stencils evaluated on the same windows.
        features: Features per point.
        itemsize: Bytes per number.
        evaluated: The source is a function of the coordinates.
        whole_features: A window holds all features (evaluated or read from disk), not a chunk of them.
        block_size: Largest number of output points per block; by default set by memory.

    Returns:
        The plan.
    """
    vectors = grid.ndim * (grid.ndim + 3) // 2
    reach = [max(halo(*s[k]) for s in stencils) for k in range(grid.ndim)]
    spectral = [any(s[k][0] == "spectral" for s in stencils) for k in range(grid.ndim)]
    longest = [longest_block(axis, whole) for axis, whole in zip(grid.axes, spectral, strict=True)]
    chunk = min(features, CHUNK)

    def cost(block: Sequence[int]) -> tuple[float, float]:
        window = math.prod(
            n if full else (b + 2 * r if evaluated else min(n, b + 2 * r))
            for b, r, n, full in zip(block, reach, grid.shape, spectral, strict=True)
        )
        points = math.prod(block)
        held = 2 * window * features if whole_features else 3 * window * chunk
        held += 3 * vectors * points * chunk + 3 * len(stencils) * points * vectors**2
        return window / points, held * itemsize

    # Rendering a window costs more than differentiating it: fewer, larger windows there.
    room = 2 * MEMORY if evaluated else MEMORY
    block = [1] * grid.ndim
    while True:
        options = []
        for axis, n in enumerate(longest):
            larger = [min(2 * b, n) if k == axis else b for k, b in enumerate(block)]
            ratio, held = cost(larger)
            fits = math.prod(larger) <= block_size if block_size else held <= room
            if block[axis] < n and fits:
                options.append((ratio if evaluated else -axis, larger))
        if not options:
            break
        block = min(options)[1]
    return BlockPlan(grid, tuple(tuple(s) for s in stencils), tuple(block), evaluated, chunk)
