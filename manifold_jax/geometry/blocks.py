"""Streaming: one function of blocks, however the points are held.

This is the only place that knows how to read points: cut from an array, read window by window from the
host's memory or a file, or evaluate a function of the coordinates, traced or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import single
from manifold_jax._executors import (
    arrived,
    call_shared,
    exported,
    first_task,
    on_host,
    run_sharing,
    run_tasks,
    shares_memory,
    workers_of,
)
from manifold_jax._files import Progress
from manifold_jax._linalg import block_rows, map_blocks
from manifold_jax._partial import PartialResult
from manifold_jax._sharding import mesh_of
from manifold_jax.geometry.derivatives import cross_columns, split_columns, window_derivatives
from manifold_jax.geometry.grid import DType, mesh
from manifold_jax.geometry.host_blocks import (
    add_offset,
    after_sums,
    first_number,
    host_block,
    host_window,
    travel,
)
from manifold_jax.geometry.pieces import (
    back_in_pieces,
    cut_window,
    few_blocks,
    grid_results,
    join_blocks,
    piece_blocks,
)
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.windows import (
    CALLS,
    BatchPlan,
    BlockGrams,
    BlockPlan,
    Job,
    Window,
    block_grams,
    cut_features,
    locate,
)

TURNS = 4  # calls for each worker, so that none is idle for long when the others are done
RENDERED = 16  # arrays of the size of a point that its rendering holds at once, about


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
    executor: Any = None,
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
        calls: About how many compiled calls a job on Grams is split into, if there are not many workers. With
            1, results (of windows too) stay on the device, and there is neither progress nor checkpoint.
        progress: Called as ``progress(points done, points)`` after every call.
        checkpoint: Where results are saved, and where an interrupted job goes on; the caller removes it.
        executor: Where the calls are made instead of in this process, see :mod:`_executors`: on Grams and
            exact jobs. Functions and files travel, of an array in memory the windows.

    Returns:
        What ``function`` returns, ``(*grid.shape, ...)`` or ``(len(blocks), ...)``. Where the points are
        traced it is part of the caller's program, and there is neither progress nor checkpoint.

    Raises:
        ValueError: A window of an array on the host holds NaN or infinite values.
    """
    here = shares_memory(executor)
    if points.kind == "array" and not here:
        points = replace(points, kind="host", values=np.asarray(points.values))
    if isinstance(plan, BlockPlan) and not points.traced:
        plan = jax.device_put(plan)  # once for all calls
    if isinstance(plan, BlockPlan) and mesh_of(points.values) is not None:
        return _on_mesh(points, plan, function, windows, blocks, calls, progress, checkpoint)
    numbers = np.arange(plan.size) if blocks is None else np.asarray(blocks)
    one = _one_block(points, plan, function, windows)
    on_device = isinstance(plan, BlockPlan) and not windows and not points.on_host
    turns = calls if here else max(calls, TURNS * workers_of(executor))
    grouped = on_device or (not here and isinstance(plan, BatchPlan))
    group = max(1, len(numbers) // turns) if grouped else 1

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
        calls_made = _here(run) if here else _elsewhere(points, plan, function, group, executor)
        stacked = _in_groups(calls_made, numbers, group, plan, progress, checkpoint, executor)
    if blocks is not None:
        return stacked
    if points.traced:
        return jax.tree.map(plan.reassemble, stacked)
    leaves, structure = jax.tree.flatten(stacked)
    del stacked
    # One array after the other, so that of what lies in two orders there is one.
    return structure.unflatten([jax.device_put(plan.reassemble(leaves.pop(0))) for _ in range(len(leaves))])


def _on_mesh(
    points: Points,
    plan: BlockPlan,
    function: Job,
    windows: bool,
    blocks: np.ndarray | None,
    calls: int,
    progress: Progress | None,
    checkpoint: PartialResult | None,
) -> Any:
    """The same for points in pieces on a mesh, in one program unless results are told or kept in between."""
    values, dtype = points.values, points.dtype
    if blocks is not None:
        return few_blocks(values, plan, np.asarray(blocks), dtype, function)
    if points.traced or calls == 1 or (progress is None and checkpoint is None):
        return grid_results(values, plan, dtype, function, windows)
    numbers, pieces = np.arange(math.prod(plan.piece_counts)), math.prod(plan.cuts)
    told = None if progress is None else lambda done, size: progress(min(done * pieces, size), size)

    def run(chosen: np.ndarray) -> Any:
        return piece_blocks(values, plan, chosen, dtype, function, windows)

    group = max(1, len(numbers) // calls)
    stacked = _in_groups(_here(run), numbers, group, plan, told, checkpoint, None)
    return join_blocks(values, plan, back_in_pieces(values, stacked), windows)


def read_window(points: Points, plan: BlockPlan, block: Any) -> Window:
    """The window of one block, ``(m_1, ..., m_d, f)``; its number may be traced where the points are."""
    if points.on_host:
        part = points.read(host_window(points.values, plan, block))
        if not np.isfinite(part).all():
            points.refuse_nonfinite()
        return Window(jax.device_put(part, may_alias=False), block)
    return Window(_device_window(points.values, plan, block, points.dtype), block)


@jax.jit
def block_vectors(window: Window, plan: BlockPlan) -> Float[Array, "stencils points v f"]:
    """First and second derivatives on a block by every stencil of the plan."""
    matrices = locate(plan, window.block, window.points.dtype).matrices
    stencils = range(len(plan.stencils))
    jets = [window_derivatives(window.points, [m[s] for m in matrices]) for s in stencils]
    return jnp.stack([jnp.stack(vectors, axis=1) for vectors in jets])


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
        after = after_sums(plan)
        return lambda block: host_block(points, plan, after, block, function)

    def one(block: Any) -> Any:
        grams = _device_grams(points.values, plan, block, points.dtype)
        return function(add_offset(grams, points.offset), plan)

    return one


def _stack_one(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


class Calls(NamedTuple):
    """How groups of blocks are run: ``result(function(*task(numbers)))`` are their stacked results.

    What tasks share, if anything, is the first argument of the function.
    """

    function: Callable[..., Any]
    task: Callable[[np.ndarray], tuple[Any, ...]]
    result: Callable[[Any], Any]
    shared: Any = None

    def run(self, numbers: Iterable[np.ndarray], executor: Any) -> Iterator[tuple[int, Any]]:
        """Number and result of the function for every group, as an executor has them."""
        tasks = map(self.task, numbers)
        if self.shared is None:
            return run_tasks(self.function, tasks, executor)
        return run_sharing(self.function, self.shared, tasks, executor)


def _here(run: Callable[[np.ndarray], Any]) -> Calls:
    """Calls in this process."""
    return Calls(run, lambda chosen: (chosen,), lambda result: result)


def _elsewhere(
    points: Points, plan: BlockPlan | BatchPlan, function: Job, group: int, executor: Any
) -> Calls:
    """Calls in other processes: of a function its program travels, of a file its path, else the windows."""
    if isinstance(plan, BatchPlan):
        batches = np.asarray(plan.coordinates(points.dtype))
        run = lambda chosen: _map_one(lambda batch: function(batch, plan), chosen)  # noqa: E731
        first = batches[np.zeros(group, int)]
        calls = _program_calls(points.caller, run, first, lambda chosen: batches[chosen])
    elif points.evaluated:
        run = lambda chosen: _device_blocks(points.values, plan, chosen, points.dtype, function)  # noqa: E731
        calls = _program_calls(points.caller, run, np.zeros(group, int), lambda chosen: chosen)
    else:
        after, travelling = after_sums(plan), travel(points)
        task = lambda chosen: (travelling(plan, int(chosen[0])), plan, after, int(chosen[0]), function)  # noqa: E731
        calls = Calls(partial(on_host, host_block), task, _stack_one)
    look, task = arrived if points.evaluated else first_number, calls.task(np.zeros(group, int))
    first_task(points.caller, executor, look, *task)
    return calls


def _program_calls(caller: str, run: Callable[[Any], Any], at: Any, argument: Callable[[Any], Any]) -> Calls:
    """Calls of a traced function of one argument."""
    *held, structure = exported(caller, run, at)
    unflatten = partial(jax.tree.unflatten, structure)
    return Calls(call_shared, lambda chosen: (argument(chosen),), unflatten, tuple(held))


def _in_groups(
    calls: Calls,
    numbers: np.ndarray,
    group: int,
    plan: BlockPlan | BatchPlan,
    progress: Progress | None,
    checkpoint: PartialResult | None,
    executor: Any,
) -> Any:
    """Run blocks in groups of equal size, reporting and keeping results in between; they lie on the host."""
    count, structure, whole = len(numbers), None, list[np.ndarray]()
    there = np.zeros(count, bool)

    def fill(places: np.ndarray, part: list[np.ndarray]) -> None:
        """Put results in their places, rather than keep those of all groups beside the whole."""
        if not whole:
            whole.extend(np.empty((count, *leaf.shape[1:]), leaf.dtype) for leaf in part)
        for column, leaf in zip(whole, part, strict=True):
            column[places] = leaf
        there[places] = True

    kept = {} if checkpoint is None else checkpoint.load()
    for start in [start for start, part in kept.items() if part and start + len(part[0]) <= count]:
        part = kept.pop(start)
        fill(np.arange(start, start + len(part[0])), part)
    missing = np.flatnonzero(~there)
    # The last block is made again where all are kept: it tells the structure of the results.
    places = missing if len(missing) else np.array([count - 1])
    groups = [places[k : k + group] for k in range(0, len(places), group)]
    # The last group repeats its last block: one shape, one compilation.
    chosen = (numbers[np.pad(of, (0, group - len(of)), mode="edge")] for of in groups)
    for k, result in calls.run(chosen, executor):
        part, structure = jax.tree.flatten(calls.result(jax.device_get(result)))
        part = [leaf[: len(groups[k])] for leaf in part]
        fill(groups[k], part)
        if checkpoint is not None and len(missing):
            cuts = np.flatnonzero(np.diff(groups[k]) > 1) + 1  # parts are kept by their first block
            for run in np.split(np.arange(len(groups[k])), cuts):
                checkpoint.save(int(groups[k][run[0]]), [leaf[run] for leaf in part])
        if progress is not None:
            progress(min(int(there.sum()) * plan.block_points, plan.grid.size), plan.grid.size)
    return jax.tree.unflatten(structure, whole)


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
        cut = partial(cut_window, values, plan, place.columns, [None] * plan.grid.ndim)
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
    return cut_window(values, plan, columns, [None] * plan.grid.ndim, 0, values.shape[-1])


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
