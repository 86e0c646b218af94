"""Slopes of measured errors with intervals, which rates they support, and curves to draw with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from manifold_jax._checks import choice, instance, is_traced, number, positive, random_key, shown, whole
from manifold_jax._linalg import map_blocks
from manifold_jax.fitting.rates import RATES, Rate, reals

BATCH = 128  # bootstrap samples computed at once


class Slope(NamedTuple):
    """Slope of log error against log n, -a for errors like n^-a.

    Attributes:
        value: Least-squares slope.
        lower: Lower end of its interval.
        upper: Upper end.
        level: Level of the interval.
        sizes: The sizes ``(sizes,)``, over which rates are to be compared.
    """

    value: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    level: float
    sizes: Float[Array, "sizes"]


class Support(NamedTuple):
    """One rate in dimension d compared with a measured slope.

    Attributes:
        rate: The rate.
        dimension: d.
        asymptotic: -a(d), the slope for n to infinity.
        effective: Its :func:`effective_slope` over the measured sizes.
        supported: Whether ``effective`` lies in the interval. This is the test.
        asymptotic_supported: Whether ``asymptotic`` does.
    """

    rate: Rate
    dimension: int
    asymptotic: float
    effective: float
    supported: bool
    asymptotic_supported: bool


def slope(sizes: Any, errors: Any, *, key: PRNGKeyArray, resamples: int = 2000, level: float = 0.95) -> Slope:
    """Slope of errors against numbers of samples on logarithmic axes, with a bootstrap interval over seeds.

    Least squares over all sizes and seeds. Seeds are resampled within each size (Efron & Tibshirani, *An
    Introduction to the Bootstrap*, 1993). Two corrections make the interval fit for few seeds: resampled
    means vary too little, by the factor (1 - 1/seeds)^(1/2), which is divided out, and the ends are moved out
    by the ratio of Student's t to the normal quantile, with the degrees of freedom of Satterthwaite
    (*Biometrics Bulletin* 2, 1946). The interval is about the chance of the seeds only: it does not know
    whether a curve has reached its asymptote.

    Args:
        sizes: Numbers of samples ``(sizes,)``, at least two different ones, each at least 2.
        errors: Positive errors ``(sizes, seeds)``, at least 2 seeds.
        key: Random key.
        resamples: Bootstrap samples, at least 2.
        level: Level of the interval, in (0, 1).

    Raises:
        ValueError: Shapes do not fit, errors are not positive (NaN in ``jit``), or an option is out of range.

    Example:
        >>> sizes = jnp.array([100.0, 200.0, 400.0, 800.0])
        >>> noise = jnp.exp(0.1 * jax.random.normal(jax.random.key(0), (4, 20)))
        >>> measured = mj.fitting.slope(sizes, noise / sizes[:, None], key=jax.random.key(1))
        >>> print(f"{measured.value:.2f}", bool(measured.lower < -1.0 < measured.upper))
        -1.01 True
    """
    sizes, errors = _checked_errors("slope", sizes, errors, 2)
    if errors.shape[1] < 2:
        wanted = "hold at least 2 seeds, (sizes, seeds), which an interval needs"
        raise ValueError(f"slope: errors must {wanted}, got {errors.shape[1]}.")
    random_key("slope", "key", key)
    resamples = whole("slope", "resamples", resamples, 2)
    level = positive("slope", "level", level, below=1)
    value, lower, upper = _bootstrap(sizes, errors, key, resamples, level)
    return Slope(value, lower, upper, level, sizes)


@partial(jax.jit, static_argnames="resamples")
def _bootstrap(
    sizes: Array, errors: Array, key: PRNGKeyArray, resamples: int, level: float
) -> tuple[Array, Array, Array]:
    log_errors = jnp.where(errors > 0, jnp.log(jnp.where(errors > 0, errors, 1.0)), jnp.nan)
    weights = _weights(jnp.log(sizes))
    count, seeds = errors.shape
    value = jnp.sum(weights * jnp.mean(log_errors, axis=1))

    def resampled(key: PRNGKeyArray) -> Array:
        chosen = jax.random.randint(key, (count, seeds), 0, seeds)
        return jnp.sum(weights * jnp.mean(jnp.take_along_axis(log_errors, chosen, axis=1), axis=1))

    slopes = map_blocks(jax.vmap(resampled), BATCH, jax.random.split(key, resamples))
    variances = weights**2 * jnp.var(log_errors, axis=1) / (seeds - 1)
    errors = (slopes - value) * (seeds / (seeds - 1)) ** 0.5 * _widening(variances, seeds, level)
    ends = jnp.quantile(errors, jnp.stack([(1 - level) / 2, (1 + level) / 2]))
    return value, value + ends[0], value + ends[1]


def _widening(variances: Array, seeds: int, level: float) -> Array:
    """Quantile of Student's t over that of the normal law, by the expansion of Cornish and Fisher.

    The degrees of freedom are (seeds - 1) (sum v)^2 / sum v^2, v the variances of the terms of the slope.
    From 3 on the expansion (Abramowitz & Stegun 26.7.5) errs by at most 1 % at level 0.95.
    """
    squares = jnp.sum(variances**2)
    freedom = (seeds - 1) * jnp.sum(variances) ** 2 / jnp.where(squares > 0, squares, 1.0)
    inverse = jnp.where(squares > 0, 1 / jnp.where(squares > 0, freedom, 1.0), 0.0)
    z = jax.scipy.special.ndtri((1 + jnp.asarray(level, variances.dtype)) / 2)
    first = (z**2 + 1) / 4
    second = (5 * z**4 + 16 * z**2 + 3) / 96
    third = (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / 384
    return 1 + inverse * (first + inverse * (second + inverse * third))


def _weights(x: Array) -> Array:
    """Weights w with sum w y the least-squares slope of y on x."""
    centred = x - jnp.mean(x)
    return centred / jnp.sum(centred**2)


def effective_slope(rate: Rate, sizes: Any, dimension: int) -> Float[Array, ""]:
    """Least-squares slope of a rate over given sizes, on logarithmic axes: what data of that rate would show.

    It is -a + b times the slope of log log n, which vanishes only as 1 / log n. The sizes are those of
    :func:`slope`; a ValueError says where they or d are out of range.

    Example:
        >>> sizes = jnp.geomspace(100, 10_000, 9)
        >>> rate = mj.fitting.RATES["noiseless_hausdorff_upper"]
        >>> print(f"{mj.fitting.effective_slope(rate, sizes, 2):.2f}")
        -0.85
    """
    instance("effective_slope", "rate", rate, Rate, "see RATES")
    sizes = _checked_sizes("effective_slope", sizes, 2)
    return _slope_over(sizes, rate.log(sizes, dimension))


@jax.jit
def _slope_over(sizes: Array, values: Array) -> Array:
    return jnp.sum(_weights(jnp.log(sizes)) * values)


def supports(measured: Slope, rate: Rate, dimension: int) -> Support:
    """Whether a measured slope agrees with a rate over the same sizes.

    A slope steeper than that of a lower bound is no contradiction, for lower bounds speak of the worst
    manifold of a class; nor a shallower one an upper bound, which speaks of another estimator.

    Example:
        >>> measured = mj.fitting.Slope(-0.85, -0.9, -0.8, 0.95, jnp.geomspace(100, 10_000, 9))
        >>> support = mj.fitting.supports(measured, mj.fitting.RATES["noiseless_hausdorff_upper"], 2)
        >>> support.supported, support.asymptotic_supported
        (True, False)
    """
    instance("supports", "measured", measured, Slope, "see slope")
    instance("supports", "rate", rate, Rate, "see RATES")
    dimension = whole("supports", "dimension", dimension)
    slopes = -float(rate.exponent(dimension)), float(effective_slope(rate, measured.sizes, dimension))
    low, high = float(measured.lower), float(measured.upper)
    asymptotic, effective = (low <= value <= high for value in slopes)
    return Support(rate, dimension, *slopes, supported=effective, asymptotic_supported=asymptotic)


def compare_rates(
    measured: Slope, dimension: int, *, loss: str, rates: Iterable[Rate] | None = None
) -> tuple[Support, ...]:
    """A measured slope and every rate of one loss, the nearest effective slope first.

    Args:
        measured: From :func:`slope`.
        dimension: d.
        loss: The measured loss: rates of other losses are left out.
        rates: By default all of :data:`RATES`.

    Raises:
        ValueError: No rate has that loss.

    Example:
        >>> measured = mj.fitting.Slope(-1.0, -1.1, -0.9, 0.95, jnp.geomspace(100, 10_000, 9))
        >>> rows = mj.fitting.compare_rates(measured, 2, loss="Hausdorff distance")
        >>> [row.rate.name for row in rows if row.supported]
        ['noiseless_hausdorff_lower', 'clutter_hausdorff_lower']
    """
    instance("compare_rates", "measured", measured, Slope, "see slope")
    dimension = whole("compare_rates", "dimension", dimension)
    known = tuple(RATES.values() if rates is None else rates)
    rows = [supports(measured, rate, dimension) for rate in known if rate.loss == loss]
    if not rows:
        losses = ", ".join(sorted({repr(rate.loss) for rate in known}))
        raise ValueError(f"compare_rates: loss must be that of a rate, {losses}, got {shown(loss)}.")
    return tuple(sorted(rows, key=lambda row: abs(row.effective - float(measured.value))))


@dataclass(frozen=True)
class Curve:
    """A constant times a rate; its ``origin`` says whether the constant was taken from the errors drawn."""

    rate: Rate
    dimension: int
    constant: float
    origin: str

    @property
    def fitted(self) -> bool:
        """Whether the constant was taken from errors."""
        return self.origin != "explicit"

    @property
    def label(self) -> str:
        """For legends; a star marks exponents that are not verified."""
        return f"{self.rate.words}, d = {self.dimension}, C = {self.constant:.3g} ({self.origin})"

    def __call__(self, n: Any) -> Float[Array, "*shape"]:
        """Values at numbers of samples."""
        return self.constant * self.rate(n, self.dimension)


def explicit(rate: Rate, dimension: int, *, constant: float) -> Curve:
    """A curve whose constant the caller states; the papers give none.

    Raises:
        ValueError: The constant is not positive and finite, or d < 1.

    Example:
        >>> rate = mj.fitting.RATES["perpendicular_hausdorff_lower"]
        >>> print(mj.fitting.explicit(rate, 2, constant=3.0).label)
        lower bound, power 2/(d+2), perpendicular (Genovese et al. 2012), d = 2, C = 3 (explicit)
    """
    instance("explicit", "rate", rate, Rate, "see RATES")
    positive("explicit", "constant", constant)
    dimension = whole("explicit", "dimension", dimension)
    return Curve(rate, dimension, float(constant), "explicit")


def fit_constant(
    sizes: Any,
    errors: Any,
    rate: Rate,
    dimension: int,
    *,
    kind: Literal["least squares", "quantile"] = "least squares",
    level: float = 0.99,
) -> Curve:
    """The constant with which a rate meets measured errors; the curve says that it is fitted.

    Least squares in the logarithm, C = exp(mean log(error / rate)), or a quantile of error / rate. Whatever
    the rate, 99 % of the errors then lie below the curve: neither is evidence for it.

    Args:
        sizes: Numbers of samples ``(sizes,)``, at least 2.
        errors: Positive errors ``(sizes,)`` or ``(sizes, seeds)``, of the loss of the rate.
        rate: The rate.
        dimension: d.
        kind: ``"least squares"`` or ``"quantile"``.
        level: Level of the quantile, in [0, 1].

    Raises:
        ValueError: Shapes do not fit, errors are not positive, or an option is out of range.

    Example:
        >>> sizes, rate = jnp.array([100.0, 1e3, 1e4]), mj.fitting.RATES["noiseless_hausdorff_lower"]
        >>> print(mj.fitting.fit_constant(sizes, 5.0 / sizes, rate, 2).label)
        lower bound, power 2/d, noiseless (Genovese et al. 2012), d = 2, C = 5 (fitted by least squares)
    """
    instance("fit_constant", "rate", rate, Rate, "see RATES")
    sizes, errors = _checked_errors("fit_constant", sizes, errors, 1)
    level = number("fit_constant", "level", level)
    if not 0 <= level <= 1:
        raise ValueError(f"fit_constant: level must lie in [0, 1], got {level}.")
    choice("fit_constant", "kind", kind, ("least squares", "quantile"))
    ratio = np.log(np.asarray(errors)) - np.asarray(rate.log(sizes, dimension))[:, None]
    if kind == "least squares":
        return Curve(rate, dimension, float(np.exp(np.mean(ratio))), "fitted by least squares")
    return Curve(rate, dimension, float(np.quantile(np.exp(ratio), level)), f"fitted {level:g} quantile")


def _checked_sizes(caller: str, sizes: Any, least: int) -> Float[Array, "sizes"]:
    """A list of sizes, at least so many; from 2 on they must differ, for a slope."""
    sizes = reals(caller, "sizes", sizes, 2)
    if sizes.ndim != 1 or len(sizes) < least:
        raise ValueError(f"{caller}: sizes must list at least {least} numbers, got shape {sizes.shape}.")
    if least > 1 and not is_traced(sizes) and np.ptp(sizes) == 0:
        raise ValueError(f"{caller}: all sizes are {float(sizes[0]):g}: a slope needs two different ones.")
    return sizes


def _checked_errors(caller: str, sizes: Any, errors: Any, least: int) -> tuple[Array, Array]:
    """Sizes ``(sizes,)`` and errors ``(sizes, seeds)``, in the type of the errors."""
    errors = reals(caller, "errors", errors, 0)
    sizes = _checked_sizes(caller, sizes, least).astype(errors.dtype)
    if errors.ndim not in (1, 2) or len(errors) != len(sizes) or 0 in errors.shape:
        shapes = f"({len(sizes)},) or ({len(sizes)}, seeds)"
        raise ValueError(f"{caller}: errors must have shape {shapes}, one row a size, got {errors.shape}.")
    return sizes, errors.reshape(len(sizes), -1)
