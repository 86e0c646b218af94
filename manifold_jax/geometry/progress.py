"""Long measurements: how far they are, and what is kept so that they can go on after an interruption."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Progress = Callable[[int, int], None]
"""Called with the number of points done and the number of all points."""

SAVE_EVERY = 10.0
"""Seconds between two saves."""


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
        aside = self.path.with_suffix(".tmp")
        with aside.open("wb") as file:
            named: dict[str, Any] = {f"leaf{k}": leaf for k, leaf in enumerate(merged)}
            np.savez(file, done=done, **named)
        aside.replace(self.path)
        self.saved = time.monotonic()

    def remove(self) -> None:
        """Forget the intermediate results: the measurement is complete."""
        self.path.unlink(missing_ok=True)
