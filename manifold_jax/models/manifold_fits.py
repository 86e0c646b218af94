"""Networks as fitted manifolds: the image of a trained decoder, and points sent to it through the encoder.

As in ``manifold_jax.fitting``: samples in, ``project(points)`` out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from manifold_jax import _checks
from manifold_jax._checks import flat, instance, optional, positive, query_rows, whole
from manifold_jax._files import Progress
from manifold_jax._linalg import map_blocks
from manifold_jax.models.autoencoders import BetaVAE, Objective, PointAutoencoder, beta_vae_loss
from manifold_jax.models.pure import Apply, pure
from manifold_jax.models.training import Loss, train

_BLOCK = 256  # points that go through a network together
_CHUNK = 500  # steps that are compiled together, at most


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NetworkFit:
    """A trained autoencoder with the scaling of its inputs; a pytree whose leaves are arrays."""

    params: Any  # of the network
    shift: Float[Array, "*features"]  # subtracted from points; for images one number
    scale: Float[Array, ""]  # divides points; one number, so that angles and ratios of lengths stay
    apply: Apply = field(metadata={"static": True})  # one standardised point to another
    features: tuple[int, ...] = field(metadata={"static": True})  # shape of a point


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
    progress: Progress | None = None,
) -> Partial:
    """Fit a manifold by an autoencoder that learns to remove noise (Vincent et al., ICML 2008).

    Minimises E |r(x + e) - x|^2 for noise e of standard deviation sigma. It tends to E[x | x + e] (Alain &
    Bengio, JMLR 15, 2014): on a curve of curvature kappa that lies inside by about kappa sigma^2 / 2, an
    error that more samples do not reduce. Points are standardised by their mean and one common scale, images
    (square, of a side that is a multiple of 16) by their extreme pixels; these travel with the result.

    Args:
        samples: n points of any feature shape. Such images go through the convolutions of :class:`BetaVAE`,
            everything else through a :class:`PointAutoencoder`, with smooth activations.
        dimension: d, below the number of features.
        key: Key of initial weights, order and noise: equal keys give equal fits.
        steps: Steps of Adam; the learning rate falls to 0 along a cosine.
        noise: sigma, relative to the root mean square over samples and features of what is about the mean.
        latent: Bottleneck, at least d; by default d + 1: a closed manifold such as a circle has no
            continuous injective map to R^d.
        width: Units of a hidden layer.
        channels: Channels of the first convolution, for images.
        batch_size: Samples of a step, or all where there are fewer.
        learning_rate: Learning rate of the first step.
        progress: Function that is called with the number of steps made and of all.

    Returns:
        ``project(points)``, a ``jax.tree_util.Partial`` that maps ``(*batch, *features)`` (or ``(q, f)``) to
        decoded encodings of the same shape and type, computed in float32. It may be passed through ``jit``
        (other samples of the same shape do not retrace), ``vmap``, ``jvp`` and ``grad``.

    Raises:
        ValueError: Shapes, types or ranges do not fit, all samples coincide, or the training diverged.

    Example:
        >>> t = jnp.linspace(0.0, 2 * jnp.pi, 64, endpoint=False)
        >>> circle, options = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1), {"steps": 200, "width": 16}
        >>> project = mj.models.denoising_autoencoder(circle, dimension=1, key=jax.random.key(0), **options)
        >>> project(circle).shape
        (64, 2)
    """
    positive("denoising_autoencoder", "noise", noise)

    def task(apply: Apply, rows: Array) -> tuple[Loss, Any]:
        deviation = jnp.sqrt(jnp.mean((rows - jnp.mean(rows, axis=0)) ** 2))
        return _denoising_loss(apply), (rows, jnp.full(len(rows), noise * deviation, rows.dtype))

    options = {"latent": latent, "width": width, "channels": channels, "steps": steps}
    options |= {"batch_size": batch_size, "learning_rate": learning_rate}
    return _fit("denoising_autoencoder", samples, dimension, task, key, options, progress)


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
    progress: Progress | None = None,
) -> Partial:
    """Fit a manifold by a beta-VAE: points go to the decoded *mean* of their latent, without sampling.

    Arguments, result and errors are those of :func:`denoising_autoencoder`, but that ``objective`` takes the
    place of ``noise``. By default it is H with beta = 0.005, a decoder noise of 0.05 in standardised units;
    for images B with gamma = 100 and a capacity of 20 nats reached at the last step, cross-entropy of pixels
    (Koulakis & Seibold, ICML 2026). The noise of the latent blurs the fit, whatever the samples.

    Example:
        >>> t = jnp.linspace(0.0, 2 * jnp.pi, 64, endpoint=False)
        >>> circle, options = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1), {"steps": 200, "width": 16}
        >>> project = mj.models.variational_autoencoder(circle, dimension=1, key=jax.random.key(0), **options)
        >>> project(circle).shape
        (64, 2)
    """
    if objective is not None:
        instance("variational_autoencoder", "objective", objective, Objective)

    def task(apply: Apply, rows: Array) -> tuple[Loss, Any]:
        if _are_images(rows.shape[1:]):
            return beta_vae_loss(apply, objective or Objective("B", capacity_steps=steps)), (rows,)
        weights = objective or Objective("H", beta=0.005)
        return beta_vae_loss(apply, weights._replace(likelihood="points")), (rows,)

    options = {"latent": latent, "width": width, "channels": channels, "steps": steps}
    options |= {"batch_size": batch_size, "learning_rate": learning_rate}
    return _fit("variational_autoencoder", samples, dimension, task, key, options, progress)


def _are_images(features: tuple[int, ...]) -> bool:
    """Whether points of this shape go through convolutions: square, of a side that four strides halve."""
    return len(features) in (2, 3) and features[0] == features[1] and features[0] % 16 == 0


def _network(features: tuple[int, ...], latent: int, width: int, channels: int, rngs: nnx.Rngs) -> nnx.Module:
    """The network for points of this shape; the channels are those of the first convolution."""
    if not _are_images(features):
        return PointAutoencoder(features=math.prod(features), latent=latent, width=width, rngs=rngs)
    sizes: dict[str, Any] = {"size": features[0], "channels": features[2] if len(features) == 3 else 1}
    sizes |= {"latent": latent, "width": channels, "hidden": width}
    return BetaVAE(**sizes, activation=nnx.silu, rngs=rngs)


@lru_cache(maxsize=32)
def _denoising_loss(apply: Apply) -> Loss:
    """Mean squared error of noisy points; a batch is (points, standard deviation of the noise of each)."""

    def loss(params: Any, batch: Any, key: Array, _step: Array) -> tuple[Array, dict[str, Array]]:
        points, sigma = batch
        noise = jax.random.normal(key, points.shape, points.dtype)
        noisy = points + noise * sigma.reshape(-1, *(1,) * (points.ndim - 1))
        cleaned = jax.vmap(apply, (None, 0))(params, noisy)
        return jnp.mean((cleaned.reshape(points.shape) - points) ** 2), {}

    return loss


@lru_cache(maxsize=32)
def _optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """One object, so that it is compiled once."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def _fit(
    caller: str,
    samples: Any,
    dimension: Any,
    task: Callable[[Apply, Array], tuple[Loss, Any]],
    key: PRNGKeyArray,
    options: dict[str, Any],
    progress: Progress | None,
) -> Partial:
    """Train a network for the samples, with the loss and the data that ``task`` makes of them."""
    _checks.random_key(caller, "key", key)
    optional(_checks.checked_function, caller, "progress", progress)
    for name in ("width", "channels", "steps", "batch_size"):
        options[name] = whole(caller, name, options[name])
    positive(caller, "learning_rate", options["learning_rate"])
    samples = _checks.floating(caller, "samples", samples)
    if len(samples) < 2:
        raise ValueError(f"{caller}: samples must be at least 2 points, got {len(samples)}.")
    _checks.finite(caller, "samples", samples)
    dimension = _checks.below(caller, dimension, flat(samples))
    latent = optional(whole, caller, "latent", options["latent"], dimension) or dimension + 1
    features, samples = samples.shape[1:], samples.astype(jnp.float32)
    images = _are_images(features)
    shift = jnp.min(samples) if images else jnp.mean(samples, axis=0)
    scale = jnp.max(samples) - shift if images else jnp.sqrt(jnp.mean((samples - shift) ** 2))
    if not float(scale) > 0:
        raise ValueError(f"{caller}: all samples coincide: there is nothing to fit.")
    key_weights, key_steps = jax.random.split(key)
    network = _network(features, latent, options["width"], options["channels"], nnx.Rngs(key_weights))
    apply, params = pure(network)
    fit = NetworkFit(params, shift, scale, apply, features)
    loss, data = task(apply, _standardise(fit, samples))
    steps, batch_size = int(options["steps"]), min(int(options["batch_size"]), len(samples))
    sizes: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "chunk": min(steps, _CHUNK)}
    optimizer = _optimizer(float(options["learning_rate"]), steps)
    run = train(loss, params, data, key=key_steps, optimizer=optimizer, progress=progress, **sizes)
    run.or_raise("take a smaller learning_rate")
    return Partial(_project, replace(fit, params=run.params))


def _standardise(fit: NetworkFit, points: Array) -> Array:
    """Inputs of the network: pixels in [0, 1], or flat rows about 0 with a mean square of 1."""
    scaled = (points.astype(fit.shift.dtype) - fit.shift) / fit.scale
    return scaled if _are_images(fit.features) else flat(scaled)


def _project(fit: NetworkFit, points: Any) -> Array:
    rows, _ = query_rows("project", points, fit.features)
    return decode_points(fit, rows.reshape(-1, *fit.features)).reshape(jnp.shape(points))


@jax.jit
def decode_points(fit: NetworkFit, points: Float[Array, "q *features"]) -> Float[Array, "q *features"]:
    """Points through the network, a block at a time, in their own units and dtype."""
    rows = _standardise(fit, points)
    decoded = map_blocks(jax.vmap(lambda x: fit.apply(fit.params, x)), _BLOCK, rows)
    return (fit.shift + fit.scale * decoded.reshape(points.shape)).astype(points.dtype)
