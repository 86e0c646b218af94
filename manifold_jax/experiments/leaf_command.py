"""``manifold-jax leaf``: the manifold that a classifier sees, experiment by experiment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import typer

from manifold_jax.experiments import leaf_across, leaf_history, leaf_paths
from manifold_jax.experiments.leaf_outcome import Outcome, table, write
from manifold_jax.experiments.leaf_task import NAMES, Trial, learn, task
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
    """One experiment: what it shows, its size in full and reduced, and the function."""

    about: str
    full: Any
    reduced: Any
    run: Callable[..., Outcome]


EXPERIMENTS = {
    "rank": _Experiment(
        "rank of G and of the distribution, beside C - 1",
        leaf_history.Settings(),
        leaf_history.REDUCED,
        leaf_history.rank_table,
    ),
    "history": _Experiment(
        "trace and rank of G, trace of F, along the training",
        leaf_history.Settings(),
        leaf_history.REDUCED,
        leaf_history.history,
    ),
    "across": _Experiment(
        "walks across the leaves", leaf_across.Settings(), leaf_across.REDUCED, leaf_across.run
    ),
    "paths": _Experiment(
        "horizontal paths between images of different classes",
        leaf_paths.Settings(),
        leaf_paths.REDUCED,
        leaf_paths.between_classes,
    ),
    "sweep": _Experiment(
        "the same over the checkpoints", leaf_paths.Settings(), leaf_paths.REDUCED, leaf_paths.sweep
    ),
    "letters": _Experiment(
        "horizontal paths to letters and mirrored digits",
        leaf_paths.Settings(),
        leaf_paths.REDUCED,
        leaf_paths.to_other_symbols,
    ),
    "noisy": _Experiment(
        "horizontal paths from and to noise",
        leaf_paths.Settings(),
        leaf_paths.REDUCED,
        leaf_paths.from_noise,
    ),
}
SPRITES = "sprites"
"""The experiment with a data set and a network of its own."""
_WITH_LETTERS = ("letters",)
_STEPS = {"full": 10_000, "reduced": 1000}
_HISTORY_STEPS = {"full": 30_000, "reduced": 1000}


def _settings(experiment: _Experiment, preset: str, changes: dict[str, int | None]) -> Any:
    """Size of the experiment, with what was asked for on the command line."""
    settings = experiment.full if preset == "full" else experiment.reduced
    for name, value in changes.items():
        if value is None:
            continue
        if name not in settings._fields:
            option = "--" + name.replace("_", "-")
            raise ValueError(
                f"{option} does not belong to this experiment; it has {', '.join(settings._fields)}."
            )
        settings = settings._replace(**{name: value})
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
    width: Annotated[int, typer.Option(min=1, help="Channels of the first layer of the VGG11.")] = 16,
    seed: Annotated[int, typer.Option(help="Of weights, order of the data, pairs and directions.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the results [default: runs/leaf-DATA].")] = None,
) -> None:
    """Look at the manifold that a classifier sees: train it, then run an experiment on its checkpoints.

    Interrupted and called again with the same --out, the training goes on where it was.
    """
    arguments = {key: str(value) for key, value in locals().items() if value is not None}
    with plain_errors():
        names = _names(experiment)
        if preset not in _STEPS:
            raise ValueError(f"--preset must be reduced or full, got {preset!r}.")
        changes = {"images": images, "max_steps": max_steps}
        sizes = {
            name: _settings(
                EXPERIMENTS[name],
                preset,
                changes | {"sweep_pairs" if name in _FEW_PAIRS else "pairs": pairs},
            )
            for name in names
            if name != "train"
        }
        folder = out or Path("runs") / f"leaf-{data}"
        found = task(data, path, seed=seed, width=width)
        with results_folder(folder):
            wanted = steps or (_HISTORY_STEPS if experiment in _LONG else _STEPS)[preset]
            marks = [step for step in MARKS if step <= wanted]
            with progress_bar(f"training, {data}") as advance:
                learn(found, folder / "checkpoints", wanted, save_at=marks, seed=seed, progress=advance)
            for name, settings in sizes.items():
                trial = Trial(found, folder / "checkpoints", wanted, seed)
                options = {"letters": letters} if name in _WITH_LETTERS else {}
                _one(name, trial, settings, options, folder, arguments)


_FEW_PAIRS = ("sweep", "letters", "noisy")
_LONG = ("history", "sweep", "train")


def _one(
    name: str, trial: Trial, settings: Any, options: dict[str, Any], out: Path, arguments: dict[str, Any]
) -> None:
    """Run one experiment and write what it found."""
    began = time.perf_counter()
    with progress_bar(name) as advance:
        outcome = EXPERIMENTS[name].run(trial._replace(progress=advance), settings, **options)
    console.print(table(outcome), *outcome.notes, sep="\n")
    seconds = time.perf_counter() - began
    record = arguments | {"settings": settings._asdict(), "seconds": seconds, "device": str(jax.devices()[0])}
    written = write(outcome, out, name, record)
    console.print(
        f"{seconds:.0f} s. Results in [bold]{out}[/bold]: {', '.join(p.name for p in written)}",
        soft_wrap=True,
    )
