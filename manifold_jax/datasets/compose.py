"""New manifolds from old: direct products and changes of parameter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax._checks import instance, number
from manifold_jax.datasets.closed_forms import Field, Known, curvature_forms
from manifold_jax.geometry.grid import Axis, Grid
from manifold_jax.geometry.manifold import Manifold

INVARIANTS = tuple(curvature_forms(lambda u: u, 2))
"""Names of the pointwise quantities that do not depend on the parametrisation."""


def product(*manifolds: Manifold) -> Manifold:
    """Direct product: chart coordinates concatenate, and so do the (flattened) features.

    The tangent and normal spaces of the factors are orthogonal, so with dimensions d_i, d = sum d_i, the
    metric is block diagonal, volumes multiply, S and |II|^2 add, d^2 |H|^2 = sum d_i^2 |H_i|^2. The normal
    curvature is the largest of the factors', as |II(v, v)|^2 = sum p_i^2 |II_i|^2 with weights p_i that add
    up to 1, and the reach is the smallest, as squared distances to the factors add up to that to the product.
    A closed form is known where it is known for every factor.

    Args:
        *manifolds: At least one Manifold; multiply the members of a union one by one.

    Returns:
        Manifold on the product grid; axis names that several factors share are numbered (``angle_1``, ...).

    Example:
        >>> cylinder = product(mj.datasets.circle(2.0), mj.datasets.sphere(2))
        >>> cylinder.grid.names, cylinder.feature_shape, cylinder.known["reach"]
        (('angle', 'polar', 'azimuth'), (5,), 1.0)
    """
    if not manifolds:
        raise ValueError("product needs at least one Manifold, got none.")
    for factor in manifolds:
        remedy = "multiply the members of a union one by one"
        instance("product", "every one of manifolds", factor, Manifold, remedy)
    ends = np.cumsum([factor.grid.ndim for factor in manifolds])[:-1]

    def split(u):
        return jnp.split(u, ends)

    def embedding(u):
        return jnp.concatenate([jnp.ravel(m.embedding(v)) for m, v in zip(manifolds, split(u), strict=True)])

    grid = Grid(_distinct([axis for factor in manifolds for axis in factor.grid.axes]))
    names = tuple(factor.name for factor in manifolds)
    return Manifold(" x ".join(names), embedding, grid, _product_known(manifolds, split), {"factors": names})


def _distinct(axes: list[Axis]) -> tuple[Axis, ...]:
    """Number the axes whose name occurs more than once, avoiding names that are already taken."""
    counts = Counter(axis.name for axis in axes)
    taken, renamed = set(counts), []
    for axis in axes:
        name = axis.name
        if counts[name] > 1:
            name = next(label for i in count(1) if (label := f"{axis.name}_{i}") not in taken)
            taken.add(name)
        renamed.append(replace(axis, name=name))
    return tuple(renamed)


def _product_known(manifolds: tuple[Manifold, ...], split: Callable[[jax.Array], list[jax.Array]]) -> Known:
    """What is known of a product because it is known of every factor."""
    dimensions = [factor.grid.ndim for factor in manifolds]

    def mean(values):
        return jnp.sqrt(sum((n * h) ** 2 for n, h in zip(dimensions, values, strict=True))) / sum(dimensions)

    combine: dict[str, Callable[[list[Any]], Any]] = {
        "metric": lambda values: jax.scipy.linalg.block_diag(*values),
        "volume_element": math.prod,
        "scalar_curvature": sum,
        "second_form_norm": lambda values: jnp.sqrt(sum(value**2 for value in values)),
        "mean_curvature": mean,
        "normal_curvature": lambda values: jnp.max(jnp.stack(values)),
        "total_volume": math.prod,
        "reach": min,
    }
    shared = set.intersection(*(set(factor.known) for factor in manifolds))
    forms: dict[str, list[Any]] = {name: [factor.known[name] for factor in manifolds] for name in shared}

    def composed(name: str) -> Field:
        return lambda u: combine[name]([form(v) for form, v in zip(forms[name], split(u), strict=True)])

    known: dict[str, Any] = {
        name: composed(name) if callable(forms[name][0]) else combine[name](forms[name])
        for name in combine
        if name in shared
    }
    if sum(dimensions) == 2 and "scalar_curvature" in known:
        known["gaussian_curvature"] = lambda u: 0.5 * known["scalar_curvature"](u)
    if {"total_volume", "total_scalar_curvature"} <= shared:
        totals = zip(forms["total_scalar_curvature"], forms["total_volume"], strict=True)
        known["total_scalar_curvature"] = sum(s / v for s, v in totals) * known["total_volume"]
    return known


def warped(manifold: Manifold, strength: float = 0.3) -> Manifold:
    """The same manifold in the parametrisation u -> u + strength (L/k) sin(k (u - start)/L) on each axis.

    L is the length of the axis and k = 2 pi on a periodic axis, where the warp keeps the period, k = pi on an
    open one, where it maps ends to ends and has no symmetry about the middle; with L = k it is u + strength
    sin u. Equal steps in a standard chart often give exactly right tangents by symmetry and hide the errors
    of a stencil; here they do not. The metric and the volume element change with the Jacobian diag(1 + a
    cos(...)), a the strength; invariants are composed with the warp, totals stay, other closed forms go.

    Args:
        manifold: Any Manifold.
        strength: Size of the warp, below 1 in absolute value so that it can be inverted (else ValueError).

    Returns:
        Manifold with the same grid, features and points, differently spaced.

    Example:
        >>> warped(mj.datasets.circle()).known["reach"]
        1.0
    """
    instance("warped", "manifold", manifold, Manifold, "warp the members of a union one by one")
    strength = number("warped", "strength", strength)
    if not abs(strength) < 1.0:
        raise ValueError(f"warped: strength must lie between -1 and 1, got {strength:g}; a larger one folds.")
    axes = manifold.grid.axes
    starts = [axis.start for axis in axes]
    rates = [(2.0 if axis.periodic else 1.0) * math.pi / (axis.stop - axis.start) for axis in axes]

    def phase(u):
        return jnp.asarray(rates, u.dtype) * (u - jnp.asarray(starts, u.dtype))

    def warp(u):
        return u + strength * jnp.sin(phase(u)) / jnp.asarray(rates, u.dtype)

    def slopes(u):
        return 1.0 + strength * jnp.cos(phase(u))

    def composed(form: Any) -> Field:
        return lambda u: form(warp(u))

    given = manifold.known
    known: Known = {name: form for name, form in given.items() if not callable(form)}
    known |= {name: composed(given[name]) for name in INVARIANTS if name in given}
    metric, volume = given.get("metric"), given.get("volume_element")
    if callable(metric):
        known["metric"] = lambda u: metric(warp(u)) * jnp.outer(slopes(u), slopes(u))
    if callable(volume):
        known["volume_element"] = lambda u: volume(warp(u)) * jnp.prod(slopes(u))
    name, attributes = f"warped {manifold.name}", {**manifold.attributes, "warp": strength}
    return Manifold(name, lambda u: manifold.embedding(warp(u)), manifold.grid, known, attributes)
