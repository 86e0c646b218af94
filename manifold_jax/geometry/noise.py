"""Noise of points on a grid: its level from high differences, and what it does to every quantity.

Let every sample be x(u) + eta, the noise eta independent from sample to sample, s^2 = E |eta|^2. A difference
of order m along an axis, with weights c_j = (-1)^j binom(m, j) / sqrt(binom(2m, m)) of norm 1, annihilates
polynomials of degree below m and passes noise as it is: E |sum_j c_j x_j|^2 = s^2 where x is smooth (Moré &
Wild, SIAM J. Sci. Comput. 33, 2011, who attribute difference tables to Hamming). Quantisation is noise of
this kind.

A stencil with weights w turns it into noise of the derivatives with E |e|^2 = s^2 |w|^2, seen along a fixed
direction as share^2 of that: share is 1 / sqrt(f) for equal noise in f features, and is measured here by how
far the differences point along the tangents and along II. To first order an inner product feels the noise
along one direction, to second order all of it, as a bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from manifold_jax._linalg import safe_sqrt
from manifold_jax._sharding import by_compiler
from manifold_jax.geometry.grid import Axis, Grid, mesh, skeleton
from manifold_jax.geometry.pooling import local_mean, neighbourhood_maximum
from manifold_jax.geometry.quantities import Fields, length_error, volume_bias
from manifold_jax.geometry.stencil import Stencil
from manifold_jax.geometry.tensors import contract, derivative_indices, pair_positions

BEYOND = 6
"""Order of the difference above that of the stencil: what it leaves of a smooth signal is then far below the
error of the stencil, in second derivatives too."""

LEAST_DIFFERENCE = 10
"""Least order of the difference where there are samples for it: one of order 8 passes little noise for signal
that is still in the difference of order 6."""

SPECTRAL_DIFFERENCES = 16, 48
"""Least and largest order of the difference along a spectral axis, which leaves the highest modes alone."""

DEVIATIONS = 3.0
"""Standard deviations of the noise that a bar covers."""

DECAY = 0.1
"""Share of its energy below that a difference of higher order keeps, from which it is one of noise."""

STEADY = 0.6
"""Share that a difference of noise keeps, less what few samples scatter: below it samples may be coarse."""

ROUNDING = 4.0
"""Energy of a difference, over that of rounding, from which there is noise besides rounding."""


SAMPLED = 4096
"""Points of which medians over a large grid are taken, to some 2 %."""

RUGGED = 2.0, 15.0
"""Least and largest energy of a difference, over its median, from which it meets a kink: noise in two
features exceeds the latter at 3 samples in 100 000. In many features noise keeps closer to its median."""

SPREAD = 5.5
"""Power of the upper quartile over the median that noise in 2 to 4000 features exceeds as rarely."""

ROUNDED = 0.1
"""Share of the energy that rounding to a step should leave in a difference, from which that explains it."""

ALLOWED = 1.4
"""Energy of a difference, over that of the rounding of its samples, that may be rounding alone."""

KINK = 3.0
"""What a kink counts as, over the largest high difference beside it; what lies between samples is unknown."""


class NoiseTerms(NamedTuple):
    """What is kept of every point to propagate noise.

    Attributes:
        energies: |D_k x|^2 of the difference along every axis, ``(*shape, d)``.
        below: The same of the difference of lower order.
        aligned: Part of it along the tangents e_a or along II, whichever is larger, ``(*shape, d)``:
            max_a <D_k x, e_a>^2, or sum_ab <D_k x, II_ab>^2 / |II|^2.
        inverse: g^kk, ``(*shape, d)``.
        tangential: Length of the tangential part of X_ij in the orthonormal frame, ``(*shape,)``.
        rounding: Length of the rounding errors of a sample, ``(*shape,)``.
    """

    energies: Array
    below: Array
    aligned: Array
    inverse: Array
    tangential: Array
    rounding: Array


def difference_orders(grid: Grid, stencil: Stencil) -> tuple[int, ...]:
    """Order of the difference along every axis; 0 where samples are too few to tell noise from signal."""

    def order(axis: Axis, accuracy: int | str) -> int:
        if accuracy == "spectral":
            enough, largest = SPECTRAL_DIFFERENCES
        else:
            enough = int(accuracy) + BEYOND
            largest = max(enough, LEAST_DIFFERENCE)
        most = min(largest, axis.size - 1)
        return most if most >= enough - 2 else 0

    return tuple(order(axis, spec[0]) for axis, spec in zip(grid.axes, stencil, strict=True))


def overlap_with_jets(overlaps: Float[Array, "6 n d"]) -> Float[Array, "n d v"]:
    """Share of the noise of the difference along every axis that each jet vector has, E <D_k, X_v> / s^2."""
    d = overlaps.shape[-1]
    orders = np.array([[index.count(axis) for axis in range(d)] for index in derivative_indices(d)])
    high, own = (overlaps[3 * part + orders, :, np.arange(d)] for part in (0, 1))  # (v, d, n)
    chosen = jnp.where(np.eye(d, dtype=bool)[:, None, :, None], high, own)
    return jnp.moveaxis(jnp.prod(chosen, axis=2), -1, 0)


class NoiseModel(NamedTuple):
    """What is known of the noise of the samples of a grid.

    Attributes:
        gains: Gains of the main stencil along every axis, of an :class:`AxisPlan`.
        orders: :func:`difference_orders`.
        known: Standard deviation of every feature if it is known.
        features: Number of features.
        halos: Samples that the stencils reach to each side.
        rounded: Energy of the noise of a sample if it is what rounding to a common step leaves, else 0.
    """

    gains: list[Float[np.ndarray, "2 n"]]
    orders: tuple[int, ...]
    known: float | None
    features: int
    halos: tuple[int, ...]
    rounded: float = 0.0


def noise_terms(
    basis: Float[Array, "n d d"],
    mixed: Float[Array, "n d d d"],
    norm: Float[Array, "n"],
    products: Float[Array, "n d 2+v"],
    overlap: Float[Array, "n d v"],
    rounding: Float[Array, "n"],
) -> NoiseTerms:
    """What points keep: of ``point_rounding``, |II|, the products of high differences, and their rounding.

    Differences and jets of the same samples share noise; what they have in common is taken out.
    """
    d = basis.shape[-1]
    pairs = pair_positions(d)

    def largest(basis: Array, mixed: Array, norm: Array, products: Array) -> Array:
        along = contract("ai,ki->ka", basis, products[:, :d])
        normal = contract("ai,kij->kaj", basis, products[:, pairs])
        normal = contract("bj,kaj->kab", basis, normal) - contract("abc,kc->kab", mixed, along)
        normal = jnp.sum(normal**2, axis=(1, 2)) / jnp.where(norm > 0, norm**2, jnp.inf)
        return jnp.maximum(jnp.max(along**2, axis=1), normal)

    energies, below = products[..., 0], products[..., 1]
    aligned = jax.vmap(largest)(basis, mixed, norm, products[..., 2:] - energies[..., None] * overlap)
    inverse, tangential = jnp.sum(basis**2, axis=1), safe_sqrt(jnp.sum(mixed**2, axis=(1, 2, 3)))
    return NoiseTerms(energies, below, jnp.minimum(aligned, energies), inverse, tangential, rounding)


@partial(jax.jit, static_argnames=("grid", "orders", "halos"))
def _noise_of(
    value: Fields,
    terms: NoiseTerms,
    gains: list[Array],
    known: float | None,
    features: int,
    rounded: float,
    *,
    grid: Grid,
    orders: tuple[int, ...],
    halos: tuple[int, ...],
) -> tuple[Fields, Array]:
    if known is None and not any(orders):
        unknown = jnp.full_like(terms.energies, jnp.nan)
        return jax.tree.map(jnp.zeros_like, value), unknown
    rough = rough_samples(terms, orders)
    kinks = kink_level(terms, rough, grid, orders, halos)
    if known is None:
        level, share = noise_level(terms, rough, grid, orders, rounded)
        # What differences of samples that were rounded hold beyond the rounding is no noise, but kinks.
        beyond = (rounded > 0) & (level**2 > ALLOWED * rounded)
        kinks = jnp.maximum(kinks, KINK * safe_sqrt(jnp.where(beyond, level**2 - rounded, 0.0)))
    else:
        level = jnp.full_like(terms.energies, known * features**0.5)
        share = jnp.asarray(features**-0.5, level.dtype)
    parts = (
        noise_fields(value, terms, level, DEVIATIONS * share, (1 + DEVIATIONS * share) ** 2, gains),
        noise_fields(value, terms, kinks, 1.0, 1.0, gains),
    )
    return jax.tree.map(jnp.add, *parts), level


def noise_of(value: Fields, terms: NoiseTerms, model: NoiseModel, grid: Grid) -> tuple[Fields, Array]:
    """Error of every quantity by noise and kinks of the samples, and the level of the noise."""
    gains = [jnp.asarray(gain, terms.energies.dtype) for gain in model.gains]
    run = partial(_noise_of, grid=skeleton(grid), orders=model.orders, halos=model.halos)
    arguments = value, terms, gains, model.known, model.features, model.rounded
    return by_compiler(run, terms.rounding, grid.ndim)(*arguments)


@partial(jax.jit, static_argnames="orders")
def _decay_of(terms: NoiseTerms, orders: tuple[int, ...]) -> Array:
    rough = rough_samples(terms, orders)
    parts = (jnp.where(rough | ~jnp.isfinite(x), 0.0, x) for x in (terms.energies, terms.below))
    kept, below = (jnp.sum(x.reshape(-1, len(orders)), axis=0) for x in parts)
    return jnp.where(
        (jnp.asarray(orders) > 0) & (below > 0), kept / jnp.where(below > 0, below, 1.0), jnp.nan
    )


def decay_of(terms: NoiseTerms, noise: NoiseModel) -> Float[Array, "d"]:
    """Share of its energy below that the difference along every axis keeps; NaN if unknown.

    It is 1 for noise, and less where a signal is left: then the axis may be too coarse. Where the noise was
    given nobody asks.
    """
    if noise.known is not None:
        return jnp.full(len(noise.orders), jnp.nan, terms.energies.dtype)
    run = partial(_decay_of, orders=noise.orders)
    return by_compiler(run, terms.rounding, terms.rounding.ndim)(terms)


def grid_quantiles(values: Float[Array, "*shape"], shares: Sequence[float]) -> Float[Array, "k"]:
    """Quantiles over a grid, from :data:`SAMPLED` points of all rows and columns: sorting all is slow."""
    step = max(1, values.size // SAMPLED)
    while math.gcd(step, values.shape[-1]) > 1:
        step += 1
    return jnp.nanquantile(values.reshape(-1)[::step], jnp.asarray(shares, values.dtype))


def grid_median(values: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Median likewise."""
    return grid_quantiles(values, (0.5,))[0]


