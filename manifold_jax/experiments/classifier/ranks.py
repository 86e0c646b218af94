"""Rank of G and of the distribution: before and after training, and with a head of 100 classes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from manifold_jax._files import Progress, silent
from manifold_jax._linalg import map_blocks
from manifold_jax.experiments.classifier.task import Trial, sample, stage
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.information import LocalDataRank, local_data_rank, local_data_trace
from manifold_jax.plotting.style import PALETTE, new_figure, panels

_MANY_CLASSES = 100
"""More classes than 8 x 8 images have pixels: the bound on the rank is then that of the pixels."""


class Settings(NamedTuple):
    """Number of test images."""

    images: int = 250


REDUCED = Settings(images=64)


@jax.jit
def ranks_and_traces(log_prob: Any, images: Array) -> tuple[LocalDataRank, Array]:
    """Rank of G and of the distribution, and trace of G, at every image."""

    def one(image: Array) -> tuple[LocalDataRank, Array]:
        return local_data_rank(log_prob, image), local_data_trace(log_prob, image)

    return map_blocks(jax.vmap(one), 16, images)


def run(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
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
    before, after = rows[:2]
    headline = (
        f"Rank of G {after['rank G: mean']:.3g} ({after['rank G: least']} to {after['rank G: most']}), of "
        f"the distribution {after['rank D: least']} to {after['rank D: most']}, at most "
        f"{after['bound C - 1']}; tr G {after['tr G']:.3g}, untrained {before['tr G']:.3g}."
    )
    figures = {"rank": _draw_ranks(title, rows, data)}
    return Outcome(title, rows, data, figures, notes, headline=headline)


def _draw_ranks(title: str, rows: list[Row], data: dict[str, LocalDataRank]) -> Any:
    """Histograms, a panel for each network."""
    figure = new_figure(4.0 * len(rows), 3.4, title)
    for axes, row in zip(panels(figure, len(rows), 3), rows, strict=True):
        rank, bound = data[row["network"]], row["bound C - 1"]
        bins = np.arange(bound + 2) - 0.5
        axes.hist(rank.matrix, bins, label="rank G", alpha=0.7)
        axes.hist(rank.distribution, bins, label="rank D", histtype="step", lw=2, color="black")
        axes.axvline(bound, color=PALETTE[1], ls="--", label="C - 1")
        axes.set(title=row["network"], xlabel="numerical rank")
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("test images")
    return figure
