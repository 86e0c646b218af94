"""Figure 6 of Koulakis & Seibold (ICML 2026): the classes as one union of unit volume, layer by layer.

Total scalar curvature with its positive and negative part, least and average reach, and the distances between
the classes at equal transformation, in every layer of a beta-VAE, on a linear and a symmetric logarithmic
axis; for ReLU as published, and for a smooth activation next to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from manifold_jax._files import Progress
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.layers.evolution import scale_axis
from manifold_jax.experiments.layers.quantities import depth_correlation, parts_of
from manifold_jax.experiments.layers.trial import FULL, Settings, Trial, learn, prepare
from manifold_jax.experiments.layers.unions import STATUS, LayerUnion, measure_unions
from manifold_jax.experiments.results import Cells, cell_name
from manifold_jax.geometry import Estimate, Grid
from manifold_jax.plotting.style import PALETTE, Figure, quantity_panels

PUBLISHED_STEPS = 2_000_000  # iterations of Koulakis & Seibold
PUBLISHED_LATTICE = "18 x 16 x 18 x 18"
ACCURACY = 2  # order of the stencils of Koulakis & Seibold

FIGURE6 = FULL._replace(activation="relu", steps=PUBLISHED_STEPS, seeds=1, factors=4, lattice=7, pairs=4)
FIGURE6 = FIGURE6._replace(capacity_steps=100_000, published=True)
FIGURE6_REDUCED = FIGURE6._replace(size=16, width=16, hidden=64, images=3000, steps=400, batch_size=32)
FIGURE6_REDUCED = FIGURE6_REDUCED._replace(seeds=3, lattice=6, pairs=3, checkpoints=2, capacity_steps=400)
FIGURE6_REDUCED = FIGURE6_REDUCED._replace(learning_rate=1e-3)

LABELS = {
    "S": "total scalar curvature",
    "positive S": "its positive part",
    "negative S": "its negative part",
    "least reach": "least reach (upper bound, lattice of the pairs)",
    "mean reach": "average reach (upper bound, lattice of the pairs)",
    "paired": "mean distance of classes at equal transformation",
    "nearest": "nearest distance of classes",
}
"""Titles of the panels."""

GROWTH = {"positive S": 1, "negative S": -1, "least reach": -1, "mean reach": -1, "paired": 1}
"""Quantities that change with depth as Koulakis & Seibold say: curvature grows, reach falls, classes part."""

_KEYS = ("network", "run", "step")


def figure6(trial: Trial, settings: Settings, progress: Progress) -> Outcome:
    """Unions of unit volume in every layer of two networks, at several checkpoints."""
    trials = {settings.activation: trial} | _other(trial, settings, progress)
    cells = Cells(trial.folder.parent / "figure6.cells.jsonl")
    # The end of the training first: what is interrupted has that.
    jobs = [(name, one, step) for name, one in trials.items() for step in _steps_of(one)]
    jobs.sort(key=lambda job: -job[2])
    rows: list[Row] = []
    for done, (name, one, step) in enumerate(jobs):
        rows += _measured(cells, name, one, step)
        progress(done + 1, len(jobs))
    names = tuple(dict.fromkeys(row["layer"] for row in rows))
    depth = depth_rows(rows, names)
    losses = {name: _losses(one) for name, one in trials.items()}
    table = [_mean_row(rows, name, one.steps[-1], layer) for name, one in trials.items() for layer in names]
    data = {"layers": names, "rows": rows, "depth": depth, "loss": losses}
    data |= {"steps": settings.steps, "published_steps": PUBLISHED_STEPS}
    others = [one.settings.activation for one in trials.values() if one is not trial]
    title = f"Figure 6: {' and '.join([trial.name, *others])}, {settings.steps} of {PUBLISHED_STEPS} steps"
    figures = {f"figure6_{scale}": _figure(title, rows, names, scale) for scale in ("symlog", "linear")}
    figures["figure6_loss"] = _loss_figure(losses)
    ends = [row for row in depth if row["layers"] == "all" and row["step"] == trial.steps[-1]]
    ends = [row for row in ends if row["network"] == settings.activation]
    words = ", ".join(f"{row['quantity']} {row['mean']:.2f}" for row in ends)
    headline = f"Rank correlation with depth, {settings.activation}: {words}."
    return Outcome(title, table, data, figures, _notes(settings, rows, depth), headline=headline)


def _other(trial: Trial, settings: Settings, progress: Progress) -> dict[str, Trial]:
    """The same with the other activation, trained here."""
    other = "silu" if settings.activation == "relu" else "relu"
    folder = trial.folder.with_name(f"{trial.folder.name}-{other}")
    return {other: learn(prepare(settings._replace(activation=other), folder), progress)}


def _steps_of(trial: Trial) -> list[int]:
    """Checkpoints that are measured: the end, the random network, and then others from the end on."""
    first, *rest = trial.nearest_marks
    count = trial.settings.checkpoints
    return sorted({*rest[-1:], *([first] if count > 1 else []), *(rest[-count + 1 :] if count > 2 else [])})


def _measured(cells: Cells, network: str, trial: Trial, step: int) -> Iterator[Row]:
    """Rows of all runs and layers at one checkpoint; those of an earlier call are not measured again."""
    settings = trial.settings._replace(path=None)
    charts = trial.charts.measured
    pairs = [_coarse(chart.grid, settings.pairs) for chart in charts]
    for run, layers in enumerate(trial.layers(step)):
        # More steps of the same training and other checkpoints change nothing here.
        same = settings._replace(steps=0, checkpoints=1)
        cell = cell_name(settings=same._asdict(), step=step, run=run, figure=6, accuracy=ACCURACY)
        if cell not in cells:
            unions = measure_unions(charts, layers, pairs, accuracy=ACCURACY)
            cells.put(cell, [as_row(union) for union in unions])
        for row in cells[cell]:
            yield dict(zip(_KEYS, (network, run, step), strict=True)) | row


def _coarse(grid: Grid, size: int) -> Grid:
    """The same chart with so many samples along each axis."""
    return Grid(tuple(dataclasses.replace(axis, size=size) for axis in grid.axes))


def as_row(union: LayerUnion) -> Row:
    """The numbers of one layer, bars after their values; distances are means over the pairs of classes."""
    totals, pairs, stencils = union.totals, union.pairs, union.stencils
    row: Row = {"layer": union.name, "features": union.features}
    row |= _both("volume", totals.volume) | _curvatures("", totals)
    row |= _both("least reach", pairs.least_reach) | _both("mean reach", pairs.mean_reach)
    for name in ("paired", "nearest"):
        row[name] = float(np.mean([float(getattr(pair, name).value) for pair in pairs.distances]))
    row["reach of a class alone"] = min(float(part.alone.least.value) for part in pairs.classes)
    row["others stop"] = float(np.mean([part.stopped for part in pairs.classes]))
    if stencils is not None:
        row |= _both("stencils, volume", stencils.volume) | _curvatures("stencils, ", stencils)
    row |= {"rank drops": union.dropped, "not finite": union.lost, "status": union.status, "why": union.why}
    between = {"between": [[float(pair.paired.value), float(pair.nearest.value)] for pair in pairs.distances]}
    shares = [float(part.volume.value) for part in totals.classes]
    curvature = [float(part.total_scalar_curvature.value) for part in totals.classes]
    return row | between | {"shares": shares, "S of classes": curvature}


def _both(name: str, estimate: Estimate) -> Row:
    values = [float(estimate.value), float(estimate.error), bool(estimate.resolved)]
    return dict(zip((name, f"{name} +-", f"{name} resolved"), values, strict=True))


def _curvatures(before: str, union: Any) -> Row:
    names = {"S": "scalar", "positive S": "positive", "negative S": "negative"}
    row: Row = {}
    for name, field in names.items():
        row |= _both(before + name, getattr(union, f"total_{field}_curvature"))
    return row


def _mean_row(rows: Sequence[Row], network: str, step: int, layer: str) -> Row:
    """A line of the table: means over the runs that have the layer, largest bar, deviation of the runs."""
    here = [row for row in rows if (row["network"], row["step"], row["layer"]) == (network, step, layer)]

    def mean(name: str) -> float:
        known = [value for row in here if np.isfinite(value := _usable(row, name))]
        return float(np.mean(known)) if known else np.nan

    line: Row = {"network": network, "layer": layer, "features": here[0]["features"], "runs": len(here)}
    line |= {"S": mean("S"), "+-": max(row["S +-"] for row in here)}
    known = [row["S"] for row in here if np.isfinite(_usable(row, "S"))]
    line["runs differ by"] = float(np.std(known, ddof=1)) if len(known) > 1 else np.nan
    line |= {name: mean(name) for name in list(LABELS)[1:]}
    line |= {"S, stencils": mean("stencils, S"), "their +-": max(row["stencils, S +-"] for row in here)}
    status = [f"{row['status']} ({row['why']})" if row["why"] else row["status"] for row in here]
    return line | {"status": " / ".join(dict.fromkeys(status))}


def depth_rows(rows: Sequence[Row], names: tuple[str, ...]) -> list[Row]:
    """Rank correlation of every quantity with depth, over layers that are finite and keep their rank.

    One row for each network, checkpoint, quantity and part of the network: mean, least and most of the runs,
    and how many layers count.
    """
    result = []
    for network, step in dict.fromkeys((row["network"], row["step"]) for row in rows):
        runs: dict[int, list[Row]] = {}
        for row in rows:
            if (row["network"], row["step"]) == (network, step):
                runs.setdefault(row["run"], []).append(row)
        for quantity, sign in GROWTH.items():
            for part, layers in parts_of(names).items():
                values = np.array([[_usable(row, quantity) for row in run] for run in runs.values()])[
                    :, layers
                ]
                correlations = np.array([depth_correlation(run) for run in values])
                known = correlations[np.isfinite(correlations)]
                line: Row = {"network": network, "step": step, "quantity": quantity, "claimed": sign}
                line |= {
                    "layers": part,
                    "counted": int(np.isfinite(values).all(0).sum()),
                    "runs": len(correlations),
                }
                line["mean"] = float(known.mean()) if known.size else np.nan
                line |= {"least": float(known.min()) if known.size else np.nan}
                result.append(line | {"most": float(known.max()) if known.size else np.nan})
    return result


def _usable(row: Row, quantity: str) -> float:
    """A number of a layer, NaN where that is degenerate or not finite."""
    return row[quantity] if row["status"] in ("resolved", "not resolved") else np.nan


def _losses(trial: Trial) -> dict[str, Any]:
    """At most a few hundred points of the curves of the training, means over the steps between them."""
    curves = {name: np.asarray(trial.metrics[name]) for name in ("run_loss", "reconstruction", "kl")}
    count = len(curves["run_loss"])
    edges = np.unique(np.linspace(0, count, min(count, 200) + 1).round().astype(int))
    means = {
        name: np.add.reduceat(part, edges[:-1]) / np.diff(edges)[:, None] for name, part in curves.items()
    }
    return {"step": edges[1:].tolist()} | {name: part.T for name, part in means.items()}


def _notes(settings: Settings, rows: Sequence[Row], depth: Sequence[Row]) -> list[str]:
    """What to know about the numbers."""
    size = " x ".join([str(settings.lattice)] * settings.factors)
    pairs = " x ".join([str(settings.pairs)] * settings.factors)
    last = max(row["step"] for row in rows)
    notes = [
        f"Trained for {settings.steps} steps, where the paper took {PUBLISHED_STEPS}: "
        + (
            "as published."
            if settings.steps >= PUBLISHED_STEPS
            else "claims about a trained net are not tested."
        )
        + " The same command with more --steps goes on from here.",
        f"Volume and curvature: {size} points a class, where the paper has {PUBLISHED_LATTICE}; "
        "smooth images blurred by 0.8 pixels in place of rasters; exact jets, and next to them stencils of "
        f"order {ACCURACY} on the activations of the same points. The full turn covers a square four times "
        "and an ellipse twice, as in the paper.",
        f"Reach and distances: {pairs} points a class. Both are upper bounds: what lies between the points "
        "is not known, and bars hold rounding alone.",
        "After a ReLU the exact jets are those of the smooth pieces. They exist almost everywhere, at all "
        "points where no unit is exactly 0; the kinks between the pieces are curvature too, count for "
        "nothing in the totals of the jets, and make the true reach 0.",
        "Figures: bands from the least to the most run; hollow where a layer is not resolved, grey where no "
        "run has a number because a layer is degenerate or not finite. Correlations with depth take layers "
        "that are neither, resolved or not.",
        "At d = 2 total S is a boundary term (Gauss-Bonnet)." if settings.factors == 2 else "",
        *_status_notes(rows),
    ]
    for row in depth:
        if row["layers"] == "all" and row["step"] == last:
            among = f"{row['least']:.2f} to {row['most']:.2f}, {row['runs']} runs"
            span = f"{row['mean']:.2f} ({'1 run' if row['runs'] == 1 else among})"
            counted = f"{row['counted']} layers in all runs"
            words = f"{row['network']}, step {last}: rank correlation of {row['quantity']} with depth {span}"
            notes.append(f"{words}, {counted}; claimed sign {row['claimed']:+d}.")
    return [note for note in notes if note]


def _status_notes(rows: Sequence[Row]) -> list[str]:
    """How many layers, by network and checkpoint, are resolved, and how many by stencils."""
    notes = []
    for network, step in dict.fromkeys((row["network"], row["step"]) for row in rows):
        here = [row for row in rows if (row["network"], row["step"]) == (network, step)]
        counts = {status: sum(row["status"] == status for row in here) for status in STATUS}
        words = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        seen = sum(row["stencils, S resolved"] for row in here)
        exact = sum(row["S resolved"] for row in here)
        words += f"; total S is resolved in {exact} by jets and in {seen} by stencils"
        notes.append(f"{network}, step {step}: of {len(here)} layers {words}.")
    return notes


def _figure(title: str, rows: Sequence[Row], names: tuple[str, ...], scale: str) -> Figure:
    """A row of panels for each quantity, a column for each network; a line for each checkpoint."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    wanted = [(quantity, network) for quantity in LABELS for network in networks]
    figure, panels = quantity_panels(f"{title} ({scale})", wanted, (7.0, 2.5), len(networks))
    x = np.arange(len(names))
    for k, (at, (quantity, network)) in enumerate(panels):
        here = [row for row in rows if row["network"] == network]
        steps = sorted({row["step"] for row in here})
        drawn = []
        for colour, step in zip(PALETTE, steps, strict=False):
            lines = [("exact", quantity, "o-")]
            if step == steps[-1] and "S" in quantity:
                lines.append(("stencils", f"stencils, {quantity}", "x:"))
            for kind, column, style in lines:
                values = _by_layer(here, step, column, names)
                drawn.append(values)
                label = f"step {step}" + (", stencils" if kind == "stencils" else "")
                options = {"ms": 4, "lw": 1.5, "color": colour, "label": label}
                low, middle, high = _span(values)
                at.plot(x, middle, style, **options)
                at.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
            _mark_status(at, here, step, names, _by_layer(here, step, quantity, names), colour)
        scale_axis(at, np.concatenate(drawn), scale)
        at.set_title(f"{network}: {LABELS[quantity]}", fontsize=10)
        at.set_xticks(x, names, rotation=60, ha="right", fontsize=8)
        at.tick_params("x", labelbottom=k >= len(wanted) - len(networks))
        at.grid(alpha=0.3)
    for at in figure.axes[: len(networks)]:
        at.legend(fontsize=8)
    return figure


