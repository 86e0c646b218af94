"""Tables, files and pictures that ``manifold-jax measure`` leaves behind."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from manifold_jax import plotting
from manifold_jax._files import write_text
from manifold_jax.experiments.terminal import as_text
from manifold_jax.geometry import Geometry, Manifold
from manifold_jax.geometry.report import FIELDS, TOTALS, Verdict
from manifold_jax.plotting.style import compare

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STEMS = ("samples", "histograms", "pairs", "maps", "pca", "exact_vs_stencil")
FILES = ("geometry.nc", "geometry_stencil.nc", "reach.nc", "reach.png", *(f"{stem}.png" for stem in STEMS))
"""Names of results, in which ``_1``, ``_2`` before the suffix count the components of a union."""


NAMES = {
    "total_volume": "volume",
    "total_scalar_curvature": "total curvature",
    "total_positive_curvature": "- positive part",
    "total_negative_curvature": "- negative part",
    "volume_element": "volume element",
    "scalar_curvature": "scalar curvature",
    "mean_curvature": "mean curv. |H|",
    "second_form_norm": "second form |II|",
    "normal_curvature": "normal curvature",
    "normal_curvature_upper": "- upper bound",
}
"""Short names, for tables."""


class Part(NamedTuple):
    """One measured component.

    Attributes:
        manifold: What was measured.
        geometry: The main result.
        stencil: The stencils beside an exact result, or None.
        seconds: Time of every stage; that of an interrupted one counts from where it went on.
        mark: ``""``, or ``"_1"``, ``"_2"``, ... in a union.
    """

    manifold: Manifold
    geometry: Geometry
    stencil: Geometry | None
    seconds: dict[str, float]
    mark: str


# --- tables ------------------------------------------------------------------------------------------------


def notes(geometry: Geometry) -> list[str]:
    """Sentences that a reader of the table needs."""
    found = [
        "± half-width of the error bar (median over points for fields); [5 %, 95 %] quantiles of fields."
    ]
    attributes = dict(geometry.attributes)
    if "size" in attributes:
        found.append(
            "ℓ: distance between images, the root of summed squared grey-level differences (white is 1)."
        )
    else:
        found.append("ℓ: the unit of length of the ambient space.")
    repeating = [axis for axis in geometry.grid.axes if axis.periodic and not axis.wrap]
    for axis in repeating:
        span = _span(axis)
        found.append(
            f"The axis {axis.name} covers 1 {span}, after which the metric repeats: volume and totals are "
            f"per {span} of {axis.name}."
        )
    if geometry.grid.ndim > 1:
        found.append(
            "The scalar curvature and its totals count as resolved when their bars are small beside |II|²."
        )
        found += _open_signs(geometry)
    return found


def _open_signs(geometry: Geometry) -> list[str]:
    """Say so where the bar of the scalar curvature reaches zero at most points."""
    value, error, _ = (np.asarray(part) for part in geometry.scalar_curvature)
    defined = np.isfinite(value)
    if not defined.any():
        return []
    share = float(np.mean(np.abs(value[defined]) <= error[defined]))
    if share <= 0.5:
        return []
    remedy = "" if geometry.exact else " A finer grid (--samples) or --exact narrows the bars."
    return [
        f"The bar of the scalar curvature includes 0 at {share:.0%} of the points: its sign is open.{remedy}"
    ]


def _span(axis: Any) -> str:
    length = axis.stop - axis.start
    return axis.unit or "unit" if math.isclose(length, 1.0) else f"period of {length:g} {axis.unit}".strip()


def median_error(geometry: Geometry, measure: str) -> float:
    """Median error bar of a field; infinite if no point has one."""
    error = np.asarray(getattr(geometry, measure).error)
    return float(np.median(error[np.isfinite(error)])) if np.isfinite(error).any() else math.inf


def summary_table(part: Part) -> RenderableType:
    """Totals and fields with error bars, units and verdicts, for 80 columns.

    Args:
        part: A measured component.

    Returns:
        What rich prints.
    """
    geometry = part.geometry
    how = "automatic differentiation" if geometry.exact else f"stencils of order {_orders(geometry)}"
    lattice = " x ".join(f"{axis.size} {axis.name}" for axis in geometry.grid.axes)
    title = Text(f"{geometry.name}: {geometry.grid.size} points, {lattice}; {how}", style="bold")
    known = {k: float(v) for k, v in part.manifold.known.items() if k in TOTALS and not callable(v)}
    table = new_table("measure", "value", "5 % … 95 %", "unit", "resolved")
    for measure in TOTALS:
        estimate = getattr(geometry, measure)
        truth = f"truth: {known[measure]:.5g}" if measure in known else ""
        _add(table, geometry, measure, float(estimate.value), float(estimate.error), truth)
    table.add_section()
    quantiles = geometry.quantiles((0.05, 0.5, 0.95))
    for measure in FIELDS:
        low, middle, high = quantiles[measure]
        _add(table, geometry, measure, middle, median_error(geometry, measure), f"{low:.3g} … {high:.3g}")
    lines = (Text(note, style="dim") for note in notes(geometry))
    return Group(title, table, *_sentences(geometry), *lines)


def new_table(first: str, *others: str) -> Table:
    """An empty table; numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name == "unit" else "right", no_wrap=True)
    return table


