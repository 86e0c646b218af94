"""What a search for the reach found: the values, their bars, and the places that attain them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from manifold_jax._checks import require
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.reach.bottleneck import largest_curvature, refine_bottleneck
from manifold_jax.geometry.reach.cloud import Cloud
from manifold_jax.geometry.reach.lattice import (
    Component,
    centres,
    home,
    local_model,
    neighbours,
    originals,
    vertex_drop,
)
from manifold_jax.geometry.reach.pairs import Pairs, mutual

if TYPE_CHECKING:
    import xarray

_BATCH = 8
_TRIED = 24


class End(NamedTuple):
    """One of the two points that decide.

    Attributes:
        component: Number of its component, from 0.
        coordinates: Chart point ``(d,)``; of samples the point itself; empty where nothing decides.
    """

    component: int
    coordinates: Float[np.ndarray, "d"]


class ComponentReach(NamedTuple):
    """Tangent balls of one manifold, at every grid point, or at every sample ``(n,)``.

    Attributes:
        name: Of the manifold.
        grid: Its lattice; None for samples.
        pointwise: Radius of the largest empty tangent ball ``(*shape,)``; not the local feature size. NaN
            where the metric is degenerate.
        pointwise_error: Its bar ``(*shape,)``, infinite where there is no ball.
        witness: Flat index ``(*shape,)`` of the point that the ball meets, the point itself where curvature
            decides, -1 where there is none; indices count through all components of a union.
        upper_bound: Mask ``(*shape,)`` of points at the border of an open axis: there the tangent span stands
            for the tangent cone, and the ball may be too large.
    """

    name: str
    grid: Grid | None
    pointwise: Float[np.ndarray, "*shape"]
    pointwise_error: Float[np.ndarray, "*shape"]
    witness: Int[np.ndarray, "*shape"]
    upper_bound: Bool[np.ndarray, "*shape"]


CASES = {
    "local": "the largest normal curvature decides",
    "global": "two far points decide",
    "tie": "curvature and a bottleneck tie",
}
"""What each case of a :class:`Reach` says."""

SCALARS = ("value", "error", "local", "local_error", "bottleneck", "bottleneck_error")
"""Lengths that are saved with the fields of every component."""


class Reach(NamedTuple):
    """Reach of a manifold or a union, with witnesses and error bars.

    Attributes:
        value: The reach, the smaller of the local and the global part.
        error: Bar such that the truth lies within value +- error.
        resolved: Whether the bar is below the tolerance.
        case: ``"local"`` (curvature decides), ``"global"`` (a bottleneck or the border of an open axis) or
            ``"tie"`` (equal within their bars, as on circles, spheres and flat tori).
        local: 1 / largest normal curvature.
        local_error: Its bar.
        local_bounds: Enclosure of ``local`` by the bounds of the largest normal curvature (equal for d <= 2).
        bottleneck: Half the length of the shortest bottleneck that was found, infinite where there is none up
            to ``searched``.
        bottleneck_error: Its bar.
        searched: Half length up to which bottlenecks were looked for; longer ones cannot decide.
        ends: The two points that decide, equal for the local case.
        coincident: Number of ordered pairs of different points at the same place; they are left out. A
            multiple cover: declare it with ``copies``.
        pruned: Share of all pairs that were excluded by their projected distance.
        components: The tangent balls of every manifold, in the order given. Of a single one they are also at
            ``pointwise``, ``pointwise_error``, ``witness`` and ``upper_bound`` of the Reach itself.
    """

    value: float
    error: float
    resolved: bool
    case: str
    local: float
    local_error: float
    local_bounds: tuple[float, float]
    bottleneck: float
    bottleneck_error: float
    searched: float
    ends: tuple[End, End]
    coincident: int
    pruned: float
    components: tuple[ComponentReach, ...]

    def only(self, name: str) -> ComponentReach:
        """The only component, from which ``name`` is asked.

        Raises:
            ValueError: There are several.
        """
        if len(self.components) != 1:
            raise ValueError(
                f"Reach: {name} is that of a single manifold, and this is a union: ask each of its "
                f"{len(self.components)} components."
            )
        return self.components[0]

    @property
    def pointwise(self) -> Float[np.ndarray, "*shape"]:
        """Radius of the largest empty tangent ball; ValueError for a union."""
        return self.only("pointwise").pointwise

    @property
    def pointwise_error(self) -> Float[np.ndarray, "*shape"]:
        """Bar of ``pointwise``; ValueError for a union."""
        return self.only("pointwise_error").pointwise_error

    @property
    def witness(self) -> Int[np.ndarray, "*shape"]:
        """Flat index of the point that the ball meets; ValueError for a union."""
        return self.only("witness").witness

    @property
    def upper_bound(self) -> Bool[np.ndarray, "*shape"]:
        """Mask of points at a border; ValueError for a union."""
        return self.only("upper_bound").upper_bound

    @property
    def pair(self) -> Float[np.ndarray, "2 d"]:
        """Chart coordinates of ``ends``; ValueError for a union."""
        self.only("pair")
        return np.stack([end.coordinates for end in self.ends])

    def sentence(self) -> str:
        """One sentence for people."""
        text = f"reach {self.value:.5g} +- {self.error:.1e}: {CASES[self.case]}"
        if not self.resolved:
            text += "; not resolved: refine the grid"
        if any(component.upper_bound.any() for component in self.components):
            text += "; an upper bound, since the manifold has a border"
        if self.coincident:
            text += f"; {self.coincident} pairs coincide and are left out (a cover? declare copies)"
        return text + "."

    def to_xarray(self, component: int = 0) -> xarray.Dataset:
        """Labelled tangent balls of one component, with the numbers of the whole.

        Args:
            component: Its number, from 0.

        Returns:
            The data set, with the axes of the grid as coordinates; of samples with one dimension ``point``.

        Raises:
            ImportError: xarray is not installed.

        Example:
            >>> from manifold_jax import reach
            >>> from manifold_jax.datasets import ellipse
            >>> dict(reach(ellipse(size=32)).to_xarray().sizes)
            {'angle': 32}
        """
        module = require("xarray", "report", "A labelled reach")
        part = self.components[component]
        axes = () if part.grid is None else part.grid.axes
        names = ("point",) if part.grid is None else part.grid.names
        fields = {name: (names, getattr(part, name)) for name in ("pointwise", "pointwise_error", "witness")}
        # NetCDF has no booleans.
        fields["upper_bound"] = (names, part.upper_bound.astype(np.int8))
        scalars = {name: ((), getattr(self, name)) for name in SCALARS}
        coordinates = {axis.name: (axis.name, axis.samples(), {"units": axis.unit}) for axis in axes}
        attributes = {"title": part.name, "case": self.case, "sentence": self.sentence()}
        return module.Dataset(fields | scalars, coordinates, attributes)


class Part(NamedTuple):
    """Local data of one component, flat over its grid."""

    component: Component
    offset: int
    local: np.ndarray
    local_error: np.ndarray
    bend: np.ndarray
    border: np.ndarray


# --- the result --------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A value with its bar and the two places that attain it, ``(part, chart point)`` each."""

    value: float
    error: float
    ends: tuple[End, End]


