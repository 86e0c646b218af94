"""What the experiments on layers start from: sizes, images of known geometry, networks trained on them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, UInt8

from manifold_jax import models
from manifold_jax._checks import choice, optional, positive, whole
from manifold_jax._files import Progress
from manifold_jax._keys import digest_arrays
from manifold_jax.datasets import coil20
from manifold_jax.datasets.outlines import SHAPES
from manifold_jax.experiments.results import Cells, cell_name
from manifold_jax.experiments.sprites import (
    FACTORS,
    SmoothLeNet,
    draw_images,
    evaluate,
    published_charts,
    sprite_charts,
)
from manifold_jax.geometry import Manifold
from manifold_jax.models import BetaVAE, Layers, LeNet, Objective, Pure
from manifold_jax.models.training import Loss

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
    capacity_steps: int | None = None  # or after so many: then a training can be taken further
    published: bool = False  # whether sprites have the ranges of the microscope paper, see published_charts
    lattice: int | None = None  # samples along each axis of the unions in figure 6
    pairs: int = 4  # the same where pairs of points are compared
    checkpoints: int = 4  # number of checkpoints measured in figure 6, the last ones

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.objects if self.data == "coil20" else len(SHAPES)

    @property
    def marks(self) -> list[int]:
        """Steps whose checkpoints are of interest: the random network, and three of the training."""
        return sorted({0, max(1, self.steps // 20), max(1, self.steps // 4), self.steps})


FULL = Settings()
REDUCED = Settings(size=32, width=16, hidden=64, images=6000, steps=2000, batch_size=32, points=600)
REDUCED = REDUCED._replace(samples=(9, 16, 6, 6), fine=(25, 64, 6, 6), curve=(64, 128, 256, 512))
REDUCED = REDUCED._replace(learning_rate=1e-3)


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
            if settings.published:
                return published_charts(list(SHAPES)[:count], size, factors, sizes)
            return sprite_charts(list(SHAPES)[:count], size, 3.0 * size / 32, factors, sizes)
        sizes = samples and {factor: samples[factor != "zoom"] for factor in factors}
        options = {"factors": factors, "size": size, "layout": "balanced", "sizes": sizes}
        return [coil20(settings.path, number, **options) for number in range(1, count + 1)]

    samples = settings.samples if settings.lattice is None else [settings.lattice] * settings.factors
    measured = build(settings.classes, factors, samples)
    return Charts(measured, build(1, factors, settings.fine)[0], build(settings.classes, known))


def draw_bytes(key: Array, sources: Sequence[Manifold], count: int) -> tuple[np.ndarray, np.ndarray]:
    """About ``count`` images as bytes, equally many of each class, and their classes."""
    share = count // len(sources)
    _, images = draw_images(key, sources, share)
    rows = [np.asarray(jnp.round(255 * jnp.clip(part, 0, 1)), np.uint8) for part in images]
    return np.concatenate(rows), np.repeat(np.arange(len(sources)), share)


NETWORKS = ("vae", "classifier")
ACTIVATIONS = {"relu": nnx.relu, "softplus": nnx.softplus, "silu": nnx.silu}
CHUNK = 50  # steps compiled together
KEPT = 10_000  # steps between two checkpoints of a training that can be taken further
_MOST_BYTES = 8 * 2**30  # of jets, on a machine of 16 GiB


class Trial(NamedTuple):
    """Data, and runs that differ by their seed, with their checkpoints: what every experiment is given."""

    settings: Settings
    charts: Charts
    images: UInt8[np.ndarray, "n h w"]
    labels: Int[np.ndarray, "n"]
    initial: Pure  # its parameters are stacked over the runs
    folder: Path
    metrics: dict[str, np.ndarray]  # of the training, (steps, runs, ...); empty before it

    @property
    def name(self) -> str:
        """What is learnt, for titles."""
        data, network, variant, activation, *_ = self.settings
        return f"{data}, {f'beta-VAE {variant}' if network == 'vae' else 'LeNet'}, {activation}"

    @property
    def likelihood(self) -> str:
        """Likelihood of the pixels, as in :class:`manifold_jax.models.Objective`."""
        return "gaussian" if self.settings.data == "coil20" else "bernoulli"

    @property
    def steps(self) -> list[int]:
        """Checkpoints up to the end of the training."""
        return [step for step in models.checkpoint_steps(self.folder) if step <= self.settings.steps]

    @property
    def nearest_marks(self) -> list[int]:
        """Checkpoints nearest to the marks: a training that was taken further lacks some of these."""
        return sorted({min(self.steps, key=lambda step: abs(step - mark)) for mark in self.settings.marks})

    def networks(self, step: int) -> list[Pure]:
        """The networks of all runs at one checkpoint."""
        stacked = models.load_params(self.folder, self.initial.params, step)
        runs = range(self.settings.seeds)
        params = [jax.device_put(jax.tree.map(lambda leaf, k=k: leaf[k], stacked)) for k in runs]
        return [Pure(self.initial.apply, part) for part in params]

    def compute(self, jobs: Sequence[tuple[str, Layers, Callable[[], Any]]], progress: Progress) -> list[Any]:
        """What jobs give, for JSON, by a name and the network that each is about; finished ones are kept."""
        # More steps of the same training, other checkpoints and more runs change nothing here.
        settings = self.settings._replace(path=None, steps=0, checkpoints=1, seeds=1)._asdict()
        about = {"settings": settings, "data": digest_arrays(self.images, self.labels)}
        names = [
            cell_name(job=name, network=digest_arrays(*jax.tree.leaves(layers.functions)), **about)
            for name, layers, _ in jobs
        ]
        wanted = [(name, job) for name, (_, _, job) in zip(names, jobs, strict=True)]
        return Cells(self.folder.parent / "layers.cells.jsonl").fill(wanted, progress)

    def layers(self, step: int) -> list[Layers]:
        """Their layers."""
        return [models.network_layers(network) for network in self.networks(step)]


def prepare(settings: Settings, folder: Path) -> Trial:
    """Data and initial networks; ValueError where the settings make no sense."""
    nnx.eval_shape(lambda: _build_network(settings, 0))  # refuses an architecture before anything is read
    charts = build_charts(settings)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    runs = [models.pure(_build_network(settings, seed)) for seed in seeds]
    points = sum(chart.grid.size for chart in charts.measured)
    if settings.lattice is not None:  # only those of the pairs are held
        points = settings.classes * settings.pairs**settings.factors
    _refuse_too_large(runs[0], charts.measured[0], points)
    images, labels = draw_bytes(jax.random.key(settings.seed), charts.sources, settings.images)
    params = jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *(run.params for run in runs)))
    return Trial(settings, charts, images, labels, Pure(runs[0].apply, params), folder, {})


def _build_network(settings: Settings, seed: int) -> nnx.Module:
    activation, rngs = ACTIVATIONS[settings.activation], nnx.Rngs(seed)
    options = {"size": settings.size, "activation": activation, "rngs": rngs}
    if settings.network == "classifier":
        kind = LeNet if settings.activation == "relu" else SmoothLeNet  # a maximum has kinks too
        return kind(classes=settings.classes, **options)
    sizes = {name: getattr(settings, name) for name in ("variant", "latent", "width", "hidden")}
    return BetaVAE(**sizes, **options)


def check(settings: Settings) -> None:
    """Refuse names that are unknown and sizes that do not fit each other."""
    for name, known in {"data": DATA, "network": NETWORKS, "activation": ACTIVATIONS}.items():
        choice("layers", name, getattr(settings, name), known)
    optional(positive, "layers", "learning_rate", settings.learning_rate)
    for name in ("seeds", "steps", "factors", "pairs", "checkpoints"):
        whole("layers", name, getattr(settings, name))
    count = len(VIEWS if settings.data == "coil20" else FACTORS)
    if settings.factors > count:
        raise ValueError(f"{settings.data} has {count} factors, got {settings.factors} to measure.")
    if settings.network == "classifier" and settings.factors >= settings.classes:
        room = f"{settings.classes} classes have room for {settings.classes - 1} factors at most"
        remedy = f"got {settings.factors}: measure fewer, or take an autoencoder"
        raise ValueError(f"the log-probabilities of {room}, {remedy}.")
    batch = settings.batch_size * settings.seeds
    if settings.images // settings.classes * settings.classes < batch:
        total = f"got {settings.images} images in all"
        raise ValueError(f"{settings.seeds} runs take {batch} images a step, {total}.")


def _refuse_too_large(network: Pure, chart: Manifold, points: int) -> None:
    """The jets of all points of two layers are held at once, for the pairs of the reach."""
    image = jax.ShapeDtypeStruct(chart.feature_shape, jnp.float32)
    sizes = jax.eval_shape(models.network_layers(network).activations, image)
    largest = max(math.prod(part.shape) for part in sizes)
    d = chart.grid.ndim
    vectors = 1 + d * (d + 3) // 2  # the point, its first and its second derivatives
    bytes_held = 8 * points * vectors * largest
    if bytes_held > _MOST_BYTES:
        need = f"{bytes_held / 2**30:.0f} GiB for {points} points"
        remedy = "measure fewer factors, or smaller images"
        raise ValueError(f"the derivatives in the largest layer would take {need}: {remedy}.")


def learn(trial: Trial, progress: Progress) -> Trial:
    """Train all runs at once, or go on where it was, and add the metrics of the training.

    Checkpoints are those of step 0 (the random network), a twentieth and a quarter of the steps, and the end,
    and with ``capacity_steps``, which lets the training be taken further, some on the way. ValueError where
    the training diverges, or the folder holds another one.
    """
    settings, steps = trial.settings, trial.settings.steps
    slow = settings.network == "vae" and settings.variant == "H" and settings.data == "coil20"
    rate = settings.learning_rate or (1e-4 if slow else 5e-4)
    # Another loss on the same data is another training: checkpoints tell runs apart by their key.
    weights = f"beta {settings.beta}, gamma {settings.gamma}, capacity {settings.capacity}"
    length = f"{steps} steps"
    if settings.capacity_steps is not None:
        length = f"capacity after {settings.capacity_steps} steps"
    words = f"{trial.name}, {length}, learning rate {rate}, {weights}"
    trained = models.train(
        models.over_seeds(_loss(trial), settings.seeds),
        trial.initial.params,
        (trial.images, trial.labels),
        key=jax.random.fold_in(jax.random.key(settings.seed), zlib.crc32(words.encode())),
        steps=steps,
        batch_size=settings.batch_size * settings.seeds,
        optimizer=optax.adam(rate),
        chunk=min(CHUNK, steps),
        folder=trial.folder,
        save_at=settings.marks,
        save_every=None if settings.capacity_steps is None else KEPT,
        progress=progress,
    ).or_raise("take a smaller learning rate")
    return trial._replace(metrics=trained.metrics)


def _loss(trial: Trial) -> Loss:
    """Loss of one run."""
    settings, apply = trial.settings, trial.initial.apply
    if settings.network == "classifier":
        return models.classification_loss(apply)
    options = {name: getattr(settings, name) for name in ("beta", "gamma", "capacity")}
    options |= {"capacity_steps": settings.capacity_steps or settings.steps, "likelihood": trial.likelihood}
    return models.beta_vae_loss(apply, Objective(settings.variant, **options))


def split_at_latent(layers: Layers) -> tuple[Layers, Layers]:
    """Encoder, which ends in the latent, and decoder of an autoencoder."""
    names, functions = layers
    middle = names.index("latent") + 1
    return Layers(names[:middle], functions[:middle]), Layers(names[middle:], functions[middle:])


def layer_arrays(chart: Manifold, layers: Layers, points: Float[Any, "n d"]) -> Iterator[Array]:
    """Activations ``(n, *shape)`` at chart points, of the input and of one layer after the other."""
    x = evaluate(chart.embedding, jnp.asarray(points))
    yield x
    yield from forward(layers.functions, x)


def forward(functions: Sequence[Partial], x: Array) -> Iterator[Array]:
    """Activations of a batch in one layer after the other."""
    for function in functions:
        x = evaluate(function, x)
        yield x


def output(layers: Layers, x: Array) -> Array:
    """Activations of a batch in the last layer, by one program."""
    return evaluate(lambda one: layers.activations(one)[-1], x)
