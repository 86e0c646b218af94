"""Where data files are found: a path, the folder in MANIFOLD_JAX_DATA, or a checksummed download."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "MANIFOLD_JAX_DATA"
"""Environment variable that names the folder (or file) in which data are looked for."""

EXTRA = 'pip install "manifold_jax[data]"'


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
        ModuleNotFoundError: pooch is not installed.
        ValueError: What arrived does not match the checksum.
        FileNotFoundError: Nothing arrived, or the cache cannot be written.
    """
    try:
        import pooch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"Downloading {name} needs pooch: {EXTRA}, or fetch {url} by hand and pass its path."
        ) from None
    folder = pooch.os_cache("manifold_jax")
    by_hand = f"fetch {url} by hand and pass its path or set {VARIABLE}."
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
