"""Horizontal paths between images: of other classes, to letters, from and to noise.

Grementieri & Fioresi connect any two images of the data along a leaf with steps of 0.1 in normalised grey
levels, call an end within distance 1 connected, and their code clamps the pixels to [0, 1] after every step.
Here every result says which of these it used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array

from manifold_jax._files import Progress, silent
from manifold_jax.experiments.classifier.task import Task, Trial, different_pairs, read_images, stage
from manifold_jax.experiments.classifier.walks import (
    PathOptions,
    Walks,
    animate,
    confidence,
    name_classes,
    walk_all,
)
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.information import PathStatus, horizontal_path, vertical_walk
from manifold_jax.models import pixels
from manifold_jax.plotting.animation import Moving
from manifold_jax.plotting.images import Curves, curve_panels, image_grid

VARIANTS = tuple(PathOptions(step_size, clip=clip) for step_size in (0.1, 0.02) for clip in (True, False))
VARIANTS += (PathOptions(step="controlled", clip=False),)
STRIP = ("source", "1/6", "1/3", "1/2", "2/3", "5/6", "end", "destination")
"""Columns of an image strip: the share of the steps."""

_SAVED = 50
_SHOWN = 4
_SWEPT = (0, 10, 100, 300, 1000, 3000, 10_000, 20_000, 30_000)
_NOTE = (
    "Distances in normalised grey levels; 'reached' is the share within distance 1, 'horizontal' the share "
    "of the rest of the way that still lies in the distribution where the path ended, 'drift' the estimated "
    "distance off the leaf. Clamping leaves the leaf as well."
)


class Settings(NamedTuple):
    """Size of the experiments with paths, by default as in the paper."""

    pairs: int = 100  # pairs of images for each checkpoint or kind
    max_steps: int = 5000  # most steps; from noise 10 000
    noise_steps: int = 250  # steps of the walk that makes the noise
    ways: int = 5  # of VARIANTS: the paper's, without the clamp, both with small steps, with error control


REDUCED = Settings(pairs=10, max_steps=1000)

Kinds = dict[str, tuple[Any, Any]]  # name of a kind of pairs to sources and destinations


def _with_steps(options: PathOptions, max_steps: int, task: Task) -> PathOptions:
    """So many steps, in units of the task's normalised grey levels."""
    every = max(1, max_steps // _SAVED)
    return options._replace(max_steps=max_steps, save_every=every, unit=task.std)


def _draw_pairs(trial: Trial, count: int) -> tuple[Array, Array]:
    """Test images of different classes: sources and destinations."""
    test = trial.task.test
    sources, destinations = different_pairs(test.labels, count, trial.seed)
    return pixels(test.images[sources]), pixels(test.images[destinations])


def _walk_kinds(
    trial: Trial, log_prob: Partial, kinds: Kinds, settings: Settings, progress: Progress = silent
) -> Iterator[Walks]:
    """Walk between all kinds of pairs, in all ways."""
    cells = [(kind, options) for kind in kinds for options in VARIANTS[: settings.ways]]
    for k, (kind, variant) in enumerate(cells):
        options = _with_steps(variant, settings.max_steps, trial.task)
        tell = stage(progress, k, len(cells))
        path = walk_all(horizontal_path, log_prob, kinds[kind], options, tell, **trial.how)
        yield Walks(path, options, kind, np.asarray(kinds[kind][1]))


def summarize(walks: Walks) -> Row:
    """Shares and medians of walks, a row of the table; lengths in normalised units."""
    path, options = walks.path, walks.options
    start, end = walks.distances[:, 0], walks.distances[:, -1]
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
        "length": float(np.median(path.length)) / options.unit,
        "drift/length": float(np.median(path.drift / np.maximum(path.length, 1e-12))),
        "confidence min": float(np.median(confidence(path.log_probs).min(1))),
    }


