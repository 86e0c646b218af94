"""Weights of PyTorch in networks of Flax NNX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from manifold_jax._checks import choice, instance, optional, require
from manifold_jax._files import user_path
from manifold_jax._programs import first_line
from manifold_jax.geometry.sources import in_memory

_KINDS = {"convolutions": nnx.Conv, "linear layers": nnx.Linear}
_KINDS |= {"normalisations": nnx.BatchNorm | nnx.LayerNorm}
_ASK = "give layout, the name of every layer of the module to that in the file"
_Named = dict[str, Any]  # by the names of layers
_ORDERS = ("channels first", "channels last")
_NAMES = {"bias": "bias", "running_mean": "mean", "running_var": "var"}
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def load_torch_weights(
    weights: Any,
    module: nnx.Module,
    layout: Mapping[str, str] | None = None,
    *,
    flatten: str = "channels first",
) -> nnx.Module:
    """A module with the weights of a state dict of PyTorch; the one that is given stays as it is.

    ===================== ================================= =====================================
    in PyTorch            becomes                           how
    ===================== ================================= =====================================
    convolution, weight   kernel                            (out, in, h, w) to (h, w, in, out)
    linear layer, weight  kernel                            (out, in) to (in, out)
    first linear layer    kernel                            also its inputs: channel, row, column to
    after convolutions                                      row, column, channel
    normalisation         scale, bias, mean, var            weight, bias, running_mean, running_var
    ===================== ================================= =====================================

    Write the file in PyTorch with ``safetensors.torch.save_file(network.state_dict(), "w.safetensors")`` or
    ``numpy.savez("w.npz", **{k: v.cpu().numpy() for k, v in network.state_dict().items()})``. What a network
    does to its input, such as a normalisation of pixels, is not in the file.

    Args:
        weights: File (``.safetensors`` or ``.npz``), or a dictionary of arrays.
        module: A network of convolutions, linear layers, batch and layer normalisations.
        layout: Name of a layer of the module (``"convolutions.0"``) to that in the file (``"features.0"``),
            for every layer, in the order of the network. By default the layers of each kind correspond in
            order; where neither shapes nor names tell which is which, there is a sentence that says so.
        flatten: ``"channels last"`` where the first linear layer after convolutions has one order in both.

    Raises:
        ValueError: The file is not readable, is a pickle, or its layers are not those of the module.

    Example:
        >>> weights = {"fc.weight": np.array([[1.0, 2.0]]), "fc.bias": np.array([3.0])}
        >>> layer = mj.models.load_torch_weights(weights, nnx.Linear(2, 1, rngs=nnx.Rngs(0)))
        >>> print(layer(jnp.array([1.0, 1.0])))
        [6.]
    """
    instance("load_torch_weights", "module", module, nnx.Module)
    choice("load_torch_weights", "flatten", flatten, _ORDERS)
    optional(instance, "load_torch_weights", "layout", layout, Mapping)
    copy = nnx.clone(module)
    source, arrays, ordered = _read(weights)
    stored: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        layer, _, entry = name.rpartition(".")
        if entry != "num_batches_tracked":
            stored.setdefault(layer, {})[entry] = array
    layers, defined = dict(_layers(module)), _keeps_order(module)
    if layout is not None:
        _check_layout(source, stored, layers, layout)
        order = list(layout)
    else:
        layout = _in_order(source, stored, layers, (defined, ordered))
        kinds = {isinstance(layer, nnx.Conv) for layer in layers.values()}
        if not (defined or ordered or _numbered(stored) or len(kinds) == 1):
            raise ValueError(f"load_torch_weights: neither {source} nor the module tells the order: {_ASK}.")
        places = {name: k for k, name in enumerate(stored)}
        order = list(layers) if defined else sorted(layers, key=lambda name: places[layout[name]])
    new, channels = dict(_layers(copy)), None  # channels of the image that the next linear layer reads
    for name in order:
        _fill(new[name], name, stored[layout[name]], layout[name], channels)
        if isinstance(layers[name], nnx.Conv) and flatten == _ORDERS[0]:
            channels = layers[name].out_features
        elif isinstance(layers[name], nnx.Linear):
            channels = None
    return copy


def _read(weights: Any) -> tuple[str, dict[str, np.ndarray], bool]:
    """A name for messages, the arrays by name, and whether they are in the order of the layers."""
    if isinstance(weights, Mapping):
        held = partial(in_memory, "load_torch_weights", wanted="weights must be arrays of numbers")
        return "the dictionary", {str(name): np.asarray(held(a)) for name, a in weights.items()}, True
    path = user_path(weights)
    if path.suffix in _PICKLES:
        call = 'safetensors.torch.save_file(network.state_dict(), "weights.safetensors")'
        remedy = f"which can run any program: write it in PyTorch, {call}"
        raise ValueError(f"load_torch_weights: {path} is a pickle, {remedy}.")
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"load_torch_weights: weights must be a .safetensors or .npz file, got {path}.")
    if not path.is_file():
        raise ValueError(f"load_torch_weights: there is no file {path}.")
    library = None
    if path.suffix == ".safetensors":
        library = require("safetensors.numpy", "data", "A .safetensors file")
    try:
        if library is None:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return str(path), {name: file[name] for name in file.files}, True
        arrays = library.load_file(path)
    except Exception as error:  # of zip archives, of NumPy, of safetensors: what a damaged file makes of them
        wrong = f"{path} is damaged or holds more than arrays"
        raise ValueError(f"load_torch_weights: {wrong}: {first_line(error)}") from error
    return str(path), {name: arrays[name] for name in sorted(arrays, key=_natural)}, False


def _natural(name: str) -> list[Any]:
    """Text and numbers in turn, so that layer 10 comes after layer 9."""
    return [int(part) if k % 2 else part for k, part in enumerate(re.split(r"(\d+)", name))]


def _numbered(names: Iterable[str]) -> bool:
    """Whether names differ by numbers only, which tell their order."""
    return len({re.sub(r"\d+", "", name) for name in names}) <= 1


def _parts(module: Any) -> list[tuple[str, Any]]:
    """What a module or list is made of."""
    lists = isinstance(module, (nnx.List, list, tuple))
    items = enumerate(module) if lists else vars(module).items()
    return [(str(key), part) for key, part in items if not str(key).startswith("_")]


def _layers(module: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Layers that hold weights, by name, in the order in which the module defines them."""
    name = ".".join(path) or type(module).__name__
    if any(isinstance(module, kind) for kind in _KINDS.values()):
        yield name, module
        return
    for key, part in _parts(module):
        if isinstance(part, nnx.Param):
            kinds = f"{', '.join(_KINDS)} (batch, layer)"
            got = f"{type(module).__name__} {name}"
            raise ValueError(f"load_torch_weights: module may hold {kinds}, got {got}.")
        if isinstance(part, (nnx.Module, nnx.List, list, tuple)):
            yield from _layers(part, (*path, key))


