"""Paths as tables of HTML, which notebooks and reports show."""

from __future__ import annotations

from typing import Any

import numpy as np

from manifold_jax._html import Cell, paragraph, table, titled

_MOST = 20  # paths of a batch that are listed

_WORDS: tuple[Cell, ...] = (
    "all steps used",
    ("arrived", "good"),
    ("stalled", "fair"),
    ("the network returned NaN or infinity", "bad"),
)
"""By the number of a ``PathStatus``."""


def path_html(path: Any) -> str:
    """How every path of a ``Path`` ended, how far it came, and what the network says at both ends."""
    log_probs = np.asarray(path.log_probs)
    ends = log_probs.reshape(-1, *log_probs.shape[-2:])[:, [0, -1]]
    distances = np.asarray(path.distances)
    distances = distances.reshape(-1, distances.shape[-1])[:, [0, -1]]
    names = ("status", "steps", "length", "drift", "horizontal")
    columns = [np.ravel(np.asarray(getattr(path, name))) for name in names]
    rows: list[list[Cell]] = []
    for k, (status, steps, length, drift, horizontal) in enumerate(zip(*columns, strict=True)):
        classes = [f"{int(np.argmax(end))} ({np.exp(np.max(end)):.1%})" for end in ends[k]]
        far = [f"{distance:.4g}" for distance in distances[k]]
        numbers = [f"{length:.4g}", f"{drift:.2g}", f"{horizontal:.2g}"]
        rows.append([str(k), _WORDS[int(status)], str(int(steps)), *far, *numbers, *classes])
    head = [
        "path",
        "end",
        "steps",
        "distance at the start",
        "at the end",
        "length",
        "drift",
        "horizontal share",
    ]
    shown = table([*head, "class at the start", "at the end"], rows[:_MOST], left=(0, 1))
    more = f"{len(rows) - _MOST} more paths are not shown. " if len(rows) > _MOST else ""
    note = (
        "Lengths in units of the input; drift: how far the steps left the leaf; a class with its probability."
    )
    return titled(f"{len(rows)} path{'s' * (len(rows) != 1)}", shown, paragraph(more + note, "quiet"))
