"""Folders of images with the values of their factors, in a table or in the names of the files."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import manifold_jax.datasets.archives as archives
from manifold_jax._checks import checked_function, fits_in_memory, optional, shown, text
from manifold_jax._files import Progress, user_path
from manifold_jax.datasets.dsprites import ImageLattice
from manifold_jax.datasets.pictures import read_image
from manifold_jax.geometry.grid import Axis, Grid, named_periods

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
TABLES = (".csv", ".tsv", ".json")

_FILE = ("file", "filename", "file_name", "path", "filepath", "image", "name")
_UNIT = re.compile(r"(.+?)\s*[\[(]([^\])]*)[\])]")
_NUMBER = r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
EQUAL = 1e-7  # of the range of a factor, by which two of its values may differ and be one

Row = dict[str, Any]


def image_folder(
    path: str | os.PathLike[str],
    table: str | os.PathLike[str] | None = None,
    *,
    pattern: str | None = None,
    factors: Sequence[str] | None = None,
    periodic: Mapping[str, bool | float] | Iterable[str] = (),
    progress: Progress | None = None,
) -> ImageLattice:
    """Read images whose factors take every combination of their values once, in float32.

    PNG, JPEG and TIFF are read: grey or RGB of 8 bits, palettes (as RGB), black and white, grey of 16 bits,
    and grey floats, which stay as they are; of all others white is 1. Opaque alpha channels are dropped.

    Args:
        path: The folder.
        table: CSV, TSV or JSON with a column of file names and columns of numbers, the factors; a heading
            ``angle [deg]`` holds a unit. JSON is a list of records, an object of columns, or an object of
            records by file name. By default the only such file in the folder.
        pattern: Instead of a table, names with factors: ``"{angle}_{shift}.png"``, also with folders.
        factors: Those that vary, in the order of the axes; by default all, in the order of the table.
        periodic: Names of periodic factors, or their periods by name.
        progress: Called as ``progress(images read, images)``.

    Raises:
        FileNotFoundError: There is no such folder or table, or a file that the table names.
        ValueError: Combinations of factors are missing or double, values have unequal steps, images differ in
            size or kind, or a file is damaged; or all images together do not fit into the memory.
        ImportError: Pillow is not installed.

    Example:
        >>> import tempfile, pathlib
        >>> from PIL import Image
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for angle in range(0, 360, 30):
        ...     Image.new("L", (8, 8), angle // 2).save(folder / f"{angle}.png")
        >>> pictures = image_folder(folder, pattern="{angle}.png", periodic={"angle": 360})
        >>> pictures.points.shape, pictures.grid.axes[0].stop
        ((12, 8, 8), 360.0)
    """
    optional(checked_function, "image_folder", "progress", progress)
    folder = user_path(path)
    files, columns, notes = list_images(folder, table, pattern)
    grid, order, more = lattice_of(files, columns, factors, periodic)
    images = _read_images([files[k] for k in order], grid, progress)
    return ImageLattice(images, grid, (*notes, *more))


def list_images(
    folder: Path, table: str | os.PathLike[str] | None = None, pattern: str | None = None
) -> tuple[list[Path], dict[str, np.ndarray], list[str]]:
    """Files, the columns of numbers that belong to them, and what was left out; see :func:`image_folder`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"image_folder: path must be a folder, there is none at {folder}.")
    optional(text, "image_folder", "pattern", pattern)
    if table is not None and pattern is not None:
        raise ValueError("image_folder: table and pattern both tell the factors: give one of them.")
    if pattern is not None:
        return _match(folder, pattern)
    return _read_table(folder, _only_table(folder) if table is None else user_path(table, "table"))


def _only_table(folder: Path) -> Path:
    tables = sorted(file for file in folder.iterdir() if _ends_with(file, TABLES) and file.is_file())
    if len(tables) == 1:
        return tables[0]
    pictures = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if _is_image(f))
    if not pictures:
        raise ValueError(f"image_folder: {folder} holds no PNG, JPEG or TIFF images.")
    many = f"{len(tables)} tables ({', '.join(t.name for t in tables)})" if tables else "no table of factors"
    names = f"or the pattern of names like {pictures[0]}, {pattern_of(pictures[0])}"
    raise ValueError(
        f"image_folder: {folder} holds {many}: give one (CSV or JSON; --table), {names} (--pattern)."
    )


def pattern_of(name: str) -> str:
    """A pattern that a name follows, every number in it a factor with the word before it.

    Example:
        >>> pattern_of("zoom0.60_angle030.png"), pattern_of("7-12.png")
        ('zoom{zoom}_angle{angle}.png', '{factor1}-{factor2}.png')
    """
    names: list[str] = []

    def factor(match: re.Match[str]) -> str:
        word = match[1] if match[1] and match[1] not in names else f"{match[1] or 'factor'}{len(names) + 1}"
        names.append(word)
        return f"{match[1]}{match[2]}{{{word}}}"

    stem, dot, suffix = name.rpartition(".")
    number = rf"(?:(?<!\d)|(?![-+])){_NUMBER}"  # after a digit a minus is a hyphen
    return re.sub(rf"([A-Za-z]*)([_=]?){number}", factor, stem) + dot + suffix


