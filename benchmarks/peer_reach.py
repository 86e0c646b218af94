"""Reach: seconds and memory of manifold_jax beside its peer, manifold-microscope 0.2.0, on the same arrays.

    python benchmarks/peer_environment.py                        # once: the peer's own environment
    python benchmarks/peer_reach.py --cases torus-64             # a minute or two
    python benchmarks/peer_reach.py                              # all; the sprites take the peer longest
    python benchmarks/peer_reach.py --peer-share 0.1             # a part of the peer's queries, extrapolated
    python benchmarks/peer_reach.py --cases --full --samples 6   # only ours: the 4-D sprites, a small lattice
    python benchmarks/peer_reach.py --cases --full               # the same at full resolution, 65 536 images

Cases, float32: tori R = 2, r = 0.5 in R^3, also with the angles warped to u + 0.3 sin u; the flat torus T^3
in R^6; and the peer's own rasterised ellipse, 22 scales x 16 orientations x 22 heights of 64x64 pixels, where
the peer takes every second point. Each task has a fresh process, peer and ours in turn:

- ``peer``: its ``reach_per_point``. Its cost depends on its ``batch_size``, and where others use the cores
  its threads wait for each other: a few sizes are tried, with a thread per core and with one thread, and the
  fastest run counts. Its default size, 10, is listed beside it.
- ``pairs``: the same estimator by us, on the same points with the same tangents: equal answers.
- ``reach``: what our user calls, curvature (``measure``) and ``reach`` on the *whole* lattice, with
  curvature, bottlenecks and error bars. Its ``search`` is the part that follows the curvature.

Times that were extrapolated carry "~". Ours include compilation, except those called warm. Memory is the
peak of the process, less the input array, interpreter and libraries included; "added" is what the call
itself added. CPU seconds, of all threads, tell more than wall seconds where the machine is shared.

Cases and ``--full`` go to ``--out`` as JSON, each with machine, load at its start, versions and commit; what
an earlier run left there of other cases is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common
import peer_environment
from peer_measures import Side, portable, show

HERE = Path(__file__).resolve().parent
WORK = HERE / ".peer" / "work"
Record = dict[str, Any]

DEFAULT_BATCH = 10
"""The peer's own batch_size."""

BATCHES = {1: (10, 100, 1000, 4096), 2: (2, 10)}
"""Batch sizes of the peer that are tried, by stride: short points and images."""

TRIAL = {1: 0.1, 2: 0.03}
"""Part of the queries for a trial of the smallest of them, and of all for images."""


# --- the arrays -------------------------------------------------------------------------------------------


def surface(samples: int, warp: float) -> np.ndarray:
    """Torus of revolution, R = 2 and r = 0.5, ``(samples, samples, 3)``."""
    angle = 2 * math.pi * np.arange(samples) / samples
    u, v = np.meshgrid(*2 * [angle + warp * np.sin(angle)], indexing="ij")
    ring = 2 + 0.5 * np.cos(v)
    return np.stack([ring * np.cos(u), ring * np.sin(u), 0.5 * np.sin(v)], axis=-1)


def product_of_circles(samples: int) -> np.ndarray:
    """Flat torus T^3 of unit circles, ``(samples, samples, samples, 6)``."""
    angles = np.meshgrid(*3 * [2 * math.pi * np.arange(samples) / samples], indexing="ij")
    return np.stack([f(a) for a in angles for f in (np.cos, np.sin)], axis=-1)


ARRAYS: dict[str, Callable[[], np.ndarray]] = {
    "torus-64": lambda: surface(64, 0.0),
    "torus-128": lambda: surface(128, 0.0),
    "warped-torus-64": lambda: surface(64, 0.3),
    "flat-torus-16": lambda: product_of_circles(16),
}
KNOWN = {"torus-64": 0.5, "torus-128": 0.5, "warped-torus-64": 0.5, "flat-torus-16": 1.0}
CASES = (*ARRAYS, "sprites")


def prepare(case: str, peer: Side, options: argparse.Namespace) -> Path:
    """Store the array of a case."""
    array = options.work / f"reach-{case}.npy"
    options.work.mkdir(parents=True, exist_ok=True)
    if case == "sprites":
        record = peer.run("sprites", array, "--lattice", options.lattice, "--shape", options.shape)
        if "error" in record:
            raise SystemExit(f"The sprites could not be rendered: {record['error']}")
        return array
    points = ARRAYS[case]().astype(np.float32)
    np.save(array, points)
    axes = [
        {"name": f"angle_{k + 1}", "start": 0.0, "stop": 2 * math.pi, "size": n, "periodic": True}
        for k, n in enumerate(points.shape[:-1])
    ]
    common.write_json(common.spec_path(array), {"axes": axes, "source": {"made_by": case}})
    return array


