"""Tables and files that ``manifold-jax measure`` leaves behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.text import Text

from manifold_jax import plotting
from manifold_jax._files import write_dataset, write_text
from manifold_jax.experiments.experiment import machine, write_json
from manifold_jax.experiments.measure.files import Samples
from manifold_jax.experiments.terminal import as_text, new_table
from manifold_jax.geometry import Estimate, Geometry, Manifold, Reach, UnionGeometry
from manifold_jax.geometry.quantities import FIELDS, LABELS, TOTALS, finite_median, with_bar
from manifold_jax.geometry.reach.result import SCALARS
from manifold_jax.geometry.show import units
from manifold_jax.geometry.stencil import stencil_words
from manifold_jax.geometry.verdict import SMOOTHER, Verdict, noise_levels, noise_sentence
from manifold_jax.plotting.style import compare

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SPAN = "5 % … 95 %"
_PAIRS = 10  # of classes that a table shows, the nearest


class Part(NamedTuple):
    """One measured component."""

    manifold: Manifold | Samples
    geometry: Geometry  # what the results are of
    beside: Geometry | None  # by stencils where the other one is exact, or the other way round
    seconds: dict[str, float]  # of every stage; an interrupted one counts from where it went on
    mark: str  # "_1", "_2", ... in a union, else empty
    pictures: dict[str, Future[bytes]]  # by file name, those that are being drawn already

    @property
    def points(self) -> Any:
        """What plots and searches take: the Manifold, or its points."""
        return self.manifold.points if isinstance(self.manifold, Samples) else self.manifold

    @property
    def both(self) -> tuple[Geometry, Geometry] | None:
        """By stencils and exactly, where it was measured both ways."""
        if self.beside is None:
            return None
        return (self.beside, self.geometry) if self.geometry.exact else (self.geometry, self.beside)


def _name(quantity: str) -> str:
    """Short name; one that goes on from the row above begins with a dash."""
    words, comma, rest = LABELS[quantity].words.partition(", ")
    return f"- {rest}" if comma else words


def _colour(verdict: Verdict) -> str:
    return "green" if verdict.resolved else "yellow" if verdict.share >= 0.5 else "red"


def _share(quantity: str, verdict: Verdict) -> str:
    if verdict.zero:
        return "is 0"
    if quantity in TOTALS:
        return "yes" if verdict.resolved else "no"
    return _percent(verdict.share)


def _percent(share: float) -> str:
    """A share in per cent, which is never rounded to all or none."""
    if math.isnan(share):
        return "-"
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %"


def summary_table(part: Part) -> RenderableType:
    """Totals and fields with error bars, units and verdicts, for 80 columns."""
    geometry, verdicts = part.geometry, part.geometry.verdicts()
    known = getattr(part.manifold, "known", {})  # of samples nothing is
    quantiles = geometry.quantiles((0.05, 0.5, 0.95))
    table = new_table("quantity", "value", _SPAN, "unit", "resolved", spare=(_SPAN, "unit"))

    def add(quantity: str, value: float, error: float, between: str) -> None:
        verdict = verdicts[quantity]
        share = Text(_share(quantity, verdict), style=_colour(verdict))
        unit = plotting.unit_of(geometry, quantity)
        table.add_row(_name(quantity), with_bar(value, error), between, unit, share)

    for quantity in TOTALS:
        estimate = getattr(geometry, quantity)
        truth = f"truth: {float(known[quantity]):.5g}" if quantity in known else ""
        add(quantity, float(estimate.value), float(estimate.error), truth)
    table.add_section()
    for quantity in FIELDS:
        low, middle, high = quantiles[quantity]
        bar = finite_median(getattr(geometry, quantity).error, math.inf)
        add(quantity, middle, bar, f"{low:.3g} … {high:.3g}")
    title = Text(geometry.title, style="bold")
    doubts = (Text(doubt, style="yellow") for doubt in _doubts(geometry))
    lines = (Text(note, style="dim") for note in notes(geometry))
    return Group(title, *doubts, table, *_sentences(verdicts), *lines)


def _sentences(verdicts: dict[str, Verdict]) -> list[Text]:
    """One coloured line for every different verdict."""
    groups: dict[tuple[str, str], list[str]] = {}
    for quantity, verdict in verdicts.items():
        sentence = verdict.sentence.replace(SMOOTHER, "try --accuracy auto, which takes the smallest bars")
        groups.setdefault((sentence, _colour(verdict)), []).append(_name(quantity).strip("- "))
    if len(groups) == 1 and all(verdict.resolved for verdict in verdicts.values()):
        groups = {key: ["Every quantity"] for key in groups}
    return [Text(f"{', '.join(names)}: {sentence}", colour) for (sentence, colour), names in groups.items()]


def notes(geometry: Geometry) -> list[str]:
    """Sentences that a reader of the table needs."""
    bars = "± half-width of the error bar (median over points for fields); [5 %, 95 %] quantiles of fields."
    lines = [bars, *units(geometry)]
    lines += filter(None, [noise_sentence(geometry)])
    if geometry.grid.ndim > 1:
        scale = "when their bars are small next to |II|²"
        lines.append(f"The scalar curvature and its totals count as resolved {scale} and leave no sign open.")
    return lines


def _doubts(geometry: Geometry) -> list[str]:
    """What may be wrong with the points, which comes before all numbers."""
    return [*filter(None, [dict(geometry.attributes).get("note", "")])]


def comparison_table(part: Part) -> RenderableType | None:
    """Stencils next to exact values, or None where only one of them was measured."""
    if part.both is None:
        return None
    stencil, exact = part.both
    spare = ("bar / error", "within the bar")
    table = new_table("quantity", "stencils", "exact", *reversed(spare), spare=spare)
    for quantity in TOTALS:
        (value, bar, _), (truth, own, _) = (getattr(result, quantity) for result in (stencil, exact))
        error, allowed = abs(float(value) - float(truth)), float(bar) + float(own)
        within = "-" if math.isnan(error) else "yes" if error <= allowed else "no"
        ratio = f"{allowed / error:.1f}" if error > 0 else "-"
        table.add_row(
            _name(quantity), with_bar(float(value), float(bar)), f"{float(truth):.4g}", within, ratio
        )
    table.add_section()
    for quantity, row in compare(stencil, exact).items():
        value, bar, _ = getattr(stencil, quantity)
        middle = with_bar(finite_median(value, math.nan), finite_median(bar, math.inf))
        truth = f"{finite_median(getattr(exact, quantity).value, math.nan):.4g}"
        table.add_row(_name(quantity), middle, truth, _percent(row.within), f"{row.sharpness:.1f}")
    note = "Medians over the points, and the share of points whose exact value lies within the bar."
    title = f"\nstencils of order {stencil_words(stencil.stencil or ())} beside the exact values"
    return Group(Text(title, style="bold"), table, Text(note, style="dim"))


def reach_table(reach: Reach) -> RenderableType:
    """Value, local and global part with error bars, and a sentence."""
    table = new_table("reach", "value", "unit", "resolved")
    colour = "green" if reach.resolved else "red"
    verdict = Text("yes" if reach.resolved else "no", colour)
    narrow = f"none below {reach.searched:.4g}"
    if math.isfinite(reach.bottleneck):
        narrow = with_bar(reach.bottleneck, reach.bottleneck_error)
    table.add_row("reach", with_bar(reach.value, reach.error), "ℓ", verdict)
    table.add_row("- local: 1 / curvature", with_bar(reach.local, reach.local_error), "ℓ", "")
    table.add_row("- half the bottleneck", narrow, "ℓ", "")
    return Group(Text("\nreach", style="bold"), table, Text(reach.sentence(), style=colour))


def _estimate_words(estimate: Estimate) -> Text:
    """An estimate in the colour of its verdict."""
    value, error, resolved = estimate
    return Text(with_bar(float(value), float(error)), style="green" if bool(resolved) else "red")


def union_tables(union: UnionGeometry) -> list[RenderableType]:
    """The classes of a union next to each other, and every two of them, scaled to unit volume."""
    parts = ("- negative part", "- positive part")
    table = new_table("class", "volume, share", "total curvature", *reversed(parts), spare=parts)
    shares = [(part.name, _estimate_words(part.volume), part) for part in union.classes]
    for name, share, part in (*shares, ("union", Text("1"), union)):
        table.add_row(name, share, *(_estimate_words(getattr(part, total)) for total in TOTALS[1:]))
    scale = f"Volume of the union {with_bar(float(union.volume.value), float(union.volume.error))}; "
    note = Text(f"{scale}lengths were multiplied by {union.scale:.5g}.", style="dim")
    tables: list[RenderableType] = [Group(Text("\nunion, of unit volume", style="bold"), table, note)]
    if union.reach is not None:
        spare = ("ball alone", "ball in the union")
        table = new_table("class", "reach alone", "in the union", *spare, spare=spare[::-1])
        for part in union.classes:
            cells = [part.alone.least, part.together.least, part.alone.mean, part.together.mean]
            table.add_row(part.name, *map(_estimate_words, cells))
        least, mean = map(_estimate_words, (union.least_reach, union.mean_reach))
        table.add_row("union", "", least, "", mean)
        words = "ball: radius of the largest empty tangent ball, its mean over the volume."
        tables.append(Group(table, Text(words, style="dim")))
    if union.distances:
        spare = ("the least", "equal coordinates")
        table = new_table("distance between", "nearest points", *reversed(spare), spare=spare)
        nearest = sorted(union.distances, key=lambda pair: float(pair.nearest.value))[:_PAIRS]
        for pair in nearest:
            names = " and ".join(union.classes[k].name for k in (pair.first, pair.second))
            cells = _estimate_words(pair.nearest), _estimate_words(pair.paired), f"{pair.least_paired:.4g}"
            table.add_row(names, *cells)
        more = len(union.distances) - len(nearest)
        note = f"The mean over the chart, and the least.{f' {more} pairs are farther.' if more else ''}"
        tables.append(Group(table, Text(note, style="dim")))
    return tables


def union_entry(union: UnionGeometry) -> dict[str, Any]:
    """What ``summary.json`` holds of a union; the geometry and reach of its classes stand elsewhere."""
    left_out = ("geometries", "reach")
    return {name: value for name, value in union._asdict().items() if name not in left_out}


def tables_of(parts: Sequence[Part]) -> list[RenderableType]:
    """Tables of all components."""
    both = (table for part in parts for table in (summary_table(part), comparison_table(part)))
    return [table for table in both if table is not None]


def _quantity_entry(geometry: Geometry, quantity: str) -> dict[str, Any]:
    estimate, verdict = getattr(geometry, quantity), geometry.verdict(quantity)
    entry: dict[str, Any] = {"unit": plotting.unit_of(geometry, quantity), "verdict": verdict}
    if quantity in TOTALS:
        entry |= {"value": float(estimate.value), "error": float(estimate.error)}
    else:
        levels = geometry.quantiles(QUANTILES)[quantity]
        entry["quantiles"] = {f"{q:g}": float(v) for q, v in zip(QUANTILES, levels, strict=True)}
        entry["median_error"] = finite_median(estimate.error, math.inf)
    return entry


def _part_entry(part: Part) -> dict[str, Any]:
    geometry = part.geometry
    entry: dict[str, Any] = {"name": geometry.name, "exact": geometry.exact, "points": geometry.grid.size}
    entry |= {"axes": [vars(axis) for axis in geometry.grid.axes], "attributes": dict(geometry.attributes)}
    for kind, names in {"totals": TOTALS, "fields": FIELDS}.items():
        entry[kind] = {quantity: _quantity_entry(geometry, quantity) for quantity in names}
    entry["seconds"] = {stage: round(seconds, 3) for stage, seconds in part.seconds.items()}
    entry |= {"noise": noise_levels(geometry), "notes": [*notes(geometry), *_doubts(geometry)]}
    if part.both is not None:
        entry["stencil_against_exact"] = compare(*part.both)
    return entry


def reach_entry(reach: Reach) -> dict[str, Any]:
    """What ``summary.json`` holds of a reach."""
    names = (*SCALARS, "searched", "pruned", "local_bounds", "case", "resolved", "coincident")
    entry = {name: getattr(reach, name) for name in names} | {"sentence": reach.sentence()}
    return entry | {"unit": "ℓ", "pair": reach.ends}


def summary(
    parts: Sequence[Part], arguments: dict[str, Any], reach: Reach | None, seconds: float
) -> dict[str, Any]:
    """What ``summary.json`` holds; ``seconds`` is the time of the search for the reach."""
    record = machine()
    record |= {"dtype": str(parts[0].geometry.volume_element.value.dtype), "arguments": arguments}
    record["manifolds"] = [_part_entry(part) for part in parts]
    if reach is not None:
        record["reach"] = reach_entry(reach) | {"seconds": round(seconds, 3)}
    return record


def write_results(
    parts: Sequence[Part],
    out: Path,
    record: dict[str, Any],
    tables: Sequence[RenderableType],
    reach: Reach | None = None,
) -> list[Path]:
    """Write geometry and reach of every component, ``summary.json`` and ``summary.txt``."""
    written = []
    for k, part in enumerate(parts):
        written.append(part.geometry.save(out / f"geometry{part.mark}.nc"))
        if part.beside is not None:
            kind = "exact" if part.beside.exact else "stencil"
            written.append(part.beside.save(out / f"geometry_{kind}{part.mark}.nc"))
        if reach is not None:
            written.append(write_dataset(reach.to_xarray(k), out / f"reach{part.mark}.nc"))
    record_file = write_json(out / "summary.json", record)
    return [*written, record_file, write_text(out / "summary.txt", as_text(tables))]


def headline(parts: Sequence[Part], reach: Reach | None) -> Text:
    """The numbers that matter: volume, scalar curvature (of a curve |H|), reach."""
    geometry = parts[0].geometry
    curvature = "mean_curvature" if geometry.grid.ndim == 1 else "scalar_curvature"
    words = []
    for name in ("total_volume", curvature):
        value, bar = (finite_median(part, math.nan) for part in getattr(geometry, name)[:2])
        unit, of = plotting.unit_of(geometry, name), "" if name == "total_volume" else " (median)"
        words.append(f"{LABELS[name].words}{of} {with_bar(value, bar)} {unit}".strip())
    words += [f"reach {with_bar(reach.value, reach.error)} ℓ"] if reach is not None else []
    return Text("; ".join(words), style="bold")
