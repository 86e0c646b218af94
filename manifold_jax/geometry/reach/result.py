"""What a search for the reach returns: the values, their bars, and the places that attain them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from manifold_jax._checks import require, whole
from manifold_jax._files import printable, safe_labels
from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.quantities import with_bar
from manifold_jax.geometry.reach.bottleneck import (
    BY_VALUE,
    NONE,
    Candidate,
    shortest_bottleneck,
    smallest_radius,
)
from manifold_jax.geometry.reach.cloud import distances
from manifold_jax.geometry.reach.faces import smallest_border_radius, with_borders
from manifold_jax.geometry.reach.gaps import narrowest_gap
from manifold_jax.geometry.reach.lattice import (
    Component,
    CurvatureRadii,
    End,
    drop_on_grid,
    least_in_holes,
    locate,
)
from manifold_jax.geometry.reach.pairs import PairSearch
from manifold_jax.geometry.report import coordinates_of
from manifold_jax.geometry.show import reach_html
from manifold_jax.geometry.verdict import noise_dominates

if TYPE_CHECKING:
    import xarray

TIE = 1e-3  # relative gap within which a pair and the curvature at its first point tie, if their bars say so


class ComponentReach(NamedTuple):
    """Tangent balls of one manifold, at every grid point, or at every sample ``(n,)``.

    Attributes:
        name: Name of the manifold.
        grid: Its lattice; None for samples.
        pointwise: Radius of the largest empty tangent ball, NaN where the metric is degenerate; not the local
            feature size.
        pointwise_error: Its bar, infinite where there is no ball.
        witness: Flat index of the point that the ball meets, the point itself where curvature decides, -1
            where there is none; indices count through all components of a union.
        border: Mask of points at the border of an open axis, whose ball touches the tangent cone.
    """

    name: str
    grid: Grid | None
    pointwise: Float[np.ndarray, "*shape"]
    pointwise_error: Float[np.ndarray, "*shape"]
    witness: Int[np.ndarray, "*shape"]
    border: Bool[np.ndarray, "*shape"]

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def __ne__(self, other: object) -> bool:
        return not _equal(self, other)

    def __hash__(self) -> int:
        return hash((self.name, self.grid, self.pointwise.shape))

    def __repr__(self) -> str:
        return f"ComponentReach(name={self.name!r}, grid={self.grid!r}, {self.pointwise.shape} points)"


def _equal(first: Any, other: Any) -> bool:
    """Whether two results of one type have equal fields, NaN being equal to NaN."""
    if type(first) is not type(other):
        return False

    def same(x: Any, y: Any) -> bool:
        if isinstance(x, tuple):
            return type(x) is type(y) and len(x) == len(y) and all(map(same, x, y))
        if isinstance(x, np.ndarray | np.generic | float):
            return np.array_equal(x, y, equal_nan=np.asarray(x).dtype.kind in "fc")
        return x == y

    return all(map(same, tuple(first), tuple(other)))


CASES = {
    "local": "the largest normal curvature decides",
    "global": "two far points decide",
    "tie": "curvature and two far points tie",
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
        local: 1 / largest normal curvature, of the manifold and of borders that turn outward.
        local_error: Its bar.
        local_bounds: Enclosure of ``local`` by the bounds of the largest normal curvature (equal for d <= 2).
        bottleneck: Half the length of the shortest bottleneck found, infinite if none is within ``searched``.
        bottleneck_error: Its bar.
        searched: Half length up to which bottlenecks were looked for; longer ones cannot decide.
        ends: The two points that decide, equal for the local case.
        coincident: Number of ordered pairs of different points nearer to each other than rounding and noise
            let tell, which are left out; a cover of several sheets is declared with ``copies``.
        pruned: Share of all pairs that were excluded by their projected distance.
        components: The tangent balls of every manifold, in the order given; the fields of a single one are
            also properties of the Reach.
        on_lattice: Whether the points are given by an array: what lies between its points is not known.
        narrower: Whether gaps between manifolds that are narrower than the value cannot be excluded, since
            they would be below the spacing; then it is not resolved.
        missing: Number of points that are missing. It is then an upper bound but for its bar, which holds how
            far the reach may fall next to them.
        noisy: Whether noise of the samples is what keeps it from being resolved.
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
    on_lattice: bool = False
    narrower: bool = False
    missing: int = 0
    noisy: bool = False

    def __eq__(self, other: object) -> bool:
        return _equal(self, other)

    def __ne__(self, other: object) -> bool:
        return not _equal(self, other)

    def __hash__(self) -> int:
        return hash((self.case, self.components))

    def __repr__(self) -> str:
        names = ", ".join(component.name for component in self.components)
        return f"Reach of {names[:200]}: {self.sentence()}"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        return reach_html(self)

    def _only(self, name: str) -> ComponentReach:
        """The only component, from which ``name`` is asked; ValueError where there are several."""
        if len(self.components) != 1:
            raise ValueError(
                f"Reach: {name} is that of a single manifold, not of a union: ask its components."
            )
        return self.components[0]

    @property
    def pointwise(self) -> Float[np.ndarray, "*shape"]:
        """Radius of the largest empty tangent ball; ValueError for a union."""
        return self._only("pointwise").pointwise

    @property
    def pointwise_error(self) -> Float[np.ndarray, "*shape"]:
        """Bar of ``pointwise``; ValueError for a union."""
        return self._only("pointwise_error").pointwise_error

    @property
    def witness(self) -> Int[np.ndarray, "*shape"]:
        """Flat index of the point that the ball meets; ValueError for a union."""
        return self._only("witness").witness

    @property
    def border(self) -> Bool[np.ndarray, "*shape"]:
        """Mask of points at a border; ValueError for a union."""
        return self._only("border").border

    @property
    def pair(self) -> Float[np.ndarray, "2 d"]:
        """Chart coordinates of ``ends``; ValueError for a union."""
        self._only("pair")
        return np.stack([end.coordinates for end in self.ends])

    def sentence(self) -> str:
        """One sentence for people."""
        text = f"reach {with_bar(self.value, self.error, '+-')}: {CASES[self.case]}"
        if math.isinf(self.error):
            text = f"reach not known, {self.value:.4g} is the least radius seen"
        if self.on_lattice:
            text += ", on this lattice"
        if self.missing:
            count = "one point is" if self.missing == 1 else f"{self.missing} points are"
            text += f" of which {count} missing"
        if self.narrower:
            text += "; not resolved: narrower gaps, below the spacing, are possible: refine the grid"
        elif not self.resolved:
            remedy = "refine the grid, or complete the points" if self.missing else "refine the grid"
            if self.noisy:
                remedy = "noise dominates, take a larger stride, a lower accuracy or less noisy samples"
            if all(component.grid is None for component in self.components):
                remedy = "more samples or less noise are needed"
            text += f"; not resolved: {remedy}"
        if self.coincident:
            cover = "" if self.noisy else " (a cover? declare copies)"
            text += f"; {self.coincident} pairs coincide within rounding and noise and are left out{cover}"
        return text + "."

    def to_xarray(self, component: int = 0) -> xarray.Dataset:
        """Labelled tangent balls of one component (counted from 0), with the numbers of the whole.

        The axes of its grid are coordinates; samples have one dimension, ``point``. Needs xarray.

        Example:
            >>> dict(mj.reach(mj.datasets.ellipse(size=32)).to_xarray().sizes)
            {'angle': 32}
        """
        module = require("xarray", "report", "A labelled reach")
        component = whole("to_xarray", "component", component, 0, len(self.components) - 1)
        part = self.components[component]
        names, coordinates = ("point",), {}
        if part.grid is not None:
            taken = ("pointwise", "pointwise_error", "witness", "border", *SCALARS)
            names = safe_labels(part.grid.names, taken)
            coordinates = coordinates_of(part.grid, names)
        fields = {name: (names, getattr(part, name)) for name in ("pointwise", "pointwise_error", "witness")}
        # NetCDF has no booleans.
        fields["border"] = (names, part.border.astype(np.int8))
        scalars = {name: ((), getattr(self, name)) for name in SCALARS}
        attributes = {"title": printable(part.name), "case": self.case, "sentence": self.sentence()}
        return module.Dataset(fields | scalars, coordinates, attributes)


def conclude(
    candidates: Sequence[Candidate], balls: tuple[ComponentReach, ...], search: PairSearch, tolerance: float
) -> Reach:
    """The reach is the smallest candidate; curvature and far points tie if equal within small bars."""
    # Refined curvature, near pairs on the lattice; refined bottleneck, far pairs on the lattice.
    local, near, bottleneck, far = candidates
    curved, facing = _prefer(local, near), _prefer(bottleneck, far)
    best = min(curved, facing, key=BY_VALUE)
    bars = curved.error + facing.error
    tie = math.isfinite(facing.value) and abs(curved.value - facing.value) <= bars <= tolerance * best.value
    return Reach(
        value=best.value,
        error=best.error,
        resolved=math.isfinite(best.error) and bool(best.error <= tolerance * best.value),
        case="tie" if tie else "local" if best is curved else "global",
        local=local.value,
        local_error=local.error,
        local_bounds=(local.value, local.value),
        bottleneck=bottleneck.value,
        bottleneck_error=bottleneck.error,
        searched=search.longest,
        ends=best.ends,
        coincident=search.coincident,
        pruned=search.pruned,
        components=balls,
    )


def _prefer(fine: Candidate, coarse: Candidate) -> Candidate:
    """The refined value, unless a lattice pair contradicts it beyond the bars.

    Of a smaller one whose bar is unknown no pair knows more: noise hides near pairs, too.
    """
    if math.isinf(coarse.value):
        return fine
    known = math.isfinite(coarse.error) and not math.isfinite(fine.error) and coarse.value <= fine.value
    if not math.isfinite(fine.value) or known:
        return coarse
    return coarse if fine.value > coarse.value + fine.error + coarse.error else fine


def smallest_pairs(search: PairSearch) -> tuple[int, int]:
    """Positions of the smallest R(x, y) over near pairs and over far ones, -1 where there is none.

    The chord of a far pair is more than 30 degrees off the tangent space: then R <= |y - x|.
    """
    centres = np.flatnonzero(search.witness >= 0)
    far = distances(search.cloud.points, centres, search.witness[centres]) >= search.radius[centres]
    near, far = (
        int(group[np.argmin(search.radius[group])]) if len(group) else -1
        for group in (centres[~far], centres[far])
    )
    return near, far


def assemble(
    components: Sequence[Component], search: PairSearch, drop: Float[np.ndarray, "n"], tolerance: float
) -> Reach:
    """The reach from the curvature and the pairs of all components, between whose points R may ``drop``."""
    radii = [with_borders(c, search.cloud) for c in components]
    balls = tuple(
        _tangent_balls(components, c.number, r, search, drop) for c, r in zip(components, radii, strict=True)
    )
    locally = [smallest_radius(c) for c in components]
    locally += [smallest_border_radius(c, search.cloud, r) for c, r in zip(components, radii, strict=True)]
    local = min(locally, key=BY_VALUE)
    near, far = (_pair_candidate(components, balls, search, best) for best in smallest_pairs(search))
    gap = narrowest_gap(components, search)
    bottleneck = min(shortest_bottleneck(components, search), gap.best, key=BY_VALUE)
    candidates = (local, near, bottleneck, far)
    bounds = [np.ravel(c.geometry.normal_curvature_upper.value) for c in components]
    upper = float(np.fmax.reduce(np.concatenate(bounds)))
    lower = min(local.value, 1 / upper) if upper > 0 else local.value
    result = conclude(candidates, balls, search, tolerance)
    if gap.doubtful:
        result = result._replace(error=max(result.error, result.value), resolved=False, narrower=True)
    missing = sum(int((~c.there).sum()) for c in components)
    if missing:
        pairs = zip(components, balls, strict=True)
        least = min(least_in_holes(c.grid, ball.pointwise.ravel(), ~c.known) for c, ball in pairs)
        error = max(result.error, result.value - least)
        known = result.resolved and error <= tolerance * result.value
        result = result._replace(error=error, resolved=known, missing=missing)
    decides = components[result.ends[0].component].geometry
    noisy = not result.resolved and noise_dominates(decides, "normal_curvature")
    arrays = any(not c.source.evaluated for c in components)
    return result._replace(local_bounds=(lower, local.value), on_lattice=arrays, noisy=noisy)


def _tangent_balls(
    components: Sequence[Component], number: int, radii: CurvatureRadii, search: PairSearch, drop: np.ndarray
) -> ComponentReach:
    """Pointwise radius, bar and witness of one component."""
    component = components[number]
    first = component.originals
    position, local, bar = component.centres[first], radii.radius[first], radii.error[first]
    radius, noise = search.radius[position], search.error[position] + drop[position]
    # At a tie take the one that is better known.
    curved = local <= radius + np.where(bar <= noise, np.minimum(bar + noise, TIE * radius), 0.0)
    starts = np.cumsum([0, *(c.grid.size for c in components)])
    homes = np.concatenate([start + c.homes for start, c in zip(starts, components, strict=False)])
    witness = np.where(search.witness[position] >= 0, homes[search.witness[position]], -1)
    defined, grid = radii.defined[first], component.grid
    fields = (
        np.where(defined, np.where(curved, local, radius), np.nan),
        np.where(defined, np.where(curved, bar, noise), np.inf),
        np.where(defined, np.where(curved, starts[number] + np.arange(len(first)), witness), -1),
        search.cloud.inward[position].any(axis=1),
    )
    return ComponentReach(component.geometry.name, grid, *(field.reshape(grid.shape) for field in fields))


def _pair_candidate(
    components: Sequence[Component], balls: Sequence[ComponentReach], search: PairSearch, best: int
) -> Candidate:
    """The ball of a lattice pair, with what it may be off between the lattice points."""
    if best < 0:
        return NONE
    end = locate(components, best)
    component, ball = components[end.component], balls[end.component]
    index, radius = int(component.homes[best - component.offset]), float(search.radius[best])
    ends = search.cloud.inward[best, : component.grid.ndim]
    drop = drop_on_grid(component.grid, ball.pointwise.reshape(-1), index, radius, ends)
    error = float(search.error[best] + ball.pointwise_error.reshape(-1)[index]) + drop
    return Candidate(radius, error, (end, locate(components, int(search.witness[best]))))
