"""Labelled data sets on disk: NetCDF files and Zarr folders, written aside and renamed."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MARKS = (".zgroup", "zarr.json")
"""One of these files lies in every Zarr folder."""


def require(module: str, extra: str) -> Any:
    """Import a package that only an extra installs.

    Raises:
        ImportError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'Labelled results in this form need {module}: pip install "manifold_jax[{extra}]".'
        ) from error


def _engine(path: Path) -> str:
    """The engine that reads and writes files of this name; its package is installed."""
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"Results are saved as .nc (NetCDF) or .zarr, got {path.name!r}.")
    engine, extra = ("zarr", "zarr") if path.suffix == ".zarr" else ("h5netcdf", "report")
    require(engine, extra)
    return engine


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_dataset(dataset: Any, path: str | Path) -> Path:
    """Write an ``xarray.Dataset`` aside and rename it, so that a half-written one never takes the name.

    Args:
        dataset: What to write.
        path: File (``.nc``) or folder (``.zarr``); an earlier result there is replaced.

    Returns:
        The path.

    Raises:
        ValueError: The suffix is unknown, the folder cannot be written, or something else is at ``path``.
        ImportError: The package for this format is not installed.
    """
    path = Path(path)
    engine = _engine(path)
    aside = path.with_name(f".{path.stem}.tmp{path.suffix}")
    with _refusing(path):
        if engine == "zarr" and path.exists() and not any((path / mark).exists() for mark in _MARKS):
            raise ValueError(f"Cannot write {path}: what is there is no Zarr folder; choose another name.")
        path.parent.mkdir(parents=True, exist_ok=True)
        if engine == "zarr":
            # Format 2: format 3 has neither strings of fixed length nor consolidated metadata yet.
            dataset.to_zarr(aside, mode="w", zarr_format=2)
            _replace_folder(aside, path)
        else:
            dataset.to_netcdf(aside, engine=engine)
            aside.replace(path)
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


def read_dataset(path: str | Path) -> Any:
    """Read an ``xarray.Dataset`` whole.

    Args:
        path: File (``.nc``) or folder (``.zarr``).

    Returns:
        The data set, in memory.

    Raises:
        ValueError: There is no such file, or it cannot be read.
        ImportError: The package for this format is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"There is no saved geometry at {path}.")
    xarray, engine = require("xarray", "report"), _engine(path)
    try:
        with xarray.open_dataset(path, engine=engine) as dataset:
            return dataset.load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no readable NetCDF or Zarr file: measure again and save it.") from error
