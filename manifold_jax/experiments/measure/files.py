"""Files and folders as points on a grid: the axes that the command line names."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from manifold_jax._checks import fits_in_memory
from manifold_jax.datasets.folders import image_folder
from manifold_jax.experiments.measure.formats import Content, kind_of, opened, read_cloud
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.sources import Rearranged


class Samples(NamedTuple):
    """Points on a grid that are to be measured, as a Manifold is.

    Attributes:
        name: What reports call it.
        points: Array ``(*grid.shape, *features)``, in memory or in a file.
        grid: The lattice.
        attributes: What reports record.
    """

    name: str
    points: Any
    grid: Grid
    attributes: Mapping[str, Any]


def is_address(name: str) -> bool:
    """Whether it is an address of fsspec, such as ``s3://bucket/points.zarr``."""
    return re.match(r"[A-Za-z][\w+.-]*://", name) is not None


AXIS_FORM = "NAME=START:STOP[:UNIT]"
_CHANNELS = (1, 3, 4)  # of images: grey, red, green and blue, or with an alpha channel

FILE_OPTIONS = {
    "array": ("axes", "axis", "periodic"),
    "variables": ("axes", "axis", "periodic", "variable"),
    "folder": ("axes", "periodic", "pattern", "table"),
    "cloud": ("dimension",),
}
"""Options of the command line that say what is in a file."""


class AxisOption(NamedTuple):
    """What ``--axis`` says of one axis; ends are None for the samples in the file."""

    name: str
    start: float | None = None
    stop: float | None = None
    unit: str = ""


def parse_axis(text: str) -> AxisOption:
    """Read ``name=start:stop[:unit]`` or ``name``.

    Example:
        >>> parse_axis("angle=0:180:deg")
        AxisOption(name='angle', start=0.0, stop=180.0, unit='deg')
    """
    name, equals, values = (piece.strip() for piece in text.partition("="))
    pieces = values.split(":", 2)
    try:
        if not name or (equals and len(pieces) < 2):
            raise ValueError
        if not equals:
            return AxisOption(name)
        start, stop = float(pieces[0]), float(pieces[1])
    except ValueError:
        raise ValueError(f"--axis takes name=start:stop[:unit], got {text!r}.") from None
    if not (math.isfinite(start) and math.isfinite(stop)) or start == stop:
        raise ValueError(f"--axis {name}: start and stop must be different numbers, got {text!r}.")
    return AxisOption(name, start, stop, "".join(pieces[2:]).strip())


def parse_periodic(options: Sequence[str]) -> dict[str, bool | float]:
    """Read ``name`` or ``name=period``, several of them.

    Example:
        >>> parse_periodic(["angle=180", "phase"])
        {'angle': 180.0, 'phase': True}
    """
    periods: dict[str, bool | float] = {}
    for text in options:
        name, equals, value = (piece.strip() for piece in text.partition("="))
        try:
            period = float(value) if equals else True
            if not name or name in periods or not 0 < period < math.inf:
                raise ValueError
        except ValueError:
            raise ValueError(f"--periodic takes name or name=period, each once, got {text!r}.") from None
        periods[name] = period
    return periods


def feature_dimensions(shape: Sequence[int]) -> int:
    """How many of the last dimensions look like those of a point: images, coloured or not, or a vector.

    Example:
        >>> [feature_dimensions(shape) for shape in ((20, 24, 16, 16), (20, 3, 16, 16), (500, 3))]
        [2, 3, 1]
    """
    if len(shape) > 3 and (shape[-1] in _CHANNELS or (shape[-3] in _CHANNELS and min(shape[-2:]) > 4)):
        return 3
    return 2 if len(shape) > 2 and min(shape[-2:]) > 4 else 1


def place_on_grid(
    content: Content,
    axes: Sequence[str] | None,
    given: Sequence[AxisOption],
    periods: Mapping[str, bool | float],
) -> tuple[Any, Grid, str]:
    """The array with the axes of its grid first, the grid, and a note if dimensions of points look like axes.

    Args:
        content: What a file holds.
        axes: Names of the dimensions that are axes, in order; by default those given, or those with samples.
        given: Axes: of dimensions with these names, or else of the first dimensions, in order.
        periods: Periodic axes.

    Raises:
        ValueError: Axes are missing, or do not fit the file.
    """
    shape, label = tuple(content.values.shape), content.label
    names = list(content.names or ("",) * len(shape))
    options = {option.name: option for option in given}
    if len(options) < len(given) or len(given) >= len(shape):
        most = f"each once, {len(shape) - 1} at most since features must be left"
        raise ValueError(f"--axis must name axes of {label} of shape {shape}, {most}; got {len(given)}.")
    by_name = all(option.name in names for option in given)
    if not by_name:
        names[: len(given)] = [option.name for option in given]
    sampled = {n for n, s in zip(names, shape, strict=True) if len(content.vectors.get(n, ())) == s}
    chosen = list(axes or (options if given and not by_name else ()))
    chosen = chosen or [n for n in names if n in options or n in sampled]
    if not chosen:
        asked = "name them in order, --axis name=start:stop[:unit] once for each, the rest being features"
        raise ValueError(f"{label} has the shape {shape} and no axes: {asked}; --cloud if it has no grid.")
    for option, asked in {"--axes": chosen, "--periodic": periods}.items():
        _known(option, asked, chosen if option == "--periodic" else [n for n in names if n], label)
    if len(chosen) == len(shape):
        what = f"all dimensions of {label} are axes, {', '.join(chosen)}: none is left for the features"
        raise ValueError(f"{what} of a point; name the axes, for example --axes {','.join(chosen[:-1])}.")
    order = [names.index(name) for name in chosen]
    grid = Grid(
        tuple(
            _axis(content, options.get(name), name, shape[k], periods.get(name, False))
            for name, k in zip(chosen, order, strict=True)
        )
    )
    order += [k for k in range(len(shape)) if k not in order]
    count = len(shape) - feature_dimensions([shape[k] for k in order])
    further = [f"{names[k] or k + 1} (of {shape[k]})" for k in order[len(chosen) : count]]
    note = _note_on(further, "--axes" if axes else "--axis NAME=START:STOP")
    flipped = [k for k, axis in enumerate(grid.axes) if axis.descending]
    grid = Grid(tuple(replace(axis, descending=False) for axis in grid.axes))
    # What is mapped in the order of Fortran would be copied as a whole.
    mapped = isinstance(content.values, np.memmap) and not content.values.flags.c_contiguous
    if flipped or mapped or order != sorted(order):
        return Rearranged(content.values, order, flipped), grid, note
    return content.values, grid, note


