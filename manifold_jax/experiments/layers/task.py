"""What the experiments on layers start from: images of known geometry, several networks trained on them."""

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
from jaxtyping import Array, Float, Int

from manifold_jax._files import Progress
from manifold_jax.experiments.layers.data import DATA, SHAPES, VIEWS, Settings, controlled, drawn
from manifold_jax.experiments.sprites import FACTORS, SmoothLeNet, render
from manifold_jax.geometry import Manifold
from manifold_jax.models import (
    Apply,
    BetaVAE,
    Layers,
    LeNet,
    Objective,
    Pure,
    beta_vae_loss,
    checkpoint_steps,
    classification_loss,
    load_params,
    network_layers,
    over_seeds,
    pure,
    train,
)
from manifold_jax.models.training import Loss

NETWORKS = ("vae", "classifier")
ACTIVATIONS = {"relu": nnx.relu, "softplus": nnx.softplus, "silu": nnx.silu}
_ROOM = 8 * 2**30


class Task(NamedTuple):
    """Data, and runs that differ by their seed.

    Attributes:
        name: What it is, for titles.
        charts: Manifolds that are measured, one for each class.
        fine: The first of them on the finer grid.
        sources: Manifolds that the images were drawn from, one for each class, of all factors.
        images: To learn from, bytes.
        labels: Class of each.
        apply: The network.
        params: Initial ones, stacked over the runs.
        settings: Size.
        loss: Of one run.
        activation: Its non-linearity.
        learning_rate: Of Adam.
        is_vae: Whether it is a beta-VAE.
        likelihood: Of its pixels, as in :class:`Objective`.
    """

    name: str
    charts: Sequence[Manifold]
    fine: Manifold
    sources: Sequence[Manifold]
    images: np.ndarray
    labels: Int[np.ndarray, "n"]
    apply: Apply
    params: Any
    settings: Settings
    loss: Any
    activation: str
    learning_rate: float
    is_vae: bool
    likelihood: str


class Trial(NamedTuple):
    """What an experiment is given.

    Attributes:
        task: What was learnt.
        folder: Of the checkpoints.
        seed: Of all random choices.
        progress: Called with the work done and all of it.
    """

    task: Task
    folder: Path
    seed: int = 0
    progress: Progress | None = None

    @property
    def steps(self) -> list[int]:
        """Checkpoints up to the end of the training."""
        return [step for step in checkpoint_steps(self.folder) if step <= self.task.settings.steps]

    def networks(self, step: int) -> list[Pure]:
        """The networks of all runs at one checkpoint, which is read once."""
        stacked = load_params(self.folder, self.task.params, step)
        return [Pure(self.task.apply, run_params(stacked, k)) for k in range(self.task.settings.seeds)]

    def layers(self, step: int, run: int) -> Layers:
        """The layers of one of them."""
        return network_layers(self.networks(step)[run])

    def tell(self, done: int, total: int) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(done, total)


