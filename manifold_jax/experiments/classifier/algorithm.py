"""Algorithm 1 of Grementieri & Fioresi as its code ran it, next to what it says: four ways to project a step.

The way to the destination is projected on the gradients of log p_1, ..., log p_C by least squares. They are
C vectors of rank C - 1: sum_y p_y grad log p_y = 0. A solver that takes them as independent (``gels`` of
LAPACK and of CUDA; ``torch.lstsq``, which made the pictures of the paper) orthogonalises them one after the
other, and the last direction that it finds is what rounding left of a vector that should vanish.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from manifold_jax._checks import choice
from manifold_jax._linalg import norm, unit
from manifold_jax.information.foliation import project, reject, span
from manifold_jax.information.log_prob import scores
from manifold_jax.information.precision import rank_tolerances

PROJECTIONS = {
    "full rank": "least squares as if the C gradients were independent, by QR: the paper's code",
    "rank": "on D_x, by its rank: what the paper says",
    "rank and random": "on D_x and one random direction, drawn anew in every step",
    "none": "straight to the destination",
}


class Walked(NamedTuple):
    """What is recorded of a path at every ``save_every``-th step; the axis of pairs first.

    Attributes:
        points: The points, the source first ``(saved, *shape)``.
        distances: Distance to the destination ``(saved,)``.
        vertical: |V(u)|^2, the share outside of D_x of a step's direction u; mean since the last record.
        logits: Share of V(u) within the span of the gradients of the logits, mean likewise. D_x is spanned by
            their differences: their mean is the one direction more.
        singular: s_C / s_(C-1) of the C gradients, each of length 1.
        log_probs: Log-probabilities ``(saved, C)``.
        noise: Standard deviation of the noise of the image, see :func:`noise_level`.
        steps: Steps made until the destination was within the tolerance.
    """

    points: Float[Any, "*n saved *shape"]
    distances: Float[Any, "*n saved"]
    vertical: Float[Any, "*n saved"]
    logits: Float[Any, "*n saved"]
    singular: Float[Any, "*n saved"]
    log_probs: Float[Any, "*n saved C"]
    noise: Float[Any, "*n saved"]
    steps: Any


def noise_level(image: Float[Array, "h w *c"]) -> Float[Array, ""]:
    """Standard deviation of white noise that a mask blind to constant and linear parts sees in an image.

    sqrt(pi / 2) mean |x * L| / 6, L the outer product of (1, -2, 1) with itself (Immerkær, Comput. Vis. Image
    Underst. 64, 1996). Edges of the image count too: compare with the image before.

    Example:
        >>> print(noise_level(jnp.arange(12.0).reshape(3, 4)))
        0.0
    """
    for axis in (0, 1):
        image = jnp.diff(image, n=2, axis=axis)
    return jnp.sqrt(jnp.pi / 2) * jnp.mean(jnp.abs(image)) / 6


def full_rank_projection(rows: Float[Array, "C n"], v: Float[Array, "n"]) -> Float[Array, "n"]:
    """Least squares of v on C vectors, which are taken as independent: Householder QR without pivoting.

    As LAPACK's ``gels``: R c = Q^T v for the coefficients of the vectors, scaled to length 1 before.
    """
    columns = (rows / jnp.linalg.norm(rows, axis=1, keepdims=True)).T
    q, r = jnp.linalg.qr(columns)
    return columns @ jax.scipy.linalg.solve_triangular(r, q.T @ v)


def _step(way: str, log_prob: Any, x: Array, target: Array, rtol: Any, key: Array) -> tuple[Array, Array]:
    """Direction of a step, and a basis of D_x."""
    basis = span(scores(log_prob, x)[1], rtol)
    if way == "full rank":
        part = full_rank_projection(jax.jacrev(log_prob)(x), target)  # as autodiff gives the gradients
    elif way == "none":
        part = target
    else:
        part = project(basis, target)
    if way == "rank and random":
        other, _ = unit(reject(basis, jax.random.normal(key, x.shape, x.dtype)))
        part += jnp.sum(other * target) * other
    return unit(part)[0], basis


def algorithm_path(
    log_prob: Any,
    logits: Any,
    source: Float[Array, "*shape"],
    destination: Float[Array, "*shape"],
    key: Array,
    *,
    way: str,
    step_size: Any,
    tolerance: Any,
    clip: tuple[Any, Any],
    steps: int,
    save_every: int,
) -> Walked:
    """Steps of one length to a destination: x <- x + h u / |u|, u the projection of the way that is left.

    Args:
        log_prob: One input to ``(C,)`` log-probabilities.
        logits: One input to what the softmax is applied to.
        source: Where to start.
        destination: Where to go.
        key: Of the random directions.
        way: One of :data:`PROJECTIONS`.
        step_size: h.
        tolerance: Distance at which the destination counts as reached; the path then ends.
        clip: Range to which values are clamped after every step, in the paper's code that of pixels.
        steps: Number of steps.
        save_every: Steps from one record to the next.

    Returns:
        What is recorded along the path.

    Raises:
        ValueError: There is no such way.
    """
    choice("algorithm_path", "way", way, PROJECTIONS)
    shape, goal = source.shape, jnp.ravel(destination)
    flat = lambda x: log_prob(x.reshape(shape))  # noqa: E731
    rtol = rank_tolerances(None, flat, jnp.ravel(source))[0]

    def above(x: Array, basis: Array, heading: Array) -> Array:
        """Squared length of the vertical part of the direction, and that of it within the logits' span."""
        off, mean = reject(basis, heading), jax.grad(lambda y: jnp.mean(logits(y.reshape(shape))))(x)
        other, _ = unit(reject(basis, mean))
        return jnp.stack([jnp.sum(off**2), jnp.sum(other * off) ** 2])

    def advance(state: Any, key: Array) -> tuple[Any, None]:
        x, sums, count = state
        target = goal - x
        heading, basis = _step(way, flat, x, target, rtol, key)
        moved = jnp.clip(x + step_size * heading, *clip)
        going = (norm(target) > tolerance) & (count < steps)
        sums = sums + jnp.where(going, above(x, basis, heading), 0.0)
        return (jnp.where(going, moved, x), sums, count + going), None

    def record(x: Array, sums: Array, made: Array) -> tuple[Array, ...]:
        plain = jax.jacrev(flat)(x)
        values = jnp.linalg.svd(plain / jnp.linalg.norm(plain, axis=1, keepdims=True), compute_uv=False)
        shares = sums[0] / made, sums[1] / sums[0]
        return x, norm(goal - x), *shares, values[-1] / values[-2], flat(x), noise_level(x.reshape(shape))

    def save(state: Any, keys: Array) -> tuple[Any, tuple[Array, ...]]:
        x, count = state
        (x, sums, after), _ = jax.lax.scan(advance, (x, jnp.zeros(2, x.dtype), count), keys)
        return (x, after), record(x, sums, (after - count).astype(x.dtype))

    keys = jax.random.split(key, (-(-steps // save_every), save_every))
    start = jnp.ravel(source)
    first = record(start, jnp.full(2, jnp.nan, start.dtype), jnp.ones((), start.dtype))
    (_, count), rest = jax.lax.scan(save, (start, jnp.zeros((), int)), keys)
    columns = [jnp.concatenate([a[None], b]) for a, b in zip(first, rest, strict=True)]
    merged = Walked._make([*columns, count])
    return merged._replace(points=merged.points.reshape(-1, *shape))


@partial(jax.jit, static_argnames=("way", "steps", "save_every"))
def algorithm_paths(
    log_prob: Partial, logits: Partial, ends: tuple[Array, Array], keys: Array, **options: Any
) -> Walked:
    """:func:`algorithm_path` between many pairs, each with a key of its own."""
    path = partial(algorithm_path, log_prob, logits, **options)
    return jax.vmap(lambda source, destination, key: path(source, destination, key))(*ends, keys)


def random_speed(step_size: float, features: int) -> float:
    """Mean progress of a step of that length in a random direction that is turned towards the destination.

    E |cos| = sqrt(2 / (pi n)) in R^n, n large: what the way ``"rank and random"`` makes where nothing of the
    way is horizontal.
    """
    return step_size * float(np.sqrt(2 / (np.pi * features)))


def closest_by_chance(step_size: float, features: int) -> float:
    """Distance at which such steps in random directions come no nearer on average, h / (2 E |cos|).

    A step leads from distance r to sqrt(r^2 - 2 h r |cos| + h^2), nearer only where |cos| > h / (2 r).
    """
    return step_size**2 / (2 * random_speed(step_size, features))
