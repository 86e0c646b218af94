"""What can be measured on real images: grey levels, few views, and which stencil does best.

    python benchmarks/real_images.py --coil20 coil-20-proc.zip      # about 10 minutes on 2 cores
    python benchmarks/real_images.py --reduced                      # under a minute, sprites alone

1. Sprites of 64 x 64 pixels, of one and of two factors, in float32 and rounded to 16, 10 and 8 bits;
   automatic differentiation tells what is true.
2. The 72 photographs of every object of COIL-20, as they are: a closed curve. Nothing tells what is true. The
   high differences are split into what a shift, a stretch and another brightness of single views explains,
   and the rest.
3. COIL-20 interpolated between the views (``turntable``), two factors, in float32 and rounded to 8 bits;
   automatic differentiation tells what is true.

Every image has grey levels from 0 to 1, so lengths are distances of images whose white is 1. By data set and
quantity the stencil with the smallest relative bar is shown, the median over the points. Writes
``real_images.md``, ``.json`` and pictures to ``--out``.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import peer_common as common

import manifold_jax as mj
from manifold_jax.geometry.stencil import difference_weights
from manifold_jax.plotting import compare
from manifold_jax.plotting.style import PALETTE, new_figure

WHITE = 255.0
QUANTUM = 1 / WHITE / 12**0.5
"""Standard deviation of rounding to 8 bits."""

DEPTHS = (0, 16, 10, 8)
"""Bits of a grey level; 0 is float32."""

SHAPES, BLURS, OBJECTS = ("ellipse", "square", "heart"), (1.0, 2.0, 4.0), 20
VIEWS, DIFFERENCE, ROUGH = 72, 10, 10
"""Views of a turn, order of the difference that shows what is rough, and least mode of rough parameters."""

Stencil = tuple[Any, int, int]
"""Accuracy, stride and smooth."""

DEFAULT: Stencil = (4, 1, 0)
PLAIN = [(order, 1, 0) for order in (2, 4, 6, 8)]


class Case(NamedTuple):
    """Images on a grid, and their exact geometry where it is known."""

    name: str
    bits: int
    points: np.ndarray
    grid: mj.Grid
    exact: mj.Geometry | None = None
    true_noise: float | None = None


def stencils(
    grid: mj.Grid, orders: Sequence[Any], strides: Sequence[int], smooths: Sequence[int]
) -> list[Stencil]:
    """All that fit every axis."""

    def fits(axis: mj.Axis, order: int, stride: int, smooth: int) -> bool:
        if smooth:
            return smooth >= order // 2 + 2 and 2 * smooth * stride < axis.size
        return (order * stride if axis.periodic else (order + 2) * stride - 1) < axis.size

    rows = [(o, s, w) for o in orders if o != "spectral" for s in strides for w in smooths]
    rows = [row for row in rows if all(fits(axis, *row) for axis in grid.axes)]
    return rows + [("spectral", 1, 0)] * ("spectral" in orders)


def forget_programs() -> None:
    """Before their memory maps reach Linux's limit of 65530, beyond which the compiler crashes."""
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


def measure(case: Case, stencil: Stencil, **options: Any) -> mj.Geometry:
    forget_programs()
    order, stride, smooth = stencil
    return mj.measure(case.points, case.grid, accuracy=order, stride=stride, smooth=smooth, **options)


def relative_bar(geometry: mj.Geometry, quantity: str, part: str = "error") -> float:
    """Median bar, or its noise part, over the median value (for S over that of |II|, squared)."""
    estimate = getattr(geometry, quantity)
    bar = estimate.error if part == "error" else getattr(geometry.noise_bars, quantity)
    curved = quantity == "scalar_curvature"
    scale = float(np.nanmedian((geometry.second_form_norm if curved else estimate).value))
    return float(np.median(bar)) / (scale**2 if curved else scale)


def noise_level(geometry: mj.Geometry, case: Case) -> float:
    """Estimated noise of a pixel, in grey levels of 8 bits: the median over the points, the worst axis."""
    level = np.median(np.asarray(geometry.noise).reshape(-1, case.grid.ndim), axis=0)
    return float(level.max()) * WHITE / np.prod(case.points.shape[case.grid.ndim :]) ** 0.5