def _ends_with(path: Path, suffixes: Sequence[str]) -> bool:
    """Whether a file has one of the suffixes and is not hidden, as systems leave them next to others."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def _is_image(path: Path) -> bool:
    return _ends_with(path, SUFFIXES)


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV, TSV or JSON table, by the headings of its columns.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"image_folder: table must be a CSV or JSON file, there is none at {path}.")
    try:
        text = archives.read_file(path).decode("utf-8-sig")
        rows = _json_rows(json.loads(text)) if path.suffix.lower() == ".json" else _csv_rows(text)
    except (ValueError, OSError, RecursionError, csv.Error, archives.zipfile.BadZipFile) as error:
        raise ValueError(f"image_folder: {path} is not a table ({error}).") from error
    if not rows:
        raise ValueError(f"image_folder: {path} has no rows.")
    return rows


def _csv_rows(text: str) -> list[Row]:
    lines = [line for line in text.splitlines() if line.strip("\t;, ")]
    delimiter = delimiter_of(lines[0]) if lines else ","
    table = csv.reader(lines, delimiter=delimiter)
    header, *rows = [[cell.strip() for cell in row] for row in table] or [[]]
    double = next((heading for heading in header if heading and header.count(heading) > 1), None)
    if double:
        raise ValueError(f"two columns are called {double!r}")
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"the row {delimiter.join(row)!r} has {len(row)} cells, not {len(header)}")
    if delimiter == ";":  # as spreadsheets write it where numbers have decimal commas
        rows = [[re.sub(r"^([-+]?\d+),(\d+)$", r"\1.\2", cell) for cell in row] for row in rows]
    return [dict(zip(header, row, strict=True)) for row in rows]


def delimiter_of(line: str) -> str:
    """What separates the cells of a line: tabs, or else semicolons, or else commas."""
    return next((mark for mark in "\t;" if mark in line), ",")


def _json_rows(content: Any) -> list[Row]:
    if isinstance(content, dict) and content:
        if all(isinstance(column, list) for column in content.values()):
            return [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
        if all(isinstance(row, dict) for row in content.values()):
            return [{"file": name} | row for name, row in content.items()]
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        if any(row.keys() != content[0].keys() for row in content):
            raise ValueError("its records have different keys")
        return content
    raise ValueError("expected a list of records, an object of columns or an object of records")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _read_table(folder: Path, table: Path) -> tuple[list[Path], dict[str, np.ndarray], list[str]]:
    """Files, columns of numbers, and what was left out."""
    rows = read_rows(table)
    names = [str(name) for name in rows[0]]
    by_ending = [n for n in names if all(str(row.get(n)).lower().endswith(SUFFIXES) for row in rows)]
    by_name = [name for name in names if name.strip().lower() in _FILE]
    file_column = next(iter([*(n for n in by_name if n in by_ending), *by_ending, *by_name]), None)
    if file_column is None:
        expected = "a column called file with the names of the images"
        raise ValueError(f"image_folder: {table} must have {expected}, its columns are {', '.join(names)}.")
    files = [folder / str(row[file_column]) for row in rows]
    missing = [file for file in files if not file.is_file()]
    if missing:
        got = f"{len(missing)} of {len(files)} files do not exist, first {missing[0]}"
        raise FileNotFoundError(f"image_folder: {table} names files in {folder}, of which {got}.")
    columns, notes = {}, []
    for name in names:
        values = [_number(row[name]) for row in rows]
        if name == file_column:
            continue
        if all(value is None for value in values):
            notes.append(f"The column {name} of {table.name} holds no numbers and is left out.")
            continue
        bad = next((k for k, value in enumerate(values) if value is None or not math.isfinite(value)), None)
        if bad is not None:
            got = f"{rows[bad][name]!r} for {files[bad].name}"
            raise ValueError(f"image_folder: the factor {name} of {table} must be finite numbers, got {got}.")
        columns[name] = np.array(values, float)
    others = len({f for f in folder.iterdir() if _is_image(f)} - set(files))
    notes += [f"{others} images that {table.name} does not name are left out."] if others else []
    return files, columns, notes


def _match(folder: Path, pattern: str) -> tuple[list[Path], dict[str, np.ndarray], list[str]]:
    """Files whose names follow a pattern, the numbers in them, and what was left out."""
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    names = [name.strip() for name in pieces[1::2]]
    if not names or not all(names) or len(set(names)) < len(names) or "" in pieces[2:-1:2]:
        wanted = "names of factors in braces, each once, with something in between: {angle}_{shift}.png"
        raise ValueError(f"image_folder: pattern must hold {wanted}, got {pattern!r}.")
    expression = re.compile("".join(re.escape(p) if k % 2 == 0 else _NUMBER for k, p in enumerate(pieces)))
    pictures = sorted(file for file in folder.rglob("*") if _is_image(file))
    matches = [expression.fullmatch(file.relative_to(folder).as_posix()) for file in pictures]
    files = [file for file, match in zip(pictures, matches, strict=True) if match]
    if not files:
        got = f"{len(pictures)} images" + (f" such as {pictures[0].name}" if pictures else "")
        raise ValueError(f"image_folder: no name of an image in {folder} follows {pattern!r}, of {got}.")
    rows = np.array([[float(x) for x in match.groups()] for match in matches if match])
    others = len(pictures) - len(files)
    notes = [f"{others} images whose names do not follow {pattern} are left out."] if others else []
    return files, dict(zip(names, rows.T, strict=True)), notes


def lattice_of(
    files: Sequence[Path],
    columns: Mapping[str, np.ndarray],
    factors: Sequence[str] | None = None,
    periodic: Mapping[str, bool | float] | Iterable[str] = (),
) -> tuple[Grid, np.ndarray, list[str]]:
    """The grid, the position in ``files`` of every point of it, and what was left out."""
    named, unit_of = {}, {}
    for heading, values in columns.items():
        match = _UNIT.fullmatch(heading)
        name = match[1] if match else heading
        if name in named:
            raise ValueError(f"image_folder: a factor must have one column, got two of {name}.")
        named[name], unit_of[name] = values, match[2] if match else ""
    known = f"the factors are {', '.join(named) or 'none'}"
    if not isinstance(factors, str | list | tuple | None):
        raise ValueError(f"image_folder: factors must be a sequence of names, got {shown(factors)}.")
    chosen = [factors] if isinstance(factors, str) else list(named if factors is None else factors)
    periods = named_periods("image_folder", periodic)
    for argument, asked in {"factors": chosen, "periodic": periods}.items():
        wrong = [name for name in asked if name not in named]
        if wrong or len(set(asked)) < len(asked):
            got = repr(wrong[0] if wrong else tuple(asked))
            raise ValueError(f"image_folder: {argument} must name factors, each once, got {got}; {known}.")
    axes, indices, notes = [], [], []
    for name in chosen:
        samples, index = _distinct(named[name])
        if len(samples) == 1:
            notes.append(f"The factor {name} does not vary ({samples[0]:g}) and is left out.")
            continue
        axes.append((name, samples))
        indices.append(index)
    if not axes:
        raise ValueError(f"image_folder: no factor varies; {known}.")
    order = _order(files, axes, indices)
    grid = Grid(tuple(Axis.from_samples(n, s, periods.get(n, False), unit_of[n]) for n, s in axes))
    return grid, order, notes


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending values without repeats, those equal to rounding being one, and which of them each is."""
    unique, place = np.unique(values, return_inverse=True)
    new = np.diff(unique, prepend=-np.inf) > EQUAL * (unique[-1] - unique[0])
    return unique[new], (np.cumsum(new) - 1)[place.ravel()]


