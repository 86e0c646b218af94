"""Points on a grid, however they are held: an array, a file, or a function of the coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manifold_jax._checks import finite, single
from manifold_jax._sharding import mesh_of, pieces_of, take_rows, unchanged
from manifold_jax.geometry.embeddings import evaluate_points
from manifold_jax.geometry.grid import DType, Grid
from manifold_jax.geometry.sources import Stored

PROBED = 16  # points that are looked at before all are read
PROBED_NUMBERS = 2**22  # numbers of these points, at most


@dataclass(frozen=True, eq=False)
class Points:
    """Points on a grid; :func:`as_points` alone decides how they are held, and only ``blocks`` looks at it.

    Attributes:
        kind: ``"array"`` (JAX), ``"host"`` (NumPy, never copied whole), ``"file"`` (read window by window)
            or ``"function"`` (evaluated, also beyond the ends of the grid; never stored).
        values: Array ``(*grid.shape, f)``, a :class:`Stored` one, or the function as it was when it was
            given, with all arrays that it holds as leaves of a ``jax.tree_util.Partial``.
        grid: The lattice.
        feature_shape: Shape of one point, before it was flattened to ``f`` numbers.
        dtype: Floating type of the computation.
        traced: The values depend on a transformation (``jit``, ``grad``, ``vmap``) and cannot be looked at.
        caller: Public function that was given them, for messages.
        centre: One of the points ``(f,)``, which those on the host lose when they are read; None for none.
        offset: Length whose rounding in ``dtype`` is that of the stored points of a large offset.
        there: Which points are there ``(*grid.shape,)``; None for all of them.
        stand_in: A point ``(f,)`` that is read where one is missing.
        back: From results of pieces on the devices of a mesh to those on the mesh that was given.
    """

    kind: str
    values: Any
    grid: Grid
    feature_shape: tuple[int, ...]
    dtype: DType
    traced: bool = False
    caller: str = "measure"
    centre: np.ndarray | None = None
    offset: float = 0.0
    there: Any = None
    stand_in: np.ndarray | None = None
    back: Callable[[Any], Any] = unchanged

    @property
    def features(self) -> int:
        """Numbers per point, f."""
        return math.prod(self.feature_shape)

    @property
    def pieces(self) -> tuple[int, ...]:
        """Along each axis of the grid, the pieces in which devices hold the points."""
        return pieces_of(self.values)[:-1] if self.kind == "array" else (1,) * self.grid.ndim

    @property
    def evaluated(self) -> bool:
        """Whether the points are a function of the coordinates, so that they exist beyond the ends too."""
        return self.kind == "function"

    @property
    def on_host(self) -> bool:
        """Whether blocks are read by the host."""
        return self.kind in ("host", "file")

    def read(self, part: np.ndarray, features: slice = slice(None)) -> np.ndarray:
        """Some features ``(..., f)`` of stored points in the type of the computation, less the centre."""
        if self.stand_in is not None:
            part = np.where(np.isfinite(part), part, self.stand_in[features].astype(part.dtype))
        part, centre = single(part), 0.0 if self.centre is None else self.centre[features]
        if self.centre is None and part.dtype == self.dtype:
            return part
        with np.errstate(over="ignore"):  # infinite from here on
            return np.subtract(part, centre, out=np.empty(part.shape, self.dtype), casting="same_kind")

    def at(self, places: np.ndarray) -> np.ndarray:
        """Points ``(n, f)`` at flat positions: evaluated, or as they are held."""
        if self.evaluated:
            coordinates = np.asarray(self.grid.coordinates(self.dtype)).reshape(-1, self.grid.ndim)
            return evaluate_points(self.values, coordinates[places], self.dtype)
        if mesh_of(self.values) is not None:
            return np.asarray(take_rows(self.values, np.unravel_index(places, self.grid.shape)))
        if not isinstance(self.values, Stored):
            return np.asarray(self.values[np.unravel_index(places, self.grid.shape)])
        index = zip(*np.unravel_index(places, self.grid.shape), strict=True)
        return np.stack([self.values.take([np.array([k]) for k in place]).reshape(-1) for place in index])

    def window(self, index: Sequence[np.ndarray]) -> np.ndarray:
        """Points ``(n_1, ..., n_d, f)`` at indices along every axis, as they are held."""
        if isinstance(self.values, Stored):
            return self.values.take(index)
        flat = np.ravel_multi_index(np.meshgrid(*index, indexing="ij"), self.grid.shape)
        return self.at(flat.reshape(-1)).reshape(*flat.shape, -1)

    def refuse_nonfinite(self) -> None:
        """Raise ValueError if an array holds NaN or infinite values."""
        if self.evaluated or self.traced:
            return
        values = self.values
        if isinstance(values, Stored):  # whether the numbers of a point are finite is all that is kept
            values = np.where(self.finite(), 0.0, np.nan)[..., None]
        remedy = "remove or repair them, or take missing='mask' (--missing mask) where that is an option"
        finite(self.caller, "points", values, axes=self.grid.ndim, remedy=remedy)

    def finite(self) -> np.ndarray:
        """Which of the points on the host are finite, ``(*grid.shape,)``."""
        slabs = self.values.slabs() if isinstance(self.values, Stored) else self.values[:, None]
        return np.concatenate([np.isfinite(slab).all(axis=-1) for slab in slabs])


def probed(points: Points) -> np.ndarray:
    """Flat positions of the points that are looked at before all are read: fewer where one is large."""
    count = max(1, min(PROBED, PROBED_NUMBERS // points.features, points.grid.size))
    return np.linspace(0, points.grid.size - 1, count).round().astype(int)
