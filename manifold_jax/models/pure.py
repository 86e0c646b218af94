"""A Flax NNX module as a pure function of its parameters and one input."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Apply:
    """``apply(params, x)``: the network at one input.

    Networks of one architecture give equal ones, so that what was compiled for the first serves the second.

    Attributes:
        graphdef: The architecture.
        method: Which method of the module; by default its call.
    """

    graphdef: Any
    method: str = "__call__"

    def __call__(self, params: Any, x: Float[Array, "*shape"]) -> Any:
        """The output for one input, without a batch axis."""
        module = nnx.merge(self.graphdef, params)
        if not hasattr(module, self.method):
            raise ValueError(f"{type(module).__name__} has no method {self.method!r}.")
        outputs = getattr(module, self.method)(x[None])
        return jax.tree.map(lambda output: output[0], outputs)

    def of(self, method: str) -> Apply:
        """Another method of the same network, ``"logits"`` or ``"features"`` of a classifier.

        Args:
            method: Its name; it maps a batch like the call of the module.

        Returns:
            ``apply(params, x)`` for it; a network without such a method is refused when it is called.

        Example:
            >>> import jax.numpy as jnp
            >>> from flax import nnx
            >>> from manifold_jax.models import LeNet, pure
            >>> apply, params = pure(LeNet(rngs=nnx.Rngs(0)))
            >>> apply.of("features")(params, jnp.zeros((28, 28))).shape
            (128,)
        """
        return dataclasses.replace(self, method=method)


class Pure(NamedTuple):
    """A network as a function and its parameters.

    Attributes:
        apply: ``apply(params, x)``, one input to its output.
        params: Nested dictionary of arrays.
    """

    apply: Apply
    params: Any


def pure(module: nnx.Module) -> Pure:
    """Split a module that maps batches to batches into ``(apply, params)``; ``apply`` takes one input.

    Args:
        module: A module whose only variables are ``nnx.Param``; its call takes ``(batch, *shape)``.

    Returns:
        The function and the parameters. A classifier for :mod:`manifold_jax.information` is
        ``jax.tree_util.Partial(apply, params)``, a batch ``jax.vmap(apply, (None, 0))``.

    Raises:
        ValueError: ``module`` is no NNX module, or has variables besides its parameters, such as running
            means or dropout keys, which a pure function of the parameters cannot update.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from manifold_jax.models import LeNet, pure
        >>> apply, params = pure(LeNet(rngs=nnx.Rngs(0)))
        >>> apply(params, jnp.zeros((28, 28))).shape
        (10,)
    """
    if not isinstance(module, nnx.Module):
        raise ValueError(
            f"module must be a flax.nnx.Module, got {type(module).__name__}: any other network serves as a "
            "function of its parameters and one input."
        )
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    others = jax.tree_util.tree_leaves_with_path(rest)
    if others:
        names = ", ".join(jax.tree_util.keystr(path) for path, _ in others)
        raise ValueError(f"module must have parameters only, got other variables too: {names}.")
    return Pure(Apply(graphdef), nnx.to_pure_dict(params))


def torch_initial(params: Any, key: Array) -> Any:
    """Initial parameters as PyTorch draws them: kernels and biases uniform in +- 1 / sqrt(fan in).

    Flax draws kernels with three times that variance and sets biases to 0; where a training begins, and the
    trace of G there, depends on it.

    Args:
        params: Of :func:`pure`, layers with ``"kernel"`` and ``"bias"`` at any depth.
        key: Of the draw.

    Returns:
        Others in the same structure.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from manifold_jax.models import LeNet, pure, torch_initial
        >>> params = torch_initial(pure(LeNet(rngs=nnx.Rngs(0))).params, jax.random.key(0))
        >>> bool(abs(params["second"]["kernel"]).max() <= (9 * 32) ** -0.5)
        True
    """
    if "kernel" in params:
        bound = (params["kernel"].size // params["kernel"].shape[-1]) ** -0.5
        keys = jax.random.split(key, len(params))
        return {
            name: jax.random.uniform(k, leaf.shape, leaf.dtype, -bound, bound)
            for k, (name, leaf) in zip(keys, params.items(), strict=True)
        }
    keys = jax.random.split(key, len(params))
    return {name: torch_initial(layer, k) for k, (name, layer) in zip(keys, params.items(), strict=True)}
