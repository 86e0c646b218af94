"""How G and F change while the network learns: figure 2 of Grementieri & Fioresi, by its own protocol.

Its curves have a value every 100 steps, from step 100 on, at images of the training: at the batch whose
gradient is taken next, and at a reference batch, the first training images. Here test images are read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax._files import Progress, silent
from manifold_jax._keys import digest_arrays
from manifold_jax._linalg import map_blocks
from manifold_jax.experiments.classifier import returns
from manifold_jax.experiments.classifier.normalised import network_of
from manifold_jax.experiments.classifier.returns import SMOOTHED, Return, running_mean
from manifold_jax.experiments.classifier.task import MARKS, Trial, predictions, sample, stage
from manifold_jax.experiments.experiment import Outcome, Row, plain
from manifold_jax.experiments.results import Cells, cell_name
from manifold_jax.information import fisher_trace, local_data_rank
from manifold_jax.information.log_prob import scores
from manifold_jax.models import pixels
from manifold_jax.models.training import batch_rows
from manifold_jax.plotting.style import COLOURS, new_figure, panels

EVERY = 100
"""Steps from one value of a curve to the next, and before the first one, in the paper's code."""

_STATISTICS = {"mean": np.mean, "median": np.median}
_SMOOTHINGS = {"raw": 1, "smoothed": SMOOTHED}


class Settings(NamedTuple):
    """Numbers of images, and steps from one value of a curve to the next."""

    images: int = 1000  # of the reference batch, the first training images
    test_images: int = 250
    fisher_images: int = 50  # test images too: gradients by all weights take long
    every: int = EVERY


REDUCED = Settings(images=200, test_images=64, fisher_images=8)


class Reading(NamedTuple):
    """Trace and ranks of G at many images; an axis of steps first, where there are several.

    Attributes:
        trace: tr G, in pixels from 0 to 1.
        jacobian: Numerical rank of the Jacobian of log p, at most C - 1: what the paper draws.
        matrix: Numerical rank of G.
        distribution: Dimension of D_x.
    """

    trace: Float[Any, "*k n"]
    jacobian: Int[Any, "*k n"]
    matrix: Int[Any, "*k n"]
    distribution: Int[Any, "*k n"]


def marks(steps: int) -> list[int]:
    """Steps whose checkpoints are needed."""
    return sorted({*MARKS, *range(EVERY, steps + 1, EVERY)})


@jax.jit
def read(log_prob: Any, images: Float[Array, "n *shape"]) -> Reading:
    """Trace and ranks at every image."""

    def one(image: Array) -> Reading:
        log_p, rows = scores(log_prob, image)
        rank = local_data_rank(log_prob, image)
        trace = jnp.sum(jnp.exp(log_p)[:, None] * rows**2)
        jacobian = jnp.minimum(jnp.linalg.matrix_rank(rows), len(rows) - 1)
        return Reading(trace, jacobian, rank.matrix, rank.distribution)

    return map_blocks(jax.vmap(one), 16, images)


@jax.jit
def fisher_traces(log_prob: Partial, images: Array) -> Array:
    """Trace of F at every image, one after the other: vmap over gradients of weights is slow on a CPU."""
    return jax.lax.map(partial(fisher_trace, *network_of(log_prob)), images)


def _read_all(trial: Trial, settings: Settings, steps: list[int], progress: Progress) -> dict[str, Reading]:
    """Readings at all steps by the name of the images; goes on from those that are there."""
    cells, records = Cells(trial.folder.parent / "history.cells.jsonl"), []
    train, key = trial.task.train, jax.random.key(trial.seed)
    fixed = {
        "reference batch": pixels(train.images[: settings.images]),
        "test images": sample(trial.task.test, settings.test_images, trial.seed)[0],
    }
    for k, step in enumerate(steps):
        log_prob = trial.log_prob_at(step)
        batch = pixels(train.images[batch_rows(key, step, len(train.labels))])
        images = {"training batch": batch} | fixed
        digest = digest_arrays(*jax.tree.leaves(log_prob), *images.values())
        name = cell_name(experiment="history", step=step, digest=digest)
        if name not in cells:
            cells.put(name, {kind: plain(read(log_prob, some)) for kind, some in images.items()})
        records.append({kind: Reading(**values) for kind, values in cells[name].items()})
        stage(progress, k, len(steps))(1, 1)
    return {
        kind: Reading(*map(np.array, zip(*(r[kind] for r in records), strict=True))) for kind in records[0]
    }


def _judge(steps: list[int], readings: dict[str, Reading], std: float) -> dict[str, Return]:
    """Whether every curve comes back to its first value; traces in normalised pixels."""
    results = {}
    for kind, reading in readings.items():
        for name, statistic in _STATISTICS.items():
            traces = std**2 * reading.trace
            curve = statistic(traces, axis=1)
            resampled = returns.resample(traces, statistic, shared=kind != "training batch")
            for smoothing, count in _SMOOTHINGS.items():
                results[f"{kind}, {name}, {smoothing}"] = returns.judge(steps, curve, resampled, count)
    return results


