"""``manifold-jax measure``: volume, curvature and reach with error bars, in a table, plots and files."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from manifold_jax._files import fingerprint
from manifold_jax.experiments.measure import data as measure_data
from manifold_jax.experiments.measure import reach_report
from manifold_jax.experiments.measure import report as measure_report
from manifold_jax.experiments.measure.report import Part
from manifold_jax.experiments.terminal import console, plain_errors, progress_bar, results_folder
from manifold_jax.geometry import Geometry, Manifold, Reach, load_geometry, measure, reach
from manifold_jax.geometry.grid import Accuracy
from manifold_jax.geometry.jet import stencil_of
from manifold_jax.plotting.geometry import plot_reach, save_figure


def measure_command(
    dataset: Annotated[str, typer.Argument(help=f"One of {', '.join(measure_data.NAMES)}.")],
    shape: Annotated[str | None, typer.Option(help="Sprite: ellipse, square or heart.")] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Lattice: dense, balanced or original (sprites); views, balanced or dense (coil20)."
        ),
    ] = None,
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
        Path | None, typer.Option(help="Folder of the results [default: runs/measure-...].")
    ] = None,
) -> None:
    """Measure volume, curvature and reach with error bars; write a table, files and pictures.

    Interrupted and called again with the same --out, it goes on where it was.
    """
    arguments = {key: value for key, value in locals().items() if value is not None}
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()}
    with plain_errors(), jax.enable_x64(x64 or jax.config.read("jax_enable_x64")):
        choice = measure_data.Choice(
            dataset,
            shape,
            layout,
            tuple(name.strip() for name in axes.split(",")) if axes is not None else (),
            size,
            blur,
            measure_data.parse_pairs(samples, "--samples", int),
            measure_data.parse_pairs(ranges, "--range", measure_data.parse_range),
            measure_data.parse_pairs(fixed, "--fixed", float),
            object_id,
            data,
        )
        _require("xarray", "h5netcdf", "h5py", *(["matplotlib"] if plots else []))
        options = {"accuracy": _accuracy(accuracy), "stride": stride, "tolerance": tolerance}
        options["block_size"] = block_size
        manifolds = _checked(measure_data.build(choice), options)
        folder = out or Path("runs") / choice.folder
        with results_folder(folder):
            _run(manifolds, folder, options, exact, with_reach, plots, arguments)


# --- checks ------------------------------------------------------------------------------------------------


def _require(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'this needs {" and ".join(missing)}: pip install "manifold_jax[cli]"')


def _accuracy(text: str) -> Accuracy | tuple[Accuracy, ...]:
    parts = [part.strip() for part in text.split(",")]
    orders: list[Accuracy] = [int(part) if part.isdigit() else part for part in parts]
    return tuple(orders) if len(orders) > 1 else orders[0]


def _checked(manifolds: tuple[Manifold, ...], options: dict[str, Any]) -> tuple[Manifold, ...]:
    """Refuse options that do not fit before anything is computed."""
    if not 0 < options["tolerance"] < 1:
        raise ValueError(f"--tolerance must lie between 0 and 1, got {options['tolerance']}.")
    for manifold in manifolds:
        stencil_of(manifold.grid, options["accuracy"], options["stride"])
    return manifolds


# --- stages ------------------------------------------------------------------------------------------------


def _run(
    manifolds: tuple[Manifold, ...],
    out: Path,
    options: dict[str, Any],
    exact: bool,
    with_reach: bool,
    plots: bool,
    arguments: dict[str, Any],
) -> None:
    """Measure, report and draw."""
    parts, finished = [], []
    for k, manifold in enumerate(manifolds):
        stages = {"exact": True, "stencil": False} if exact else {"stencil": False}
        results, seconds = {}, {}
        for stage, exactly in stages.items():
            began = time.perf_counter()
            results[stage], path = _stage(manifold, out, options | {"exact": exactly}, k)
            seconds[stage] = time.perf_counter() - began
            finished.append(path)
        mark = f"_{k + 1}" if len(manifolds) > 1 else ""
        main, other = (results["exact"], results["stencil"]) if exact else (results["stencil"], None)
        parts.append(Part(manifold, main, other, seconds, mark))
    tables = measure_report.tables(parts)
    console.print(*tables, sep="\n")
    record = measure_report.summary(parts, arguments, version("manifold_jax"))
    drawings = [drawing for part in parts for drawing in measure_report.figures(part)]
    written = []
    if with_reach:
        found, seconds = _search_reach(parts, options["tolerance"])
        tables.append(reach_report.reach_table(found))
        console.print(tables[-1])
        record["reach"] = reach_report.reach_entry(found, seconds)
        written += reach_report.save_reach(found, [part.mark for part in parts], out)
        drawings.append(("reach.png", lambda: plot_reach(manifolds, found)))
    written += measure_report.write_results(parts, out, record, tables)
    if plots:
        written += _draw(drawings, out)
    measure_report.remove_stale(out, written)
    for path in finished:
        path.unlink(missing_ok=True)
    console.print(
        f"Results in [bold]{out}[/bold]: {', '.join(path.name for path in written)}", soft_wrap=True
    )


def _stage(manifold: Manifold, out: Path, options: dict[str, Any], number: int) -> tuple[Geometry, Path]:
    """One measurement; finished ones are kept until the whole command is done."""
    dtype = str(jax.numpy.result_type(float))
    attributes = sorted(manifold.attributes.items())
    parts = (manifold.name, manifold.grid, attributes, options, dtype, number)
    key = fingerprint(None, np.zeros(0), *parts)
    path = out / f"finished-{key}.nc"
    if path.exists():
        return load_geometry(path), path
    how = "automatic differentiation" if options["exact"] else "stencils"
    with progress_bar(f"{manifold.name}, {how}") as advance:
        geometry = measure(manifold, progress=advance, checkpoint=out, **options)
    geometry.save(path)
    return geometry, path


def _search_reach(parts: list[Part], tolerance: float) -> tuple[Reach, float]:
    """Reach of everything that was measured, by exact tangents and the curvature already known."""
    manifolds, known = [part.manifold for part in parts], [part.geometry for part in parts]
    began = time.perf_counter()
    with progress_bar("reach, all pairs") as advance:
        searched, measured = (manifolds, known) if len(parts) > 1 else (manifolds[0], known[0])
        found = reach(searched, geometry=measured, tolerance=tolerance, progress=advance)
    return found, time.perf_counter() - began


def _draw(drawings: list[tuple[str, Callable[[], Any]]], out: Path) -> list[Path]:
    """Draw and save every picture."""
    written = []
    for name, draw in drawings:
        with console.status(f"drawing {name}"):
            written.append(save_figure(draw(), out / name))
    return written
