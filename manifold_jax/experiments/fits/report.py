"""Slopes of measured errors, rates next to them, the explicit bound, and their words and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from manifold_jax import fitting
from manifold_jax.experiments.experiment import Row
from manifold_jax.experiments.fits.runner import FITS, Plan, Series
from manifold_jax.experiments.fits.samples import Setting

LOST = 0.01  # sizes at which a fit has no point for a larger share of the test points count for no slope
DELTA = 0.05  # probability of failure of the explicit bound
CONSTANTS = (0.01, 0.1, 1.0, 10.0, 100.0)  # for its C, which is not known

LOSSES = {"hausdorff": "Hausdorff distance", "mean_squared": "excess mean squared distance in the unit ball"}
"""Quantities that have rates, and the name of their loss in the table of rates."""


_RATES = {"none": "noiseless_hausdorff_upper", "normal": "perpendicular_hausdorff_upper"}
_RATES["ambient"] = "additive_hausdorff_lower"


class Trend(NamedTuple):
    """The slope of one quantity of one fit, and the rates next to it."""

    series: Series
    quantity: str
    used: np.ndarray  # mask of the sizes that the slope was taken over
    rate: fitting.Rate | None  # what theory gives, see rate_of
    slope: fitting.Slope | None = None  # None where fewer than two sizes can be used
    supports: tuple[fitting.Support, ...] = ()  # all rates of the same loss, the nearest first

    @property
    def errors(self) -> np.ndarray:
        """``(sizes, seeds)``."""
        return self.series.values[self.quantity]

    @property
    def curve(self) -> fitting.Curve | None:
        """The rate with its constant fitted to the errors that the slope was taken over."""
        if self.rate is None or self.slope is None:
            return None
        sizes, errors = self.series.sizes[self.used], self.errors[self.used]
        return fitting.fit_constant(sizes, errors, self.rate, self.series.setting.dimension)

    @property
    def theory(self) -> tuple[float, float] | None:
        """Slope of the power of the rate alone, and with its logarithm over the same sizes."""
        if self.rate is None or self.slope is None:
            return None
        dimension = self.series.setting.dimension
        effective = fitting.effective_slope(self.rate, self.slope.sizes, dimension)
        return -float(self.rate.exponent(dimension)), float(effective)

    @property
    def row(self) -> Row:
        """Columns of a table, of which each study takes its own."""
        good = usable(self.series, self.quantity)
        return {
            "setting": self.series.setting.name,
            "fit": self.series.fit,
            "slope [95 %]": slope_words(self.slope),
            "theory": "{:.2f} ({:.2f})".format(*self.theory) if self.theory else "-",
            "error": f"{np.median(self.errors[good][-1]):.2e}" if good.any() else "-",
            "lost": lost_words(self.series.values["failed"][-1]),
        }


def rate_of(setting: Setting, fit: str) -> fitting.Rate | None:
    """What theory gives: (log n / n)^(k/d) for local fits of order k without noise, else that of the noise.

    For normal noise this is an upper bound of minimax fits; for ambient noise of fixed scale a lower bound,
    which no fit can beat, and which these fits are not known to attain. Networks have none.
    """
    order = FITS[fit].order
    if order is None:
        return None
    if setting.noise == "none" and order > 2:
        return fitting.smooth_rate("hausdorff", order, "upper")
    return fitting.RATES[_RATES[setting.noise]]


def usable(series: Series, quantity: str) -> np.ndarray:
    """Mask of the sizes with errors that are positive numbers for every seed, and few points lost."""
    errors, failed = series.values[quantity], series.values["failed"]
    return np.all(np.isfinite(errors) & (errors > 0) & (failed <= LOST), axis=1)


def _upper_half(sizes: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The upper half of the good sizes, on a logarithmic axis; all where these are fewer than three."""
    if good.sum() < 2:
        return np.zeros_like(good)
    kept = sizes[good]
    upper = good & (sizes >= 0.999 * np.sqrt(kept.min() * kept.max()))
    return upper if upper.sum() >= 3 else good


def fit_slope(x: np.ndarray, errors: np.ndarray, seed: int) -> fitting.Slope:
    """Slope of log errors ``(k, seeds)`` on log x, with an interval from the bootstrap."""
    return fitting.slope(jnp.asarray(x, float), jnp.asarray(errors), key=jax.random.key(seed))


def trend_of(series: Series, quantity: str, seed: int = 0) -> Trend:
    """Slope of one quantity, and the rates next to it."""
    setting = series.setting
    rate = rate_of(setting, series.fit) if quantity in ("hausdorff", "maximum") else None
    used = _upper_half(series.sizes, usable(series, quantity))
    if not used.any():
        return Trend(series, quantity, used, rate)
    measured = fit_slope(series.sizes[used], series.values[quantity][used], seed)
    loss = LOSSES.get(quantity)
    supports = fitting.compare_rates(measured, setting.dimension, loss=loss) if loss else ()
    return Trend(series, quantity, used, rate, measured, supports)


class Results(NamedTuple):
    """All errors of a study."""

    name: str
    settings: Sequence[Setting]
    plan: Plan
    seed: int
    trends: Sequence[Trend]  # of all quantities, by setting and fit

    def of(self, quantity: str, *, setting: Setting | None = None, fit: str = "") -> list[Trend]:
        """Trends of one quantity, of one setting and of one fit where these are given."""
        return [
            trend
            for trend in self.trends
            if trend.quantity == quantity
            and setting in (None, trend.series.setting)
            and fit in ("", trend.series.fit)
        ]

    def sizes(self, setting: Setting) -> list[int]:
        """Numbers of samples of any fit of a setting."""
        return sorted({int(n) for trend in self.of("rms", setting=setting) for n in trend.series.sizes})