def _add(table: Table, geometry: Geometry, measure: str, value: float, error: float, between: str) -> None:
    verdict = geometry.verdict(measure)
    share = Text(_share(measure, verdict), style=_colour(verdict))
    table.add_row(NAMES[measure], with_bar(value, error), between, plotting.unit_of(geometry, measure), share)


def with_bar(value: float, error: float) -> str:
    """A value and the half-width of its error bar."""
    bar = f"{error:.0e}".replace("e-0", "e-") if math.isfinite(error) else "unknown"
    return f"{value:.4g} ± {bar}"


def _share(measure: str, verdict: Verdict) -> str:
    if measure in TOTALS:
        return "yes" if verdict.resolved else "no"
    percent = 100 * verdict.share  # never rounded up to all
    return f"{percent:.0f} %" if verdict.share in (0.0, 1.0) else f"{min(max(percent, 0.1), 99.9):.1f} %"


def _colour(verdict: Verdict) -> str:
    return "green" if verdict.resolved else "yellow" if verdict.share >= 0.5 else "red"


def _sentences(geometry: Geometry) -> list[Text]:
    """One coloured line for every different verdict."""
    groups: dict[tuple[str, str], list[str]] = {}
    for measure, verdict in geometry.verdicts().items():
        groups.setdefault((verdict.sentence, _colour(verdict)), []).append(NAMES[measure].strip("- "))
    if len(groups) == 1 and all(verdict.resolved for verdict in geometry.verdicts().values()):
        return [Text(f"Every measure: {sentence}", style=colour) for sentence, colour in groups]
    return [
        Text(f"{', '.join(names)}: {sentence}", style=colour) for (sentence, colour), names in groups.items()
    ]


def _orders(geometry: Geometry) -> str:
    specs = dict.fromkeys(geometry.stencil or ())
    return ", ".join(f"{a}" + (f" (stride {s})" if s > 1 else "") for a, s in specs)


def comparison_table(part: Part) -> RenderableType | None:
    """Stencil against exact values, or None where only one of them was measured."""
    if part.stencil is None:
        return None
    title = Text("\nstencil against exact", style="bold")
    table = new_table("error of", "median", "95 % below", "resolved", "covered", "bar / error")
    for measure, found in compare(part.stencil, part.geometry).items():
        numbers = (f"{found.median:.1e}", f"{found.high:.1e}", f"{found.resolved:.1%}")
        covered = f"{found.coverage:.1%}" if math.isfinite(found.coverage) else "-"
        table.add_row(NAMES[measure], *numbers, covered, f"{found.sharpness:.1f}")
    note = (
        "Errors beside the natural scale: the volume element itself, |II|² for S, |II| for other curvatures."
    )
    return Group(title, table, Text(note, style="dim"))


def tables(parts: list[Part]) -> list[RenderableType]:
    """All tables of a run."""
    both = [table for part in parts for table in (summary_table(part), comparison_table(part))]
    return [table for table in both if table is not None]


# --- files -------------------------------------------------------------------------------------------------


