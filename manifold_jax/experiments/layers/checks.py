"""Stencils on the layers beside exact jets: their errors, and the kinks of ReLU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from manifold_jax.experiments.experiment import Outcome
from manifold_jax.experiments.layers.task import Trial, layer_arrays
from manifold_jax.geometry import Grid, Manifold, jet_from_grid, measure_layers
from manifold_jax.models import Layers
from manifold_jax.plotting.images import PALETTE
from manifold_jax.plotting.style import compare, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _on_grid(array: jax.Array, grid: Grid) -> jax.Array:
    return array.reshape(*grid.shape, -1)


def stencils(trial: Trial) -> Outcome:
    """Stencils on the grid of activations beside exact jets, layer by layer, with their error bars.

    Args:
        trial: What was trained; the first class on its finer grid, the first run at the last checkpoint.

    Returns:
        The outcome.
    """
    chart, step = trial.task.fine, trial.steps[-1]
    layers = trial.layers(step, 0)
    names = ("input", *layers.names)
    exact = measure_layers(chart, layers.functions, layers.names)
    by_stencils = measure_layers(chart, layers.functions, layers.names, accuracy=4, progress=trial.progress)
    rows = []
    for name, truth, found in zip(names, exact, by_stencils, strict=True):
        beside = compare(found, truth)
        volume, bend = beside["volume_element"], beside["second_form_norm"]
        rows.append(
            {
                "layer": name,
                "volume": float(found.total_volume.value),
                "+-": float(found.total_volume.error),
                "exact": float(truth.total_volume.value),
                "dV err": volume.median,
                "known": volume.resolved,
                "cover": volume.coverage,
                "|II| err": bend.median,
                "known ": bend.resolved,
                "cover ": bend.coverage,
            }
        )
    title = f"{chart.name} through {trial.task.name}, step {step}: stencils beside exact jets"
    notes = [
        f"Stencils of order 4 on {chart.grid.shape}. err: median of the relative error over the grid; known: "
        "share of points whose error bar is below the tolerance of 0.1; cover: share of those whose bar "
        "covers the error."
    ]
    return Outcome(title, rows, {"grid": chart.grid.shape}, {}, notes)


# --- kinks -------------------------------------------------------------------------------------------------


class Spacing(NamedTuple):
    """Second derivatives along one closed curve, by stencils of order 2 at several spacings.

    Attributes:
        samples: Along the curve.
        mean: Mean of the curvature over arc length, ``(samples, layers)``.
        largest: Its maximum.
    """

    samples: Sequence[int]
    mean: Float[np.ndarray, "samples layers"]
    largest: Float[np.ndarray, "samples layers"]

    def slope(self) -> Float[np.ndarray, "layers"]:
        """Exponent of the largest curvature in the number of samples: 0 where smooth, 1 at a kink."""
        x, y = np.log(self.samples), np.log(self.largest)
        x = x - x.mean()
        return (x[:, None] * y).sum(0) / (x**2).sum()


def circle_of(chart: Manifold, samples: int) -> Manifold:
    """The chart's first periodic axis as a curve, other factors in the middle; else its first axis."""
    axes = chart.grid.axes
    turning = next((k for k, axis in enumerate(axes) if axis.periodic), 0)
    middle = np.array([(axis.start + axis.stop) / 2 for axis in axes], np.float32)

    def curve(u: jax.Array) -> jax.Array:
        return chart.embedding(jnp.asarray(middle, u.dtype).at[turning].set(u[0]))

    return Manifold(chart.name, curve, Grid((dataclasses.replace(axes[turning], size=samples),)))


