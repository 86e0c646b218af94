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


class Cells(dict[str, Values]):
    """Values of finished cells by name: all that the values of a cell depend on.

    The file has a line of JSON for each cell, and is written aside and renamed; what is in it counts as done.
    Floats are read back bit by bit. As a context, the cells are saved at its end, whatever ends it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.saved = path, time.monotonic()
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            super().__init__((entry["cell"], entry["values"]) for entry in map(json.loads, lines))
        except (ValueError, TypeError, KeyError):
            remedy = "remove it, or choose another folder"
            raise ValueError(f"{path} is not a file of finished cells: {remedy}.") from None

    def __enter__(self) -> Cells:
        return self

    def __exit__(self, *error: object) -> None:
        self.save()

    def put(self, cell: str, values: Values) -> None:
        """Keep a finished cell."""
        self[cell] = values
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write all of them."""
        lines = (json.dumps({"cell": cell, "values": values}) for cell, values in self.items())
        write_text(self.path, "".join(f"{line}\n" for line in lines))
        self.saved = time.monotonic()


def cell_name(**parts: Any) -> str:
    """Everything that a cell depends on, as text."""
    return json.dumps(parts | {"version": VERSION}, sort_keys=True, default=str)
