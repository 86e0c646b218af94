"""Table, numbers and picture of :mod:`manifold_jax.experiments.classifier.sprites`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from manifold_jax.experiments.classifier.sprites_run import FACTORS, FactorMap, Result
from manifold_jax.experiments.experiment import plain
from manifold_jax.plotting.style import COLOURS, axis_label, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = ("o", "s", "^", "D", "v")
_QUARTILES = (0.25, 0.5, 0.75)

# --- numbers -----------------------------------------------------------------------------------------------


def curvature_quartiles(found: FactorMap) -> Float[np.ndarray, "3"]:
    """Quartiles of the scalar curvature over the area of the pulled-back metric.

    Over the chart they would be those of the places that the network hardly sees.
    """
    defined = np.isfinite(found.scalar_curvature)
    if not defined.any():
        return np.full(3, np.nan)
    values = found.scalar_curvature[defined]
    order = np.argsort(values)
    below = np.cumsum(found.volume_element[defined][order])
    return values[order][np.searchsorted(below, np.array(_QUARTILES) * below[-1])]


def _three(values: np.ndarray) -> dict[str, float]:
    low, middle, high = values
    return {"median": float(middle), "lower": float(low), "upper": float(high)}


def table(result: Result) -> list[dict[str, Any]]:
    """Rows of numbers.

    Args:
        result: Of :func:`run`.

    Returns:
        Dictionaries with ``quantity``, ``shape`` and ``unit``; ``median``, ``lower`` and ``upper`` quartile
        over points, of the curvature over the area; ``untrained``, the median before the training;
        ``random``, that for random directions. None where there is no such number. Volumes have the error
        bar of their quadrature as ``error``.
    """
    before, after, settings = result.untrained, result.trained, result.settings
    empty = dict.fromkeys(("untrained", "random", "error"))
    rows: list[dict[str, Any]] = []
    for k in range(len(FACTORS)):
        degrees = [np.degrees(a[:, k]) for a in (after.angles, before.angles, after.random_angles)]
        others = {"untrained": float(np.median(degrees[1])), "random": float(np.median(degrees[2]))}
        name = {"quantity": f"principal angle {k + 1}", "shape": "all", "unit": "deg"}
        rows.append(empty | name | _three(np.quantile(degrees[0], _QUARTILES)) | others)
    for index, shape in enumerate(settings.shapes):
        chosen = result.shapes == index
        chance = float(np.median(after.random_visibility[chosen]))
        for k, factor in enumerate(FACTORS):
            name = {"quantity": f"visibility of {factor}", "shape": shape, "unit": ""}
            others = {"untrained": float(np.median(before.visibility[chosen, k])), "random": chance}
            rows.append(empty | name | _three(np.quantile(after.visibility[chosen, k], _QUARTILES)) | others)
    for found in result.maps:
        name = {"quantity": "scalar curvature of the pull-back", "shape": found.shape, "unit": ""}
        rows.append(empty | name | _three(curvature_quartiles(found)))
        name = {"quantity": "volume of the pull-back", "shape": found.shape, "unit": ""}
        rows.append(
            empty | name | {"median": found.volume, "lower": None, "upper": None, "error": found.volume_error}
        )
    return rows


def data(result: Result) -> dict[str, Any]:
    """Everything as plain lists and numbers, for JSON; NaN where a number is not defined is None.

    Args:
        result: Of :func:`run`.

    Returns:
        A dictionary with ``settings``, ``factors``, ``loss``, ``accuracy``, ``shapes``, ``untrained``,
        ``trained``, ``maps`` and ``table``.
    """
    maps = [
        {**found._asdict(), "grid": {axis.name: axis.samples() for axis in found.grid.axes}}
        for found in result.maps
    ]
    parts = {
        "settings": result.settings._asdict(),
        "factors": FACTORS,
        "loss": result.loss,
        "accuracy": result.accuracy,
        "shapes": [result.settings.shapes[k] for k in result.shapes],
        "untrained": result.untrained._asdict(),
        "trained": result.trained._asdict(),
        "maps": maps,
        "table": table(result),
    }
    return plain(parts)


# --- picture -----------------------------------------------------------------------------------------------


def figure(result: Result) -> Figure:
    """Principal angles, visibility of the factors, and the maps of the pulled-back metric.

    Args:
        result: Of :func:`manifold_jax.experiments.classifier.sprites.run`.

    Returns:
        A new figure.
    """
    settings, rows = result.settings, len(result.maps)
    classes = settings.sizes * len(settings.shapes)
    drawn = new_figure(
        12.5,
        4.2 + 2.7 * rows,
        f"Sprites as a classifier of {len(settings.shapes)} shapes x {settings.sizes} sizes sees them "
        f"({classes} classes, {result.accuracy:.1%} of new sprites right)",
    )
    parts: Any = drawn.subfigures(2, 1, height_ratios=(4.0, 2.7 * rows), hspace=0.03)
    angles, visibility = parts[0].subplots(1, 2, width_ratios=(1, 1.25))
    _angles(angles, result)
    _visibility(visibility, result)
    _maps(parts[1], result.maps, settings.sizes)
    return drawn


def _bars(axes: Any, x: np.ndarray, values: Any, **style: Any) -> None:
    """Median and quartiles of every column."""
    low, middle, high = np.quantile(values, _QUARTILES, axis=0)
    axes.errorbar(x, middle, (middle - low, high - middle), ls="none", capsize=3, ms=6, **style)


def _angles(axes: Any, result: Result) -> None:
    places = np.arange(1, result.trained.angles.shape[1] + 1)
    kinds = (
        (result.trained.angles, "tangents, trained network", COLOURS[0], "o"),
        (result.untrained.angles, "tangents, before training", COLOURS[2], "s"),
        (result.trained.random_angles, "random vectors, trained network", "0.5", "x"),
    )
    for k, (values, name, colour, mark) in enumerate(kinds):
        _bars(axes, places + 0.16 * (k - 1), np.degrees(values), label=name, color=colour, marker=mark)
    axes.set_xticks(places)
    axes.set_ylim(0, 92)
    axes.set_yticks(range(0, 91, 15))
    axes.grid(axis="y", color="0.9")
    axes.set_xlabel("principal angle, from the smallest")
    axes.set_ylabel("angle [deg]")
    axes.set_title("Angles between the data's tangent space and $D_x$", fontsize=11)
    axes.legend(loc="lower right", fontsize=8)


def _visibility(axes: Any, result: Result) -> None:
    places, shapes = np.arange(len(FACTORS)), result.settings.shapes
    offset = 0.2 * (np.arange(len(shapes)) - (len(shapes) - 1) / 2)
    for k, shape in enumerate(shapes):
        chosen = result.shapes == k
        style = {"color": COLOURS[k % len(COLOURS)], "marker": _MARKS[k % len(_MARKS)]}
        _bars(axes, places + offset[k], result.trained.visibility[chosen], label=shape, **style)
        before = np.median(result.untrained.visibility[chosen], axis=0)
        hollow = {**style, "mfc": "none", "ls": "none", "ms": 5, "alpha": 0.7}
        axes.plot(places + offset[k] + 0.06, before, **hollow, label=None if k else "before training")
    chance = float(np.median(result.trained.random_visibility))
    axes.axhline(chance, color="0.5", lw=1, ls="--", label="random direction")
    axes.set_yscale("log")
    axes.set_xticks(places, FACTORS)
    axes.grid(axis="y", color="0.9")
    axes.set_ylabel(r"$X_i^T G X_i\,/\,(|X_i|^2\,\lambda_{\max}(G))$")
    axes.set_title("Share of each factor that the network sees (median, quartiles)", fontsize=11)
    axes.legend(fontsize=8, ncols=2)


def _maps(figure: Any, maps: tuple[FactorMap, ...], sizes: int) -> None:
    """A row for each shape; one scale of colours for each column."""
    from matplotlib.colors import LogNorm, Normalize, SymLogNorm

    grid = figure.subplots(len(maps), 3, squeeze=False)
    volumes = np.concatenate([found.volume_element.ravel() for found in maps])
    volumes = volumes[np.isfinite(volumes) & (volumes > 0)]
    low, high = np.percentile(volumes, (5, 99.5)) if volumes.size else (0.1, 1.0)
    bend = np.concatenate([found.scalar_curvature.ravel() for found in maps])
    bend = np.abs(bend[np.isfinite(bend)])
    most = max(float(np.percentile(bend, 95)) if bend.size else 1.0, 1.0)
    columns = (
        ("volume_element", r"volume element $\sqrt{\det\,X^T G X}$ [1/rad]", LogNorm(low, high), "viridis"),
        ("scalar_curvature", "scalar curvature S", SymLogNorm(0.5, vmin=-most, vmax=most), "RdBu_r"),
        ("probability", "probability of the likeliest class", Normalize(1 / 3, 1.0), "cividis"),
    )
    scales = maps[0].grid.axes[0]
    edges = np.linspace(scales.start, scales.stop, sizes + 1)[1:-1]
    for j, (field, name, norm, colours) in enumerate(columns):
        shown: Any = None
        for axes, found in zip(grid[:, j], maps, strict=True):
            shown = _map(axes, found, field, norm, colours)
            for edge in edges:
                axes.axhline(edge, color="0.2" if j == 1 else "w", lw=0.9, ls=":")
        figure.colorbar(shown, ax=list(grid[:, j]), label=name, extend="both" if j < 2 else "min")


def _map(axes: Any, found: FactorMap, field: str, norm: Any, colours: str) -> Any:
    vertical, horizontal = found.grid.axes
    x, y, values = horizontal.samples(), vertical.samples(), getattr(found, field)
    shown = axes.pcolormesh(x, y, values, norm=norm, cmap=colours, shading="nearest", rasterized=True)
    axes.set_facecolor("0.8")
    axes.set_xlabel(axis_label(horizontal), fontsize=9)
    axes.set_ylabel(axis_label(vertical), fontsize=9)
    axes.set_title(_words(found, field), fontsize=9)
    return shown


def _words(found: FactorMap, field: str) -> str:
    if field == "volume_element":
        return f"{found.shape}: volume {found.volume:.3g} ± {found.volume_error:.2g}"
    if field == "scalar_curvature":
        low, middle, high = curvature_quartiles(found)
        return f"{found.shape}: median {middle:.2g}, half in {low:.2g} to {high:.2g}"
    return f"{found.shape}: median {np.median(found.probability):.2g}"