def spacing_of(chart: Manifold, layers: Layers, samples: Sequence[int]) -> Spacing:
    """Curvature of a curve in every layer at several spacings, in double precision.

    Args:
        chart: The manifold, of whose charts one axis is taken.
        layers: Of the network.
        samples: Along that axis.

    Returns:
        Mean and largest curvature of the input and every layer.
    """
    mean, largest = [], []
    with jax.enable_x64(True):
        functions = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), layers.functions)
        layers = layers._replace(functions=functions)
        for count in samples:
            curve = circle_of(chart, count)
            points = curve.grid.coordinates(jnp.float64).reshape(-1, 1)
            found = [_curvature(array, curve.grid) for array in layer_arrays(curve, layers, points)]
            mean.append([part[0] for part in found])
            largest.append([part[1] for part in found])
    return Spacing(tuple(samples), np.array(mean), np.array(largest))


def _curvature(array: jax.Array, grid: Grid) -> tuple[float, float]:
    """Mean over arc length and maximum of the curvature of a sampled curve."""
    jet = jet_from_grid(_on_grid(array, grid), grid, accuracy=2)
    first, second = np.asarray(jet.first)[:, 0], np.asarray(jet.second)[:, 0, 0]
    speed = np.linalg.norm(first, axis=1)
    moving = speed > 1e-12 * speed.max()  # behind ReLU a layer may be constant on a stretch
    if not moving.any():
        return np.nan, np.nan
    first, second, speed = first[moving], second[moving], speed[moving]
    unit = first / speed[:, None]
    normal = second - (second * unit).sum(1, keepdims=True) * unit
    curvature = np.linalg.norm(normal, axis=1) / speed**2
    return float((curvature * speed).sum() / speed.sum()), float(curvature.max())


def spacing(trials: dict[str, Trial], samples: Sequence[int]) -> Outcome:
    """What stencils call curvature behind ReLU, beside a smooth activation, against the spacing.

    Args:
        trials: Activation to what was trained with it.
        samples: Along the curve.

    Returns:
        The outcome.
    """
    found, names = {}, ()
    for k, (activation, trial) in enumerate(trials.items()):
        layers = trial.layers(trial.steps[-1], 0)
        names = ("input", *layers.names)
        found[activation] = spacing_of(trial.task.charts[0], layers, samples)
        trial.tell(k + 1, len(trials))
    rows = [
        {
            "layer": name,
            "network": activation,
            f"max {samples[0]}": part.largest[0, k],
            f"{samples[-1]}": part.largest[-1, k],
            "exponent": round(float(part.slope()[k]), 3),
            f"mean {samples[0]}": part.mean[0, k],
            f"{samples[-1]} ": part.mean[-1, k],
        }
        for k, name in enumerate(names)
        for activation, part in found.items()
    ]
    chart = next(iter(trials.values())).task.charts[0]
    title = f"Curvature of the {circle_of(chart, 8).grid.names[0]} of {chart.name} by stencils of order 2"
    notes = [
        f"Largest curvature and its mean over arc length at {samples[0]} and at {samples[-1]} samples. "
        "Exponent of the largest curvature in the number of samples: 0 where the curve is smooth, 1 where it "
        "has a kink, since a jump of the tangent over one spacing counts as curvature of 1 / spacing. The "
        "mean over arc length tends to the total turning over the length, once samples outnumber the kinks.",
    ]
    data = {name: part._asdict() | {"exponent": part.slope()} for name, part in found.items()}
    return Outcome(title, rows, data, {"spacing": _spacing_figure(found, names, title)}, notes)


def _spacing_figure(found: dict[str, Spacing], names: tuple[str, ...], title: str) -> Figure:
    """Largest curvature against samples, one panel an activation."""
    figure = new_figure(5.5 * len(found) + 1.5, 5.0, title)
    axes = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
    for at, (activation, part) in zip(axes, found.items(), strict=True):
        for k, name in enumerate(names):
            style = ("-", "--", ":")[k // len(PALETTE)]
            at.loglog(part.samples, part.largest[:, k], style, color=PALETTE[k % len(PALETTE)], label=name)
        at.set_title(activation, fontsize=10)
        at.set_xlabel("samples along the curve")
        at.grid(alpha=0.3)
    axes[0].set_ylabel("largest curvature")
    axes[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure
