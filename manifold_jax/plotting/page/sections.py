"""The sections of a report of measured manifolds: what was measured, how sure it is, and the plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import manifold_jax.plotting.style as style
from manifold_jax._checks import instance
from manifold_jax._files import user_path
from manifold_jax._html import escape, paragraph
from manifold_jax.geometry import Geometry, Reach
from manifold_jax.geometry.quantities import LABELS, finite_median, with_bar
from manifold_jax.geometry.show import units
from manifold_jax.plotting.images import is_image
from manifold_jax.plotting.page.charts import colours, part_data, shrink
from manifold_jax.plotting.page.document import Section, about, png, write_page
from manifold_jax.plotting.points import feature_shape
from manifold_jax.plotting.reach import WitnessPair, witness_pairs

MEANINGS = {
    "volume_element": "volume of the manifold that a unit cell of the axes covers",
    "scalar_curvature": "intrinsic; on a surface twice the Gauss curvature, positive as on a sphere",
    "mean_curvature": "length of the trace of the second form, over the dimension",
    "second_form_norm": "how much the manifold is curved in its space, over all directions at once",
    "normal_curvature": "curvature along the direction that is curved most; 1 / it bounds the reach",
    "total_volume": "length, area or volume of the whole",
    "total_scalar_curvature": "scalar curvature summed over the volume, and its positive and negative parts",
    "reach": "distance up to which every point has one nearest point on the manifold",
}
"""Quantities in a few words, by the keys of :data:`LABELS`."""

_ENOUGH = 0.99  # share of points whose exact value lies within the bar of a stencil, from which they agree


class Measured(NamedTuple):
    """One manifold of a report: what was measured, its geometry, and the one by the other method, if any."""

    source: Any
    geometry: Geometry
    beside: Geometry | None = None


def short(parts: Sequence[Measured], reach: Reach | None, next_steps: Sequence[str]) -> Section:
    """What was measured, whether it is reliable, and what to do next; with the numbers that matter."""
    answers = {
        "What was measured": "".join(paragraph(_what(part)) for part in parts[:4]),
        "Is it reliable?": "".join(_reliable(parts, reach)),
        "What next?": f"<ul>{''.join(f'<li>{step}</li>' for step in next_steps)}</ul>",
    }
    if len(parts) > 4:
        answers["What was measured"] += paragraph(f"And {len(parts) - 4} more.")
    first = parts[0].geometry
    numbers = [_number(first, name) for name in ("total_volume", "scalar_curvature") if _matters(first, name)]
    numbers += [_reach_number(reach)] if reach is not None else []
    return Section("In short", f'{boxes(answers)}<div class="columns">{"".join(numbers)}</div>')


def boxes(answers: dict[str, str]) -> str:
    """Answers, which are HTML, beside each other below their questions."""
    shown = (f'<div class="box"><h3>{escape(name)}</h3>{body}</div>' for name, body in answers.items())
    return f'<div class="columns">{"".join(shown)}</div>'


def _matters(geometry: Geometry, name: str) -> bool:
    """A curve has no scalar curvature."""
    return name != "scalar_curvature" or geometry.grid.ndim > 1


def _what(part: Measured) -> str:
    geometry, shape = part.geometry, feature_shape(part.source, part.geometry.grid)
    d, n = geometry.grid.ndim, geometry.grid.size
    things = f"points of R^{math.prod(shape)}"
    if is_image(shape):
        things = f"images of {shape[0]} x {shape[1]} pixels"
    kind = {1: "curve", 2: "surface"}.get(d, f"{d}-dimensional manifold")
    axes = [f"{axis.size} of {style.axis_label(axis)}" for axis in geometry.grid.axes]
    lattice = f"{', '.join(axes[:-1])} and {axes[-1]}" if d > 1 else axes[0]
    how = "The embedding was differentiated exactly (automatic differentiation)."
    if not geometry.exact:
        how = "Derivatives are finite differences of the samples."
    what = f"{geometry.name}: a {kind}, on a grid of {n} {things} ({lattice}). {how}"
    return " ".join([what, *units(geometry)])


def _reliable(parts: Sequence[Measured], reach: Reach | None) -> list[str]:
    """Paragraphs: what is resolved, what is not and why, and whether the two methods agree."""
    lines = []
    for part in parts:
        name = f"{part.geometry.name}: " if len(parts) > 1 else ""
        open_ones = unresolved(part.geometry)
        tolerance = f"{part.geometry.tolerance:.0%}"
        if not open_ones:
            scale = f"{tolerance} of its scale (|II| for curvatures, |II|² for S)"
            say = f"Yes: every quantity is resolved, its error bar is below {scale} at 95 % of the points."
            lines.append(paragraph(name + say, "good"))
        else:
            say = "No, not all of it. A number that is not resolved should not be used."
            lines.append(paragraph(name + say, "bad"))
        for sentence, names in open_ones.items():
            lines.append(paragraph(f"{name}{'; '.join(names)}: {sentence}", "bad"))
        if note := dict(part.geometry.attributes).get("note"):
            lines.append(paragraph(f"{name}{note}", "fair"))
        if part.beside is not None:
            lines.append(_agreement(part))
    if reach is not None:
        sentence = f"The {reach.sentence()}" if not reach.resolved else "The reach is resolved."
        lines.append(paragraph(sentence, "good" if reach.resolved else "bad"))
    return lines


def unresolved(geometry: Geometry) -> dict[str, list[str]]:
    """Sentences about what is not resolved, with the quantities that they are about."""
    groups: dict[str, list[str]] = {}
    for name, verdict in geometry.verdicts().items():
        if not verdict.resolved:
            groups.setdefault(verdict.sentence, []).append(LABELS[name].words)
    return groups


def _agreement(part: Measured) -> str:
    """Whether exact values lie within the bars of the stencils."""
    assert part.beside is not None
    stencil, exact = (part.geometry, part.beside)
    if part.geometry.exact:
        stencil, exact = exact, stencil
    rows = style.compare(stencil, exact)
    shares = [rows[name].within for name in style.shown(exact) if not math.isnan(rows[name].within)]
    if not shares:
        return paragraph("The stencils on the same samples have no error bars to compare with.", "fair")
    where = "all points" if min(shares) == 1 else f"{_down(min(shares))} of the points at least"
    words = f"the exact values lie within their error bars at {where}."
    if min(shares) < _ENOUGH:
        return paragraph(f"Stencils on the same samples do not always agree with them: {words}", "fair")
    left = unresolved(stencil)
    names = "; ".join(name for group in left.values() for name in group)
    words += f" By themselves they would leave open: {names}." if left else ""
    return paragraph(f"Stencils on the same samples agree with the exact values: {words}", "good")


def _down(share: float) -> str:
    """A share in per cent, never more than it is."""
    return f"{math.floor(1000 * share) / 10:g} %"


def _number(geometry: Geometry, name: str) -> str:
    """A box with a number: a total, or the median of a field."""
    estimate, verdict = getattr(geometry, name), geometry.verdict(name)
    value, bar = finite_median(estimate.value, math.nan), finite_median(estimate.error, math.inf)
    of = LABELS[name].words + ("" if name.startswith("total") else ", median over the points")
    return _box(of, with_bar(value, bar), style.unit_of(geometry, name), verdict.resolved, verdict.sentence)


def _reach_number(reach: Reach) -> str:
    value = with_bar(reach.value, reach.error)
    return _box("reach", value, style.LENGTH, reach.resolved, reach.sentence().partition(": ")[2])


def _box(name: str, value: str, unit: str, resolved: bool, words: str) -> str:
    chip = f'<span class="chip {"good" if resolved else "bad"}">{"✓" if resolved else "✗"}</span>'
    number = f'<div class="number">{escape(value)} <small>{escape(unit)}</small></div>'
    quiet = f'<div class="quiet">{escape(words)}</div>'
    return f'<div class="box"><h3>{escape(name)} {chip}</h3>{number}{quiet}</div>'


def explorer(parts: Sequence[dict[str, Any]]) -> Section:
    """The interactive plots of the manifolds: points, maps, distributions, and bars."""
    several = '<label>manifold<select id="part"></select></label>' if len(parts) > 1 else ""
    choose = f'{several}<label>quantity<select id="quantity"></select></label>'
    body = [f'<div class="controls sticky">{choose}</div>']

    def add(title: str, hint: str, plots: str) -> None:
        body.append(f'<h3>{title}</h3><p class="hint">{hint}</p>{plots}')

    points = '<div class="plot tall" id="points"></div><div class="box point" id="point"></div>'
    chord = " Orange: where the reach is decided." * any(part["chord"] is not None for part in parts)
    turn = "Drag to turn, scroll to zoom. " if any(len(p["points"]["names"]) == 3 for p in parts) else ""
    hint = f"{turn}What is known of the point under the pointer, ringed, is shown next to the plot.{chord}"
    add("The points", hint, f'<div class="beside">{points}</div>')
    if any(part["map"] for part in parts):
        hint = "Samples of the grid, thinned where they are too many for a page."
        hint += " The sliders choose where to cut the other axes." * any(len(p["axes"]) > 2 for p in parts)
        sliders = '<div class="controls" id="sliders"></div><div class="plot" id="map"></div>'
        add("Along the axes", hint, sliders)
    histogram = '<div class="plot" id="histogram"></div><p id="histogram-words"></p>'
    hint = (
        "Line: the median; band: its error bar, the median over the points; the outermost bars hold the rest."
    )
    add("Distribution", hint, histogram)
    hint = "Every mark is a point of the first plot; where a bar is as large as the value, nothing is known."
    add("Error bar against value", hint, '<div class="plot" id="bars"></div>')
    return Section("Explore", "".join(body))


def witnesses(manifolds: Any, reach: Reach) -> Section:
    """The points that decide the reach, side by side where they are images."""
    pairs = witness_pairs(manifolds, reach)
    shown = "".join(map(_pair, pairs)) if is_image(pairs[0].x.shape) else _ends(pairs[0], reach)
    return Section("Reach", reach_words(reach) + shown)


def reach_words(reach: Reach) -> str:
    """The table of a reach and its meaning."""
    meaning = "Within this distance of the manifold, every point has one nearest point on it."
    return f'<p class="hint">{meaning}</p><div class="scroll">{reach._repr_html_()}</div>'


def _ends(pair: WitnessPair, reach: Reach) -> str:
    if not all(end.coordinates.size for end in reach.ends):
        return ""
    words = " and ".join(dict.fromkeys(pair.places))
    drawn = not pair.same and reach.ends[0].component == reach.ends[1].component
    chord = "; the chord is drawn among the points above" * drawn
    return paragraph(f"Decided at {words} ({pair.words}){chord}.")


def _pair(pair: WitnessPair) -> str:
    """Two images and their difference."""
    x, y = colours(np.stack([pair.x, pair.y]))
    low, high = min(0.0, x.min(), y.min()), max(x.max(), y.max())

    def shown(image: np.ndarray, words: str) -> str:
        levels = np.clip(255 * (shrink(image[None], 200)[0] - low) / ((high - low) or 1.0), 0, 255)
        return _figure(png(levels.round()), words)

    figures = [shown(x, f"p: {pair.places[0]}"), shown(y, f"q: {pair.places[1]}")]
    if pair.same:
        return f'<h3>{escape(pair.title)}; {escape(pair.words)}</h3><div class="pair">{figures[0]}</div>'
    step = y - x if x.ndim == 2 else (y - x).mean(axis=-1)
    words = f"q − p, {pair.words} (red: brighter in q)"
    figures.append(_figure(png(_signed(shrink(step[None], 200)[0])), words))
    return f'<h3>{escape(pair.title)}</h3><div class="pair">{"".join(figures)}</div>'


def _figure(source: str, words: str) -> str:
    return (
        f'<figure><img alt="{escape(words)}" src="{source}"><figcaption>{escape(words)}</figcaption></figure>'
    )


def _signed(values: np.ndarray) -> np.ndarray:
    """Red above 0, blue below, white at 0."""
    share = np.clip(values / (np.abs(values).max() or 1.0), -1, 1)[..., None]
    end = np.where(share > 0, [178.0, 24.0, 43.0], [33.0, 102.0, 172.0])
    return (255 + np.abs(share) * (end - 255)).round()


def tables(parts: Sequence[Measured]) -> Section:
    """Every quantity with its bar and its verdict, and what they are."""
    shown = "".join(f'<div class="scroll">{part.geometry._repr_html_()}</div>' for part in parts)
    lengths = {length_words(part.geometry, part.source) for part in parts}
    units = paragraph(f"{style.LENGTH}: {'; or '.join(sorted(lengths))}.", "quiet")
    named = (
        f"<li><b>{escape(LABELS[key].name)}</b>: {escape(words)}.</li>" for key, words in MEANINGS.items()
    )
    meanings = f"<details><summary>What they are</summary><ul>{''.join(named)}</ul></details>"
    return Section("All numbers", shown + units + meanings)


def length_words(geometry: Geometry, source: Any) -> str:
    """What the unit of length is."""
    usual = "the unit of length of the space that the points lie in"
    if is_image(feature_shape(source, geometry.grid)):
        usual = "distance between images, the root of summed squared differences of their pixels"
    return dict(geometry.attributes).get("length", usual)


def title_of(parts: Sequence[Measured]) -> str:
    """What a report is called."""
    names = [part.geometry.name for part in parts]
    return f"The geometry of {names[0]}" if len(names) == 1 else f"The geometry of {len(names)} manifolds"


def save_report(
    path: str | Path,
    manifold: Any,
    geometry: Geometry,
    *,
    reach: Reach | None = None,
    beside: Geometry | None = None,
) -> Path:
    """Write one HTML file that shows a measured manifold, with interactive plots; it needs no network.

    Args:
        path: The file, ``report.html``.
        manifold: What was measured: a Manifold, or its points ``(*grid.shape, *features)``.
        geometry: Result of :func:`manifold_jax.measure`.
        reach: Result of :func:`manifold_jax.reach` of the same manifold, if it is known.
        beside: The geometry by the other method (stencils or exact), on the same grid.

    Returns:
        The path. The file is about 5 MB, most of it plotly.js.

    Raises:
        ValueError: The geometry is not that of the points, or the file cannot be written.
        ImportError: plotly or pillow is not installed.

    Example:
        >>> import tempfile
        >>> torus = mj.datasets.torus(size=(16, 16))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mj.plotting.save_report(f"{folder}/report.html", torus, mj.measure(torus)).name
        'report.html'
    """
    style.checked_geometry("save_report", "geometry", geometry)
    if reach is not None:
        instance("save_report", "reach", reach, Reach, "see reach")
    parts = [Measured(manifold, geometry, beside)]
    data = [part_data(manifold, geometry, reach, 0, 1)]
    steps = ["Choose a quantity below and look where it is large.", "Refine the axes that a verdict names."]
    sections = [short(parts, reach, steps), explorer(data)]
    sections += [witnesses(manifold, reach)] if reach is not None else []
    sections += [tables(parts), about(dict(geometry.attributes))]
    return write_page(user_path(path), title_of(parts), "by manifold_jax", sections, {"parts": data})
