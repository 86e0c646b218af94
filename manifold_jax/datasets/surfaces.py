"""Manifolds of two and more dimensions with closed forms; an argument out of range is a ValueError."""

from __future__ import annotations

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import manifold_jax.datasets.closed_forms as forms
from manifold_jax._checks import whole
from manifold_jax.datasets.closed_forms import TURN, Size
from manifold_jax.datasets.compose import product
from manifold_jax.datasets.curves import circle
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.manifold import Manifold

# Parameters of an embedding are leaves of a Partial: one compiled program serves all surfaces of a kind.


def _sphere(r, u):
    point = r * jnp.stack([jnp.cos(u[-1]), jnp.sin(u[-1])])
    for i in reversed(range(len(u) - 1)):
        point = jnp.append(jnp.sin(u[i]) * point, r * jnp.cos(u[i]))
    return point


def _torus(big, r, u):
    distance = big + r * jnp.cos(u[1])
    return jnp.stack([distance * jnp.cos(u[0]), distance * jnp.sin(u[0]), r * jnp.sin(u[1])])


def _roll(u):
    return jnp.stack([u[0] * jnp.cos(u[0]), u[1], u[0] * jnp.sin(u[0])])


def _constant(value, u):
    return jnp.full_like(u[0], value)


def sphere(dimension: int = 2, radius: float = 1.0, *, size: Size = None) -> Manifold:
    """Round sphere S^n of radius r in R^(n+1), in polar coordinates.

    X_1 = r (cos u_n, sin u_n) on the azimuth u_n, and every polar angle adds a coordinate, from the last
    to the first: X -> (sin u_i X, r cos u_i). On S^2 this is r (sin u_1 cos u_2, sin u_1 sin u_2, cos u_1).
    The metric r^2 diag(1, sin^2 u_1, sin^2 u_1 sin^2 u_2, ...) degenerates at the poles, on the grid.

    Known: principal curvatures 1/r, so S = n(n-1)/r^2, |H| = 1/r, |II| = sqrt(n)/r; reach r; volume
    2 pi^((n+1)/2) r^n / Gamma((n+1)/2) (do Carmo, *Riemannian Geometry*, chapters 4 and 6).

    Args:
        dimension: n from 1 to 4.
        radius: r > 0.
        size: Samples along the axes, one number or n of them (default 128, 64, 24, 16 for n = 1..4).

    Returns:
        Manifold of dimension n with features ``(n + 1,)``: n - 1 open axes ``polar`` (or ``polar_1``, ...) on
        [0, pi] and a periodic axis ``azimuth``.

    Example:
        >>> ball = sphere(2, radius=2.0)
        >>> ball.grid.names, ball.grid.shape, ball.known["reach"]
        (('polar', 'azimuth'), (64, 64), 2.0)
    """
    n, r = whole("sphere", "dimension", dimension, 1, 4), forms.length("sphere", "radius", radius)
    polar = ["polar"] if n == 2 else [f"polar_{i + 1}" for i in range(n - 1)]
    axes = forms.angles("sphere", size, **dict.fromkeys(polar, math.pi), azimuth=TURN)

    def scales(u):  # |X_i| = r sin u_1 ... sin u_(i-1)
        return jnp.cumprod(jnp.append(jnp.full_like(u[:1], r), jnp.sin(u[: n - 1])))

    volume = 2.0 * math.pi ** ((n + 1) / 2.0) / math.gamma((n + 1) / 2.0) * r**n
    curvature = n * (n - 1) / r**2 * volume
    totals = {"total_volume": volume, "total_scalar_curvature": curvature, "reach": r}
    known = forms.known_quantities(scales, lambda u: jnp.full_like(u, 1.0 / r), n, totals)
    return Manifold(f"sphere S^{n}", Partial(_sphere, r), Grid(axes), known, {"radius": r})


