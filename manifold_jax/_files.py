"""Files written aside and renamed, labelled data sets, partial results of long work."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manifold_jax._checks import require

Progress = Callable[[int, int], None]
"""Called with the number of points (or steps) done and the number of all."""

SAVE_EVERY = 10.0
"""Seconds between two saves of a partial result."""

_ENGINES = {".nc": ("h5netcdf", "report"), ".zarr": ("zarr", "zarr")}
"""The engine that reads and writes data sets of this suffix, and the extra that installs it."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name to write to, next to ``path``; what is there takes the name ``path`` when the block ends well.

    A half-written file never takes the name, and none is left behind. A folder replaces a folder. There is a
    ValueError if the place cannot be written.
    """
    path = Path(path)
    aside = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        if aside.is_dir():
            _replace_folder(aside, path)
        else:
            aside.replace(path)
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        elif aside.exists():
            aside.unlink()


def make_folder(folder: Path) -> None:
    """Make sure that there is such a folder, and that files can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"Cannot write to the folder {folder}: {error.strerror or error}.") from None


def write_text(path: Path, text: str) -> Path:
    """Write a text file aside and rename it."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path


def _replace_folder(new: Path, path: Path) -> None:
    """Rename a folder over another: the old one steps aside first, and comes back if that fails."""
    if not path.exists():
        new.rename(path)
        return
    old = path.with_name(f".{path.stem}.old{path.suffix}")
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _engine(path: Path) -> str:
    """The engine for files of this name; its package is installed."""
    if path.suffix not in _ENGINES:
        raise ValueError(f"Results are saved as .nc (NetCDF) or .zarr, got {path.name!r}.")
    engine, extra = _ENGINES[path.suffix]
    require(engine, extra, f"A {path.suffix} file")
    return engine


def write_dataset(dataset: Any, path: str | Path) -> Path:
    """Write an ``xarray.Dataset`` to a file (``.nc``) or folder (``.zarr``), in place of an earlier result.

    There is a ValueError if the suffix is unknown, the place cannot be written, or something else is there.
    """
    path = Path(path)
    engine = _engine(path)
    marks = (path / ".zgroup", path / "zarr.json")  # one of these lies in every Zarr folder
    if engine == "zarr" and path.exists() and not any(mark.exists() for mark in marks):
        raise ValueError(f"Cannot write {path}: what is there is not a Zarr folder; choose another name.")
    with replacing(path) as aside:
        if engine == "zarr":
            # Format 2: format 3 has neither strings of fixed length nor consolidated metadata yet.
            dataset.to_zarr(aside, mode="w", zarr_format=2)
        else:
            dataset.to_netcdf(aside, engine=engine)
    return path


def read_dataset(path: str | Path) -> Any:
    """Read an ``xarray.Dataset`` into memory, from a file (``.nc``) or folder (``.zarr``)."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"There is no saved geometry at {path}.")
    xarray, engine = require("xarray", "report", "A labelled result"), _engine(path)
    try:
        with xarray.open_dataset(path, engine=engine) as dataset:
            return dataset.load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a whole {path.suffix} file: measure again and save it.") from error


def fingerprint(points: Any, probe: np.ndarray, *parts: Any) -> str:
    """Sixteen hexadecimal digits that tell one measurement from another.

    Functions have no identity across processes, so they (``points`` is None then) are told apart by what they
    return, ``probe``. ``parts`` is everything else that matters, with a stable ``repr``.
    """
    digest = hashlib.sha256(repr(parts).encode())
    digest.update(np.ascontiguousarray(probe).tobytes())
    if isinstance(points, np.memmap):
        status = os.stat(str(points.filename))
        digest.update(repr((status.st_size, status.st_mtime_ns)).encode())
    elif points is not None:
        digest.update(np.ascontiguousarray(points).tobytes())
    return digest.hexdigest()[:16]


class PartialResult:
    """Fields of the finished blocks, in one file that is replaced as a whole.

    ``key`` is the fingerprint of the measurement: a file with another key is ignored.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"partial-{key}.npz"
        self.saved = time.monotonic()
        make_folder(folder)

    def load(self) -> tuple[list[list[np.ndarray]], int]:
        """Leaves of what is done, and how many items that is."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                count = len(data.files) - 1
                return [[data[f"leaf{k}"] for k in range(count)]], int(data["done"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return [], 0  # missing or damaged: begin again

    def save(self, leaves: list[list[np.ndarray]], done: int) -> None:
        """Write what is done, unless that was just done."""
        if time.monotonic() - self.saved < SAVE_EVERY:
            return
        merged = [np.concatenate(column) for column in zip(*leaves, strict=True)]
        leaves[:] = [merged]
        named: dict[str, Any] = {f"leaf{k}": leaf for k, leaf in enumerate(merged)}
        with replacing(self.path) as aside:
            np.savez(aside, done=done, **named)
        self.saved = time.monotonic()

    def remove(self) -> None:
        """Forget the intermediate results: the measurement is complete."""
        self.path.unlink(missing_ok=True)
