"""Where the manifold of the data meets that of a classifier: sprites, whose tangents are known exactly.

A small network learns the shape and the size of sprites. At sprites that it has not seen we compare the
tangents X_i of the data, one for each factor, with the distribution D_x of the network, ask how much of each
factor the network sees, X_i^T G X_i / (|X_i|^2 lambda_max(G)), and pull G back to the factors: a metric with
volume and curvature of its own, induced by u -> 2 sqrt(p(X(u))).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from manifold_jax import geometry, information
from manifold_jax._checks import whole
from manifold_jax._files import Progress, silent
from manifold_jax._linalg import map_blocks
from manifold_jax.experiments.classifier.task import predictions, stage
from manifold_jax.experiments.experiment import Outcome, Row
from manifold_jax.experiments.sprites import FACTORS, SCALES, SmoothLeNet, draw_images, sprite_charts
from manifold_jax.geometry import Grid
from manifold_jax.models import Pure, classification_loss, pure, train
from manifold_jax.plotting.style import COLOURS, axis_label, name_axes, new_figure

_MARKS = ("o", "s", "^", "D", "v")
_QUARTILES = (0.25, 0.5, 0.75)


class Settings(NamedTuple):
    """What is run. The classes are sizes times shapes: at least 5, for the four factors to be seen."""

    shapes: tuple[str, ...] = ("ellipse", "square", "heart")
    sizes: int = 3  # intervals of the scale that are told apart
    size: int = 32  # pixels per side
    shift: float = 3.0  # largest displacement from the centre in y and x, pixels
    sprites: int = 6000  # images to learn from, in all
    steps: int = 800  # of the training
    batch_size: int = 64
    learning_rate: float = 2e-3  # of Adam
    points: int = 100  # sprites to measure at, for each shape
    map_sizes: tuple[int, int] = (25, 32)  # samples of (scale, orientation) in the maps: odd and even


REDUCED = Settings(size=24, shift=2.0, sprites=3000, steps=400, batch_size=32, points=30, map_sizes=(13, 16))


def check(settings: Settings) -> None:
    """Raise unless the classes suffice and every second sample of a map is a map again."""
    whole("sprites", "shapes times sizes", len(settings.shapes) * settings.sizes, least=len(FACTORS) + 1)
    scales, turns = settings.map_sizes
    if scales < 9 or turns < 8 or scales % 2 == 0 or turns % 2:
        wanted = f"an odd number from 9 and an even one from 8, got {settings.map_sizes}"
        reason = "every second sample gives the error of the volume"
        raise ValueError(f"sprites: map_sizes must be {wanted}: {reason}.")


class Meeting(NamedTuple):
    """The data and the network at points."""

    angles: Float[Any, "points d"]  # principal angles between the tangents and D_x, radians, ascending
    random_angles: Float[Any, "points d"]  # the same for as many random vectors in place of the tangents
    visibility: Float[Any, "points d"]  # X_i^T G X_i / (|X_i|^2 lambda_max(G)) of every factor
    random_visibility: Float[Any, "points"]  # tr G / (n lambda_max(G)), the mean of a random direction
    probability: Float[Any, "points"]  # of the most likely class


class FactorMap(NamedTuple):
    """The pull-back of G to scale and orientation of a sprite at the centre, the other factors fixed."""

    shape: str
    grid: Grid
    volume_element: Float[np.ndarray, "scale orientation"]
    scalar_curvature: Float[np.ndarray, "scale orientation"]
    probability: Float[np.ndarray, "scale orientation"]  # of the most likely class
    volume: float  # of the whole chart
    volume_error: float  # change of the volume from every second sample to all of them


class Result(NamedTuple):
    """What the experiment measures: before and after the training, and a map for each shape."""

    settings: Settings
    loss: Float[np.ndarray, "steps"]
    accuracy: float  # share of new sprites classified as they should be
    shapes: Int[np.ndarray, "points"]  # index of the shape of every point measured
    untrained: Meeting
    trained: Meeting
    maps: tuple[FactorMap, ...]


def label_of(scale: Float[Array, "count"], shape: Any, sizes: int) -> Int[Array, "count"]:
    """Class of a sprite: its shape and the interval of its scale."""
    smallest, largest = SCALES
    interval = jnp.floor((scale - smallest) / (largest - smallest) * sizes).astype(int)
    return shape * sizes + jnp.clip(interval, 0, sizes - 1)


def _charts(settings: Settings) -> list[geometry.Manifold]:
    """All sprites of each shape."""
    return sprite_charts(settings.shapes, settings.size, settings.shift, FACTORS)


def _labelled(key: Array, settings: Settings, count: int) -> tuple[Float[Array, "n h w"], Int[Array, "n"]]:
    """About ``count`` images, equally many of each shape, and their classes."""
    points, images = draw_images(key, _charts(settings), count // len(settings.shapes))
    labels = [label_of(part[:, 0], shape, settings.sizes) for shape, part in enumerate(points)]
    return jnp.concatenate(images), jnp.concatenate(labels)


def learn(
    settings: Settings, key: Array, folder: Path | None = None, progress: Progress = silent
) -> tuple[Pure, Pure, Float[np.ndarray, "steps"]]:
    """The network before and after the training, and the losses."""
    data_key, weights_key, order_key = jax.random.split(key, 3)
    images, labels = _labelled(data_key, settings, settings.sprites)
    options = {"mean": float(jnp.mean(images)), "std": float(jnp.std(images)), "activation": jax.nn.silu}
    options |= {"classes": len(settings.shapes) * settings.sizes, "size": settings.size}
    start = pure(SmoothLeNet(**options, rngs=nnx.Rngs(weights_key)))
    trained = train(
        classification_loss(start.apply),
        start.params,
        (images, labels),
        key=order_key,
        steps=settings.steps,
        batch_size=settings.batch_size,
        optimizer=optax.adam(settings.learning_rate),
        chunk=min(50, settings.steps),
        folder=folder,
        progress=progress,
    ).or_raise("lower learning_rate")
    return start, Pure(start.apply, trained.params), trained.metrics["loss"]


@partial(jax.jit, static_argnames="embedding")
def _tangents(embedding: Any, points: Float[Array, "count d"]) -> Float[Array, "count d n"]:
    return map_blocks(lambda u: geometry.jet_from_function(embedding, u).first, 16, points)


@jax.jit
def meet(log_prob: Partial, images: Array, tangents: Array, random: Array) -> Any:
    """Angles and visibilities at images ``(k, h, w)`` with tangents and random vectors ``(k, d, n)``."""

    def one(image: Array, tangent: Array, other: Array) -> Meeting:
        basis = information.horizontal_basis(log_prob, image)
        factor = information.local_data_factor(log_prob, image)
        spectrum = information.local_data_spectrum(log_prob, image)[0]
        return Meeting(
            information.principal_angles(tangent, basis),
            information.principal_angles(other, basis),
            information.factor_visibility(tangent, factor),
            jnp.sum(spectrum) / (image.size * spectrum[0]),
            jnp.exp(jnp.max(log_prob(image))),
        )

    return map_blocks(jax.vmap(one), 8, images, tangents, random)


@partial(jax.jit, static_argnames="embedding")
def _pulled_back_fields(log_prob: Partial, embedding: Any, points: Float[Array, "*grid 2"]) -> Any:
    """Volume element, scalar curvature and largest probability at every point."""
    outputs = information.pulled_back(log_prob, embedding)
    gram = geometry.gram_from_function(outputs, points, batch_size=16)
    flat = points.reshape(-1, points.shape[-1])
    largest = map_blocks(jax.vmap(lambda u: jnp.max(outputs(u)) ** 2 / 4), 16, flat)
    return geometry.volume_element(gram), geometry.scalar_curvature(gram), largest.reshape(points.shape[:-1])


def factor_map(settings: Settings, shape: str, network: Pure) -> FactorMap:
    """The pulled-back metric over scale and orientation, in double precision.

    Where the network is certain, the metric is nearly degenerate, and single precision sees only rounding.
    """
    sizes: dict[str, int] = dict(zip(FACTORS[:2], settings.map_sizes, strict=True))
    manifold = sprite_charts((shape,), settings.size, settings.shift, FACTORS[:2], sizes)[0]
    grid = manifold.grid
    half = Grid(tuple(dataclasses.replace(axis, size=(axis.size + 1) // 2) for axis in grid.axes))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), network.params)
        points = jnp.asarray(grid.coordinates(), jnp.float64)
        fields = _pulled_back_fields(Partial(network.apply, params), manifold.embedding, points)
        volume = float(geometry.integrate(jnp.ones(()), fields[0], grid))
        coarse = float(geometry.integrate(jnp.ones(()), fields[0][::2, ::2], half))
    density, curvature, probability = (np.asarray(field) for field in fields)
    return FactorMap(shape, grid, density, curvature, probability, volume, abs(volume - coarse))


def measure_sprites(
    settings: Settings, key: Array, folder: Path | None = None, progress: Progress = silent
) -> Result:
    """Train the network, or go on from its checkpoints in ``folder``, and measure: in one to five minutes."""
    check(settings)
    learn_key, test_key, point_key, random_key = jax.random.split(key, 4)
    start, end, loss = learn(settings, learn_key, folder, stage(progress, 0, 3))
    tests, labels = _labelled(test_key, settings, max(settings.sprites // 5, len(settings.shapes)))
    accuracy = float(np.mean(predictions(Partial(*end), tests) == labels))
    charts = _charts(settings)
    points, images = draw_images(point_key, charts, settings.points)
    tangents = jnp.concatenate([_tangents(m.embedding, part) for m, part in zip(charts, points, strict=True)])
    random = jax.random.normal(random_key, tangents.shape)
    meetings, maps = [], []
    for k, network in enumerate((start, end)):
        meeting = meet(Partial(*network), jnp.concatenate(images), tangents, random)
        meetings.append(jax.tree.map(np.asarray, meeting))
        stage(progress, 1, 3)(k + 1, 2)
    for k, shape in enumerate(settings.shapes):
        maps.append(factor_map(settings, shape, end))
        stage(progress, 2, 3)(k + 1, len(settings.shapes))
    shapes = np.repeat(np.arange(len(charts)), settings.points)
    untrained, trained = meetings
    return Result(settings, loss, accuracy, shapes, untrained, trained, tuple(maps))


def run(start: tuple[Path, int], settings: Settings, progress: Progress = silent) -> Outcome:
    """The tangents of sprites next to a distribution; ``start`` is the folder of checkpoints and the seed."""
    folder, seed = start
    result = measure_sprites(settings, jax.random.key(seed), folder, progress)
    title = "Sprites: the tangents of the data next to the distribution of a classifier"
    notes = [
        "Angles in degrees; visibility X_i^T G X_i / (|X_i|^2 lambda_max(G)); S of the metric pulled back to "
        "(scale, orientation), 1/2 where its image is totally geodesic in the sphere of radius 2."
    ]
    rows = table(result)
    angle, most = rows[0], max(rows[len(FACTORS) : -2 * len(result.maps)], key=lambda row: row["median"])
    headline = (
        f"Least angle of tangents and distribution {angle['median']:.0f} deg, untrained "
        f"{angle['untrained']:.0f}, random {angle['random']:.0f}; most visible: "
        f"{most['quantity'].removeprefix('visibility of ')} of the {most['shape']}, {most['median']:.2g}."
    )
    return Outcome(title, rows, data(result), {"sprites": figure(result)}, notes, headline=headline)


def curvature_quartiles(factors: FactorMap) -> Float[np.ndarray, "3"]:
    """Quartiles of the scalar curvature over the pulled-back area: most of the chart is hardly seen."""
    defined = np.isfinite(factors.scalar_curvature)
    if not defined.any():
        return np.full(3, np.nan)
    values = factors.scalar_curvature[defined]
    order = np.argsort(values)
    below = np.cumsum(factors.volume_element[defined][order])
    return values[order][np.searchsorted(below, np.array(_QUARTILES) * below[-1])]


def _row(quantity: str, shape: str, quartiles: Any, **others: Any) -> Row:
    """A row of the table; None where there is no such number."""
    lower, median, upper = quartiles
    row = {"quantity": quantity, "shape": shape, "unit": "", "median": median, "lower": lower, "upper": upper}
    return row | dict.fromkeys(("untrained", "random", "error")) | others


def table(result: Result) -> list[Row]:
    """Medians and quartiles over points, of the curvature over the area; ``error`` is of a quadrature."""
    before, after, rows = result.untrained, result.trained, []
    for k in range(len(FACTORS)):
        angles, *others = (part[:, k] for part in (after.angles, before.angles, after.random_angles))
        untrained, random = np.degrees(np.median(others, axis=1))
        row = {"unit": "deg", "untrained": untrained, "random": random}
        quartiles = np.degrees(np.quantile(angles, _QUARTILES))
        rows.append(_row(f"principal angle {k + 1}", "all", quartiles, **row))
    for index, shape in enumerate(result.settings.shapes):
        here = result.shapes == index
        for k, factor in enumerate(FACTORS):
            quartiles = np.quantile(after.visibility[here, k], _QUARTILES)
            untrained = np.median(before.visibility[here, k])
            random = np.median(after.random_visibility[here])
            rows.append(_row(f"visibility of {factor}", shape, quartiles, untrained=untrained, random=random))
    for factors in result.maps:
        curvature, volume = curvature_quartiles(factors), (None, factors.volume, None)
        rows.append(_row("scalar curvature of the pull-back", factors.shape, curvature))
        rows.append(_row("volume of the pull-back", factors.shape, volume, error=factors.volume_error))
    return rows


def data(result: Result) -> dict[str, Any]:
    """Everything by name, for JSON."""
    maps = [m._asdict() | {"grid": {axis.name: axis.samples() for axis in m.grid.axes}} for m in result.maps]
    shapes = [result.settings.shapes[k] for k in result.shapes]
    return result._asdict() | {"factors": FACTORS, "shapes": shapes, "maps": maps, "table": table(result)}


def figure(result: Result) -> Any:
    """Principal angles, visibility of the factors, and the maps of the pulled-back metric."""
    settings, height = result.settings, 2.7 * len(result.maps)
    classes = settings.sizes * len(settings.shapes)
    title = f"Sprites as a classifier of {len(settings.shapes)} shapes x {settings.sizes} sizes sees them "
    title += f"({classes} classes, {result.accuracy:.1%} of new sprites right)"
    drawn = new_figure(12.5, 4.2 + height, title)
    parts: Any = drawn.subfigures(2, 1, height_ratios=(4.0, height), hspace=0.03)
    panels = parts[0].subplots(1, 2, width_ratios=(1, 1.25))
    for axes, draw in zip(panels, (_draw_angles, _draw_visibility), strict=True):
        axes.grid(axis="y", color="0.9")
        draw(axes, result)
    _draw_maps(parts[1], result.maps, settings.sizes)
    return drawn


def _draw_quartiles(axes: Any, x: np.ndarray, values: Any, **style: Any) -> None:
    """Median and quartiles of every column."""
    low, middle, high = np.quantile(values, _QUARTILES, axis=0)
    axes.errorbar(x, middle, (middle - low, high - middle), ls="none", capsize=3, ms=6, **style)


def _draw_angles(axes: Any, result: Result) -> None:
    places = np.arange(1, result.trained.angles.shape[1] + 1)
    kinds = (
        (result.trained.angles, "tangents, trained network", COLOURS[0], "o"),
        (result.untrained.angles, "tangents, before training", COLOURS[2], "s"),
        (result.trained.random_angles, "random vectors, trained network", "0.5", "x"),
    )
    for k, (values, name, colour, mark) in enumerate(kinds):
        at = places + 0.16 * (k - 1)
        _draw_quartiles(axes, at, np.degrees(values), label=name, color=colour, marker=mark)
    axes.set(xlabel="principal angle, from the smallest", xticks=places)
    axes.set(ylabel="angle [deg]", ylim=(0, 92), yticks=range(0, 91, 15))
    axes.set_title("Angles between the data's tangent space and $D_x$", fontsize=11)
    axes.legend(loc="lower right", fontsize=8)


def _draw_visibility(axes: Any, result: Result) -> None:
    places, shapes = np.arange(len(FACTORS)), result.settings.shapes
    for k, shape in enumerate(shapes):
        here = result.shapes == k
        at = places + 0.2 * (k - (len(shapes) - 1) / 2)
        style = {"color": COLOURS[k % len(COLOURS)], "marker": _MARKS[k % len(_MARKS)]}
        _draw_quartiles(axes, at, result.trained.visibility[here], label=shape, **style)
        before = np.median(result.untrained.visibility[here], axis=0)
        hollow = {**style, "mfc": "none", "ls": "none", "ms": 5, "alpha": 0.7}
        axes.plot(at + 0.06, before, **hollow, label=None if k else "before training")
    chance = np.median(result.trained.random_visibility)
    axes.axhline(chance, color="0.5", lw=1, ls="--", label="random direction")
    axes.set(yscale="log", ylabel=r"$X_i^T G X_i\,/\,(|X_i|^2\,\lambda_{\max}(G))$")
    axes.set_xticks(places, FACTORS)
    axes.set_title("Share of each factor that the network sees (median, quartiles)", fontsize=11)
    axes.legend(fontsize=8, ncols=2)


def _draw_maps(subfigure: Any, maps: tuple[FactorMap, ...], sizes: int) -> None:
    """A row for each shape; one scale of colours for each column."""
    from matplotlib.colors import LogNorm, Normalize, SymLogNorm

    volumes, curvatures = (
        np.concatenate([getattr(factors, name).ravel() for factors in maps])
        for name in ("volume_element", "scalar_curvature")
    )
    volumes = volumes[np.isfinite(volumes) & (volumes > 0)]
    curvatures = np.abs(curvatures[np.isfinite(curvatures)])
    low, high = np.percentile(volumes, (5, 99.5)) if volumes.size else (0.1, 1.0)
    most = max(np.percentile(curvatures, 95), 1.0) if curvatures.size else 1.0
    volume = r"volume element $\sqrt{\det\,X^T G X}$ [1/rad]"
    columns = (
        ("volume_element", volume, LogNorm(low, high), "viridis"),
        ("scalar_curvature", "scalar curvature S", SymLogNorm(0.5, vmin=-most, vmax=most), "RdBu_r"),
        ("probability", "probability of the likeliest class", Normalize(1 / 3, 1.0), "cividis"),
    )
    panels = subfigure.subplots(len(maps), len(columns), squeeze=False)
    scales, turns = maps[0].grid.axes
    edges = np.linspace(scales.start, scales.stop, sizes + 1)[1:-1]
    shown: Any = None
    for j, (field, label, norm, colours) in enumerate(columns):
        style = {"norm": norm, "cmap": colours, "shading": "nearest", "rasterized": True}
        for axes, factors in zip(panels[:, j], maps, strict=True):
            y, x = (axis.samples() for axis in factors.grid.axes)
            shown = axes.pcolormesh(x, y, getattr(factors, field), **style)
            axes.set_facecolor("0.8")
            name_axes(axes, axis_label(turns), axis_label(scales))
            axes.set_title(f"{factors.shape}: {_describe(factors, field)}", fontsize=9)
            for edge in edges:
                axes.axhline(edge, color="0.2" if field == "scalar_curvature" else "w", lw=0.9, ls=":")
        extend = "min" if field == "probability" else "both"
        subfigure.colorbar(shown, ax=list(panels[:, j]), label=label, extend=extend)


def _describe(factors: FactorMap, field: str) -> str:
    """One number of a map, its title."""
    if field == "volume_element":
        return f"volume {factors.volume:.3g} ± {factors.volume_error:.2g}"
    if field == "scalar_curvature":
        low, middle, high = curvature_quartiles(factors)
        return f"median {middle:.2g}, half in {low:.2g} to {high:.2g}"
    return f"median {np.median(factors.probability):.2g}"
