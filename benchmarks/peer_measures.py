"""Seconds and memory of manifold_jax beside its peer, manifold-microscope 0.2.0, on the same arrays.

    python benchmarks/peer_environment.py                        # once: the peer's own environment
    python benchmarks/peer_measures.py --layout small            # a minute, 8 samples an axis: to try it
    python benchmarks/peer_measures.py --layout balanced         # the comparison: 16 samples an axis, 1.1 GB
    python benchmarks/peer_measures.py --layout peer             # the peer's own rasterised sprites
    python benchmarks/peer_measures.py --layout warped-torus     # accuracy on a closed form, float64

A lattice of points is rendered once to a ``.npy`` file. Then the two sides take turns on it, each task in a
fresh process, ``--repeats`` times over: the peer's ``volume_element`` and ``scalar_curvature``, our stencils
(all measures), our autodiff (all measures) and ``measure`` with error bars.

The peer's cost depends on its patch sizes by an order of magnitude. Its loader sets 10 on every axis; here a
few other choices are tried, on a few patches each, and the fastest is what our figures are compared with. The
loader's choice is timed as well, on a few patches, and extrapolated; extrapolated figures are marked "~".
Ours include compilation. Memory is the peak of the process less the input array, libraries included. CPU
seconds, of all threads, tell more than wall seconds where the machine is shared.

The table is printed; everything, with machine, versions and commit, goes to ``--out`` as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common
import peer_environment

HERE = Path(__file__).resolve().parent
WORK = HERE / ".peer" / "work"
MARGIN = {"volume_element": 1, "scalar_curvature": 3}
LAYOUTS = ("balanced", "small", "peer", "torus", "warped-torus")
SMALL = 8
"""Samples an axis of the small layout: the peer's scalar curvature needs 7 on an open axis."""

PATCH_MEMORY = 6
"""Bytes the peer holds at its peak for each byte of one patch, as seen at 12^4 points of 4096 features."""

Record = dict[str, Any]


class Side:
    """Starts the tasks of one side, each in a process of its own."""

    def __init__(self, name: str, python: Path | str, script: str, options: argparse.Namespace) -> None:
        self.name, self.python, self.script = name, str(python), str(HERE / script)
        self.timeout, self.verbose = options.timeout, options.verbose
        self.environment = os.environ | {"JAX_PLATFORMS": options.platform}

    def run(self, *arguments: Any) -> Record:
        """Run one task; a failure comes back as a record with an ``error``."""
        command = [self.python, self.script, *map(str, arguments)]
        say(f"{self.name}: {' '.join(command[2:])}", when=self.verbose)
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=self.timeout, env=self.environment
            )
        except subprocess.TimeoutExpired:
            return {"side": self.name, "error": f"stopped after {self.timeout} s"}
        lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
        if result.returncode or not lines:
            reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
            return {"side": self.name, "error": f"exit status {result.returncode}: {reason}"}
        record = json.loads(lines[-1]) | {"arguments": [portable(part) for part in command[2:]]}
        say(f"    {record.get('error') or seconds_of(record)}", when=self.verbose)
        return record


def portable(value: Any) -> str:
    """A value as text, without the folders of this machine."""
    path = Path(str(value))
    return path.name if path.is_absolute() else str(value)


def say(line: str, when: bool = True) -> None:
    if when:
        print(line, file=sys.stderr, flush=True)


def seconds_of(record: Record) -> str:
    return f"{'~' if record.get('extrapolated') else ''}{record['seconds']:.2f} s"


