"""Results as tables of HTML, which notebooks and reports show."""

from __future__ import annotations

import math
from typing import Any

from manifold_jax._html import Cell, paragraph, table, titled
from manifold_jax.geometry.quantities import (
    FIELDS,
    LABELS,
    LENGTH,
    TOTALS,
    finite_median,
    unit_of,
    with_bar,
)
from manifold_jax.geometry.verdict import noise_sentence


def geometry_html(geometry: Any) -> str:
    """Totals and fields of a ``Geometry`` with bars, units and verdicts."""
    quantiles, rows = geometry.quantiles((0.05, 0.5, 0.95)), []
    for name in TOTALS + FIELDS:
        estimate, verdict, span = getattr(geometry, name), geometry.verdict(name), ""
        if name in TOTALS:
            value, error = float(estimate.value), float(estimate.error)
        else:
            low, value, high = quantiles[name]
            error, span = finite_median(estimate.error, math.inf), f"{low:.3g} … {high:.3g}"
        colour = "good" if verdict.resolved else "fair" if verdict.share >= 0.5 else "bad"
        cells = [LABELS[name].name, with_bar(value, error), span, unit_of(name, geometry.grid)]
        rows.append([*cells, (verdict.sentence, colour)])
    head = ["quantity", "value", "5 % … 95 %", "unit", "verdict"]
    note = f"± half-width of the error bar, of fields the medians over the points. {LENGTH}: unit of length."
    lines = [paragraph(note, "quiet")]
    if noise := noise_sentence(geometry):
        lines.append(paragraph(noise, "quiet"))
    return titled(geometry.title, table(head, rows, left=(0, 3, 4)), *lines)


def reach_html(reach: Any) -> str:
    """A ``Reach``, its two parts, and its sentence."""
    narrow = f"none below {reach.searched:.4g}"
    if math.isfinite(reach.bottleneck):
        narrow = with_bar(reach.bottleneck, reach.bottleneck_error)
    colour = "good" if reach.resolved else "bad"
    rows: list[list[Cell]] = [
        ["reach", (with_bar(reach.value, reach.error), colour), LENGTH],
        ["local part: 1 / largest normal curvature", with_bar(reach.local, reach.local_error), LENGTH],
        ["global part: half the shortest bottleneck", narrow, LENGTH],
    ]
    names = ", ".join(component.name for component in reach.components)
    parts = table(["reach", "value", "unit"], rows, left=(0, 2)), paragraph(reach.sentence(), colour)
    return titled(f"Reach of {names[:200]}", *parts)


def units(geometry: Any) -> list[str]:
    """Sentences: what the unit of length is, and of what volume and totals are a part."""
    attributes, length = dict(geometry.attributes), "the unit of length of the ambient space"
    if "size" in attributes:
        length = "distance between images, the root of summed squared grey-level differences (white is 1)"
    lines = [f"{LENGTH}: {attributes.get('length', length)}."]
    for axis in geometry.grid.axes:
        if axis.periodic and not axis.wrap:
            span, name = _span(axis), axis.name
            totals = f"volume and totals are per {span} of {name}"
            lines.append(f"The axis {name} covers 1 {span}, after which the metric repeats: {totals}.")
    return lines


def _span(axis: Any) -> str:
    length = axis.stop - axis.start
    return axis.unit or "unit" if math.isclose(length, 1.0) else f"period of {length:g} {axis.unit}".strip()
