"""Where archives of images are found, and what is in them: a folder, a zip or tar file, or a download."""

from __future__ import annotations

import contextlib
import fnmatch
import gzip
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from manifold_jax._checks import require

Place = str | os.PathLike[str] | None
"""A file or folder, or None for what MANIFOLD_JAX_DATA names."""

VARIABLE = "MANIFOLD_JAX_DATA"
"""Environment variable that names the folder (or file) in which data are looked for."""

_DAMAGE = (
    *(gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error),
    *(EOFError, NotImplementedError, RuntimeError),
)
"""What the standard library raises for archives that are truncated, damaged, encrypted or of another kind."""


def find(path: Place, names: Sequence[str], pattern: str, title: str, url: str) -> Path | None:
    """An archive, or the folder of what is in it; None if no place is named or MANIFOLD_JAX_DATA lacks it.

    Args:
        path: The archive or folder, or a folder that holds it.
        names: What the archive and its folder are called, in the order in which they are tried.
        pattern: Pattern of the names of the files in the archive or folder.
        title: What a message calls the data set.
        url: Where it says to get it.

    Raises:
        TypeError: ``path`` is not a path.
        FileNotFoundError: The place does not exist, or ``path`` holds neither archive nor folder.
    """
    if not isinstance(path, str | os.PathLike | None):
        raise TypeError(f"path must be a file or folder name or None, got {path!r}.")
    text, source = (os.environ.get(VARIABLE, ""), VARIABLE) if path is None else (os.fspath(path), "path")
    if not text:
        return None
    place = Path(text).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{source} names {place}, which does not exist.")
    if place.is_file() and source == "path":
        return place
    for candidate in (*(place / name for name in names), place):
        # The variable is one for all data sets: a file that it names may be the archive of another one.
        if (candidate.is_file() and candidate.name in names) or _holds(candidate, pattern):
            return candidate
    if source == "path":
        expected = " or ".join((*names, f"files {pattern}"))
        raise FileNotFoundError(f"{place} holds no {title}: expected {expected}, as at {url}.")
    return None


def _holds(place: Path, pattern: str) -> bool:
    """Whether there is a folder or archive with files of this pattern."""
    with contextlib.suppress(*_DAMAGE), contextlib.ExitStack() as opened:
        return place.exists() and bool(fnmatch.filter(_readers(place, opened), pattern))
    return False


def read_members(place: Path, names: Sequence[str], remedy: str) -> list[bytes]:
    """Contents of files in a folder, or anywhere in a zip or tar archive; gzipped ones are decompressed.

    Args:
        place: The folder or archive, which is a zip file if its name ends in ``.zip``.
        names: What the files are called, without folders and without the ``.gz`` that may follow.
        remedy: What a message says to do about a bad place.

    Raises:
        FileNotFoundError: Some of the files are missing.
        ValueError: The archive, or a gzipped file, is truncated, damaged or of another kind.
    """
    contents, at = [], place
    try:
        with contextlib.ExitStack() as opened:
            readers = _readers(place, opened)
            members = [name if name in readers else f"{name}.gz" for name in names]
            missing = [name for name, member in zip(names, members, strict=True) if member not in readers]
            if missing:
                lacking = f"{len(missing)} of {len(names)} files, first {missing[0]}"
                raise FileNotFoundError(f"{place} lacks {lacking}: {remedy}")
            for member in members:
                at = place / member if place.is_dir() else place
                content = readers[member]()
                contents.append(gzip.decompress(content) if member.endswith(".gz") else content)
    except _DAMAGE as error:
        raise ValueError(f"{at} is not a whole archive ({error}): {remedy}") from error
    return contents


def _readers(place: Path, opened: contextlib.ExitStack) -> dict[str, Callable[[], bytes]]:
    """For every file of a folder or archive, by its name without folders, a function that reads it."""
    if place.is_dir():
        return {file.name: file.read_bytes for file in place.iterdir() if file.is_file()}
    if place.suffix.lower() == ".zip":
        archive = opened.enter_context(zipfile.ZipFile(place))
        return {re.split(r"[/\\]", name)[-1]: partial(archive.read, name) for name in archive.namelist()}
    tape = opened.enter_context(tarfile.TarFile.open(place, "r:*"))
    files = ((member.name, tape.extractfile(member)) for member in tape)
    return {Path(name).name: file.read for name, file in files if file is not None}


def download(url: str, checksum: str, name: str) -> Path:
    """Download a file once into the user's cache folder, which never holds half a file.

    ``checksum`` is ``"sha256:..."`` or ``"md5:..."``, and ``name`` is that of the file in the cache.

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
        what = f"What arrived from {url} is not {name} as recorded ({checksum}); nothing was kept."
        raise ValueError(f"{what} Try again, or {by_hand}") from error
    except OSError as error:
        what = f"{name} is not on this machine and could not be downloaded to {folder}"
        raise FileNotFoundError(f"{what} ({type(error).__name__}): {by_hand}") from error