def run_params(stacked: Any, run: int) -> Any:
    """Parameters of one run."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[run]), stacked)


def task(
    data: str,
    network: str,
    settings: Settings,
    *,
    variant: str = "B",
    activation: str = "softplus",
    path: Path | None = None,
    seed: int = 0,
) -> Task:
    """Data and initial networks.

    Args:
        data: One of ``DATA``.
        network: ``"vae"`` or ``"classifier"``, a LeNet that tells the classes apart.
        settings: Size.
        variant: Of the beta-VAE, ``"B"`` or ``"H"``, with the objective of the same name.
        activation: One of ``ACTIVATIONS``.
        path: Where COIL-20 is.
        seed: Of the images and of the first run.

    Returns:
        The task.

    Raises:
        ValueError: A name is unknown or a size out of range.
        FileNotFoundError: COIL-20 is not there.
    """
    options = (("data", data, DATA), ("network", network, NETWORKS), ("activation", activation, ACTIVATIONS))
    for name, value, known in options:
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    _check(data, network, settings)
    make = _network(data, network, settings, variant, activation)
    manifolds = controlled(data, settings, path)
    _refuse_too_large(pure(make(seed)), manifolds.charts)
    images, labels = drawn(jax.random.key(seed), manifolds.sources, settings.images)
    runs = [pure(make(seed + k)) for k in range(settings.seeds)]
    is_vae = network == "vae"
    likelihood = "gaussian" if data == "coil20" else "bernoulli"
    slow = is_vae and variant == "H" and data == "coil20"
    return Task(
        name=f"{data}, {f'beta-VAE {variant}' if is_vae else 'LeNet'}, {activation}",
        charts=manifolds.charts,
        fine=manifolds.fine,
        sources=manifolds.sources,
        images=images,
        labels=labels,
        apply=runs[0].apply,
        params=jax.tree.map(lambda *leaves: jnp.stack(leaves), *(run.params for run in runs)),
        settings=settings,
        loss=_loss(runs[0].apply, likelihood, is_vae, variant, settings),
        activation=activation,
        learning_rate=settings.learning_rate or (1e-4 if slow else 5e-4),
        is_vae=is_vae,
        likelihood=likelihood,
    )


def _loss(apply: Apply, likelihood: str, is_vae: bool, variant: str, settings: Settings) -> Loss:
    """Of one run."""
    if not is_vae:
        return classification_loss(apply)
    objective = Objective(
        variant,
        beta=settings.beta,
        gamma=settings.gamma,
        capacity=settings.capacity,
        capacity_steps=settings.steps,
        likelihood=likelihood,
    )
    return beta_vae_loss(apply, objective)


def _check(data: str, network: str, settings: Settings) -> None:
    """Refuse sizes that do not fit each other."""
    if not (settings.learning_rate is None or settings.learning_rate > 0):
        raise ValueError(f"learning_rate must be positive, got {settings.learning_rate}.")
    if settings.seeds < 1 or settings.steps < 1:
        raise ValueError(f"seeds and steps must be at least 1, got {settings.seeds} and {settings.steps}.")
    known = len(VIEWS) if data == "coil20" else len(FACTORS)
    if not 1 <= settings.factors <= known:
        raise ValueError(f"{data} has {known} factors, got {settings.factors} to measure.")
    classes = settings.objects if data == "coil20" else len(SHAPES)
    if network == "classifier" and settings.factors >= classes:
        raise ValueError(
            f"the log-probabilities of {classes} classes have room for {classes - 1} factors at most, got "
            f"{settings.factors}: measure fewer, or take an autoencoder."
        )
    batch = settings.batch_size * settings.seeds
    if settings.images // classes * classes < batch:
        raise ValueError(
            f"{settings.seeds} runs take {batch} images a step, got {settings.images} images in all."
        )


def _refuse_too_large(network: Pure, charts: Sequence[Manifold]) -> None:
    """The jets of all points of a layer are held at once, for the pairs of the reach."""
    image = jax.ShapeDtypeStruct(charts[0].feature_shape, jnp.float32)
    sizes = jax.eval_shape(network_layers(network).activations, image)
    largest = max(math.prod(part.shape) for part in sizes)
    d = charts[0].grid.ndim
    bytes_held = 8 * sum(chart.grid.size for chart in charts) * (1 + d * (d + 3) // 2) * largest
    if bytes_held > _ROOM:
        raise ValueError(
            f"the derivatives in the largest layer would take {bytes_held / 2**30:.0f} GiB on grids of "
            f"{charts[0].grid.shape}: measure fewer factors, or smaller images."
        )


def _network(
    data: str, network: str, settings: Settings, variant: str, activation: str
) -> Callable[[int], nnx.Module]:
    """Constructor of a network from its seed; the architecture is refused here if it makes no sense."""
    function = ACTIVATIONS[activation]

    def vae(seed: int) -> BetaVAE:
        return BetaVAE(
            variant=variant,
            size=settings.size,
            latent=settings.latent,
            width=settings.width,
            hidden=settings.hidden,
            activation=function,
            rngs=nnx.Rngs(seed),
        )

    def classifier(seed: int) -> LeNet:
        classes = len(SHAPES) if data == "sprites" else settings.objects
        # A maximum has kinks too.
        kind = LeNet if activation == "relu" else SmoothLeNet
        return kind(classes=classes, size=settings.size, activation=function, rngs=nnx.Rngs(seed))

    make = vae if network == "vae" else classifier
    nnx.eval_shape(lambda: make(0))
    return make


# --- learning ----------------------------------------------------------------------------------------------


def marks(steps: int) -> tuple[int, ...]:
    """Checkpoints: random, early, middle and final."""
    return tuple(sorted({0, max(1, steps // 20), max(1, steps // 4), steps}))


def learn(
    found: Task, folder: Path, seed: int = 0, progress: Progress | None = None
) -> dict[str, np.ndarray]:
    """Train all runs at once, or go on where it was.

    Args:
        found: What to learn.
        folder: Of the checkpoints.
        seed: Of order and noise.
        progress: Called with the steps made and all of them.

    Returns:
        Metrics, the first axis steps, the second runs.

    Raises:
        ValueError: The training diverged, or the folder holds another one.
    """
    settings = found.settings
    # Another loss on the same data is another training: checkpoints tell runs apart by their key.
    weights = f"beta {settings.beta}, gamma {settings.gamma}, capacity {settings.capacity}"
    words = f"{found.name}, {settings.steps} steps, learning rate {found.learning_rate}, {weights}"
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(words.encode()))
    done = train(
        over_seeds(found.loss, settings.seeds),
        found.params,
        (found.images, found.labels),
        key=key,
        steps=settings.steps,
        batch_size=settings.batch_size * settings.seeds,
        optimizer=optax.adam(found.learning_rate),
        chunk=min(50, settings.steps),
        folder=folder,
        save_at=marks(settings.steps),
        progress=progress,
    )
    if not done.finite:
        raise ValueError(f"the training diverged after {done.steps} steps: it needs a smaller learning rate.")
    return done.metrics


# --- points ------------------------------------------------------------------------------------------------


def layer_arrays(chart: Manifold, layers: Layers, points: Float[Any, "n d"]) -> Iterator[Array]:
    """Activations ``(n, *shape)`` at chart points, of the input and of one layer after the other."""
    x = render(chart.embedding, jnp.asarray(points))
    yield x
    yield from forward(layers.functions, x)


def forward(functions: Sequence[Partial], x: Array) -> Iterator[Array]:
    """Activations of a batch in one layer after the other."""
    for function in functions:
        x = _mapped(function, x)
        yield x


@jax.jit
def _mapped(function: Any, x: Array) -> Array:
    return jax.lax.map(function, x, batch_size=min(64, len(x)))
