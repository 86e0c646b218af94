"""Images of the same label by walks along the leaf, beside straight lines of the same length.

Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022) move along the leaf of valid data. Here one starts at a
test image and goes horizontally, towards another image of its class or along a random direction; whether the
label is kept, and whether the ends look like data, is what is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Int

from manifold_jax.experiments.classifier.along import (
    CLASS,
    CLASS_LINE,
    KEPT,
    RANDOM,
    RANDOM_LINE,
    Images,
    Steps,
    Way,
    fisher_rao_lengths,
    norms,
    walks,
)
from manifold_jax.experiments.classifier.pairs import Training, nearest, outputs
from manifold_jax.experiments.classifier.task import Progress, Task
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.models import pixels
from manifold_jax.plotting.images import PALETTE, image_grid
from manifold_jax.plotting.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VISIBLE = 1 / 255
_SHARES = ("label kept", "kept all along", "out of range", "stalled")
_ROWS = ((CLASS, CLASS_LINE, "same class"), (RANDOM, RANDOM_LINE, "random"), (KEPT, "", "kept"))


class Settings(NamedTuple):
    """What to run.

    Attributes:
        images: Test images to start from, classified as labelled.
        step_size: Of a path.
        max_steps: Of a path.
        stationarity: Horizontal share of the aim at which a path has ended.
        save_every: Steps between two looks at label, confidence and length.
        training: Training images among which destinations and nearest images are looked for.
        block: Pairs at once.
        shown: Images in the figure.
    """

    images: int = 200
    step_size: float = 0.03
    max_steps: int = 500
    stationarity: float = 0.01
    save_every: int = 5
    training: int = 60_000
    block: int = 50
    shown: int = 4


REDUCED = Settings(
    images=24, step_size=0.05, max_steps=100, stationarity=0.02, save_every=2, block=24, shown=3
)


def _starts(
    task: Task, log_prob: Partial, settings: Settings, seed: int
) -> tuple[Images, Int[np.ndarray, "n"], Images, Training]:
    """Sources classified as labelled, their labels, destinations of the same class, training images."""
    rng = np.random.default_rng(seed)
    if settings.images < 1 or settings.training < 1:
        raise ValueError(
            f"there must be images and training images, got {settings.images} and {settings.training}."
        )
    rows = rng.permutation(len(task.test.labels))[: 2 * settings.images + 20]
    right = outputs(log_prob, task.test.images[rows]).argmax(axis=1) == task.test.labels[rows]
    rows = rows[right][: settings.images]
    if len(rows) < settings.images:
        raise ValueError(
            f"only {len(rows)} of {len(right)} test images are classified as labelled, {settings.images} are "
            "needed: take fewer, or train longer."
        )
    labels = task.test.labels[rows]
    kept = rng.permutation(len(task.train.labels))[: settings.training]
    training = Training(np.asarray(pixels(task.train.images[kept])), task.train.labels[kept])
    others = []
    for label in labels:
        of_class = np.flatnonzero(training.labels == label)
        if not len(of_class):
            raise ValueError(f"there is no training image of class {label}: take more training images.")
        others.append(rng.choice(of_class))
    return np.asarray(pixels(task.test.images[rows])), labels, training.images[others], training


def _summary(way: Way, labels: Int[np.ndarray, "n"], training: Training) -> dict[str, np.ndarray]:
    """One number a walk."""
    predicted = way.log_probs.argmax(axis=2) == labels[:, None]
    own = np.take_along_axis(way.log_probs, labels[:, None, None].astype(int), axis=2)[..., 0]
    ends = way.points[:, -1]
    outside = np.maximum(np.maximum(-ends, ends - 1), 0).reshape(len(ends), -1)
    return {
        "label kept": predicted[:, -1],
        "kept all along": predicted.all(axis=1),
        "p(label)": np.exp(own[:, -1]),
        "FR length": fisher_rao_lengths(way.log_probs)[:, -1],
        "walked": way.walked[:, -1],
        "moved": way.moved,
        "stalled": way.stalled,
        "out of range": np.mean(outside > _VISIBLE, axis=1),
        "furthest": outside.max(axis=1),
        "to training": nearest(ends, training)[1],
    }


def _row(name: str, summary: dict[str, np.ndarray]) -> Row:
    """Shares and medians."""
    return {"way": name} | {
        key: float(np.mean(value) if key in _SHARES else np.median(value)) for key, value in summary.items()
    }


def run(
    task: Task,
    log_prob: Partial,
    settings: Settings = Settings(),  # noqa: B008
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """Walk from test images along their leaves and look at labels and pixels on the way.

    Args:
        task: Data and network.
        log_prob: The trained classifier.
        settings: What to run.
        seed: Of the choice of images and directions.
        progress: Called with walks done and all of them.

    Returns:
        Label, length and pixels by kind of walk.

    Raises:
        ValueError: A setting is out of range, or too few images are classified as labelled.
    """
    sources, labels, destinations, training = _starts(task, log_prob, settings, seed)
    directions = np.random.default_rng([seed, 1]).standard_normal(sources.shape).astype(np.float32)
    steps = Steps(settings.step_size, settings.max_steps, settings.save_every, settings.stationarity)
    ways = walks(
        log_prob,
        sources,
        labels,
        destinations,
        directions,
        steps,
        block=settings.block,
        progress=progress,
    )
    start = ways[CLASS]
    still = Way(start.points[:, :1], start.log_probs[:, :1], start.walked[:, :1], start.drift, start.stalled)
    still = still._replace(stalled=np.zeros(len(labels), bool))
    summaries = {
        name: _summary(way, labels, training) for name, way in ({"test images": still} | ways).items()
    }
    curves = {name: _curves(way, labels) for name, way in ways.items()}
    rest = norms(destinations - ways[CLASS].points[:, -1]) / norms(destinations - sources)
    return Outcome(
        f"{len(sources)} walks of each kind from test images of {task.name}: shares and medians at the ends",
        [_row(name, summary) for name, summary in summaries.items()],
        {
            "labels": labels,
            "ends": summaries,
            "rest_of_the_way": rest,
            "drift": {name: way.drift for name, way in ways.items() if name in (CLASS, RANDOM)},
            "curves": curves,
        },
        {
            "leaf_generate": _grid(task, settings, ways, labels, destinations),
            "leaf_generate_curves": _curve_figure(task, settings, curves),
        },
        _notes(settings, ways, summaries, rest),
    )


def _curves(way: Way, labels: Int[np.ndarray, "n"]) -> dict[str, np.ndarray]:
    """Along the way: share of walks with the label, mean probability of it, median length."""
    own = np.take_along_axis(way.log_probs, labels[:, None, None].astype(int), axis=2)[..., 0]
    return {
        "label kept": np.mean(way.log_probs.argmax(axis=2) == labels[:, None], axis=0),
        "p of the label": np.exp(own).mean(axis=0),
        "Fisher-Rao length": np.median(fisher_rao_lengths(way.log_probs), axis=0),
    }


def _notes(
    settings: Settings, ways: dict[str, Way], summaries: dict[str, dict[str, np.ndarray]], rest: np.ndarray
) -> list[str]:
    drift = [
        f"{way.drift.sum():.2g} of {way.walked[:, -1].sum():.3g} ({name})"
        for name, way in ways.items()
        if name in (CLASS, RANDOM)
    ]
    near = np.median(summaries["test images"]["to training"])
    return [
        f"Up to {settings.max_steps} steps of {settings.step_size:g}, without a clip, until the horizontal "
        f"share of the aim is {settings.stationarity:g} (stalled). Towards the same class "
        f"{np.median(rest):.0%} of the way is left (median). A line moves as far as the walk above it.",
        "Shares: label kept, kept all along, stalled, out of range (pixels outside of [0, 1] by a grey "
        "level). Medians: all others. walked, moved (start to end), furthest (pixel out of range) and to "
        "training (nearest training image, a rough measure of realism) are Euclidean, pixels from 0 to 1.",
        f"Drift off the leaf, of what was walked: {'; '.join(drift)}.",
        f"Test images are {near:.2f} from their nearest training image (median). FR length: of the outputs 2 "
        "sqrt(p) at the saved points; from one certain class to another it is at least pi.",
    ]


def _grid(
    task: Task, settings: Settings, ways: dict[str, Way], labels: Int[np.ndarray, "n"], destinations: Images
) -> Figure:
    """Frames of some walks, the end of the straight line, and what has changed."""
    saved = ways[CLASS].points.shape[1]
    frames = np.round(np.arange(4) / 3 * (saved - 1)).astype(int)
    names = task.train.names
    images, captions, rows = [], [], []
    for k in range(min(settings.shown, len(labels))):
        for leaf, line, kind in _ROWS:
            way, other = ways[leaf], ways.get(line)
            last = destinations[k] if leaf == CLASS else None
            change = way.points[k, -1] - way.points[k, 0]
            straight = None if other is None else other.points[k, -1]
            images.append([*way.points[k, frames], change, straight, last])
            said = [_said(way, k, frame, names) for frame in frames]
            beside = "" if other is None else _said(other, k, -1, names)
            captions.append([*said, f"norm {way.moved[k]:.2f}", beside, ""])
            rows.append(f"{names[labels[k]]}: {kind}")
    columns = ["test image", "1/3", "2/3", "end of walk", "end - start", "straight,\nas far", "destination"]
    title = f"Horizontal walks on {task.name} (same class, random, random with label kept)\n"
    title += "below: predicted class and its probability"
    return image_grid(
        title, images, rows=rows, columns=columns, captions=captions, differences=(4,), size=1.3
    )


def _said(way: Way, k: int, frame: int, names: tuple[str, ...]) -> str:
    log_p = way.log_probs[k, frame]
    return f"{names[int(log_p.argmax())]}, p = {np.exp(log_p.max()):.3f}"


def _curve_figure(task: Task, settings: Settings, curves: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Label, confidence and Fisher-Rao length along the way."""
    figure = new_figure(13.0, 4.4, f"Walks on {task.name} from {settings.images} test images")
    panels = np.atleast_1d(figure.subplots(1, 3))
    words = (
        "share with the label of the source",
        "mean probability of that label",
        "Fisher-Rao length, median",
    )
    for axes, key, word in zip(
        panels, ("label kept", "p of the label", "Fisher-Rao length"), words, strict=True
    ):
        for k, (name, curve) in enumerate(curves.items()):
            style = "-" if name in (CLASS, RANDOM, KEPT) else "--"
            steps = np.linspace(0, settings.max_steps, len(curve[key]))
            axes.plot(steps, curve[key], style, color=PALETTE[k], lw=1.8, label=name)
        axes.set_xlabel(f"step of {settings.step_size:g}; lines in as many equal parts")
        axes.set_ylabel(word)
        axes.grid(alpha=0.3)
        if key != "Fisher-Rao length":
            axes.set_ylim(-0.03, 1.03)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=9)
    return figure
