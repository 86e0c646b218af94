"""Autoencoders of images (the beta-VAE in its two published variants) and of points, and the loss of both."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from manifold_jax._checks import choice, instance, positive, real, shown, whole
from manifold_jax.models.classifiers import Activation, as_batch, check_network, pixels
from manifold_jax.models.primitives import Layer, apply_layers, convolve, convolve_transposed
from manifold_jax.models.pure import Apply
from manifold_jax.models.training import Loss

_VARIANTS = {"B": ((1, 1, 1, 1), 2), "H": ((1, 1, 2, 2), 1)}
"""Channels of the convolutions, relative to ``width``, and the number of hidden layers."""


class _ConvTransposed(nnx.Module):
    """4 x 4 transposed convolution of stride 2 with a bias."""

    def __init__(self, inputs: int, outputs: int, *, precision: str | None, rngs: nnx.Rngs) -> None:
        # An output meets 2 x 2 inputs: He et al. with 4 times as many numbers as there are channels.
        scale = (2 / (4 * inputs)) ** 0.5
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (4, 4, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.precision = precision

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2h 2w o"]:
        return convolve_transposed(x, self.kernel[...], precision=self.precision) + self.bias[...]


class BetaVAE(nnx.Module):
    """Variational autoencoder of images, variants H and B.

    Four 4 x 4 convolutions of stride 2, hidden layers, a Gaussian latent; the decoder mirrors them. ``"B"``
    (Burgess et al., arXiv 1804.03599) has 32-32-32-32 channels and two hidden layers of 256, ``"H"`` (Higgins
    et al., ICLR 2017) 32-32-64-64 and one of 256.

    Args:
        variant: ``"B"`` or ``"H"``.
        size: Pixels per side, a multiple of 16.
        channels: Channels of the images.
        latent: Dimension of the latent z.
        width: Channels of the first convolution.
        hidden: Units of a hidden layer.
        activation: Non-linearity, ReLU as published. With it the image of a smooth manifold is only piecewise
            smooth; ``jax.nn.softplus`` and ``jax.nn.silu`` keep it smooth.
        precision: Precision of all products.
        rngs: Keys of the initial weights (He et al., arXiv 1502.01852).

    Raises:
        ValueError: ``variant`` is unknown, the strides cannot halve ``size``, or a number is below 1.

    Example:
        >>> network = mj.models.BetaVAE(size=16, width=4, hidden=8, latent=3, rngs=nnx.Rngs(0))
        >>> apply, params = mj.models.pure(network)
        >>> image = jnp.zeros((16, 16))
        >>> mean, log_variance = jax.eval_shape(apply.of("encode"), params, image)
        >>> mean.shape, jax.eval_shape(apply, params, image).shape
        ((3,), (16, 16, 1))
    """

    def __init__(
        self,
        *,
        variant: str = "B",
        size: int = 64,
        channels: int = 1,
        latent: int = 10,
        width: int = 32,
        hidden: int = 256,
        activation: Activation = nnx.relu,
        precision: str | None = "highest",
        rngs: nnx.Rngs,
    ) -> None:
        choice("BetaVAE", "variant", variant, _VARIANTS)
        sizes = {"channels": channels, "latent": latent, "width": width, "hidden": hidden}
        channels, latent, width, hidden = (whole("BetaVAE", name, value) for name, value in sizes.items())
        check_network("BetaVAE", activation, precision, rngs)
        size = whole("BetaVAE", "size", size, 16)
        if size % 16:
            raise ValueError(f"BetaVAE: size must be a multiple of 16, four strides halve it, got {size}.")
        factors, depth = _VARIANTS[variant]
        widths = [channels, *(width * factor for factor in factors)]
        units = [widths[-1] * (size // 16) ** 2, *[hidden] * depth]
        options = {"kernel_init": nnx.initializers.he_normal(), "precision": precision, "rngs": rngs}
        dense = partial(nnx.Linear, **options)
        halving = {"strides": 2, "padding": 1, "conv_general_dilated": convolve}
        conv = partial(nnx.Conv, kernel_size=(4, 4), **halving, **options)
        self.shape = (size, size, channels)
        self.corner = (size // 16, size // 16, widths[-1])
        self.activation = activation
        self.convolutions = nnx.List(conv(*pair) for pair in pairwise(widths))
        self.encoder = nnx.List(dense(*pair) for pair in pairwise(units))
        self.moments = dense(units[-1], 2 * latent)
        self.decoder = nnx.List(dense(*pair) for pair in pairwise([latent, *units[::-1]]))
        transposed = partial(_ConvTransposed, precision=precision, rngs=rngs)
        self.transposed = nnx.List(transposed(*pair) for pair in pairwise(widths[::-1]))

    def stages(self) -> dict[str, Layer]:
        """The layers by name, each a function of a batch of activations of the one before.

        Activations are taken after the non-linearity; the latent is its mean, without noise.
        """
        reshape: dict[str, Layer] = {
            "conv 1": partial(as_batch, shape=self.shape),
            "dense 1": lambda x: x.reshape(x.shape[0], -1),
            "transposed 1": lambda x: x.reshape(x.shape[0], *self.corner),
        }

        def activate(name: str, layer: Layer) -> Layer:
            prepare = reshape.get(name, lambda x: x)
            return lambda x: self.activation(layer(prepare(x)))

        def hidden(kind: str, layers: Iterable[Layer], start: int = 1) -> dict[str, Layer]:
            named = {f"{kind} {k}": layer for k, layer in enumerate(layers, start)}
            return {name: activate(name, layer) for name, layer in named.items()}

        *inner, last = self.transposed
        return {
            **hidden("conv", self.convolutions),
            **hidden("dense", self.encoder),
            "latent": lambda x: jnp.split(self.moments(x), 2, axis=-1)[0],
            **hidden("dense", self.decoder, len(self.encoder) + 1),
            **hidden("transposed", inner),
            "logits": last,
            "image": jax.nn.sigmoid,
        }

    def encode(self, images: Float[Array, "batch h w *c"]) -> tuple[Array, Array]:
        """Mean and log-variance of the latent, ``(batch, z)`` each."""
        hidden = apply_layers(self.stages(), images, f"dense {len(self.encoder)}")
        mean, log_variance = jnp.split(self.moments(hidden), 2, axis=-1)
        return mean, log_variance

    def decode(self, latents: Float[Array, "batch z"]) -> Float[Array, "batch h w c"]:
        """Logits of the pixels."""
        latents, wanted = real("decode", "latents", latents), self.decoder[0].in_features
        if latents.ndim != 2 or latents.shape[1] != wanted:
            raise ValueError(f"decode: latents must have shape (batch, {wanted}), got {latents.shape}.")
        return apply_layers(self.stages(), latents, "logits", after="latent")

    def __call__(self, images: Float[Array, "batch h w *c"]) -> Float[Array, "batch h w c"]:
        """Reconstructions, pixels in [0, 1], from the mean of the latent."""
        return apply_layers(self.stages(), images, "image")


class PointAutoencoder(nnx.Module):
    """Fully connected encoder and decoder between points and a latent, with two hidden layers each.

    The activation is smooth (SiLU), so that the image of the decoder is.

    Args:
        features: Number of features of a point.
        latent: Dimension of the latent z.
        width: Units of a hidden layer.
        rngs: Keys of the initial weights.

    Example:
        >>> network = mj.models.autoencoders.PointAutoencoder(features=3, latent=2, rngs=nnx.Rngs(0))
        >>> apply, params = mj.models.pure(network)
        >>> mean, log_variance = apply.of("encode")(params, jnp.zeros(3))
        >>> mean.shape, apply(params, jnp.zeros(3)).shape
        ((2,), (3,))
    """

    def __init__(self, *, features: int, latent: int, width: int = 64, rngs: nnx.Rngs) -> None:
        dense = partial(nnx.Linear, precision="highest", rngs=rngs)
        self.encoder = nnx.List([dense(features, width), dense(width, width)])
        self.moments = dense(width, 2 * latent)
        self.decoder = nnx.List([dense(latent, width), dense(width, width)])
        self.last = dense(width, features)

    def encode(self, points: Float[Array, "batch f"]) -> tuple[Array, Array]:
        """Mean and log-variance of the latent, ``(batch, z)`` each."""
        for layer in self.encoder:
            points = nnx.silu(layer(points))
        mean, log_variance = jnp.split(self.moments(points), 2, axis=-1)
        return mean, log_variance

    def decode(self, latents: Float[Array, "batch z"]) -> Float[Array, "batch f"]:
        """Points of the image of the decoder."""
        for layer in self.decoder:
            latents = nnx.silu(layer(latents))
        return self.last(latents)

    def __call__(self, points: Float[Array, "batch f"]) -> Float[Array, "batch f"]:
        """Decoded means."""
        return self.decode(self.encode(points)[0])


class Objective(NamedTuple):
    """What a beta-VAE minimises; the weights are by default those of Koulakis & Seibold (ICML 2026).

    Attributes:
        kind: ``"B"``, reconstruction + gamma |KL - C(t)|, or ``"H"``, reconstruction + beta KL.
        beta: Weight of the KL in H. With squared errors the loss is 2 s^2 times the negative evidence lower
            bound of a decoder with noise s, where beta = 2 s^2.
        gamma: Weight of the distance to the capacity in B.
        capacity: C_max of B in nats; C(t) grows to it linearly.
        capacity_steps: Steps until then.
        likelihood: ``"bernoulli"`` (cross-entropy of pixels), ``"gaussian"`` (squared error of pixels) or
            ``"points"`` (squared error of points of any range: no sigmoid after the decoder).
    """

    kind: str = "B"
    beta: float = 4.0
    gamma: float = 100.0
    capacity: float = 20.0
    capacity_steps: int = 100_000
    likelihood: str = "bernoulli"


_LIKELIHOODS = {
    "bernoulli": optax.sigmoid_binary_cross_entropy,
    "gaussian": lambda logits, images: jnp.square(jax.nn.sigmoid(logits) - images),
    "points": lambda decoded, points: jnp.square(decoded - points),
}
"""Error of every number that the decoder returns, given the inputs."""

_DEFAULT = Objective()


def beta_vae_loss(apply: Apply, objective: Objective = _DEFAULT) -> Loss:
    """Negative evidence lower bound with a weight (Higgins 2017) or a capacity (Burgess 2018) for the KL.

    The latent is sampled once per input. Terms are summed over pixels and latent units, and averaged over
    the batch, a tuple whose first entry holds the inputs.

    Args:
        apply: An autoencoder with methods ``encode`` and ``decode``, as :class:`BetaVAE`, by :func:`pure`.
        objective: Kind and weights of the loss.

    Returns:
        A loss for :func:`train`; metrics ``"reconstruction"``, ``"kl"`` and ``"kl_units"`` ``(z,)``.

    Raises:
        ValueError: A field of the objective is unknown or out of range.

    Example:
        >>> network = mj.models.BetaVAE(size=16, width=4, hidden=8, latent=3, rngs=nnx.Rngs(0))
        >>> apply, params = mj.models.pure(network)
        >>> loss = jax.jit(mj.models.beta_vae_loss(apply))
        >>> value, terms = loss(params, (jnp.zeros((2, 16, 16)),), jax.random.key(0), 0)
        >>> terms["kl_units"].shape
        (3,)
    """
    caller = "beta_vae_loss"
    instance(caller, "objective", objective, Objective)
    choice(caller, "kind", objective.kind, _VARIANTS)
    choice(caller, "likelihood", objective.likelihood, _LIKELIHOODS)
    for name in ("beta", "gamma", "capacity"):
        positive(caller, name, getattr(objective, name), zero=True)
    whole(caller, "capacity_steps", objective.capacity_steps)
    if not hasattr(apply, "of"):
        raise ValueError(f"{caller}: apply must be that of pure(network), got {shown(apply)}.")
    return _beta_vae_loss(apply, objective)


@lru_cache(maxsize=32)
def _beta_vae_loss(apply: Apply, objective: Objective) -> Loss:
    encode, decode = apply.of("encode"), apply.of("decode")
    errors = _LIKELIHOODS[objective.likelihood]

    def loss(params: Any, batch: Any, key: Array, step: Array) -> tuple[Array, dict[str, Array]]:
        inputs = pixels(batch[0])
        mean, log_variance = jax.vmap(encode, (None, 0))(params, inputs)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        decoded = jax.vmap(decode, (None, 0))(params, mean + jnp.exp(log_variance / 2) * noise)
        reconstruction = jnp.sum(errors(decoded, inputs.reshape(decoded.shape))) / len(inputs)
        units = jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance, axis=0) / 2
        kl = jnp.sum(units)
        capacity = objective.capacity * jnp.minimum(step / objective.capacity_steps, 1)
        weighted = objective.gamma * jnp.abs(kl - capacity) if objective.kind == "B" else objective.beta * kl
        return reconstruction + weighted, {"reconstruction": reconstruction, "kl": kl, "kl_units": units}

    return loss
