"""What quantities are called, their units, and sentences that say whether they can be trusted.

:data:`LABELS` is the only table of words, symbols and units of the quantities: reports, tables and plots take
them from here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from manifold_jax.geometry.grid import Grid
from manifold_jax.geometry.quantities import FIELDS, TOTALS, Estimate, Fields, natural_scales
from manifold_jax.geometry.stencil import Stencil

LENGTH = "ℓ"
"""Symbol of the unit of length of the ambient space."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Label(NamedTuple):
    """Words, symbol and unit of one quantity.

    Attributes:
        words: What it is called.
        symbol: Its symbol in formulas; empty where it has none.
        per_dimension: Its unit is a length to the power ``per_dimension * d + power``, d the dimension of the
            manifold.
        power: See above.
    """

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
"""Label of every field and total, and of the reach, by name."""


def unit_of(name: str, grid: Grid) -> str:
    """Unit of a quantity on a grid; ``""`` for a pure number.

    The volume element is per units of the axes. Totals over an axis on which only the metric repeats
    (``wrap=False``) are per unit of that axis.

    Args:
        name: Key of :data:`LABELS`.
        grid: The lattice.

    Returns:
        For example ``"ℓ⁴/(rad px²)"``.

    Example:
        >>> from manifold_jax import Axis, Grid
        >>> line = Grid((Axis("time", 0.0, 1.0, 9, unit="s"),))
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


# --- verdicts --------------------------------------------------------------------------------------------

ENOUGH = 0.95
"""Share of points that must be resolved for a quantity to count as resolved."""

MOST = 0.5
"""Share of points that decides what is said of all: below it a quantity is "not resolved"."""

NOISY = 0.1
"""Share of a bar from which rounding is to blame: the difference of two stencils, its maximum over neighbours
and the safety factor amplify noise too."""

GUILTY = 0.3
"""Axes are blamed that change a quantity by this share of what the worst axis does."""

SPECTRAL_ORDER = 10
"""Order of convergence that is expected of a spectral axis, for the advice how far to refine."""

REFINEMENTS = 1.5, 16.0
"""Least and largest refinement that is advised: less changes nothing, more is a guess."""


class Verdict(NamedTuple):
    """Whether a quantity can be trusted on this grid.

    Attributes:
        resolved: At least 95 % of the points (or the total) have a bar below the tolerance.
        share: Share of resolved points among those where the quantity is defined.
        axes: Names of the axes to blame, the worst first.
        sentence: One sentence for people.
    """

    resolved: bool
    share: float
    axes: tuple[str, ...]
    sentence: str


class Evidence(NamedTuple):
    """What a verdict rests on.

    Attributes:
        fields: An :class:`Estimate` of every quantity of a point.
        rounding: Part of each bar that is rounding.
        sensitivity: Relative change of each quantity by each axis, ``(quantities, d)``.
        grid: The lattice.
        stencil: Order and stride of every axis; None for exact jets.
        tolerance: Relative error up to which a value counts as resolved.
    """

    fields: Fields
    rounding: Fields
    sensitivity: Float[Array, "quantities d"]
    grid: Grid
    stencil: Stencil | None
    tolerance: float


def judge(name: str, estimate: Estimate, evidence: Evidence) -> Verdict:
    """Whether a field or total is resolved, and which axes are to blame if not."""
    value, resolved = np.asarray(estimate.value), np.asarray(estimate.resolved)
    defined = ~np.isnan(value)
    if not defined.any():
        return Verdict(False, 0.0, (), "not defined anywhere: the metric is degenerate on the whole grid.")
    share = float(resolved[defined].mean())
    missing = 1 - float(defined.mean())
    note = f" Undefined at {missing:.1%} of the points (degenerate metric)." if missing > 0 else ""
    if share >= ENOUGH:
        where = "resolved." if name in TOTALS else f"resolved at {share:.1%} of the points."
        return Verdict(True, share, (), where + note)
    axes, cause = _blame(name, estimate, evidence)
    where = "not resolved" if share < MOST else f"resolved at only {share:.0%} of the points"
    return Verdict(False, share, axes, f"{where}: {cause}." + note)


def _blame(name: str, estimate: Estimate, evidence: Evidence) -> tuple[tuple[str, ...], str]:
    """Axes to blame for a quantity that is not resolved, and a remedy."""
    if name in TOTALS:
        name = "volume_element" if name == "total_volume" else "scalar_curvature"
    noise, error = np.asarray(getattr(evidence.rounding, name)), np.asarray(estimate.error)
    if error.shape == noise.shape and _is_noise(noise, error):
        remedy = "measure in float64" if noise.dtype == np.float32 else "take a larger stride"
        return (), f"rounding dominates, {remedy}"
    table = np.nan_to_num(np.asarray(evidence.sensitivity), nan=np.inf)
    row = table[FIELDS.index(name)]
    half = evidence.tolerance / 2
    if row.max() < half:
        row = table.max(axis=0)  # another quantity fails on these axes, and this one with it
    orders = [SPECTRAL_ORDER if a == "spectral" else int(a) for a, _ in evidence.stencil or ()]
    worst = [k for k in np.argsort(-row) if row[k] >= max(GUILTY * row.max(), half / 2)]
    worst = worst or [int(np.argmax(row))]
    # The largest bar of all axes together tells how far there is to go.
    excess = max(1.0, _relative_error(name, evidence.fields) / row[worst[0]])
    names, parts = [evidence.grid.names[k] for k in worst], []
    for k, axis in zip(worst, names, strict=True):
        need = float(np.clip((row[k] * excess / half) ** (1 / min(orders, default=4)), *REFINEMENTS))
        parts.append(f"{axis} axis too coarse: refine {math.ceil(2 * need) / 2:g}x")
    return tuple(names), ", ".join(parts)


def _relative_error(name: str, fields: Fields) -> float:
    """Median bar of a field over its natural scale; 1 where there is none."""
    scale = np.asarray(getattr(natural_scales(Fields(*(f.value for f in fields))), name))
    error = np.asarray(getattr(fields, name).error) / np.where(scale > 0, scale, np.nan)
    finite = np.isfinite(error)
    return float(np.median(error[finite])) if finite.any() else 1.0


def _is_noise(noise: np.ndarray, error: np.ndarray) -> bool:
    """Whether rounding dominates the bars of most points."""
    finite = np.isfinite(error) & np.isfinite(noise)
    return bool(finite.any() and np.mean(noise[finite] > NOISY * error[finite]) > 0.5)
