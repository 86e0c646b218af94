"""The quantities of a manifold: names, labels and units, and all of one point at once with their noise."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from manifold_jax._linalg import safe_sqrt
from manifold_jax.geometry.grid import DType, Grid
from manifold_jax.geometry.normal_curvature import bounds_of
from manifold_jax.geometry.tensors import (
    JetGram,
    contract,
    frame,
    frame_mixed,
    map_grams,
    point_volume_element,
    second_form_gram,
    traces,
)

TENSOR_ROUNDINGS = 4  # roundings, in eps, of a contraction of small tensors relative to the size of its terms
LOST = 8  # a volume element of so many times its error has no digit left
JET_ROUNDINGS = 8  # roundings, in eps, of exact derivatives relative to their size


class Fields(NamedTuple):
    """Every quantity of a point, in the order of reports (see ``Geometry``): arrays, or estimates."""

    volume_element: Any
    scalar_curvature: Any
    mean_curvature: Any
    second_form_norm: Any
    normal_curvature: Any
    normal_curvature_upper: Any


# Names of the quantities of a point, and of the integrals over a manifold.
FIELDS = Fields._fields
TOTALS = "total_volume", "total_scalar_curvature", "total_positive_curvature", "total_negative_curvature"


class Estimate(NamedTuple):
    """A measured quantity with its error bar.

    Attributes:
        value: The quantity; NaN where it is not defined (degenerate metric).
        error: Bar such that the truth lies within value +- error; infinite where unknown.
        resolved: Whether the bar is below the tolerance, relative to the natural scale of the quantity.
    """

    value: Float[Array, "*shape"]
    error: Float[Array, "*shape"]
    resolved: Bool[Array, "*shape"]


class PointQuantities(NamedTuple):
    """Quantities by the main stencil (or exactly) and by the comparison stencil, and their rounding noise.

    ``extent`` is the length of the manifold seen from the point; far larger radii of curvature count as flat.
    ``noise`` is what propagates the noise of samples (``noise.NoiseTerms``), None where they have none.
    """

    value: Fields
    low: Fields
    rounding: Fields
    extent: Any
    noise: Any = None


def natural_scales(value: Fields, least: Any = 0.0) -> Fields:
    """Scale of errors: the volume element itself, |II|^2 for S, |II| for others; |II| counts as ``least``."""
    norm = jnp.maximum(value.second_form_norm, least)
    return Fields(value.volume_element, norm**2, norm, norm, norm, norm)


def finite_median(values: Any, otherwise: float) -> float:
    """Median over the finite entries, or another value if there is none."""
    given = np.asarray(values)
    finite = np.isfinite(given)
    return float(np.median(given[finite])) if finite.any() else otherwise


def with_bar(value: float, error: float, sign: str = "±") -> str:
    """A value and its error bar: two digits, never less than it is, and as many places of the value.

    Texts of Python, which any encoding must hold, have the ``sign`` ``"+-"``.

    Example:
        >>> with_bar(2.34567, 0.0123), with_bar(391823.4, 3.0), with_bar(1.0, 2e-5)
        ('2.346 ± 0.013', '391823.4 ± 3', '1 ± 2e-5')
    """
    if not 0 < error < math.inf:
        return f"{value:.4g} {sign} {0 if error == 0 else 'unknown'}"
    power = math.floor(math.log10(max(error, 1e-300)))
    digits = math.ceil(error / 10.0 ** (power - 1) * (1 - _EXACT))
    bar = f"{digits * 10.0 ** (power - 1):.2g}".replace("e-0", "e-").replace("e+0", "e+")
    if 1e-3 <= error < 1e5:
        bar = f"{float(bar):g}"
    size = math.floor(math.log10(abs(value))) if value and math.isfinite(value) else power
    return f"{value:.{min(max(4, size - power + 2), 17)}g} {sign} {bar}"


_EXACT = 1e-6  # share by which a bar may be above its digits without being rounded up

LENGTH = "ℓ"  # symbol of the unit of length of the ambient space
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Label(NamedTuple):
    """Words and symbol (if any) of a quantity; its unit is a length to ``per_dimension * d + power``."""

    words: str
    symbol: str
    per_dimension: int
    power: int

    @property
    def name(self) -> str:
        """Words and symbol, for example ``"scalar curvature S"``."""
        return f"{self.words} {self.symbol}".strip()


LABELS = {
    "volume_element": Label("volume element", "√det g", 1, 0),
    "scalar_curvature": Label("scalar curvature", "S", 0, -2),
    "mean_curvature": Label("mean curvature", "|H|", 0, -1),
    "second_form_norm": Label("second form", "|II|", 0, -1),
    "normal_curvature": Label("normal curvature", "", 0, -1),
    "normal_curvature_upper": Label("normal curvature, upper bound", "", 0, -1),
    "total_volume": Label("volume", "", 1, 0),
    "total_scalar_curvature": Label("total curvature", "∫ S dV", 1, -2),
    "total_positive_curvature": Label("total curvature, positive part", "", 1, -2),
    "total_negative_curvature": Label("total curvature, negative part", "", 1, -2),
    "reach": Label("reach", "τ", 0, 1),
}
"""Label of every field and total, and of the reach: the only table of words, symbols and units."""


def unit_of(name: str, grid: Grid) -> str:
    """Unit of a quantity on a grid.

    The volume element is per units of the axes. Totals over an axis on which only the metric repeats
    (``wrap=False``) are per unit of that axis.

    Args:
        name: Key of :data:`LABELS`.
        grid: The lattice.

    Returns:
        For example ``"ℓ⁴/(rad px²)"``; ``""`` for a pure number.

    Example:
        >>> line = mj.Grid((mj.Axis("time", 0.0, 1.0, 9, unit="s"),))
        >>> unit_of("volume_element", line), unit_of("total_volume", line), unit_of("scalar_curvature", line)
        ('ℓ/s', 'ℓ', 'ℓ⁻²')
    """
    label = LABELS[name]
    length = _raise_to(LENGTH, label.per_dimension * grid.ndim + label.power)
    axes = grid.axes if name == "volume_element" else ()
    if name in TOTALS:
        axes = tuple(axis for axis in grid.axes if axis.periodic and not axis.wrap)
    units = [axis.unit for axis in axes if axis.unit]
    below = [_raise_to(unit, units.count(unit)) for unit in dict.fromkeys(units)]
    if not below:
        return length
    return f"{length or '1'}/" + (below[0] if len(below) == 1 else f"({' '.join(below)})")


def _raise_to(symbol: str, power: int) -> str:
    return {0: "", 1: symbol}.get(power, symbol + str(power).translate(_SUPERSCRIPT))


def point_fields(gram: JetGram) -> Fields:
    """Quantities of one point from its Gram."""
    c = second_form_gram(gram)
    return Fields(*plain_fields(gram, c), *bounds_of(c))


def plain_fields(gram: JetGram, c: Float[Array, "d d d d"]) -> tuple[Array, Array, Array, Array]:
    """Volume element, S, |H| and |II| of one point, ``c`` its :func:`second_form_gram`."""
    mean, norm = traces(c)
    return point_volume_element(gram), mean - norm, safe_sqrt(mean) / c.shape[0], safe_sqrt(norm)


def has_no_digit(volume_element: Array, error: Array) -> Bool[Array, "*shape"]:
    """Where a volume element is lost in its error: as far as one can tell the metric is degenerate."""
    return LOST * error >= volume_element


def length_error(length: Array, squared: Array) -> Array:
    """Largest error of a length whose square has the error ``squared``."""
    least = safe_sqrt(jnp.maximum(length**2 - squared, 0.0))
    below = jnp.maximum(length + least, safe_sqrt(squared))
    return squared / jnp.maximum(below, jnp.finfo(length.dtype).tiny)


def volume_bias(squares: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Share by which noise lengthens a volume: Hadamard's bound of the determinant of g and its bias.

    ``squares`` are those of the noise of every X_i, times the entries of the diagonal of the inverse metric.
    """
    return jnp.expm1(jnp.sum(jnp.log1p(squares), axis=-1) / 2)


