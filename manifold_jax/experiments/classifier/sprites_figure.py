"""Table, numbers and picture of :mod:`manifold_jax.experiments.classifier.sprites`, and the experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from manifold_jax._files import Progress
from manifold_jax.experiments.classifier.sprites import FactorMap, Result, Settings, measure_sprites
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.sprites import FACTORS
from manifold_jax.plotting.style import COLOURS, axis_label, new_figure

_MARKS = ("o", "s", "^", "D", "v")
_QUARTILES = (0.25, 0.5, 0.75)


def run(start: tuple[Path, int], settings: Settings, progress: Progress | None = None) -> Outcome:
    """The tangents of sprites next to the distribution of a network that tells shapes and sizes.

    ``start`` is the folder of the checkpoints and the seed of weights, sprites and factors.
    """
    folder, seed = start
    result = measure_sprites(settings, jax.random.key(seed), folder, progress)
    title = "Sprites: the tangents of the data next to the distribution of a classifier"
    notes = [
        "Angles in degrees; visibility X_i^T G X_i / (|X_i|^2 lambda_max(G)); S of the metric pulled back to "
        "(scale, orientation), 1/2 where its image is totally geodesic in the sphere of radius 2."
    ]
    return Outcome(title, table(result), data(result), {"sprites": figure(result)}, notes)


# --- numbers -----------------------------------------------------------------------------------------------


def curvature_quartiles(factors: FactorMap) -> Float[np.ndarray, "3"]:
    """Quartiles of the scalar curvature over the area of the pulled-back metric.

    Over the chart they would be those of the places that the network hardly sees.
    """
    defined = np.isfinite(factors.scalar_curvature)
    if not defined.any():
        return np.full(3, np.nan)
    values = factors.scalar_curvature[defined]
    order = np.argsort(values)
    below = np.cumsum(factors.volume_element[defined][order])
    return values[order][np.searchsorted(below, np.array(_QUARTILES) * below[-1])]


def _row(quantity: str, shape: str, quartiles: Any, **others: Any) -> Row:
    """A row of the table; None where there is no such number."""
    lower, median, upper = quartiles
    row = {"quantity": quantity, "shape": shape, "unit": "", "median": median, "lower": lower, "upper": upper}
    return row | dict.fromkeys(("untrained", "random", "error")) | others


def table(result: Result) -> list[Row]:
    """Rows of numbers: medians and quartiles over points, of the curvature over the area.

    ``untrained`` is the median before the training, ``random`` that for random directions, ``error`` the bar
    of the quadrature of a volume.
    """
    before, after, rows = result.untrained, result.trained, []
    for k in range(len(FACTORS)):
        quartiles = np.degrees(np.quantile(after.angles[:, k], _QUARTILES))
        others = (np.degrees(np.median(part[:, k])) for part in (before.angles, after.random_angles))
        others = dict(zip(("untrained", "random"), others, strict=True))
        rows.append(_row(f"principal angle {k + 1}", "all", quartiles, unit="deg", **others))
    for index, shape in enumerate(result.settings.shapes):
        here = result.shapes == index
        for k, factor in enumerate(FACTORS):
            quartiles = np.quantile(after.visibility[here, k], _QUARTILES)
            untrained = np.median(before.visibility[here, k])
            random = np.median(after.random_visibility[here])
            rows.append(_row(f"visibility of {factor}", shape, quartiles, untrained=untrained, random=random))
    for factors in result.maps:
        curvature, volume = curvature_quartiles(factors), (None, factors.volume, None)
        rows.append(_row("scalar curvature of the pull-back", factors.shape, curvature))
        rows.append(_row("volume of the pull-back", factors.shape, volume, error=factors.volume_error))
    return rows


def data(result: Result) -> dict[str, Any]:
    """Everything by name, for JSON."""
    maps = [m._asdict() | {"grid": {axis.name: axis.samples() for axis in m.grid.axes}} for m in result.maps]
    shapes = [result.settings.shapes[k] for k in result.shapes]
    return result._asdict() | {"factors": FACTORS, "shapes": shapes, "maps": maps, "table": table(result)}


# --- picture -----------------------------------------------------------------------------------------------


def figure(result: Result) -> Any:
    """Principal angles, visibility of the factors, and the maps of the pulled-back metric."""
    settings, height = result.settings, 2.7 * len(result.maps)
    classes = settings.sizes * len(settings.shapes)
    title = (
        f"Sprites as a classifier of {len(settings.shapes)} shapes x {settings.sizes} sizes sees them "
        f"({classes} classes, {result.accuracy:.1%} of new sprites right)"
    )
    drawn = new_figure(12.5, 4.2 + height, title)
    parts: Any = drawn.subfigures(2, 1, height_ratios=(4.0, height), hspace=0.03)
    angles, visibility = parts[0].subplots(1, 2, width_ratios=(1, 1.25))
    _draw_angles(angles, result)
    _draw_visibility(visibility, result)
    _draw_maps(parts[1], result.maps, settings.sizes)
    return drawn


def _draw_quartiles(axes: Any, x: np.ndarray, values: Any, **style: Any) -> None:
    """Median and quartiles of every column."""
    low, middle, high = np.quantile(values, _QUARTILES, axis=0)
    axes.errorbar(x, middle, (middle - low, high - middle), ls="none", capsize=3, ms=6, **style)


def _draw_angles(axes: Any, result: Result) -> None:
    places = np.arange(1, result.trained.angles.shape[1] + 1)
    kinds = (
        (result.trained.angles, "tangents, trained network", COLOURS[0], "o"),
        (result.untrained.angles, "tangents, before training", COLOURS[2], "s"),
        (result.trained.random_angles, "random vectors, trained network", "0.5", "x"),
    )
    for k, (values, name, colour, mark) in enumerate(kinds):
        at = places + 0.16 * (k - 1)
        _draw_quartiles(axes, at, np.degrees(values), label=name, color=colour, marker=mark)
    axes.set(xlabel="principal angle, from the smallest", xticks=places)
    axes.set(ylabel="angle [deg]", ylim=(0, 92), yticks=range(0, 91, 15))
    axes.grid(axis="y", color="0.9")
    axes.set_title("Angles between the data's tangent space and $D_x$", fontsize=11)
    axes.legend(loc="lower right", fontsize=8)


def _draw_visibility(axes: Any, result: Result) -> None:
    places, shapes = np.arange(len(FACTORS)), result.settings.shapes
    for k, shape in enumerate(shapes):
        here = result.shapes == k
        at = places + 0.2 * (k - (len(shapes) - 1) / 2)
        style = {"color": COLOURS[k % len(COLOURS)], "marker": _MARKS[k % len(_MARKS)]}
        _draw_quartiles(axes, at, result.trained.visibility[here], label=shape, **style)
        before = np.median(result.untrained.visibility[here], axis=0)
        hollow = {**style, "mfc": "none", "ls": "none", "ms": 5, "alpha": 0.7}
        axes.plot(at + 0.06, before, **hollow, label=None if k else "before training")
    chance = np.median(result.trained.random_visibility)
    axes.axhline(chance, color="0.5", lw=1, ls="--", label="random direction")
    axes.set(yscale="log", ylabel=r"$X_i^T G X_i\,/\,(|X_i|^2\,\lambda_{\max}(G))$")
    axes.set_xticks(places, FACTORS)
    axes.grid(axis="y", color="0.9")
    axes.set_title("Share of each factor that the network sees (median, quartiles)", fontsize=11)
    axes.legend(fontsize=8, ncols=2)


def _draw_maps(subfigure: Any, maps: tuple[FactorMap, ...], sizes: int) -> None:
    """A row for each shape; one scale of colours for each column."""
    from matplotlib.colors import LogNorm, Normalize, SymLogNorm

    volumes, curvatures = (
        np.concatenate([getattr(factors, name).ravel() for factors in maps])
        for name in ("volume_element", "scalar_curvature")
    )
    volumes = volumes[np.isfinite(volumes) & (volumes > 0)]
    curvatures = np.abs(curvatures[np.isfinite(curvatures)])
    low, high = np.percentile(volumes, (5, 99.5)) if volumes.size else (0.1, 1.0)
    most = max(np.percentile(curvatures, 95), 1.0) if curvatures.size else 1.0
    volume = r"volume element $\sqrt{\det\,X^T G X}$ [1/rad]"
    columns = (
        ("volume_element", volume, LogNorm(low, high), "viridis"),
        ("scalar_curvature", "scalar curvature S", SymLogNorm(0.5, vmin=-most, vmax=most), "RdBu_r"),
        ("probability", "probability of the likeliest class", Normalize(1 / 3, 1.0), "cividis"),
    )
    panels = subfigure.subplots(len(maps), len(columns), squeeze=False)
    scales, turns = maps[0].grid.axes
    edges = np.linspace(scales.start, scales.stop, sizes + 1)[1:-1]
    shown: Any = None
    for j, (field, label, norm, colours) in enumerate(columns):
        style = {"norm": norm, "cmap": colours, "shading": "nearest", "rasterized": True}
        for axes, factors in zip(panels[:, j], maps, strict=True):
            y, x = (axis.samples() for axis in factors.grid.axes)
            shown = axes.pcolormesh(x, y, getattr(factors, field), **style)
            axes.set_facecolor("0.8")
            axes.set_xlabel(axis_label(turns), fontsize=9)
            axes.set_ylabel(axis_label(scales), fontsize=9)
            axes.set_title(f"{factors.shape}: {_describe(factors, field)}", fontsize=9)
            for edge in edges:
                axes.axhline(edge, color="0.2" if field == "scalar_curvature" else "w", lw=0.9, ls=":")
        extend = "min" if field == "probability" else "both"
        subfigure.colorbar(shown, ax=list(panels[:, j]), label=label, extend=extend)


def _describe(factors: FactorMap, field: str) -> str:
    """One number of a map, its title."""
    if field == "volume_element":
        return f"volume {factors.volume:.3g} ± {factors.volume_error:.2g}"
    if field == "scalar_curvature":
        low, middle, high = curvature_quartiles(factors)
        return f"median {middle:.2g}, half in {low:.2g} to {high:.2g}"
    return f"median {np.median(factors.probability):.2g}"
