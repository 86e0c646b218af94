"""An explicit bound of manifold fitting, from measured volume and reach and a constant stated by the caller.

Fefferman, Mitter & Narayanan, *Testing the manifold hypothesis*, J. AMS 29 (2016), theorem 1 (arXiv
1310.0425): let P be any law on the unit ball, and G(d, V, tau) the closed d-manifolds in it of volume at most
V and reach at least tau. From

    s = C (N_p / eps^2 log^4(N_p / eps) + 1 / eps^2 log(1 / delta)),
    N_p = V (tau^-d + eps^(-d/2) tau^(-d/2))

samples, the manifold of G that fits them best has, with probability 1 - delta, a mean squared distance to P
that is at most eps above the least that G allows.

The class, the law and the loss are in the abstract, and N_p is on page 6 of arXiv 1310.0425v2; its size is
right, for patches of radius (eps tau)^(1/2) are flat up to eps. How s depends on N_p was not read there: the
abstract of Narayanan & Mitter (NIPS 2010) has (k / eps^2) min(k, eps^-2 log^4(k / eps)) for k centres, which
is another power of eps and no evidence for it. So the formula is NOT VERIFIED (:data:`VERIFIED`), and its
constant is not known: there is no default, and a sweep over it says more than one value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from manifold_jax._checks import whole
from manifold_jax.fitting.rates import reals

VERIFIED = False
"""Whether the sample size s of theorem 1, with its exponents, was read in the paper."""


class UnitBall(NamedTuple):
    """Volume V / R^d and reach tau / R of a manifold shrunk into the unit ball."""

    volume: Float[Array, "*shape"]
    reach: Float[Array, "*shape"]


class MeanSquaredBound(NamedTuple):
    """What a number of samples guarantees.

    Attributes:
        epsilon: Excess mean squared distance over the squared radius, infinite where the bound is vacuous.
        mean_squared: The same in the units of the data, epsilon R^2; it does not bound a Hausdorff distance.
        root_mean_square: Its root, comparable with the measured RMS distance of noise-free data.
        vacuous: Where epsilon would be at least 1, and the centre of the ball does as well.
        least_samples: The number of samples s(1) from which the bound says something.
    """

    epsilon: Float[Array, "*shape"]
    mean_squared: Float[Array, "*shape"]
    root_mean_square: Float[Array, "*shape"]
    vacuous: Bool[Array, "*shape"]
    least_samples: Float[Array, "*shape"]

    @property
    def verified(self) -> bool:
        """:data:`VERIFIED`."""
        return VERIFIED


def unit_ball(volume: Any, reach: Any, dimension: int, *, radius: Any) -> UnitBall:
    """Volume and reach after shrinking a manifold into the unit ball: V / R^d and tau / R, without unit.

    Args:
        volume: Measured volume V, in length^d.
        reach: Measured reach tau, a length.
        dimension: d.
        radius: R, of a ball that contains the data, a length.

    Raises:
        ValueError: A number is not positive and finite, or d < 1.

    Example:
        >>> volume, reach = mj.fitting.unit_ball(4 * math.pi * 9, 3.0, 2, radius=6.0)  # a sphere of radius 3
        >>> print(f"{volume:.3f} {reach:.3f}")
        3.142 0.500
    """
    dimension = whole("unit_ball", "dimension", dimension)
    volume, reach, radius = _positive("unit_ball", volume=volume, reach=reach, radius=radius)
    return UnitBall(jnp.exp(jnp.log(volume) - dimension * jnp.log(radius)), reach / radius)


def agnostic_sample_complexity(
    epsilon: Any, volume: Any, reach: Any, dimension: int, *, constant: Any, delta: Any
) -> Float[Array, "*shape"]:
    """Samples that guarantee an excess mean squared distance, whatever the law; not verified.

    The s at the head of this file. log(N_p / eps) is cut off at 0, which only very small volumes meet: s then
    decreases in eps throughout. Differentiable.

    Args:
        epsilon: Excess mean squared distance in the unit ball, in (0, 1).
        volume: V in the unit ball (:func:`unit_ball`).
        reach: tau in the unit ball.
        dimension: d.
        constant: C, to be stated; the paper gives no number.
        delta: Probability of failure, in (0, 1).

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> s = mj.fitting.agnostic_sample_complexity(0.1, 2 * math.pi, 1.0, 1, constant=1.0, delta=0.05)
        >>> print(f"{s:.3e}")  # a circle of radius 1
        2.511e+06
    """
    name = "agnostic_sample_complexity"
    dimension = whole(name, "dimension", dimension)
    volume, reach, constant = _positive(name, volume=volume, reach=reach, constant=constant)
    epsilon, delta = reals(name, "epsilon", epsilon, 0, 1), reals(name, "delta", delta, 0, 1)
    return jnp.exp(_log_samples(jnp.log(epsilon), volume, reach, constant, delta, dimension))


def agnostic_mean_squared_bound(
    samples: Any, volume: Any, reach: Any, dimension: int, *, radius: Any, constant: Any, delta: Any
) -> MeanSquaredBound:
    """Excess mean squared distance that a number of samples guarantees, whatever the law; not verified.

    Inverts :func:`agnostic_sample_complexity` by bisection in log eps. For many samples eps behaves as
    (C V tau^(-d/2) log^4 / s)^(2/(d+4)). ``jit``, ``vmap`` and (implicit) ``grad`` work.

    Args:
        samples: Numbers of samples, at least 2.
        volume: As in :func:`unit_ball`, like the next three.
        reach: Measured reach.
        dimension: d.
        radius: R.
        constant: C, as in :func:`agnostic_sample_complexity`.
        delta: Probability of failure, in (0, 1).

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> sizes, stated = jnp.array([100.0, 1e4, 1e6]), dict(radius=1.0, constant=1.0, delta=0.05)
        >>> bound = mj.fitting.agnostic_mean_squared_bound(sizes, 2 * math.pi, 1.0, 1, **stated)
        >>> print(bound.vacuous.tolist(), [f"{rms:.2f}" for rms in bound.root_mean_square])
        [True, False, False] ['inf', '0.69', '0.36']
    """
    name = "agnostic_mean_squared_bound"
    dimension = whole(name, "dimension", dimension)
    ball = unit_ball(volume, reach, dimension, radius=radius)
    samples, delta = reals(name, "samples", samples, 2), reals(name, "delta", delta, 0, 1)
    radius, constant = _positive(name, radius=radius, constant=constant)
    return _inverse(samples, ball, radius, constant, delta, dimension)


@partial(jax.jit, static_argnames="dimension")
def _inverse(
    samples: Array, ball: UnitBall, radius: Array, constant: Array, delta: Array, dimension: int
) -> MeanSquaredBound:
    log_samples = lambda log_epsilon: _log_samples(log_epsilon, *ball, constant, delta, dimension)  # noqa: E731
    dtype = jnp.result_type(samples, *ball, constant, delta)
    log_s, most = jnp.log(samples), log_samples(jnp.zeros((), dtype))
    # The second term alone bounds eps from below.
    low = jnp.minimum((jnp.log(constant) + jnp.log(-jnp.log(delta)) - log_s) / 2, 0.0)
    root = _decreasing_root(log_samples, log_s, low, jnp.zeros_like(most))
    vacuous = most >= log_s
    epsilon = jnp.where(vacuous, jnp.inf, jnp.exp(root))
    least = jnp.broadcast_to(jnp.exp(most), vacuous.shape)
    return MeanSquaredBound(epsilon, epsilon * radius**2, jnp.sqrt(epsilon) * radius, vacuous, least)


@partial(jax.jit, static_argnames="dimension")
def _log_samples(
    log_epsilon: Array, volume: Array, reach: Array, constant: Array, delta: Array, dimension: int
) -> Array:
    """Return log s, by logarithms throughout: eps^-(d/2+2) leaves float32 early."""
    log_tau = jnp.log(reach)
    log_n = jnp.log(volume) + jnp.logaddexp(-dimension * log_tau, -dimension / 2 * (log_epsilon + log_tau))
    excess = log_n - log_epsilon
    # A safe argument where the logarithm is cut off: gradients there stay finite.
    first = jnp.where(excess > 0, log_n + 4 * jnp.log(jnp.where(excess > 0, excess, 1.0)), -jnp.inf)
    return jnp.log(constant) - 2 * log_epsilon + jnp.logaddexp(first, jnp.log(-jnp.log(delta)))


def _decreasing_root(function: Callable[[Array], Array], target: Array, low: Array, high: Array) -> Array:
    """Solve for x in [low, high] with function(x) = target; differentiable in what both depend on."""
    target, low, high = jnp.broadcast_arrays(target, low, high)
    # Halving a bracket of a few hundred down to one ulp of log eps.
    steps = jnp.finfo(low.dtype).nmant + 10

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = function(middle) > target
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(0, steps, halve, jax.lax.stop_gradient((low, high)))
    root = jax.lax.stop_gradient((low + high) / 2)
    # One Newton step changes nothing but the derivative, which is that of the implicit function.
    slope = jax.lax.stop_gradient(jax.jvp(function, (root,), (jnp.ones_like(root),))[1])
    return root - (function(root) - target) / slope


def _positive(caller: str, **values: Any) -> list[Array]:
    return [reals(caller, name, value, 0) for name, value in values.items()]
