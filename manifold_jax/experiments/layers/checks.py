"""Stencils on the layers next to exact jets: their errors, and the kinks of ReLU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from manifold_jax._files import Progress
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.layers.trial import Settings, Trial, layer_arrays, learn, prepare
from manifold_jax.experiments.sprites import ends
from manifold_jax.geometry import Grid, Manifold, jet_from_grid, measure_layers, second_fundamental_form
from manifold_jax.models import Layers
from manifold_jax.plotting.style import PALETTE, Figure, compare, quantity_panels

_STANDING = 1e-12  # share of the largest speed below which a curve stands still in float64


def stencils(trial: Trial, _: Settings, progress: Progress) -> Outcome:
    """Stencils on the grid of activations and exact jets: the first class on its finer grid, in run 0."""
    chart, step = trial.charts.fine, trial.steps[-1]
    layers = trial.layers(step)[0]
    options = {"progress": progress, "checkpoint": trial.folder.parent}
    exact = measure_layers(chart, layers.functions, layers.names, **options)
    by_stencils = measure_layers(chart, layers.functions, layers.names, accuracy=4, **options)
    rows = []
    for name, truth, result in zip(("input", *layers.names), exact, by_stencils, strict=True):
        volume, errors = result.total_volume, compare(result, truth)
        row: Row = {"layer": name, "volume": float(volume.value), "+-": float(volume.error)}
        row["exact"] = float(truth.total_volume.value)
        for short, quantity in (("dV", "volume_element"), ("|II|", "second_form_norm")):
            comparison = errors[quantity]
            row[f"{short} err"] = comparison.median
            row |= {f"{short} known": comparison.resolved, f"{short} cover": comparison.coverage}
        rows.append(row)
    title = f"{chart.name} through {trial.name}, step {step}: stencils and exact jets"
    note = (
        f"Stencils of order 4 on {chart.grid.shape}. err: median of the relative error over the grid; known: "
        "share of points whose error bar is below the tolerance of 0.1; cover: share of those whose bar "
        "covers the error."
    )
    worst = max(row["|II| err"] for row in rows)
    least = np.nanmin([row[f"{short} cover"] for row in rows for short in ("dV", "|II|")])
    headline = f"In all layers |II| is off by {worst:.1g} (median) at most; bars hold at {least:.1%} or more."
    return Outcome(title, rows, {"grid": chart.grid.shape}, {}, [note], headline=headline)


class Spacing(NamedTuple):
    """Curvature of one closed curve by stencils of order 2, for several numbers of samples along it."""

    samples: Sequence[int]
    mean: Float[np.ndarray, "samples layers"]  # over arc length
    largest: Float[np.ndarray, "samples layers"]

    def exponent(self) -> Float[np.ndarray, "layers"]:
        """Exponent of the largest curvature in the number of samples: 0 where smooth, 1 at a kink."""
        x = np.log(self.samples)
        x = x - x.mean()
        return x @ np.log(self.largest) / (x @ x)


def circle_of(chart: Manifold, samples: int) -> Manifold:
    """The chart's first periodic axis as a curve, other factors in the middle; else its first axis."""
    axes = chart.grid.axes
    turning = next((k for k, axis in enumerate(axes) if axis.periodic), 0)
    middle = ends(chart).mean(0).astype(np.float32)

    def curve(u: jax.Array) -> jax.Array:
        return chart.embedding(jnp.asarray(middle, u.dtype).at[turning].set(u[0]))

    return Manifold(chart.name, curve, Grid((dataclasses.replace(axes[turning], size=samples),)))


def spacing_of(samples: Sequence[int], curvatures: Any) -> Spacing:
    """Results of :func:`curve_curvatures` for several numbers of samples."""
    mean, largest = np.moveaxis(np.array(curvatures), -1, 0)
    return Spacing(tuple(samples), mean, largest)