def _mark_status(
    at: Any, rows: Sequence[Row], step: int, names: Sequence[str], values: np.ndarray, colour: str
) -> None:
    """Hollow marks where a layer is not resolved in some run, a grey band where no run has a number."""
    _, middle, _ = _span(values)
    for k, name in enumerate(names):
        status = {row["status"] for row in rows if (row["step"], row["layer"]) == (step, name)}
        if "not resolved" in status:
            at.plot([k], [middle[k]], "o", ms=4, color=colour, mfc="white")
        if not np.isfinite(middle[k]):
            at.axvspan(k - 0.4, k + 0.4, color="0.5", alpha=0.15, lw=0)


def _span(values: Float[np.ndarray, "runs layers"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least, mean and most of the finite values of every layer, NaN where there are none."""
    known = np.isfinite(values)
    some, count = known.any(0), np.maximum(known.sum(0), 1)
    middle = np.where(known, values, 0.0).sum(0) / count
    low, high = np.where(known, values, np.inf).min(0), np.where(known, values, -np.inf).max(0)
    low, middle, high = (np.where(some, part, np.nan) for part in (low, middle, high))
    return low, middle, high


def _by_layer(rows: Sequence[Row], step: int, column: str, names: Sequence[str]) -> np.ndarray:
    """Values ``(runs, layers)`` of a column at one checkpoint."""
    here = {(row["run"], row["layer"]): _usable(row, column) for row in rows if row["step"] == step}
    runs = sorted({run for run, _ in here})
    return np.array([[here[run, name] for name in names] for run in runs], float)


def _loss_figure(losses: dict[str, dict[str, Any]]) -> Figure:
    """Reconstruction and KL along the training."""
    words = {"reconstruction": "reconstruction error [nats]", "kl": "KL divergence of the latents [nats]"}
    figure, panels = quantity_panels("Training", list(words), (6.2, 4.0), 2)
    for at, name in panels:
        for colour, (network, curves) in zip(PALETTE, losses.items(), strict=False):
            for k, run in enumerate(curves[name]):
                at.plot(curves["step"], run, color=colour, lw=1, label=network if k == 0 else None)
        at.set_title(words[name], fontsize=10)
        at.set_xlabel("step")
        at.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    return figure
