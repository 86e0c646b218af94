"""Rates of manifold, tangent, curvature and reach estimation, each with its source and what of it was seen.

A rate whose ``verified`` is False has exponents that were found neither in the paper nor in another one that
quotes it: show it as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from manifold_jax.fitting.rates import Evidence, Rate, Side


def _none(dimension: int) -> float:
    return 0.0


def _of_order(order: int) -> Callable[[int], float]:
    return lambda dimension: order / dimension


_PERPENDICULAR = "Genovese, Perone-Pacifico, Verdinelli & Wasserman, JMLR 13 (2012), arXiv 1007.0549"
_SINGULAR = "Genovese, Perone-Pacifico, Verdinelli & Wasserman, Ann. Statist. 40 (2012), arXiv 1109.4540"
_AGNOSTIC = "Fefferman, Mitter & Narayanan, J. AMS 29 (2016), arXiv 1310.0425"
_PUTATIVE = "Fefferman, Ivanov, Kurylev, Lassas & Narayanan, COLT (2018)"
_SMOOTH = "Aamari & Levrard, Ann. Statist. 47 (2019), arXiv 1705.00989"
_REACH = "Aamari, Kim, Chazal, Michel, Rinaldo & Wasserman, EJS 13 (2019), arXiv 1705.04565"
_GRID = "Koulakis & Seibold, ICML (2026), arXiv 2606.15760"

_NORMAL = "perpendicular: uniform on the normal fibres of radius sigma < reach"
_FREE = "noiseless, independent samples"


def smooth_rate(what: Literal["hausdorff", "tangents", "curvature"], k: int, side: Side) -> Rate:
    """Rates of Aamari & Levrard for closed C^k manifolds without noise, by local polynomials of degree k - 1.

    Upper bounds: (log n / n)^(k/d) for the manifold, ^((k-1)/d) for tangent spaces, ^((k-2)/d) for the second
    fundamental form; lower bounds without the logarithm (Ann. Statist. 47, 2019). For the manifold, n^(-k/d)
    is quoted as the minimax rate by Tang & Yang (Ann. Statist. 51, 2023, section 1). The log was not seen; of
    (k-1)/d and (k-2)/d only (log n / n)^(3/d) for the curvature of C^5 manifolds, in a summary of Koulakis &
    Seibold (2026): these are not verified. The term that noise adds is left out.

    Args:
        what: ``"hausdorff"`` for the manifold, ``"tangents"`` or ``"curvature"``.
        k: Smoothness, at least 2, and 3 for curvature.
        side: ``"lower"`` or ``"upper"``.

    Returns:
        The rate.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from manifold_jax.fitting.rate_table import smooth_rate
        >>> print(smooth_rate("hausdorff", 3, "upper").exponent(2))
        1.5
    """
    losses = {
        "hausdorff": ("Hausdorff distance", 0),
        "tangents": ("largest angle between tangent spaces", 1),
        "curvature": ("operator norm of the error of the second fundamental form", 2),
    }
    if what not in losses or side not in ("lower", "upper"):
        raise ValueError(
            f"smooth_rate knows {', '.join(losses)} and the sides lower, upper; got {what!r}, {side!r}."
        )
    loss, derivative = losses[what]
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < max(2, derivative + 1):
        raise ValueError(
            f"smooth_rate: k must be a whole number from {max(2, derivative + 1)} for {what}, got {k!r}."
        )
    order = _of_order(int(k) - derivative)
    evidence: Evidence = "memory"
    note = f"The power (k-{derivative})/d was not seen." if derivative else "The log was not seen."
    if what == "hausdorff":
        quoted = "Tang & Yang (2023) quote n^(-k/d) as its minimax rate."
        note = f"{quoted} {note}" if side == "upper" else quoted
        evidence = "memory" if side == "upper" else "quoted"
    elif what == "curvature" and side == "upper":
        evidence = "summary"
        note = "Seen as (log n / n)^(3/d) for C^5 manifolds in a summary of Koulakis & Seibold (2026)."
    return Rate(
        name=f"noiseless_{what}_{side}_c{k}",
        source=_SMOOTH,
        noise=_FREE,
        loss=loss,
        side=side,
        exponent=order,
        log_exponent=order if side == "upper" else _none,
        evidence=evidence,
        note=note,
    )


_TABLE = (
    Rate(
        "perpendicular_hausdorff_lower",
        _PERPENDICULAR,
        _NORMAL,
        "Hausdorff distance",
        "lower",
        lambda d: 2 / (2 + d),
        _none,
        "paper",
        "Abstract: 'the optimal rate of convergence is n^(-2/(2+d))'; theorem 1 is the lower bound.",
    ),
    Rate(
        "perpendicular_hausdorff_upper",
        _PERPENDICULAR,
        _NORMAL,
        "Hausdorff distance",
        "upper",
        lambda d: 2 / (2 + d),
        lambda d: 2 / (2 + d),
        "summary",
        "The power is in the abstract; the log, C_2 (log n / n)^(2/(2+d)) in theorem 2, was seen only in a "
        "summary of Koulakis & Seibold (2026).",
    ),
    Rate(
        "noiseless_hausdorff_lower",
        _SINGULAR,
        _FREE,
        "Hausdorff distance",
        "lower",
        _of_order(2),
        _none,
        "quoted",
        "Its own statement was not seen; it is the case k = 2 of n^(-k/d), which Tang & Yang (2023) quote as "
        "minimax from Aamari & Levrard.",
    ),
    Rate(
        "noiseless_hausdorff_upper",
        _SINGULAR,
        _FREE,
        "Hausdorff distance",
        "upper",
        _of_order(2),
        _of_order(2),
        "memory",
        "The power as for the lower bound; the log was not seen.",
    ),
    Rate(
        "clutter_hausdorff_lower",
        _SINGULAR,
        "clutter: a share pi of the samples on the manifold, the rest uniform; n stands for n pi",
        "Hausdorff distance",
        "lower",
        _of_order(2),
        _none,
        "memory",
        "The model (1 - pi) U + pi G was seen in the introduction, the rate (n pi)^(-2/d) was not.",
    ),
    Rate(
        "additive_hausdorff_lower",
        _SINGULAR,
        "additive: Gaussian in all ambient directions, of fixed variance",
        "Hausdorff distance",
        "lower",
        _none,
        lambda d: -1.0,
        "quoted",
        "Tang & Yang (2023), before section 3.1: 'lower bounded by O((log n)^(-1))'. The upper bound was not "
        "seen, and is left out.",
    ),
    Rate(
        "small_additive_hausdorff_upper",
        _PUTATIVE,
        "additive: Gaussian, sigma so small that n is of the order sigma^(-d)",
        "Hausdorff distance",
        "upper",
        _of_order(1),
        _of_order(1),
        "summary",
        "A reader's note on the paper: from n = O(sigma^(-d)) samples a distance O(d^7 sigma sqrt(D)), hence "
        "the power 1/d. H < C (log n / n)^(1/d) was seen in a summary of Koulakis & Seibold (2026).",
    ),
    Rate(
        "agnostic_mean_squared_upper",
        _AGNOSTIC,
        "none assumed: any law on the unit ball",
        "excess mean squared distance in the unit ball",
        "upper",
        lambda d: 2 / (d + 4),
        lambda d: 8 / (d + 4),
        "memory",
        "The limit of agnostic_mean_squared_bound for many samples: what is said there about N_p applies.",
    ),
    Rate(
        "noiseless_inverse_reach_upper_global",
        _REACH,
        _FREE + ", tangent spaces given",
        "|1/tau_n - 1/tau| of the plug-in, where a bottleneck decides",
        "upper",
        _of_order(1),
        _none,
        "summary",
        "O(n^(-1/d)) in the global regime was seen in a summary of Koulakis & Seibold (2026).",
    ),
    Rate(
        "noiseless_inverse_reach_upper_local",
        _REACH,
        _FREE + ", tangent spaces given",
        "|1/tau_n - 1/tau| of the plug-in, where curvature decides",
        "upper",
        lambda d: 2 / (3 * d - 1),
        _none,
        "quoted",
        "Berenfeld, Harvey, Hoffmann & Shankar, DCG 67 (2022): 'achieves the rate n^(-2/(3d-1))'.",
    ),
    Rate(
        "grid_scalar_curvature_upper",
        _GRID,
        "noiseless, a regular grid of spacing n^(-1/d)",
        "error of volume element and scalar curvature by second-order differences",
        "upper",
        _of_order(2),
        _none,
        "summary",
        "O(h^2) = O(n^(-2/d)) was seen in a summary of the paper; the order is that of the differences.",
    ),
    *(smooth_rate("hausdorff", k, side) for k in (3, 4) for side in ("lower", "upper")),
    *(smooth_rate("tangents", k, side) for k in (2, 3) for side in ("lower", "upper")),
    *(smooth_rate("curvature", k, side) for k in (3, 4) for side in ("lower", "upper")),
)

RATES: dict[str, Rate] = {rate.name: rate for rate in _TABLE}
"""All rates by name."""
