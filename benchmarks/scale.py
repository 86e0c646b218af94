"""How time and memory grow with the points and the workers, and grids that no memory holds.

    python benchmarks/scale.py --work FOLDER points workers traffic outofcore

points: ``measure`` of sprites of 32 x 32 pixels on 6^4 to 32^4 points, exactly, by stencils of the function
and by those of a Zarr store; seconds of the first call, with compilation, and peak memory of the process; the
exponent is that of the seconds since the grid before.
workers: the same work on so many processes of Dask, warm; what a block costs more than in this process.
traffic: what a block sends and takes, and the CPU time of the process that hands it over beside that of the
work: from them follows how many workers a process can keep busy, on paper.
outofcore: 16^5 points (aspect, scale, orientation, y, x) exactly and by stencils of the function, and by
stencils of a Zarr store of --pixels^2 pixels, under a limit of the address space (``ulimit -v``).

Every measurement is a process of its own. Writes results/scale.md and .json.
"""

from __future__ import annotations

import argparse
import json
import math
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

SIZES = (6, 10, 18, 32)
AXES = ("scale", "orientation", "y", "x")
RANGES = {"aspect": (0.8, 1.25), "scale": (0.7, 1.0), "y": (13.0, 18.0), "x": (13.0, 18.0)}
GROUPS = {
    "points": ("points", "how", "bytes of the points", "seconds", "peak MiB", "exponent"),
    "workers": ("workers", "points", "how", "blocks", "seconds", "ms a block", "over this process"),
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


def place(samples: int, pixels: int, axes: tuple[str, ...] = AXES) -> Any:
    """Sprites on a lattice of so many samples of every axis."""
    import manifold_jax as mj

    ranges = {name: ends for name, ends in RANGES.items() if name in axes}
    options = {"size": pixels, "factors": axes, "sizes": dict.fromkeys(axes, samples), "ranges": ranges}
    return mj.datasets.sprite("ellipse", layout="balanced", **options)


def store(path: Path, manifold: Any) -> Any:
    """A Zarr store of all images, written a slab at a time; the one that is there already."""
    import jax
    import zarr

    shape, pixels = manifold.grid.shape, manifold.feature_shape
    if path.exists():
        return zarr.open(path, mode="r")
    aside = path.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    # Features are read some at a time, all samples of most axes at once.
    chunks = (2, *shape[1:], 1, pixels[1])
    array = zarr.open(aside, mode="w", shape=(*shape, *pixels), chunks=chunks, dtype="f4")
    render = jax.jit(lambda u: jax.lax.map(manifold.embedding, u, batch_size=256))
    coordinates = np.asarray(manifold.grid.coordinates(), np.float32)
    for start in range(0, shape[0], 2):
        slab = coordinates[start : start + 2]
        images = np.asarray(render(slab.reshape(-1, len(shape))))
        array[start : start + 2] = images.reshape(*slab.shape[:-1], *pixels)
    aside.rename(path)
    return zarr.open(path, mode="r")


def worker(task: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    if task.get("limit GiB"):
        resource.setrlimit(resource.RLIMIT_AS, (int(task["limit GiB"] * 2**30),) * 2)
    import jax

    import manifold_jax as mj

    axes = ("aspect", *AXES) if task["group"] == "outofcore" else AXES
    manifold = place(task["samples"], task["pixels"], axes)
    source, options = manifold, {"exact": task["how"] == "exact"}
    if task["how"] == "zarr":
        source = store(Path(task["store"]), manifold)
    began = time.perf_counter()
    measured = mj.measure(source, manifold.grid, **options)
    jax.block_until_ready(measured)
    kept = {"seconds": time.perf_counter() - began, "peak MiB": common.peak_rss() / 2**20}
    bytes_held = 4 * manifold.grid.size * math.prod(manifold.feature_shape)
    volume = f"{float(measured.total_volume.value):.6g} +- {float(measured.total_volume.error):.2g}"
    return kept | {
        "bytes of the points": float(bytes_held),
        "GB if stored": bytes_held / 1e9,
        "volume": volume,
    }


def run_worker(task: dict[str, Any]) -> dict[str, Any]:
    """The row of a task."""
    done = subprocess.run(
        [sys.executable, __file__, "--task", json.dumps(task)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{task}: {done.stderr[-2000:]}")
    axes = 5 if task["group"] == "outofcore" else 4
    row = task | {"points": task["samples"] ** axes} | json.loads(done.stdout.splitlines()[-1])
    print({name: row[name] for name in row if name != "store"}, flush=True)
    return row


def points(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of growing grids."""
    for how in options.how:
        before = None
        for samples in SIZES:
            task = {"group": "points", "how": how, "samples": samples, "pixels": 32}
            task["store"] = str(options.work / f"sprites-{samples}-32.zarr")
            if how == "zarr":  # made here, so that its memory does not count
                store(Path(task["store"]), place(samples, 32))
            row = run_worker(task) | {"exponent": None}
            if before:
                growth = row["points"] / before["points"]
                row["exponent"] = math.log(row["seconds"] / before["seconds"]) / math.log(growth)
            yield row
            before = row


def workers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of the same work on several processes."""
    import distributed

    import manifold_jax as mj

    manifold = place(14, 32)

    def timed(how: str, executor: Any = None) -> tuple[float, int]:
        """Seconds of the fastest call, and blocks."""
        seconds, blocks = [], 0
        for _ in range(options.repeats + 1):  # the first compiles
            done: list[int] = []
            began = time.perf_counter()
            progress = lambda *_, done=done: done.append(1)  # noqa: E731
            mj.measure(manifold, exact=how == "exact", executor=executor, progress=progress)
            seconds.append(time.perf_counter() - began)
            blocks = len(done)
        return min(seconds[1:]), blocks

    def row(count: Any, how: str, alone: float, seconds: float, blocks: int) -> dict[str, Any]:
        kept = {"workers": count, "points": manifold.grid.size, "how": how, "blocks": blocks}
        kept |= {"seconds": seconds, "ms a block": 1000 * seconds / blocks}
        print(kept, flush=True)
        return kept | {"over this process": seconds / alone - 1}

    for how in ("exact", "stencils"):
        alone, blocks = timed(how)
        yield row("this process", how, alone, alone, blocks)
        for count in (1, 2, 4):
            settings = {"n_workers": count, "threads_per_worker": 1, "dashboard_address": None}
            with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
                yield row(count, how, alone, *timed(how, client))


class Weighed(Executor):
    """Does its tasks at once; weighs what would travel, and counts the time of the work."""

    def __init__(self) -> None:
        self.out, self.back, self.blocks, self.work = 0, 0, 0, 0.0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future:
        """Weigh a task, do it, and weigh its result."""
        self.out += len(ForkingPickler.dumps((fn, args, kwargs)))
        began = time.process_time()
        result = fn(*args, **kwargs)
        self.work += time.process_time() - began
        self.back, self.blocks = self.back + len(ForkingPickler.dumps(result)), self.blocks + 1
        future: Future = Future()
        future.set_result(result)
        return future


def traffic(_options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What travels with a block; the second call, whose programs are there."""
    import manifold_jax as mj

    manifold = place(14, 32)
    for how in ("exact", "stencils"):
        mj.measure(manifold, exact=how == "exact", executor=Weighed())
        executor, began = Weighed(), time.process_time()
        mj.measure(manifold, exact=how == "exact", executor=executor)
        parent = time.process_time() - began - executor.work
        work, blocks = executor.work, executor.blocks
        row: dict[str, Any] = {"points": manifold.grid.size, "how": how, "blocks": blocks}
        row |= {"kB out": executor.out / blocks / 1000, "kB back": executor.back / blocks / 1000}
        row |= {"ms of work": 1000 * work / blocks, "ms of the parent": 1000 * parent / blocks}
        row["workers that it feeds"] = work / parent
        row["workers on 10 Gbit/s"] = 1.25e9 * work / (executor.out + executor.back)
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
    parser.add_argument("--repeats", type=int, default=3)
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
        rows: list[dict[str, Any]] = []
        for row in globals()[group](options):
            rows.append({name: row[name] for name in GROUPS[group]})
            kept[group] = {"rows": rows, "provenance": common.provenance()}
            common.write_json(file, kept)
    lines = ["# Scale", "", "By benchmarks/scale.py, which says what is measured.", ""]
    for group, part in kept.items():
        lines += [f"## {group}", "", origin_words(part["provenance"]), ""]
        lines += [*table(GROUPS[group], part["rows"], 3), ""]
    (options.out / "scale.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