def best(geometries: dict[Stencil, mj.Geometry], quantity: str) -> Stencil:
    """The stencil with the smallest relative bar."""
    return min(geometries, key=lambda stencil: relative_bar(geometries[stencil], quantity))


def spell(stencil: Sequence[Any]) -> str:
    order, stride, smooth = stencil
    return f"{order}, {stride}" + (f", {smooth}" if smooth else "")


# --- data -------------------------------------------------------------------------------------------------


def known(manifold: mj.Manifold, name: str, depths: Sequence[int]) -> Iterator[Case]:
    """A manifold of images by bits of a grey level, with its exact geometry."""
    exact = mj.measure(manifold, exact=True)
    coordinates = manifold.grid.coordinates(jnp.float32)
    render = jax.jit(lambda u: jax.lax.map(manifold.embedding, u, batch_size=64))
    images = np.asarray(render(coordinates.reshape(-1, manifold.grid.ndim)))
    images = images.reshape(*manifold.grid.shape, *images.shape[1:])
    for bits in depths:
        levels = 2.0**bits - 1
        points = (np.rint(images * levels) / levels).astype(np.float32) if bits else images
        noise = float(np.sqrt(np.mean((points - images) ** 2))) * WHITE
        yield Case(name, bits, points, manifold.grid, exact, noise)


def sprites(options: argparse.Namespace) -> Iterator[Iterator[Case]]:
    """Curves of orientations at three blurs, and surfaces of scales and orientations."""
    depths = (0, 8) if options.reduced else DEPTHS
    for shape in SHAPES[: 1 if options.reduced else None]:
        for blur in BLURS[: 1 if options.reduced else None]:
            factors, sizes = ("orientation",), {"orientation": 128}
            manifold = mj.datasets.sprite(shape, factors=factors, blur=blur, sizes=sizes)
            yield known(manifold, f"{shape}, blur {blur:g} px", depths)
        if not options.reduced:
            factors, sizes = ("scale", "orientation"), {"scale": 33, "orientation": 96}
            manifold = mj.datasets.sprite(shape, factors=factors, blur=2.0, sizes=sizes)
            yield known(manifold, f"{shape}, blur 2 px, two factors", (0, 8))


def interpolated(place: str, objects: Sequence[int]) -> Iterator[Iterator[Case]]:
    """A sixth of a turn and some zooms of objects of COIL-20, as finely as ``layout="dense"`` has them."""
    for number in objects:
        views = mj.datasets.read_coil20(place, number)
        manifold = mj.datasets.turntable(
            views,
            factors=("view", "zoom"),
            ranges={"view": (0.0, np.pi / 3), "zoom": (0.8, 1.1)},
            sizes={"view": 49, "zoom": 25},
        )
        yield known(manifold, f"object {number}", (0, 8))


# --- rows -------------------------------------------------------------------------------------------------


def judge(case: Case, geometries: dict[Stencil, mj.Geometry], quantity: str) -> dict[str, Any]:
    """The best stencil for a quantity, what it says, and where it is known, whether that is true."""
    stencil = best(geometries, quantity)
    geometry = geometries[stencil]
    estimate = getattr(geometry, quantity)
    row = {
        "stencil": stencil,
        "value": float(np.nanmedian(np.abs(estimate.value))),
        "bar": relative_bar(geometry, quantity),
        "default_bar": relative_bar(geometries[DEFAULT], quantity),
        "noise_bar": relative_bar(geometry, quantity, "noise"),
        "resolved": float(np.mean(estimate.resolved)),
        "verdict": geometry.verdict(quantity).sentence,
    }
    if case.exact is None:
        return row
    row["error"] = compare(geometry, case.exact)[quantity].median
    # Bars must cover at every stencil, not only at the best.
    truth = getattr(case.exact, quantity)
    inside, points, excess, worst = 0, 0, 0.0, None
    for name, other in geometries.items():
        value, error, resolved = map(np.asarray, getattr(other, quantity))
        resolved = resolved & np.isfinite(np.asarray(truth.value))
        miss = np.abs(value - np.asarray(truth.value)) / np.maximum(error + np.asarray(truth.error), 1e-30)
        inside, points = inside + int(np.sum(resolved & (miss <= 1))), points + int(resolved.sum())
        if resolved.any() and miss[resolved].max() > excess:
            excess, worst = float(miss[resolved].max()), name
    coverage = inside / points if points else None
    return row | {"coverage": coverage, "compared": points, "worst": excess, "worst_stencil": worst}


