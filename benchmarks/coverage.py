"""Error bars against the truth: manifolds x orders x noise x dtype.

    python benchmarks/coverage.py --preset reduced
    python benchmarks/coverage.py --coil20 coil-20-proc.zip --before before/coverage_records.json.gz
    python benchmarks/coverage.py --noises none --out before        # under an earlier commit

Points of more than 40 manifolds are stored, disturbed and measured; the truth is automatic differentiation in
float64 on the same grid, for totals an integral over a much finer one. Gaussian noise is given per feature,
relative to the size of the manifold (largest distance from the mean); ``8 bits`` rounds to 256 levels over
the range of the values. COIL-20 is known through ``datasets.turntable`` only, which is its truth here. A row
is a group of manifolds at one order, noise and dtype (``coverage.json``); ``coverage_records.json.gz`` holds
the figures of every manifold. Those of a row are over all quantities and points at which the truth is finite:

- resolved: share of the points (and ``before``: that of an earlier commit, from its raw results);
- coverage: share of the resolved points whose error lies within the bar; and that of the worst quantity;
- bar / error: median over the resolved points;
- totals: how many of the resolved ones have their error within the bar.

A row misses if it has 100 resolved points or more and a quantity is covered below 99 %, or if bar / error is
above 30, or if a smooth row without noise resolves less than before.

What is known to miss: sharpness beside kinks and degenerate points, where a bar is as wide as the widest next
door, and of float32 at high order, where rounding counts as that of the largest point near by, of its
coordinates too. COIL-20 and the finest Fourier surface resolved more before, and 5 to 40 % of that falsely.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
import os
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peer_common as common
from coverage_cases import LATTICES, Case, Lattice, cases

import manifold_jax as mj
from manifold_jax.geometry.quantities import FIELDS, TOTALS

ORDERS = (2, 4, 6, 8, "spectral")
NOISES = ("none", "1e-06", "1e-05", "1e-04", "1e-03", "1e-02", "16 bits", "10 bits", "8 bits")
DTYPES = ("float32", "float64")
COVERAGE, SHARPNESS, ENOUGH = 0.99, 30.0, 100
SMOOTH = ("closed forms", "Fourier", "borders", "sprites", "COIL-20")
"""Groups whose resolved share without noise is compared with that of before."""

PRESETS: dict[str, dict[str, Any]] = {
    "full": {"orders": ORDERS, "noises": NOISES, "dtypes": DTYPES, "lattices": tuple(LATTICES)},
    "reduced": {
        "orders": (4, 8),
        "noises": ("none", "1e-05", "1e-03", "8 bits"),
        "dtypes": ("float32", "float64"),
        "lattices": ("closed curve", "torus 48", "patch 20"),
    },
}
COSTLY = {
    "4-torus": {"orders": (2, 4), "noises": ("none", "1e-05", "1e-03", "8 bits")},
    "scaled": {"orders": (4, 8), "noises": ("none", "1e-05")},
}
"""What is left of orders and noises where a single measurement takes seconds."""

BATCH = 256  # points of the truth computed by one call
FINE = {1: 4096, 2: 400, 3: 64, 4: 24}
"""Samples of every axis of the integral that is the truth of totals, by dimension."""

NODES = 8  # Gauss nodes of every panel of an open axis of that integral


@partial(jax.jit, static_argnames="bounds")
def _truth(embedding: Any, points: jax.Array, bounds: bool) -> tuple[jax.Array, ...]:
    gram = mj.gram_from_function(embedding, points)
    fields = tuple(getattr(mj, name)(gram) for name in FIELDS[:4])
    return (*fields, *mj.normal_curvature_bounds(gram)) if bounds else fields


def exact_fields(embedding: Any, coordinates: np.ndarray, bounds: bool) -> np.ndarray:
    """Quantities ``(4 or 6, n)`` by autodiff at points ``(n, d)``."""
    n = len(coordinates)
    padded = np.pad(coordinates, ((0, -n % BATCH), (0, 0)), mode="edge")
    parts = [_truth(embedding, jnp.asarray(p), bounds) for p in np.split(padded, len(padded) // BATCH)]
    return np.concatenate([np.stack(part) for part in parts], axis=1)[:, :n]


def fine_quadrature(where: Lattice, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes ``(n, d)`` and weights ``(n,)``: the trapezoid rule, or panels of Gauss-Legendre on open axes."""
    columns = []
    for periodic, length in zip(where.periodic, where.lengths, strict=True):
        nodes, weights = (np.arange(size) + 0.37) / size, np.full(size, 1 / size)
        if not periodic:
            x, w = np.polynomial.legendre.leggauss(NODES)
            panels = size // NODES
            nodes = (np.arange(panels)[:, None] + (1 + x) / 2).ravel() / panels
            weights = np.tile(w / 2, panels) / panels
        columns.append((length * nodes, length * weights))
    mesh = np.stack(np.meshgrid(*(c[0] for c in columns), indexing="ij"), axis=-1)
    product = 1.0
    for _, weights in columns:
        product = np.multiply.outer(product, weights)
    return mesh.reshape(-1, mesh.shape[-1]), np.ravel(product)


