"""Curves to draw beside measured errors: a constant times a rate, and where the constant comes from.

Two kinds are kept apart by their label: an *explicit* curve has a constant that the caller states, a *fitted*
one has a constant taken from the very errors it is drawn beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax.fitting.rates import Rate, as_sizes


@dataclass(frozen=True)
class Curve:
    """A constant times a rate.

    Attributes:
        rate: The rate.
        dimension: d.
        constant: The factor.
        origin: ``"explicit"``, or ``"fitted by least squares"``, or ``"fitted 0.99 quantile"``.
    """

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
        """Name, dimension, constant and origin, for legends."""
        checked = "" if self.rate.verified else ", exponents not verified"
        return f"{self.rate.name}, d = {self.dimension}, C = {self.constant:.3g} ({self.origin}{checked})"

    def __call__(self, n: Any) -> Float[Array, "*shape"]:
        """Values at numbers of samples ``n``, as for :class:`Rate`."""
        return self.constant * self.rate(n, self.dimension)


def explicit(rate: Rate, dimension: int, *, constant: float) -> Curve:
    """A curve whose constant the caller states.

    Args:
        rate: The rate.
        dimension: d.
        constant: C; the papers give none, so there is no default.

    Returns:
        The curve, labelled as explicit.

    Raises:
        ValueError: The constant is not positive and finite, or d < 1.

    Example:
        >>> from manifold_jax.fitting.rate_table import RATES
        >>> from manifold_jax.fitting.curves import explicit
        >>> print(explicit(RATES["perpendicular_hausdorff_lower"], 2, constant=3.0).label)
        perpendicular_hausdorff_lower, d = 2, C = 3 (explicit)
    """
    if not (np.isfinite(constant) and constant > 0):
        raise ValueError(f"explicit: the constant must be positive and finite, got {constant}.")
    rate.decreases_from(dimension)  # refuses a wrong dimension
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

    Least squares in the logarithm, C = exp(mean log(error / rate)), or a quantile of error / rate: by
    construction 99 % of the errors then lie below the curve, whatever the rate. Neither is evidence for it.

    Args:
        sizes: Numbers of samples ``(sizes,)``, at least 2.
        errors: Positive errors ``(sizes,)`` or ``(sizes, seeds)``, of the loss of the rate.
        rate: The rate.
        dimension: d.
        kind: ``"least squares"`` or ``"quantile"``.
        level: Of the quantile.

    Returns:
        The curve.

    Raises:
        ValueError: Shapes do not fit, errors are not positive, or an option is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from manifold_jax.fitting.rate_table import RATES
        >>> from manifold_jax.fitting.curves import fit_constant
        >>> sizes = jnp.array([100.0, 1000.0, 10000.0])
        >>> print(fit_constant(sizes, 5.0 / sizes, RATES["noiseless_hausdorff_lower"], 2).label)
        noiseless_hausdorff_lower, d = 2, C = 5 (fitted by least squares)
    """
    sizes, errors = checked_errors("fit_constant", sizes, errors, least=1)
    ratio = jnp.log(errors) - rate.log(sizes, dimension)[:, None]
    if kind == "least squares":
        return Curve(rate, dimension, float(jnp.exp(jnp.mean(ratio))), "fitted by least squares")
    if kind != "quantile":
        raise ValueError(f"fit_constant: kind must be 'least squares' or 'quantile', got {kind!r}.")
    if not 0 <= level <= 1:
        raise ValueError(f"fit_constant: the level must lie in [0, 1], got {level}.")
    return Curve(rate, dimension, float(jnp.quantile(jnp.exp(ratio), level)), f"fitted {level:g} quantile")


def checked_errors(name: str, sizes: Any, errors: Any, *, least: int) -> tuple[Array, Array]:
    """Sizes and errors in the type of the errors, refused if they do not fit.

    Args:
        name: For messages.
        sizes: ``(sizes,)``.
        errors: ``(sizes,)`` or ``(sizes, seeds)``.
        least: Least number of sizes; from 2 on they must differ.

    Returns:
        Sizes ``(sizes,)`` and errors ``(sizes, seeds)``.

    Raises:
        ValueError: Shapes do not fit, or a value is not positive and finite.
    """
    errors = jnp.asarray(errors)
    errors = errors if jnp.issubdtype(errors.dtype, jnp.floating) else errors.astype(float)
    sizes = as_sizes(name, sizes).astype(errors.dtype)
    check_sizes(name, sizes, least)
    if errors.ndim not in (1, 2) or len(errors) != len(sizes) or 0 in errors.shape:
        raise ValueError(
            f"{name}: errors must have shape ({len(sizes)},) or ({len(sizes)}, seeds), one row a size, got "
            f"{errors.shape}."
        )
    if not isinstance(errors, jax.core.Tracer):
        bad = np.argwhere(~(np.isfinite(errors) & (np.asarray(errors) > 0)))
        if len(bad):
            place = tuple(bad[0].tolist())
            raise ValueError(
                f"{name}: errors must be positive and finite, got {float(errors[place]):g} at {place}."
            )
    return sizes, errors.reshape(len(sizes), -1)


def check_sizes(name: str, sizes: Array, least: int) -> None:
    """Refuse too few sizes, or equal ones where a slope is asked for.

    Args:
        name: For messages.
        sizes: Sizes of any shape.
        least: Least number of sizes.

    Raises:
        ValueError: They are not a list, too few, or all equal.
    """
    if sizes.ndim != 1 or len(sizes) < least:
        raise ValueError(
            f"{name}: sizes must be a list of at least {least} numbers, got shape {sizes.shape}."
        )
    if least > 1 and not isinstance(sizes, jax.core.Tracer) and np.ptp(np.asarray(sizes)) == 0:
        raise ValueError(f"{name}: all sizes are {float(sizes[0]):g}: a slope needs two different ones.")
