"""Files written aside and renamed, labelled data sets, partial results of long work, where data are found."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from manifold_jax._checks import require

Progress = Callable[[int, int], None]
"""Called with the number of points (or steps) done and the number of all."""

SAVE_EVERY = 10.0
"""Seconds between two saves of a partial result."""

VARIABLE = "MANIFOLD_JAX_DATA"
"""Environment variable that names the folder (or file) in which data are looked for."""

_ZARR_MARKS = (".zgroup", "zarr.json")
"""One of these files lies in every Zarr folder."""

# --- written aside, then renamed -------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name to write to, next to ``path``; what is there takes the name ``path`` when the block ends well.

    A half-written file never takes the name, and none is left behind. A folder replaces a folder.

    Raises:
        ValueError: The place cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as aside:
        ...         size = aside.write_text("whole")
        ...     [place.name for place in Path(folder).iterdir()]
        ['a.txt']
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


# --- labelled data sets ----------------------------------------------------------------------------------


def _engine(path: Path) -> str:
    """The engine that reads and writes files of this name; its package is installed."""
    if path.suffix not in (".nc", ".zarr"):
        raise ValueError(f"Results are saved as .nc (NetCDF) or .zarr, got {path.name!r}.")
    engine, extra = ("zarr", "zarr") if path.suffix == ".zarr" else ("h5netcdf", "report")
    require(engine, extra, f"A {path.suffix} file")
    return engine


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
    if engine == "zarr" and path.exists() and not any((path / mark).exists() for mark in _ZARR_MARKS):
        raise ValueError(f"Cannot write {path}: what is there is no Zarr folder; choose another name.")
    with replacing(path) as aside:
        if engine == "zarr":
            # Format 2: format 3 has neither strings of fixed length nor consolidated metadata yet.
            dataset.to_zarr(aside, mode="w", zarr_format=2)
        else:
            dataset.to_netcdf(aside, engine=engine)
    return path


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
    xarray, engine = require("xarray", "report", "A labelled result"), _engine(path)
    try:
        with xarray.open_dataset(path, engine=engine) as dataset:
            return dataset.load()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no readable NetCDF or Zarr file: measure again and save it.") from error


# --- partial results -------------------------------------------------------------------------------------


def fingerprint(points: Any, probe: np.ndarray, *parts: Any) -> str:
    """Short digest of a measurement; another digest means another measurement.

    Functions have no identity across processes, so they are told apart by what they return.

    Args:
        points: Array of points, or None where they are a function.
        probe: Values of the points at some places.
        parts: Everything else that matters, with a stable ``repr``.

    Returns:
        Sixteen hexadecimal digits.
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
    """Fields of the finished blocks, in one file that is replaced atomically.

    Args:
        folder: Where the file is kept; created if missing.
        key: Fingerprint of the measurement; a file with another key is ignored.

    Raises:
        ValueError: The folder cannot be written.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"partial-{key}.npz"
        self.saved = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"Cannot write to the folder {folder}: {error.strerror or error}.") from error
        if not os.access(folder, os.W_OK):
            raise ValueError(f"Cannot write to the folder {folder}: permission denied.")

    def load(self) -> tuple[list[list[np.ndarray]], int]:
        """Leaves of what is done, and how many items that is."""
        if not self.path.exists():
            return [], 0
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                count = len(data.files) - 1
                return [[data[f"leaf{k}"] for k in range(count)]], int(data["done"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return [], 0  # damaged: begin again

    def save(self, leaves: list[list[np.ndarray]], done: int) -> None:
        """Write what is done, unless that was just done."""
        if time.monotonic() - self.saved < SAVE_EVERY:
            return
        merged = [np.concatenate(column) for column in zip(*leaves, strict=True)]
        leaves[:] = [merged]
        named: dict[str, Any] = {f"leaf{k}": leaf for k, leaf in enumerate(merged)}
        with replacing(self.path) as aside, aside.open("wb") as file:
            np.savez(file, done=done, **named)
        self.saved = time.monotonic()

    def remove(self) -> None:
        """Forget the intermediate results: the measurement is complete."""
        self.path.unlink(missing_ok=True)


# --- where data are found --------------------------------------------------------------------------------


def given_place(path: str | os.PathLike[str] | None) -> tuple[Path | None, str]:
    """The place that the caller or the environment names, and how to call it in a message.

    Args:
        path: A file or folder, or None for the place that MANIFOLD_JAX_DATA names.

    Returns:
        The place, None if neither names one, and ``"path"`` or ``"MANIFOLD_JAX_DATA"``.

    Raises:
        TypeError: ``path`` is not a path.
        FileNotFoundError: The place does not exist.

    Example:
        >>> given_place(".")[1]
        'path'
    """
    if path is None:
        text, source = os.environ.get(VARIABLE, ""), VARIABLE
    elif isinstance(path, str | os.PathLike):
        text, source = os.fspath(path), "path"
    else:
        raise TypeError(f"path must be a file or folder name or None, got {path!r}.")
    if not text:
        return None, source
    place = Path(text).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{source} names {place}, which does not exist.")
    return place, source


def find(path: str | os.PathLike[str] | None, names: Sequence[str], pattern: str, wanted: str) -> Path | None:
    """An archive, or the folder of what is in it.

    Args:
        path: As for :func:`given_place`: the archive or folder itself, or a folder that holds it.
        names: What the archive and its folder are called, in the order in which they are tried.
        pattern: Pattern of the names of the files in the folder.
        wanted: What a message says is missing, and where to get it.

    Returns:
        The archive or folder; None where neither is named, or MANIFOLD_JAX_DATA does not hold it.

    Raises:
        TypeError: As :func:`given_place`.
        FileNotFoundError: ``path`` does not exist, or holds neither.
    """
    place, source = given_place(path)
    if place is None or place.is_file():
        return place
    for candidate in (*(place / name for name in names), place):
        if candidate.is_file() or any(candidate.glob(pattern)):
            return candidate
    if source == "path":
        raise FileNotFoundError(f"{place} holds no {wanted}")
    return None


_DAMAGE = (
    *(gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error),
    *(EOFError, NotImplementedError, RuntimeError),
)
"""What the standard library raises for archives that are truncated, damaged, encrypted or of another kind."""


def read_members(place: Path, names: Sequence[str], remedy: str) -> list[bytes]:
    """Contents of files in a folder, or anywhere in a zip or tar archive; gzipped ones are decompressed.

    Args:
        place: The folder or archive; one whose name ends in ``.zip`` is opened as a zip file.
        names: What the files are called, without folders and without the ``.gz`` that may follow.
        remedy: What a message says is to be done about a bad place.

    Returns:
        The contents, in the order of the names.

    Raises:
        FileNotFoundError: Some of the files are missing.
        ValueError: The archive, or a gzipped file, is truncated, damaged or of another kind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = (Path(folder) / "a.txt.gz").write_bytes(gzip.compress(b"text"))
        ...     read_members(Path(folder), ["a.txt"], "pack it again.")
        [b'text']
    """
    contents, at = [], place
    try:
        with contextlib.ExitStack() as opened:
            readers = _readers(place, opened)
            members = [name if name in readers else f"{name}.gz" for name in names]
            missing = [name for name, member in zip(names, members, strict=True) if member not in readers]
            if missing:
                raise FileNotFoundError(
                    f"{place} lacks {len(missing)} of {len(names)} files, first {missing[0]}: {remedy}"
                )
            for member in members:
                at = place / member if place.is_dir() else place
                content = readers[member]()
                contents.append(gzip.decompress(content) if member.endswith(".gz") else content)
    except _DAMAGE as error:
        raise ValueError(f"{at} is not a whole archive ({error}): {remedy}") from error
    return contents


def _readers(place: Path, opened: contextlib.ExitStack) -> dict[str, Callable[[], bytes]]:
    """A function that reads it for every file of a folder or archive, by its name without folders."""
    if place.is_dir():
        return {file.name: file.read_bytes for file in place.iterdir() if file.is_file()}
    if place.suffix.lower() == ".zip":
        archive = opened.enter_context(zipfile.ZipFile(place))
        return {re.split(r"[/\\]", name)[-1]: partial(archive.read, name) for name in archive.namelist()}
    tape = opened.enter_context(tarfile.TarFile.open(place, "r:*"))
    files = ((member.name, tape.extractfile(member)) for member in tape)
    return {Path(name).name: file.read for name, file in files if file is not None}


def download(url: str, checksum: str, name: str) -> Path:
    """Download a file once into the user's cache folder.

    The file is written aside, compared with its checksum and only then moved to its place, so the cache
    never holds half a file.

    Args:
        url: Where the file is.
        checksum: Its digest as ``"sha256:..."`` or ``"md5:..."``.
        name: Its name in the cache.

    Returns:
        The cached file.

    Raises:
        ImportError: pooch is not installed.
        ValueError: What arrived does not match the checksum.
        FileNotFoundError: Nothing arrived, or the cache cannot be written.
    """
    by_hand = f"fetch {url} by hand and pass its path or set {VARIABLE}."
    pooch = require("pooch", "data", f"Downloading {name} (or {by_hand[:-1]})")
    folder = pooch.os_cache("manifold_jax")
    try:
        return Path(pooch.retrieve(url, known_hash=checksum, fname=name, path=folder))
    except ValueError as error:
        raise ValueError(
            f"What arrived from {url} is not {name} as recorded ({checksum}); nothing was kept. "
            f"Try again, or {by_hand}"
        ) from error
    except OSError as error:
        raise FileNotFoundError(
            f"{name} is not on this machine and could not be downloaded to {folder} "
            f"({type(error).__name__}): {by_hand}"
        ) from error
