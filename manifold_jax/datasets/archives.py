"""Where files of data sets are found, and what is in them: a folder, a zip or tar file, or a download.

Nothing is unpacked to disk and nothing is executed. No file, member or tar archive of more than ``LARGEST``
bytes is read, whatever its header says, and what has checksums is read to the end.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from manifold_jax._checks import require
from manifold_jax._files import user_path

Place = str | os.PathLike[str] | None
"""A file or folder, or None for what MANIFOLD_JAX_DATA names."""

Content = bytes | bytearray
"""What is in a file."""

Names = Sequence[str]
"""What one file may be called."""

VARIABLE = "MANIFOLD_JAX_DATA"
"""Environment variable that names the folder (or file) in which data are looked for."""

LARGEST = 640 * 2**20
"""Bytes of the largest file that is read; the largest of a known data set has 547 MB (EMNIST by class)."""

_CHUNK = 2**20
_EXPANSION = 1032  # bytes that one byte of deflate can hold
_DEPTH, _FOLDERS = 2, 1000  # levels of folders that are looked through, and folders of a level

Listing = dict[str, list[Callable[[], bytearray]]]
"""For every name of a file, functions that read those that bear it."""

_DAMAGE = (
    *(gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, KeyError, OSError),
)
"""What the standard library raises for archives that are truncated, damaged, encrypted or of another kind."""


def find(
    path: Place, names: Names, wanted: Sequence[Names], title: str, url: str, *, deep: bool = False
) -> Path | None:
    """An archive, or the folder of what is in it; None if no place is named or MANIFOLD_JAX_DATA lacks it.

    Args:
        path: The archive or folder, or a folder that holds it, up to two levels down.
        names: What the archive and its folder are called, in the order in which they are tried.
        wanted: Files in it, as for :func:`read_members`; a folder that has one of them will do.
        title: What a message calls the data set.
        url: Where it says to get it.
        deep: Files in folders of ``path`` will do as well: no other data set has files of these names.

    Raises:
        ValueError: ``path`` is not a path.
        FileNotFoundError: The place does not exist, or ``path`` holds neither archive nor folder.
    """
    source, text = (VARIABLE, os.environ.get(VARIABLE, "")) if path is None else ("path", path)
    if text == "":
        return None
    place = user_path(text)
    if not os.path.exists(place):
        raise FileNotFoundError(f"{source} names {place}, which does not exist.")
    if os.path.isfile(place) and source == "path":
        return place
    first, *deeper = [folder for level in _levels(place) for folder in level] or [place]
    candidates = [(first / name, True) for name in names] + [(place, False), (place / "raw", False)]
    candidates += [(folder / name, True) for folder in deeper for name in names]
    candidates += [(place, True)] if deep and source == "path" else []
    for candidate, inside in candidates:
        # The variable is one for all data sets: a file that it names may be the archive of another one.
        if (os.path.isfile(candidate) and candidate.name in names) or _holds(candidate, wanted, inside):
            return candidate
    if source == "path":
        expected = f"{', '.join(names)} or files like {' or '.join(wanted[0])}"
        raise FileNotFoundError(f"{place} holds no {title}: expected {expected}, as at {url}.")
    return None


def _levels(place: Path) -> Iterator[list[Path]]:
    """Folders by their depth, the place itself first."""
    level = [place] if os.path.isdir(place) else []
    for _ in range(_DEPTH + 1):
        yield level
        inner: list[Path] = []
        for folder in level:
            with contextlib.suppress(OSError):
                inner += sorted(filter(os.path.isdir, folder.iterdir()))
        level = inner[:_FOLDERS]


def _holds(place: Path, wanted: Sequence[Names], inside: bool) -> bool:
    """Whether there is an archive or folder with one of the files, there or in folders inside."""
    with contextlib.suppress(*_DAMAGE), contextlib.ExitStack() as opened:
        flat = os.path.isdir(place) and not inside
        known = _files([place]) if flat else _listing(place, opened) if os.path.exists(place) else {}
        return any(_option(options, known) for options in wanted)
    return False


def _option(options: Names, known: Listing) -> str | None:
    """The first of some names, gzipped or not, that a file bears."""
    return next((n for option in options for n in (option, f"{option}.gz") if n in known), None)


def read_members(place: Path, wanted: Sequence[Names], remedy: str) -> list[tuple[str, Content]]:
    """Labels and contents of files in a folder, or anywhere in a zip or tar archive.

    Args:
        place: The folder or archive.
        wanted: For every file what it may be called, without folders and without the ``.gz`` that may follow.
        remedy: What a message says to do about a bad place.

    Raises:
        FileNotFoundError: Some of the files are missing.
        ValueError: The archive is truncated, damaged, too large or of another kind, or has a file twice.
    """
    label, missing, contents = "{}: {}" if place.is_file() else "{}/{}", [], []
    with whole_archive(place, remedy), contextlib.ExitStack() as opened:
        known = _listing(place, opened)
        members = [_option(options, known) or "" for options in wanted]
        missing = [options[0] for options, name in zip(wanted, members, strict=True) if not name]
        for name in members if not missing else ():
            if len(known[name]) > 1:
                raise zipfile.BadZipFile(f"it holds {name} {len(known[name])} times")
            contents.append((label.format(place, name), known[name][0]()))
    if missing:
        lacking = f"{len(missing)} of {len(wanted)} files, first {missing[0]}"
        raise FileNotFoundError(f"{place} lacks {lacking}: {remedy}")
    return contents


@contextlib.contextmanager
def whole_archive(label: object, remedy: str) -> Iterator[None]:
    """Turn what the standard library raises for a damaged archive into a ValueError that names it."""
    try:
        yield
    except _DAMAGE as error:
        # Some quote the garbage that they met.
        reason = (str(error) or type(error).__name__).partition(" and header b")[0][:120]
        raise ValueError(f"{label} is not a whole archive ({reason}): {remedy}") from error


def _files(folders: Sequence[Path]) -> Listing:
    """Files that lie in some folders."""
    listing: Listing = {}
    for file in (entry for folder in folders for entry in folder.iterdir() if entry.is_file()):
        listing.setdefault(file.name, []).append(partial(read_file, file))
    return listing


def _listing(place: Path, opened: contextlib.ExitStack) -> Listing:
    """Files of a folder, the nearest where there are several levels, or of a zip or tar archive."""
    listing: Listing = {}
    if place.is_dir():
        for level in _levels(place):
            listing = _files(level) | listing
        return listing
    with place.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        archive = opened.enter_context(zipfile.ZipFile(place))
        for info in archive.infolist():
            name = re.split(r"[/\\]", info.filename)[-1]
            listing.setdefault(name, []).append(partial(_read_zipped, archive, info))
        return listing
    tape = opened.enter_context(tarfile.TarFile(fileobj=io.BytesIO(_gunzip(read_file(place)))))
    for member in filter(tarfile.TarInfo.isreg, tape):
        listing.setdefault(Path(member.name).name, []).append(partial(_read_taped, tape, member))
    return listing


def _read(file: IO[bytes] | gzip.GzipFile) -> bytearray:
    """What is left of a stream; chunk by chunk, for it may be much more than it takes on the disk."""
    content = bytearray()
    while chunk := file.read(_CHUNK):
        content += chunk
        if len(content) > LARGEST:
            raise zipfile.BadZipFile(f"more than {LARGEST >> 20} MB in one file")
    return content


def read_file(path: Path) -> bytearray:
    """A whole file; an OSError says so if there is none."""
    with path.open("rb") as file:
        return _read(file)


def open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """A member of a zip archive, to be read in chunks; not of methods that may expand at once to anything."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{info.filename} is compressed by method {info.compress_type}")
    if info.file_size > _EXPANSION * info.compress_size + _CHUNK:
        raise zipfile.BadZipFile(f"{info.filename} cannot have {info.file_size} bytes")
    return archive.open(info)