def rough_samples(terms: NoiseTerms, orders: tuple[int, ...]) -> Bool[Array, "*shape d"]:
    """Where the difference along an axis meets a kink: it is far above its median, as that of lower order."""
    usual = [grid_quantiles(terms.energies[..., k], (0.5, 0.75)) for k in range(len(orders))]
    middle, upper = (jnp.stack(x) for x in zip(*usual, strict=True))
    factor = jnp.where(middle > 0, jnp.clip((upper / middle) ** SPREAD, *RUGGED), RUGGED[1])
    least = factor * jnp.maximum(middle, ROUNDING * terms.rounding[..., None] ** 2)
    return (terms.energies > least) & (terms.energies > DECAY * terms.below) & (jnp.asarray(orders) > 0)


def kink_level(
    terms: NoiseTerms, rough: Bool[Array, "*shape d"], grid: Grid, orders: Sequence[int], halos: Sequence[int]
) -> Float[Array, "*shape d"]:
    """What a sample counts as moved where the stencil meets a kink, by axis; 0 elsewhere."""

    def along(k: int) -> Array:
        size = jnp.where(rough[..., k], safe_sqrt(terms.energies[..., k]), 0.0)
        # The difference meets a kink on its own axis before the stencil does.
        reach = [max(1, halos[j] - orders[j] // 2) if j == k else halos[j] for j in range(len(halos))]
        return KINK * neighbourhood_maximum(size, grid, reach)

    return jnp.stack([along(k) for k in range(len(halos))], axis=-1)


def noise_level(
    terms: NoiseTerms,
    rough: Bool[Array, "*shape d"],
    grid: Grid,
    orders: tuple[int, ...],
    rounded: Array | float = 0.0,
) -> tuple[Array, Array]:
    """Length s of the noise of a sample at every point by every axis ``(*shape, d)``, and its share.

    The share is that along one direction. A smooth signal leaves less in a difference of higher order, noise
    as much: where energies fall with the order, they count the less. Levels are means over the width of the
    difference, of smooth samples over smooth ones, at least the median of those over the grid; 0 where
    rounding explains them. An axis with too few samples takes the largest level of the others.

    Of few features that are rounded to a common step the energy is known, ``rounded``: where they take few
    values, on a circle say, what happens to be left in high differences may be a fifth of it.
    """

    def mean(values: Array, rough: Array, radii: tuple[int, ...]) -> Array:
        smooth = local_mean((~rough).astype(values.dtype), grid, radii)
        others = local_mean(jnp.where(rough, 0.0, values), grid, radii) / jnp.where(smooth > 0, smooth, 1.0)
        return jnp.where(rough, local_mean(values, grid, radii), others)

    radii = tuple(order // 2 for order in orders)
    floor = local_mean(terms.rounding**2, grid, radii)
    squares, shares = [], []
    for k, order in enumerate(orders):
        if not order:
            continue
        energy, below = (mean(x[..., k], rough[..., k], radii) for x in (terms.energies, terms.below))
        energy *= jnp.minimum(energy / jnp.maximum(DECAY * below, jnp.finfo(energy.dtype).tiny), 1.0)
        smooth = jnp.where(rough[..., k], jnp.nan, energy)
        middle = jnp.nan_to_num(grid_median(smooth))
        explained = (middle > ROUNDED * rounded) & (middle < rounded)
        energy = jnp.maximum(energy, jnp.where(explained, rounded, middle))
        squares.append(jnp.where(energy > ROUNDING * floor, energy, 0.0))
        sums = (jnp.where(rough[..., k], 0.0, x[..., k]) for x in (terms.aligned, terms.energies))
        aligned, total = map(jnp.nansum, sums)
        shares.append(jnp.where(total > 0, aligned / jnp.where(total > 0, total, 1.0), 0.0))
    largest = jnp.max(jnp.stack(squares), axis=0)
    columns = iter(squares)
    level = jnp.stack([next(columns) if order else largest for order in orders], axis=-1)
    return safe_sqrt(level), jnp.minimum(safe_sqrt(jnp.max(jnp.stack(shares))), 1.0)


def noise_fields(
    value: Fields,
    terms: NoiseTerms,
    level: Float[Array, "*shape d"],
    along: Array | float,
    beyond: Array | float,
    gains: Sequence[Array],
) -> Fields:
    """Error of every quantity at every point from noise of a ``level`` through the weights of the stencil.

    With e the noise of II in the orthonormal frame, |II + e|^2 = |II|^2 + 2 <II, e> + |e|^2: the first term
    is a random number of deviation 2 |II| share |e|, the second a bias. Likewise for H. A kink is no random
    number: it counts as it is. The bias of the metric is the diagonal matrix of the E |e_k|^2, that of its
    determinant at most det g (prod_k (1 + g^kk E |e_k|^2) - 1) (Hadamard), where g is nearly degenerate too.

    Args:
        value: Quantities of every point.
        terms: What the points keep for it.
        level: Length of the noise of a sample, by axis.
        along: Largest part of it along one direction, the share of it times the deviations covered.
        beyond: Largest |e|^2 over its mean.
        gains: Norms of the weights of the first and the second derivative at every sample of each axis.
    """
    dtype = level.dtype
    first, second = (mesh([jnp.asarray(g[k], dtype) for g in gains]) * level for k in (0, 1))
    inverse = terms.inverse
    # X_ij feels the noise of both axes: sqrt(s_i s_j) |w_i| |w_j|.
    reduced = inverse * first**2 / jnp.where(level > 0, level, 1.0)
    moved = jnp.sum(reduced, axis=-1) ** 2 - jnp.sum(reduced**2, axis=-1)
    moved += jnp.sum((inverse * second) ** 2, axis=-1)
    tilt, d = safe_sqrt(jnp.sum(inverse * first**2, axis=-1)), len(gains)
    mean, norm, *bounds = (jnp.nan_to_num(x) for x in value[2:])
    error = safe_sqrt(moved) + (terms.tangential + norm) * tilt
    bias = volume_bias(beyond * inverse * first**2)
    volume = value.volume_element * (along * tilt + bias)
    # S = |tr II|^2 - |II|^2 has the gradient 2 (tr II delta_ab - II_ab).
    gradient = 2 * safe_sqrt(jnp.maximum((d - 2) * (d * mean) ** 2 + norm**2, 0.0))
    squared = gradient * along * error + max(1, d - 1) * beyond * error**2

    def length(size: Array, error: Array) -> Array:
        return length_error(size, 2 * size * along * error + beyond * error**2)

    lengths = [length(size, error) for size in (norm, *bounds)]
    return Fields(volume, squared, length(mean, error / d**0.5), *lengths)
