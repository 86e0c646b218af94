"""Pictures of the reach: the points that decide it side by side, and the radii of the tangent balls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from manifold_jax._checks import instance
from manifold_jax.geometry import Grid, Reach
from manifold_jax.geometry.manifold import is_union
from manifold_jax.geometry.quantities import with_bar
from manifold_jax.geometry.reach.result import ComponentReach
from manifold_jax.plotting.images import image_grid, is_image
from manifold_jax.plotting.points import feature_shape, grid_coordinates, render
from manifold_jax.plotting.style import COLOURS, LENGTH, MAX_POINTS, Figure, matplotlib, new_figure

_EXTRA = 3  # pairs drawn below the deciding one
_CASES = {"local": "local (curvature)", "global": "global (two points)", "tie": "local and global tie"}


def plot_reach(manifolds: Any, result: Reach) -> Figure:
    """The points that decide the reach: images side by side, or chords on a curve or surface.

    Args:
        manifolds: What was measured, one Manifold, the components of a union, or an array of points.
        result: Its reach.

    Returns:
        The figure: for images, one row per pair (p, q, q - p), the deciding pair first, then the smallest
        tangent balls that a far point stops; else the points coloured by tau(p) with the deciding chord.
        Below, a histogram of tau(p).
    """
    instance("plot_reach", "result", result, Reach, "see reach")
    parts = _parts(manifolds, result)
    names = " and ".join(dict.fromkeys(component.name for component in result.components))
    title = f"{names}: reach {with_bar(result.value, result.error)} {LENGTH}, {_CASES[result.case]}"
    pictures = is_image(feature_shape(*parts[0]))
    pairs = witness_pairs(manifolds, result) if pictures else []
    height = 2.9 * len(pairs) if pictures else 5.6
    figure = new_figure(9.5, height + 2.4, title)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, 2.4))[:, 0]
    values = _everywhere(result, "pointwise")
    values = values[np.isfinite(values)]
    if pictures:
        _draw_pairs(above, pairs)
    else:
        _draw_chord(above, parts, result, values)
    top = float(np.quantile(values, 0.99)) if len(values) else 1.0
    top = max(top, 1.2 * result.value) if np.isfinite(result.value) else top
    axes = below.subplots()
    axes.hist(np.minimum(values, top), bins=40, range=(0, top), color="0.7")
    if np.isfinite(result.value):
        axes.axvline(result.value, color=COLOURS[0], lw=2, label="reach")
        axes.legend()
    axes.set(xlabel=f"radius of the largest empty tangent ball τ(p), {LENGTH}", ylabel="points")
    return figure


class WitnessPair(NamedTuple):
    """Two points whose tangent ball is small: the deciding pair, or another."""

    title: str
    x: np.ndarray
    y: np.ndarray
    places: list[str]  # coordinates of both

    @property
    def same(self) -> bool:
        """Whether the two are one point, whose curvature decides."""
        return float(np.abs(self.y - self.x).max()) < 1e-6

    @property
    def words(self) -> str:
        """What is said of the difference."""
        chord = f"length {np.linalg.norm(self.y - self.x):.3g} {LENGTH}"
        return "p = q: the curvature at p decides" if self.same else chord


def witness_pairs(manifolds: Any, result: Reach) -> list[WitnessPair]:
    """The pair that decides the reach; of images also the smallest tangent balls of other far pairs."""
    parts, pairs = _parts(manifolds, result), []
    others = _other_pairs(parts, result) if is_image(feature_shape(*parts[0])) else []
    for k, (radius, *ends) in enumerate([(result.value, *result.ends), *others]):
        x, y = (_point(parts[number], u) for number, u in ends)
        places = [
            ", ".join(f"{axis.name} {x:.3g}" for axis, x in zip(parts[number].grid.axes, u, strict=True))
            for number, u in ends
        ]
        title = f"{'decides' if k == 0 else 'a tangent ball'}: τ(p) = {radius:.3g} {LENGTH}"
        pairs.append(WitnessPair(title, x, y, places))
    return pairs


class _Part(NamedTuple):
    """A Manifold, or its points, on its grid."""

    source: Any
    grid: Grid


def _parts(manifolds: Any, result: Reach) -> list[_Part]:
    """The components of a reach with their sources."""
    sources = list(manifolds) if is_union(manifolds) else [manifolds]
    return [_Part(*pair) for pair in zip(sources, map(_grid_of, result.components), strict=True)]


def _grid_of(component: ComponentReach) -> Grid:
    """Its grid, which all but samples have."""
    if component.grid is None:
        raise ValueError("plot_reach: the reach must be that of a grid, got that of samples.")
    return component.grid


def _everywhere(result: Reach, field: str) -> np.ndarray:
    """A field of a reach at the points of all components."""
    return np.concatenate([np.ravel(getattr(component, field)) for component in result.components])


def _other_pairs(parts: Sequence[_Part], result: Reach) -> list[tuple]:
    """Smallest far pairs ``(radius, (component, u), (component, u))``, no point in two of them."""
    if any(axis.periodic and not axis.wrap for part in parts for axis in part.grid.axes):
        return []  # a witness may lie a period away from its grid point
    starts = np.cumsum([0, *(part.grid.size for part in parts)])

    def place(index: int) -> tuple[int, np.ndarray]:
        k = int(np.searchsorted(starts, index, side="right")) - 1
        return k, grid_coordinates(parts[k].grid, index - starts[k])

    values, witnesses = (_everywhere(result, field) for field in ("pointwise", "witness"))
    far = np.flatnonzero(np.isfinite(values) & (witnesses >= 0) & (witnesses != np.arange(len(values))))
    pairs: list[tuple] = []
    seen: set[int] = set()
    for index in far[np.argsort(values[far])].tolist():
        if index not in seen:  # the mirror image of a pair tells nothing new
            other = int(witnesses[index])
            seen |= {index, other}
            pairs.append((values[index], place(index), place(other)))
            if len(pairs) == _EXTRA:
                break
    return pairs


def _point(part: _Part, u: np.ndarray) -> np.ndarray:
    return render(*part, np.asarray(u)[None]).reshape(feature_shape(*part))


def _draw_pairs(figure: Any, pairs: Sequence[WitnessPair]) -> None:
    """Rows of images p, q and q - p."""
    rows = [pair.title.replace(": ", "\n") for pair in pairs]
    images = [[pair.x, pair.y, None if pair.same else pair.y - pair.x] for pair in pairs]
    captions = [[*pair.places, pair.words] for pair in pairs]
    largest = max(float(image.max()) for pair in pairs for image in (pair.x, pair.y)) or 1.0
    columns = ("p", "q", "q − p")
    options: dict[str, Any] = {"captions": captions, "differences": (2,), "largest": largest}
    image_grid("", images, rows=rows, columns=columns, figure=figure, **options)


def _draw_chord(figure: Any, parts: Sequence[_Part], result: Reach, values: np.ndarray) -> None:
    """Points in two or three dimensions, coloured by tau(p), with the chord that decides."""
    size = int(np.prod(feature_shape(*parts[0])))
    axes: Any = figure.subplots(subplot_kw={"projection": "3d"} if size > 2 else {})
    low, high = np.quantile(values, (0.0, 0.95)) if len(values) else (0.0, 1.0)
    norm = matplotlib("colors").Normalize(float(low), float(high))
    drawn = None
    for part, component in zip(parts, result.components, strict=True):
        chosen = np.arange(part.grid.size)[:: -(-part.grid.size // (2 * MAX_POINTS))]
        points = render(*part, grid_coordinates(part.grid, chosen))[:, :3]
        colour = np.ravel(component.pointwise)[chosen]
        drawn = axes.scatter(*points.T, c=colour, s=10, norm=norm, cmap="viridis")
    chord = np.stack([_point(parts[number], u).ravel()[:3] for number, u in result.ends])
    axes.plot(*chord.T, "o-", color=COLOURS[0], lw=2, ms=8, label="deciding pair")
    axes.legend(loc="upper right")
    if size <= 2:
        axes.set_aspect("equal", adjustable="datalim")
    else:
        axes.set_box_aspect([np.ptp(getattr(axes, f"get_{name}lim")()) for name in "xyz"])
        axes.set_title("the first three of the ambient coordinates" if size > 3 else "", fontsize=9)
    figure.colorbar(drawn, ax=axes, label=f"τ(p) in {LENGTH}", extend="max", shrink=0.8)
