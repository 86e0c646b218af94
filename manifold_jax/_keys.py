"""Digests: what tells a measurement, a program or a folder from another."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SEAL = ".manifold_jax.sha256"
"""File in a folder that holds the digest of all others."""

_VIEWED = {".DS_Store", "desktop.ini", "Thumbs.db"}
"""What a desktop leaves in a folder that it shows."""


def file_digest(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_folder(folder: Path) -> str:
    files = sorted(
        path for path in folder.rglob("*") if path.name not in {_SEAL, *_VIEWED} and path.is_file()
    )
    lines = (f"{file_digest(path)} {path.relative_to(folder).as_posix()}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def seal(folder: Path) -> None:
    """Keep the digest of a folder in it."""
    (folder / _SEAL).write_text(_digest_folder(folder), encoding="ascii")


def is_whole(folder: Path) -> bool | None:
    """Whether a folder is as it was sealed; None where it was not, or is a file."""
    with contextlib.suppress(OSError):
        return (folder / _SEAL).read_bytes() == _digest_folder(folder).encode()
    return None


def digest_arrays(*arrays: Any) -> str:
    """Hexadecimal digest of types, shapes and numbers; one NaN is like another."""
    digest = hashlib.sha256()
    for value in arrays:
        array = np.asarray(value)
        if array.dtype.kind == "f" and np.isnan(array).any():
            array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes() if array.dtype.hasobject else array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def package_version() -> str:
    """The version of this package, part of every key of work that goes on."""
    try:
        return metadata.version("manifold_jax")
    except metadata.PackageNotFoundError:  # run from its source
        return "unknown"


_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")


def digest_function(function: Callable[..., Any], *arguments: Any) -> str:
    """Digest of what a function computes: its jaxpr for such arguments, and all arrays that it holds.

    It is the same in every process. ``arguments`` are arrays or their ``jax.ShapeDtypeStruct``.
    """
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        """Constants of a jaxpr and of all that are in it."""
        if isinstance(part, dict):
            part = tuple(part.values())
        if isinstance(part, tuple | list):
            for inner in part:
                add(inner)
        elif hasattr(part, "eqns"):  # a jaxpr, closed or not; in newer JAX they are one
            add(list(getattr(part, "consts", ())))
            for equation in part.eqns:
                add([getattr(v, "val", None) for v in equation.invars])
                add(equation.params)
        elif isinstance(part, jax.Array | np.ndarray):
            keys = jnp.issubdtype(part.dtype, jax.dtypes.prng_key)
            digest.update(digest_arrays(jax.random.key_data(part) if keys else part).encode())

    closed = jax.make_jaxpr(lambda *a: function(*a))(*arguments)  # JAX remembers traces by identity
    digest.update(_ADDRESS.sub("", str(closed.jaxpr)).encode())
    add(closed)
    return digest.hexdigest()


def fingerprint(points: Any, *parts: Any) -> str:
    """Sixteen hexadecimal digits that tell one measurement from another.

    Arrays count with all their numbers; of files that are mapped the size and the time of the last change
    count, and the numbers at some places (``parts``). For functions ``points`` is None, and ``parts`` holds
    their :func:`digest_function`. ``parts`` is everything else that matters, with a stable ``repr``.
    """
    digest = hashlib.sha256(repr((package_version(), parts)).encode())
    if isinstance(points, np.memmap) and points.filename:
        status = os.stat(str(points.filename))
        digest.update(repr((status.st_size, status.st_mtime_ns)).encode())
    elif points is not None:
        digest.update(digest_arrays(points).encode())
    return digest.hexdigest()[:16]
