"""Fitting and neighbours: manifold_jax beside its peer, manifold-microscope 0.2.0, and scikit-learn.

    python benchmarks/peer_environment.py       # once: the peer's own environment
    python benchmarks/peer_fitting.py --reduced # a few minutes: to try it
    python benchmarks/peer_fitting.py           # tens of minutes, most of them the peer's

Three parts, ``--parts``:

- ``equal``: ``local_pca_projection`` with weights exp(-dist / 2 sigma^2) beside the peer's
  ``ANNMMLSProjector`` on the same samples: circle, sphere, torus, images of sprites. The largest difference,
  relative to the longest point, must be at most 1e-6 in float64. What float32 gives is listed.
- ``project``: seconds to project test images of 64 x 64 pixels, d = 4, float32, by the peer's two variants,
  by our local PCA of the same neighbours and weights, and by our moving least squares of degree 1, 2, 3.
- ``neighbours``: the k nearest of ``--neighbours`` images by our exact search, by the peer's (a q x n matrix
  of distances up to 10 000 queries, a graph of pynndescent beyond) and by scikit-learn's brute force.
  Neighbours found are compared with an exact float64 search for ``--check`` queries.

Each contestant has a process of its own, one after the other, on the same cores (``--threads``). Ours cold
and pynndescent cold include compilation; warm is a second pass, which the peer's projections, compiled ahead
of time, lack. Memory is private and sampled in the first pass: "MiB" is the whole process, "added" what the
pass added to a process that held its points. CPU seconds, of all threads, tell more than wall seconds where
the machine is shared. Times that were scaled from fewer queries carry "~". The tables go to ``--out`` as
Markdown, all figures beside it as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import peer_common as common
import peer_environment
from peer_measures import Side, portable, say, show

HERE = Path(__file__).resolve().parent
WORK = HERE / ".peer" / "work"
PARTS = ("equal", "project", "neighbours")
CASES = {"circle": (1, 6), "sphere": (2, 6), "torus": (2, 6), "images": (4, 32)}
"""Dimension and the peer's number of neighbours: 6 by default, 2 * 2^d for images."""

TOLERANCE = 1e-6
REDUCED = {"equal_samples": 500, "equal_queries": 40, "samples": [1000], "tests": 50, "batches": [32]}
REDUCED |= {"neighbours": 4096, "queries": [100], "descent_samples": 1024, "check": 8, "no_original": True}
OURS = ("pca", "mls-1", "mls-2", "mls-3")
EXACT = (("ours", "exact"), ("peer", "cdist"), ("scikit-learn", "brute"))

Record = dict[str, Any]


class Bench:
    """The two sides and the files of points."""

    def __init__(self, options: argparse.Namespace, python: Path) -> None:
        self.options = options
        self.ours = Side("ours", sys.executable, "ours_fitting_worker.py", options)
        self.peer = Side("peer", python, "peer_fitting_worker.py", options)
        self.records: list[Record] = []

    def run(self, task: str, points: tuple[str, str], variant: str, k: int, *extra: Any) -> Record:
        """One task in a process of its own, and what it found."""
        side = self.ours if variant in (*OURS, "exact") else self.peer
        save = self.options.work / "fitting-found.npz"
        save.unlink(missing_ok=True)
        files = [self.options.work / f"{name}.npy" for name in points]
        record = side.run(task, *files, "--variant", variant, "--neighbours", k, "--save", save, *extra)
        self.records.append(record)
        if "error" in record:
            say(f"{task}, {variant}: {record['error']}")
            return record | {"found": None}
        with np.load(save) as found:
            return record | {"found": dict(found)}


def prepare(bench: Bench) -> None:
    """Let our side render all points."""
    options = bench.options
    images = max(options.neighbours, *options.samples)
    sizes = {"images": images, "queries": max(options.tests, *options.queries)}
    sizes |= {"equal-samples": options.equal_samples, "equal-queries": options.equal_queries}
    chosen = [part for name, size in sizes.items() for part in (f"--{name}", size)]
    record = bench.ours.run("prepare", options.work, *chosen)
    if "error" in record:
        raise SystemExit(f"The points could not be made: {record['error']}")


# --- equal ------------------------------------------------------------------------------------------------


def difference(name: str, first: Record, second: Record, case: str, shape: Record) -> Record:
    """Largest distance of corresponding points over the longest of them."""
    a, b = (record["found"]["points"].astype(np.float64) for record in (first, second))
    apart = np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1).max()
    return {
        "case": case,
        "compared": name,
        **shape,
        "median": float(np.median(apart)),
        "largest": float(apart.max()),
        "above": int(np.sum(~(apart <= TOLERANCE))),
    }


