"""``manifold-jax bounds``: errors of fitted manifolds against n, reach, ambient dimension and boundary."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from manifold_jax.experiments.classifier.command import run_and_write
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.fits import boundary as bounds_boundary
from manifold_jax.experiments.fits import images as bounds_images
from manifold_jax.experiments.fits import sweeps as bounds_sweeps
from manifold_jax.experiments.fits import toys as bounds_toys
from manifold_jax.experiments.fits.data import NOISES
from manifold_jax.experiments.fits.fits import FITS
from manifold_jax.experiments.fits.run import check_sizes
from manifold_jax.experiments.terminal import plain_errors, results_folder


class _Experiment(NamedTuple):
    """One experiment: what it shows, sizes, the checks of a size, the function."""

    about: str
    full: Any
    reduced: Any
    check: Callable[[Any], None]
    run: Callable[..., Outcome]


EXPERIMENTS = {
    "toys": _Experiment(
        "errors against n on circle, moons, sphere, torus",
        bounds_toys.FULL,
        bounds_toys.REDUCED,
        bounds_toys.check,
        bounds_toys.run,
    ),
    "images": _Experiment(
        "the same on images, sprites and COIL-20",
        bounds_images.FULL,
        bounds_images.REDUCED,
        bounds_images.check,
        bounds_images.run,
    ),
    "reach": _Experiment(
        "tori of several reach",
        bounds_sweeps.REACH_FULL,
        bounds_sweeps.REACH_REDUCED,
        bounds_sweeps.check_reach,
        bounds_sweeps.reach,
    ),
    "ambient": _Experiment(
        "a torus in spaces of several dimensions",
        bounds_sweeps.AMBIENT_FULL,
        bounds_sweeps.AMBIENT_REDUCED,
        bounds_sweeps.check_ambient,
        bounds_sweeps.ambient,
    ),
    "boundary": _Experiment(
        "open against periodic axes",
        bounds_boundary.FULL,
        bounds_boundary.REDUCED,
        bounds_boundary.check,
        bounds_boundary.boundary,
    ),
}


def bounds_command(
    experiment: Annotated[
        str,
        typer.Argument(
            help="; ".join(f"{name}: {found.about}" for name, found in EXPERIMENTS.items())
            + "; all: all of them."
        ),
    ],
    preset: Annotated[
        str, typer.Option(help="reduced (minutes on 2 cores) or full (published sizes).")
    ] = "reduced",
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
    path: Annotated[Path | None, typer.Option(help="Where COIL-20 is [default: MANIFOLD_JAX_DATA].")] = None,
    seed: Annotated[int, typer.Option(help="Of samples, test points, weights and bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the results [default: runs/bounds].")] = None,
) -> None:
    """Fit manifolds of known geometry from samples, and put the errors beside rates and bounds.

    Interrupted and called again with the same --out, it goes on where it was, cell by cell.
    """
    arguments: dict[str, Any] = {key: str(value) for key, value in locals().items() if value is not None}
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
        chosen = {name: _settings(name, preset, changes, experiment != "all") for name in _names(experiment)}
        for name, settings in chosen.items():
            EXPERIMENTS[name].check(settings)
        folder = out or Path("runs") / "bounds"
        with results_folder(folder):
            for name, settings in chosen.items():
                run = partial(EXPERIMENTS[name].run, folder, settings, seed)
                run_and_write(name, run, folder, arguments | {"settings": _record(settings)})


def _names(experiment: str) -> list[str]:
    if experiment == "all":
        return list(EXPERIMENTS)
    if experiment not in EXPERIMENTS:
        raise ValueError(f"no experiment {experiment!r}: choose from {', '.join(EXPERIMENTS)}, or all.")
    return [experiment]


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


def _settings(name: str, preset: str, changes: dict[str, Any], strict: bool) -> Any:
    """Size of an experiment, with what was asked for on the command line."""
    if preset not in ("reduced", "full"):
        raise ValueError(f"--preset must be reduced or full, got {preset!r}.")
    settings = EXPERIMENTS[name].full if preset == "full" else EXPERIMENTS[name].reduced
    for option, value in changes.items():
        if value is None:
            continue
        changed = _changed(settings, option, value)
        if changed is None and strict:
            raise ValueError(f"--{option} does not belong to {name}: leave it out.")
        settings = settings if changed is None else changed
    return settings


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


def _record(settings: Any) -> dict[str, Any]:
    """Settings as they are written to JSON."""
    record = settings._asdict()
    if "plan" in record:
        record["plan"] = settings.plan._asdict()
    return {key: str(value) if isinstance(value, Path) else value for key, value in record.items()}