def judge_total(case: Case, geometries: dict[Stencil, mj.Geometry]) -> dict[str, Any]:
    """The volume by the stencil with the smallest bar."""
    stencil = min(
        geometries, key=lambda s: float(geometries[s].total_volume.error / geometries[s].total_volume.value)
    )
    total = geometries[stencil].total_volume
    value, bar = float(total.value), float(total.error)
    row = {"stencil": stencil, "value": value, "bar": bar / value, "resolved": bool(total.resolved)}
    row["verdict"] = geometries[stencil].verdict("total_volume").sentence
    if case.exact is None:
        return row
    truth = case.exact.total_volume
    misses = [
        abs(float(g.total_volume.value) - float(truth.value))
        / (float(g.total_volume.error) + float(truth.error))
        for g in geometries.values()
        if bool(g.total_volume.resolved)
    ]
    return row | {"error": abs(value / float(truth.value) - 1), "worst": max(misses, default=None)}


def quantities(case: Case) -> tuple[str, ...]:
    curve = case.grid.ndim == 1
    return ("volume_element", "second_form_norm") + (() if curve else ("scalar_curvature",))


def run_known(cases: Iterator[Case], reduced: bool) -> list[dict[str, Any]]:
    """One manifold at every depth; the bar in float32 at the same stencil is what the spacing leaves."""
    rows, plain = [], {}
    for case in cases:
        if case.grid.ndim == 1:
            choice = stencils(case.grid, (2, 4, 6, 8, "spectral"), (1, 2, 4), (0, 6, 12))
            if reduced:
                choice = stencils(case.grid, (4,), (1, 4), (0, 9))
        else:
            choice = stencils(case.grid, (4, 6), (1, 2, 4), (0,)) + stencils(case.grid, (4, 6), (1,), (16,))
            choice += stencils(case.grid, (4, 6), (1,), (8,))
        geometries = {stencil: measure(case, stencil) for stencil in choice}
        plain = plain or geometries
        row = {"name": case.name, "bits": case.bits, "true_noise": case.true_noise, "quantities": {}}
        row["noise"] = noise_level(geometries[best(geometries, "second_form_norm")], case)
        for quantity in quantities(case):
            entry = judge(case, geometries, quantity)
            entry["spacing_bar"] = relative_bar(plain[entry["stencil"]], quantity)
            row["quantities"][quantity] = entry
        row["volume"] = judge_total(case, geometries)
        rows.append(row)
        text = " ".join(f"{q} {e['bar']:.1e} by {spell(e['stencil'])};" for q, e in row["quantities"].items())
        print(f"{case.name}, {depth(case.bits)}: {text}", flush=True)
    return rows


