"""Classifiers: LeNet of Grementieri & Fioresi, and VGG. Both return log-probabilities."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Num

from manifold_jax._checks import (
    checked_function,
    choice,
    flag,
    instance,
    listed,
    number,
    numbers,
    positive,
    real,
    shown,
    whole,
)
from manifold_jax._programs import first_line
from manifold_jax.models.primitives import Layer, apply_layers, convolve, max_pool
from manifold_jax.models.training import Loss

Activation = Layer
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions before each max pool of a VGG, by its depth (configurations A, B, D and E)."""

_WIDTHS = (1, 2, 4, 8, 8)  # their channels, relative to ``width``
_convolution = partial(nnx.Conv, kernel_size=(3, 3), conv_general_dilated=convolve)


def check_network(caller: str, activation: Any, precision: Any, rngs: Any) -> None:
    """Refuse arguments that the networks of this package share, before their layers fail."""
    checked_function(caller, "activation", activation, "activations")
    instance(caller, "rngs", rngs, nnx.Rngs, "flax.nnx.Rngs(0)")
    known = precision is None or isinstance(precision, str | jax.lax.Precision)
    with contextlib.suppress(ValueError):
        if known and (precision is None or jax.lax.Precision(precision)):
            return
    wanted = "None, 'default', 'high' or 'highest'"
    raise ValueError(f"{caller}: precision must be {wanted}, got {shown(precision)}.")


def as_batch(images: Array, shape: Sequence[int]) -> Array:
    """Images (batch, h, w, c), from images with or without an axis of channels."""
    expected, images = tuple(shape), real("the network", "images", images)
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
        classes, size = whole("LeNet", "classes", classes, 2), whole("LeNet", "size", size, 6)
        channels = whole("LeNet", "channels", channels)
        check_network("LeNet", activation, precision, rngs)
        conv = partial(_convolution, padding="VALID", precision=precision, rngs=rngs)
        self.shape = (size, size, channels)
        self.mean, self.std = number("LeNet", "mean", mean), float(positive("LeNet", "std", std))
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


