"""Rates of manifold, tangent, curvature and reach estimation, each with its source and what of it was seen.

Every rate has the form n^-a(d) (log n)^b(d), without its constant: the papers give none that can be computed.
It is either stated by the caller (:func:`explicit`) or fitted to measured errors (:func:`fit_constant`). A
rate whose ``verified`` is False has exponents that were found neither in the paper nor in another one that
quotes it, or is no theorem at all: show it as such.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from manifold_jax._checks import choice, is_traced, real, whole

Side = Literal["lower", "upper"]
Evidence = Literal["paper", "quoted", "summary", "memory", "drawn"]
SmoothLoss = Literal["hausdorff", "tangents", "curvature"]


def reals(caller: str, name: str, values: Any, least: float, below: float = math.inf) -> Array:
    """A floating-point array of any shape, finite and from ``least`` (above it, if that is 0) to ``below``.

    Traced values pass. A Python number stays weakly typed: its type follows the arrays that it meets.
    """
    given_number = isinstance(values, int | float) and not isinstance(values, bool)
    array = jnp.asarray(float(values)) if given_number else real(caller, name, values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(float)
    if is_traced(array):
        return array
    given = np.asarray(array)
    enough = given > 0 if least == 0 else given >= least
    bad = np.argwhere(~(np.isfinite(given) & enough & (given < below)))
    if len(bad):
        place = tuple(bad[0].tolist())
        kind = "positive" if least == 0 else f"at least {least:g}"
        limit = "finite and " + kind if below == math.inf else f"{kind} and below {below:g}"
        where = f" at index {place}" if place else ""
        raise ValueError(f"{caller}: {name} must be {limit}, got {given[place]:g}{where}.")
    return array


class Power(NamedTuple):
    """An exponent p / (q d + r) as a function of the dimension d."""

    p: float
    q: float = 1.0
    r: float = 0.0

    def __str__(self) -> str:
        """As in formulas, ``2/(d+2)``."""
        times = "" if self.q == 1 else f"{self.q:g}"
        below = (f"{times}d" if self.q else "") + (f"{self.r:+g}" if self.r else "")
        return f"{self.p:g}/{f'({below})' if self.q and self.r else below.removeprefix('+')}"

    def __call__(self, dimension: int) -> float:
        """The exponent in this dimension."""
        return self.p / (self.q * dimension + self.r)


@dataclass(frozen=True)
class Rate:
    """A rate n^-a(d) (log n)^b(d), and what it bounds.

    Attributes:
        name: Noise model, loss and side, the key in :data:`RATES`.
        source: The paper.
        noise: The noise model under which it holds.
        loss: The error that it bounds. Two losses are never compared with each other.
        side: ``"lower"``: no estimator does better on the worst manifold of the class. ``"upper"``: some
            estimator does as well on all of them.
        exponent: a, a function of the dimension d.
        log_exponent: b, a function of d; 0 without a logarithm.
        evidence: Where both exponents were seen: in the ``"paper"``, ``"quoted"`` in another paper, in a
            third-party ``"summary"`` only, or nowhere, from ``"memory"``. The weakest of the parts counts.
            ``"drawn"``: the curve of a picture, which no theorem of the source states.
        note: Which sentence was seen, and what was not.

    Example:
        >>> rate = mj.fitting.RATES["perpendicular_hausdorff_lower"]
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
    def words(self) -> str:
        """For legends: side, power, noise and source; a star marks exponents that are not verified.

        Example:
            >>> print(mj.fitting.RATES["noiseless_hausdorff_upper"].words)
            upper bound, power 2/d, noiseless (Genovese et al. 2012)
        """
        noise, (first, _, last) = re.split("[:,]", self.noise)[0], self.source.partition(" & ")
        first, *more = first.split(", ")
        second = " et al." if more else f" & {last.split(',')[0].split(' ')[0]}" if last else ""
        year = re.search(r"\((\d{4})\)", self.source)
        when = f" {year.group(1)}" if year else ""
        start = f"{self.side} bound{'' if self.verified else '*'}"
        power = f", power {self.exponent}" if isinstance(self.exponent, Power) and self.exponent.p else ""
        return f"{start}{power}, {noise.replace('none assumed', 'any noise')} ({first}{second}{when})"

    @property
    def verified(self) -> bool:
        """Whether both exponents were read in the source, or in a paper that quotes it."""
        return self.evidence in ("paper", "quoted")

    def log(self, n: Any, dimension: int) -> Float[Array, "*shape"]:
        """Logarithm of the rate, -a log n + b log log n."""
        dimension = whole(self.name, "dimension", dimension)
        n = reals(self.name, "number of samples", n, 2)
        a, b = self.exponent(dimension), self.log_exponent(dimension)
        return _log_rate(n, float(a), float(b))

    def __call__(self, n: Any, dimension: int) -> Float[Array, "*shape"]:
        """The rate, without a constant, of the shape of n; ``jit`` and ``grad`` in n.

        Below n = exp(b / a) (:meth:`decreases_from`; e for powers of log n / n) it means nothing. n < 2 and
        d < 1 are a ValueError; a traced n < 2 gives NaN.
        """
        return jnp.exp(self.log(n, dimension))

    def decreases_from(self, dimension: int) -> float:
        """The n from which the rate decreases, exp(b / a), at least 2."""
        dimension = whole(self.name, "dimension", dimension)
        a, b = self.exponent(dimension), self.log_exponent(dimension)
        return max(2.0, math.exp(b / a)) if a > 0 else 2.0


