"""``manifold-jax measure``: volume, curvature and reach with error bars, in a table, plots and files."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import typer
from rich.text import Text

from manifold_jax._checks import choice, optional, positive
from manifold_jax._executors import one_thread
from manifold_jax._files import user_path
from manifold_jax._keys import fingerprint
from manifold_jax.experiments.cluster import Scheduler, Workers, check_cluster, cluster_executor
from manifold_jax.experiments.experiment import check_options, given_options, say_where
from manifold_jax.experiments.measure import report
from manifold_jax.experiments.measure.cloud import (
    cloud_record,
    cloud_tables,
    draw_cloud,
    measure_cloud,
    write_cloud,
)
from manifold_jax.experiments.measure.data import (
    OPTIONS,
    build,
    check_animation,
    decide_on_reach,
    default_folder,
    key_of,
    parse_accuracy,
    parse_object,
    parse_pairs,
    parse_range,
    refuse_for_clouds,
    refuse_for_grids,
    with_attributes,
)
from manifold_jax.experiments.measure.files import AXIS_FORM, Cloud, Samples, is_address, load
from manifold_jax.experiments.measure.page import write_cloud_page, write_measure_page
from manifold_jax.experiments.measure.pictures import start_pictures, write_pictures
from manifold_jax.experiments.measure.report import Part
from manifold_jax.experiments.pages import REPORT, without_secrets
from manifold_jax.experiments.results import publishing, remove_others
from manifold_jax.experiments.terminal import (
    Animate,
    bars,
    console,
    left_out,
    plain_errors,
    prepare,
    progress_bar,
    results_folder,
    words,
)
from manifold_jax.geometry import (
    Geometry,
    Manifold,
    Reach,
    UnionGeometry,
    measure,
    measure_union,
    reach,
    suggest_stencil,
)
from manifold_jax.geometry.stencil import stencil_of
from manifold_jax.geometry.verdict import SUGGESTED

_PAGE = fingerprint(None, REPORT, "measure")  # of whatever this command ran last in the folder
SOURCES = f"A file, a folder of images, the address of a Zarr store, or a data set: {', '.join(OPTIONS)}."
AXIS_HELP = "Axis of a file, in the order of its dimensions; repeatable. STOP is the end of a period."
LAYOUTS = "Lattice: dense, balanced or original (sprites); views, balanced or dense (coil20, coil100)."


def measure_command(
    dataset: Annotated[str, typer.Argument(help=SOURCES, metavar="DATASET|FILE|FOLDER")],
    shape: Annotated[
        str | None, typer.Option(help="Sprite or dSprite: ellipse, square, heart; all (sprites).")
    ] = None,
    layout: Annotated[str | None, typer.Option(help=LAYOUTS)] = None,
    axes: Annotated[
        str | None, typer.Option(help="Factors that vary, in order: scale,orientation,y,x; axes of a file.")
    ] = None,
    axis: Annotated[list[str] | None, typer.Option(metavar=AXIS_FORM, help=AXIS_HELP)] = None,
    periodic: Annotated[
        list[str] | None, typer.Option(metavar="NAME[=PERIOD]", help="A periodic axis of a file; repeatable.")
    ] = None,
    variable: Annotated[str | None, typer.Option(help="Array in a file that holds several.")] = None,
    table: Annotated[
        Path | None, typer.Option(help="Factors of a folder of images, CSV or JSON (default: the only one).")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Names of images that hold their factors: {angle}_{shift}.png.")
    ] = None,
    cloud: Annotated[
        bool, typer.Option("--cloud", help="The file holds points without a grid, (n, features); as .csv.")
    ] = False,
    dimension: Annotated[
        int | None, typer.Option(min=1, help="Dimension of a cloud (default: estimated).")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels per side of the images.")] = None,
    samples: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Samples by axis: scale=9,orientation=32.")
    ] = None,
    ranges: Annotated[
        list[str] | None, typer.Option("--range", metavar="TEXT", help="Ranges: scale=0.5:1,x=10:20.")
    ] = None,
    fixed: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Factors that do not vary: scale=0.8.")
    ] = None,
    blur: Annotated[float | None, typer.Option(help="Gaussian blur in pixels.")] = None,
    object_id: Annotated[
        str | None, typer.Option("--object", help="Number of the object of COIL, or all.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Zip or folder of COIL, file of dSprites.")] = None,
    accuracy: Annotated[
        str,
        typer.Option(
            help="Order of the stencils: 2, 4, 6, 8 or spectral; one per axis, 4,spectral; or auto, which "
            "tries orders, strides and smoothing."
        ),
    ] = "4",
    stride: Annotated[int, typer.Option(min=1, help="Spacing of the stencils in samples.")] = 1,
    smooth: Annotated[
        int, typer.Option(min=0, help="Fit polynomials to so many samples on each side; 0: none.")
    ] = 0,
    noise: Annotated[
        float | None,
        typer.Option(min=0, help="Standard deviation of the noise of every pixel or coordinate."),
    ] = None,
    missing: Annotated[
        str, typer.Option(help="Points of a file that are not finite: refuse, or mask to leave them out.")
    ] = "refuse",
    tolerance: Annotated[float, typer.Option(help="Relative error that counts as resolved.")] = 0.1,
    block_size: Annotated[int | None, typer.Option(min=1, help="Points differentiated at once.")] = None,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--stencils",
            help="What the results are of: automatic differentiation (the default of a data set with an "
            "embedding, with the stencils beside it), or stencils, with the exact values beside them.",
        ),
    ] = None,
    x64: Annotated[bool, typer.Option("--x64", help="Compute in float64.")] = False,
    with_reach: Annotated[
        bool | None,
        typer.Option("--reach/--no-reach", help="Search the reach too (default: where the memory allows)."),
    ] = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw pictures.")] = True,
    animate: Animate = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results (default: runs/measure-...).")
    ] = None,
) -> None:
    """Measure volume, curvature and reach with error bars; write a table, files and pictures.

    A file is .npy, .npz, .nc, .h5, .zarr (s3://... too) or .csv with a cloud of points; a folder holds images
    and a table of their factors. manifold-jax inspect FILE says what it sees and what to run.

    Interrupted and called again with the same --out, it goes on where it was.
    """
    arguments = given_options(locals()) | {"dataset": without_secrets(dataset)}
    with plain_errors(), jax.enable_x64(x64 or jax.config.read("jax_enable_x64")):
        check_options(arguments)
        check_cluster(workers, scheduler)
        given: dict[str, Any] = {"shape": shape, "layout": layout, "axes": words(axes), "size": size}
        given |= {"blur": blur, "object": parse_object(object_id), "data": data and user_path(data)}
        given["samples"] = parse_pairs(samples, "--samples", int)
        given["range"] = parse_pairs(ranges, "--range", parse_range)
        given["fixed"] = parse_pairs(fixed, "--fixed", float)
        given |= {"axis": axis or None, "periodic": periodic or None, "variable": variable}
        given |= {"table": table and user_path(table), "pattern": pattern}
        given |= {"cloud": cloud or None, "dimension": dimension}
        given = given_options(given)
        folder = prepare(out or Path("runs") / default_folder(dataset, given), plots=plots)
        orders = parse_accuracy(accuracy)
        if not 0 < tolerance < 1:
            raise ValueError(f"--tolerance must lie between 0 and 1, got {tolerance}.")
        optional(partial(positive, zero=True), "measure", "--noise", noise)
        if exact and noise:
            raise ValueError("--noise is that of samples, and --exact differentiates a function: give one.")
        if orders == "auto" and (stride, smooth) != (1, 0):
            raise ValueError(
                "--accuracy auto tries strides and smoothing too: leave out --stride and --smooth."
            )
        key = key_of(dataset, given)  # results of the same points are replaced
        options = {"accuracy": orders, "stride": stride, "smooth": smooth, "noise": noise}
        options |= {"tolerance": tolerance, "block_size": block_size}
        choice("measure", "--missing", missing, ("refuse", "mask"))
        with contextlib.ExitStack() as files:
            manifolds = _sources(dataset, given, files)
            if isinstance(manifolds, Cloud):
                if workers or scheduler:
                    raise ValueError("--workers and --scheduler are for points on a grid: leave them out.")
                given_only = {"exact": exact is True, "stencils": exact is False, "missing": missing}
                refuse_for_clouds(options | given_only)
                chosen = {"noise": noise, "tolerance": tolerance, "with_reach": with_reach is not False}
                with results_folder(folder):
                    _measure_cloud(manifolds, folder, key, chosen, plots, arguments)
                return
            check_animation(manifolds, animate, plots)
            for manifold in manifolds:
                stencil_of("measure", manifold.grid, 2 if orders == "auto" else orders, stride, smooth)
                refuse_for_grids(dataset, isinstance(manifold, Samples), exact, noise, missing)
            options |= {"missing": missing} if missing != "refuse" else {}
            with_reach, note = decide_on_reach(manifolds, with_reach)
            with results_folder(folder):
                if orders == "auto":
                    options |= _suggest(manifolds[0], options)
                    manifolds = [with_attributes(manifold, SUGGESTED) for manifold in manifolds]
                with cluster_executor(workers, scheduler) as executor, one_thread() as submit:
                    measured = exact is not False, executor, submit if plots else None
                    parts = _measure_parts(manifolds, folder, options, *measured)
                    chosen = options | {"checkpoint": folder, "executor": executor} if with_reach else None
                    _write(parts, folder, key, chosen, submit if plots else None, arguments)
            if note:
                console.print(note)


def _sources(
    dataset: str, given: dict[str, Any], files: contextlib.ExitStack
) -> Sequence[Manifold | Samples] | Cloud:
    """What is to be measured: a data set of the package, or what a file or folder holds."""
    path = dataset if is_address(dataset) else user_path(dataset)
    if dataset in OPTIONS or (isinstance(path, Path) and not path.exists()):
        return build(dataset, given)
    with progress_bar(f"reading {Path(path).name}") as advance:
        source = load(path, given, files, advance)
    return source if isinstance(source, Cloud) else (source,)


def _measure_cloud(
    cloud: Cloud, out: Path, key: str, options: dict[str, Any], plots: bool, arguments: dict[str, Any]
) -> None:
    with progress_bar(f"{cloud.name}, all pairs") as advance:
        result = measure_cloud(cloud, progress=advance, checkpoint=out, **options)
    tables, record = cloud_tables(result, options["tolerance"]), cloud_record(result, arguments)
    written: list[Path] = []
    with publishing(out, key, written) as folder:
        write_cloud(result, folder, record, tables)
    console.print(*tables, sep="\n")
    lost: list[str] = []
    if plots:
        with publishing(out, key, written, beside=written) as folder, left_out("cloud.png", lost):
            draw_cloud(result, folder)
    with publishing(out, _PAGE, written) as folder, left_out(REPORT, lost):
        write_cloud_page(folder / REPORT, result, record, tables, list(written), options["tolerance"])
    remove_others(out, key, written)
    say_where(out, written)
    if lost:
        console.print(*lost, sep="\n")


def _suggest(manifold: Manifold | Samples, options: dict[str, Any]) -> dict[str, Any]:
    """Order, stride and smoothing with the smallest bars; a union has those of its first component."""
    points = manifold.points if isinstance(manifold, Samples) else manifold
    others = {name: value for name, value in options.items() if name not in ("accuracy", "stride", "smooth")}
    with progress_bar(f"{manifold.name}, orders, strides and smoothing") as advance:
        best = suggest_stencil(points, manifold.grid, progress=advance, **others)[0]
    return {"accuracy": best.accuracy, "stride": best.stride, "smooth": best.smooth}


def _measure_parts(
    manifolds: Sequence[Manifold | Samples],
    out: Path,
    options: dict[str, Any],
    exact: bool,
    executor: Any,
    draw: Callable[..., Any] | None,
) -> list[Part]:
    """Every component.

    An embedding is measured both ways; the exact values are the results of it, unless ``exact`` is False.
    Its pictures are drawn from when these are there; of samples, which may be large, after all else.
    """
    parts = []
    for k, manifold in enumerate(manifolds):
        results, seconds, pictures = {}, {}, {}
        mark, stored = f"_{k + 1}" if len(manifolds) > 1 else "", isinstance(manifold, Samples)
        main, other = ("exact", "stencil") if exact and not stored else ("stencil", "exact")
        for stage in ("stencil",) if stored else ("exact", "stencil"):
            chosen = options | ({"exact": True, "noise": None} if stage == "exact" else {"exact": False})
            began = time.perf_counter()
            results[stage] = _measure_stage(manifold, out, chosen, executor)
            seconds[stage] = time.perf_counter() - began
            if draw and main in results and not stored:
                begun = Part(manifold, results[main], results.get(other), seconds, mark, pictures)
                pictures = start_pictures(begun, draw)
        parts.append(Part(manifold, results[main], results.get(other), seconds, mark, pictures))
    return parts


def _measure_stage(
    manifold: Manifold | Samples, out: Path, options: dict[str, Any], executor: Any
) -> Geometry:
    """One measurement."""
    method = "automatic differentiation" if options["exact"] else "stencils"
    with progress_bar(f"{manifold.name}, {method}") as advance:
        kept = {"progress": advance, "checkpoint": out, "executor": executor}
        if isinstance(manifold, Samples):
            geometry = measure(manifold.points, manifold.grid, name=manifold.name, **kept, **options)
            return replace(geometry, attributes=tuple(manifold.attributes.items()))
        return measure(manifold, **kept, **options)


def _write(
    parts: list[Part],
    out: Path,
    key: str,
    options: dict[str, Any] | None,
    draw: Callable[..., Any] | None,
    arguments: dict[str, Any],
) -> None:
    """Search the reach if options are given for it; show and write everything."""
    tables = report.tables_of(parts)
    result, union, began = None, None, time.perf_counter()
    if options is not None:
        known = {name: options[name] for name in ("tolerance", "checkpoint", "executor")}
        try:
            with progress_bar("reach, all pairs") as advance:
                if len(parts) > 1:
                    union = _unite(parts, **known, progress=advance)
                    result = union.reach
                else:
                    result = _search_reach(parts[0], options, known | {"progress": advance})
        except ValueError as error:  # points that have none cost no measurement
            tables.append(Text(f"\nThe reach is left out: {str(error).partition(': ')[2]}"))
    if len(parts) > 1:
        union = union or _unite(parts, with_reach=False, with_distances=False)
        tables += report.union_tables(union)
    if result is not None:
        tables.append(report.reach_table(result))
    record = report.summary(parts, arguments, result, time.perf_counter() - began)
    record |= {"union": report.union_entry(union)} if union else {}
    written: list[Path] = []
    with publishing(out, key, written) as folder:
        report.write_results(parts, folder, record, tables, result)
    console.print(*tables, sep="\n")
    lost: list[str] = []
    if draw:
        with publishing(out, key, written, beside=written) as folder:
            lost = write_pictures(parts, folder, result, union, draw, animate=arguments["animate"])
    with publishing(out, _PAGE, written) as folder, bars.status(f"writing {REPORT}"), left_out(REPORT, lost):
        write_measure_page(folder / REPORT, parts, record, result, union, list(written))
    remove_others(out, key, written)
    say_where(out, written)
    console.print(*lost, report.headline(parts, result), sep="\n")


def _search_reach(first: Part, options: dict[str, Any], known: dict[str, Any]) -> Reach:
    """The reach of a single component, with the curvature that is known already."""
    if isinstance(first.manifold, Samples):
        names = ("accuracy", "stride", "block_size", "missing")
        known |= {name: options[name] for name in names if name in options}
        return reach(first.points, first.geometry.grid, geometry=first.geometry, **known)
    return reach(first.manifold, geometry=first.geometry, **known)  # by exact tangents


def _unite(parts: Sequence[Part], **options: Any) -> UnionGeometry:
    """All components scaled to unit volume."""
    return measure_union([p.manifold for p in parts], geometry=[p.geometry for p in parts], **options)
