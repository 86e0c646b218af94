"""Arrays that lie in pieces on the devices of a mesh.

JAX tells by the type of an array how it is cut along explicit axes, the default of ``jax.make_mesh``, while a
program is being traced too. Arrays whose axes are auto are given explicit ones at the door and their own back
(:func:`explicit`); under a ``jit`` of the caller nothing tells how those are cut, and the compiler decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

_Function = TypeVar("_Function", bound=Callable[..., Any])

Names = tuple[str, ...]
"""Axes of a mesh over which one axis of an array is cut, the first the coarsest; empty for none."""


def mesh_of(x: Any) -> Any:
    """The mesh of an array with explicit axes, None for other arrays and other things."""
    if not isinstance(x, jax.Array):
        return None
    mesh = getattr(getattr(jax.typeof(x), "sharding", None), "mesh", None)
    return mesh if mesh is not None and AxisType.Explicit in mesh.axis_types else None


def names_of(x: Array) -> tuple[Names, ...]:
    """The names that every axis of an array is cut over."""
    return tuple(map(_listed, jax.typeof(x).sharding.spec))


def _listed(entry: Any) -> Names:
    return () if entry is None else tuple(entry) if isinstance(entry, tuple) else (entry,)


def joined(names: tuple[Names, ...]) -> Names:
    """The names of several axes."""
    return sum(names, ())


def pieces_of(x: Any) -> tuple[int, ...]:
    """Number of pieces along every axis of an array; 1 where nothing is cut."""
    mesh = mesh_of(x)
    if mesh is None:
        return (1,) * jnp.ndim(x)
    return tuple(math.prod(mesh.shape[name] for name in names) for names in names_of(x))


def explicit(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Arrays on a mesh with auto axes as if these were explicit, and what turns results back.

    No number is moved. Everything else is passed on as it is.
    """
    return _turned(tree, AxisType.Explicit)


