"""Networks as fitted manifolds: the image of a trained decoder, and points sent to it through the encoder.

The signature is that of the fitters of ``manifold_jax.fitting``: samples in, ``project(points)`` out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from manifold_jax._checks import below, finite, flat, floating, positive, query_rows, whole
from manifold_jax.models.beta_vae import BetaVAE, Objective, beta_vae_loss
from manifold_jax.models.point_autoencoder import PointAutoencoder, denoising_loss, variational_loss
from manifold_jax.models.pure import Apply, Pure, pure
from manifold_jax.models.training import Loss, train

_BLOCK = 256
"""Points that go through a network together."""

_CHUNK = 500
"""Steps compiled together at most."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "shift", "scale"],
    meta_fields=["apply", "features"],
)
@dataclass(frozen=True)
class NetworkFit:
    """A trained autoencoder with the scaling of its inputs; a pytree whose leaves are arrays.

    Attributes:
        params: Parameters of the network.
        shift: Subtracted from points, ``(*features)`` or a number.
        scale: Points are divided by it; one number, so that angles and ratios of lengths stay.
        apply: The network, one standardised point to another.
        features: Feature shape of a point.
    """

    params: Any
    shift: Float[Array, "*features"]
    scale: Float[Array, ""]
    apply: Apply
    features: tuple[int, ...]


class _Task(NamedTuple):
    """What is trained: a network, standardised data, and how these were standardised."""

    network: Pure
    data: Array
    shift: Array
    scale: Array
    features: tuple[int, ...]


class _Options(NamedTuple):
    """Size of the network and length of the training."""

    latent: int | None
    width: int
    channels: int
    steps: int
    batch_size: int
    learning_rate: float


def denoising_autoencoder(
    samples: Float[Any, "n *features"],
    *,
    dimension: int,
    key: PRNGKeyArray,
    steps: int = 2000,
    noise: float = 0.05,
    latent: int | None = None,
    width: int = 64,
    channels: int = 16,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    progress: Callable[[int, int], None] | None = None,
) -> Partial:
    """Fit a manifold by an autoencoder that learns to take noise away (Vincent et al., ICML 2008).

    Minimises E |r(x + noise) - x|^2. What it tends to is E[x | x + noise] (Alain & Bengio, JMLR 15, 2014): on
    a manifold of curvature kappa that is inside the curve by about kappa noise^2 / 2, an error that more
    samples do not mend. Points are standardised by their mean and one common scale, images (square, of a
    side that is a multiple of 16) by their least and largest pixel; these travel with the result.

    Args:
        samples: n points of any feature shape. Square images go through the convolutions of
            :class:`BetaVAE`, all else through a :class:`PointAutoencoder`, with smooth activations.
        dimension: d, below the number of features.
        key: Key of initial weights, order and noise: equal keys give equal fits.
        steps: Steps of Adam, with a learning rate that falls to 0 along a cosine.
        noise: Standard deviation, a share of the standard deviation of all samples about their mean, in the
            root mean square over the features.
        latent: Bottleneck, at least d; by default d + 1: a closed manifold such as a circle has no
            continuous injective map to R^d.
        width: Units of a hidden layer.
        channels: Channels of the first convolution, for images.
        batch_size: Samples of a step, or all where there are fewer.
        learning_rate: Learning rate of the first step.
        progress: Function that is called with the steps made and all of them.

    Returns:
        ``project(points)``, a ``jax.tree_util.Partial`` that maps ``(*batch, *features)`` (or ``(q, f)``) to
        decoded encodings of the same shape and type, computed in float32. It may be passed through ``jit``
        (other samples of the same shape do not retrace), ``vmap``, ``jvp`` and ``grad``.

    Raises:
        ValueError: Shapes, types or ranges do not fit, all samples coincide, or the training diverged.

    Example:
        >>> from manifold_jax.models.manifold_fits import denoising_autoencoder
        >>> t = jnp.linspace(0.0, 2 * jnp.pi, 64, endpoint=False)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> project = denoising_autoencoder(circle, dimension=1, key=jax.random.key(0), steps=200, width=16)
        >>> project(circle).shape
        (64, 2)
    """
    caller = "denoising_autoencoder"
    positive(caller, "noise", noise)
    options = _Options(latent, width, channels, steps, batch_size, learning_rate)
    key_weights, key_steps = jax.random.split(key)
    task = _prepare(caller, samples, dimension, options, key_weights)
    deviation = jnp.sqrt(jnp.mean((task.data - jnp.mean(task.data, axis=0)) ** 2))
    scales = jnp.full(len(task.data), noise * deviation, task.data.dtype)
    loss = denoising_loss(task.network.apply)
    return _train(caller, task, loss, (task.data, scales), key_steps, options, progress)