def _note_on(further: Sequence[str], option: str) -> str:
    """What is said of dimensions that were not named and look like axes."""
    if not further:
        return ""
    if len(further) == 1:
        what = "is taken as part of every point, but looks like an axis: if it is one, name it too"
        return f"Dimension {further[0]} {what}, with {option}."
    what = "are taken as parts of every point, but look like axes: if they are, name them too"
    return f"Dimensions {' and '.join(further)} {what}, with {option}."


def _known(option: str, asked: Collection[str], names: Sequence[str], label: str) -> None:
    for name in asked:
        if list(names).count(name) != 1 or list(asked).count(name) != 1:
            raise ValueError(f"{option} names {name!r}; {label} has {', '.join(names) or 'no names'}.")


def _axis(content: Content, option: AxisOption | None, name: str, size: int, period: bool | float) -> Axis:
    unit = option.unit if option and option.unit else content.units.get(name, "")
    if option is None or option.start is None or option.stop is None:
        samples = content.vectors.get(name, np.zeros(0))
        if len(samples) != size:
            got = f"{len(samples)} samples" if len(samples) else "none"
            remedy = f"give --axis {name}=start:stop"
            raise ValueError(f"{content.label} has {got} for the {size} points of the axis {name}: {remedy}.")
    else:
        length = abs(option.stop - option.start)
        # The end of a period is the first sample again, and no sample of its own.
        closed = period is True or (period and math.isclose(period, length))
        samples = np.linspace(option.start, option.stop, size, endpoint=not closed)
        period = length if closed else period
    try:
        return Axis.from_samples(name, samples, period, unit)
    except ValueError as error:
        raise ValueError(f"{content.label}: {error}") from None


class Cloud(NamedTuple):
    """Points without a grid.

    Attributes:
        name: What reports call it.
        points: Array ``(n, features)`` in memory.
        dimension: That of the manifold, if it was given.
    """

    name: str
    points: np.ndarray
    dimension: int | None


def check_file_options(path: Path | str, options: Mapping[str, Any]) -> str:
    """What kind of file or folder it is; options that it does not take are refused."""
    kind = kind_of(path)
    known = FILE_OPTIONS[kind]
    if options.get("cloud"):
        known = ("cloud", "dimension", *(("variable",) if kind == "variables" else ()))
    elif kind == "cloud":
        known = ("cloud", *known)
    for option in options:
        if option not in known or (option == "cloud" and kind == "folder"):
            raise ValueError(f"--{option} does not apply to {path}, which takes --{', --'.join(known)}.")
    return kind


def load(
    path: Path | str, options: Mapping[str, Any], files: contextlib.ExitStack, progress: Any = None
) -> Samples | Cloud:
    """What a file, folder or address holds, by the options of the command line; open as long as the stack.

    Raises:
        ValueError: It cannot be read, or the options do not fit what it holds.
    """
    kind = check_file_options(path, options)
    if kind == "cloud":
        path = Path(path)
        return Cloud(path.name, read_cloud(path), options.get("dimension"))
    periods = parse_periodic(options.get("periodic", ()))
    if kind == "folder":
        path = Path(path)
        chosen = {"pattern": options.get("pattern"), "factors": options.get("axes")}
        table = options.get("table")
        images, grid, notes = image_folder(path, table, **chosen, periodic=periods, progress=progress)
        length = "distance between images, the root of summed squared differences of grey levels (white is 1)"
        attributes = {"source": str(path), "length": length, "note": " ".join(notes)}
        return Samples(path.resolve().name, images, grid, attributes)
    content = files.enter_context(opened(path, options.get("variable")))
    if options.get("cloud"):
        fits_in_memory("measure", content.label, 8 * math.prod(content.values.shape))
        points = np.asarray(content.values[:])
        return Cloud(content.label, points.reshape(len(points), -1), options.get("dimension"))
    points, grid, note = place_on_grid(
        content, options.get("axes"), [parse_axis(text) for text in options.get("axis", ())], periods
    )
    length = f"that of the numbers in the file ({content.values.dtype})"
    if content.values.dtype == np.float64 != jnp.result_type(float):
        length += ", computed in float32; --x64 keeps all digits"
    attributes = {"source": f"{path}: {content.label}", "length": length} | ({"note": note} if note else {})
    return Samples(content.label, points, grid, attributes)
