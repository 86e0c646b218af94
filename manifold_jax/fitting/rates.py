"""What a rate of manifold estimation is: an error as a function of the number of samples, and what it bounds.

Every rate has the form n^-a(d) (log n)^b(d), without its constant: the papers give none that can be computed.
The name holds the noise model, the loss and the side; :class:`Rate` adds the source and how far the exponents
were checked against it. A constant is either stated by the caller (:func:`explicit`) or fitted to measured
errors (:func:`fit_constant`), never assumed. The table is in ``rate_table``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Side = Literal["lower", "upper"]
Evidence = Literal["paper", "quoted", "summary", "memory"]


@dataclass(frozen=True)
class Rate:
    """A rate n^-a(d) (log n)^b(d), and what it bounds.

    Attributes:
        name: Noise model, loss and side, the key in :data:`RATES`.
        source: The paper.
        noise: The noise model under which it holds.
        loss: The error that it bounds. Two losses are never compared with each other.
        side: ``"lower"``: no estimator does better on the worst manifold of the class (one manifold may be
            easier). ``"upper"``: some estimator does as well on all of them.
        exponent: a, a function of the dimension d.
        log_exponent: b, a function of d; 0 without a logarithm.
        evidence: Where both exponents were last seen: ``"paper"``, the text of the source; ``"quoted"``,
            the text of another paper that quotes them; ``"summary"``, a third-party summary only;
            ``"memory"``, nowhere. The weakest of the parts counts.
        note: Which sentence was seen, and what was not.

    Example:
        >>> from manifold_jax.fitting.rate_table import RATES
        >>> rate = RATES["perpendicular_hausdorff_lower"]
        >>> print(rate.exponent(2), f"{rate(100.0, 2):.3f}", rate.verified)
        0.5 0.100 True
    """

    name: str
    source: str
    noise: str
    loss: str
    side: Side
    exponent: Callable[[int], float]
    log_exponent: Callable[[int], float]
    evidence: Evidence
    note: str

    @property
    def verified(self) -> bool:
        """Whether both exponents were read in the source, or in a paper that quotes it."""
        return self.evidence in ("paper", "quoted")

    def log(self, n: Any, dimension: int) -> Float[Array, "*shape"]:
        """Logarithm of the rate: -a log n + b log log n.

        Args:
            n: Numbers of samples, any shape, at least 2.
            dimension: d, a whole number from 1.

        Returns:
            Array of the shape of ``n``; NaN where a traced ``n`` is below 2.

        Raises:
            ValueError: d < 1 or n < 2.
        """
        check_dimension(self.name, dimension)
        n = as_sizes(self.name, n)
        a, b = self.exponent(dimension), self.log_exponent(dimension)
        log_n = jnp.log(jnp.maximum(n, 2))
        value = -a * log_n + (b * jnp.log(log_n) if b else 0.0)
        return jnp.where(n >= 2, value, jnp.nan)

    def __call__(self, n: Any, dimension: int) -> Float[Array, "*shape"]:
        """The rate, without a constant; ``jit`` and ``grad`` in n.

        It decreases from n = exp(b / a) on (:meth:`decreases_from`): n = e for powers of log n / n. Below,
        the formula is returned as it stands, but means nothing: log n / n is 0.347 at n = 2, 0.366 at n = 3.

        Args:
            n: Numbers of samples, any shape, at least 2.
            dimension: d, a whole number from 1.

        Returns:
            Array of the shape and floating type of ``n``; NaN where a traced ``n`` is below 2.

        Raises:
            ValueError: d < 1 or n < 2.
        """
        return jnp.exp(self.log(n, dimension))

    def decreases_from(self, dimension: int) -> float:
        """The n from which the rate decreases, exp(b / a), at least 2."""
        check_dimension(self.name, dimension)
        a, b = self.exponent(dimension), self.log_exponent(dimension)
        return max(2.0, math.exp(b / a)) if a > 0 else 2.0


def check_dimension(name: str, dimension: Any) -> None:
    """Refuse a dimension that is not a whole number from 1.

    Args:
        name: For the message.
        dimension: d.

    Raises:
        ValueError: It is not.
    """
    whole = isinstance(dimension, (int, np.integer)) and not isinstance(dimension, bool)
    if not whole or dimension < 1:
        raise ValueError(f"{name}: the dimension must be a whole number from 1, got {dimension!r}.")


def as_sizes(name: str, n: Any) -> Float[Array, "*shape"]:
    """Numbers of samples as floating-point numbers of at least 2.

    Args:
        name: For the message.
        n: Array of any shape; may be traced, then values are not checked.

    Returns:
        The array, in its own floating type.

    Raises:
        ValueError: A value is below 2, or not finite.
    """
    values = jnp.asarray(n)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(float)
    if not isinstance(values, jax.core.Tracer):
        good = np.isfinite(values) & (np.asarray(values) >= 2)
        if not good.all():
            worst = np.asarray(values)[~good].flat[0]
            raise ValueError(f"{name}: the number of samples must be finite and at least 2, got {worst:g}.")
    return values
