"""Reach by three estimators, with bars and their coverage."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from manifold_jax._files import Progress, silent
from manifold_jax.datasets import circle, sample_uniform
from manifold_jax.experiments.calibration.words import MANIFOLDS, Context, range_words, share_words
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.fits.outcomes import Line, Panel, error_figure
from manifold_jax.experiments.results import cell_name
from manifold_jax.fitting.truth import exact_total
from manifold_jax.geometry import Manifold, reach_from_samples
from manifold_jax.plotting.style import PALETTE


class Reaches(NamedTuple):
    """Size of the study of the reach."""

    manifolds: tuple[str, ...] = ("circle", "S2", "T2")
    sizes: tuple[int, ...] = (200, 800)  # samples
    noises: tuple[float, ...] = (0.0, 1e-3, 1e-2)  # standard deviation of each feature over the reach
    seeds: int = 12  # clouds


FEW_REACHES = Reaches(("circle",), (60,), (0.0,), 3)
METHODS = {"plug-in": "plug-in", "curvature": "second fundamental form", "distortion": "distortion"}
"""Methods of :func:`reach_from_samples`, and what they are called here."""
PLACES: dict[str, Callable[[], Manifold]] = {"circle": circle, **MANIFOLDS}


def run_reaches(context: Context, settings: Reaches, progress: Progress = silent) -> Outcome:
    """Three estimators of the reach with their bars, against the truth."""
    cells, seed = context
    jobs = [(p, n, s) for p in settings.manifolds for n in settings.sizes for s in settings.noises]
    rows, data, lines = [], [], {}
    truths = {name: exact_total((PLACES[name](),), "reach") for name in settings.manifolds}
    about = {"study": "reach", "seed": seed, "seeds": settings.seeds}
    computed = [
        (
            cell_name(manifold=name, size=size, noise=noise, **about),
            partial(_estimate_reaches, name, size, noise * truths[name], settings.seeds, seed),
        )
        for name, size, noise in jobs
    ]
    for (name, size, noise), table in zip(jobs, cells.fill(computed, progress), strict=True):
        true = truths[name]
        for method, estimates in table.items():
            value, bar = (np.array(column, float) for column in zip(*estimates, strict=True))
            finite, held = np.isfinite(bar), np.abs(value - true) <= np.nan_to_num(bar, nan=np.inf)
            row: dict[str, Any] = {
                "of": name,
                "n": size,
                "noise": noise,
                "by": METHODS[method],
                "truth": true,
            }
            row["value"] = range_words(value, 3)
            row["bar"] = range_words(bar[finite], 2) if finite.any() else "-"
            row["with a bar"] = f"{finite.sum()} of {len(bar)}"
            row["coverage"] = share_words(int(held[finite].sum()), int(finite.sum())) if finite.any() else "-"
            rows.append(row)
            data.append(row | {"values": value, "bars": bar})
            lines.setdefault((name, noise), {}).setdefault(method, {})[size] = np.abs(value / true - 1)
    notes = [
        f"{settings.seeds} clouds; value and bar: median, least and largest. Tangent spaces are estimated. "
        "coverage: share of the finite bars that hold the truth, with an interval of 95 %; a result without "
        "a finite bar claims nothing. noise: of each feature over the reach.",
        "plug-in: least of Federer's ratios over pairs (Aamari et al. 2019); second fundamental form: 1 / "
        "largest curvature of local fits, where curvature decides; distortion: the smaller of that and of "
        "what shortest paths say about bottlenecks (Aamari, Berenfeld & Levrard 2023).",
    ]
    groups = [
        Panel(
            f"{name}, noise {noise:g}",
            [
                Line(METHODS[method], np.array(list(series)), np.array(list(series.values())), colour)
                for colour, (method, series) in zip(PALETTE, methods.items(), strict=False)
            ],
        )
        for (name, noise), methods in lines.items()
    ]
    title = "Relative error of the reach by three estimators"
    axis, error = "number of samples n", "|value / truth - 1|"
    figure = error_figure(title, groups, axis, error, columns=len(settings.noises), height=3.4, unit="")
    first, size = rows[0], max(row["n"] for row in rows)
    here = [row for row in rows if (row["of"], row["noise"], row["n"]) == (first["of"], first["noise"], size)]
    values = ", ".join(f"{row['value']} by {row['by']}" for row in here)
    headline = f"{first['of']}, n = {size}, reach {first['truth']:.4g}: {values}."
    title = "Reach from samples by three estimators"
    return Outcome(title, rows, {"rows": data}, {"reaches": figure}, notes, headline=headline)


def _estimate_reaches(name: str, size: int, noise: float, seeds: int, seed: int) -> dict[str, Any]:
    """Values and bars by method, of several clouds."""
    place = PLACES[name]()
    table: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    for number in range(seeds):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), size), number)
        near, moved = jax.random.split(key)
        points = sample_uniform(near, place, size).points.reshape(size, -1)
        points = points + noise * jax.random.normal(moved, points.shape, points.dtype)
        for method, results in table.items():
            result = reach_from_samples(points, dimension=place.grid.ndim, method=method)
            results.append((float(result.value), float(result.error)))
    return table
