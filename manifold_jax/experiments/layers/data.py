"""Sizes of the experiments on layers, image manifolds of known geometry, and images drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax.datasets.coil20 import coil20
from manifold_jax.experiments.sprites import FACTORS, draw, render, sprite_charts
from manifold_jax.geometry import Manifold

DATA = ("sprites", "coil20")
SHAPES = ("ellipse", "square", "heart")
VIEWS = ("view", "zoom", "rotation")


class Settings(NamedTuple):
    """Size of the experiments.

    Attributes:
        size: Pixels per side.
        width: Channels of the first convolution of the beta-VAE.
        hidden: Units of its hidden layers.
        latent: Its z.
        images: To learn from, in all.
        steps: Of the training.
        batch_size: Images a step of one run.
        seeds: Runs.
        factors: Axes of the charts that are measured, the first so many.
        samples: Along each of them; COIL-20 has the second for view and rotation, the first for zoom.
        fine: The same where stencils are put beside exact jets.
        objects: Of COIL-20.
        points: Random points for what needs no grid.
        learning_rate: Of Adam; by default 5e-4, and 1e-4 for COIL-20 with H.
        beta: Weight of the KL in H.
        gamma: Weight of its distance from the capacity in B.
        capacity: C_max of B, nats, reached at the last step.
    """

    size: int = 64
    width: int = 32
    hidden: int = 256
    latent: int = 10
    images: int = 60_000
    steps: int = 100_000
    batch_size: int = 64
    seeds: int = 5
    factors: int = 2
    samples: tuple[int, ...] = (16, 32, 8, 8)
    fine: tuple[int, ...] = (33, 96, 8, 8)
    objects: int = 3
    points: int = 2000
    learning_rate: float | None = None
    beta: float = 4.0
    gamma: float = 100.0
    capacity: float = 20.0


REDUCED = Settings(
    size=32,
    width=16,
    hidden=64,
    images=6000,
    steps=2000,
    batch_size=32,
    samples=(9, 16, 6, 6),
    fine=(25, 64, 6, 6),
    points=600,
    learning_rate=1e-3,
)


class Controlled(NamedTuple):
    """Manifolds of a data set.

    Attributes:
        charts: That are measured, one for each class.
        fine: The first of them on a finer grid.
        sources: That images are drawn from, of all factors.
    """

    charts: Sequence[Manifold]
    fine: Manifold
    sources: Sequence[Manifold]


def controlled(data: str, settings: Settings, path: Path | None) -> Controlled:
    """The manifolds of one of ``DATA``; ``path`` is where COIL-20 is."""
    return _coil20(settings, path) if data == "coil20" else _sprites(settings)


def _sprites(settings: Settings) -> Controlled:
    shift = 3.0 * settings.size / 32
    factors = FACTORS[: settings.factors]

    def charts(samples: Sequence[int]) -> list[Manifold]:
        sizes: dict[str, int] = dict(zip(factors, samples, strict=False))
        return sprite_charts(SHAPES, settings.size, shift, factors, sizes)

    sources = sprite_charts(SHAPES, settings.size, shift, FACTORS)
    return Controlled(charts(settings.samples), charts(settings.fine)[0], sources)


def _coil20(settings: Settings, path: Path | None) -> Controlled:
    factors = VIEWS[: settings.factors]
    options: dict[str, Any] = {"size": settings.size, "layout": "balanced"}

    def chart(number: int, samples: Sequence[int]) -> Manifold:
        sizes = {factor: samples[factor != "zoom"] for factor in factors}
        return coil20(path, number, factors=factors, sizes=sizes, **options)

    numbers = range(1, settings.objects + 1)
    sources = [coil20(path, k, factors=VIEWS, **options) for k in numbers]
    return Controlled([chart(k, settings.samples) for k in numbers], chart(1, settings.fine), sources)


def drawn(key: Array, sources: Sequence[Manifold], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images as bytes, equally many of each class, and their classes."""
    images = []
    for k, source in enumerate(sources):
        points = draw(jax.random.fold_in(key, k), source, count // len(sources))
        images.append(np.asarray(jnp.round(255 * jnp.clip(render(source.embedding, points), 0, 1)), np.uint8))
    return np.concatenate(images), np.repeat(np.arange(len(sources)), count // len(sources))
