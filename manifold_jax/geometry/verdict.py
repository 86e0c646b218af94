"""Why a quantity is not resolved, and what to do about it: sentences of a :class:`Geometry`.

The cause is looked for at the points that fail: noise, rounding, a seam, a kink, the border of degenerate
points, or the spacing of an axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from manifold_jax.geometry.noise import STEADY, difference_orders
from manifold_jax.geometry.quantities import FIELDS, LENGTH, TOTALS, Fields, finite_median, natural_scales
from manifold_jax.geometry.stencil import halo
from manifold_jax.geometry.totals import FLAT, quadrature_changes, quadrature_of

ENOUGH = 0.95  # share of points that must be resolved for a quantity to count as resolved
MOST = 0.5  # share of points that decides what is said of all: below it a quantity is "not resolved"
NOISY = 0.05  # share of a bar from which noise is to blame: safety, and a maximum, amplify it in the rest
TOLD = 2  # samples of an axis, in orders of the difference, from which coarse samples are told from noise
GUILTY = 0.3  # axes are blamed that change a quantity by this share of what the worst axis does
ROUGH = 10.0  # level of the noise at failing points, over its median, from which it is not noise
LOCAL = 0.5  # largest share of an axis on which failing points count as those of one place
HELD = 0.8  # share of the failing points that must lie there
SPECTRAL_ORDER = 10  # order of convergence expected of a spectral axis, for the advice how far to refine
PER_ORDER = 4  # samples of an axis for each order of convergence that the advice counts on
ROUNDING = 1e-6  # of a share in float32, which does not count when it is rounded up
REFINEMENTS = 1.5, 16.0  # least and largest refinement that is advised: less changes nothing, more is a guess

SMOOTHER = "take a larger stride, a lower accuracy or smooth= (suggest_stencil tries them)"
"""What is advised where noise dominates."""

SUGGESTED = ("stencil", "the one with the smallest bars")
"""Attribute of a Geometry whose stencil ``suggest_stencil`` chose: another one would not help."""

QUIETER = (
    "average several images of each point, keep more bits, blur them, smooth over a wider window, "
    "or take more samples"
)
"""What is advised where noise dominates such a one."""


class Verdict(NamedTuple):
    """Whether a quantity can be trusted on this grid.

    A bar may be small next to |II|^2 and include 0, so that the sign of S is open. Then S is said to be 0
    within a share of |II|^2 if that is at most 1 %, and else not to be resolved.

    Attributes:
        resolved: At least 95 % of the points (or the total) have a bar below the tolerance, and most of them
            a sign or the value 0 within 1 % of |II|^2.
        share: Share of the points, among those where the quantity is defined, whose bar is below the
            tolerance and whose value has a sign or is 0 within 1 % of |II|^2.
        axes: Names of the axes to blame, the worst first.
        sentence: All of this in words.
        zero: Whether it is 0 at most points, within 1 % of |II|^2.
    """

    resolved: bool
    share: float
    axes: tuple[str, ...]
    sentence: str
    zero: bool = False


def judge(geometry: Any, name: str) -> Verdict:
    """Whether a field or total is resolved, and why not."""
    if idle := _idle_axes(geometry):
        why = f"nothing changes along {' and '.join(idle)}, leave it out of the grid"
        return Verdict(False, 0.0, idle, f"not resolved: {why}.")
    estimate = getattr(geometry, name)
    value, small = np.asarray(estimate.value), np.asarray(estimate.resolved)
    defined = ~np.isnan(value)
    if not defined.any():
        finite = np.isfinite(np.asarray(geometry.volume_element.value))
        why = "points or their squares are not finite"
        if finite.all():
            why = "the metric is degenerate on the whole grid"
        elif name in TOTALS and finite.any():
            share = f"{1 - finite.mean():.1%} of the points"
            why = f"volume is not known at {share} (missing, or not finite), complete them to integrate"
        return Verdict(False, 0.0, (), f"not defined{'' if name in TOTALS else ' anywhere'}: {why}.")
    missing = 1 - float(defined.mean())
    note = ""
    if missing > 0:
        lost = np.isfinite(np.asarray(geometry.volume_element.value)[~defined]).all()
        why = "degenerate metric" if lost else "points or their squares are not finite"
        note = f" Undefined at {missing:.1%} of the points ({why})."
    unsigned, within = _open_signs(geometry, name)
    flat, unsure = small & (within <= FLAT), small & unsigned & ~(within <= FLAT)
    shares = [float(mask[defined].mean()) for mask in (small & ~unsigned, flat, unsure)]
    signed, zero, blind = shares
    share = signed + zero
    if share + blind >= ENOUGH and blind <= MOST:
        where = _resolved_words(shares, float(np.max(within[flat], initial=0.0)), name in TOTALS)
        return Verdict(True, share, (), f"{where}.{note}", zero > MOST)
    axes, cause = _blame(geometry, name)
    where = "not resolved" if share < MOST else f"resolved at only {share:.0%} of the points"
    if blind > max(MOST, 1 - share - blind):
        where += (
            ": its sign is open" if name in TOTALS else f": its sign is open at {blind:.0%} of the points"
        )
        return Verdict(False, share, axes, f"{where}, {cause}.{note}")
    return Verdict(False, share, axes, f"{where}: {cause}.{note}")


def _open_signs(geometry: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the bar of S or of a total of it includes 0, and there the share of |II|^2 within which it is 0.

    Infinite elsewhere. Where |II| cannot be told from 0 either, the bar of S is as small as a bar can be.
    """
    value, error, _ = map(np.asarray, getattr(geometry, name))
    if "curvature" not in name or (name in FIELDS and name != "scalar_curvature"):
        return np.zeros(value.shape, bool), np.full(value.shape, np.inf)
    norm, bar, _ = map(np.asarray, geometry.second_form_norm)
    scale, plane = norm**2.0, norm <= bar
    if name in TOTALS:
        # Its mean over the volume, times the volume.
        volume = np.asarray(geometry.volume_element.value)
        known = np.isfinite(scale) & np.isfinite(volume)
        weights = np.where(known, volume, 0.0)
        mean = np.sum(weights * np.where(known, scale, 0.0)) / max(np.sum(weights), np.finfo(float).tiny)
        scale, plane = mean * np.asarray(geometry.total_volume.value), plane[known].all()
    unsigned = (np.abs(value) <= error) & (error > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = np.where(plane, 0.0, (np.abs(value) + error) / scale)
    return unsigned, np.where(unsigned & ~np.isnan(within), within, np.inf)


def _resolved_words(shares: list[float], within: float, total: bool) -> str:
    """What is said of a quantity that is resolved: where it has a sign, where it is 0, where that is open."""
    signed, zero, blind = shares
    square = "∫ |II|² dV" if total else "|II|²"
    level = f"0 within {_rounded_up(within)} of {square}" if within else "0 within its bar, like |II|"
    if total:
        return level if zero else "resolved"
    parts = [("resolved", signed), (level, zero), ("of open sign", blind)]
    words = [f"{word} at {share:.1%}" for word, share in parts if share or (word == "resolved" and not zero)]
    return ", ".join([f"{words[0]} of the points", *words[1:]])


def _rounded_up(share: float) -> str:
    """A share in per cent, to one digit and never less than it is."""
    power = math.floor(math.log10(100 * share))
    least = math.ceil(100 * share / 10.0**power * (1 - ROUNDING)) * 10.0**power
    return f"{least:.{max(0, -math.floor(math.log10(least) + ROUNDING))}f}%"


def _idle_axes(geometry: Any) -> tuple[str, ...]:
    """Names of the axes along which nothing changes, where that makes the metric degenerate everywhere."""
    idle = np.isnan(np.asarray(geometry.axis_sensitivity)).all(axis=0)
    if idle.all() or not np.isnan(np.asarray(geometry.scalar_curvature.value)).all():
        return ()
    return tuple(geometry.grid.names[k] for k in np.flatnonzero(idle))


def _blame(geometry: Any, name: str) -> tuple[tuple[str, ...], str]:
    """Axes to blame for a quantity that is not resolved, and a remedy."""
    if name in TOTALS:
        total, name = name, "volume_element" if name == "total_volume" else "scalar_curvature"
        if axes := _coarse_integral(geometry, total, name):
            return axes, f"the integral needs more samples of {' and '.join(axes)}"
    resolved, failing = np.asarray(getattr(geometry, name).resolved), _failing(geometry, name)
    noise, rounding, noisy = _noise_and_rounding(geometry, failing)
    level = np.asarray(geometry.noise).max(axis=-1)
    # What is rough in one place only is not noise.
    rough = noise > NOISY and np.median(level[failing]) > ROUGH * np.median(level)
    for axes, cause, certain in _places(geometry, failing) if resolved.any() else ():
        if certain or rough:
            return axes, cause
    if noisy:
        remedy = SMOOTHER
        if SUGGESTED in geometry.attributes:
            remedy = f"and no stencil that was tried has smaller bars; {QUIETER}"
        return (), f"noise of {np.median(level[failing]):.2g} {LENGTH} a sample dominates, {remedy}"
    if rounding > max(NOISY, noise):
        single = np.asarray(geometry.volume_element.error).dtype == np.float32
        if geometry.exact and not single:
            return (), "rounding of float64 dominates"
        return (), f"rounding dominates, {'measure in float64' if single else 'take a larger stride'}"
    return _too_coarse(geometry, name)


def _coarse_integral(geometry: Any, total: str, name: str) -> tuple[str, ...]:
    """Names of the axes whose quadrature makes most of the bar of a total, the worst first; empty if none."""
    volume, error = np.asarray(geometry.volume_element.value), float(getattr(geometry, total).error)
    density = volume if name == "volume_element" else np.asarray(geometry.scalar_curvature.value) * volume
    rules = quadrature_of(geometry.grid, geometry.stencil, volume.dtype)
    changes = np.array(quadrature_changes(jnp.asarray(np.where(np.isfinite(density), density, 0.0)), rules))
    if not changes.sum() > MOST * error:
        return ()
    worst = [k for k in np.argsort(-changes) if changes[k] >= GUILTY * changes.max()]
    return tuple(geometry.grid.names[k] for k in worst)


def noise_dominates(geometry: Any, name: str) -> bool:
    """Whether noise of the samples is what keeps a field from being resolved."""
    return _noise_and_rounding(geometry, _failing(geometry, name))[2]


def _failing(geometry: Any, name: str) -> np.ndarray:
    """Mask of the points that are not resolved; of all with a bar where there is none."""
    estimate = getattr(geometry, name)
    known = np.isfinite(np.asarray(estimate.error))
    failing = ~np.asarray(estimate.resolved) & known
    return failing if failing.any() else known


def _noise_and_rounding(geometry: Any, failing: np.ndarray) -> tuple[float, float, bool]:
    """Shares of the bars that are noise and rounding, and whether noise is to blame: not that of one axis."""
    if not failing.any():
        return 0.0, 0.0, False
    noise, rounding = (_share(geometry, part, failing) for part in (geometry.noise_bars, geometry.rounding))
    return noise, rounding, bool(noise > max(NOISY, rounding) and not coarse_axes(geometry, failing))


def coarse_axes(geometry: Any, where: Any = ...) -> tuple[str, ...]:
    """Names of the axes whose samples may be coarse rather than noisy at some points, at all by default.

    Noise is told where it is the same along every axis, does not fall with the order of the difference, and
    an axis has samples enough to see that.
    """
    level, decays = np.asarray(geometry.noise), np.asarray(geometry.noise_decay)
    known = level[np.isfinite(level)]
    if geometry.stencil is None or not known.size:
        return ()
    if np.isnan(decays).all() and known.min() == known.max():  # a level that was given
        return ()
    by_axis = np.nan_to_num(np.median(level[where].reshape(-1, level.shape[-1]), axis=0))
    orders, names = difference_orders(geometry.grid, geometry.stencil), geometry.grid.names
    sizes = geometry.grid.shape
    told = any(m and n >= TOLD * m and not x < STEADY for m, n, x in zip(orders, sizes, decays, strict=True))
    if told and by_axis.max() <= ROUGH * by_axis.min():
        return ()
    return tuple(name for name, x in zip(names, by_axis, strict=True) if x * ROUGH > by_axis.max())


def noise_levels(geometry: Any) -> dict[str, float]:
    """Length of the noise of a sample by axis, the median over the points that have any; without zeros."""
    columns = np.asarray(geometry.noise).reshape(-1, geometry.grid.ndim).T
    medians = (finite_median(np.where(column > 0, column, np.nan), 0.0) for column in columns)
    return {name: level for name, level in zip(geometry.grid.names, medians, strict=True) if level}


def noise_sentence(geometry: Any) -> str:
    """How large the noise of the samples is, and how much of the bars it makes; empty where there is none."""
    if np.isnan(np.asarray(geometry.noise)).all():
        return "Noise of the samples is not known and not in the bars: too few samples to tell."
    levels = noise_levels(geometry)
    if not levels:
        return ""
    by_axis = ", ".join(f"{level:.2g} {LENGTH} along {name}" for name, level in levels.items())
    share = f"up to {_share(geometry, geometry.noise_bars, ...):.0%} of the bars"
    what, doubt = "Noise of a sample, a length over all features", ""
    if coarse := coarse_axes(geometry):
        what = "Noise of a sample, or what coarse samples leave, a length over all features"
        doubt = f" May be too coarse: {', '.join(coarse)}; with more samples this falls, noise does not."
    return f"{what}: {by_axis}; {share}.{doubt}"


def _share(geometry: Any, part: Fields, failing: Any) -> float:
    """Largest share of the bars that a part of them has, the median at failing points.

    All fields, since the bar of one is that of the worst.
    """
    parts = [
        (np.asarray(x)[failing], np.asarray(y.error)[failing])
        for x, y in zip(part, geometry.fields, strict=True)
    ]
    return max(finite_median(x / np.where(y > 0, y, np.nan), 0.0) for x, y in parts)


def _places(geometry: Any, failing: np.ndarray) -> Iterator[tuple[tuple[str, ...], str, bool]]:
    """Where along an axis nearly all failing points lie, and whether that is the cause for certain."""
    lost = np.isnan(np.asarray(geometry.scalar_curvature.value))
    for k, axis in enumerate(geometry.grid.axes):
        others = tuple(j for j in range(failing.ndim) if j != k)
        counts = failing.sum(axis=others)
        width = max(1, int(LOCAL * axis.size))
        # The window of an axis, cyclic on a periodic one, that holds most of them.
        cyclic = np.concatenate([counts, counts[: width - 1]]) if axis.periodic else counts
        held = np.convolve(cyclic, np.ones(width, int), "valid")
        if held.max() < HELD * counts.sum():
            continue
        turns = np.exp(2j * np.pi * np.arange(axis.size) / axis.size)
        # The middle of the failing points, on a periodic axis of a circle.
        turn = np.angle(counts @ turns) / (2 * np.pi) % 1 * axis.size
        middle = int(turn if axis.periodic else counts @ np.arange(axis.size) / counts.sum()) % axis.size
        spec = (geometry.stencil or ((4, 1),) * failing.ndim)[k]
        near = halo(*spec) + 1
        inside, poles = np.flatnonzero(counts), np.flatnonzero(lost.sum(axis=others))
        gaps = np.abs(inside[:, None] - poles[None, :]).min(axis=1) if poles.size else np.full(1, axis.size)
        if np.mean(gaps <= near) > MOST:
            why = f"next to degenerate points, leave out more of the {axis.name} axis there"
        elif axis.periodic and min(middle, axis.size - middle) <= near:
            why = f"the {axis.name} axis does not join smoothly at its ends, is it periodic"
        else:
            at = f"{axis.name} = {axis.samples()[middle]:.4g}"
            why = f"limited smoothness near {at}, leave it out or split the axis there"
        yield (axis.name,), why, why.startswith("next")


def _too_coarse(geometry: Any, name: str) -> tuple[tuple[str, ...], str]:
    """The axes that are too coarse, and by how much to refine them."""
    table = np.nan_to_num(np.asarray(geometry.axis_sensitivity), nan=np.inf)
    row = table[FIELDS.index(name)]
    half = geometry.tolerance / 2
    if row.max() < half:
        row = table.max(axis=0)  # another quantity fails on these axes, and this one with it
    orders = [SPECTRAL_ORDER if a == "spectral" else int(a) for a, *_ in geometry.stencil or ()]
    worst = [k for k in np.argsort(-row) if row[k] >= max(GUILTY * row.max(), half / 2)]
    worst = worst or [int(np.argmax(row))]
    # The bar that enough points stay below tells how far there is to go.
    excess = max(1.0, _relative_error(geometry, name) / row[worst[0]])
    names, parts = [geometry.grid.names[k] for k in worst], []
    for k, axis in zip(worst, names, strict=True):
        # A few samples are far from converging at the order of the stencil.
        order = max(2, min([*orders, geometry.grid.shape[k] // PER_ORDER]))
        need = float(np.clip((row[k] * excess / half) ** (1 / order), *REFINEMENTS))
        parts.append(f"{axis} axis too coarse: refine {math.ceil(2 * need) / 2:g}x")
    return tuple(names), ", ".join(parts)


def _relative_error(geometry: Any, name: str) -> float:
    """Bar of a field over its natural scale that enough points stay below; 1 where there is none."""
    scales = natural_scales(Fields(*(np.asarray(field.value) for field in geometry.fields)))
    scale, error = np.asarray(getattr(scales, name)), np.asarray(getattr(geometry, name).error)
    relative = (error / np.where(scale > 0, scale, np.nan)).ravel()
    relative = relative[np.isfinite(relative)]
    return float(np.quantile(relative, ENOUGH)) if relative.size else 1.0