def truth_of(case: Case, where: Lattice, fine: int) -> dict[str, np.ndarray]:
    """Points, quantities and totals of a manifold, in float64."""
    embedding, grid = case.make(), where.grid
    coordinates = np.asarray(grid.coordinates(jnp.float64)).reshape(-1, grid.ndim)
    flat = jax.jit(lambda u: jax.lax.map(embedding, u, batch_size=BATCH))(jnp.asarray(coordinates))
    points = np.zeros((len(coordinates), where.features))
    points[:, : flat.shape[1]] = flat
    fields = exact_fields(embedding, coordinates, grid.ndim < 3)
    nodes, weights = fine_quadrature(where, fine)
    volume, curvature, *_ = exact_fields(embedding, nodes, grid.ndim < 3)
    positive, negative = np.maximum(curvature, 0), np.minimum(curvature, 0)
    totals = [weights @ (volume * part) for part in (1.0, curvature, positive, negative)]
    shape = (*where.sizes, where.features)
    return {"points": points.reshape(shape), "width": flat.shape[1], "fields": fields, "totals": totals}


def disturbed(points: np.ndarray, width: int, noise: str, seed: int) -> np.ndarray:
    """Points with the noise of that name in their features."""
    if noise == "none":
        return points
    used = points[..., :width]
    result = np.array(points)
    if noise.endswith("bits"):
        step = (used.max() - used.min()) / (2 ** int(noise.split()[0]) - 1)
        result[..., :width] = used.min() + step * np.round((used - used.min()) / step)
        return result
    flat = used.reshape(-1, width)
    size = np.linalg.norm(flat - flat.mean(0), axis=1).max()
    result[..., :width] += float(noise) * size * np.random.default_rng(seed).normal(size=used.shape)
    return result


def fields_record(geometry: mj.Geometry, truth: np.ndarray, eps: float) -> dict[str, Any]:
    """By quantity: points with a finite truth, resolved ones, covered ones, median and least bar / error."""
    norm, record = truth[3], {}
    for name, exact in zip(FIELDS, truth, strict=False):
        if name == "scalar_curvature" and geometry.grid.ndim == 1:  # 0 of every curve, exactly
            continue
        estimate = getattr(geometry, name)
        value, bar, resolved = (np.asarray(x).ravel() for x in estimate)
        value, bar = value.astype(float), bar.astype(float)
        known = np.isfinite(exact)
        resolved = resolved & known
        scale = {"volume_element": np.abs(exact), "scalar_curvature": norm**2}.get(name, norm)
        error = np.abs(value - exact)[resolved]
        # The truth is rounded too.
        least = eps * np.maximum(scale, np.abs(exact))[resolved]
        ratio = bar[resolved] / np.maximum(error, np.maximum(least, np.finfo(float).tiny))
        covered = error <= bar[resolved] + 64 * np.finfo(float).eps * least / eps
        record[name] = {
            "points": int(known.sum()),
            "resolved": int(resolved.sum()),
            "covered": int(covered.sum()),
            "ratio": float(np.median(ratio)) if len(ratio) else None,
            "least": float(ratio.min()) if len(ratio) else None,
        }
    return record


