"""How volume, curvature, reach and the distances between classes change from layer to layer in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from manifold_jax._checks import require
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.layers.measures import (
    POWERS,
    Measures,
    measure_union,
    normalised,
    stack,
    two_nn,
)
from manifold_jax.experiments.layers.task import Trial, layer_arrays
from manifold_jax.experiments.sprites import draw
from manifold_jax.models import network_layers
from manifold_jax.plotting.images import PALETTE
from manifold_jax.plotting.style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORDS = {
    "volume": "volume",
    "bend": "mean |II|",
    "mean_curvature": "mean |H|",
    "scalar_curvature": "mean S",
    "local_reach": "local part of the reach, 1 / largest normal curvature",
    "reach": "reach",
    "gap": "least distance between classes",
    "separation": "distance between classes / within",
    "dimension": "effective dimension of the metric",
    "rank": "rank of the metric",
}

_COLUMNS = {"bend": "|II|", "scalar_curvature": "S", "reach": "reach", "gap": "gap"}
_COLUMNS |= {"separation": "apart", "dimension": "dim"}


class Claim(NamedTuple):
    """A claim about depth, tested over runs.

    Attributes:
        words: What is claimed.
        part: Of the network.
        sign: Of the rank correlation with depth that is claimed.
        correlations: Spearman's, of every run.
    """

    words: str
    part: str
    sign: int
    correlations: Float[np.ndarray, "runs"]

    @property
    def row(self) -> Row:
        """For the table."""
        defined = self.correlations[np.isfinite(self.correlations)]
        return {
            "claim": self.words,
            "layers": self.part,
            "runs": len(self.correlations),
            "undefined in": len(self.correlations) - len(defined),
            "holds in": int(np.sum(np.sign(defined) == self.sign)),
            "rank correlation, mean": float(defined.mean()) if defined.size else np.nan,
            "least": float(defined.min(initial=np.inf)),
            "most": float(defined.max(initial=-np.inf)),
        }

    @property
    def sentence(self) -> str:
        """For people."""
        row = self.row
        lost = f", undefined in {row['undefined in']}" if row["undefined in"] else ""
        return (
            f"{self.words}, {self.part}: in {row['holds in']} of {row['runs']} runs{lost}, rank correlation "
            f"{row['rank correlation, mean']:.2f} ({row['least']:.2f} to {row['most']:.2f})."
        )


def rank_correlation(values: Float[np.ndarray, "n"]) -> float:
    """Spearman's correlation of values with their order; NaN where they are all equal or fewer than three.

    Args:
        values: In order; NaN are left out.

    Returns:
        Between -1 and 1.
    """
    kept = values[~np.isnan(values)]
    ranks = rankdata(kept)
    if len(kept) < 3 or np.ptp(ranks) == 0:
        return np.nan
    return float(np.corrcoef(np.arange(len(kept)), ranks)[0, 1])


def parts_of(names: tuple[str, ...]) -> dict[str, slice]:
    """The whole network; for an autoencoder its two halves too, which share the latent."""
    whole = {"all": slice(0, len(names))}
    if "latent" not in names:
        return whole
    middle = names.index("latent")
    return whole | {"encoder": slice(0, middle + 1), "decoder": slice(middle, len(names))}


def claims(found: Measures, names: tuple[str, ...], when: str) -> list[Claim]:
    """That deeper layers raise curvature and lower the reach (Koulakis & Seibold, ICML 2026).

    Args:
        found: Normalised measures of one checkpoint, ``(runs, layers)``.
        names: Of the layers, the input first.
        when: Which checkpoint, for the table.

    Returns:
        The claims, for the whole network and its parts.
    """
    tested = (("curvature grows with depth", "bend", 1), ("reach falls with depth", "reach", -1))
    return [
        Claim(f"{words}, {when}", part, sign, np.array([rank_correlation(run[where]) for run in values]))
        for words, name, sign in tested
        for values in [getattr(found, name)]
        for part, where in parts_of(names).items()
    ]


def _rows(found: Measures, names: tuple[str, ...]) -> list[Row]:
    """One row for every layer: means over the runs and, for some, their deviation."""
    rows = []
    for k, name in enumerate(names):
        row: Row = {"layer": name, "features": int(found.features[0, k])}
        for measure, word in _COLUMNS.items():
            values = getattr(found, measure)[:, k]
            row[word] = float(np.mean(values))
            if measure in ("bend", "reach"):
                row[f"+- {word}"] = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
        rows.append(row)
    return rows


def evolution(trial: Trial) -> Outcome:
    """Exact geometry of every layer of every run at every checkpoint.

    Args:
        trial: What was trained.

    Returns:
        The outcome: the table of the last checkpoint with unit volume, the claims, all numbers in a data set.
    """
    steps, runs = trial.steps, trial.task.settings.seeds
    names = ("input", *trial.layers(steps[-1], 0).names)
    table = []
    for i, step in enumerate(steps):
        row = []
        for run, network in enumerate(trial.networks(step)):
            row.append(measure_union(trial.task.charts, network_layers(network)))
            trial.tell(i * runs + run + 1, len(steps) * runs)
        table.append(stack(row))
    raw = stack(table)
    dimension = trial.task.charts[0].grid.ndim
    unit = normalised(raw, dimension)
    alone = _alone(trial, steps[-1])
    tested = [
        claim for i in (0, -1) for claim in claims(Measures(*(a[i] for a in unit)), names, f"step {steps[i]}")
    ]
    tested += [
        claim
        for name, part in alone.items()
        for claim in claims(part, names, f"{name} alone, step {steps[-1]}")
    ]
    last = Measures(*(a[-1] for a in unit))
    notes = [
        "Means over the runs, +- their deviation: |II| and S over the volume, reach (an upper bound) of all "
        "classes, gap the least distance between classes, apart their mean distance over that within them, "
        "dim the effective dimension of the metric, TwoNN the dimension that samples of run 0 suggest.",
    ]
    notes += [claim.sentence for claim in tested]
    rows = _rows(last, names)
    for row, outside in zip(rows, _outside_dimensions(trial, steps[-1]), strict=True):
        row["TwoNN"] = outside
    title = f"{trial.task.name}: layers at step {steps[-1]}, unit volume, {runs} runs"
    data = {"layers": names, "steps": steps, "claims": [claim.row for claim in tested]}
    figures = {
        f"evolution_{scale}": _figure(unit, raw, names, steps, trial.task.name, scale)
        for scale in ("symlog", "linear")
    }
    figures["evolution_classes"] = _classes_figure(alone, names, f"{trial.task.name}, step {steps[-1]}")
    return Outcome(title, rows, data, figures, notes, _dataset(raw, unit, alone, names, steps))


def _alone(trial: Trial, step: int) -> dict[str, Measures]:
    """Measures ``(runs, layers)`` of each class by itself, scaled to unit volume, at one checkpoint."""
    dimension = trial.task.charts[0].grid.ndim
    networks = [network_layers(network) for network in trial.networks(step)]
    return {
        chart.name: normalised(stack([measure_union([chart], layers) for layers in networks]), dimension)
        for chart in trial.task.charts
    }


def _outside_dimensions(trial: Trial, step: int) -> list[float]:
    """TwoNN of every layer of the first run, at random points of the charts."""
    layers, charts = trial.layers(step, 0), trial.task.charts
    keys = jax.random.split(jax.random.key(trial.seed), len(charts))
    streams = [
        layer_arrays(chart, layers, draw(key, chart, trial.task.settings.points))
        for key, chart in zip(keys, charts, strict=True)
    ]
    return [two_nn([np.asarray(part) for part in parts]) for parts in zip(*streams, strict=True)]


def _dataset(
    raw: Measures, unit: Measures, alone: dict[str, Measures], names: tuple[str, ...], steps: list[int]
) -> Any:
    """All numbers with names: as they are, with unit volume, and of every class at the last checkpoint."""
    xarray = require("xarray", "report")
    axes = ("step", "run", "layer")
    parts = {name: (axes, getattr(raw, name)) for name in Measures._fields}
    parts |= {f"{name}_unit_volume": (axes, getattr(unit, name)) for name in POWERS if name != "volume"}
    classes = stack(list(alone.values()))
    parts |= {f"{name}_of_class": (("class", *axes[1:]), getattr(classes, name)) for name in POWERS}
    return xarray.Dataset(parts, {"step": list(steps), "layer": list(names), "class": list(alone)})


def _classes_figure(alone: dict[str, Measures], names: tuple[str, ...], title: str) -> Figure:
    """Curvature, reach and dimension of every class by itself."""
    figure = new_figure(15.0, 5.0, f"{title}: every class by itself, scaled to unit volume")
    axes = figure.subplots(1, 3)
    for at, measure in zip(axes, ("bend", "reach", "dimension"), strict=True):
        values = np.stack([getattr(part, measure) for part in alone.values()])
        _panel(at, values, list(alone), "symlog")
        at.set_title(WORDS[measure], fontsize=10)
        at.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes[0].legend(fontsize=8)
    return figure


def _figure(
    unit: Measures, raw: Measures, names: tuple[str, ...], steps: list[int], title: str, scale: str
) -> Figure:
    """One panel for each measure, one line for each checkpoint, bands from the least to the most run."""
    figure = new_figure(15.0, 13.0, f"{title}: every layer, scaled to unit volume ({scale})")
    axes = figure.subplots(5, 2, sharex=True)
    for at, measure in zip(axes.flat, WORDS, strict=True):
        values = getattr(raw if measure == "volume" else unit, measure)
        _panel(at, values, [f"step {step}" for step in steps], scale)
        at.set_title(WORDS[measure] + (" (not scaled)" if measure == "volume" else ""), fontsize=10)
    for at in axes[-1]:
        at.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes[0, 0].legend(fontsize=8, title="checkpoint")
    return figure


def _panel(
    at: Axes, values: Float[np.ndarray, "lines runs layers"], labels: Sequence[str], scale: str
) -> None:
    """Lines of one measure, means of the runs."""
    x = np.arange(values.shape[-1])
    for colour, label, runs in zip(PALETTE, labels, values, strict=False):
        at.plot(x, np.nanmean(runs, axis=0), "o-", ms=3, lw=1.5, color=colour, label=label)
        at.fill_between(x, np.nanmin(runs, axis=0), np.nanmax(runs, axis=0), color=colour, alpha=0.15, lw=0)
    finite = values[np.isfinite(values) & (values != 0)]
    if scale == "symlog" and finite.size and np.abs(finite).max() > 3 * np.abs(finite).min():
        if (finite > 0).all():  # the same, but with ticks within a decade
            at.set_yscale("log")
        else:
            at.set_yscale("symlog", linthresh=float(np.quantile(np.abs(finite), 0.2)))
    at.grid(alpha=0.3)
