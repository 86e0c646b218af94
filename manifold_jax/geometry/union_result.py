"""What is known of a union scaled to unit volume: shares, totals, tangent balls, distances."""

from __future__ import annotations

from typing import NamedTuple

from manifold_jax._html import escape
from manifold_jax.geometry.quantities import TOTALS, Estimate, with_bar
from manifold_jax.geometry.reach import Reach
from manifold_jax.geometry.report import Geometry

CURVATURES = TOTALS[1:]


class Balls(NamedTuple):
    """Least and mean radius of the largest empty tangent balls of one class; the mean over its volume."""

    least: Estimate
    mean: Estimate


class ClassGeometry(NamedTuple):
    """One class of a union of unit volume; of lengths and totals see :class:`UnionGeometry`.

    Attributes:
        name: Of the class.
        volume: Its share of the volume.
        total_scalar_curvature: Integral of S dV.
        total_positive_curvature: Integral of max(S, 0) dV.
        total_negative_curvature: Integral of min(S, 0) dV.
        alone: Tangent balls that only the class itself stops; NaN where the reach was not searched.
        together: Those that points of any class stop.
        stopped: Share of the volume at which another class stops the ball; NaN without the reach.
    """

    name: str
    volume: Estimate
    total_scalar_curvature: Estimate
    total_positive_curvature: Estimate
    total_negative_curvature: Estimate
    alone: Balls
    together: Balls
    stopped: float


class ClassDistance(NamedTuple):
    """Distances between two classes of a union of unit volume.

    Attributes:
        first: Number of one class.
        second: Number of the other.
        nearest: Between their nearest points; an upper bound but for its bar, from points of the lattices.
        paired: Mean distance of points of equal chart coordinates, over the chart; where grids of Manifolds
            differ, over the larger one.
        least_paired: The least of these distances on the lattice.
    """

    first: int
    second: int
    nearest: Estimate
    paired: Estimate
    least_paired: float


class UnionGeometry(NamedTuple):
    """Geometry of a union of classes, scaled to unit volume.

    Attributes:
        volume: Volume of the union before it was scaled.
        scale: What lengths were multiplied with, V^(-1/d).
        total_scalar_curvature: Sum over the classes, of the scaled union, as the next two.
        total_positive_curvature: The positive part.
        total_negative_curvature: The negative part.
        least_reach: The reach, NaN where it was not searched.
        mean_reach: Mean over the volume of the radius of the largest empty tangent ball.
        classes: Every class.
        distances: Of every pair of classes; empty where distances were not asked for.
        geometries: What :func:`measure` gave for every class, not scaled.
        reach: The reach of the union, not scaled; None where it was not searched.
    """

    volume: Estimate
    scale: float
    total_scalar_curvature: Estimate
    total_positive_curvature: Estimate
    total_negative_curvature: Estimate
    least_reach: Estimate
    mean_reach: Estimate
    classes: tuple[ClassGeometry, ...]
    distances: tuple[ClassDistance, ...]
    geometries: tuple[Geometry, ...]
    reach: Reach | None

    def __repr__(self) -> str:
        names = ", ".join(part.name for part in self.classes)
        return f"UnionGeometry of {names[:200]}: volume {_shown(self.volume)}"

    def _repr_html_(self) -> str:
        """The summary, for notebooks."""
        return f"<pre>{escape(self.summary())}</pre>"

    def summary(self) -> str:
        """Plain-text report: a line for every class, for the union, and for every pair."""
        lines = [f"{len(self.classes)} classes scaled to unit volume, from {_shown(self.volume)}"]
        lines += [f"(lengths times {self.scale:.5g}; S: total scalar curvature; ? not resolved)"]
        for part in self.classes:
            cells = [f"volume {_shown(part.volume)}", *_curvature_words(part)]
            if self.reach is not None:
                cells += [f"least reach {_shown(part.alone.least)}, mean {_shown(part.alone.mean)}"]
                balls = part.together
                cells += [f"in the union {_shown(balls.least)}, mean {_shown(balls.mean)}"]
                cells += [f"others stop {part.stopped:.0%}"]
            lines.append(f"  {part.name}: {'; '.join(cells)}")
        reach_words = [f"reach {_shown(self.least_reach)}, mean {_shown(self.mean_reach)}"]
        lines.append(f"  union: {'; '.join(_curvature_words(self) + reach_words * (self.reach is not None))}")
        for pair in self.distances:
            names = " to ".join(self.classes[k].name for k in (pair.first, pair.second))
            lines.append(f"  {names}: nearest {_shown(pair.nearest)}; paired {_shown(pair.paired)}")
        return "\n".join(lines)


def _shown(estimate: Estimate) -> str:
    value, error, resolved = estimate
    return with_bar(float(value), float(error)) + ("" if bool(resolved) else "?")


def _curvature_words(part: ClassGeometry | UnionGeometry) -> list[str]:
    whole, above, below = (_shown(getattr(part, name)) for name in CURVATURES)
    return [f"S {whole} ({above}, {below})"]