def curve_curvatures(chart: Manifold, layers: Layers, count: int) -> list[tuple[float, float]]:
    """Mean and largest curvature of :func:`circle_of` a chart in the input and every layer, in float64."""
    with jax.enable_x64(True):
        functions = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), layers.functions)
        curve, layers = circle_of(chart, count), layers._replace(functions=functions)
        points = curve.grid.coordinates(jnp.float64).reshape(-1, 1)
        return [_curvature(array, curve.grid) for array in layer_arrays(curve, layers, points)]


def _curvature(array: jax.Array, grid: Grid) -> tuple[float, float]:
    """Mean over arc length and maximum of the curvature of a sampled curve."""
    jet = jet_from_grid(array.reshape(*grid.shape, -1), grid, accuracy=2)
    speed = np.linalg.norm(jet.first[:, 0], axis=1)
    moving = speed > _STANDING * speed.max()  # after the ReLU a layer may be constant on a stretch
    if not moving.any():
        return np.nan, np.nan
    normal = np.linalg.norm(second_fundamental_form(jet)[:, 0, 0], axis=1)
    curvature, speed = normal[moving] / speed[moving] ** 2, speed[moving]
    return float((curvature * speed).sum() / speed.sum()), float(curvature.max())


def spacing(trial: Trial, settings: Settings, progress: Progress) -> Outcome:
    """What stencils call curvature after the ReLU and a smooth activation; the other one is trained here."""
    ours = settings.activation
    other = "silu" if ours == "relu" else "relu"
    folder = trial.folder.with_name(f"{trial.folder.name}-{other}")
    trials = {ours: trial, other: learn(prepare(settings._replace(activation=other), folder), progress)}
    chart, samples, spacings, names = trial.charts.measured[0], settings.curve, {}, ()
    for activation, one in trials.items():
        layers = one.layers(one.steps[-1])[0]
        names = ("input", *layers.names)
        jobs = [(f"{n} along a curve", layers, partial(curve_curvatures, chart, layers, n)) for n in samples]
        spacings[activation] = spacing_of(samples, one.compute(jobs, progress))
    columns, rows = {samples[0]: 0, samples[-1]: -1}, []
    for k, name in enumerate(names):
        for activation, part in spacings.items():
            row: Row = {"layer": name, "network": activation}
            row |= {f"max {count}": part.largest[i, k] for count, i in columns.items()}
            row["exponent"] = round(float(part.exponent()[k]), 3)
            rows.append(row | {f"mean {count}": part.mean[i, k] for count, i in columns.items()})
    title = f"Curvature of the {circle_of(chart, 8).grid.names[0]} of {chart.name} by stencils of order 2"
    note = (
        f"Largest curvature and its mean over arc length at {samples[0]} and at {samples[-1]} samples. "
        "Exponent of the largest curvature in the number of samples: 0 where the curve is smooth, 1 where it "
        "has a kink, since a jump of the tangent over one spacing counts as curvature of 1 / spacing. The "
        "mean over arc length tends to the total turning over the length, once samples outnumber the kinks."
    )
    data = {name: part._asdict() | {"exponent": part.exponent()} for name, part in spacings.items()}
    exponents = [f"{name} {np.nanmax(part.exponent()):.2f}" for name, part in spacings.items()]
    headline = f"Largest exponent of the curvature in the number of samples: {', '.join(exponents)}."
    figures = {"spacing": _spacing_figure(spacings, names, title)}
    return Outcome(title, rows, data, figures, [note], headline=headline)


def _spacing_figure(spacings: dict[str, Spacing], names: tuple[str, ...], title: str) -> Figure:
    """Largest curvature against samples, one panel an activation."""
    figure, panels = quantity_panels(title, list(spacings.items()), (6.2, 4.5))
    for at, (activation, part) in panels:
        for k, name in enumerate(names):
            style = ("-", "--", ":")[k // len(PALETTE)]
            at.loglog(part.samples, part.largest[:, k], style, color=PALETTE[k % len(PALETTE)], label=name)
        at.set_title(activation, fontsize=10)
        at.set_xlabel("samples along the curve")
        at.grid(alpha=0.3)
    first, last = figure.axes
    last.sharey(first)
    first.set_ylabel("largest curvature")
    last.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
