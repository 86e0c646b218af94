"""Rank of G, and how G and F change while the network learns."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from manifold_jax._files import Progress, silent
from manifold_jax._linalg import map_blocks
from manifold_jax.experiments.classifier.task import Trial, predictions, sample, stage
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.information import LocalDataRank, fisher_trace, local_data_rank, local_data_trace
from manifold_jax.plotting.style import new_figure, panels

_MANY_CLASSES = 100
"""More classes than 8 x 8 images have pixels: the bound on the rank is then that of the pixels."""

_PANELS = {
    "trace of G": {"tr G": "mean", "median tr G": "median"},
    "trace of F": {"tr F": "mean"},
    "mean rank": {"rank D": "rank D", "rank G": "rank G"},
}
_TRACES = ("tr G", "median tr G", "tr F")


class Settings(NamedTuple):
    """Numbers of test images for G and for F, whose gradients are as long as all weights."""

    images: int = 250
    fisher_images: int = 50


REDUCED = Settings(images=64, fisher_images=8)


@jax.jit
def ranks_and_traces(log_prob: Any, images: Array) -> tuple[LocalDataRank, Array]:
    """Rank of G and of the distribution, and trace of G, at every image."""

    def one(image: Array) -> tuple[LocalDataRank, Array]:
        return local_data_rank(log_prob, image), local_data_trace(log_prob, image)

    return map_blocks(jax.vmap(one), 16, images)


@jax.jit
def fisher_traces(log_prob: Partial, images: Array) -> Array:
    """Trace of F at every image, one after the other: vmap over gradients of weights is slow on a CPU."""
    return jax.lax.map(partial(fisher_trace, log_prob.func, *log_prob.args), images)


def compare_ranks(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """Rank of G and of the distribution: before and after training, and with a head of 100 classes."""
    images, _ = sample(trial.task.test, settings.images, trial.seed)
    networks = {
        "untrained": Partial(*trial.task.network),
        f"step {trial.step}": trial.log_prob,
        f"untrained, {_MANY_CLASSES} classes": Partial(*trial.task.rebuild(_MANY_CLASSES)),
    }
    rows, data = [], {}
    for k, (name, log_prob) in enumerate(networks.items()):
        rank, trace = jax.tree.map(np.asarray, ranks_and_traces(log_prob, images))
        data[name] = rank
        of_d, of_g, bound = rank.distribution, rank.matrix, jax.eval_shape(log_prob, images[0]).shape[0] - 1
        row = {"network": name, "pixels": images[0].size, "bound C - 1": bound}
        row |= {"rank D: least": of_d.min(), "rank D: most": of_d.max(), "rank G: mean": of_g.mean()}
        row |= {"rank G: least": of_g.min(), "rank G: most": of_g.max(), "tr G": trace.mean()}
        rows.append(row)
        stage(progress, k, len(networks))(1, 1)
    title = f"{trial.task.name}: rank of the local data matrix at {settings.images} test images"
    notes = [
        "D is spanned by the scores and does not depend on p; G weighs them by p, and loses rank to rounding "
        "where p saturates."
    ]
    return Outcome(title, rows, data, {"rank": _draw_ranks(title, rows, data)}, notes)


def _draw_ranks(title: str, rows: list[Row], data: dict[str, LocalDataRank]) -> Any:
    """Histograms, a panel for each network."""
    figure = new_figure(4.0 * len(rows), 3.4, title)
    for axes, row in zip(panels(figure, len(rows), 3), rows, strict=True):
        rank, bound = data[row["network"]], row["bound C - 1"]
        bins = np.arange(bound + 2) - 0.5
        axes.hist(rank.matrix, bins, label="rank G", alpha=0.7)
        axes.hist(rank.distribution, bins, label="rank D", histtype="step", lw=2, color="black")
        axes.axvline(bound, color="tab:red", ls="--", label="C - 1")
        axes.set(title=row["network"], xlabel="numerical rank")
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("test images")
    return figure


def follow_training(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """Mean trace and rank of G, and trace of F, at every checkpoint; where a trace is back where it began."""
    test, steps = trial.task.test, trial.checkpoints
    images, _ = sample(test, settings.images, trial.seed)
    rows = []
    for k, step in enumerate(steps):
        log_prob = trial.log_prob_at(step)
        rank, trace = jax.tree.map(np.asarray, ranks_and_traces(log_prob, images))
        fisher = fisher_traces(log_prob, images[: settings.fisher_images])
        row = {"step": step, "tr G": trace.mean(), "median tr G": np.median(trace)}
        row |= {"rank G": rank.matrix.mean(), "rank D": rank.distribution.mean()}
        right = predictions(log_prob, test.images) == test.labels
        rows.append(row | {"tr F": np.asarray(fisher).mean(), "test accuracy": np.mean(right)})
        stage(progress, k, len(steps))(1, 1)
    title = f"{trial.task.name}: local data matrix and Fisher matrix along the training"
    data: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    data["back at the initial value"] = back = {name: crossings(steps, data[name]) for name in _TRACES}
    notes = [
        f"{name} is back at its initial value near step {', '.join(f'{at:.0f}' for at in crossed)}."
        if crossed
        else f"{name} is not back at its initial value up to step {trial.step}."
        for name, crossed in back.items()
    ]
    return Outcome(title, rows, data, {"history": _draw_history(title, data)}, notes)


def crossings(steps: Any, values: Any) -> list[float]:
    """Steps at which a curve that has left its first value is back there, interpolated linearly.

    Both are ``(k,)``, the steps ascending; so are those returned.

    Example:
        >>> crossings([0, 1, 2, 3], [1.0, 5.0, 3.0, 0.0])
        [2.6666666666666665]
    """
    x, y = np.asarray(steps, float), np.asarray(values, float) - float(values[0])
    before = [k for k in range(1, len(y) - 1) if y[k] * y[k + 1] <= 0 and y[k] != 0]
    return [float(x[k] + (x[k + 1] - x[k]) * y[k] / (y[k] - y[k + 1])) for k in before]


def _draw_history(title: str, data: dict[str, Any]) -> Any:
    """Traces and ranks over the steps."""
    figure = new_figure(12.0, 3.6, title)
    for axes, (name, curves) in zip(panels(figure, 3, 3), _PANELS.items(), strict=True):
        is_trace = name.startswith("trace")
        for (key, label), colour in zip(curves.items(), ("tab:red", "tab:orange"), strict=False):
            axes.plot(data["step"], data[key], marker=".", label=label)
            for step in data["back at the initial value"].get(key, ()):
                axes.axvline(step, color=colour, lw=1, label=f"{label} back at step {step:.0f}")
        if is_trace:
            axes.axhline(data[next(iter(curves))][0], color="gray", ls="--", lw=1, label="initial value")
        axes.set_xscale("symlog", linthresh=10)
        axes.set(title=name, xlabel="training step", xlim=(0, None), ylim=(0, None))
        axes.legend(fontsize=8, loc="best" if is_trace else "lower left")
    return figure