def torus(major: float = 2.0, minor: float = 0.5, *, size: Size = None) -> Manifold:
    """Torus of revolution ((R + r cos v) cos u, (R + r cos v) sin u, r sin v).

    Known: metric diag((R + r cos v)^2, r^2), principal curvatures cos v / (R + r cos v) and 1/r, area
    4 pi^2 R r, total curvature 0 (do Carmo, *Differential Geometry of Curves and Surfaces*, section 3-3),
    reach min(r, R - r): the tube closes up at its core circle or at the axis of revolution.

    Args:
        major: R, the distance from the axis of revolution to the core of the tube.
        minor: r < R, the radius of the tube.
        size: Samples along both axes (default 64).

    Returns:
        Manifold of dimension 2 with features ``(3,)``, periodic axes ``toroidal`` (u) and ``poloidal`` (v).

    Example:
        >>> torus(2.0, 0.5).known["reach"]
        0.5
    """
    big, r = forms.length("torus", "major", major), forms.length("torus", "minor", minor)
    if r >= big:
        raise ValueError(f"torus: minor must be below major, got minor {r:g} and major {big:g}: swap them?")
    axes = forms.angles("torus", size, toroidal=TURN, poloidal=TURN)

    def distance(u):  # from the axis of revolution
        return big + r * jnp.cos(u[1])

    known = forms.known_quantities(
        lambda u: jnp.stack([distance(u), jnp.full_like(u[1], r)]),
        lambda u: jnp.stack([jnp.cos(u[1]) / distance(u), jnp.full_like(u[1], 1.0 / r)]),
        2,
        {"total_volume": TURN**2 * big * r, "total_scalar_curvature": 0.0, "reach": min(r, big - r)},
    )
    return Manifold("torus", Partial(_torus, big, r), Grid(axes), known, {"major": big, "minor": r})


def flat_torus(dimension: int = 2, radii: float | tuple[float, ...] = 1.0, *, size: Size = None) -> Manifold:
    """Flat torus T^k in R^2k: the product of k circles, (r_1 cos u_1, r_1 sin u_1, r_2 cos u_2, ...).

    Known: metric diag(r_i^2), II(e_i, e_i) = -n_i / r_i with orthogonal n_i, so S = 0, k |H| = |II| =
    sqrt(sum 1/r_i^2), normal curvature 1 / min r_i; volume prod 2 pi r_i; reach min r_i (do Carmo,
    *Riemannian Geometry*, chapter 6).

    Args:
        dimension: k, at least 1.
        radii: One positive radius for all circles, or k of them.
        size: Samples along the axes, one number or k of them (default 128, 64, 24, 16, 8, 8, ...).

    Returns:
        Manifold of dimension k with features ``(2 k,)`` and periodic axes ``angle_1``, ..., ``angle_k``.

    Example:
        >>> flat_torus(3, (1.0, 2.0, 3.0)).feature_shape
        (6,)
    """
    dimension = whole("flat_torus", "dimension", dimension)
    given = radii if isinstance(radii, list | tuple) or np.ndim(radii) else (radii,) * dimension
    chosen = forms.lengths("flat_torus", "radii", given, dimension)
    sizes = forms.grid_sizes("flat_torus", size, dimension)
    parts = product(*(circle(r, size=k) for r, k in zip(chosen, sizes, strict=True)))
    return replace(parts, name=f"flat torus T^{dimension}", attributes={"radii": chosen})


def veronese(radius: float = 1.0, *, size: Size = None) -> Manifold:
    """Veronese surface: the projective plane as a minimal surface of the sphere S^4(r) in R^5.

    X = r/sqrt(3) (yz, xz, xy, (x^2 - y^2)/2, (x^2 + y^2 - 2 z^2) / (2 sqrt 3)) with (x, y, z) on S^2(sqrt 3),
    an immersion that takes the same value at antipodes (Chern, do Carmo & Kobayashi, "Minimal submanifolds of
    a sphere with second fundamental form of constant length", 1970). The chart is the upper half of that
    sphere, polar angle in [0, pi/2], so that RP^2 is covered once; on the last polar layer (not a boundary of
    the surface) azimuths w and w + pi are the same point, which an odd number of azimuths keeps off the grid.

    Known, with r = 1: metric 3 diag(1, sin^2 v), K = 1/3, |H| = 1 and |II|^2 = 10/3 (in R^5: 4/3 within the
    sphere and 2 from it), |II(v, v)| = 2/sqrt(3) for every unit v, area 6 pi, total scalar curvature
    4 pi (Gauss-Bonnet, chi = 1). All geodesics are circles of radius sqrt(3)/2, and any two points lie on
    one; Federer's ratio |y-x|^2 / (2 d(y-x, T_x)) is then sqrt(3)/2 for every pair: that is the reach.

    Args:
        radius: Radius r > 0 of the ambient S^4.
        size: Samples along both axes (default 33 polar, 65 azimuthal).

    Returns:
        Manifold of dimension 2 with features ``(5,)``, an open axis ``polar`` and a periodic one ``azimuth``.

    Example:
        >>> round(veronese().known["reach"], 4)
        0.866
    """
    r = forms.length("veronese", "radius", radius)
    axes = forms.angles("veronese", (33, 65) if size is None else size, polar=math.pi / 2.0, azimuth=TURN)
    root, side = math.sqrt(3.0), math.sqrt(3.0) * r

    def embedding(u):  # x, y, z on the unit sphere; X is quadratic, so that the factor 3 comes out
        sin = jnp.sin(u[0])
        x, y, z = sin * jnp.cos(u[1]), sin * jnp.sin(u[1]), jnp.cos(u[0])
        last = (x * x + y * y - 2.0 * z * z) / (2.0 * root)
        return side * jnp.stack([y * z, x * z, x * y, 0.5 * (x * x - y * y), last])

    curvatures = {
        "gaussian_curvature": 1.0 / side**2,
        "scalar_curvature": 2.0 / side**2,
        "mean_curvature": 1.0 / r,
        "second_form_norm": math.sqrt(10.0 / 3.0) / r,
        "normal_curvature": 2.0 / side,
    }
    totals = {"total_volume": TURN * side**2, "total_scalar_curvature": 2.0 * TURN, "reach": side / 2.0}

    def scales(u):
        return side * jnp.stack([jnp.ones_like(u[0]), jnp.sin(u[0])])

    known = forms.known_quantities(scales, None, 2, totals)
    known |= {name: Partial(_constant, value) for name, value in curvatures.items()}
    return Manifold("Veronese surface", embedding, Grid(axes), known, {"radius": r})