def _strip(walks: Walks, k: int, names: Sequence[str]) -> tuple[list[Any], list[str]]:
    """Images along one path and last its destination; class and distance of each."""
    path = walks.path
    slots = np.linspace(0, path.points.shape[1] - 1, len(STRIP) - 1).astype(int)
    classes = name_classes(path.log_probs[k, slots], names)
    captions = [f"{name}\nd = {d:.1f}" for name, d in zip(classes, walks.distances[k, slots], strict=True)]
    return [*path.points[k, slots], walks.destinations[k]], [*captions, ""]


def _move(title: str, sets: Sequence[Walks], names: Sequence[str]) -> Moving:
    """The paths of the strips, as they move."""
    first = [walks for walks in sets if walks.options == sets[0].options]
    kinds = [walks.kind for walks in first]
    if len(first) == 1:
        kinds = [f"pair {k + 1}" for k in range(min(_SHOWN, len(first[0].destinations)))]
    about = f"{sets[0].caption}; d: distance to the destination, normalised grey levels"
    return animate(f"{title}\n{about}", first, names, kinds)


def _draw_strips(title: str, sets: Sequence[Walks], names: Sequence[str]) -> Any:
    """The first path of every kind, or the first few of a single kind, as the first variant walks them."""
    first = [walks for walks in sets if walks.options == sets[0].options]
    if len(first) == 1:
        count = min(_SHOWN, len(first[0].destinations))
        rows = {f"pair {k + 1}": _strip(first[0], k, names) for k in range(count)}
    else:
        rows = {walks.kind: _strip(walks, 0, names) for walks in first}
    images, captions = zip(*rows.values(), strict=True)
    title = f"{title}\n{sets[0].caption}; d: distance to the destination, normalised grey levels"
    return image_grid(title, images, rows=list(rows), columns=STRIP, captions=captions)


def _panel(walks: Walks, label: str) -> Curves:
    """Distance to the destination along all paths, as a share of that at the start."""
    start = walks.distances[:, :1]
    marks = {"counts as reached": float(np.median(walks.options.tolerance / start))}
    return Curves(label, walks.steps, walks.distances / start, marks)


def _compare(
    trial: Trial, kinds: Kinds, settings: Settings, progress: Any, stem: str, about: str, *notes: str
) -> Outcome:
    """Walk between all kinds of pairs at one checkpoint: table, curves and image strips."""
    sets = list(_walk_kinds(trial, trial.log_prob, kinds, settings, progress))
    title, several = f"{trial.title}: horizontal paths {about}", len(kinds) > 1
    rows = [({"paths": walks.kind} if several else {}) | summarize(walks) for walks in sets]
    groups = [_panel(walks, f"{walks.kind}\n{walks.caption}" if several else walks.caption) for walks in sets]
    y_label = "distance to the destination\n/ at the start"
    figures = {
        f"{stem}_curves": curve_panels(title, groups, "step", y_label, ylim=(0, 1.25), columns=2),
        f"{stem}_images": _draw_strips(title, sets, trial.task.test.names),
    }
    data = {f"{walks.kind}: {walks.caption}": walks.record() for walks in sets}
    moving = {f"{stem}_moving": _move(title, sets, trial.task.test.names)}
    firsts = {walks.kind: row for walks, row in zip(reversed(sets), reversed(rows), strict=True)}
    words = [f"{f'{kind}: ' if several else ''}{_in_short(firsts[kind])}" for kind in kinds]
    return Outcome(
        title, rows, data, figures, [_NOTE, *notes], moving=moving, headline=f"{'; '.join(words)}."
    )


def _in_short(row: Row) -> str:
    """What became of paths, in words."""
    reached = round(row["reached"] * row["pairs"])
    left = f"{row['ratio']:.0%} of the distance is left (best {row['best ratio']:.0%})"
    return f"{reached} of {row['pairs']} paths arrive, {left}"