class Spread(NamedTuple):
    """Largest effects of random noise at one point: of the samples, and of their coordinates.

    Rounded coordinates move samples along the manifold, along every axis for itself.

    Attributes:
        along: Of noise of the samples, relative to what is propagated, along any one direction.
        length: Of the same, in all directions together.
        stretched: ``(d,)`` change of X_i along itself, by its coordinate.
        tilted: ``(d,)`` change of X_i in other directions, by its coordinate.
        slid: ``(d,)`` change of X_ii along X_i, by its coordinate.
        turned: ``(d, d)`` change of the normal part of X_ij over |II|, by both coordinates.
    """

    along: Array
    length: Array
    stretched: Float[Array, "d"]
    tilted: Float[Array, "d"]
    slid: Float[Array, "d"]
    turned: Float[Array, "d d"]


def point_rounding(
    gram: JetGram, first: Float[Array, "d"], second: Float[Array, "d d"], spread: Spread | None = None
) -> tuple[Fields, Float[Array, "d d"], Float[Array, "d d d"]]:
    """Rounding noise of the quantities of one point, from the noise of |X_i| and of |X_ij|.

    The noise is a bound, or random with a ``spread``. To first order inner products feel the part of it along
    one direction, to second order all of it. Of samples that slide along the manifold II feels how tangents
    stretch, tilt and turn between them, and what they move X_ij along tangents as far as these are tilted.
    Also what any noise is propagated by: the orthonormal frame, and the tangential part of X_ij in it.
    """
    eps = TENSOR_ROUNDINGS * jnp.finfo(gram.metric.dtype).eps
    d = gram.metric.shape[0]
    basis = frame(gram.metric)
    mixed = frame_mixed(gram, basis)
    tangential = contract("abc,abc->", mixed, mixed)
    trace, normal = traces(second_form_gram(gram))
    norm, mean = safe_sqrt(normal), safe_sqrt(trace) / d
    squares = basis**2

    def in_frame(noise: Float[Array, "d"]) -> Array:
        return safe_sqrt(contract("ai,i->", squares, noise**2))

    def of_pairs(noise: Float[Array, "d d"]) -> Array:
        return safe_sqrt(contract("ai,bj,ij->", squares, squares, noise**2))

    tilt, moved = in_frame(first), of_pairs(second)
    size = safe_sqrt(tangential) + norm
    linear = length = moved + size * tilt
    metric, bias = tilt, jnp.zeros_like(tilt)
    if spread:
        stretched, tilted = in_frame(spread.stretched), in_frame(spread.tilted)
        slid = 2 * norm * stretched + safe_sqrt(tangential) * tilted + norm * of_pairs(spread.turned)
        slid += (spread.length * tilt + tilted) * of_pairs(jnp.diag(spread.slid))
        linear, length = spread.along * linear + slid, spread.length * length + slid
        metric = safe_sqrt((spread.along * tilt) ** 2 + stretched**2 + tilted**2)
        each = (spread.length * first) ** 2 + spread.stretched**2 + spread.tilted**2
        bias = volume_bias(jnp.sum(squares, axis=0) * each)
    # |II|^2 and |H|^2 are differences of products of the size of the tangential part.
    linear, square = linear + size * eps, (length + size * eps) ** 2 + eps * (tangential + normal)
    squared = 2 * norm * linear + square
    length = length_error(norm, squared)
    # |H| <= |II| / sqrt(d) may vanish where |II| does not.
    mean_error = length_error(mean, 2 * mean * linear + square / d**0.5)
    volume = point_volume_element(gram) * (d**0.5 * (metric + eps) + bias)
    return Fields(volume, squared, mean_error, length, length, length), basis, mixed