NOWHERE = (End(0, np.zeros(0)), End(0, np.zeros(0)))


def _prefer(fine: Found, coarse: Found) -> Found:
    """The refined value, unless a lattice pair contradicts it beyond the bars."""
    certain = math.isfinite(coarse.value + coarse.error)
    if not math.isfinite(fine.value) or (certain and not math.isfinite(fine.error)):
        return coarse
    return coarse if fine.value > coarse.value + fine.error + coarse.error else fine


def assemble(
    parts: Sequence[Part],
    cloud: Cloud,
    pairs: Pairs,
    drop: np.ndarray,
    searched: float,
    tolerance: float,
) -> Reach:
    """The reach from the pairs and the curvature of all components.

    Args:
        parts: The components.
        cloud: Their points.
        pairs: What the search found.
        drop: How far R(x, .) may fall below its smallest sample, for every point of the cloud.
        searched: Half length up to which bottlenecks were looked for.
        tolerance: Relative error that counts as resolved.

    Returns:
        The reach.
    """
    fields = [_fields(parts, number, pairs, drop) for number in range(len(parts))]
    local = min((_local(part, number) for number, part in enumerate(parts)), key=lambda found: found.value)
    narrow = _bottleneck(parts, cloud, pairs)
    far, near = _smallest_pairs(parts, cloud, pairs, fields)
    curved, spread = _prefer(local, near), _prefer(narrow, far)
    best = min(curved, spread, key=lambda found: found.value)
    gap = abs(curved.value - spread.value) if math.isfinite(spread.value) else math.inf
    bars = curved.error + spread.error
    tie = gap <= bars and bars <= tolerance * best.value
    case = "tie" if tie else ("local" if best is curved else "global")
    upper = max(float(np.nanmax(p.component.geometry.normal_curvature_upper.value)) for p in parts)
    points = sum(p.component.grid.size / math.prod(p.component.copies.values()) for p in parts)

    balls = []
    for part, field in zip(parts, fields, strict=True):
        grid, name = part.component.grid, part.component.geometry.name
        arrays = (np.reshape(values, grid.shape) for values in (*field, part.border))
        balls.append(ComponentReach(name, grid, *arrays))
    return Reach(
        value=best.value,
        error=best.error,
        resolved=bool(best.error <= tolerance * best.value),
        case=case,
        local=local.value,
        local_error=local.error,
        local_bounds=(min(local.value, 1 / upper) if upper > 0 else local.value, local.value),
        bottleneck=narrow.value,
        bottleneck_error=narrow.error,
        searched=searched,
        ends=best.ends,
        coincident=len(pairs.coincident),
        pruned=max(0.0, 1 - pairs.looked_at / (points * len(cloud.points))),
        components=tuple(balls),
    )


