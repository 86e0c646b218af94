"""One manifold of a search: lattices of centres x and of points y, their indices, radii of curvature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from manifold_jax.geometry.embeddings import evaluate_points
from manifold_jax.geometry.error_bars import comparison_stencil
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.missing import defined_points, lower_stencils
from manifold_jax.geometry.points import Points
from manifold_jax.geometry.reach.cloud import Cloud, distances
from manifold_jax.geometry.reach.cones import inward_signs
from manifold_jax.geometry.report import Geometry
from manifold_jax.geometry.stencil import Stencil
from manifold_jax.geometry.windows import BlockPlan

OUTSIDE = 0.1  # share of an edge outside of the directions of the cloud from which it is measured in all
BLOCK = 64  # samples along every axis in the plans by which it is told what stencils can be used


class End(NamedTuple):
    """One of the two points that decide.

    Attributes:
        component: Number of its component, from 0.
        coordinates: Chart point ``(d,)``; of samples the point itself; empty where nothing decides.
    """

    component: int
    coordinates: Float[np.ndarray, "d"]


NOWHERE = (End(0, np.zeros(0)), End(0, np.zeros(0)))  # the ends where nothing decides


class CurvatureRadii(NamedTuple):
    """Largest normal curvature (0 where it is undefined), its inverse with a bar, where they are known."""

    curvature: np.ndarray
    radius: np.ndarray
    error: np.ndarray
    defined: np.ndarray
    regular: np.ndarray


def inverse_with_bar(value: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 / value, infinite for 0, and its bar, infinite where that of the value reaches 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bar = np.where(value > error, error / (value * (value - error)), np.inf)
        return np.where(value > 0, 1 / value, np.inf), bar


@dataclass(frozen=True, eq=False)
class Component:
    """One manifold of a union. Positions count through the clouds of all components, grid indices do not.

    Attributes:
        grid: The lattice of centres x.
        lattice: The lattice of points y: that of the centres, and beyond the ends where the points go on.
        stencil: Stencil of the tangents; None where they are differentiated automatically.
        copies: Covers of the manifold by axis name: only the first of each is looked at.
        number: Its place in the union.
        offset: Position of its first lattice point.
    """

    source: Points
    grid: Grid
    lattice: Grid
    geometry: Geometry
    stencil: Stencil | None
    copies: Mapping[str, int]
    number: int
    offset: int

    @cached_property
    def points(self) -> np.ndarray:
        """Every point of the lattice, ``(lattice.size, f)`` on the host."""
        source, lattice = self.source, self.lattice
        if not source.evaluated:
            return source.read(np.asarray(source.values)).reshape(lattice.size, source.features)
        coordinates = np.asarray(lattice.coordinates(source.dtype)).reshape(-1, lattice.ndim)
        return evaluate_points(source.values, coordinates, source.dtype)

    @cached_property
    def coordinates(self) -> np.ndarray:
        """Chart points of the grid ``(grid.size, d)``, in the dtype of the source."""
        return np.asarray(self.grid.coordinates(self.source.dtype)).reshape(-1, self.grid.ndim)

    @cached_property
    def centres(self) -> np.ndarray:
        """Position of every grid point ``(grid.size,)``."""
        index = [start + k for start, k in zip(self._starts, np.indices(self.grid.shape), strict=True)]
        return self.offset + np.ravel_multi_index(index, self.lattice.shape).reshape(-1)

    @cached_property
    def homes(self) -> np.ndarray:
        """Grid index of every lattice point ``(lattice.size,)``, moved back by whole periods."""
        index = [k - start for start, k in zip(self._starts, np.indices(self.lattice.shape), strict=True)]
        return np.ravel_multi_index(index, self.grid.shape, mode="wrap").reshape(-1)

    @cached_property
    def originals(self) -> np.ndarray:
        """Grid index of the first copy of every grid point ``(grid.size,)``."""
        axes = zip(self.grid.axes, np.indices(self.grid.shape), strict=True)
        first = [k % (axis.size // self.copies.get(axis.name, 1)) for axis, k in axes]
        return np.ravel_multi_index(first, self.grid.shape).reshape(-1)

    @cached_property
    def there(self) -> np.ndarray:
        """Mask of the lattice points that are not missing ``(lattice.size,)``."""
        there = self.source.there
        return np.ones(self.lattice.size, bool) if there is None else np.asarray(there).reshape(-1)

    @cached_property
    def wanted(self) -> np.ndarray:
        """Mask of the grid points that are there and first copies ``(grid.size,)``."""
        first = self.originals == np.arange(self.grid.size)
        return first if self.source.there is None else first & self.there

    @cached_property
    def stencils(self) -> list[tuple[Stencil, np.ndarray]]:
        """Stencils of the tangents, the highest order first, and the grid points ``(grid.size,)`` of each.

        Next to missing points lower orders take over; where not even order 2 has all samples, there is none.
        """
        assert self.stencil is not None
        if self.source.there is None:
            return [(self.stencil, np.ones(self.grid.size, bool))]
        left, result, block = self.there, [], tuple(min(n, BLOCK) for n in self.grid.shape)
        there = jnp.asarray(self.source.there)
        for stencil in (self.stencil, *lower_stencils(self.stencil)):
            both = (stencil, comparison_stencil(stencil, self.grid, evaluated=False))
            plan = BlockPlan(self.grid, both, block, False, self.source.features)
            mask = np.asarray(defined_points(plan, there)).reshape(-1) & left
            result.append((stencil, mask))
            left = left & ~mask
        return result

    @cached_property
    def known(self) -> np.ndarray:
        """Mask of the grid points at which tangents are known, whatever is missing ``(grid.size,)``."""
        if self.source.there is None:
            return np.ones(self.grid.size, bool)
        return np.any([mask for _, mask in self.stencils], axis=0)

    def stencil_at(self, index: int) -> Stencil | None:
        """The stencil of a lattice point."""
        if self.source.there is None:
            return self.stencil
        return next(stencil for stencil, mask in self.stencils if mask[index])

    @cached_property
    def radii(self) -> CurvatureRadii:
        """Radii of curvature with their bars."""
        estimate = self.geometry.normal_curvature
        value, error = (np.asarray(x, np.float64).reshape(-1) for x in (estimate.value, estimate.error))
        defined = np.isfinite(value) & self.known
        curvature = np.where(defined, np.maximum(value, 0.0), 0.0)
        radius, bar = inverse_with_bar(curvature, error)
        regular = np.asarray(self.geometry.volume_element.value).reshape(-1) > 0
        return CurvatureRadii(curvature, radius, bar, defined, regular & defined)

    @cached_property
    def noise(self) -> np.ndarray:
        """Standard deviation of the noise of one feature at every lattice point; 0 where it is not known."""
        if self.source.evaluated:
            return np.zeros(self.lattice.size)
        level = np.nan_to_num(np.asarray(self.geometry.noise, np.float64)).max(axis=-1)
        return level.reshape(-1) / self.source.features**0.5

    @cached_property
    def inward(self) -> np.ndarray:
        """For every lattice point and axis the sign that leads inward at a border, else 0."""
        return np.where(self.radii.regular[:, None], inward_signs(self.grid), 0)[self.homes]

    @property
    def _starts(self) -> list[int]:
        """Index of the first centre along every axis of the lattice."""
        return [(m - n) // 2 for n, m in zip(self.grid.shape, self.lattice.shape, strict=True)]

    def holds(self, position: np.ndarray) -> np.ndarray:
        """Mask of the positions that are lattice points of this component."""
        return (position >= self.offset) & (position < self.offset + self.lattice.size)

    def neighbours(self, position: np.ndarray) -> np.ndarray:
        """Positions of the neighbours ``(p, d, 2)`` in the lattice, as :func:`neighbours`; -1 if missing."""
        index = neighbours(self.lattice, position - self.offset)
        return np.where((index >= 0) & self.there[index], index + self.offset, -1)


def locate(components: Sequence[Component], position: int) -> End:
    """Component and chart point of a position."""
    component = next(c for c in components if c.holds(np.asarray(position)))
    lattice = component.lattice
    index = np.unravel_index(position - component.offset, lattice.shape)
    steps = zip(lattice.axes, index, strict=True)
    return End(component.number, np.array([axis.samples()[i] for axis, i in steps]))


def extend(grid: Grid, periods: int) -> Grid:
    """The lattice continued by whole periods where the metric repeats but the points do not."""
    axes = []
    for axis in grid.axes:
        if axis.periodic and not axis.wrap:
            length = (axis.stop - axis.start) * periods
            stop = axis.stop + length - axis.spacing
            size = axis.size * (2 * periods + 1)
            axis = replace(axis, start=axis.start - length, stop=stop, size=size, periodic=False, wrap=True)
        axes.append(axis)
    return Grid(tuple(axes))


def neighbours(grid: Grid, position: np.ndarray) -> np.ndarray:
    """Flat index of the neighbours before and after along every axis, ``(p, d, 2)``; -1 beyond an end."""
    index = np.stack(np.unravel_index(position, grid.shape))
    result = np.full((len(position), grid.ndim, 2), -1)
    for k, axis in enumerate(grid.axes):
        for side, step in enumerate((-1, 1)):
            moved = index.copy()
            moved[k] += step
            inside = (moved[k] >= 0) & (moved[k] < axis.size) | axis.wraps
            result[:, k, side] = np.where(inside, np.ravel_multi_index(moved, grid.shape, mode="wrap"), -1)
    return result


def half_cells(component: Component, cloud: Cloud) -> np.ndarray:
    """Half the sum of the edges of the cell around every lattice point, ``(lattice.size,)``.

    It is a little more where the directions of the cloud leave something out.
    """
    here = component.offset + np.arange(component.lattice.size)
    total, reduced = np.zeros(len(here)), cloud.reduced
    for before, after in component.neighbours(here).transpose(1, 2, 0):
        other = np.where(after >= 0, after, np.where(before >= 0, before, here))
        along = distances(reduced.points, here, other) + reduced.drift
        rest = reduced.rest[here] + reduced.rest[other]
        edge, far = np.hypot(along, rest), np.flatnonzero(rest > OUTSIDE * along)
        edge[far] = distances(cloud.points, here[far], other[far])
        total += edge / 2
    return total


def vertex_drop(middle: Float[np.ndarray, "p"], sides: Float[np.ndarray, "p k 2"]) -> Float[np.ndarray, "p"]:
    """How far a smooth function may fall below its smallest sample, from those before and after (NaN: none).

    A parabola with second difference s has its vertex at most s/8 below the sample next to it; with several
    variables (and by Cauchy-Schwarz for the mixed terms) at most (sum of sqrt s)^2 / 8.
    """
    rise = sides - middle[:, None, None]
    rise = np.where(np.isfinite(rise), np.maximum(rise, 0.0), np.nan)
    rise = np.nan_to_num(np.where(np.isnan(rise), rise[:, :, ::-1], rise))
    return np.sum(np.sqrt(rise.sum(axis=2)), axis=1) ** 2 / 8


def drop_on_grid(
    grid: Grid, values: np.ndarray, index: int, middle: float, ends: np.ndarray | None = None
) -> float:
    """:func:`vertex_drop` below ``middle``, from the values ``(grid.size,)`` around a grid point.

    Axes that end there (``ends`` is not 0) are left out: values jump from a border to the interior.
    """
    sides = neighbours(grid, np.array([index]))
    usable = (sides >= 0) & ((np.zeros(grid.ndim) if ends is None else ends) == 0)[None, :, None]
    around = np.where(usable, values[sides], np.nan)
    return float(vertex_drop(np.array([middle]), around)[0])


def least_in_holes(grid: Grid, values: np.ndarray, holes: np.ndarray) -> float:
    """Smallest number that smooth ``values`` ``(grid.size,)`` may take in holes, as far as can be seen.

    Along every axis a convex function lies above the lines through the two samples next to a hole, from both
    sides; at an open end of the axis there is one side.
    """
    here, least = np.arange(grid.size), np.inf
    known = ~holes & np.isfinite(values)
    sides = neighbours(grid, here)
    for k, axis in enumerate(grid.axes):
        before, after = sides[:, k].T

        def fall(place: np.ndarray, inner: np.ndarray, other: Any = np.nan) -> np.ndarray:
            usable = (place >= 0) & (inner >= 0) & known[place] & known[inner]
            return np.where(usable, np.maximum(values[inner] - values[place], 0.0), other)

        for beyond, inner in ((after, before), (before, after)):
            slope = fall(here, inner)
            edge = np.flatnonzero(np.isfinite(slope) & (beyond >= 0) & holes[beyond])
            first, place, width = slope[edge], beyond[edge], np.zeros(len(edge))
            for _ in range(axis.size):
                inside = (place >= 0) & holes[place]
                width += inside
                place = np.where(inside, beyond[place], place)
            length = width + 1
            second, far = fall(place, beyond[place], first), np.where(place >= 0, values[place], -np.inf)
            with np.errstate(divide="ignore", invalid="ignore"):
                meet = (values[edge] - far + second * length) / (first + second)
            meet = np.where(place >= 0, np.clip(np.nan_to_num(meet), 0, length), width)
            lines = values[edge] - first * meet, far - second * (length - meet)
            least = min(least, float(np.min(np.fmax(*lines), initial=np.inf)))
    return least