def exact_quantities(gram: JetGram, ranges: Float[Array, "d"]) -> PointQuantities:
    """Quantities ``(n,)`` of points from exact jets and :func:`chart_ranges`; only rounding is uncertain."""
    noise = JET_ROUNDINGS * jnp.finfo(gram.metric.dtype).eps
    values = map_grams(point_fields, gram)
    extent = extent_of(gram, ranges)
    # A derivative that vanishes (along the orientation of a circle) is rounded like those that do not.
    first = jnp.maximum(tangent_lengths(gram), extent[:, None] / ranges)
    second = safe_sqrt(jnp.einsum("...ijij->...ij", gram.second))
    second = jnp.maximum(second, extent[:, None, None] / (ranges[:, None] * ranges))
    rounding = map_grams(point_rounding, gram, noise * first, noise * second)[0]
    return PointQuantities(values, values, rounding, extent)


def chart_ranges(grid: Grid, dtype: DType) -> Float[Array, "d"]:
    """Length of every axis."""
    return jnp.asarray([axis.stop - axis.start for axis in grid.axes], dtype)


def tangent_lengths(gram: JetGram) -> Float[Array, "n d"]:
    """|X_i|, ``gram`` with one batch axis."""
    return safe_sqrt(jnp.diagonal(gram.metric, axis1=-2, axis2=-1))


def extent_of(gram: JetGram, ranges: Float[Array, "d"]) -> Float[Array, "n"]:
    """Length of the manifold seen from each point, sqrt(sum_i g_ii range_i^2)."""
    return safe_sqrt(jnp.sum((tangent_lengths(gram) * ranges) ** 2, axis=-1))
