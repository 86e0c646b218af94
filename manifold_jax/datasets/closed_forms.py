"""What the surfaces share: checks of arguments, axes, known quantities, elliptic integrals, roots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax._checks import numbers, positive
from manifold_jax.geometry.grid import Axis

Field = Callable[[jax.Array], Any]
"""A closed form: one chart point ``(d,)`` to its value."""

Size = int | tuple[int, ...] | None
"""Samples per axis: one number for all, one per axis, or the default."""

Vector = Callable[[jax.Array], Float[Array, "d"]]
"""One chart point ``(d,)`` to one number for each direction."""

TURN = 2.0 * math.pi

DEFAULT_SIZES = {1: 128, 2: 64, 3: 24, 4: 16}
"""Samples of an axis by dimension, 8 beyond: some ten thousand points, whatever the dimension."""


def length(surface: str, name: str, value: Any) -> float:
    """A positive finite number as a Python float."""
    return float(positive(surface, name, value))


def lengths(surface: str, name: str, values: Any, count: int) -> tuple[float, ...]:
    """So many positive finite numbers as Python floats."""
    entries = numbers(surface, name, values, count)
    return tuple(length(surface, f"{name}[{i}]", entry) for i, entry in enumerate(entries))


def grid_sizes(surface: str, size: Size, dimension: int) -> tuple[int, ...]:
    """Spread a ``size`` argument over the axes; ``None`` is a default that shrinks with the dimension."""
    if size is None:
        return (DEFAULT_SIZES.get(dimension, 8),) * dimension
    if isinstance(size, int):
        return (size,) * dimension
    if not isinstance(size, tuple | list) or len(size) != dimension:
        raise ValueError(f"{surface}: size must be one whole number or {dimension} of them, got {size!r}.")
    return tuple(size)


def angle(name: str, size: int, stop: float = TURN) -> Axis:
    """An angle from 0: periodic if it is a full turn, else open."""
    return Axis(name, 0.0, stop, size, periodic=stop == TURN, unit="rad")


def constant(value: float) -> Field:
    """The closed form that has the same value everywhere."""
    return lambda u: jnp.full_like(u[0], value)


def known_quantities(
    scales: Vector, principal: Vector | None, dimension: int, totals: Mapping[str, float]
) -> dict[str, Field | float]:
    """Closed forms of a hypersurface (or of a curve) in an orthogonal chart, and totals as they are given.

    The metric is diag(|X_i|^2), with the lengths |X_i| of the coordinate vectors from ``scales``. Without
    principal curvatures there are no curvatures.
    """
    return {
        "metric": lambda u: jnp.diag(scales(u) ** 2),
        "volume_element": lambda u: jnp.abs(jnp.prod(scales(u))),
        **totals,
        **(curvature_forms(principal, dimension) if principal else {}),
    }


def curvature_forms(principal: Vector, dimension: int) -> dict[str, Field]:
    """Curvatures of a hypersurface (or of a curve) from its principal curvatures k_i, by name.

    In a principal orthonormal frame II = diag(k_i) n, so H = mean k_i, |II|^2 = sum k_i^2,
    max |II(v, v)| = max |k_i| and, by the Gauss equation, S = 2 sum_{i<j} k_i k_j (do Carmo,
    *Riemannian Geometry*, chapter 6). For a curve k is the curvature with respect to its principal normal.
    The Gaussian curvature is among them if d = 2.
    """

    def scalar(u):
        k = principal(u)
        return sum((2.0 * k[i] * k[j] for i, j in combinations(range(dimension), 2)), 0.0 * k[0])

    forms: dict[str, Field] = {
        "scalar_curvature": scalar,
        "mean_curvature": lambda u: jnp.abs(jnp.mean(principal(u))),
        "second_form_norm": lambda u: jnp.sqrt(jnp.sum(principal(u) ** 2)),
        "normal_curvature": lambda u: jnp.max(jnp.abs(principal(u))),
    }
    if dimension == 2:
        forms["gaussian_curvature"] = lambda u: jnp.prod(principal(u))
    return forms


def carlson_rg(x: float, y: float, z: float) -> float:
    """Carlson's symmetric elliptic integral R_G of nonnegative arguments, at most one of them zero.

    R_G = (z R_F - (x-z)(y-z) R_D / 3 + sqrt(x y / z)) / 2 (DLMF 19.21.10), R_F and R_D by duplication
    (DLMF 19.36.1); z is the middle argument, which makes every term nonnegative. The ellipse has
    perimeter 8 R_G(0, a^2, b^2), the ellipsoid area 4 pi R_G(a^2 b^2, a^2 c^2, b^2 c^2) (DLMF 19.33.1).
    """
    x, z, y = sorted((x, y, z))
    product, root = (x - z) * (y - z), math.sqrt(x * y / z)
    first_z, scale, total = z, 1.0, 0.0
    for _ in range(50):
        shift = math.sqrt(x * y) + math.sqrt(y * z) + math.sqrt(z * x)
        total += scale / (math.sqrt(z) * (z + shift))
        x, y, z, scale = (x + shift) / 4, (y + shift) / 4, (z + shift) / 4, scale / 4
    r_d = 3.0 * total + scale * z**-1.5
    return (first_z / math.sqrt(z) - product * r_d / 3.0 + root) / 2.0


def bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Root of a function that changes sign between two points, to the last bit."""
    sign = math.copysign(1.0, function(low))
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sign * function(middle) > 0.0 else (low, middle)
    return 0.5 * (low + high)
