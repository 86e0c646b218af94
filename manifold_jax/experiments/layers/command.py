"""``manifold-jax layers``: the geometry of a known manifold in every layer of a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from manifold_jax.experiments.experiment import Outcome, given_options, preset_of, run_and_write
from manifold_jax.experiments.layers import checks as layer_checks
from manifold_jax.experiments.layers import evolution as layer_evolution
from manifold_jax.experiments.layers import latents as layer_latents
from manifold_jax.experiments.layers import sampled as layer_sampled
from manifold_jax.experiments.layers.data import DATA, REDUCED, Settings
from manifold_jax.experiments.layers.task import (
    ACTIVATIONS,
    NETWORKS,
    Task,
    Trial,
    learn,
    task,
)
from manifold_jax.experiments.terminal import plain_errors, progress_bar, results_folder

EXPERIMENTS = {
    "evolution": "volume, curvature, reach, class distances of every layer, run and checkpoint",
    "latents": "reconstructions, traversals, mutual information of latents and factors",
    "stencils": "stencils on the grid of activations beside exact jets",
    "spacing": "what stencils call curvature behind ReLU, against the spacing",
    "sampled": "the decoder behind a sampled latent beside z = mu",
}
_PRESETS = {"full": Settings(), "reduced": REDUCED}
_SAMPLES = {"full": (64, 128, 256, 512, 1024), "reduced": (64, 128, 256, 512)}


def layers_command(
    experiment: Annotated[
        str,
        typer.Argument(
            help="; ".join(f"{name}: {words}" for name, words in EXPERIMENTS.items())
            + "; train: only train; all: all of them."
        ),
    ],
    data: Annotated[str, typer.Option(help=f"One of {', '.join(DATA)}.")] = "sprites",
    network: Annotated[str, typer.Option(help=f"One of {', '.join(NETWORKS)}.")] = "vae",
    variant: Annotated[
        str | None, typer.Option(help="Of the beta-VAE, B or H [default: B; coil20 H].")
    ] = None,
    activation: Annotated[str, typer.Option(help=f"One of {', '.join(ACTIVATIONS)}.")] = "silu",
    path: Annotated[
        Path | None, typer.Option(help="Where COIL-20 is [default: MANIFOLD_JAX_DATA, else downloaded].")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="reduced (minutes on 2 cores) or full (published sizes, for a GPU).")
    ] = "reduced",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps [default: 2000; full 100 000].")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs [default: 5].")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images to learn from.")] = None,
    factors: Annotated[
        int | None, typer.Option(min=1, max=4, help="Axes of the grid that is measured [default: 2].")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam [default: 1e-3; full 5e-4, coil20 with H 1e-4].")
    ] = None,
    beta: Annotated[float | None, typer.Option(min=0, help="Weight of the KL in H [default: 4].")] = None,
    gamma: Annotated[
        float | None, typer.Option(min=0, help="Weight of |KL - C(t)| in B [default: 100].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of images, weights, order and noise.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results [default: runs/layers-DATA-NETWORK-ACTIVATION]."),
    ] = None,
) -> None:
    """Train several networks on images of known geometry, and measure that geometry in every layer.

    Interrupted and called again with the same --out, the training goes on where it was.
    """
    arguments = given_options(locals())
    with plain_errors():
        names = _names(experiment, network)
        chosen_settings = preset_of(preset, _PRESETS)
        changes = {"steps": steps, "seeds": seeds, "images": images, "factors": factors}
        changes |= {"learning_rate": learning_rate, "beta": beta, "gamma": gamma}
        settings = chosen_settings._replace(**{k: v for k, v in changes.items() if v is not None})
        if variant is not None and network != "vae":
            raise ValueError("--variant is for the beta-VAE: leave it out, or take --network vae.")
        chosen = variant or ("H" if data == "coil20" else "B")
        for name, value, kind in (("beta", beta, "H"), ("gamma", gamma, "B")):
            if value is not None and (network != "vae" or chosen != kind):
                raise ValueError(f"--{name} belongs to variant {kind} of the beta-VAE: leave it out.")
        if path is not None and data != "coil20":
            raise ValueError("--path is where COIL-20 is: leave it out, or take --data coil20.")
        make = partial(task, data, network, settings, variant=chosen, path=path, seed=seed)
        folder = out or Path("runs") / f"layers-{data}-{network}-{activation}"
        found = make(activation=activation)
        with results_folder(folder):
            trial, metrics = _trained(found, folder / "checkpoints", seed)
            for name in names:
                run = partial(_run, name, trial, metrics, make, folder, preset)
                run_and_write(name, run, folder, arguments, settings)


def _names(experiment: str, network: str) -> list[str]:
    """The experiment, or all that the network has."""
    if experiment == "train":
        return []
    if experiment == "all":
        return [name for name in EXPERIMENTS if network == "vae" or name not in ("latents", "sampled")]
    if experiment not in EXPERIMENTS:
        raise ValueError(f"no experiment {experiment!r}: choose from {', '.join(EXPERIMENTS)}, train or all.")
    if network != "vae" and experiment in ("latents", "sampled"):
        raise ValueError(f"{experiment} belongs to an autoencoder: leave out --network {network}.")
    return [experiment]


def _trained(found: Task, folder: Path, seed: int) -> tuple[Trial, dict[str, np.ndarray]]:
    """Train, or go on."""
    with progress_bar(f"training {found.settings.seeds} runs, {found.name}") as advance:
        metrics = learn(found, folder, seed, advance)
    return Trial(found, folder, seed), metrics


def _run(
    name: str,
    trial: Trial,
    metrics: dict[str, np.ndarray],
    make: Callable[..., Task],
    folder: Path,
    preset: str,
    progress: Callable[[int, int], None],
) -> Outcome:
    """One experiment."""
    trial = trial._replace(progress=progress)
    if name == "latents":
        return layer_latents.latents(trial, metrics)
    if name != "spacing":
        whole = {"evolution": layer_evolution.evolution, "stencils": layer_checks.stencils}
        return (whole | {"sampled": layer_sampled.sampled})[name](trial)
    ours = trial.task.activation
    trials = {ours: trial}
    other = "silu" if ours == "relu" else "relu"
    beside = make(activation=other)
    learn(beside, folder / f"checkpoints-{other}", trial.seed, progress)
    trials[other] = Trial(beside, folder / f"checkpoints-{other}", trial.seed, progress)
    return layer_checks.spacing(trials, _SAMPLES[preset])