@jax.jit
def _log_rate(n: Array, a: float, b: float) -> Float[Array, "*shape"]:
    log_n = jnp.log(jnp.maximum(n, 2))
    value = -a * log_n + jnp.where(b == 0, 0.0, b * jnp.log(log_n))
    return jnp.where(n >= 2, value, jnp.nan)


_PERPENDICULAR = "Genovese, Perone-Pacifico, Verdinelli & Wasserman, JMLR 13 (2012), arXiv 1007.0549"
_SINGULAR = "Genovese, Perone-Pacifico, Verdinelli & Wasserman, Ann. Statist. 40 (2012), arXiv 1109.4540"
_AGNOSTIC = "Fefferman, Mitter & Narayanan, J. AMS 29 (2016), arXiv 1310.0425"
_PUTATIVE = "Fefferman, Ivanov, Kurylev, Lassas & Narayanan, COLT (2018)"
_SMOOTH = "Aamari & Levrard, Ann. Statist. 47 (2019), arXiv 1705.00989"
_REACH = "Aamari, Kim, Chazal, Michel, Rinaldo & Wasserman, EJS 13 (2019), arXiv 1705.04565"
_GRID = "Koulakis & Seibold, ICML (2026), arXiv 2606.15760"

_NORMAL = "perpendicular: uniform on the normal fibres of radius sigma < reach"
_FREE = "noiseless, independent samples"
_FRAMES = "noiseless, independent samples, tangent spaces given"
_CLUTTER = "clutter: a share pi of the samples on the manifold, the rest uniform; n stands for n pi"
_ADDITIVE = "additive: Gaussian in all ambient directions, of fixed variance"
_SMALL = "additive: Gaussian, sigma so small that n is of the order sigma^(-d)"
_ANY = "none assumed: any law on the unit ball"
_REGULAR = "noiseless, a regular grid of spacing n^(-1/d)"

_HAUSDORFF = "Hausdorff distance"
_EXCESS = "excess mean squared distance in the unit ball"
_BOTTLENECK = "|1/tau_n - 1/tau| of the plug-in, where a bottleneck decides"
_LOCAL = "|1/tau_n - 1/tau| of the plug-in, where curvature decides"
_STENCIL = "error of volume element and scalar curvature by second-order differences"

_NO_LOG = Power(0)

