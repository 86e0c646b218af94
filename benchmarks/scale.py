"""How time and memory grow with the points, the workers and the devices, and grids that no memory holds.

    python benchmarks/scale.py --work FOLDER points workers devices traffic outofcore

points: ``measure`` of sprites of 32 x 32 pixels on 6^4 to 32^4 points, exactly, by stencils of the function
and by those of a Zarr store; seconds of the first call, with compilation, and peak memory of the process. The
exponent is that of the CPU seconds of the blocks since the grid before: those between the first result and
the last, so that neither imports nor compilation count.
workers: the same work on processes of Dask that are bound to one core each, so that every one has one thread
of XLA. ``start`` is from launching them until all have imported the package; ``first result`` from the call
until the first block is back, in the first call, for which every worker compiles, and in the second (warm).
``ms a block`` is that of one worker in the second call, between the result that fills all workers and the one
after which they run dry; ``alone`` that of as many processes at once, bound to the same cores, which measure
without an executor; ``overhead`` is what the executor costs of the work. Dask itself spends some milliseconds
on a task, whatever it does, so blocks are as long as those of longer jobs at least. CPU times are those of a
block too: of all workers, of this process, which hands blocks over and has the scheduler, and of one alone.
devices: the same points cut over 1 to 8 simulated devices, which share the cores of this machine: what the
cutting costs, in CPU seconds above all. The first call compiles, the second is warm.
traffic: what a block sends and takes, and the CPU time of the process that hands it over beside that of the
work, between the first block and the last: from them follows how many workers a process can keep busy.
outofcore: 16^5 points (aspect, scale, orientation, y, x) exactly and by stencils of the function, and by
stencils of a Zarr store of --pixels^2 pixels, under a limit of the address space (``ulimit -v``).

Every measurement is a process of its own. Writes results/scale.md and .json; of what was there, rows stay
whose settings were not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common
from command_results import origin_words, table

SIZES = (6, 10, 18, 32)  # the first is one block of stencils, which has no exponent
COUNTS = (1, 2, 4)
DEVICES = (1, 2, 4, 8)
SHARED = {"exact": 18, "stencils": 14}  # samples of every axis that workers share: blocks of 0.2 to 0.3 s
PLANE = 256  # samples of both axes that are cut over devices
AXES = ("scale", "orientation", "y", "x")
RANGES = {"aspect": (0.8, 1.25), "scale": (0.7, 1.0), "y": (13.0, 18.0), "x": (13.0, 18.0)}
KEYS = ("how", "points", "pixels", "workers", "devices")  # what tells the rows of a group apart
GROUPS = {
    "points": (
        "points",
        "how",
        "bytes of the points",
        "seconds",
        "CPU s of the blocks",
        "peak MiB",
        "exponent",
    ),
    "workers": (
        "workers",
        "points",
        "how",
        "blocks",
        "start, s",
        "first result cold, s",
        "warm, s",
        "seconds, warm",
        "ms a block",
        "alone, ms",
        "overhead, %",
        "CPU ms of a worker",
        "of the parent",
        "alone, CPU ms",
        "CPU overhead, %",
    ),
    "devices": ("devices", "points", "how", "seconds cold", "seconds warm", "CPU s warm", "peak MiB"),
    "traffic": (
        "points",
        "how",
        "blocks",
        "kB out",
        "kB back",
        "ms of work",
        "ms of the parent",
        "workers that it feeds",
        "workers on 10 Gbit/s",
    ),
    "outofcore": ("points", "pixels", "how", "GB if stored", "limit GiB", "seconds", "peak MiB", "volume"),
}


class Clock:
    """The moments at which results come back: a progress of ``measure``."""

    def __init__(self) -> None:
        self.began, self.seen, self.cpu = time.perf_counter(), list[float](), list[float]()

    def __call__(self, _done: int, _size: int) -> None:
        """A result is back."""
        self.seen.append(time.perf_counter())
        self.cpu.append(time.process_time())

    @property
    def blocks(self) -> int:
        """Results that came back."""
        return len(self.seen)

    @property
    def first(self) -> float:
        """Seconds until the first result."""
        return self.seen[0] - self.began

    def ms(self, workers: int = 1) -> float:
        """Milliseconds of a block while all of so many workers are busy."""
        return (
            1000 * workers * (self.seen[-workers - 1] - self.seen[workers - 1]) / (self.blocks - 2 * workers)
        )

    def cpu_ms(self) -> float:
        """Milliseconds of CPU time of this process for a block, between the first result and the last."""
        return 1000 * (self.cpu[-1] - self.cpu[0]) / (self.blocks - 1)


def place(samples: int, pixels: int, axes: tuple[str, ...] = AXES) -> Any:
    """Sprites on a lattice of so many samples of every axis."""
    import manifold_jax as mj

    ranges = {name: ends for name, ends in RANGES.items() if name in axes}
    options = {"size": pixels, "factors": axes, "sizes": dict.fromkeys(axes, samples), "ranges": ranges}
    return mj.datasets.sprite("ellipse", layout="balanced", **options)


def images(manifold: Any, part: slice = slice(None)) -> np.ndarray:
    """The images of a manifold, or of a part along the first axis."""
    import jax

    coordinates = np.asarray(manifold.grid.coordinates()[part], np.float32)
    render = jax.jit(lambda u: jax.lax.map(manifold.embedding, u, batch_size=256))
    points = np.asarray(render(coordinates.reshape(-1, manifold.grid.ndim)))
    return points.reshape(*coordinates.shape[:-1], *manifold.feature_shape)


def store(path: Path, manifold: Any) -> Any:
    """A Zarr store of all images, written a slab at a time; the one that is there already."""
    import zarr

    shape, pixels = manifold.grid.shape, manifold.feature_shape
    if path.exists():
        return zarr.open(path, mode="r")
    aside = path.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    # Features are read some at a time, all samples of most axes at once.
    chunks = (2, *shape[1:], 1, pixels[1])
    array = zarr.open(aside, mode="w", shape=(*shape, *pixels), chunks=chunks, dtype="f4")
    for start in range(0, shape[0], 2):
        array[start : start + 2] = images(manifold, slice(start, start + 2))
    aside.rename(path)
    return zarr.open(path, mode="r")


def worker(task: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    if task.get("limit GiB"):
        resource.setrlimit(resource.RLIMIT_AS, (int(task["limit GiB"] * 2**30),) * 2)
    return globals()[f"{task['group']}_worker"](task)


def outofcore_worker(task: dict[str, Any]) -> dict[str, Any]:
    """Sprites from the function or the store."""
    import jax

    import manifold_jax as mj

    axes = ("aspect", *AXES) if task["group"] == "outofcore" else AXES
    manifold = place(task["samples"], task["pixels"], axes)
    source, options = manifold, {"exact": task["how"] == "exact"}
    if task["how"] == "zarr":
        source = store(Path(task["store"]), manifold)
    clock = Clock()
    measured = mj.measure(source, manifold.grid, progress=clock, **options)
    jax.block_until_ready(measured)
    kept = {"seconds": time.perf_counter() - clock.began, "peak MiB": common.peak_rss() / 2**20}
    bytes_held = 4 * manifold.grid.size * math.prod(manifold.feature_shape)
    volume = f"{float(measured.total_volume.value):.6g} +- {float(measured.total_volume.error):.2g}"
    return kept | {
        "points": manifold.grid.size,
        "bytes of the points": float(bytes_held),
        "CPU s of the blocks": clock.cpu_ms() * clock.blocks / 1000 if clock.blocks > 1 else None,
        "GB if stored": bytes_held / 1e9,
        "volume": volume,
    }


points_worker = outofcore_worker


def workers_worker(task: dict[str, Any]) -> dict[str, Any]:
    """The work of workers without an executor."""
    import manifold_jax as mj

    clock = Clock()
    mj.measure(place(task["samples"], 32), exact=task["how"] == "exact", progress=clock)
    return {"ms": clock.ms(), "cpu": clock.cpu_ms()}


def devices_worker(task: dict[str, Any]) -> dict[str, Any]:
    """Stencils of an array that is cut over so many devices, 0 for an array on one."""
    import jax

    import manifold_jax as mj

    manifold = place(task["samples"], 32, ("y", "x"))
    sampled = jax.numpy.asarray(images(manifold))
    if task["devices"]:
        across = 2 if task["devices"] > 2 else 1
        mesh = jax.make_mesh((task["devices"] // across, across), ("a", "b"))
        spec = jax.sharding.PartitionSpec("a", "b")
        sampled = jax.device_put(sampled, jax.sharding.NamedSharding(mesh, spec))
    seconds, cpu = [], []
    for _ in range(2):
        began, spent = time.perf_counter(), time.process_time()
        jax.block_until_ready(mj.measure(sampled, manifold.grid))
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    kept = {"points": manifold.grid.size, "seconds cold": seconds[0], "seconds warm": seconds[1]}
    return kept | {"CPU s warm": cpu[1], "peak MiB": common.peak_rss() / 2**20}


def begin(task: dict[str, Any], core: int | None = None, flags: str = "") -> subprocess.Popen[str]:
    """The process of a task, perhaps bound to one core."""
    command = [*bound(core), sys.executable, __file__, "--task", json.dumps(task)]
    environment = os.environ | ({"XLA_FLAGS": flags} if flags else {})
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def bound(core: int | None) -> list[str]:
    """What binds a command to one of the cores, by their number, however many there are."""
    cores = sorted(os.sched_getaffinity(0))
    return [] if core is None else ["taskset", "-c", str(cores[core % len(cores)])]


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the process of a task measured."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"A measurement failed: {process.args}")
    return json.loads(output.splitlines()[-1])


def run_worker(task: dict[str, Any], flags: str = "") -> dict[str, Any]:
    """The row of a task."""
    row = task | result(begin(task, flags=flags))
    print({name: row[name] for name in row if name != "store"}, flush=True)
    return row


def points(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of growing grids."""
    for how in options.how:
        for samples in options.sizes:
            task = {"group": "points", "how": how, "samples": samples, "pixels": 32}
            task["store"] = str(options.work / f"sprites-{samples}-32.zarr")
            if how == "zarr":  # made here, so that its memory does not count
                store(Path(task["store"]), place(samples, 32))
            yield run_worker(task)


