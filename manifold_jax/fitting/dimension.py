"""Intrinsic dimension of samples, at every point and of all of them, with bars."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from manifold_jax._checks import choice, flat_points, optional, random_key, require, whole
from manifold_jax.geometry.neighbours import nearest_neighbours
from manifold_jax.geometry.quantities import Estimate

OWN = {"MLE": 10, "TwoNN": 2}
"""Methods of the package, and the neighbours that they look at unless told otherwise."""

OTHERS = (
    "lPCA", "CorrInt", "MOM", "TLE", "KNN", "FisherS", "MADA", "ESS", "DANCo", "MiND_ML", "GRIDE", "PH",
)  # fmt: skip
"""Methods of scikit-dimension, by their names there, which give no bars."""

DRAWING = ("KNN", "ESS", "DANCo", "PH")  # those that need a random key
SIGMAS = 2.5  # standard errors that a bar holds
HALF = 0.5  # a bar up to which no more than one whole number is meant
WIDEST = 40  # neighbours of the widest look
TIED, TIES = 1e-5, 0.02  # relative gap of two distances that is none; share of such gaps on no lattice


class IntrinsicDimension(NamedTuple):
    """Intrinsic dimension, not rounded.

    Attributes:
        value: That of all points together; NaN where it is not defined.
        error: Bar such that the truth lies within value +- error; infinite where unknown.
        resolved: Whether the bar is at most 1/2.
        pointwise: The same at every point, ``(n,)``.
        repeats: How many points lie in the place of another and were left out.
        status: Empty, or why there is no bar.
    """

    value: float
    error: float
    resolved: bool
    pointwise: Estimate
    repeats: int
    status: str


def intrinsic_dimension(
    points: Float[Array, "n *features"],
    *,
    method: str = "MLE",
    neighbours: int | None = None,
    key: PRNGKeyArray | None = None,
    **options: Any,
) -> IntrinsicDimension:
    """Intrinsic dimension by the growth of balls with the number of points in them.

    With T_j the distance from x to its j-th neighbour, the likelihood of a Poisson process of constant
    density is largest at (Levina & Bickel, NIPS 2004)

        1 / d(x) = 1 / (k - 1) sum_(j < k) log(T_k / T_j),

    here with k - 2 for k - 1 at a single point, which makes d(x) unbiased; over all points the mean of 1 / d
    is taken (MacKay & Ghahramani, 2005). ``"TwoNN"`` (Facco et al., Scientific Reports 7, 2017) is k = 2.

    The bar holds 2.5 standard errors and what curvature, borders, noise and uneven density do, as seen in the
    change from k to 2 k, 4 k ... neighbours. Points on a lattice are not a Poisson process, and tied
    distances show it: the status says so, and nothing is resolved.

    Args:
        points: Samples.
        method: ``"MLE"``, ``"TwoNN"``, or one of scikit-dimension, which gives no bars: ``"lPCA"`` (the mean
            over the neighbourhoods of all points), ``"CorrInt"``, ``"MOM"``, ``"TLE"``, ``"KNN"``,
            ``"FisherS"``, ``"MADA"``, ``"ESS"``, ``"DANCo"``, ``"MiND_ML"``, ``"GRIDE"`` or ``"PH"``.
        neighbours: k; by default 10 for ``"MLE"``, 2 for ``"TwoNN"``, 30 for ``"lPCA"``.
        key: Random key, for ``"KNN"``, ``"ESS"``, ``"DANCo"`` and ``"PH"``.
        options: Further arguments of its constructor there.

    Raises:
        ValueError: There is no such method, the points are not ``(n, *features)``, or too few differ.
        ImportError: scikit-dimension is asked for and not installed.

    Example:
        >>> plane = jax.random.uniform(jax.random.key(0), (1000, 2)) @ jnp.eye(2, 5)
        >>> dimension = mj.fitting.intrinsic_dimension(plane)
        >>> print(f"{dimension.value:.1f}", dimension.resolved)
        2.0 True
    """
    name = "intrinsic_dimension"
    method = choice(name, "method", method, (*OWN, *OTHERS))
    optional(random_key, name, "key", key)
    everyone = np.asarray(flat_points(name, points, 1))
    _, first, place = np.unique(everyone, axis=0, return_index=True, return_inverse=True)
    rows, repeats = everyone[first], len(everyone) - len(first)
    if method in OTHERS:
        value = _of_scikit_dimension(rows, method, neighbours, key, options)
        nowhere = jnp.full(len(everyone), jnp.nan)
        unknown = Estimate(nowhere, jnp.full_like(nowhere, jnp.inf), jnp.zeros(len(everyone), bool))
        return IntrinsicDimension(value, math.inf, False, unknown, repeats, f"{method} gives no bar")
    count = whole(name, "neighbours", OWN[method] if neighbours is None else neighbours, 2)
    if len(rows) <= 2 * count:
        raise ValueError(f"{name}: more than {2 * count} different points are needed, got {len(rows)}.")
    wider = (k for k in (4 * count, 8 * count, 16 * count) if k <= WIDEST and k < len(rows) // 4)
    sizes = (count, 2 * count, *wider)
    distances = nearest_neighbours(rows, rows, sizes[-1] + 1).distances[:, 1:]
    values, local, tied = (np.asarray(x, np.float64) for x in _likelihood(distances, sizes))
    value = values[0]
    # What borders do grows with the radius, which grows as k^(1/d); noise is what makes a plane of a line.
    growth = (np.array(sizes[1:]) / count) ** (1 / max(value, 1.0)) - 1
    bar = SIGMAS * value / len(rows) ** 0.5 + np.max(np.abs(values[1:] - value) / np.minimum(growth, 1))
    status = ""
    if tied > TIES or not math.isfinite(bar):
        status, bar = f"{100 * tied:.0f} % of the distances are tied, as on a lattice", math.inf
    bars = SIGMAS * local / max(count - 2, 1) ** 0.5 + bar
    pointwise = Estimate(*(jnp.asarray(x[place.ravel()]) for x in (local, bars, bars <= HALF)))
    return IntrinsicDimension(float(value), float(bar), bool(bar <= HALF), pointwise, repeats, status)


@partial(jax.jit, static_argnames="sizes")
def _likelihood(distances: Float[Array, "n k"], sizes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Dimension of all points by each number of neighbours, at every point by the first; share of ties."""

    def sums(k: int) -> Float[Array, "n"]:
        return jnp.sum(jnp.log(distances[:, k - 1 : k] / distances[:, : k - 1]), axis=1)

    n, count = len(distances), sizes[0]
    values = jnp.stack([(n * (k - 1) - 1) / jnp.sum(sums(k)) for k in sizes])
    near, farther = distances[:, : count - 1], distances[:, 1:count]
    return values, max(count - 2, 1) / sums(count), jnp.mean(farther <= (1 + TIED) * near)


def _of_scikit_dimension(
    rows: np.ndarray, method: str, neighbours: int | None, key: PRNGKeyArray | None, options: dict[str, Any]
) -> float:
    if method in DRAWING:
        if key is None:
            raise ValueError(f"intrinsic_dimension: {method} draws random numbers: give a random key.")
        options = {"random_state": int(jax.random.randint(key, (), 0, 2**31 - 1))} | options
    model = getattr(require("skdim", "estimators", "intrinsic_dimension").id, method)(**options)
    if method != "lPCA":
        return float(model.fit(rows.astype(np.float64)).dimension_)
    count = min(30 if neighbours is None else neighbours, len(rows) - 1)
    return float(np.mean(model.fit_pw(rows.astype(np.float64), n_neighbors=count).dimension_pw_))
