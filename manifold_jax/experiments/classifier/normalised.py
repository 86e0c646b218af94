"""Networks with batch normalisation: trained with the statistics of batches, then used with fixed ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float

from manifold_jax.models import Apply, pixels
from manifold_jax.models.classifiers import likelihood_loss
from manifold_jax.models.training import Loss


def in_training(apply: Apply, params: Any) -> Any:
    """The module of a network, which normalises every batch by its own statistics."""
    module = nnx.merge(apply.graphdef, params, apply.state)
    module.train()
    return module


def is_normalised(apply: Any, params: Any) -> bool:
    """Whether a network has batch normalisation."""
    if not isinstance(apply, Apply):
        return False
    module = nnx.merge(apply.graphdef, params, apply.state)
    return any(isinstance(part, nnx.BatchNorm) for _, part in nnx.iter_graph(module))


def normalised_loss(apply: Apply) -> Loss:
    """:func:`classification_loss` in which every batch is normalised by its own statistics."""

    def loss(params: Any, batch: Any, _key: Array, _step: Array) -> tuple[Array, dict[str, Array]]:
        images, labels = batch
        return likelihood_loss(in_training(apply, params)(pixels(images)), labels)

    return loss


@jax.jit
def _statistics(apply: Apply, params: Any, images: Any) -> Any:
    module = in_training(apply, params)
    for _, part in nnx.iter_graph(module):
        if isinstance(part, nnx.BatchNorm):
            part.momentum = 0.0  # what was before does not count
    module(pixels(images))
    return nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def with_statistics(apply: Apply, params: Any, images: Float[Any, "n *shape"]) -> Apply:
    """The network that normalises by the statistics of some images, all of them in one batch.

    At those images it gives what it gives in training; at any other it is a function of that one image.
    """
    return dataclasses.replace(apply, state=_statistics(apply, params, images))


def evaluate(apply: Apply, params: Any, x: Array) -> Array:
    """``apply(params, x)``: in a ``Partial`` the statistics are data too, and others compile nothing anew."""
    return apply(params, x)


def network_of(log_prob: Any, needed: str = "parameters") -> tuple[Any, Any]:
    """The function ``apply(params, x)`` and the parameters of a classifier.

    ValueError for any other one, which says what is ``needed``.
    """
    if isinstance(log_prob, Partial):
        parts = log_prob.args if log_prob.func is evaluate else (log_prob.func, *log_prob.args)
        if len(parts) == 2:
            return parts[0], parts[1]
    raise ValueError(f"{needed} are needed: log_prob must be Partial(apply, params).")