# --- the turns --------------------------------------------------------------------------------------------


def query_count(array: Path, stride: int) -> int:
    """Points that the peer compares with each other."""
    axes = common.read_spec(array)["axes"]
    return math.prod(math.ceil((a["size"] - 2 * (not a["periodic"])) / stride) for a in axes)


def peer_runs(
    array: Path, stride: int, field: Path, peer: Side, options: argparse.Namespace
) -> tuple[Record, Record, list[Record]]:
    """The fastest run of a few batch sizes and threads, on all queries; the default size; every trial."""
    queries, cores = query_count(array, stride), common.machine()["cores"]
    common_part = ["measure", array, "--measure", "reach_per_point", "--save", field]
    common_part += ["--reach-stride", stride] if stride > 1 else []

    def of(batch: int, threads: int, share: float) -> Record:
        part = [] if share >= 1 else ["--max-patches", max(2, math.ceil(share * queries / batch))]
        return peer.run(*common_part, "--reach-batch", batch, "--threads", threads, *part)

    # The first seconds of a process mislead, so short points are tried on all queries.
    trials = [
        of(batch, threads, 1.0 if stride == 1 and batch > DEFAULT_BATCH else TRIAL[stride])
        for batch in BATCHES[stride]
        for threads in {1: (1,)}.get(cores, (cores, 1))
    ]
    timed = sorted((r for r in trials if "seconds" in r), key=lambda record: record["seconds"])
    if not timed:
        return trials[0], trials[0], trials
    again = of(timed[0]["batch_size"], timed[0]["threads"], options.peer_share)
    whole = [r for r in (again, *timed) if "seconds" in r and not r["extrapolated"]]
    chosen = min(whole or [again], key=lambda record: record["seconds"])
    default = next((r for r in timed if r["batch_size"] == DEFAULT_BATCH), timed[0])
    return chosen, default, trials


def run_case(case: str, peer: Side, ours: Side, options: argparse.Namespace) -> Record:
    """All tasks of one case."""
    array = prepare(case, peer, options)
    stride = 2 if case == "sprites" else 1
    fields = {name: options.work / f"reach-{case}-{name}.npz" for name in ("pairs", "reach")}
    fields["peer"] = options.work / f"reach-{case}-peer.npy"
    for stale in fields.values():
        stale.unlink(missing_ok=True)
    tile = ["--tile-size", options.tile_size] if options.tile_size else []
    chosen, default, trials = peer_runs(array, stride, fields["peer"], peer, options)
    tasks: dict[str, Record] = {"peer": chosen}
    for name in ("pairs", "reach"):
        tasks[name] = ours.run(name, array, "--stride", stride, "--save", fields[name], *tile)
    return {
        "case": case,
        "shape": list(np.load(array, mmap_mode="r").shape),
        "stride": stride,
        "known": KNOWN.get(case),
        "tasks": tasks,
        "peer_default": default,
        "peer_trials": trials,
        "agreement": agreement(array, stride, fields),
        "ratios": ratios(tasks),
    }


# --- answers and ratios -----------------------------------------------------------------------------------


def load_fields(stride: int, fields: dict[str, Path]) -> dict[str, np.ndarray]:
    """Pointwise radii at the peer's points, flat."""
    loaded = {}
    for name, path in fields.items():
        if path.exists() and path.suffix == ".npy":
            values = np.load(path)
            # The peer repeats the values of a subsampled lattice; undo that.
            loaded[name] = values[tuple(slice(None, None, stride) for _ in values.shape)].reshape(-1)
        elif path.exists():
            loaded[name] = np.load(path)["field"]
    return {name: values.astype(np.float64) for name, values in loaded.items()}