def totals_record(geometry: mj.Geometry, truth: np.ndarray) -> dict[str, Any]:
    """By total: value, bar, whether it is resolved, and its truth."""
    record = {}
    for name, exact in list(zip(TOTALS, truth, strict=True))[: None if geometry.grid.ndim > 1 else 1]:
        value, error, resolved = (np.asarray(x).item() for x in getattr(geometry, name))
        covered = abs(value - exact) <= error + 1e-12 * abs(exact)
        record[name] = {
            "value": value,
            "error": error,
            "resolved": resolved,
            "truth": float(exact),
            "covered": bool(covered),
        }
    return record


@cache
def _settled(coil20: str | None) -> dict[str, Case]:
    jax.config.update("jax_enable_x64", True)
    return {case.name: case for case in cases(coil20)}


def truth_path(name: str, folder: str) -> Path:
    return Path(folder) / f"{zlib.crc32(name.encode())}.npz"


def make_truth(name: str, folder: str, coil20: str | None) -> float:
    """Write the truth of one manifold; seconds that took."""
    start, case, path = time.perf_counter(), _settled(coil20)[name], truth_path(name, folder)
    if path.exists():
        return 0.0
    where = LATTICES[case.lattice]
    fine = FINE[len(where.sizes)] if where.features < 1000 else 96
    part = path.with_suffix(".part.npz")
    np.savez(part, **truth_of(case, where, fine))
    part.replace(path)
    return time.perf_counter() - start


def measure_all(
    names: list[str], order: Any, dtype: str, noises: list[str], folder: str, coil20: str | None
) -> tuple[list[dict[str, Any]], float]:
    """Records of manifolds on the same lattice: one program for all of them; and seconds."""
    start, known, records = time.perf_counter(), _settled(coil20), []
    for name in names:
        case = known[name]
        key = zlib.crc32(name.encode())
        truth = np.load(truth_path(name, folder))
        for k, noise in enumerate(noises):
            points = disturbed(truth["points"], int(truth["width"]), noise, key + k)
            points = jnp.asarray(points, dtype)
            begin = time.perf_counter()
            geometry = jax.block_until_ready(mj.measure(points, LATTICES[case.lattice].grid, accuracy=order))
            about = {"case": name, "group": case.group, "lattice": case.lattice}
            about |= {"order": str(order), "noise": noise, "dtype": dtype}
            about["seconds"] = round(time.perf_counter() - begin, 4)
            about["level"] = float(np.median(getattr(geometry, "noise", 0.0)))
            eps = float(np.finfo(dtype).eps)
            about["fields"] = fields_record(geometry, truth["fields"], eps)
            about["totals"] = totals_record(geometry, truth["totals"])
            records.append(about)
    return records, time.perf_counter() - start


def tasks(chosen: list[Case], options: argparse.Namespace) -> Iterator[tuple[list[str], Any, str, list[str]]]:
    """Arguments of :func:`measure_all`, the costly ones first."""
    lattices = defaultdict(list)
    for case in chosen:
        lattices[case.lattice].append(case.name)
    for where in reversed([name for name in LATTICES if name in lattices]):
        allowed = COSTLY.get(where, {})
        for order in options.orders:
            if order == "spectral" and not all(LATTICES[where].periodic):
                continue
            if order not in allowed.get("orders", ORDERS):
                continue
            noises = [noise for noise in options.noises if noise in allowed.get("noises", NOISES)]
            for dtype in options.dtypes if noises else ():
                yield lattices[where], order, dtype, noises


