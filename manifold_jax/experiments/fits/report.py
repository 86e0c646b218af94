"""Slopes of measured errors, rates beside them, the explicit bound, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax.experiments.experiment import Row
from manifold_jax.experiments.fits.data import Setting, probe_points
from manifold_jax.experiments.fits.fits import FITS
from manifold_jax.experiments.fits.run import Plan, Series
from manifold_jax.fitting.bounds import MeanSquaredBound, agnostic_mean_squared_bound
from manifold_jax.fitting.rates import RATES, Rate, smooth_rate
from manifold_jax.fitting.slopes import (
    Curve,
    Slope,
    Support,
    compare_rates,
    effective_slope,
    fit_constant,
    slope,
)

if TYPE_CHECKING:
    pass

LOST = 0.01
"""A size at which a fit has no point for a larger share of the test points is left out of its slope."""

DELTA, CONSTANT = 0.05, 1.0
"""Of the explicit bound: probability of failure, and C, which the paper does not give."""

HAUSDORFF = "Hausdorff distance"
SQUARED = "excess mean squared distance in the unit ball"


class Found(NamedTuple):
    """The slope of one measure of one fit.

    Attributes:
        series: The errors.
        measure: Which of them.
        used: Mask of the sizes that the slope was taken over.
        slope: None where fewer than two sizes can be used.
        rate: What theory gives for this fit without noise, or for this noise; None for networks.
        supports: All rates of the same loss, the nearest first.
    """

    series: Series
    measure: str
    used: np.ndarray
    slope: Slope | None
    rate: Rate | None
    supports: tuple[Support, ...]

    @property
    def errors(self) -> np.ndarray:
        """``(sizes, seeds)``."""
        return self.series.values[self.measure]

    @property
    def curve(self) -> Curve | None:
        """The rate with its constant fitted to the errors that the slope was taken over."""
        if self.rate is None or self.slope is None:
            return None
        sizes, errors = self.series.sizes[self.used], self.errors[self.used]
        return fit_constant(sizes, errors, self.rate, self.series.setting.dimension)

    @property
    def theory(self) -> str:
        """Slope of the power of the rate alone, and in brackets with its logarithm over the same sizes."""
        if self.rate is None or self.effective is None:
            return "-"
        return f"{-self.rate.exponent(self.series.setting.dimension):.2f} ({self.effective:.2f})"

    @property
    def effective(self) -> float | None:
        """Slope of the rate over the same sizes, with its logarithms."""
        if self.rate is None or self.slope is None:
            return None
        return float(effective_slope(self.rate, self.slope.sizes, self.series.setting.dimension))


def rate_of(setting: Setting, fit: str) -> Rate | None:
    """What theory gives: (log n / n)^(k/d) for local fits of order k without noise, else that of the noise.

    For normal noise this is an upper bound of minimax fits; for ambient noise of fixed scale a lower bound,
    which no fit can beat, and which these fits are not said to attain.

    Args:
        setting: With its noise.
        fit: Name of the fit.

    Returns:
        The rate, or None where there is none.
    """
    order = FITS[fit].order
    if order is None:
        return None
    if setting.noise == "normal":
        return RATES["perpendicular_hausdorff_upper"]
    if setting.noise == "ambient":
        return RATES["additive_hausdorff_lower"]
    return RATES["noiseless_hausdorff_upper"] if order == 2 else smooth_rate("hausdorff", order, "upper")


def usable(series: Series, measure: str) -> Any:
    """Sizes with errors that are positive numbers for every seed, and few points lost."""
    errors, failed = series.values[measure], series.values["failed"]
    good = np.isfinite(errors) & (errors > 0) & (failed <= LOST)
    return np.all(good, axis=1)


def _upper_half(sizes: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The upper half of the usable sizes, on a logarithmic axis; all where these are fewer than three."""
    if good.sum() < 2:
        return np.zeros_like(good)
    kept = sizes[good]
    upper = good & (sizes >= 0.999 * np.sqrt(kept.min() * kept.max()))
    return upper if upper.sum() >= 3 else good


def judge(series: Series, measure: str, *, seed: int = 0) -> Found:
    """Slope of one measure, and the rates beside it.

    Args:
        series: Errors.
        measure: One of ``MEASURES``, or that of a region.
        seed: Of the bootstrap.

    Returns:
        What was found.
    """
    setting = series.setting
    used = _upper_half(series.sizes, usable(series, measure))
    if not used.any():
        return Found(series, measure, used, None, rate_of(setting, series.fit), ())
    sizes = jnp.asarray(series.sizes[used], float)
    errors = jnp.asarray(series.values[measure][used])
    loss = {"hausdorff": HAUSDORFF, "mean_squared": SQUARED}.get(measure)
    found = slope(sizes, errors, key=jax.random.key(seed))
    rates = () if loss is None else compare_rates(found, setting.dimension, loss=loss)
    rate = rate_of(setting, series.fit) if measure in ("hausdorff", "maximum") else None
    return Found(series, measure, used, found, rate, rates)


def slope_words(found: Slope | None) -> str:
    """A slope with its interval."""
    if found is None:
        return "-"
    return f"{float(found.value):.2f} [{float(found.lower):.2f}, {float(found.upper):.2f}]"


def last_error(found: Found) -> float:
    """Median error at the largest size that can be used; NaN where there is none."""
    good = usable(found.series, found.measure)
    return float(np.median(found.errors[good][-1])) if good.any() else float("nan")