def swiss_roll(
    start: float = 1.5 * math.pi, stop: float = 4.5 * math.pi, height: float = 21.0, *, size: Size = None
) -> Manifold:
    """Swiss roll (t cos t, h, t sin t): an Archimedean spiral times an interval.

    The default is scikit-learn's. Known: metric diag(1 + t^2, 1), principal curvatures 0 and
    (t^2 + 2) / (1 + t^2)^(3/2), so S = 0; area height [t sqrt(1 + t^2) + asinh t] / 2 between the ends. The
    reach is the radius of curvature at the inner edge or half the distance from there to the next turn (the
    gap widens outwards), whichever is smaller; to the outer edge if the roll ends before it comes that near.

    Args:
        start: Angle t of the inner edge, > 0.
        stop: Angle of the outer edge, above ``start``.
        height: Width of the strip, > 0.
        size: Samples along both axes (default 64).

    Returns:
        Manifold of dimension 2 with features ``(3,)``, open axes ``angle`` and ``height``.

    Example:
        >>> round(swiss_roll().known["reach"], 3)
        3.111
    """
    low, high = forms.length("swiss_roll", "start", start), forms.length("swiss_roll", "stop", stop)
    width = forms.length("swiss_roll", "height", height)
    if low >= high:
        raise ValueError(f"swiss_roll: stop must be above start, got start {low:g} and stop {high:g}.")
    sizes = forms.grid_sizes("swiss_roll", size, 2)
    axes = (Axis("angle", low, high, sizes[0], unit="rad"), Axis("height", 0.0, width, sizes[1]))

    def principal(u):
        square = u[0] ** 2
        return jnp.stack([(square + 2.0) / (1.0 + square) ** 1.5, jnp.zeros_like(square)])

    def scales(u):
        return jnp.stack([jnp.sqrt(1.0 + u[0] ** 2), jnp.ones_like(u[0])])

    def arc_length(t):
        return 0.5 * (t * math.hypot(1.0, t) + math.asinh(t))

    totals = {"total_volume": width * (arc_length(high) - arc_length(low)), "total_scalar_curvature": 0.0}
    totals["reach"] = _spiral_reach(low, high)
    known = forms.known_quantities(scales, principal, 2, totals)
    attributes = {"start": low, "stop": high, "height": width}
    return Manifold("swiss roll", _roll, Grid(axes), known, attributes)


def _spiral_reach(start: float, stop: float) -> float:
    """Reach of the spiral r = t, from the chords between its inner end and the next turn.

    With s < t the angles of two points and a = t - s, their chord v has <v, X'(s)> = t cos a - s + t s sin a
    and <v, X'(t)> = t - s cos a + t s sin a, which is larger by (t + s)(1 - cos a). Where the second is not
    positive, the first is negative: a chord can only be normal at both ends if s is the inner end, where it
    leads outward, and t a root of the second, or the outer end before that root.
    """
    local = (1.0 + start**2) ** 1.5 / (start**2 + 2.0)

    def slope(angle):  # of half the squared chord from start to start + angle
        t = start + angle
        return t - start * math.cos(angle) + t * start * math.sin(angle)

    if slope(0.75 * TURN) >= 0.0:  # start < about 1: no turn comes back near the end
        return local
    angle = min(forms.bisect(slope, 0.75 * TURN, TURN), stop - start)
    if slope(angle) > 1e-9 * start:
        return local
    t = start + angle
    return min(local, 0.5 * math.sqrt(start**2 + t**2 - 2.0 * start * t * math.cos(angle)))
