"""Sizes of the experiments on layers, image manifolds of known geometry, and images drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax.datasets import coil20
from manifold_jax.experiments.sprites import FACTORS, draw_images, sprite_charts
from manifold_jax.geometry import Manifold

DATA = ("sprites", "coil20")
SHAPES = ("ellipse", "square", "heart")
VIEWS = ("view", "zoom", "rotation")


class Settings(NamedTuple):
    """What is learnt, by which network, and how large everything is.

    Attributes:
        data: One of ``DATA``.
        network: ``"vae"`` or ``"classifier"``, a LeNet that tells the classes apart.
        variant: Variant of the beta-VAE, ``"B"`` or ``"H"``, with the objective of the same name.
        activation: ``"relu"``, ``"softplus"`` or ``"silu"``.
        path: Where COIL-20 is.
        seed: Seed of images, order and noise, and of the weights of the first run.
        size: Pixels per side.
        width: Channels of the first convolution of the beta-VAE.
        hidden: Units of its hidden layers.
        latent: Units of its latent.
        images: Images to learn from, in all.
        steps: Steps of the training.
        batch_size: Images a step of one run.
        seeds: Runs.
        factors: Axes of the charts that are measured, the first so many.
        samples: Along each of them; COIL-20 has the second for view and rotation, the first for zoom.
        fine: The same where stencils are compared with exact jets.
        curve: Along the closed curve whose curvature is measured at several spacings.
        objects: Objects of COIL-20.
        points: Random points for what needs no grid.
        learning_rate: Learning rate of Adam; by default 5e-4, and 1e-4 for COIL-20 with H.
        beta: Weight of the KL in H.
        gamma: Weight of its distance from the capacity in B.
        capacity: C_max of B, nats, reached at the last step.
    """

    data: str = "sprites"
    network: str = "vae"
    variant: str = "B"
    activation: str = "silu"
    path: Path | None = None
    seed: int = 0
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
    curve: tuple[int, ...] = (64, 128, 256, 512, 1024)
    objects: int = 3
    points: int = 2000
    learning_rate: float | None = None
    beta: float = 4.0
    gamma: float = 100.0
    capacity: float = 20.0

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.objects if self.data == "coil20" else len(SHAPES)


FULL = Settings()
REDUCED = Settings(
    size=32,
    width=16,
    hidden=64,
    images=6000,
    steps=2000,
    batch_size=32,
    samples=(9, 16, 6, 6),
    fine=(25, 64, 6, 6),
    curve=(64, 128, 256, 512),
    points=600,
    learning_rate=1e-3,
)


class Charts(NamedTuple):
    """Manifolds of a data set.

    Attributes:
        measured: Manifolds that are measured, one for each class.
        fine: The first of them on a finer grid.
        sources: Manifolds that images are drawn from, of all factors.
    """

    measured: Sequence[Manifold]
    fine: Manifold
    sources: Sequence[Manifold]


def build_charts(settings: Settings) -> Charts:
    """The manifolds of a data set."""
    known, build = (VIEWS, _coil20) if settings.data == "coil20" else (FACTORS, _sprites)
    factors = known[: settings.factors]
    sizes = [_sizes(settings.data, factors, samples) for samples in (settings.samples, settings.fine)]
    numbers = range(settings.classes)
    measured = [build(settings, number, factors, sizes[0]) for number in numbers]
    sources = [build(settings, number, known, None) for number in numbers]
    return Charts(measured, build(settings, 0, factors, sizes[1]), sources)


def _sizes(data: str, factors: Sequence[str], samples: Sequence[int]) -> dict[str, int]:
    if data == "coil20":
        return {factor: samples[factor != "zoom"] for factor in factors}
    return dict(zip(factors, samples, strict=False))


def _sprites(settings: Settings, number: int, factors: Sequence[str], sizes: Any) -> Manifold:
    shift = 3.0 * settings.size / 32
    return sprite_charts(SHAPES[number : number + 1], settings.size, shift, factors, sizes)[0]


def _coil20(settings: Settings, number: int, factors: Sequence[str], sizes: Any) -> Manifold:
    path, size = settings.path, settings.size
    return coil20(path, number + 1, factors=factors, size=size, layout="balanced", sizes=sizes)


def draw_bytes(key: Array, sources: Sequence[Manifold], count: int) -> tuple[np.ndarray, np.ndarray]:
    """About ``count`` images as bytes, equally many of each class, and their classes."""
    share = count // len(sources)
    _, images = draw_images(key, sources, share)
    rows = [np.asarray(jnp.round(255 * jnp.clip(part, 0, 1)), np.uint8) for part in images]
    return np.concatenate(rows), np.repeat(np.arange(len(sources)), share)
