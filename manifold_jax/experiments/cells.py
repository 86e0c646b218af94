"""Finished cells of an experiment, kept so that an interrupted run goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from manifold_jax._files import write_text

VERSION = 2
"""Part of every cell's name: raise it when a fit, an estimator or the defaults of one change."""

SAVE_EVERY = 2.0
"""Seconds between two saves; the last one is made when the run ends or is interrupted."""

Values = Any
"""Anything that JSON knows."""


class Cells:
    """What was found for one (setting, size, seed), by everything that it depends on.

    The file is a line of JSON a cell, written aside and renamed. Floats are written so that they are read
    back bit by bit.

    Args:
        path: The file; what is in it counts as done.

    Raises:
        ValueError: The file holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved = time.monotonic()
        self.found: dict[str, Values] = {}
        if path.exists():
            self.found = _read(path)

    def __contains__(self, cell: str) -> bool:
        return cell in self.found

    def __getitem__(self, cell: str) -> Values:
        return self.found[cell]

    def put(self, cell: str, values: Values) -> None:
        """Keep a finished cell."""
        self.found[cell] = values
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write all of them."""
        lines = (json.dumps({"cell": cell, "values": values}) for cell, values in self.found.items())
        write_text(self.path, "".join(f"{line}\n" for line in lines))
        self.saved = time.monotonic()


def _read(path: Path) -> dict[str, Values]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {entry["cell"]: entry["values"] for entry in map(json.loads, lines)}
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f"{path} is no file of finished cells: remove it, or choose another folder."
        ) from None


def cell_name(**parts: Any) -> str:
    """Everything that a cell depends on, as text."""
    return json.dumps(parts | {"version": VERSION}, sort_keys=True, default=str)
