"""``report.html`` of a command: what it found, its tables and pictures, in one file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from manifold_jax._html import escape, paragraph, table
from manifold_jax.experiments.terminal import command_line
from manifold_jax.plotting.page import document
from manifold_jax.plotting.page.document import Section, picture, write_page
from manifold_jax.plotting.page.sections import boxes

REPORT = "report.html"
_CLASSES = {"green": "good", "yellow": "fair", "red": "bad", "dim": "quiet", "bold": "strong"}
PICTURES = 5 * 2**19  # bytes of pictures that a page holds; others stay beside it
_FEW = 3  # different numbers of a column from which it is worth drawing


def without_secrets(text: str) -> str:
    """Addresses without user, password and query, for files that are handed on.

    Example:
        >>> without_secrets("https://me:secret@host/x.zarr?key=1 --x64")
        'https://host/x.zarr --x64'
    """
    text = re.sub(r"(\w://)[^/\s@]*@", r"\1", text)
    return re.sub(r"(\w://[^\s?]*)\?[^\s']*", r"\1", text)


def as_html(part: RenderableType, sortable: bool = False) -> str:
    """What a terminal shows, tables and sentences, as HTML; a click on a head may sort the rows."""
    if isinstance(part, Group):
        return "".join(as_html(inner, sortable) for inner in part.renderables)
    if isinstance(part, Table):
        cells = [list(column.cells) for column in part.columns]
        rows = [[_cell(cell) for cell in row] for row in zip(*cells, strict=True)]
        left = [k for k, column in enumerate(part.columns) if column.justify == "left"]
        title = f"<h3>{escape(part.title)}</h3>" if part.title else ""
        shown = table([str(column.header) for column in part.columns], rows, left, sortable=sortable)
        return f'{title}<div class="scroll">{shown}</div>'
    return paragraph(part, _CLASSES.get(str(part.style), "")) if isinstance(part, Text) else paragraph(part)


def _cell(cell: Any) -> str | tuple[str, str]:
    """Text, with its class where it has one of a verdict."""
    name = _CLASSES.get(str(getattr(cell, "style", "")), "")
    return (str(cell), name) if name in ("good", "fair", "bad") else str(cell)


def pictures(files: Sequence[Path], most: int = PICTURES, *, folded: bool = False) -> str:
    """The pictures among files, so many bytes at most, shown at once or at a click; of others the names."""
    shown, left_out = [], []
    for file in files:
        if file.suffix not in (".png", ".gif"):
            continue
        size = file.stat().st_size
        if size <= most:
            shown.append(picture(file))
            most -= size
        else:
            left_out.append(file.name)
    if shown and folded:
        shown = [f"<details><summary>Show them</summary>{''.join(shown)}</details>"]
    more = [paragraph(f"Too large for this page: {', '.join(left_out)}, in the folder beside it.")]
    return "".join(shown + more * bool(left_out))


class Finished(NamedTuple):
    """An experiment that was run, and the files it left."""

    name: str
    about: str
    title: str
    rows: Sequence[dict[str, Any]]
    notes: Sequence[str]
    shown: RenderableType
    files: Sequence[Path]
    record: dict[str, Any]
    headline: str = ""


def write_outcomes(path: Path, command: str, finished: Sequence[Finished]) -> Path:
    """Write a page about experiments: their notes first, then tables, rows against each other, pictures."""
    sections, tables = [], []
    share = PICTURES // len(finished)
    for one in finished:
        body = as_html(one.shown, sortable=True)
        columns = _columns(one.rows)
        if len(_varying(columns)) >= 2:
            body += _explorer(len(tables), columns)
            tables.append({"columns": columns})
        sections.append(Section(one.name, body + pictures(one.files, share)))
    sections = [_in_short(finished, drawn=bool(tables)), *sections, about_experiments(finished)]
    return write_page(path, f"manifold-jax {command}", _names(finished), sections, {"tables": tables})


def _names(finished: Sequence[Finished]) -> str:
    return ", ".join(one.name for one in finished)


def _in_short(finished: Sequence[Finished], *, drawn: bool) -> Section:
    """What was done, what came out, and what to do next; whether rows are ``drawn`` against each other."""
    done = "".join(
        f"<p><strong>{escape(one.name)}</strong>: {escape(one.about)}. {escape(one.title)}.</p>"
        for one in finished
    )
    headlines = "".join(paragraph(one.headline, "strong") for one in finished if one.headline)
    notes = "".join(paragraph(note) for one in finished for note in one.notes if note.strip())
    notes = notes or paragraph("The tables below say it.")
    steps = []
    if drawn:
        steps = ["Rows of the tables are drawn against each other below: choose the columns."]
    steps += ["The numbers are in the .json files beside this page, the pictures in .png files."]
    if any(one.record.get("preset") == "reduced" for one in finished):
        steps.append("This was the reduced preset; <code>--preset full</code> takes the published sizes.")
    following = f"<ul>{''.join(f'<li>{step}</li>' for step in steps)}</ul>"
    answers = {"What was done": done, "What came out": headlines, "How to read it": notes}
    answers = {question: answer for question, answer in answers.items() if answer}
    return Section("In short", boxes(answers | {"What next?": following}))


def about_experiments(finished: Sequence[Finished]) -> Section:
    """Arguments and settings of all experiments."""
    rows: dict[str, Any] = {}
    for one in finished:
        mark = f"{one.name}: " if len(finished) > 1 else ""
        rows |= {f"{mark}{name}": _words(value) for name, value in one.record.items()}
    return about(rows, [file for one in finished for file in one.files])


def about(rows: dict[str, Any], files: Sequence[Path]) -> Section:
    """See ``document.about``; with the command."""
    return document.about(rows, without_secrets(command_line()), [file.name for file in files])


def _words(value: Any) -> str:
    """Settings and numbers as text."""
    if hasattr(value, "_asdict"):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value._asdict().items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _columns(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Columns of a table as JSON; those of numbers have None where there is none."""
    columns = []
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        numeric = all(_is_number(value) or value is None for value in values) and any(map(_is_number, values))
        if numeric:
            values = [float(v) if _is_number(v) and math.isfinite(v) else None for v in values]
        else:
            values = [str(value) for value in values]
        columns.append({"name": str(name), "values": values, "numeric": numeric})
    return columns


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _varying(columns: Sequence[dict[str, Any]]) -> list[int]:
    """Positions of the columns of numbers that differ from row to row, those of most numbers last."""
    counts = {i: len({*column["values"]} - {None}) for i, column in enumerate(columns) if column["numeric"]}
    return sorted((i for i, count in counts.items() if count >= _FEW), key=lambda i: counts[i])


