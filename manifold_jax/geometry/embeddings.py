"""Functions of one chart point, checked and taken as they are now, and their points."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from manifold_jax._programs import first_line, frozen, result_of
from manifold_jax.geometry.grid import DType

Embedding = Callable[[Any], Any]
"""One chart point ``(d,)`` to one ambient point of any shape."""

RENDERED = 256  # points that are rendered at once: enough for all cores, few enough for large images


def frozen_embedding(embedding: Embedding, dimension: int, dtype: DType) -> jax.tree_util.Partial:
    """A function of one chart point as it is now; nothing is computed. Refuses what cannot be differentiated.

    The shape of one point is that of its ``result_of``.
    """
    point = jax.ShapeDtypeStruct((dimension,), dtype)
    try:
        function = frozen(embedding, point)
    except Exception as error:  # whatever a function of the user raises
        shape = f"one chart point of shape ({dimension},)"
        raise ValueError(f"The embedding does not accept {shape}: {first_line(error)}") from error
    value = result_of(function)
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(f"The embedding must return one floating-point array, got {value}.")
    return function


@partial(jax.jit, static_argnames="dtype")
def render(embedding: Any, coordinates: Array, dtype: DType) -> Array:
    """Points ``(n, f)`` at chart points ``(n, d)``, all at once."""
    return jax.vmap(lambda u: jnp.ravel(embedding(u)))(coordinates.astype(dtype))


def evaluate_points(embedding: Embedding, coordinates: np.ndarray, dtype: DType) -> np.ndarray:
    """Points ``(n, f)`` on the host at chart points ``(n, d)``, rendered a batch at a time."""
    function = frozen_embedding(embedding, coordinates.shape[1], dtype)
    n = len(coordinates)
    points = np.empty((n, math.prod(result_of(function).shape)), dtype)
    for start in range(0, n, RENDERED):
        # The last batch overlaps the one before: one shape, one compilation.
        part = slice(max(0, min(start, n - RENDERED)), start + RENDERED)
        points[part] = render(function, coordinates[part], dtype)
    return points
