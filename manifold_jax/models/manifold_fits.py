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
import numpy as np
import optax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from manifold_jax.models.beta_vae import BetaVAE, Objective, beta_vae_loss
from manifold_jax.models.point_autoencoder import PointAutoencoder, denoising_loss, variational_loss
from manifold_jax.models.pure import Apply, Pure, pure
from manifold_jax.models.training import Loss, train

_BLOCK = 256


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "shift", "scale"],
    meta_fields=["apply", "features"],
)
@dataclass(frozen=True)
class NetworkFit:
    """A trained autoencoder with the scaling of its inputs; a pytree whose leaves are arrays.

    Attributes:
        params: Of the network.
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
    images: bool


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
    a manifold of curvature kappa that is inside of the curve by about kappa noise^2 / 2, an error that more
    samples do not mend. Points are standardised by their mean and one common scale, images (square, of a
    side that is a multiple of 16) by their least and largest pixel; these travel with the result.

    Args:
        samples: n points of any feature shape. Square images go through the convolutions of
            :class:`BetaVAE`, all else through a :class:`PointAutoencoder`, with smooth activations.
        dimension: d, below the number of features.
        key: Of initial weights, order and noise: equal keys give equal fits.
        steps: Of Adam, with a learning rate that falls to 0 along a cosine.
        noise: Standard deviation, a share of the standard deviation of all samples about their mean, in the
            root mean square over the features.
        latent: Bottleneck, at least d; by default d + 1: a closed manifold such as a circle has no
            continuous injective map to R^d.
        width: Units of a hidden layer.
        channels: Of the first convolution, for images.
        batch_size: Samples a step, or all where there are fewer.
        learning_rate: At the first step.
        progress: Called with the steps made and all of them.

    Returns:
        ``project(points)``, a ``jax.tree_util.Partial`` that maps ``(*batch, *features)`` (or ``(q, f)``) to
        decoded encodings of the same shape and type, computed in float32. It may be passed through ``jit``
        (other samples of the same shape do not retrace), ``vmap``, ``jvp`` and ``grad``.

    Raises:
        ValueError: Shapes, types or ranges do not fit, all samples coincide, or the training diverged.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax.models.manifold_fits import denoising_autoencoder
        >>> t = jnp.linspace(0.0, 2 * jnp.pi, 64, endpoint=False)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> project = denoising_autoencoder(circle, dimension=1, key=jax.random.key(0), steps=200, width=16)
        >>> project(circle).shape
        (64, 2)
    """
    caller = "denoising_autoencoder"
    _check_options(caller, steps=steps, width=width, channels=channels, batch_size=batch_size)
    _positive(caller, noise=noise, learning_rate=learning_rate)
    key_weights, key_steps = jax.random.split(key)
    task = _task(caller, samples, dimension, latent, width, channels, key_weights)
    spread = jnp.sqrt(jnp.mean((task.data - jnp.mean(task.data, axis=0)) ** 2))
    scales = jnp.full(len(task.data), noise * spread, task.data.dtype)
    loss = denoising_loss(task.network.apply)
    return _trained(
        caller, task, loss, (task.data, scales), key_steps, steps, batch_size, learning_rate, progress
    )


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
        samples: n points of any feature shape.
        dimension: d, below the number of features.
        key: Of initial weights, order and noise.
        steps: Of Adam, with a learning rate that falls to 0 along a cosine.
        latent: Dimension of z, at least d; by default d + 1.
        objective: Weights of the loss. By default H with beta = 0.005, a decoder noise of 0.05 in
            standardised units; for images B with gamma = 100 and a capacity of 20 nats reached at the last
            step, cross-entropy of pixels (Koulakis & Seibold, ICML 2026).
        width: Units of a hidden layer.
        channels: Of the first convolution, for images.
        batch_size: Samples a step, or all where there are fewer.
        learning_rate: At the first step.
        progress: Called with the steps made and all of them.

    Returns:
        ``project(points)``, as of :func:`denoising_autoencoder`.

    Raises:
        ValueError: Shapes, types or ranges do not fit, all samples coincide, or the training diverged.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from manifold_jax.models.manifold_fits import variational_autoencoder
        >>> t = jnp.linspace(0.0, 2 * jnp.pi, 64, endpoint=False)
        >>> circle = jnp.stack([jnp.cos(t), jnp.sin(t)], axis=-1)
        >>> project = variational_autoencoder(circle, dimension=1, key=jax.random.key(0), steps=200, width=16)
        >>> project(circle).shape
        (64, 2)
    """
    caller = "variational_autoencoder"
    _check_options(caller, steps=steps, width=width, channels=channels, batch_size=batch_size)
    _positive(caller, learning_rate=learning_rate)
    key_weights, key_steps = jax.random.split(key)
    task = _task(caller, samples, dimension, latent, width, channels, key_weights)
    if objective is None:
        objective = Objective("B", capacity_steps=steps) if task.images else Objective("H", beta=0.005)
    apply = task.network.apply
    # The first makes the checks of the objective for both.
    loss = beta_vae_loss(apply, objective)
    loss = loss if task.images else variational_loss(apply, objective)
    return _trained(caller, task, loss, (task.data,), key_steps, steps, batch_size, learning_rate, progress)


def is_image(features: tuple[int, ...]) -> bool:
    """Whether points of this shape go through convolutions: square, of a side that four strides halve.

    Args:
        features: Feature shape.

    Example:
        >>> from manifold_jax.models.manifold_fits import is_image
        >>> is_image((32, 32)), is_image((3,))
        (True, False)
    """
    return len(features) in (2, 3) and features[0] == features[1] and features[0] % 16 == 0


def _check_options(caller: str, **counts: Any) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{caller}: {name} must be a whole number from 1, got {value!r}.")


def _positive(caller: str, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{caller}: {name} must be positive and finite, got {value!r}.")


def _task(
    caller: str, samples: Any, dimension: Any, latent: Any, width: int, channels: int, key: PRNGKeyArray
) -> _Task:
    """Checked and standardised samples, and the network for them."""
    samples = jnp.asarray(samples)
    if samples.ndim < 2 or not jnp.issubdtype(samples.dtype, jnp.floating) or len(samples) < 2:
        raise ValueError(
            f"{caller}: samples must be a floating-point array (n, *features) of at least 2 points, got "
            f"{samples.dtype} of shape {samples.shape}."
        )
    features = samples.shape[1:]
    size = math.prod(features)
    _check_options(caller, dimension=dimension)
    if dimension >= size:
        raise ValueError(
            f"{caller}: dimension must be below the {size} features of a point, got {dimension}."
        )
    latent = dimension + 1 if latent is None else latent
    _check_options(caller, latent=latent)
    if latent < dimension:
        raise ValueError(f"{caller}: latent must be at least the dimension, {dimension}, got {latent}.")
    if not bool(jnp.all(jnp.isfinite(samples))):
        raise ValueError(f"{caller}: samples must be finite: leave out those that are not.")
    images = is_image(features)
    data, shift, scale = _standardised(samples.astype(jnp.float32), images)
    if not float(scale) > 0:
        raise ValueError(f"{caller}: all samples coincide: there is nothing to fit.")
    rngs = nnx.Rngs(key)
    if images:
        depth = features[2] if len(features) == 3 else 1
        network = pure(
            BetaVAE(
                size=features[0],
                channels=depth,
                latent=latent,
                width=channels,
                hidden=width,
                activation=nnx.silu,
                rngs=rngs,
            )
        )
    else:
        network = pure(PointAutoencoder(features=size, latent=latent, width=width, rngs=rngs))
    return _Task(network, data, shift, scale, features, images)


def _standardised(samples: Array, images: bool) -> tuple[Array, Array, Array]:
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


def _trained(
    caller: str,
    task: _Task,
    loss: Loss,
    data: Any,
    key: PRNGKeyArray,
    steps: int,
    batch_size: int,
    learning_rate: float,
    progress: Callable[[int, int], None] | None,
) -> Partial:
    """Train, and wrap the result."""
    found = train(
        loss,
        task.network.params,
        data,
        key=key,
        steps=int(steps),
        batch_size=min(int(batch_size), len(task.data)),
        optimizer=_optimizer(float(learning_rate), int(steps)),
        chunk=min(int(steps), 500),
        progress=progress,
    )
    if not found.finite:
        raise ValueError(
            f"{caller}: the training diverged after {found.steps} steps: take a smaller learning_rate."
        )
    return Partial(
        _project, NetworkFit(found.params, task.shift, task.scale, task.network.apply, task.features)
    )


def _project(fit: NetworkFit, points: Any) -> Array:
    points = jnp.asarray(points)
    size, count = math.prod(fit.features), len(fit.features)
    fits = points.ndim >= count and points.shape[points.ndim - count :] == fit.features
    if not (fits or (points.ndim == 2 and points.shape[1] == size)):
        raise ValueError(
            f"project: points must have shape (*batch, {', '.join(map(str, fit.features))}) as the samples "
            f"have, got {points.shape}."
        )
    if not jnp.issubdtype(points.dtype, jnp.floating):
        raise ValueError(f"project: points must be floating-point numbers, got {points.dtype}.")
    return _decoded(fit, points.reshape(-1, *fit.features)).reshape(points.shape)


@jax.jit
def _decoded(fit: NetworkFit, points: Float[Array, "q *features"]) -> Float[Array, "q *features"]:
    scaled = (points.astype(fit.shift.dtype) - fit.shift) / fit.scale
    shape = fit.features if is_image(fit.features) else (-1,)
    rows = scaled.reshape(len(points), *shape)
    found = jax.lax.map(lambda x: fit.apply(fit.params, x), rows, batch_size=min(_BLOCK, len(rows)))
    return (fit.shift + fit.scale * found.reshape(points.shape)).astype(points.dtype)