def number(value: Any) -> float | None:
    """A number for JSON, which knows no infinity."""
    return float(value) if math.isfinite(value) else None


def _measure_entry(geometry: Geometry, measure: str) -> dict[str, Any]:
    verdict = geometry.verdict(measure)
    entry: dict[str, Any] = {"unit": plotting.unit_of(geometry, measure)}
    estimate = getattr(geometry, measure)
    if measure in TOTALS:
        entry |= {"value": number(estimate.value), "error": number(estimate.error)}
    else:
        levels = geometry.quantiles(QUANTILES)[measure]
        entry["quantiles"] = {f"{q:g}": number(v) for q, v in zip(QUANTILES, levels, strict=True)}
        entry["median_error"] = number(median_error(geometry, measure))
    entry["verdict"] = verdict._asdict() | {"axes": list(verdict.axes)}
    return entry


def _part_entry(part: Part) -> dict[str, Any]:
    geometry = part.geometry
    entry: dict[str, Any] = {
        "name": geometry.name,
        "exact": geometry.exact,
        "axes": [vars(axis) for axis in geometry.grid.axes],
        "points": geometry.grid.size,
        "attributes": dict(geometry.attributes),
        "totals": {measure: _measure_entry(geometry, measure) for measure in TOTALS},
        "fields": {measure: _measure_entry(geometry, measure) for measure in FIELDS},
        "notes": notes(geometry),
        "seconds": {stage: round(seconds, 3) for stage, seconds in part.seconds.items()},
    }
    if part.stencil is not None:
        found = compare(part.stencil, geometry)
        entry["stencil_against_exact"] = {
            measure: {key: number(value) for key, value in comparison._asdict().items()}
            for measure, comparison in found.items()
        }
    return entry


def summary(parts: list[Part], arguments: dict[str, Any], version: str) -> dict[str, Any]:
    """What ``summary.json`` holds."""
    return {
        "manifold_jax": version,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "platform": jax.devices()[0].platform,
        "dtype": str(np.asarray(parts[0].geometry.volume_element.value).dtype),
        "arguments": arguments,
        "manifolds": [_part_entry(part) for part in parts],
    }


def write_results(
    parts: list[Part], out: Path, record: dict[str, Any], tables: list[RenderableType]
) -> list[Path]:
    """Write the geometry, ``summary.json`` and ``summary.txt``.

    Args:
        parts: The measured components.
        out: Folder.
        record: Content of the JSON file.
        tables: What ``summary.txt`` holds.

    Returns:
        The files.
    """
    written = []
    for part in parts:
        written.append(part.geometry.save(out / f"geometry{part.mark}.nc"))
        if part.stencil is not None:
            written.append(part.stencil.save(out / f"geometry_stencil{part.mark}.nc"))
    written.append(write_text(out / "summary.json", json.dumps(record, indent=2, allow_nan=False) + "\n"))
    written.append(write_text(out / "summary.txt", as_text(tables)))
    return written


def figures(part: Part) -> Iterator[tuple[str, Callable[[], Any]]]:
    """File name of every picture of a component, and how to draw it."""
    manifold, geometry, stencil = part.manifold, part.geometry, part.stencil
    drawings: dict[str, Callable[[], Any]] = {
        "samples": lambda: plotting.plot_samples(manifold, geometry),
        "histograms": lambda: plotting.plot_histograms(geometry),
        "pairs": lambda: plotting.plot_pairs(geometry),
        "maps": lambda: plotting.plot_maps(geometry),
        "pca": lambda: plotting.plot_pca(manifold, geometry),
    }
    if stencil is not None:
        drawings["exact_vs_stencil"] = lambda: plotting.plot_comparison(stencil, geometry)
    for stem, draw in drawings.items():
        yield f"{stem}{part.mark}.png", draw


def remove_stale(out: Path, keep: list[Path]) -> None:
    """Remove results of an earlier, different run in the same folder."""
    for name in FILES:
        stem, suffix = name.rsplit(".", 1)
        for path in (out / name, *out.glob(f"{stem}_[0-9].{suffix}")):
            if path not in keep:
                path.unlink(missing_ok=True)
