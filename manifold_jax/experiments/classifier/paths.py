"""Horizontal paths between images: of other classes, to letters, from and to noise.

Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022) connect any two images of the data along a leaf with
steps of 0.1 in normalised pixels, call an end within distance 1 connected, and their code clamps the pixels
to [0, 1] after every step. Here every combination says which it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from manifold_jax._files import Progress
from manifold_jax.experiments.classifier.task import Task, Trial, different_pairs, read_images, stage
from manifold_jax.experiments.classifier.walks import (
    PathOptions,
    confidence,
    name_class,
    record,
    walk_all,
)
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.information import Path as LeafPath
from manifold_jax.information import PathStatus, horizontal_path, vertical_walk
from manifold_jax.models import pixels
from manifold_jax.plotting.images import Curves, curve_panels, image_grid

_PAPER = PathOptions()
VARIANTS = (
    _PAPER,
    _PAPER._replace(clip=False),
    _PAPER._replace(step_size=0.02),
    _PAPER._replace(step_size=0.02, clip=False),
    _PAPER._replace(step="controlled", clip=False),
)
STRIP = ("source", "1/6", "1/3", "1/2", "2/3", "5/6", "end", "destination")
"""Columns of an image strip: how much of the steps is made."""

_SAVED = 50
_SHOWN = 4
_SWEPT = (0, 10, 100, 300, 1000, 3000, 10_000, 20_000, 30_000)
_NOTE = (
    "Distances in normalised pixels; 'reached' is the share within distance 1, 'horizontal' the share of "
    "the rest of the way that still lies in the distribution where the path ended, 'drift' the estimated "
    "distance off the leaf. Clamping leaves the leaf as well."
)


class Settings(NamedTuple):
    """Size of the experiments with paths.

    Attributes:
        pairs: Pairs of images, a checkpoint or a kind.
        max_steps: Most steps; 5000 in the paper, from noise 10 000.
        noise_steps: Steps of the walk that makes the noise, 250 in the paper.
        ways: How many of ``VARIANTS``: the paper's, without the clamp, both with small steps, with error
            control.
    """

    pairs: int = 100
    max_steps: int = 5000
    noise_steps: int = 250
    ways: int = 5


REDUCED = Settings(pairs=10, max_steps=1000)


class PathSet(NamedTuple):
    """Paths of one kind, an axis of pairs first, how they went and where they should go."""

    kind: str
    options: PathOptions
    path: LeafPath
    destinations: np.ndarray

    @property
    def distances(self) -> Float[Any, "pairs saved"]:
        """Distance to the destination in normalised units, at every saved point."""
        return self.path.distances / self.options.unit


def _with_steps(options: PathOptions, max_steps: int, task: Task) -> PathOptions:
    """So many steps, in units of the task's normalised pixels."""
    every = max(1, max_steps // _SAVED)
    return options._replace(max_steps=max_steps, save_every=every, unit=task.std)


def _images(trial: Trial, count: int) -> tuple[Array, Array]:
    """Test images of different classes: sources and destinations."""
    test = trial.task.test
    sources, destinations = different_pairs(test.labels, count, trial.seed)
    return pixels(test.images[sources]), pixels(test.images[destinations])


def _walk_kinds(
    trial: Trial,
    log_prob: Partial,
    kinds: dict[str, tuple[Any, Any]],
    settings: Settings,
    progress: Progress | None = None,
) -> Iterator[PathSet]:
    """Walk between all kinds of pairs, in all ways."""
    cells = [(kind, options) for kind in kinds for options in VARIANTS[: settings.ways]]
    for k, (kind, variant) in enumerate(cells):
        options = _with_steps(variant, settings.max_steps, trial.task)
        path = walk_all(horizontal_path, log_prob, kinds[kind], options, stage(progress, k, len(cells)))
        yield PathSet(kind, options, path, np.asarray(kinds[kind][1]))


def summarize(paths: PathSet) -> Row:
    """Shares and medians of a set of paths, a row of the table; lengths in normalised units."""
    path, options, unit = paths.path, paths.options, paths.options.unit
    start, end = paths.distances[:, 0], paths.distances[:, -1]
    return {
        "step": options.step_size,
        "kind": options.step,
        "clamp": options.clip,
        "pairs": len(end),
        "reached": float(np.mean(path.converged)),
        "distance before": float(np.median(start)),
        "after": float(np.median(end)),
        "ratio": float(np.median(end / start)),
        "best ratio": float(np.min(end / start)),
        "stalled": float(np.mean(path.status == PathStatus.STALLED)),
        "horizontal": float(np.median(path.horizontal)),
        "steps": float(np.median(path.steps)),
        "length": float(np.median(path.length)) / unit,
        "drift/length": float(np.median(path.drift / np.maximum(path.length, 1e-12))),
        "confidence min": float(np.median(confidence(path.log_probs).min(1))),
    }


# --- figures -----------------------------------------------------------------------------------------------


def _strip(paths: PathSet, k: int, names: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Images along one path and last its destination; class and distance of each."""
    slots = np.linspace(0, paths.path.points.shape[1] - 1, len(STRIP) - 1).astype(int)
    captions = [
        f"{name_class(log_p, names)}\nd = {distance:.1f}"
        for log_p, distance in zip(paths.path.log_probs[k, slots], paths.distances[k, slots], strict=True)
    ]
    return [*paths.path.points[k, slots], paths.destinations[k]], [*captions, ""]


def _draw_strips(title: str, sets: Sequence[PathSet], names: Sequence[str]) -> Any:
    """The first path of every kind, or the first few of a single kind, as the first variant walks them."""
    first = [paths for paths in sets if paths.options == sets[0].options]
    if len(first) == 1:
        count = min(_SHOWN, len(first[0].destinations))
        rows = {f"pair {k + 1}": _strip(first[0], k, names) for k in range(count)}
    else:
        rows = {paths.kind: _strip(paths, 0, names) for paths in first}
    images, captions = zip(*rows.values(), strict=True)
    title = f"{title}\n{sets[0].options.caption}; d: distance to the destination, normalised pixels"
    return image_grid(title, images, rows=list(rows), columns=STRIP, captions=captions)


def _draw_distances(title: str, sets: Sequence[PathSet], labels: Sequence[str]) -> Any:
    """Distance to the destination along all paths, a panel for each set."""
    groups = []
    for label, paths in zip(labels, sets, strict=True):
        start = paths.distances[:, :1]
        marks = {"counts as reached": float(np.median(paths.options.tolerance / start))}
        steps = paths.options.steps_at(paths.distances.shape[1])
        groups.append(Curves(label, steps, paths.distances / start, marks))
    y_label = "distance to the destination\n/ at the start"
    return curve_panels(title, groups, "step", y_label, ylim=(0, 1.25), columns=2)


# --- experiments -------------------------------------------------------------------------------------------


def _outcome(title: str, stem: str, sets: Sequence[PathSet], task: Task, notes: Sequence[str]) -> Outcome:
    """Table, curves and image strips of sets of paths."""
    several = len({paths.kind for paths in sets}) > 1
    rows = [({"paths": paths.kind} if several else {}) | summarize(paths) for paths in sets]
    labels = [
        f"{paths.kind}\n{paths.options.caption}" if several else paths.options.caption for paths in sets
    ]
    figures = {
        f"{stem}_curves": _draw_distances(title, sets, labels),
        f"{stem}_images": _draw_strips(title, sets, task.test.names),
    }
    data = {f"{paths.kind}: {paths.options.caption}": record(paths.path, paths.options) for paths in sets}
    return Outcome(title, rows, data, figures, notes)


def between_classes(trial: Trial, settings: Settings, progress: Progress | None = None) -> Outcome:
    """Paths between test images of different classes, at one checkpoint, with and without the clamp."""
    kinds = {"other class": _images(trial, settings.pairs)}
    sets = list(_walk_kinds(trial, trial.log_prob, kinds, settings, progress))
    title = f"{trial.title}: horizontal paths between test images of different classes"
    return _outcome(title, "paths", sets, trial.task, [_NOTE])


def sweep(trial: Trial, settings: Settings, progress: Progress | None = None) -> Outcome:
    """The same at every checkpoint up to ``step``, with the paper's step, with and without the clamp."""
    kinds = {"other class": _images(trial, settings.pairs)}
    steps = [step for step in trial.checkpoints if step == trial.step or step in _SWEPT]
    rows, data, ends = [], {}, {}
    for k, step in enumerate(steps):
        for paths in _walk_kinds(trial, trial.log_prob_at(step), kinds, settings):
            caption = paths.options.caption
            rows.append({"checkpoint": step} | summarize(paths))
            data[f"{step}: {caption}"] = record(paths.path, paths.options)
            ends.setdefault(caption, []).append(paths.distances[:, -1] / paths.distances[:, 0])
        stage(progress, k, len(steps))(1, 1)
    title = f"{trial.task.name}: where horizontal paths end, over the training"
    groups = [Curves(caption, np.array(steps), np.array(ratio).T, {}) for caption, ratio in ends.items()]
    y_label = "final distance\n/ initial distance"
    figure = curve_panels(title, groups, "training step", y_label, ylim=(0, 1.05))
    for axes in figure.axes:
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(left=0)
    return Outcome(title, rows, data, {"sweep": figure}, [_NOTE])


def to_other_symbols(
    trial: Trial, settings: Settings, progress: Progress | None = None, *, letters: Path | None = None
) -> Outcome:
    """Paths from digits to symbols that the network never saw: mirrored digits, and letters if there are any.

    ``letters`` is an ``.npz`` file with ``images``, such as Omniglot's.
    """
    sources, others = _images(trial, settings.pairs)
    kinds = {"other class": (sources, others), "mirrored": (sources, others[:, :, ::-1])}
    notes = [_NOTE]
    if letters is None:
        notes.append("No letters: give their file with --letters.")
    else:
        images = read_images(letters, trial.task.test.images.shape[1:])
        rows = np.random.default_rng(trial.seed).permutation(len(images))[: len(sources)]
        kinds["letter"] = (sources[: len(rows)], pixels(images[rows]))
    sets = list(_walk_kinds(trial, trial.log_prob, kinds, settings, progress))
    title = f"{trial.title}: horizontal paths to symbols that are not in the data"
    return _outcome(title, "letters", sets, trial.task, notes)


def from_noise(trial: Trial, settings: Settings, progress: Progress | None = None) -> Outcome:
    """Paths from a noisy leaf to a valid image and back, and between two images of one level of noise.

    The noise is a walk across the leaves, 250 steps of 0.1 in the paper, which finds the way back to a valid
    image impossible within 10 000 steps.
    """
    log_prob, pair = trial.log_prob, _images(trial, settings.pairs)
    options = _with_steps(VARIANTS[0], settings.noise_steps, trial.task)
    noise = []
    for images, key in zip(pair, jax.random.split(jax.random.key(trial.seed)), strict=True):
        directions = jax.random.normal(key, images.shape, images.dtype)
        noise.append(walk_all(vertical_walk, log_prob, (images, directions), options))
    level = float(np.median(np.concatenate([walk.distances[:, -1] for walk in noise]))) / options.unit
    (sources, others), (noisy, other_noisy) = pair, (walk.points[:, -1] for walk in noise)
    kinds = {
        "noisy to valid": (noisy, others),
        "noisy to its own image": (noisy, sources),
        "valid to noisy": (sources, other_noisy),
        "noisy to noisy": (noisy, other_noisy),
    }
    sets = list(_walk_kinds(trial, log_prob, kinds, settings, progress))
    title = f"{trial.title}: horizontal paths from and to noise (level {level:.1f})"
    return _outcome(title, "noisy", sets, trial.task, [_NOTE])
