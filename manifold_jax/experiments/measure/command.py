"""``manifold-jax measure``: volume, curvature and reach with error bars, in a table, plots and files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from manifold_jax._checks import optional, positive
from manifold_jax._files import user_path
from manifold_jax._keys import digest_function, fingerprint
from manifold_jax.experiments.experiment import given_options, say_where
from manifold_jax.experiments.measure import report
from manifold_jax.experiments.measure.data import OPTIONS, build, default_folder, parse_pairs, parse_range
from manifold_jax.experiments.measure.report import Part
from manifold_jax.experiments.results import publishing, remove_others
from manifold_jax.experiments.terminal import (
    console,
    plain_errors,
    prepare,
    progress_bar,
    results_folder,
    words,
)
from manifold_jax.geometry import Geometry, Manifold, load_geometry, measure, reach
from manifold_jax.geometry.grid import Accuracy
from manifold_jax.geometry.manifold import evaluate_points
from manifold_jax.geometry.stencil import stencil_of

_KEY = "measure"  # results of another measurement in the same folder are replaced
LAYOUTS = "Lattice: dense, balanced or original (sprites); views, balanced or dense (coil20)."


def measure_command(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(OPTIONS)}.")],
    shape: Annotated[str | None, typer.Option(help="Sprite: ellipse, square or heart.")] = None,
    layout: Annotated[str | None, typer.Option(help=LAYOUTS)] = None,
    axes: Annotated[
        str | None, typer.Option(help="Factors that vary, in order: scale,orientation,y,x.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels per side of the images.")] = None,
    samples: Annotated[str | None, typer.Option(help="Samples by axis: scale=9,orientation=32.")] = None,
    ranges: Annotated[str | None, typer.Option("--range", help="Ranges: scale=0.5:1,x=10:20.")] = None,
    fixed: Annotated[str | None, typer.Option(help="Factors that do not vary: scale=0.8.")] = None,
    blur: Annotated[float | None, typer.Option(help="Gaussian blur in pixels.")] = None,
    object_id: Annotated[int | None, typer.Option("--object", help="COIL-20 object, 1 to 20.")] = None,
    data: Annotated[Path | None, typer.Option(help="COIL-20 zip or folder.")] = None,
    accuracy: Annotated[
        str, typer.Option(help="Order of the stencils: 2, 4, 6, 8 or spectral; or one per axis, 4,spectral.")
    ] = "4",
    stride: Annotated[int, typer.Option(min=1, help="Spacing of the stencils in samples.")] = 1,
    smooth: Annotated[
        int, typer.Option(min=0, help="Fit polynomials to so many samples on each side; 0: none.")
    ] = 0,
    noise: Annotated[
        float | None,
        typer.Option(min=0, help="Standard deviation of the noise of every pixel or coordinate."),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Relative error that counts as resolved.")] = 0.1,
    block_size: Annotated[int | None, typer.Option(min=1, help="Points differentiated at once.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Differentiate automatically, and compare the stencils with it.")
    ] = False,
    x64: Annotated[bool, typer.Option("--x64", help="Compute in float64.")] = False,
    with_reach: Annotated[
        bool, typer.Option("--reach/--no-reach", help="Search the reach too, with its witnesses.")
    ] = True,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results (default: runs/measure-...).")
    ] = None,
) -> None:
    """Measure volume, curvature and reach with error bars; write a table, files and pictures.

    Interrupted and called again with the same --out, it goes on where it was.
    """
    arguments = given_options(locals())
    with plain_errors(), jax.enable_x64(x64 or jax.config.read("jax_enable_x64")):
        given: dict[str, Any] = {"shape": shape, "layout": layout, "axes": words(axes), "size": size}
        given |= {"blur": blur, "object": object_id, "data": data and user_path(data)}
        given["samples"] = parse_pairs(samples, "--samples", int)
        given["range"] = parse_pairs(ranges, "--range", parse_range)
        given["fixed"] = parse_pairs(fixed, "--fixed", float)
        given = given_options(given)
        folder = prepare(out or Path("runs") / default_folder(dataset, given), plots=plots)
        orders = _parse_accuracy(accuracy)
        manifolds = build(dataset, given)
        if not 0 < tolerance < 1:
            raise ValueError(f"--tolerance must lie between 0 and 1, got {tolerance}.")
        for manifold in manifolds:
            stencil_of(
                "measure", manifold.grid, orders, stride, smooth
            )  # refused before anything is computed
        optional(partial(positive, zero=True), "measure", "--noise", noise)
        if exact and noise:
            raise ValueError("--noise is that of samples, and --exact differentiates a function: give one.")
        options = {"accuracy": orders, "stride": stride, "smooth": smooth, "noise": noise}
        options |= {"tolerance": tolerance, "block_size": block_size}
        with results_folder(folder):
            parts, finished = _measure_parts(manifolds, folder, options, exact)
            _report(parts, folder, tolerance if with_reach else None, plots, arguments)
            for path in finished:
                path.unlink(missing_ok=True)


def _parse_accuracy(text: str) -> Accuracy | tuple[Accuracy, ...]:
    orders = tuple(int(word) if word.isdigit() else word for word in map(str.strip, text.split(",")))
    return orders[0] if len(orders) == 1 else orders


def _measure_parts(
    manifolds: Sequence[Manifold], out: Path, options: dict[str, Any], exact: bool
) -> tuple[list[Part], list[Path]]:
    """Every component, and the files that keep what is measured until the whole command is done."""
    parts, finished = [], []
    for k, manifold in enumerate(manifolds):
        results, seconds = {}, {}
        for stage in ("exact", "stencil") if exact else ("stencil",):
            began = time.perf_counter()
            results[stage], path = _measure_stage(manifold, out, options | {"exact": stage == "exact"}, k)
            seconds[stage] = time.perf_counter() - began
            finished.append(path)
        main, other = (results["exact"], results["stencil"]) if exact else (results["stencil"], None)
        parts.append(Part(manifold, main, other, seconds, f"_{k + 1}" if len(manifolds) > 1 else ""))
    return parts, finished


def _measure_stage(
    manifold: Manifold, out: Path, options: dict[str, Any], number: int
) -> tuple[Geometry, Path]:
    """One measurement, or the kept one, and the file that keeps it.

    The file's name holds all that makes it: what the embedding computes, with all images that it holds, two
    points, axes, attributes, options, and the version of the package.
    """
    grid, dtype = manifold.grid, jax.numpy.result_type(float)
    ends = np.asarray(grid.coordinates(dtype)).reshape(-1, grid.ndim)[[0, grid.size // 2]]
    probe = evaluate_points(manifold.embedding, ends, dtype).tobytes()
    program = digest_function(manifold.embedding, jax.ShapeDtypeStruct((grid.ndim,), dtype))
    parts = (manifold.name, grid, sorted(manifold.attributes.items()), options, str(dtype), number)
    path = out / f"finished-{fingerprint(None, program, probe, *parts)}.nc"
    if path.exists():
        with contextlib.suppress(ValueError):  # damaged: measure again
            return load_geometry(path), path
    method = "automatic differentiation" if options["exact"] else "stencils"
    with progress_bar(f"{manifold.name}, {method}") as advance:
        geometry = measure(manifold, progress=advance, checkpoint=out, **options)
    geometry.save(path)
    return geometry, path


def _report(
    parts: list[Part], out: Path, tolerance: float | None, plots: bool, arguments: dict[str, Any]
) -> None:
    """Search the reach if a tolerance is given for it; write files and pictures, then show tables."""
    tables = report.tables_of(parts)
    result, began = None, time.perf_counter()
    if tolerance is not None:
        # By exact tangents, and the curvature that is already known.
        manifolds, known = [part.manifold for part in parts], [part.geometry for part in parts]
        with progress_bar("reach, all pairs") as advance:
            result = reach(manifolds, geometry=known, tolerance=tolerance, progress=advance)
        tables.append(report.reach_table(result))
    record = report.summary(parts, arguments, result, time.perf_counter() - began)
    written: list[Path] = []
    with publishing(out, _KEY, written) as folder:
        report.write_results(parts, folder, record, tables, result)
    if plots:
        with publishing(out, _KEY, written) as folder:
            report.write_figures(parts, folder, result)
    remove_others(out, _KEY, written)
    console.print(*tables, sep="\n")
    say_where(out, written)
