"""What ``manifold-jax measure`` says and keeps of the reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from manifold_jax._files import write_dataset
from manifold_jax.experiments.measure.report import new_table, number, with_bar
from manifold_jax.geometry import Manifold, Reach

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
    entry["pair"] = [{"component": part, "coordinates": [float(x) for x in u]} for part, u in found.ends()]
    return entry


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
