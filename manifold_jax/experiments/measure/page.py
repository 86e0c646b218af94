"""``report.html`` of ``manifold-jax measure``."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType

from manifold_jax._html import escape, paragraph
from manifold_jax.experiments.measure.cloud import CloudGeometry
from manifold_jax.experiments.measure.files import Samples
from manifold_jax.experiments.measure.report import Part, comparison_table, union_tables
from manifold_jax.experiments.pages import about, as_html, pictures, without_secrets
from manifold_jax.experiments.terminal import command_line
from manifold_jax.geometry import Geometry, Reach, UnionGeometry
from manifold_jax.geometry.quantities import LENGTH, with_bar
from manifold_jax.geometry.verdict import QUIETER, SUGGESTED
from manifold_jax.plotting.page import sections
from manifold_jax.plotting.page.charts import Column, ball_column, cloud_data, limits_of, part_data
from manifold_jax.plotting.page.document import Section, write_page
from manifold_jax.plotting.page.sections import Measured

DRAWN = ("histograms", "maps", "pca", "reach", "cloud")
"""Pictures whose content is interactive in the page."""

_SAMPLES = "<code>--samples NAME=NUMBER</code> takes more samples of an axis"
_AUTO = "<code>--accuracy auto</code> looks for the stencil with the smallest bars"
_DOUBLE = "<code>--x64</code> computes in float64"
_REMEDIES = {
    "refine": _SAMPLES,
    "samples of": _SAMPLES,
    "spacing": _SAMPLES,
    "noise": _AUTO,
    "float64": _DOUBLE,
}
"""Options by a word of the verdicts that they help against."""
_MORE = 2.0  # times as many samples of an axis where a verdict asks for more and does not say how many


def refined(geometries: Sequence[Geometry]) -> dict[str, int]:
    """Samples of the axes that verdicts call too coarse, as many as they ask for."""
    wanted: dict[str, int] = {}
    for geometry in geometries:
        sizes = dict(zip(geometry.grid.names, geometry.grid.shape, strict=True))
        for verdict in geometry.verdicts().values():
            if verdict.resolved:
                continue
            times = [float(x) for x in re.findall(r"too coarse: refine ([\d.]+)x", verdict.sentence)]
            if "needs more samples of" in verdict.sentence:
                times = [_MORE] * len(verdict.axes)
            for name, more in zip(verdict.axes, times, strict=False):
                wanted[name] = max(wanted.get(name, 0), math.ceil(more * sizes[name]))
    return wanted


def command_again(typed: Sequence[str], samples: Mapping[str, int], options: Sequence[str]) -> str:
    """A command that was typed, with other samples and further options.

    Example:
        >>> command_again("measure torus --samples u=9,v=8 --stride 2".split(), {"u": 18}, ["--x64"])
        'measure torus --stride 2 --samples v=8,u=18 --x64'
        >>> command_again("measure --stride=2 --out auto -- torus".split(), {}, ["--accuracy", "auto"])
        'measure --out auto --accuracy auto -- torus'
    """
    replaced = {"--samples"} | ({"--accuracy", "--stride", "--smooth"} if "auto" in options else set())
    end = list(typed).index("--") if "--" in typed else len(typed)
    given, rest, words = "", [], iter(typed[:end])
    for word in words:
        name, equals, value = word.partition("=")
        if name in replaced:
            value = value if equals else next(words, "")
            given += f",{value}" if name == "--samples" else ""
        elif not (word.startswith("--") and word in options):
            rest.append(word)
    pairs = [pair for pair in given.split(",") if pair and pair.partition("=")[0].strip() not in samples]
    pairs += [f"{name}={count}" for name, count in samples.items()]
    new = [*(["--samples", ",".join(pairs)] if pairs else []), *options]
    return shlex.join([*rest, *new, *typed[end:]])


def _next_steps(
    parts: Sequence[Part], geometries: Sequence[Geometry], reach: Reach | None, files: Sequence[Path]
) -> list[str]:
    """What to do with the result: mend what is open, look, load it, measure one's own."""
    said = " ".join(" ".join(sections.unresolved(geometry)) for geometry in geometries)
    said += reach.sentence() if reach is not None and not reach.resolved else ""
    steps, stored = [], any(isinstance(part.manifold, Samples) for part in parts)
    if said:
        remedies = dict.fromkeys(option for word, option in _REMEDIES.items() if word in said)
        if stored:  # of which the command cannot take more
            own = "take more samples of the axes that they name"
            remedies = dict.fromkeys(own if option == _SAMPLES else option for option in remedies)
        if any(SUGGESTED in geometry.attributes for geometry in geometries):
            remedies = dict.fromkeys(QUIETER if option == _AUTO else option for option in remedies)
        options = f": {'; '.join(remedies)}" if remedies else ""
        steps.append(f"Measure again as the verdicts say{options}.{_to_copy(geometries, remedies, stored)}")
    steps.append("Choose a quantity below: where is it large, and what do those points look like?")
    first = next(file for file in files if file.name.startswith("geometry"))
    steps.append(f'Go on in Python: <code>manifold_jax.load_geometry("{escape(str(first))}")</code>.')
    if not stored:
        steps.append("Measure your own: <code>manifold-jax inspect FOLDER</code> says how.")
    return steps