def auto(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The same the other way round, for what is left to the compiler."""
    return _turned(tree, AxisType.Auto)


def _turned(tree: Any, kind: AxisType) -> tuple[Any, Callable[[Any], Any]]:
    own: dict[Mesh, Mesh] = {}

    def turn(x: Any) -> Any:
        sharding = getattr(x, "sharding", None) if isinstance(x, jax.Array) else None
        if isinstance(x, jax.core.Tracer) or not isinstance(sharding, NamedSharding):
            return x
        mesh: Any = sharding.mesh
        if all(axis == kind for axis in mesh.axis_types):
            return x
        other = Mesh(mesh.devices, mesh.axis_names, axis_types=(kind,) * mesh.devices.ndim)
        own[other] = mesh
        return _on_other_mesh(x, other)

    def back(x: Any) -> Any:
        mesh = getattr(getattr(x, "sharding", None), "mesh", None) if isinstance(x, jax.Array) else None
        return _on_other_mesh(x, own[mesh]) if mesh in own else x

    turned = jax.tree.map(turn, tree)
    return turned, partial(jax.tree.map, back) if own else unchanged


def unchanged(result: Any) -> Any:
    """What it is given; a function with a name travels to other processes."""
    return result


def _on_other_mesh(x: Array, mesh: Mesh) -> Array:
    """An array on a mesh of the same devices."""
    sharding = NamedSharding(mesh, x.sharding.spec)  # type: ignore[attr-defined]
    shards = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)


def in_pieces(function: Callable[..., Any], mesh: Any, given: Any, result: Any) -> Callable[..., Any]:
    """A function that every device applies to its pieces of the arguments.

    ``given`` and ``result`` are specs, as for ``jax.shard_map``. Arguments that are cut otherwise, such as
    weights, are gathered first.
    """
    mapped = jax.shard_map(function, mesh=mesh, in_specs=given, out_specs=result, check_vma=False)

    def run(*arguments: Any) -> Any:
        specs = jax.tree.broadcast(tuple(given), arguments, is_leaf=lambda s: isinstance(s, PartitionSpec))
        return mapped(*jax.tree.map(partial(_cut, mesh), arguments, specs))

    return run


def _cut(mesh: Any, x: Any, spec: PartitionSpec) -> Any:
    """An array cut as a spec says; one on no mesh of which all devices need all is left to ``shard_map``."""
    if mesh_of(x) is None and not any(spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, spec))


def over_rows(function: Callable[..., Any], held: Any, *arrays: Any, axes: int = 1) -> Any:
    """``function(held, *arrays)`` of arrays whose first axes are alike, as are those of the result.

    Where they are cut over a mesh along these axes every device takes its rows, and holds all of ``held``.
    """
    on_mesh = (x for x in jax.tree.leaves(arrays) if mesh_of(x) is not None)
    cut = next((x for x in on_mesh if any(names_of(x)[:axes])), None)
    if cut is None:
        return function(held, *arrays)
    rows = PartitionSpec(*names_of(cut)[:axes])
    given = PartitionSpec(), *[rows] * len(arrays)
    return in_pieces(function, mesh_of(cut), given, rows)(held, *arrays)


def by_compiler(function: Callable[..., Any], like: Any, axes: int) -> Callable[..., Any]:
    """A function for which the compiler finds out how to cut what is computed, for algebra on small arrays.

    Results that begin with the first ``axes`` axes of an array are cut as these are, others are whole on
    every device. Without a mesh it is the function itself.
    """
    mesh = mesh_of(like)
    if mesh is None:
        return function
    shape, names = jnp.shape(like)[:axes], names_of(like)[:axes]

    def sharding_of(result: Any) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*names) if result.shape[:axes] == shape else PartitionSpec())

    def run(*arguments: Any) -> Any:
        plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), arguments)
        shardings = jax.tree.map(sharding_of, jax.eval_shape(function, *plain))
        return jax.sharding.auto_axes(function, axes=mesh.axis_names, out_sharding=shardings)(*arguments)

    return run


def of_one_point(function: _Function) -> _Function:
    """A function of one point, which ``jax.vmap`` maps over points that are cut over a mesh.

    Explicit axes have no rules for all that it does (a row at a place that differs from point to point, loops
    that end early, tangents of a network), so that within it the compiler cuts. What it returns is whole for
    every point, and cut as the points are. Arguments are pytrees of arrays, functions and numbers; without a
    mesh it is the function itself.

    Raises:
        ValueError: A function among the arguments hides arrays that lie on the mesh.
    """

    @wraps(function)
    def run(*arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        like = next((x for x in leaves if mesh_of(x) is not None), None)
        if like is None:
            return function(*arguments)
        places = [k for k, x in enumerate(leaves) if isinstance(x, jax.Array | np.ndarray)]

        def of_arrays(*arrays: Any) -> Any:
            new = dict(zip(places, arrays, strict=True))
            return function(*jax.tree.unflatten(structure, [new.get(k, x) for k, x in enumerate(leaves)]))

        try:
            return by_compiler(of_arrays, like, 0)(*(leaves[k] for k in places))
        except ValueError as error:
            if "context mesh" not in str(error):
                raise
            hidden = "A function closes over arrays on a mesh with explicit axes"
            raise ValueError(f"{hidden}: hand it over as a pair (apply, params).") from error

    return run  # type: ignore[return-value]


def place_in(names: Names, size: int) -> Any:
    """Where the piece of this device begins along an axis, ``size`` its length; within :func:`in_pieces`."""
    return jax.lax.axis_index(names) * size if names else 0


def shift_pieces(x: Any, names: Names, step: int) -> Any:
    """What the device has that holds the piece so many places before, around a ring; in :func:`in_pieces`."""
    mesh = jax.sharding.get_abstract_mesh()
    order = tuple(name for name in mesh.axis_names if name in names)  # that in which ``ppermute`` counts
    table = np.arange(math.prod(mesh.shape[name] for name in order))
    table = table.reshape([mesh.shape[name] for name in order])
    places = table.transpose([order.index(name) for name in names]).ravel().tolist()
    ring = [(place, places[(k + step) % len(places)]) for k, place in enumerate(places)]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, order, ring), x)


@jax.jit
def take_rows(values: Array, index: tuple[Any, ...]) -> Array:
    """``values[index]``, the same on every device, each of which gives what it has.

    There is an index ``(n,)`` for every axis but the last, whose entries are all taken.
    """
    names = names_of(values)

    def local(x: Array, index: tuple[Array, ...]) -> Array:
        own = [i - place_in(over, n) for i, over, n in zip(index, names[:-1], x.shape[:-1], strict=True)]
        held = jnp.stack([(i >= 0) & (i < n) for i, n in zip(own, x.shape[:-1], strict=True)]).all(axis=0)
        rows = x[tuple(jnp.clip(i, 0, n - 1) for i, n in zip(own, x.shape[:-1], strict=True))]
        rows = total(jnp.where(held[:, None], rows, 0), joined(names[:-1]))
        return jax.lax.all_gather(rows, names[-1], axis=1, tiled=True) if names[-1] else rows

    specs = jax.typeof(values).sharding.spec, PartitionSpec()
    return in_pieces(local, mesh_of(values), specs, PartitionSpec())(values, index)


def total(x: Any, names: Names, largest: bool = False) -> Any:
    """Sum, or the largest value, over the pieces of a mesh; within :func:`in_pieces`."""
    if not names:
        return x
    # ``pmax`` has no derivative.
    return jnp.max(jax.lax.all_gather(x, names), axis=0) if largest else jax.lax.psum(x, names)


def flatten_from(values: Array, axis: int) -> Array:
    """All axes from one on in one; no number is moved.

    They are in the order of the pieces, which is that of the array where only the first of the axes is cut.
    """
    names = names_of(values)
    if not any(names[axis + 1 :]):
        return values.reshape(*values.shape[:axis], -1)
    spec = PartitionSpec(*names[:axis], joined(names[axis:]))
    flatten = in_pieces(
        lambda x: x.reshape(*x.shape[:axis], -1), mesh_of(values), (jax.typeof(values).sharding.spec,), spec
    )
    return jax.jit(flatten)(values)


def rows_only(x: Array) -> Array:
    """An array that is cut along its first axis only: along others it is gathered."""
    mesh = mesh_of(x)
    if mesh is None or not any(names_of(x)[1:]):
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(names_of(x)[0])))


def rows_place(tree: Any) -> tuple[Mesh, Names] | None:
    """Mesh and names of arrays that are all cut alike along their first axis; None for others."""
    shardings = [getattr(x, "sharding", None) for x in jax.tree.leaves(tree)]
    named = [s for s in shardings if isinstance(s, NamedSharding) and len(s.spec) and s.spec[0] is not None]
    places = {(s.mesh, _listed(s.spec[0])) for s in named}
    mesh, names = next(iter(places), (None, ()))
    return (mesh, names) if len(places) == 1 and len(named) == len(shardings) else None  # type: ignore[return-value]


def pieces_along(place: NamedSharding) -> int:
    """Number of pieces that a sharding cuts a single axis into; 0 if it is for another number of axes."""
    if len(place.spec) != 1:
        return 0
    return math.prod(place.mesh.shape[name] for name in _listed(place.spec[0]))


def on_own_rows(function: Callable[[Any], Any], place: NamedSharding) -> Callable[[Any], Any]:
    """A function that every device applies to its rows, of a tree that is cut like this, on auto axes."""
    mesh: Any = place.mesh
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
    return jax.shard_map(function, mesh=mesh, in_specs=(place.spec,), out_specs=place.spec, check_vma=False)


def take_batch(tree: Any, rows: Array, place: tuple[Mesh, Names] | None) -> Any:
    """Rows of arrays that are cut as :func:`rows_place` says, on a mesh with auto axes.

    Each device gives those that it has. Where they can be shared out evenly each gets a share, else all.
    """
    if place is None:
        return jax.tree.map(lambda x: x[rows], tree)
    mesh, names = place
    order = tuple(name for name in mesh.axis_names if name in names)  # that in which shares are counted
    even = len(rows) % math.prod(mesh.shape[name] for name in names) == 0

    def local(x: Array, rows: Array) -> Array:
        own = rows - place_in(names, len(x))
        held = ((own >= 0) & (own < len(x))).reshape(-1, *(1,) * (x.ndim - 1))
        taken = jnp.where(held, x[jnp.clip(own, 0, len(x) - 1)], jnp.zeros((), x.dtype))
        numbers = taken.astype(jnp.int8) if x.dtype == bool else taken
        scatter = partial(jax.lax.psum_scatter, axis_name=order, tiled=True)
        return (scatter(numbers) if even else jax.lax.psum(numbers, order)).astype(x.dtype)

    given, result = (PartitionSpec(names), PartitionSpec()), PartitionSpec(order) if even else PartitionSpec()
    take = jax.shard_map(local, mesh=mesh, in_specs=given, out_specs=result, check_vma=False)
    return jax.tree.map(lambda x: take(x, rows), tree)


def gathered(x: Array) -> np.ndarray:
    """An array on the host, put together there unless pieces of it lie in other processes."""
    mesh = mesh_of(x)
    if mesh is not None and not x.is_fully_addressable:
        x = jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec()))
    return np.asarray(x)
