"""Images of the same label by walks along the leaf, next to straight lines of the same length.

From a test image one goes horizontally, towards another image of its class or along a random direction:
is the label kept, and do the ends look like data?
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Int

from manifold_jax._checks import whole
from manifold_jax._files import Progress, silent
from manifold_jax.datasets import LabelledImages
from manifold_jax.experiments.classifier import walks
from manifold_jax.experiments.classifier.baselines import nearest, require_classes, training_images
from manifold_jax.experiments.classifier.task import Images, Task, Trial, predictions, stage
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.information import Path, PathStatus, horizontal_path, label_keeping_walk
from manifold_jax.models import pixels
from manifold_jax.plotting.images import image_grid
from manifold_jax.plotting.style import PALETTE, new_figure

CLASS, CLASS_LINE = "leaf, same class", "line, same class"
RANDOM, RANDOM_LINE = "leaf, random", "line, random"
KEPT = "leaf, random, label kept"

_FAR = 1000.0
"""Distance of a destination that stands for a direction: the walk goes along the part of it in D_x."""

_VISIBLE = 1 / 255  # a grey level
_SHARES = ("label kept", "kept all along", "out of range", "stalled")
_GRID = ((CLASS, CLASS_LINE, "same class"), (RANDOM, RANDOM_LINE, "random"), (KEPT, "", "kept"))
_COLUMNS = ("test image", "1/3", "2/3", "end of walk", "end - start", "straight,\nas far", "destination")
_CURVES = {
    "label kept": "share with the label of the source",
    "p of the label": "mean probability of that label",
    "Fisher-Rao length": "Fisher-Rao length, median",
}


class Settings(NamedTuple):
    """What to run."""

    images: int = 200  # test images to start from, classified as labelled
    path: walks.PathOptions = walks.LEAF
    training: int = 60_000  # images among which destinations and nearest images are looked for
    shown: int = 4  # images in the figure


REDUCED = Settings(images=24, path=walks.LEAF_REDUCED, shown=3)


def check(settings: Settings) -> None:
    """Raise unless there are images and training images."""
    whole("generate", "images", settings.images)
    whole("generate", "training", settings.training)


class Starts(NamedTuple):
    """Where walks begin and lead to: other images of the same classes, and directions of any length."""

    sources: Images
    labels: Int[Any, "n"]
    destinations: Images
    directions: Images


def _starts(trial: Trial, settings: Settings) -> tuple[Starts, LabelledImages]:
    """Test images, others of their classes, and the training images those are among."""
    test, rng = trial.task.test, np.random.default_rng(trial.seed)
    # Most are classified as labelled, so that twice as many are enough to look at.
    rows = rng.permutation(len(test.labels))[: 2 * settings.images + 20]
    right = predictions(trial.log_prob, test.images[rows]) == test.labels[rows]
    if right.sum() < settings.images:
        known = f"only {right.sum()} of {len(right)} test images are classified as labelled"
        raise ValueError(f"{known}, {settings.images} are needed: take fewer, or train longer.")
    rows = rows[right][: settings.images]
    labels, data = test.labels[rows], trial.task.train
    training = training_images(data, rng.permutation(len(data.labels))[: settings.training])
    require_classes(labels, training)
    others = [rng.choice(np.flatnonzero(training.labels == label)) for label in labels]
    sources = np.asarray(pixels(test.images[rows]))
    directions = np.random.default_rng([trial.seed, 1]).standard_normal(sources.shape).astype(np.float32)
    return Starts(sources, labels, training.images[others], directions), training


def walk_all_kinds(
    log_prob: Partial,
    starts: Starts,
    options: walks.PathOptions,
    progress: Progress = silent,
    **how: Any,
) -> dict[str, Path]:
    """Horizontal walks to destinations and along directions, and straight ones that move as far, by kind.

    Other options are those of :func:`walk_all`.
    """
    sources, labels, destinations, directions = starts
    units = directions / walks.norms(directions).reshape(-1, *(1,) * (sources.ndim - 1))
    far = sources + np.float32(_FAR) * units
    tell = [stage(progress, k, 3) for k in range(3)]
    to_class, random = (
        walks.walk_all(horizontal_path, log_prob, (sources, ends), options, tell[k], **how)
        for k, ends in enumerate((destinations, far))
    )
    keeping = (sources, units, labels.astype(np.int32))
    return {
        CLASS: to_class,
        CLASS_LINE: walks.straighten(log_prob, to_class, destinations - sources),
        RANDOM: random,
        RANDOM_LINE: walks.straighten(log_prob, random, units),
        KEPT: walks.walk_all(label_keeping_walk, log_prob, keeping, options, tell[2], **how),
    }


def _measure(path: Path, labels: Int[Any, "n"], training: LabelledImages) -> tuple[Any, Any]:
    """Numbers of every walk at its end; curves along the walks: shares, means, medians over them."""
    kept, ends = path.log_probs.argmax(axis=2) == labels[:, None], path.points[:, -1]
    own = np.take_along_axis(np.asarray(path.log_probs), labels[:, None, None].astype(int), axis=2)
    probability, lengths = np.exp(own[..., 0]), walks.fisher_rao_lengths(path.log_probs)
    outside = np.maximum(np.maximum(-ends, ends - 1), 0).reshape(len(ends), -1)
    summary = {
        "label kept": kept[:, -1],
        "kept all along": kept.all(axis=1),
        "p(label)": probability[:, -1],
        "FR length": lengths[:, -1],
        "walked": walks.walked(path),
        "moved": walks.moved(path),
        "stalled": path.status == PathStatus.STALLED,
        "out of range": np.mean(outside > _VISIBLE, axis=1),
        "furthest": outside.max(axis=1),
        "to training": nearest(ends, training)[1],
    }
    curves = (kept.mean(axis=0), probability.mean(axis=0), np.median(lengths, axis=0))
    return summary, dict(zip(_CURVES, curves, strict=True))


def run(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """Walk from test images along their leaves and look at labels and grey levels on the way."""
    check(settings)
    task = trial.task
    starts, training = _starts(trial, settings)
    sources, labels, destinations, _ = starts
    paths = walk_all_kinds(trial.log_prob, starts, settings.path, progress, **trial.how)
    first = paths[CLASS]
    stopped = np.full_like(first.status, PathStatus.STEPS_USED)
    still = first._replace(points=first.points[:, :1], log_probs=first.log_probs[:, :1], status=stopped)
    kinds = {"test images": still} | paths
    measured = {name: _measure(path, labels, training) for name, path in kinds.items()}
    summaries = {name: summary for name, (summary, _) in measured.items()}
    curves = {name: measured[name][1] for name in paths}
    rows = [
        {"way": name}
        | {key: float((np.mean if key in _SHARES else np.median)(value)) for key, value in summary.items()}
        for name, summary in summaries.items()
    ]
    rest = walks.norms(destinations - first.point) / walks.norms(destinations - sources)
    data = {"labels": labels, "ends": summaries, "rest_of_the_way": rest, "curves": curves}
    data["drift"] = {name: paths[name].drift for name in (CLASS, RANDOM)}
    figures = {"leaf_generate": _draw_images(task, settings, paths, starts)}
    figures["leaf_generate_curves"] = _draw_curves(task, settings, curves)
    title = f"{len(rest)} walks of each kind from test images of {task.name}: shares and medians at the ends"
    kept = ", ".join(f"{row['label kept']:.0%} {row['way']}" for row in rows[1:])
    notes = _notes(settings.path, paths, summaries, rest)
    return Outcome(title, rows, data, figures, notes, headline=f"The label is kept: {kept}.")


def _notes(options: Any, paths: dict[str, Path], summaries: dict[str, Any], rest: Any) -> list[str]:
    """Sentences below the table."""
    drift = [
        f"{paths[name].drift.sum():.2g} of {summaries[name]['walked'].sum():.3g} ({name})"
        for name in (CLASS, RANDOM)
    ]
    near = np.median(summaries["test images"]["to training"])
    return [
        f"Up to {options.max_steps} steps of {options.step_size:g}, without a clip, until the horizontal "
        f"share of the rest of the way is {options.stationarity:g} (stalled). Towards the same class "
        f"{np.median(rest):.0%} of the way is left (median). A line moves as far as the walk above it.",
        "Shares: label kept, kept all along, stalled, out of range (pixels outside of [0, 1] by a grey "
        "level). Medians: all others. walked, moved (start to end), furthest (pixel out of range) and to "
        "training (nearest training image, which says roughly how real an image is) are Euclidean, grey "
        "levels from 0 to 1.",
        f"Drift off the leaf, of what was walked: {'; '.join(drift)}.",
        f"Test images are {near:.2f} from their nearest training image (median). FR length: of the outputs 2 "
        "sqrt(p), along chords between the saved points; the path itself, from one certain class to another, "
        "has at least pi.",
    ]


def _draw_images(task: Task, settings: Settings, paths: dict[str, Path], starts: Starts) -> Any:
    """Frames of some walks, the end of the straight line, and what has changed."""
    names = task.train.names
    images, captions, rows = [], [], []
    for k in range(min(settings.shown, len(starts.labels))):
        for leaf, line, kind in _GRID:
            points, log_probs = paths[leaf].points[k], paths[leaf].log_probs[k]
            frames = np.round(np.linspace(0, len(points) - 1, 4)).astype(int)
            last = starts.destinations[k] if leaf == CLASS else None
            straight, straight_caption = None, ""
            if line:
                straight = paths[line].points[k, -1]
                (straight_caption,) = walks.name_classes(paths[line].log_probs[k, -1:], names)
            images.append([*points[frames], points[-1] - points[0], straight, last])
            norm = f"norm {walks.moved(paths[leaf])[k]:.2f}"
            captions.append([*walks.name_classes(log_probs[frames], names), norm, straight_caption, ""])
            rows.append(f"{names[starts.labels[k]]}: {kind}")
    title = f"Horizontal walks on {task.name} (same class, random, random with label kept)\n"
    title += "below: predicted class and its probability"
    style = {"columns": _COLUMNS, "differences": (4,), "size": 1.3}
    return image_grid(title, images, rows=rows, captions=captions, **style)


def _draw_curves(task: Task, settings: Settings, curves: dict[str, dict[str, np.ndarray]]) -> Any:
    """Label, confidence and Fisher-Rao length along the walks."""
    figure = new_figure(13.0, 4.4, f"Walks on {task.name} from {settings.images} test images")
    panels = figure.subplots(1, len(_CURVES))
    for axes, (key, label) in zip(panels, _CURVES.items(), strict=True):
        for k, (name, curve) in enumerate(curves.items()):
            steps = np.linspace(0, settings.path.max_steps, len(curve[key]))
            style = "-" if name.startswith("leaf") else "--"
            axes.plot(steps, curve[key], style, color=PALETTE[k], lw=1.8, label=name)
        axes.set_xlabel(f"step of {settings.path.step_size:g}; lines in as many equal parts")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if key != "Fisher-Rao length":
            axes.set_ylim(-0.03, 1.03)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    return figure
