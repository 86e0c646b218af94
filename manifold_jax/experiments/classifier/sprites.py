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
from manifold_jax._files import Progress
from manifold_jax._linalg import map_blocks
from manifold_jax.experiments.classifier.task import predictions, stage
from manifold_jax.experiments.sprites import FACTORS, SCALES, SmoothLeNet, draw_images, sprite_charts
from manifold_jax.geometry import Grid
from manifold_jax.models import Pure, classification_loss, pure, train


class Settings(NamedTuple):
    """What is run.

    Attributes:
        shapes: Shapes of the sprites.
        sizes: Intervals of the scale that are told apart; C = sizes times shapes, at least 5 for the four
            factors to be seen.
        size: Pixels per side.
        shift: Largest displacement from the centre in y and x, pixels.
        sprites: Images to learn from, in all.
        steps: Steps of the training.
        batch_size: Images of a step.
        learning_rate: Learning rate of Adam.
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


def check(settings: Settings) -> None:
    """Raise unless the classes suffice and every second sample of a map is a map again."""
    whole("sprites", "shapes times sizes", len(settings.shapes) * settings.sizes, least=len(FACTORS) + 1)
    scales, turns = settings.map_sizes
    if scales < 9 or turns < 8 or scales % 2 == 0 or turns % 2:
        raise ValueError(
            "sprites: map_sizes must be an odd number from 9 and an even one from 8, got "
            f"{settings.map_sizes}: every second sample gives the error of the volume."
        )


class Meeting(NamedTuple):
    """The data and the network at points.

    Attributes:
        angles: Principal angles between the tangents and D_x, radians, ascending.
        random_angles: The same for as many random vectors in place of the tangents.
        visibility: X_i^T G X_i / (|X_i|^2 lambda_max(G)) of every factor.
        random_visibility: Tr G / (n lambda_max(G)), the mean visibility of a random direction.
        probability: Probability of the most likely class.
    """

    angles: Float[Array | np.ndarray, "points d"]
    random_angles: Float[Array | np.ndarray, "points d"]
    visibility: Float[Array | np.ndarray, "points d"]
    random_visibility: Float[Array | np.ndarray, "points"]
    probability: Float[Array | np.ndarray, "points"]


class FactorMap(NamedTuple):
    """The pull-back of G to scale and orientation of a sprite at the centre, the other factors fixed.

    Attributes:
        shape: Shape of the sprite.
        grid: Grid of the factors.
        volume_element: sqrt(det g).
        scalar_curvature: 1/2 where the image is totally geodesic in the sphere of radius 2.
        probability: Probability of the most likely class.
        volume: Volume of the whole chart.
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
    """What the experiment measures: before and after the training, and a map for each shape.

    Attributes:
        loss: Loss of every step.
        accuracy: Share of new sprites classified as they should be.
        shapes: Index of the shape of every point measured.
    """

    settings: Settings
    loss: Float[np.ndarray, "steps"]
    accuracy: float
    shapes: Int[np.ndarray, "points"]
    untrained: Meeting
    trained: Meeting
    maps: tuple[FactorMap, ...]


# --- the network -------------------------------------------------------------------------------------------


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
    settings: Settings, key: Array, folder: Path | None = None, progress: Progress | None = None
) -> tuple[Pure, Pure, Float[np.ndarray, "steps"]]:
    """The network before and after the training, and the losses."""
    data_key, weights_key, order_key = jax.random.split(key, 3)
    images, labels = _labelled(data_key, settings, settings.sprites)
    network = SmoothLeNet(
        classes=len(settings.shapes) * settings.sizes,
        size=settings.size,
        mean=float(jnp.mean(images)),
        std=float(jnp.std(images)),
        activation=jax.nn.silu,
        rngs=nnx.Rngs(weights_key),
    )
    start = pure(network)
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
    )
    if not trained.finite:
        raise ValueError(f"the training diverged after {trained.steps} steps: lower learning_rate.")
    return start, Pure(start.apply, trained.params), trained.metrics["loss"]


# --- what is measured --------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames="embedding")
def _tangents(embedding: Any, points: Float[Array, "count d"]) -> Float[Array, "count d n"]:
    return jax.lax.map(lambda u: geometry.jet_from_function(embedding, u).first, points, batch_size=16)


@jax.jit
def meet(log_prob: Partial, images: Array, tangents: Array, random: Array) -> Any:
    """Angles and visibilities at images ``(k, h, w)`` with tangents and random vectors ``(k, d, n)``.

    It is one small function of arrays from both sides.
    """

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
    largest = jax.lax.map(lambda u: jnp.max(outputs(u)) ** 2 / 4, flat, batch_size=16)
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
    settings: Settings, key: Array, folder: Path | None = None, progress: Progress | None = None
) -> Result:
    """Train the network, or go on from its checkpoints in ``folder``, and measure.

    ``REDUCED`` takes about a minute on two cores, the default settings about five.
    """
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
