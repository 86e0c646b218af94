"""``manifold-jax bounds``: errors of fitted manifolds against n, reach, ambient dimension and boundary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from manifold_jax._files import user_path
from manifold_jax.experiments import experiment as registry
from manifold_jax.experiments import terminal
from manifold_jax.experiments.cluster import Scheduler, Workers, check_cluster, cluster_executor
from manifold_jax.experiments.fits.runner import FITS
from manifold_jax.experiments.fits.samples import NOISES
from manifold_jax.experiments.fits.studies import DATA, EXPERIMENTS
from manifold_jax.experiments.terminal import Coil20, Out, Preset, Seed, words


def bounds_command(
    experiment: Annotated[str, typer.Argument(help=registry.describe(EXPERIMENTS))],
    preset: Preset = "reduced",
    fits: Annotated[str | None, typer.Option(help=f"Fits: {', '.join(FITS)}.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Numbers of samples.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Independent samples of each size.")] = None,
    image_seeds: Annotated[int | None, typer.Option(help="The same on images of figure5.")] = None,
    tests: Annotated[int | None, typer.Option(help="Test points.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of networks.")] = None,
    noises: Annotated[str | None, typer.Option(help=f"Noises of toys: {', '.join(NOISES)}.")] = None,
    noise: Annotated[float | None, typer.Option(help="Scale of noise over the reach (default: 0.1).")] = None,
    data: Annotated[str | None, typer.Option(help=f"Data sets of images: {', '.join(DATA)}.")] = None,
    shares: Annotated[str | None, typer.Option(help="Shares of a lattice, such as 0.01,0.1.")] = None,
    dimensions: Annotated[str | None, typer.Option(help="Of the image manifolds, such as 1,2.")] = None,
    path: Coil20 = None,
    seed: Seed = 0,
    workers: Workers = None,
    scheduler: Scheduler = None,
    out: Out = None,
) -> None:
    """Fit manifolds of known geometry from samples, and compare the errors with rates and bounds.

    Several words or numbers have commas between; what is not given is that of the preset.
    Interrupted and called again with the same --out, it goes on where it was, cell by cell.
    """
    arguments = registry.given_options(locals())
    with terminal.plain_errors():
        registry.check_options(arguments)
        check_cluster(workers, scheduler)
        folder = terminal.prepare(out or Path("runs") / "bounds")
        path = path and user_path(path)
        if path is not None and data is not None and "coil20" not in data:
            raise ValueError("--path is where COIL-20 is: leave it out, or put coil20 among --data.")
        changes = {"seeds": seeds, "tests": tests, "steps": steps, "noise": noise, "path": path}
        changes |= {"fits": words(fits), "noises": words(noises), "data": words(data)}
        changes |= {"image_seeds": image_seeds, "shares": _numbers("shares", shares, float)}
        changes["sizes"] = _numbers("sizes", sizes)
        changes["dimensions"] = dimensions and dict.fromkeys(DATA, _numbers("dimensions", dimensions))
        plans = registry.all_settings(EXPERIMENTS, experiment, preset, changes)
        with terminal.results_folder(folder), cluster_executor(workers, scheduler) as executor:
            context = (folder, seed, executor)
            finished = registry.run_experiments(EXPERIMENTS, plans, context, folder, arguments)
            registry.publish_page("bounds", finished, folder)


def _numbers(option: str, text: str | None, kind: type[int] | type[float] = int) -> tuple[Any, ...] | None:
    """Numbers with commas between, whole ones by default."""
    try:
        return None if text is None else tuple(sorted(map(kind, text.split(","))))
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"--{option} takes {what} with commas between, got {text!r}.") from None