def _explorer(k: int, columns: Sequence[dict[str, Any]]) -> str:
    """Choices of the columns that are drawn against each other."""
    numeric = [i for i, column in enumerate(columns) if column["numeric"]]
    words = [i for i, column in enumerate(columns) if not column["numeric"]]

    def select(name: str, label: str, choices: Sequence[int], chosen: int, empty: bool = False) -> str:
        options = ['<option value="-1">nothing</option>'] if empty else []
        for i in choices:
            mark = " selected" if i == chosen else ""
            options.append(f'<option value="{i}"{mark}>{escape(columns[i]["name"])}</option>')
        return f'<label>{label}<select id="{name}-{k}">{"".join(options)}</select></label>'

    ticks = "".join(
        f'<label class="tick"><input type="checkbox" id="log{name}-{k}">logarithmic, {words_}</label>'
        for name, words_ in (("x", "across"), ("y", "up"))
    )
    first = words[0] if words else -1
    across, up = sorted((_varying(columns)[0], _varying(columns)[-1]))
    chosen = (
        select("x", "across", numeric, across),
        select("y", "up", numeric, up),
        select("by", "colour", words, first, empty=True),
    )
    return f'<div class="controls">{"".join(chosen)}{ticks}</div><div class="plot" id="explorer-{k}"></div>'
