"""``manifold-jax leaf``: the manifold that a classifier sees, experiment by experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from manifold_jax.experiments.classifier import (
    across,
    denoise,
    detect,
    generate,
    history,
    paths,
    sprites,
    sprites_figure,
)
from manifold_jax.experiments.classifier.task import NAMES, Task, Trial, learn, make_task, read_images
from manifold_jax.experiments.classifier.walks import change_path
from manifold_jax.experiments.experiment import (
    Experiment,
    describe,
    given_options,
    preset_of,
    run_experiments,
    select,
    settings_for,
)
from manifold_jax.experiments.terminal import Out, Preset, Seed, plain_errors, progress_bar, results_folder

_HISTORY = (history.Settings(), history.REDUCED)
_PATHS = (paths.Settings(), paths.REDUCED)
_BOTH = (_PATHS[0]._replace(ways=2), _PATHS[1]._replace(ways=2))
_FROM_NOISE = (_BOTH[0]._replace(max_steps=10_000), _BOTH[1]._replace(max_steps=2000))


def _on_leaves(about: str, module: Any, options: tuple[str, ...] = ()) -> Experiment:
    """An experiment whose settings have a path."""
    presets = (module.Settings(), module.REDUCED)
    return Experiment(about, *presets, module.run, module.check, options, change_path)


EXPERIMENTS = {
    "rank": Experiment("rank of G and of the distribution, next to C - 1", *_HISTORY, history.compare_ranks),
    "history": Experiment(
        "trace and rank of G, trace of F, along the training", *_HISTORY, history.follow_training
    ),
    "across": Experiment("walks across the leaves", across.Settings(), across.REDUCED, across.run),
    "paths": Experiment(
        "horizontal paths between images of different classes", *_PATHS, paths.between_classes
    ),
    "sweep": Experiment("the same over the checkpoints", *_BOTH, paths.sweep),
    "letters": Experiment(
        "horizontal paths to letters and mirrored digits",
        *_BOTH,
        paths.to_other_symbols,
        options=("letters",),
    ),
    "noisy": Experiment("horizontal paths from and to noise", *_FROM_NOISE, paths.from_noise),
    "denoise": _on_leaves("denoising by projection on a leaf", denoise),
    "detect": _on_leaves(
        "out-of-distribution detection by the distance to a leaf", detect, ("letters", "path")
    ),
    "generate": _on_leaves("images of the same label along a leaf", generate),
    "sprites": Experiment(
        "tangents of sprites next to the distribution; has a network of its own",
        sprites.Settings(),
        sprites.REDUCED,
        sprites_figure.run,
        sprites.check,
    ),
}
_STEPS = {"full": 10_000, "reduced": 1000}
_HISTORY_STEPS = {"full": 30_000, "reduced": 1000}
_LONG = ("history", "sweep", "train")


def leaf_command(
    experiment: Annotated[str, typer.Argument(help=describe(EXPERIMENTS, train="only train"))],
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
        default_steps = preset_of(preset, _HISTORY_STEPS if experiment in _LONG else _STEPS)
        changes = {"images": images, "max_steps": max_steps, "pairs": pairs, "ways": ways}
        strict = experiment != "all"
        settings = {name: settings_for(EXPERIMENTS, name, preset, changes, strict=strict) for name in names}
        options = {"letters": letters, "path": path}
        _refuse_unused(experiment, letters=letters, path=path, steps=steps)
        folder = out or Path("runs") / f"leaf-{data}{'-torch' if init == 'torch' else ''}"
        with results_folder(folder):
            if experiment != "sprites":
                task = make_task(data, path, seed=seed, width=width, init=init)
                if letters is not None:
                    read_images(letters, task.train.images.shape[1:])  # refused before the training
                arguments["training images"] = len(task.train.labels)
                trial = _train(task, folder / "checkpoints", steps or default_steps, seed)
                on_trial = {name: settings[name] for name in names if name != "sprites"}
                run_experiments(EXPERIMENTS, on_trial, trial, folder, arguments, options)
            if "sprites" in names:
                place = sprites_figure.Place(folder / "sprites", seed)
                run_experiments(EXPERIMENTS, {"sprites": settings["sprites"]}, place, folder, arguments)


def _refuse_unused(experiment: str, **options: Any) -> None:
    """Options that would do nothing are mistakes."""
    given = {name for name, value in options.items() if value is not None}
    if experiment == "sprites" and given:
        named = ", ".join(f"--{name}" for name in sorted(given))
        raise ValueError(f"sprites has a data set and a network of its own: leave out {named}.")
    takes = EXPERIMENTS[experiment].options if experiment in EXPERIMENTS else ("letters",)
    if "letters" in given and "letters" not in takes:
        raise ValueError(f"--letters does not belong to {experiment}: it is for letters and detect.")


def _train(task: Task, folder: Path, steps: int, seed: int) -> Trial:
    """Train, or go on, up to so many steps."""
    with progress_bar(f"training, {task.name}") as advance:
        return learn(task, folder, steps, seed=seed, progress=advance)