def equal(bench: Bench) -> list[Record]:
    """Ours beside the peer's on the same samples, in both types."""
    rows = []
    for case, (dimension, k) in CASES.items():
        files = (f"equal-{case}-samples", f"equal-{case}-queries")
        extra = ["--dimension", dimension, "--no-warm"]
        variants = ("pca", "thin_svd") if case == "images" else ("pca", "thin_svd", "original")
        found = {
            (v, bits): bench.run("project", files, v, k, *extra, *(["--x64"] if bits == 64 else []))
            for v in variants
            for bits in (64, 32)
        }
        failed = [f"{v}, float{bits}" for (v, bits), record in found.items() if record["found"] is None]
        if failed:
            raise SystemExit(f"{case}: {', '.join(failed)} failed; there is nothing to compare.")
        points = found["pca", 64]["found"]["points"]
        shape = {"d": dimension, "f": points.shape[1], "k": k, "queries": len(points)}
        pairs = [
            (f"{v} - ours, float{bits}", (v, bits), ("pca", bits)) for bits in (64, 32) for v in variants[1:]
        ]
        pairs += [(f"{v} float32 - ours float64", (v, 32), ("pca", 64)) for v in variants]
        rows += [difference(name, found[a], found[b], case, shape) for name, a, b in pairs]
    return rows


def unequal(rows: list[Record]) -> list[Record]:
    """Comparisons in float64 that miss the tolerance."""
    return [row for row in rows if row["compared"].endswith("ours, float64") and row["above"]]


# --- project ----------------------------------------------------------------------------------------------


def root_mean_square(record: Record, queries: np.ndarray) -> float:
    """Distance of the test images to their projections; those that failed do not count."""
    apart = np.linalg.norm(record["found"]["points"].astype(np.float64) - queries, axis=1)
    return float(np.sqrt(np.nanmean(apart**2)))


def fastest_batch(bench: Bench, extra: list[Any]) -> int:
    """Queries at once with which the peer is fastest, on a few of them."""
    batches = bench.options.batches
    if len(batches) == 1:
        return batches[0]
    files, k = ("fitting-images", "fitting-queries"), CASES["images"][1]
    few = [*extra, "--tests", min(128, bench.options.tests), "--no-warm"]
    trials = {b: bench.run("project", files, "thin_svd", k, *few, "--batch", b) for b in batches}
    return min(batches, key=lambda b: trials[b].get("cpu_seconds", np.inf))


def project(bench: Bench) -> list[Record]:
    """Seconds of projecting test images."""
    options, rows = bench.options, []
    dimension, k = CASES["images"]
    files = ("fitting-images", "fitting-queries")
    queries = np.load(options.work / "fitting-queries.npy")[: options.tests]
    common_part = ["--dimension", dimension, "--first", options.samples[0]]
    batch = fastest_batch(bench, common_part)
    for count in options.samples:
        common_part[-1] = count
        tests = ["--tests", options.tests]
        variants = [(v, tests) for v in OURS]
        variants += [("thin_svd", [*tests, "--batch", batch, "--no-warm"])]
        if count == min(options.samples) and not options.no_original:
            variants += [("original", ["--tests", 1, "--total", options.tests, "--no-warm"])]
        for variant, extra in variants:
            record = bench.run("project", files, variant, k, *common_part, *extra)
            found = record.pop("found")
            group = f"{options.tests} images onto {count} samples"
            row = {"group": group, "variant": variant, **record}
            if found is not None and variant != "original":
                row["rms"] = root_mean_square({"found": found}, queries)
            rows.append(row | ({"batch": batch} if variant == "thin_svd" else {}))
    return rows


# --- neighbours -------------------------------------------------------------------------------------------


