"""``manifold-jax leaf``: the manifold that a classifier sees, experiment by experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from manifold_jax._checks import choice
from manifold_jax._files import user_path
from manifold_jax.experiments import experiment as registry
from manifold_jax.experiments import terminal
from manifold_jax.experiments.classifier import (
    across,
    denoise,
    detect,
    generate,
    history,
    involutivity,
    paths,
    projections,
    ranks,
    sprites,
)
from manifold_jax.experiments.classifier.task import (
    MARKS,
    READERS,
    Trial,
    learn,
    make_task,
    predictions,
    read_images,
)
from manifold_jax.experiments.classifier.walks import change_path
from manifold_jax.experiments.cluster import Scheduler, Workers, check_cluster, cluster_executor
from manifold_jax.experiments.pages import Finished
from manifold_jax.experiments.terminal import Animate, Out, Preset, Seed, Steps


def _of(module: Any, run: Any, about: str, *options: str, changes: Any = ({}, {})) -> registry.Experiment:
    """An experiment with the presets of a module, full and reduced, but for some changes, and its check."""
    presets = (module.Settings(**changes[0]), module.REDUCED._replace(**changes[1]))
    check = getattr(module, "check", lambda settings: None)
    return registry.Experiment(about, *presets, run, check, options, change_path)


_TWO_WAYS = ({"ways": 2}, {"ways": 2})
_FROM_NOISE = ({"ways": 2, "max_steps": 10_000}, {"ways": 2, "max_steps": 2000})
_LETTERS = "horizontal paths to letters and mirrored digits"
_DETECT = "out-of-distribution detection by the distance to a leaf"
_SPRITES = "tangents of sprites next to the distribution; has a network of its own"
EXPERIMENTS = {
    "rank": _of(ranks, ranks.run, "rank of G and of the distribution, next to C - 1"),
    "history": _of(history, history.follow_training, "trace and rank of G, trace of F, along the training"),
    "involutivity": _of(involutivity, involutivity.run, "defect of involutivity over pixels and parameters"),
    "across": _of(across, across.run, "walks across the leaves"),
    "paths": _of(paths, paths.between_classes, "horizontal paths between images of different classes"),
    "algorithm": _of(
        projections, projections.run, "Algorithm 1 as its code ran it, and as it is written", "letters"
    ),
    "sweep": _of(paths, paths.sweep, "the same over the checkpoints", changes=_TWO_WAYS),
    "letters": _of(paths, paths.to_other_symbols, _LETTERS, "letters", changes=_TWO_WAYS),
    "noisy": _of(paths, paths.from_noise, "horizontal paths from and to noise", changes=_FROM_NOISE),
    "denoise": _of(denoise, denoise.run, "denoising by projection onto a leaf"),
    "detect": _of(detect, detect.run, _DETECT, "letters", "path"),
    "generate": _of(generate, generate.run, "images of the same label along a leaf"),
    "sprites": _of(sprites, sprites.run, _SPRITES),
}
_LONG = ("history", "sweep", "train")  # what needs a long history of checkpoints

_OWN_TRAINING = (*_LONG, "rank", "sprites", "all")  # what needs the network from the beginning


def _numbers(between: str | None) -> tuple[tuple[int, int], ...] | None:
    """Pairs of numbers of test images."""
    if between is None:
        return None
    try:
        pairs = [
            (int(first), int(second)) for first, second in (pair.split(":") for pair in between.split(","))
        ]
    except ValueError:
        raise ValueError(
            f"--between must be pairs of numbers, such as 12:34,5:67, got {between!r}."
        ) from None
    return tuple(pairs)


def leaf_command(
    experiment: Annotated[str, typer.Argument(help=registry.describe(EXPERIMENTS, train="only train"))],
    data: Annotated[str | None, typer.Option(help=f"One of {', '.join(READERS)} (default: digits).")] = None,
    path: Annotated[
        Path | None, typer.Option(help="Folder of the data (default: MANIFOLD_JAX_DATA, else downloaded).")
    ] = None,
    letters: Annotated[Path | None, typer.Option(help="An .npz file with uint8 images of letters.")] = None,
    preset: Preset = "reduced",
    steps: Steps = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Pairs of images.")] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Test images; for history training images, the reference batch.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Most steps of a path.")] = None,
    step_size: Annotated[
        float | None,
        typer.Option(help="Length of a step (default: the paper's for MNIST; its 1 for CIFAR-10)."),
    ] = None,
    ways: Annotated[int | None, typer.Option(min=1, max=5, help="Ways to walk, the paper's first.")] = None,
    directions: Annotated[
        int | None, typer.Option(min=1, help="Random directions at every image, for across.")
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Channels of the first layer of the network for colour (default: 16)."),
    ] = None,
    batch_norm: Annotated[
        bool | None, typer.Option("--batch-norm", help="Batch normalisation in the network for colour.")
    ] = None,
    between: Annotated[
        str | None, typer.Option(help="Numbers of test images, such as 3898:9709,4185:5874, for algorithm.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="valid or noisy, for algorithm (default: valid).")
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option(help="valid, own, noisy, mirrored or letter, for algorithm (default: valid)."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="State dict of PyTorch (.npz, .safetensors) of a network for mnist; no training."),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Initial weights: flax or torch, the paper's (default: flax).")
    ] = None,
    animate: Animate = False,
    seed: Seed = 0,
    workers: Workers = None,
    scheduler: Scheduler = None,
    out: Out = None,
) -> None:
    """Look at the manifold that a classifier sees: train it, then run an experiment on its checkpoints.

    Training takes 1000 steps; with --preset full 10 000, for history, sweep and train 30 000. Interrupted and
    called again with the same --out, it goes on where it was, walks block by block. History keeps a
    checkpoint every 100 steps. Workers share walks and projections; the training stays in this process.
    """
    arguments = registry.given_options(locals())
    with terminal.plain_errors():
        registry.check_options(arguments)
        check_cluster(workers, scheduler)
        full_steps = 30_000 if experiment in _LONG else 10_000
        steps_of_preset = registry.preset_of(preset, {"reduced": 1000, "full": full_steps})
        changes: dict[str, Any] = {"images": images, "max_steps": max_steps, "pairs": pairs, "ways": ways}
        changes |= {"directions": directions, "step_size": step_size}
        changes |= {"between": _numbers(between), "source": source, "destination": destination}
        settings = registry.all_settings(EXPERIMENTS, experiment, preset, changes, "train")
        given = {"data": data, "path": path, "letters": letters, "steps": steps, "width": width, "init": init}
        given |= {"weights": weights, "batch_norm": batch_norm, "workers": workers, "scheduler": scheduler}
        _refuse_unused(experiment, given, registry.given_options(changes))
        data, init, path = data or "digits", init or "flax", path and user_path(path)
        choice("leaf", "--data", data, READERS)
        choice("leaf", "--init", init, ("flax", "torch"))
        options = {"letters": letters and user_path(letters), "path": path}
        folder = terminal.prepare(out or Path("runs") / f"leaf-{data}{'-torch' if init == 'torch' else ''}")
        with terminal.results_folder(folder):
            finished: list[Finished] = []
            own = {"sprites": settings.pop("sprites")} if "sprites" in settings else {}
            if experiment != "sprites":
                task = make_task(
                    data,
                    path,
                    seed=seed,
                    width=width or 16,
                    batch_norm=bool(batch_norm),
                    init=init,
                    weights=weights and user_path(weights),
                )
                if options["letters"] is not None:
                    # Refused before the training.
                    read_images(options["letters"], task.train.images.shape[1:])
                arguments["training images"] = len(task.train.labels)
                most = len(task.test.labels) - 1
                if any(max(pair) > most for pair in changes["between"] or ()):
                    raise ValueError(
                        f"--between must be numbers of test images, 0 to {most}, got {between!r}."
                    )
                trial = Trial(task, folder / "checkpoints", 0, seed, weights.name if weights else "")
                if weights is None:
                    with terminal.progress_bar(f"training, {task.name}") as advance:
                        count = steps or steps_of_preset
                        marks = history.marks(count) if "history" in settings else MARKS
                        trial = learn(task, trial.folder, count, seed=seed, marks=marks, progress=advance)
                arguments["data"] = data
                if settings:
                    right = predictions(trial.log_prob, task.test.images) == task.test.labels
                    arguments["test images right"] = f"{right.mean():.1%}"
                with cluster_executor(workers, scheduler) as executor:
                    trial = trial._replace(executor=executor)
                    finished = registry.run_experiments(
                        EXPERIMENTS, settings, trial, folder, arguments, **options
                    )
            context = (folder / "sprites", seed)
            finished += registry.run_experiments(EXPERIMENTS, own, context, folder, arguments)
            registry.publish_page("leaf", finished, folder)


def _refuse_unused(experiment: str, options: dict[str, Any], changes: dict[str, Any]) -> None:
    """Options that would do nothing are mistakes."""
    given, data = registry.given_options(options), options["data"] or "digits"
    elsewhere = {"workers", "scheduler"} & set(given)
    if experiment == "train" and (changes or elsewhere):
        named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted({*changes, *elsewhere}))
        raise ValueError(f"train only trains: leave out {named}.")
    if experiment == "sprites" and given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given))
        raise ValueError(f"sprites has a data set and a network of its own: leave out {named}.")
    takes = {option for name, e in EXPERIMENTS.items() if experiment in (name, "all") for option in e.options}
    if "letters" in given and "letters" not in takes:
        raise ValueError(
            f"--letters does not belong to {experiment}: it is for letters, algorithm and detect."
        )
    if "path" in given and data == "digits" and "path" not in takes:
        raise ValueError("--path does nothing for digits, which come with scikit-learn: leave it out.")
    if "weights" in given and (experiment in _OWN_TRAINING or data != "mnist"):
        raise ValueError(f"--weights is for --data mnist and experiments on one network, not {experiment}.")
    if "weights" in given and {"steps", "init"} & set(given):
        raise ValueError("--weights are not trained any further: leave out --steps and --init.")
    for name in ("width", "batch_norm"):
        if name in given and not data.startswith("cifar"):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is for the network of cifar10 and cifar100: leave it out for {data}.")