# --- the lattice ------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace, peer: Side, ours: Side) -> tuple[Path, Record]:
    """Render the lattice, or take the one that an earlier run left."""
    array = options.work / f"{options.label}.npy"
    if array.exists() and common.spec_path(array).exists() and not options.render:
        return array, {"reused": True}
    array.parent.mkdir(parents=True, exist_ok=True)
    common.spec_path(array).unlink(missing_ok=True)
    if options.layout == "peer":
        lattice = ",".join(map(str, options.lattice))
        record = peer.run("sprites", array, "--shape", options.shape, "--lattice", lattice)
    elif options.layout in ("torus", "warped-torus"):
        samples = options.samples or 64
        record = ours.run("render", array, "--dataset", options.layout, "--samples", samples, "--x64")
    else:
        samples = options.samples or (SMALL if options.layout == "small" else None)
        chosen = ["--samples", samples] if samples else []
        record = ours.run("render", array, "--shape", options.shape, "--layout", "balanced", *chosen)
    if "error" in record:
        raise SystemExit(f"The lattice could not be rendered: {record['error']}")
    return array, record


def read_through(array: Path) -> None:
    """Read the file once, so that both sides find it in the page cache."""
    with array.open("rb") as file:
        while file.read(1 << 24):
            pass


# --- the peer's patches -----------------------------------------------------------------------------------


