"""Classifiers: LeNet of Grementieri & Fioresi, and a VGG11-like network. Both return log-probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Num

from manifold_jax._checks import whole
from manifold_jax.models.primitives import Layer, apply_layers, convolve, max_pool
from manifold_jax.models.training import Loss

Activation = Layer
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of the convolutions of VGG11, relative to ``width``; a max pool follows each group."""

_convolution = partial(nnx.Conv, kernel_size=(3, 3), conv_general_dilated=convolve)


def as_batch(images: Array, shape: Sequence[int]) -> Array:
    """Images (batch, h, w, c), from images with or without an axis of channels."""
    expected = tuple(shape)
    batch = images[..., None] if images.ndim == 3 else images
    if batch.shape[1:] != expected:
        plain = f" or {expected[:2]}" if expected[2] == 1 else ""
        wrong = f"got {tuple(images.shape[1:])}: resize them, or build it for their size"
        raise ValueError(f"the network takes images of shape {expected}{plain}, {wrong}.")
    return batch


class LeNet(nnx.Module):
    """Two 3 x 3 convolutions of 32 and 64 channels, 2 x 2 max pool, 128 hidden units, log-softmax.

    The network of Grementieri & Fioresi (SIAM J. Imaging Sci. 15, 2022), without dropout. Pixels are in [0,
    1]; their normalisation ``(x - mean) / std`` is part of the network.

    Args:
        classes: Number of classes C.
        size: Pixels per side.
        channels: 1, or 3 for colour.
        mean: Mean that is subtracted from the pixels.
        std: Standard deviation that then divides them.
        activation: Non-linearity, ReLU as in the paper; second derivatives need a smooth one.
        precision: Precision of convolutions and products.
        rngs: Keys of the initial weights.

    Raises:
        ValueError: ``classes`` is below 2, or ``size`` below 6.

    Example:
        >>> mj.models.LeNet(classes=10, rngs=nnx.Rngs(0))(jnp.zeros((2, 28, 28))).shape
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
        whole("LeNet", "classes", classes, 2)
        whole("LeNet", "size", size, 6)
        whole("LeNet", "channels", channels)
        conv = partial(_convolution, padding="VALID", precision=precision, rngs=rngs)
        self.shape = (size, size, channels)
        self.mean, self.std = float(mean), float(std)
        self.activation = activation
        self.first = conv(channels, 32)
        self.second = conv(32, 64)
        self.hidden = nnx.Linear(((size - 4) // 2) ** 2 * 64, 128, precision=precision, rngs=rngs)
        self.output = nnx.Linear(128, classes, precision=precision, rngs=rngs)

    pool = staticmethod(max_pool)

    def stages(self) -> dict[str, Layer]:
        """The layers by name, each a function of a batch of activations of the one before."""
        return {
            "conv 1": lambda x: self.activation(self.first((as_batch(x, self.shape) - self.mean) / self.std)),
            "conv 2": lambda x: self.activation(self.second(x)),
            "pool": self.pool,
            "hidden": lambda x: self.activation(self.hidden(x.reshape(x.shape[0], -1))),
            "logits": self.output,
            "log-probabilities": jax.nn.log_softmax,
        }

    def features(self, images: Float[Array, "batch h w *c"]) -> Float[Array, "batch 128"]:
        """The hidden units before the last layer."""
        return apply_layers(self.stages(), images, "hidden")

    def logits(self, images: Float[Array, "batch h w *c"]) -> Float[Array, "batch C"]:
        """The output before the softmax."""
        return apply_layers(self.stages(), images, "logits")

    def __call__(self, images: Float[Array, "batch h w *c"]) -> Float[Array, "batch C"]:
        """Log-probabilities of a batch of images with pixels in [0, 1]."""
        return apply_layers(self.stages(), images, "log-probabilities")


class VGG11(nnx.Module):
    """The convolutions of VGG11 (Simonyan & Zisserman, arXiv 1409.1556, configuration A), one linear layer.

    3 x 3 convolutions of w, 2w, 4w, 4w, 8w, 8w, 8w, 8w channels, max pools after 1, 2, 4, 6 and 8; for
    32 x 32 images as in Grementieri & Fioresi. Without batch normalisation: a function of one image. The
    initial weights are those of He et al. (arXiv 1502.01852).

    Arguments are those of :class:`LeNet` and ``width``, w, 64 in the paper; with 16 it trains on a laptop.
    ``size`` is a multiple of 32, ``mean`` and ``std`` have one number for each channel.

    Raises:
        ValueError: A number is out of range, or ``mean`` or ``std`` do not fit the channels.

    Example:
        >>> apply, params = mj.models.pure(mj.models.VGG11(classes=10, width=4, rngs=nnx.Rngs(0)))
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
        whole("VGG11", "classes", classes, 2)
        whole("VGG11", "width", width)
        if whole("VGG11", "size", size, 32) % 32:
            raise ValueError(f"VGG11: size must be a multiple of 32, five max pools halve it, got {size}.")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                needed = f"one number for each of {channels} channels"
                raise ValueError(f"VGG11: {name} must have {needed}, got {values}.")
        self.shape = (size, size, channels)
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.activation = activation
        widths = [channels] + [width * factor for stage in _STAGES for factor in stage]
        he = nnx.initializers.he_normal()
        conv = partial(_convolution, padding="SAME", kernel_init=he, precision=precision, rngs=rngs)
        self.convolutions = nnx.List(conv(*pair) for pair in itertools.pairwise(widths))
        self.output = nnx.Linear(8 * width * (size // 32) ** 2, classes, precision=precision, rngs=rngs)

    def features(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch m"]:
        """The input of the last layer."""
        mean, std = (jnp.asarray(values, images.dtype) for values in (self.mean, self.std))
        x = (as_batch(images, self.shape) - mean) / std
        layers = iter(self.convolutions)
        for stage in _STAGES:
            for _ in stage:
                x = self.activation(next(layers)(x))
            x = max_pool(x)
        return x.reshape(x.shape[0], -1)

    def logits(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch C"]:
        """The output before the softmax."""
        return self.output(self.features(images))

    def __call__(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch C"]:
        """Log-probabilities of a batch of images with pixels in [0, 1]."""
        return jax.nn.log_softmax(self.logits(images))


def pixels(images: Num[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Images of any shape with pixels in [0, 1]: bytes over 255 in float32, others as they are.

    Example:
        >>> print(mj.models.pixels(jnp.array([0, 255], "uint8")))
        [0. 1.]
    """
    images = jnp.asarray(images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


@lru_cache(maxsize=32)
def classification_loss(apply: Callable[[Any, Any], Array]) -> Loss:
    """Mean negative log-likelihood of batches (images, labels), with the accuracy as a metric.

    Args:
        apply: ``apply(params, x)``, one input to ``(C,)`` log-probabilities.

    Returns:
        A loss for :func:`train`; the same object for an equal ``apply``, so that it is compiled once.

    Example:
        >>> loss = mj.models.classification_loss(lambda w, x: jax.nn.log_softmax(w @ x))
        >>> batch = jnp.ones((4, 2)), jnp.zeros(4, int)
        >>> value, metrics = loss(jnp.zeros((3, 2)), batch, jax.random.key(0), 0)
        >>> print(f"{value:.3f}")
        1.099
    """

    def loss(params: Any, batch: Any, _key: Array, _step: Array) -> tuple[Array, dict[str, Array]]:
        images, labels = batch
        log_p = jax.vmap(apply, (None, 0))(params, pixels(images))
        chosen = jnp.take_along_axis(log_p, labels.astype(jnp.int32)[:, None], axis=1)
        accuracy = jnp.mean(jnp.argmax(log_p, axis=1) == labels, dtype=log_p.dtype)
        return -jnp.mean(chosen), {"accuracy": accuracy}

    return loss


def labelled(apply: Callable[[Any, Any], Array], params: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    """Images and labels that fit a classifier, as data for :func:`train` with :func:`classification_loss`.

    Both are returned unchanged.

    Args:
        apply: As in :func:`classification_loss`.
        params: Parameters of the network.
        images: ``(n, *shape)``, bytes or pixels in [0, 1].
        labels: ``(n,)``, whole numbers from 0 to C - 1.

    Raises:
        ValueError: Lengths or types do not fit, pixels lie outside [0, 1], or a label is not a class
            of the network.

    Example:
        >>> apply = lambda w, x: jax.nn.log_softmax(w @ x)
        >>> mj.models.labelled(apply, jnp.zeros((3, 2)), jnp.ones((4, 2)), jnp.array([0, 1, 2, 3]))
        Traceback (most recent call last):
            ...
        ValueError: labelled: labels must lie between 0 and 2, the network has 3 classes, got 0 to 3.
    """
    pictures, numbers = np.asarray(images), np.asarray(labels)
    one_each = numbers.ndim == 1 and len(numbers) == len(pictures) > 0
    if not one_each or numbers.dtype.kind not in "iu":
        wanted = f"whole numbers, one for each of {len(pictures)} images"
        raise ValueError(f"labelled: labels must be {wanted}, got {numbers.dtype} of shape {numbers.shape}.")
    if pictures.dtype != np.uint8 and not (pictures.min() >= 0 and pictures.max() <= 1):
        given = f"{pictures.dtype} from {pictures.min():.3g} to {pictures.max():.3g}"
        remedy = "scale them, as in images / 255"
        raise ValueError(f"labelled: images must be bytes or have pixels in [0, 1], got {given}: {remedy}.")
    classes = jax.eval_shape(apply, params, pixels(pictures[0])).shape[0]
    if numbers.min() < 0 or numbers.max() >= classes:
        wanted = f"lie between 0 and {classes - 1}, the network has {classes} classes"
        raise ValueError(f"labelled: labels must {wanted}, got {numbers.min()} to {numbers.max()}.")
    return images, labels