def _order(
    files: Sequence[Path], axes: Sequence[tuple[str, np.ndarray]], indices: Sequence[np.ndarray]
) -> np.ndarray:
    """Which file belongs to every combination; all must be there once."""
    shape = tuple(len(samples) for _, samples in axes)
    places = list(zip(*(index.tolist() for index in indices), strict=True))
    lattice = " x ".join(f"{n} {name}" for n, (name, _) in zip(shape, axes, strict=True))
    place: dict[tuple[int, ...], int] = {}
    double = [(k, place[at]) for k, at in enumerate(places) if place.setdefault(at, k) != k]

    def words(at: tuple[int, ...]) -> str:
        return ", ".join(f"{name} = {samples[k]:g}" for k, (name, samples) in zip(at, axes, strict=True))

    faults = []
    if missing := math.prod(shape) - len(place):
        first = next(at for at in itertools.product(*map(range, shape)) if at not in place)
        faults.append(f"{missing} are missing, first {words(first)}")
    if double:
        k, other = double[0]
        pair = f"{files[other].name} and {files[k].name}"
        faults.append(f"{len(double)} are double, first {words(places[k])} ({pair})")
    if faults:
        every = f"there must be one image for every combination of factors ({lattice})"
        remedy = "choose the factors (--axes, factors=) or complete the images"
        raise ValueError(f"image_folder: {every}, of which {' and '.join(faults)}: {remedy}.")
    return np.array([place[at] for at in itertools.product(*map(range, shape))])


def _read_images(files: Sequence[Path], grid: Grid, progress: Progress | None) -> np.ndarray:
    first, picture = read_image(files[0])
    fits_in_memory("image_folder", f"{len(files)} images", 4 * len(files) * picture.size)
    images = np.empty((len(files), *picture.shape), np.float32)
    for k, file in enumerate(files):
        mode, picture = read_image(file)
        kinds: Any = ((mode, picture.shape), (first, images.shape[1:]))
        if kinds[0] != kinds[1]:
            got, wanted = (f"{shape[1]} x {shape[0]} pixels, {mode}" for mode, shape in kinds)
            pair = f"{file} ({got}) and {files[0].name} ({wanted})"
            raise ValueError(f"image_folder: all images must have one size and kind, got {pair}.")
        images[k] = picture
        if progress is not None:
            progress(k + 1, len(files))
    return images.reshape(*grid.shape, *images.shape[1:])
