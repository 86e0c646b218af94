"""Sizes of the experiments on layers, image manifolds of known geometry, and images drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax.datasets import coil20
from manifold_jax.datasets.outlines import SHAPES
from manifold_jax.experiments.sprites import FACTORS, draw_images, sprite_charts
from manifold_jax.geometry import Manifold

DATA = ("sprites", "coil20")
VIEWS = ("view", "zoom", "rotation")


class Settings(NamedTuple):
    """What is learnt, by which network, and how large everything is."""

    data: str = "sprites"
    network: str = "vae"  # or "classifier", a LeNet that tells the classes apart
    variant: str = "B"  # or "H": the beta-VAE, and the objective of the same name
    activation: str = "silu"
    path: Path | None = None  # where COIL-20 is
    seed: int = 0  # of images, order and noise, and of the weights of the first run
    size: int = 64  # pixels per side
    width: int = 32  # channels of the first convolution of the beta-VAE
    hidden: int = 256  # units of its hidden layers
    latent: int = 10
    images: int = 60_000  # in all
    steps: int = 100_000
    batch_size: int = 64  # images a step of one run
    seeds: int = 5  # number of runs
    factors: int = 2  # axes of the charts that are measured, the first so many
    samples: tuple[int, ...] = (16, 32, 8, 8)  # along each; COIL-20 has the first for zoom, else the second
    fine: tuple[int, ...] = (33, 96, 8, 8)  # the same where stencils are compared with exact jets
    curve: tuple[int, ...] = (64, 128, 256, 512, 1024)  # along the closed curve of the experiment on spacing
    objects: int = 3  # of COIL-20
    points: int = 2000  # random points for what needs no grid
    learning_rate: float | None = None  # of Adam; by default 5e-4, and 1e-4 for COIL-20 with H
    beta: float = 4.0  # weight of the KL in H
    gamma: float = 100.0  # weight of its distance from the capacity in B
    capacity: float = 20.0  # C_max of B, nats, reached at the last step

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
    """Manifolds of a data set, one for each class."""

    measured: Sequence[Manifold]
    fine: Manifold  # the first of them on a finer grid
    sources: Sequence[Manifold]  # with all factors: images are drawn from them


def build_charts(settings: Settings) -> Charts:
    """The manifolds of a data set."""
    of_coil20, size = settings.data == "coil20", settings.size
    known = VIEWS if of_coil20 else FACTORS
    factors = known[: settings.factors]

    def build(count: int, factors: Sequence[str], samples: Sequence[int] | None = None) -> list[Manifold]:
        if not of_coil20:
            sizes = samples and dict(zip(factors, samples, strict=False))
            return sprite_charts(list(SHAPES)[:count], size, 3.0 * size / 32, factors, sizes)
        sizes = samples and {factor: samples[factor != "zoom"] for factor in factors}
        options = {"factors": factors, "size": size, "layout": "balanced", "sizes": sizes}
        return [coil20(settings.path, number, **options) for number in range(1, count + 1)]

    measured = build(settings.classes, factors, settings.samples)
    return Charts(measured, build(1, factors, settings.fine)[0], build(settings.classes, known))


def draw_bytes(key: Array, sources: Sequence[Manifold], count: int) -> tuple[np.ndarray, np.ndarray]:
    """About ``count`` images as bytes, equally many of each class, and their classes."""
    share = count // len(sources)
    _, images = draw_images(key, sources, share)
    rows = [np.asarray(jnp.round(255 * jnp.clip(part, 0, 1)), np.uint8) for part in images]
    return np.concatenate(rows), np.repeat(np.arange(len(sources)), share)