def _read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytearray:
    with open_member(archive, info) as file:
        return _read(file)


def _read_taped(tape: tarfile.TarFile, member: tarfile.TarInfo) -> bytearray:
    file = tape.extractfile(member)
    return bytearray() if file is None else _read(file)


def _gunzip(content: Content) -> Content:
    if content[:2] != b"\x1f\x8b":
        return content
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        return _read(file)


def gunzip(content: Content, label: str, remedy: str) -> Content:
    """What a gzipped file holds, whatever its name is; other contents are returned as they are.

    Raises:
        ValueError: It is truncated or damaged, or expands to more than ``LARGEST``.
    """
    with whole_archive(label, remedy):
        return _gunzip(content)


def npy_header(start: Content) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, order (whether Fortran's), type and length of the header of an ``.npy`` file.

    Raises:
        ValueError: It is damaged, or not one of plain numbers; pickled objects are never read.
    """
    stream = io.BytesIO(start[: 2**16])
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        with warnings.catch_warnings(action="ignore"):  # a damaged header may be dubious Python
            shape, fortran, dtype = read(stream)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, KeyError) as error:
        raise ValueError(f"no header of an .npy file ({type(error).__name__})") from error
    if dtype.kind not in "buif" or any(n < 0 for n in shape):
        raise ValueError(f"an array of {dtype} of shape {shape}, expected numbers")
    return shape, fortran, dtype, stream.tell()


def parse_npy(content: Content, label: str, remedy: str) -> np.ndarray:
    """The array of numbers in an ``.npy`` file.

    Raises:
        ValueError: It is damaged, longer or shorter than its header says, or holds something else.
    """
    try:
        shape, fortran, dtype, offset = npy_header(content)
        if len(content) - offset != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(content) - offset} bytes where its header says {dtype} {shape}")
        values = np.frombuffer(content, dtype, offset=offset)
        return values.reshape(shape, order="F" if fortran else "C")
    except ValueError as error:
        raise ValueError(f"{label} holds {error}: it is truncated or damaged, {remedy}") from error


def download(url: str, checksum: str, name: str) -> Path:
    """Download a file once into the user's cache folder, which never holds half a file.

    ``checksum`` is ``"sha256:..."`` or ``"md5:..."``, and ``name`` is that of the file in the cache.

    Raises:
        ImportError: pooch is not installed.
        ValueError: What arrived does not match the checksum.
        FileNotFoundError: Nothing arrived, the cache cannot be written, or no checksum is known.
    """
    by_hand = f"fetch {url} by hand and pass its path or set {VARIABLE}."
    if not checksum:
        raise FileNotFoundError(f"{name} is not on this machine and has no published checksum: {by_hand}")
    pooch = require("pooch", "data", f"Downloading {name} (or {by_hand[:-1]})")
    folder = pooch.os_cache("manifold_jax")
    try:
        return Path(pooch.retrieve(url, known_hash=checksum, fname=name, path=folder))
    except ValueError as error:
        what = f"What arrived from {url} is not {name} as recorded ({checksum}); nothing was kept."
        raise ValueError(f"{what} Try again, or {by_hand}") from error
    except OSError as error:
        what = f"{name} is not on this machine and could not be downloaded to {folder}"
        raise FileNotFoundError(f"{what} ({type(error).__name__}): {by_hand}") from error
