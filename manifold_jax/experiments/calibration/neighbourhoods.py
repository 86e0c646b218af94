"""Curvature by two regressions: k neighbours, and the radius that the truth would choose."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax._files import Progress, silent
from manifold_jax.datasets import sample_uniform
from manifold_jax.experiments.calibration.words import MANIFOLDS, WAIST, Context, range_words
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.fits.outcomes import Line, Panel, error_figure
from manifold_jax.experiments.results import cell_name
from manifold_jax.fitting import local_pca_tangents
from manifold_jax.fitting.truth import exact_field
from manifold_jax.geometry.local_fit import CURVATURES, local_quadratic_fit
from manifold_jax.geometry.neighbours import nearest_neighbours
from manifold_jax.geometry.weingarten import default_neighbours, weingarten_fit
from manifold_jax.plotting.style import PALETTE


class Neighbourhoods(NamedTuple):
    """Size of the study of neighbourhoods."""

    manifolds: tuple[str, ...] = ("S2", "S3", "S4", "H2", "T2")
    sizes: tuple[int, ...] = (1000, 10_000)  # samples
    seeds: int = 3  # clouds of each size
    rows: int = 500  # points of a cloud at which it is fitted
    radii: int = 10  # sizes of neighbourhoods
    largest: float = 16.0  # most neighbours over the least that a quadratic fit needs


FEW_NEIGHBOURHOODS = Neighbourhoods(("S2", "T2"), (300,), seeds=2, rows=60, radii=4)

QUADRATIC, WEINGARTEN = "quadratic regression", "Weingarten map"
OF_FITS = ("scalar_curvature", "second_form_norm")


def run_neighbourhoods(context: Context, settings: Neighbourhoods, progress: Progress = silent) -> Outcome:
    """Two regressions of curvature with k neighbours, the best k of a cloud, the best radius of a point."""
    cells, seed = context
    jobs = [(p, n, k) for p in settings.manifolds for n in settings.sizes for k in range(settings.seeds)]
    results: dict[tuple[str, int], list[dict[str, Any]]] = {}
    about = {"study": "neighbourhoods", "seed": seed}
    about |= {"rows": settings.rows, "radii": settings.radii, "largest": settings.largest}
    computed = [
        (
            cell_name(manifold=name, size=size, number=number, **about),
            partial(_fit_neighbourhoods, name, size, number, seed, settings),
        )
        for name, size, number in jobs
    ]
    for (name, size, _), cloud in zip(jobs, cells.fill(computed, progress), strict=True):
        results.setdefault((name, size), []).append(cloud)
    rows, groups = [], []
    for (name, size), clouds in results.items():
        lines = []
        for colour, (method, quantity) in zip(PALETTE, _pairs(), strict=False):
            parts = [cloud[f"{method}, {quantity}"] for cloud in clouds]
            of_k, oracle = np.array([p["rmse"] for p in parts]), [p["oracle"] for p in parts]
            row = {"of": name, "n": size, "quantity": quantity, "by": method}
            row["usual k"] = range_words(p["usual"] for p in parts)
            row["best k"] = range_words(of_k.min(axis=1))
            row["k"] = int(np.median([p["neighbours"][np.argmin(p["rmse"])] for p in parts]))
            row["oracle radius"] = range_words(oracle)
            row["radius"] = range_words(p["radius"] for p in parts)
            rows.append(row)
            if quantity == "scalar_curvature":
                k = np.array(parts[0]["neighbours"], float)
                lines.append(Line(f"{method}, k neighbours", k, of_k.T, colour))
                flat = np.broadcast_to(np.array(oracle), (len(k), len(oracle)))
                lines.append(Line(f"{method}, oracle radius", k, flat, colour, "--"))
        groups.append(Panel(f"{name}, n = {size}", lines))
    notes = [
        "Root mean square errors over that of the exact field, at random points of a cloud: median over the "
        "clouds, and the least and largest. usual k: the default of the function; best k: the number of "
        "neighbours with the least error over all points; oracle radius: the radius with the least error at "
        "each point, chosen by the truth; radius: its median over the points.",
        "An oracle of one number also takes radii at which an error happens to cross 0: its error is a bound "
        "of what a choice of radius could reach, and no estimator's.",
        f"{QUADRATIC}: Sritharan, Wang & Hormoz (2021); {WEINGARTEN}: Cao et al. (2021), tangent spaces by "
        "local PCA of the usual number of neighbours. Where a fit fails the error is the field itself.",
        "H2: one sheet, semi-axes 2, 2, 1, samples with |z| < 2, fits at |z| < 1; T2: radii 2.5 and 0.5.",
    ]
    title = "Relative error of the scalar curvature against the neighbours of a fit"
    figure = error_figure(title, groups, "neighbours k", "relative RMS error", columns=3, height=3.8, unit="")
    data = {f"{name}, n = {size}": clouds for (name, size), clouds in results.items()}
    about = "Curvature by two regressions: k neighbours and the oracle radius"
    here = next((row for row in rows if row["quantity"] == "scalar_curvature"), rows[0])
    errors = ", ".join(f"{here[name]} by {name}" for name in ("usual k", "best k", "oracle radius"))
    headline = f"Error of {here['quantity']}, {here['of']}, n = {here['n']}, {here['by']}: {errors}."
    return Outcome(about, rows, data, {"neighbourhoods": figure}, notes, headline=headline)


def _pairs() -> list[tuple[str, str]]:
    return [(method, quantity) for quantity in OF_FITS for method in (QUADRATIC, WEINGARTEN)]


def _fit_neighbourhoods(
    name: str, size: int, number: int, seed: int, settings: Neighbourhoods
) -> dict[str, Any]:
    """Errors by size of neighbourhood, and with the best one of each point."""
    place = MANIFOLDS[name]()
    d = place.grid.ndim
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), size), number)
    samples = sample_uniform(key, place, size)
    inside = np.ones(size, bool)
    if place.name.startswith("hyperboloid"):
        inside = np.abs(np.asarray(samples.coordinates[:, 0])) < WAIST
    rows = jnp.asarray(np.flatnonzero(inside)[: settings.rows])
    least = math.comb(d + 2, 2) + 1
    most = min(round(settings.largest * least), size - 1)
    neighbours = np.unique(np.geomspace(least, most, settings.radii).round().astype(int))
    points = samples.points.reshape(size, -1)
    far = np.asarray(nearest_neighbours(points, points[rows], most + 1).distances)
    # Halfway to the next neighbour, so that rounding decides nothing.
    radii = [jnp.asarray((far[:, k] + far[:, min(k + 1, most)]) / 2 * (1 + 1e-9)) for k in neighbours]
    usual = default_neighbours(size, d)
    frames = local_pca_tangents(points, dimension=d, neighbours=usual)
    options: dict[str, Any] = {"dimension": d, "neighbours": int(most), "rows": rows}
    fits = {
        QUADRATIC: [local_quadratic_fit(points, radius=r, **options) for r in radii],
        WEINGARTEN: [weingarten_fit(points, radius=r, tangents=frames, **options) for r in radii],
    }
    default = {
        QUADRATIC: local_quadratic_fit(points, dimension=d, rows=rows),
        WEINGARTEN: weingarten_fit(points, dimension=d, neighbours=usual, tangents=frames, rows=rows),
    }
    results: dict[str, Any] = {}
    for method, quantity in _pairs():
        exact = exact_field((place,), (samples.coordinates[rows],), quantity)
        scale = float(np.sqrt(np.mean(exact**2)))
        errors = np.stack([_errors(fit, quantity, exact) for fit in fits[method]]) / scale
        best = np.argmin(np.abs(errors), axis=0)
        points_of = np.arange(len(rows))
        results[f"{method}, {quantity}"] = {
            "neighbours": neighbours.tolist(),
            "rmse": np.sqrt(np.mean(errors**2, axis=1)).tolist(),
            "oracle": float(np.sqrt(np.mean(errors[best, points_of] ** 2))),
            "radius": float(np.median(np.stack(radii)[best, points_of])),
            "usual": float(np.sqrt(np.mean((_errors(default[method], quantity, exact) / scale) ** 2))),
            "scale": scale,
        }
    return results


def _errors(fit: Any, quantity: str, exact: np.ndarray) -> np.ndarray:
    """Errors of a curvature; the whole field where a fit failed."""
    values = np.asarray(CURVATURES[quantity](fit.gram), np.float64)
    return np.where(np.isfinite(values), values - exact, exact)
