"""Scalar curvature by the volumes of balls, ours and by a published recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from manifold_jax._files import Progress, silent
from manifold_jax.datasets import sample_uniform, sphere
from manifold_jax.experiments.calibration.words import Context, range_words
from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.results import cell_name
from manifold_jax.fitting.geodesic_balls import ball_volume, graph_distances, scalar_curvature_from_balls


class Balls(NamedTuple):
    """Size of the study of ball volumes."""

    sizes: tuple[int, ...] = (1000, 5000)  # samples; the code of the paper comes with 10 000
    seeds: int = 3  # clouds
    rows: int = 500  # points of a cloud at which the volumes of the paper's code are taken
    neighbours: int = 20  # edges of the graph, as in the code of the paper
    largest: float = math.pi / 2  # radius of the largest ball


FEW_BALLS = Balls((300,), 2, 60)


def run_balls(context: Context, settings: Balls, progress: Progress = silent) -> Outcome:
    """Scalar curvature of the unit sphere S^2 by ball volumes: ours, and by the published code's recipe."""
    cells, seed = context
    jobs = [(size, number) for size in settings.sizes for number in range(settings.seeds)]
    results: dict[int, list[dict[str, tuple[float, float]]]] = {}
    grid = {"rows": settings.rows, "neighbours": settings.neighbours, "largest": settings.largest}
    computed = [
        (
            cell_name(study="balls", size=size, number=number, seed=seed, **grid),
            partial(_ball_curvatures, settings, size, number, seed),
        )
        for size, number in jobs
    ]
    for (size, _), cloud in zip(jobs, cells.fill(computed, progress), strict=True):
        results.setdefault(size, []).append(cloud)
    rows = [
        {
            "n": size,
            "distances": which.partition(", ")[0],
            "by": which.partition(", ")[2],
            "mean of S": range_words((cloud[which][0] for cloud in clouds), 3),
            "deviation of the points": range_words((cloud[which][1] for cloud in clouds), 3),
            "truth": 2.0,
        }
        for size, clouds in results.items()
        for which in clouds[0]
    ]
    notes = [
        f"Points of the unit sphere, {settings.seeds} clouds: mean and standard deviation of S over them, "
        "median over the clouds with the least and largest.",
        "recipe: as in the code that Hickok & Blumberg (arXiv 2308.02615) published: density by the biweight "
        "kernel on Euclidean distances with bandwidth n^(-1/(d+4)), balls about a point through its "
        "neighbours, their volume the number of points over n times the mean density, weighted by the balls "
        f"up to half the nearest neighbour, radii up to {settings.largest:.3g}.",
        "The text and figures of the paper could not be read here: that a figure of it is reproduced is not "
        "said. What is shown is what its recipe gives where the truth is known.",
    ]
    about = "Scalar curvature of S^2 from the volumes of balls"
    last = [row for row in rows if row["n"] == rows[-1]["n"]]
    means = ", ".join(f"{row['mean of S']} by {row['by']} ({row['distances']})" for row in last)
    data = {f"n = {size}": clouds for size, clouds in results.items()}
    return Outcome(about, rows, data, {}, notes, headline=f"S is 2; at n = {last[0]['n']}: {means}.")


def _ball_curvatures(settings: Balls, size: int, number: int, seed: int) -> dict[str, tuple[float, float]]:
    """Mean and deviation of S by distances and method."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), size), number)
    x = np.asarray(sample_uniform(key, sphere(2), size).points, np.float64)
    n, d = len(x), 2
    arcs = np.arccos(np.clip(x @ x.T, -1, 1))
    paths, _ = graph_distances(x, neighbours=settings.neighbours, most=n)
    chords = np.sqrt(np.maximum(2 - 2 * (x @ x.T), 0))
    density = recipe_density(chords, d)
    rows, uniform = np.arange(min(settings.rows, n)), np.full(n, 1 / (4 * math.pi))
    curvatures = {}
    for name, lengths in (("arcs", arcs), ("graph", paths)):
        curvatures[f"{name}, recipe"] = recipe_curvature(lengths, density, d, settings.largest, rows)
        curvatures[f"{name}, recipe with the exact density"] = recipe_curvature(
            lengths, uniform, d, settings.largest, rows
        )
        ours = scalar_curvature_from_balls(dimension=d, distances=lengths, most=n)
        curvatures[f"{name}, scalar_curvature_from_balls"] = ours.scalar_curvature
    return {name: (float(np.nanmean(s)), float(np.nanstd(s))) for name, s in curvatures.items()}


def recipe_density(chords: np.ndarray, dimension: int) -> np.ndarray:
    """Density by the biweight kernel with bandwidth n^(-1/(d+4)), the point itself counted."""
    d, n = dimension, len(chords)
    h = n ** (-1 / (d + 4))
    integral = d * ball_volume(d) * (1 / d - 2 / (d + 2) + 1 / (d + 4))
    total = np.array([np.sum(np.maximum(1 - (row / h) ** 2, 0) ** 2) for row in chords])
    return total / (integral * n * h**d)


def recipe_curvature(
    lengths: np.ndarray, density: np.ndarray, dimension: int, largest: float, rows: Sequence[int] | np.ndarray
) -> np.ndarray:
    """S at some rows from balls through the neighbours within a radius."""
    d, n = dimension, len(lengths)
    other = lengths + np.where(np.eye(n, dtype=bool), np.inf, 0.0)
    small = (0.5 * other.min(axis=1)) ** d  # little balls, up to a factor
    values = []
    for i in rows:
        order = np.argsort(lengths[i])
        order = order[order != i]
        order = order[lengths[i, order] <= largest]
        r = lengths[i, order]
        weight = np.concatenate([[small[i]], small[order]])
        mean = np.cumsum(weight * density[np.concatenate([[i], order])]) / np.cumsum(weight)
        ratio = np.arange(2, len(r) + 2) / (n * mean[1:]) / (ball_volume(d) * r**d)
        values.append(-6 * (d + 2) * np.sum((ratio - 1) * r**2) / np.sum(r**4))
    return np.array(values)
