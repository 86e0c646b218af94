"""Curves with closed forms; an argument that is not positive where it must be is a ValueError."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import manifold_jax.datasets.closed_forms as forms
from manifold_jax._checks import numbers
from manifold_jax.datasets.closed_forms import TURN, Field, Size, Vector
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.manifold import Manifold

Pair = tuple[Manifold, Manifold]


def _vector(value: Field | float) -> Vector:
    """A function or a constant as a function with values ``(1,)``."""
    return lambda u: jnp.reshape(value(u), (1,)) if callable(value) else jnp.full_like(u, value)


def _curve(
    name: str,
    embedding: Callable[[jax.Array], jax.Array],
    axis: Axis,
    attributes: Mapping[str, Any],
    *,
    speed: Field | float,
    curvature: Field | float,
    reach: float,
    length: float = math.nan,
) -> Manifold:
    """A curve from its speed |X'(u)|, curvature and reach; from a constant speed follows the length."""
    if not callable(speed):
        length = speed * (axis.stop - axis.start)
    totals = {"total_volume": length, "total_scalar_curvature": 0.0, "reach": reach}
    known = forms.known_quantities(_vector(speed), _vector(curvature), 1, totals)
    return Manifold(name, embedding, Grid((axis,)), known, attributes)


def _arc(name: str, embedding: Any, axis: Axis, radius: float, attributes: Mapping[str, Any]) -> Manifold:
    """A circle or an arc of at least half a circle."""
    return _curve(name, embedding, axis, attributes, speed=radius, curvature=1.0 / radius, reach=radius)


# Parameters of an embedding are leaves of a Partial: one compiled program serves all curves of a kind.


def _conic(a, b, u):
    return jnp.stack([a * jnp.cos(u[0]), b * jnp.sin(u[0])])


def _screw(r, c, u):
    return jnp.stack([r * jnp.cos(u[0]), r * jnp.sin(u[0]), c * u[0]])


def circle(radius: float = 1.0, *, size: Size = None) -> Manifold:
    """Circle of radius r in the plane: X(u) = r (cos u, sin u).

    Known: |X'| = r, curvature 1/r, length 2 pi r, reach r (do Carmo, *Differential Geometry of Curves
    and Surfaces*, section 1-5).

    Args:
        radius: r > 0.
        size: Samples along the angle (default 128).

    Returns:
        Manifold of dimension 1 with features ``(2,)``, one periodic axis ``angle``.

    Example:
        >>> circle(2.0).known["reach"]
        2.0
    """
    r = forms.length("circle", "radius", radius)
    (axis,) = forms.angles("circle", size, angle=TURN)
    return _arc("circle", Partial(_conic, r, r), axis, r, {"radius": r})


def ellipse(semi_axes: tuple[float, float] = (2.0, 1.0), *, size: Size = None) -> Manifold:
    """Ellipse with semi-axes a, b: X(u) = (a cos u, b sin u).

    Known: |X'|^2 = a^2 sin^2 u + b^2 cos^2 u, curvature a b / |X'|^3, reach min(a, b)^2 / max(a, b) (the
    smallest radius of curvature, at the ends of the long axis) and length 8 R_G(0, a^2, b^2), Carlson's
    form of the complete elliptic integral, evaluated to rounding (DLMF 19.25.1, 19.30.5).

    Args:
        semi_axes: a, b > 0, in any order.
        size: Samples along the parameter (default 128).

    Returns:
        Manifold of dimension 1 with features ``(2,)``, one periodic axis ``angle`` (the eccentric anomaly).

    Example:
        >>> curve = ellipse((2.0, 1.0))
        >>> curve.known["reach"], round(curve.known["total_volume"], 6)
        (0.5, 9.688448)
    """
    a, b = forms.lengths("ellipse", "semi_axes", semi_axes, 2)
    (axis,) = forms.angles("ellipse", size, angle=TURN)

    def speed(u):
        return jnp.sqrt((a * jnp.sin(u[0])) ** 2 + (b * jnp.cos(u[0])) ** 2)

    def curvature(u):
        return a * b / speed(u) ** 3

    reach, length = min(a, b) ** 2 / max(a, b), 8.0 * forms.carlson_rg(0.0, a * a, b * b)
    shape = {"speed": speed, "curvature": curvature, "reach": reach, "length": length}
    return _curve("ellipse", Partial(_conic, a, b), axis, {"semi_axes": (a, b)}, **shape)


