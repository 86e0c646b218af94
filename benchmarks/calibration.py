"""Every built-in estimator against exact geometry: who is reliable where.

    python benchmarks/calibration.py                                  # all, n = 500 to 20 000
    python benchmarks/calibration.py --sizes 200 400 --seeds 1 --manifolds sphere2 torus

Samples are uniform by volume and free of noise. Errors are relative, as described in ``calibrate``. Beside
the estimators, on the same number of points: the grid (stencils of order 4 on a lattice of about n points,
against automatic differentiation at the same points) and the exact route (automatic differentiation at the
samples, against the closed form where there is one).

The tables are printed and written to ``calibration.md`` and ``calibration.json`` in ``--out``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import peer_common as common

from manifold_jax import Grid, Manifold, measure
from manifold_jax.datasets import hyperboloid, sphere, sprite, torus
from manifold_jax.fitting.calibration import calibrate
from manifold_jax.fitting.calibration_table import Calibration, Row, error_curves, ranking
from manifold_jax.fitting.estimators import Estimator, builtin_estimators
from manifold_jax.fitting.local_fits import CURVATURES

DIMENSIONS = ("TwoNN", "MLE", "lPCA", "CorrInt", "MOM", "TLE")
SLOW_DIMENSIONS = 5000
PLACES: dict[str, Callable[[], Manifold]] = {
    "sphere2": lambda: sphere(2),
    "sphere3": lambda: sphere(3),
    "torus": torus,
    "hyperboloid": hyperboloid,
    "sprite2": lambda: sprites({"y": 16, "x": 16}, {}),
    "sprite4": lambda: sprites(
        {"scale": 7, "orientation": 12, "y": 7, "x": 7},
        {"scale": (0.7, 1.0), "y": (13.0, 18.0), "x": (13.0, 18.0)},
    ),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 5000, 10000, 20000])
    parser.add_argument("--seeds", type=int, default=3, help="samples of each size")
    parser.add_argument("--manifolds", nargs="+", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--single", action="store_true", help="float32 instead of float64")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def sprites(sizes: dict[str, int], ranges: dict[str, tuple[float, float]]) -> Manifold:
    """Ellipses of 32 x 32 pixels, on the lattice on which their exact volume and reach are found."""
    made = sprite("ellipse", factors=tuple(sizes), size=32, layout="balanced", ranges=ranges, sizes=sizes)
    return replace(made, name=f"ellipse sprites, d = {len(sizes)}")


def estimators() -> tuple[Estimator, ...]:
    """All built-in ones; methods of intrinsic dimension that are slow stop early."""
    return tuple(
        replace(e, most=SLOW_DIMENSIONS) if e.measure == "dimension" and e.name not in ("TwoNN", "MLE") else e
        for e in builtin_estimators(dimensions=DIMENSIONS)
    )


def lattice(manifold: Manifold, count: int) -> Grid:
    """The grid of a manifold with about ``count`` points, as many along every axis."""
    size = max(6, round(count ** (1 / manifold.grid.ndim)))
    return Grid(tuple(replace(axis, size=size) for axis in manifold.grid.axes))


def by_grid(manifold: Manifold, sizes: list[int]) -> list[dict]:
    """Errors of the fields and of the volume on lattices, against automatic differentiation there."""
    rows = []
    for count in sizes:
        grid = lattice(manifold, count)
        measure(manifold, grid)
        began = time.perf_counter()
        found = jax.block_until_ready(measure(manifold, grid))
        seconds = time.perf_counter() - began
        exact = measure(manifold, grid, exact=True)
        weight = np.asarray(exact.volume_element.value)
        for name in (*CURVATURES, "total_volume"):
            mine, true = (np.asarray(getattr(g, name).value) for g in (found, exact))
            error, failed = relative(mine, true, weight if mine.ndim else np.ones(()))
            rows.append(
                {
                    "manifold": manifold.name,
                    "measure": name.removeprefix("total_"),
                    "estimator": "grid, order 4",
                    "size": grid.size,
                    "asked": count,
                    "rmse": error,
                    "failed": failed,
                    "seconds": seconds,
                }
            )
            print(f"  {manifold.name:26s} {name:18s} grid of {grid.size:6d}  {error:.2e}", flush=True)
    return rows


def relative(mine: np.ndarray, true: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """RMS error over RMS value, by volume, and the share of volume without a finite value."""
    good = np.isfinite(mine) & np.isfinite(true)
    defined = weight > 1e-9 * weight.max()  # poles count for nothing
    error = np.sum(weight[good] * (mine[good] - true[good]) ** 2) / np.sum(weight[good] * true[good] ** 2)
    return float(np.sqrt(error)), float(1 - np.sum(weight[good & defined]) / np.sum(weight[defined]))


def exact_route(manifold: Manifold, size: int) -> list[dict]:
    """Automatic differentiation at random points against the closed forms."""
    bare = replace(manifold, known={})
    if not all(name in manifold.known for name in CURVATURES):
        return []
    from manifold_jax.datasets import sample_uniform
    from manifold_jax.fitting.truth import exact_field

    coordinates = (sample_uniform(jax.random.key(0), manifold, size).coordinates,)
    rows = []
    for name in CURVATURES:
        true = exact_field((manifold,), coordinates, name)
        exact_field((bare,), coordinates, name)
        began = time.perf_counter()
        mine = exact_field((bare,), coordinates, name)
        seconds = time.perf_counter() - began
        error, failed = relative(mine, true, np.ones(len(true)))
        rows.append(
            {
                "manifold": manifold.name,
                "measure": name,
                "estimator": "exact (autodiff)",
                "size": size,
                "asked": size,
                "rmse": error,
                "failed": failed,
                "seconds": seconds,
            }
        )
    return rows


def told(row: Row) -> None:
    """One line of progress."""
    result = row.status or f"{row.rmse:.2e} bias {row.bias:+.1e} failed {row.failed:.1%} {row.seconds:.2f} s"
    head = f"  {row.manifold:26s} {row.measure:18s} {row.estimator:22s}"
    print(f"{head} n = {row.size:6d} seed {row.seed}  {result}", flush=True)


def error_table(calibration: Calibration, beside: list[dict], sizes: list[int]) -> list[str]:
    """One line per measure, manifold and method: RMS error at every size, slope, and seconds."""
    head = ["measure", "manifold", "method", *(f"n = {n}" for n in sizes), "slope", "seconds at the largest"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for curve in sorted(error_curves(calibration), key=lambda c: (c.measure, c.manifold)):
        same = (curve.measure, curve.manifold, curve.estimator)
        rows = [r for r in calibration.rows if (r.measure, r.manifold, r.estimator) == same]
        cells = {int(n): f"{e:.2g}" for n, e in zip(curve.sizes, curve.error, strict=True)}
        failed = {n: np.mean([r.failed for r in rows if r.size == n]) for n in cells}
        cells = {
            n: text + (f" ({failed[n]:.0%} failed)" if failed[n] > 0.005 else "") for n, text in cells.items()
        }
        seconds = [r.seconds for r in rows if len(curve.sizes) and r.size == curve.sizes[-1]]
        taken = f"{np.median(seconds):.2g}" if seconds else "-"
        entries = [*same, *(cells.get(n, "-") for n in sizes), f"{curve.slope:.2f}", taken]
        lines.append("| " + " | ".join(entries) + " |")
    names = list(dict.fromkeys((b["measure"], b["manifold"], b["estimator"]) for b in beside))
    for same in names:
        rows = [b for b in beside if (b["measure"], b["manifold"], b["estimator"]) == same]
        cells = {b["asked"]: f"{b['rmse']:.2g}" for b in rows}
        entries = [*same, *(cells.get(n, "-") for n in sizes), "-", f"{rows[-1]['seconds']:.2g}"]
        lines.append("| " + " | ".join(entries) + " |")
    return lines


def ranking_table(calibration: Calibration) -> list[str]:
    lines = ["| measure | manifold | method | mean rank | error at the largest n |", "| --- " * 5 + "|"]
    for r in ranking(calibration):
        lines.append(f"| {r.measure} | {r.manifold} | {r.estimator} | {r.rank:.2g} | {r.error:.2g} |")
    return lines


def main() -> None:
    options = parse()
    jax.config.update("jax_enable_x64", not options.single)
    places = [PLACES[name]() for name in options.manifolds]
    rows, beside, spent = [], [], {}
    for place in places:
        began = time.perf_counter()
        table = calibrate(
            estimators(),
            place,
            options.sizes,
            key=jax.random.key(0),
            seeds=range(options.seeds),
            on_error="record",
            progress=told,
        )
        rows.extend(table.rows)
        beside += by_grid(place, options.sizes)
        beside += exact_route(place, max(options.sizes))
        spent[place.name] = time.perf_counter() - began
    calibration = Calibration(tuple(rows))
    facts = common.provenance()
    kind = "float32" if options.single else "float64"
    words = f"{kind}, {facts['device']}, {os.cpu_count()} cores, jax {jax.__version__}, {facts['commit']}"
    lines = ["# Estimators from samples against exact geometry", "", f"{words}; {options.seeds} seed(s).", ""]
    lines += ["Relative RMS error, median over the seeds; seconds of one call after warm-up.", ""]
    lines += [*error_table(calibration, beside, options.sizes), "", "## Ranking", ""]
    lines += [*ranking_table(calibration), ""]
    print("\n".join(lines))
    options.out.mkdir(parents=True, exist_ok=True)
    common.write_json(
        options.out / "calibration.json",
        {"provenance": facts, "seconds": spent, "rows": calibration.to_dicts(), "beside": beside},
    )
    (options.out / "calibration.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
