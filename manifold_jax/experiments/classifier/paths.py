"""Horizontal paths between images: of other classes, to letters, from and to noise.

Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022) connect any two images of the data along a leaf with
steps of 0.1 in normalised pixels, call an end within distance 1 connected, and their code clamps the pixels
to [0, 1] after every step. Here every combination says which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from manifold_jax.experiments.classifier.task import (
    Task,
    Trial,
    checkpoints,
    different_pairs,
    log_prob_at,
    read_images,
)
from manifold_jax.experiments.classifier.walks import (
    PAPER,
    STRIP,
    How,
    add_noise,
    record,
    steps_axis,
    strip,
    summary,
    walk,
)
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.information import Path as LeafPath
from manifold_jax.models import pixels
from manifold_jax.plotting.images import Curves, curve_panels, image_grid

VARIANTS = (
    PAPER,
    PAPER._replace(clip=False),
    PAPER._replace(step_size=0.02),
    PAPER._replace(step_size=0.02, clip=False),
    PAPER._replace(step="controlled", clip=False),
)
_SHOWN = 4


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


class _Cell(NamedTuple):
    """Paths of one kind."""

    name: str
    how: How
    path: LeafPath
    destinations: Any


def _cells(
    log_prob: Any,
    kinds: dict[str, tuple[Array, Array]],
    hows: Sequence[How],
    trial: Trial,
) -> list[_Cell]:
    """All kinds of pairs, walked in all ways."""
    found = []
    total = len(kinds) * len(hows)
    for name, (sources, destinations) in kinds.items():
        for how in hows:
            stage = trial.stage(len(found), total)
            path = walk(log_prob, sources, destinations, how, trial.task.std, stage)
            found.append(_Cell(name, how, path, np.asarray(destinations)))
    return found


def _outcome(title: str, stem: str, cells: Sequence[_Cell], task: Task, notes: Sequence[str]) -> Outcome:
    """Table, curves and image strips of a list of cells."""
    several = len({cell.name for cell in cells}) > 1
    rows = [
        ({"paths": cell.name} if several else {}) | summary(cell.path, cell.how, task.std) for cell in cells
    ]
    groups = []
    for cell in cells:
        distances = np.asarray(cell.path.distances)
        start = distances[:, :1]
        label = f"{cell.name}\n{cell.how.words()}" if several else cell.how.words()
        marks = {"counts as reached": float(np.median(cell.how.tolerance * task.std / start))}
        x = steps_axis(cell.how, distances.shape[1])
        groups.append(Curves(label, x, distances / start, marks))
    curves = curve_panels(
        title, groups, "step", "distance to the destination\n/ at the start", ylim=(0, 1.25), columns=2
    )
    strips, captions, names = [], [], []
    first = [cells[k] for k in range(len(cells)) if k == 0 or cells[k].name != cells[k - 1].name]
    shown = first if several else [first[0]] * _SHOWN
    for k, cell in enumerate(shown):
        index = 0 if several else k
        if index < len(cell.destinations):
            found = strip(cell.path, index, cell.destinations[index], task.test.names, task.std)
            strips.append(found[0])
            captions.append(found[1])
            names.append(cell.name if several else f"pair {k + 1}")
    about = f"{title}\n{first[0].how.words()}; d: distance to the destination, normalised pixels"
    grid = image_grid(about, strips, rows=names, columns=STRIP, captions=captions)
    figures = {f"{stem}_curves": curves, f"{stem}_images": grid}
    data = {f"{cell.name}: {cell.how.words()}": record(cell.path, cell.how, task.std) for cell in cells}
    return Outcome(title, rows, data, figures, notes)


def between_classes(trial: Trial, settings: Settings) -> Outcome:
    """Paths between test images of different classes, at one checkpoint, with and without the clamp.

    Args:
        trial: The network.
        settings: Size.

    Returns:
        The outcome.
    """
    log_prob = trial.log_prob
    sources, destinations, *_ = different_pairs(trial.task.test, settings.pairs, trial.seed)
    hows = [how._replace(max_steps=settings.max_steps) for how in VARIANTS[: settings.ways]]
    cells = _cells(log_prob, {"other class": (sources, destinations)}, hows, trial)
    title = f"{trial.words}: horizontal paths between test images of different classes"
    return _outcome(title, "paths", cells, trial.task, [_NOTE])


def sweep(trial: Trial, settings: Settings) -> Outcome:
    """The same at every checkpoint up to ``step``, with the paper's step, with and without the clamp.

    Args:
        trial: The network.
        settings: Size.

    Returns:
        The outcome.
    """
    sources, destinations, *_ = different_pairs(trial.task.test, settings.pairs, trial.seed)
    found = [k for k in checkpoints(trial.folder, trial.step) if k in (0, trial.step) or k in _SWEPT]
    hows = [how._replace(max_steps=settings.max_steps) for how in VARIANTS[: settings.ways]]
    rows, data, curves = [], {}, {how.words(): [] for how in hows}
    for count, at in enumerate(found):
        log_prob = log_prob_at(trial.task, trial.folder, at)
        cells = _cells(
            log_prob, {"other class": (sources, destinations)}, hows, trial._replace(progress=None)
        )
        for cell in cells:
            rows.append({"checkpoint": at} | summary(cell.path, cell.how, trial.task.std))
            data[f"{at}: {cell.how.words()}"] = record(cell.path, cell.how, trial.task.std)
            ends = np.asarray(cell.path.distances)
            curves[cell.how.words()].append(ends[:, -1] / ends[:, 0])
        trial.stage(count, len(found))(1, 1)
    title = f"{trial.task.name}: where horizontal paths end, over the training"
    groups = [Curves(words, np.array(found), np.array(ends).T, {}) for words, ends in curves.items()]
    y_label = "final distance\n/ initial distance"
    figure = curve_panels(title, groups, "training step", y_label, ylim=(0, 1.05))
    for axes in figure.axes:
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(left=0)
    return Outcome(title, rows, data, {"sweep": figure}, [_NOTE])


_SWEPT = (10, 100, 300, 1000, 3000, 10_000, 20_000, 30_000)
_NOTE = (
    "Distances in normalised pixels; 'reached' is the share within distance 1, 'horizontal' the share of "
    "the rest of the way that still lies in the distribution where the path ended, 'drift' the estimated "
    "distance off the leaf. Clamping leaves the leaf as well."
)


def to_other_symbols(trial: Trial, settings: Settings, *, letters: Path | None = None) -> Outcome:
    """Paths from digits to symbols that the network never saw: letters, and mirrored digits.

    Args:
        trial: The network.
        settings: Size.
        letters: An ``.npz`` file with ``images``, such as Omniglot's; without it only mirrored digits.

    Returns:
        The outcome.
    """
    log_prob = trial.log_prob
    sources, others, *_ = different_pairs(trial.task.test, settings.pairs, trial.seed)
    kinds = {"other class": (sources, others), "mirrored": (sources, others[:, :, ::-1])}
    notes = [_NOTE]
    if letters is None:
        notes.append("No letters: give their file with --letters.")
    else:
        images = read_images(letters, trial.task.test.images.shape[1:])
        rows = np.random.default_rng(trial.seed).permutation(len(images))[: len(sources)]
        kinds["letter"] = (sources[: len(rows)], pixels(images[rows]))
    hows = [how._replace(max_steps=settings.max_steps) for how in VARIANTS[: settings.ways]]
    cells = _cells(log_prob, kinds, hows, trial)
    title = f"{trial.words}: horizontal paths to symbols that are not in the data"
    return _outcome(title, "letters", cells, trial.task, notes)


def from_noise(trial: Trial, settings: Settings) -> Outcome:
    """Paths from a noisy leaf to a valid image and back, and between two images of one level of noise.

    The noise is a walk across the leaves, 250 steps of 0.1 in the paper, which finds the way back to a valid
    image impossible within 10 000 steps.

    Args:
        trial: The network.
        settings: Size.

    Returns:
        The outcome.
    """
    log_prob = trial.log_prob
    sources, others, *_ = different_pairs(trial.task.test, settings.pairs, trial.seed)
    noise = PAPER._replace(max_steps=settings.noise_steps)
    keys = jax.random.split(jax.random.key(trial.seed))
    walks = [
        add_noise(log_prob, images, k, noise, trial.task.std)
        for images, k in zip((sources, others), keys, strict=True)
    ]
    noisy, other_noisy = (np.asarray(found.points)[:, -1] for found in walks)
    kinds = {
        "noisy to valid": (noisy, others),
        "noisy to its own image": (noisy, sources),
        "valid to noisy": (sources, other_noisy),
        "noisy to noisy": (noisy, other_noisy),
    }
    hows = [how._replace(max_steps=settings.max_steps) for how in VARIANTS[: settings.ways]]
    cells = _cells(log_prob, kinds, hows, trial)
    level = float(np.median(np.concatenate([found.distances[:, -1] for found in walks]))) / trial.task.std
    title = f"{trial.words}: horizontal paths from and to noise (level {level:.1f})"
    return _outcome(title, "noisy", cells, trial.task, [_NOTE])
