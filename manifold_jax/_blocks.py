"""Maps over the rows of arrays in blocks of one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def map_blocks(function: Callable[..., Any], block: int, *rows: Array) -> Any:
    """Apply a function of blocks ``(b, ...)`` to arrays ``(q, ...)``, one block after the other.

    The last block is filled up with copies of the last row, so that there is one shape and one trace. With
    ``lax.map(..., batch_size=b)`` the rest would be a second, independent part of the program; on two cores
    its batched decompositions and those of the loop then wait for each other's threads for ever (seen with
    the QR of jaxlib 0.10.1 on CPU, which waits inside of the pool that should do its work).
    """
    count = rows[0].shape[0]
    if count <= block:
        return function(*rows)
    blocks = -(-count // block)
    # Even blocks: 1025 rows in blocks of at most 1024 are two of 513.
    size = -(-count // blocks)

    def split(x: Array) -> Array:
        padding = [(0, blocks * size - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding, mode="edge").reshape(blocks, size, *x.shape[1:])

    found = jax.lax.map(lambda parts: function(*parts), tuple(map(split, rows)))
    return jax.tree.map(lambda x: x.reshape(blocks * size, *x.shape[2:])[:count], found)
