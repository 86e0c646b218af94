"""The experiment of :mod:`.sprites`: sprites, a network, what is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from manifold_jax._linalg import map_blocks
from manifold_jax.datasets import sprite
from manifold_jax.experiments.sprites import FACTORS, LARGEST, SMALLEST, draw, render, sprite_charts
from manifold_jax.geometry import (
    Grid,
    gram_from_function,
    integrate,
    jet_from_function,
    scalar_curvature,
    volume_element,
)
from manifold_jax.information import (
    factor_visibility,
    horizontal_basis,
    local_data_factor,
    local_data_spectrum,
    principal_angles,
    pulled_back,
)
from manifold_jax.models import LeNet, Pure, classification_loss, pure, train
from manifold_jax.models.checkpoints import Folder

Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, what is done of it, and all of it."""


class Settings(NamedTuple):
    """What is run.

    Attributes:
        shapes: Of the sprites.
        sizes: Intervals of the scale that are told apart; C = sizes times shapes, at least 5 for the four
            factors to be seen.
        size: Pixels per side.
        shift: Largest displacement from the centre in y and x, pixels.
        sprites: To learn from, in all.
        steps: Of the training.
        batch_size: Of the training.
        learning_rate: Of Adam.
        points: Sprites to measure at, for each shape.
        map_sizes: Samples of (scale, orientation) in the maps: odd and even, at least 9 and 8.
    """

    shapes: tuple[str, ...] = ("ellipse", "square", "heart")
    sizes: int = 3
    size: int = 32
    shift: float = 3.0
    sprites: int = 6000
    steps: int = 800
    batch_size: int = 64
    learning_rate: float = 2e-3
    points: int = 100
    map_sizes: tuple[int, int] = (25, 32)


REDUCED = Settings(size=24, shift=2.0, sprites=3000, steps=400, batch_size=32, points=30, map_sizes=(13, 16))


class Meeting(NamedTuple):
    """What is measured at points.

    Attributes:
        angles: Principal angles between the tangents and D_x, radians, ascending.
        random_angles: The same for as many random vectors in place of the tangents.
        visibility: X_i^T G X_i / (|X_i|^2 lambda_max(G)) of every factor.
        random_visibility: Tr G / (n lambda_max(G)), the mean visibility of a random direction.
        probability: Of the most likely class.
    """

    angles: Float[Array | np.ndarray, "points d"]
    random_angles: Float[Array | np.ndarray, "points d"]
    visibility: Float[Array | np.ndarray, "points d"]
    random_visibility: Float[Array | np.ndarray, "points"]
    probability: Float[Array | np.ndarray, "points"]


class FactorMap(NamedTuple):
    """The pull-back of G to scale and orientation of a sprite at the centre, the other factors fixed.

    Attributes:
        shape: Of the sprite.
        grid: Of the factors.
        volume_element: sqrt(det g).
        scalar_curvature: 1/2 where the image is totally geodesic in the sphere of radius 2.
        probability: Of the most likely class.
        volume: Of the whole chart.
        volume_error: Its change from every second sample to all of them.
    """

    shape: str
    grid: Grid
    volume_element: Float[np.ndarray, "scale orientation"]
    scalar_curvature: Float[np.ndarray, "scale orientation"]
    probability: Float[np.ndarray, "scale orientation"]
    volume: float
    volume_error: float


class Result(NamedTuple):
    """Everything found.

    Attributes:
        settings: What was run.
        loss: Of every step.
        accuracy: Share of new sprites classified as they should.
        shapes: Index of the shape of every point measured ``(points,)``.
        untrained: Measured before the training.
        trained: Measured after it.
        maps: One for each shape.
    """

    settings: Settings
    loss: Float[np.ndarray, "steps"]
    accuracy: float
    shapes: Int[np.ndarray, "points"]
    untrained: Meeting
    trained: Meeting
    maps: tuple[FactorMap, ...]


def _mean_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """Mean of every 2 x 2 block; an odd last row or column is left out."""
    high, wide = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    x = x[:, :high:2, :wide] + x[:, 1:high:2, :wide]
    return (x[:, :, ::2] + x[:, :, 1::2]) / 4


