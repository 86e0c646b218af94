"""Integrals over a manifold with error bars: of the volume, of S, and of its positive and negative part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._linalg import matmul
from manifold_jax.geometry.grid import Accuracy, Axis, DType, Grid, axis_weights, cell_lengths
from manifold_jax.geometry.pooling import neighbourhood_maximum
from manifold_jax.geometry.quantities import TOTALS, Estimate, Fields, PointQuantities, has_no_digit
from manifold_jax.geometry.stencil import Stencil

FLAT = 0.01  # share of |II|^2 below which a total of the scalar curvature counts as that of something flat
EXACT_QUADRATURE = 4  # order of the quadrature of exact quantities on open axes
SPECTRAL_QUADRATURE = 8  # the same where the other axes are spectral
CANCELLED = 0.1  # share of the difference of two stencils that counts where it cancels in the integral
CUT = 0.2  # share of the jumps of the slope at S = 0 that counts as error: what follows is a power of h less


def alternatives(axis: Axis, accuracy: Accuracy) -> Float[np.ndarray, "rules n"]:
    """What other quadrature rules give more or less than the one in use, as weights of the samples.

    On a periodic axis they are the highest modes of the integrand, above those that are aliased to 0: both
    phases, and two modes, since symmetric integrands lack some. On an open axis they are the rule on every
    second sample; or of lower order, twice, since the error of both may be of one size.
    """
    n, weights = axis.size, axis_weights(axis, accuracy)
    if axis.periodic and not axis.nodes:
        modes = [n // 2, max(1, n // 2 - 1)]
        angles = 2 * np.pi / n * np.outer(modes, np.arange(n))
        doubled = np.where(np.array(modes) * 2 == n, 1.0, 2.0)[:, None]
        return axis.spacing * np.concatenate([doubled * np.cos(angles), doubled * np.sin(angles)])
    others = []
    if n % 2 != axis.periodic and n >= 5:
        coarse, ends = np.zeros(n), (axis.name, axis.start, axis.stop, (n + 1) // 2, axis.periodic)
        coarse[::2] = axis_weights(Axis(*ends, nodes=axis.nodes[::2]), accuracy)
        others.append(coarse - weights)
    if axis.nodes or not others:  # at unequal steps every second sample may agree by chance
        equal = np.full(n, (axis.stop - axis.start) / n)
        lowest = cell_lengths(axis) if axis.nodes else equal
        lower = lowest if accuracy == 2 else axis_weights(axis, int(accuracy) - 2)
        others.append(2 * (lower - weights))
    return np.stack(others)


class Quadrature(NamedTuple):
    """Weights, :func:`alternatives` and lengths of the cells along every axis."""

    weights: list[Any]
    others: list[Any]
    cells: list[Any]


def quadrature(grid: Grid, orders: Sequence[Accuracy], dtype: DType) -> Quadrature:
    """Quadrature of an order along every axis."""
    orders = [SPECTRAL_QUADRATURE if order == "spectral" else order for order in orders]

    def column(make: Callable[[Axis, Accuracy], Any]) -> list[np.ndarray]:
        return [np.asarray(make(*pair), dtype) for pair in zip(grid.axes, orders, strict=True)]

    return Quadrature(column(axis_weights), column(alternatives), column(lambda axis, _: cell_lengths(axis)))


def quadrature_of(grid: Grid, stencil: Stencil | None, dtype: DType) -> Quadrature:
    """Quadrature of the orders of a stencil; without one the quantities are exact."""
    orders = [spec[0] for spec in stencil] if stencil else [EXACT_QUADRATURE] * grid.ndim
    return quadrature(grid, orders, dtype)


def quadrature_changes(values: Array, rules: Quadrature) -> list[Array]:
    """By axis, the largest change of an integral when another rule is taken along it."""
    marginals = (_marginal(values, rules.weights, k) for k in range(len(rules.weights)))
    return [jnp.max(jnp.abs(matmul(rule, x))) for rule, x in zip(rules.others, marginals, strict=True)]


def _marginal(values: Array, columns: Sequence[Array], axis: int) -> Float[Array, "*several n"]:
    """Integral over all axes but one, of one array or of several ``(*several, *shape)`` at once."""
    several = values.ndim - len(columns)
    for k in reversed(range(len(columns))):
        if k != axis:
            values = jnp.tensordot(values, columns[k], axes=(several + k, 0), precision="highest")
    return values


def _integrals(values: Float[Array, "m *shape"], columns: Sequence[Array]) -> Float[Array, "m"]:
    """Integrals of several arrays: together they are a fraction of the program to compile."""
    return jnp.sum(_marginal(values, columns, 0) * columns[0], axis=1)


def _integral_estimate(
    integrand: tuple[Array, ...], rules: Quadrature, factor: float, tolerance: float
) -> Estimate:
    """Integral over the chart with an error bar for stencil, quadrature and noise.

    The integrand, which holds the volume element, comes with its comparison, its own error, the scale of its
    errors, itself without kinks, and the error that those make. A total is as finite as its values.
    """
    values, low, uncertain, scale, smooth, kinks = integrand
    change = values - low
    parts = values, jnp.abs(values), change, jnp.abs(change), uncertain, scale
    total, size, cancelled, changed, noise, allowed = _integrals(jnp.stack(parts), rules.weights)
    stencil = factor * jnp.maximum(jnp.abs(cancelled), CANCELLED * changed)
    summation = jnp.finfo(values.dtype).eps * math.sqrt(values.size) * size
    error = stencil + sum(quadrature_changes(smooth, rules)) + noise + summation + kinks
    finite = jnp.isfinite(total) & jnp.isfinite(error)
    value, error = jnp.where(finite, total, jnp.nan), jnp.where(finite, error, jnp.inf)
    return Estimate(value, error, finite & (error <= tolerance * allowed))


def split_cells(values: Float[Array, "*shape"], grid: Grid, rules: Quadrature) -> tuple[Array, Array]:
    """By how much the trapezoid rule overestimates the integral of the positive part, and the error of that.

    The positive part has a kink where the values pass 0. Where the slope jumps by s at a share t of the way
    between two samples, the rule gives h^2 s B_2(t) / 2 too little (Euler-Maclaurin; B_2 = t^2 - t + 1/6):
    between samples a > 0 and -b < 0 it is h (a b / (a + b) / 2 - (a + b) / 12) too much. A cut counts along
    the axes as its normal lies.
    """
    slopes = []
    for k, axis in enumerate(grid.axes):
        width = [(1, 1) if other == k else (0, 0) for other in range(grid.ndim)]
        padded = jnp.pad(values, width, mode="wrap" if axis.periodic else "edge")
        slopes.append(jnp.abs(jnp.roll(padded, -1, k) - jnp.roll(padded, 1, k)))
        slopes[-1] = jax.lax.slice_in_dim(slopes[-1], 1, axis.size + 1, axis=k) ** 2
    both = jnp.zeros(2, values.dtype)
    for k in range(grid.ndim):
        after = jnp.roll(values, -1, k)
        cells = rules.cells[k].reshape([-1 if other == k else 1 for other in range(grid.ndim)])
        cut = ((values < 0) != (after < 0)) & (cells > 0)
        a, b = jnp.abs(values), jnp.abs(after)
        jump = jnp.where(cut, a + b, 1.0)
        along, whole = (x + jnp.roll(x, -1, k) for x in (slopes[k], sum(slopes)))
        share = jnp.where(cut, cells * along / jnp.where(cut, whole, 1.0), 0.0)
        excess, error = a * b / jump / 2 - jump / 12, jump / 12
        both += jnp.sum(_marginal(share * jnp.stack([excess, error]), rules.weights, k), axis=1)
    return both[0], CUT * both[1]


def totals_of(
    quantities: PointQuantities,
    noise: Fields,
    null: Array,
    failing: Array,
    squared_norm: Array,
    grid: Grid,
    rules: Quadrature,
    factor: float,
    tolerance: float,
) -> dict[str, Estimate]:
    """The totals by name.

    Args:
        quantities: Of every point.
        noise: Error of each quantity by rounding and noise.
        null: Degenerate points, where only the volume counts.
        failing: Relative error below which no bar of a point may fall.
        squared_norm: Natural scale of S.
        grid: The lattice.
        rules: Quadrature along its axes.
        factor: How often differences of the two stencils count.
        tolerance: Relative error up to which a total is resolved.
    """
    main, low = quantities.value, quantities.low
    volume, dtype = main.volume_element, quantities.extent.dtype
    # Relative to the integral of |S|, but a total that is small next to |II|^2 counts as flat.
    scale = jnp.abs(main.scalar_curvature) + FLAT * squared_norm
    volume_error = jnp.where(null & jnp.isnan(noise.volume_element), 0.0, noise.volume_element)
    # Where noise leaves nothing of the metric (a pole) S is all noise: it counts 0 up to what is next to it.
    lost = ~null & has_no_digit(volume, volume_error + jnp.abs(volume - low.volume_element))
    size = jnp.abs(main.scalar_curvature) + noise.scalar_curvature + failing * squared_norm
    beside = neighbourhood_maximum(jnp.where(null | lost, jnp.nan, size), grid, (1,) * grid.ndim)
    lost &= jnp.isfinite(beside)
    none, signed = jnp.zeros((), dtype), jnp.where(null | lost, 0.0, main.scalar_curvature * volume)
    excess, kinks = split_cells(signed, grid, rules)

    def curvature(sign: int) -> tuple[Array, ...]:
        part = {0: lambda s: s, 1: partial(jnp.maximum, 0.0), -1: partial(jnp.minimum, 0.0)}[sign]
        value = part(main.scalar_curvature)
        uncertain = (noise.scalar_curvature + failing * squared_norm) * volume
        uncertain += jnp.abs(value) * noise.volume_element
        lower = part(low.scalar_curvature) * low.volume_element
        integrand = (value * volume, lower, uncertain, scale * volume, signed)
        unknown = (0.0, 0.0, beside * (volume + volume_error), beside * volume, 0.0)
        integrand = (jnp.where(lost, x, y) for x, y in zip(unknown, integrand, strict=True))
        return *(jnp.where(null, 0.0, x) for x in integrand), kinks if sign else none

    integrands = (
        (volume, low.volume_element, volume_error + jnp.minimum(failing, 1.0) * volume, volume, volume, none),
        *map(curvature, (0, 1, -1)),
    )
    integral = partial(_integral_estimate, rules=rules, factor=factor, tolerance=tolerance)
    # One program for all of them.
    totals = jax.vmap(integral)(tuple(map(jnp.stack, zip(*integrands, strict=True))))
    parts = [Estimate(*(leaf[k] for leaf in totals)) for k in range(len(TOTALS))]
    for k, sign in ((2, -1), (3, 1)):
        parts[k] = parts[k]._replace(value=parts[k].value + sign * excess)
    # Where all squares underflow the volume is not known to be 0.
    parts[0] = parts[0]._replace(resolved=parts[0].resolved & (parts[0].value > 0))
    if grid.ndim == 1:  # a curve has no curvature of its own
        known = jnp.isfinite(parts[0].value)
        zero = Estimate(jnp.where(known, none, jnp.nan), jnp.where(known, none, jnp.inf), known)
        parts[1:] = [zero] * 3
    return dict(zip(TOTALS, parts, strict=True))
