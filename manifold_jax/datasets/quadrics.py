"""The ellipsoid and the hyperboloids with closed forms; an argument out of range is a ValueError."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

import manifold_jax.datasets.closed_forms as forms
from manifold_jax._checks import whole
from manifold_jax.datasets.closed_forms import TURN, Size, Vector
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.manifold import Manifold

Triple = tuple[float, float, float]
Profile = Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array, jax.Array]]


def _quadric_curvatures(m: Triple) -> Vector:
    """Principal curvatures ``(2,)`` of the quadric sum_i m_i x_i^2 = const at an ambient point x ``(3,)``.

    They are k = s / |M x| for the roots s of sum_i n_i^2 / (m_i - s) = 0, n the unit normal. Shifted by the
    middle m_i, the roots have a product that is never positive, so that the discriminant is a sum of squares:
    no digit is lost at umbilics.
    """
    low, middle, high = sorted(range(3), key=lambda i: m[i])
    below, above = m[low] - m[middle], m[high] - m[middle]

    def principal(point):
        gradient = jnp.stack([m[i] * point[i] for i in range(3)])
        norm_squared = jnp.sum(gradient**2)
        weight = gradient**2 / norm_squared
        half = 0.5 * (weight[low] * above + weight[middle] * (below + above) + weight[high] * below)
        gap = jnp.sqrt(half**2 - weight[middle] * below * above)
        return (m[middle] + jnp.stack([half - gap, half + gap])) / jnp.sqrt(norm_squared)

    return principal


def _quadric(
    name: str, semi_axes: Triple, signs: Triple, profile: Profile, axes: tuple[Axis, ...], totals: dict
) -> Manifold:
    """Surface (a p(v) cos w, b p(v) sin w, c q(v)) on the quadric signs . (x/a, y/b, z/c)^2 = const.

    ``profile`` maps v to p, p', q, q'. With E, F, G the first fundamental form,
    E G - F^2 = p^2 (a^2 b^2 p'^2 + c^2 q'^2 (a^2 sin^2 w + b^2 cos^2 w)).
    """
    a, b, c = semi_axes
    along = _quadric_curvatures((signs[0] / a**2, signs[1] / b**2, signs[2] / c**2))

    def embedding(u):
        p, _, q, _ = profile(u[0])
        return jnp.stack([a * p * jnp.cos(u[1]), b * p * jnp.sin(u[1]), c * q])

    def metric(u):
        p, dp, _, dq = profile(u[0])
        cos, sin = jnp.cos(u[1]), jnp.sin(u[1])
        e = dp**2 * ((a * cos) ** 2 + (b * sin) ** 2) + (c * dq) ** 2
        f = (b * b - a * a) * p * dp * sin * cos
        g = p**2 * ((a * sin) ** 2 + (b * cos) ** 2)
        return jnp.stack([jnp.stack([e, f]), jnp.stack([f, g])])

    def volume_element(u):
        p, dp, _, dq = profile(u[0])
        around = (a * jnp.sin(u[1])) ** 2 + (b * jnp.cos(u[1])) ** 2
        return jnp.abs(p) * jnp.sqrt((a * b * dp) ** 2 + (c * dq) ** 2 * around)

    known = {"metric": metric, "volume_element": volume_element} | totals
    known |= forms.curvature_forms(lambda u: along(embedding(u)), 2)
    return Manifold(name, embedding, Grid(axes), known, {"semi_axes": semi_axes})


def ellipsoid(semi_axes: Triple = (1.5, 1.2, 1.0), *, size: Size = None) -> Manifold:
    """Ellipsoid (a sin v cos w, b sin v sin w, c cos v) with polar angle v and azimuth w.

    Known: all curvatures, K = 1 / (a b c P)^2 with P = x^2/a^4 + y^2/b^4 + z^2/c^4 (do Carmo, *Differential
    Geometry of Curves and Surfaces*, section 3-3, exercises); total scalar curvature 8 pi (Gauss-Bonnet);
    reach min(a, b, c)^2 / max(a, b, c), the smallest radius of curvature, at the ends of the longest axis
    (Blaschke's rolling theorem); area 4 pi R_G(a^2 b^2, a^2 c^2, b^2 c^2) (DLMF 19.33.1), to rounding.

    Args:
        semi_axes: a, b, c > 0, in any order.
        size: Samples along both axes (default 64).

    Returns:
        Manifold of dimension 2 with features ``(3,)``, an open axis ``polar`` and a periodic one ``azimuth``.

    Example:
        >>> egg = ellipsoid((2.0, 1.0, 1.0))
        >>> egg.known["reach"], round(egg.known["total_volume"], 4)
        (0.5, 21.4784)
    """
    a, b, c = forms.lengths("ellipsoid", "semi_axes", semi_axes, 3)
    axes = forms.angles("ellipsoid", size, polar=math.pi, azimuth=TURN)
    totals = {
        "total_volume": 4.0 * math.pi * forms.carlson_rg((a * b) ** 2, (a * c) ** 2, (b * c) ** 2),
        "total_scalar_curvature": 8.0 * math.pi,
        "reach": min(a, b, c) ** 2 / max(a, b, c),
    }

    def profile(v):
        return jnp.sin(v), jnp.cos(v), jnp.cos(v), -jnp.sin(v)

    return _quadric("ellipsoid", (a, b, c), (1.0, 1.0, 1.0), profile, axes, totals)


def hyperboloid(
    sheets: int = 1, semi_axes: Triple = (1.0, 1.0, 1.0), extent: float = 1.0, *, size: Size = None
) -> Manifold:
    """Hyperboloid of one sheet, or the upper sheet of the hyperboloid of two sheets.

    One sheet, x^2/a^2 + y^2/b^2 - z^2/c^2 = 1: (a cosh v cos w, b cosh v sin w, c sinh v), |v| <= extent.
    Two sheets, x^2/a^2 + y^2/b^2 - z^2/c^2 = -1: (a sinh v cos w, b sinh v sin w, c cosh v), v from 0 to
    ``extent``, a chart that degenerates at the vertex v = 0.

    Known: all curvatures, K = -+ 1 / (a b c P)^2 with P = x^2/a^4 + y^2/b^4 + z^2/c^4. The reach is that of
    the complete surface: min(a, b, c)^2 / max(a, b) for one sheet, attained at the ends of the waist's long
    axis, and min(a, b)^2 / c for the upper of two, attained at the vertex: there the normal curvature
    |v^T M v| / |M x|, M = diag(1/a^2, 1/b^2, -1/c^2), has its largest numerator and its smallest denominator,
    and the only bottlenecks are the axes of the waist. Area and total scalar curvature are known if a = b.

    Args:
        sheets: 1 or 2.
        semi_axes: a, b, c > 0.
        extent: Largest v > 0.
        size: Samples along both axes (default 64).

    Returns:
        Manifold of dimension 2 with features ``(3,)``, an open axis ``meridian`` and a periodic ``azimuth``.

    Example:
        >>> hyperboloid(1, (2.0, 1.0, 1.0)).known["reach"], hyperboloid(2, (2.0, 1.0, 1.0)).known["reach"]
        (0.5, 1.0)
    """
    sheets = whole("hyperboloid", "sheets", sheets, 1, 2)
    a, b, c = forms.lengths("hyperboloid", "semi_axes", semi_axes, 3)
    top = forms.length("hyperboloid", "extent", extent)
    meridian, azimuth = forms.grid_sizes("hyperboloid", size, 2)
    if sheets == 1:
        name, sign, low, reach = "one sheet", 1.0, -top, min(a, b, c) ** 2 / max(a, b)
    else:
        name, sign, low, reach = "upper of two sheets", -1.0, 0.0, min(a, b) ** 2 / c
    axes = (Axis("meridian", low, top, meridian), Axis("azimuth", 0.0, TURN, azimuth, True, "rad"))
    totals = {"reach": reach} | (_revolution_totals(sheets, a, c, top) if a == b else {})

    def profile(v):
        odd, even = jnp.sinh(v), jnp.cosh(v)
        return (even, odd, odd, even) if sheets == 1 else (odd, even, even, odd)

    return _quadric(f"hyperboloid ({name})", (a, b, c), (sign, sign, -sign), profile, axes, totals)


def _revolution_totals(sheets: int, a: float, c: float, top: float) -> dict[str, float]:
    """Area and total scalar curvature of a hyperboloid of revolution.

    The area is an integral of sqrt(A s^2 +- c^2) with A = a^2 + c^2 and s = sinh v (one sheet) or cosh v.
    K dA = -d(rho') dw for a meridian of distance rho from the axis, rho' by arc length.
    """
    sinh, cosh, root = math.sinh(top), math.cosh(top), math.hypot(a, c)

    def one(s):  # antiderivative of sqrt(root^2 s^2 + c^2)
        return 0.5 * (s * math.hypot(root * s, c) + c * c / root * math.asinh(root * s / c))

    def two(s):  # antiderivative of sqrt(root^2 s^2 - c^2)
        t = math.sqrt((root * s) ** 2 - c * c)
        return 0.5 * (s * t - c * c / root * math.log(root * s + t))

    if sheets == 1:
        area = 2.0 * TURN * a * one(sinh)
        curvature = -2.0 * TURN * a * sinh / math.hypot(a * sinh, c * cosh)
    else:
        area = TURN * a * (two(cosh) - two(1.0))
        curvature = TURN * (1.0 - a * cosh / math.hypot(a * cosh, c * sinh))
    return {"total_volume": area, "total_scalar_curvature": 2.0 * curvature}
