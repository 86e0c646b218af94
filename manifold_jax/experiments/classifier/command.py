"""``manifold-jax leaf``: the manifold that a classifier sees, experiment by experiment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import typer

from manifold_jax.experiments.classifier import across as leaf_across
from manifold_jax.experiments.classifier import denoise as leaf_denoise
from manifold_jax.experiments.classifier import detect as leaf_detect
from manifold_jax.experiments.classifier import generate as leaf_generate
from manifold_jax.experiments.classifier import history as leaf_history
from manifold_jax.experiments.classifier import paths as leaf_paths
from manifold_jax.experiments.classifier import sprites as leaf_sprites
from manifold_jax.experiments.classifier.task import NAMES, Progress, Task, Trial, learn, read_images, task
from manifold_jax.experiments.experiment import Outcome, table, write
from manifold_jax.experiments.terminal import console, plain_errors, progress_bar, results_folder

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


class _Experiment(NamedTuple):
    """One experiment: what it shows, its size in full and reduced, the function, options that it takes."""

    about: str
    full: Any
    reduced: Any
    run: Callable[..., Outcome]
    options: tuple[str, ...] = ()


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
    "rank": _Experiment(
        "rank of G and of the distribution, beside C - 1", *_HISTORY, leaf_history.rank_table
    ),
    "history": _Experiment(
        "trace and rank of G, trace of F, along the training", *_HISTORY, leaf_history.history
    ),
    "across": _Experiment(
        "walks across the leaves", leaf_across.Settings(), leaf_across.REDUCED, leaf_across.run
    ),
    "paths": _Experiment(
        "horizontal paths between images of different classes", *_PATHS, leaf_paths.between_classes
    ),
    "sweep": _Experiment("the same over the checkpoints", *_BOTH, leaf_paths.sweep),
    "letters": _Experiment(
        "horizontal paths to letters and mirrored digits",
        *_BOTH,
        leaf_paths.to_other_symbols,
        ("letters",),
    ),
    "noisy": _Experiment("horizontal paths from and to noise", *_FROM_NOISE, leaf_paths.from_noise),
    "denoise": _Experiment(
        "denoising by projection on a leaf",
        leaf_denoise.Settings(),
        leaf_denoise.REDUCED,
        _use(leaf_denoise.run),
    ),
    "detect": _Experiment(
        "out-of-distribution detection by the distance to a leaf",
        leaf_detect.Settings(),
        leaf_detect.REDUCED,
        _use(leaf_detect.run),
        ("letters", "path"),
    ),
    "generate": _Experiment(
        "images of the same label along a leaf",
        leaf_generate.Settings(),
        leaf_generate.REDUCED,
        _use(leaf_generate.run),
    ),
    "sprites": _Experiment(
        "tangents of sprites beside the distribution; has a network of its own",
        leaf_sprites.Settings(),
        leaf_sprites.REDUCED,
        leaf_sprites.outcome,
    ),
}
_STEPS = {"full": 10_000, "reduced": 1000}
_HISTORY_STEPS = {"full": 30_000, "reduced": 1000}
_LONG = ("history", "sweep", "train")


def _settings(experiment: _Experiment, preset: str, changes: dict[str, int | None], strict: bool) -> Any:
    """Size of the experiment, with what was asked for on the command line."""
    settings = experiment.full if preset == "full" else experiment.reduced
    for name, value in changes.items():
        if value is None:
            continue
        if name in settings._fields:
            settings = settings._replace(**{name: value})
        elif strict:
            option, has = "--" + name.replace("_", "-"), ", ".join(settings._fields)
            raise ValueError(f"{option} does not belong to this experiment, which has {has}.")
    return settings


def _names(experiment: str) -> Sequence[str]:
    """The experiment, or all of them."""
    if experiment == "all":
        return list(EXPERIMENTS)
    if experiment not in (*EXPERIMENTS, "train"):
        raise ValueError(f"no experiment {experiment!r}: choose from {', '.join(EXPERIMENTS)}, train or all.")
    return [experiment]


def leaf_command(
    experiment: Annotated[
        str,
        typer.Argument(
            help="; ".join(f"{name}: {found.about}" for name, found in EXPERIMENTS.items())
            + "; train: only train; all: all of them."
        ),
    ],
    data: Annotated[str, typer.Option(help=f"One of {', '.join(NAMES)}.")] = "digits",
    path: Annotated[
        Path | None, typer.Option(help="Folder of the data [default: MANIFOLD_JAX_DATA, else downloaded].")
    ] = None,
    letters: Annotated[Path | None, typer.Option(help="An .npz file with uint8 images of letters.")] = None,
    preset: Annotated[
        str, typer.Option(help="reduced (minutes on 2 cores) or full (as in the paper).")
    ] = "reduced",
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
    seed: Annotated[int, typer.Option(help="Of weights, order of the data, pairs and directions.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the results [default: runs/leaf-DATA].")] = None,
) -> None:
    """Look at the manifold that a classifier sees: train it, then run an experiment on its checkpoints.

    Interrupted and called again with the same --out, the training goes on where it was.
    """
    arguments: dict[str, Any] = {key: str(value) for key, value in locals().items() if value is not None}
    with plain_errors():
        names = _names(experiment)
        if preset not in _STEPS:
            raise ValueError(f"--preset must be reduced or full, got {preset!r}.")
        changes = {"images": images, "max_steps": max_steps, "pairs": pairs, "ways": ways}
        sizes = {
            name: _settings(EXPERIMENTS[name], preset, changes, experiment != "all")
            for name in names
            if name != "train"
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
                run_and_write(name, run, folder, arguments | {"settings": settings._asdict()})


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
    experiment: _Experiment, trial: Trial | None, settings: Any, options: dict[str, Any], progress: Progress
) -> Outcome:
    """One experiment on the trained network."""
    assert trial is not None
    taken = {key: options[key] for key in experiment.options}
    return experiment.run(trial._replace(progress=progress), settings, **taken)


def run_and_write(
    name: str, run: Callable[[Progress], Outcome], out: Path, arguments: dict[str, Any]
) -> None:
    """Run one experiment, show and write what it found.

    Args:
        name: Of the experiment, and of the files.
        run: Takes a function to report progress to.
        out: Folder of the results.
        arguments: What was asked for, for the record.
    """
    began = time.perf_counter()
    with progress_bar(name) as advance:
        outcome = run(advance)
    seconds = time.perf_counter() - began
    console.print(table(outcome, console.width), *outcome.notes, sep="\n")
    record = arguments | {
        "seconds": seconds,
        "device": str(jax.devices()[0]),
        "version": version("manifold_jax"),
    }
    files = ", ".join(place.name for place in write(outcome, out, name, record))
    console.print(f"{seconds:.0f} s. Results in [bold]{out}[/bold]: {files}", soft_wrap=True)