def run(chosen: list[Case], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All records, by ``--jobs`` processes."""
    records, begin = [], time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as own, ProcessPoolExecutor(options.jobs, context) as pool:
        folder = str(options.truth or own)
        costly_first = sorted(chosen, key=lambda case: -math.prod(LATTICES[case.lattice].sizes))
        truths = {pool.submit(make_truth, c.name, folder, options.coil20): c.name for c in costly_first}
        for done in as_completed(truths):
            note(f"truth of {truths[done]}: {done.result():.1f} s", begin)
        jobs = {
            pool.submit(measure_all, *task, folder, options.coil20): task for task in tasks(chosen, options)
        }
        for done in as_completed(jobs):
            part, seconds = done.result()
            records += part
            names, order, dtype, _ = jobs[done]
            note(
                f"{part[0]['lattice']}, {len(names)} manifolds, order {order}, {dtype}: {seconds:.1f} s",
                begin,
            )
    return records


def note(text: str, begin: float) -> None:
    print(f"{time.perf_counter() - begin:6.0f} s  {text}", flush=True)


def rows_of(records: list[dict[str, Any]], before: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """One row per group, order, noise and dtype."""

    def key(record: dict[str, Any]) -> tuple[str, ...]:
        return tuple(record[name] for name in ("group", "order", "noise", "dtype"))

    def share(parts: list[dict[str, Any]]) -> float:
        counts = [(q["resolved"], q["points"]) for part in parts for q in part["fields"].values()]
        return sum(r for r, _ in counts) / max(1, sum(p for _, p in counts))

    groups, earlier = defaultdict(list), defaultdict(list)
    cases_here = {record["case"] for record in records}
    for record in records:
        groups[key(record)].append(record)
    for record in before or []:
        if record["case"] in cases_here:
            earlier[key(record)].append(record)
    return [
        row_of(k, parts, share(parts), share(earlier[k]) if earlier[k] else None)
        for k, parts in groups.items()
    ]


def row_of(
    key: tuple[str, ...], parts: list[dict[str, Any]], share: float, before: float | None
) -> dict[str, Any]:
    """Figures of a row and why it misses."""
    fields = {name: [part["fields"][name] for part in parts if name in part["fields"]] for name in FIELDS}
    coverage = {}
    for name, rows in fields.items():
        resolved = sum(row["resolved"] for row in rows)
        if resolved >= ENOUGH:
            coverage[name] = sum(row["covered"] for row in rows) / resolved
    every = [row for rows in fields.values() for row in rows if row["resolved"]]
    resolved = sum(row["resolved"] for row in every)
    ratio = weighted_median([(row["ratio"], row["resolved"]) for row in every]) if every else None
    totals = [t for part in parts for t in part["totals"].values() if t["resolved"]]
    worst = min(coverage, key=coverage.get) if coverage else None
    misses = []
    if worst and coverage[worst] < COVERAGE:
        misses.append("coverage")
    if ratio is not None and resolved >= ENOUGH and ratio > SHARPNESS:
        misses.append("bar / error")
    if before is not None and key[0] in SMOOTH and share < before:
        misses.append("resolved")
    if any(not t["covered"] for t in totals):
        misses.append("totals")
    return {
        **dict(zip(("group", "order", "noise", "dtype"), key, strict=True)),
        "manifolds": len(parts),
        "resolved": share,
        "before": before,
        "coverage": sum(row["covered"] for row in every) / resolved if resolved else None,
        "worst": coverage[worst] if worst else None,
        "quantity": worst,
        "ratio": ratio,
        "totals": [sum(t["covered"] for t in totals), len(totals), sum(len(p["totals"]) for p in parts)],
        "misses": misses,
    }


def weighted_median(pairs: list[tuple[float, int]]) -> float:
    """Median of medians, each with the number of its points."""
    values, counts = zip(*sorted(pairs), strict=True)
    middle = np.searchsorted(np.cumsum(counts), sum(counts) / 2)
    return float(values[min(middle, len(values) - 1)])


def shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def percent(value: float | None) -> str:
    """A share; never rounded up to 100 %."""
    return "-" if value is None else f"{math.floor(1e4 * value) / 100:.2f} %"


def table(rows: list[dict[str, Any]]) -> list[str]:
    heads = ["group", "order", "noise", "dtype", "resolved", "before", "coverage", "worst quantity"]
    heads += ["bar / error", "totals", "misses"]
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|---:|---:|---:|---|---:|---:|---|"]
    for row in rows:
        cells = [row[name] for name in heads[:4]] + [percent(row[name]) for name in heads[4:7]]
        cells.append("-" if row["worst"] is None else f"{percent(row['worst'])} {row['quantity']}")
        cells.append(shown(row["ratio"], ".1f"))
        cells += ["{} of {} ({})".format(*row["totals"]), ", ".join(row["misses"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def markdown(result: dict[str, Any]) -> str:
    """Summary, rows that miss, all rows."""
    rows, records, origin = result["rows"], result["records"], result["provenance"]
    missing = [row for row in rows if row["misses"]]
    enough = [row for row in rows if row["worst"] is not None]
    totals = [t for record in records for t in record["totals"].values() if t["resolved"]]
    machine = origin["machine"]
    lines = [
        "# Coverage of the error bars",
        "",
        f"{len({r['case'] for r in records})} manifolds, {len(records)} measurements, preset "
        f"{result['preset']}, {result['seconds']:.0f} s.",
        "By benchmarks/coverage.py, which says what the columns are.",
        f"{machine['cpu']}, {machine['cores']} cores; {origin['device']}; jax {origin['versions']['jax']}; "
        f"{origin['commit']}; {origin['time']}. Before: {result['before'] or 'not given'}.",
        "",
        "| | rows |",
        "|---|---:|",
        f"| all | {len(rows)} |",
        f"| with {ENOUGH} resolved points or more | {len(enough)} |",
        f"| covered below {COVERAGE:.0%} in a quantity | {count(rows, 'coverage')} |",
        f"| bar / error above {SHARPNESS:g} | {count(rows, 'bar / error')} |",
        f"| resolved less than before | {count(rows, 'resolved')} |",
        f"| a resolved total outside of its bar | {count(rows, 'totals')} |",
        f"| resolved totals within their bars | {sum(t['covered'] for t in totals)} of {len(totals)} |",
        "",
        f"## Rows that miss ({len(missing)})",
        "",
        *table(missing),
        "",
        "## All rows",
        "",
        *table(rows),
    ]
    return "\n".join(lines) + "\n"


def count(rows: list[dict[str, Any]], miss: str) -> int:
    return sum(miss in row["misses"] for row in rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), default="full")
    parser.add_argument("--orders", nargs="+", type=lambda s: int(s) if s.isdigit() else s, choices=ORDERS)
    parser.add_argument("--noises", nargs="+", choices=NOISES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES)
    parser.add_argument("--lattices", nargs="+", choices=tuple(LATTICES))
    parser.add_argument("--cases", nargs="+", help="names of manifolds, all by default")
    parser.add_argument("--coil20", help="archive or folder of COIL-20; left out otherwise")
    parser.add_argument(
        "--before", type=Path, help="raw results of an earlier commit, beside its coverage.json"
    )
    parser.add_argument("--truth", type=Path, help="folder (it exists) where truths are kept for later runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    for name, value in PRESETS[options.preset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    options = arguments()
    start, origin = time.perf_counter(), common.provenance()
    chosen = [case for case in cases(options.coil20) if case.lattice in options.lattices]
    chosen = [case for case in chosen if not options.cases or case.name in options.cases]
    before = earlier = None
    if options.before:
        before = json.loads(gzip.decompress(options.before.read_bytes()))
        beside = json.loads((options.before.parent / "coverage.json").read_text())
        earlier = beside["provenance"]["commit"]
    records = run(chosen, options)
    position = {case.group: k for k, case in reversed(list(enumerate(cases(options.coil20))))}
    orders = [str(order) for order in ORDERS]
    records.sort(key=lambda r: (position[r["group"]], orders.index(r["order"]), NOISES.index(r["noise"])))
    rows, seconds = rows_of(records, before), time.perf_counter() - start
    result = {
        "preset": options.preset,
        "seconds": seconds,
        "provenance": origin,
        "before": earlier,
        "rows": rows,
    }
    common.write_json(options.out / "coverage.json", result)
    packed = gzip.compress(json.dumps(records).encode(), mtime=0)
    (options.out / "coverage_records.json.gz").write_bytes(packed)
    text = markdown(result | {"records": records})
    (options.out / "coverage.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
