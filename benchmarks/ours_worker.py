"""Our side of the peer benchmark: one task of manifold_jax in a fresh process.

Run in the environment of manifold_jax, normally from peer_measures.py:

    python benchmarks/ours_worker.py render OUT.npy --dataset sprite --shape ellipse --layout balanced
    python benchmarks/ours_worker.py stencil OUT.npy --accuracy 4 --save FOLDER
    python benchmarks/ours_worker.py exact OUT.npy --save FOLDER
    python benchmarks/ours_worker.py measure OUT.npy --save FOLDER

``stencil`` is ``gram_from_grid`` on the stored points, ``exact`` is ``gram_from_function`` on the embedding
they came from; both are followed by every pointwise measure of the Gram matrices and two integrals.
``measure`` is the one call with error bars. ``seconds`` is wall time of the first pass, compilation included;
``compile_seconds`` is the part of it that JAX reports as tracing, lowering and compiling (overlaps counted
once), and ``warm_seconds`` a second pass over the same input. The last line printed is the result, as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a fresh process compiles everything itself
STARTED = time.perf_counter()
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import manifold_jax as mj  # noqa: E402

IMPORT_SECONDS = time.perf_counter() - STARTED

MEASURES = (
    "metric",
    "volume_element",
    "christoffel",
    "riemann",
    "ricci",
    "scalar_curvature",
    "mean_curvature",
    "second_form_norm",
    "normal_curvature",
    "normal_curvature_bounds",
)
TORUS = {"major": 2.0, "minor": 0.5, "warp": 0.3}


class CompileClock:
    """Seconds in which JAX traced, lowered or compiled; overlapping reports are counted once."""

    def __init__(self) -> None:
        self.intervals: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            now = time.perf_counter()
            self.intervals.append((now - duration, now))

    def seconds(self) -> float:
        """Length of the union of the intervals so far."""
        total, reached = 0.0, -math.inf
        for start, stop in sorted(self.intervals):
            total += max(0.0, stop - max(start, reached))
            reached = max(reached, stop)
        return total


def torus(warped: bool, samples: int) -> Any:
    """Torus of revolution R = 2, r = 0.5 in float64; warped, each angle is u + 0.3 sin u."""
    major, minor, amount = TORUS["major"], TORUS["minor"], TORUS["warp"] if warped else 0.0

    def embedding(u: jax.Array) -> jax.Array:
        a, b = u + amount * jnp.sin(u)
        ring = major + minor * jnp.cos(b)
        return jnp.stack([ring * jnp.cos(a), ring * jnp.sin(a), minor * jnp.sin(b)])

    axes = tuple(mj.Axis(name, 0.0, 2 * math.pi, samples, periodic=True) for name in ("around", "along"))
    return mj.Manifold("warped torus" if warped else "torus", embedding, mj.Grid(axes))


def fewer_samples(grid: Any, samples: int) -> Any:
    """The grid with ``samples`` on each axis; open axes keep their spacing, periodic ones their range."""
    axes = [
        dataclasses.replace(axis, size=samples)
        if axis.periodic
        else dataclasses.replace(axis, size=samples, stop=axis.start + axis.spacing * (samples - 1))
        for axis in grid.axes
    ]
    return mj.Grid(tuple(axes))


def manifold_of(source: dict[str, Any]) -> Any:
    """The manifold that a stored lattice was rendered from."""
    if source.get("dataset") in ("torus", "warped-torus"):
        return torus(source["dataset"] == "warped-torus", source["samples"] or 64)
    if source.get("dataset") != "sprite":
        raise ValueError(f"the lattice has no embedding to differentiate: it was made by {source}")
    from manifold_jax import datasets

    manifold = datasets.sprite(source["shape"], layout=source["layout"])
    if source["samples"]:
        manifold = dataclasses.replace(manifold, grid=fewer_samples(manifold.grid, source["samples"]))
    return manifold


def grid_of(spec: dict[str, Any]) -> Any:
    """The grid of a stored lattice."""
    return mj.Grid(tuple(mj.Axis(**axis) for axis in spec["axes"]))


def axis_record(axis: Any) -> dict[str, Any]:
    fields = ("name", "start", "stop", "size", "periodic", "unit", "wrap")
    return {field: getattr(axis, field) for field in fields}


def render(options: argparse.Namespace) -> dict[str, Any]:
    """Render a manifold on its grid, in batches, into a float32 (float64 with --x64) memory map."""
    source = {
        "dataset": options.dataset,
        "shape": options.shape,
        "layout": options.layout,
        "samples": options.samples,
        "x64": options.x64,
    }
    manifold = manifold_of(source)
    points = np.asarray(manifold.grid.coordinates()).reshape(-1, manifold.grid.ndim)
    features = math.prod(manifold.feature_shape)
    image = jax.jit(jax.vmap(lambda u: jnp.ravel(manifold.embedding(u))))
    out = np.lib.format.open_memmap(
        options.out, mode="w+", dtype=points.dtype, shape=(*manifold.grid.shape, features)
    )
    flat = out.reshape(-1, features)
    start = time.perf_counter()
    for first in range(0, len(points), options.batch_size):
        flat[first : first + options.batch_size] = image(points[first : first + options.batch_size])
    out.flush()
    seconds = time.perf_counter() - start
    axes = [axis_record(axis) for axis in manifold.grid.axes]
    common.write_json(common.spec_path(options.out), {"axes": axes, "source": source})
    return {"task": "render", "seconds": seconds, "shape": list(out.shape), "bytes": out.nbytes}


Step = tuple[str, Callable[[dict[str, Any]], Any]]


def algebra(grid: Any, options: argparse.Namespace) -> list[Step]:
    """Every measure of the Gram matrices and the two totals, in one jitted function or each by itself."""
    names = [name for name in MEASURES if hasattr(mj, name)]

    def everything(gram: Any) -> dict[str, Any]:
        values = {name: getattr(mj, name)(gram) for name in names}
        dv, curvature = values["volume_element"], values["scalar_curvature"]
        values["total_volume"] = mj.integrate(jnp.ones_like(dv), dv, grid, accuracy=options.accuracy)
        values["total_scalar_curvature"] = mj.integrate(curvature, dv, grid, accuracy=options.accuracy)
        return values

    if options.jit == "together":
        together = jax.jit(everything)
        return [("measures", lambda done: together(done["gram"]))]

    def of_gram(name: str) -> Step:
        function = jax.jit(getattr(mj, name))
        return name, lambda done: function(done["gram"])

    def total(name: str, values: Callable[[dict[str, Any]], Any]) -> Step:
        integrate = jax.jit(lambda v, dv: mj.integrate(v, dv, grid, accuracy=options.accuracy))
        return name, lambda done: integrate(values(done), done["volume_element"])

    return [
        *(of_gram(name) for name in names),
        total("total_volume", lambda done: jnp.ones_like(done["volume_element"])),
        total("total_scalar_curvature", lambda done: done["scalar_curvature"]),
    ]


def one_pass(steps: list[Step], clock: CompileClock) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the steps in order, waiting for each; a step that is refused is noted and skipped."""
    done: dict[str, Any] = {}
    times: dict[str, Any] = {}
    for name, step in steps:
        compiled, start = clock.seconds(), time.perf_counter()
        try:
            done[name] = jax.block_until_ready(step(done))
        except (ValueError, KeyError, TypeError) as error:
            if name == "gram":
                raise
            times[name] = {"error": f"{type(error).__name__}: {error}"}
            continue
        seconds = time.perf_counter() - start
        times[name] = {"seconds": seconds, "compile_seconds": clock.seconds() - compiled}
    return done | done.pop("measures", {}), times


