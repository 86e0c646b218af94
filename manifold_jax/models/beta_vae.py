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

from manifold_jax.models.classifiers import Activation, as_batch, checked_count
from manifold_jax.models.primitives import convolve, convolve_transposed
from manifold_jax.models.pure import Apply
from manifold_jax.models.training import Loss, pixels


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
        channels: Of the images.
        latent: Dimension of the latent z.
        width: Channels of the first convolution.
        hidden: Units of a hidden layer.
        activation: Non-linearity, ReLU as published. With it the image of a smooth manifold is only piecewise
            smooth; ``jax.nn.softplus`` and ``jax.nn.silu`` keep it smooth.
        precision: Of all products.
        rngs: Keys of the initial weights (He et al., arXiv 1502.01852).

    Raises:
        ValueError: ``variant`` is unknown, the strides cannot halve ``size``, or a number is below 1.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
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
        if variant not in _VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(_VARIANTS)}, got {variant!r}.")
        counts = {"channels": channels, "latent": latent, "width": width, "hidden": hidden}
        for name, value in counts.items():
            checked_count(value, name, 1)
        if checked_count(size, "size", 16) % 16:
            raise ValueError(f"size must be a multiple of 16, four strides halve it, got {size}.")
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

    def stages(self) -> dict[str, Callable[[Array], Array]]:
        """The layers by name, each a function of the activations of a batch in the one before.

        After their non-linearity; the latent is its mean, without noise.
        """
        found: dict[str, Callable[[Array], Array]] = {}

        def bent(layer: Callable[[Array], Array], shape: Callable[[Array], Array] | None = None) -> Any:
            return lambda x: self.activation(layer(x if shape is None else shape(x)))

        def flat(x: Array) -> Array:
            return x.reshape(x.shape[0], -1)

        for k, layer in enumerate(self.convolutions, start=1):
            found[f"conv {k}"] = bent(layer, partial(as_batch, shape=self.shape) if k == 1 else None)
        for k, layer in enumerate(self.encoder, start=1):
            found[f"dense {k}"] = bent(layer, flat)
        found["latent"] = lambda x: jnp.split(self.moments(x), 2, axis=-1)[0]
        for k, layer in enumerate(self.decoder, start=len(self.encoder) + 1):
            found[f"dense {k}"] = bent(layer)
        *inner, last = self.transposed
        for k, layer in enumerate(inner, start=1):
            found[f"transposed {k}"] = bent(layer, self._as_corner if k == 1 else None)
        return found | {"logits": last, "image": jax.nn.sigmoid}

    def _as_corner(self, x: Float[Array, "batch m"]) -> Float[Array, "batch h w c"]:
        return x.reshape(x.shape[0], *self.corner)

    def _between(self, x: Array, after: str | None, last: str) -> Array:
        """From behind one layer to another."""
        stages = self.stages()
        names = list(stages)
        begin = 0 if after is None else names.index(after) + 1
        for name in names[begin : names.index(last) + 1]:
            x = stages[name](x)
        return x

    def encode(self, images: Float[Array, "batch h w *c"]) -> tuple[Array, Array]:
        """Mean and log-variance of the latent, ``(batch, z)`` each."""
        hidden = self._between(images, None, f"dense {len(self.encoder)}")
        mean, log_variance = jnp.split(self.moments(hidden), 2, axis=-1)
        return mean, log_variance

    def decode(self, latents: Float[Array, "batch z"]) -> Float[Array, "batch h w c"]:
        """Logits of the pixels."""
        return self._between(latents, "latent", "logits")

    def __call__(self, images: Float[Array, "batch h w *c"]) -> Float[Array, "batch h w c"]:
        """Reconstructions, pixels in [0, 1], from the mean of the latent."""
        return self._between(images, None, "image")


class Objective(NamedTuple):
    """What a beta-VAE minimises; beta, gamma and C_max by default as in Koulakis & Seibold (ICML 2026).

    Attributes:
        kind: ``"B"``, reconstruction + gamma |KL - C(t)|, or ``"H"``, reconstruction + beta KL.
        beta: Of H.
        gamma: Of B.
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


_DEFAULT = Objective()


@lru_cache(maxsize=32)
def beta_vae_loss(apply: Apply, objective: Objective = _DEFAULT) -> Loss:
    """Negative evidence bound with weighted KL (Higgins 2017) or with its capacity (Burgess 2018).

    The latent is sampled once an image. Terms are summed over pixels and latents, and averaged over the
    batch, a tuple with the images as its first part.

    Args:
        apply: Of a :class:`BetaVAE`.
        objective: Which.

    Returns:
        A loss for :func:`train`, with metrics ``"reconstruction"``, ``"kl"`` and ``"kl_units"``, the KL of
        every latent ``(z,)``.

    Raises:
        ValueError: A part of the objective is unknown or out of range.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from manifold_jax.models import BetaVAE, beta_vae_loss, pure
        >>> apply, params = pure(BetaVAE(size=16, width=4, hidden=8, latent=3, rngs=nnx.Rngs(0)))
        >>> loss = jax.jit(beta_vae_loss(apply))
        >>> value, terms = loss(params, (jnp.zeros((2, 16, 16)),), jax.random.key(0), 0)
        >>> terms["kl_units"].shape
        (3,)
    """
    _check(objective)
    encode, decode = apply.of("encode"), apply.of("decode")

    def loss(params: Any, batch: Any, key: Array, step: Array) -> tuple[Array, dict[str, Array]]:
        images = pixels(batch[0])
        mean, log_variance = jax.vmap(encode, (None, 0))(params, images)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        logits = jax.vmap(decode, (None, 0))(params, mean + jnp.exp(log_variance / 2) * noise)
        images = images.reshape(logits.shape)
        if objective.likelihood == "bernoulli":
            errors = optax.sigmoid_binary_cross_entropy(logits, images)
        else:
            errors = jnp.square(jax.nn.sigmoid(logits) - images)
        reconstruction = jnp.sum(errors) / len(images)
        units = jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance, axis=0) / 2
        kl = jnp.sum(units)
        capacity = objective.capacity * jnp.minimum(step / objective.capacity_steps, 1)
        weighted = objective.gamma * jnp.abs(kl - capacity) if objective.kind == "B" else objective.beta * kl
        return reconstruction + weighted, {"reconstruction": reconstruction, "kl": kl, "kl_units": units}

    return loss


def _check(objective: Objective) -> None:
    """Refuse what makes no sense before anything starts."""
    if objective.kind not in _VARIANTS:
        raise ValueError(f"kind must be one of {', '.join(_VARIANTS)}, got {objective.kind!r}.")
    if objective.likelihood not in ("bernoulli", "gaussian"):
        raise ValueError(f"likelihood must be bernoulli or gaussian, got {objective.likelihood!r}.")
    for name in ("beta", "gamma", "capacity"):
        if not getattr(objective, name) >= 0:
            raise ValueError(f"{name} must not be negative, got {getattr(objective, name)}.")
    checked_count(objective.capacity_steps, "capacity_steps", 1)
