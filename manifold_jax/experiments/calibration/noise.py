"""Built-in estimators against noise and ambient dimension."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from manifold_jax._files import Progress, silent
from manifold_jax.datasets import sphere
from manifold_jax.experiments.calibration.words import Context, range_words
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.fits.outcomes import Line, Panel, error_figure
from manifold_jax.experiments.fits.studies import embed_isometrically
from manifold_jax.experiments.results import cell_name
from manifold_jax.fitting import builtin_estimators, calibrate
from manifold_jax.plotting.style import PALETTE, Figure


class Noises(NamedTuple):
    """Size of the study of noise."""

    noises: tuple[float, ...] = (0.0, 1e-3, 1e-2, 1e-1)  # standard deviation of each feature over the radius
    ambient: tuple[int, ...] = (3, 10, 100)  # D, from d + 1
    size: int = 2000  # samples
    seeds: int = 3  # clouds
    quantities: tuple[str, ...] = ("tangent", "scalar_curvature", "second_form_norm", "volume", "dimension")


FEW_NOISES = Noises((0.0, 1e-2), (3, 10), 200, 2, ("volume", "dimension"))


def run_noises(context: Context, settings: Noises, progress: Progress = silent) -> Outcome:
    """Built-in estimators on the unit sphere S^2 in R^D, with Gaussian noise in every feature."""
    cells, seed = context
    jobs = [(big, noise) for big in settings.ambient for noise in settings.noises]
    errors: dict[tuple[str, str, int], dict[float, list[float]]] = {}
    about = {"study": "noise", "size": settings.size, "seed": seed, "seeds": settings.seeds}
    computed = [
        (
            cell_name(ambient=big, noise=noise, quantities=settings.quantities, **about),
            partial(_estimate, settings, big, noise, seed),
        )
        for big, noise in jobs
    ]
    for (big, noise), table in zip(jobs, cells.fill(computed, progress), strict=True):
        for row in table:
            series = errors.setdefault((row["quantity"], row["estimator"], big), {})
            series.setdefault(noise, []).append(row["rmse"])
    rows = [
        {"quantity": quantity, "by": method, "D": big}
        | {f"noise {noise:g}": range_words(values) for noise, values in series.items()}
        for (quantity, method, big), series in errors.items()
    ]
    notes = [
        f"Relative root mean square errors on S^2 of radius 1 in R^D, {settings.size} samples, median over "
        f"{settings.seeds} clouds with the least and largest; noise: standard deviation in each of the D "
        "features, so that its length grows like D^(1/2). Against the geometry before noise was added.",
    ]
    data = {"errors": [{"of": key, "noise": n, "rmse": v} for key, s in errors.items() for n, v in s.items()]}
    title = "Estimators from samples against noise and ambient dimension"
    first = [row for row in rows if row["quantity"] == rows[0]["quantity"] and row["D"] == rows[0]["D"]]
    ends = [f"noise {noise:g}" for noise in (min(settings.noises), max(settings.noises))]
    words = ", ".join(f"{row[ends[0]]} to {row[ends[1]]} by {row['by']}" for row in first)
    headline = f"{rows[0]['quantity']}, D = {rows[0]['D']}, {' to '.join(ends)}: {words}."
    return Outcome(title, rows, data, {"noise": _noise_figure(errors, settings)}, notes, headline=headline)


def _noise_figure(errors: dict[tuple[str, str, int], dict[float, list[float]]], settings: Noises) -> Figure:
    """A panel for every quantity and method; without noise at a tenth of the least noise."""
    positive = [noise for noise in settings.noises if noise > 0]
    groups = []
    for quantity, method in dict.fromkeys((q, m) for q, m, _ in errors):
        lines = []
        for colour, big in zip(PALETTE, settings.ambient, strict=False):
            series = errors[quantity, method, big]
            x = np.array([noise or min(positive) / 10 for noise in series])
            lines.append(Line(f"D = {big}", x, np.array(list(series.values())), colour))
        groups.append(Panel(f"{quantity.replace('_', ' ')}, {method}", lines))
    title = "Relative error on the unit sphere in R^D (leftmost: no noise)"
    return error_figure(title, groups, "noise", "relative RMS error", columns=4, height=3.4, unit="")


def _estimate(settings: Noises, big: int, noise: float, seed: int) -> list[dict[str, Any]]:
    """Rows of all estimators at one ambient dimension and one noise."""
    place, estimators = embed_isometrically(sphere(2), big), builtin_estimators(*settings.quantities)
    options: dict[str, Any] = {"noise": ("ambient", noise) if noise else None, "warm_up": False}
    options |= {"key": jax.random.key(seed), "seeds": range(settings.seeds), "on_error": "record"}
    return calibrate(estimators, place, [settings.size], **options).to_dicts()