def variational_autoencoder(
    samples: Float[Any, "n *features"],
    *,
    dimension: int,
    key: PRNGKeyArray,
    steps: int = 2000,
    latent: int | None = None,
    objective: Objective | None = None,
    width: int = 64,
    channels: int = 16,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    progress: Callable[[int, int], None] | None = None,
) -> Partial:
    """Fit a manifold by a beta-VAE: points go to the decoded *mean* of their latent, without sampling.

    Standardised and built as :func:`denoising_autoencoder`. The noise of the latent blurs the fit: its error
    too has a part that more samples do not mend.

    Args:
        samples: As for :func:`denoising_autoencoder`.
        dimension: d, below the number of features.
        key: As for :func:`denoising_autoencoder`.
        steps: As for :func:`denoising_autoencoder`.
        latent: Dimension of z, at least d; by default d + 1.
        objective: Weights of the loss. By default H with beta = 0.005, a decoder noise of 0.05 in
            standardised units; for images B with gamma = 100 and a capacity of 20 nats reached at the last
            step, cross-entropy of pixels (Koulakis & Seibold, ICML 2026).
        width: As for :func:`denoising_autoencoder`.
        channels: As for :func:`denoising_autoencoder`.
        batch_size: As for :func:`denoising_autoencoder`.
        learning_rate: As for :func:`denoising_autoencoder`.
        progress: As for :func:`denoising_autoencoder`.

    Returns:
        ``project(points)``, as from :func:`denoising_autoencoder`.

    Raises:
        ValueError: Shapes, types or ranges do not fit, all samples coincide, or the training diverged.

    Example:
        >>> from manifold_jax.models.manifold_fits import variational_autoencoder
        >>> t = jnp.linspace(0.0, 2 * jnp.pi, 64, endpoint=False)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> project = variational_autoencoder(circle, dimension=1, key=jax.random.key(0), steps=200, width=16)
        >>> project(circle).shape
        (64, 2)
    """
    caller = "variational_autoencoder"
    options = _Options(latent, width, channels, steps, batch_size, learning_rate)
    key_weights, key_steps = jax.random.split(key)
    task = _prepare(caller, samples, dimension, options, key_weights)
    images = _are_images(task.features)
    if objective is None:
        objective = Objective("B", capacity_steps=steps) if images else Objective("H", beta=0.005)
    loss = (beta_vae_loss if images else variational_loss)(task.network.apply, objective)
    return _train(caller, task, loss, (task.data,), key_steps, options, progress)


def _are_images(features: tuple[int, ...]) -> bool:
    """Whether points of this shape go through convolutions: square, of a side that four strides halve."""
    return len(features) in (2, 3) and features[0] == features[1] and features[0] % 16 == 0


def _prepare(caller: str, samples: Any, dimension: Any, options: _Options, key: PRNGKeyArray) -> _Task:
    """Checked and standardised samples, and the network for them."""
    for name in ("width", "channels", "steps", "batch_size"):
        whole(caller, name, getattr(options, name))
    positive(caller, "learning_rate", options.learning_rate)
    samples = floating(caller, "samples", samples)
    if len(samples) < 2:
        raise ValueError(f"{caller}: samples must be at least 2 points, got {len(samples)}.")
    finite(caller, "samples", samples)
    dimension = below(caller, dimension, flat(samples))
    latent = dimension + 1 if options.latent is None else options.latent
    whole(caller, "latent", latent, dimension)
    features = samples.shape[1:]
    images = _are_images(features)
    data, shift, scale = _standardise(samples.astype(jnp.float32), images)
    if not float(scale) > 0:
        raise ValueError(f"{caller}: all samples coincide: there is nothing to fit.")
    rngs = nnx.Rngs(key)
    network = (
        BetaVAE(
            size=features[0],
            channels=features[2] if len(features) == 3 else 1,
            latent=latent,
            width=options.channels,
            hidden=options.width,
            activation=nnx.silu,
            rngs=rngs,
        )
        if images
        else PointAutoencoder(features=math.prod(features), latent=latent, width=options.width, rngs=rngs)
    )
    return _Task(pure(network), data, shift, scale, features)


def _standardise(samples: Array, images: bool) -> tuple[Array, Array, Array]:
    """Pixels in [0, 1], or rows about 0 with a mean square of 1; with shift and scale."""
    if images:
        shift = jnp.min(samples)
        scale = jnp.max(samples) - shift
        return (samples - shift) / jnp.where(scale > 0, scale, 1), shift, scale
    shift = jnp.mean(samples, axis=0)
    scale = jnp.sqrt(jnp.mean((samples - shift) ** 2))
    rows = (samples - shift).reshape(len(samples), -1) / jnp.where(scale > 0, scale, 1)
    return rows, shift, scale


@lru_cache(maxsize=32)
def _optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """One object, so that it is compiled once."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def _train(
    caller: str,
    task: _Task,
    loss: Loss,
    data: Any,
    key: PRNGKeyArray,
    options: _Options,
    progress: Callable[[int, int], None] | None,
) -> Partial:
    """Train, and wrap the result."""
    steps = int(options.steps)
    run = train(
        loss,
        task.network.params,
        data,
        key=key,
        steps=steps,
        batch_size=min(int(options.batch_size), len(task.data)),
        optimizer=_optimizer(float(options.learning_rate), steps),
        chunk=min(steps, _CHUNK),
        progress=progress,
    )
    if not run.finite:
        raise ValueError(
            f"{caller}: the training diverged after {run.steps} steps: take a smaller learning_rate."
        )
    fit = NetworkFit(run.params, task.shift, task.scale, task.network.apply, task.features)
    return Partial(_project, fit)


def _project(fit: NetworkFit, points: Any) -> Array:
    rows, _ = query_rows("project", points, fit.features)
    return decode_points(fit, rows.reshape(-1, *fit.features)).reshape(jnp.shape(points))


@jax.jit
def decode_points(fit: NetworkFit, points: Float[Array, "q *features"]) -> Float[Array, "q *features"]:
    """Points through the network, a block at a time, in their own units and dtype."""
    scaled = (points.astype(fit.shift.dtype) - fit.shift) / fit.scale
    shape = fit.features if _are_images(fit.features) else (-1,)
    rows = scaled.reshape(len(points), *shape)
    decoded = jax.lax.map(lambda x: fit.apply(fit.params, x), rows, batch_size=min(_BLOCK, len(rows)))
    return (fit.shift + fit.scale * decoded.reshape(points.shape)).astype(points.dtype)
