"""Finished cells of an experiment, kept so that an interrupted run goes on."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from manifold_jax._files import make_folder, user_path, writing
from manifold_jax._keys import package_version

VERSION = 3
"""Part of every cell's name: raise it when a fit, an estimator or the defaults of one change."""

Values = Any
"""Anything that JSON knows."""


class Cells(dict[str, Values]):
    """Values of finished cells by name: all that the values of a cell depend on.

    The file has a line of JSON with a checksum for each cell, and only ever grows, so that several processes
    may add to it; a line that is not whole does not count. Floats are read back bit by bit.
    """

    def __init__(self, path: Path) -> None:
        self.path = user_path(path)
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        super().__init__(entry for entry in map(_read_line, lines) if entry is not None)
        if lines and not self and not lines[0].startswith(b'{"cell": '):
            remedy = "remove it, or choose another folder"
            raise ValueError(f"{path} is not a file of finished cells: {remedy}.")

    def put(self, cell: str, values: Values) -> None:
        """Keep a finished cell."""
        self[cell] = values
        line = _line(cell, values)
        make_folder(self.path.parent)
        with writing(self.path), self.path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            whole = file.read(1) in (b"", b"\n")  # else a process was ended while it wrote
            file.write(line if whole else b"\n" + line)


def _line(cell: str, values: Values) -> bytes:
    entry = json.dumps({"cell": cell, "values": values})
    return f'{entry[:-1]}, "check": {zlib.crc32(entry.encode())}}}\n'.encode()


def _read_line(line: bytes) -> tuple[str, Values] | None:
    """Name and values of a cell, or None where the line is not whole."""
    try:
        entry = json.loads(line)
        cell, values = entry["cell"], entry["values"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (cell, values) if isinstance(cell, str) and _line(cell, values) == line + b"\n" else None


def cell_name(**parts: Any) -> str:
    """Everything that a cell depends on, as text."""
    versions = {"version": VERSION, "package": package_version()}
    return json.dumps(parts | versions, sort_keys=True, default=str)
