"""Where points come from, checked once: a Manifold, an array, a file on disk, or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax._checks import choice, instance, is_traced, single
from manifold_jax._programs import as_function, program_of, result_of
from manifold_jax._sharding import by_compiler, explicit, gathered, mesh_of, take_rows
from manifold_jax.geometry.embeddings import evaluate_points, frozen_embedding, render
from manifold_jax.geometry.ends import refuse_doubled_ends
from manifold_jax.geometry.grid import DType, Grid
from manifold_jax.geometry.points import Points, probed
from manifold_jax.geometry.sources import Stored, as_real_array, is_labelled

Source = Any
"""Array ``(*shape, *features)`` in memory or a file, function of one chart point, or :class:`Manifold`."""

OFFSET = 4.0  # length of points over their distances from which it is subtracted: two bits of every number
MISSING = ("refuse", "mask")  # what is done with points that are not finite


@dataclass(frozen=True, eq=False, repr=False)
class Manifold:
    """A parametrised manifold, its natural grid, and what is known about it in closed form.

    Attributes:
        name: What it is, for reports.
        embedding: One chart point ``(d,)`` to one ambient point of any feature shape, smooth.
        grid: The lattice on which it is measured by default.
        known: Closed forms by name of the quantity: functions of one chart point ``(d,)`` for pointwise ones
            (``"volume_element"``, ...), numbers for totals (``"total_volume"``, ``"reach"``, ...).
        attributes: Anything a report should record about how the manifold was made (shape, blur, ...).

    Raises:
        ValueError: The embedding is not a function, or the grid is not a Grid.

    Example:
        >>> grid = mj.Grid((mj.Axis("angle", 0.0, 2 * jnp.pi, 32, periodic=True),))
        >>> circle = mj.Manifold("circle", lambda u: jnp.array([jnp.cos(u[0]), jnp.sin(u[0])]), grid)
        >>> circle.feature_shape
        (2,)
    """

    name: str
    embedding: Callable[[jax.Array], jax.Array]
    grid: Grid
    known: Mapping[str, Callable[[jax.Array], Any] | float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        caller, kind = f"Manifold {self.name!r}", type(self.embedding).__name__
        if not callable(self.embedding):
            raise ValueError(f"{caller}: embedding must be a function, got {kind}.")
        instance(caller, "grid", self.grid, Grid)
        object.__setattr__(self, "name", str(self.name))
        for label in ("known", "attributes"):
            pairs = getattr(self, label) or {}
            instance(caller, label, pairs, Mapping)
            object.__setattr__(self, label, {str(key): value for key, value in pairs.items()})

    def __repr__(self) -> str:
        axes = ", ".join(f"{axis.name}: {axis.size}" for axis in self.grid.axes)
        return f"Manifold({self.name!r}, grid ({axes}), known {list(self.known)}, {dict(self.attributes)})"

    def __deepcopy__(self, memo: Any) -> Manifold:
        """A copy with attributes of its own; functions are not copied."""
        return replace(self, attributes=deepcopy(dict(self.attributes), memo))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What pickle asks for: refused in a sentence where functions live inside others."""
        functions = {"embedding": self.embedding} | {k: f for k, f in self.known.items() if callable(f)}
        for label, function in functions.items():
            while isinstance(function, partial | jax.tree_util.Partial):
                function = function.func
            if "<" in getattr(function, "__qualname__", ""):
                what = f"its {label} is a function made inside another, which pickle cannot name"
                remedy = "pass what it is built from and build it in the other process"
                raise TypeError(f"Manifold {self.name!r} cannot be pickled: {what}; {remedy}.")
        return super().__reduce_ex__(protocol)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one ambient point."""
        if (program := program_of(self.embedding)) is not None:
            return tuple(program.result.shape)
        point = jax.ShapeDtypeStruct((self.grid.ndim,), jnp.result_type(float))
        return tuple(jax.eval_shape(lambda u: self.embedding(u), point).shape)  # remembered by identity


def is_union(points: Any, grid: Grid | None = None) -> bool:
    """Whether something is a sequence of Manifolds, or of arrays on one grid: the components of a union."""
    if not isinstance(points, Sequence) or not points:
        return False
    if isinstance(grid, Grid) and all(len(getattr(p, "shape", ())) > grid.ndim for p in points):
        return True
    return all(isinstance(p, Manifold) for p in points)


def as_points(
    caller: str,
    points: Source,
    grid: Grid | None = None,
    *,
    exact: bool = False,
    missing: str = "refuse",
    in_pieces: bool = False,
) -> Points:
    """Check that points fit a grid, for a Manifold by default its own.

    Whatever holds numbers is taken, see :func:`as_real_array`; a DataArray of xarray has a grid of its own.
    NaN and infinite values are refused in an array of JAX now, in one on the host when it is read; and arrays
    where the points are to be differentiated automatically (``exact``). With ``missing="mask"`` points that
    are masked or not finite are missing instead.

    Where float64 and integers of NumPy lose digits in the type of the computation because the points lie far
    from 0, one of the points is subtracted first, block by block: geometry is invariant under translations.

    An array ``in_pieces`` on the devices of a mesh is gathered on the host unless the caller takes it.
    """
    if isinstance(points, Manifold):
        if isinstance(grid, Grid) and grid.ndim != points.grid.ndim:
            axes = f"{points.grid.ndim} axes as {points.name!r} has"
            raise ValueError(f"{caller}: grid must have {axes}, {points.grid.names}, got {grid.names}.")
        points, grid = points.embedding, points.grid if grid is None else grid
    if is_labelled(points):
        grid = Grid.from_xarray(points) if grid is None else grid
        if isinstance(grid, Grid) and set(grid.names) <= set(points.dims):
            points = points.transpose(*grid.names, ...)
    if not isinstance(grid, Grid):
        cloud = "fitting.curvature_from_samples and reach_from_samples take points without a grid"
        hint = f": {cloud}" if grid is None and not callable(points) else ""
        raise ValueError(f"{caller}: grid must be a manifold_jax.Grid, got {type(grid).__name__}{hint}.")
    points, masked = as_function(points), choice(caller, "missing", missing, MISSING) == "mask"
    points, back = explicit(points) if isinstance(points, jax.Array) else (points, None)
    if mesh_of(points) is not None and not in_pieces and not is_traced(points):
        points = gathered(points)
    flipped = [k for k, axis in enumerate(grid.axes) if axis.descending]
    grid = Grid(tuple(replace(axis, descending=False) for axis in grid.axes)) if flipped else grid
    if callable(points):
        dtype = jnp.result_type(float)
        function = frozen_embedding(points, grid.ndim, dtype)
        if masked:
            raise ValueError(f"{caller}: missing='mask' is for arrays of points, a function has them all.")
        traced = _is_staged() or is_traced(function)
        if any(axis.nodes for axis in grid.axes) and not exact:  # known at its samples alone
            return _array_points(caller, _on_grid(function, grid, dtype, traced), grid, [], False)
        return Points("function", function, grid, result_of(function).shape, dtype, traced, caller)
    if exact:
        raise ValueError(f"{caller}: exact=True needs a function or a Manifold, got an array of points.")
    checked = _array_points(caller, points, grid, flipped, masked)
    return checked if back is None else replace(checked, back=back)


def _array_points(caller: str, points: Any, grid: Grid, flipped: Sequence[int], masked: bool) -> Points:
    values, feature_shape = as_real_array(caller, points, grid.ndim, flipped, masked=masked)
    shape, integers = values.shape[:-1], jnp.issubdtype(values.dtype, jnp.integer)
    if shape != grid.shape:
        asked = f"the grid axes {grid.names} ask for a leading shape {grid.shape}, followed by feature axes"
        raise ValueError(f"{caller}: points have shape {(*shape, *feature_shape)}, but {asked}.")
    if 0 in feature_shape:
        raise ValueError(f"{caller}: points of shape {(*shape, *feature_shape)} have no features.")
    traced = _is_staged() or is_traced(values)
    if integers and isinstance(values, jax.Array) and not is_traced(values):
        on_mesh = mesh_of(values) is not None
        values = values.astype(jnp.result_type(float)) if on_mesh else np.asanyarray(values)
    kind = "file" if isinstance(values, np.memmap | Stored) else "array"
    kind = "host" if type(values) is np.ndarray else kind
    values = single(values) if kind == "array" else values
    least = jnp.result_type(float) if integers else jnp.promote_types(values.dtype, jnp.float32)
    dtype = jax.dtypes.canonicalize_dtype(least)
    checked = Points(kind, values, grid, feature_shape, dtype, traced, caller)
    if masked:
        checked = _masked(checked)
    if checked.on_host:
        checked = _centred(checked)
    if not traced:
        refuse_doubled_ends(checked)
    if traced:  # what is read while a program is being traced becomes part of it
        held = checked.values
        values = checked.read(np.asarray(held)) if checked.on_host else jnp.asarray(held, dtype)
        checked = replace(checked, kind="array", values=jnp.asarray(values))
    if kind == "array":
        checked.refuse_nonfinite()
    return checked


def _on_grid(function: Any, grid: Grid, dtype: DType, traced: bool) -> Any:
    """A function at all points of a grid."""
    coordinates = grid.coordinates(dtype).reshape(-1, grid.ndim)
    if traced:
        points = render(function, coordinates, dtype)
    else:
        points = evaluate_points(function, np.asarray(coordinates), dtype)
    return points.reshape(*grid.shape, *result_of(function).shape)


def _masked(points: Points) -> Points:
    """Points of which some are missing, with another one in their place; as they are if none is."""
    there = points.finite() if points.on_host else jnp.isfinite(points.values).all(axis=-1)
    traced = is_traced(there)
    if not traced and bool(there.all()):
        return points
    if not traced and not bool(there.any()):
        raise ValueError(f"{points.caller}: points must be finite somewhere, got not one that is.")
    if points.on_host:
        first = there.reshape(-1).argmax()
        return replace(points, there=there, stand_in=points.at(np.array([first]))[0])
    first = by_compiler(lambda x: x.reshape(-1).argmax(), there, there.ndim)(there)
    place = jnp.unravel_index(first, points.grid.shape)
    values, on_mesh = points.values, mesh_of(points.values) is not None
    one = take_rows(values, tuple(k[None] for k in place))[0] if on_mesh else values[place]
    return replace(points, there=there, values=jnp.where(there[..., None], values, one))


def _centred(points: Points) -> Points:
    """Points on the host, with a centre where the type of the computation would lose digits without one."""
    if np.can_cast(points.values.dtype, points.dtype):
        return points
    probes = points.at(probed(points)).astype(np.float64)
    if points.stand_in is not None:
        probes = np.where(np.isfinite(probes).all(axis=-1, keepdims=True), probes, points.stand_in)
    centre = probes[len(probes) // 2]
    with np.errstate(over="ignore", invalid="ignore"):
        length, extent = (max(map(np.linalg.norm, x)) for x in (probes, [p - centre for p in probes]))
    if not OFFSET * extent < length:
        return points
    share = np.finfo(np.float64).eps / np.finfo(points.dtype).eps
    return replace(points, centre=centre, offset=float(share * length))


def _is_staged() -> bool:
    """Whether the caller is being traced by ``jit``, so that nothing can be looked at."""
    return is_traced(jnp.zeros(()))
