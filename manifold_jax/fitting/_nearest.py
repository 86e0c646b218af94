"""Nearest neighbours for the estimators, a block of queries at a time; see also ``neighbours``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MEMORY = 2**27
"""Bytes that the temporaries of one block may take."""


class Neighbours(NamedTuple):
    """Neighbours of every query, the nearest first.

    Attributes:
        distances: ``(q, k)``.
        indices: ``(q, k)``, rows of the samples.
    """

    distances: Float[Array, "q k"]
    indices: Int[Array, "q k"]


def nearest_neighbours(
    samples: Float[Array, "n f"],
    queries: Float[Array, "q f"],
    count: int,
    *,
    block_size: int | None = None,
    method: str = "exact",
) -> Neighbours:
    """The ``count`` samples nearest to every query, ties and the query itself included."""
    n, f = samples.shape
    if method != "exact":
        raise ValueError(f"nearest_neighbours: method must be 'exact', got {method!r}.")
    if not 1 <= count <= n:
        raise ValueError(f"nearest_neighbours: count must be from 1 to the {n} samples, got {count}.")
    block = block_size or MEMORY // (samples.dtype.itemsize * (n + 2 * count * f))
    return _nearest(samples, queries, count, max(1, min(block, len(queries))))


@partial(jax.jit, static_argnames=("count", "block"))
def _nearest(samples: Array, queries: Array, count: int, block: int) -> Neighbours:
    # Candidates by products of centred points in single precision (its top_k is the fast one on a CPU).
    centre = jnp.mean(samples, axis=0)
    scale = jnp.max(jnp.abs(samples - centre))
    scale = jnp.where(scale > 0, scale, 1.0)
    centred = ((samples - centre) / scale).astype(jnp.float32)
    squares = jnp.sum(centred**2, axis=1)

    def near(query: Float[Array, "f"]) -> Neighbours:
        own = ((query - centre) / scale).astype(jnp.float32)
        products = jnp.matmul(centred, own, precision=jax.lax.Precision.HIGHEST)
        candidates = jax.lax.top_k(2 * products - squares, min(count + 8, len(samples)))[1]
        distances = jnp.sqrt(jnp.sum((samples[candidates] - query) ** 2, axis=1))
        order = jnp.argsort(distances)[:count]
        return Neighbours(distances[order], candidates[order])

    return map_blocks(near, queries, block)


def map_blocks(kernel: Callable[[Any], Any], rows: Any, block: int) -> Any:
    """Apply a one-row function to arrays ``(n, ...)``, a block at a time; one program for all blocks."""
    n = jax.tree.leaves(rows)[0].shape[0]
    count = -(-n // block)
    if count == 1:
        return jax.vmap(kernel)(rows)
    size = -(-n // count)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, count * size - n)] + [(0, 0)] * (x.ndim - 1), mode="edge")
        return padded.reshape(count, size, *x.shape[1:])

    stacked = jax.lax.map(jax.vmap(kernel), jax.tree.map(split, rows))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], stacked)
