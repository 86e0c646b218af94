"""How volume, curvature, reach and the distances between classes change from layer to layer in training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float

from manifold_jax._checks import require
from manifold_jax._files import Progress
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.layers import quantities
from manifold_jax.experiments.layers.quantities import Quantities, as_sentence, check_claims, parts_of
from manifold_jax.experiments.layers.trial import Settings, Trial, layer_arrays
from manifold_jax.experiments.sprites import draw
from manifold_jax.geometry import Manifold
from manifold_jax.models import Layers
from manifold_jax.plotting.style import PALETTE, Figure, quantity_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "volume": "volume",
    "second_form_norm": "mean |II|",
    "mean_curvature": "mean |H|",
    "scalar_curvature": "mean S",
    "local_reach": "local part of the reach, 1 / largest normal curvature",
    "reach": "reach",
    "gap": "least distance between classes",
    "separation": "distance between classes / within",
    "dimension": "effective dimension of the metric",
    "rank": "rank of the metric",
}
"""Titles of the panels."""

_COLUMNS = {"second_form_norm": "|II|", "scalar_curvature": "S", "reach": "reach", "gap": "gap"}
_COLUMNS |= {"separation": "apart", "dimension": "dim"}
_OF_A_CLASS = ("second_form_norm", "reach", "dimension")

Parts = dict[str, Quantities]  # quantities by class


def evolution(trial: Trial, settings: Settings, progress: Progress) -> Outcome:
    """Exact geometry of every layer of every run at every checkpoint; the table is that of the last one."""
    raw, unit, alone, estimates, names = _measure_all(trial, progress)
    steps = trial.steps
    first, last = (Quantities(*(values[i] for values in unit)) for i in (0, -1))
    whens = {f"step {steps[0]}": first, f"step {steps[-1]}": last}
    whens |= {f"{name} alone, step {steps[-1]}": part for name, part in alone.items()}
    parts = parts_of(names)
    claims = [row for when, one in whens.items() for row in check_claims(one, parts, when)]
    rows = _rows(last, names)
    for row, estimate in zip(rows, estimates, strict=True):
        row["TwoNN"] = estimate
    notes = [
        "Means over the runs, +- their deviation: |II| and S over the volume, reach (an upper bound) of all "
        "classes, gap the least distance between classes, apart their mean distance over that within them, "
        "dim the effective dimension of the metric, TwoNN the dimension that samples of run 0 suggest.",
        *map(as_sentence, claims),
    ]
    title = f"{trial.name}: layers at step {steps[-1]}, unit volume, {settings.seeds} runs"
    data = {"layers": names, "steps": steps, "claims": claims}
    figures = _figures(trial, raw, unit, alone, names)
    numbers = _dataset(steps, raw, unit, alone, names)
    return Outcome(title, rows, data, figures, notes, numbers, headline=claims_in_short(claims, steps[-1]))


def claims_in_short(claims: Sequence[Row], step: int) -> str:
    """In how many runs the claims hold over all layers of all classes, in words."""
    here = [row for row in claims if row["layers"] == "all" and row["claim"].endswith(f"depth, step {step}")]
    return "; ".join(f"{row['claim']}: in {row['holds in']} of {row['runs']} runs" for row in here) + "."


def _measure_all(
    trial: Trial, progress: Progress
) -> tuple[Quantities, Quantities, Parts, list[float], tuple[str, ...]]:
    """Quantities ``(checkpoints, runs, layers)`` of all classes together, as they are and with unit volume.

    Then those of each class with unit volume at the last checkpoint, ``(runs, layers)``, the estimates of
    :func:`_two_nn` there, and names of layers.
    """
    charts, networks = trial.charts.measured, [trial.layers(step) for step in trial.steps]
    dimension, last = charts[0].grid.ndim, networks[-1]
    unions = [("all", charts, one) for layers in networks for one in layers]
    unions += [(chart.name, [chart], one) for chart in charts for one in last]
    jobs: list[Any] = [(name, one, partial(_numbers, some, one)) for name, some, one in unions]
    jobs.append(("TwoNN", last[0], partial(_two_nn, charts, last[0], trial.settings)))
    *rows, estimates = trial.compute(jobs, progress)
    # The first axis is that of checkpoints, then of classes, the second that of runs.
    raw = Quantities(*(np.reshape(x, (-1, len(last), len(x[0]))) for x in zip(*rows, strict=True)))
    unit, count = quantities.scale_to_unit_volume(raw, dimension), len(networks)
    alone = {c.name: Quantities(*(x[k] for x in unit)) for k, c in enumerate(charts, count)}
    raw, unit = (Quantities(*(x[:count] for x in part)) for part in (raw, unit))
    return raw, unit, alone, estimates, ("input", *last[0].names)


def _numbers(charts: Sequence[Manifold], layers: Layers) -> list[list[float]]:
    """Quantities of a union, for JSON."""
    return [values.tolist() for values in quantities.measure_union(charts, layers)]


def _rows(last: Quantities, names: tuple[str, ...]) -> list[Row]:
    """One row for every layer: means over the runs and, for some, their deviation."""
    rows = []
    for k, name in enumerate(names):
        row: Row = {"layer": name, "features": int(last.features[0, k])}
        for quantity, word in _COLUMNS.items():
            values = getattr(last, quantity)[:, k]
            row[word] = float(np.mean(values))
            if quantity in ("second_form_norm", "reach"):
                row[f"+- {word}"] = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
        rows.append(row)
    return rows


def _two_nn(charts: Sequence[Manifold], layers: Layers, settings: Settings) -> list[float]:
    """TwoNN of every layer, at random points of the charts."""
    keys = jax.random.split(jax.random.key(settings.seed), len(charts))
    places = [draw(key, chart, settings.points) for key, chart in zip(keys, charts, strict=True)]
    streams = [layer_arrays(chart, layers, u) for chart, u in zip(charts, places, strict=True)]
    return [quantities.two_nn([np.asarray(part) for part in parts]) for parts in zip(*streams, strict=True)]


def _dataset(steps: list[int], raw: Quantities, unit: Quantities, alone: Parts, names: Sequence[str]) -> Any:
    """All numbers with names: as they are, with unit volume, and of every class at the last checkpoint."""
    axes, of_class = ("step", "run", "layer"), ("class", "run", "layer")
    classes = quantities.stack(list(alone.values()))
    parts = {name: (axes, getattr(raw, name)) for name in Quantities._fields}
    parts |= {f"{name}_unit_volume": (axes, getattr(unit, name)) for name in quantities.POWERS}
    for name in ("volume", *quantities.POWERS):
        parts[f"{name}_of_class"] = (of_class, getattr(classes, name))
    coordinates = {"step": steps, "layer": list(names), "class": list(alone)}
    return require("xarray", "report").Dataset(parts, coordinates)


def _figures(
    trial: Trial, raw: Quantities, unit: Quantities, alone: Parts, names: tuple[str, ...]
) -> dict[str, Figure]:
    """All classes together on two scales, and every class by itself at the last checkpoint."""
    name, steps = trial.name, trial.steps
    panels = {key: getattr(raw if key == "volume" else unit, key) for key in LABELS}
    lines = [f"step {step}" for step in steps]
    figures = {}
    for scale in ("symlog", "linear"):
        heading = f"{name}: every layer, scaled to unit volume ({scale})"
        figures[f"evolution_{scale}"] = _figure(heading, panels, lines, names, scale)
    panels = {key: np.stack([getattr(part, key) for part in alone.values()]) for key in _OF_A_CLASS}
    heading = f"{name}, step {steps[-1]}: every class by itself, scaled to unit volume"
    return figures | {"evolution_classes": _figure(heading, panels, list(alone), names, "symlog")}


def _figure(
    title: str,
    panels: dict[str, Float[np.ndarray, "lines runs layers"]],
    lines: Sequence[str],
    names: tuple[str, ...],
    scale: str,
) -> Figure:
    """One panel for each quantity: means of the runs, and bands from the least to the most run."""
    columns, height = (3, 4.5) if len(panels) == 3 else (2, 2.5)
    figure, axes = quantity_panels(title, list(panels), (15.0 / columns, height), columns)
    x = np.arange(len(names))
    for k, (at, quantity) in enumerate(axes):
        for colour, label, runs in zip(PALETTE, lines, panels[quantity], strict=False):
            low, high = np.nanmin(runs, axis=0), np.nanmax(runs, axis=0)
            at.plot(x, np.nanmean(runs, axis=0), "o-", ms=3, lw=1.5, color=colour, label=label)
            at.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        scale_axis(at, panels[quantity], scale)
        at.set_title(LABELS[quantity] + " (not scaled)" * (quantity == "volume"), fontsize=10)
        at.set_xticks(x, names, rotation=60, ha="right", fontsize=8)
        at.tick_params("x", labelbottom=k >= len(panels) - columns)
        at.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return figure


def scale_axis(at: Axes, values: np.ndarray, scale: str) -> None:
    """Logarithmic, where that is asked for and the values differ enough."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    if scale == "symlog" and sizes.size and sizes.max() > 3 * sizes.min():
        if (values[np.isfinite(values)] >= 0).all():  # the same, but with ticks within a decade
            at.set_yscale("log")
        else:
            at.set_yscale("symlog", linthresh=float(np.quantile(sizes, 0.2)))
