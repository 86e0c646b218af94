"""Squared lengths and squared distances to the tangent space of all pairs of points, with their rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from manifold_jax._linalg import HIGHEST, matmul
from manifold_jax.geometry.neighbours import DIRECT_FEATURES


class PairSquares(NamedTuple):
    """What tangent balls of points x and y are made of, ``(a, b)`` each.

    |y - x|^2; the squared distance of y - x to the tangent span at x; the d coordinates of y - x there; the
    rounding error of both squares, and that of lengths relative to |y - x|.
    """

    chord: Float[Array, "a b"]
    normal: Float[Array, "a b"]
    along: Sequence[Any]
    rounding: Float[Array, "a b"]
    relative: Any


def pair_squares(
    x: Float[Array, "a f"], frames: Float[Array, "a d f"], y: Float[Array, "b f"]
) -> PairSquares:
    """Squares of all pairs, of short points by differences, which cancel nothing, else by matrix products."""
    return (_direct if x.shape[1] <= DIRECT_FEATURES else _by_products)(x, frames, y)


def _direct(x: Array, frames: Array, y: Array) -> PairSquares:
    """Feature by feature, in one fused loop."""
    d, f = frames.shape[1:]
    v = [y[None, :, c] - x[:, None, c] for c in range(f)]
    along = [sum(frames[:, k, c, None] * v[c] for c in range(f)) for k in range(d)]
    rest = [v[c] - sum(frames[:, k, c, None] * along[k] for k in range(d)) for c in range(f)]
    chord, normal = (jnp.asarray(sum(entry**2 for entry in vector)) for vector in (v, rest))
    return PairSquares(chord, normal, along, jnp.zeros_like(chord), 4 * jnp.finfo(chord.dtype).eps)


def product_rounding(points: Array) -> float:
    """Relative rounding error of |x|^2 + |y|^2 - 2 <x, y>: that of a sum of f terms, and of the rest."""
    return float(jnp.finfo(points.dtype).eps) * (8 + points.shape[1] ** 0.5)


def _by_products(x: Array, frames: Array, y: Array) -> PairSquares:
    """|P v|^2 = |v|^2 - |Q^T v|^2, centred on the points x, which may be close."""
    a, d, f = frames.shape
    centre = jax.lax.stop_gradient(jnp.mean(x, axis=0))
    x, y = x - centre, y - centre
    products = matmul(jnp.concatenate([x, frames.reshape(a * d, f)]), y.T)
    sizes = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    chord = jnp.maximum(sizes - 2 * products[:a], 0.0)
    here = jnp.einsum("adf,af->ad", frames, x, precision=HIGHEST)
    along = products[a:].reshape(a, d, -1) - here[:, :, None]
    normal = jnp.maximum(chord - jnp.sum(along * along, axis=1), 0.0)
    rounding = jax.lax.stop_gradient(product_rounding(x) * sizes)
    return PairSquares(chord, normal, list(jnp.moveaxis(along, 1, 0)), rounding, 0.0)
