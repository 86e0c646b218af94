"""Classifiers: LeNet of Grementieri & Fioresi, and a VGG11-like network. Both return log-probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from manifold_jax.models.primitives import convolve, max_pool

Activation = Callable[[Array], Array]

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))


def checked_count(value: Any, name: str, least: int) -> int:
    """A whole number that is large enough, or a sentence."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}, got {value!r}.")
    return value


def as_batch(images: Array, shape: Sequence[int]) -> Array:
    """Images (batch, h, w, c), from images with or without an axis of channels."""
    expected = tuple(shape)
    if images.shape[1:] == expected[:2] and expected[2] == 1:
        return images[..., None]
    if images.ndim != 4 or images.shape[1:] != expected:
        plain = f" or {expected[:2]}" if expected[2] == 1 else ""
        raise ValueError(
            f"the network takes images of shape {expected}{plain}, got {tuple(images.shape[1:])}: "
            "resize them, or build it for their size."
        )
    return images


class LeNet(nnx.Module):
    """Two 3 x 3 convolutions of 32 and 64 channels, 2 x 2 max pool, 128 hidden units, log-softmax.

    The network of Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022), without dropout. Pixels are in
    [0, 1]; their normalisation ``(x - mean) / std`` is part of the network.

    Args:
        classes: C.
        size: Pixels per side.
        channels: 1, or 3 for colour.
        mean: Subtracted from the pixels.
        std: Divides them.
        activation: Non-linearity; ReLU as in the paper. Second derivatives need a smooth one.
        precision: Of convolutions and products.
        rngs: Keys of the initial weights.

    Raises:
        ValueError: ``classes`` is below 2, or ``size`` below 6.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from manifold_jax.models import LeNet
        >>> LeNet(classes=10, rngs=nnx.Rngs(0))(jnp.zeros((2, 28, 28))).shape
        (2, 10)
    """

    def __init__(
        self,
        *,
        classes: int = 10,
        size: int = 28,
        channels: int = 1,
        mean: float = MNIST_MEAN,
        std: float = MNIST_STD,
        activation: Activation = nnx.relu,
        precision: str | None = "highest",
        rngs: nnx.Rngs,
    ) -> None:
        checked_count(classes, "classes", 2)
        checked_count(size, "size", 6)
        checked_count(channels, "channels", 1)
        conv = partial(
            nnx.Conv,
            kernel_size=(3, 3),
            padding="VALID",
            conv_general_dilated=convolve,
            precision=precision,
            rngs=rngs,
        )
        self.shape = (size, size, channels)
        self.mean, self.std = float(mean), float(std)
        self.activation = activation
        self.first = conv(channels, 32)
        self.second = conv(32, 64)
        self.hidden = nnx.Linear(((size - 4) // 2) ** 2 * 64, 128, precision=precision, rngs=rngs)
        self.output = nnx.Linear(128, classes, precision=precision, rngs=rngs)

    pool = staticmethod(max_pool)

    def stages(self) -> dict[str, Callable[[Array], Array]]:
        """The layers by name, each a function of the activations of a batch in the one before."""

        def first(images: Array) -> Array:
            return self.activation(self.first((as_batch(images, self.shape) - self.mean) / self.std))

        return {
            "conv 1": first,
            "conv 2": lambda x: self.activation(self.second(x)),
            "pool": self.pool,
            "hidden": lambda x: self.activation(self.hidden(x.reshape(x.shape[0], -1))),
            "logits": self.output,
            "log-probabilities": jax.nn.log_softmax,
        }

    def _through(self, images: Array, last: str) -> Array:
        """Activations of one layer."""
        for name, stage in self.stages().items():
            images = stage(images)
            if name == last:
                break
        return images

    def features(self, images: Float[Array, "batch h w *c"]) -> Float[Array, "batch 128"]:
        """The hidden units before the last layer."""
        return self._through(images, "hidden")

    def logits(self, images: Float[Array, "batch h w *c"]) -> Float[Array, "batch C"]:
        """The output before the softmax."""
        return self._through(images, "logits")

    def __call__(self, images: Float[Array, "batch h w *c"]) -> Float[Array, "batch C"]:
        """Log-probabilities of a batch of images with pixels in [0, 1]."""
        return self._through(images, "log-probabilities")


class VGG11(nnx.Module):
    """The convolutions of VGG11 (Simonyan & Zisserman, arXiv 1409.1556, configuration A), one linear layer.

    3 x 3 convolutions of w, 2w, 4w, 4w, 8w, 8w, 8w, 8w channels, max pools after 1, 2, 4, 6 and 8; for
    32 x 32 images as in Grementieri & Fioresi. Without batch normalisation: a function of one image.

    Args:
        classes: C.
        size: Pixels per side, a multiple of 32.
        channels: Of the images.
        width: w, 64 in the paper; 16 trains on a laptop.
        mean: Subtracted from the pixels, one number a channel.
        std: Divides them.
        activation: Non-linearity.
        precision: Of convolutions and products.
        rngs: Keys of the initial weights (He et al., arXiv 1502.01852).

    Raises:
        ValueError: ``classes`` is below 2, ``size`` no multiple of 32, ``width`` below 1, or ``mean`` or
            ``std`` do not fit the channels.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from manifold_jax.models import VGG11, pure
        >>> apply, params = pure(VGG11(classes=10, width=4, rngs=nnx.Rngs(0)))
        >>> jax.eval_shape(apply, params, jnp.zeros((32, 32, 3))).shape
        (10,)
    """

    def __init__(
        self,
        *,
        classes: int = 10,
        size: int = 32,
        channels: int = 3,
        width: int = 64,
        mean: Sequence[float] = _CIFAR_MEAN,
        std: Sequence[float] = _CIFAR_STD,
        activation: Activation = nnx.relu,
        precision: str | None = "highest",
        rngs: nnx.Rngs,
    ) -> None:
        checked_count(classes, "classes", 2)
        checked_count(width, "width", 1)
        if checked_count(size, "size", 32) % 32:
            raise ValueError(f"size must be a multiple of 32, five max pools halve it, got {size}.")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                raise ValueError(
                    f"{name} must have one number for each of {channels} channels, got {values}."
                )
        self.shape = (size, size, channels)
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.activation = activation
        self.pools = tuple(len(stage) for stage in _STAGES)
        widths = [channels] + [width * factor for stage in _STAGES for factor in stage]
        self.convolutions = nnx.List(
            nnx.Conv(
                before,
                after,
                (3, 3),
                padding="SAME",
                kernel_init=nnx.initializers.he_normal(),
                conv_general_dilated=convolve,
                precision=precision,
                rngs=rngs,
            )
            for before, after in itertools.pairwise(widths)
        )
        self.output = nnx.Linear(8 * width * (size // 32) ** 2, classes, precision=precision, rngs=rngs)

    def features(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch m"]:
        """What the convolutions hand to the last layer."""
        x = (as_batch(images, self.shape) - jnp.asarray(self.mean, images.dtype)) / jnp.asarray(
            self.std, images.dtype
        )
        layers = iter(self.convolutions)
        for count in self.pools:
            for _ in range(count):
                x = self.activation(next(layers)(x))
            x = max_pool(x)
        return x.reshape(x.shape[0], -1)

    def logits(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch C"]:
        """The output before the softmax."""
        return self.output(self.features(images))

    def __call__(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch C"]:
        """Log-probabilities of a batch of images with pixels in [0, 1]."""
        return jax.nn.log_softmax(self.logits(images))