def candidate_patches(spec: Record, measure: str, point_bytes: int, room: float) -> list[list[int]]:
    """Patch sizes worth a try, least recomputed overlap first, within ``room`` bytes.

    Each axis is cut into equal parts without remainder: where one axis leaves a remainder the peer pads every
    axis by one more patch.
    """
    margin, cyclic = MARGIN[measure], common.wrapping_axes(spec)
    sizes = [axis["size"] for axis in spec["axes"]]
    inner = [n if i in cyclic else n - 2 * margin for i, n in enumerate(sizes)]
    if min(inner) < 1:
        return []
    divisors = [[k for k in (1, 2, 3, 5, 7) if k == 1 or (n % k == 0 and n > k)] for n in inner]
    options = []
    for parts in itertools.product(*divisors):
        patch = [n // k + 2 * margin for n, k in zip(inner, parts, strict=True)]
        padded = math.prod(n + 2 * margin * (i in cyclic) for i, n in enumerate(sizes))
        need = point_bytes * (padded + PATCH_MEMORY * math.prod(patch))
        if need < room:
            options.append((math.prod(parts) * math.prod(patch), patch))
    return [patch for _, patch in sorted(options)]


def pick_patches(
    options: argparse.Namespace, peer: Side, array: Path, measure: str, input_bytes: int
) -> tuple[list[int] | None, Record | None, list[Record]]:
    """The fastest of a few patch sizes, the loader's choice, and every trial."""
    spec = common.read_spec(array)
    trial = ["measure", array, "--measure", measure, "--max-patches", 2, "--min-seconds", 1]
    default = peer.run(*trial)
    trials = [default]
    if options.patches == "default":
        return default.get("patch_sizes"), default, trials
    if options.patches != "best":
        return [int(p) for p in options.patches.split(",")], default, trials
    point_bytes = input_bytes // math.prod(axis["size"] for axis in spec["axes"])
    available = common.available_memory()
    room = math.inf if available is None else options.memory_share * available - input_bytes
    for patch in candidate_patches(spec, measure, point_bytes, room)[: options.trials]:
        trials.append(peer.run(*trial, "--patch-sizes", ",".join(map(str, patch))))
    timed = [record for record in trials if "seconds" in record]
    if not timed:
        return None, default, trials
    return min(timed, key=lambda record: record["seconds"])["patch_sizes"], default, trials


# --- the turns --------------------------------------------------------------------------------------------


def take_turns(
    options: argparse.Namespace, peer: Side, ours: Side, array: Path, patches: dict[str, list[int] | None]
) -> dict[str, list[Record]]:
    """Run peer and ours alternately and collect the records of each task."""
    spec = common.read_spec(array)
    x64 = ["--x64"] if np.load(array, mmap_mode="r").dtype == np.float64 else []
    has_embedding = "dataset" in spec.get("source", {})
    records: dict[str, list[Record]] = {}

    def peer_task(measure: str, repeat: int) -> Record:
        arguments = ["measure", array, "--measure", measure, "--input", options.input]
        arguments += ["--save", options.work / f"peer_{measure}.npy"] if repeat == 0 else []
        if patches[measure]:
            arguments += ["--patch-sizes", ",".join(map(str, patches[measure]))]
        return peer.run(*arguments, "--fraction", options.fraction)

    def our_task(task: str, repeat: int) -> Record:
        arguments = [task, array, "--accuracy", options.accuracy, "--input", options.input, *x64]
        arguments += ["--block-size", options.block_size] if options.block_size else []
        arguments += ["--batch-size", options.batch_size] if options.batch_size else []
        arguments += ["--save", options.work / f"ours_{task}"] if repeat == 0 else []
        return ours.run(*arguments, "--jit", options.jit, "--warm" if options.warm else "--no-warm")

    peers = [f"peer {measure}" for measure in options.measures if measure in MARGIN]
    own = [
        f"ours {task}"
        for task in ("stencil", "exact", "measure")
        if task in options.measures and (task != "exact" or has_embedding)
    ]
    order = [task for pair in itertools.zip_longest(peers, own) for task in pair if task]
    for repeat in range(options.repeats):
        for task in order:
            read_through(array)
            side, name = task.split(" ", 1)
            record = (peer_task if side == "peer" else our_task)(name, repeat)
            if "error" in record:
                say(f"{task}: {record['error']}")
            records.setdefault(task, []).append(record)
    return records


def best(records: list[Record]) -> Record | None:
    """The fastest successful run of a task."""
    timed = [record for record in records if "seconds" in record]
    return min(timed, key=lambda record: record["seconds"]) if timed else None


# --- accuracy ---------------------------------------------------------------------------------------------


def crop(field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The central part of a field of the whole lattice that a cropped field covers."""
    return field[tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(field.shape, shape, strict=True))]


def load_field(path: Path) -> np.ndarray | None:
    return np.load(path).astype(np.float64) if path.exists() else None


def accuracy(work: Path) -> dict[str, Record]:
    """Errors against autodiff: of the volume element relative, of the scalar curvature over |II|^2."""
    exact = {name: load_field(work / "ours_exact" / f"{name}.npy") for name in (*MARGIN, "second_form_norm")}
    table: dict[str, Record] = {}
    for measure in MARGIN:
        reference, scale = exact[measure], exact["second_form_norm"]
        peer = load_field(work / f"peer_{measure}.npy")
        ours = load_field(work / "ours_stencil" / f"{measure}.npy")
        if reference is None or scale is None:
            continue
        scale = np.abs(reference) if measure == "volume_element" else scale**2
        shape = peer.shape if peer is not None else reference.shape
        fields = {"peer": peer, "ours": ours}
        if peer is not None and ours is not None and peer.shape != ours.shape:
            fields["ours, where the peer has values"] = crop(ours, shape)
        for name, inside in fields.items():
            if inside is None:
                continue
            truth, unit = (x if x.shape == inside.shape else crop(x, shape) for x in (reference, scale))
            known = np.isfinite(inside) & np.isfinite(truth) & (unit > 0)
            error = np.abs(inside - truth)[known]
            if error.size:
                table[f"{measure}, {name}"] = {
                    "points": int(error.size),
                    "median_error_over_scale": float(np.median(error / unit[known])),
                    "max_error_over_max": float(error.max() / np.abs(truth[known]).max()),
                }
    return table


# --- the report -------------------------------------------------------------------------------------------


def ratios(chosen: dict[str, Record], defaults: dict[str, Record | None]) -> dict[str, float]:
    """The peer's cost over ours."""
    pair = [chosen.get(f"peer {measure}") for measure in MARGIN]
    out: dict[str, float] = {}
    if not all(pair):
        return out
    peer_seconds = sum(record["seconds"] for record in pair)
    peer_processor = sum(record["cpu_seconds"] for record in pair)
    peer_memory = max(record["memory"]["above_input"] for record in pair)
    usual = [defaults.get(measure) for measure in MARGIN]
    usual_seconds = sum(r["seconds"] for r in usual) if all(r and "seconds" in r for r in usual) else None
    for task in ("stencil", "exact", "measure"):
        ours = chosen.get(f"ours {task}")
        if not ours:
            continue
        out[f"seconds, peer's two / ours {task}"] = peer_seconds / ours["seconds"]
        if "warm_seconds" in ours:
            out[f"seconds, peer's two / ours {task} compiled"] = peer_seconds / ours["warm_seconds"]
        out[f"CPU seconds, peer's two / ours {task}"] = peer_processor / ours["cpu_seconds"]
        if usual_seconds is not None:
            out[f"seconds, peer's two with its loader's patches / ours {task}"] = (
                usual_seconds / ours["seconds"]
            )
        if task != "exact":
            out[f"memory, peer's larger / ours {task}"] = peer_memory / ours["memory"]["above_input"]
    return out


def rows(chosen: dict[str, Record], defaults: dict[str, Record | None]) -> list[list[str]]:
    """The lines of the table."""
    lines = []
    usual = {f"peer {measure}, loader's patches": record for measure, record in defaults.items() if record}
    for task, record in (usual | chosen).items():
        if "seconds" not in record:
            lines.append([task, "failed", *7 * [""]])
            continue
        memory, points = record["memory"], record.get("outputs") or 0
        whole = points if not record.get("extrapolated") else 0
        lines.append(
            [
                task,
                "x".join(map(str, record["patch_sizes"])) if record.get("patch_sizes") else "",
                f"{'~' if record.get('extrapolated') else ''}{record['seconds']:.2f}",
                f"{record['cpu_seconds']:.2f}",
                f"{record['compile_seconds']:.2f}" if "compile_seconds" in record else "",
                f"{record['warm_seconds']:.2f}" if "warm_seconds" in record else "",
                f"{memory['above_input'] / common.MIB:.0f}",
                f"{memory['above_start'] / common.MIB:.0f}",
                f"{1e6 * record['seconds'] / whole:.0f}" if whole else "",
            ]
        )
    return lines


HEADER = [
    "task",
    "patches",
    "s",
    "CPU s",
    "of it compiling",
    "s again",
    "MiB above input",
    "above start",
    "us/point",
]


def show(title: str, header: list[str], lines: list[list[str]]) -> None:
    """Print a table, with rich where it is installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
        print(f"\n{title}")
        for line in [header, *lines]:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
        return
    table = Table(title=title)
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for line in lines:
        table.add_row(*line)
    width = None if sys.stdout.isatty() else 140
    Console(width=width).print(table)


def report(result: Record, options: argparse.Namespace) -> None:
    """Print what was found and store it."""
    chosen, defaults = result["best"], result["loader"]
    machine = result["machine"]
    print(f"{machine['cpu']}, {machine['cores']} cores, commit {result['commit']}")
    title = f"{options.label}, {result['lattice']['shape']}, {options.input}"
    show(title, HEADER, rows(chosen, defaults))
    if result["accuracy"]:
        lines = [
            [name, str(a["points"]), f"{a['median_error_over_scale']:.2e}", f"{a['max_error_over_max']:.2e}"]
            for name, a in result["accuracy"].items()
        ]
        show("Errors against autodiff", ["field", "points", "median / scale", "max / max"], lines)
    show("Peer over ours", ["", "times"], [[name, f"{x:.2f}"] for name, x in result["ratios"].items()])
    for task, record in chosen.items():
        if "error" in record:
            print(f"{task} failed: {record['error']}")
        if record.get("report"):
            print(f"\n{task}\n{record['report']}")
    common.write_json(options.out, result)
    print(f"all figures: {options.out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*MARGIN, "stencil", "exact", "measure"]
    add = parser.add_argument
    add("--layout", choices=LAYOUTS, default="balanced", help="which points")
    add("--shape", choices=("square", "ellipse", "heart"), default="ellipse", help="shape of the sprite")
    add("--samples", type=int, help="samples on every axis, instead of the layout's")
    add("--lattice", default="10,16,10,10", help="--layout peer: scale, orientation, y, x sizes")
    add("--measures", nargs="+", choices=names, default=names, metavar="NAME", help=f"from {names}")
    add("--accuracy", default="4", help="order of our stencils")
    add("--input", choices=("memory", "mmap"), default="memory", help="how both sides get the points")
    add("--repeats", type=int, default=2, help="rounds; the fastest run of each task counts")
    add(
        "--fraction", type=float, default=1.0, help="part of the peer's patches to run, the rest extrapolated"
    )
    add("--patches", default="best", help="the peer's: best, default, or sizes such as 10,10,10,10")
    add("--trials", type=int, default=4, help="patch sizes tried beside the loader's")
    add(
        "--memory-share", type=float, default=0.7, help="part of the free memory a trial of the peer may need"
    )
    add("--block-size", type=int, help="points differentiated at once by our stencils")
    add("--batch-size", type=int, help="points differentiated at once by our autodiff")
    add("--jit", choices=("together", "each"), default="together", help="how our measures are jitted")
    add("--warm", action=argparse.BooleanOptionalAction, default=True, help="time a second pass of ours")
    add("--platform", default="cpu", help="JAX platform of our side")
    add("--timeout", type=float, default=3600.0, help="seconds after which a task is stopped")
    add("--render", action="store_true", help="render the points even if an earlier run left them")
    add("--work", type=Path, default=WORK, help="folder for points and fields")
    add("--out", type=Path, help="JSON result (default: in the work folder)")
    add("--verbose", action="store_true", help="say what is being run")
    options = parser.parse_args()
    options.lattice = [int(size) for size in options.lattice.split(",")]
    size = "x".join(map(str, options.lattice)) if options.layout == "peer" else options.samples
    shape = None if "torus" in options.layout else options.shape
    options.label = "-".join(str(part) for part in (options.layout, shape, size) if part)
    options.out = options.out or options.work / f"peer_measures-{options.label}.json"
    if not 0 < options.fraction <= 1:
        parser.error("--fraction is between 0 and 1")
    return options


def main() -> None:
    options = arguments()
    try:
        python = peer_environment.ensure()
    except peer_environment.EnvironmentFailure as failure:
        raise SystemExit(str(failure)) from None
    peer = Side("peer", python, "peer_worker.py", options)
    ours = Side("ours", sys.executable, "ours_worker.py", options)
    array, rendering = prepare(options, peer, ours)
    for stale in (*options.work.glob("peer_*.npy"), *options.work.glob("ours_*/*.npy")):
        stale.unlink()  # fields of an earlier run must not pass for this one's
    points = np.load(array, mmap_mode="r")
    patches: dict[str, list[int] | None] = {}
    loader: dict[str, Record | None] = {}
    trials: dict[str, list[Record]] = {}
    for measure in MARGIN:
        if measure in options.measures:
            found = pick_patches(options, peer, array, measure, points.nbytes)
            patches[measure], loader[measure], trials[measure] = found
    records = take_turns(options, peer, ours, array, patches)
    chosen = {task: best(runs) or runs[-1] for task, runs in records.items()}
    timed = {task: record for task, record in chosen.items() if "seconds" in record}
    result = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": common.commit(HERE),
        "machine": common.machine(),
        "options": {name: portable(value) for name, value in vars(options).items()},
        "lattice": {
            "file": array.name,
            "shape": list(points.shape),
            "bytes": points.nbytes,
            "rendering": rendering,
            **common.read_spec(array),
        },
        "best": chosen,
        "loader": loader,
        "trials": trials,
        "runs": records,
        "accuracy": accuracy(options.work),
        "ratios": ratios(timed, loader),
    }
    report(result, options)


if __name__ == "__main__":
    main()