def between_classes(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """Paths between test images of different classes, at one checkpoint, with and without the clamp."""
    kinds = {"other class": _draw_pairs(trial, settings.pairs)}
    return _compare(trial, kinds, settings, progress, "paths", "between test images of different classes")


def sweep(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """The same at every checkpoint up to ``step``, with the paper's step, with and without the clamp."""
    kinds = {"other class": _draw_pairs(trial, settings.pairs)}
    steps = [step for step in trial.checkpoints if step == trial.step or step in _SWEPT]
    rows, data, ends = [], {}, {}
    for k, step in enumerate(steps):
        for walks in _walk_kinds(trial, trial.log_prob_at(step), kinds, settings):
            rows.append({"checkpoint": step} | summarize(walks))
            data[f"{step}: {walks.caption}"] = walks.record()
            ends.setdefault(walks.caption, []).append(walks.distances[:, -1] / walks.distances[:, 0])
        stage(progress, k, len(steps))(1, 1)
    title = f"{trial.task.name}: where horizontal paths end, over the training"
    groups = [Curves(caption, np.array(steps), np.array(ratio).T, {}) for caption, ratio in ends.items()]
    y_label = "final distance\n/ initial distance"
    figure = curve_panels(title, groups, "training step", y_label, ylim=(0, 1.05))
    for axes in figure.axes:
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(left=0)
    first, last = rows[0], next(row for row in rows if row["checkpoint"] == steps[-1])
    headline = f"Step {steps[0]}: {_in_short(first)}; step {steps[-1]}: {_in_short(last)}."
    return Outcome(title, rows, data, {"sweep": figure}, [_NOTE], headline=headline)


def to_other_symbols(
    trial: Trial, settings: Settings, progress: Progress = silent, *, letters: Path | None = None
) -> Outcome:
    """Paths from digits to symbols that the network never saw: mirrored digits, and letters if given."""
    sources, others = _draw_pairs(trial, settings.pairs)
    kinds, notes = {"other class": (sources, others), "mirrored": (sources, others[:, :, ::-1])}, []
    if letters is None:
        notes = ["No letters: give their file with --letters."]
    else:
        images = read_images(letters, trial.task.test.images.shape[1:])
        rows = np.random.default_rng(trial.seed).permutation(len(images))[: len(sources)]
        kinds["letter"] = (sources[: len(rows)], pixels(images[rows]))
    about = "to symbols that are not in the data"
    return _compare(trial, kinds, settings, progress, "letters", about, *notes)


def add_noise(trial: Trial, images: Array, key: Array, steps: int = Settings().noise_steps) -> Walks:
    """Walks across the leaves in random directions, clamped: the noise of the paper."""
    options = _with_steps(VARIANTS[0], steps, trial.task)
    directions = jax.random.normal(key, images.shape, images.dtype)
    ends = images, directions
    return Walks(walk_all(vertical_walk, trial.log_prob, ends, options, **trial.how), options)


def from_noise(trial: Trial, settings: Settings, progress: Progress = silent) -> Outcome:
    """Paths from a noisy leaf to a valid image and back, and between two images of one level of noise.

    The noise is a walk across the leaves; the paper finds no way back within 10 000 steps.
    """
    sources, others = _draw_pairs(trial, settings.pairs)
    keys = jax.random.split(jax.random.key(trial.seed))
    noise = [
        add_noise(trial, *ends, settings.noise_steps) for ends in zip((sources, others), keys, strict=True)
    ]
    level = float(np.median(np.concatenate([walks.distances[:, -1] for walks in noise])))
    noisy, other_noisy = (walks.path.point for walks in noise)
    kinds = {
        "noisy to valid": (noisy, others),
        "noisy to its own image": (noisy, sources),
        "valid to noisy": (sources, other_noisy),
        "noisy to noisy": (noisy, other_noisy),
    }
    return _compare(trial, kinds, settings, progress, "noisy", f"from and to noise (level {level:.1f})")
