"""How a grid is cut into blocks, and what is computed from the window of one: derivatives and their Gram.

A block of output points needs a window of input points, larger by the halo of the stencil. The derivative
along every axis is a small matrix product, and features are contracted in chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from manifold_jax._checks import optional, whole
from manifold_jax.geometry.derivatives import (
    cross_derivatives,
    cross_sizes,
    derivative_products,
    high_differences,
    window_derivatives,
)
from manifold_jax.geometry.grid import DType, Grid, mesh, skeleton
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.stencil import AxisPlan, Stencil, axis_plan, halo

MEMORY = 256 * 2**20  # bytes that the temporaries of one block may take when no block size is given
CALLS = 64  # about how many calls a long job is split into; between them results are kept
CHUNK = 128  # features contracted at a time: long enough for the matrix products, short enough for the cache
LENGTH = 64  # most output samples of a block along an axis: its matrix is dense, the stencil a narrow band
WHOLE_COPIES = 2  # windows of all features held at once: what was read, and a copy in another layout
OFTEN = 4.0  # times that a number of a file is read, from which windows are read some features at a time
CHUNK_COPIES = 3  # chunks of a window, its jets and their Gram held at once: what goes in and out, the sum
SHAPING = 3  # first fields of an AxisPlan, which shape a program; the others are its data


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class BlockPlan:
    """How a grid is cut into blocks for stencils.

    A pytree: weights and intervals are data of a program, in which ``grid`` is only a :func:`skeleton`, so
    that grids of the same sizes share compiled programs.

    All ``stencils`` act on the same windows. A ``block`` has so many output points along each axis, and
    ``chunk`` features are contracted at a time. Points that are ``evaluated`` exist beyond the ends.
    ``differences`` are the orders of those that tell the noise along each axis; empty where there is none.
    Devices may hold so many ``pieces`` along each axis, of equal size; no block lies in two of them.
    """

    grid: Grid
    stencils: tuple[Stencil, ...]
    block: tuple[int, ...]
    evaluated: bool
    chunk: int
    differences: tuple[int, ...] = ()
    pieces: tuple[int, ...] = ()

    @cached_property
    def axes(self) -> tuple[AxisPlan, ...]:
        """Plan of every axis, made once."""
        specs, orders = zip(*self.stencils, strict=True), self.differences or (0,) * self.grid.ndim
        columns = zip(self.grid.axes, specs, self.block, orders, self.cuts, strict=True)
        plan = partial(axis_plan, evaluated=self.evaluated)
        return tuple(plan(a, s, b, difference=m, pieces=p) for a, s, b, m, p in columns)

    def tree_flatten(self) -> tuple[tuple[Any, ...], BlockPlan]:
        """What depends on intervals, and what shapes a program."""
        shape = replace(self, grid=skeleton(self.grid))
        vars(shape)["axes"] = tuple(axis[:SHAPING] for axis in self.axes)
        return tuple(axis[SHAPING:] for axis in self.axes), shape

    @classmethod
    def tree_unflatten(cls, shape: BlockPlan, data: tuple[Any, ...]) -> BlockPlan:
        """The plan with other data."""
        plan = replace(shape)
        vars(plan)["axes"] = tuple(AxisPlan(*a, *b) for a, b in zip(shape.axes, data, strict=True))
        return plan

    @property
    def cuts(self) -> tuple[int, ...]:
        """Pieces along each axis."""
        return self.pieces or (1,) * self.grid.ndim

    @property
    def piece(self) -> tuple[int, ...]:
        """Samples of a piece along each axis."""
        return tuple(n // p for n, p in zip(self.grid.shape, self.cuts, strict=True))

    @property
    def piece_counts(self) -> tuple[int, ...]:
        """Blocks of a piece along each axis."""
        return tuple(-(-n // b) for n, b in zip(self.piece, self.block, strict=True))

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(p * c for p, c in zip(self.cuts, self.piece_counts, strict=True))

    @property
    def size(self) -> int:
        """Number of blocks."""
        return math.prod(self.counts)

    @property
    def block_points(self) -> int:
        """Output points per block."""
        return math.prod(self.block)

    def reassemble(self, stacked: Any) -> Any:
        """``(blocks, *block, ...)`` of a piece to ``(*piece, ...)``, in NumPy or JAX."""
        d, counts = self.grid.ndim, self.piece_counts
        rest = stacked.shape[1 + d :]
        split = stacked.reshape(*counts, *self.block, *rest)
        order = [k for axis in range(d) for k in (axis, d + axis)]
        merged = split.transpose(*order, *range(2 * d, split.ndim))
        merged = merged.reshape(*(c * b for c, b in zip(counts, self.block, strict=True)), *rest)
        join = np.concatenate if isinstance(merged, np.ndarray) else jnp.concatenate
        for axis, (n, b) in enumerate(zip(self.piece, self.block, strict=True)):
            if n % b:
                # The last block overlaps the one before it.
                before = (slice(None),) * axis
                parts = (slice(0, n - n % b), slice(merged.shape[axis] - n % b, None))
                merged = join([merged[(*before, part)] for part in parts], axis=axis)
        return merged


@dataclass(frozen=True)
class BatchPlan:
    """How a grid is cut into batches of points that need no neighbours; the last repeats its last point."""

    grid: Grid
    block_points: int

    @property
    def size(self) -> int:
        """Number of batches."""
        return -(-self.grid.size // self.block_points)

    def coordinates(self, dtype: DType) -> np.ndarray:
        """Chart points of every batch, ``(batches, points, d)``."""
        # In NumPy: these are constants, also while a program is being traced.
        flat = mesh([axis.samples() for axis in self.grid.axes]).reshape(-1, self.grid.ndim).astype(dtype)
        missing = self.size * self.block_points - self.grid.size
        padded = np.pad(flat, ((0, missing), (0, 0)), mode="edge")
        return padded.reshape(self.size, self.block_points, self.grid.ndim)

    def reassemble(self, stacked: Any) -> Any:
        """``(batches, points, ...)`` to ``(*grid.shape, ...)``, in NumPy or JAX."""
        rest = stacked.shape[2:]
        return stacked.reshape(-1, *rest)[: self.grid.size].reshape(*self.grid.shape, *rest)


def plan_batches(grid: Grid, parts: int = 1) -> BatchPlan:
    """Batches of few sizes, so that small grids share a compiled program; each in at most so many parts."""
    # At least 256 points to fill the cores; progress is reported between batches.
    least = min(256, 1 << (grid.size - 1).bit_length())
    batch = max(least, -(-grid.size // CALLS))
    return BatchPlan(grid, -(-batch // min(parts, batch // least)))


def longest_block(size: int, spectral: bool) -> int:
    """Most output samples of a block along an axis: about :data:`LENGTH`, so that blocks overlap little."""
    return size if spectral else -(-size // -(-size // LENGTH))


def features_read(window: int, itemsize: int, chunk: int) -> int:
    """Features of a window of a file that are read at once, in whole chunks."""
    return max(1, MEMORY // (WHOLE_COPIES * window * itemsize * chunk)) * chunk


def plan_blocks(
    points: Points,
    stencils: Sequence[Stencil],
    block_size: int | None = None,
    differences: tuple[int, ...] = (),
    pieces: tuple[int, ...] | None = None,
    all_features: bool = False,
) -> BlockPlan:
    """Choose blocks whose temporaries stay within :data:`MEMORY`.

    Blocks of a function grow by doubling the axis that leaves the fewest window points per output point;
    blocks of an array fill the last axes first, since a whole axis needs no halo. A long axis is cut. If
    given, ``block_size`` is the largest number of output points per block. A window of a file is read
    at once, unless numbers would be read too often, and one of an array held with ``all_features`` where it
    travels. The ``pieces`` are those in which the points are held.
    """
    block_size = optional(whole, points.caller, "block_size", block_size)
    grid, evaluated, features = points.grid, points.evaluated, points.features
    vectors = grid.ndim * (grid.ndim + 3) // 2
    halos = [max(halo(*s[k]) for s in stencils) for k in range(grid.ndim)]
    halos = [max(h, -(-m // 2)) for h, m in zip(halos, differences or halos, strict=True)]
    spectral = [any(s[k][0] == "spectral" for s in stencils) for k in range(grid.ndim)]
    pieces = points.pieces if pieces is None else pieces
    longest = [longest_block(n // p, full) for n, p, full in zip(grid.shape, pieces, spectral, strict=True)]
    chunk = min(features, CHUNK)

    def cost(block: Sequence[int], whole_windows: bool) -> tuple[float, float]:
        """Window points per output point, and bytes held."""
        widths = [
            n if full or (n < b + 2 * h and not evaluated) else b + 2 * h
            for b, h, n, full in zip(block, halos, grid.shape, spectral, strict=True)
        ]
        window, size = math.prod(widths), math.prod(block)
        if evaluated:
            outer = [m - b for m, b in zip(widths, block, strict=True)]
            window = sum(map(math.prod, cross_sizes(block, outer).values()))
        held = WHOLE_COPIES * window * features if whole_windows else CHUNK_COPIES * window * chunk
        held += CHUNK_COPIES * (vectors * size * chunk + len(stencils) * size * vectors**2)
        return window / size, held * np.dtype(points.dtype).itemsize

    def grow(whole_windows: bool) -> list[int]:
        """The largest block; with all features of its window there at once, or a few."""
        block = [1] * grid.ndim
        while True:
            options = []
            for axis, n in enumerate(longest):
                larger = [min(2 * b, n) if k == axis else b for k, b in enumerate(block)]
                ratio, held = cost(larger, whole_windows)
                fits = math.prod(larger) <= block_size if block_size else held <= MEMORY
                if block[axis] < n and fits:
                    options.append((ratio if evaluated else -axis, larger))
            if not options:
                return block
            block = min(options)[1]

    block = grow(evaluated or all_features or points.kind == "file")
    if points.kind == "file" and cost(block, True)[0] > OFTEN:
        block = grow(False)
    return BlockPlan(grid, tuple(map(tuple, stencils)), tuple(block), evaluated, chunk, differences, pieces)


Job = Callable[[Any, Any], Any]
"""A function of a block and the plan, see ``run_blocks``."""


class Place(NamedTuple):
    """Where a block lies along each axis: its part of the arrays of an :class:`AxisPlan`."""

    rows: tuple[Int[Array, "b"], ...]
    columns: tuple[Int[Array, "m"], ...]
    matrices: tuple[Float[Array, "stencils 3 b m"], ...]
    differences: tuple[Float[Array, "2 b m"], ...]


class Window(NamedTuple):
    """Samples ``(m_1, ..., m_d, *features)`` of a block and its halo, and its number (for :func:`locate`)."""

    points: Array
    block: Array | int


class BlockGrams(NamedTuple):
    """What is kept of one block.

    Attributes:
        grams: Inner products of the jet vectors by each stencil, ``(stencils, *block, v, v)``.
        norm: Largest norm of a point in the window, the scale of rounding errors.
        peak: Largest magnitude of a feature in it, their scale along one direction; the norm where points are
            computed, since their features may be rounded alike.
        differences: Inner products ``(*block, d, 2 + v)`` of the high differences along every axis: the
            squares of both, then those of the higher one with the jet vectors; empty where the plan has none.
        rows: ``(b_k,)`` index of the block's samples along each axis.
    """

    grams: Array
    norm: Array
    peak: Array
    differences: Array
    rows: tuple[Array, ...]


def locate(plan: BlockPlan, block: Array | int, dtype: DType) -> Place:
    """Where a block lies, by its flat number."""
    index = jnp.unravel_index(jnp.asarray(block), plan.counts)

    def along(axis: AxisPlan, i: Array) -> tuple[Array, Array, Array, Array]:
        rows, columns, kind = (jnp.asarray(x)[i] for x in (axis.rows, axis.columns, axis.kinds))
        matrices, differences = (jnp.asarray(x, dtype) for x in (axis.matrices, axis.differences))
        return rows, columns, matrices[:, kind], differences[kind]

    return Place(*zip(*map(along, plan.axes, index), strict=True))


Cut = Callable[[Any, int], Any]
"""From the first feature and a number of features to their window ``(m_1, ..., m_d, features)``, or
to those of the parts of a cross."""


def cut_features(window: Array | dict[tuple[int, ...], Array]) -> Cut:
    """The cut of a window ``(m_1, ..., m_d, f)`` of all features, or of the parts of a cross."""

    def cut(start: Any, size: int) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=-1), window)

    return cut


class Sums(NamedTuple):
    """Over the features of a block: Gram matrices, squared norms of its window, products of high differences.

    ``peak`` is the largest magnitude of a feature.
    """

    grams: Array
    squares: Array
    high: Array
    peak: Array

    def plus(self, other: Sums) -> Sums:
        """Those of both parts of the features."""
        grams, squares, high = jax.tree.map(jnp.add, self[:3], other[:3])
        return Sums(grams, squares, high, jnp.maximum(self.peak, other.peak))


def sum_chunks(plan: BlockPlan, place: Place, cut: Cut, features: int) -> Sums:
    """Sums of a block over chunks of features."""
    chunk, matrices = min(plan.chunk, features), place.matrices

    def contract(start: Any, size: int) -> Sums:
        points = cut(start, size)
        window = hasattr(points, "shape")  # else they are the parts of a cross
        derivatives: Any = window_derivatives if window else cross_derivatives
        noisy = plan.differences and window  # points that are evaluated have no noise to tell
        high = high_differences(points, [m[0] for m in matrices], place.differences) if noisy else []

        def products(stencil: tuple[Sequence[Array], Array]) -> tuple[Array, Array]:
            return derivative_products(derivatives(points, stencil[0]), high, stencil[1] == 0)

        # One stencil after the other: one program for all of them, and the jets of one held at a time.
        grams, told = jax.lax.map(products, (matrices, jnp.arange(len(plan.stencils))))
        none = jnp.zeros((plan.block_points, len(plan.differences), 2 + grams.shape[-1]), grams.dtype)
        leaves = jax.tree.leaves(points)
        lengths = jnp.concatenate([jnp.sum(jnp.square(x), axis=-1).ravel() for x in leaves])
        peak = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in leaves]))
        return Sums(grams, lengths, told[0] if noisy else none, peak)

    def add(total: Sums, start: Array) -> tuple[Sums, None]:
        return total.plus(contract(start, chunk)), None

    count, rest = divmod(features, chunk)
    if count == 1 and not rest:
        return contract(0, chunk)
    if rest:
        total = contract(count * chunk, rest)
    else:
        total = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: contract(0, chunk)))
    return jax.lax.scan(add, total, jnp.arange(count) * chunk)[0]


def keep_grams(plan: BlockPlan, rows: tuple[Array, ...], sums: Sums) -> BlockGrams:
    """What is kept of a block, from its sums over features; NaN where the squares of points overflow."""
    norm, high = jnp.sqrt(jnp.max(sums.squares)), sums.high
    shaped = sums.grams.reshape(len(plan.stencils), *plan.block, *sums.grams.shape[-2:])
    shaped = jnp.where(jnp.isfinite(norm), shaped, jnp.nan)
    if plan.differences:
        high = high.reshape(*plan.block, *high.shape[-2:])
    return BlockGrams(shaped, norm, norm if plan.evaluated else sums.peak, high, rows)


def block_grams(plan: BlockPlan, place: Place, cut: Cut, features: int) -> BlockGrams:
    """Gram matrices of a block for every stencil."""
    return keep_grams(plan, place.rows, sum_chunks(plan, place, cut, features))
