"""Every layer of a sequential network as a function of the activation before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array

from manifold_jax.geometry.layers import check_chain
from manifold_jax.geometry.manifold import as_partial
from manifold_jax.models.pure import Pure


class Layers(NamedTuple):
    """The layers of a network at given parameters.

    Attributes:
        names: Of the layers, in order.
        functions: Each of one activation (no batch axis) of the layer before, the first of one input;
            ``jax.tree_util.Partial`` objects, pytrees whose leaves are the parameters.
    """

    names: tuple[str, ...]
    functions: tuple[Partial, ...]

    def activations(self, x: Array) -> tuple[Array, ...]:
        """Activations of all layers at one input; what is not used of them is not computed under ``jit``."""
        found = []
        for function in self.functions:
            x = function(x)
            found.append(x)
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """``layer(params, x)``: one layer of a network; equal ones are compiled once."""

    graphdef: Any
    number: int

    def __call__(self, params: Any, x: Array) -> Array:
        stages = _stages(nnx.merge(self.graphdef, params))
        return list(stages.values())[self.number](x[None])[0]


def _stages(module: nnx.Module) -> Mapping[str, Callable[[Array], Array]]:
    """Layers by name, as functions of batches."""
    if isinstance(module, nnx.Sequential):
        return {f"{k} {_kind(layer)}": layer for k, layer in enumerate(module.layers, start=1)}
    stages = getattr(module, "stages", None)
    if stages is None:
        raise ValueError(
            f"{type(module).__name__} does not name its layers: give it a method stages, or list its layers "
            "as functions for chain."
        )
    return stages()


def _kind(layer: Any) -> str:
    """What a layer is called."""
    named = type(layer).__name__ if isinstance(layer, nnx.Module) else getattr(layer, "__name__", "function")
    return named.lower()


def network_layers(network: Pure) -> Layers:
    """The layers of a network of this package, or of an ``nnx.Sequential``.

    Args:
        network: Of :func:`pure`. A module of yours serves too if it has a method ``stages`` that returns a
            dictionary, name to function of a batch, in order.

    Returns:
        The layers. For other parameters of the same architecture nothing is compiled again.

    Raises:
        ValueError: The module does not name its layers; see :func:`chain` for a list of functions.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from manifold_jax.models import LeNet, network_layers, pure
        >>> layers = network_layers(pure(LeNet(rngs=nnx.Rngs(0))))
        >>> [f"{n} {a.shape}" for n, a in zip(layers.names, layers.activations(jnp.zeros((28, 28))))][2:]
        ['pool (12, 12, 64)', 'hidden (128,)', 'logits (10,)', 'log-probabilities (10,)']
    """
    graphdef, params = network.apply.graphdef, network.params
    names = tuple(_stages(nnx.merge(graphdef, params)))
    return Layers(names, tuple(Partial(_Layer(graphdef, k), params) for k in range(len(names))))


def chain(
    functions: Mapping[str, Callable[[Array], Array]], shape: Sequence[int], dtype: Any = jnp.float32
) -> Layers:
    """A network given as a list of named functions, each of one activation of the one before.

    Args:
        functions: Name to function, in order; ``jax.tree_util.Partial`` of one with its parameters, where
            other parameters shall not be compiled anew.
        shape: Of one input.
        dtype: Of it.

    Returns:
        The layers.

    Raises:
        ValueError: There are none, or a function does not accept what the one before returns.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax.models import chain
        >>> layers = chain({"double": lambda x: 2 * x, "sum": lambda x: x.sum(0)}, (3, 2))
        >>> [activation.shape for activation in layers.activations(jnp.ones((3, 2)))]
        [(3, 2), (2,)]
    """
    if not functions:
        raise ValueError("chain needs at least one layer, got none.")
    parts = tuple(as_partial(function) for function in functions.values())
    check_chain(parts, jax.ShapeDtypeStruct(tuple(shape), dtype), tuple(functions))
    return Layers(tuple(functions), parts)
