"""``manifold-jax leaf``: the manifold that a classifier sees, experiment by experiment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from manifold_jax.experiments.classifier import across as leaf_across
from manifold_jax.experiments.classifier import denoise as leaf_denoise
from manifold_jax.experiments.classifier import detect as leaf_detect
from manifold_jax.experiments.classifier import generate as leaf_generate
from manifold_jax.experiments.classifier import history as leaf_history
from manifold_jax.experiments.classifier import paths as leaf_paths
from manifold_jax.experiments.classifier import sprites as leaf_sprites
from manifold_jax.experiments.classifier.task import NAMES, Progress, Task, Trial, learn, read_images, task
from manifold_jax.experiments.experiment import (
    Experiment,
    Outcome,
    describe,
    given_options,
    preset_of,
    run_and_write,
    select,
    settings_for,
)
from manifold_jax.experiments.terminal import Out, Preset, Seed, plain_errors, progress_bar, results_folder

MARKS = (
    0,
    10,
    20,
    50,
    100,
    200,
    300,
    500,
    700,
    1000,
    1500,
    *range(2000, 10_001, 1000),
    *range(12_000, 30_001, 2000),
)
"""Steps after which a checkpoint is kept."""


def _use(run: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """An experiment on a classifier, as one on a trial."""

    def on_trial(trial: Trial, settings: Any, **options: Any) -> Outcome:
        return run(trial.task, trial.log_prob, settings, seed=trial.seed, progress=trial.progress, **options)

    return on_trial


_PATHS = (leaf_paths.Settings(), leaf_paths.REDUCED)
_BOTH = (_PATHS[0]._replace(ways=2), _PATHS[1]._replace(ways=2))
_FROM_NOISE = (_BOTH[0]._replace(max_steps=10_000), _BOTH[1]._replace(max_steps=2000))
_HISTORY = (leaf_history.Settings(), leaf_history.REDUCED)

EXPERIMENTS = {
    "rank": Experiment("rank of G and of the distribution, beside C - 1", *_HISTORY, leaf_history.rank_table),
    "history": Experiment(
        "trace and rank of G, trace of F, along the training", *_HISTORY, leaf_history.history
    ),
    "across": Experiment(
        "walks across the leaves", leaf_across.Settings(), leaf_across.REDUCED, leaf_across.run
    ),
    "paths": Experiment(
        "horizontal paths between images of different classes", *_PATHS, leaf_paths.between_classes
    ),
    "sweep": Experiment("the same over the checkpoints", *_BOTH, leaf_paths.sweep),
    "letters": Experiment(
        "horizontal paths to letters and mirrored digits",
        *_BOTH,
        leaf_paths.to_other_symbols,
        options=("letters",),
    ),
    "noisy": Experiment("horizontal paths from and to noise", *_FROM_NOISE, leaf_paths.from_noise),
    "denoise": Experiment(
        "denoising by projection on a leaf",
        leaf_denoise.Settings(),
        leaf_denoise.REDUCED,
        _use(leaf_denoise.run),
    ),
    "detect": Experiment(
        "out-of-distribution detection by the distance to a leaf",
        leaf_detect.Settings(),
        leaf_detect.REDUCED,
        _use(leaf_detect.run),
        options=("letters", "path"),
    ),
    "generate": Experiment(
        "images of the same label along a leaf",
        leaf_generate.Settings(),
        leaf_generate.REDUCED,
        _use(leaf_generate.run),
    ),
    "sprites": Experiment(
        "tangents of sprites beside the distribution; has a network of its own",
        leaf_sprites.Settings(),
        leaf_sprites.REDUCED,
        leaf_sprites.outcome,
    ),
}
_STEPS = {"full": 10_000, "reduced": 1000}
_HISTORY_STEPS = {"full": 30_000, "reduced": 1000}
_LONG = ("history", "sweep", "train")


def leaf_command(
    experiment: Annotated[
        str,
        typer.Argument(help=describe(EXPERIMENTS, train="only train")),
    ],
    data: Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")] = "digits",
    path: Annotated[
        Path | None, typer.Option(help="Folder of the data [default: MANIFOLD_JAX_DATA, else downloaded].")
    ] = None,
    letters: Annotated[Path | None, typer.Option(help="An .npz file with uint8 images of letters.")] = None,
    preset: Preset = "reduced",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps [default: 1000; full 10 000, histories 30 000]."),
    ] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Pairs of images.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Test images.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Most steps of a path.")] = None,
    ways: Annotated[
        int | None, typer.Option(min=1, max=5, help="Ways of walking, of paths: the paper's first.")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Channels of the first layer of the VGG11.")] = 16,
    init: Annotated[str, typer.Option(help="Initial weights: flax or torch (the paper's).")] = "flax",
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Look at the manifold that a classifier sees: train it, then run an experiment on its checkpoints.

    Interrupted and called again with the same --out, the training goes on where it was.
    """
    arguments = given_options(locals())
    with plain_errors():
        names = select(EXPERIMENTS, experiment, "train")
        preset_of(preset, _STEPS)
        changes = {"images": images, "max_steps": max_steps, "pairs": pairs, "ways": ways}
        sizes = {
            name: settings_for(EXPERIMENTS, name, preset, changes, strict=experiment != "all")
            for name in names
        }
        given = {"steps": steps, "path": path, "letters": letters}
        _refuse_unused(experiment, {name for name, value in given.items() if value is not None})
        folder = out or Path("runs") / f"leaf-{data}{'-torch' if init == 'torch' else ''}"
        options = {"letters": letters, "path": path}
        with results_folder(folder):
            trial = None
            if experiment != "sprites":
                wanted = steps or (_HISTORY_STEPS if experiment in _LONG else _STEPS)[preset]
                found = task(data, path, seed=seed, width=width, init=init)
                if letters is not None:
                    read_images(letters, found.train.images.shape[1:])  # refused before the training
                trial = _trained(found, folder, wanted, seed)
                arguments["training images"] = len(found.train.labels)
            for name, settings in sizes.items():
                run = partial(_on, EXPERIMENTS[name], trial, settings, options)
                if name == "sprites":
                    run = partial(leaf_sprites.outcome, seed, folder / "sprites", settings)
                run_and_write(name, run, folder, arguments, settings)


def _refuse_unused(experiment: str, given: set[str]) -> None:
    """Options that would do nothing are mistakes."""
    if experiment == "sprites" and given:
        named = ", ".join(f"--{name}" for name in sorted(given))
        raise ValueError(f"sprites has a data set and a network of its own: leave out {named}.")
    takes = EXPERIMENTS[experiment].options if experiment in EXPERIMENTS else ("letters",)
    if "letters" in given and "letters" not in takes:
        raise ValueError(f"--letters does not belong to {experiment}: it is for letters and detect.")


def _trained(found: Task, folder: Path, steps: int, seed: int) -> Trial:
    """Train, or go on, up to so many steps."""
    marks = [step for step in MARKS if step <= steps]
    with progress_bar(f"training, {found.name}") as advance:
        learn(found, folder / "checkpoints", steps, save_at=marks, seed=seed, progress=advance)
    return Trial(found, folder / "checkpoints", steps, seed)


def _on(
    experiment: Experiment, trial: Trial | None, settings: Any, options: dict[str, Any], progress: Progress
) -> Outcome:
    """One experiment on the trained network."""
    assert trial is not None
    taken = {key: options[key] for key in experiment.options}
    return experiment.run(trial._replace(progress=progress), settings, **taken)
