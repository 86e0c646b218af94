"""An autoencoder of points with smooth fully connected layers, and its losses."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from manifold_jax._checks import whole
from manifold_jax.models.beta_vae import Objective, check_objective, evidence_loss
from manifold_jax.models.classifiers import Activation
from manifold_jax.models.pure import Apply
from manifold_jax.models.training import Loss


class PointAutoencoder(nnx.Module):
    """Fully connected encoder and decoder between points and a latent.

    Args:
        features: Number of features of a point.
        latent: Dimension of the latent z.
        width: Units of a hidden layer.
        depth: Hidden layers on each side.
        activation: Smooth, so that the image of the decoder is.
        precision: Precision of all products.
        rngs: Keys of the initial weights.

    Raises:
        ValueError: A number is below 1.

    Example:
        >>> from flax import nnx
        >>> from manifold_jax.models import pure
        >>> from manifold_jax.models.point_autoencoder import PointAutoencoder
        >>> apply, params = pure(PointAutoencoder(features=3, latent=2, rngs=nnx.Rngs(0)))
        >>> mean, log_variance = apply.of("encode")(params, jnp.zeros(3))
        >>> mean.shape, apply(params, jnp.zeros(3)).shape
        ((2,), (3,))
    """

    def __init__(
        self,
        *,
        features: int,
        latent: int,
        width: int = 64,
        depth: int = 2,
        activation: Activation = nnx.silu,
        precision: str | None = "highest",
        rngs: nnx.Rngs,
    ) -> None:
        counts = {"features": features, "latent": latent, "width": width, "depth": depth}
        for name, value in counts.items():
            whole("PointAutoencoder", name, value)
        units = [features, *[width] * depth]

        def dense(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, precision=precision, rngs=rngs)

        self.activation = activation
        self.encoder = nnx.List(dense(*pair) for pair in itertools.pairwise(units))
        self.moments = dense(width, 2 * latent)
        self.decoder = nnx.List(dense(*pair) for pair in itertools.pairwise([latent, *[width] * depth]))
        self.last = dense(width, features)

    def encode(self, points: Float[Array, "batch f"]) -> tuple[Array, Array]:
        """Mean and log-variance of the latent, ``(batch, z)`` each."""
        for layer in self.encoder:
            points = self.activation(layer(points))
        mean, log_variance = jnp.split(self.moments(points), 2, axis=-1)
        return mean, log_variance

    def decode(self, latents: Float[Array, "batch z"]) -> Float[Array, "batch f"]:
        """Points of the image of the decoder."""
        for layer in self.decoder:
            latents = self.activation(layer(latents))
        return self.last(latents)

    def __call__(self, points: Float[Array, "batch f"]) -> Float[Array, "batch f"]:
        """Decoded means."""
        return self.decode(self.encode(points)[0])


@lru_cache(maxsize=32)
def denoising_loss(apply: Apply) -> Loss:
    """Mean squared error of points from noisy points (Vincent et al., ICML 2008).

    The batch is (points, standard deviation of the noise of each).

    Args:
        apply: The function of an autoencoder, from :func:`pure`.

    Returns:
        A loss for :func:`train`; the same one for the same ``apply``, so that it is compiled once.

    Example:
        >>> from manifold_jax.models.point_autoencoder import denoising_loss
        >>> loss = denoising_loss(lambda w, x: w * x)
        >>> batch = jnp.ones((4, 2)), jnp.zeros(4)
        >>> print(loss(jnp.array(0.5), batch, jax.random.key(0), 0)[0])
        0.25
    """

    def loss(params: Any, batch: Any, key: Array, step: Array) -> tuple[Array, dict[str, Array]]:
        points, scale = batch
        noise = jax.random.normal(key, points.shape, points.dtype)
        noise = noise * scale.reshape(-1, *(1,) * (points.ndim - 1))
        cleaned = jax.vmap(apply, (None, 0))(params, points + noise)
        return jnp.mean((cleaned.reshape(points.shape) - points) ** 2), {}

    return loss


@lru_cache(maxsize=32)
def variational_loss(apply: Apply, objective: Objective) -> Loss:
    """The loss of :func:`beta_vae_loss` for points of any range: a Gaussian likelihood without a sigmoid.

    Squared error, summed over features, plus beta KL (``"H"``) or gamma |KL - C(t)| (``"B"``). With H this is
    2 s^2 times the negative evidence bound for a decoder with noise s where beta = 2 s^2.

    Args:
        apply: The function of a :class:`PointAutoencoder`.
        objective: Its kind and its weights; the likelihood is not looked at.

    Returns:
        A loss for :func:`train`, with the metrics of :func:`beta_vae_loss`.

    Raises:
        ValueError: As :func:`beta_vae_loss`.

    Example:
        >>> from flax import nnx
        >>> from manifold_jax.models import Objective, pure
        >>> from manifold_jax.models.point_autoencoder import PointAutoencoder, variational_loss
        >>> apply, params = pure(PointAutoencoder(features=3, latent=2, rngs=nnx.Rngs(0)))
        >>> loss = variational_loss(apply, Objective("H", beta=0.01))
        >>> value, terms = loss(params, (jnp.zeros((4, 3)),), jax.random.key(0), 0)
        >>> sorted(terms)
        ['kl', 'kl_units', 'reconstruction']
    """
    check_objective("variational_loss", objective)
    return evidence_loss(apply, objective, lambda decoded, points: jnp.square(decoded - points))