def explicit_bound(setting: Setting, sizes: Any) -> fitting.MeanSquaredBound | None:
    """The bound of Fefferman, Mitter & Narayanan, ``(constants, sizes)`` for :data:`CONSTANTS`.

    None for Gaussian noise, which no ball holds.
    """
    if setting.noise == "ambient":
        return None
    facts = jnp.asarray(sizes, float), setting.volume, setting.reach, setting.dimension
    constant = jnp.asarray(CONSTANTS, float)[:, None]
    return fitting.agnostic_mean_squared_bound(*facts, radius=setting.radius, constant=constant, delta=DELTA)


def bound_words(results: Results, setting: Setting) -> str:
    """One sentence: where the explicit bound is vacuous, and how far above the errors it is, for each C."""
    bound = explicit_bound(setting, results.sizes(setting))
    if bound is None:
        return f"- {setting.name}: no ball holds Gaussian noise, no explicit bound."
    facts = f"V = {setting.volume:.4g}, tau = {setting.reach:.4g}, R = {setting.radius:.4g}"
    swept = ", ".join(f"{constant:g}" for constant in CONSTANTS)
    least = ", ".join(f"{n:.2g}" for n in np.asarray(bound.least_samples)[:, 0])
    ratios = []
    for trend in results.of("rms", setting=setting):
        good = usable(trend.series, "rms")
        own = explicit_bound(setting, trend.series.sizes)
        if own is not None and good.any():
            ratio = np.asarray(own.root_mean_square)[:, good][:, -1] / np.median(trend.errors[good][-1])
            each = ["-" if np.isinf(x) else f"{x:.2g}" for x in ratio]
            ratios.append(f"{trend.series.fit} {', '.join(each)}")
    start = f"- {setting.name}: {facts}: explicit bound of the RMS (not verified) for C = {swept}:"
    over = f"over the error at the largest n (- is vacuous): {'; '.join(ratios)}"
    return f"{start} vacuous below n = {least}; {over}."


def slope_words(measured: fitting.Slope | None) -> str:
    """A slope with its interval."""
    return "-" if measured is None else "{:.2f} [{:.2f}, {:.2f}]".format(*map(float, measured[:3]))


def lost_words(failed: np.ndarray) -> str:
    """Share of lost test points, the mean over the seeds."""
    return f"{100 * np.nanmean(failed):.0f} %"


def rate_words(trend: Trend) -> str:
    """One sentence: which rates agree with a slope, in words; a star marks exponents not verified."""
    name = f"- {trend.series.setting.name}, {trend.series.fit}"
    if trend.slope is None:
        return f"{name}: fewer than two sizes without lost points, no slope."
    agreeing = [support.rate for support in trend.supports if support.supported]
    names = "; ".join(rate.words for rate in agreeing)
    nearest = trend.supports[0]
    none = f"no rate; the nearest is the {nearest.rate.words} with slope {nearest.effective:.2f}"
    sizes = trend.series.sizes[trend.used]
    return f"{name} (n = {sizes[0]} to {sizes[-1]}): {names or none}."


def numbers(results: Results) -> dict[str, Any]:
    """Everything for JSON, by setting, fit and quantity."""
    data: dict[str, Any] = {
        one.name: {"setting": _facts(one, results.sizes(one))} for one in results.settings
    }
    for trend in results.trends:
        series = trend.series
        start = {"sizes": series.sizes, "errors": series.values, "slopes": {}}
        fit = data[series.setting.name].setdefault(series.fit, start)
        fit["slopes"][trend.quantity] = trend.slope and _slope_numbers(trend, trend.slope)
    return data


def _facts(setting: Setting, sizes: Sequence[int]) -> dict[str, Any]:
    facts = {name: getattr(setting, name) for name in ("dimension", "features", "volume", "reach", "noise")}
    facts |= {"noise scale": setting.scale, "radius": None}
    bound = explicit_bound(setting, sizes)
    if bound is not None:
        rows = {"sizes": sizes, "rms": bound.root_mean_square, "vacuous": bound.vacuous}
        rows |= {"least samples": bound.least_samples[:, 0], "constants": CONSTANTS}
        facts |= {"radius": setting.radius, "explicit RMS bound for each C, not verified": rows}
    return facts


def _slope_numbers(trend: Trend, measured: fitting.Slope) -> dict[str, Any]:
    value, lower, upper, level, sizes = measured
    numbers = {"slope": float(value), "interval": [float(lower), float(upper)], "level": level}
    numbers |= {"sizes": sizes, "theory": trend.rate and trend.rate.name}
    numbers |= {"theory slope": trend.theory and trend.theory[1]}
    numbers["fitted curve"] = trend.curve and trend.curve.label
    return numbers | {"rates": [_support_numbers(support) for support in trend.supports]}


def _support_numbers(support: fitting.Support) -> dict[str, Any]:
    rate, _, asymptotic, effective, supported, asymptotic_supported = support
    numbers = {"name": rate.name, "verified": rate.verified, "asymptotic": asymptotic, "effective": effective}
    return numbers | {"supported": supported, "asymptotic supported": asymptotic_supported}