class SmoothLeNet(LeNet):
    """LeNet with means in place of maxima: of a maximum, second derivatives miss the kinks."""

    pool = staticmethod(_mean_pool)


# --- sprites -----------------------------------------------------------------------------------------------


def _checked(settings: Settings) -> Settings:
    if len(settings.shapes) * settings.sizes < len(FACTORS) + 1:
        raise ValueError(
            f"{len(settings.shapes)} shapes of {settings.sizes} sizes are too few classes: {len(FACTORS)} "
            f"factors need at least {len(FACTORS) + 1}."
        )
    scales, turns = settings.map_sizes
    if scales < 9 or turns < 8 or scales % 2 == 0 or turns % 2:
        raise ValueError(
            f"map_sizes must be an odd number from 9 and an even one from 8, got {settings.map_sizes}: every "
            "second sample gives the error of the volume."
        )
    return settings


def label_of(scale: Float[Array, "count"], shape: int, sizes: int) -> Int[Array, "count"]:
    """Class of a sprite: its shape and the interval of its scale."""
    interval = jnp.floor((scale - SMALLEST) / (LARGEST - SMALLEST) * sizes).astype(int)
    return shape * sizes + jnp.clip(interval, 0, sizes - 1)


def labelled(key: Array, settings: Settings, count: int) -> tuple[Float[Array, "n h w"], Int[Array, "n"]]:
    """About ``count`` images, equally many of each shape, and their classes."""
    parts = []
    for shape, manifold in enumerate(sprite_charts(settings.shapes, settings.size, settings.shift, FACTORS)):
        points = draw(jax.random.fold_in(key, shape), manifold, count // len(settings.shapes))
        labels = label_of(points[:, 0], shape, settings.sizes)
        parts.append((render(manifold.embedding, points), labels))
    images, labels = zip(*parts, strict=True)
    return jnp.concatenate(images), jnp.concatenate(labels)


# --- the network -------------------------------------------------------------------------------------------


def learn(
    settings: Settings, key: Array, folder: Folder | None = None, progress: Progress | None = None
) -> tuple[Pure, Pure, Float[np.ndarray, "steps"]]:
    """The network before and after the training, and the losses."""
    data_key, weights_key, order_key = jax.random.split(key, 3)
    images, labels = labelled(data_key, settings, settings.sprites)
    network = SmoothLeNet(
        classes=len(settings.shapes) * settings.sizes,
        size=settings.size,
        mean=float(jnp.mean(images)),
        std=float(jnp.std(images)),
        activation=jax.nn.silu,
        rngs=nnx.Rngs(weights_key),
    )
    start = pure(network)
    found = train(
        classification_loss(start.apply),
        start.params,
        (images, labels),
        key=order_key,
        steps=settings.steps,
        batch_size=settings.batch_size,
        optimizer=optax.adam(settings.learning_rate),
        chunk=min(50, settings.steps),
        folder=folder,
        progress=None if progress is None else partial(progress, "training"),
    )
    if not found.finite:
        raise ValueError(f"the training diverged after {found.steps} steps: lower learning_rate.")
    return start, Pure(start.apply, found.params), found.metrics["loss"]


@partial(jax.jit, static_argnames="apply")
def _right(apply: Any, params: Any, images: Array, labels: Array) -> Float[Array, ""]:
    chosen = jax.lax.map(lambda x: jnp.argmax(apply(params, x)), images, batch_size=64)
    return jnp.mean(chosen == labels)


# --- measures ----------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="embedding")
def _tangents(embedding: Any, points: Float[Array, "count d"]) -> Float[Array, "count d n"]:
    return jax.lax.map(lambda u: jet_from_function(embedding, u).first, points, batch_size=16)


@partial(jax.jit, static_argnames="apply")
def meet(
    apply: Any,
    params: Any,
    images: Float[Array, "count h w"],
    tangents: Float[Array, "count d n"],
    random: Float[Array, "count d n"],
) -> Any:
    """Angles and visibilities at every image: one small function of arrays from both sides."""
    log_prob = jax.tree_util.Partial(apply, params)

    def one(image: Array, tangent: Array, other: Array) -> Meeting:
        basis, factor = horizontal_basis(log_prob, image), local_data_factor(log_prob, image)
        spectrum = local_data_spectrum(log_prob, image)[0]
        return Meeting(
            principal_angles(tangent, basis),
            principal_angles(other, basis),
            factor_visibility(tangent, factor),
            jnp.sum(spectrum) / (image.size * spectrum[0]),
            jnp.exp(jnp.max(log_prob(image))),
        )

    return map_blocks(jax.vmap(one), 8, images, tangents, random)


@partial(jax.jit, static_argnames=("apply", "embedding"))
def _pulled_back_fields(
    apply: Any, params: Any, embedding: Any, points: Float[Array, "*grid 2"]
) -> tuple[Array, Array, Array]:
    outputs = pulled_back(jax.tree_util.Partial(apply, params), embedding)
    gram = gram_from_function(outputs, points, batch_size=16)
    flat = points.reshape(-1, points.shape[-1])
    largest = jax.lax.map(lambda u: jnp.max(outputs(u)) ** 2 / 4, flat, batch_size=16)
    return volume_element(gram), scalar_curvature(gram), largest.reshape(points.shape[:-1])


def factor_map(settings: Settings, shape: str, network: Pure) -> FactorMap:
    """The pulled-back metric over scale and orientation, in double precision.

    Where the network is certain, the metric is nearly degenerate, and single precision sees only rounding.
    """
    manifold = sprite(
        shape,
        factors=("scale", "orientation"),
        layout="balanced",
        size=settings.size,
        ranges={"scale": (SMALLEST, LARGEST)},
        sizes=dict(zip(("scale", "orientation"), settings.map_sizes, strict=True)),
    )
    grid = manifold.grid
    half = Grid(tuple(dataclasses.replace(axis, size=(axis.size + 1) // 2) for axis in grid.axes))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), network.params)
        points = jnp.asarray(grid.coordinates(), jnp.float64)
        fields = _pulled_back_fields(network.apply, params, manifold.embedding, points)
        volume = float(integrate(jnp.ones(()), fields[0], grid))
        coarse = float(integrate(jnp.ones(()), fields[0][::2, ::2], half))
    density, curvature, probability = (np.asarray(field) for field in fields)
    return FactorMap(shape, grid, density, curvature, probability, volume, abs(volume - coarse))


def run(
    settings: Settings, key: Array, folder: Folder | None = None, progress: Progress | None = None
) -> Result:
    """Train the network and measure.

    Args:
        settings: What to run; ``REDUCED`` takes about a minute on two cores, the default about five.
        key: Of everything random.
        folder: For the checkpoints of the training, from which it goes on.
        progress: Called with a stage (``"training"``, ``"tangents"`` or ``"maps"``), steps done and all.

    Returns:
        The result, for :func:`figure`, :func:`table` and :func:`data`.

    Raises:
        ValueError: A setting makes no sense, or the training diverged.
    """
    settings = _checked(settings)
    report = progress or (lambda *_: None)
    learn_key, test_key, point_key, random_key = jax.random.split(key, 4)
    start, end, loss = learn(settings, learn_key, folder, progress)
    accuracy = _right(*end, *labelled(test_key, settings, max(settings.sprites // 5, len(settings.shapes))))
    kinds = list(enumerate(sprite_charts(settings.shapes, settings.size, settings.shift, FACTORS)))
    points = [draw(jax.random.fold_in(point_key, k), m, settings.points) for k, m in kinds]
    images = jnp.concatenate([render(m.embedding, points[k]) for k, m in kinds])
    tangents = jnp.concatenate([_tangents(m.embedding, points[k]) for k, m in kinds])
    random = jax.random.normal(random_key, tangents.shape)
    report("tangents", 0, 2)
    untrained = jax.tree.map(np.asarray, meet(*start, images, tangents, random))
    report("tangents", 1, 2)
    trained = jax.tree.map(np.asarray, meet(*end, images, tangents, random))
    report("tangents", 2, 2)
    maps = []
    for done, shape in enumerate(settings.shapes):
        report("maps", done, len(settings.shapes))
        maps.append(factor_map(settings, shape, end))
    report("maps", len(maps), len(maps))
    shapes = np.repeat(np.arange(len(kinds)), settings.points)
    return Result(settings, loss, float(accuracy), shapes, untrained, trained, tuple(maps))
