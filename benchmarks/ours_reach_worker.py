"""Our side of the reach benchmark: one task of manifold_jax in a fresh process.

Run in the environment of manifold_jax, normally from peer_reach.py:

    python benchmarks/ours_reach_worker.py pairs LATTICE.npy --stride 2 --save FIELD.npz
    python benchmarks/ours_reach_worker.py reach LATTICE.npy --save FIELD.npz
    python benchmarks/ours_reach_worker.py sprite --samples 8

``pairs`` is the peer's own estimator and nothing else: the smallest R(x, y) over the lattice points y, with
second-order tangents, on the points that the peer looks at (open axes lose a layer at each end, then every
``--stride``-th). ``reach`` is ``measure`` and ``reach`` with stencils on the whole lattice, timed one by one.
``sprite`` is the same with exact tangents on the 4-D sprite manifold, nothing left out. ``seconds`` is the
first pass, compilation included, ``warm_seconds`` a second one. The last line printed is the result, as JSON.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import os
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a fresh process compiles everything itself
import jax
from ours_worker import CompileClock, device_peak, fewer_samples, grid_of, run_task

import manifold_jax as mj
from manifold_jax.datasets import sprite
from manifold_jax.geometry.reach.lattice import neighbours


def two_passes(
    passed: Callable[[], tuple[Any, dict[str, float]]], options: argparse.Namespace, input_bytes: int
) -> tuple[Any, dict[str, Any]]:
    """A cold pass with its memory and, unless told otherwise, a warm one; the result is that of the first."""
    clock, memory = CompileClock(), common.MemoryMeter("memory", input_bytes)
    processor = time.process_time()
    with memory:
        seconds, (found, steps) = common.timed(passed)
    record: dict[str, Any] = {
        "seconds": seconds,
        "compile_seconds": clock.seconds(),
        "cpu_seconds": time.process_time() - processor,
        "steps": steps,
        "memory": memory.reading(),
        "device_peak_bytes": device_peak(),
    }
    if options.warm:
        compiled, processor = clock.seconds(), time.process_time()
        seconds, (_, steps) = common.timed(passed)
        record |= {
            "warm_seconds": seconds,
            "warm_cpu_seconds": time.process_time() - processor,
            "warm_compile_seconds": clock.seconds() - compiled,
            "warm_steps": steps,
        }
    if options.profile:
        profiled(passed, options.profile)
    return found, record


def profiled(passed: Callable[[], Any], lines: int) -> None:
    """Print where one more pass spends its time."""
    profiler = cProfile.Profile()
    profiler.runcall(passed)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(lines)
    print(text.getvalue(), file=sys.stderr)


def queries(grid: Any, stride: int) -> np.ndarray:
    """Flat indices of the lattice points that the peer compares with each other."""
    along = [
        np.arange(0 if axis.periodic else 1, axis.size if axis.periodic else axis.size - 1, stride)
        for axis in grid.axes
    ]
    return np.ravel_multi_index(np.meshgrid(*along, indexing="ij"), grid.shape).reshape(-1)


def central_tangents(flat: np.ndarray, grid: Any, chosen: np.ndarray) -> np.ndarray:
    """Second-order central differences ``(n, d, f)`` at inner lattice points."""
    beside = neighbours(grid, chosen)
    steps = np.asarray(grid.spacing, flat.dtype)
    tangents = np.empty((len(chosen), grid.ndim, flat.shape[1]), flat.dtype)
    for k in range(grid.ndim):
        tangents[:, k] = (flat[beside[:, k, 1]] - flat[beside[:, k, 0]]) / (2 * steps[k])
    return tangents


def pairs(options: argparse.Namespace) -> dict[str, Any]:
    """The peer's estimator on the peer's points."""
    grid = grid_of(common.read_spec(options.lattice))
    points = common.load_points(options.lattice, "memory")
    flat = points.reshape(grid.size, -1)
    chosen = queries(grid, options.stride)

    def passed() -> tuple[Any, dict[str, float]]:
        tangent_seconds, tangents = common.timed(central_tangents, flat, grid, chosen)
        search = lambda: mj.reach_from_samples(  # noqa: E731
            flat[chosen], tangents, dimension=grid.ndim, noise=0.0, **tiling(options)
        )
        search_seconds, found = common.timed(search)
        return found, {"tangents": tangent_seconds, "search": search_seconds}

    found, record = two_passes(passed, options, points.nbytes)
    if options.save:
        np.savez(options.save, field=found.pointwise, witness=found.witness)
    return {"task": "pairs", "outputs": len(chosen), **summary(found), **record}


def reach(options: argparse.Namespace) -> dict[str, Any]:
    """Curvature and reach by stencils on the whole lattice."""
    grid = grid_of(common.read_spec(options.lattice))
    points = common.load_points(options.lattice, "memory")
    found, record = two_passes(searching(points, grid, options), options, points.nbytes)
    if options.save:
        field, witness = (np.asarray(x).reshape(-1) for x in (found.pointwise, found.witness))
        chosen = queries(grid, options.stride)
        np.savez(options.save, field=field[chosen], witness=witness[chosen])
    return {"task": "reach", "outputs": grid.size, **summary(found), **record}


def balanced(options: argparse.Namespace) -> dict[str, Any]:
    """Curvature and reach with exact tangents on the 4-D sprite manifold."""
    manifold = sprite(options.shape, layout="balanced")
    grid = fewer_samples(manifold.grid, options.samples) if options.samples else manifold.grid
    found, record = two_passes(searching(manifold, grid, options), options, 0)
    return {"task": "sprite", "shape": list(grid.shape), "outputs": grid.size, **summary(found), **record}


def searching(
    points: Any, grid: Any, options: argparse.Namespace
) -> Callable[[], tuple[Any, dict[str, float]]]:
    """One pass of measure and reach, each timed."""
    order = {} if options.accuracy is None else {"accuracy": options.accuracy}

    def passed() -> tuple[Any, dict[str, float]]:
        start, processor = time.perf_counter(), time.process_time()
        geometry = mj.measure(points, grid, **order)
        jax.block_until_ready(geometry.normal_curvature.value)
        middle, half = time.perf_counter(), time.process_time()
        shown = progress() if options.progress else None
        found = mj.reach(points, grid, geometry=geometry, progress=shown, **order, **tiling(options))
        end, last = time.perf_counter(), time.process_time()
        return found, {
            "curvature": middle - start,
            "search": end - middle,
            "curvature_cpu": half - processor,
            "search_cpu": last - half,
        }

    return passed


def tiling(options: argparse.Namespace) -> dict[str, int]:
    return {"tile_size": options.tile_size} if options.tile_size else {}


def progress() -> Callable[[int, int], None]:
    """Say every half minute how far the search is."""
    start = said = time.perf_counter()

    def shown(done: int, total: int) -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said >= 30 or done == total:
            said = now
            print(f"    {done} of {total} points, {now - start:.0f} s", file=sys.stderr, flush=True)

    return shown


def summary(found: Any) -> dict[str, Any]:
    """The numbers of a Reach, and what it says."""
    names = ("value", "local", "local_error", "bottleneck", "bottleneck_error", "searched", "pruned")
    return {
        **{name: float(getattr(found, name)) for name in names},
        "bar": float(found.error),
        "resolved": bool(found.resolved),
        "case": found.case,
        "coincident": int(found.coincident),
        "smallest_pointwise": float(np.nanmin(found.pointwise)),
        "sentence": found.sentence(),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(required=True)
    for name, run, note in (
        ("pairs", pairs, "the peer's estimator on the peer's points"),
        ("reach", reach, "measure and reach by stencils on the whole lattice"),
        ("sprite", balanced, "measure and reach by autodiff on the 4-D sprite manifold"),
    ):
        task = tasks.add_parser(name, help=note)
        task.set_defaults(run=run, task=name, accuracy=None, save=None)
        if name == "sprite":
            task.add_argument("--shape", choices=("square", "ellipse", "heart"), default="ellipse")
            task.add_argument("--samples", type=int, help="samples an axis, instead of 16")
        else:
            task.add_argument("lattice", type=Path, help="NAME.npy with its NAME.json beside it")
            task.add_argument("--stride", type=int, default=1, help="pairs, --save: every so many points")
            task.add_argument("--accuracy", type=int, default=2, help="order of the stencils of reach")
            task.add_argument("--save", type=Path, help="where to store the field at the peer's points, .npz")
        task.add_argument("--tile-size", type=int, help="centres per tile")
        task.add_argument("--warm", action=argparse.BooleanOptionalAction, default=True)
        task.add_argument("--profile", type=int, help="print so many lines of a profile of one more pass")
        task.add_argument("--progress", action="store_true", help="say how far the search is")
        task.add_argument("--x64", action="store_true", help="float64")
    return parser.parse_args()


if __name__ == "__main__":
    run_task(arguments())