def roughness(views: np.ndarray) -> dict[str, float]:
    """What high differences along the turn hold, in grey levels per pixel, and what explains it.

    Views are let to differ by a shift, a stretch and a brightness of their own, each a sum of modes of at
    least ``ROUGH`` periods a turn, that minimise the energy of the differences, to first order.
    """
    n, frame = views.shape[:2]
    images = views.reshape(n, -1).astype(float)
    weights = difference_weights(DIFFERENCE)
    difference = sum(w * np.roll(np.eye(n), j, axis=1) for j, w in enumerate(weights))
    square = difference.T @ difference
    energy = np.trace(square @ (images @ images.T))
    y, x = np.mgrid[:frame, :frame] - (frame - 1) / 2
    down, right = np.gradient(views.astype(float), axis=(1, 2))
    motions = np.stack([views, down, right, down * y, right * x], axis=1).reshape(n * 5, -1)
    angles = 2 * np.pi * np.outer(np.arange(n), np.arange(ROUGH, n // 2 + 1)) / n
    modes = np.kron(np.concatenate([np.cos(angles), np.sin(angles[:, :-1])], axis=1), np.eye(5))
    normal = modes.T @ ((motions @ motions.T) * np.kron(square, np.ones((5, 5)))) @ modes
    right_side = modes.T @ np.einsum("kcl,kl->kc", (motions @ images.T).reshape(n, 5, n), square).ravel()
    solution = np.linalg.lstsq(normal, right_side, rcond=1e-10)[0]
    parameters = (modes @ solution).reshape(n, 5).std(axis=0)
    return {
        "level": float((energy / images.size) ** 0.5),
        "explained": float(solution @ right_side / energy),
        "brightness": float(parameters[0]),
        "shift": float(np.hypot(*parameters[1:3])),
    }


def run_views(place: str) -> tuple[list[dict[str, Any]], dict[int, tuple[Case, dict]]]:
    """All 72 views of every object: the best stencils, and again as if rounding were the only noise."""
    grid = mj.Grid((mj.Axis("view", 0.0, 2 * np.pi, VIEWS, periodic=True, unit="rad"),))
    choice = stencils(grid, (2, 4, 6, 8, "spectral"), (1, 2, 3, 4), (0, 4, 6, 9, 12))
    rows, kept = [], {}
    for number in range(1, OBJECTS + 1):
        views = mj.datasets.read_coil20(place, number)
        case = Case(f"object {number}", 8, (views / WHITE).astype(np.float32), grid)
        geometries = {stencil: measure(case, stencil) for stencil in choice}
        row = {"name": case.name, "rough": roughness(views), "volume": judge_total(case, geometries)}
        row["noise"] = noise_level(geometries[best(geometries, "second_form_norm")], case)
        row["quantities"] = {q: judge(case, geometries, q) for q in quantities(case)}
        rounded = {stencil: measure(case, stencil, noise=QUANTUM) for stencil in choice if stencil in PLAIN}
        for quantity, entry in row["quantities"].items():
            alone = judge(case, rounded, quantity)
            entry |= {f"rounding_{key}": alone[key] for key in ("stencil", "bar", "resolved", "verdict")}
        row["sweep"] = [
            [list(s), *(round(relative_bar(g, q), 4) for q in quantities(case))]
            for s, g in geometries.items()
        ]
        rows.append(row)
        kept[number] = case, geometries
        entry = row["quantities"]["second_form_norm"]
        print(f"{case.name}: |II| to {entry['bar']:.0%}, length to {row['volume']['bar']:.0%}", flush=True)
    return rows, kept


# --- pictures ---------------------------------------------------------------------------------------------


def draw(axes: Any, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=13)
    axes.set_xlabel(across, fontsize=12)
    axes.set_ylabel(up, fontsize=12)
    axes.tick_params(labelsize=11)


def plot_strides(panels: list[tuple[str, Case, Case | None]]) -> Any:
    """Bar of |II| against the stride at order 4: all of it, its noise, and what is left without."""
    figure = new_figure(5.6 * len(panels), 4.6, "Error bar of |II| by the stride of stencils of order 4")
    for k, (title, case, plain) in enumerate(panels):
        axes, strides = figure.add_subplot(1, len(panels), k + 1), np.array([1, 2, 3, 4, 6, 8])
        geometries = [measure(case, (4, int(s), 0)) for s in strides]
        if plain:
            others, left = (
                [measure(plain, (4, int(s), 0)) for s in strides],
                "same images in float32: spacing",
            )
        else:
            others = [measure(case, (4, int(s), 0), noise=QUANTUM) for s in strides]
            left = "if rounding to 8 bits were the only noise"
        bar = 100 * np.array([relative_bar(g, "second_form_norm") for g in geometries])
        noise = 100 * np.array([relative_bar(g, "second_form_norm", "noise") for g in geometries])
        spacing = 100 * np.array([relative_bar(g, "second_form_norm") for g in others])
        for values, mark, colour, name in (
            (bar, "o-", PALETTE[0], "bar"),
            (noise, "s--", PALETTE[1], "its noise part"),
            (spacing, "^:", PALETTE[2], left),
        ):
            axes.semilogy(strides, values, mark, color=colour, label=name, linewidth=2, markersize=7)
        axes.axhline(10, color="black", linewidth=1)
        axes.text(strides[-1], 10, "resolved below", ha="right", va="top", fontsize=10)
        draw(axes, title, "stride [samples]", "bar of |II| [%, median]")
        axes.legend(fontsize=10)
    return figure


def plot_turn(panels: list[tuple[str, Case, Stencil]]) -> Any:
    """|II| with its bar along a curve."""
    figure = new_figure(5.6 * len(panels), 4.6, "|II| with its error bar around the turn")
    for k, (title, case, stencil) in enumerate(panels):
        axes, estimate = figure.add_subplot(1, len(panels), k + 1), measure(case, stencil).second_form_norm
        angle = np.degrees(case.grid.axes[0].samples())
        value, error = np.asarray(estimate.value), np.asarray(estimate.error)
        low, high = np.maximum(value - error, 0), value + error
        axes.fill_between(angle, low, high, color=PALETTE[5], alpha=0.45, label="bar")
        axes.plot(angle, value, color=PALETTE[0], linewidth=2, label="measured")
        if case.exact is not None:
            truth = np.asarray(case.exact.second_form_norm.value)
            axes.plot(angle, truth, "--", color=PALETTE[1], linewidth=1.5, label="exact")
        draw(axes, f"{title}; {spell(stencil)}", f"{case.grid.names[0]} [degrees]", "|II| [1 / length]")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=10)
    return figure


def plot_rough(place: str, numbers: Sequence[int], view: int = 10) -> Any:
    """What a view of some objects has beyond the mean of both neighbours."""
    figure = new_figure(
        3.4 * len(numbers) + 0.8, 3.9, "What a view has beyond the mean of the views before and after"
    )
    row = figure.subplots(1, len(numbers))
    for axes, number in zip(row, numbers, strict=True):
        before, views, after = mj.datasets.read_coil20(place, number)[view - 1 : view + 2].astype(float)
        shown = axes.imshow(views - (before + after) / 2, cmap="RdBu_r", vmin=-40, vmax=40)
        axes.set_title(f"object {number}, {360 // VIEWS * view} degrees", fontsize=13)
        axes.set_axis_off()
    figure.colorbar(shown, ax=list(row), shrink=0.9).set_label("grey levels of 255", fontsize=12)
    return figure


# --- the page ---------------------------------------------------------------------------------------------

BAR = "\\|"
NAMES = {"volume_element": "dV", "second_form_norm": "|II|", "scalar_curvature": "S"}


def percent(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def table(head: Sequence[str], rows: list[list[Any]]) -> list[str]:
    """A Markdown table; the bars of |II| are not those of the table."""
    cells = [head, ["---"] * len(head), *rows]
    return ["", *(f"| {' | '.join(str(c).replace('|', BAR) for c in row)} |" for row in cells), ""]


def span(values: Sequence[float]) -> str:
    low, high = percent(min(values)), percent(max(values))
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def summary_rows(results: dict[str, Any]) -> list[list[str]]:
    """What is measurable at 8 bits, by kind of images."""
    rows = []

    def add(name: str, part: list[dict[str, Any]], limits: str) -> None:
        entries = {q: [r["quantities"][q] for r in part if q in r["quantities"]] for q in NAMES}
        cells = [
            f"{span([e['bar'] for e in group])} ({sum(e['resolved'] > 0.95 for e in group)} of {len(group)})"
            if group
            else "-"
            for group in entries.values()
        ]
        total = f"{span([r['volume']['bar'] for r in part])} "
        total += f"({sum(r['volume']['resolved'] for r in part)} of {len(part)})"
        plain = span([e["default_bar"] for e in entries["second_form_norm"]])
        rows.append([name, total, *cells, plain, limits])

    for kind, name in (("sprites", "sprites"), ("interpolated", "COIL-20 interpolated")):
        for surface in (False, True):
            part = [
                r
                for r in results[kind]
                if r["bits"] == 8 and ("scalar_curvature" in r["quantities"]) == surface
            ]
            if part:
                names = {r["name"] for r in part}
                plain = [r for r in results[kind] if r["name"] in names and not r["bits"]]
                bars = [r["quantities"]["second_form_norm"]["bar"] for r in plain]
                limits = f"grey levels: {span(bars)} in float32"
                add(f"{name}, {'two factors' if surface else 'one factor'}", part, limits)
    if results["views"]:
        count = sum(r["quantities"]["second_form_norm"]["rounding_resolved"] > 0.95 for r in results["views"])
        add(
            "COIL-20 as photographed",
            results["views"],
            "what differs from view to view (noise, 5 degrees too coarse); were rounding the only noise, "
            f"still {count} of {len(results['views'])} resolved",
        )
    return rows


def coverage_sentence(rows: list[dict[str, Any]]) -> str:
    """Coverage of resolved values at all stencils, and the worst."""
    entries = [(r, q, e) for r in rows for q, e in r["quantities"].items() if e["compared"]]
    compared = sum(e["compared"] for *_, e in entries)
    if not compared:
        return "Nothing is resolved, so there is nothing to compare with the truth."
    inside = sum(e["coverage"] * e["compared"] for *_, e in entries)
    r, q, e = max(entries, key=lambda entry: entry[2]["worst"])
    totals = [x["volume"]["worst"] for x in rows if x["volume"]["worst"] is not None]
    return (
        f"Of {compared} resolved values at all points and stencils {inside / compared:.3%} lie within their "
        f"bar; the largest error is {e['worst']:.2f} bars ({NAMES[q]} of {r['name']}, {depth(r['bits'])}, "
        f"{spell(e['worst_stencil'])}), that of a volume {max(totals, default=0):.2f} bars."
    )


def depth(bits: int) -> str:
    return f"{bits} bits" if bits else "float32"


def known_tables(rows: list[dict[str, Any]]) -> list[str]:
    """Smallest bars by data set and depth, one table a quantity."""
    lines, depths = [], sorted({row["bits"] for row in rows}, key=lambda bits: -(bits or 99))
    by = {(row["name"], row["bits"]): row for row in rows}
    for quantity, name in NAMES.items():
        names = dict.fromkeys(row["name"] for row in rows if quantity in row["quantities"])
        if not names:
            continue
        body = []
        for data in names:
            entries = [
                by.get((data, bits), {"quantities": {}})["quantities"].get(quantity) for bits in depths
            ]
            cells = [f"{percent(e['bar'])} ({spell(e['stencil'])})" if e else "" for e in entries]
            last = entries[-1]
            parts = f"{percent(last['noise_bar'])}, {percent(last['spacing_bar'])}"
            body.append([data, *cells, percent(last["error"]), f"{last['resolved']:.0%}", parts])
        head = (name, *map(depth, depths), f"error at {depth(depths[-1])}", "resolved", "noise, spacing")
        lines += table(head, body)
    noise = [r for r in rows if r["bits"] == 8]
    ratios = [r["noise"] / r["true_noise"] for r in noise if r["true_noise"]]
    true = [r["true_noise"] for r in noise]
    lines += [
        f"At 8 bits rounding moves a pixel by {min(true):.2f} to {max(true):.2f} grey levels (root mean "
        f"square; flat parts of an image are not moved, others by up to 0.29); estimated are "
        f"{min(ratios):.2f} to {max(ratios):.2f} times as much.",
    ]
    return lines


def view_tables(rows: list[dict[str, Any]]) -> list[str]:
    """COIL-20 as photographed, by object, and which stencil is best for all."""
    body = []
    for row in rows:
        norm, volume, rough = row["quantities"]["second_form_norm"], row["volume"], row["rough"]
        body.append(
            [
                row["name"].removeprefix("object "),
                f"{row['noise']:.1f}",
                f"{rough['explained']:.0%}",
                f"{rough['shift']:.2f} px",
                f"{rough['brightness']:.0%}",
                f"{volume['value']:.3g} ± {percent(volume['bar'])} ({spell(volume['stencil'])})",
                f"{norm['value']:.3g} ± {percent(norm['bar'])} ({spell(norm['stencil'])})",
                percent(norm["noise_bar"]),
                f"{percent(norm['rounding_bar'])} ({spell(norm['rounding_stencil'])})",
                f"{norm['resolved']:.0%}",
            ]
        )
    head = ("object", "noise a pixel", "by single views", "shift", "brightness", "length", "|II|")
    lines = table((*head, "its noise part", "if only rounding", "resolved"), body)
    sweep = np.array([[values for _, *values in row["sweep"]] for row in rows])
    names = [tuple(name) for name, *_ in rows[0]["sweep"]]
    body = []
    for k, name in enumerate(("dV", "|II|")):
        middle = np.median(sweep[..., k], axis=0)
        first = np.argsort(middle)[:5]
        cells = [f"{percent(middle[j])} ({spell(names[j])})" for j in first]
        body.append([name, *cells, f"{percent(middle[names.index(DEFAULT)])}"])
    head = ("median of the objects", "best", "second", "third", "fourth", "fifth", "order 4, stride 1")
    return lines + table(head, body)


def page(results: dict[str, Any], pictures: list[str]) -> str:
    """The results as Markdown."""
    origin = results["provenance"]
    lines = [
        "# What can be measured on real images",
        "",
        f"`python benchmarks/real_images.py {' '.join(results['options'])}`, {results['seconds']:.0f} s on "
        f"{origin['machine']['cpu']}, {origin['machine']['cores']} cores; {origin['device']}; jax "
        f"{origin['versions']['jax']}; {origin['commit']}.",
        "",
        "Smallest error bar at 8 bits, relative to the value (median over the points), from the least to the "
        "largest over the data sets; in brackets how many of them are resolved (bars of at most 10 % at 95 % "
        "of the points). That of the scalar curvature S is relative to |II| squared.",
        *table(
            ("images", "length or area", *NAMES.values(), "|II| by order 4, stride 1", "what limits |II|"),
            summary_rows(results),
        ),
        "Stencils are given as order, stride and, where samples are smoothed, samples on each side. Images "
        "have grey levels from 0 to 1; noise is given in 1/255, the grey levels of 8 bits.",
    ]
    if results["sprites"]:
        lines += ["", "## Sprites", "", SPRITES, *known_tables(results["sprites"]), ""]
        lines += [coverage_sentence(results["sprites"])]
    if results["views"]:
        lines += ["", "## COIL-20 as photographed", "", PHOTOGRAPHS, *view_tables(results["views"])]
        lines += ["The verdicts of |II|:", ""]
        for key in ("verdict", "rounding_verdict"):
            said = [r["quantities"]["second_form_norm"][key] for r in results["views"]]
            plain = [text.partition("dominates")[0].split(" of ")[0] for text in said]
            what = "by the noise as estimated" if key == "verdict" else "if rounding were all the noise"
            counts = [f'{plain.count(text)} x "{said[plain.index(text)]}"' for text in dict.fromkeys(plain)]
            lines.append(f"- {what}: {'; '.join(counts)}")
    if results["interpolated"]:
        lines += ["", "## COIL-20 interpolated, two factors", "", INTERPOLATED]
        lines += [*known_tables(results["interpolated"]), "", coverage_sentence(results["interpolated"])]
    lines += [f"\n{note}" for note in results["skipped"]]
    lines += ["", *(f"\n![{name.replace('_', ' ')}]({name}.png)" for name in pictures)]
    return "\n".join(lines) + "\n"


SPRITES = (
    "64 x 64 pixels; one factor: 128 orientations until the shape repeats, stencils of orders 2 to 8 and "
    "spectral, strides 1, 2 and 4, smooth 0, 6 and 12; two factors: 33 scales from 0.5 to 1 and 96 "
    "orientations, orders 4 and 6. *Error*: median, against automatic differentiation. *Noise, spacing*: "
    "part of the bar at 8 bits that is noise, and the bar of the same stencil on the same images in float32. "
    "Where rounding is coarse, wide stencils win: noise is divided by more steps, until the spacing "
    "balances it."
)
PHOTOGRAPHS = (
    "72 views of 5 degrees, 128 x 128 pixels, 8 bits, as they are in the files: a closed curve, whose truth "
    "is not known. *Noise a pixel*: what high differences along the turn leave, in grey levels; rounding to "
    "8 bits makes 0.29. *By single views*: share of its energy that a shift, a stretch and another "
    "brightness of single views explain (the files are cropped to the object and stretched in size and "
    "contrast view by view), with the standard deviations of *shift* and *brightness*; the rest is mostly "
    "what moves by more than its own size in 5 degrees. *If only rounding*: the smallest bar with `noise=` "
    "that of rounding, by orders 2 to 8 at stride 1, so the error of the spacing alone."
)
INTERPOLATED = (
    "`turntable`: views interpolated by trigonometric polynomials, 64 x 64 pixels, blur 1 pixel, 49 views "
    'of a sixth of a turn and 25 zooms from 0.8 to 1.1 (the spacing of `layout="dense"`). This measures the'
    " interpolant, which holds the noise of the photographs as if it were signal: it tells about 8 bits, "
    "not about the objects."
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--coil20", metavar="PLACE", help="archive or folder of COIL-20; left out without it")
    parser.add_argument("--reduced", action="store_true", help="one sprite and a few stencils")
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 15], help="objects to interpolate")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def shown_options(options: argparse.Namespace) -> list[str]:
    """Options as the page shows them, without folders of this machine."""
    if options.reduced:
        return ["--reduced"]
    return ["--coil20", "coil-20-proc.zip"] if options.coil20 else []


def main() -> None:
    options, start = arguments(), time.perf_counter()
    results: dict[str, Any] = {
        "options": shown_options(options),
        "provenance": common.provenance(),
        "skipped": [],
    }
    results["sprites"] = [row for cases in sprites(options) for row in run_known(cases, options.reduced)]
    results["views"], results["interpolated"], figures = [], [], {}
    heart = mj.datasets.sprite("heart", factors=("orientation",), sizes={"orientation": 128})
    plain, rounded = known(heart, "heart", (0, 8))
    strides = [("heart, 8 bits, 128 orientations", rounded, plain)]
    turns = [("heart, 8 bits", rounded, (8, 4, 0))]
    if options.coil20 and not options.reduced:
        results["views"], kept = run_views(options.coil20)
        results["interpolated"] = [
            row for cases in interpolated(options.coil20, options.objects) for row in run_known(cases, False)
        ]
        bars = [row["quantities"]["second_form_norm"]["bar"] for row in results["views"]]
        number = int(np.argmin(bars)) + 1
        case, geometries = kept[number]
        strides.append((f"COIL-20 object {number}, 72 views", case, None))
        views = mj.datasets.read_coil20(options.coil20, number)
        turn = mj.datasets.turntable(views, factors=("view",), layout="dense")
        (dense,) = known(turn, "turn", (8,))
        choice = stencils(dense.grid, (4, 8), (1, 2), (0, 6))
        ours = best({stencil: measure(dense, stencil) for stencil in choice}, "second_form_norm")
        turns = [(f"object {number} interpolated, 288 views", dense, ours)]
        turns.append((f"object {number}, 72 views", case, best(geometries, "second_form_norm")))
        figures["real_images_rough"] = plot_rough(options.coil20, (1, 12, 15))
    else:
        results["skipped"].append(
            "COIL-20 is left out: "
            + ("the run is reduced." if options.reduced else "no `--coil20` was given.")
        )
    figures = {"real_images_stride": plot_strides(strides), "real_images_turn": plot_turn(turns)} | figures
    results["seconds"] = time.perf_counter() - start
    options.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(options.out / f"{name}.png", dpi=75)
    common.write_json(options.out / "real_images.json", results)
    (options.out / "real_images.md").write_text(page(results, list(figures)))


if __name__ == "__main__":
    main()