def _row(trial: Trial, settings: Settings, step: int, readings: dict[str, Reading], k: int) -> Row:
    """Numbers at one step."""
    log_prob, test = trial.log_prob_at(step), trial.task.test
    row: Row = {"step": step}
    for kind, name in (
        ("training batch", "batch"),
        ("reference batch", "reference"),
        ("test images", "test"),
    ):
        traces = readings[kind].trace[k]
        row |= {f"tr G, {name}": traces.mean(), f"median, {name}": np.median(traces)}
    reference = readings["reference batch"]
    row |= {"rank J": reference.jacobian[k].mean(), "rank G": reference.matrix[k].mean()}
    images = sample(test, settings.test_images, trial.seed)[0]
    fisher = fisher_traces(log_prob, images[: settings.fisher_images])
    right = predictions(log_prob, test.images) == test.labels
    return row | {"tr F": np.asarray(fisher).mean(), "test accuracy": np.mean(right)}


def follow_training(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """Trace and rank of G along the training; whether a trace that has risen is back at its first value."""
    title = f"{trial.task.name}: local data matrix and Fisher matrix along the training"
    every, std = settings.every, trial.task.std
    steps = [step for step in trial.checkpoints if step < every or step % every == 0]
    readings = _read_all(trial, settings, steps, progress)
    kept = [k for k, step in enumerate(steps) if step in MARKS or step == steps[-1]]
    rows = [_row(trial, settings, steps[k], readings, k) for k in kept]
    first = sum(step < every for step in steps)
    curves = {kind: Reading(*(values[first:] for values in reading)) for kind, reading in readings.items()}
    steps = steps[first:]
    notes = [
        f"Traces in pixels from 0 to 1; the paper's normalised ones have {std**2:.4f} times as much. rank J: "
        f"of the Jacobian of log p, at most C - 1, at the reference batch, {settings.images} images."
    ]
    if len(steps) < 2:
        notes.append(f"Curves begin at step {every}: train for longer.")
        return Outcome(title, rows, {"step": steps}, {}, notes, headline=_in_short(rows))
    results = _judge(steps, curves, std)
    notes.append(
        f"Below in normalised pixels. Smoothed: mean of the last {SMOOTHED} values. Intervals: 95 % of "
        f"{returns.RESAMPLES} draws of the images, of one training."
    )
    notes += [returns.sentence(f"tr G, {name}", result, steps[-1]) for name, result in results.items()]
    data = {"step": steps, "returns": results} | {kind: _means(curve) for kind, curve in curves.items()}
    figures = {"history": _draw(title, steps, curves, rows, std)}
    return Outcome(title, rows, data, figures, notes, headline=_in_short(rows))


def _in_short(rows: Sequence[Row]) -> str:
    """The first and the last row, in words."""
    first, last = rows[0], rows[-1]
    changes = [f"{name} {first[name]:.3g} to {last[name]:.3g}" for name in ("tr G, reference", "rank G")]
    accuracy = f"{last['test accuracy']:.1%} of the test images right"
    return f"From step {first['step']} to {last['step']}: {', '.join(changes)}; {accuracy}."


def _means(reading: Reading) -> dict[str, Any]:
    """Curves for JSON, traces in pixels from 0 to 1."""
    data = {name: statistic(reading.trace, axis=1) for name, statistic in _STATISTICS.items()}
    return data | {f"rank, {name}": getattr(reading, name).mean(1) for name in Reading._fields[1:]}


def _draw(title: str, steps: list[int], readings: dict[str, Reading], rows: list[Row], std: float) -> Any:
    """Traces, raw and smoothed, in both units; ranks; the trace of F."""
    figure = new_figure(13.0, 8.0, f"{title}\nthin: each value, thick: mean of the last {SMOOTHED}")
    *traces, ranks, fisher = panels(figure, 4, 2)
    for axes, (name, statistic) in zip(traces, _STATISTICS.items(), strict=True):
        for (kind, reading), colour in zip(readings.items(), COLOURS, strict=True):
            curve = std**2 * statistic(reading.trace, axis=1)
            axes.plot(steps, curve, lw=0.7, alpha=0.5, color=colour)
            axes.plot(steps, running_mean(curve), lw=2, color=colour, label=kind)
            axes.axhline(curve[0], lw=1, ls="--", color=colour)
        axes.set(title=f"{name} of tr G (dashed: at step {steps[0]})", ylabel="normalised pixels")
        axes.set(**({"yscale": "log"} if name == "median" else {"ylim": (0, None)}))
        other = axes.secondary_yaxis("right", functions=(lambda y: y / std**2, lambda y: y * std**2))
        other.set_ylabel("pixels from 0 to 1")
    reference = readings["reference batch"]
    for name, label in (("jacobian", "Jacobian of log p"), ("distribution", "D"), ("matrix", "G")):
        ranks.plot(steps, getattr(reference, name).mean(1), label=f"rank of {label}")
    ranks.set(title="mean rank, reference batch", ylim=(0, None))
    fisher.plot([row["step"] for row in rows], [row["tr F"] for row in rows], marker=".", label="test images")
    fisher.set(title="mean of tr F", ylim=(0, None))
    for axes in (*traces, ranks, fisher):
        axes.set(xlabel="training step", xlim=(0, None))
        axes.legend(fontsize=8)
    return figure
