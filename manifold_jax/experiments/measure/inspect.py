"""``manifold-jax inspect``: what a file or folder holds, and how to measure it."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from manifold_jax._files import user_path
from manifold_jax.datasets.folders import image_folder, lattice_of, list_images
from manifold_jax.datasets.pictures import read_image
from manifold_jax.experiments.experiment import given_options
from manifold_jax.experiments.measure.files import (
    AXIS_FORM,
    AxisOption,
    Cloud,
    check_file_options,
    feature_dimensions,
    is_address,
    load,
    parse_axis,
    place_on_grid,
)
from manifold_jax.experiments.measure.formats import Content, opened
from manifold_jax.experiments.terminal import console, plain_errors, words
from manifold_jax.geometry.ends import end_distances, ends_coincide
from manifold_jax.geometry.manifold import as_points
from manifold_jax.geometry.noise import BEYOND, STEADY
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.stencil import BELOW

NUMBERS = 2**25  # that are read to look at values, and along every axis
WHOLE = 0.29  # standard deviation that rounding to whole numbers makes, 12^(-1/2)
LINES = 8  # along every axis on which noise is looked at
FEWEST = 8  # samples of an axis from which neighbours are compared with any two of them
NEARER = 0.8  # squared distance of neighbours, over that of any two: nearer to 1 there is no order
NEAR = 1.5  # distance of two ends that are a step apart, over that of neighbours


def inspect_command(
    file: Annotated[str, typer.Argument(metavar="FILE|FOLDER", help="A file or a folder of images.")],
    variable: Annotated[str | None, typer.Option(help="Array in a file that holds several.")] = None,
    axes: Annotated[str | None, typer.Option(help="Dimensions or factors that are axes, in order.")] = None,
    axis: Annotated[
        list[str] | None, typer.Option(metavar=AXIS_FORM, help="Axis of a file, in order; repeatable.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Factors of a folder of images, CSV or JSON.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Names of images that hold their factors: {angle}_{shift}.png.")
    ] = None,
    cloud: Annotated[bool, typer.Option("--cloud", help="The file holds points without a grid.")] = False,
) -> None:
    """Say what is in a file or folder (shape, axes, range, noise, gaps), and which command measures it."""
    with plain_errors():
        path = file if is_address(file) else user_path(file)
        if isinstance(path, Path) and not path.exists():
            raise ValueError(f"there is no file or folder {file!r}.")
        given = {"variable": variable, "axes": words(axes), "axis": axis or None}
        given |= {"table": table and user_path(table), "pattern": pattern, "cloud": cloud or None}
        for line in describe(path, given_options(given)):
            console.print(line, soft_wrap=True)


def describe(path: Path | str, given: dict[str, Any]) -> Iterator[str]:
    """What is in a file or folder, line by line; the last one is the command to run.

    Raises:
        ValueError: It cannot be read.
    """
    kind = check_file_options(path, given)
    if kind == "cloud" or given.get("cloud"):
        yield from _describe_cloud(path, given)
    elif kind == "folder":
        yield from _describe_folder(Path(path), given)
    else:
        with opened(path, given.get("variable")) as content:
            yield from _describe_array(path, content, given)


def _command(path: Path | str, given: dict[str, Any], *more: str) -> str:
    options = [f"--{name}={value}" for name, value in given.items() if isinstance(value, str | Path)]
    options += ["--cloud"] * bool(given.get("cloud"))
    options += ["--axes", ",".join(given["axes"])] if "axes" in given else []
    return f"run: {shlex.join(['manifold-jax', 'measure', str(path), *options, *more])}"


def _describe_cloud(path: Path | str, given: dict[str, Any]) -> Iterator[str]:
    with contextlib.ExitStack() as files:
        cloud = load(path, given, files)
    assert isinstance(cloud, Cloud)
    points = cloud.points
    yield f"{cloud.name}: a cloud of {len(points)} points with {points.shape[1]} coordinates, {points.dtype}"
    yield from _values(points.reshape(len(points), -1), len(points))
    repeats = len(points) - len(np.unique(points, axis=0))
    if repeats:
        yield f"repeats: {repeats} points lie in the place of another one"
    yield _command(path, given)


def _describe_folder(path: Path, given: dict[str, Any]) -> Iterator[str]:
    files, columns, notes = list_images(path, given.get("table"), given.get("pattern"))
    mode, first = read_image(files[0])
    yield f"{path}: a folder of {len(files)} images with factors; the first, {files[0].name}, has " + (
        f"{first.shape[1]} x {first.shape[0]} pixels of the kind {mode}"
    )
    for name, values in columns.items():
        yield f"factor {name}: {_samples(np.unique(values))}"
    yield from notes
    try:
        grid, _, more = lattice_of(files, columns, given.get("axes"))
    except ValueError as error:
        yield f"gaps: {error}"
        names = ",".join(columns)
        yield _command(path, {k: v for k, v in given.items() if k != "axes"}, "--axes", names)
        return
    yield from more
    options: dict[str, Any] = {"pattern": given.get("pattern"), "factors": given.get("axes")}
    pictures = image_folder(path, given.get("table"), **options)
    periodic = yield from _points(as_points("inspect", pictures.points, grid))
    yield _command(path, given, *periodic)


def _samples(samples: np.ndarray) -> str:
    """Number, range and steps of samples."""
    if len(samples) < 2:
        return f"{samples[0]:g} everywhere"
    steps = np.diff(samples.astype(float))
    even = np.ptp(steps) < 1e-4 * abs(steps.mean())
    spacing = f"step {steps.mean():g}" if even else f"uneven steps, {steps.min():g} … {steps.max():g}"
    return f"{len(samples)} samples, {samples[0]:g} … {samples[-1]:g}, {spacing}"


def _describe_array(path: Path | str, content: Content, given: dict[str, Any]) -> Iterator[str]:
    shape = tuple(content.values.shape)
    yield f"{content.label}: {content.values.dtype} of shape {shape}"
    if any(content.names):
        yield f"dimensions: {', '.join(name or '(no name)' for name in content.names)}"
    for name, samples in content.vectors.items():
        yield f"{name} [{content.units.get(name, '')}]: {_samples(samples)}".replace(" []", "")
    options = [parse_axis(text) for text in given.get("axis", ())]
    more = [word for option in given.get("axis", ()) for word in ("--axis", option)]
    if not options and "axes" not in given and not set(content.names) & set(content.vectors):
        count = len(shape) - feature_dimensions(shape)
        if count < 1:
            yield "axes: none is left besides the features, and one point has no geometry"
            return
        options = [AxisOption(f"axis{k}", 0.0, 1.0) for k in range(1, count + 1)]
        first = (
            f"first {count} dimensions look like axes" if count > 1 else "first dimension looks like an axis"
        )
        what = f"the {first}, and the rest like a point"
        yield f"axes: the file names none; {what}"
        yield "names and ranges: those below stand for yours; only the volume element depends on them"
        more = [word for o in options for word in ("--axis", f"{o.name}=0:1")]
    values, grid, note = place_on_grid(content, given.get("axes"), options, {})
    yield from filter(None, [note])
    points = as_points("inspect", values, grid)
    rest = {k: v for k, v in given.items() if k != "axis"}
    named = bool(given.get("axis") or given.get("axes"))
    if not named and grid.ndim == 1 and _is_unordered(points, 0):
        yield "order: neighbours are no nearer than any two points, this looks like a cloud without a grid"
        yield from _describe_cloud(path, {k: v for k, v in rest.items() if k != "axes"} | {"cloud": True})
        return
    periodic = yield from _points(points)
    yield _command(path, rest, *more, *periodic)


def _is_unordered(points: Points, k: int) -> bool:
    """Whether samples that are next to each other along an axis are as far apart as any two of a line."""
    grid, most = points.grid, max(1, NUMBERS // points.features)
    size = min(grid.shape[k], most)
    if size < FEWEST:
        return False
    lines = _lines(points, k, max(1, min(LINES, most // size, grid.size // grid.shape[k])))[:, :size]
    values = points.at(lines.ravel()).astype(float).reshape(*lines.shape, -1)
    steps, spread = np.mean(np.diff(values, axis=1) ** 2), 2 * np.mean(np.var(values, axis=1, ddof=1))
    return bool(NEARER * spread < steps < spread / NEARER)


def _points(points: Points) -> Iterator[str]:
    """Lines on values, ends and noise; returns options for the axes that look periodic."""
    grid, most = points.grid, max(1, NUMBERS // points.features)
    lattice = " x ".join(f"{axis.size} {axis.name}" for axis in grid.axes)
    yield f"grid: {grid.size} points ({lattice}) with {points.features} features {points.feature_shape}"
    places = np.unique(np.linspace(0, grid.size - 1, min(most, grid.size)).round().astype(int))
    values = points.at(places)
    yield from _values(values, grid.size)
    largest = float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0))
    rounding = 4 * largest * np.finfo(values.dtype).eps if values.dtype.kind == "f" else 0.0
    periodic: list[str] = []
    levels: list[tuple[float, bool]] = []
    for k, axis in enumerate(grid.axes):
        ends = _ends(points, k)
        if _is_unordered(points, k):
            what = "neighbours are no nearer than any two points, this looks like no axis"
            yield f"order of {axis.name}: {what}"
        elif ends == "same":
            what = "first and last sample coincide: without the last one it is periodic"
            yield f"ends of {axis.name}: {what}"
        elif ends == "near":
            yield f"ends of {axis.name}: a step apart, it looks periodic"
            periodic += ["--periodic", axis.name]
        levels += _noise(points, k, min(LINES, most // axis.size))
    if levels:
        level, certain = min(levels)
        about = f"about {level:.2g}" if certain else f"below {level:.2g}"
        about = "none beyond rounding" if level <= rounding else about
        if certain and points.values.dtype.kind in "iu":
            if WHOLE / 1.5 < level < 1.5 * WHOLE:
                about = f"about what rounding makes, {WHOLE}"
            elif level > WHOLE:
                about = f"{about}, of which rounding makes {WHOLE}"
        yield f"noise of a number: {about}"
    return periodic


def _values(values: np.ndarray, count: int) -> Iterator[str]:
    """Range of values, and what is not finite."""
    good = np.isfinite(values)
    seen = values[good]
    of = "" if len(values) == count else f" (of {len(values)} of {count} points)"
    yield f"values: {seen.min():g} … {seen.max():g}{of}" if seen.size else f"values: none is finite{of}"
    if not good.all():
        bad = int((~good.reshape(len(values), -1).all(axis=1)).sum())
        where = f"NaN or infinite values in {bad} of {len(values)} points"
        yield f"not finite: {where}: --missing mask leaves them out"


def _lines(points: Points, k: int, count: int) -> np.ndarray:
    """Flat places ``(lines, size)`` of some lines along an axis, through all parts of the grid."""
    grid = points.grid
    bases = np.unravel_index(np.linspace(0, grid.size - 1, count).round().astype(int), grid.shape)
    index = [np.broadcast_to(b[:, None], (count, grid.shape[k])) for b in bases]
    index[k] = np.broadcast_to(np.arange(grid.shape[k]), (count, grid.shape[k]))
    return np.ravel_multi_index(index, grid.shape)


def _ends(points: Points, k: int) -> str:
    """Whether the ends of an axis are the "same" or "near", a step apart; else empty."""
    if points.grid.shape[k] < 5:
        return ""
    distances = end_distances(points, k)
    if ends_coincide(points, k, distances):
        return "same"
    steps = distances[2:].max(axis=0)
    return "near" if steps.any() and (distances[0] <= NEAR * steps).all() else ""


def _noise(points: Points, k: int, count: int) -> list[tuple[float, bool]]:
    """Standard deviation of a number by high differences, and whether they are noise; nothing if unknown."""
    size = points.grid.shape[k]
    order = min(4 + BEYOND, size - 1)
    if order < 6 or count < 1:
        return []
    values = points.at(_lines(points, k, count).ravel()).astype(float).reshape(count, size, -1)
    energies = []
    for m in (order - BELOW, order):
        difference = np.diff(values, m, axis=1)
        energies.append(np.median(np.mean(difference**2, axis=2)) / math.comb(2 * m, m))
    if not np.isfinite(energies).all():
        return []
    return [(float(energies[1]) ** 0.5, bool(energies[1] > STEADY * energies[0]))]