def agreement(array: Path, stride: int, fields: dict[str, Path]) -> Record:
    """Minima, and differences of our fields from the peer's."""
    values = load_fields(stride, fields)
    out: Record = {"minima": {name: float(np.nanmin(x)) for name, x in values.items()}}
    for name in ("pairs", "reach"):
        if name not in values or "peer" not in values:
            continue
        both = np.isfinite(values[name]) & np.isfinite(values["peer"])
        difference = np.abs(values[name] - values["peer"])[both]
        relative = difference / np.abs(values["peer"][both])
        out[f"{name} - peer"] = {
            "points": int(both.sum()),
            "left_out": int((~both).sum()),
            "median_difference": float(np.median(difference)),
            "median_relative": float(np.median(relative)),
            "largest_relative": float(relative.max(initial=0.0)),
        }
    if stride > 1 and fields["pairs"].exists():
        out["witness half a turn away"] = half_turn(array, stride, np.load(fields["pairs"])["witness"])
    return out


def half_turn(array: Path, stride: int, witness: np.ndarray) -> float:
    """Share of sprites whose witness is the same sprite half a turn further, its raster copy."""
    axes = common.read_spec(array)["axes"]
    shape = [math.ceil((a["size"] - 2 * (not a["periodic"])) / stride) for a in axes]
    here = np.stack(np.unravel_index(np.arange(len(witness)), shape))
    there = np.stack(np.unravel_index(np.maximum(witness, 0), shape))
    move = (there - here) % np.array(shape)[:, None]
    turned = np.array([n // 2 if a["periodic"] else 0 for a, n in zip(axes, shape, strict=True)])
    return float(np.mean((move == turned[:, None]).all(axis=0) & (witness >= 0)))


def ratios(tasks: dict[str, Record]) -> dict[str, float]:
    """The peer's cost over ours."""
    peer, out = tasks["peer"], {}
    if "seconds" not in peer:
        return out
    for name in ("pairs", "reach"):
        own = tasks[name]
        if "seconds" not in own:
            continue
        out[f"{name}, cold"] = peer["seconds"] / own["seconds"]
        out[f"{name}, CPU s cold"] = peer["cpu_seconds"] / own["cpu_seconds"]
        if "warm_seconds" in own:
            out[f"{name}, warm"] = peer["seconds"] / own["warm_seconds"]
            out[f"{name}, CPU s warm"] = peer["cpu_seconds"] / own["warm_cpu_seconds"]
        if name == "reach":
            out["search, cold"] = peer["seconds"] / own["steps"]["search"]
        if name == "reach" and "warm_steps" in own:
            out["search, warm"] = peer["seconds"] / own["warm_steps"]["search"]
        out[f"{name}, memory"] = peer["memory"]["above_input"] / own["memory"]["above_input"]
        out[f"{name}, memory added"] = peer["memory"]["above_start"] / own["memory"]["above_start"]
    return out


# --- the report -------------------------------------------------------------------------------------------

HEADER = ["case", "task", "s", "CPU s", "compiling", "s warm", "CPU s warm", "MiB", "added", "smallest"]


def line(case: str, task: str, record: Record, smallest: float | None) -> list[str]:
    if "seconds" not in record:
        return [case, task, "failed", *(len(HEADER) - 3) * [""]]
    mark, memory = "~" if record.get("extrapolated") else "", record["memory"]

    def number(name: str) -> str:
        return f"{record[name]:.2f}" if name in record else ""

    return [
        case,
        f"{task}, batch {record['batch_size']} x{record['threads']}" if "batch_size" in record else task,
        mark + number("seconds"),
        mark + number("cpu_seconds"),
        number("compile_seconds"),
        number("warm_seconds"),
        number("warm_cpu_seconds"),
        f"{memory['above_input'] / common.MIB:.0f}",
        f"{memory['above_start'] / common.MIB:.0f}",
        "" if smallest is None else f"{smallest:.6g}",
    ]


def case_lines(found: Record) -> list[list[str]]:
    case, minima = found["case"], found["agreement"]["minima"]
    lines = [line(case, "peer, default", found["peer_default"], None)]
    for name, record in found["tasks"].items():
        lines.append(line(case, name, record, minima.get(name)))
        for part in ("curvature", "search"):
            if name != "reach" or part not in record.get("steps", {}):
                continue
            cold, warm = record["steps"], record.get("warm_steps", {})
            cells = [f"{x:.2f}" for x in (cold[part], cold[f"{part}_cpu"])]
            again = [f"{warm[k]:.2f}" if k in warm else "" for k in (part, f"{part}_cpu")]
            lines.append([case, f"  of it {part}", *cells, "", *again, "", "", ""])
    return lines


def print_case(found: Record) -> None:
    """The tables of one case."""
    title = f"{found['case']}, {'x'.join(map(str, found['shape']))}, stride {found['stride']}"
    show(title, HEADER, case_lines(found))
    for name in ("pairs", "reach"):
        if "sentence" in found["tasks"][name]:
            own = found["tasks"][name]
            print(f"{name}: {own['sentence']} coincident {own['coincident']}, pruned {own['pruned']:.3f}")
        if f"{name} - peer" in found["agreement"]:
            d = found["agreement"][f"{name} - peer"]
            print(
                f"{name} - peer, pointwise: median {d['median_difference']:.2e} (relative "
                f"{d['median_relative']:.2e}), largest relative {d['largest_relative']:.2e}, at "
                f"{d['points']} points; {d['left_out']} left out as unreliable"
            )
    if "witness half a turn away" in found["agreement"]:
        print(f"nearest ball from the raster copy: {found['agreement']['witness half a turn away']:.0%}")
    show("Peer over ours", ["", "times"], [[name, f"{x:.2f}"] for name, x in found["ratios"].items()])
    for name, record in found["tasks"].items():
        if "error" in record:
            print(f"{name} failed: {record['error']}")


def print_full(record: Record) -> None:
    if "error" in record:
        print(f"4-D sprites failed: {record['error']}")
        return
    steps = record["steps"]
    print(
        f"4-D sprites {record['shape']}, exact tangents: curvature {steps['curvature']:.1f} s, search "
        f"{steps['search']:.1f} s (CPU {steps['curvature_cpu']:.1f} and {steps['search_cpu']:.1f} s), pruned "
        f"{record['pruned']:.4f}, peak {record['memory']['peak'] / common.MIB:.0f} MiB\n{record['sentence']}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cases", nargs="*", choices=CASES, default=CASES, metavar="CASE", help=f"from {CASES}")
    add("--shape", choices=("square", "ellipse", "heart"), default="ellipse", help="shape of the sprites")
    add("--lattice", default="22,16,22", help="the peer's sprites: scale, orientation, y sizes")
    add("--peer-share", type=float, default=1.0, help="part of the peer's queries, the rest extrapolated")
    add("--tile-size", type=int, help="centres per tile of ours")
    add("--full", action="store_true", help="our reach of the 4-D balanced sprites")
    add("--samples", type=int, help="--full: samples an axis, instead of 16")
    add("--platform", default="cpu", help="JAX platform of our side")
    add("--timeout", type=float, default=7200.0, help="seconds after which a task is stopped")
    add("--work", type=Path, default=WORK, help="folder for points and fields")
    add("--out", type=Path, default=HERE / "results" / "peer_reach.json", help="JSON result")
    add("--verbose", action="store_true", help="say what is being run")
    options = parser.parse_args()
    if not 0 < options.peer_share <= 1:
        parser.error("--peer-share is between 0 and 1")
    return options


def provenance(options: argparse.Namespace) -> Record:
    """When, where, on which commit and under which load a case starts."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": common.commit(HERE),
        "machine": common.machine(),
        "options": {name: portable(value) for name, value in vars(options).items()},
    }


def earlier(path: Path) -> Record:
    """Results of earlier runs, of which those not repeated are kept."""
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> None:
    options = arguments()
    result = {"cases": {}} | earlier(options.out)
    machine = common.machine()
    print(
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}, {common.commit(HERE)}"
    )
    ours = Side("ours", sys.executable, "ours_reach_worker.py", options)
    if options.cases:
        try:
            python = peer_environment.ensure()
        except peer_environment.EnvironmentFailure as failure:
            raise SystemExit(str(failure)) from None
        peer = Side("peer", python, "peer_worker.py", options)
    for case in options.cases:
        where = provenance(options)
        result["cases"][case] = where | run_case(case, peer, ours, options)
        print_case(result["cases"][case])
        common.write_json(options.out, result)
    if options.full:
        size = ["--samples", options.samples] if options.samples else []
        tile = ["--tile-size", options.tile_size] if options.tile_size else []
        where = provenance(options)
        found = ours.run("sprite", "--shape", options.shape, "--no-warm", *size, *tile)
        result["full"] = where | found
        print_full(result["full"])
        common.write_json(options.out, result)
    print(f"all figures: {options.out.name}")


if __name__ == "__main__":
    main()