def _fields(
    parts: Sequence[Part], number: int, pairs: Pairs, drop: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pointwise radius, bar and witness of one component, flat over its grid."""
    part = parts[number]
    first = originals(part.component)
    position = part.offset + centres(part.component)[first]
    radius, noise = pairs.radius[position], pairs.error[position] + drop[position]
    # At a tie take the one that is better known.
    bar = part.local_error[first]
    curved = part.local[first] <= radius + np.where(bar <= noise, np.minimum(bar + noise, 1e-3 * radius), 0.0)
    value = np.where(curved, part.local[first], radius)
    error = np.where(curved, part.local_error[first], noise)
    start = _grid_offsets(parts)
    witness = np.full(len(position), -1)
    for k, other in enumerate(parts):
        y = pairs.witness[position] - other.offset
        inside = (y >= 0) & (y < other.component.lattice.size)
        witness[inside] = start[k] + home(other.component, y[inside])
    witness = np.where(curved, start[number] + np.arange(len(first)), witness)
    undefined = ~np.isfinite(np.asarray(part.component.geometry.normal_curvature.value).reshape(-1)[first])
    value, witness = np.where(undefined, np.nan, value), np.where(undefined, -1, witness)
    return value, np.where(undefined, np.inf, error), witness


def _grid_offsets(parts: Sequence[Part]) -> list[int]:
    sizes = [p.component.grid.size for p in parts]
    return [sum(sizes[:k]) for k in range(len(sizes))]


def _beside(grid: Grid, values: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Values one step before and after a grid point along each axis, NaN beyond an end."""
    flat = neighbours(grid, np.array([index]))[0]
    found = np.where(flat >= 0, values[flat], np.nan)
    return found[None, :, 0], found[None, :, 1]


def _local(part: Part, number: int) -> Found:
    """Smallest radius of curvature, refined where there is an embedding."""
    c = part.component
    reliable = part.local_error <= 0.1 * part.local
    index = int(np.argmin(np.where(reliable, part.local, np.inf) if reliable.any() else part.local))
    u = np.asarray(c.grid.coordinates(c.source.dtype)).reshape(-1, c.grid.ndim)[index]
    value, error = float(part.local[index]), float(part.local_error[index])
    if not math.isfinite(value):
        return Found(math.inf, 0.0, (End(number, u), End(number, u)))
    if c.stencil is None:
        place, bend, noise = largest_curvature(c.source.values, jnp.asarray(u, c.source.dtype), c.grid)
        # Curvature from stencils is only where to start.
        better = not c.geometry.exact or 1 / float(bend) < value
        if float(noise) < 0.1 * float(bend) and better:
            # The search stops where rounding outgrows what is left to gain, near a pole.
            value, error, u = 1 / float(bend), 4 * float(noise) / float(bend) ** 2, np.asarray(place)
    else:
        error += float(vertex_drop(np.array([value]), *_beside(c.grid, part.local, index))[0])
        # Where the curvature is not resolved it may be larger: by what is seen there.
        error += max(0.0, value - float(part.local.min()))
    return Found(value, error, (End(number, u), End(number, u)))


def _locate(parts: Sequence[Part], position: int) -> End:
    """Component number and chart point of a position in the cloud."""
    number = max(k for k, p in enumerate(parts) if position >= p.offset)
    c = parts[number].component
    index = np.unravel_index(position - parts[number].offset, c.lattice.shape)
    return End(
        number, np.array([a.start + a.spacing * i for a, i in zip(c.lattice.axes, index, strict=True)])
    )


def _bottleneck(parts: Sequence[Part], cloud: Cloud, pairs: Pairs) -> Found:
    """Shortest chord that is normal at both ends, refined from lattice pairs."""
    candidates, lengths, defects = mutual(pairs, len(cloud.points))
    best = Found(math.inf, math.inf, NOWHERE)
    if not len(candidates):
        return best
    keep = _isolated(parts, candidates, defects, len(cloud.points))
    keep = keep[np.argsort(lengths[keep], kind="stable")]
    for start in range(0, min(len(keep), _TRIED), _BATCH):
        for k in keep[start : start + _BATCH]:
            found = _refined(parts, cloud, candidates[k], float(lengths[k]))
            best = min(best, found, key=lambda f: f.value)
        if math.isfinite(best.value):
            break
    return best


def _isolated(parts: Sequence[Part], candidates: np.ndarray, defects: np.ndarray, count: int) -> np.ndarray:
    """Candidates whose chord is at least as normal as those one lattice step away at either end."""
    keys = candidates[:, 0] * count + candidates[:, 1]
    keep = np.ones(len(keys), bool)
    for part in parts:
        low, high = part.offset, part.offset + part.component.lattice.size
        for end in range(2):
            mine = np.flatnonzero((candidates[:, end] >= low) & (candidates[:, end] < high))
            beside = neighbours(part.component.lattice, candidates[mine, end] - low)
            beside = beside.reshape(len(mine), 2 * part.component.lattice.ndim)
            for moved in beside.T:
                pair = candidates[mine].copy()
                pair[:, end] = moved + low
                pair.sort(axis=1)
                key = pair[:, 0] * count + pair[:, 1]
                place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
                known = (moved >= 0) & (keys[place] == key)
                keep[mine] &= ~(known & (defects[place] < defects[mine] * (1 - 1e-9)))
    return np.flatnonzero(keep)


def _refined(parts: Sequence[Part], cloud: Cloud, pair: np.ndarray, length: float) -> Found:
    """Bottleneck near a lattice pair, or infinity where the iteration does not end in one."""
    ends = [_locate(parts, int(position)) for position in pair]
    components = [parts[number].component for number, _ in ends]
    models, missed = [], []
    for position, (number, _) in zip(pair, ends, strict=True):
        part = parts[number]
        points = cloud.points[part.offset : part.offset + part.component.lattice.size]
        model, deviations = local_model(part.component, points, int(position) - part.offset)
        models.append(model)
        missed.append(deviations)
    dtype = components[0].source.dtype
    found = refine_bottleneck(
        tuple(models),
        tuple(jnp.asarray(u, dtype) for _, u in ends),
        tuple(jnp.asarray(c.grid.spacing, dtype) for c in components),
    )
    eps = float(jnp.finfo(dtype).eps)
    new, defect, moved = float(found.length), float(found.defect), float(found.moved)
    places = [np.asarray(u, np.float64) for u in (found.first, found.second)]
    inside = all(
        a.periodic or -1e-3 <= (x - a.start) / a.spacing <= a.size - 1 + 1e-3
        for c, u in zip(components, places, strict=True)
        for a, x in zip(c.lattice.axes, u, strict=True)
    )
    farthest = 4 if all(c.stencil is None for c in components) else 1
    if not (defect <= 1e3 * eps**0.75 and moved <= farthest and new > 0.5 * length and inside):
        return Found(math.inf, math.inf, NOWHERE)
    chord = cloud.points[pair[1]].astype(np.float64) - cloud.points[pair[0]]
    # The length is stationary: a cosine c off costs about c^2. Evaluation costs rounding, a Taylor polynomial
    # what it misses beside.
    error = new / 2 * (defect**2 + 32 * eps)
    for deviations in missed:
        error += np.abs(deviations @ chord).sum() / length / 2
    return Found(
        new / 2, float(error), (End(ends[0].component, places[0]), End(ends[1].component, places[1]))
    )


def chords(points: np.ndarray, witness: np.ndarray) -> np.ndarray:
    """Distance of every point to its witness, ``(n,)``; NaN where there is none."""
    chord = np.full(len(points), np.nan)
    x = np.flatnonzero(witness >= 0)
    for start in range(0, len(x), 512):
        part = x[start : start + 512]
        v = points[witness[part]].astype(np.float64) - points[part]
        chord[part] = np.linalg.norm(v, axis=1)
    return chord


def _smallest_pairs(
    parts: Sequence[Part], cloud: Cloud, pairs: Pairs, fields: Sequence[Any]
) -> tuple[Found, Found]:
    """Smallest R(x, y) over far pairs (chord more than 30 degrees off the tangent space) and near ones."""
    centre = pairs.witness >= 0
    chord = chords(cloud.points, pairs.witness)
    with np.errstate(invalid="ignore"):
        steep = centre & (chord >= pairs.radius)
    found = []
    for mask in (steep, centre & ~steep):
        if not mask.any():
            found.append(Found(math.inf, math.inf, NOWHERE))
            continue
        best = int(np.argmin(np.where(mask, pairs.radius, np.inf)))
        number, u = _locate(parts, best)
        part = parts[number]
        values = np.asarray(fields[number][0])
        index = int(home(part.component, np.array([best - part.offset]))[0])
        drop = vertex_drop(pairs.radius[[best]], *_beside(part.component.grid, values, index))
        error = float(pairs.error[best] + fields[number][1][index] + drop[0])
        found.append(
            Found(
                float(pairs.radius[best]), error, (End(number, u), _locate(parts, int(pairs.witness[best])))
            )
        )
    return found[0], found[1]
