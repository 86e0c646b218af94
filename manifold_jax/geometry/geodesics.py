"""Geodesics of an embedded manifold from a chart point in a direction."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax._checks import checked_function, finite, real, shown, whole
from manifold_jax.geometry.embeddings import Embedding, frozen_embedding
from manifold_jax.geometry.tensors import contract, frame


class Geodesic(NamedTuple):
    """A geodesic at equal times from 0 to 1.

    Attributes:
        coordinates: Chart points, the first is where it starts; NaN from where the metric degenerates.
        velocities: Their derivatives by time; their length in the metric is that of the whole geodesic.
    """

    coordinates: Float[Array, "steps+1 d"]
    velocities: Float[Array, "steps+1 d"]


def geodesic(
    embedding: Embedding, start: Float[Array, "d"], velocity: Float[Array, "d"], *, steps: int = 100
) -> Geodesic:
    """The geodesic u(t) from a chart point with an initial velocity, for t from 0 to 1.

    It solves u'' = -Gamma(u', u'), where the right side is -g^-1 <X_k, d^2/ds^2 x(u + s u')> (do Carmo,
    Riemannian Geometry, chapter 3), by Runge and Kutta's method of order 4. u(1) is the exponential map of
    the velocity. Works under ``jit``, ``vmap`` and ``grad``; the dtype is that of ``start``.

    Args:
        embedding: One chart point ``(d,)`` to one ambient point of any shape, as for :func:`measure`.
        start: Chart point u(0).
        velocity: u'(0); its length in the metric is the length of the geodesic.
        steps: Steps of the method, whose error falls with the fourth power of their number.

    Returns:
        Chart points and velocities after every step.

    Raises:
        ValueError: The embedding cannot be differentiated, ``start`` and ``velocity`` are not finite vectors
            of one size, or ``steps`` is below 1.

    Example:
        An arc of a great circle, of length sqrt 2:

        >>> x, y = lambda u: jnp.cos(u[0]) * jnp.cos(u[1]), lambda u: jnp.sin(u[0]) * jnp.cos(u[1])
        >>> sphere = lambda u: jnp.stack([x(u), y(u), jnp.sin(u[1])])
        >>> path = mj.geodesic(sphere, jnp.zeros(2), jnp.array([1.0, 1.0]))
        >>> print(jnp.vdot(sphere(path.coordinates[-1]), sphere(jnp.zeros(2))).round(4))  # cos(sqrt 2)
        0.1559
    """
    checked_function("geodesic", "embedding", embedding, "one chart point")
    ends = {"start": start, "velocity": velocity}
    u, v = (_vector(name, value) for name, value in ends.items())
    if u.shape != v.shape:
        raise ValueError(f"geodesic: start and velocity must have one shape, got {u.shape} and {v.shape}.")
    steps = whole("geodesic", "steps", steps)
    return _follow(frozen_embedding(embedding, u.size, u.dtype), u, v.astype(u.dtype), steps)


def _vector(name: str, value: Any) -> Array:
    vector = jnp.asarray(real("geodesic", name, value))
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"geodesic: {name} must have shape (d,), got {shown(value)}.")
    finite("geodesic", name, vector)
    return vector if jnp.issubdtype(vector.dtype, jnp.floating) else vector.astype(float)


@partial(jax.jit, static_argnames="steps")
def _follow(embedding: Any, u: Array, v: Array, steps: int) -> Geodesic:
    def turn(u: Array, v: Array) -> Array:
        """Second derivative u'' where the velocity is v."""
        x = lambda u: jnp.ravel(embedding(u))  # noqa: E731
        along = lambda s: jax.jvp(x, (u + s * v,), (v,))[1]  # noqa: E731
        _, bent = jax.jvp(along, (jnp.zeros((), u.dtype),), (jnp.ones((), u.dtype),))
        tangents = jax.jacfwd(x)(u)
        basis = frame(contract("fi,fj->ij", tangents, tangents))
        return -contract("ai,aj,j->i", basis, basis, contract("fj,f->j", tangents, bent))

    def rate(state: Array) -> Array:
        return jnp.stack([state[1], turn(state[0], state[1])])

    h = 1 / steps

    def step(state: Array, _: None) -> tuple[Array, Array]:
        a = rate(state)
        b = rate(state + h / 2 * a)
        c = rate(state + h / 2 * b)
        after = state + h / 6 * (a + 2 * b + 2 * c + rate(state + h * c))
        return after, after

    first = jnp.stack([u, v])
    _, rest = jax.lax.scan(step, first, length=steps)
    states = jnp.concatenate([first[None], rest])
    return Geodesic(states[:, 0], states[:, 1])