def helix(radius: float = 1.0, pitch: float = 1.0, turns: float = 2.0, *, size: Size = None) -> Manifold:
    """Circular helix X(u) = (r cos u, r sin u, c u), c = pitch / 2 pi, 0 <= u <= 2 pi turns.

    Known: |X'|^2 = r^2 + c^2, curvature r / (r^2 + c^2) (do Carmo, *Differential Geometry of Curves and
    Surfaces*, section 1-5), length 2 pi turns |X'|. The reach is the radius of curvature, unless the
    helix is wound so tightly that half the distance to the next turn is smaller: |X(t) - X(0)|^2 =
    2 r^2 (1 - cos t) + c^2 t^2 is stationary where sin t = -(c/r)^2 t; the second root in (pi, 2 pi)
    gives the shortest bottleneck (there is none if (c/r)^2 > 0.2172). If the helix ends before that root,
    its end takes the place of the root (Federer's formula with the tangent ray at the end).

    Args:
        radius: r > 0.
        pitch: Rise per turn, > 0.
        turns: Number of turns, > 0, not necessarily whole.
        size: Samples along the parameter (default 128).

    Returns:
        Manifold of dimension 1 with features ``(3,)``, one open axis ``angle``.

    Example:
        >>> round(helix(1.0, 1.0).known["reach"], 4)  # tight: half the gap between two turns
        0.4938
        >>> round(helix(1.0, 6.0).known["reach"], 4)  # loose: the radius of curvature
        1.9119
    """
    r, c = forms.length("helix", "radius", radius), forms.length("helix", "pitch", pitch) / TURN
    stop = TURN * forms.length("helix", "turns", turns)
    speed = math.hypot(r, c)
    (count,) = forms.grid_sizes("helix", size, 1)
    axis = Axis("angle", 0.0, stop, count, unit="rad")
    attributes = {"radius": r, "pitch": c * TURN, "turns": stop / TURN}
    shape = {"speed": speed, "curvature": r / speed**2, "reach": _helix_reach(r, c, stop)}
    return _curve("helix", Partial(_screw, r, c), axis, attributes, **shape)


def _helix_reach(r: float, c: float, stop: float) -> float:
    """The radius of curvature, or half the shortest chord to another turn."""
    ratio = (c / r) ** 2
    local = (r * r + c * c) / r

    def slope(t: float) -> float:  # of the squared chord, over 2 r^2
        return math.sin(t) + ratio * t

    lowest = TURN - math.acos(-ratio) if ratio < 1.0 else TURN
    if slope(lowest) >= 0.0 or stop <= forms.bisect(slope, math.pi, lowest):
        return local
    t = min(stop, forms.bisect(slope, lowest, TURN))
    return min(local, 0.5 * math.hypot(2.0 * r * math.sin(t / 2.0), c * t))


def two_moons(radius: float = 1.0, offset: tuple[float, float] = (1.0, 0.5), *, size: Size = None) -> Pair:
    """Two interleaving half circles, r (cos u, sin u) and r (-cos u, -sin u) + r offset, 0 <= u <= pi.

    The default is scikit-learn's ``make_moons``. Known for each arc: curvature 1/r, length pi r, reach r.
    With the default offset the reach of the union is r/4 (``union_reach`` in the attributes): the end
    (0, r/2) of the second arc points straight at the top (0, r) of the first.

    Args:
        radius: r > 0.
        offset: Where the second arc is shifted to, in units of r.
        size: Samples along each arc (default 128).

    Returns:
        Two manifolds of dimension 1 with features ``(2,)``, each with one open axis ``angle``.

    Example:
        >>> [moon.name for moon in two_moons()]
        ['upper moon', 'lower moon']
    """
    r = forms.length("two_moons", "radius", radius)
    east, north = numbers("two_moons", "offset", offset, 2)
    (axis,) = forms.angles("two_moons", size, angle=math.pi)

    def lower(u):
        return r * jnp.stack([east - jnp.cos(u[0]), north - jnp.sin(u[0])])

    attributes: dict[str, Any] = {"radius": r, "offset": (east, north)}
    if (east, north) == (1.0, 0.5):
        attributes["union_reach"] = r / 4.0
    upper = Partial(_conic, r, r)
    return _arc("upper moon", upper, axis, r, attributes), _arc("lower moon", lower, axis, r, attributes)


def parallel_circles(radius: float = 1.0, gap: float = 1.0, *, size: Size = None) -> Pair:
    """Two circles of radius r on one axis, in parallel planes at distance h: r (cos u, sin u, 0 or h/r).

    Known for each: curvature 1/r, length 2 pi r, reach r. The union is the product of a circle with two
    points, so its reach is min(r, h/2) (``union_reach`` in the attributes).

    Args:
        radius: r > 0.
        gap: Distance h > 0 of the two planes.
        size: Samples along each circle (default 128).

    Returns:
        Two manifolds of dimension 1 with features ``(3,)``, each with one periodic axis ``angle``.

    Example:
        >>> parallel_circles(1.0, gap=0.5)[0].attributes["union_reach"]
        0.25
    """
    r, h = forms.length("parallel_circles", "radius", radius), forms.length("parallel_circles", "gap", gap)
    (axis,) = forms.angles("parallel_circles", size, angle=TURN)

    def at(height):
        return lambda u: jnp.stack([r * jnp.cos(u[0]), r * jnp.sin(u[0]), jnp.full_like(u[0], height)])

    low, high = at(0.0), at(h)
    attributes = {"radius": r, "gap": h, "union_reach": min(r, h / 2.0)}
    return _arc("lower circle", low, axis, r, attributes), _arc("upper circle", high, axis, r, attributes)
