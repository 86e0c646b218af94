"""``manifold-jax bounds``: errors of fitted manifolds against n, reach, ambient dimension and boundary."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from manifold_jax.experiments.experiment import (
    Experiment,
    describe,
    given_options,
    run_and_write,
    select,
    settings_for,
)
from manifold_jax.experiments.fits import boundary as bounds_boundary
from manifold_jax.experiments.fits import images as bounds_images
from manifold_jax.experiments.fits import sweeps as bounds_sweeps
from manifold_jax.experiments.fits import toys as bounds_toys
from manifold_jax.experiments.fits.data import NOISES
from manifold_jax.experiments.fits.fits import FITS
from manifold_jax.experiments.fits.run import check_sizes
from manifold_jax.experiments.terminal import Coil20, Out, Preset, Seed, plain_errors, results_folder


def _changed(settings: Any, option: str, value: Any) -> Any:
    """Settings with one option changed, or None where they have no such option."""
    if isinstance(settings, bounds_images.Settings):
        if option == "sizes":
            check_sizes(value)
            pool = max(value)
            parts = tuple(size / pool for size in value)
            return settings._replace(pool=pool, fractions=parts, network_fractions=parts)
        if option == "dimensions":
            return settings._replace(dimensions=dict.fromkeys(settings.dimensions, value))
        return settings._replace(**{option: value}) if option in settings._fields else None
    if option in settings.plan._fields:
        plan = settings.plan._replace(**{option: value})
        if option == "sizes":
            plan = plan._replace(network_sizes=value)
        if option == "seeds":
            plan = plan._replace(network_seeds=value)
        return settings._replace(plan=plan)
    return settings._replace(**{option: value}) if option in settings._fields else None


EXPERIMENTS = {
    "toys": Experiment(
        "errors against n on circle, moons, sphere, torus",
        bounds_toys.FULL,
        bounds_toys.REDUCED,
        bounds_toys.run,
        bounds_toys.check,
        change=_changed,
    ),
    "images": Experiment(
        "the same on images, sprites and COIL-20",
        bounds_images.FULL,
        bounds_images.REDUCED,
        bounds_images.run,
        bounds_images.check,
        change=_changed,
    ),
    "reach": Experiment(
        "tori of several reach",
        bounds_sweeps.REACH_FULL,
        bounds_sweeps.REACH_REDUCED,
        bounds_sweeps.reach,
        bounds_sweeps.check_reach,
        change=_changed,
    ),
    "ambient": Experiment(
        "a torus in spaces of several dimensions",
        bounds_sweeps.AMBIENT_FULL,
        bounds_sweeps.AMBIENT_REDUCED,
        bounds_sweeps.ambient,
        bounds_sweeps.check_ambient,
        change=_changed,
    ),
    "boundary": Experiment(
        "open against periodic axes",
        bounds_boundary.FULL,
        bounds_boundary.REDUCED,
        bounds_boundary.boundary,
        bounds_boundary.check,
        change=_changed,
    ),
}


def bounds_command(
    experiment: Annotated[
        str,
        typer.Argument(help=describe(EXPERIMENTS)),
    ],
    preset: Preset = "reduced",
    fits: Annotated[
        str | None,
        typer.Option(help=f"Which, with commas between: {', '.join(FITS)} [default: the preset's]."),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option(help="Numbers of samples, with commas between [default: the preset's].")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Independent samples of each size.")] = None,
    tests: Annotated[int | None, typer.Option(help="Test points.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of networks.")] = None,
    noises: Annotated[
        str | None, typer.Option(help=f"Of toys, with commas between: {', '.join(NOISES)}.")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Scale of the noise of toys and ambient over the reach [default: 0.1]."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Of images, with commas between: sprites, coil20.")] = None,
    dimensions: Annotated[
        str | None, typer.Option(help="Of the image manifolds, with commas between, for example 1,2.")
    ] = None,
    path: Coil20 = None,
    seed: Seed = 0,
    out: Out = None,
) -> None:
    """Fit manifolds of known geometry from samples, and put the errors beside rates and bounds.

    Interrupted and called again with the same --out, it goes on where it was, cell by cell.
    """
    arguments = given_options(locals())
    with plain_errors():
        changes = {
            "fits": _words(fits),
            "sizes": _numbers("sizes", sizes),
            "dimensions": _numbers("dimensions", dimensions),
            "seeds": seeds,
            "tests": tests,
            "steps": steps,
            "noises": _words(noises),
            "noise": noise,
            "data": _words(data),
            "path": path,
        }
        chosen = {
            name: settings_for(EXPERIMENTS, name, preset, changes, strict=experiment != "all")
            for name in select(EXPERIMENTS, experiment)
        }
        folder = out or Path("runs") / "bounds"
        with results_folder(folder):
            for name, settings in chosen.items():
                run = partial(EXPERIMENTS[name].run, folder, settings, seed)
                run_and_write(name, run, folder, arguments, settings)


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(","))


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers with commas between."""
    if text is None:
        return None
    try:
        return tuple(sorted(int(word) for word in text.split(",")))
    except ValueError:
        raise ValueError(f"--{option} takes whole numbers with commas between, got {text!r}.") from None