def _keeps_order(module: Any) -> bool:
    """Whether attributes are in the order of their definition; Flax sorts them when it copies a module."""
    parts = [
        (key, part) for key, part in _parts(module) if isinstance(part, (nnx.Module, nnx.List, list, tuple))
    ]
    many = sum(bool(list(_layers(part))) for _, part in parts) > 1
    listed = isinstance(module, (nnx.List, list, tuple))
    names = [key for key, _ in _parts(module)]
    inside = all(_keeps_order(part) for _, part in parts if list(_layers(part)))
    return inside and (listed or not many or names != sorted(names))


def _in_order(source: str, stored: _Named, layers: _Named, known: tuple[bool, bool]) -> dict[str, str]:
    """Layers of the module to layers of the file, each kind in order."""
    pairs: dict[str, str] = {}
    weights = {name: entries.get("weight", np.zeros(1)) for name, entries in stored.items()}
    kinds = {1: "normalisations", 2: "linear layers"}
    for kind, types in _KINDS.items():
        mine = [name for name, layer in layers.items() if isinstance(layer, types)]
        theirs = {n: w.shape for n, w in weights.items() if kinds.get(w.ndim, "convolutions") == kind}
        if len(mine) != len(theirs):
            counts = f"{len(mine)} {kind} ({', '.join(mine)}), got {len(theirs)} ({', '.join(theirs)})"
            remedy = "build the network of the file"
            raise ValueError(f"load_torch_weights: {source} must hold {counts}: {remedy}.")
        distinct = len(set(theirs.values())) == len(theirs)  # a wrong order does not fit
        sequences = []
        for where, names, ordered in zip(("the module", source), (mine, theirs), known, strict=True):
            if not (_numbered(names) or ordered or distinct):
                what = f"{where} does not tell the order of its {kind} {', '.join(names)}"
                raise ValueError(f"load_torch_weights: {what}: {_ASK}.")
            sequences.append(sorted(names, key=_natural) if _numbered(names) else list(names))
        pairs |= dict(zip(*sequences, strict=True))
    return pairs


def _check_layout(source: str, stored: _Named, layers: _Named, layout: Mapping[str, str]) -> None:
    """Refuse a layout that names what is not there, or does not name every layer of the module."""
    for where, given, known in (("the module", layout, layers), (source, layout.values(), stored)):
        for name in given:
            if name not in known:
                listed = ", ".join(known)
                raise ValueError(f"load_torch_weights: layout may name {listed} in {where}, got {name!r}.")
    for name in layers:
        if name not in layout:
            wanted = f"every layer of the module, {name!r} is missing"
            raise ValueError(f"load_torch_weights: layout must name {wanted}.")


def _fill(layer: Any, name: str, entries: dict[str, np.ndarray], stored: str, channels: int | None) -> None:
    """Put the weights of one layer of the file into one of the module."""
    main = "kernel" if isinstance(layer, (nnx.Conv, nnx.Linear)) else "scale"
    wanted = {key: value for key, value in vars(layer).items() if isinstance(value, nnx.Variable)}
    given = {_NAMES.get(key, main if key == "weight" else key): array for key, array in entries.items()}
    if given.keys() != wanted.keys():
        has = f"{name} takes {', '.join(sorted(wanted))}, {stored} has {', '.join(sorted(entries))}"
        raise ValueError(f"load_torch_weights: {has}: build the network that was trained.")
    for key, variable in wanted.items():
        array = np.asarray(given[key])
        if key == "kernel" and array.ndim > 1:
            inputs = array.shape[1]
            if isinstance(layer, nnx.Linear) and channels and inputs % channels == 0 and array.ndim == 2:
                array = array.reshape(-1, channels, inputs // channels).swapaxes(1, 2).reshape(-1, inputs)
            array = np.moveaxis(array, (0, 1), (-1, -2))
        if array.shape != variable[...].shape:
            sizes = f"{stored} becomes {array.shape}, {name} takes {variable[...].shape}"
            raise ValueError(f"load_torch_weights: {key} of {sizes}: build the network that was trained.")
        variable[...] = jnp.asarray(array, variable[...].dtype)
