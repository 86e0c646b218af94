"""Networks as Flax NNX modules and as pure functions of their parameters; training and checkpoints."""

from manifold_jax.models.classifiers import VGG11 as VGG11
from manifold_jax.models.classifiers import LeNet as LeNet
from manifold_jax.models.layers import convolve as convolve
from manifold_jax.models.layers import max_pool as max_pool
from manifold_jax.models.pure import Apply as Apply
from manifold_jax.models.pure import Pure as Pure
from manifold_jax.models.pure import pure as pure
