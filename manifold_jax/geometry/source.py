"""Where points come from: an array, a file on disk, or a function; checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax.geometry.blocks import Source
from manifold_jax.geometry.grid import Accuracy, Grid, accuracies
from manifold_jax.geometry.plan import BlockPlan, Stencil, plan_blocks

Embedding = Callable[[Any], Any]
"""One chart point ``(d,)`` to one ambient point of any shape."""

_BATCH = 256


def feature_size(embedding: Embedding, dimension: int, dtype: Any) -> int:
    """Number of features, found without computing anything; refuses what cannot be differentiated."""
    point = jax.ShapeDtypeStruct((dimension,), dtype)
    try:
        value = jax.eval_shape(embedding, point)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"The embedding does not accept one chart point of shape ({dimension},): {error}"
        ) from error
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"The embedding must return one floating-point array, got {value}.")
    return math.prod(value.shape)


def as_partial(embedding: Embedding) -> jax.tree_util.Partial:
    """A function as a pytree, so that it can be an argument of a compiled one."""
    return embedding if isinstance(embedding, jax.tree_util.Partial) else jax.tree_util.Partial(embedding)


@partial(jax.jit, static_argnames="dtype")
def _evaluated(embedding: Any, coordinates: Array, dtype: Any) -> Array:
    return jax.vmap(lambda u: jnp.ravel(embedding(u)))(coordinates.astype(dtype))


def evaluate_points(embedding: Embedding, coordinates: np.ndarray, dtype: Any) -> np.ndarray:
    """Points ``(n, f)`` on the host at chart points ``(n, d)``, rendered a batch at a time."""
    function = as_partial(embedding)
    n = len(coordinates)
    points = np.empty((n, feature_size(function, coordinates.shape[1], dtype)), dtype)
    for start in range(0, n, _BATCH):
        # The last batch overlaps the one before: one shape, one compilation.
        part = slice(max(0, min(start, n - _BATCH)), start + _BATCH)
        points[part] = _evaluated(function, coordinates[part], dtype)
    return points


def stencil_of(
    grid: Grid, accuracy: Accuracy | tuple[Accuracy, ...], stride: int | tuple[int, ...]
) -> Stencil:
    """Check accuracy and stride and spread them over the axes of a grid."""
    strides = stride if isinstance(stride, tuple) else (stride,) * grid.ndim
    whole = all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s >= 1 for s in strides)
    if len(strides) != grid.ndim or not whole:
        raise ValueError(f"stride must be a whole number >= 1, or one per axis {grid.names}, got {stride!r}.")
    return tuple(zip(accuracies(accuracy, grid), (int(s) for s in strides), strict=True))


class PointSource(NamedTuple):
    """A checked source of points.

    Attributes:
        points: Function of one chart point, or array ``(*shape, f)``.
        kind: ``"function"``, ``"array"`` (JAX), ``"host"`` (NumPy, never copied whole) or ``"memmap"``.
        features: Features per point.
        dtype: Floating type of the computation.
    """

    points: Any
    kind: str
    features: int
    dtype: Any

    @property
    def on_host(self) -> bool:
        """Whether blocks are read by the host."""
        return self.kind in ("host", "memmap")


def point_source(points: Source, grid: Grid, *, exact: bool = False) -> PointSource:
    """Check that ``points`` fits the grid.

    Args:
        points: Function of one chart point, or array.
        grid: The lattice.
        exact: The points are to be differentiated automatically.

    Returns:
        The source.

    Raises:
        ValueError: The grid is no Grid; the leading shape is not that of the grid; there are no features; the
            values are not floating-point; or an array cannot be differentiated.
    """
    if not isinstance(grid, Grid):
        raise ValueError(f"grid must be a manifold_jax.Grid, got {type(grid).__name__}.")
    if callable(points):
        dtype = jnp.result_type(float)
        return PointSource(as_partial(points), "function", feature_size(points, grid.ndim, dtype), dtype)
    if exact:
        raise ValueError("exact=True needs an embedding (a function or a Manifold), not an array of points.")
    if not hasattr(points, "shape"):
        points = np.asarray(points)
    if not jnp.issubdtype(points.dtype, jnp.floating):
        raise ValueError(f"points must be floating-point, got {points.dtype}: convert with .astype(float).")
    if tuple(points.shape[: grid.ndim]) != grid.shape:
        raise ValueError(
            f"points have shape {tuple(points.shape)}, but the grid axes {grid.names} ask for a leading "
            f"shape {grid.shape}, followed by feature axes."
        )
    features = math.prod(points.shape[grid.ndim :])
    if features == 0:
        raise ValueError(f"points of shape {tuple(points.shape)} have no features.")
    flat = points.reshape(*grid.shape, features)
    if isinstance(points, np.ndarray):
        kind = "memmap" if isinstance(points, np.memmap) else "host"
        return PointSource(flat, kind, features, jax.dtypes.canonicalize_dtype(points.dtype))
    return PointSource(flat, "array", features, points.dtype)


def plan_for(
    source: PointSource, grid: Grid, stencils: tuple[Stencil, ...], block_size: int | None
) -> BlockPlan:
    """Blocks for a source; see :func:`plan_blocks`."""
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}.")
    return plan_blocks(
        grid,
        stencils,
        source.features,
        np.dtype(source.dtype).itemsize,
        evaluated=source.kind == "function",
        whole_features=source.kind in ("function", "memmap"),
        block_size=block_size,
    )
