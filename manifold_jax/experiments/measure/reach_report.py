"""What ``manifold-jax measure`` says and keeps of the reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from manifold_jax._files import write_dataset
from manifold_jax.experiments.measure.report import new_table, number, with_bar
from manifold_jax.geometry import Reach

_SCALARS = ("value", "error", "local", "local_error", "bottleneck", "bottleneck_error")


def reach_table(found: Reach) -> RenderableType:
    """Value, local and global part with error bars, and a sentence.

    Args:
        found: The reach.

    Returns:
        What rich prints.
    """
    table = new_table("reach", "value", "unit", "resolved")
    colour = "green" if found.resolved else "red"
    table.add_row(
        "reach", with_bar(found.value, found.error), "ℓ", Text("yes" if found.resolved else "no", colour)
    )
    table.add_row("- local: 1 / curvature", with_bar(found.local, found.local_error), "ℓ", "")
    if math.isfinite(found.bottleneck):
        narrow = with_bar(found.bottleneck, found.bottleneck_error)
    else:
        narrow = f"none below {found.searched:.4g}"
    table.add_row("- half the bottleneck", narrow, "ℓ", "")
    return Group(Text("\nreach", style="bold"), table, Text(found.sentence(), style=colour))


def reach_entry(found: Reach, seconds: float) -> dict[str, Any]:
    """What ``summary.json`` holds of the reach.

    Args:
        found: The reach.
        seconds: Time of the search.

    Returns:
        Plain numbers and text; infinite numbers as None.
    """
    entry: dict[str, Any] = {name: number(getattr(found, name)) for name in (*_SCALARS, "searched", "pruned")}
    entry |= {"case": found.case, "resolved": found.resolved, "coincident": found.coincident}
    entry |= {"sentence": found.sentence(), "seconds": round(seconds, 3), "unit": "ℓ"}
    entry["local_bounds"] = [number(bound) for bound in found.local_bounds]
    entry["pair"] = [{"component": part, "coordinates": [float(x) for x in u]} for part, u in found.ends]
    return entry


def save_reach(found: Reach, marks: Sequence[str], out: Path) -> list[Path]:
    """Write the fields of every component to ``reach.nc``.

    Args:
        found: The reach.
        marks: ``""``, or ``"_1"``, ``"_2"``, ... in a union.
        out: Folder.

    Returns:
        The files.
    """
    return [write_dataset(found.to_xarray(k), out / f"reach{mark}.nc") for k, mark in enumerate(marks)]
