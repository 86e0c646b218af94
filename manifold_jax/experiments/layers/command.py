"""``manifold-jax layers``: the geometry of a known manifold in every layer of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifold_jax._files import user_path
from manifold_jax.experiments import experiment as registry
from manifold_jax.experiments import terminal
from manifold_jax.experiments.experiment import Experiment, publish_page, run_experiments
from manifold_jax.experiments.layers import trial as training
from manifold_jax.experiments.layers.checks import spacing, stencils
from manifold_jax.experiments.layers.evolution import evolution
from manifold_jax.experiments.layers.figure6 import FIGURE6, FIGURE6_REDUCED, figure6
from manifold_jax.experiments.layers.latents import latents, sampled

_ABOUT = {
    evolution: "volume, curvature, reach, class distances of every layer, run and checkpoint",
    latents: "reconstructions, traversals, mutual information of latents and factors",
    stencils: "stencils on the grid of activations and exact jets",
    spacing: "what stencils call curvature after the ReLU, against the spacing",
    sampled: "the decoder after a sampled latent, and z = mu",
}
_SETTINGS = (training.FULL, training.REDUCED)
EXPERIMENTS = {f.__name__: Experiment(about, *_SETTINGS, f, training.check) for f, about in _ABOUT.items()}
_UNION = "total S, reach and class distances of the union in every layer, as figure 6 of the microscope paper"
EXPERIMENTS["figure6"] = Experiment(
    f"{_UNION}, with a training of its own (not in all)", FIGURE6, FIGURE6_REDUCED, figure6, training.check
)
_OF_FIGURE6 = ("lattice", "pairs", "checkpoints")


def layers_command(
    experiment: Annotated[str, typer.Argument(help=registry.describe(EXPERIMENTS, train="only train"))],
    data: Annotated[str, typer.Option(help=f"One of {', '.join(training.DATA)}.")] = "sprites",
    network: Annotated[str, typer.Option(help=f"One of {', '.join(training.NETWORKS)}.")] = "vae",
    variant: Annotated[str | None, typer.Option(help="Beta-VAE B or H (default: B; coil20 H).")] = None,
    activation: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(training.ACTIVATIONS)} (default: silu; figure6 relu)."),
    ] = None,
    path: terminal.Coil20 = None,
    preset: terminal.Preset = "reduced",
    steps: terminal.Steps = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs (default: 5).")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images to learn from.")] = None,
    factors: Annotated[int | None, typer.Option(min=1, max=4, help="Axes measured (default: 2).")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of Adam (default: 1e-3; full 5e-4, coil20 with H 1e-4)."),
    ] = None,
    beta: Annotated[float | None, typer.Option(min=0, help="Weight of the KL in H (default: 4).")] = None,
    gamma: Annotated[
        float | None, typer.Option(min=0, help="Weight of |KL - C(t)| in B (default: 100).")
    ] = None,
    lattice: Annotated[
        int | None, typer.Option(min=3, help="Samples along each axis in figure6 (default: 7).")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=2, help="The same for its pairs of points (default: 4).")
    ] = None,
    checkpoints: Annotated[
        int | None, typer.Option(min=1, help="Checkpoints that figure6 measures (default: 4).")
    ] = None,
    animate: terminal.Animate = False,
    seed: terminal.Seed = 0,
    out: terminal.Out = None,
) -> None:
    """Train several networks on images of known geometry, and measure that geometry in every layer.

    Interrupted and called again with the same --out, it goes on where it was.
    """
    arguments = registry.given_options(locals())
    with terminal.plain_errors():
        registry.check_options(arguments)
        names = select_for(experiment, network)
        if variant is not None and network != "vae":
            raise ValueError("--variant is for the beta-VAE: leave it out, or take --network vae.")
        chosen = variant or ("H" if data == "coil20" else "B")
        for name, value, kind in (("beta", beta, "H"), ("gamma", gamma, "B")):
            if value is not None and (network != "vae" or chosen != kind):
                raise ValueError(f"--{name} belongs to variant {kind} of the beta-VAE: leave it out.")
        if path is not None and data != "coil20":
            raise ValueError("--path is where COIL-20 is: leave it out, or take --data coil20.")
        if experiment == "train" and factors is not None:
            raise ValueError("--factors are those that are measured, and train only trains: leave it out.")
        name = "figure6" if experiment == "figure6" else "evolution"  # all others have the same settings
        for option in () if name == "figure6" else _OF_FIGURE6:
            if option in arguments:
                raise ValueError(f"--{option} belongs to figure6: leave it out.")
        if name == "figure6" and (data, network) != ("sprites", "vae"):
            raise ValueError("figure6 is about sprites in a beta-VAE: leave out --data and --network.")
        chosen_activation = activation or EXPERIMENTS[name].full.activation
        folder = terminal.prepare(out or Path("runs") / f"layers-{data}-{network}-{chosen_activation}")
        arguments |= {"path": user_path(path)} if path else {}
        changes = {name: arguments.get(name) for name in training.Settings._fields} | {"variant": chosen}
        settings = registry.settings_for(EXPERIMENTS, name, preset, changes)
        kept = "figure6-checkpoints" if name == "figure6" else "checkpoints"
        trial = training.prepare(settings, folder / kept)
        with terminal.results_folder(folder):
            with terminal.progress_bar(f"training {settings.seeds} runs, {trial.name}") as advance:
                trial = training.learn(trial, advance)
            plans = dict.fromkeys(names, settings)
            finished = run_experiments(EXPERIMENTS, plans, trial, folder, arguments)
            publish_page("layers", finished, folder)


def select_for(experiment: str, network: str) -> list[str]:
    """The experiment, or all that the network has."""
    refused = () if network == "vae" else ("latents", "sampled")
    others = ("figure6",) if experiment == "all" else ()
    if experiment in refused:
        raise ValueError(f"{experiment} belongs to an autoencoder: leave out --network {network}.")
    return [
        name for name in registry.select(EXPERIMENTS, experiment, "train") if name not in refused + others
    ]
