"""What curves and surfaces share: checks of arguments, axes, known quantities, elliptic integrals, roots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import numbers, positive, shown, whole
from manifold_jax.geometry.grid import Axis

Field = Callable[[jax.Array], Any]
"""A closed form: one chart point ``(d,)`` to its value."""

Size = int | tuple[int, ...] | None
"""Samples per axis: one number for all, one per axis, or the default."""

Vector = Callable[[jax.Array], Float[Array, "d"]]
"""One chart point ``(d,)`` to one number for each direction."""

Known = dict[str, Field | float]  # closed forms and totals by name

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
    """The ``size`` argument as one number per axis; the default shrinks with the dimension."""
    if size is None:
        return (DEFAULT_SIZES.get(dimension, 8),) * dimension
    if np.ndim(size) == 0:
        return (whole(surface, "size", size, 2),) * dimension
    if not isinstance(size, tuple | list) or len(size) != dimension:
        wanted = f"one whole number or {dimension} of them"
        raise ValueError(f"{surface}: size must be {wanted}, got {shown(size)}.")
    return tuple(size)


def angles(surface: str, size: Size, **stops: float) -> tuple[Axis, ...]:
    """Angles that begin at 0, by name and end: periodic if they are a full turn, else open."""
    sizes = zip(stops.items(), grid_sizes(surface, size, len(stops)), strict=True)
    return tuple(Axis(name, 0.0, stop, count, stop == TURN, "rad") for (name, stop), count in sizes)


def known_quantities(
    scales: Vector, principal: Vector | None, dimension: int, totals: Mapping[str, float]
) -> Known:
    """Closed forms of a hypersurface (or of a curve) in an orthogonal chart, and totals as they are given.

    The metric is diag(|X_i|^2), with the lengths |X_i| of the coordinate vectors from ``scales``. Without
    principal curvatures no curvatures are known.
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
    In two dimensions the Gaussian curvature is one of them.
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
    """Carlson's symmetric elliptic integral R_G (DLMF 19.16.3) of nonnegative arguments, at most one zero."""
    # Late: it takes long to import.
    from scipy.special import elliprg

    return float(elliprg(x, y, z))


def bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """Root of a function that changes sign between two points, to the last bit."""
    sign = math.copysign(1.0, function(low))
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sign * function(middle) > 0.0 else (low, middle)
    return 0.5 * (low + high)
