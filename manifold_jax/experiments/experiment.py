"""What an experiment gives: a table, figures, numbers; and how they are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.table import Table

from manifold_jax._files import write_dataset, write_text
from manifold_jax.experiments.measure.report import as_text
from manifold_jax.plotting.geometry import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

_WIDTH = 200


class Outcome(NamedTuple):
    """Result of one experiment.

    Attributes:
        title: One line that says what was measured.
        rows: The table, one dictionary a row, all with the same keys.
        data: Everything for JSON: numbers, strings, lists, arrays.
        figures: File stem to figure.
        notes: Sentences below the table.
        dataset: ``xarray.Dataset`` of all numbers, where there are many.
    """

    title: str
    rows: Sequence[Row]
    data: dict[str, Any]
    figures: dict[str, Figure]
    notes: Sequence[str] = ()
    dataset: Any = None


def _shown(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return "-" if not np.isfinite(value) else f"{value:.4g}"
    return "-" if value is None else str(value)


def _wide(columns: Sequence[Sequence[str]]) -> int:
    """Characters that a table of such columns needs."""
    return 1 + sum(max(map(len, column)) + 3 for column in columns)


def table(outcome: Outcome, width: int) -> Table:
    """The rows as a table for the terminal and for text files.

    Args:
        outcome: What was found.
        width: Characters a line; rows become columns where that is too little.

    Returns:
        The table.
    """
    names = list(outcome.rows[0])
    lines = [names, *([_shown(value) for value in row.values()] for row in outcome.rows)]
    upright = list(zip(*lines, strict=True))
    columns = upright if _wide(upright) < width or _wide(upright) <= _wide(lines) else lines
    found = Table(title=outcome.title, title_justify="left")
    for k, column in enumerate(columns):
        found.add_column(column[0], justify="left" if k == 0 else "right")
    for row in zip(*(column[1:] for column in columns), strict=True):
        found.add_row(*row)
    return found


def plain(value: Any) -> Any:
    """Numbers, lists and dictionaries for JSON, which knows no arrays and no infinity."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def write(outcome: Outcome, out: Path, name: str, arguments: dict[str, Any]) -> list[Path]:
    """Write ``name.json``, ``name.txt``, the figures, and ``name.nc`` where there is a data set.

    Args:
        outcome: What was found.
        out: Folder.
        name: Of the experiment.
        arguments: What it was called with, for the record.

    Returns:
        The files.
    """
    record = {"title": outcome.title, "arguments": arguments, "rows": list(outcome.rows)}
    record |= {"notes": list(outcome.notes), "data": outcome.data}
    content = json.dumps(plain(record), indent=1, allow_nan=False) + "\n"
    text = as_text([table(outcome, _WIDTH)], _WIDTH) + "".join(f"{note}\n" for note in outcome.notes)
    written = [write_text(out / f"{name}.json", content), write_text(out / f"{name}.txt", text)]
    if outcome.dataset is not None:
        written.append(write_dataset(outcome.dataset, out / f"{name}.nc"))
    return written + [save_figure(figure, out / f"{stem}.png") for stem, figure in outcome.figures.items()]
