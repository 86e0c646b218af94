"""Rank of G, and how G and F change while the network learns."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from manifold_jax._linalg import map_blocks
from manifold_jax.experiments.classifier.pairs import predictions
from manifold_jax.experiments.classifier.task import (
    Trial,
    checkpoints,
    initial,
    log_prob_at,
    network,
    sample,
)
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.information import fisher_trace, local_data_rank, local_data_trace
from manifold_jax.plotting.style import new_figure, panels

_BLOCK = 16


class Settings(NamedTuple):
    """Size of the experiments.

    Attributes:
        images: Test images for G.
        fisher_images: Test images for F, whose gradients are as long as all weights.
    """

    images: int = 250
    fisher_images: int = 50


REDUCED = Settings(images=64, fisher_images=8)


@jax.jit
def ranks(log_prob: Any, images: Array) -> Any:
    """Rank of G and of the distribution at every image."""
    return map_blocks(jax.vmap(partial(local_data_rank, log_prob)), _BLOCK, images)


@jax.jit
def traces(log_prob: Any, images: Array) -> Array:
    """Trace of G at every image."""
    return jax.lax.map(partial(local_data_trace, log_prob), images, batch_size=_BLOCK)


@partial(jax.jit, static_argnames="apply")
def fisher_traces(params: Any, images: Array, *, apply: Any) -> Array:
    """Trace of F at every image, one after the other: vmap over gradients of weights is slow on a CPU."""
    return jax.lax.map(partial(fisher_trace, apply, params), images)


def _rank_row(name: str, log_prob: Any, images: Array) -> tuple[Row, dict[str, Any]]:
    """One line of the table."""
    found = ranks(log_prob, images)
    matrix, distribution = np.asarray(found.matrix), np.asarray(found.distribution)
    bound = jax.eval_shape(log_prob, images[0]).shape[0] - 1
    row = {
        "network": name,
        "pixels": images[0].size,
        "bound C - 1": bound,
        "rank D: least": distribution.min(),
        "most": distribution.max(),
        "rank G: mean": matrix.mean(),
        "least ": matrix.min(),
        "most ": matrix.max(),
        "tr G": np.asarray(traces(log_prob, images)).mean(),
    }
    return row, {"matrix": matrix, "distribution": distribution}


def rank_table(trial: Trial, settings: Settings) -> Outcome:
    """Rank of G and of the distribution: before and after training, and with a head of 100 classes.

    Args:
        trial: The network.
        settings: Size.

    Returns:
        The outcome.
    """
    images, _ = sample(trial.task.test, settings.images, trial.seed)
    wide = network(trial.task.name, trial.task.train, classes=100, seed=trial.seed, width=trial.task.width)
    many = initial(wide, trial.seed, trial.task.init)
    networks = {
        "untrained": Partial(trial.task.apply, trial.task.params),
        f"step {trial.step}": trial.log_prob,
        "untrained, 100 classes": Partial(many.apply, many.params),
    }
    rows, data = [], {}
    for k, (name, log_prob) in enumerate(networks.items()):
        row, data[name] = _rank_row(name, log_prob, images)
        rows.append(row)
        trial.stage(k, len(networks))(1, 1)
    title = f"{trial.task.name}: rank of the local data matrix at {settings.images} test images"
    figure = new_figure(4.0 * len(rows), 3.4, title)
    for at, (name, found), row in zip(panels(figure, len(rows), 3), data.items(), rows, strict=True):
        bins = np.arange(row["bound C - 1"] + 2) - 0.5
        at.hist(found["matrix"], bins, label="rank G", alpha=0.7)
        at.hist(found["distribution"], bins, label="rank D", histtype="step", lw=2, color="black")
        at.axvline(row["bound C - 1"], color="tab:red", ls="--", label="C - 1")
        at.set(title=name, xlabel="numerical rank")
        at.legend(fontsize=8)
    figure.axes[0].set_ylabel("test images")
    notes = [
        "D is spanned by the scores and does not depend on p; G weighs them by p, and loses rank to rounding "
        "where p saturates."
    ]
    return Outcome(title, rows, data, {"rank": figure}, notes)


def history(trial: Trial, settings: Settings) -> Outcome:
    """Mean trace and rank of G, and trace of F, at every checkpoint up to ``step``.

    Args:
        trial: The network.
        settings: Size.

    Returns:
        The outcome, with the steps where the trace is back at its initial value.
    """
    test = trial.task.test
    images, _ = sample(test, settings.images, trial.seed)
    few = images[: settings.fisher_images]
    found = checkpoints(trial.folder, trial.step)
    rows = []
    for k, at in enumerate(found):
        log_prob = log_prob_at(trial.task, trial.folder, at)
        both = ranks(log_prob, images)
        trace = np.asarray(traces(log_prob, images))
        fisher = np.asarray(fisher_traces(log_prob.args[0], few, apply=trial.task.apply))
        rows.append(
            {
                "step": at,
                "tr G": trace.mean(),
                "median tr G": np.median(trace),
                "rank G": np.asarray(both.matrix).mean(),
                "rank D": np.asarray(both.distribution).mean(),
                "tr F": fisher.mean(),
                "test accuracy": np.mean(predictions(log_prob, test.images) == test.labels),
            }
        )
        trial.stage(k, len(found))(1, 1)
    title = f"{trial.task.name}: local data matrix and Fisher matrix along the training"
    data: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    data["back at the initial value"] = back = {
        name: crossings(data["step"], data[name]) for name in ("tr G", "median tr G", "tr F")
    }
    notes = [
        f"{name} is back at its initial value near step {', '.join(f'{s:.0f}' for s in steps)}."
        if steps
        else f"{name} is not back at its initial value up to step {trial.step}."
        for name, steps in back.items()
    ]
    return Outcome(title, rows, data, {"history": _history_figure(title, data)}, notes)


def crossings(steps: Any, values: Any) -> list[float]:
    """Steps at which a curve that has left its first value is back there, interpolated linearly.

    Args:
        steps: Ascending ``(k,)``.
        values: ``(k,)``.

    Returns:
        Steps, ascending; empty where it stays above or below.

    Example:
        >>> crossings([0, 1, 2, 3], [1.0, 5.0, 3.0, 0.0])
        [2.6666666666666665]
    """
    x, y = np.asarray(steps, float), np.asarray(values, float) - float(values[0])
    found = [k for k in range(1, len(y) - 1) if y[k] * y[k + 1] <= 0 and y[k] != 0]
    return [float(x[k] + (x[k + 1] - x[k]) * y[k] / (y[k] - y[k + 1])) for k in found]


def _history_figure(title: str, data: dict[str, Any]) -> Any:
    """Traces, ranks and accuracy over the steps."""
    figure = new_figure(12.0, 3.6, title)
    steps = np.asarray(data["step"])
    shown = {
        "trace of G": ("tr G", "median tr G"),
        "trace of F": ("tr F",),
        "mean rank": ("rank D", "rank G"),
    }
    for at, (name, curves) in zip(panels(figure, 3, 3), shown.items(), strict=True):
        for curve in curves:
            at.plot(steps, data[curve], marker=".", label="mean" if curve.startswith("tr") else curve)
        if name != "mean rank":
            at.axhline(data[curves[0]][0], color="gray", ls="--", lw=1, label="initial value")
            for curve, colour in zip(curves, ("tab:red", "tab:orange"), strict=False):
                for step in data["back at the initial value"][curve]:
                    word = "mean" if curve.startswith("tr") else "median"
                    at.axvline(step, color=colour, lw=1, label=f"{word} back at step {step:.0f}")
        at.set_xscale("symlog", linthresh=10)
        at.set(title=name, xlabel="training step")
        at.set_xlim(left=0)
        at.set_ylim(bottom=0)
        at.legend(fontsize=8, loc="lower left" if name == "mean rank" else "best")
    return figure
