"""The beta-VAE in its two published variants, and its loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from manifold_jax._checks import choice, positive, whole
from manifold_jax.models.classifiers import Activation, as_batch, pixels
from manifold_jax.models.primitives import Layer, apply_layers, convolve, convolve_transposed
from manifold_jax.models.pure import Apply
from manifold_jax.models.training import Loss


class _Variant(NamedTuple):
    """Widths of an architecture: channels of the convolutions, relative, and number of hidden layers."""

    channels: tuple[int, ...]
    hidden: int


_VARIANTS = {"B": _Variant((1, 1, 1, 1), 2), "H": _Variant((1, 1, 2, 2), 1)}


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
        >>> from flax import nnx
        >>> from manifold_jax.models import BetaVAE, pure
        >>> apply, params = pure(BetaVAE(size=16, width=4, hidden=8, latent=3, rngs=nnx.Rngs(0)))
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
        counts = {"channels": channels, "latent": latent, "width": width, "hidden": hidden}
        for name, value in counts.items():
            whole("BetaVAE", name, value)
        if whole("BetaVAE", "size", size, 16) % 16:
            raise ValueError(f"BetaVAE: size must be a multiple of 16, four strides halve it, got {size}.")
        factors, depth = _VARIANTS[variant]
        widths = [channels, *(width * factor for factor in factors)]
        units = [widths[-1] * (size // 16) ** 2, *[hidden] * depth]
        he = nnx.initializers.he_normal()

        def dense(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, kernel_init=he, precision=precision, rngs=rngs)

        def conv(inputs: int, outputs: int) -> nnx.Conv:
            options = {"conv_general_dilated": convolve, "precision": precision, "rngs": rngs}
            pads = ((1, 1), (1, 1))
            return nnx.Conv(inputs, outputs, (4, 4), 2, padding=pads, kernel_init=he, **options)

        self.shape = (size, size, channels)
        self.corner = (size // 16, size // 16, widths[-1])
        self.activation = activation
        self.convolutions = nnx.List(conv(*pair) for pair in itertools.pairwise(widths))
        self.encoder = nnx.List(dense(*pair) for pair in itertools.pairwise(units))
        self.moments = dense(units[-1], 2 * latent)
        self.decoder = nnx.List(dense(*pair) for pair in itertools.pairwise([latent, *units[::-1]]))
        self.transposed = nnx.List(
            _ConvTransposed(*pair, precision=precision, rngs=rngs)
            for pair in itertools.pairwise(widths[::-1])
        )

    def stages(self) -> dict[str, Layer]:
        """The layers by name, each a function of a batch of activations of the one before.

        Activations are those after the non-linearity; the latent is its mean, without noise.
        """

        def activate(layer: Layer, reshape: Layer = lambda x: x) -> Layer:
            return lambda x: self.activation(layer(reshape(x)))

        def flat(x: Array) -> Array:
            return x.reshape(x.shape[0], -1)

        stages: dict[str, Layer] = {}
        for k, layer in enumerate(self.convolutions, start=1):
            image = partial(as_batch, shape=self.shape)
            stages[f"conv {k}"] = activate(layer, image) if k == 1 else activate(layer)
        for k, layer in enumerate(self.encoder, start=1):
            stages[f"dense {k}"] = activate(layer, flat)
        stages["latent"] = lambda x: jnp.split(self.moments(x), 2, axis=-1)[0]
        for k, layer in enumerate(self.decoder, start=len(self.encoder) + 1):
            stages[f"dense {k}"] = activate(layer)
        *inner, last = self.transposed
        for k, layer in enumerate(inner, start=1):
            stages[f"transposed {k}"] = activate(layer, self._as_corner) if k == 1 else activate(layer)
        return stages | {"logits": last, "image": jax.nn.sigmoid}

    def _as_corner(self, x: Float[Array, "batch m"]) -> Float[Array, "batch h w c"]:
        return x.reshape(x.shape[0], *self.corner)

    def encode(self, images: Float[Array, "batch h w *c"]) -> tuple[Array, Array]:
        """Mean and log-variance of the latent, ``(batch, z)`` each."""
        hidden = apply_layers(self.stages(), images, f"dense {len(self.encoder)}")
        mean, log_variance = jnp.split(self.moments(hidden), 2, axis=-1)
        return mean, log_variance

    def decode(self, latents: Float[Array, "batch z"]) -> Float[Array, "batch h w c"]:
        """Logits of the pixels."""
        return apply_layers(self.stages(), latents, "logits", after="latent")

    def __call__(self, images: Float[Array, "batch h w *c"]) -> Float[Array, "batch h w c"]:
        """Reconstructions, pixels in [0, 1], from the mean of the latent."""
        return apply_layers(self.stages(), images, "image")


class Objective(NamedTuple):
    """What a beta-VAE minimises; beta, gamma and C_max by default as in Koulakis & Seibold (ICML 2026).

    Attributes:
        kind: ``"B"``, reconstruction + gamma |KL - C(t)|, or ``"H"``, reconstruction + beta KL.
        beta: Weight of the KL in H.
        gamma: Weight of the distance to the capacity in B.
        capacity: C_max of B, nats; reached linearly.
        capacity_steps: Steps until then.
        likelihood: ``"bernoulli"`` (cross-entropy) or ``"gaussian"`` (squared error), summed over pixels.
    """

    kind: str = "B"
    beta: float = 4.0
    gamma: float = 100.0
    capacity: float = 20.0
    capacity_steps: int = 100_000
    likelihood: str = "bernoulli"


def _squared_pixel_errors(logits: Array, images: Array) -> Array:
    return jnp.square(jax.nn.sigmoid(logits) - images)


_LIKELIHOODS = {"bernoulli": optax.sigmoid_binary_cross_entropy, "gaussian": _squared_pixel_errors}
_DEFAULT = Objective()


def check_objective(caller: str, objective: Objective) -> None:
    """Refuse what makes no sense before anything starts."""
    choice(caller, "kind", objective.kind, _VARIANTS)
    choice(caller, "likelihood", objective.likelihood, _LIKELIHOODS)
    for name in ("beta", "gamma", "capacity"):
        positive(caller, name, getattr(objective, name), zero=True)
    whole(caller, "capacity_steps", objective.capacity_steps)


@lru_cache(maxsize=32)
def beta_vae_loss(apply: Apply, objective: Objective = _DEFAULT) -> Loss:
    """Negative evidence bound with weighted KL (Higgins 2017) or with its capacity (Burgess 2018).

    The latent is sampled once an image. Terms are summed over pixels and latents, and averaged over the
    batch, a tuple with the images as its first part.

    Args:
        apply: The function of a :class:`BetaVAE`, from :func:`pure`.
        objective: Its kind and its weights.

    Returns:
        A loss for :func:`train`, with metrics ``"reconstruction"``, ``"kl"`` and ``"kl_units"``, the KL of
        every latent ``(z,)``.

    Raises:
        ValueError: A part of the objective is unknown or out of range.

    Example:
        >>> from flax import nnx
        >>> from manifold_jax.models import BetaVAE, beta_vae_loss, pure
        >>> apply, params = pure(BetaVAE(size=16, width=4, hidden=8, latent=3, rngs=nnx.Rngs(0)))
        >>> loss = jax.jit(beta_vae_loss(apply))
        >>> value, terms = loss(params, (jnp.zeros((2, 16, 16)),), jax.random.key(0), 0)
        >>> terms["kl_units"].shape
        (3,)
    """
    check_objective("beta_vae_loss", objective)
    return evidence_loss(apply, objective, _LIKELIHOODS[objective.likelihood])


def evidence_loss(apply: Apply, objective: Objective, errors: Callable[[Array, Array], Array]) -> Loss:
    """The loss of an autoencoder with a Gaussian latent, ``errors`` those of decoded latents and inputs."""
    encode, decode = apply.of("encode"), apply.of("decode")

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