def _to_copy(geometries: Sequence[Geometry], remedies: Collection[str], stored: bool) -> str:
    """The command that does what can be done by options, to be copied."""
    samples = {} if stored else refined(geometries)
    options = ["--accuracy", "auto"] if _AUTO in remedies else []
    options += ["--x64"] if _DOUBLE in remedies else []
    if not samples and not options:
        return ""
    command = command_again(shlex.split(without_secrets(command_line())), samples, options)
    where = " It writes over this page; <code>--out</code> names another folder."
    return f"{where}<pre><code>{escape(command)}</code></pre>"


def _about(record: dict[str, Any], files: Sequence[Path]) -> Section:
    """What was asked for, and where it was computed."""
    machine = ("manifold_jax", "jax", "python", "device", "dtype")
    return about(record["arguments"] | {name: record[name] for name in machine}, files)


def write_measure_page(
    path: Path,
    parts: Sequence[Part],
    record: dict[str, Any],
    reach: Reach | None,
    union: UnionGeometry | None,
    files: Sequence[Path],
) -> Path:
    """Write the page of manifolds on grids."""
    measured = [Measured(part.points, part.geometry, part.beside) for part in parts]
    data = [part_data(m.source, m.geometry, reach, k, len(measured)) for k, m in enumerate(measured)]
    steps = _next_steps(parts, [part.geometry for part in parts], reach, files)
    page = [sections.short(measured, reach, steps), sections.explorer(data)]
    if reach is not None:
        page.append(sections.witnesses([m.source for m in measured] if union else measured[0].source, reach))
    if union is not None:
        page.append(Section("The union", "".join(map(as_html, union_tables(union)))))
    page.append(sections.tables(measured))
    both = [table for part in parts if (table := comparison_table(part)) is not None]
    page += [Section("Stencils beside exact values", "".join(map(as_html, both)))] if both else []
    others = pictures([file for file in files if file.stem.rstrip("-_0123456789") not in DRAWN], folded=True)
    page += [Section("Pictures", others)] if others else []
    page.append(_about(record, files))
    title = sections.title_of(measured)
    return write_page(path, title, _subtitle(record), page, {"parts": data})


def _subtitle(record: dict[str, Any]) -> str:
    return f"manifold_jax {record['manifold_jax']} on {record['device']}, {record['dtype']}"


def write_cloud_page(
    path: Path,
    result: CloudGeometry,
    record: dict[str, Any],
    tables: Sequence[RenderableType],
    files: Sequence[Path],
    tolerance: float,
) -> Path:
    """Write the page of a cloud of points."""
    columns = list(_cloud_columns(result, tolerance))
    data = [cloud_data(result.name, result.points, columns)]
    numbers = "".join(map(as_html, tables))
    page = [_cloud_short(result), sections.explorer(data), Section("All numbers", numbers)]
    page.append(_about(record, files))
    title = f"The geometry of {result.name}"
    return write_page(path, title, _subtitle(record), page, {"parts": data})


def _cloud_columns(result: CloudGeometry, tolerance: float) -> list[Column]:
    """Quantities of every point."""
    points = result.intrinsic.pointwise
    values, errors = (np.asarray(part, float).ravel() for part in points[:2])

    def column(label: str, unit: str, value: np.ndarray, error: np.ndarray) -> Column:
        small = error <= tolerance * np.abs(value)
        limits = limits_of(value)
        words = f"{small.mean():.0%} of the points have a bar below {tolerance:.0%}."
        return Column(f"{label} [{unit}]" if unit else label, unit, value, error, small, limits, words)

    columns = []
    if result.scales is not None:
        place, scales = result.place, result.scales
        curvature, error = scales.curvature[place], scales.error[place]
        columns.append(column("largest normal curvature", f"1/{LENGTH}", curvature, error))
    columns.append(column("intrinsic dimension", "", values, errors))
    if result.reach is not None:
        ball = result.reach.components[0]
        columns.append(ball_column(ball, tolerance, result.reach.sentence()))
    return columns


def _cloud_short(result: CloudGeometry) -> Section:
    """What was measured, whether it is reliable, and what to do next."""
    n, f = result.points.shape
    intrinsic, reach = result.intrinsic, result.reach
    what = f"{result.name}: {n} points of R^{f} without a grid. "
    dimension = with_bar(intrinsic.value, intrinsic.error)
    what += f"Intrinsic dimension {dimension}; measured as {result.dimension}."
    certain = (
        "certain"
        if intrinsic.resolved
        else f"not certain{': ' + intrinsic.status if intrinsic.status else ''}"
    )
    sure = [paragraph(f"The dimension is {certain}.", "good" if intrinsic.resolved else "bad")]
    sure += [paragraph(result.note, "fair")] if result.note else []
    if reach is not None:
        said = "reach is resolved." if reach.resolved else reach.sentence()
        sure.append(paragraph(f"The {said}", "good" if reach.resolved else "bad"))
    steps = ["<li>Choose a quantity below and look where it is large.</li>"]
    if not intrinsic.resolved or (reach is not None and not reach.resolved):
        steps.insert(0, "<li>More points, or less noise, make the bars smaller.</li>")
    steps.append("<li>Do they lie on a grid? Give its axes with <code>--axis</code>: that tells more.</li>")
    boxes = {"What was measured": paragraph(what), "Is it reliable?": "".join(sure)}
    boxes["What next?"] = f"<ul>{''.join(steps)}</ul>"
    return Section("In short", sections.boxes(boxes))
