"""How a grid is cut into blocks of points, so that what is held at once stays bounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from manifold_jax.geometry.grid import Accuracy, Axis, Grid
from manifold_jax.geometry.stencil import AxisPlan, axis_plan, halo

MEMORY = 256 * 2**20
"""Bytes that the temporaries of one block may take when no block size is given."""

CHUNK = 128
"""Features contracted at a time: long enough for the matrix products, short enough for the cache."""

LENGTH = 256
"""Most output samples of a block along one axis: its derivative matrix is dense."""

Stencil = tuple[tuple[Accuracy, int], ...]
"""``(accuracy, stride)`` for each axis."""


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