def with_exponents(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows by how and points, with the exponent of the CPU seconds since the grid before."""
    for before, row in zip([{}, *rows], rows, strict=False):
        spent = [r.get("CPU s of the blocks") for r in (before, row)]
        known = before.get("how") == row["how"] and all(spent)
        growth = math.log(row["points"] / before["points"]) if known else math.nan
        yield row | {"exponent": math.log(spent[1] / spent[0]) / growth if known else None}


def imported() -> None:
    """A task for which a worker imports the package."""
    import manifold_jax.geometry

    assert manifold_jax.geometry


def workers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the same work on several processes."""
    import distributed

    import manifold_jax as mj

    for how, count in itertools.product(sorted(set(options.how) & set(SHARED)), options.counts):
        task, manifold = {"group": "workers", "how": how, "samples": SHARED[how]}, place(SHARED[how], 32)
        alone = [result(process) for process in [begin(task, core) for core in range(count)]]
        alone, alone_cpu = (float(np.mean([kept[name] for kept in alone])) for name in ("ms", "cpu"))
        settings = {"n_workers": 0, "dashboard_address": None}
        with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
            began = time.perf_counter()
            address, one = cluster.scheduler_address, ("--nthreads", "1", "--no-nanny", "--no-dashboard")
            command = [sys.executable, "-m", "distributed.cli.dask_worker", address, *one]
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            started = [subprocess.Popen([*bound(core), *command], **silent) for core in range(count)]
            try:
                client.wait_for_workers(count)
                client.run(imported)
                start, clocks = time.perf_counter() - began, []
                for _ in range(2):
                    spent = -sum(client.run(time.process_time).values())
                    clocks.append(Clock())
                    mj.measure(manifold, exact=how == "exact", executor=client, progress=clocks[-1])
                    spent += sum(client.run(time.process_time).values())
            finally:
                for process in started:
                    process.terminate()
                    process.wait()
        cold, warm = clocks
        row = {"workers": count, "points": manifold.grid.size, "how": how, "blocks": warm.blocks}
        row |= {"start, s": start, "first result cold, s": cold.first, "warm, s": warm.first}
        row |= {"seconds, warm": warm.seen[-1] - warm.began, "ms a block": warm.ms(count), "alone, ms": alone}
        row["overhead, %"] = 100 * (warm.ms(count) / alone - 1)
        work, parent = 1000 * spent / warm.blocks, warm.cpu_ms()
        row |= {"CPU ms of a worker": work, "of the parent": parent, "alone, CPU ms": alone_cpu}
        row["CPU overhead, %"] = 100 * ((work + parent) / alone_cpu - 1)
        print(row, flush=True)
        yield row


def devices(_options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the same points cut over devices."""
    for count in (0, *DEVICES):
        task = {"group": "devices", "how": "stencils", "samples": PLANE, "devices": count}
        flags = f"--xla_force_host_platform_device_count={count}" if count else ""
        yield run_worker(task, flags) | {"devices": count or "no mesh"}


class Weighed(Executor):
    """Does its tasks at once; weighs what would travel, and counts the time of the work."""

    _max_workers = 1  # what tasks share travels once

    def __init__(self) -> None:
        self.out, self.back, self.blocks, self.work = 0, 0, 0, 0.0
        self.moments: list[tuple[float, float]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
        """Weigh a task, do it, and weigh its result."""
        self.out += len(ForkingPickler.dumps((fn, args, kwargs)))
        began = time.process_time()
        result = fn(*args, **kwargs)
        self.work += time.process_time() - began
        self.moments.append((time.process_time(), self.work))
        self.back, self.blocks = self.back + len(ForkingPickler.dumps(result)), self.blocks + 1
        future: Future = Future()
        future.set_result(result)
        return future

    def between(self) -> tuple[float, float]:
        """CPU seconds of the work and of the rest for a block, between the third task and the last."""
        # The first two tell the version of the workers, and whether arguments arrive.
        (began, before), (ended, after) = self.moments[2], self.moments[-1]
        work, count = after - before, len(self.moments) - 3
        return work / count, (ended - began - work) / count


def traffic(_options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What travels with a block; the second call, whose programs are there."""
    import manifold_jax as mj

    for how, samples in SHARED.items():
        manifold = place(samples, 32)
        for _ in range(2):
            executor = Weighed()
            mj.measure(manifold, exact=how == "exact", executor=executor)
        (work, parent), blocks = executor.between(), executor.blocks - 2
        row: dict[str, Any] = {"points": manifold.grid.size, "how": how, "blocks": blocks}
        row |= {"kB out": executor.out / blocks / 1000, "kB back": executor.back / blocks / 1000}
        row |= {"ms of work": 1000 * work, "ms of the parent": 1000 * parent}
        row["workers that it feeds"] = work / parent
        row["workers on 10 Gbit/s"] = 1.25e9 * work * blocks / (executor.out + executor.back)
        print(row, flush=True)
        yield row


def outofcore(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of grids that are not stored, or do not fit the limit."""
    for how in options.how:
        pixels = options.pixels if how == "zarr" else options.pixels_function
        task = {"group": "outofcore", "how": how, "samples": options.samples, "pixels": pixels}
        task["store"] = str(options.work / f"sprites5-{options.samples}-{pixels}.zarr")
        if how == "zarr":
            store(Path(task["store"]), place(options.samples, pixels, ("aspect", *AXES)))
        yield run_worker(task | {"limit GiB": options.limit})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], default=[], help="what is measured")
    parser.add_argument("--work", type=Path, default=Path("runs/scale"), help="folder of the stores")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="samples of every axis")
    parser.add_argument("--counts", type=int, nargs="*", default=COUNTS, help="of workers")
    parser.add_argument("--samples", type=int, default=16, help="of every axis, out of core")
    parser.add_argument("--pixels", type=int, default=64, help="a side of the stored images, out of core")
    parser.add_argument("--pixels-function", type=int, default=64, help="of those that are not stored")
    parser.add_argument("--how", nargs="*", default=["exact", "stencils", "zarr"])
    parser.add_argument("--limit", type=float, default=8.0, help="GiB of address space, out of core")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(worker(json.loads(options.task))))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.out / "scale.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    for group in options.groups:
        for row in globals()[group](options):
            new = {name: row[name] for name in GROUPS[group] if name != "exponent"} | {
                "provenance": common.provenance()
            }
            key = [row.get(name) for name in KEYS if name in GROUPS[group]]
            others = (r for r in kept.get(group, []) if [r[n] for n in KEYS if n in GROUPS[group]] != key)
            kept[group] = [*others, new]
            common.write_json(file, kept)
    lines = ["# Scale", "", "By benchmarks/scale.py, which says what is measured.", ""]
    for group in filter(kept.get, GROUPS):
        rows = sorted(kept[group], key=lambda row: [str(row["how"]), row["points"]])
        rows = list(with_exponents(rows)) if group == "points" else rows
        lines += [f"## {group}", "", *table(GROUPS[group], rows, 3), ""]
        lines += [f"- {words}" for words in dict.fromkeys(origin_words(row["provenance"]) for row in rows)]
        lines += [""]
    (options.out / "scale.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
