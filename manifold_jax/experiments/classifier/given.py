"""Networks whose weights a user brings: the paper's, and the small one in the history of its code."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from manifold_jax.models import LeNet, convolve, load_torch_weights, max_pool
from manifold_jax.models.classifiers import MNIST_MEAN, MNIST_STD


class SmallNetwork(nnx.Module):
    """Two 3 x 3 convolutions of 4 channels, 2 x 2 max pool, 32 hidden units, log-softmax.

    The network for MNIST in the code of Grementieri & Fioresi before that of the paper (commit 4c765df).
    """

    mean, std = MNIST_MEAN, MNIST_STD

    def __init__(self, rngs: nnx.Rngs) -> None:
        options = {"precision": "highest", "rngs": rngs}
        conv = partial(
            nnx.Conv, kernel_size=(3, 3), padding="VALID", conv_general_dilated=convolve, **options
        )
        self.first, self.second = conv(1, 4), conv(4, 4)
        self.hidden, self.output = nnx.Linear(576, 32, **options), nnx.Linear(32, 10, **options)

    def features(self, images: Float[Array, "batch 28 28"]) -> Float[Array, "batch 32"]:
        """The hidden units before the last layer."""
        x = nnx.relu(self.first((images[..., None] - self.mean) / self.std))
        x = max_pool(nnx.relu(self.second(x)))
        return nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))

    def logits(self, images: Float[Array, "batch 28 28"]) -> Float[Array, "batch 10"]:
        """The output before the softmax."""
        return self.output(self.features(images))

    def __call__(self, images: Float[Array, "batch 28 28"]) -> Float[Array, "batch 10"]:
        """Log-probabilities of a batch of images with pixels in [0, 1]."""
        return jax.nn.log_softmax(self.logits(images))


def network_with(weights: Path) -> Any:
    """The network for MNIST that weights of PyTorch belong to; ValueError where it is neither."""
    try:
        return load_torch_weights(weights, SmallNetwork(nnx.Rngs(0)))
    except ValueError:
        return load_torch_weights(weights, LeNet(rngs=nnx.Rngs(0)))
