"""A Flax NNX module as a pure function of its parameters and one input, whole or layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.tree_util import Partial
from jaxtyping import Array, Float

from manifold_jax._checks import instance, random_key, real, shown, text, whole
from manifold_jax._programs import as_function
from manifold_jax.geometry.layers import check_chain


@partial(jax.tree_util.register_dataclass, data_fields=["state"], meta_fields=["graphdef", "method"])
@dataclasses.dataclass(frozen=True, eq=False)
class Apply:
    """``apply(params, x)``: the network at one input.

    Those of one architecture and state are equal, so that what was compiled for one network serves the next.

    Attributes:
        graphdef: The architecture.
        state: What is kept next to the parameters, such as the statistics of batch normalisation; data.
        method: Name of the method of the module; by default its call.
    """

    graphdef: Any
    state: Any = dataclasses.field(default_factory=dict)
    method: str = "__call__"

    def __hash__(self) -> int:
        return hash((self.graphdef, self.method))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Apply) or (self.graphdef, self.method) != (other.graphdef, other.method):
            return False
        mine, theirs = jax.tree.leaves(self.state), jax.tree.leaves(other.state)
        return len(mine) == len(theirs) and all(a is b for a, b in zip(mine, theirs, strict=True))

    def __call__(self, params: Any, x: Float[Array, "*shape"]) -> Any:
        """The output for one input, without a batch axis."""
        x = real("the network", "x", x)
        try:
            module = nnx.merge(self.graphdef, params, self.state)
        except ValueError as error:
            wanted = "those of pure(network), or of one of its architecture"
            raise ValueError(f"the network: params must be {wanted}, got {shown(params)}.") from error
        if not hasattr(module, self.method):
            raise ValueError(f"{type(module).__name__} has no method {self.method!r}.")
        outputs = getattr(module, self.method)(x[None])
        return jax.tree.map(lambda output: output[0], outputs)

    def of(self, method: str) -> Apply:
        """Another method of the same network, such as ``"logits"`` or ``"features"`` of a classifier.

        Like the call of the module it maps a batch. One that is not there is refused when it is called.

        Example:
            >>> apply, params = mj.models.pure(mj.models.LeNet(rngs=nnx.Rngs(0)))
            >>> apply.of("features")(params, jnp.zeros((28, 28))).shape
            (128,)
        """
        return dataclasses.replace(self, method=text("of", "method", method))


class Pure(NamedTuple):
    """A network as a function and its parameters; also a function of one input, and a pytree.

    ``jax.jit`` takes it as an argument.

    Attributes:
        apply: ``apply(params, x)``, one input to its output.
        params: Nested dictionary of arrays.
    """

    apply: Apply
    params: Any

    def __call__(self, x: Float[Array, "*shape"]) -> Any:
        """The output for one input, without a batch axis."""
        return self.apply(self.params, x)


def pure(module: nnx.Module) -> Pure:
    """Split a module that maps batches to batches into ``(apply, params)``; ``apply`` takes one input.

    Everything but the parameters, such as statistics of batch normalisation or keys of random numbers, is
    kept as it is now, as data next to them: only the parameters are differentiated.

    Args:
        module: A module that is not in training; its call takes ``(batch, *shape)``.

    Returns:
        The function and the parameters: as a whole a function of one input, a classifier for
        :mod:`manifold_jax.information`, and ``jax.vmap(apply, (None, 0))`` for batches.

    Raises:
        ValueError: ``module`` is not an NNX module, or a part of it is in training.

    Example:
        >>> apply, params = mj.models.pure(mj.models.LeNet(rngs=nnx.Rngs(0)))
        >>> apply(params, jnp.zeros((28, 28))).shape
        (10,)
    """
    if not isinstance(module, nnx.Module):
        remedy = "any other network serves as a function of its parameters and one input"
        raise ValueError(f"pure: module must be a flax.nnx.Module, got {type(module).__name__}: {remedy}.")
    for path, part in nnx.iter_graph(module):
        flags = [name for name in _TRAINING if getattr(part, name, None) is False]
        if flags:
            where = f"{type(part).__name__} {'.'.join(map(str, path))}".strip()
            raise ValueError(f"pure: {where} is in training, {flags[0]} is False: call module.eval() first.")
    graphdef, params, state = nnx.split(module, nnx.Param, ...)
    return Pure(Apply(graphdef, nnx.to_pure_dict(state)), nnx.to_pure_dict(params))


_TRAINING = ("use_running_average", "deterministic")  # what is False in Flax's layers while they train


def torch_initial(params: Any, key: Array) -> Any:
    """Initial parameters as PyTorch draws them: kernels and biases uniform in +- 1 / sqrt(fan in).

    Flax draws kernels with three times that variance and sets biases to 0; the start of a training, and the
    trace of G there, depend on it.

    Args:
        params: Parameters from :func:`pure`, layers with ``"kernel"`` and ``"bias"`` at any depth.
        key: Key of the draw.

    Example:
        >>> params = mj.models.pure(mj.models.LeNet(rngs=nnx.Rngs(0))).params
        >>> params = mj.models.torch_initial(params, jax.random.key(0))
        >>> bool(abs(params["second"]["kernel"]).max() <= (9 * 32) ** -0.5)
        True
    """
    if not isinstance(params, Mapping) or not params:
        raise ValueError(f"torch_initial: params must be those of pure(network), got {shown(params)}.")
    return _drawn(params, random_key("torch_initial", "key", key))


def _drawn(params: Any, key: Array) -> Any:
    if not isinstance(params, Mapping) or "scale" in params:  # normalisation begins with 1 and 0 there too
        return params
    keys = dict(zip(params, jax.random.split(key, len(params)), strict=True))
    if "kernel" not in params:
        return {name: _drawn(layer, keys[name]) for name, layer in params.items()}
    bound = (params["kernel"].size // params["kernel"].shape[-1]) ** -0.5
    draw = partial(jax.random.uniform, minval=-bound, maxval=bound)
    return {name: draw(keys[name], leaf.shape, leaf.dtype) for name, leaf in params.items()}


class Layers(NamedTuple):
    """The layers of a network at given parameters.

    Attributes:
        names: Names of the layers, in order.
        functions: One for each layer, of one activation (no batch axis) of the layer before, the first of one
            input; ``jax.tree_util.Partial`` objects, pytrees whose leaves are the parameters.
    """

    names: tuple[str, ...]
    functions: tuple[Partial, ...]

    def activations(self, x: Array) -> tuple[Array, ...]:
        """Activations of all layers at one input; under ``jit`` those that are not used are not computed."""
        activations = []
        for function in self.functions:
            x = function(x)
            activations.append(x)
        return tuple(activations)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """``layer(params, state, x)``: one layer of a network; equal ones are compiled once."""

    graphdef: Any
    number: int

    def __call__(self, params: Any, state: Any, x: Array) -> Array:
        stages = _stages(nnx.merge(self.graphdef, params, state))
        return list(stages.values())[self.number](real("the network", "x", x)[None])[0]


def _stages(module: nnx.Module) -> Mapping[str, Callable[[Array], Array]]:
    """Layers by name, as functions of batches; those of a Sequential by number and class or function."""
    if isinstance(module, nnx.Sequential):
        kind = lambda layer: getattr(layer, "__name__", type(layer).__name__).lower()  # noqa: E731
        return {f"{k} {kind(layer)}": layer for k, layer in enumerate(module.layers, start=1)}
    stages = getattr(module, "stages", None)
    if stages is None:
        remedy = "give it a method stages, or list its layers as functions for chain"
        raise ValueError(f"network_layers: {type(module).__name__} must name its layers: {remedy}.")
    return stages()


def network_layers(network: Pure) -> Layers:
    """The layers of a network of this package, or of an ``nnx.Sequential``.

    Args:
        network: A network from :func:`pure`. A module of yours serves too if it has a method ``stages`` that
            returns a dictionary, name to function of a batch, in order.

    Returns:
        The layers; for other parameters of the same architecture nothing is compiled again.

    Raises:
        ValueError: The module does not name its layers; see :func:`chain` for a list of functions.

    Example:
        >>> layers = mj.models.network_layers(mj.models.pure(mj.models.LeNet(rngs=nnx.Rngs(0))))
        >>> [f"{n} {a.shape}" for n, a in zip(layers.names, layers.activations(jnp.zeros((28, 28))))][2:]
        ['pool (12, 12, 64)', 'hidden (128,)', 'logits (10,)', 'log-probabilities (10,)']
    """
    instance("network_layers", "network", network, Pure, "see pure")
    graphdef, variables = network.apply.graphdef, (network.params, network.apply.state)
    names = tuple(_stages(nnx.merge(graphdef, *variables)))
    return Layers(names, tuple(Partial(_Layer(graphdef, k), *variables) for k in range(len(names))))


def chain(
    functions: Mapping[str, Callable[[Array], Array]], shape: Sequence[int], dtype: Any = jnp.float32
) -> Layers:
    """A network given as a list of named functions, each of one activation of the one before.

    Args:
        functions: Name to function, in order; a ``jax.tree_util.Partial`` of a function and its parameters
            is not compiled again for other parameters.
        shape: Shape of one input.
        dtype: Its dtype.

    Raises:
        ValueError: There are none, or a function does not accept what the one before returns.

    Example:
        >>> layers = mj.models.chain({"double": lambda x: 2 * x, "sum": lambda x: x.sum(0)}, (3, 2))
        >>> [activation.shape for activation in layers.activations(jnp.ones((3, 2)))]
        [(3, 2), (2,)]
    """
    if not isinstance(functions, Mapping):
        raise ValueError(f"chain: functions must be a dictionary of layers by name, got {shown(functions)}.")
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise ValueError(f"chain: shape must be a sequence of whole numbers, got {shown(shape)}.")
    shape = tuple(whole("chain", "every one of shape", size) for size in shape)
    if not functions:
        raise ValueError("chain: functions must hold at least one layer, got none.")
    given = [as_function(function) for function in functions.values()]
    for name, function in zip(functions, given, strict=True):
        if not callable(function):
            kind = type(function).__name__
            raise ValueError(f"chain: functions[{name!r}] must be a function of one activation, got {kind}.")
    parts = tuple(f if isinstance(f, Partial) else Partial(f) for f in given)
    check_chain(parts, jax.ShapeDtypeStruct(tuple(shape), dtype), tuple(functions))
    return Layers(tuple(functions), parts)
