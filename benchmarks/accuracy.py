"""Stencils against autodiff on every rendered dataset: errors, error bars, verdicts.

    python benchmarks/accuracy.py                                    # three sprites, balanced and dense
    python benchmarks/accuracy.py --datasets heart --layouts dense --points 2000
    python benchmarks/accuracy.py --datasets coil20:1 coil20:4 --data coil-20-proc.zip --samples 12

The stencil side is ``measure(manifold)``, in float32 unless ``--x64`` is given. The exact side is autodiff
in float64 at ``--points`` grid points drawn at random. ``--samples N`` keeps at most N consecutive samples of
every axis, at the layout's own spacing: stencils, bars and verdicts are those of a window of the lattice.

By measure: relative error (that of S relative to |II|^2), share of resolved points, coverage (share of the
resolved points whose true error lies within the bar), sharpness (median of bar / true error at resolved
points), and the axes that the verdict names. Results are merged by dataset, layout and dtype into
``accuracy.json``, from which ``accuracy.md`` is written anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import peer_common as common

import manifold_jax as mj
from manifold_jax import datasets
from manifold_jax.datasets.outlines import SHAPES
from manifold_jax.geometry.quantities import FIELDS

COVERAGE, SHARPNESS = 0.99, 30.0


def window(grid: mj.Grid, samples: int | None) -> mj.Grid:
    """At most ``samples`` consecutive samples of every axis, at the same spacing.

    A shortened periodic axis stays periodic but no longer wraps, so that its ghost layers are rendered.
    """
    axes = []
    for axis in grid.axes:
        if samples is not None and samples < axis.size:
            steps = samples if axis.periodic else samples - 1
            stop = axis.start + axis.spacing * steps
            axis = dataclasses.replace(axis, size=samples, stop=stop, wrap=not axis.periodic)
        axes.append(axis)
    return mj.Grid(tuple(axes))


def exact_fields(manifold: mj.Manifold, coordinates: np.ndarray) -> dict[str, np.ndarray]:
    """Every measure by autodiff in float64 at the given points."""
    with jax.enable_x64(True):

        @jax.jit
        def fields(u: jax.Array) -> dict[str, jax.Array]:
            gram = mj.gram_from_function(manifold.embedding, u)
            lower, upper = mj.normal_curvature_bounds(gram)
            found = {name: getattr(mj, name)(gram) for name in FIELDS[:4]}
            return found | {"normal_curvature": lower, "normal_curvature_upper": upper}

        points = jnp.asarray(coordinates, jnp.float64)
        return {name: np.asarray(value) for name, value in fields(points).items()}


def compare(geometry: mj.Geometry, exact: dict[str, np.ndarray], index: np.ndarray) -> dict[str, Any]:
    """Errors and bars of every measure at the points ``index`` of the flattened grid."""
    norm = exact["second_form_norm"]
    table = {}
    for name in FIELDS:
        estimate = getattr(geometry, name)
        value, bar = (np.asarray(x, float).ravel()[index] for x in (estimate.value, estimate.error))
        resolved = np.asarray(estimate.resolved).ravel()[index]
        error = np.abs(value - exact[name])
        scale = norm**2 if name == "scalar_curvature" else np.abs(exact[name])
        relative = np.where(np.isnan(error), np.inf, error) / scale
        ratio = bar[resolved] / np.maximum(error[resolved], np.finfo(float).tiny)
        verdict = geometry.verdict(name)
        table[name] = {
            "median_relative_error": float(np.median(relative)),
            "relative_error_95": float(np.quantile(relative, 0.95)),
            "resolved": float(np.asarray(estimate.resolved).mean()),
            "compared_resolved": int(resolved.sum()),
            "coverage": float(np.mean(ratio >= 1)) if resolved.any() else None,
            "sharpness": float(np.median(ratio)) if resolved.any() else None,
            "coverage_of_all": float(np.mean(error <= bar)),
            "verdict_resolved": verdict.resolved,
            "axes": list(verdict.axes),
            "sentence": verdict.sentence,
        }
    return table


def manifolds(options: argparse.Namespace) -> Iterator[tuple[str, str, mj.Manifold]]:
    """Datasets by name and layout; COIL-20 is skipped, with a note, where its files are not found."""
    for dataset in options.datasets:
        for layout in options.layouts:
            if dataset in SHAPES:
                yield dataset, layout, datasets.sprite(dataset, layout=layout)
                continue
            try:
                manifold = datasets.coil20(options.data, int(dataset.partition(":")[2] or 1), layout=layout)
            except (FileNotFoundError, ModuleNotFoundError) as error:
                print(f"{dataset} skipped: {error}", file=sys.stderr)
                break
            yield dataset, layout, manifold


def progress_line(label: str) -> Any:
    """A progress callback that rewrites one line of the terminal, or prints quarters to a file."""
    state = {"quarter": 0, "start": time.perf_counter()}

    def show(done: int, points: int) -> None:
        seconds = time.perf_counter() - state["start"]
        text = f"{label}: {done} of {points} points, {seconds:.0f} s"
        if sys.stderr.isatty():
            print(f"\r{text}", end="\n" if done >= points else "", file=sys.stderr, flush=True)
        elif (quarter := 4 * done // points) > state["quarter"]:
            state["quarter"] = quarter
            print(text, file=sys.stderr, flush=True)

    return show


def run(
    label: str, manifold: mj.Manifold, options: argparse.Namespace, origin: dict[str, Any]
) -> dict[str, Any]:
    """Measure one manifold both ways."""
    grid = window(manifold.grid, options.samples)
    seconds, geometry = common.timed(
        lambda: jax.block_until_ready(
            mj.measure(manifold, grid, accuracy=options.accuracy, progress=progress_line(label))
        )
    )
    generator = np.random.default_rng(options.seed)
    count = min(options.points, grid.size)
    index = np.sort(generator.choice(grid.size, count, replace=False))
    multi = np.unravel_index(index, grid.shape)
    columns = [axis.samples()[k] for axis, k in zip(grid.axes, multi, strict=True)]
    exact_seconds, exact = common.timed(exact_fields, manifold, np.stack(columns, axis=-1))
    print(f"{label}: autodiff at {count} points, {exact_seconds:.0f} s", file=sys.stderr, flush=True)
    return {
        "grid": dict(zip(grid.names, grid.shape, strict=True)),
        "window": grid != manifold.grid,
        "dtype": str(geometry.volume_element.value.dtype),
        "accuracy": options.accuracy,
        "seed": options.seed,
        "points": count,
        "stencil_seconds": seconds,
        "exact_seconds": exact_seconds,
        "measures": compare(geometry, exact, index),
        "provenance": origin,
    }


def shown(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


def markdown(results: dict[str, Any]) -> str:
    """All results as one Markdown table, misses in bold."""
    lines = [
        "# Stencils against autodiff",
        "",
        "Relative errors; that of the scalar curvature is relative to |II|^2. Coverage (wanted: at least "
        f"{COVERAGE:.0%}) and bar / error (wanted: at most {SHARPNESS:g}, median) at resolved points. "
        "Misses on `dense` are bold. By benchmarks/accuracy.py.",
        "",
        "| dataset | layout | measure | median error | 95 % error | resolved | coverage | bar/error | axes |",
        "|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for key, result in sorted(results.items()):
        dataset, layout, dtype = key.split("/")
        for name, row in result["measures"].items():
            coverage, sharpness = shown(row["coverage"], ".2%"), shown(row["sharpness"], ".1f")
            if layout == "dense" and row["coverage"] is not None:
                coverage = coverage if row["coverage"] >= COVERAGE else f"**{coverage}**"
                sharpness = sharpness if row["sharpness"] <= SHARPNESS else f"**{sharpness}**"
            label = layout if dtype == "float32" else f"{layout}, {dtype}"
            lines.append(
                f"| {dataset} | {label} | {name} | {row['median_relative_error']:.1e} "
                f"| {row['relative_error_95']:.1e} | {row['resolved']:.1%} | {coverage} | {sharpness} "
                f"| {', '.join(row['axes']) or ('-' if row['verdict_resolved'] else 'rounding')} |"
            )
    lines += ["", "| dataset | layout | grid | stencils | autodiff | where |", "|---|---|---|---:|---:|---|"]
    for key, result in sorted(results.items()):
        dataset, layout, _ = key.split("/")
        origin = result["provenance"]
        grid = " x ".join(f"{size} {name}" for name, size in result["grid"].items())
        lines.append(
            f"| {dataset} | {layout} | {grid}{' (a window)' if result['window'] else ''} "
            f"| {result['stencil_seconds']:.0f} s "
            f"| {result['points']} points, {result['exact_seconds']:.0f} s "
            f"| {origin['machine']['cpu']}, {origin['machine']['cores']} cores; {origin['device']}; "
            f"jax {origin['versions']['jax']}; {origin['commit']} |"
        )
    return "\n".join(lines) + "\n"


def report(key: str, result: dict[str, Any]) -> None:
    """Print one result as it comes."""
    print(f"{key}: {result['grid']}, {result['stencil_seconds']:.0f} s", flush=True)
    for name, row in result["measures"].items():
        print(
            f"  {name:23s} error {row['median_relative_error']:.1e} / {row['relative_error_95']:.1e}  "
            f"resolved {row['resolved']:6.1%}  coverage {shown(row['coverage'], '.4f')}  "
            f"bar/error {shown(row['sharpness'], '.1f')}  {row['sentence']}",
            flush=True,
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", default=list(SHAPES), help="sprites, or coil20:OBJECT")
    parser.add_argument("--layouts", nargs="+", default=["balanced", "dense"])
    parser.add_argument("--points", type=int, default=2000, help="grid points of the exact side")
    parser.add_argument("--samples", type=int, help="most samples of an axis, at the layout's spacing")
    parser.add_argument("--accuracy", type=lambda s: int(s) if s.isdigit() else s, default=4)
    parser.add_argument("--data", help="COIL-20 archive or folder; by default MANIFOLD_JAX_DATA")
    parser.add_argument("--x64", action="store_true", help="stencils in float64 too")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of points")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    for name in options.datasets:
        if name not in SHAPES and name.partition(":")[0] != "coil20":
            parser.error(f"--datasets: {name!r} is none of {', '.join(SHAPES)} or coil20:OBJECT")
    return options


def main() -> None:
    options = arguments()
    jax.config.update("jax_enable_x64", options.x64)
    path = options.out / "accuracy.json"
    origin = common.provenance()  # before the results of this run change the working tree
    for dataset, layout, manifold in manifolds(options):
        result = run(f"{dataset} {layout}", manifold, options, origin)
        key = f"{dataset}/{layout}/{result['dtype']}"
        report(key, result)
        results = (json.loads(path.read_text()) if path.exists() else {}) | {key: result}
        common.write_json(path, results)
        path.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
