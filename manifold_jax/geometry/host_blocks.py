"""Blocks of points that the host holds or reads from a file, some features at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._sharding import unchanged
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.sources import Cut, FileArray, Stored, portable
from manifold_jax.geometry.windows import (
    BlockGrams,
    BlockPlan,
    Job,
    Sums,
    cut_features,
    features_read,
    keep_grams,
    locate,
    sum_chunks,
)

CHUNKS_READ = 4  # chunks of features copied from the host at once: a call takes turns with the copying


def add_offset(grams: BlockGrams, offset: float) -> BlockGrams:
    """Grams whose norm and peak count the rounding of what was subtracted from the points."""
    return grams._replace(norm=grams.norm + offset, peak=grams.peak + offset)


def after_sums(plan: BlockPlan) -> BlockPlan:
    """The plan of what does not depend on the number of features, the larger program: one for any number."""
    after = replace(plan, chunk=0)
    vars(after)["axes"] = plan.axes
    return after


def host_window(
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
    grams = add_offset(keep_grams(plan, locate(plan, block, sums.grams.dtype).rows, sums), offset)
    return function(grams, plan), grams.norm


def host_block(points: Points, plan: BlockPlan, after: BlockPlan, block: int, function: Job) -> Any:
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
        window = host_window(points.values, plan, block, chosen.start, chosen.stop)
        part = jax.device_put(points.read(window, chosen), may_alias=False)
        jax.block_until_ready(total)  # two windows are held at most: one being read, one being used
        piece = _feature_sums(part, plan, block)
        total = piece if total is None else total.plus(piece)
    result, norm = _finish(total, after, block, points.offset, function)
    if not np.isfinite(norm):
        points.refuse_nonfinite()
    return result


def travel(points: Points) -> Callable[[BlockPlan, int], Points]:
    """From a plan and the number of a block to points that another process can read the block of.

    Those in a file travel as its path, of those in memory the window.
    """
    values, light = portable(points.values), replace(points, there=None, back=unchanged)
    if isinstance(values, FileArray):
        values = Stored(values, points.values.shape, np.dtype(values.dtype))
    if isinstance(values, Stored):
        whole = replace(light, values=values)
        return lambda plan, block: whole

    def cut(plan: BlockPlan, block: int) -> Points:
        window = np.ascontiguousarray(host_window(values, plan, block))
        if points.stand_in is None and not np.isfinite(window).all():
            points.refuse_nonfinite()
        return replace(light, values=Cut(window, window.shape, window.dtype))

    return cut


def first_number(points: Points, plan: BlockPlan, *_others: Any) -> np.ndarray:
    """One number of the points, which shows that they can be read here."""
    return points.values.take([np.zeros(1, int)] * plan.grid.ndim, 0, 1)