_PUBLISHED = (
    Rate("perpendicular_hausdorff_lower", _PERPENDICULAR, _NORMAL, _HAUSDORFF, "lower",
        Power(2, 1, 2), _NO_LOG, "paper",
        "Abstract: 'the optimal rate of convergence is n^(-2/(2+d))'; theorem 1 is the lower bound."),
    Rate("perpendicular_hausdorff_upper", _PERPENDICULAR, _NORMAL, _HAUSDORFF, "upper",
        Power(2, 1, 2), Power(2, 1, 2), "paper",
        "Theorem 2: C_2 (log n / n)^(2/(2+d)); the power is in the abstract too."),
    Rate("noiseless_hausdorff_lower", _SINGULAR, _FREE, _HAUSDORFF, "lower",
        Power(2), _NO_LOG, "paper",
        "Noiseless model; also the case k = 2 of n^(-k/d), which Tang & Yang (2023) quote as minimax from "
        "Aamari & Levrard."),
    Rate("noiseless_hausdorff_upper", _SINGULAR, _FREE, _HAUSDORFF, "upper",
        Power(2), Power(2), "paper",
        "Noiseless model, with the log."),
    Rate("clutter_hausdorff_lower", _SINGULAR, _CLUTTER, _HAUSDORFF, "lower",
        Power(2), _NO_LOG, "paper",
        "Clutter model (1 - pi) U + pi G: (n pi)^(-2/d)."),
    Rate("additive_hausdorff_lower", _SINGULAR, _ADDITIVE, _HAUSDORFF, "lower",
        Power(0), Power(-1, 0, 1), "paper",
        "Additive model: 1 / log n; so quoted by Tang & Yang (2023), before section 3.1. The upper bound was "
        "not seen, and is left out."),
    Rate("small_additive_hausdorff_upper_as_drawn", _PUTATIVE, _SMALL, _HAUSDORFF, "upper",
        Power(1), Power(1), "drawn",
        "No theorem of this source: the curve (log n / n)^(1/d) that Koulakis & Seibold (2026) draw under "
        "its name. The source has a distance O(d^7 sigma sqrt(D)) from n = O(sigma^(-d)) samples, hence "
        "sigma like n^(-1/d)."),
    Rate("agnostic_mean_squared_upper", _AGNOSTIC, _ANY, _EXCESS, "upper",
        Power(2, 1, 4), Power(8, 1, 4), "memory",
        "The limit of agnostic_mean_squared_bound for many samples: what is stated there about N_p applies."),
    Rate("noiseless_inverse_reach_upper_global", _REACH, _FRAMES, _BOTTLENECK, "upper",
        Power(1), _NO_LOG, "paper",
        "Global regime, where a bottleneck decides: n^(-1/d)."),
    Rate("noiseless_inverse_reach_upper_local", _REACH, _FRAMES, _LOCAL, "upper",
        Power(2, 3, -1), _NO_LOG, "paper",
        "Local regime: n^(-2/(3d-1)); so quoted by Berenfeld, Harvey, Hoffmann & Shankar, DCG 67 (2022)."),
    Rate("grid_scalar_curvature_upper", _GRID, _REGULAR, _STENCIL, "upper",
        Power(2), _NO_LOG, "summary",
        "O(h^2) = O(n^(-2/d)) was seen in a summary of the paper; the order is that of the differences."),
)  # fmt: skip


def smooth_rate(what: SmoothLoss, k: int, side: Side) -> Rate:
    """Rates of Aamari & Levrard for closed C^k manifolds without noise, by local polynomials of degree k - 1.

    Upper bounds: (log n / n)^(k/d) for the manifold, ^((k-1)/d) for tangent spaces, ^((k-2)/d) for the second
    fundamental form; lower bounds without the logarithm (Ann. Statist. 47, 2019). What of it was seen is in
    the ``note`` of each. The term that noise adds is left out.

    Args:
        what: ``"hausdorff"`` for the manifold, ``"tangents"`` or ``"curvature"``.
        k: Smoothness, at least 2, and 3 for curvature.
        side: ``"lower"`` or ``"upper"``.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> print(mj.fitting.smooth_rate("hausdorff", 3, "upper").exponent(2))
        1.5
    """
    losses = {
        "hausdorff": (_HAUSDORFF, 0),
        "tangents": ("largest angle between tangent spaces", 1),
        "curvature": ("operator norm of the error of the second fundamental form", 2),
    }
    choice("smooth_rate", "what", what, losses)
    side = choice("smooth_rate", "side", side, ("lower", "upper"))
    loss, derivative = losses[what]
    power = Power(whole("smooth_rate", "k", k, max(2, derivative + 1)) - derivative)
    note = f"(log n / n)^((k-{derivative})/d) above, the same power of 1 / n below."
    if what == "hausdorff":
        note += " Tang & Yang (Ann. Statist. 51, 2023, section 1) quote n^(-k/d) as its minimax rate."
    log = power if side == "upper" else _NO_LOG
    return Rate(f"noiseless_{what}_{side}_c{k}", _SMOOTH, _FREE, loss, side, power, log, "paper", note)


_SMOOTH_ORDERS: dict[SmoothLoss, tuple[int, int]]
_SMOOTH_ORDERS = {"hausdorff": (3, 4), "tangents": (2, 3), "curvature": (3, 4)}
_SMOOTH_RATES = (
    smooth_rate(what, k, side)
    for what, orders in _SMOOTH_ORDERS.items()
    for k in orders
    for side in ("lower", "upper")
)

RATES: dict[str, Rate] = {rate.name: rate for rate in (*_PUBLISHED, *_SMOOTH_RATES)}
"""All rates by name."""