def summed(times: dict[str, Any], key: str, names: tuple[str, ...] | None = None) -> float:
    chosen = times.values() if names is None else [times[name] for name in names if name in times]
    return sum(entry.get(key, 0.0) for entry in chosen)


def save_fields(folder: Path, done: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Store the scalar fields and totals among the results."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in done.items():
        if name == "normal_curvature_bounds":
            for end, field in zip(("lower", "upper"), value, strict=True):
                np.save(folder / f"normal_curvature_{end}.npy", np.asarray(field))
        elif name != "gram" and np.shape(value) in (shape, ()):
            np.save(folder / f"{name}.npy", np.asarray(value))


def device_peak() -> int | None:
    """Peak bytes on an accelerator, or None on a CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("peak_bytes_in_use")


def copy_bandwidth(points: jax.Array) -> float:
    """Bytes per second that the device moves when it copies the input once (read and written)."""
    copy = jax.jit(lambda x: x * 2)
    jax.block_until_ready(copy(points))
    seconds = min(common.timed(lambda: jax.block_until_ready(copy(points)))[0] for _ in range(5))
    return 2 * points.nbytes / seconds


def two_passes(
    steps: list[Step], options: argparse.Namespace, memory: common.MemoryMeter
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A cold pass, its memory, and unless told otherwise a warm one."""
    clock = CompileClock()
    processor = time.process_time()
    with memory:
        done, cold = one_pass(steps, clock)
    processor = time.process_time() - processor
    pair = ("gram", "volume_element", "scalar_curvature")
    pair_seconds = summed(cold, "seconds", pair) if set(pair) <= set(cold) else None
    record = {
        "seconds": summed(cold, "seconds"),
        "compile_seconds": summed(cold, "compile_seconds"),
        "cpu_seconds": processor,
        "two_measures_seconds": pair_seconds,
        "steps": cold,
        "memory": memory.reading(),
        "device_peak_bytes": device_peak(),
    }
    if options.warm:
        del done
        processor = time.process_time()
        done, warm = one_pass(steps, clock)
        record["warm_cpu_seconds"] = time.process_time() - processor
        record["warm_seconds"] = summed(warm, "seconds")
        record["warm_compile_seconds"] = summed(warm, "compile_seconds")
        record["warm_steps"] = warm
    return done, record


def stencil(options: argparse.Namespace) -> dict[str, Any]:
    """All measures from the stored points."""
    spec = common.read_spec(options.lattice)
    grid = grid_of(spec)
    load_seconds, points = common.timed(
        common.load_points, options.lattice, "mmap" if options.input == "mmap" else "memory"
    )
    nbytes = points.nbytes
    choice = {"accuracy": options.accuracy}
    if options.block_size:
        choice["block_size"] = options.block_size
    if options.input == "device":
        points = jax.block_until_ready(jnp.asarray(points))
    # Points of the host are read part by part; as an argument of jit they would first be copied whole.
    gram = lambda x: mj.gram_from_grid(x, grid, **choice)  # noqa: E731
    if options.input == "device" and not options.eager:
        gram = jax.jit(gram)
    steps = [("gram", lambda done: gram(points)), *algebra(grid, options)]
    done, record = two_passes(steps, options, common.MemoryMeter(options.input, nbytes))
    if options.save:
        save_fields(options.save, done, grid.shape)
    if options.input == "device" and options.warm:
        copied, read = copy_bandwidth(points), nbytes / record["warm_steps"]["gram"]["seconds"]
        record |= {"copy_bandwidth": copied, "gram_bandwidth": read, "bandwidth_fraction": read / copied}
    return {
        "task": "stencil",
        "accuracy": options.accuracy,
        "block_size": options.block_size,
        "outputs": grid.size,
        "load_seconds": load_seconds,
        "input": options.input,
        "input_bytes": nbytes,
        **totals(done),
        **record,
    }


def exact(options: argparse.Namespace) -> dict[str, Any]:
    """All measures by autodiff of the embedding that the lattice was rendered from; no array is read."""
    spec = common.read_spec(options.lattice)
    manifold, grid = manifold_of(spec["source"]), grid_of(spec)
    choice = {"batch_size": options.batch_size} if options.batch_size else {}
    gram = lambda u: mj.gram_from_function(manifold.embedding, u, **choice)  # noqa: E731
    gram = gram if options.eager else jax.jit(gram)
    coordinates = grid.coordinates()
    steps = [("gram", lambda done: gram(coordinates)), *algebra(grid, options)]
    done, record = two_passes(steps, options, common.MemoryMeter("memory", 0))
    if options.save:
        save_fields(options.save, done, grid.shape)
    return (
        {"task": "exact", "outputs": grid.size, "input": "embedding", "input_bytes": 0}
        | totals(done)
        | record
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The one call that measures a manifold with error bars."""
    spec = common.read_spec(options.lattice)
    grid = grid_of(spec)
    source = "mmap" if options.input == "mmap" else "memory"
    load_seconds, points = common.timed(common.load_points, options.lattice, source)
    step = ("gram", lambda done: mj.measure(points, grid))  # the name under which a failure ends the run
    done, record = two_passes([step], options, common.MemoryMeter(source, points.nbytes))
    geometry = done["gram"]
    estimates = {
        name: value
        for name in dir(geometry)
        if not name.startswith("_")
        and all(hasattr(value := getattr(geometry, name), part) for part in ("value", "error", "resolved"))
    }
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        for name, estimate in estimates.items():
            parts = {part: np.asarray(getattr(estimate, part)) for part in ("value", "error", "resolved")}
            np.savez(options.save / f"{name}.npz", **parts)
    return {
        "task": "measure",
        "outputs": grid.size,
        "load_seconds": load_seconds,
        "input": options.input,
        "input_bytes": points.nbytes,
        "resolved": {name: float(np.mean(np.asarray(e.resolved))) for name, e in estimates.items()},
        "report": str(geometry.summary()) if callable(getattr(geometry, "summary", None)) else None,
        **record,
    }


def totals(done: dict[str, Any]) -> dict[str, float]:
    names = ("total_volume", "total_scalar_curvature")
    return {name: float(done[name]) for name in names if name in done}


def accuracy_of(text: str) -> Any:
    return int(text) if text.isdigit() else text


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(required=True)
    task = tasks.add_parser("render", help="render a manifold on its grid")
    task.set_defaults(run=render, task="render")
    task.add_argument("out", type=Path, help="NAME.npy; NAME.json is written beside it")
    task.add_argument("--dataset", choices=("sprite", "torus", "warped-torus"), default="sprite")
    task.add_argument("--shape", default="ellipse", help="shape of a sprite")
    task.add_argument("--layout", default="balanced", help="layout of a sprite")
    task.add_argument("--samples", type=int, help="samples on every axis, instead of the layout's")
    task.add_argument("--batch-size", type=int, default=512)
    task.add_argument("--x64", action="store_true", help="float64")
    for name, run, note in (
        ("stencil", stencil, "all measures from stored points"),
        ("exact", exact, "all measures by autodiff"),
        ("measure", measure, "measure() with error bars"),
    ):
        task = tasks.add_parser(name, help=note)
        task.set_defaults(run=run, task=name)
        task.add_argument("lattice", type=Path, help="NAME.npy with its NAME.json beside it")
        task.add_argument("--accuracy", type=accuracy_of, default=4)
        task.add_argument("--block-size", type=int, help="points differentiated at once, stencils")
        task.add_argument("--batch-size", type=int, help="points differentiated at once, autodiff")
        task.add_argument("--input", choices=("memory", "mmap", "device"), default="memory")
        task.add_argument("--eager", action="store_true", help="do not wrap the Gram matrices in jit")
        task.add_argument(
            "--jit",
            choices=("together", "each"),
            default="together",
            help="one jitted function for all measures of the Gram matrices, or one for each of them",
        )
        task.add_argument("--warm", action=argparse.BooleanOptionalAction, default=True)
        task.add_argument("--save", type=Path, help="folder for the scalar fields, .npy")
        task.add_argument("--x64", action="store_true", help="float64")
    return parser.parse_args()


def run_task(options: argparse.Namespace, **facts: Any) -> None:
    """Run the chosen task in this process and print its record, with what else is known of the process."""
    common.volunteer_for_the_oom_killer()
    jax.config.update("jax_enable_x64", options.x64)
    device = jax.devices()[0]
    facts |= {
        "side": "ours",
        "versions": {"manifold_jax": version("manifold_jax"), "jax": jax.__version__},
        "device": f"{device.platform} {device.device_kind}",
        "start_load_average": common.machine()["load_average"][0],
    }
    try:
        record = options.run(options)
    except (RuntimeError, MemoryError, ValueError, AttributeError, ImportError) as error:
        record = {"task": options.task, "error": f"{type(error).__name__}: {error}"}
    common.report(facts | record)


if __name__ == "__main__":
    run_task(arguments(), import_seconds=IMPORT_SECONDS)