def exact(samples: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k nearest samples by differences in float64, tile by tile."""
    squares = np.empty((len(queries), len(samples)))
    queries = queries.astype(np.float64)
    for start in range(0, len(samples), 512):
        tile = samples[start : start + 512].astype(np.float64)
        for i, query in enumerate(queries):
            squares[i, start : start + 512] = np.sum((tile - query) ** 2, axis=1)
    return np.argsort(squares, axis=1)[:, :k]


def recall(found: np.ndarray, true: np.ndarray) -> float:
    """Share of the true neighbours that were found."""
    pairs = zip(found[: len(true)].tolist(), true.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def neighbours(bench: Bench) -> list[Record]:
    """Seconds and memory of the k nearest of many images."""
    options, rows, k = bench.options, [], CASES["images"][1]
    files = ("fitting-images", "fitting-queries")
    images, queries = (np.load(options.work / f"{name}.npy", mmap_mode="r") for name in files)
    runs = [(options.neighbours, count, *who) for count in options.queries for who in EXACT]
    if options.descent_samples:
        small, count = options.descent_samples, min(options.queries)
        runs += [(small, count, *who) for who in (("ours", "exact"), ("peer", "descent"))]
    truth = {n: exact(images[:n], queries[: options.check], k) for n in {run[0] for run in runs}}
    for n, count, side, variant in runs:
        extra = ["--first", n, "--tests", count]
        record = bench.run("neighbours", files, variant, k, *extra)
        found = record.pop("found")
        row = {"group": f"{count} queries, {n} samples", "variant": f"{side}, {variant}", **record}
        rows.append(row | ({} if found is None else {"recall": recall(found["indices"], truth[n])}))
    return rows


# --- the report -------------------------------------------------------------------------------------------

EQUAL = ["case", "compared", "d", "f", "k", "queries", "median", "largest", f"above {TOLERANCE:.0e}"]
TIMES = ["", "variant", "s cold", "compiling", "s warm", "CPU s cold", "CPU s warm", "MiB", "MiB added", ""]


def warm(record: Record, name: str = "seconds") -> float:
    """Of the second pass; of the first where there is none, as for what is not compiled."""
    return record.get(f"warm_{name}", record[name])


def time_lines(rows: list[Record]) -> list[list[str]]:
    """One line a contestant; what it found in the last column."""
    lines = []
    for row in rows:
        if "error" in row:
            lines.append([row["group"], row["variant"], f"failed: {row['error']}", *(len(TIMES) - 3) * [""]])
            continue
        mark = "~" if row["extrapolated"] else ""
        cells = [f"{mark}{row['seconds']:.2f}", f"{row.get('compile_seconds', 0.0):.2f}"]
        again = [f"{row[n]:.2f}" if n in row else "" for n in ("warm_seconds", "warm_cpu_seconds")]
        cells += [again[0], f"{mark}{row['cpu_seconds']:.2f}", again[1]]
        cells += [f"{row['memory'][name] / common.MIB:.0f}" for name in ("peak", "above_start")]
        notes = [f"rms {row['rms']:.3f}"] if "rms" in row else []
        notes += [f"{row['failed']} failed"] if row.get("failed") else []
        notes += [f"recall {row['recall']:.4f}"] if "recall" in row else []
        notes += [f"batches of {row['batch']}"] if "batch" in row else []
        lines.append([row["group"], row["variant"], *cells, ", ".join(notes)])
    return lines


def ratios(rows: list[Record], ours: str) -> list[Record]:
    """Cost of the others over ours, in each group."""
    out = []
    for row in rows:
        own = next(r for r in rows if r["group"] == row["group"] and r["variant"] == ours)
        if row["variant"].startswith(("pca", "mls", "ours")) or "error" in row or "error" in own:
            continue
        out.append(
            {
                "group": row["group"],
                "ratio": f"{row['variant']} / {ours}",
                "cold": row["seconds"] / own["seconds"],
                "warm": warm(row) / warm(own),
                "CPU cold": row["cpu_seconds"] / own["cpu_seconds"],
                "CPU warm": warm(row, "cpu_seconds") / warm(own, "cpu_seconds"),
                "peak": row["memory"]["peak"] / own["memory"]["peak"],
                "added": row["memory"]["above_start"] / max(own["memory"]["above_start"], 1),
            }
        )
    return out


def tables(result: Record) -> list[tuple[str, list[str], list[list[str]]]]:
    """Titles, headers and lines of what was run."""
    out = []
    if "equal" in result:
        lines = [
            [str(row[n]) for n in ("case", "compared", "d", "f", "k", "queries")]
            + [f"{row['median']:.1e}", f"{row['largest']:.1e}", str(row["above"])]
            for row in result["equal"]
        ]
        out.append(("Local PCA: differences relative to the longest point", EQUAL, lines))
    for part, title in (("project", "Projecting images, f = 4096"), ("neighbours", "Neighbours, f = 4096")):
        if part not in result:
            continue
        out.append((title, TIMES, time_lines(result[part])))
        lines = [
            [v if isinstance(v, str) else f"{v:.2f}" for v in row.values()] for row in result["ratios"][part]
        ]
        header = ["", "others over ours", "cold", "warm", "CPU cold", "CPU warm", "peak", "added"]
        out.append((f"{title}: ratios", header, lines))
    return out


def markdown(result: Record) -> str:
    """All tables, and where they come from."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    loads = result["loads"]
    shared = (
        f" Other jobs shared the cores (load {min(loads):.1f} to {max(loads):.1f} at the starts): wall "
        "seconds are pessimistic on all sides, CPU seconds are the ones to compare."
        if max(loads) > machine["cores"] + 1
        else ""
    )
    lines = [
        "# Fitting and neighbours beside manifold-microscope and scikit-learn",
        "",
        f"By benchmarks/peer_fitting.py on {machine['cpu']}, {result['options']['threads']} threads for "
        f"each, {result['device']}; {versions}; {result['commit']}; {result['made']}.{shared} MiB: the whole "
        'process in the first pass, points included. Times marked "~" were scaled from fewer queries. rms is '
        "the root mean square distance, in pixel values, of test images to their projections; "
        f"recall is beside an exact float64 search of {result['options']['check']} queries.",
    ]
    for title, header, rows in tables(result):
        align = "|".join("---" if i < 2 else "---:" for i in range(len(header)))
        lines += ["", f"{title}:", "", f"| {' | '.join(header)} |", f"|{align}|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def facts(records: list[Record]) -> Record:
    """Versions, device and loads, as the contestants report them."""
    timed = [record for record in records if "versions" in record]
    return {
        "versions": {name: v for record in timed for name, v in record["versions"].items()},
        "device": next((record["device"] for record in timed if "device" in record), "cpu"),
        "loads": [record["start_load_average"] for record in timed] or [os.getloadavg()[0]],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS, help="which")
    add("--equal-samples", type=int, default=2000, help="equal: samples of each case")
    add("--equal-queries", type=int, default=200, help="equal: points projected")
    add("--samples", type=int, nargs="+", default=[2000, 16000], help="project: numbers of samples")
    add("--tests", type=int, default=500, help="project: test images")
    add("--batches", type=int, nargs="+", default=[8, 32, 128], help="project: the peer's batches to try")
    add("--no-original", action="store_true", help="project: leave out the peer's f x f covariances")
    add("--neighbours", type=int, default=65536, help="neighbours: samples")
    add("--queries", type=int, nargs="+", default=[500, 2048], help="neighbours: numbers of queries")
    add("--descent-samples", type=int, default=8192, help="neighbours: samples of the peer's graph; 0: none")
    add("--check", type=int, default=32, help="neighbours: queries compared with float64")
    add("--threads", type=int, help="cores of every contestant (default: all)")
    add("--reduced", action="store_true", help="small sizes")
    add("--platform", default="cpu", help="JAX platform of our side")
    add("--timeout", type=float, default=3600.0, help="seconds after which a task is stopped")
    add("--work", type=Path, default=WORK, help="folder for points")
    add("--out", type=Path, help="Markdown (default: in the results folder, --reduced: in the work folder)")
    add("--verbose", action="store_true", help="say what is being run")
    options = parser.parse_args()
    if options.reduced:
        parser.set_defaults(**REDUCED)  # an option that is given wins
        options = parser.parse_args()
    options.out = options.out or (options.work if options.reduced else HERE / "results") / "peer_fitting.md"
    return options


def same_cores(options: argparse.Namespace) -> None:
    """Let every contestant see the same cores."""
    if options.threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    options.threads = common.machine()["cores"]
    for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)


def main() -> None:
    options = arguments()
    same_cores(options)
    try:
        python = peer_environment.ensure(also=("pynndescent",))
    except peer_environment.EnvironmentFailure as failure:
        raise SystemExit(str(failure)) from None
    bench, machine = Bench(options, python), common.machine()
    prepare(bench)
    run = {"equal": equal, "project": project, "neighbours": neighbours}
    result: Record = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": common.commit(HERE),
        "machine": machine,
        "options": {name: portable(value) for name, value in vars(options).items()},
        "ratios": {},
    }
    for part in options.parts:
        result[part] = run[part](bench)
        if part != "equal":
            result["ratios"][part] = ratios(result[part], {"project": "pca"}.get(part, "ours, exact"))
        result |= facts(bench.records)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        common.write_json(options.out.with_suffix(".json"), result)
        options.out.write_text(markdown(result))
    for title, header, lines in tables(result):
        show(title, header, lines)
    if unequal(result.get("equal", [])):
        raise SystemExit(f"Local PCA and the peer differ by more than {TOLERANCE:.0e}: see the first table.")


if __name__ == "__main__":
    main()
