"""One call that measures a manifold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax._checks import checked_function, fits_in_memory, flag, optional, positive, whole
from manifold_jax._executors import check_executor, shares_memory
from manifold_jax._files import Progress
from manifold_jax._keys import digest_arrays, digest_function, fingerprint
from manifold_jax._partial import PartialResult, keeping_parts
from manifold_jax._sharding import mesh_of
from manifold_jax.geometry.blocks import run_blocks
from manifold_jax.geometry.error_bars import (
    axis_sensitivity,
    comparison_stencil,
    grid_quantities,
    report_on,
    safety_factor,
)
from manifold_jax.geometry.grid import Accuracy, Grid
from manifold_jax.geometry.jet import gram_from_function
from manifold_jax.geometry.manifold import Manifold, as_points
from manifold_jax.geometry.missing import shrunk_quantities
from manifold_jax.geometry.noise import NoiseModel, difference_orders
from manifold_jax.geometry.points import Points, probed
from manifold_jax.geometry.quantities import PointQuantities, chart_ranges, exact_quantities
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.rounded import rounded_energy
from manifold_jax.geometry.sources import Stored, file_of
from manifold_jax.geometry.stencil import Stencil, reaches, stencil_of
from manifold_jax.geometry.windows import BatchPlan, BlockPlan, plan_batches, plan_blocks

PARTS = 16  # of a batch of exact jobs for other processes, which take as many together as suit them
RESULTS = 24  # numbers of a point in a result: values, bars, rounding and noise of six fields


@keeping_parts()  # of several plans, until all is reported
def measure(  # noqa: PLR0913
    points_or_manifold: Any,
    grid: Grid | None = None,
    *,
    accuracy: Accuracy | tuple[Accuracy, ...] = 4,
    stride: int | tuple[int, ...] = 1,
    smooth: int | tuple[int, ...] = 0,
    noise: float | None = None,
    exact: bool = False,
    missing: str = "refuse",
    tolerance: float = 0.1,
    block_size: int | None = None,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
    executor: Any = None,
    name: str | None = None,
) -> Geometry:
    """Volume and curvatures of one manifold with error bars; :func:`reach` gives its reach.

    Args:
        points_or_manifold: A :class:`Manifold`; an array ``(*grid.shape, *features)`` of NumPy, JAX, xarray,
            PyTorch or anything else in memory, or of a file (h5py, Zarr, mapped), which is read window by
            window; or an embedding, a function of one chart point. Float64 and integers that lie far from 0
            are centred before they become float32. One that is cut over the devices of a mesh stays where it
            is, see :func:`gram_from_grid`.
        grid: The lattice; for a Manifold by default its own, for a DataArray :meth:`Grid.from_xarray`.
        accuracy: Order of the stencils, 2, 4, 6, 8 or ``"spectral"``; one for all axes or one per axis.
        stride: Spacing of the stencils in samples.
        smooth: Derivatives of the polynomial of degree ``accuracy`` that fits so many samples on each side
            best; 0 for none. For noisy samples; its bias is in the bars.
        noise: Standard deviation of the noise of every feature; where f features have as much, the length
            for a sample that ``Geometry.noise`` and the reports tell is sqrt(f) times that. By default it is
            estimated, from high differences of samples, and from the step to which these are rounded where
            few features have one in common (not under ``jit``); a function has none.
        exact: Differentiate the embedding automatically instead; errors are then rounding alone.
        missing: ``"mask"`` where points of an array that are masked, NaN or infinite are missing: every other
            point takes the highest order, ``accuracy`` or below, whose samples are all there, and is
            undefined where samples are missing even for order 2. By default such arrays are refused.
        tolerance: Error relative to the natural scale of a quantity (itself for volumes, |II| for curvatures,
            |II|^2 for the scalar curvature) up to which it counts as resolved.
        block_size: Points differentiated at once; by default set by memory.
        progress: Called as ``progress(points done, points)`` after every group of blocks.
        checkpoint: Folder of finished blocks, from which a call with the same arguments goes on.
        executor: Where blocks are measured instead of in this process: any ``concurrent.futures.Executor``,
            such as ``Client(...).get_executor()`` of Dask. An embedding travels as the program that JAX makes
            of it, of a file its path, of an array in memory the windows.
        name: Title of the report; by default that of the Manifold.

    Returns:
        Fields and totals as :class:`Estimate` (value, error, resolved), a pytree. Works under ``jit``
        (without progress and checkpoint) for arrays and embeddings. Fields are cut as the points are along
        the axes of the grid; blocks are then those of a piece, so that bars of rounding may differ a little.

    Raises:
        ValueError: A sequence of manifolds is given, points and grid do not fit, the points hold NaN or
            infinite values, ``exact`` is asked for an array, or an option is out of range.

    Example:
        >>> grid = mj.Grid((mj.Axis("angle", 0.0, 2 * math.pi, 32, periodic=True),))
        >>> ellipse = mj.measure(lambda u: jnp.stack([2 * jnp.cos(u[0]), jnp.sin(u[0])]), grid)
        >>> perimeter = ellipse.total_volume
        >>> print(f"{perimeter.value:.3f}", bool(perimeter.error < 0.01), bool(perimeter.resolved))
        9.688 True True
    """
    if isinstance(points_or_manifold, Sequence) and not grid:
        raise ValueError(
            f"measure takes one manifold, got a sequence of {len(points_or_manifold)}: measure each, and "
            "pass the sequence to reach."
        )
    tolerance = positive("measure", "tolerance", tolerance, below=1)
    exact = flag("measure", "exact", exact)
    optional(checked_function, "measure", "progress", progress)
    travel = not shares_memory(executor)  # else points are left on devices
    options = {"exact": exact, "missing": missing, "in_pieces": not travel}
    points = as_points("measure", points_or_manifold, grid, **options)
    if executor is not None and points.traced:
        raise ValueError("measure: executor must be left out under jit, which makes one program of all.")
    executor = check_executor("measure", executor)
    if (progress or checkpoint) and not getattr(points.values, "is_fully_addressable", True):
        wanted = "None where the points lie on devices of several processes"
        raise ValueError(f"measure: progress and checkpoint must be {wanted}, got one: leave them out.")
    stencil = stencil_of("measure", points.grid, accuracy, stride, smooth)
    noise = optional(partial(positive, zero=True), "measure", "noise", noise)
    if exact and noise:
        raise ValueError("measure: noise is that of samples, exact=True differentiates a function: give one.")
    manifold = points_or_manifold if isinstance(points_or_manifold, Manifold) else None
    numbers = (RESULTS + points.grid.ndim) * points.grid.size * points.dtype.itemsize
    remedy = "measure a part, or take fewer samples of an axis"
    fits_in_memory("measure", f"the results on {points.grid.size} points", numbers, remedy)
    title = name or (manifold.name if manifold else "manifold")
    attributes = tuple((key, str(value)) for key, value in manifold.attributes.items()) if manifold else ()
    asked = title, stencil, noise, exact, missing, block_size, attributes
    run = partial(run_kept, points, progress=progress, checkpoint=checkpoint, asked=asked, executor=executor)
    report = partial(report_on, grid=points.grid, name=title, tolerance=tolerance, attributes=attributes)
    if exact:
        block_size = optional(whole, "measure", "block_size", block_size)
        ranges = chart_ranges(points.grid, points.dtype)

        def job(coordinates: Array, _: BatchPlan) -> PointQuantities:
            return _exact_batch(points.values, coordinates, ranges, block_size)

        geometry = report(run(plan_batches(points.grid, PARTS if travel else 1), job))
    else:
        comparison = comparison_stencil(stencil, points.grid, evaluated=points.evaluated)
        factor = safety_factor(stencil, comparison)
        sensitivity = factor * axis_sensitivity(points, stencil, comparison)
        orders: tuple[int, ...] = (0,) * points.grid.ndim if noise else ()
        if noise is None and not points.evaluated:
            orders = difference_orders(points.grid, stencil)
        plan = plan_blocks(points, (stencil, comparison), block_size, orders, all_features=travel)
        model = None
        if orders:
            halos = reaches(comparison, points.grid)
            rounded = rounded_energy(points) if noise is None else 0.0
            gains = [axis.gains for axis in plan.axes]
            model = NoiseModel(gains, orders, noise, points.features, halos, rounded)
        quantities = _grid_quantities(points, plan, run, block_size)
        geometry = report(quantities, stencil=stencil, factor=factor, sensitivity=sensitivity, noise=model)
    return points.back(geometry if points.traced else _with_idle_axes(geometry, points))


def _with_idle_axes(geometry: Geometry, points: Points) -> Geometry:
    """Where the metric is degenerate on the whole grid, the axes along which nothing changes are marked."""
    if not bool(jnp.isnan(geometry.scalar_curvature.value).all()):
        return geometry
    grid, d = points.grid, points.grid.ndim
    here = np.stack(np.unravel_index(probed(points), grid.shape))
    moved = [(here + step) % np.array(grid.shape)[:, None] for step in np.eye(d, dtype=int)[..., None]]
    flat = np.asarray(np.ravel_multi_index(np.concatenate([here, *moved], axis=1), grid.shape))
    first, *others = np.split(points.at(flat), d + 1)
    idle = np.array([np.array_equal(first, other) for other in others])
    table = np.where(idle, np.nan, np.nan_to_num(np.asarray(geometry.axis_sensitivity), nan=np.inf))
    return replace(geometry, axis_sensitivity=jnp.asarray(table))


def _grid_quantities(points: Points, plan: BlockPlan, run: Any, block_size: int | None) -> PointQuantities:
    """Quantities by a plan, or where points are missing by it and by those of lower order."""
    if points.there is None:
        return run(plan, grid_quantities)

    def plan_of(stencil: Stencil) -> BlockPlan:
        lower = comparison_stencil(stencil, points.grid, evaluated=False)
        return plan_blocks(points, (stencil, lower), block_size, plan.differences)

    def run_plan(chosen: BlockPlan) -> PointQuantities:
        told = {} if chosen is plan else {"progress": None, "executor": None}
        return run(chosen, grid_quantities, **told)

    return shrunk_quantities(points.there, plan, plan_of, run_plan)


def run_kept(
    points: Points,
    plan: BlockPlan | BatchPlan,
    job: Any,
    *,
    checkpoint: str | Path | None,
    asked: tuple[Any, ...],
    **options: Any,
) -> Any:
    """Run a job on blocks; a folder keeps what is done of it, under all that was ``asked``, until its end."""
    if checkpoint is None:
        return run_blocks(points, plan, job, **options)
    kept = PartialResult(checkpoint, _fingerprint(points, *asked, plan))
    results = run_blocks(points, plan, job, checkpoint=kept, **options)
    kept.remove()
    return results


def _fingerprint(points: Points, *parts: Any) -> str:
    """Digest of the points and arguments of a measurement."""
    grid, values = points.grid, points.values
    places = np.linspace(0, grid.size - 1, 5).round().astype(int)
    if points.evaluated:
        point = jax.ShapeDtypeStruct((grid.ndim,), points.dtype)
        return fingerprint(None, digest_function(values, point), points.at(places).tobytes(), grid, *parts)
    file = file_of(values.values) if isinstance(values, Stored) else None
    if file is not None:
        return fingerprint(None, file, points.at(places).tobytes(), str(points.dtype), grid, *parts)
    if isinstance(values, Stored):
        return fingerprint(None, *map(digest_arrays, values.slabs()), str(points.dtype), grid, *parts)
    if mesh_of(values) is not None:
        own = [shard.data for shard in values.addressable_shards if shard.replica_id == 0]
        parts = str(jax.typeof(values)), str(points.dtype), grid, *parts
        return fingerprint(None, *map(digest_arrays, own), *parts)
    return fingerprint(values, points.at(places).tobytes(), str(points.dtype), grid, *parts)


@partial(jax.jit, static_argnames="batch_size")
def _exact_batch(embedding: Any, coordinates: Any, ranges: Any, batch_size: int | None) -> PointQuantities:
    return exact_quantities(gram_from_function(embedding, coordinates, batch_size=batch_size), ranges)
