"""What ``manifold-jax measure`` says and keeps of the reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from manifold_jax.geometry import Manifold, Reach
from manifold_jax.geometry.storage import write_dataset

_SCALARS = ("value", "error", "local", "local_error", "bottleneck", "bottleneck_error")


def reach_table(found: Reach) -> RenderableType:
    """Value, local and global part with error bars, and a sentence.

    Args:
        found: The reach.

    Returns:
        What rich prints.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("reach", no_wrap=True)
    for name in ("value", "unit", "resolved"):
        table.add_column(name, justify="left" if name == "unit" else "right", no_wrap=True)
    colour = "green" if found.resolved else "red"
    table.add_row(
        "reach", _bar(found.value, found.error), "ℓ", Text("yes" if found.resolved else "no", colour)
    )
    table.add_row("- local: 1 / curvature", _bar(found.local, found.local_error), "ℓ", "")
    if math.isfinite(found.bottleneck):
        narrow = _bar(found.bottleneck, found.bottleneck_error)
    else:
        narrow = f"none below {found.searched:.4g}"
    table.add_row("- half the bottleneck", narrow, "ℓ", "")
    return Group(Text("\nreach", style="bold"), table, Text(found.sentence(), style=colour))


def _bar(value: float, error: float) -> str:
    bar = f"{error:.0e}".replace("e-0", "e-") if math.isfinite(error) else "unknown"
    return f"{value:.4g} ± {bar}"


def reach_entry(found: Reach, seconds: float) -> dict[str, Any]:
    """What ``summary.json`` holds of the reach.

    Args:
        found: The reach.
        seconds: Time of the search.

    Returns:
        Plain numbers and text; infinite numbers as None.
    """
    entry: dict[str, Any] = {
        name: _number(getattr(found, name)) for name in (*_SCALARS, "searched", "pruned")
    }
    entry |= {"case": found.case, "resolved": found.resolved, "coincident": found.coincident}
    entry |= {"sentence": found.sentence(), "seconds": round(seconds, 3), "unit": "ℓ"}
    entry["local_bounds"] = [_number(bound) for bound in found.local_bounds]
    entry["pair"] = [
        {"component": number, "coordinates": [float(x) for x in u]} for number, u in _numbered(found)
    ]
    return entry


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbered(found: Reach) -> list[tuple[int, np.ndarray]]:
    if isinstance(found.pair, tuple):
        return [(int(number), np.asarray(u)) for number, u in found.pair]
    return [(0, np.asarray(u)) for u in found.pair]


def save_reach(manifolds: Sequence[Manifold], found: Reach, marks: Sequence[str], out: Path) -> list[Path]:
    """Write the fields of every component to ``reach.nc``.

    Args:
        manifolds: The components.
        found: Their reach.
        marks: ``""``, or ``"_1"``, ``"_2"``, ... in a union.
        out: Folder.

    Returns:
        The files.
    """
    import xarray

    written = []
    for k, (manifold, mark) in enumerate(zip(manifolds, marks, strict=True)):
        names = ("pointwise", "pointwise_error", "witness", "upper_bound")
        fields = {name: getattr(found, name) for name in names}
        whole = {name: field[k] if isinstance(field, tuple) else field for name, field in fields.items()}
        axes = manifold.grid.axes
        data = {name: (manifold.grid.names, np.asarray(field)) for name, field in whole.items()}
        data["upper_bound"] = (manifold.grid.names, np.asarray(whole["upper_bound"]).astype(np.int8))
        coordinates = {axis.name: (axis.name, axis.samples(), {"units": axis.unit}) for axis in axes}
        attributes = {"title": manifold.name, "case": found.case, "sentence": found.sentence()}
        dataset = xarray.Dataset(
            data | {name: ((), getattr(found, name)) for name in _SCALARS}, coordinates, attributes
        )
        written.append(write_dataset(dataset, out / f"reach{mark}.nc"))
    return written