class VGG(nnx.Module):
    """The networks of Simonyan & Zisserman (arXiv 1409.1556), configurations A, B, D and E.

    3 x 3 convolutions in five groups of w, 2w, 4w, 8w and 8w channels, a max pool after each, then linear
    layers: one by default, for 32 x 32 images as in Grementieri & Fioresi; those of the paper are
    ``size=224, hidden=(4096, 4096), classes=1000``, without dropout. The initial weights are those of He et
    al. (arXiv 1502.01852). Other arguments are those of :class:`LeNet`.

    Args:
        depth: Layers with weights in the paper: 11, 13, 16 or 19.
        batch_norm: Normalise every convolution by its statistics (Ioffe & Szegedy, arXiv 1502.03167). Such a
            network begins in training; after ``.eval()`` it is a function of one image, see :func:`pure`.
        size: A multiple of 32.
        channels: 3 for colour.
        width: w, 64 in the paper; with 16 it trains on a laptop.
        hidden: Units of the linear layers before the last.
        mean: One number for each channel.
        std: One number for each channel.

    Raises:
        ValueError: A number is out of range, or ``mean`` or ``std`` do not fit the channels.

    Example:
        >>> network = mj.models.VGG(depth=13, batch_norm=True, width=4, rngs=nnx.Rngs(0))
        >>> network.eval()
        >>> jax.eval_shape(mj.models.pure(network), jnp.zeros((32, 32, 3))).shape
        (10,)
    """

    def __init__(
        self,
        *,
        depth: int = 16,
        batch_norm: bool = False,
        classes: int = 10,
        size: int = 32,
        channels: int = 3,
        width: int = 64,
        hidden: Sequence[int] = (),
        mean: Sequence[float] = _CIFAR_MEAN,
        std: Sequence[float] = _CIFAR_STD,
        activation: Activation = nnx.relu,
        precision: str | None = "highest",
        rngs: nnx.Rngs,
    ) -> None:
        depth = choice("VGG", "depth", whole("VGG", "depth", depth), _DEPTHS)
        classes, width = whole("VGG", "classes", classes, 2), whole("VGG", "width", width)
        if not listed(hidden):
            raise ValueError(f"VGG: hidden must be a sequence of whole numbers, got {shown(hidden)}.")
        hidden = [whole("VGG", "hidden", units) for units in hidden]
        channels, batch_norm = whole("VGG", "channels", channels), flag("VGG", "batch_norm", batch_norm)
        check_network("VGG", activation, precision, rngs)
        size = whole("VGG", "size", size, 32)
        if size % 32:
            raise ValueError(f"VGG: size must be a multiple of 32, five max pools halve it, got {size}.")
        self.shape = (size, size, channels)
        self.mean, self.std = (numbers("VGG", n, x, channels) for n, x in (("mean", mean), ("std", std)))
        positive("VGG", "std", min(self.std))
        self.activation = activation
        self.groups = _DEPTHS[depth]
        groups = zip(_WIDTHS, self.groups, strict=True)
        widths = [channels] + [width * factor for factor, count in groups for _ in range(count)]
        he = nnx.initializers.he_normal()
        conv = partial(_convolution, padding="SAME", kernel_init=he, precision=precision, rngs=rngs)
        self.convolutions = nnx.List(conv(*pair) for pair in itertools.pairwise(widths))
        if batch_norm:
            norm = partial(nnx.BatchNorm, momentum=0.9, rngs=rngs)
            self.norms = nnx.List(norm(width) for width in widths[1:])
        units = [8 * width * (size // 32) ** 2, *hidden]
        linear = partial(nnx.Linear, precision=precision, rngs=rngs)
        if hidden:
            self.hidden = nnx.List(linear(*pair, kernel_init=he) for pair in itertools.pairwise(units))
        self.output = linear(units[-1], classes)

    def _convolved(self, k: int, x: Array) -> Array:
        if k == 0:
            x = as_batch(x, self.shape)
            mean, std = (jnp.asarray(values, x.dtype) for values in (self.mean, self.std))
            x = (x - mean) / std
        x = self.convolutions[k](x)
        return self.activation(self.norms[k](x) if hasattr(self, "norms") else x)

    def stages(self) -> dict[str, Layer]:
        """The layers by name, each a function of a batch of activations of the one before."""
        layers: dict[str, Layer] = {}
        numbers = iter(range(len(self.convolutions)))
        for group, count in enumerate(self.groups, start=1):
            layers |= {f"conv {k + 1}": partial(self._convolved, k) for k in itertools.islice(numbers, count)}
            layers[f"pool {group}"] = max_pool
        flat = lambda x: x.reshape(x.shape[0], -1)  # noqa: E731
        for k, linear in enumerate(getattr(self, "hidden", ()), start=1):
            layers[f"hidden {k}"] = lambda x, linear=linear: self.activation(linear(flat(x)))
        return layers | {"logits": lambda x: self.output(flat(x)), "log-probabilities": jax.nn.log_softmax}

    def features(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch m"]:
        """The input of the last layer."""
        layers = self.stages()
        return apply_layers(layers, images, list(layers)[-3]).reshape(images.shape[0], -1)

    def logits(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch C"]:
        """The output before the softmax."""
        return apply_layers(self.stages(), images, "logits")

    def __call__(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch C"]:
        """Log-probabilities of a batch of images with pixels in [0, 1]."""
        return apply_layers(self.stages(), images, "log-probabilities")


class VGG11(VGG):
    """:class:`VGG` of depth 11, with its arguments.

    Example:
        >>> apply, params = mj.models.pure(mj.models.VGG11(classes=10, width=4, rngs=nnx.Rngs(0)))
        >>> jax.eval_shape(apply, params, jnp.zeros((32, 32, 3))).shape
        (10,)
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(depth=11, **arguments)


def pixels(images: Num[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Images of any shape with pixels in [0, 1]: bytes over 255 in float32, others as they are.

    Example:
        >>> print(mj.models.pixels(jnp.array([0, 255], "uint8")))
        [0. 1.]
    """
    pictures = real("pixels", "images", images)
    return pictures.astype(jnp.float32) / 255 if pictures.dtype == jnp.uint8 else pictures


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
    checked_function("classification_loss", "apply", apply, "parameters and one input")
    return _classification_loss(apply)


@lru_cache(maxsize=32)
def _classification_loss(apply: Callable[[Any, Any], Array]) -> Loss:
    def loss(params: Any, batch: Any, _key: Array, _step: Array) -> tuple[Array, dict[str, Array]]:
        images, labels = batch
        return likelihood_loss(jax.vmap(apply, (None, 0))(params, pixels(images)), labels)

    return loss


def likelihood_loss(
    log_p: Float[Array, "batch C"], labels: Num[Array, "batch"]
) -> tuple[Array, dict[str, Array]]:
    """Mean negative log-likelihood of labels, with the accuracy as a metric."""
    chosen = jnp.take_along_axis(log_p, labels.astype(jnp.int32)[:, None], axis=1)
    accuracy = jnp.mean(jnp.argmax(log_p, axis=1) == labels, dtype=log_p.dtype)
    return -jnp.mean(chosen), {"accuracy": accuracy}


def labelled(apply: Callable[[Any, Any], Array], params: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    """Images and labels that fit a classifier, as data for :func:`train` with :func:`classification_loss`.

    Both are returned unchanged.

    Args:
        apply: As in :func:`classification_loss`.
        params: Parameters of the network.
        images: ``(n, *shape)``, bytes or pixels in [0, 1].
        labels: ``(n,)``, whole numbers from 0 to C - 1.

    Raises:
        ValueError: Lengths or types do not fit, pixels lie outside [0, 1], or a label is no class.

    Example:
        >>> apply = lambda w, x: jax.nn.log_softmax(w @ x)
        >>> mj.models.labelled(apply, jnp.zeros((3, 2)), jnp.ones((4, 2)), jnp.array([0, 1, 2, 3]))
        Traceback (most recent call last):
            ...
        ValueError: labelled: labels must lie between 0 and 2, the network has 3 classes, got 0 to 3.
    """
    checked_function("labelled", "apply", apply, "parameters and one input")
    pictures, numbers = real("labelled", "images", images, np), np.asarray(labels)
    if pictures.ndim < 2 or not pictures.size:
        raise ValueError(f"labelled: images must have shape (n, *shape), got {pictures.shape}.")
    one_each = numbers.ndim == 1 and len(numbers) == len(pictures) > 0
    if not one_each or numbers.dtype.kind not in "iu":
        wanted = f"whole numbers, one for each of {len(pictures)} images"
        raise ValueError(f"labelled: labels must be {wanted}, got {numbers.dtype} of shape {numbers.shape}.")
    if pictures.dtype != np.uint8 and not (pictures.min() >= 0 and pictures.max() <= 1):
        given = f"{pictures.dtype} from {pictures.min():.3g} to {pictures.max():.3g}"
        remedy = "scale them, as in images / 255"
        raise ValueError(f"labelled: images must be bytes or have pixels in [0, 1], got {given}: {remedy}.")
    try:
        classes = jax.eval_shape(apply, params, pixels(pictures[0])).shape[0]
    except Exception as error:  # whatever a function of the user raises
        got = f"images of shape {pictures.shape}: {first_line(error)}"
        raise ValueError(f"labelled: apply must accept params and one image, got {got}") from error
    if numbers.min() < 0 or numbers.max() >= classes:
        wanted = f"lie between 0 and {classes - 1}, the network has {classes} classes"
        raise ValueError(f"labelled: labels must {wanted}, got {numbers.min()} to {numbers.max()}.")
    return images, labels