def row(found: Found) -> Row:
    """A line of the table."""
    return {
        "setting": found.series.setting.name,
        "fit": found.series.fit,
        "slope [95 %]": slope_words(found.slope),
        "theory": found.theory,
        "error": "-" if np.isnan(last_error(found)) else f"{last_error(found):.2e}",
        "lost": f"{100 * np.nanmean(found.series.values['failed'][-1]):.0f} %",
    }


def words(found: Found) -> str:
    """One sentence: which rates agree with a slope."""
    name = f"{found.series.setting.name}, {found.series.fit}"
    if found.slope is None:
        return f"{name}: fewer than two sizes without lost points, no slope."
    sizes = found.series.sizes[found.used]
    agreeing = [
        support.rate.name + ("" if support.rate.verified else "*")
        for support in found.supports
        if support.supported
    ]
    says = ", ".join(agreeing) if agreeing else _nearest(found)
    return f"{name} (n = {sizes[0]} to {sizes[-1]}): {says}."


def _nearest(found: Found) -> str:
    if not found.supports:
        return "no rate of this loss"
    nearest = found.supports[0]
    return f"no rate; the nearest is {nearest.rate.name} with slope {nearest.effective:.2f}"


@lru_cache(maxsize=64)
def explicit_bound(setting: Setting, plan: Plan, seed: int) -> MeanSquaredBound | None:
    """The bound of Fefferman, Mitter & Narayanan at all sizes, from volume, reach and radius, with C = 1.

    Args:
        setting: Of what.
        plan: With the sizes.
        seed: Of the test points, which give the radius.

    Returns:
        The bound, or None where the reach is not known, or where no ball holds the samples because their
        noise is Gaussian.
    """
    if setting.reach is None or setting.noise == "ambient":
        return None
    radius = ball(setting, plan, seed)
    return agnostic_mean_squared_bound(
        jnp.asarray(plan.sizes, float),
        setting.volume,
        setting.reach,
        setting.dimension,
        radius=radius,
        constant=CONSTANT,
        delta=DELTA,
    )


def ball(setting: Setting, plan: Plan, seed: int) -> float:
    """Radius R of a ball that holds the manifold, to the spacing of its lattice, and its normal noise."""
    return probe_points(setting, plan.tests, seed).radius + setting.scale


def bound_words(setting: Setting, found: Sequence[Found], plan: Plan, seed: int) -> str:
    """One sentence: where the explicit bound is vacuous, and how far above the errors it is elsewhere."""
    bound = explicit_bound(setting, plan, seed)
    if bound is None:
        why = "no reach" if setting.reach is None else "no ball holds Gaussian noise"
        return f"{setting.name}: {why}, no explicit bound."
    radius = ball(setting, plan, seed)
    start = (
        f"{setting.name}: V = {setting.volume:.4g}, tau = {setting.reach:.4g}, R = {radius:.4g}: explicit "
        f"bound of the RMS (not verified, C = 1) "
    )
    least = float(bound.least_samples.max())
    if bool(bound.vacuous.all()):
        return start + f"vacuous for all n here: below n = {least:.2g}."
    ratios = []
    for one in found:
        good = usable(one.series, "rms") & np.isin(one.series.sizes, plan.sizes)
        if good.any():
            last = int(np.flatnonzero(good)[-1])
            place = plan.sizes.index(int(one.series.sizes[last]))
            ratio = float(bound.root_mean_square[place]) / np.median(one.series.values["rms"][last])
            ratios.append(f"{one.series.fit} {ratio:.2g}" if np.isfinite(ratio) else f"{one.series.fit} -")
    return start + f"vacuous up to n = {least:.2g}; bound / error at the largest n: {', '.join(ratios)}."


# --- numbers for JSON --------------------------------------------------------------------------------------


def numbers(found: Sequence[Found], plan: Plan, seed: int) -> dict[str, Any]:
    """Everything for JSON, by setting, fit and measure.

    Args:
        found: Of all measures.
        plan: Of the experiment.
        seed: Of the experiment.

    Returns:
        Nested dictionaries.
    """
    data: dict[str, Any] = {}
    for one in found:
        setting = one.series.setting
        place = data.setdefault(setting.name, {"setting": _facts(setting, plan, seed)})
        fit = place.setdefault(one.series.fit, {"sizes": one.series.sizes, "errors": one.series.values})
        fit.setdefault("slopes", {})[one.measure] = _judged(one)
    return data


def _facts(setting: Setting, plan: Plan, seed: int) -> dict[str, Any]:
    bound = explicit_bound(setting, plan, seed)
    facts = {
        "dimension": setting.dimension,
        "features": setting.parts[0].feature_shape,
        "volume": setting.volume,
        "reach": setting.reach,
        "radius": None if setting.noise == "ambient" else ball(setting, plan, seed),
        "noise": setting.noise,
        "noise scale": setting.scale,
    }
    if bound is not None:
        facts["explicit RMS bound, C = 1, not verified"] = {
            "sizes": plan.sizes,
            "rms": bound.root_mean_square,
            "vacuous": bound.vacuous,
            "least samples": bound.least_samples,
        }
    return facts


def _judged(found: Found) -> dict[str, Any] | None:
    if found.slope is None:
        return None
    curve = found.curve
    return {
        "slope": float(found.slope.value),
        "interval": [float(found.slope.lower), float(found.slope.upper)],
        "level": found.slope.level,
        "sizes": found.slope.sizes,
        "theory": None if found.rate is None else found.rate.name,
        "theory slope": found.effective,
        "fitted curve": None if curve is None else curve.label,
        "rates": [
            {
                "name": support.rate.name,
                "verified": support.rate.verified,
                "asymptotic": support.asymptotic,
                "effective": support.effective,
                "supported": support.supported,
                "asymptotic supported": support.asymptotic_supported,
            }
            for support in found.supports
        ],
    }
